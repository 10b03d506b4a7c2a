/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Granules that nobody refers to any more. They go without a task: nothing has to be copied, only awaited. The region
 * is held like by a lease meanwhile, so no task moves it, and whoever works on it already is not disturbed: BUSY. No
 * backup begins, either: between two turns of this it would find granules and an arena that the next one takes away.
 */
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/math.h"
#include "region/region.h"

/* How often a driver that asks to be asked again is asked, before the granule stays. */
#define KEEP_MAX_BUSY 1000
/* Granules taken per turn with the baton, so that a step never waits long. */
#define KEEP_GRANULES_PER_TURN 16

static int keep_hold(struct unstick_region *region, struct unstick_error *error)
{
    bool is_busy;

    usk_context_lock(region->dev->ctx);
    is_busy = region->n_leases || region->n_exclusive || region->holder;
    if (!is_busy) {
        region->n_leases++;
        region->is_keeping = true;
    }
    usk_context_unlock(region->dev->ctx);
    if (is_busy)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_region_keep", "the region %s is in use", region->name);
    return UNSTICK_OK;
}

static void keep_unhold(struct unstick_region *region)
{
    usk_context_lock(region->dev->ctx);
    region->n_leases--;
    region->is_keeping = false;
    usk_context_unlock(region->dev->ctx);
    usk_context_wake(region->dev->ctx);
}

/* Marks the granules that a span touches. */
static int keep_mark(const struct unstick_region *region, const struct unstick_span *spans, size_t n_spans,
                     bool *is_live, struct unstick_error *error)
{
    uint64_t granule_bytes = region->dev->granule_bytes, end;

    for (size_t i = 0; i < n_spans; i++) {
        if (!usk_add(spans[i].offset, spans[i].bytes, &end) || end > region->reserve_bytes)
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_keep",
                                 "%llu bytes at %llu are beyond the end of the region %s",
                                 (unsigned long long)spans[i].bytes, (unsigned long long)spans[i].offset, region->name);
        for (uint64_t at = spans[i].offset; at < end; at += granule_bytes - at % granule_bytes)
            is_live[at / granule_bytes] = true;
    }
    return UNSTICK_OK;
}

static bool keep_has_dead_memory(const struct unstick_region *region, const bool *is_live)
{
    for (uint32_t i = 0; i < region->n_reserved; i++) {
        if (!is_live[i] && region->granules[i].physical)
            return true;
    }
    return false;
}

static int keep_wait(struct unstick_region *region, const bool *is_live, struct unstick_error *error)
{
    const struct timespec pause = { .tv_nsec = 20000 };
    int r;

    for (;;) {
        usk_baton_take(region->dev->ctx);
        r = keep_has_dead_memory(region, is_live) ? usk_region_poll_quiet(region) : UNSTICK_OK;
        usk_baton_give(region->dev->ctx);
        if (r != UNSTICK_PENDING)
            break;
        nanosleep(&pause, NULL);
    }
    if (r < 0)
        return usk_error_set(error, r, 0, "unstick_region_keep", "what was launched on the region %s: %s", region->name,
                             unstick_status_text(r));
    return UNSTICK_OK;
}

/* [baton] */
static int keep_bury(struct unstick_region *region, uint32_t index, struct usk_blob **dropped, uint64_t *bytes,
                     struct unstick_error *error)
{
    struct usk_granule *granule = &region->granules[index];
    int r = UNSTICK_OK;

    if (granule->place == USK_PLACE_DEAD || granule->place == USK_PLACE_POISONED)
        return UNSTICK_OK;
    if (granule->physical) {
        for (int i = 0; i == 0 || (r == UNSTICK_BUSY && i < KEEP_MAX_BUSY); i++)
            r = usk_granule_take(region, index, false, error);
        if (r == UNSTICK_BUSY)
            r = usk_granule_give_up(region, index, error);
        if (r < 0)
            return r;
        *bytes += usk_region_granule_bytes(region, index);
    }
    usk_blob_take(granule, dropped);
    granule->place = USK_PLACE_DEAD;
    return UNSTICK_OK;
}

/* A failure of one granule does not keep the others. */
static int keep_bury_all(struct unstick_region *region, const bool *is_live, uint64_t *bytes,
                         struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    struct usk_blob *dropped = NULL;
    int first = UNSTICK_OK;
    bool is_over = false;

    for (uint32_t i = 0; !is_over;) {
        usk_baton_take(ctx);
        /* What the region may yet grow into was never anybody's. */
        for (uint32_t n = 0; n < KEEP_GRANULES_PER_TURN && i < usk_region_n_granules(region); i++) {
            int r;

            if (is_live[i])
                continue;
            n++;
            r = keep_bury(region, i, &dropped, bytes, first < 0 ? NULL : error);
            first = first < 0 ? first : r;
        }
        is_over = i >= usk_region_n_granules(region);
        if (is_over) {
            usk_blob_unref_all(&dropped);
            usk_region_trim(region);
            usk_region_publish(region);
        }
        usk_baton_give(ctx);
    }
    return first;
}

int unstick_region_keep(struct unstick_region *region, const struct unstick_span *spans, size_t n_spans,
                        uint64_t *ret_bytes, struct unstick_error *error)
{
    uint64_t bytes = 0;
    bool *is_live;
    int r;

    if (usk_context_is_forked(region->dev->ctx))
        return usk_context_fail_forked(error);
    r = keep_hold(region, error);
    if (r < 0)
        return r;
    is_live = calloc(region->n_reserved, sizeof(*is_live));
    r = is_live ? keep_mark(region, spans, n_spans, is_live, error)
                : usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to mark granules");
    if (r == UNSTICK_OK)
        r = keep_wait(region, is_live, error);
    if (r == UNSTICK_OK) {
        r = keep_bury_all(region, is_live, &bytes, error);
        if (ret_bytes)
            *ret_bytes = bytes;
    }
    free(is_live);
    keep_unhold(region);
    return r;
}
