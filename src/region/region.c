/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a region. Its addresses are reserved once, covered with sentinels, and given back when the last
 * reference is gone, whatever happened to the memory in between. What many threads ask for is published as a census
 * under the lock; the granules themselves are seen by the holder of the baton only.
 */
#include "region/region.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"

/* Addresses handed out are aligned as CUDA's own allocators align them. */
#define REGION_ALIGN_BYTES 512
/* Granules covered per turn with the baton, so that a step never waits long for a large region to be made. */
#define REGION_GRANULES_PER_TURN 16
/* How often a driver is asked for a fence that fails, before the region ends without one. */
#define REGION_MAX_FENCES 16

uint64_t usk_region_granule_bytes(const struct unstick_region *region, uint32_t index)
{
    uint64_t start = (uint64_t)index * region->dev->granule_bytes;

    return usk_min(region->dev->granule_bytes, region->reserve_bytes - start);
}

uint64_t usk_region_granule_address(const struct unstick_region *region, uint32_t index)
{
    return region->address + (uint64_t)index * region->dev->granule_bytes;
}

uint32_t usk_region_n_granules(const struct unstick_region *region)
{
    return (uint32_t)usk_div_up(region->bytes, region->dev->granule_bytes);
}

static void census_add(struct usk_census *census, const struct usk_granule *granule, uint64_t bytes)
{
    if (granule->place == USK_PLACE_RESIDENT)
        census->resident_bytes += bytes;
    census->n_resident += granule->place == USK_PLACE_RESIDENT;
    census->n_evicted += granule->place == USK_PLACE_EVICTED;
    census->n_poisoned += granule->place == USK_PLACE_POISONED;
    census->n_bare += granule->is_bare;
    census->n_dead += granule->place == USK_PLACE_DEAD;
    if (granule->place == USK_PLACE_DEAD)
        census->dead_bytes += bytes;
    if (!granule->blob)
        return;
    if (granule->blob->tier == UNSTICK_TIER_PINNED)
        census->pinned_bytes += bytes;
    else if (granule->blob->tier == UNSTICK_TIER_PAGEABLE)
        census->pageable_bytes += bytes;
    else
        census->file_bytes += bytes;
}

void usk_region_publish(struct unstick_region *region)
{
    struct usk_census census = { 0 };
    uint32_t n_granules;

    usk_context_lock(region->dev->ctx);
    n_granules = usk_region_n_granules(region);
    usk_context_unlock(region->dev->ctx);
    for (uint32_t i = 0; i < n_granules; i++)
        census_add(&census, &region->granules[i], usk_region_granule_bytes(region, i));
    usk_context_lock(region->dev->ctx);
    /* What it has grown by meanwhile is empty, and has to be seen as missing. */
    census.n_granules = usk_region_n_granules(region);
    region->census = census;
    usk_context_unlock(region->dev->ctx);
}

enum unstick_region_state usk_region_state(const struct unstick_region *region)
{
    const struct usk_census *census = &region->census;

    if (region->is_revoked)
        return UNSTICK_REGION_REVOKED;
    if (census->n_poisoned)
        return UNSTICK_REGION_POISONED;
    /* Of one in which all is dead nothing is missing. */
    if (census->n_dead && census->n_dead == census->n_granules)
        return UNSTICK_REGION_RESIDENT;
    if (!census->n_resident && !census->n_evicted)
        return UNSTICK_REGION_EMPTY;
    if (census->n_resident == census->n_granules - census->n_dead)
        return UNSTICK_REGION_RESIDENT;
    return census->n_resident ? UNSTICK_REGION_PARTIAL : UNSTICK_REGION_EVICTED;
}

void usk_region_trim(struct unstick_region *region)
{
    bool has_arena = false, has_backing = false;

    for (uint32_t i = 0; i < region->n_reserved; i++) {
        const struct usk_blob *blob = region->granules[i].blob;

        has_arena |= blob && blob->arena;
        has_backing |= blob && blob->backing;
    }
    if (!has_arena) {
        usk_arena_free(region->arena);
        region->arena = NULL;
    }
    if (!has_backing) {
        usk_backing_free(region->backing);
        region->backing = NULL;
    }
}

