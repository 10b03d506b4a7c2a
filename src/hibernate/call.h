/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_HIBERNATE_CALL_H
#define USK_HIBERNATE_CALL_H

#include "device/cuda/checkpoint.h"
#include "hibernate/target.h"

struct usk_hibernate_call {
    enum usk_cuda_checkpoint_call call;
    unsigned int lock_ms;  /* LOCK: the driver's own limit; 0: none */
    uint64_t limit_ms;     /* most to wait for an answer; 0: no limit */
    uint64_t grace_ms;     /* most to wait for one once the process has ended */
};

/*
 * Makes a call of the driver and watches the process meanwhile.
 * UNSTICK_OK: the driver answered, with *ret_result (and *ret_state); the process may have ended all the same.
 * UNSTICK_NOT_FOUND: the process ended and the driver did not notice in time; UNSTICK_TIMED_OUT: no answer within the
 * limit. In both the call is left to itself: its thread ends when the driver lets it.
 */
int usk_hibernate_call(const struct usk_cuda_driver *driver, const struct usk_target *target,
                       const struct usk_hibernate_call *what, usk_cu_result *ret_result, int *ret_state,
                       struct unstick_error *error);

#endif
