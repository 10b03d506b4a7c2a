/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What LRU would have cost. Beside the device stands its shadow, in which LRU chose every victim: sizes only, no
 * contents. Each request is charged to both, at the speed of the tier that it comes from: what really was missing, and
 * what would have been missing in the shadow.
 *
 * The guess of reuse.c is better than LRU where habits can be seen, and as good as chance where they cannot; chance
 * loses as often as it wins, and somebody's day may be the one that loses. So the guess chooses for as long as it can
 * afford to: what was paid, and what it would cost to bring back what only the shadow has, together stay below
 * (1 + RIVAL_MARGIN) times what LRU would have paid. A choice that might break this is LRU's instead.
 *
 * While LRU's choice is followed the excess does not grow: what only we have leaves first, and then what the shadow
 * gives up too; so what a request brings in is missing in the shadow as well, or was counted as to be brought back.
 * That is the whole argument for the bound, and it holds whatever is asked for. It is exact to a component: one of
 * which the shadow has a part leaves as a whole.
 *
 * The idea is that of adaptive caches, which simulate policies beside the contents and imitate the one that misses
 * less, by evicting what its simulation does not hold: R. Subramanian, Y. Smaragdakis, G. H. Loh, "Adaptive Caches:
 * Effective Shaping of Cache Behavior to Workloads", MICRO 2006; after A. Fiat et al., "Competitive Paging Algorithms",
 * Journal of Algorithms 12, 1991, who combine paging algorithms so that the result competes with each of them.
 */
#include "policy/rival.h"

#include "base/math.h"
#include "policy/ledger.h"
#include "policy/victim.h"

#define RIVAL_MARGIN 0.04
/* Then both sums are halved: what was gained long ago is not to be gambled away now. */
#define RIVAL_NOTES 1024

static double component_seconds(const struct unstick_snapshot *snapshot,
                                const struct unstick_snapshot_component *component, uint64_t bytes)
{
    enum unstick_tier tier = component->tier == UNSTICK_TIER_AUTO ? UNSTICK_TIER_FILE : component->tier;

    return (double)bytes / (double)usk_victims_rate(snapshot, tier);
}

static uint64_t component_missing(const struct unstick_snapshot_component *component, uint64_t there_bytes)
{
    return component->bytes - usk_min(component->bytes, there_bytes);
}

/* Bytes of a component that LRU would have here still, and we have not, once it has so much. */
static uint64_t component_owed(const struct unstick_snapshot_component *component, uint64_t lru_bytes,
                               uint64_t resident_bytes)
{
    lru_bytes = usk_min(lru_bytes, component->bytes);
    return lru_bytes - usk_min(lru_bytes, resident_bytes);
}

double usk_rival_lead(const struct unstick_snapshot *snapshot)
{
    const struct unstick_rival *rival = snapshot->rival;
    double owed_s = 0;
    size_t at = 0;

    for (size_t i = 0; i < snapshot->n_entries; i++) {
        for (size_t j = 0; j < snapshot->entries[i].n_components; j++, at++) {
            const struct unstick_snapshot_component *component = &snapshot->entries[i].components[j];

            if (rival->lru_bytes[at] > component->resident_bytes)
                owed_s += component_seconds(snapshot, component,
                                            component_owed(component, rival->lru_bytes[at],
                                                           component->resident_bytes));
        }
    }
    return (1 + RIVAL_MARGIN) * rival->lru_s - rival->paid_s - owed_s;
}

double usk_rival_stake(const struct unstick_snapshot *snapshot, const struct unstick_victim *victims, size_t n_victims)
{
    double stake_s = 0;

    for (size_t i = 0; i < n_victims; i++) {
        const struct unstick_victim *victim = &victims[i];
        const struct unstick_snapshot_component *component =
            &snapshot->entries[victim->entry].components[victim->component];
        size_t at = victim->component;
        uint64_t lru_bytes, left_bytes = component->resident_bytes - victim->bytes;

        for (size_t j = 0; j < victim->entry; j++)
            at += snapshot->entries[j].n_components;
        lru_bytes = snapshot->rival->lru_bytes[at];
        stake_s += component_seconds(snapshot, component,
                                     component_owed(component, lru_bytes, left_bytes) -
                                         component_owed(component, lru_bytes, component->resident_bytes));
    }
    return stake_s;
}

