/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_LANES_H
#define USK_DEVICE_CUDA_LANES_H

#include "device/cuda/notify.h"
#include "device/cuda/tickets.h"
#include "device/device.h"

/* The three queues of a device: a stream each, beside which runs a notifier. [baton] */
struct usk_cuda_lanes {
    usk_cu_stream streams[USK_N_LANES];
    usk_cu_event ends[USK_N_LANES]; /* recorded by order() for as long as it takes */
    struct usk_cuda_notifier notifiers[USK_N_LANES];
};

/* Inside of a scope. */
int usk_cuda_lanes_init(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, int event_fd,
                        struct unstick_error *error);
/* Inside of a scope: waits for all that was submitted. */
int usk_cuda_lanes_drain(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, struct unstick_error *error);
/* Inside of a scope, or with core NULL when the device is lost. Lanes that were zeroed, or whose init failed, are
 * allowed. */
void usk_cuda_lanes_fini(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core);

int usk_cuda_lane_check(enum usk_lane lane, const char *operation, struct unstick_error *error);

int usk_cuda_lanes_copy_up(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                           uint64_t address, const void *host, uint64_t bytes, struct unstick_error *error);
int usk_cuda_lanes_copy_down(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane, void *host,
                             uint64_t address, uint64_t bytes, struct unstick_error *error);
int usk_cuda_lanes_copy_across(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                               uint64_t to, uint64_t from, uint64_t bytes, struct unstick_error *error);
int usk_cuda_lanes_fill(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane, uint64_t address,
                        uint8_t value, uint64_t bytes, struct unstick_error *error);
int usk_cuda_lanes_order(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                         enum usk_lane after, struct unstick_error *error);
int usk_cuda_lanes_mark(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, struct usk_cuda_tickets *tickets,
                        enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error);

#endif
