/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_CUDA_H
#define USK_DEVICE_CUDA_CUDA_H

#include "base/cleanup.h"
#include "device/cuda/driver.h"

#define USK_CUDA_N_HASH_SLOTS 4096

/* A pooled event. A ticket is the index of one and the generation of its use, so that an old ticket finds nothing. */
struct usk_cuda_event {
    usk_cu_event event;
    uint32_t generation;
    bool is_used;
    uint32_t next_free;
};

struct usk_cuda {
    struct usk_device device; /* first */
    const struct usk_cuda_driver *driver;
    usk_cu_device ordinal;
    usk_cu_context context;
    usk_cu_stream lanes[USK_N_LANES];
    usk_cu_stream notify[USK_N_LANES]; /* run the host functions, so that no lane ever waits for one */
    usk_cu_module module;
    usk_cu_function hash;
    usk_cu_ptr results;       /* USK_CUDA_N_HASH_SLOTS sums on the device */
    uint64_t *pinned_results; /* and their copies */
    int notify_fd;            /* what the host functions are given a pointer to */
    atomic_bool is_lost;

    pthread_mutex_t lock;     /* the events; never held over a call of the driver */
    struct usk_cuda_event *events;
    uint32_t n_events, n_allocated, first_free;
};

static inline struct usk_cuda *usk_cuda_of(struct usk_device *device)
{
    return (struct usk_cuda *)device;
}

/*
 * What every call of ours is wrapped in: the device's context is current and nothing we do disturbs a capture of the
 * host program; both are as they were when the scope ends.
 */
struct usk_cuda_scope {
    const struct usk_cuda_driver *driver;
    int mode;
    bool is_pushed;
};

/* UNSTICK_DEVICE_LOST at once on a lost device. */
int usk_cuda_enter(struct usk_cuda *cuda, struct usk_cuda_scope *scope, struct unstick_error *error);
void usk_cuda_leave(struct usk_cuda_scope *scope);

#define USK_CUDA_SCOPE(_name) USK_CLEANUP(usk_cuda_leave) struct usk_cuda_scope _name = { 0 }

/* UNSTICK_OK for success; else the status, with the device marked lost if that is what it means. */
int usk_cuda_check(struct usk_cuda *cuda, usk_cu_result result, const char *call, int memory_status,
                   struct unstick_error *error);

/* The operations, by file; see device.h. */
int usk_cuda_memory_info(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                         struct unstick_error *error);

int usk_cuda_reserve(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                     struct unstick_error *error);
int usk_cuda_unreserve(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error);
int usk_cuda_create(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error);
int usk_cuda_release(struct usk_device *dev, uint64_t handle, struct unstick_error *error);
int usk_cuda_map(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                 struct unstick_error *error);
int usk_cuda_unmap(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error);

int usk_cuda_copy_up(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *host, uint64_t bytes,
                     struct unstick_error *error);
int usk_cuda_copy_down(struct usk_device *dev, enum usk_lane lane, void *host, uint64_t address, uint64_t bytes,
                       struct unstick_error *error);
int usk_cuda_copy_across(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                         struct unstick_error *error);
int usk_cuda_fill(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                  struct unstick_error *error);
int usk_cuda_hash(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                  uint32_t slot, struct unstick_error *error);
int usk_cuda_order(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error);

int usk_cuda_mark(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error);
int usk_cuda_fence_stream(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error);
int usk_cuda_fence_device(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error);
int usk_cuda_poll(struct usk_device *dev, uint64_t ticket, struct unstick_error *error);
void usk_cuda_drop(struct usk_device *dev, uint64_t ticket);
void usk_cuda_destroy_events(struct usk_cuda *cuda);

int usk_cuda_register_host(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                           struct unstick_error *error);
int usk_cuda_unregister_host(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error);
int usk_cuda_host_alloc(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error);
int usk_cuda_host_free(struct usk_device *dev, void *address, struct unstick_error *error);

#endif