/* Takes one granule's memory away; what the driver does not let go of is left over. */
static void region_end_granule(struct unstick_region *region, uint32_t index, bool is_quiet)
{
    struct usk_device *driver = region->dev->driver;
    struct usk_granule *granule = &region->granules[index];
    bool is_gone;

    is_gone = granule->is_bare ||
              (is_quiet && driver->ops->unmap(driver, usk_region_granule_address(region, index),
                                              usk_region_granule_bytes(region, index), NULL) == UNSTICK_OK);
    region->has_leftovers |= !is_gone;
    if (granule->physical && is_gone)
        usk_physical_unref(region->dev, granule->physical, false, NULL);
    else if (granule->physical)
        usk_physical_poison(region->dev, granule->physical);
    *granule = (struct usk_granule){ .blob = granule->blob, .is_bare = true };
}

static bool region_has_physical(const struct unstick_region *region)
{
    for (uint32_t i = 0; i < region->n_reserved; i++) {
        if (region->granules[i].physical)
            return true;
    }
    return false;
}

int usk_region_poll_quiet(struct unstick_region *region)
{
    struct usk_device *driver = region->dev->driver;
    int r = usk_region_poll_fences(region, UINT64_MAX, NULL);

    if (r != UNSTICK_OK || region->has_been_leased)
        return r;
    if (!region->has_last_fence)
        r = driver->ops->fence_device(driver, &region->last_fence, NULL);
    if (r < 0)
        return r;
    r = usk_device_poll(driver, region->last_fence, NULL);
    region->has_last_fence = r == UNSTICK_PENDING;
    return r;
}

/* The last reference says that nobody will launch work on the region any more. What was launched may still run, and
 * unmapping does not wait for it. */
static enum usk_reap region_quieten(struct unstick_region *region)
{
    int r;

    if (region->is_quiet || atomic_load(&region->dev->is_lost) || !region_has_physical(region))
        return USK_REAP_DONE;
    r = usk_region_poll_quiet(region);
    if (r == UNSTICK_BUSY)
        return USK_REAP_BLOCKED;
    if (r == UNSTICK_PENDING ||
        (r < 0 && r != UNSTICK_DEVICE_LOST && ++region->n_fence_failures < REGION_MAX_FENCES))
        return USK_REAP_WAITING;
    region->is_quiet = true;
    return USK_REAP_DONE;
}

/* [baton] Takes everything away and frees the region, unless there is reason not to do so yet. Without a device there
 * is nothing to give back but our own. */
static enum usk_reap region_end(struct unstick_region *region, uint64_t deadline_ns)
{
    const struct usk_device_ops *ops = region->dev->driver->ops;
    enum usk_reap reap = region_quieten(region);
    bool is_quiet;

    if (reap != USK_REAP_DONE)
        return reap;
    /* A device that was given up may not have been lost: copies that nobody could wait for may still run. */
    is_quiet = !atomic_load(&region->dev->is_lost) || usk_device_settle(region->dev);
    while (region->n_ended < region->n_reserved) {
        region_end_granule(region, region->n_ended++, is_quiet);
        if (usk_clock_now_ns() > deadline_ns)
            return USK_REAP_MORE;
    }
    for (uint32_t i = 0; i < region->n_reserved; i++)
        usk_blob_unref(region->granules[i].blob);
    /* Addresses with something left in them stay reserved for the life of the process. */
    if (!region->has_leftovers)
        ops->unreserve(region->dev->driver, region->address, region->reserve_bytes, NULL);
    for (size_t i = 0; i < region->n_fences; i++)
        usk_device_drop(region->dev->driver, region->fences[i]);
    if (region->has_last_fence)
        usk_device_drop(region->dev->driver, region->last_fence);
    usk_arena_free(region->arena);
    usk_backing_free(region->backing);
    free(region->fences);
    free(region->granules);
    free(region);
    return USK_REAP_DONE;
}

/* [lock] */
static void region_unlink(struct unstick_region *region)
{
    struct unstick_region **at = &region->dev->regions;

    while (*at && *at != region)
        at = &(*at)->next;
    if (*at)
        *at = region->next;
    region->next = NULL;
}

/* [lock] */
static void region_bury(struct unstick_region *region)
{
    region->next = region->dev->dead;
    region->dev->dead = region;
}

enum usk_reap usk_region_reap(struct unstick_device *dev, uint64_t deadline_ns)
{
    enum usk_reap result = USK_REAP_DONE;
    struct unstick_region *dead;

