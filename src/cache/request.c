/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request as its owner sees it. Everything that a demand points to is copied before the request is listed, so that a
 * request that its owner forgot (an orphan) can be brought to its end by anybody.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/math.h"
#include "cache/request.h"
#include "region/context.h"

/* Phases that one call may pass: more than any way through them has, so that a call is bounded. */
#define REQUEST_MAX_TURNS 32

/* --- making --- */

static void request_free_copies(struct unstick_request *request)
{
    for (size_t i = 0; request->names && i < request->demand.n_components; i++)
        free(request->names[i]);
    free(request->names);
    for (size_t i = 0; i < request->n_offered; i++) {
        if (request->offered[i])
            usk_component_free(request->offered[i]);
    }
    free(request->offered);
    free(request->alternatives);
}

static int request_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a request");
}

static int request_copy_names(struct unstick_request *request, const struct unstick_cache_demand *demand,
                              struct unstick_error *error)
{
    request->demand.n_components = 0;
    request->demand.components = NULL;
    if (!demand->n_components)
        return UNSTICK_OK;
    request->names = calloc(demand->n_components, sizeof(char *));
    if (!request->names)
        return request_no_memory(error);
    for (size_t i = 0; i < demand->n_components; i++) {
        const char *name = demand->components ? demand->components[i] : NULL;

        if (!name || !*name)
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_request",
                                 "component %zu of the demand has no name", i);
        /* One that is named twice is wanted once. */
        if (request->demand.n_components && usk_request_wants(request, name))
            continue;
        request->names[request->demand.n_components] = strdup(name);
        if (!request->names[request->demand.n_components])
            return request_no_memory(error);
        request->demand.components = (const char *const *)request->names;
        request->demand.n_components++;
    }
    return UNSTICK_OK;
}

static int request_copy_layouts(struct unstick_request *request, const struct unstick_cache_demand *demand,
                                struct unstick_error *error)
{
    request->offered = calloc(usk_max(demand->n_layouts, 1), sizeof(struct usk_component *));
    if (!request->offered)
        return request_no_memory(error);
    for (size_t i = 0; i < demand->n_layouts; i++) {
        struct unstick_cache_component given = demand->layouts[i];
        int r;

        if (given.region || !given.layout)
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_request",
                                 "%s: a demand takes layouts; regions are registered with unstick_request_add()",
                                 given.name ? given.name : "(no name)");
        r = usk_component_new(request->cache, &given, &request->offered[request->n_offered], error);
        if (r < 0)
            return r;
        request->offered[request->n_offered++]->was_offered = true;
        for (size_t k = 0; k + 1 < request->n_offered; k++) {
            if (!strcmp(request->offered[k]->name, given.name))
                return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_request",
                                     "%s is there twice among the layouts", given.name);
        }
    }
    return UNSTICK_OK;
}

enum unstick_reclaim_strategy usk_request_strategy(const struct unstick_request *request)
{
    return request->demand.flags & UNSTICK_DEMAND_SEED ? UNSTICK_RECLAIM_SEED : request->cache->options.strategy;
}

static int request_copy(struct unstick_request *request, const struct unstick_cache_demand *demand,
                        struct unstick_error *error)
{
    int r;

    if (demand->size < sizeof(*demand) || (demand->n_layouts && !demand->layouts) ||
        (demand->n_alternatives && !demand->alternatives) ||
        (demand->fingerprint && strlen(demand->fingerprint) >= sizeof(request->fingerprint)) ||
        demand->required_bytes > UNSTICK_POLICY_BYTES_MAX || demand->working_bytes > UNSTICK_POLICY_BYTES_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_request",
                             "the demand is malformed: size, a list, a figure, or the fingerprint (16 characters)");
    request->demand = *demand;
    request->demand.layouts = NULL;
    if (demand->fingerprint)
        memcpy(request->fingerprint, demand->fingerprint, strlen(demand->fingerprint) + 1);
    if (demand->flags & UNSTICK_DEMAND_PREFETCH)
        request->kind = USK_REQUEST_PREFETCH;
    else if (demand->flags & UNSTICK_DEMAND_PRELOAD)
        request->kind = USK_REQUEST_PRELOAD;
    r = request_copy_names(request, demand, error);
    if (r == UNSTICK_OK)
        r = request_copy_layouts(request, demand, error);
    if (r == UNSTICK_OK && demand->n_alternatives) {
        request->alternatives = calloc(demand->n_alternatives, sizeof(*request->alternatives));
        if (!request->alternatives)
            return request_no_memory(error);
        memcpy(request->alternatives, demand->alternatives,
               demand->n_alternatives * sizeof(*request->alternatives));
        request->demand.alternatives = request->alternatives;
    }
    return r;
}

