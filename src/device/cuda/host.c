/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory that the device copies from and to directly. All of it may block, and runs on pool threads. */
#include "device/cuda/cuda.h"

#include "base/error.h"

static int host_fail_refused(usk_cu_result result, const char *call, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_UNSUPPORTED, result, call,
                         "the driver does not register this memory (%s answered %d)", call, result);
}

int usk_cuda_register_host(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                           struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    unsigned int driver_flags = USK_CU_MEMHOSTREGISTER_PORTABLE;
    usk_cu_result result;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    if (flags & USK_REGISTER_READ_ONLY) {
        if (!dev->caps.can_register_file)
            return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "register_host",
                                 "this device does not register files");
        driver_flags |= USK_CU_MEMHOSTREGISTER_READ_ONLY;
    }
    result = cuda->driver->cuMemHostRegister(address, bytes, driver_flags);
    if (result == USK_CU_INVALID_VALUE || result == USK_CU_HOST_MEMORY_ALREADY_REGISTERED ||
        result == USK_CU_NOT_SUPPORTED || result == USK_CU_NOT_PERMITTED)
        return host_fail_refused(result, "cuMemHostRegister", error);
    return usk_cuda_check(cuda, result, "cuMemHostRegister", UNSTICK_OUT_OF_HOST_MEMORY, error);
}

int usk_cuda_unregister_host(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    (void)bytes;
    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemHostUnregister(address), "cuMemHostUnregister",
                          UNSTICK_OUT_OF_HOST_MEMORY, error);
}

int usk_cuda_host_alloc(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemHostAlloc(ret_address, bytes, USK_CU_MEMHOSTALLOC_PORTABLE),
                          "cuMemHostAlloc", UNSTICK_OUT_OF_HOST_MEMORY, error);
}

int usk_cuda_host_free(struct usk_device *dev, void *address, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemFreeHost(address), "cuMemFreeHost", UNSTICK_OUT_OF_HOST_MEMORY,
                          error);
}
