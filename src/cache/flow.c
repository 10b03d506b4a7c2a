/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flow of a request, phase by phase. Looking, deciding and marking happen under one hold of the lock, so that what
 * was decided is still true when it is marked; everything that takes time happens between two holds, on components that
 * carry the request's mark.
 *
 * Who waits for memory has no marks and loads nothing: whoever waits for a loader therefore waits for something that
 * waits for nobody. A holder of a lease may wait for a loader and for tasks, which end by themselves; never for
 * memory, which others may hold as long as they like.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/math.h"
#include "cache/request.h"
#include "region/context.h"

/* How often the device is asked again while others may free memory there. */
#define FLOW_LOOK_NS (50 * USK_NS_PER_MS)
/* How often who does not wait looks again while something leaves. */
#define FLOW_MAX_PATIENCE 100

enum look {
    LOOK_HIT,
    LOOK_GO,      /* decide */
    LOOK_BLOCKED, /* something of it is on its way */
    LOOK_FAILED,
};

bool usk_request_wants(const struct unstick_request *request, const char *name)
{
    for (size_t i = 0; i < request->demand.n_components; i++) {
        if (!strcmp(request->demand.components[i], name))
            return true;
    }
    return !request->demand.n_components;
}

/* For memory. */
bool usk_request_may_wait(const struct unstick_request *request)
{
    bool is_holding;

    if (request->demand.max_wait_ms == UNSTICK_CACHE_NO_WAIT || request->kind == USK_REQUEST_PREFETCH)
        return false;
    usk_cache_lock(request->cache);
    is_holding = usk_cache_is_holding(request->cache, request->holder, request);
    usk_cache_unlock(request->cache);
    return !is_holding;
}

static bool request_is_overdue(const struct unstick_request *request)
{
    uint64_t max_ms = request->demand.max_wait_ms;

    if (max_ms == UNSTICK_CACHE_NO_WAIT || request->kind == USK_REQUEST_PREFETCH)
        return true;
    return max_ms && request->wait_since_ns &&
           request->now_ns - request->wait_since_ns >= max_ms * USK_NS_PER_MS;
}

void usk_flow_fail(struct unstick_request *request, int status)
{
    if (!request->failure)
        request->failure = status;
    request->phase = USK_REQUEST_STOP;
}

bool usk_flow_is_canceled(struct unstick_request *request)
{
    if (!atomic_load(&request->is_canceled) || request->failure)
        return false;
    usk_flow_fail(request, usk_error_set(&request->error, UNSTICK_CANCELED, 0, "unstick_request_cancel",
                                     "the request for %s was canceled", request->entry->key));
    return true;
}

/* --- waiting --- */

void usk_flow_stop_waiting(struct unstick_request *request)
{
    if (request->wait_since_ns)
        request->result.wait_ns += request->now_ns - usk_min(request->now_ns, request->wait_chunk_ns);
    request->wait_since_ns = 0;
    usk_cache_lock(request->cache);
    if (request->is_waiting) {
        request->is_waiting = false;
        usk_cache_touch(request->cache);
    }
    usk_cache_unlock(request->cache);
}

void usk_flow_begin_waiting(struct unstick_request *request, enum unstick_wait wait)
{
    bool is_new = !request->wait_since_ns || request->wait != wait;

    if (is_new)
        strncpy(usk_event_add(request->cache, UNSTICK_EVENT_WAIT, request->entry, NULL, request->now_ns)->detail,
                unstick_wait_name(wait), sizeof(((struct unstick_cache_event *)NULL)->detail) - 1);
    if (!request->wait_since_ns)
        request->wait_since_ns = request->wait_chunk_ns = request->now_ns;
    request->wait = wait;
    request->has_waited = true;
    request->is_waiting = wait == UNSTICK_WAIT_LEASES || wait == UNSTICK_WAIT_RECLAIM || wait == UNSTICK_WAIT_TURN;
    request->seen_generation = request->cache->generation;
    request->look_at_ns = request->now_ns + FLOW_LOOK_NS;
    request->phase = USK_REQUEST_WAIT;
}

