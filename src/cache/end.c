/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a request ends: with a lease, or with everything that it took given back. Marks go and the lease comes under one
 * hold of the lock. On the way out nothing new is begun; what is under way comes to an end first, then what had come is
 * evicted again, and only then the request is over. No contents are given up on this way but those that came with it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/request.h"

/* How often a plan may turn out to be out of date (another process was faster) before the request fails. */
#define END_MAX_SHORTAGES 3

static uint64_t span_ns(const struct usk_span *span)
{
    return span->ended_ns - span->started_ns;
}

/* [lock] */
static void end_count(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct usk_entry *entry = request->entry;
    struct unstick_request_result *result = &request->result;

    entry->has_failed = false;
    result->load_ns += span_ns(&request->load);
    result->restore_ns = span_ns(&request->restore);
    result->evict_ns = span_ns(&request->evict);
    if (request->has_host_loaded || request->load.ended_ns)
        result->outcome = UNSTICK_OUTCOME_LOAD;
    else if (request->restore.ended_ns)
        result->outcome = UNSTICK_OUTCOME_RESTORE;
    if (result->outcome == UNSTICK_OUTCOME_LOAD) {
        entry->n_loads++;
        entry->load_ns = result->load_ns;
        cache->counts.n_loads++;
        unstick_histogram_add(&cache->timings[UNSTICK_TIMING_LOAD], result->load_ns);
    } else if (result->outcome == UNSTICK_OUTCOME_RESTORE) {
        entry->n_restores++;
        entry->restore_ns = result->restore_ns;
        cache->counts.n_restores++;
        unstick_histogram_add(&cache->timings[UNSTICK_TIMING_RESTORE], result->restore_ns);
    } else {
        result->verdict = UNSTICK_VERDICT_HIT;
        entry->n_hits++;
        cache->counts.n_hits++;
        usk_event_add(cache, UNSTICK_EVENT_HIT, entry, NULL, request->now_ns)->ns =
            request->now_ns - request->started_ns;
    }
    for (size_t i = 0; i < result->n_evictions; i++) {
        struct usk_entry *evicted = usk_entry_find(cache, request->evictions[i].key);

        cache->counts.n_evictions++;
        unstick_histogram_add(&cache->timings[UNSTICK_TIMING_EVICT], request->evictions[i].ns);
        if (evicted) {
            evicted->n_evictions++;
            evicted->evict_ns = request->evictions[i].ns;
        }
    }
}

/* [lock] */
static int end_begin_lease(struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;
    struct usk_component **wanted = calloc(usk_max(entry->n_components, 1), sizeof(struct usk_component *));
    size_t n = 0;
    int r;

    if (!wanted)
        return usk_error_set(&request->error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a lease");
    for (size_t i = 0; i < entry->n_components; i++) {
        if (usk_request_wants(request, entry->components[i]->name))
            wanted[n++] = entry->components[i];
    }
    r = usk_cache_lease_begin(request->cache, entry, wanted, n, request->holder, request->now_ns, &request->lease,
                              &request->error);
    free(wanted);
    return r;
}

/*
 * The marks go and the lease comes under one hold of the lock, else another request could take away in between what was
 * just brought.
 */
bool usk_flow_lease(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    int r = UNSTICK_OK;

    if (usk_flow_is_canceled(request))
        return true;
    usk_cache_lock(cache);
    usk_moves_unmark_all(request);
    if (!usk_request_is_there(request))
        r = UNSTICK_NOT_RESIDENT;
    else if (request->kind == USK_REQUEST_USE)
        r = end_begin_lease(request);
    if (r == UNSTICK_OK) {
        request->entry->last_used_ns = request->now_ns;
        request->entry->is_idle_over = false;
        end_count(request);
    }
    usk_cache_unlock(cache);
    if (r == UNSTICK_OK) {
        usk_moves_finish(request, false);
        usk_flow_stop_waiting(request);
        request->phase = USK_REQUEST_OVER;
    } else if ((r == UNSTICK_NOT_RESIDENT || r == UNSTICK_BUSY) && !request->has_host_loaded &&
               request->n_shortages++ < END_MAX_SHORTAGES) {
        /* Somebody moved a region past the cache, or moves it now: that ends by itself. */
        usk_moves_finish(request, false);
        request->phase = USK_REQUEST_LOOK;
        usk_cache_lock(cache);
        if (r == UNSTICK_BUSY)
            usk_flow_begin_waiting(request, UNSTICK_WAIT_RECLAIM);
        usk_cache_unlock(cache);
    } else {
        usk_flow_fail(request, usk_error_set(&request->error, r, 0, "unstick_cache_request",
                                         "%s was brought, and is not there any more: %s", request->entry->key,
                                         unstick_status_text(r)));
    }
    return true;
}

/* Another process may have been faster, or a lease past the cache stopped an eviction: then the plan is out of date. */
static bool end_may_retry(struct unstick_request *request)
{
    bool is_stale_plan = request->failure == UNSTICK_OUT_OF_DEVICE_MEMORY || request->failure == UNSTICK_CANCELED;

    if (!is_stale_plan || atomic_load(&request->is_canceled) || request->has_host_loaded || !request->n_submitted ||
        request->plan.verdict == UNSTICK_VERDICT_FORCED || request->kind == USK_REQUEST_EVICT)
        return false;
    return request->n_shortages++ < END_MAX_SHORTAGES;
}

bool usk_flow_stop(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    usk_moves_cancel(request);
    if (!usk_moves_poll(request))
        return usk_flow_wait_for_tasks(request, ret_action);
    if (end_may_retry(request)) {
        usk_moves_finish(request, true);
        request->failure = 0;
        request->phase = USK_REQUEST_LOOK;
        return true;
    }
    request->phase = USK_REQUEST_UNDO;
    if (request->failure != UNSTICK_DEVICE_LOST)
        usk_moves_undo(request);
    return true;
}

bool usk_flow_undo(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_cache_event *event;

    if (!usk_moves_poll(request))
        return usk_flow_wait_for_tasks(request, ret_action);
    usk_moves_finish(request, true);
    usk_flow_stop_waiting(request);
    usk_failure_explain(request);
    usk_cache_lock(cache);
    if (request->kind != USK_REQUEST_EVICT)
        request->entry->has_failed = true;
    if (request->plan.verdict == UNSTICK_VERDICT_REFUSED && request->plan.size) {
        event = usk_event_add(cache, UNSTICK_EVENT_REFUSED, request->entry, NULL, request->now_ns);
        event->status = request->failure;
        event->bytes = request->plan.short_bytes;
        cache->counts.n_failures++;
    } else {
        usk_event_fail(cache, request->entry, NULL, request->failure, request->now_ns);
    }
    usk_cache_unlock(cache);
    request->phase = USK_REQUEST_OVER;
    return true;
}
