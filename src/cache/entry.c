/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries and their components. An entry is never moved and lives as long as somebody counts as its user; a component
 * lives in exactly one entry, or in the hands of who made it. What is given from outside is checked and copied here,
 * once, so that nothing behind it depends on the life of a caller's memory.
 */
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "cache/cache.h"
#include "region/context.h"
#include "region/device.h"
#include "region/region.h"

struct usk_entry *usk_entry_find(struct unstick_cache *cache, const char *key)
{
    for (size_t i = 0; key && i < cache->n_entries; i++) {
        if (!strcmp(cache->entries[i]->key, key))
            return cache->entries[i];
    }
    return NULL;
}

void usk_entry_free(struct usk_entry *entry)
{
    for (size_t i = 0; i < entry->n_components; i++)
        usk_component_free(entry->components[i]);
    free(entry->components);
    free(entry->key);
    free(entry);
}

struct usk_entry *usk_entry_get(struct unstick_cache *cache, const char *key)
{
    struct usk_entry *entry = usk_entry_find(cache, key), **entries;

    if (entry)
        return entry;
    entries = realloc(cache->entries, (cache->n_entries + 1) * sizeof(*entries));
    if (!entries)
        return NULL;
    cache->entries = entries;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return NULL;
    entry->key = strdup(key);
    if (!entry->key) {
        free(entry);
        return NULL;
    }
    entry->idle_ms = cache->options.has_idle ? cache->options.idle_ms : UNSTICK_IDLE_NEVER;
    cache->entries[cache->n_entries++] = entry;
    return entry;
}

struct usk_component *usk_entry_component(struct usk_entry *entry, const char *name)
{
    for (size_t i = 0; i < entry->n_components; i++) {
        if (!strcmp(entry->components[i]->name, name))
            return entry->components[i];
    }
    return NULL;
}

bool usk_entry_add(struct usk_entry *entry, struct usk_component *component)
{
    struct usk_component **components =
        realloc(entry->components, (entry->n_components + 1) * sizeof(struct usk_component *));

    if (!components)
        return false;
    entry->components = components;
    entry->components[entry->n_components++] = component;
    /* It comes in whatever the policy is. */
    component->lru_bytes = component->bytes;
    return true;
}

void usk_entry_remove(struct usk_entry *entry, struct usk_component *component)
{
    size_t i = 0;

    while (i < entry->n_components && entry->components[i] != component)
        i++;
    if (i == entry->n_components)
        return;
    entry->n_components--;
    memmove(&entry->components[i], &entry->components[i + 1],
            (entry->n_components - i) * sizeof(struct usk_component *));
}

/* One block: the layout, its extents, its paths, and their characters. */
static struct unstick_layout *layout_copy(const struct unstick_layout *layout)
{
    size_t bytes = sizeof(*layout) + layout->n_extents * sizeof(*layout->extents) +
                   layout->n_paths * sizeof(*layout->paths);
    struct unstick_layout *copy;
    struct unstick_extent *extents;
    const char **paths;
    char *text;

    for (size_t i = 0; i < layout->n_paths; i++)
        bytes += strlen(layout->paths[i]) + 1;
    copy = malloc(bytes);
    if (!copy)
        return NULL;
    extents = (struct unstick_extent *)(copy + 1);
    paths = (const char **)(extents + layout->n_extents);
    text = (char *)(paths + layout->n_paths);
    if (layout->n_extents)
        memcpy(extents, layout->extents, layout->n_extents * sizeof(*extents));
    for (size_t i = 0; i < layout->n_paths; i++) {
        size_t length = strlen(layout->paths[i]) + 1;

        paths[i] = memcpy(text, layout->paths[i], length);
        text += length;
    }
    *copy = *layout;
    copy->extents = extents;
    copy->paths = paths;
    return copy;
}

/* What it takes on the device: the last granule is rounded to what the driver hands out. */
static bool component_measure(struct unstick_cache *cache, const struct unstick_cache_component *given,
                              uint64_t *ret_bytes)
{
    struct unstick_region_info info = { .size = sizeof(info) };

    info.bytes = given->layout ? given->layout->bytes : 0;
    if (given->region)
        unstick_region_info(given->region, &info);
    return usk_align_up(info.bytes, cache->granularity_bytes, ret_bytes) && *ret_bytes <= UNSTICK_POLICY_BYTES_MAX;
}

int usk_component_new(struct unstick_cache *cache, const struct unstick_cache_component *given,
                      struct usk_component **ret_component, struct unstick_error *error)
{
    struct usk_component *component;
    uint64_t bytes;

    if (!given || given->size < sizeof(*given) || !given->name || !*given->name || (!given->region && !given->layout))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_component",
                             "a component needs size, a name, and a region or a layout");
    if (given->region && given->region->dev != cache->dev)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_component",
                             "the region of %s is on another device than the cache", given->name);
    if (!component_measure(cache, given, &bytes))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_component",
                             "%s is too large for any device", given->name);
    component = calloc(1, sizeof(*component));
    if (component) {
        component->name = strdup(given->name);
        component->layout = given->layout ? layout_copy(given->layout) : NULL;
    }
    if (!component || !component->name || (given->layout && !component->layout)) {
        if (component)
            usk_component_free(component);
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for %s", given->name);
    }
    component->bytes = bytes;
    component->is_owned = !given->region;
    component->can_reload = given->can_reload || given->layout;
    component->future_bytes = USK_NO_FUTURE;
    component->region = given->region ? unstick_region_ref(given->region) : NULL;
    component->has_no_backup = given->region && !(cache->options.flags & UNSTICK_CACHE_NO_BACKUP);
    *ret_component = component;
    return UNSTICK_OK;
}

