/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registered memory is known to all contexts of the process ("portable"), so that one backup serves several GPUs. The
 * driver keeps the books: what is registered twice, or is not, it says itself.
 *
 * Refusals are told from shortages, since the caller acts on them: a mapping that the driver does not take (of a file
 * system without struct pages, a writable file mapping, memory that another part of the program has registered) is
 * UNSUPPORTED and goes through a ring; out of memory means host memory here.
 */
#include "device/cuda/pins.h"

#include "base/size.h"
#include "device/cuda/gate.h"

int usk_cuda_pins_register(struct usk_cuda_core *core, void *address, uint64_t bytes, bool is_read_only,
                           struct unstick_error *error)
{
    unsigned int flags = USK_CU_MEMHOSTREGISTER_PORTABLE;
    char text[USK_SIZE_TEXT_MAX];
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    if (is_read_only)
        flags |= USK_CU_MEMHOSTREGISTER_READ_ONLY;
    usk_cuda_gate_enter();
    result = core->driver->cuMemHostRegister(address, bytes, flags);
    usk_cuda_gate_leave();
    switch (result) {
    case USK_CU_SUCCESS:
        return UNSTICK_OK;
    case USK_CU_OUT_OF_MEMORY:
        r = UNSTICK_OUT_OF_HOST_MEMORY;
        break;
    case USK_CU_INVALID_VALUE:
    case USK_CU_HOST_MEMORY_ALREADY_REGISTERED:
    case USK_CU_NOT_PERMITTED:
    case USK_CU_NOT_SUPPORTED:
    case USK_CU_OPERATING_SYSTEM:
        r = UNSTICK_UNSUPPORTED;
        break;
    default:
        r = UNSTICK_DRIVER;
    }
    return usk_cuda_fail_as(core, error, r, result, "cuMemHostRegister", "cannot register %s of host memory at %p%s",
                            usk_size_format(text, bytes), address, is_read_only ? ", a read-only mapping" : "");
}

int usk_cuda_pins_unregister(struct usk_cuda_core *core, void *address, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    usk_cuda_gate_enter();
    result = core->driver->cuMemHostUnregister(address);
    usk_cuda_gate_leave();
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemHostUnregister", "cannot end the registration at %p", address);
    return UNSTICK_OK;
}

int usk_cuda_pins_alloc(struct usk_cuda_core *core, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    char text[USK_SIZE_TEXT_MAX];
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    void *address;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemHostAlloc(&address, bytes, USK_CU_MEMHOSTALLOC_PORTABLE);
    if (result == USK_CU_OUT_OF_MEMORY)
        return usk_cuda_fail_as(core, error, UNSTICK_OUT_OF_HOST_MEMORY, result, "cuMemHostAlloc",
                                "no room for %s of pinned host memory", usk_size_format(text, bytes));
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemHostAlloc", "cannot allocate %llu bytes of pinned host memory",
                             (unsigned long long)bytes);
    *ret_address = address;
    return UNSTICK_OK;
}

int usk_cuda_pins_free(struct usk_cuda_core *core, void *address, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemFreeHost(address);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemFreeHost", "cannot free pinned host memory at %p", address);
    return UNSTICK_OK;
}
