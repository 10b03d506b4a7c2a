/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_REGION_REGION_H
#define USK_REGION_REGION_H

#include <stdbool.h>

#include <unstick/region.h>
#include <unstick/task.h>

#include "region/device.h"
#include "store/store.h"

/* The contents of one granule in the store. Granules with equal contents may come to share one. */
struct usk_blob {
    unsigned int n_refs;
    enum unstick_tier tier;       /* PINNED or PAGEABLE: in arena; FILE: in backing */
    struct usk_arena *arena;      /* the blob has a hold on granule `index` of it */
    struct usk_backing *backing;
    uint32_t index;
    bool is_filled;               /* holds the contents of a granule as they were at some moment */
    bool has_hash;
    uint64_t hash;                /* of the blob's own bytes */
    struct usk_blob *next;        /* of those that are to be given up */
};

enum usk_place {
    USK_PLACE_EMPTY,    /* no contents; the sentinel lies under it */
    USK_PLACE_RESIDENT, /* in `physical`; `blob`, if any, may be out of date */
    USK_PLACE_EVICTED,  /* in `blob` only; the sentinel lies under it */
    USK_PLACE_POISONED, /* contents unknown, or the address cannot be mapped */
    USK_PLACE_DEAD,     /* nobody refers to it any more; the sentinel lies under it */
};

struct usk_granule {
    enum usk_place place;
    bool is_bare;                  /* nothing is mapped at its address, not even the sentinel */
    struct usk_physical *physical; /* RESIDENT, or under way in either direction; else NULL */
    struct usk_blob *blob;
};

/* How much of a region is where, for readers without the baton. */
struct usk_census {
    uint32_t n_granules, n_resident, n_evicted, n_poisoned, n_bare, n_dead;
    uint64_t resident_bytes, pinned_bytes, pageable_bytes, file_bytes, dead_bytes;
};

/*
 * A region. The granules belong to the holder of the baton; what is marked lock is guarded by the context's lock. A
 * region that tasks or tensors refer to keeps its addresses; the last reference puts it on the device's dead list,
 * from where a holder of the baton ends it.
 */
struct unstick_region {
    struct unstick_device *dev;
    char name[64];
    uint64_t address;
    uint64_t reserve_bytes;       /* a multiple of the driver's granularity */
    uint64_t bytes;               /* lock */
    uint64_t used_bytes;          /* lock */
    uint32_t n_reserved;          /* granules that cover reserve_bytes */
    uint32_t n_ended;             /* baton; without references: granules that are gone */
    bool has_leftovers;           /* and some of them are not */
    bool is_quiet;                /* baton; without references: nothing on the device uses its memory any more */
    bool has_last_fence;          /* baton: usk_region_poll_quiet() waits for it */
    uint64_t last_fence;
    unsigned int n_fence_failures;
    struct usk_granule *granules; /* baton; n_reserved of them */
    struct usk_arena *arena;      /* baton: made by the first backup into host memory */
    struct usk_backing *backing;  /* baton: the files it was loaded from, while blobs refer to them */
    bool was_evicted;             /* baton: since the sentinels were checked last */

    unsigned int n_refs;          /* lock */
    unsigned int n_leases;        /* lock */
    unsigned int n_exclusive;     /* lock: tasks that have not ended and let nobody in */
    bool is_moving;               /* lock: an exclusive task has started and not ended */
    bool is_keeping;              /* lock: unstick_region_keep() works on it, in turns; no task starts */
    bool is_revoked;              /* lock */
    bool has_been_leased;         /* lock */
    bool is_wanted;               /* lock: a lease was asked for, evictions end early; until no task is exclusive */
    struct unstick_task *holder;  /* lock: the task that works on it now */
    uint64_t *fences;             /* lock: tickets behind the streams of ended leases */
    size_t n_fences, n_fences_allocated;
    struct usk_census census;     /* lock: published by who holds the baton */
    struct unstick_region *next;  /* lock: in dev->regions or dev->dead */
};

