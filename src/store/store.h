/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_STORE_H
#define USK_STORE_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/context.h>
#include <unstick/model.h>
#include <unstick/task.h>

#include "base/worker.h"
#include "device/device.h"

/*
 * Where the contents of evicted granules live. Three kinds of memory, one budget:
 *
 *   arena    host memory of our own, one per region, in pieces of whole granules. A piece is mapped with huge pages,
 *            touched by several threads and registered with the device (pinned); where registration is refused it
 *            stays pageable and copies go through the ring. A piece is made when its first granule is asked for and
 *            given back when its last one is.
 *   backing  the model's own files, mapped read-only. Where the device can register files they are copied from at
 *            the speed of the link and take no host memory of ours; elsewhere they are read into the ring.
 *   ring     a few pinned buffers of one granule each, for what cannot be copied from directly.
 *
 * Everything that may block runs as jobs of the pool: the prepare functions start it and return UNSTICK_PENDING until
 * it is done. All functions here are called by the holder of the baton, unless marked [any]; none blocks, unless
 * marked [blocks]. The counters of the budget may be read by any thread.
 */

/* What host memory the context holds, against its limit. One per context. The limit is for pinned, pageable and ring
 * bytes together; file_bytes are the page cache's and are counted only. */
struct usk_budget {
    uint64_t limit_bytes;
    atomic_uint_least64_t pinned_bytes, pageable_bytes, file_bytes, ring_bytes;
    atomic_uint_least64_t reserved_bytes; /* what the limit is held against; never above it */
    atomic_uint_least64_t leaving_bytes;  /* of these: on their way back to the system */
    atomic_uint_least64_t leaked_bytes;   /* of pinned and file bytes: the device would not let go of them */
};

/* The limit for `requested` (0: automatic): what MemAvailable and the cgroup leave, less a reserve (budget.c). More
 * than the machine or the cgroup has is cut down to that. */
int usk_budget_init(struct usk_budget *budget, uint64_t requested_bytes, struct unstick_error *error);

/* One per device. pool and budget outlive it. */
struct usk_store;

int usk_store_new(struct usk_device *dev, struct usk_pool *pool, struct usk_budget *budget, uint64_t granule_bytes,
                  struct usk_store **ret_store, struct unstick_error *error);
/* Every arena and backing is gone (freed). NULL is allowed. [blocks] until its jobs are over. */
void usk_store_free(struct usk_store *store);

/* [any] From now on the device may use registered memory for ever, or (false) it is known not to: what is given back
 * meanwhile stays registered and mapped, and is counted as leaked. */
void usk_store_abandon(struct usk_store *store, bool is_abandoned);

/* For tests and debug builds: what the arenas, the ring and the backings hold is what was charged for it. */
bool usk_store_is_valid(struct usk_store *store);

/* --- arena --- */

struct usk_arena;

/* No memory is taken yet. tier: UNSTICK_TIER_PINNED, or _PAGEABLE to not even try to register. */
int usk_arena_new(struct usk_store *store, uint64_t granule_bytes, uint64_t bytes, enum unstick_tier tier,
                  struct usk_arena **ret_arena, struct unstick_error *error);

/* Asks for the memory of one granule and takes a hold on it; every success or PENDING is undone by one usk_arena_put().
 * UNSTICK_OK: usable now. UNSTICK_PENDING: ask again with usk_arena_poll(). UNSTICK_HOST_BUDGET,
 * UNSTICK_OUT_OF_HOST_MEMORY: no hold was taken. Who goes from granule to granule, up or down, has the next two pieces
 * begun ahead of time. */
int usk_arena_get(struct usk_arena *arena, uint32_t index, struct unstick_error *error);
/* For a granule that is held: OK, PENDING, or why its memory cannot be had (the hold stays). */
int usk_arena_poll(struct usk_arena *arena, uint32_t index, struct unstick_error *error);
/* Ends a hold; the piece goes back to the system when none of its granules is held. Never fails, never waits. */
void usk_arena_put(struct usk_arena *arena, uint32_t index);
/* Gives back what was made ahead of time and is not held: for the end of a task. It happens by itself when the budget
 * runs short and when the last hold ends. */
