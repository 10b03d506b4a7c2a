/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who leaves. Components are ordered by what their absence is expected to cost: (restore time x chance of reuse) per
 * byte. Restore time is linear in bytes at the speed of the tier they come back from, so the order does not depend on
 * how much of each is taken, and taking in that order until enough is free is the cheapest way to free that much, but
 * for the granule that is cut.
 *
 * What always holds: only components that usk_ledger_hold() lets go are in here; the sum of what is taken never
 * exceeds what was counted as evictable; new backups never exceed the host memory that the snapshot grants.
 *
 * Ties are broken to the last byte (use, place, component), so that the same input gives the same victims. Within one
 * entry the last component leaves first, and its last granules: a model that comes back starts with its first.
 */
#include "policy/victim.h"

#include "base/math.h"
#include "policy/reuse.h"

#define VICTIM_GRANULE_BYTES (UINT64_C(64) << 20)
#define VICTIM_GIB 1073741824.0
/* A component that is partly gone must be restored on its next use anyway: rather all of that than a bit of two. */
#define VICTIM_PARTIAL 0.9
#define VICTIM_RANK_OF_PARTLY_OURS 1
#define VICTIM_RANK_OF_BOTH 2

/* Measured on a PCIe Gen5 x16 link; only their ratios decide anything. */
static const uint64_t victim_rates[4] = {
    [UNSTICK_TIER_AUTO] = UINT64_C(50000000000),
    [UNSTICK_TIER_PINNED] = UINT64_C(52000000000),
    [UNSTICK_TIER_PAGEABLE] = UINT64_C(6500000000),
    [UNSTICK_TIER_FILE] = UINT64_C(52000000000),
};

static const struct unstick_snapshot_component *victim_component(const struct unstick_snapshot *snapshot,
                                                                 const struct unstick_victim *victim)
{
    return &snapshot->entries[victim->entry].components[victim->component];
}

static uint64_t snapshot_granule(const struct unstick_snapshot *snapshot)
{
    return snapshot->granule_bytes ? snapshot->granule_bytes : VICTIM_GRANULE_BYTES;
}

static uint64_t component_unbacked(const struct unstick_snapshot_component *component)
{
    if (component->tier == UNSTICK_TIER_AUTO)
        return component->resident_bytes;
    return usk_min(component->unbacked_bytes, component->resident_bytes);
}

uint64_t usk_victims_rate(const struct unstick_snapshot *snapshot, enum unstick_tier tier)
{
    return snapshot->rates[tier] ? snapshot->rates[tier] : victim_rates[tier];
}

/* Where the contents would go with this much host memory left. False: nowhere, and they may not be given up. */
static bool victim_place(const struct usk_victims *victims, struct unstick_victim *victim)
{
    const struct unstick_snapshot_component *component = victim_component(victims->snapshot, victim);
    uint64_t unbacked = component_unbacked(component);

    if (victim->is_discard) {
        victim->tier = UNSTICK_TIER_AUTO;
    } else if (!unbacked) {
        victim->tier = component->tier;
    } else if (unbacked <= usk_min(victims->pinned_bytes, victims->pageable_bytes)) {
        victim->tier = UNSTICK_TIER_PINNED;
    } else if (unbacked <= victims->pageable_bytes) {
        victim->tier = UNSTICK_TIER_PAGEABLE;
    } else if (victims->snapshot->entries[victim->entry].can_reload) {
        victim->tier = UNSTICK_TIER_AUTO;
        victim->is_discard = true;
    } else {
        return false;
    }
    return true;
}

static uint64_t entry_total(const struct unstick_snapshot_entry *entry)
{
    uint64_t total = 0;

    for (size_t i = 0; i < entry->n_components; i++)
        total += entry->components[i].bytes;
    return total;
}

/* Seconds to bring one GiB back, and to copy out what has no backup of it. */
static double victim_seconds(const struct usk_victims *victims, const struct unstick_victim *victim)
{
    const struct unstick_snapshot_entry *entry = &victims->snapshot->entries[victim->entry];
    const struct unstick_snapshot_component *component = &entry->components[victim->component];
    uint64_t unbacked = component_unbacked(component);

    if (victim->is_discard) {
        uint64_t total = entry_total(entry);

        if (entry->reload_ns && total)
            return (double)entry->reload_ns / 1e9 / ((double)total / VICTIM_GIB);
        return victims->seconds[UNSTICK_TIER_PAGEABLE];
    }
    if (!unbacked)
        return victims->seconds[victim->tier];
    return victims->seconds[victim->tier] +
           (double)unbacked / (double)component->resident_bytes * victims->seconds[UNSTICK_TIER_AUTO];
}

