/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The five calls behind one signature, so that whoever watches over them (hibernate/call.c) needs to do it once. The
 * optional arguments of all but the lock are left out: a driver of CUDA 12.8 and one of 13 lay them out differently,
 * and what they could ask for (other GPUs, storage of the caller's own) is not asked for here.
 */
#include "device/cuda/checkpoint.h"

#include "base/error.h"

int usk_cuda_checkpoint_driver(const struct usk_cuda_driver **ret_driver, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    int r = usk_cuda_driver_get(&driver, error);

    if (r < 0)
        return r;
    if (!driver->cuCheckpointProcessGetState || !driver->cuCheckpointProcessLock ||
        !driver->cuCheckpointProcessCheckpoint || !driver->cuCheckpointProcessRestore ||
        !driver->cuCheckpointProcessUnlock)
        return usk_error_set(error, UNSTICK_DRIVER_TOO_OLD, 0, "cuCheckpointProcessLock",
                             "the NVIDIA driver cannot hibernate processes: it offers CUDA %d.%d, and that came with "
                             "%d.%d; install driver 570 or newer",
                             driver->version / 1000, driver->version % 1000 / 10, USK_CUDA_CHECKPOINT_VERSION / 1000,
                             USK_CUDA_CHECKPOINT_VERSION % 1000 / 10);
    *ret_driver = driver;
    return UNSTICK_OK;
}

usk_cu_result usk_cuda_checkpoint(const struct usk_cuda_driver *driver, enum usk_cuda_checkpoint_call call, int pid,
                                  unsigned int timeout_ms, int *ret_state)
{
    struct usk_cu_checkpoint_lock_args lock = { .timeout_ms = timeout_ms };

    switch (call) {
    case USK_CUDA_CHECKPOINT_STATE:
        return driver->cuCheckpointProcessGetState(pid, ret_state);
    case USK_CUDA_CHECKPOINT_LOCK:
        return driver->cuCheckpointProcessLock(pid, &lock);
    case USK_CUDA_CHECKPOINT_SAVE:
        return driver->cuCheckpointProcessCheckpoint(pid, NULL);
    case USK_CUDA_CHECKPOINT_RESTORE:
        return driver->cuCheckpointProcessRestore(pid, NULL);
    case USK_CUDA_CHECKPOINT_UNLOCK:
        return driver->cuCheckpointProcessUnlock(pid, NULL);
    }
    return USK_CU_INVALID_VALUE;
}

const char *usk_cuda_checkpoint_name(enum usk_cuda_checkpoint_call call)
{
    static const char *const names[] = {
        [USK_CUDA_CHECKPOINT_STATE] = "cuCheckpointProcessGetState",
        [USK_CUDA_CHECKPOINT_LOCK] = "cuCheckpointProcessLock",
        [USK_CUDA_CHECKPOINT_SAVE] = "cuCheckpointProcessCheckpoint",
        [USK_CUDA_CHECKPOINT_RESTORE] = "cuCheckpointProcessRestore",
        [USK_CUDA_CHECKPOINT_UNLOCK] = "cuCheckpointProcessUnlock",
    };

    return names[call];
}
