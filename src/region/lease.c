/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lease keeps a region where it is. While one lives no task that moves the region starts; while such a task is
 * queued or runs, no lease begins. What a lease used on the device may still run when it ends: its streams leave
 * tickets with the region, and an eviction waits for those.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "region/region.h"

/* From so many tickets on, the end of a lease looks for some that have passed: a region that is used a million times
 * and never evicted must not gather a million. */
#define LEASE_FENCES_MANY 32
#define LEASE_RETIRE_MAX 8

struct unstick_lease {
    struct unstick_region *region;
    void **streams;
    size_t n_streams;
};

int unstick_lease_begin(struct unstick_region *region, unsigned int flags, struct unstick_lease **ret_lease,
                        struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    struct unstick_lease *lease;
    int r = UNSTICK_OK;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    lease = calloc(1, sizeof(*lease));
    if (!lease)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a lease");

    usk_context_lock(ctx);
    if (region->is_revoked) {
        r = UNSTICK_REVOKED;
    } else if (region->n_exclusive) {
        r = UNSTICK_BUSY;
    } else if (usk_region_state(region) != UNSTICK_REGION_RESIDENT) {
        r = UNSTICK_NOT_RESIDENT;
    } else {
        region->n_leases++;
        region->n_refs++;
        region->has_been_leased = true;
    }
    if (r == UNSTICK_BUSY && (flags & UNSTICK_LEASE_CANCEL_EVICTION))
        region->is_wanted = true;
    usk_context_unlock(ctx);

    if (r < 0) {
        usk_context_wake(ctx);
        free(lease);
        return usk_error_set(error, r, 0, "unstick_lease_begin", "the region %s cannot be leased: %s", region->name,
                             unstick_status_text(r));
    }
    lease->region = region;
    *ret_lease = lease;
    return UNSTICK_OK;
}

int unstick_lease_use_stream(struct unstick_lease *lease, void *stream, struct unstick_error *error)
{
    void **streams;

    if (usk_context_is_forked(lease->region->dev->ctx))
        return usk_context_fail_forked(error);
    for (size_t i = 0; i < lease->n_streams; i++) {
        if (lease->streams[i] == stream)
            return UNSTICK_OK;
    }
    streams = realloc(lease->streams, (lease->n_streams + 1) * sizeof(*streams));
    if (!streams)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory for a lease");
    streams[lease->n_streams++] = stream;
    lease->streams = streams;
    return UNSTICK_OK;
}

/* [lock] Makes room for n more tickets. */
static bool lease_reserve_fences(struct unstick_region *region, size_t n)
{
    size_t n_wanted = region->n_fences + n;
    uint64_t *fences;

    if (n_wanted <= region->n_fences_allocated)
        return true;
    fences = realloc(region->fences, n_wanted * sizeof(*fences));
    if (!fences)
        return false;
    region->fences = fences;
    region->n_fences_allocated = n_wanted;
    return true;
}

/* [baton] Polls the oldest ticket, and forgets it once it is used up; the others keep their order, which is about that
 * in which they pass. Leases may end meanwhile and leave theirs behind it. UNSTICK_OK: it has passed, or is none. */
static int fences_poll_first(struct unstick_region *region, bool *ret_is_empty, struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    uint64_t ticket = 0;
    int r;

    usk_context_lock(ctx);
    *ret_is_empty = !region->n_fences;
    if (region->n_fences)
        ticket = region->fences[0];
    usk_context_unlock(ctx);
    if (*ret_is_empty)
        return UNSTICK_OK;
    r = usk_device_poll(region->dev->driver, ticket, error);
    if (r == UNSTICK_PENDING)
        return r;
    usk_context_lock(ctx);
    region->n_fences--;
    memmove(region->fences, region->fences + 1, region->n_fences * sizeof(*region->fences));
    usk_context_unlock(ctx);
    return r;
}

/* Polling is for who has the baton, as two must not use up one ticket: where somebody else has it, a later end does it.
 * A failure of the work before a ticket is the context's, which the next call to the driver meets as well. */
static void lease_retire_fences(struct unstick_region *region)
{
    struct unstick_context *ctx = region->dev->ctx;
    bool is_empty = false;
    size_t n_fences;

    usk_context_lock(ctx);
    n_fences = region->n_fences;
    usk_context_unlock(ctx);
    if (n_fences < LEASE_FENCES_MANY || !usk_baton_try(ctx))
        return;
    for (unsigned int i = 0; i < LEASE_RETIRE_MAX && !is_empty; i++) {
        if (fences_poll_first(region, &is_empty, NULL) == UNSTICK_PENDING)
            break;
    }
    usk_baton_give(ctx);
}

int unstick_lease_end(struct unstick_lease *lease, struct unstick_error *error)
{
    struct unstick_region *region;
    struct usk_device *driver;
    uint64_t *tickets = NULL;
    size_t n_tickets = 0;
    bool has_room;
    int r = UNSTICK_OK;

    if (!lease)
        return UNSTICK_OK;
    region = lease->region;
    driver = region->dev->driver;
    if (usk_context_is_forked(region->dev->ctx))
        return usk_context_fail_forked(error);

    if (lease->n_streams) {
        tickets = calloc(lease->n_streams, sizeof(*tickets));
        if (!tickets)
            return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for fences");
    }
    for (; n_tickets < lease->n_streams && r == UNSTICK_OK; n_tickets++)
        r = driver->ops->fence_stream(driver, lease->streams[n_tickets], &tickets[n_tickets], error);
    if (r < 0) {
        /* The failing one left no ticket. A lost device has nothing to wait for: the lease ends all the same. */
        n_tickets--;
        if (r != UNSTICK_DEVICE_LOST) {
            while (n_tickets)
                usk_device_drop(driver, tickets[--n_tickets]);
            free(tickets);
            return r;
        }
    }

    usk_context_lock(region->dev->ctx);
    has_room = lease_reserve_fences(region, n_tickets);
    if (has_room) {
        for (size_t i = 0; i < n_tickets; i++)
            region->fences[region->n_fences++] = tickets[i];
        region->n_leases--;
    }
    usk_context_unlock(region->dev->ctx);
    if (!has_room) {
        while (n_tickets)
            usk_device_drop(driver, tickets[--n_tickets]);
        free(tickets);
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory for fences");
    }
    lease_retire_fences(region);
    usk_context_wake(region->dev->ctx);
    unstick_region_unref(region);
    free(tickets);
    free(lease->streams);
    free(lease);
    return UNSTICK_OK;
}

int usk_region_poll_fences(struct unstick_region *region, uint64_t deadline_ns, struct unstick_error *error)
{
    for (;;) {
        bool is_empty;
        int r = fences_poll_first(region, &is_empty, error);

        if (r != UNSTICK_OK || is_empty)
            return r;
        if (usk_clock_now_ns() > deadline_ns)
            return UNSTICK_PENDING;
    }
}