static bool flow_wait(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    uint64_t max_ms = request->demand.max_wait_ms, end_ns = request->look_at_ns, generation;

    if (usk_flow_is_canceled(request))
        return true;
    usk_cache_lock(request->cache);
    generation = request->cache->generation;
    usk_cache_unlock(request->cache);
    if (generation != request->seen_generation || request->now_ns >= request->look_at_ns ||
        (request->wait != UNSTICK_WAIT_RECLAIM && request_is_overdue(request))) {
        request->phase = USK_REQUEST_LOOK;
        return true;
    }
    if (max_ms && max_ms != UNSTICK_CACHE_NO_WAIT && request->wait != UNSTICK_WAIT_RECLAIM)
        end_ns = usk_min(end_ns, request->wait_since_ns + max_ms * USK_NS_PER_MS);
    ret_action->kind = UNSTICK_DO_WAIT;
    ret_action->fd = unstick_context_fd(request->cache->ctx);
    ret_action->timeout_ms = (int)usk_div_up(end_ns - usk_min(end_ns, request->now_ns), USK_NS_PER_MS);
    return false;
}

/* Tasks are under way: the context says when to come again. */
bool usk_flow_wait_for_tasks(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    ret_action->kind = UNSTICK_DO_WAIT;
    ret_action->fd = unstick_context_fd(request->cache->ctx);
    ret_action->timeout_ms = unstick_context_timeout_ms(request->cache->ctx);
    if (ret_action->timeout_ms < 0 || ret_action->timeout_ms > 50)
        ret_action->timeout_ms = 50;
    return false;
}

/* --- looking --- */

/* [lock] Something that is wanted is being moved by somebody else. */
static bool look_is_moving(struct unstick_request *request)
{
    bool is_stale = strcmp(request->entry->fingerprint, request->fingerprint), is_moving = false;

    for (size_t i = 0; i < request->entry->n_components; i++) {
        struct usk_component *component = request->entry->components[i];

        if (!is_stale && !usk_request_wants(request, component->name))
            continue;
        /* A backup is in nobody's way, unless what it copies is given up. */
        if (component->chore == USK_CHORE_BACKUP && !is_stale)
            continue;
        if (component->task && request->kind != USK_REQUEST_EVICT)
            unstick_task_cancel(component->task);
        is_moving |= (component->mover && component->mover != request) || component->chore;
    }
    return is_moving;
}

/* [lock] */
bool usk_request_is_there(const struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;
    size_t n_wanted = 0;

    if (strcmp(entry->fingerprint, request->fingerprint) != 0)
        return false;
    for (size_t i = 0; i < entry->n_components; i++) {
        if (!usk_request_wants(request, entry->components[i]->name))
            continue;
        /* What another request's host has loaded so far goes again if the rest of it fails. */
        if (!usk_component_is_there(entry->components[i]) ||
            (entry->components[i]->adder && entry->components[i]->adder != request))
            return false;
        n_wanted++;
    }
    for (size_t i = 0; !request->demand.n_components && i < request->n_offered; i++) {
        if (request->offered[i] && !usk_entry_component(entry, request->offered[i]->name))
            return false;
    }
    return n_wanted && n_wanted >= request->demand.n_components;
}

/* [lock] */
static enum look flow_block(struct unstick_request *request, enum unstick_wait wait)
{
    int status = request->has_waited && request->demand.max_wait_ms != UNSTICK_CACHE_NO_WAIT ? UNSTICK_TIMED_OUT
                                                                                           : UNSTICK_BUSY;

    if (!request_is_overdue(request)) {
        usk_flow_begin_waiting(request, wait);
        return LOOK_BLOCKED;
    }
    if (request->kind == USK_REQUEST_PREFETCH) {
        request->result.verdict = UNSTICK_VERDICT_REFUSED;
        request->phase = USK_REQUEST_OVER;
        return LOOK_FAILED;
    }
    usk_flow_fail(request, usk_error_set(&request->error, status, 0, "unstick_cache_request",
                                     "%s is being loaded, evicted or used by another request; wait for that",
                                     request->entry->key));
    return LOOK_FAILED;
}

/* [lock] */
static enum look flow_look_locked(struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;

    if (request->kind != USK_REQUEST_EVICT && usk_request_is_there(request)) {
        usk_request_note_hit(request);
        return LOOK_HIT;
    }
    if (entry->loader && entry->loader != request)
        return flow_block(request, UNSTICK_WAIT_LOADING);
    /* That ends by itself, and soon: even who never waits for memory waits for it. */
    if (look_is_moving(request) && request->kind != USK_REQUEST_PREFETCH &&
        request->n_patience++ < FLOW_MAX_PATIENCE) {
        usk_flow_begin_waiting(request, UNSTICK_WAIT_RECLAIM);
        return LOOK_BLOCKED;
    }
    if (look_is_moving(request))
        return flow_block(request, UNSTICK_WAIT_RECLAIM);
    return LOOK_GO;
}

