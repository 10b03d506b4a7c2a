/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a decision sees: the device as it will be once everything that is under way has ended. What other requests
 * bring counts as there, what they take away counts as gone, and of the memory that is free now only that is shown
 * which nobody has claimed. So two requests that decide one after the other can never promise themselves the same
 * bytes, although neither waits for the other to finish.
 *
 * What a request brings is claimed as far as it is more than what it takes away itself: of that it waits for the end.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/request.h"
#include "monitor/monitor.h"
#include "region/context.h"
#include "region/device.h"

void usk_view_fini(struct usk_view *view)
{
    free(view->entries);
    free(view->real_entries);
    free(view->components);
    free(view->real_components);
    free(view->victims);
    free(view->processes);
    free(view->rival.lru_bytes);
}

static bool view_grow(void **array, size_t n, size_t size)
{
    void *grown = realloc(*array, n * size);

    if (grown)
        *array = grown;
    return grown;
}

static bool view_reserve(struct usk_view *view, size_t n_entries, size_t n_components)
{
    if (n_entries > view->n_entries_allocated) {
        if (!view_grow((void **)&view->entries, n_entries, sizeof(*view->entries)) ||
            !view_grow((void **)&view->real_entries, n_entries, sizeof(struct usk_entry *)))
            return false;
        view->n_entries_allocated = n_entries;
    }
    if (n_components > view->n_components_allocated) {
        if (!view_grow((void **)&view->components, n_components, sizeof(*view->components)) ||
            !view_grow((void **)&view->real_components, n_components, sizeof(struct usk_component *)) ||
            !view_grow((void **)&view->rival.lru_bytes, n_components, sizeof(*view->rival.lru_bytes)) ||
            !view_grow((void **)&view->victims, n_components, sizeof(*view->victims)))
            return false;
        view->n_components_allocated = n_components;
    }
    return true;
}

/* --- the reading --- */

static bool monitor_take(struct unstick_cache *cache)
{
    bool is_taken;

    usk_cache_lock(cache);
    is_taken = cache->monitor && !cache->is_monitor_taken;
    cache->is_monitor_taken |= is_taken;
    usk_cache_unlock(cache);
    return is_taken;
}

/* The processes belong to the monitor until it is used again: the request keeps its own. */
static void request_keep_processes(struct unstick_request *request, struct unstick_reading *reading)
{
    struct unstick_process *processes = NULL;

    if (reading->n_processes)
        processes = malloc(reading->n_processes * sizeof(*processes));
    if (processes)
        memcpy(processes, reading->processes, reading->n_processes * sizeof(*processes));
    else
        reading->n_processes = 0;
    free(request->processes);
    request->processes = processes;
    reading->processes = processes;
}

int usk_request_read(struct unstick_request *request, bool has_processes, struct unstick_reading *ret_reading)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_reading reading = { .size = sizeof(reading) };
    bool has_monitor;
    int r;

    if (atomic_load(&cache->dev->is_lost))
        return usk_error_set(&request->error, UNSTICK_DEVICE_LOST, 0, "unstick_cache_request",
                             "the device was lost; what has a backup can still be read with unstick_region_read()");
    has_monitor = has_processes && monitor_take(cache);
    r = unstick_device_reading(cache->dev, has_monitor ? cache->monitor : NULL, request->now_ns, &reading,
                               &request->error);
    if (r == UNSTICK_OK)
        request_keep_processes(request, &reading);
    if (has_monitor) {
        usk_cache_lock(cache);
        cache->is_monitor_taken = false;
        usk_cache_unlock(cache);
    }
    if (r < 0)
        return r;
    if (request->figures.sources & UNSTICK_SOURCE_TORCH) {
        reading.sources |= UNSTICK_SOURCE_TORCH;
        reading.torch_allocated_bytes = request->figures.torch_allocated_bytes;
        reading.torch_reserved_bytes = request->figures.torch_reserved_bytes;
        reading.torch_active_bytes = request->figures.torch_active_bytes;
        reading.torch_inactive_split_bytes = request->figures.torch_inactive_split_bytes;
    }
    if (request->figures.sources & UNSTICK_SOURCE_CONTEXT) {
        reading.sources |= UNSTICK_SOURCE_CONTEXT;
        reading.context_bytes = request->figures.context_bytes;
    }
    *ret_reading = reading;
    return UNSTICK_OK;
}