/* [lock] */
static void request_list(struct unstick_request *request, struct usk_entry *entry)
{
    struct unstick_cache *cache = request->cache;

    request->entry = entry;
    entry->n_users++;
    request->ticket = ++cache->next_ticket;
    request->next = cache->requests;
    cache->requests = request;
    if (request->kind != USK_REQUEST_USE && request->kind != USK_REQUEST_PRELOAD)
        return;
    /* A batch of one model is one turn. */
    if (cache->last_entry != entry)
        cache->turn++;
    cache->last_entry = entry;
    unstick_reuse_note(&entry->reuse, cache->turn);
}

static int request_new(struct unstick_cache *cache, const char *key, const struct unstick_cache_demand *demand,
                       bool is_eviction, struct unstick_request **ret_request, struct unstick_error *error)
{
    struct unstick_request *request = calloc(1, sizeof(*request));
    struct usk_entry *entry;
    int r;

    if (!request)
        return request_no_memory(error);
    request->cache = cache;
    request->result.size = sizeof(request->result);
    request->figures.size = sizeof(request->figures);
    r = request_copy(request, demand, error);
    if (r < 0) {
        request_free_copies(request);
        free(request);
        return r;
    }
    request->holder = demand->holder ? demand->holder : usk_holder_of_thread();
    if (is_eviction)
        request->kind = USK_REQUEST_EVICT;
    usk_cache_lock(cache);
    entry = is_eviction ? usk_entry_find(cache, key) : usk_entry_get(cache, key);
    if (entry) {
        request_list(request, entry);
        if (is_eviction)
            memcpy(request->fingerprint, entry->fingerprint, sizeof(request->fingerprint));
    }
    usk_cache_unlock(cache);
    if (!entry) {
        request_free_copies(request);
        free(request);
        return is_eviction ? usk_error_set(error, UNSTICK_NOT_FOUND, 0, "unstick_cache_evict",
                                           "the cache has no entry %s", key)
                           : request_no_memory(error);
    }
    *ret_request = request;
    return UNSTICK_OK;
}

int unstick_cache_request(struct unstick_cache *cache, const char *key, const struct unstick_cache_demand *demand,
                          struct unstick_request **ret_request, struct unstick_error *error)
{
    struct unstick_cache_demand all = { .size = sizeof(all) };

    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    if (!key || !*key)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_request", "a request needs a key");
    return request_new(cache, key, demand ? demand : &all, false, ret_request, error);
}

int unstick_cache_evict(struct unstick_cache *cache, const char *key, struct unstick_request **ret_request,
                        struct unstick_error *error)
{
    struct unstick_cache_demand all = { .size = sizeof(all) };

    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    if (!key || !*key)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_evict", "an eviction needs a key");
    return request_new(cache, key, &all, true, ret_request, error);
}

/* --- driving --- */

static void request_take_figures(struct unstick_request *request, const struct unstick_request_report *report)
{
    request->figures = (struct unstick_reading){ .size = sizeof(request->figures) };
    if (report && report->status >= 0 && report->figures)
        request->figures = *report->figures;
}

/* What the host says about the action before. */
static void request_take_report(struct unstick_request *request, const struct unstick_request_report *report)
{
    switch (request->asked) {
    case UNSTICK_DO_MEASURE:
        request_take_figures(request, report);
        break;
    case UNSTICK_DO_RECLAIM:
        if (request->phase == USK_REQUEST_RECLAIM)
            usk_recover_report(request, report);
        break;
    case UNSTICK_DO_LOAD:
        if (!report || report->status >= 0)
            break;
        request->failure = report->status;
        if (report->error && report->error->text[0])
            request->error = *report->error;
        else
            usk_error_set(&request->error, report->status, 0, "load", "the host could not load %s: %s",
                          request->entry->key, unstick_status_text(report->status));
        break;
    default:
        break;
    }
    if (request->asked == UNSTICK_DO_RECLAIM || request->asked == UNSTICK_DO_WAIT)
        request->asked = UNSTICK_DO_NOTHING;
}

