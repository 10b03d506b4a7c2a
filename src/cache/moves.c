/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving what was marked (mark.c). A mark is taken away after its task has ended, so a component that is between two
 * places belongs to one request.
 *
 * Evictions and arrivals are submitted together where that is possible: what leaves hands its physical memory to what
 * comes. Where contents are given up, or the host loads, the memory has to be free first.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/request.h"
#include "region/region.h"

/*
 * Pageable backups go through the ring in both directions: what comes would hold the buffers that what leaves needs,
 * and wait for the memory that only this sets free.
 */
bool usk_moves_may_overlap(const struct unstick_request *request)
{
    if (request->is_for_host || request->is_stale || request->is_reclaiming_late ||
        request->cache->options.tier == UNSTICK_TIER_PAGEABLE)
        return false;
    for (size_t i = 0; i < request->n_leaving; i++) {
        if (request->moves[i].kind == USK_MOVE_DISCARD)
            return false;
    }
    return true;
}

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

/* [lock] Nobody is kept off the component any longer. */
static void move_unmark(struct unstick_request *request, struct usk_move *move)
{
    if (move->component->mover == request) {
        move->component->mover = NULL;
        move->component->future_bytes = USK_NO_FUTURE;
    }
}

static int move_forget(struct unstick_request *request, struct usk_move *move)
{
    usk_region_forget_backups(move->component->region);
    move->is_over = true;
    usk_cache_lock(request->cache);
    move_unmark(request, move);
    usk_cache_touch(request->cache);
    usk_cache_unlock(request->cache);
    return UNSTICK_OK;
}

static int move_submit_leaving(struct unstick_request *request, struct usk_move *move,
                               struct unstick_task_options *options)
{
    if (!move->component->region) {
        move->is_over = true;
        return UNSTICK_OK;
    }
    if (move->kind == USK_MOVE_FORGET)
        return move_forget(request, move);
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
            return usk_moves_no_memory(request);
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
    case USK_MOVE_FORGET:
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
        usk_cache_begin_end(cache);
    }
    if (move->kind != USK_MOVE_ARRIVE && !(request->is_stale && move->entry == request->entry))
        move_unmark(request, move);
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    if (broken) {
        unstick_region_unref(broken);
        usk_cache_end(cache);
    }
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
    request->failure = usk_moves_mark_arrivals(request);
    usk_cache_begin_end(cache);
    usk_cache_unlock(cache);
    for (size_t i = 0; i < n_gone; i++)
        usk_component_free(gone[i]);
    free(gone);
    usk_cache_end(cache);
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
    request->has_sources = false;
    usk_cache_publish_claims(cache);
    if (gone)
        usk_cache_begin_end(cache);
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
    if (!gone)
        return;
    while (gone) {
        struct usk_component *component = gone;

        gone = component->next_gone;
        moves_let_go(request, component);
    }
    usk_cache_end(cache);
}
