/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel of somebody else: the driver's own calls and nothing of the library's, so that nothing knows of it. */
#include "kernel.h"

#include "base/error.h"
#include "device/cuda/info.h"

static int kernel_fail(const struct kernel *kernel, usk_cu_result result, const char *operation,
                       struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_DRIVER, result, operation,
                         "a kernel beside the library failed: the driver said %s",
                         usk_cuda_result_name(kernel->driver, result));
}

static usk_cu_result kernel_load(struct kernel *kernel, const char *ptx, const char *name, const char **ret_operation)
{
    usk_cu_result result;

    *ret_operation = "cuModuleLoadData";
    result = kernel->driver->cuModuleLoadData(&kernel->module, ptx);
    if (result != USK_CU_SUCCESS)
        return result;
    *ret_operation = "cuModuleGetFunction";
    result = kernel->driver->cuModuleGetFunction(&kernel->function, kernel->module, name);
    if (result != USK_CU_SUCCESS)
        return result;
    *ret_operation = "cuStreamCreate";
    return kernel->driver->cuStreamCreate(&kernel->stream, USK_CU_STREAM_NON_BLOCKING);
}

int kernel_open(struct kernel *kernel, const char *which, const char *ptx, const char *name,
                struct unstick_error *error)
{
    const char *operation;
    usk_cu_context ignored;
    usk_cu_result result;
    int r;

    *kernel = (struct kernel){ 0 };
    r = usk_cuda_driver_get(&kernel->driver, error);
    if (r == UNSTICK_OK)
        r = usk_cuda_info_find(kernel->driver, which, &kernel->device, error);
    if (r < 0)
        return r;
    result = kernel->driver->cuDevicePrimaryCtxRetain(&kernel->context, kernel->device);
    if (result != USK_CU_SUCCESS)
        return kernel_fail(kernel, result, "cuDevicePrimaryCtxRetain", error);
    kernel->driver->cuCtxPushCurrent(kernel->context);
    result = kernel_load(kernel, ptx, name, &operation);
    kernel->driver->cuCtxPopCurrent(&ignored);
    if (result == USK_CU_SUCCESS)
        return UNSTICK_OK;
    kernel_close(kernel);
    r = kernel_fail(kernel, result, operation, error);
    return result == USK_CU_INVALID_PTX || result == USK_CU_NOT_SUPPORTED ? UNSTICK_UNSUPPORTED : r;
}

int kernel_launch(struct kernel *kernel, unsigned int n_blocks, unsigned int n_threads, unsigned int shared_bytes,
                  void **parameters, struct unstick_error *error)
{
    usk_cu_context ignored;
    usk_cu_result result;

    kernel->driver->cuCtxPushCurrent(kernel->context);
    result = kernel->driver->cuLaunchKernel(kernel->function, n_blocks, 1, 1, n_threads, 1, 1, shared_bytes,
                                            kernel->stream, parameters, NULL);
    kernel->driver->cuCtxPopCurrent(&ignored);
    return result == USK_CU_SUCCESS ? UNSTICK_OK : kernel_fail(kernel, result, "cuLaunchKernel", error);
}

int kernel_wait(struct kernel *kernel, struct unstick_error *error)
{
    usk_cu_context ignored;
    usk_cu_result result;

    kernel->driver->cuCtxPushCurrent(kernel->context);
    result = kernel->driver->cuStreamSynchronize(kernel->stream);
    kernel->driver->cuCtxPopCurrent(&ignored);
    return result == USK_CU_SUCCESS ? UNSTICK_OK : kernel_fail(kernel, result, "cuStreamSynchronize", error);
}

void kernel_close(struct kernel *kernel)
{
    usk_cu_context ignored;

    if (!kernel->context)
        return;
    kernel->driver->cuCtxPushCurrent(kernel->context);
    if (kernel->stream)
        kernel->driver->cuStreamDestroy(kernel->stream);
    if (kernel->module)
        kernel->driver->cuModuleUnload(kernel->module);
    kernel->driver->cuCtxPopCurrent(&ignored);
    kernel->driver->cuDevicePrimaryCtxRelease(kernel->device);
    kernel->context = NULL;
}