/* --- the entries --- */

static enum unstick_tier info_tier(const struct unstick_region_info *info)
{
    /* The slowest in it is what a restore is felt as. */
    if (info->pageable_bytes)
        return UNSTICK_TIER_PAGEABLE;
    if (info->pinned_bytes)
        return UNSTICK_TIER_PINNED;
    return info->file_bytes ? UNSTICK_TIER_FILE : UNSTICK_TIER_AUTO;
}

static const struct usk_component *entry_sharer(const struct usk_entry *entry, const struct usk_component *component)
{
    for (size_t i = 0; i < entry->n_components; i++) {
        if (entry->components[i]->region == component->region)
            return entry->components[i];
    }
    return NULL;
}

/*
 * One region may belong to several entries: a text encoder that two pipelines share. It is there once, so it counts
 * once: for the entry that is asked for, where its absence costs something, else for the first that has it.
 */
static bool view_counts(const struct usk_view *view, const struct usk_entry *entry,
                        const struct usk_component *component, const struct unstick_request *request)
{
    if (!component->region || entry == request->entry)
        return true;
    if (request->entry && entry_sharer(request->entry, component))
        return false;
    for (size_t i = 0; i < view->n_components; i++) {
        if (view->real_components[i] && view->real_components[i]->region == component->region)
            return false;
    }
    return true;
}

/* Adds one component; returns by how much what is under way will change what is free. */
static int64_t view_add_component(struct usk_view *view, struct usk_component *component, bool is_counted)
{
    int64_t freed;

    struct unstick_region_info info = usk_component_info(component);
    uint64_t backed = info.pinned_bytes + info.pageable_bytes + info.file_bytes;
    uint64_t bytes = is_counted ? component->bytes - usk_min(info.dead_bytes, component->bytes) : 0;
    uint64_t resident = usk_min(usk_component_future(component, info.resident_bytes), bytes);

    view->components[view->n_components] = (struct unstick_snapshot_component){
        .name = component->name,
        .bytes = bytes,
        .resident_bytes = resident,
        .unbacked_bytes = usk_min(bytes - usk_min(backed, bytes), resident),
        .tier = info_tier(&info),
        /* A region may also be leased by the host, past the cache. */
        .n_leases = component->n_leases > info.n_leases ? component->n_leases : info.n_leases,
    };
    view->rival.lru_bytes[view->n_components] = component->lru_bytes;
    view->real_components[view->n_components++] = component;
    freed = is_counted ? (int64_t)info.resident_bytes - (int64_t)resident : 0;
    if (component->mover)
        component->mover->balance_bytes += freed;
    return freed;
}

static int64_t view_add_claim(struct usk_view *view, uint64_t bytes)
{
    view->components[view->n_components] =
        (struct unstick_snapshot_component){ .name = "", .bytes = bytes, .resident_bytes = bytes };
    view->rival.lru_bytes[view->n_components] = bytes;
    view->real_components[view->n_components++] = NULL;
    return -(int64_t)bytes;
}

static bool entry_can_reload(const struct usk_entry *entry)
{
    for (size_t i = 0; i < entry->n_components; i++) {
        if (!entry->components[i]->can_reload)
            return false;
    }
    return true;
}

