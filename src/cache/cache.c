/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache itself: its making and ending, and what it does without being asked. Entries leave when they have been idle
 * for long enough, and what was handed over without a backup gets one, behind its use. These chores mark what they work
 * on just as requests do; whoever wants it back cancels them.
 */
#include "cache/cache.h"

#include <poll.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/math.h"
#include "cache/request.h"
#include "region/context.h"
#include "region/device.h"

/* Chores begun by one call: a call is bounded. */
#define CACHE_CHORES_PER_STEP 8

struct chore {
    struct usk_entry *entry;
    struct usk_component *component;
};

void usk_cache_touch(struct unstick_cache *cache)
{
    cache->generation++;
    usk_context_wake(cache->ctx);
}

void usk_cache_begin_end(struct unstick_cache *cache)
{
    cache->n_ending++;
}

void usk_cache_end(struct unstick_cache *cache)
{
    usk_cache_lock(cache);
    cache->n_ending--;
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
}

void usk_cache_publish_claims(struct unstick_cache *cache)
{
    uint64_t claimed = 0;

    for (size_t i = 0; i < cache->n_entries; i++) {
        const struct usk_entry *entry = cache->entries[i];

        claimed += entry->loader ? entry->claim_bytes : 0;
        for (size_t k = 0; k < entry->n_components; k++) {
            const struct usk_component *component = entry->components[k];
            uint64_t resident = usk_component_info(component).resident_bytes;
            uint64_t future = usk_component_future(component, resident);

            if (component->mover && !component->mover->has_sources)
                claimed += future - usk_min(future, resident);
        }
    }
    atomic_store(&cache->dev->claimed_bytes, claimed);
}

/* --- chores --- */

/* [lock] */
static void chore_reap(struct unstick_cache *cache, struct usk_entry *entry, struct usk_component *component,
                       uint64_t now_ns)
{
    struct unstick_task_result result = { .size = sizeof(result) };
    int status = unstick_task_result(component->task, &result);
    enum usk_chore chore = component->chore;

    if (status == UNSTICK_PENDING)
        return;
    component->task = unstick_task_free(component->task);
    component->chore = USK_CHORE_NONE;
    if (status == UNSTICK_OK)
        usk_event_task(cache, chore == USK_CHORE_EVICT ? UNSTICK_EVENT_EVICT : UNSTICK_EVENT_BACKUP, entry, component,
                       &result, now_ns);
    else if (status != UNSTICK_CANCELED)
        usk_event_fail(cache, entry, component, status, now_ns);
    if (chore == USK_CHORE_EVICT && status == UNSTICK_OK) {
        entry->evict_ns = component->evict_ns;
        component->lru_bytes = 0;
        cache->counts.n_evictions++;
    }
    usk_cache_touch(cache);
}

/* When it has to leave; UINT64_MAX: never, as it is. [lock] */
static uint64_t entry_idle_end_ns(const struct usk_entry *entry)
{
    uint64_t idle_ns, end_ns;

    if (entry->idle_ms == UNSTICK_IDLE_NEVER || entry->n_users || entry->loader || entry->is_pinned ||
        entry->is_idle_over || !entry->n_components)
        return UINT64_MAX;
    /* First the backup of what was used: it would have to stay now, and it is told only once. */
    for (size_t i = 0; i < entry->n_components; i++) {
        if (entry->components[i]->chore == USK_CHORE_BACKUP)
            return UINT64_MAX;
    }
    if (!usk_mul(entry->idle_ms, USK_NS_PER_MS, &idle_ns) || !usk_add(entry->last_used_ns, idle_ns, &end_ns))
        return UINT64_MAX;
    return end_ns;
}

static bool component_may_leave(const struct usk_component *component)
{
    struct unstick_region_info info = usk_component_info(component);

    return info.resident_bytes && !info.n_leases && !component->n_leases && !component->mover && !component->chore;
}

static bool component_wants_backup(const struct usk_component *component)
{
    struct unstick_region_info info = usk_component_info(component);

    return component->has_no_backup && info.resident_bytes && !component->mover && !component->chore &&
           !component->adder;
}

