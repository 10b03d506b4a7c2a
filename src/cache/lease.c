/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lease of the cache is one lease per component's region, all begun or none. The counts beside them are the cache's
 * own: they say who may be a victim, and which thread must not wait. They are raised before a region can be taken as a
 * victim and lowered only after the region's lease has left its fences behind.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "cache/cache.h"
#include "cache/request.h"
#include "region/context.h"

struct lease_part {
    struct usk_component *component;
    struct unstick_region *region; /* the lease's own look at it */
    struct unstick_lease *lease;   /* NULL: ended */
};

struct unstick_cache_lease {
    struct unstick_cache *cache;
    struct usk_entry *entry;
    uint64_t holder;
    struct unstick_cache_lease *next; /* lock */
    size_t n_parts;
    struct lease_part parts[];
};

uint64_t usk_holder_of_thread(void)
{
    /* Never the number of a caller's own making, which count from 1. */
    return (uint64_t)syscall(SYS_gettid) | UINT64_C(1) << 63;
}

int usk_cache_lease_begin(struct unstick_cache *cache, struct usk_entry *entry, struct usk_component *const *components,
                          size_t n, uint64_t holder, uint64_t now_ns, struct unstick_cache_lease **ret_lease,
                          struct unstick_error *error)
{
    struct unstick_cache_lease *lease = calloc(1, sizeof(*lease) + n * sizeof(lease->parts[0]));
    int r = UNSTICK_OK;

    if (!lease)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a lease");
    lease->cache = cache;
    lease->entry = entry;
    lease->holder = holder;
    for (; lease->n_parts < n; lease->n_parts++) {
        struct lease_part *part = &lease->parts[lease->n_parts];

        part->component = components[lease->n_parts];
        part->region = part->component->region;
        if (part->component->bytes)
            r = part->region ? unstick_lease_begin(part->region, 0, &part->lease, error) : UNSTICK_NOT_RESIDENT;
        if (r < 0)
            break;
    }
    if (r < 0) {
        /* No stream was named yet, so nothing of the driver's is called here. */
        while (lease->n_parts)
            unstick_lease_end(lease->parts[--lease->n_parts].lease, NULL);
        free(lease);
        return r;
    }
    for (size_t i = 0; i < n; i++) {
        components[i]->n_leases++;
        components[i]->last_used_ns = now_ns;
    }
    entry->n_leases++;
    entry->n_users++;
    entry->last_used_ns = now_ns;
    entry->is_idle_over = false;
    lease->next = cache->leases;
    cache->leases = lease;
    usk_event_add(cache, UNSTICK_EVENT_LEASE, entry, n == 1 ? components[0] : NULL, now_ns);
    /* Who waits and holds now does not wait any longer. */
    usk_cache_touch(cache);
    *ret_lease = lease;
    return UNSTICK_OK;
}

bool usk_cache_is_holding(struct unstick_cache *cache, uint64_t holder, const struct unstick_request *except)
{
    for (const struct unstick_cache_lease *lease = cache->leases; lease; lease = lease->next) {
        if (lease->holder == holder)
            return true;
    }
    return usk_requests_are_loading(cache, holder, except);
}

int unstick_cache_lease_use_stream(struct unstick_cache_lease *lease, void *stream, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < lease->n_parts; i++) {
        if (lease->parts[i].lease)
            r = unstick_lease_use_stream(lease->parts[i].lease, stream, error);
    }
    return r;
}

struct unstick_region *unstick_cache_lease_region(struct unstick_cache_lease *lease, const char *name)
{
    for (size_t i = 0; i < lease->n_parts; i++) {
        if (lease->parts[i].lease && !strcmp(lease->parts[i].component->name, name))
            return lease->parts[i].region;
    }
    return NULL;
}

static void lease_forget(struct unstick_cache_lease *lease)
{
    struct unstick_cache *cache = lease->cache;
    struct unstick_cache_lease **at = &cache->leases;
    uint64_t now_ns = usk_clock_now_ns();

    usk_cache_lock(cache);
    while (*at != lease)
        at = &(*at)->next;
    *at = lease->next;
    for (size_t i = 0; i < lease->n_parts; i++) {
        lease->parts[i].component->n_leases--;
        lease->parts[i].component->last_used_ns = now_ns;
    }
    lease->entry->n_leases--;
    lease->entry->n_users--;
    lease->entry->last_used_ns = now_ns;
    usk_event_add(cache, UNSTICK_EVENT_END, lease->entry, lease->n_parts == 1 ? lease->parts[0].component : NULL,
                  now_ns);
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
}

int unstick_cache_lease_end(struct unstick_cache_lease *lease, struct unstick_error *error)
{
    if (!lease)
        return UNSTICK_OK;
    if (usk_context_is_forked(lease->cache->ctx))
        return usk_context_fail_forked(error);
    for (size_t i = 0; i < lease->n_parts; i++) {
        int r = unstick_lease_end(lease->parts[i].lease, error);

        if (r < 0)
            return r;
        lease->parts[i].lease = NULL;
    }
    lease_forget(lease);
    free(lease);
    return UNSTICK_OK;
}