static int64_t view_add_entry(struct usk_view *view, struct usk_entry *entry, const struct unstick_request *request)
{
    bool is_other_loading = entry->loader && entry->loader != request;
    size_t first = view->n_components;
    int64_t freed = 0;

    for (size_t i = 0; i < entry->n_components; i++)
        freed += view_add_component(view, entry->components[i],
                                    view_counts(view, entry, entry->components[i], request));
    if (is_other_loading && entry->claim_bytes) {
        freed += view_add_claim(view, entry->claim_bytes);
        /* In full, although some of it may still be leaving for it: what a region publishes of that is a step older
         * than the accounts, and a host that finds a granule too little has no second try. */
        view->claimed_bytes += (int64_t)entry->claim_bytes;
    }
    if (view->n_components == first)
        return 0;
    view->real_entries[view->snapshot.n_entries] = entry;
    view->entries[view->snapshot.n_entries++] = (struct unstick_snapshot_entry){
        .key = entry->key,
        .fingerprint = entry->fingerprint,
        .components = &view->components[first],
        .n_components = view->n_components - first,
        .is_pinned = entry->is_pinned,
        .is_loading = is_other_loading,
        .can_reload = entry_can_reload(entry),
        .reload_ns = entry->load_ns,
        .last_used_ns = entry->last_used_ns,
        .reuse = entry->reuse,
    };
    return freed;
}

/* Of what is free now, only what nobody claims; of what will be free, the rest is on its way. */
static void view_foresee(struct usk_view *view, int64_t freed_bytes)
{
    struct unstick_reading *reading = &view->reading;
    int64_t free_now = (int64_t)(reading->free_bytes + reading->spare_bytes);
    int64_t free_then = free_now + freed_bytes, free_shown = free_now - view->claimed_bytes, taken;

    /* Spares belong to whoever waits for them; nobody does if nothing is under way. */
    if (!freed_bytes && !view->claimed_bytes)
        return;
    free_then = free_then < 0 ? 0 : free_then;
    free_shown = free_shown < 0 ? 0 : free_shown;
    if (free_shown > (int64_t)reading->free_bytes)
        free_shown = (int64_t)reading->free_bytes;
    taken = (int64_t)reading->free_bytes - free_shown;
    reading->free_bytes = (uint64_t)free_shown;
    reading->resident_bytes += reading->spare_bytes + (uint64_t)taken;
    reading->spare_bytes = 0;
    view->snapshot.pending_bytes = (uint64_t)(free_then - free_shown);
}

/* The accounts as they are now: the marks are of now too, and others moved on since the driver was asked. */
static void view_catch_up(struct usk_view *view, struct unstick_device *dev)
{
    struct unstick_reading *reading = &view->reading;
    uint64_t before = reading->resident_bytes + reading->sentinel_bytes + reading->spare_bytes +
                      reading->poisoned_bytes;
    uint64_t after, free_bytes = reading->free_bytes + before;

    reading->resident_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_RESIDENT]);
    reading->sentinel_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_SENTINEL]);
    reading->spare_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_SPARE]);
    reading->poisoned_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_POISONED]);
    after = reading->resident_bytes + reading->sentinel_bytes + reading->spare_bytes + reading->poisoned_bytes;
    reading->free_bytes = free_bytes - usk_min(free_bytes, after);
}

static uint64_t cache_first_ticket(const struct unstick_cache *cache)
{
    uint64_t first = 0;

    for (const struct unstick_request *request = cache->requests; request; request = request->next) {
        if (request->is_waiting && (!first || request->ticket < first))
            first = request->ticket;
    }
    return first;
}

static void view_see_host(struct usk_view *view, struct unstick_cache *cache, uint64_t limit_bytes)
{
    struct unstick_context_info info = { .size = sizeof(info) };
    uint64_t used, left, yields = 0;

    unstick_context_info(cache->ctx, &info);
    if (limit_bytes)
        info.host_limit_bytes = usk_min(info.host_limit_bytes, limit_bytes);
    used = info.host_pinned_bytes + info.host_pageable_bytes + info.host_ring_bytes;
    left = info.host_limit_bytes - usk_min(info.host_limit_bytes, used);
    /* What is resident, or can be loaded again, gives its host memory up for what cannot. */
    for (size_t i = 0; i < cache->n_entries; i++) {
        for (size_t k = 0; k < cache->entries[i]->n_components; k++) {
            struct unstick_region_info region = usk_component_info(cache->entries[i]->components[k]);

            if (!region.n_leases && (region.state == UNSTICK_REGION_RESIDENT ||
                                     (cache->entries[i]->components[k]->can_reload && !region.resident_bytes)))
                yields += region.pinned_bytes + region.pageable_bytes;
        }
    }
    view->snapshot.host_pinned_bytes = left + yields;
    view->snapshot.host_pageable_bytes = left + yields;
}