static bool flow_look(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    enum look look;

    if (usk_flow_is_canceled(request))
        return true;
    usk_cache_lock(cache);
    look = flow_look_locked(request);
    usk_cache_unlock(cache);
    if (look == LOOK_HIT)
        request->phase = USK_REQUEST_LEASE;
    else if (look == LOOK_GO && request->kind != USK_REQUEST_EVICT &&
             (cache->options.flags & UNSTICK_CACHE_HAS_FIGURES))
        request->phase = USK_REQUEST_MEASURE;
    else if (look == LOOK_GO)
        request->phase = USK_REQUEST_DECIDE;
    return true;
}

/* --- deciding --- */

static enum usk_request_phase plan_reclaim_first(struct unstick_request *request)
{
    const struct unstick_plan *plan = &request->plan;
    bool is_seed = usk_request_strategy(request) == UNSTICK_RECLAIM_SEED;

    if (request->has_reclaimed || (plan->verdict == UNSTICK_VERDICT_REFUSED && !plan->short_bytes))
        return USK_REQUEST_OVER;
    if (plan->verdict == UNSTICK_VERDICT_REFUSED || plan->verdict == UNSTICK_VERDICT_RECLAIM)
        return USK_REQUEST_RECLAIM;
    if (plan->verdict == UNSTICK_VERDICT_EVICT && is_seed) {
        /* The seed clears first and cleans up behind it. */
        request->is_reclaiming_late = true;
        return USK_REQUEST_OVER;
    }
    if (plan->verdict == UNSTICK_VERDICT_FORCED && is_seed)
        return USK_REQUEST_RECLAIM;
    return plan->actions && !is_seed ? USK_REQUEST_RECLAIM : USK_REQUEST_OVER;
}

/* [lock] */
static void flow_move(struct unstick_request *request)
{
    int r;

    usk_request_note_plan(request);
    r = usk_moves_mark(request);
    request->phase = USK_REQUEST_LEAVE;
    if (r < 0)
        usk_flow_fail(request, r);
}

/* [lock] Others are moving something: figures that are taken meanwhile can be off by what is between two places. */
static bool flow_is_unsettled(const struct unstick_request *request, bool has_to_leave)
{
    const struct unstick_cache *cache = request->cache;

    if (cache->n_ending)
        return true;
    for (size_t i = 0; i < cache->n_entries; i++) {
        const struct usk_entry *entry = cache->entries[i];

        if (!has_to_leave && entry->loader && entry->loader != request)
            return true;
        for (size_t k = 0; k < entry->n_components; k++) {
            const struct usk_component *component = entry->components[k];

            if (component->chore == USK_CHORE_EVICT ||
                (component->mover && (!has_to_leave || component->future_bytes < component->bytes)))
                return true;
        }
    }
    return false;
}

/*
 * [lock] A refusal while something is on its way out would be one over figures in motion. What leaves ends by itself:
 * even who never waits for memory waits for that, though not for ever: others may go on and on.
 */
static bool flow_is_premature(struct unstick_request *request)
{
    bool may_wait = !request_is_overdue(request) &&
                    !usk_cache_is_holding(request->cache, request->holder, request);

    if (request->kind == USK_REQUEST_PREFETCH)
        return false;
    if (may_wait)
        return flow_is_unsettled(request, false);
    return flow_is_unsettled(request, true) && request->n_patience++ < FLOW_MAX_PATIENCE;
}

/* [lock] What becomes of the plan. */
static void flow_carry_out(struct unstick_request *request)
{
    const struct unstick_plan *plan = &request->plan;

    if (request->kind == USK_REQUEST_PREFETCH && plan->verdict != UNSTICK_VERDICT_HIT &&
        (plan->verdict != UNSTICK_VERDICT_FITS || plan->stale_entry != UNSTICK_NO_ENTRY)) {
        request->result.verdict = UNSTICK_VERDICT_REFUSED;
        request->phase = USK_REQUEST_OVER;
        return;
    }
    if (plan->verdict == UNSTICK_VERDICT_WAIT) {
        usk_flow_begin_waiting(request, plan->wait);
        return;
    }
    if (plan->verdict == UNSTICK_VERDICT_REFUSED && flow_is_premature(request)) {
        usk_flow_begin_waiting(request, UNSTICK_WAIT_RECLAIM);
        return;
    }
    if (plan_reclaim_first(request) == USK_REQUEST_RECLAIM)
        request->phase = USK_REQUEST_RECLAIM;
    else if (plan->verdict == UNSTICK_VERDICT_REFUSED)
        usk_flow_fail(request, UNSTICK_PENDING);
    else
        flow_move(request);
}

