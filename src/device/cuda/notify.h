/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_NOTIFY_H
#define USK_DEVICE_CUDA_NOTIFY_H

#include "device/cuda/core.h"

/* Signals the device's event_fd when an event of the driver has passed. */
struct usk_cuda_notifier {
    usk_cu_stream stream;     /* carries nothing else */
    uint64_t id;              /* what host functions know us by; never used again */
    int event_fd;
    atomic_uint n_pending;    /* events that have not passed yet */
    struct usk_cuda_notifier *next;
};

/* Inside of a scope. event_fd -1: the notifier never does anything. */
int usk_cuda_notifier_init(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core, int event_fd,
                           struct unstick_error *error);
/* From here on no host function touches the notifier or event_fd. Inside of a scope, or with core NULL when the
 * device is lost. A zeroed notifier is allowed. */
void usk_cuda_notifier_fini(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core);

/* Inside of a scope: event_fd is signalled when the event, which was recorded, has passed. */
int usk_cuda_notifier_after(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core, usk_cu_event event,
                            struct unstick_error *error);

#endif