    usk_context_lock(dev->ctx);
    dead = dev->dead;
    dev->dead = NULL;
    usk_context_unlock(dev->ctx);
    while (dead) {
        struct unstick_region *region = dead;
        enum usk_reap reap;

        dead = region->next;
        reap = result == USK_REAP_MORE ? USK_REAP_MORE : region_end(region, deadline_ns);
        if (reap == USK_REAP_DONE)
            continue;
        /* In a step time counts first; who waits for all of them waits as long as there is something to wait for. */
        result = reap == USK_REAP_MORE || result == USK_REAP_DONE || reap == USK_REAP_WAITING ? reap : result;
        usk_context_lock(dev->ctx);
        region_bury(region);
        usk_context_unlock(dev->ctx);
    }
    return result;
}

/* [baton] */
static void region_force_dead(struct unstick_device *dev)
{
    usk_context_lock(dev->ctx);
    for (struct unstick_region *region = dev->dead; region; region = region->next)
        region->is_quiet = true;
    usk_context_unlock(dev->ctx);
}

enum usk_reap usk_region_reap_all(struct unstick_device *dev, bool is_forced)
{
    const struct timespec pause = { .tv_nsec = 20000 };

    for (;;) {
        enum usk_reap reap;

        usk_baton_take(dev->ctx);
        reap = usk_region_reap(dev, UINT64_MAX);
        if (reap == USK_REAP_BLOCKED && is_forced) {
            region_force_dead(dev);
            reap = USK_REAP_WAITING;
        }
        usk_baton_give(dev->ctx);
        if (reap != USK_REAP_WAITING)
            return reap;
        nanosleep(&pause, NULL);
    }
}

/* True if that was the last reference: the region waits on the dead list. */
static bool region_drop(struct unstick_region *region)
{
    struct unstick_device *dev = region->dev;
    bool is_last;

    usk_context_lock(dev->ctx);
    is_last = --region->n_refs == 0;
    if (is_last) {
        region_unlink(region);
        region_bury(region);
    }
    usk_context_unlock(dev->ctx);
    return is_last;
}

void usk_region_unref_in_step(struct unstick_region *region)
{
    region_drop(region);
}

static int region_cover(struct unstick_region *region, struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    uint32_t i = 0;
    int r = UNSTICK_OK;

    for (i = 0; i < region->n_reserved; i++)
        region->granules[i].is_bare = true;
    for (i = 0; i < region->n_reserved && r == UNSTICK_OK;) {
        usk_baton_take(ctx);
        for (uint32_t n = 0; n < REGION_GRANULES_PER_TURN && i < region->n_reserved && r == UNSTICK_OK; n++, i++) {
            r = usk_sentinel_map(region->dev, usk_region_granule_address(region, i),
                                 usk_region_granule_bytes(region, i), error);
            region->granules[i].is_bare = r != UNSTICK_OK;
        }
        usk_baton_give(ctx);
    }
    return r;
}

static int region_check_new(struct unstick_device *dev, const char *name, uint64_t bytes, uint64_t reserve_bytes,
                            uint64_t *ret_rounded_bytes, struct unstick_error *error)
{
    if (!name || !*name || !bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_new",
                             "a region needs a name and a size above 0");
    if (reserve_bytes < bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_new",
                             "reserve_bytes (%llu) is less than the region's size (%llu)",
                             (unsigned long long)reserve_bytes, (unsigned long long)bytes);
    if (!usk_align_up(reserve_bytes, dev->driver->caps.granularity_bytes, ret_rounded_bytes) ||
        *ret_rounded_bytes / dev->granule_bytes >= UINT32_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_new",
                             "%llu bytes are more than a region can have", (unsigned long long)reserve_bytes);
    return UNSTICK_OK;
}

int unstick_region_new(struct unstick_device *dev, const char *name, uint64_t bytes,
                       const struct unstick_region_options *options, struct unstick_region **ret_region,
                       struct unstick_error *error)
{
    struct unstick_context *ctx = dev->ctx;
    uint64_t reserve_bytes = options && options->reserve_bytes ? options->reserve_bytes : bytes;
    struct unstick_region *region;
    int r;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    r = region_check_new(dev, name, bytes, reserve_bytes, &reserve_bytes, error);
    if (r < 0)
        return r;

    region = calloc(1, sizeof(*region));
    if (!region)
        goto fail_memory;
    region->dev = dev;
    region->bytes = bytes;
    region->reserve_bytes = reserve_bytes;
    region->n_reserved = (uint32_t)usk_div_up(reserve_bytes, dev->granule_bytes);
    region->n_refs = 1;
    snprintf(region->name, sizeof(region->name), "%s", name);
    region->granules = calloc(region->n_reserved, sizeof(*region->granules));
    if (!region->granules)
        goto fail_memory;