static int request_status(const struct unstick_request *request)
{
    if (request->phase != USK_REQUEST_OVER)
        return UNSTICK_PENDING;
    return request->failure;
}

static int request_drive(struct unstick_request *request, uint64_t now_ns, struct unstick_request_action *ret_action)
{
    struct unstick_request_action action = { .size = sizeof(action), .fd = -1 };
    unsigned int n = 0;

    request->now_ns = now_ns;
    if (!request->started_ns)
        request->started_ns = now_ns;
    while (usk_request_advance(request, &action) && ++n < REQUEST_MAX_TURNS)
        ;
    /* Enough for one call: come again at once. */
    if (n == REQUEST_MAX_TURNS && request->phase != USK_REQUEST_OVER)
        action = (struct unstick_request_action){ .size = sizeof(action), .kind = UNSTICK_DO_WAIT, .fd = -1 };
    request->asked = action.kind;
    if (request->phase == USK_REQUEST_OVER && !request->result.total_ns)
        request->result.total_ns = usk_max(now_ns - request->started_ns, 1);
    *ret_action = action;
    return request_status(request);
}

int unstick_request_next(struct unstick_request *request, const struct unstick_request_report *report, uint64_t now_ns,
                         struct unstick_request_action *ret_action)
{
    struct unstick_request_action action = { .size = sizeof(action), .fd = -1 };
    int r;

    if (usk_context_is_forked(request->cache->ctx))
        return UNSTICK_FORKED;
    if (ret_action->size < sizeof(*ret_action))
        return UNSTICK_INVALID_ARGUMENT;
    now_ns = now_ns ? now_ns : usk_clock_now_ns();
    if (request->phase != USK_REQUEST_OVER) {
        request_take_report(request, report);
        /* Behind the look at what is there: a hit costs no step. */
        if (request->phase != USK_REQUEST_LOOK || request->result.bytes)
            unstick_context_step(request->cache->ctx, now_ns);
        usk_cache_tend(request->cache, now_ns);
    }
    r = request_drive(request, now_ns, &action);
    action.size = ret_action->size;
    *ret_action = action;
    return r;
}

int unstick_request_wait(struct unstick_request *request, const struct unstick_request_report *report,
                         struct unstick_request_action *ret_action)
{
    int r = unstick_request_next(request, report, 0, ret_action);

    while (r == UNSTICK_PENDING && ret_action->kind == UNSTICK_DO_WAIT) {
        struct pollfd fd = { .fd = ret_action->fd, .events = POLLIN };

        poll(&fd, 1, ret_action->timeout_ms);
        r = unstick_request_next(request, NULL, 0, ret_action);
    }
    return r;
}

int unstick_request_add(struct unstick_request *request, const struct unstick_cache_component *given,
                        struct unstick_error *error)
{
    struct unstick_cache *cache = request->cache;
    struct usk_component *component, *old;
    bool is_taken;
    int r;

    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    if (request->asked != UNSTICK_DO_LOAD)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_request_add",
                             "components are registered when the request asks for a load, not before or after");
    r = usk_component_new(cache, given, &component, error);
    if (r < 0)
        return r;
    usk_cache_lock(cache);
    old = usk_entry_component(request->entry, given->name);
    /* In the place of one that lost its contents. */
    is_taken = old && (old->n_leases || old->mover || old->chore || old->adder || usk_component_is_there(old));
    if (old && !is_taken)
        usk_entry_remove(request->entry, old);
    component->adder = request;
    if (!is_taken && !usk_entry_add(request->entry, component))
        r = request_no_memory(error);
    usk_cache_unlock(cache);
    if (is_taken)
        r = usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_request_add", "%s has a component %s already",
                          request->entry->key, given->name);
    if (r < 0)
        usk_component_free(component);
    if (old && !is_taken)
        usk_component_free(old);
    return r;
}

void unstick_request_cancel(struct unstick_request *request)
{
    if (usk_context_is_forked(request->cache->ctx))
        return;
    atomic_store(&request->is_canceled, true);
    usk_context_wake(request->cache->ctx);
}

