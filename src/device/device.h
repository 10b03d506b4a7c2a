/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_DEVICE_H
#define USK_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

#include "base/log.h"

/*
 * The contract between unstick and a device driver. One back end per folder (cuda, host), one that wraps any of them
 * and makes it fail (fault), one conformance suite for all (test/conformance).
 *
 * Addresses are device addresses of the process; on the host device they are pointers. A *handle* is physical memory:
 * it is created, mapped whole at offset 0 at any number of addresses, unmapped whole, and released; it lives on until
 * the last mapping is gone. Sizes and addresses of handles are multiples of caps.granularity_bytes.
 *
 * Who calls: the functions marked [baton] are called by one thread at a time (whoever steps the context, or the
 * opener and closer of the device). The ones marked [any] may be called by any thread at any time. None is called
 * under a lock, none calls back. Those marked [blocks] may take long and are called on pool threads only; the others
 * return within a millisecond or so.
 *
 * Failures: every function may fail, returns a status and fills `error` (NULL is allowed). A function that fails
 * leaves everything as it was, unless it says otherwise. A sticky failure of the driver sets is_lost and returns
 * UNSTICK_DEVICE_LOST, then and on every later call.
 *
 * Lanes: three queues that run beside each other; work in one lane runs in order. Submission does not wait for the
 * work. A failure of submitted work shows when a ticket behind it is polled.
 *
 * Tickets: a mark in a lane (or a fence behind other streams) is a ticket. A ticket is used up by the usk_device_poll()
 * that does not return UNSTICK_PENDING, or by usk_device_drop(). When a mark is passed, the device's event_fd is
 * signalled.
 */

enum usk_lane {
    USK_LANE_UP,   /* host to device */
    USK_LANE_DOWN, /* device to host */
    USK_LANE_HASH, /* hashes */
    USK_N_LANES,
};

enum usk_register_flags {
    USK_REGISTER_READ_ONLY = 1u << 0, /* a read-only mapping of a file; needs caps.can_register_file */
};

struct usk_device_caps {
    char kind[16];                  /* "cuda", "host" */
    char name[128];                 /* what the vendor calls it */
    char uuid[64];                  /* "GPU-...", "MIG-...", or empty */
    uint64_t total_bytes;           /* the device's memory */
    uint64_t granularity_bytes;     /* of handles and mappings; a power of two */
    uint64_t default_granule_bytes; /* a good unit of residency; a multiple of granularity_bytes */
    uint32_t n_hash_slots;          /* length of hash_results */
    int index;                      /* in the driver's order for this process; -1: not a GPU */
    int numa_node;                  /* where host memory is closest; -1: unknown */
    int driver_version;             /* the driver's own number (13000 is CUDA 13.0); 0: none */
    bool has_real_vram;             /* device memory is not host memory */
    bool can_hash;                  /* hash() works */
    bool can_register;              /* register_host() does something: copies from registered memory are faster */
    bool can_register_file;         /* register_host() takes read-only mappings of files */
    bool can_checkpoint;            /* whole processes can be checkpointed */
};

struct usk_device {
    const struct usk_device_ops *ops;
    struct usk_device_caps caps;   /* does not change after open */
    const uint64_t *hash_results;  /* n_hash_slots results, written by hash() */
    int event_fd;                  /* signalled when a ticket is passed; -1: nobody listens */
    struct usk_log log;
};

struct usk_device_ops {
    /* [baton] Waits for what was submitted, then frees everything, also tickets. Handles, mappings, reservations and
     * registrations of the caller have been undone before. Never fails: what cannot be undone is left to the driver. */
    void (*close)(struct usk_device *dev);

    /* [any] Free and total bytes as the device itself says, others' use included. */
    int (*memory_info)(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                       struct unstick_error *error);

    /* [baton] Addresses without memory, aligned to align_bytes (a power of two; at least the granularity). */
    int (*reserve)(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                   struct unstick_error *error);
    /* [baton] The same range as reserved; nothing is mapped in it. */
    int (*unreserve)(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error);

    /* [baton] Physical memory of undefined contents. UNSTICK_OUT_OF_DEVICE_MEMORY when there is not enough. */
    int (*create)(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error);
    /* [baton] Ends the creator's hold; the memory is free when the last mapping is gone too. On failure the memory is
     * still held: the caller counts it as poisoned. */
    int (*release)(struct usk_device *dev, uint64_t handle, struct unstick_error *error);

    /* [baton] Maps a whole handle (of `bytes`) read-write over reserved addresses with nothing mapped. UNSTICK_BUSY:
     * the driver asks to try again later. */
    int (*map)(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle, struct unstick_error *error);
    /* [baton] As map(), of a handle of piece_bytes over a range that is a multiple of it, as often as it takes: the
     * same memory shows every piece_bytes. All of it or nothing. */
    int (*map_repeated)(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                        uint64_t piece_bytes, struct unstick_error *error);
    /* [baton] Unmaps a range that covers whole mappings. Does not wait for work that uses it: fence first. */
    int (*unmap)(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error);

