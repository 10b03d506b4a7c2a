/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_TICKETS_H
#define USK_DEVICE_CUDA_TICKETS_H

#include <pthread.h>

#include "device/cuda/core.h"

/*
 * Tickets: each is behind an event of the driver, or behind a synchronization that a thread of ours makes. All
 * functions may be called by any thread.
 */
struct usk_cuda_tickets {
    pthread_mutex_t lock; /* never held over a driver call */
    struct usk_cuda_ticket *slots;
    uint32_t n_slots;
    uint32_t first_free;
};

void usk_cuda_tickets_init(struct usk_cuda_tickets *tickets);
/* Inside of a scope, or with core NULL when the device is lost: then the events are left to the driver. */
void usk_cuda_tickets_fini(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core);

/* Inside of a scope: a ticket behind an event that the caller records now. */
int usk_cuda_tickets_take_event(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core, uint64_t *ret_ticket,
                                usk_cu_event *ret_event, struct unstick_error *error);
/* A ticket that usk_cuda_tickets_settle() decides. */
int usk_cuda_tickets_take_sync(struct usk_cuda_tickets *tickets, uint64_t sync, uint64_t *ret_ticket,
                               struct unstick_error *error);
/* All tickets of synchronizations up to this one end with `status`. */
void usk_cuda_tickets_settle(struct usk_cuda_tickets *tickets, uint64_t sync, int status,
                             const struct unstick_error *error);

int usk_cuda_tickets_poll(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core, uint64_t ticket,
                          struct unstick_error *error);
/* Also what takes a ticket back that was not handed out. A ticket that is none is ignored. */
void usk_cuda_tickets_drop(struct usk_cuda_tickets *tickets, uint64_t ticket);

#endif