/* While LRU is followed: first what LRU would not have here any more. */
static double victim_rank(const struct unstick_snapshot_component *component, uint64_t lru_bytes)
{
    if (lru_bytes >= component->resident_bytes)
        return VICTIM_RANK_OF_BOTH;
    return lru_bytes ? VICTIM_RANK_OF_PARTLY_OURS : 0;
}

static void victim_rate(const struct usk_victims *victims, struct unstick_victim *victim, double chance,
                        uint64_t lru_bytes)
{
    const struct unstick_snapshot_component *component = victim_component(victims->snapshot, victim);

    victim->score = 0;
    if (victims->snapshot->policy != UNSTICK_POLICY_COST)
        return;
    if (victims->is_following) {
        victim->score = victim_rank(component, lru_bytes);
        return;
    }
    victim->score = chance * victim_seconds(victims, victim);
    if (component->resident_bytes < component->bytes)
        victim->score *= VICTIM_PARTIAL;
}

static bool victim_is_before(const struct unstick_snapshot *snapshot, const struct unstick_victim *a,
                             const struct unstick_victim *b)
{
    uint64_t a_used, b_used;

    if (a->score != b->score)
        return a->score < b->score;
    if (a->entry == b->entry)
        return a->component > b->component;
    a_used = snapshot->entries[a->entry].last_used_ns;
    b_used = snapshot->entries[b->entry].last_used_ns;
    return a_used != b_used ? a_used < b_used : a->entry < b->entry;
}

/*
 * A heap that lies backwards in items[n_taken..n_items): its root is the last item. The least one is swapped with the
 * heap's own end, which is the front of the array: so what was taken lines up there in ascending order, in place.
 */
static struct unstick_victim *heap_at(const struct usk_victims *victims, size_t index)
{
    return &victims->items[victims->n_items - 1 - index];
}

static void heap_sink(const struct usk_victims *victims, size_t index)
{
    size_t n = victims->n_items - victims->n_taken;
    struct unstick_victim moving = *heap_at(victims, index);

    for (;;) {
        size_t child = 2 * index + 1;

        if (child >= n)
            break;
        if (child + 1 < n &&
            victim_is_before(victims->snapshot, heap_at(victims, child + 1), heap_at(victims, child)))
            child++;
        if (!victim_is_before(victims->snapshot, heap_at(victims, child), &moving))
            break;
        *heap_at(victims, index) = *heap_at(victims, child);
        index = child;
    }
    *heap_at(victims, index) = moving;
}

static void heap_make(const struct usk_victims *victims)
{
    for (size_t i = (victims->n_items - victims->n_taken) / 2; i--;)
        heap_sink(victims, i);
}

/* The least item moves to the front. */
static struct unstick_victim *heap_pop(struct usk_victims *victims)
{
    struct unstick_victim *front = &victims->items[victims->n_taken], least = *heap_at(victims, 0);

    *heap_at(victims, 0) = *front;
    *front = least;
    victims->n_taken++;
    if (victims->n_taken < victims->n_items)
        heap_sink(victims, 0);
    return front;
}

/* A backup that is to be made takes host memory from those that come later. False: there is none left for it. */
static bool victims_spend(struct usk_victims *victims, struct unstick_victim *victim)
{
    const struct unstick_snapshot_component *component = victim_component(victims->snapshot, victim);
    uint64_t unbacked = component_unbacked(component);

    if (!victim_place(victims, victim))
        return false;
    if (victim->is_discard || !unbacked)
        return true;
    victims->pageable_bytes -= unbacked;
    if (victim->tier == UNSTICK_TIER_PINNED)
        victims->pinned_bytes -= unbacked;
    return true;
}

/*
 * Host memory is short: who gets it is decided in the order of leaving, once, for all. Items that find no place are
 * dropped; the rest stands sorted, which is a heap too, but the wrong way round: so it is turned.
 */
static void victims_place_all(struct usk_victims *victims)
{
    size_t n_kept = 0;

    while (victims->n_taken < victims->n_items) {
        struct unstick_victim *victim = heap_pop(victims);

        if (victims_spend(victims, victim))
            victims->items[n_kept++] = *victim;
    }
    victims->n_items = n_kept;
    victims->n_taken = 0;
    for (size_t i = 0; i < n_kept / 2; i++) {
        struct unstick_victim swapped = victims->items[i];

        victims->items[i] = victims->items[n_kept - 1 - i];
        victims->items[n_kept - 1 - i] = swapped;
    }
    heap_make(victims);
}

