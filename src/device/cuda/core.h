/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_CORE_H
#define USK_DEVICE_CUDA_CORE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "device/cuda/driver.h"

/* What every part of a CUDA device needs: the driver, the context, and whether both still work. */
struct usk_cuda_core {
    const struct usk_cuda_driver *driver;
    usk_cu_device device;
    usk_cu_context context;          /* the primary one, shared with the host program */
    usk_cu_stream probe;             /* any stream of ours: tells whether an unclear failure is for ever; may be NULL */
    int event_fd;                    /* signalled when the device is lost; may be -1 */
    struct usk_log log;
    atomic_int lost_result;          /* what the driver said when the device was lost; 0: it works */
    _Atomic(const char *) lost_operation; /* and to which call */
};

/* While one lives, the context is current in this thread and calls do not disturb a stream capture. */
struct usk_cuda_scope {
    struct usk_cuda_core *core; /* NULL: not entered */
    int capture_mode;           /* the thread's own */
};

#define USK_CUDA_SCOPE(_name) USK_CLEANUP(usk_cuda_leave) struct usk_cuda_scope _name = { 0 }

/* Fails at once when the device is lost. Nothing is changed on failure. */
int usk_cuda_enter(struct usk_cuda_core *core, struct usk_cuda_scope *scope, struct unstick_error *error);
/* Leaves the thread as it was before. A scope that was not entered is left alone. */
void usk_cuda_leave(struct usk_cuda_scope *scope);

static inline bool usk_cuda_is_lost(struct usk_cuda_core *core)
{
    return atomic_load_explicit(&core->lost_result, memory_order_relaxed) != USK_CU_SUCCESS;
}

/* UNSTICK_DEVICE_LOST, with what lost it. */
int usk_cuda_fail_lost(struct usk_cuda_core *core, const char *operation, struct unstick_error *error);

/*
 * The failure of a driver call inside of a scope: maps `result` to a status, sets is_lost where the driver will never
 * recover, and says in `error` what was asked (format), and which call said what.
 */
int usk_cuda_fail(struct usk_cuda_core *core, struct unstick_error *error, usk_cu_result result, const char *operation,
                  const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The same, for a call where a result means something else than usual. */
int usk_cuda_fail_as(struct usk_cuda_core *core, struct unstick_error *error, int status, usk_cu_result result,
                     const char *operation, const char *format, ...) __attribute__((format(printf, 6, 7)));

#endif
