/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in the cache, for reports. States are not kept anywhere: they are read off the regions and marks, so that a
 * report can not disagree with what is there.
 */
#include <stdio.h>
#include <string.h>

#include "base/math.h"
#include "cache/cache.h"
#include "region/context.h"

const char *unstick_entry_state_name(enum unstick_entry_state state)
{
    static const char *const names[] = { "absent", "loading", "resident", "partial", "evicted", "failed" };

    return (unsigned int)state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

/* [lock] */
static enum unstick_entry_state report_state(const struct usk_entry *entry)
{
    bool has_all = true, has_some = false, has_contents = false;

    if (entry->loader)
        return UNSTICK_ENTRY_LOADING;
    for (size_t i = 0; i < entry->n_components; i++) {
        struct unstick_region_info info = usk_component_info(entry->components[i]);

        if (!entry->components[i]->bytes)
            continue;
        has_all &= info.state == UNSTICK_REGION_RESIDENT;
        has_some |= info.n_resident != 0;
        has_contents |= info.n_resident || info.n_evicted;
    }
    if (!has_contents)
        return entry->has_failed ? UNSTICK_ENTRY_FAILED : UNSTICK_ENTRY_ABSENT;
    if (has_all)
        return UNSTICK_ENTRY_RESIDENT;
    return has_some ? UNSTICK_ENTRY_PARTIAL : UNSTICK_ENTRY_EVICTED;
}

/* [lock] */
static void report_entry(const struct usk_entry *entry, struct unstick_cache_entry_info *info)
{
    *info = (struct unstick_cache_entry_info){
        .state = report_state(entry),
        .n_leases = entry->n_leases,
        .n_components = (uint32_t)entry->n_components,
        .is_pinned = entry->is_pinned,
        .idle_ms = entry->idle_ms,
        .last_used_ns = entry->last_used_ns,
        .n_hits = entry->n_hits,
        .n_loads = entry->n_loads,
        .n_restores = entry->n_restores,
        .n_evictions = entry->n_evictions,
        .load_ns = entry->load_ns,
        .restore_ns = entry->restore_ns,
        .evict_ns = entry->evict_ns,
    };
    snprintf(info->key, sizeof(info->key), "%s", entry->key);
    memcpy(info->fingerprint, entry->fingerprint, sizeof(info->fingerprint));
    for (size_t i = 0; i < entry->n_components; i++) {
        struct unstick_region_info region = usk_component_info(entry->components[i]);

        info->bytes += entry->components[i]->bytes - usk_min(region.dead_bytes, entry->components[i]->bytes);
        info->resident_bytes += region.resident_bytes;
        info->pinned_bytes += region.pinned_bytes;
        info->pageable_bytes += region.pageable_bytes;
        info->file_bytes += region.file_bytes;
    }
}

/* [lock] */
static void report_component(const struct usk_component *component, struct unstick_cache_component_info *info)
{
    struct unstick_region_info region = usk_component_info(component);

    *info = (struct unstick_cache_component_info){
        .bytes = component->bytes - usk_min(region.dead_bytes, component->bytes),
        .resident_bytes = region.resident_bytes,
        .pinned_bytes = region.pinned_bytes,
        .pageable_bytes = region.pageable_bytes,
        .file_bytes = region.file_bytes,
        .n_leases = component->n_leases,
        .last_used_ns = component->last_used_ns,
        .load_ns = component->load_ns,
        .restore_ns = component->restore_ns,
        .evict_ns = component->evict_ns,
    };
    snprintf(info->name, sizeof(info->name), "%s", component->name);
}

int unstick_cache_entries(struct unstick_cache *cache, struct unstick_cache_entry_info *infos, size_t max,
                          size_t *ret_n)
{
    if (usk_context_is_forked(cache->ctx))
        return UNSTICK_FORKED;
    usk_cache_lock(cache);
    for (size_t i = 0; i < cache->n_entries && i < max; i++)
        report_entry(cache->entries[i], &infos[i]);
    *ret_n = cache->n_entries;
    usk_cache_unlock(cache);
    return UNSTICK_OK;
}

int unstick_cache_components(struct unstick_cache *cache, const char *key, struct unstick_cache_component_info *infos,
                             size_t max, size_t *ret_n)
{
    struct usk_entry *entry;

    if (usk_context_is_forked(cache->ctx))
        return UNSTICK_FORKED;
    usk_cache_lock(cache);
    entry = usk_entry_find(cache, key);
    for (size_t i = 0; entry && i < entry->n_components && i < max; i++)
        report_component(entry->components[i], &infos[i]);
    if (entry)
        *ret_n = entry->n_components;
    usk_cache_unlock(cache);
    return entry ? UNSTICK_OK : UNSTICK_NOT_FOUND;
}