/* Size of granule `index`: all are alike but the last one of the range. */
uint64_t usk_region_granule_bytes(const struct unstick_region *region, uint32_t index);
uint64_t usk_region_granule_address(const struct unstick_region *region, uint32_t index);
/* Granules that cover the region's bytes. [lock or baton] */
uint32_t usk_region_n_granules(const struct unstick_region *region);

/* [baton] Gives up the arena and the files that no blob refers to any more. */
void usk_region_trim(struct unstick_region *region);
/*
 * Gives up the backups in host memory of what is resident, and says how much that was; nothing while a task, or
 * unstick_region_keep(), works on the region. Takes the baton.
 */
uint64_t usk_region_forget_backups(struct unstick_region *region);
/* [baton] Takes the census of the granules and publishes it. */
void usk_region_publish(struct unstick_region *region);
/* [lock] What the published figures amount to. */
enum unstick_region_state usk_region_state(const struct unstick_region *region);

/* As unstick_region_unref(), for a holder of the baton: the end itself is left to usk_region_reap(). */
void usk_region_unref_in_step(struct unstick_region *region);
/*
 * [baton] Before memory is taken away that somebody may have used: UNSTICK_OK once what was launched on the region has
 * passed. The streams of ended leases have to, as before an eviction, or all work on the device if the region was never
 * leased. UNSTICK_BUSY: the device takes no fence now, as a stream is being captured.
 */
int usk_region_poll_quiet(struct unstick_region *region);

enum usk_reap {
    USK_REAP_DONE,    /* there is no region left without references */
    USK_REAP_MORE,    /* the time was up before all were ended */
    USK_REAP_WAITING, /* what was launched on one of them has not passed yet */
    USK_REAP_BLOCKED, /* the device takes no fence now, as a stream of the program is being captured */
};

/* [baton] Ends the regions without references, as far as it can without waiting. */
enum usk_reap usk_region_reap(struct unstick_device *dev, uint64_t deadline_ns);
/* Takes the baton, and waits for what is WAITING. is_forced: for what is BLOCKED no longer. */
enum usk_reap usk_region_reap_all(struct unstick_device *dev, bool is_forced);

/*
 * True if every invariant that can be checked from outside holds, with the accounts of its device. For tests. [baton]
 */
bool usk_device_is_valid(struct unstick_device *dev);

/* --- granule.c [baton] --- */

/*
 * Puts physical memory under a granule in place of the sentinel; the granule takes the reference. UNSTICK_BUSY: call
 * again. On any other failure the reference stays with the caller and the granule is as before, or bare.
 */
int usk_granule_bring(struct unstick_region *region, uint32_t index, struct usk_physical *physical,
                      struct unstick_error *error);
/*
 * Takes the physical memory away again and puts the sentinel there; contents that are not in the blob are gone, the
 * caller knows that. UNSTICK_BUSY: call again. On any other failure the granule keeps its memory; or it is gone with
 * the granule bare, or poisoned, and `physical` is NULL: UNSTICK_OK is returned if the memory went away.
 */
int usk_granule_take(struct unstick_region *region, uint32_t index, bool to_spare, struct unstick_error *error);

/*
 * Ends a take that stays UNSTICK_BUSY, for a granule whose contents are not needed on the device: UNSTICK_OK if the
 * memory is gone and the address bare; else the memory is back under the granule and the status says why.
 */
int usk_granule_give_up(struct unstick_region *region, uint32_t index, struct unstick_error *error);

/* --- blob.c [baton] --- */

struct usk_blob *usk_blob_new_arena(struct usk_arena *arena, uint32_t index);
struct usk_blob *usk_blob_new_file(struct usk_backing *backing, uint32_t index);
void usk_blob_unref(struct usk_blob *blob);
/* Takes a granule's blob, if it has one, to a list of those that go together, when device memory has gone: host memory
 * is given back block by block, and each keeps the device's calls out for as long. */
void usk_blob_take(struct usk_granule *granule, struct usk_blob **list);
void usk_blob_unref_all(struct usk_blob **list);

/* --- lease.c --- */

/* [baton] Polls the tickets of ended leases, until deadline_ns: UNSTICK_OK when all are passed. */
int usk_region_poll_fences(struct unstick_region *region, uint64_t deadline_ns, struct unstick_error *error);

#endif
