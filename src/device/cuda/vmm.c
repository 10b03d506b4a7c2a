/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each call is one driver call, but for the maps, which are two and more: a mapping can be used only after access to it
 * was given. So they have middle states, and a failure there is undone. A driver may ask to try again (NOT_READY, seen
 * under load on WSL2): that is done a few times with pauses that are short beside a step, then left to the caller as
 * BUSY.
 */
#include "device/cuda/vmm.h"

#include <time.h>

#include "base/error.h"
#include "base/size.h"

#define MAP_TRIES 5
#define MAP_PAUSE_NS 50000

static struct usk_cu_mem_prop prop_of(const struct usk_cuda_core *core)
{
    return (struct usk_cu_mem_prop){
        .type = USK_CU_MEM_ALLOCATION_TYPE_PINNED,
        .requested_handle_types = USK_CU_MEM_HANDLE_TYPE_NONE,
        .location = { .type = USK_CU_MEM_LOCATION_TYPE_DEVICE, .id = core->device },
    };
}

int usk_cuda_vmm_granularity(struct usk_cuda_core *core, uint64_t *ret_bytes, struct unstick_error *error)
{
    struct usk_cu_mem_prop prop = prop_of(core);
    usk_cu_result result;
    size_t bytes;

    result = core->driver->cuMemGetAllocationGranularity(&bytes, &prop, USK_CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemGetAllocationGranularity",
                             "cannot tell how device memory is divided");
    *ret_bytes = bytes;
    return UNSTICK_OK;
}

int usk_cuda_vmm_info(struct usk_cuda_core *core, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                      struct unstick_error *error)
{
    size_t free_bytes, total_bytes;
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemGetInfo(&free_bytes, &total_bytes);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemGetInfo", "cannot tell how much device memory is free");
    *ret_free_bytes = free_bytes;
    *ret_total_bytes = total_bytes;
    return UNSTICK_OK;
}

int usk_cuda_vmm_reserve(struct usk_cuda_core *core, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                         struct unstick_error *error)
{
    char text[USK_SIZE_TEXT_MAX];
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    usk_cu_ptr address;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemAddressReserve(&address, bytes, align_bytes, 0, 0);
    /* Addresses take page tables in host memory, and none of the device's. */
    if (result == USK_CU_OUT_OF_MEMORY)
        return usk_cuda_fail_as(core, error, UNSTICK_OUT_OF_HOST_MEMORY, result, "cuMemAddressReserve",
                                "no room for %s of device addresses", usk_size_format(text, bytes));
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemAddressReserve",
                             "cannot reserve %llu bytes of device addresses, aligned to %llu",
                             (unsigned long long)bytes, (unsigned long long)align_bytes);
    *ret_address = address;
    return UNSTICK_OK;
}

int usk_cuda_vmm_unreserve(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemAddressFree(address, bytes);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemAddressFree",
                             "cannot give %llu bytes of addresses at %#llx back", (unsigned long long)bytes,
                             (unsigned long long)address);
    return UNSTICK_OK;
}

int usk_cuda_vmm_create(struct usk_cuda_core *core, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error)
{
    char bytes_text[USK_SIZE_TEXT_MAX], free_text[USK_SIZE_TEXT_MAX];
    struct usk_cu_mem_prop prop = prop_of(core);
    size_t free_bytes = 0, total_bytes = 0;
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    usk_cu_handle handle;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemCreate(&handle, bytes, &prop, 0);
    if (result == USK_CU_SUCCESS) {
        *ret_handle = handle;
        return UNSTICK_OK;
    }
    if (result != USK_CU_OUT_OF_MEMORY)
        return usk_cuda_fail(core, error, result, "cuMemCreate", "cannot create %llu bytes of device memory",
                             (unsigned long long)bytes);
    /* For the message only: where it fails as well, 0 free is what is said. */
    core->driver->cuMemGetInfo(&free_bytes, &total_bytes);
    r = usk_cuda_fail(core, error, result, "cuMemCreate", "cannot create %s of device memory, %s are free",
                      usk_size_format(bytes_text, bytes), usk_size_format(free_text, free_bytes));
    usk_error_shortage(error, bytes, free_bytes);
    return r;
}

int usk_cuda_vmm_release(struct usk_cuda_core *core, uint64_t handle, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemRelease(handle);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemRelease", "cannot give device memory %#llx back",
                             (unsigned long long)handle);
    return UNSTICK_OK;
}

static usk_cu_result map_set_access(struct usk_cuda_core *core, uint64_t address, uint64_t bytes)
{
    const struct usk_cu_mem_access access = {
        .location = { .type = USK_CU_MEM_LOCATION_TYPE_DEVICE, .id = core->device },
        .flags = USK_CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
    };
    const struct timespec pause = { .tv_nsec = MAP_PAUSE_NS };
    usk_cu_result result;

    for (int n_tries = 1;; n_tries++) {
        result = core->driver->cuMemSetAccess(address, bytes, &access, 1);
        if (result != USK_CU_NOT_READY || n_tries == MAP_TRIES)
            return result;
        nanosleep(&pause, NULL);
    }
}

/* Undoes what was mapped before something failed, and fails with that. */
static int map_undo(struct usk_cuda_core *core, uint64_t address, uint64_t mapped_bytes, usk_cu_result result,
                    const char *operation, struct unstick_error *error)
{
    usk_cu_result undone = mapped_bytes ? core->driver->cuMemUnmap(address, mapped_bytes) : USK_CU_SUCCESS;

    if (undone != USK_CU_SUCCESS)
        return usk_cuda_fail_as(core, error, UNSTICK_POISONED, undone, "cuMemUnmap",
                                "%llu bytes at %#llx were mapped, %s failed (%s) and the mapping cannot be undone",
                                (unsigned long long)mapped_bytes, (unsigned long long)address, operation,
                                usk_cuda_result_name(core->driver, result));
    return usk_cuda_fail(core, error, result, operation, "cannot map memory at %#llx", (unsigned long long)address);
}

int usk_cuda_vmm_map_repeated(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, uint64_t handle,
                              uint64_t piece_bytes, struct unstick_error *error)
{
    usk_cu_result result;
    USK_CUDA_SCOPE(scope);
    int r;

    if (!piece_bytes || bytes % piece_bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "cuMemMap",
                             "%llu bytes are no multiple of a handle of %llu", (unsigned long long)bytes,
                             (unsigned long long)piece_bytes);
    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    for (uint64_t offset = 0; offset < bytes; offset += piece_bytes) {
        result = core->driver->cuMemMap(address + offset, piece_bytes, 0, handle, 0);
        if (result != USK_CU_SUCCESS)
            return map_undo(core, address, offset, result, "cuMemMap", error);
    }
    result = map_set_access(core, address, bytes);
    return result == USK_CU_SUCCESS ? UNSTICK_OK : map_undo(core, address, bytes, result, "cuMemSetAccess", error);
}

int usk_cuda_vmm_map(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, uint64_t handle,
                     struct unstick_error *error)
{
    return usk_cuda_vmm_map_repeated(core, address, bytes, handle, bytes, error);
}

int usk_cuda_vmm_unmap(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemUnmap(address, bytes);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemUnmap", "cannot unmap %llu bytes at %#llx",
                             (unsigned long long)bytes, (unsigned long long)address);
    return UNSTICK_OK;
}