/* Charges what is wanted and known to both; returns what of it was missing. */
static uint64_t rival_charge(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                             const struct unstick_snapshot_entry *entry, uint64_t *lru_bytes)
{
    struct unstick_rival *rival = snapshot->rival;
    uint64_t missing_bytes = 0;

    for (size_t j = 0; j < entry->n_components; j++) {
        const struct unstick_snapshot_component *component = &entry->components[j];
        uint64_t missing = component_missing(component, component->resident_bytes);

        if (!usk_ledger_is_wanted(demand, component->name))
            continue;
        missing_bytes += missing;
        rival->paid_s += component_seconds(snapshot, component, missing);
        rival->lru_s += component_seconds(snapshot, component, component_missing(component, lru_bytes[j]));
        lru_bytes[j] = component->bytes;
    }
    return missing_bytes;
}

static bool shadow_may_leave(const struct unstick_snapshot_entry *entry, size_t component, bool is_demanded,
                             const struct unstick_demand *demand)
{
    if (entry->is_pinned || entry->is_loading || entry->n_leases || entry->components[component].n_leases)
        return false;
    return !is_demanded || !usk_ledger_is_wanted(demand, entry->components[component].name);
}

/* What LRU would evict next: of the entry that was used longest ago, the last component. SIZE_MAX: nothing is left. */
static size_t shadow_pick(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                          size_t demanded)
{
    size_t picked = SIZE_MAX, at = 0;
    uint64_t used_ns = 0;

    for (size_t i = 0; i < snapshot->n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &snapshot->entries[i];
        bool is_older = picked == SIZE_MAX || entry->last_used_ns < used_ns;

        for (size_t j = 0; is_older && j < entry->n_components; j++) {
            if (!snapshot->rival->lru_bytes[at + j] || !shadow_may_leave(entry, j, i == demanded, demand))
                continue;
            picked = at + j;
            used_ns = entry->last_used_ns;
        }
        at += entry->n_components;
    }
    return picked;
}

static void shadow_trim(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand, size_t demanded,
                        uint64_t held_bytes)
{
    uint64_t granule = snapshot->granule_bytes ? snapshot->granule_bytes : 1;

    while (held_bytes > snapshot->rival->room_bytes) {
        size_t at = shadow_pick(snapshot, demand, demanded);
        uint64_t *bytes, taken;

        if (at == SIZE_MAX)
            break;
        bytes = &snapshot->rival->lru_bytes[at];
        taken = usk_min(*bytes, usk_div_up(held_bytes - snapshot->rival->room_bytes, granule) * granule);
        *bytes -= taken;
        held_bytes -= taken;
    }
}

/* What the demanded weights may take beside what else is there: at least what the plan makes of it. */
static uint64_t plan_room(const struct unstick_plan *plan, const struct unstick_demand *demand)
{
    uint64_t needed_bytes = plan->required_bytes - usk_min(plan->required_bytes, plan->evict_bytes);
    uint64_t room_bytes = usk_max(plan->free_bytes, needed_bytes);

    return room_bytes - usk_min(room_bytes, demand->working_bytes);
}

void unstick_rival_note(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                        const struct unstick_plan *plan)
{
    struct unstick_rival *rival = snapshot->rival;
    uint64_t held_bytes = 0, resident_bytes = 0, coming_bytes = plan->missing_bytes;
    size_t demanded = plan->entry, at = 0;

    if (!rival || !rival->lru_bytes || plan->verdict == UNSTICK_VERDICT_WAIT ||
        plan->verdict == UNSTICK_VERDICT_REFUSED)
        return;
    if (++rival->n_notes % RIVAL_NOTES == 0) {
        rival->paid_s /= 2;
        rival->lru_s /= 2;
    }
    for (size_t i = 0; i < snapshot->n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &snapshot->entries[i];

        if (i == demanded)
            coming_bytes -= usk_min(coming_bytes, rival_charge(snapshot, demand, entry, &rival->lru_bytes[at]));
        for (size_t j = 0; j < entry->n_components; j++, at++) {
            if (i == plan->stale_entry)
                rival->lru_bytes[at] = 0;
            rival->lru_bytes[at] = usk_min(rival->lru_bytes[at], entry->components[j].bytes);
            held_bytes += rival->lru_bytes[at];
            if (i != demanded || !usk_ledger_is_wanted(demand, entry->components[j].name))
                resident_bytes += entry->components[j].resident_bytes;
        }
    }
    /* What is not known yet comes in for both, and takes its place in both. */
    rival->paid_s += (double)coming_bytes / (double)usk_victims_rate(snapshot, UNSTICK_TIER_FILE);
    rival->lru_s += (double)coming_bytes / (double)usk_victims_rate(snapshot, UNSTICK_TIER_FILE);
    if (plan->verdict != UNSTICK_VERDICT_HIT || plan->required_bytes)
        rival->room_bytes = resident_bytes + plan_room(plan, demand);
    shadow_trim(snapshot, demand, demanded, held_bytes + coming_bytes);
}
