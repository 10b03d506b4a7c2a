/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_HOST_LANES_H
#define USK_DEVICE_HOST_LANES_H

#include <pthread.h>

#include "device/device.h"
#include "device/slots.h"

/* What a lane is asked to do. Addresses were checked. */
struct usk_host_work {
    enum { USK_HOST_COPY, USK_HOST_FILL, USK_HOST_HASH, USK_HOST_ORDER, USK_HOST_MARK } verb;
    uint8_t value;         /* FILL */
    bool is_to_device;     /* COPY */
    enum usk_lane after;   /* ORDER */
    void *to;              /* COPY, FILL */
    const void *from;      /* COPY, HASH */
    uint64_t bytes;        /* COPY, FILL; HASH: of one piece */
    uint64_t *results;     /* HASH: one per piece */
    uint32_t n;            /* HASH: pieces */
    uint64_t position;     /* ORDER: how far the other lane must have come */
    uint64_t ticket;       /* MARK */
};

struct usk_host_lanes;

struct usk_host_lane {
    struct usk_host_lanes *lanes;
    pthread_t thread;
    pthread_cond_t changed;      /* work came, or a lane that this one waits for went on */
    struct usk_host_work *ring;  /* the first is being done; it stays until it is over */
    size_t first, n, capacity;   /* capacity is a power of two */
    uint64_t n_done;             /* since the start; n_done + n were submitted */
    bool has_waiters;            /* other lanes want to know how far this one is */
    bool is_started;
};

struct usk_host_lanes {
    pthread_mutex_t lock;
    struct usk_host_lane lane[USK_N_LANES];
    struct usk_slots tickets;
    int event_fd;
    bool is_stopping;
};

int usk_host_lanes_init(struct usk_host_lanes *lanes, int event_fd, struct unstick_error *error);
/* Does what was submitted, then ends the threads. */
void usk_host_lanes_fini(struct usk_host_lanes *lanes);

int usk_host_lanes_submit(struct usk_host_lanes *lanes, enum usk_lane lane, const struct usk_host_work *work,
                          struct unstick_error *error);
int usk_host_lanes_order(struct usk_host_lanes *lanes, enum usk_lane lane, enum usk_lane after,
                         struct unstick_error *error);
/* A ticket behind the lanes whose bit is set; 0: one that is passed. */
int usk_host_lanes_mark(struct usk_host_lanes *lanes, unsigned int lane_mask, uint64_t *ret_ticket,
                        struct unstick_error *error);
int usk_host_lanes_poll(struct usk_host_lanes *lanes, uint64_t ticket, struct unstick_error *error);
void usk_host_lanes_drop(struct usk_host_lanes *lanes, uint64_t ticket);

/* True if work that is not over reads or writes there. */
bool usk_host_lanes_use(struct usk_host_lanes *lanes, const void *address, uint64_t bytes);

#endif