    usk_baton_take(ctx);
    r = dev->driver->ops->reserve(dev->driver, reserve_bytes, dev->driver->caps.granularity_bytes, &region->address,
                                  error);
    usk_baton_give(ctx);
    if (r < 0)
        goto fail_reserve;
    r = region_cover(region, error);
    if (r < 0)
        goto fail_cover;

    usk_region_publish(region);
    usk_context_lock(ctx);
    region->next = dev->regions;
    dev->regions = region;
    usk_context_unlock(ctx);
    *ret_region = region;
    return UNSTICK_OK;

fail_cover:
    usk_baton_take(ctx);
    region_end(region, UINT64_MAX);
    usk_baton_give(ctx);
    return r;
fail_memory:
    r = usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to describe the region %s", name);
fail_reserve:
    if (region)
        free(region->granules);
    free(region);
    return r;
}

struct unstick_region *unstick_region_ref(struct unstick_region *region)
{
    if (!usk_context_is_forked(region->dev->ctx)) {
        usk_context_lock(region->dev->ctx);
        region->n_refs++;
        usk_context_unlock(region->dev->ctx);
    }
    return region;
}

struct unstick_region *unstick_region_unref(struct unstick_region *region)
{
    struct unstick_device *dev;

    if (!region || usk_context_is_forked(region->dev->ctx))
        return NULL;
    dev = region->dev;
    /* What is blocked by a capture ends in a later step: the thread that captures may be this one. */
    if (region_drop(region))
        usk_region_reap_all(dev, false);
    return NULL;
}

int unstick_region_alloc(struct unstick_region *region, uint64_t bytes, void **ret_address,
                         struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    uint64_t start, end, room;
    int r = UNSTICK_OK;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    usk_context_lock(ctx);
    room = region->reserve_bytes;
    if (region->is_revoked) {
        r = UNSTICK_REVOKED;
    } else if (!usk_align_up(region->used_bytes, REGION_ALIGN_BYTES, &start) || !usk_add(start, bytes, &end) ||
               end > room) {
        r = UNSTICK_OUT_OF_DEVICE_MEMORY;
    } else {
        region->used_bytes = end;
        region->bytes = usk_max(region->bytes, end);
        /* New granules are empty: the state says so at once. */
        region->census.n_granules = usk_region_n_granules(region);
        *ret_address = (void *)(uintptr_t)(region->address + start);
    }
    room -= usk_min(room, region->used_bytes);
    usk_context_unlock(ctx);

    if (r == UNSTICK_REVOKED)
        return usk_error_set(error, r, 0, "unstick_region_alloc", "the region %s was revoked", region->name);
    if (r == UNSTICK_OUT_OF_DEVICE_MEMORY) {
        usk_error_set(error, r, 0, "unstick_region_alloc",
                      "%llu bytes do not fit into the region %s, which has %llu left; make it larger or reserve more",
                      (unsigned long long)bytes, region->name, (unsigned long long)room);
        usk_error_shortage(error, bytes, room);
    }
    return r;
}

int unstick_region_info(struct unstick_region *region, struct unstick_region_info *info)
{
    struct unstick_context *ctx = region->dev->ctx;
    struct unstick_region_info filled = { 0 };

    if (usk_context_is_forked(ctx))
        return UNSTICK_FORKED;
    if (info->size < sizeof(*info))
        return UNSTICK_INVALID_ARGUMENT;
    usk_context_lock(ctx);
    filled = (struct unstick_region_info){
        .size = info->size,
        .state = usk_region_state(region),
        .address = region->address,
        .bytes = region->bytes,
        .reserve_bytes = region->reserve_bytes,
        .used_bytes = region->used_bytes,
        .granule_bytes = region->dev->granule_bytes,
        .n_granules = region->census.n_granules,
        .n_resident = region->census.n_resident,
        .n_evicted = region->census.n_evicted,
        .n_poisoned = region->census.n_poisoned,
        .n_bare = region->census.n_bare,
        .n_dead = region->census.n_dead,
        .dead_bytes = region->census.dead_bytes,
        .resident_bytes = region->census.resident_bytes,
        .pinned_bytes = region->census.pinned_bytes,
        .pageable_bytes = region->census.pageable_bytes,
        .file_bytes = region->census.file_bytes,
        .n_leases = region->n_leases,
    };
    usk_context_unlock(ctx);
    *info = filled;
    return UNSTICK_OK;
}