/* [lock] Picks chores that are due, and marks them. */
static size_t cache_pick_chores(struct unstick_cache *cache, uint64_t now_ns, struct chore *chores)
{
    bool has_backup = false;
    size_t n = 0;

    for (size_t i = 0; i < cache->n_entries; i++) {
        for (size_t k = 0; k < cache->entries[i]->n_components; k++)
            has_backup |= cache->entries[i]->components[k]->chore == USK_CHORE_BACKUP;
    }
    for (size_t i = 0; i < cache->n_entries; i++) {
        struct usk_entry *entry = cache->entries[i];
        bool is_idle = entry_idle_end_ns(entry) <= now_ns, is_done = true;

        for (size_t k = 0; k < entry->n_components; k++) {
            struct usk_component *component = entry->components[k];
            enum usk_chore chore = USK_CHORE_NONE;

            if (is_idle && component_may_leave(component))
                chore = USK_CHORE_EVICT;
            else if (!has_backup && component_wants_backup(component))
                chore = USK_CHORE_BACKUP;
            if (!chore)
                continue;
            if (n == CACHE_CHORES_PER_STEP) {
                is_done = false;
                break;
            }
            has_backup |= chore == USK_CHORE_BACKUP;
            component->has_no_backup &= chore != USK_CHORE_BACKUP;
            component->chore = chore;
            chores[n++] = (struct chore){ entry, component };
        }
        entry->is_idle_over |= is_idle && is_done;
    }
    return n;
}

static void chore_submit(struct unstick_cache *cache, const struct chore *chore, uint64_t now_ns)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = cache->options.tier };
    struct usk_component *component = chore->component;
    struct unstick_task *task = NULL;
    int r;

    if (component->chore == USK_CHORE_EVICT)
        r = unstick_region_evict(component->region, &options, &task, NULL);
    else
        r = unstick_region_backup(component->region, &options, &task, NULL);
    usk_cache_lock(cache);
    component->task = task;
    if (r < 0) {
        component->chore = USK_CHORE_NONE;
        usk_event_fail(cache, chore->entry, component, r, now_ns);
    }
    usk_cache_unlock(cache);
}

void usk_cache_tend(struct unstick_cache *cache, uint64_t now_ns)
{
    struct chore chores[CACHE_CHORES_PER_STEP];
    size_t n;

    usk_cache_lock(cache);
    for (size_t i = 0; i < cache->n_entries; i++) {
        for (size_t k = 0; k < cache->entries[i]->n_components; k++) {
            struct usk_component *component = cache->entries[i]->components[k];

            if (component->task)
                chore_reap(cache, cache->entries[i], component, now_ns);
        }
    }
    n = cache_pick_chores(cache, now_ns, chores);
    usk_cache_unlock(cache);
    for (size_t i = 0; i < n; i++)
        chore_submit(cache, &chores[i], now_ns);
    usk_requests_tend(cache, now_ns);
}

/* [lock] Chores and orphans. */
static bool cache_is_busy(const struct unstick_cache *cache)
{
    for (const struct unstick_request *request = cache->requests; request; request = request->next) {
        if (request->is_orphan)
            return true;
    }
    for (size_t i = 0; i < cache->n_entries; i++) {
        for (size_t k = 0; k < cache->entries[i]->n_components; k++) {
            if (cache->entries[i]->components[k]->chore)
                return true;
        }
    }
    return false;
}

int unstick_cache_step(struct unstick_cache *cache, uint64_t now_ns)
{
    bool is_busy;

    if (usk_context_is_forked(cache->ctx))
        return UNSTICK_FORKED;
    now_ns = now_ns ? now_ns : usk_clock_now_ns();
    unstick_context_step(cache->ctx, now_ns);
    usk_cache_tend(cache, now_ns);
    usk_cache_lock(cache);
    is_busy = cache_is_busy(cache);
    usk_cache_unlock(cache);
    return is_busy ? UNSTICK_PENDING : UNSTICK_OK;
}

