/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reclaiming for a request: the machine of reclaim.h decides what is tried, the host does it, and this passes the word
 * between them. What the machine wants to sleep becomes a wait of the request; what it wants measured is read here,
 * with the host's figures first if it has any.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/math.h"
#include "cache/request.h"

/* Everything only a Python host can do is left out by its bit; what never needs the host is always possible. */
static unsigned int recover_cannot(const struct unstick_cache *cache)
{
    return cache->options.cannot & ~(UNSTICK_ACTION_BIT(UNSTICK_ACTION_MEASURE) |
                                     UNSTICK_ACTION_BIT(UNSTICK_ACTION_SLEEP) |
                                     UNSTICK_ACTION_BIT(UNSTICK_ACTION_DONE));
}

static uint32_t recover_lease_ms(const struct unstick_request *request)
{
    uint64_t max_ms = request->demand.max_wait_ms;

    if (!usk_request_may_wait(request))
        return UNSTICK_RECLAIM_NO_WAIT;
    return max_ms && max_ms < UNSTICK_RECLAIM_NO_WAIT ? (uint32_t)max_ms : 0;
}

/* What has to be available on the device, as the machine counts it. */
static uint64_t recover_target(const struct unstick_request *request)
{
    const struct unstick_plan *plan = &request->plan;

    if (plan->verdict == UNSTICK_VERDICT_RECLAIM || (plan->verdict == UNSTICK_VERDICT_EVICT && plan->reclaim_bytes))
        return request->view.reading.free_bytes + plan->reclaim_bytes;
    return plan->missing_bytes + request->demand.working_bytes;
}

int usk_recover_begin(struct unstick_request *request)
{
    const struct unstick_cache *cache = request->cache;
    bool may_wait = usk_request_may_wait(request);
    struct unstick_reclaim_options options = {
        .size = sizeof(options),
        .target_bytes = usk_max(recover_target(request), 1),
        .strategy = usk_request_strategy(request),
        .flags = cache->options.reclaim_flags,
        .cannot = recover_cannot(cache),
        .chunk_ms = cache->options.chunk_ms,
        .patience_ms = may_wait ? 0 : UNSTICK_RECLAIM_NO_WAIT,
        .safety_ms = may_wait ? 0 : UNSTICK_RECLAIM_NO_WAIT,
        .lease_ms = recover_lease_ms(request),
        .what = request->entry->key,
    };
    int r = unstick_reclaim_new(&options, &request->machine, &request->error);

    if (r < 0)
        return r;
    request->has_reclaimed = true;
    request->has_reclaim_figures = false;
    request->reclaim_started_ns = request->now_ns;
    request->reclaim_action = (struct unstick_reclaim_action){ .size = sizeof(request->reclaim_action) };
    request->reclaim_report = (struct unstick_reclaim_report){ .size = sizeof(request->reclaim_report) };
    return UNSTICK_OK;
}

void usk_recover_report(struct unstick_request *request, const struct unstick_request_report *report)
{
    request->reclaim_report.status = report ? report->status : UNSTICK_OK;
    request->reclaim_report.n_collected = report ? report->n_collected : 0;
    request->reclaim_report.pending = report ? report->pending : 0;
}

/* What the cache knows and the machine asks for. */
static void recover_look(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_reclaim_report *report = &request->reclaim_report;

    report->n_leased = 0;
    report->is_cache_empty = true;
    usk_cache_lock(cache);
    for (size_t i = 0; i < cache->n_entries; i++) {
        report->n_leased += cache->entries[i]->n_leases != 0;
        for (size_t k = 0; k < cache->entries[i]->n_components; k++)
            report->is_cache_empty &= !usk_component_info(cache->entries[i]->components[k]).resident_bytes;
    }
    usk_cache_unlock(cache);
    if (report->n_leased && usk_request_may_wait(request))
        report->pending |= UNSTICK_CAUSE_LEASE;
}