    /* [baton] Submits a copy. Host memory is registered (one registration covers it whole) or pageable; pageable
     * memory may make the call wait. Both sides stay valid until a ticket behind it is passed. */
    int (*copy_up)(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *host, uint64_t bytes,
                   struct unstick_error *error);
    int (*copy_down)(struct usk_device *dev, enum usk_lane lane, void *host, uint64_t address, uint64_t bytes,
                     struct unstick_error *error);
    /* [baton] Submits a copy inside the device; the ranges do not overlap. */
    int (*copy_across)(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                       struct unstick_error *error);
    /* [baton] Submits a fill with one byte. */
    int (*fill)(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                struct unstick_error *error);

    /* [baton] Submits hashes (base/hash.h) of n pieces of piece_bytes each (a multiple of 16), one behind the other
     * from `address`, aligned to 16. Piece k's hash is in hash_results[slot + k] once a ticket behind it is passed;
     * slots of submitted hashes do not overlap. Needs caps.can_hash. */
    int (*hash)(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                uint32_t slot, struct unstick_error *error);

    /* [baton] What is submitted to `lane` from now on starts after all that was submitted to `after` so far. */
    int (*order)(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error);

    /* [baton] A ticket behind all that was submitted to the lane so far. */
    int (*mark)(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error);

    /* [any] A ticket behind all that was submitted to a stream of the host program (NULL: the default stream) so far.
     * UNSTICK_BUSY while that stream is being captured into a graph. */
    int (*fence_stream)(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error);
    /* [any] A ticket behind all work of this process on the device, on any stream. May use a library-owned thread. */
    int (*fence_device)(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error);

    /* [any] UNSTICK_OK: passed; UNSTICK_PENDING; else the failure of the work before it. */
    int (*poll)(struct usk_device *dev, uint64_t ticket, struct unstick_error *error);
    /* [any] Gives a ticket up without waiting for it. */
    void (*drop)(struct usk_device *dev, uint64_t ticket);

    /* [baton] Between the two the caller makes several calls, one behind the other, and register_host(),
     * unregister_host() and begin_paging() of other threads wait: a driver and the system may hold a lock over what
     * these do for a millisecond and more, and each call would wait for one. Short, and not nested. False: one of those
     * runs; event_fd is signalled when it is over, and for a moment no other one begins. NULL where nothing is to be
     * gained. */
    bool (*begin_burst)(struct usk_device *dev);
    void (*end_burst)(struct usk_device *dev);
    /* [any] [blocks] Around what makes the system touch new host memory, or take it back: by any number of threads at
     * once, for a millisecond or so, with no other function called between the two. NULL where begin_burst() is. */
    void (*begin_paging)(struct usk_device *dev);
    void (*end_paging)(struct usk_device *dev);

    /* [any] [blocks] Makes host memory known to the device, so that copies run at the speed of the link and need not
     * wait. Pages are present or become so. UNSTICK_UNSUPPORTED where it is refused: use a ring. */
    int (*register_host)(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                         struct unstick_error *error);
    /* [any] [blocks] The same range as registered, with no copy in flight. */
    int (*unregister_host)(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error);

    /* [any] [blocks] The driver's own pinned memory, for comparison (bench) and small staging areas. */
    int (*host_alloc)(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error);
    int (*host_free)(struct usk_device *dev, void *address, struct unstick_error *error);
};

/* How the back ends are opened; each writes *ret_dev on success only. event_fd may be -1; it is not owned. */

/* which: "0", "1", ..., "GPU-<uuid>", "MIG-<uuid>". No driver, no such device: UNSTICK_NO_DEVICE. */
int usk_cuda_open(const char *which, int event_fd, const struct usk_log *log, struct usk_device **ret_dev,
                  struct unstick_error *error);
/* How many GPUs there are, without creating a context on any; 0 if there is no driver. */
int usk_cuda_count(unsigned int *ret_n, struct unstick_error *error);

/* A device of `bytes` in a memfd. */
int usk_host_open(uint64_t bytes, int event_fd, const struct usk_log *log, struct usk_device **ret_dev,
                  struct unstick_error *error);

/* The calls read better without the vtable. */
static inline void usk_device_close(struct usk_device *dev)
{
    if (dev)
        dev->ops->close(dev);
}

static inline int usk_device_poll(struct usk_device *dev, uint64_t ticket, struct unstick_error *error)
{
    return dev->ops->poll(dev, ticket, error);
}

static inline void usk_device_drop(struct usk_device *dev, uint64_t ticket)
{
    dev->ops->drop(dev, ticket);
}

static inline void usk_device_begin_paging(struct usk_device *dev)
{
    if (dev->ops->begin_paging)
        dev->ops->begin_paging(dev);
}

static inline void usk_device_end_paging(struct usk_device *dev)
{
    if (dev->ops->end_paging)
        dev->ops->end_paging(dev);
}

#endif
