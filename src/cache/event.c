/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happened, for observers and for the policy. A ring of plain structs: writing one never fails and never waits
 * for a reader, who finds out by the sequence what it missed. The costs that are measured here are the ones that the
 * next decision counts with.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/math.h"
#include "cache/cache.h"
#include "region/context.h"

/* Below this a task's speed says more about its overhead than about its tier. */
#define EVENT_RATE_MIN_BYTES (UINT64_C(1) << 20)

const char *unstick_cache_event_name(enum unstick_cache_event_kind kind)
{
    static const char *const names[] = { "hit",  "load",    "evict", "discard", "restore", "backup", "wait",
                                         "reclaim", "lease", "end",  "refused", "failed",  "drop" };

    return (unsigned int)kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "unknown";
}

struct unstick_cache_event *usk_event_add(struct unstick_cache *cache, enum unstick_cache_event_kind kind,
                                          const struct usk_entry *entry, const struct usk_component *component,
                                          uint64_t now_ns)
{
    struct unstick_cache_event *event = &cache->events[cache->n_events++ % UNSTICK_CACHE_EVENTS_MAX];

    *event = (struct unstick_cache_event){ .sequence = cache->n_events,
                                           .at_ns = now_ns ? now_ns : usk_clock_now_ns(),
                                           .kind = kind };
    snprintf(event->key, sizeof(event->key), "%s", entry ? entry->key : "");
    snprintf(event->component, sizeof(event->component), "%s", component ? component->name : "");
    return event;
}

void usk_event_fail(struct unstick_cache *cache, const struct usk_entry *entry, const struct usk_component *component,
                    int status, uint64_t now_ns)
{
    usk_event_add(cache, UNSTICK_EVENT_FAILED, entry, component, now_ns)->status = status;
    cache->counts.n_failures++;
}

/* A moving mean: one slow transfer does not turn the policy around. */
static void event_learn_rate(struct unstick_cache *cache, enum unstick_tier tier, uint64_t bytes, uint64_t ns)
{
    uint64_t *rate = &cache->rates[tier], seen;

    if (bytes < EVENT_RATE_MIN_BYTES || !ns)
        return;
    seen = usk_max((uint64_t)((double)bytes / (double)ns * 1e9), 1);
    *rate = *rate ? *rate - *rate / 4 + seen / 4 : seen;
}

/* Where the contents of a component are. */
static enum unstick_tier event_tier(const struct usk_component *component)
{
    struct unstick_region_info info = usk_component_info(component);

    if (info.pageable_bytes)
        return UNSTICK_TIER_PAGEABLE;
    return info.pinned_bytes ? UNSTICK_TIER_PINNED : UNSTICK_TIER_FILE;
}

void usk_event_task(struct unstick_cache *cache, enum unstick_cache_event_kind kind, struct usk_entry *entry,
                    struct usk_component *component, const struct unstick_task_result *result, uint64_t now_ns)
{
    struct unstick_cache_event *event = usk_event_add(cache, kind, entry, component, now_ns);
    uint64_t ns = result->ended_ns > result->started_ns ? result->ended_ns - result->started_ns : 0;

    event->bytes = result->done_bytes;
    event->copied_bytes = result->copied_bytes;
    event->ns = ns;
    cache->counts.n_stray_writes += result->stray_writes;
    switch (kind) {
    case UNSTICK_EVENT_LOAD:
        component->load_ns = ns;
        cache->counts.up_bytes += result->done_bytes;
        break;
    case UNSTICK_EVENT_RESTORE:
        component->restore_ns = ns;
        cache->counts.up_bytes += result->done_bytes;
        event_learn_rate(cache, event_tier(component), result->done_bytes, ns);
        break;
    case UNSTICK_EVENT_EVICT:
        component->evict_ns = ns;
        cache->counts.down_bytes += result->copied_bytes;
        if (result->copied_bytes == result->done_bytes)
            event_learn_rate(cache, UNSTICK_TIER_AUTO, result->copied_bytes, ns);
        break;
    case UNSTICK_EVENT_BACKUP:
        cache->counts.down_bytes += result->copied_bytes;
        break;
    default:
        break;
    }
}

int unstick_cache_events(struct unstick_cache *cache, uint64_t since, struct unstick_cache_event *events, size_t max,
                         size_t *ret_n)
{
    uint64_t first;
    size_t n = 0;

    if (usk_context_is_forked(cache->ctx))
        return UNSTICK_FORKED;
    usk_cache_lock(cache);
    first = cache->n_events - usk_min(cache->n_events, UNSTICK_CACHE_EVENTS_MAX);
    for (uint64_t i = usk_max(first, since); i < cache->n_events && n < max; i++)
        events[n++] = cache->events[i % UNSTICK_CACHE_EVENTS_MAX];
    usk_cache_unlock(cache);
    *ret_n = n;
    return UNSTICK_OK;
}

int unstick_cache_counts(struct unstick_cache *cache, struct unstick_metrics_counts *counts,
                         struct unstick_histogram *timings)
{
    if (usk_context_is_forked(cache->ctx))
        return UNSTICK_FORKED;
    usk_cache_lock(cache);
    if (counts)
        *counts = cache->counts;
    if (timings)
        memcpy(timings, cache->timings, sizeof(cache->timings));
    usk_cache_unlock(cache);
    return UNSTICK_OK;
}