void usk_victims_init(struct usk_victims *victims, const struct unstick_snapshot *snapshot,
                      const struct unstick_demand *demand, const struct usk_ledger *ledger,
                      bool is_following, struct unstick_victim *items)
{
    uint64_t unbacked = 0;
    size_t at = 0;

    *victims = (struct usk_victims){ .snapshot = snapshot,
                                     .items = items,
                                     .is_following = is_following,
                                     .pinned_bytes = snapshot->host_pinned_bytes,
                                     .pageable_bytes = snapshot->host_pageable_bytes };
    for (unsigned int tier = 0; tier < 4; tier++)
        victims->seconds[tier] = VICTIM_GIB / (double)usk_victims_rate(snapshot, (enum unstick_tier)tier);
    for (size_t i = 0; i < snapshot->n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &snapshot->entries[i];
        double chance = is_following ? 0 : usk_reuse_chance(&entry->reuse, snapshot->turn);

        for (size_t j = 0; j < entry->n_components; j++, at++) {
            struct unstick_victim *victim = &items[victims->n_items];

            if (!entry->components[j].resident_bytes ||
                usk_ledger_hold(ledger, entry, demand, i, j) != USK_LEDGER_FREE)
                continue;
            *victim = (struct unstick_victim){ .entry = i,
                                               .component = j,
                                               .bytes = entry->components[j].resident_bytes,
                                               .is_discard = i == ledger->stale_entry };
            if (!victim_place(victims, victim))
                continue;
            victim_rate(victims, victim, chance, is_following ? snapshot->rival->lru_bytes[at] : 0);
            if (victim->is_discard && i == ledger->stale_entry)
                victim->score = -1;
            else if (!victim->is_discard)
                unbacked += component_unbacked(&entry->components[j]);
            victims->n_items++;
        }
    }
    heap_make(victims);
    if (unbacked > usk_min(victims->pinned_bytes, victims->pageable_bytes))
        victims_place_all(victims);
    for (size_t i = 0; i < victims->n_items; i++)
        victims->evictable_bytes += (int64_t)items[i].bytes;
}

/* Cuts a victim down to the granules that `bytes` need; the last one may be shorter, and goes first. */
static void victim_cut(struct unstick_victim *victim, uint64_t granule, uint64_t bytes)
{
    uint64_t first = victim->bytes % granule ? victim->bytes % granule : usk_min(granule, victim->bytes);

    victim->n_granules = usk_div_up(victim->bytes, granule);
    if (bytes >= victim->bytes)
        return;
    victim->n_granules = bytes <= first ? 1 : 1 + usk_div_up(bytes - first, granule);
    victim->bytes = first + (victim->n_granules - 1) * granule;
}

void usk_victims_take(struct usk_victims *victims, int64_t bytes)
{
    bool is_whole = victims->snapshot->policy == UNSTICK_POLICY_CLEAR_EVERYTHING && bytes > 0;
    uint64_t granule = snapshot_granule(victims->snapshot);

    while (victims->n_taken < victims->n_items) {
        const struct unstick_victim *next = heap_at(victims, 0);
        bool is_stale = next->score < 0;
        struct unstick_victim *victim;

        if (bytes <= 0 && !is_stale && !is_whole)
            break;
        victim = heap_pop(victims);
        victim_cut(victim, granule, is_whole || is_stale || bytes < 0 ? victim->bytes : (uint64_t)bytes);
        bytes -= (int64_t)victim->bytes;
    }
}

void usk_victims_cost(const struct usk_victims *victims, uint64_t *ret_stall_ns, uint64_t *ret_copy_ns)
{
    const struct unstick_snapshot *snapshot = victims->snapshot;
    double stall = 0, copy = 0;

    for (size_t i = 0; i < victims->n_taken; i++) {
        const struct unstick_victim *victim = &victims->items[i];
        const struct unstick_snapshot_component *component = victim_component(snapshot, victim);

        if (victim->is_discard) {
            stall += victim_seconds(victims, victim) * (double)victim->bytes / VICTIM_GIB;
            continue;
        }
        stall += (double)victim->bytes / (double)usk_victims_rate(snapshot, victim->tier);
        copy += (double)usk_min(component_unbacked(component), victim->bytes) /
                (double)usk_victims_rate(snapshot, UNSTICK_TIER_AUTO);
    }
    *ret_stall_ns = (uint64_t)(stall * 1e9);
    *ret_copy_ns = (uint64_t)(copy * 1e9);
}