/* What a machine could not give back now, a plan must not count on again. */
static void flow_discount(const struct unstick_request *request, struct unstick_reading *reading)
{
    if (request->has_reclaimed && (reading->sources & UNSTICK_SOURCE_TORCH))
        reading->torch_reserved_bytes = usk_min(reading->torch_reserved_bytes, reading->torch_active_bytes +
                                                                                   reading->torch_inactive_split_bytes);
}

/* [lock] */
static void flow_decide_locked(struct unstick_request *request, const struct unstick_reading *reading)
{
    uint64_t started_ns = usk_clock_now_ns();
    int r = usk_request_decide(request, reading);

    unstick_histogram_add(&request->cache->timings[UNSTICK_TIMING_DECIDE], usk_clock_now_ns() - started_ns);
    if (r < 0) {
        usk_flow_fail(request, r);
        return;
    }
    request->result.verdict = request->plan.verdict;
    flow_carry_out(request);
}

/* [lock] An eviction on request waits for leases; it needs no plan. */
static void flow_decide_eviction(struct unstick_request *request)
{
    bool is_leased = request->entry->n_leases;
    int r;

    if (is_leased && !usk_cache_is_holding(request->cache, request->holder, request)) {
        flow_block(request, UNSTICK_WAIT_LEASES);
        return;
    }
    if (is_leased) {
        usk_flow_fail(request, usk_error_set(&request->error, UNSTICK_BUSY, 0, "unstick_cache_evict",
                                         "%s is leased, and who holds a lease does not wait; end it first",
                                         request->entry->key));
        return;
    }
    r = usk_moves_mark_eviction(request);
    request->result.verdict = UNSTICK_VERDICT_EVICT;
    request->phase = USK_REQUEST_LEAVE;
    if (r < 0)
        usk_flow_fail(request, r);
}

static void flow_submit(struct unstick_request *request)
{
    int r = usk_moves_submit(request);

    if (r < 0)
        usk_flow_fail(request, r);
}

static void flow_recover(struct unstick_request *request)
{
    int r = usk_recover_begin(request);

    if (r < 0)
        usk_flow_fail(request, r);
}

static bool flow_decide(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_reading reading = { .size = sizeof(reading) };
    enum look look;
    int r = UNSTICK_OK;

    if (usk_flow_is_canceled(request))
        return true;
    if (request->kind != USK_REQUEST_EVICT)
        r = usk_request_read(request, request->has_reclaimed, &reading);
    if (r < 0) {
        usk_flow_fail(request, r);
        return true;
    }
    flow_discount(request, &reading);
    usk_cache_lock(cache);
    look = flow_look_locked(request);
    if (look == LOOK_HIT)
        request->phase = USK_REQUEST_LEASE;
    else if (look == LOOK_GO && request->kind == USK_REQUEST_EVICT)
        flow_decide_eviction(request);
    else if (look == LOOK_GO)
        flow_decide_locked(request, &reading);
    usk_cache_unlock(cache);
    if (request->failure == UNSTICK_PENDING)
        request->failure = usk_failure_refuse(request);
    if (request->phase == USK_REQUEST_RECLAIM)
        flow_recover(request);
    else if (request->phase != USK_REQUEST_WAIT)
        usk_flow_stop_waiting(request);
    if (request->phase == USK_REQUEST_LEAVE)
        flow_submit(request);
    return true;
}

static bool flow_reclaim(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    if (!usk_recover_next(request, ret_action))
        return false;
    usk_recover_end(request);
    request->phase = USK_REQUEST_LOOK;
    return true;
}

/* --- moving --- */

