/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_FENCES_H
#define USK_DEVICE_CUDA_FENCES_H

#include "device/cuda/notify.h"
#include "device/cuda/tickets.h"

#define USK_CUDA_FENCE_NOTIFIERS 4

/* Tickets behind work of the host program. Any thread. */
struct usk_cuda_fences {
    int event_fd;
    struct usk_cuda_notifier notifiers[USK_CUDA_FENCE_NOTIFIERS];

    /* The thread that synchronizes where the driver cannot record the end of a context. */
    struct usk_cuda_core *core;
    struct usk_cuda_tickets *tickets;
    pthread_mutex_t lock;
    pthread_cond_t is_asked;
    pthread_t thread;
    bool has_thread;
    bool is_stopping;
    uint64_t n_asked, n_done;
};

/* Inside of a scope. */
int usk_cuda_fences_init(struct usk_cuda_fences *fences, struct usk_cuda_core *core, struct usk_cuda_tickets *tickets,
                         int event_fd, struct unstick_error *error);
/* Waits for the thread, outside of any scope. */
void usk_cuda_fences_stop(struct usk_cuda_fences *fences);
/* After stop. Inside of a scope, or with core NULL when the device is lost. */
void usk_cuda_fences_fini(struct usk_cuda_fences *fences, struct usk_cuda_core *core);

int usk_cuda_fences_stream(struct usk_cuda_fences *fences, usk_cu_stream stream, uint64_t *ret_ticket,
                           struct unstick_error *error);
int usk_cuda_fences_device(struct usk_cuda_fences *fences, uint64_t *ret_ticket, struct unstick_error *error);

#endif
