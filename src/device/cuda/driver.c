/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cuda/driver.h"

#include <dlfcn.h>

#include "base/error.h"

static struct usk_cuda_driver driver_table;
static struct unstick_error driver_error;
static int driver_status;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT;

enum driver_need { OPTIONAL, REQUIRED };

static bool driver_find(void *library, const char *name, int version, void **ret_function)
{
    usk_cu_get_proc_address_v2 *get_v2 = (usk_cu_get_proc_address_v2 *)dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V2);
    usk_cu_get_proc_address_v1 *get_v1 = (usk_cu_get_proc_address_v1 *)dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V1);
    int status;

    *ret_function = NULL;
    if (get_v2)
        return get_v2(name, ret_function, version, USK_CU_GET_PROC_ADDRESS_DEFAULT, &status) == 0 && *ret_function;
    return get_v1 && get_v1(name, ret_function, version, USK_CU_GET_PROC_ADDRESS_DEFAULT) == 0 && *ret_function;
}

static int driver_load(void)
{
    struct usk_cuda_driver *driver = &driver_table;
    void *library = dlopen(USK_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL), *function;
    usk_cu_result result;

    if (!library)
        return usk_error_set(&driver_error, UNSTICK_NO_DEVICE, 0, "dlopen",
                             "there is no CUDA driver (%s cannot be loaded); use a host device: host:SIZE",
                             USK_CUDA_LIBRARY);
#define DRIVER_FIND(_name, _version, _need, _parameters)                                                     \
    if (driver_find(library, #_name, _version, &function))                                                   \
        driver->_name = (usk_cu_fn_##_name *)function;                                                       \
    else if (_need == REQUIRED)                                                                              \
        return usk_error_set(&driver_error, UNSTICK_DRIVER_TOO_OLD, 0, #_name,                               \
                             "the CUDA driver has no " #_name "; driver 470 (CUDA 11.4) or newer is needed");
    USK_CUDA_SYMBOLS(DRIVER_FIND)
#undef DRIVER_FIND
    result = driver->cuInit(0);
    if (result == USK_CU_NO_DEVICE)
        return usk_error_set(&driver_error, UNSTICK_NO_DEVICE, result, "cuInit", "the CUDA driver finds no GPU");
    if (result)
        return usk_cuda_fail(driver, result, "cuInit", UNSTICK_OUT_OF_HOST_MEMORY, &driver_error);
    result = driver->cuDriverGetVersion(&driver->version);
    if (result)
        return usk_cuda_fail(driver, result, "cuDriverGetVersion", UNSTICK_OUT_OF_HOST_MEMORY, &driver_error);
    return UNSTICK_OK;
}

static void driver_load_once(void)
{
    driver_status = driver_load();
}

int usk_cuda_driver_get(const struct usk_cuda_driver **ret_driver, struct unstick_error *error)
{
    pthread_once(&driver_once, driver_load_once);
    if (driver_status < 0) {
        if (error)
            *error = driver_error;
        return driver_status;
    }
    *ret_driver = &driver_table;
    return UNSTICK_OK;
}

bool usk_cuda_is_sticky(usk_cu_result result)
{
    switch (result) {
    case USK_CU_DEINITIALIZED:
    case USK_CU_ECC_UNCORRECTABLE:
    case USK_CU_NVLINK_UNCORRECTABLE:
    case USK_CU_CONTAINED:
    case USK_CU_ILLEGAL_ADDRESS:
    case USK_CU_LAUNCH_TIMEOUT:
    case USK_CU_CONTEXT_IS_DESTROYED:
    case USK_CU_ASSERT:
    case USK_CU_HARDWARE_STACK_ERROR:
    case USK_CU_ILLEGAL_INSTRUCTION:
    case USK_CU_MISALIGNED_ADDRESS:
    case USK_CU_INVALID_ADDRESS_SPACE:
    case USK_CU_INVALID_PC:
    case USK_CU_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

static int driver_status_of(usk_cu_result result, int memory_status)
{
    if (usk_cuda_is_sticky(result))
        return UNSTICK_DEVICE_LOST;
    switch (result) {
    case USK_CU_OUT_OF_MEMORY:
        return memory_status;
    case USK_CU_INVALID_VALUE:
    case USK_CU_HOST_MEMORY_NOT_REGISTERED:
        return UNSTICK_INVALID_ARGUMENT;
    case USK_CU_NOT_SUPPORTED:
    case USK_CU_NOT_PERMITTED:
    case USK_CU_HOST_MEMORY_ALREADY_REGISTERED:
        return UNSTICK_UNSUPPORTED;
    case USK_CU_NOT_READY:
        return UNSTICK_BUSY;
    case USK_CU_NO_DEVICE:
    case USK_CU_INVALID_DEVICE:
        return UNSTICK_NO_DEVICE;
    default:
        return UNSTICK_DRIVER;
    }
}

int usk_cuda_fail(const struct usk_cuda_driver *driver, usk_cu_result result, const char *call, int memory_status,
                  struct unstick_error *error)
{
    const char *name = NULL, *text = NULL;

    driver->cuGetErrorName(result, &name);
    driver->cuGetErrorString(result, &text);
    return usk_error_set(error, driver_status_of(result, memory_status), result, call, "%s failed: %s (%s)", call,
                         name ? name : "unknown", text ? text : "no text");
}