void usk_component_free(struct usk_component *component)
{
    unstick_task_free(component->task);
    unstick_region_unref(component->region);
    free(component->layout);
    free(component->name);
    free(component);
}

struct unstick_region_info usk_component_info(const struct usk_component *component)
{
    struct unstick_region_info info = { .size = sizeof(info) };

    if (component->region)
        unstick_region_info(component->region, &info);
    info.resident_bytes = usk_min(info.resident_bytes, component->bytes);
    return info;
}

bool usk_component_is_there(const struct usk_component *component)
{
    struct unstick_region_info info = usk_component_info(component);

    if (component->mover || component->chore == USK_CHORE_EVICT)
        return false;
    return !component->bytes || (component->region && info.state == UNSTICK_REGION_RESIDENT);
}

uint64_t usk_component_future(const struct usk_component *component, uint64_t resident_bytes)
{
    if (component->chore == USK_CHORE_EVICT)
        return 0;
    return component->future_bytes == USK_NO_FUTURE ? resident_bytes : component->future_bytes;
}

/* --- what the host says about entries --- */

/* The lock is held if it is there, and only then. */
static int entry_lock(struct unstick_cache *cache, const char *key, const char *operation,
                      struct usk_entry **ret_entry, struct unstick_error *error)
{
    struct usk_entry *entry;

    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    usk_cache_lock(cache);
    entry = usk_entry_find(cache, key);
    if (!entry) {
        usk_cache_unlock(cache);
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, operation, "the cache has no entry %s",
                             key ? key : "(null)");
    }
    *ret_entry = entry;
    return UNSTICK_OK;
}

static void entry_unlock(struct unstick_cache *cache)
{
    usk_cache_touch(cache);
    usk_cache_unlock(cache);
}

int unstick_cache_pin(struct unstick_cache *cache, const char *key, bool is_pinned, struct unstick_error *error)
{
    struct usk_entry *entry;
    int r = entry_lock(cache, key, "unstick_cache_pin", &entry, error);

    if (r < 0)
        return r;
    entry->is_pinned = is_pinned;
    entry_unlock(cache);
    return UNSTICK_OK;
}

int unstick_cache_set_idle(struct unstick_cache *cache, const char *key, uint64_t idle_ms, struct unstick_error *error)
{
    struct usk_entry *entry;
    int r = entry_lock(cache, key, "unstick_cache_set_idle", &entry, error);

    if (r < 0)
        return r;
    entry->idle_ms = idle_ms;
    entry_unlock(cache);
    return UNSTICK_OK;
}

int unstick_cache_add(struct unstick_cache *cache, const char *key, const struct unstick_cache_component *given,
                      struct unstick_error *error)
{
    struct usk_component *component = NULL;
    struct usk_entry *entry;
    bool is_busy, is_taken, is_added;
    int r;

    if (usk_context_is_forked(cache->ctx))
        return usk_context_fail_forked(error);
    r = usk_component_new(cache, given, &component, error);
    if (r < 0 || !component)
        return r;
    r = entry_lock(cache, key, "unstick_cache_add", &entry, error);
    if (r < 0) {
        usk_component_free(component);
        return r;
    }
    is_busy = entry->loader;
    is_taken = usk_entry_component(entry, component->name);
    is_added = !is_busy && !is_taken && usk_entry_add(entry, component);
    entry_unlock(cache);
    if (is_added)
        return UNSTICK_OK;
    usk_component_free(component);
    if (is_busy)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_cache_add",
                             "a request brings %s; register the component with that request, or later", key);
    if (is_taken)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_cache_add", "%s has a component %s already",
                             key, given->name);
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory for %s", given->name);
}

int unstick_cache_remove(struct unstick_cache *cache, const char *key, const char *name, struct unstick_error *error)
{
    struct usk_component *component;
    struct usk_entry *entry;
    bool is_busy = false;
    int r = entry_lock(cache, key, "unstick_cache_remove", &entry, error);

    if (r < 0)
        return r;
    component = name ? usk_entry_component(entry, name) : NULL;
    if (component)
        is_busy = component->n_leases || component->mover || component->chore || component->adder;
    if (component && !is_busy) {
        usk_entry_remove(entry, component);
        usk_cache_begin_end(cache);
    }
    entry_unlock(cache);
    if (!component)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "unstick_cache_remove", "%s has no component %s", key,
                             name ? name : "(null)");
    if (is_busy)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_cache_remove",
                             "%s of %s is in use by a lease, a request or a task; end those first", name, key);
    usk_component_free(component);
    usk_cache_end(cache);
    return UNSTICK_OK;
}

int unstick_cache_drop(struct unstick_cache *cache, const char *key, struct unstick_error *error)
{
    struct usk_entry *entry;
    bool is_busy;
    int r = entry_lock(cache, key, "unstick_cache_drop", &entry, error);

    if (r < 0)
        return r;
    is_busy = entry->n_users;
    for (size_t i = 0; i < entry->n_components; i++)
        is_busy |= entry->components[i]->n_leases || entry->components[i]->mover || entry->components[i]->chore;
    if (!is_busy) {
        size_t i = 0;

        while (cache->entries[i] != entry)
            i++;
        cache->n_entries--;
        memmove(&cache->entries[i], &cache->entries[i + 1], (cache->n_entries - i) * sizeof(struct usk_entry *));
        if (cache->last_entry == entry)
            cache->last_entry = NULL;
        usk_cache_begin_end(cache);
        usk_event_add(cache, UNSTICK_EVENT_DROP, entry, NULL, 0);
    }
    entry_unlock(cache);
    if (is_busy)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_cache_drop",
                             "%s is in use by a lease, a request or a task; end those first", key);
    usk_entry_free(entry);
    usk_cache_end(cache);
    return UNSTICK_OK;
}