static bool recover_wait(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    uint64_t left_ns;

    if (request->now_ns >= request->sleep_until_ns || atomic_load(&request->is_canceled))
        return false;
    left_ns = request->sleep_until_ns - request->now_ns;
    ret_action->kind = UNSTICK_DO_WAIT;
    ret_action->fd = -1;
    ret_action->timeout_ms = (int)usk_div_up(left_ns, USK_NS_PER_MS);
    return true;
}

/* The reading that the machine asked for; false: the host is asked for its figures first. */
static bool recover_measure(struct unstick_request *request, struct unstick_reading *reading,
                            struct unstick_request_action *ret_action)
{
    if ((request->cache->options.flags & UNSTICK_CACHE_HAS_FIGURES) && !request->has_reclaim_figures) {
        request->has_reclaim_figures = true;
        ret_action->kind = UNSTICK_DO_MEASURE;
        return false;
    }
    request->has_reclaim_figures = false;
    request->reclaim_report.status = usk_request_read(request, true, reading);
    return true;
}

bool usk_recover_next(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    for (;;) {
        struct unstick_reading reading = { .size = sizeof(reading) };
        int r;

        if (request->reclaim_action.kind == UNSTICK_ACTION_SLEEP && recover_wait(request, ret_action))
            return false;
        if (request->reclaim_action.kind == UNSTICK_ACTION_MEASURE && !recover_measure(request, &reading, ret_action))
            return false;
        if (atomic_load(&request->is_canceled))
            unstick_reclaim_cancel(request->machine);
        recover_look(request);
        r = unstick_reclaim_next(request->machine, reading.sources ? &reading : NULL, &request->reclaim_report,
                                 request->now_ns, &request->reclaim_action);
        if (r != UNSTICK_PENDING)
            return true;
        request->reclaim_report = (struct unstick_reclaim_report){ .size = sizeof(request->reclaim_report) };
        if (request->reclaim_action.kind == UNSTICK_ACTION_SLEEP) {
            request->sleep_until_ns = request->now_ns + request->reclaim_action.sleep_ms * USK_NS_PER_MS;
        } else if (request->reclaim_action.kind != UNSTICK_ACTION_MEASURE) {
            ret_action->kind = UNSTICK_DO_RECLAIM;
            ret_action->reclaim = request->reclaim_action;
            return false;
        }
    }
}

static void recover_keep_steps(struct unstick_request *request, const struct unstick_reclaim_result *result)
{
    struct unstick_reclaim_step *steps;

    if (!result->n_steps)
        return;
    steps = realloc(request->steps, (request->n_steps + result->n_steps) * sizeof(*steps));
    if (!steps)
        return;
    request->steps = steps;
    memcpy(&steps[request->n_steps], result->steps, result->n_steps * sizeof(*steps));
    request->n_steps += result->n_steps;
}

void usk_recover_end(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_reclaim_result result = { .size = sizeof(result) };
    uint64_t ns = request->now_ns - usk_min(request->now_ns, request->reclaim_started_ns);

    if (unstick_reclaim_result(request->machine, &result) == UNSTICK_OK) {
        recover_keep_steps(request, &result);
        usk_cache_lock(cache);
        for (size_t i = 0; i < result.n_steps; i++) {
            const struct unstick_reclaim_step *step = &result.steps[i];
            struct unstick_cache_event *event =
                usk_event_add(cache, UNSTICK_EVENT_RECLAIM, request->entry, NULL, request->now_ns);

            event->bytes = step->freed_bytes > 0 ? (uint64_t)step->freed_bytes : 0;
            event->ns = step->ms * USK_NS_PER_MS;
            event->status = step->status;
            strncpy(event->detail, step->name, sizeof(event->detail) - 1);
            cache->counts.reclaimed_bytes += event->bytes;
        }
        unstick_histogram_add(&cache->timings[UNSTICK_TIMING_RECLAIM], ns);
        usk_cache_unlock(cache);
    }
    request->result.reclaim_ns += ns;
    request->machine = unstick_reclaim_free(request->machine);
}
