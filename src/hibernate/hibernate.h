/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_HIBERNATE_HIBERNATE_H
#define USK_HIBERNATE_HIBERNATE_H

#include <stdatomic.h>
#include <stdbool.h>

#include <unstick/hibernate.h>

/* What a run is at, for whoever looks from another thread. */
enum usk_hibernate_phase {
    USK_HIBERNATE_ASK,
    USK_HIBERNATE_LOCK,
    USK_HIBERNATE_COPY,
    USK_HIBERNATE_UNLOCK,
};

struct usk_hibernate_run {
    int pid;
    bool is_wake;
    uint32_t timeout_ms;
    uint64_t grace_ms;       /* for the driver to answer past that, and once the process has ended; 0: as is usual */
    atomic_int phase;        /* written by the run */
    atomic_bool is_canceled; /* written by others: it ends before the next step that can be taken back */
};

/* As unstick_hibernate() and unstick_wake(). */
int usk_hibernate_run(struct usk_hibernate_run *run, struct unstick_hibernation *ret_report,
                      struct unstick_error *error);

#endif
