/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses and physical memory. Mapping is two calls, and memory that is mapped but has no access yet is a trap for
 * whoever comes by, so a failed access takes its mapping back.
 */
#include "device/cuda/cuda.h"

#include <time.h>

#include "base/error.h"

/* Some drivers answer NOT_READY to an access change while the device is busy (seen on WSL2). */
#define VMM_ACCESS_TRIES 5
#define VMM_ACCESS_PAUSE_NS 100000

int usk_cuda_reserve(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                     struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemAddressReserve(ret_address, bytes, align_bytes, 0, 0),
                          "cuMemAddressReserve", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
}

int usk_cuda_unreserve(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemAddressFree(address, bytes), "cuMemAddressFree", UNSTICK_DRIVER,
                          error);
}

int usk_cuda_create(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    struct usk_cu_mem_prop prop = {
        .type = USK_CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = { USK_CU_MEM_LOCATION_TYPE_DEVICE, cuda->ordinal },
    };
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemCreate(ret_handle, bytes, &prop, 0), "cuMemCreate",
                          UNSTICK_OUT_OF_DEVICE_MEMORY, error);
}

int usk_cuda_release(struct usk_device *dev, uint64_t handle, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemRelease(handle), "cuMemRelease", UNSTICK_DRIVER, error);
}

static usk_cu_result vmm_allow(struct usk_cuda *cuda, uint64_t address, uint64_t bytes)
{
    const struct usk_cu_mem_access access = {
        .location = { USK_CU_MEM_LOCATION_TYPE_DEVICE, cuda->ordinal },
        .flags = USK_CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    const struct timespec pause = { .tv_nsec = VMM_ACCESS_PAUSE_NS };
    usk_cu_result result;

    for (int i = 0; i < VMM_ACCESS_TRIES; i++) {
        result = cuda->driver->cuMemSetAccess(address, bytes, &access, 1);
        if (result != USK_CU_NOT_READY)
            break;
        nanosleep(&pause, NULL);
    }
    return result;
}

int usk_cuda_map(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                 struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuMemMap(address, bytes, 0, handle, 0), "cuMemMap",
                       UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, vmm_allow(cuda, address, bytes), "cuMemSetAccess", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r < 0)
        cuda->driver->cuMemUnmap(address, bytes);
    return r;
}

int usk_cuda_unmap(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemUnmap(address, bytes), "cuMemUnmap", UNSTICK_DRIVER, error);
}
