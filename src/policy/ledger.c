/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The arithmetic of a decision. Every question of the form "does it fit" is answered here, by the two inequalities of
 * policy.h, so that verdict, victims, suggestions and texts cannot disagree about a byte.
 *
 * Two pools are kept apart. Weights become our granules: they need memory that is free to the driver and room under
 * our limit. Working memory is torch's: it comes from torch's cache too (torch itself flushes that before it fails),
 * and our limit does not know it. Merging the two would either evict for nothing or promise what empty_cache() cannot
 * give.
 */
#include "policy/ledger.h"

#include <string.h>

#include "policy/attribution.h"

static int64_t ledger_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ledger_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static uint64_t ledger_subtract(uint64_t from, uint64_t bytes)
{
    return from > bytes ? from - bytes : 0;
}

static bool ledger_is_same_text(const char *a, const char *b)
{
    return !strcmp(a ? a : "", b ? b : "");
}

static bool reading_is_bounded(const struct unstick_reading *reading)
{
    const uint64_t figures[] = {
        reading->total_bytes,           reading->free_bytes,         reading->resident_bytes,
        reading->sentinel_bytes,        reading->spare_bytes,        reading->poisoned_bytes,
        reading->torch_allocated_bytes, reading->torch_reserved_bytes, reading->torch_active_bytes,
        reading->torch_inactive_split_bytes, reading->context_bytes,
    };

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        if (figures[i] > UNSTICK_POLICY_BYTES_MAX)
            return false;
    }
    return true;
}

/* Looks for the key, and for figures that no device has. */
static const char *ledger_scan(struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                               const struct unstick_demand *demand)
{
    size_t n_components = 0;

    for (size_t i = 0; i < snapshot->n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &snapshot->entries[i];

        if (!entry->key || (entry->n_components && !entry->components))
            return "an entry of the snapshot has no key or no components";
        if (entry->n_components > UNSTICK_POLICY_COMPONENTS_MAX - n_components)
            return "the snapshot has more than 8192 components";
        n_components += entry->n_components;
        for (size_t j = 0; j < entry->n_components; j++) {
            if (!entry->components[j].name)
                return "a component of the snapshot has no name";
            if (entry->components[j].bytes > UNSTICK_POLICY_BYTES_MAX ||
                entry->components[j].resident_bytes > UNSTICK_POLICY_BYTES_MAX)
                return "a component of the snapshot has more than 256 TiB";
            if ((unsigned int)entry->components[j].tier > UNSTICK_TIER_FILE)
                return "a component of the snapshot has a tier that is none";
        }
        if (strcmp(entry->key, demand->key))
            continue;
        if (ledger->entry != UNSTICK_NO_ENTRY || ledger->stale_entry != UNSTICK_NO_ENTRY)
            return "two entries of the snapshot have the demanded key";
        if (ledger_is_same_text(entry->fingerprint, demand->fingerprint))
            ledger->entry = i;
        else
            ledger->stale_entry = i;
    }
    return NULL;
}

bool usk_ledger_is_wanted(const struct unstick_demand *demand, const char *name)
{
    for (size_t i = 0; i < demand->n_components; i++) {
        if (!strcmp(demand->components[i], name))
            return true;
    }
    return !demand->n_components;
}

/* What of the demand is there, and what is to come. */
static void ledger_count_demand(struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                                const struct unstick_demand *demand)
{
    const struct unstick_snapshot_entry *entry;
    uint64_t estimate = demand->required_bytes;
    size_t n_found = 0;
    int64_t known = 0;

    ledger->basis = demand->basis;
    if (!estimate) {
        estimate = unstick_estimate_guess(demand->quantization).bytes;
        ledger->basis = UNSTICK_BASIS_GUESS;
    }
    if (ledger->entry == UNSTICK_NO_ENTRY) {
        ledger->missing_bytes = (int64_t)estimate;
        return;
    }
    entry = &snapshot->entries[ledger->entry];
    for (size_t j = 0; j < entry->n_components; j++) {
        const struct unstick_snapshot_component *component = &entry->components[j];

        if (!usk_ledger_is_wanted(demand, component->name))
            continue;
        n_found++;
        known += (int64_t)component->bytes;
        ledger->own_bytes += (int64_t)component->resident_bytes;
        ledger->missing_bytes += (int64_t)ledger_subtract(component->bytes, component->resident_bytes);
    }
    /* The entry is known by name only, or not with everything that is wanted: the estimate fills the gap. */
    if (!known || n_found < demand->n_components)
        ledger->missing_bytes += (int64_t)ledger_subtract(estimate, (uint64_t)known);
    else
        ledger->basis = UNSTICK_BASIS_FILES;
}

static void ledger_count_holds(struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                               const struct unstick_demand *demand)
{
    for (size_t i = 0; i < snapshot->n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &snapshot->entries[i];

        for (size_t j = 0; j < entry->n_components; j++) {
            enum usk_ledger_hold hold = usk_ledger_hold(ledger, entry, demand, i, j);
            int64_t resident = (int64_t)entry->components[j].resident_bytes;

            if (hold == USK_LEDGER_LEASED)
                ledger->leased_bytes += resident;
            if (i == ledger->stale_entry) {
                ledger->stale_bytes += resident;
                ledger->is_stale_blocked |= hold != USK_LEDGER_FREE;
            }
        }
    }
}

