/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marking what a plan moves, all of it under the lock in which the plan was made. A mark says who moves a component and
 * what will be resident when that is over; from here on nobody else counts on it, leases it or frees it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/request.h"

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

int usk_moves_no_memory(struct unstick_request *request)
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

    if (kind == USK_MOVE_FORGET)
        bytes = 0;
    else
        future = kind == USK_MOVE_LEAVE && bytes ? future - usk_min(future, bytes) : 0;
    move = moves_add(request, kind, entry, component, future);
    if (!move)
        return usk_moves_no_memory(request);
    move->bytes = bytes;
    request->n_leaving = request->n_moves;
    return UNSTICK_OK;
}

/* Among equals that one gives host memory up first that was used longest ago, and then least often. */
static bool demotion_is_later(const struct usk_entry *entry, const struct usk_entry *than)
{
    return than && (entry->reuse.last_turn > than->reuse.last_turn ||
                    (entry->reuse.last_turn == than->reuse.last_turn && entry->reuse.n_uses >= than->reuse.n_uses));
}

static bool demotion_is_victim(const struct unstick_request *request, const struct usk_component *component)
{
    const struct usk_view *view = &request->view;

    for (size_t i = 0; i < request->plan.n_victims; i++) {
        const struct unstick_victim *victim = &request->plan.victims[i];
        size_t at = (size_t)(view->entries[victim->entry].components - view->components) + victim->component;

        if (view->real_components[at] == component)
            return true;
    }
    return false;
}

/*
 * Host memory for what has no backup yet comes first from backups of what is resident, of which nothing is lost, then
 * from contents that can be loaded again.
 */
static struct usk_component *demotion_pick(struct unstick_cache *cache, const struct unstick_request *request,
                                           bool is_resident, struct usk_entry **ret_entry)
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

            if (component->mover || component->chore || component->n_leases || info.n_leases ||
                !(info.pinned_bytes + info.pageable_bytes) || demotion_is_victim(request, component))
                continue;
            if (is_resident ? info.state != UNSTICK_REGION_RESIDENT : !component->can_reload || info.resident_bytes)
                continue;
            if (demotion_is_later(entry, best_entry))
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
        struct usk_component *component = demotion_pick(request->cache, request, true, &entry);
        enum usk_move_kind kind = component ? USK_MOVE_FORGET : USK_MOVE_DISCARD;
        struct unstick_region_info region;
        int r;

        if (!component)
            component = demotion_pick(request->cache, request, false, &entry);
        if (!component)
            return UNSTICK_OK;
        region = usk_component_info(component);
        left += region.pinned_bytes + region.pageable_bytes;
        r = moves_add_leaving(request, kind, entry, component, 0);
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
            return usk_moves_no_memory(request);
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

void usk_moves_forget_missing(struct unstick_request *request)
{
    while (request->n_missing)
        free(request->missing[--request->n_missing]);
    free(request->missing);
    request->missing = NULL;
}

static bool moves_note_missing(struct unstick_request *request, const char *name)
{
    request->is_for_host = true;
    request->missing[request->n_missing] = strdup(name);
    return request->missing[request->n_missing] && ++request->n_missing;
}

int usk_moves_mark_arrivals(struct unstick_request *request)
{
    struct usk_entry *entry = request->entry;
    int r = moves_take_offers(request);

    if (r < 0)
        return r;
    usk_moves_forget_missing(request);
    request->missing = calloc(entry->n_components + request->demand.n_components + 1, sizeof(*request->missing));
    if (!request->missing)
        return usk_moves_no_memory(request);
    request->is_for_host = false;
    for (size_t i = 0; i < entry->n_components; i++) {
        struct usk_component *component = entry->components[i];

        if (!usk_request_wants(request, component->name) || moves_have(request, component) ||
            usk_component_is_there(component))
            continue;
        if (component_can_arrive(component) ? !moves_add(request, USK_MOVE_ARRIVE, entry, component, component->bytes)
                                            : !moves_note_missing(request, component->name))
            return usk_moves_no_memory(request);
    }
    for (size_t i = 0; i < request->demand.n_components; i++) {
        if (!usk_entry_component(entry, request->demand.components[i]) &&
            !moves_note_missing(request, request->demand.components[i]))
            return usk_moves_no_memory(request);
    }
    request->is_for_host |= !entry->n_components;
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
        r = usk_moves_mark_arrivals(request);
    request->has_sources = request->n_leaving && usk_moves_may_overlap(request);
    usk_cache_publish_claims(request->cache);
    return r;
}

int usk_moves_mark_eviction(struct unstick_request *request)
{
    int r = UNSTICK_OK;

    request->entry->loader = request;
    request->is_loader = true;
    for (size_t i = 0; r == UNSTICK_OK && i < request->entry->n_components; i++) {
        struct usk_component *component = request->entry->components[i];

        component->lru_bytes = 0;
        if (usk_component_info(component).resident_bytes)
            r = moves_add_leaving(request, USK_MOVE_LEAVE, request->entry, component, 0);
    }
    return r;
}

int usk_moves_mark_added(struct unstick_request *request)
{
    int r = usk_moves_mark_arrivals(request);

    if (r < 0 || !request->is_for_host)
        return r;
    return usk_error_set(&request->error, UNSTICK_NOT_FOUND, 0, "unstick_request_add",
                         "the load of %s ended without registering %s", request->entry->key,
                         request->n_missing ? request->missing[0] : "a component");
}