void usk_arena_trim(struct usk_arena *arena);

/* For a granule that is held and usable: its memory, and whether the device can copy from and to it directly. */
void *usk_arena_data(struct usk_arena *arena, uint32_t index);
/* UNSTICK_TIER_PINNED or UNSTICK_TIER_PAGEABLE. */
enum unstick_tier usk_arena_tier(struct usk_arena *arena, uint32_t index);

/* No granule is held. Its memory may be given back by a job after this returns; the store waits for it. */
void usk_arena_free(struct usk_arena *arena);

/* --- ring --- */

/* Takes a staging buffer of one granule: a pinned one (pageable where pinning is refused). UNSTICK_PENDING: none is
 * free or it is being made, try again. Fails with UNSTICK_OUT_OF_HOST_MEMORY or UNSTICK_HOST_BUDGET if not even one
 * can be had. */
int usk_ring_get(struct usk_store *store, void **ret_buffer, struct unstick_error *error);
/* Takes a buffer that is free and ready; false: there is none, and one is begun if that is possible. */
bool usk_ring_try(struct usk_store *store, void **ret_buffer);
void usk_ring_put(struct usk_store *store, void *buffer);
/* Gives idle buffers back to the system. */
void usk_ring_trim(struct usk_store *store);

/* --- backing --- */

struct usk_backing;

/* One stretch of a granule as it lies in registered memory of a file. */
struct usk_run {
    const void *host;        /* first byte */
    uint64_t offset;         /* first byte, from the start of the granule */
    uint64_t bytes;          /* length; no run crosses a border between registrations */
};

/* Opens the files of a layout (checked: extents ascending, not overlapping, inside layout->bytes and inside the files)
 * and notes what identifies them. The layout is copied. [blocks] for the opening of files only. */
int usk_backing_new(struct usk_store *store, const struct unstick_layout *layout, uint64_t granule_bytes,
                    struct usk_backing **ret_backing, struct unstick_error *error);

/* True if granules can be copied from the mapped files directly, through runs. */
bool usk_backing_is_direct(const struct usk_backing *backing);

/* Registers what granule `index` needs, ahead of time also what its followers need, and takes a hold; as for
 * usk_arena_get(). A granule without extents is OK at once. A refusal by the device is UNSTICK_UNSUPPORTED: from then
 * on is_direct() is false. */
int usk_backing_get(struct usk_backing *backing, uint32_t index, struct unstick_error *error);
int usk_backing_poll(struct usk_backing *backing, uint32_t index, struct unstick_error *error);
/* True if granule `index` is not registered and would have to wait for others that are. */
bool usk_backing_is_behind(struct usk_backing *backing, uint32_t index);
/* Registers by and by, in the background, what is not registered yet. */
void usk_backing_pin(struct usk_backing *backing);
/* Ends a hold. Registrations stay until usk_backing_unpin() or free, so that the next restore finds them. */
void usk_backing_put(struct usk_backing *backing, uint32_t index);
/* Unregisters pieces that nobody holds (by a job): the pages go back to the page cache. */
void usk_backing_unpin(struct usk_backing *backing);

/* The runs of a granule that is held and usable. The array belongs to the backing and is valid until the next call. */
size_t usk_backing_runs(struct usk_backing *backing, uint32_t index, const struct usk_run **ret_runs);

/* True if part of the granule, which is `bytes` long, is in no extent (and so is zero). */
bool usk_backing_has_gaps(const struct usk_backing *backing, uint32_t index, uint64_t bytes);

/* [any] [blocks] Reads one granule into memory, gaps zeroed, `bytes` in all: for pool threads. */
int usk_backing_read(struct usk_backing *backing, uint32_t index, void *buffer, uint64_t bytes,
                     struct unstick_error *error);

/* [any] UNSTICK_BACKUP_CHANGED if a file is not any more what it was when the backing was made; names it. */
int usk_backing_check(struct usk_backing *backing, struct unstick_error *error);

/* Nothing is held. NULL is allowed. Registrations end by a job; the store waits for it. */
void usk_backing_free(struct usk_backing *backing);

#endif
