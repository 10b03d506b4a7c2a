/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request moves. A move is marked under the lock before its task exists and the mark is taken away after the
 * task has ended, so a component that is between two places is never counted on, leased or freed by anybody else.
 *
 * Evictions and arrivals are submitted together where that is possible: what leaves hands its physical memory to what
 * comes. Where contents are given up, or the host loads, the memory has to be free first.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/request.h"
#include "region/context.h"

/* --- marking [lock] --- */

static struct usk_move *moves_add(struct unstick_request *request, enum usk_move_kind kind, struct usk_entry *entry,
                                  struct usk_component *component, uint64_t future_bytes)
{
    struct usk_move *moves = realloc(request->moves, (request->n_moves + 1) * sizeof(*moves)), *move;

    if (!moves)
        return NULL;
    request->moves = moves;
    move = &moves[request->n_moves++];
    *move = (struct usk_move){ .kind = kind, .entry = entry, .component = component };
    move->result.size = sizeof(move->result);
    move->before_bytes = usk_component_info(component).resident_bytes;
    component->mover = request;
    component->future_bytes = future_bytes;
    entry->n_users++;
    return move;
}

static int moves_no_memory(struct unstick_request *request)
{
    return usk_error_set(&request->error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory for a request");
}

static bool moves_have(const struct unstick_request *request, const struct usk_component *component)
{
    for (size_t i = 0; i < request->n_moves; i++) {
        if (request->moves[i].component == component)
            return true;
    }
    return false;
}

static int moves_add_leaving(struct unstick_request *request, enum usk_move_kind kind, struct usk_entry *entry,
                             struct usk_component *component, uint64_t bytes)
{
    uint64_t resident = usk_component_info(component).resident_bytes;
    uint64_t future = usk_min(usk_component_future(component, resident), resident);
    struct usk_move *move;

    future = kind == USK_MOVE_LEAVE && bytes ? future - usk_min(future, bytes) : 0;
    move = moves_add(request, kind, entry, component, future);
    if (!move)
        return moves_no_memory(request);
    move->bytes = bytes;
    request->n_leaving = request->n_moves;
    return UNSTICK_OK;
}

/*
 * Host memory for what has no backup yet: contents that can be loaded again give theirs up, those first that were used
 * least often and longest ago.
 */
static struct usk_component *demotion_pick(struct unstick_cache *cache, const struct unstick_request *request,
                                           struct usk_entry **ret_entry)
{
    struct usk_component *best = NULL;
    struct usk_entry *best_entry = NULL;

    for (size_t i = 0; i < cache->n_entries; i++) {
        struct usk_entry *entry = cache->entries[i];

        if (entry == request->entry || entry->loader || entry->is_pinned)
            continue;
        for (size_t k = 0; k < entry->n_components; k++) {
            struct usk_component *component = entry->components[k];
            struct unstick_region_info info = usk_component_info(component);

            if (!component->can_reload || component->mover || component->chore || component->n_leases ||
                info.resident_bytes || info.n_leases || !(info.pinned_bytes + info.pageable_bytes))
                continue;
            if (best && (entry->reuse.last_turn > best_entry->reuse.last_turn ||
                         (entry->reuse.last_turn == best_entry->reuse.last_turn &&
                          entry->reuse.n_uses >= best_entry->reuse.n_uses)))
                continue;
            best = component;
            best_entry = entry;
        }
    }
    *ret_entry = best_entry;
    return best;
}

static int moves_mark_demotions(struct unstick_request *request, uint64_t wanted_bytes)
{
    struct unstick_context_info info = { .size = sizeof(info) };
    uint64_t left;

    unstick_context_info(request->cache->ctx, &info);
    left = info.host_limit_bytes - usk_min(info.host_limit_bytes, info.host_pinned_bytes + info.host_pageable_bytes +
                                                                      info.host_ring_bytes);
    while (left < wanted_bytes) {
        struct usk_entry *entry;
        struct usk_component *component = demotion_pick(request->cache, request, &entry);
        struct unstick_region_info region;
        int r;

        if (!component)
            return UNSTICK_OK;
        region = usk_component_info(component);
        left += region.pinned_bytes + region.pageable_bytes;
        r = moves_add_leaving(request, USK_MOVE_DISCARD, entry, component, 0);
        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

/* Loads leave their backup in host memory where the files themselves cannot be it. */
static uint64_t moves_load_host_bytes(const struct unstick_request *request)
{
    const struct unstick_cache *cache = request->cache;
    enum unstick_tier tier = cache->options.tier;
    uint64_t bytes = 0;

    if (tier == UNSTICK_TIER_FILE || (tier == UNSTICK_TIER_AUTO && cache->can_register_file))
        return 0;
    for (size_t i = 0; i < request->n_offered; i++) {
        const struct usk_component *offered = request->offered[i];

        if (offered && usk_request_wants(request, offered->name) &&
            (request->is_stale || !usk_entry_component(request->entry, offered->name)))
            bytes += offered->bytes;
    }
    for (size_t i = 0; !request->is_stale && i < request->entry->n_components; i++) {
        const struct usk_component *component = request->entry->components[i];
        struct unstick_region_info info = usk_component_info(component);

        if (usk_request_wants(request, component->name) && component->layout &&
            info.state == UNSTICK_REGION_EMPTY)
            bytes += component->bytes;
    }
    return bytes;
}

static int moves_mark_victims(struct unstick_request *request)
{
    struct usk_view *view = &request->view;
    uint64_t host_bytes = moves_load_host_bytes(request);
    int r;

    for (size_t i = 0; i < request->plan.n_victims; i++) {
        const struct unstick_victim *victim = &request->plan.victims[i];
        size_t at = (size_t)(view->entries[victim->entry].components - view->components) + victim->component;

        if (!victim->is_discard && victim->tier != UNSTICK_TIER_FILE)
            host_bytes += usk_min(view->components[at].unbacked_bytes, victim->bytes);
    }
    r = moves_mark_demotions(request, host_bytes);
    for (size_t i = 0; r == UNSTICK_OK && i < request->plan.n_victims; i++) {
        const struct unstick_victim *victim = &request->plan.victims[i];
        size_t at = (size_t)(view->entries[victim->entry].components - view->components) + victim->component;
        struct usk_entry *entry = view->real_entries[victim->entry];
        bool is_whole = victim->bytes >= view->components[at].resident_bytes;

        if (request->is_stale && entry == request->entry)
            continue;
        r = moves_add_leaving(request, victim->is_discard ? USK_MOVE_DISCARD : USK_MOVE_LEAVE, entry,
                              view->real_components[at], is_whole ? 0 : victim->bytes);
    }
    for (size_t i = 0; r == UNSTICK_OK && request->is_stale && i < request->entry->n_components; i++)
        r = moves_add_leaving(request, USK_MOVE_DISCARD, request->entry, request->entry->components[i], 0);
    return r;
}

/* The entry takes what was offered and is new to it. */
static int moves_take_offers(struct unstick_request *request)
{
    for (size_t i = 0; i < request->n_offered; i++) {
        struct usk_component *offered = request->offered[i];

        if (!offered || usk_entry_component(request->entry, offered->name))
            continue;
        if (!usk_entry_add(request->entry, offered))
            return moves_no_memory(request);
        offered->adder = request;
        request->offered[i] = NULL;
    }
    return UNSTICK_OK;
}

static bool component_can_arrive(const struct usk_component *component)
{
    struct unstick_region_info info = usk_component_info(component);

    if (component->layout)
        return true;
    return component->region && info.state != UNSTICK_REGION_EMPTY && info.state != UNSTICK_REGION_REVOKED &&
           info.state != UNSTICK_REGION_POISONED;
}

static void moves_note_missing(struct unstick_request *request, const char *name)
{
    request->is_for_host = true;
    if (name)
        request->missing[request->n_missing++] = name;
}

static int moves_mark_arrivals(struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;
    int r = moves_take_offers(request);
    const char **missing;

    if (r < 0)
        return r;
    missing = realloc(request->missing, (entry->n_components + request->demand.n_components + 1) * sizeof(*missing));
    if (!missing)
        return moves_no_memory(request);
    request->missing = missing;
    request->n_missing = 0;
    request->is_for_host = false;
    for (size_t i = 0; i < entry->n_components; i++) {
        struct usk_component *component = entry->components[i];

        if (!usk_request_wants(request, component->name) || moves_have(request, component) ||
            usk_component_is_there(component))
            continue;
        if (!component_can_arrive(component))
            moves_note_missing(request, component->name);
        else if (!moves_add(request, USK_MOVE_ARRIVE, entry, component, component->bytes))
            return moves_no_memory(request);
    }
    for (size_t i = 0; i < request->demand.n_components; i++) {
        if (!usk_entry_component(entry, request->demand.components[i]))
            moves_note_missing(request, request->demand.components[i]);
    }
    if (!entry->n_components)
        moves_note_missing(request, NULL);
    entry->claim_bytes = request->demand.working_bytes + (request->is_for_host ? request->plan.missing_bytes : 0);
    return UNSTICK_OK;
}

int usk_moves_mark(struct unstick_request *request)
{
    int r;

    request->entry->loader = request;
    request->is_loader = true;
    request->is_stale = request->plan.stale_entry != UNSTICK_NO_ENTRY;
    if (!request->entry->n_components)
        memcpy(request->entry->fingerprint, request->fingerprint, sizeof(request->fingerprint));
    r = moves_mark_victims(request);
    if (r == UNSTICK_OK && !request->is_stale)
        r = moves_mark_arrivals(request);
    return r;
}

int usk_moves_mark_eviction(struct unstick_request *request)
{
    int r = UNSTICK_OK;

    request->entry->loader = request;
    request->is_loader = true;
    for (size_t i = 0; r == UNSTICK_OK && i < request->entry->n_components; i++) {
        struct usk_component *component = request->entry->components[i];

        if (usk_component_info(component).resident_bytes)
            r = moves_add_leaving(request, USK_MOVE_LEAVE, request->entry, component, 0);
    }
    return r;
}

int usk_moves_mark_added(struct unstick_request *request)
{
    int r = moves_mark_arrivals(request);

    if (r < 0 || !request->is_for_host)
        return r;
    return usk_error_set(&request->error, UNSTICK_NOT_FOUND, 0, "unstick_request_add",
                         "the load of %s ended without registering %s", request->entry->key,
                         request->n_missing ? request->missing[0] : "a component");
}

/*
 * Pageable backups go through the ring in both directions: what comes would hold the buffers that what leaves needs, and
 * wait for the memory that only this sets free.
 */
bool usk_moves_may_overlap(const struct unstick_request *request)
{
    if (request->is_for_host || request->is_stale || request->is_reclaiming_late ||
        request->cache->options.tier == UNSTICK_TIER_PAGEABLE)
        return false;
    for (size_t i = 0; i < request->n_leaving; i++) {
        if (request->moves[i].kind != USK_MOVE_LEAVE)
            return false;
    }
    return true;
}

/* --- running --- */

static int move_make_region(struct unstick_request *request, struct usk_component *component)
{
    struct unstick_region *region;
    int r;

    if (component->region)
        return UNSTICK_OK;
    r = unstick_region_new(request->cache->dev, component->name, component->layout->bytes, NULL, &region,
                           &request->error);
    if (r < 0)
        return r;
    usk_cache_lock(request->cache);
    component->region = region;
    usk_cache_unlock(request->cache);
    return UNSTICK_OK;
}

static int move_submit_arrival(struct unstick_request *request, struct usk_move *move,
                               struct unstick_task_options *options)
{
    struct unstick_region_info info = { .size = sizeof(info) };
    int r = move_make_region(request, move->component);

    if (r < 0)
        return r;
    unstick_region_info(move->component->region, &info);
    move->is_load = info.state == UNSTICK_REGION_EMPTY && move->component->layout;
    if (move->is_load)
        return unstick_region_load(move->component->region, move->component->layout, options, &move->task,
                                   &request->error);
    return unstick_region_restore(move->component->region, options, &move->task, &request->error);
}

static int move_submit_leaving(struct unstick_request *request, struct usk_move *move,
                               struct unstick_task_options *options)
{
    if (!move->component->region) {
        move->is_over = true;
        return UNSTICK_OK;
    }
    options->max_bytes = move->bytes;
    if (move->kind == USK_MOVE_LEAVE)
        return unstick_region_evict(move->component->region, options, &move->task, &request->error);
    return unstick_region_discard(move->component->region, NULL, &move->task, &request->error);
}

int usk_moves_submit(struct unstick_request *request)
{
    bool is_overlapping = usk_moves_may_overlap(request);
    bool has_arrivals = is_overlapping || request->phase == USK_REQUEST_ARRIVE;
    struct unstick_task **sources = NULL;
    size_t n_sources = 0;
    int r = UNSTICK_OK;

    if (request->n_leaving) {
        sources = calloc(request->n_leaving, sizeof(struct unstick_task *));
        if (!sources)
            return moves_no_memory(request);
    }
    for (size_t i = 0; r == UNSTICK_OK && i < request->n_moves; i++) {
        struct usk_move *move = &request->moves[i];
        struct unstick_task_options options = { .size = sizeof(options), .tier = request->cache->options.tier };

        if (move->kind == USK_MOVE_ARRIVE && !has_arrivals)
            break;
        if (i >= request->n_submitted) {
            request->n_submitted = i + 1;
            if (move->kind == USK_MOVE_ARRIVE) {
                options.flags = request->demand.flags & UNSTICK_DEMAND_VERIFY ? UNSTICK_TASK_VERIFY : 0;
                options.sources = sources;
                options.n_sources = n_sources;
                r = move_submit_arrival(request, move, &options);
            } else {
                options.flags = is_overlapping && request->n_moves > request->n_leaving ? UNSTICK_TASK_HAND_OVER : 0;
                r = move_submit_leaving(request, move, &options);
            }
            move->is_over |= r < 0;
        }
        if (is_overlapping && move->kind == USK_MOVE_LEAVE && move->task)
            sources[n_sources++] = move->task;
    }
    free(sources);
    return r;
}

/* [lock] Nobody is kept off the component any longer. */
static void move_unmark(struct unstick_request *request, struct usk_move *move)
{
    if (move->component->mover == request) {
        move->component->mover = NULL;
        move->component->future_bytes = USK_NO_FUTURE;
    }
}

void usk_moves_unmark_all(struct unstick_request *request)
{
    for (size_t i = 0; i < request->n_moves; i++)
        move_unmark(request, &request->moves[i]);
}

/* [lock] */
static void move_note(struct unstick_request *request, struct usk_move *move)
{
    struct unstick_cache *cache = request->cache;

    switch (move->kind) {
    case USK_MOVE_LEAVE:
        usk_event_task(cache, UNSTICK_EVENT_EVICT, move->entry, move->component, &move->result, request->now_ns);
        break;
    case USK_MOVE_DISCARD:
        usk_event_task(cache, UNSTICK_EVENT_DISCARD, move->entry, move->component, &move->result, request->now_ns);
        break;
    case USK_MOVE_ARRIVE:
        usk_event_task(cache, move->is_load ? UNSTICK_EVENT_LOAD : UNSTICK_EVENT_RESTORE, move->entry,
                       move->component, &move->result, request->now_ns);
        break;
    }
}

static void span_add(struct usk_span *span, const struct unstick_task_result *result)
{
    if (!result->started_ns)
        return;
    if (!span->ended_ns || result->started_ns < span->started_ns)
        span->started_ns = result->started_ns;
    span->ended_ns = usk_max(span->ended_ns, result->ended_ns);
}

/* Sums per entry what left; without host memory for it the sum is not shown, which hurts nobody. */
static void move_tally_leaving(struct unstick_request *request, const struct usk_move *move)
{
    size_t n = request->result.n_evictions, i = 0;
    struct unstick_request_eviction *evictions;
    struct usk_span *spans;

    while (i < n && strcmp(request->evictions[i].key, move->entry->key))
        i++;
    if (i == n) {
        evictions = realloc(request->evictions, (n + 1) * sizeof(*evictions));
        request->evictions = evictions ? evictions : request->evictions;
        spans = realloc(request->eviction_spans, (n + 1) * sizeof(*spans));
        request->eviction_spans = spans ? spans : request->eviction_spans;
        if (!evictions || !spans)
            return;
        evictions[n] = (struct unstick_request_eviction){ .key = strdup(move->entry->key) };
        spans[n] = (struct usk_span){ 0 };
        if (!evictions[n].key)
            return;
        request->result.n_evictions++;
    }
    span_add(&request->eviction_spans[i], &move->result);
    request->evictions[i].bytes += move->result.done_bytes;
    request->evictions[i].copied_bytes += move->result.copied_bytes;
    request->evictions[i].ns = request->eviction_spans[i].ended_ns - request->eviction_spans[i].started_ns;
}

static void move_tally(struct unstick_request *request, const struct usk_move *move)
{
    if (move->kind == USK_MOVE_ARRIVE) {
        span_add(move->is_load ? &request->load : &request->restore, &move->result);
        request->result.bytes += move->result.done_bytes;
    } else if (move->result.done_bytes) {
        span_add(&request->evict, &move->result);
        move_tally_leaving(request, move);
    }
}

static void move_end(struct unstick_request *request, struct usk_move *move)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_region *broken = NULL;
    int status = move->result.status;

    move->is_over = true;
    move->task = unstick_task_free(move->task);
    if (request->phase != USK_REQUEST_UNDO)
        move_tally(request, move);
    usk_cache_lock(cache);
    if (status == UNSTICK_OK) {
        move_note(request, move);
    } else if (move->kind == USK_MOVE_DISCARD) {
        /* Half given up is given up: what is left of it would come back with holes. */
        broken = move->component->region;
        move->component->region = NULL;
    }
    if (move->kind != USK_MOVE_ARRIVE && !(request->is_stale && move->entry == request->entry))
        move_unmark(request, move);
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    unstick_region_unref(broken);
    if (status < 0 && (!request->failure || (request->failure == UNSTICK_CANCELED && status != UNSTICK_CANCELED &&
                                             !atomic_load(&request->is_canceled)))) {
        request->failure = status;
        request->error = move->result.error;
    }
}

bool usk_moves_poll(struct unstick_request *request)
{
    bool is_over = true;

    for (size_t i = 0; i < request->n_submitted; i++) {
        struct usk_move *move = &request->moves[i];

        if (move->is_over)
            continue;
        if (unstick_task_result(move->task, &move->result) == UNSTICK_PENDING)
            is_over = false;
        else
            move_end(request, move);
    }
    return is_over;
}

void usk_moves_cancel(struct unstick_request *request)
{
    for (size_t i = 0; i < request->n_submitted; i++) {
        if (!request->moves[i].is_over)
            unstick_task_cancel(request->moves[i].task);
    }
}

/* --- ending --- */

/* Takes the entry's old components out; what came with other settings is no use any more. */
void usk_moves_settle_leaving(struct unstick_request *request)
{
    struct unstick_cache *cache = request->cache;
    struct usk_component **gone = NULL;
    size_t n_gone = 0;

    if (!request->is_stale)
        return;
    usk_cache_lock(cache);
    gone = request->entry->components;
    n_gone = request->entry->n_components;
    request->entry->components = NULL;
    request->entry->n_components = 0;
    memcpy(request->entry->fingerprint, request->fingerprint, sizeof(request->fingerprint));
    for (size_t i = 0; i < request->n_moves; i++) {
        struct usk_move *move = &request->moves[i];

        if (move->entry == request->entry) {
            move->entry->n_users--;
            *move = request->moves[--request->n_moves];
            i--;
        }
    }
    request->n_leaving = request->n_submitted = request->n_moves;
    request->is_stale = false;
    request->failure = moves_mark_arrivals(request);
    usk_cache_unlock(cache);
    for (size_t i = 0; i < n_gone; i++)
        usk_component_free(gone[i]);
    free(gone);
}

bool usk_moves_undo(struct unstick_request *request)
{
    bool has_work = false;

    for (size_t i = 0; i < request->n_submitted; i++) {
        struct usk_move *move = &request->moves[i];
        struct unstick_task_options options = { .size = sizeof(options), .tier = request->cache->options.tier };
        struct unstick_region_info info = { .size = sizeof(info) };

        if (move->kind != USK_MOVE_ARRIVE || !move->component->region || move->component->adder == request)
            continue;
        unstick_region_info(move->component->region, &info);
        if (info.resident_bytes <= move->before_bytes)
            continue;
        options.max_bytes = info.resident_bytes - move->before_bytes;
        move->kind = USK_MOVE_LEAVE;
        move->is_over = unstick_region_evict(move->component->region, &options, &move->task, NULL) < 0;
        has_work |= !move->is_over;
    }
    return has_work;
}

/* [lock] Takes out what came with this request; a list of it. */
static struct usk_component *moves_take_back(struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;
    struct usk_component *gone = NULL;

    for (size_t i = entry->n_components; i--;) {
        struct usk_component *component = entry->components[i];

        if (component->adder != request)
            continue;
        usk_entry_remove(entry, component);
        component->adder = NULL;
        component->next_gone = gone;
        gone = component;
    }
    return gone;
}

/* An offer goes back to the request, without its region; what the host loaded is let go. */
static void moves_let_go(struct unstick_request *request, struct usk_component *component)
{
    if (!component->was_offered) {
        usk_component_free(component);
        return;
    }
    component->region = unstick_region_unref(component->region);
    for (size_t i = 0; i < request->n_offered; i++) {
        if (!request->offered[i]) {
            request->offered[i] = component;
            return;
        }
    }
}

void usk_moves_finish(struct unstick_request *request, bool is_lost)
{
    struct unstick_cache *cache = request->cache;
    struct usk_entry *entry = request->entry;
    struct usk_component *gone = NULL;

    usk_cache_lock(cache);
    for (size_t i = 0; i < request->n_moves; i++) {
        move_unmark(request, &request->moves[i]);
        request->moves[i].entry->n_users--;
    }
    request->n_moves = request->n_leaving = request->n_submitted = 0;
    if (is_lost)
        gone = moves_take_back(request);
    for (size_t i = 0; i < entry->n_components; i++) {
        if (entry->components[i]->adder == request)
            entry->components[i]->adder = NULL;
    }
    if (request->is_loader) {
        entry->loader = NULL;
        entry->claim_bytes = 0;
        request->is_loader = false;
    }
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    while (gone) {
        struct usk_component *component = gone;

        gone = component->next_gone;
        moves_let_go(request, component);
    }
}