/* Entries alone, as they are now; returns by how much what is under way will change what is free. */
static int view_fill_entries(struct unstick_request *request, int64_t *ret_freed)
{
    struct unstick_cache *cache = request->cache;
    struct usk_view *view = &request->view;
    size_t n_components = cache->n_entries + 1;
    uint64_t *lru_bytes;
    int64_t freed = 0;

    for (size_t i = 0; i < cache->n_entries; i++)
        n_components += cache->entries[i]->n_components;
    if (!view_reserve(view, cache->n_entries + 1, n_components))
        return usk_error_set(&request->error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory to decide");
    lru_bytes = view->rival.lru_bytes;
    view->rival = cache->rival;
    view->rival.lru_bytes = lru_bytes;
    view->n_components = 0;
    view->claimed_bytes = 0;
    view->snapshot = (struct unstick_snapshot){
        .size = sizeof(view->snapshot),
        .entries = view->entries,
        .granule_bytes = cache->granule_bytes,
        .limit_bytes = request->demand.limit_bytes,
        .policy = cache->options.policy,
        .turn = cache->turn,
        .first_ticket = cache_first_ticket(cache),
        .rival = &view->rival,
    };
    memcpy(view->snapshot.rates, cache->rates, sizeof(cache->rates));
    for (struct unstick_request *other = cache->requests; other; other = other->next)
        other->balance_bytes = 0;
    for (size_t i = 0; i < cache->n_entries; i++)
        freed += view_add_entry(view, cache->entries[i], request);
    for (struct unstick_request *other = cache->requests; other; other = other->next)
        view->claimed_bytes -= other->balance_bytes < 0 ? other->balance_bytes : 0;
    *ret_freed = freed;
    return UNSTICK_OK;
}

static int view_fill(struct unstick_request *request, const struct unstick_reading *reading)
{
    struct unstick_cache *cache = request->cache;
    struct usk_view *view = &request->view;
    int64_t freed;
    int r;

    /* The accounts before the regions: what leaves in between is promised by neither. */
    view->reading = *reading;
    free(view->processes);
    view->processes = request->processes;
    request->processes = NULL;
    view_catch_up(view, cache->dev);
    r = view_fill_entries(request, &freed);
    if (r < 0)
        return r;
    view->snapshot.reading = &view->reading;
    view_foresee(view, freed);
    view_see_host(view, cache, request->demand.host_limit_bytes);
    return UNSTICK_OK;
}

/* --- the demand --- */

/* Bytes of what is wanted and known; false if something wanted is known to neither the entry nor the offers. */
static bool request_known_bytes(const struct unstick_request *request, uint64_t *ret_bytes)
{
    struct usk_entry *entry = request->entry;
    bool is_stale = strcmp(entry->fingerprint, request->fingerprint);
    size_t n_known = 0;

    *ret_bytes = 0;
    for (size_t i = 0; i < request->n_offered; i++) {
        const struct usk_component *offered = request->offered[i];

        if (!offered || !usk_request_wants(request, offered->name) ||
            (!is_stale && usk_entry_component(entry, offered->name)))
            continue;
        *ret_bytes += offered->bytes;
        n_known++;
    }
    for (size_t i = 0; !is_stale && i < entry->n_components; i++) {
        if (!usk_request_wants(request, entry->components[i]->name))
            continue;
        *ret_bytes += entry->components[i]->bytes;
        n_known++;
    }
    return n_known && n_known >= request->demand.n_components;
}

int usk_request_decide(struct unstick_request *request, const struct unstick_reading *reading)
{
    struct unstick_cache *cache = request->cache;
    struct unstick_demand demand = {
        .size = sizeof(demand),
        .key = request->entry->key,
        .fingerprint = request->fingerprint,
        .quantization = request->demand.quantization,
        .components = request->demand.components,
        .n_components = request->demand.n_components,
        .required_bytes = request->demand.required_bytes,
        .basis = request->demand.basis,
        .working_bytes = request->demand.working_bytes,
        .allow_low_memory = request->demand.allow_low_memory,
        .caller_holds_lease = usk_cache_is_holding(cache, request->holder, request),
        .max_wait_ms = request->demand.max_wait_ms ? request->demand.max_wait_ms : UNSTICK_WAIT_FOREVER,
        .ticket = request->ticket,
        .alternatives = request->demand.alternatives,
        .n_alternatives = request->demand.n_alternatives,
    };
    uint64_t known_bytes;
    int r = view_fill(request, reading);

    if (r < 0)
        return r;
    if (request_known_bytes(request, &known_bytes)) {
        demand.required_bytes = usk_max(known_bytes, 1);
        demand.basis = UNSTICK_BASIS_FILES;
    }
    if (request->demand.max_wait_ms == UNSTICK_CACHE_NO_WAIT)
        demand.max_wait_ms = 0;
    if (request->wait_since_ns)
        demand.waited_ms = (request->now_ns - request->wait_since_ns) / UINT64_C(1000000);
    request->plan = (struct unstick_plan){ .size = sizeof(request->plan),
                                           .victims = request->view.victims,
                                           .max_victims = request->view.n_components };
    r = unstick_decide(&request->view.snapshot, &demand, &request->plan);
    if (r < 0)
        return usk_error_set(&request->error, r, 0, "unstick_decide", "%s", request->plan.reason);
    return UNSTICK_OK;
}

/* --- the account of what LRU had paid --- */

static void request_note(struct unstick_request *request, const struct unstick_plan *plan)
{
    struct usk_view *view = &request->view;
    struct unstick_demand demand = {
        .size = sizeof(demand),
        .key = request->entry->key,
        .components = request->demand.components,
        .n_components = request->demand.n_components,
        .working_bytes = request->demand.working_bytes,
    };

    unstick_rival_note(&view->snapshot, &demand, plan);
    request->cache->rival = view->rival;
    request->cache->rival.lru_bytes = NULL;
    for (size_t i = 0; i < view->n_components; i++) {
        if (view->real_components[i])
            view->real_components[i]->lru_bytes = view->rival.lru_bytes[i];
    }
    request->is_noted = true;
}

void usk_request_note_plan(struct unstick_request *request)
{
    if (!request->is_noted && request->cache->options.policy == UNSTICK_POLICY_COST)
        request_note(request, &request->plan);
}

void usk_request_note_hit(struct unstick_request *request)
{
    struct unstick_plan plan = { .size = sizeof(plan), .verdict = UNSTICK_VERDICT_HIT,
                                 .stale_entry = UNSTICK_NO_ENTRY };
    const struct usk_entry *entry = request->entry;
    bool is_missed = false;
    int64_t freed;

    /* A hit in the shadow too changes nothing: that is the hit that has to be fast. */
    for (size_t i = 0; i < entry->n_components; i++)
        is_missed |= usk_request_wants(request, entry->components[i]->name) &&
                     entry->components[i]->lru_bytes < entry->components[i]->bytes;
    if (!is_missed || request->is_noted || request->cache->options.policy != UNSTICK_POLICY_COST ||
        view_fill_entries(request, &freed) < 0)
        return;
    while (request->view.real_entries[plan.entry] != entry)
        plan.entry++;
    request_note(request, &plan);
}
