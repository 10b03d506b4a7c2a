/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_CHECKPOINT_H
#define USK_DEVICE_CUDA_CHECKPOINT_H

#include "device/cuda/driver.h"

/*
 * The driver's checkpoint of another process: its contexts, memory, streams and graphs go into host memory of that
 * process, and come back. Every call may block for as long as the other process does not answer.
 */
enum usk_cuda_checkpoint_call {
    USK_CUDA_CHECKPOINT_STATE,   /* which state it is in */
    USK_CUDA_CHECKPOINT_LOCK,    /* RUNNING -> LOCKED: its calls block, what it submitted ends */
    USK_CUDA_CHECKPOINT_SAVE,    /* LOCKED -> CHECKPOINTED */
    USK_CUDA_CHECKPOINT_RESTORE, /* CHECKPOINTED -> LOCKED */
    USK_CUDA_CHECKPOINT_UNLOCK,  /* LOCKED -> RUNNING */
};

/* The driver, if it can checkpoint. UNSTICK_DRIVER_TOO_OLD says which one can; else as usk_cuda_driver_get(). */
int usk_cuda_checkpoint_driver(const struct usk_cuda_driver **ret_driver, struct unstick_error *error);

/* Makes a call. timeout_ms is for LOCK (0: none); *ret_state is written by STATE alone, USK_CU_PROCESS_... */
usk_cu_result usk_cuda_checkpoint(const struct usk_cuda_driver *driver, enum usk_cuda_checkpoint_call call, int pid,
                                  unsigned int timeout_ms, int *ret_state);

/* The driver's name for a call; static. */
const char *usk_cuda_checkpoint_name(enum usk_cuda_checkpoint_call call);

#endif