static bool flow_leave(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    bool is_over = usk_moves_poll(request), is_overlapping = usk_moves_may_overlap(request);

    if (request->failure || usk_flow_is_canceled(request)) {
        request->phase = USK_REQUEST_STOP;
        return true;
    }
    if (!is_over)
        return usk_flow_wait_for_tasks(request, ret_action);
    if (request->kind == USK_REQUEST_EVICT) {
        usk_moves_finish(request, false);
        request->phase = USK_REQUEST_OVER;
        return true;
    }
    if (request->is_reclaiming_late) {
        request->is_reclaiming_late = false;
        usk_moves_settle_leaving(request);
        usk_moves_finish(request, true);
        request->phase = USK_REQUEST_RECLAIM;
        flow_recover(request);
        return true;
    }
    if (is_overlapping) {
        request->phase = USK_REQUEST_LEASE;
        return true;
    }
    usk_moves_settle_leaving(request);
    request->phase = request->is_for_host ? USK_REQUEST_HOST : USK_REQUEST_ARRIVE;
    if (request->failure)
        request->phase = USK_REQUEST_STOP;
    if (request->phase == USK_REQUEST_ARRIVE)
        flow_submit(request);
    return true;
}

static bool flow_host(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    struct unstick_cache *cache = request->cache;
    int r;

    if (request->asked != UNSTICK_DO_LOAD) {
        if (usk_flow_is_canceled(request))
            return true;
        usk_cache_lock(cache);
        request->is_loading = true;
        usk_cache_unlock(cache);
        request->host_started_ns = request->now_ns;
        ret_action->kind = UNSTICK_DO_LOAD;
        ret_action->components = request->n_missing ? (const char *const *)request->missing : NULL;
        ret_action->n_components = request->n_missing;
        ret_action->bytes = request->plan.missing_bytes;
        return false;
    }
    request->asked = UNSTICK_DO_NOTHING;
    request->has_host_loaded = true;
    usk_cache_lock(cache);
    request->is_loading = false;
    usk_cache_unlock(cache);
    if (request->failure || usk_flow_is_canceled(request)) {
        request->phase = USK_REQUEST_STOP;
        return true;
    }
    usk_cache_lock(cache);
    /* What the host took is on the device now, and counted there; what it only registered is marked, and so claimed. */
    r = usk_moves_mark_added(request);
    request->entry->claim_bytes = request->demand.working_bytes;
    usk_cache_publish_claims(cache);
    usk_event_add(cache, UNSTICK_EVENT_LOAD, request->entry, NULL, request->now_ns)->ns =
        request->now_ns - request->host_started_ns;
    usk_cache_unlock(cache);
    request->result.load_ns += request->now_ns - request->host_started_ns;
    request->phase = USK_REQUEST_ARRIVE;
    if (r == UNSTICK_OK)
        flow_submit(request);
    else
        usk_flow_fail(request, r);
    return true;
}

static bool flow_arrive(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    bool is_over = usk_moves_poll(request);

    if (request->failure || usk_flow_is_canceled(request)) {
        request->phase = USK_REQUEST_STOP;
        return true;
    }
    if (!is_over)
        return usk_flow_wait_for_tasks(request, ret_action);
    request->phase = USK_REQUEST_LEASE;
    return true;
}

bool usk_request_advance(struct unstick_request *request, struct unstick_request_action *ret_action)
{
    switch (request->phase) {
    case USK_REQUEST_LOOK:
        return flow_look(request);
    case USK_REQUEST_MEASURE:
        if (request->asked == UNSTICK_DO_MEASURE) {
            request->asked = UNSTICK_DO_NOTHING;
            request->phase = USK_REQUEST_DECIDE;
            return true;
        }
        ret_action->kind = UNSTICK_DO_MEASURE;
        return false;
    case USK_REQUEST_DECIDE:
        return flow_decide(request);
    case USK_REQUEST_WAIT:
        return flow_wait(request, ret_action);
    case USK_REQUEST_RECLAIM:
        return flow_reclaim(request, ret_action);
    case USK_REQUEST_LEAVE:
        return flow_leave(request, ret_action);
    case USK_REQUEST_HOST:
        return flow_host(request, ret_action);
    case USK_REQUEST_ARRIVE:
        return flow_arrive(request, ret_action);
    case USK_REQUEST_LEASE:
        return usk_flow_lease(request);
    case USK_REQUEST_STOP:
        return usk_flow_stop(request, ret_action);
    case USK_REQUEST_UNDO:
        return usk_flow_undo(request, ret_action);
    case USK_REQUEST_OVER:
        break;
    }
    return false;
}