int unstick_cache_timeout_ms(struct unstick_cache *cache, uint64_t now_ns)
{
    uint64_t end_ns = UINT64_MAX, left_ms;
    bool is_busy;
    int context_ms;

    if (usk_context_is_forked(cache->ctx))
        return -1;
    now_ns = now_ns ? now_ns : usk_clock_now_ns();
    usk_cache_lock(cache);
    is_busy = cache_is_busy(cache);
    for (size_t i = 0; i < cache->n_entries; i++)
        end_ns = usk_min(end_ns, entry_idle_end_ns(cache->entries[i]));
    usk_cache_unlock(cache);
    context_ms = is_busy ? unstick_context_timeout_ms(cache->ctx) : -1;
    if (end_ns == UINT64_MAX)
        return context_ms;
    left_ms = usk_min(usk_div_up(end_ns - usk_min(end_ns, now_ns), USK_NS_PER_MS), INT32_MAX);
    return context_ms >= 0 && (uint64_t)context_ms < left_ms ? context_ms : (int)left_ms;
}

/* --- opening and closing --- */

static int cache_check(const struct unstick_device *dev, const struct unstick_cache_options *options,
                       struct unstick_error *error)
{
    if (!dev)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_open", "a cache needs a device");
    if (usk_context_is_forked(dev->ctx))
        return usk_context_fail_forked(error);
    if (options && (options->size < sizeof(*options) || (unsigned int)options->tier > UNSTICK_TIER_FILE ||
                    (unsigned int)options->policy > UNSTICK_POLICY_CLEAR_EVERYTHING ||
                    (unsigned int)options->strategy > UNSTICK_RECLAIM_SEED))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_open",
                             "the options of a cache are malformed; zero them and set size to sizeof");
    return UNSTICK_OK;
}

int unstick_cache_open(struct unstick_device *dev, const struct unstick_cache_options *options,
                       struct unstick_cache **ret_cache, struct unstick_error *error)
{
    struct unstick_cache *cache;
    int r = cache_check(dev, options, error);

    if (r < 0)
        return r;
    cache = calloc(1, sizeof(*cache));
    if (cache)
        cache->events = calloc(UNSTICK_CACHE_EVENTS_MAX, sizeof(*cache->events));
    if (!cache || !cache->events) {
        free(cache);
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a cache");
    }
    cache->dev = dev;
    cache->ctx = dev->ctx;
    if (options)
        cache->options = *options;
    cache->granularity_bytes = dev->driver->caps.granularity_bytes;
    cache->granule_bytes = dev->granule_bytes;
    cache->can_register_file = dev->driver->caps.can_register_file;
    pthread_mutex_init(&cache->lock, NULL);
    /* Without it readings know no other processes, and say so. */
    if (unstick_monitor_new(&cache->monitor, NULL) < 0)
        cache->monitor = NULL;
    *ret_cache = cache;
    return UNSTICK_OK;
}

/* Chores are canceled, orphans are on their way; both end by themselves. */
static void cache_settle(struct unstick_cache *cache)
{
    for (;;) {
        struct pollfd fd = { .fd = unstick_context_fd(cache->ctx), .events = POLLIN };
        bool is_busy;

        usk_cache_lock(cache);
        is_busy = cache_is_busy(cache);
        for (size_t i = 0; i < cache->n_entries; i++) {
            cache->entries[i]->idle_ms = UNSTICK_IDLE_NEVER;
            for (size_t k = 0; k < cache->entries[i]->n_components; k++) {
                cache->entries[i]->components[k]->has_no_backup = false;
                if (cache->entries[i]->components[k]->task)
                    unstick_task_cancel(cache->entries[i]->components[k]->task);
            }
        }
        usk_cache_unlock(cache);
        if (!is_busy)
            return;
        if (unstick_cache_step(cache, 0) == UNSTICK_PENDING)
            poll(&fd, 1, (int)usk_min((uint64_t)(unsigned int)unstick_context_timeout_ms(cache->ctx), 10));
    }
}

int unstick_cache_close(struct unstick_cache *cache, struct unstick_error *error)
{
    bool is_used;

    if (!cache)
        return UNSTICK_OK;
    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    usk_cache_lock(cache);
    is_used = cache->leases;
    for (const struct unstick_request *request = cache->requests; request; request = request->next)
        is_used |= !request->is_orphan;
    usk_cache_unlock(cache);
    if (is_used)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_cache_close",
                             "a request or a lease of the cache is left; free the one, end the other");
    cache_settle(cache);
    for (size_t i = 0; i < cache->n_entries; i++)
        usk_entry_free(cache->entries[i]);
    free(cache->entries);
    free(cache->events);
    unstick_monitor_free(cache->monitor);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
    return UNSTICK_OK;
}