static uint64_t reading_limit(const struct unstick_snapshot *snapshot)
{
    uint64_t ours = snapshot->limit_bytes, accounts = 0;

    if (snapshot->reading->sources & UNSTICK_SOURCE_ACCOUNTS)
        accounts = snapshot->reading->limit_bytes;
    if (ours && accounts)
        return ours < accounts ? ours : accounts;
    return ours ? ours : accounts;
}

/* Without accounts, our use is what the entries say. */
static uint64_t snapshot_held(const struct unstick_snapshot *snapshot)
{
    uint64_t held = 0;

    if (snapshot->reading->sources & UNSTICK_SOURCE_ACCOUNTS)
        return usk_reading_ours(snapshot->reading);
    for (size_t i = 0; i < snapshot->n_entries; i++) {
        for (size_t j = 0; j < snapshot->entries[i].n_components; j++)
            held += snapshot->entries[i].components[j].resident_bytes;
    }
    return held;
}

static const char *ledger_check(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand)
{
    if (!snapshot->reading || !(snapshot->reading->sources & UNSTICK_SOURCE_DRIVER))
        return "the snapshot has no reading of the driver";
    if (snapshot->n_entries && !snapshot->entries)
        return "the snapshot has no entries where it counts some";
    if (!demand->key || !*demand->key)
        return "the demand has no key";
    if ((demand->n_components && !demand->components) || (demand->n_alternatives && !demand->alternatives))
        return "the demand has no list where it counts something";
    if (!reading_is_bounded(snapshot->reading) || demand->required_bytes > UNSTICK_POLICY_BYTES_MAX ||
        demand->working_bytes > UNSTICK_POLICY_BYTES_MAX || snapshot->pending_bytes > UNSTICK_POLICY_BYTES_MAX)
        return "a figure is beyond 256 TiB";
    for (size_t i = 0; i < demand->n_components; i++) {
        if (!demand->components[i])
            return "a component of the demand has no name";
    }
    return NULL;
}

const char *usk_ledger_init(struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                            const struct unstick_demand *demand)
{
    const struct unstick_reading *reading = snapshot->reading;
    const char *wrong = ledger_check(snapshot, demand);
    uint64_t limit;

    *ledger = (struct usk_ledger){ .entry = UNSTICK_NO_ENTRY, .stale_entry = UNSTICK_NO_ENTRY };
    if (!wrong)
        wrong = ledger_scan(ledger, snapshot, demand);
    if (wrong)
        return wrong;
    ledger->free_bytes = (int64_t)reading->free_bytes;
    ledger->cached_bytes = (int64_t)usk_reading_torch_cached(reading);
    if (reading->sources & UNSTICK_SOURCE_ACCOUNTS)
        ledger->spare_bytes = (int64_t)reading->spare_bytes;
    ledger->pending_bytes = (int64_t)snapshot->pending_bytes;
    ledger->working_bytes = (int64_t)demand->working_bytes;
    limit = reading_limit(snapshot);
    ledger->room_bytes = USK_LEDGER_UNLIMITED;
    if (limit && limit <= UNSTICK_POLICY_BYTES_MAX)
        ledger->room_bytes = (int64_t)limit - (int64_t)snapshot_held(snapshot);
    ledger_count_demand(ledger, snapshot, demand);
    ledger_count_holds(ledger, snapshot, demand);
    return NULL;
}

int64_t usk_ledger_shortage(const struct usk_ledger *ledger, int64_t missing_bytes, int64_t working_bytes)
{
    int64_t pool = ledger->free_bytes + ledger->cached_bytes + ledger->spare_bytes;
    int64_t shortage = missing_bytes + working_bytes - pool;

    /* A limit that was lowered under what is held forbids new granules; it asks for nothing by itself. */
    if (missing_bytes)
        shortage = ledger_max(shortage, missing_bytes - ledger->room_bytes - ledger->spare_bytes);
    return ledger_max(shortage, 0);
}

int64_t usk_ledger_available(const struct usk_ledger *ledger, int64_t working_bytes, int64_t evictable_bytes)
{
    int64_t pool = ledger->free_bytes + ledger->cached_bytes;

    return ledger_max(ledger_min(pool, ledger->room_bytes + working_bytes) + ledger->spare_bytes + evictable_bytes,
                      0);
}

int64_t usk_ledger_reclaim(const struct usk_ledger *ledger, int64_t gone_bytes)
{
    int64_t short_bytes = ledger->missing_bytes - ledger->free_bytes - ledger->spare_bytes - gone_bytes;

    return ledger_min(ledger_max(short_bytes, 0), ledger->cached_bytes);
}

uint64_t usk_ledger_others(const struct unstick_reading *reading)
{
    uint64_t rest = ledger_subtract(reading->total_bytes, reading->free_bytes);

    rest = ledger_subtract(rest, usk_reading_ours(reading));
    if (reading->sources & UNSTICK_SOURCE_TORCH)
        rest = ledger_subtract(rest, reading->torch_reserved_bytes);
    if (reading->sources & UNSTICK_SOURCE_CONTEXT)
        rest = ledger_subtract(rest, reading->context_bytes);
    return rest;
}
