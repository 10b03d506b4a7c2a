/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver is loaded at run time, once per process, and stays: a CUDA driver keeps threads and exit handlers of its
 * own, so that unloading it is asking for trouble. A load that fails leaves nothing behind and is tried again by the
 * next call. Once a table is published it never changes, so it is read without a lock.
 *
 * No lock is held while the driver is called: two threads that come first at the same time both load, and one of the
 * two equal tables is kept.
 */
#include "device/cuda/driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"

static pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;
static struct usk_cuda_driver driver_table;
static bool driver_is_loaded;

enum symbol_need { REQUIRED, OPTIONAL };

struct symbol {
    const char *name;
    int version;
    enum symbol_need need;
    size_t offset; /* of its field in struct usk_cuda_driver */
};

static const struct symbol symbols[] = {
#define SYMBOL(_name, _version, _need, _parameters) \
    { #_name, _version, _need, offsetof(struct usk_cuda_driver, _name) },
    USK_CUDA_SYMBOLS(SYMBOL)
#undef SYMBOL
};

const char *usk_cuda_result_name(const struct usk_cuda_driver *driver, usk_cu_result result)
{
    const char *text = NULL;

    return driver->cuGetErrorName(result, &text) == USK_CU_SUCCESS && text ? text : "unknown result";
}

const char *usk_cuda_result_text(const struct usk_cuda_driver *driver, usk_cu_result result)
{
    const char *text = NULL;

    return driver->cuGetErrorString(result, &text) == USK_CU_SUCCESS && text ? text : "no explanation";
}

static void *symbol_find(const struct symbol *symbol, usk_cu_get_proc_address_v2 *v2, usk_cu_get_proc_address_v1 *v1)
{
    void *function = NULL;
    usk_cu_result result;
    int status = 0;

    /* Version 2 may say "success" and leave the function NULL, and say why in the status. */
    result = v2 ? v2(symbol->name, &function, symbol->version, USK_CU_GET_PROC_ADDRESS_DEFAULT, &status)
                : v1(symbol->name, &function, symbol->version, USK_CU_GET_PROC_ADDRESS_DEFAULT);
    return result == USK_CU_SUCCESS ? function : NULL;
}

static int driver_too_old(int version, const char *operation, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_DRIVER_TOO_OLD, 0, operation,
                         "the NVIDIA driver is too old: it offers CUDA %d.%d, and 11.4 is the least that works; "
                         "install driver 470 or newer",
                         version / 1000, version % 1000 / 10);
}

int usk_cuda_driver_resolve(usk_cu_get_proc_address_v2 *v2, usk_cu_get_proc_address_v1 *v1,
                            struct usk_cuda_driver *ret_driver, struct unstick_error *error)
{
    struct usk_cuda_driver driver = { 0 };
    const struct symbol *missing = NULL;
    usk_cu_result result;

    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *function = symbol_find(&symbols[i], v2, v1);

        if (!function && symbols[i].need == REQUIRED && !missing)
            missing = &symbols[i];
        /* POSIX: a function pointer has the representation of a pointer to void. */
        memcpy((char *)&driver + symbols[i].offset, &function, sizeof(function));
    }
    if (driver.cuDriverGetVersion) {
        result = driver.cuDriverGetVersion(&driver.version);
        if (result != USK_CU_SUCCESS)
            return usk_error_set(error, UNSTICK_NO_DEVICE, result, "cuDriverGetVersion",
                                 "the NVIDIA driver does not tell its version (result %d)", result);
        if (driver.version < USK_CUDA_MIN_DRIVER_VERSION)
            return driver_too_old(driver.version, "cuDriverGetVersion", error);
    }
    if (missing)
        return usk_error_set(error, UNSTICK_DRIVER_TOO_OLD, 0, USK_CUDA_GET_PROC_ADDRESS_V1,
                             "the NVIDIA driver (CUDA %d.%d) lacks %s of CUDA %d.%d; install a newer one",
                             driver.version / 1000, driver.version % 1000 / 10, missing->name,
                             missing->version / 1000, missing->version % 1000 / 10);
    *ret_driver = driver;
    return UNSTICK_OK;
}

static int driver_init(const struct usk_cuda_driver *driver, struct unstick_error *error)
{
    usk_cu_result result = driver->cuInit(0);

    switch (result) {
    case USK_CU_SUCCESS:
        return UNSTICK_OK;
    case USK_CU_NO_DEVICE:
    case USK_CU_STUB_LIBRARY:
        return usk_error_set(error, UNSTICK_NO_DEVICE, result, "cuInit", "the NVIDIA driver sees no GPU: %s (%s)",
                             usk_cuda_result_text(driver, result), usk_cuda_result_name(driver, result));
    default:
        return usk_error_set(error, UNSTICK_DRIVER, result, "cuInit",
                             "the NVIDIA driver does not start: %s (%s); try nvidia-smi",
                             usk_cuda_result_text(driver, result), usk_cuda_result_name(driver, result));
    }
}

static int driver_load(struct usk_cuda_driver *ret_driver, void **ret_library, struct unstick_error *error)
{
    usk_cu_get_proc_address_v1 *v1;
    usk_cu_get_proc_address_v2 *v2;
    struct usk_cuda_driver driver;
    void *library;
    int r;

    library = dlopen(USK_CUDA_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "dlopen", "there is no NVIDIA driver on this machine: %s",
                             dlerror());
    *(void **)&v2 = dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V2);
    *(void **)&v1 = dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V1);
    if (v1 || v2) {
        r = usk_cuda_driver_resolve(v2, v1, &driver, error);
    } else {
        r = usk_error_set(error, UNSTICK_DRIVER_TOO_OLD, 0, "dlsym",
                          "%s has no cuGetProcAddress (CUDA 11.3): install NVIDIA driver 470 or newer",
                          USK_CUDA_LIBRARY);
    }
    if (r == UNSTICK_OK)
        r = driver_init(&driver, error);
    if (r < 0) {
        dlclose(library);
        return r;
    }
    *ret_driver = driver;
    *ret_library = library;
    return UNSTICK_OK;
}

static bool driver_publish(const struct usk_cuda_driver *driver)
{
    bool is_first;

    pthread_mutex_lock(&driver_lock);
    is_first = !driver_is_loaded;
    if (is_first) {
        driver_table = *driver;
        driver_is_loaded = true;
    }
    pthread_mutex_unlock(&driver_lock);
    return is_first;
}

int usk_cuda_driver_get(const struct usk_cuda_driver **ret_driver, struct unstick_error *error)
{
    struct usk_cuda_driver driver;
    void *library = NULL;
    bool is_loaded;
    int r;

    pthread_mutex_lock(&driver_lock);
    is_loaded = driver_is_loaded;
    pthread_mutex_unlock(&driver_lock);
    if (!is_loaded) {
        r = driver_load(&driver, &library, error);
        if (r < 0)
            return r;
        /* The library is counted: the one that came first keeps it loaded. */
        if (!driver_publish(&driver) && library)
            dlclose(library);
    }
    *ret_driver = &driver_table;
    return UNSTICK_OK;
}