static uint64_t request_total_bytes(const struct unstick_request *request)
{
    uint64_t total_bytes = request->result.bytes;

    for (size_t i = 0; i < request->n_moves; i++) {
        if (request->moves[i].kind == USK_MOVE_ARRIVE && !request->moves[i].is_over)
            total_bytes += request->moves[i].component->bytes - request->moves[i].before_bytes;
    }
    return total_bytes;
}

int unstick_request_result(struct unstick_request *request, struct unstick_request_result *result)
{
    size_t size = result->size;

    if (usk_context_is_forked(request->cache->ctx))
        return UNSTICK_FORKED;
    if (size < sizeof(*result))
        return UNSTICK_INVALID_ARGUMENT;
    *result = request->result;
    result->size = size;
    result->status = request_status(request);
    if (result->status < 0)
        result->error = request->error;
    result->total_bytes = request_total_bytes(request);
    for (size_t i = 0; i < request->n_submitted; i++) {
        if (request->moves[i].kind == USK_MOVE_ARRIVE && !request->moves[i].is_over)
            result->bytes += request->moves[i].result.done_bytes;
    }
    result->required_bytes = request->plan.required_bytes;
    result->available_bytes = request->plan.available_bytes;
    result->held_by_us_bytes = request->plan.leased_bytes;
    result->held_by_others_bytes = request->plan.held_by_others_bytes;
    result->evictions = request->evictions;
    result->steps = request->steps;
    result->n_steps = request->n_steps;
    result->suggestions = request->plan.suggestions;
    result->n_suggestions = request->plan.n_suggestions;
    result->reason = request->plan.reason;
    result->text = request->text;
    return result->status;
}

struct unstick_cache_lease *unstick_request_take_lease(struct unstick_request *request)
{
    struct unstick_cache_lease *lease = request->lease;

    request->lease = NULL;
    return lease;
}

/* --- ending --- */

void usk_request_destroy(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_request **at = &cache->requests;

    unstick_cache_lease_end(request->lease, NULL);
    usk_cache_lock(cache);
    while (*at != request)
        at = &(*at)->next;
    *at = request->next;
    request->entry->n_users--;
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    request_free_copies(request);
    usk_view_fini(&request->view);
    unstick_reclaim_free(request->machine);
    for (size_t i = 0; i < request->result.n_evictions; i++)
        free((char *)request->evictions[i].key);
    free(request->evictions);
    free(request->eviction_spans);
    free(request->processes);
    free(request->steps);
    free(request->moves);
    usk_moves_forget_missing(request);
    free(request);
}

struct unstick_request *unstick_request_free(struct unstick_request *request)
{
    struct unstick_cache *cache;

    if (!request || usk_context_is_forked(request->cache->ctx))
        return NULL;
    cache = request->cache;
    if (request->phase == USK_REQUEST_OVER) {
        usk_request_destroy(request);
        return NULL;
    }
    atomic_store(&request->is_canceled, true);
    usk_cache_lock(cache);
    request->is_orphan = true;
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    usk_cache_tend(cache, usk_clock_now_ns());
    return NULL;
}

bool usk_requests_are_loading(struct unstick_cache *cache, uint64_t holder, const struct unstick_request *except)
{
    for (const struct unstick_request *request = cache->requests; request; request = request->next) {
        if (request != except && request->is_loading && request->holder == holder)
            return true;
    }
    return false;
}

/* Brings what its owner forgot a bit nearer to its end; one thread at a time does. */
void usk_requests_tend(struct unstick_cache *cache, uint64_t now_ns)
{
    struct unstick_request *orphans[8];
    size_t n = 0;

    usk_cache_lock(cache);
    for (struct unstick_request *request = cache->requests; request && n < 8; request = request->next) {
        if (request->is_orphan && !request->is_driven) {
            request->is_driven = true;
            orphans[n++] = request;
        }
    }
    usk_cache_unlock(cache);
    for (size_t i = 0; i < n; i++) {
        struct unstick_request_action action = { .size = sizeof(action) };

        if (request_drive(orphans[i], usk_max(now_ns, orphans[i]->now_ns), &action) != UNSTICK_PENDING) {
            usk_request_destroy(orphans[i]);
            continue;
        }
        usk_cache_lock(cache);
        orphans[i]->is_driven = false;
        usk_cache_unlock(cache);
    }
}
