/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision. Its order is its meaning:
 *
 *   1. what is there is a hit, whatever else is short; nothing is touched;
 *   2. who came earlier and waits for memory goes first;
 *   3. what fits takes what is free; nothing is touched;
 *   4. torch's cache before models: giving it back costs no restore;
 *   5. as few granules of others as suffice; so nothing leaves unless the key is not cached, memory is short, and
 *      something is cached, which are the seed's three conditions;
 *   6. a wait, if what is missing is on its way or will come free when leases end;
 *   7. by force, if the caller said so; otherwise refused, with nothing touched.
 *
 * A wait comes before force: who allows low memory wants the model to load, and it loads better when it fits. A plan
 * for EVICT takes from the same list that was counted as evictable, in the same order, so that it can not promise what
 * it does not deliver.
 */
#include <stdio.h>
#include <string.h>

#include <unstick/policy.h>
#include <unstick/status.h>

#include "policy/explain.h"
#include "policy/ledger.h"
#include "policy/rival.h"
#include "policy/suggest.h"
#include "policy/victim.h"

struct decision {
    const struct unstick_snapshot *snapshot;
    const struct unstick_demand *demand;
    struct unstick_plan *plan;
    struct usk_ledger ledger;
    struct usk_victims victims;
    int64_t shortage_bytes; /* what has to leave */
    bool has_rival;
    double lead_s; /* what the choice of victims may cost against LRU's */
};

static bool demand_may_wait(const struct unstick_demand *demand)
{
    return !demand->caller_holds_lease && demand->waited_ms < demand->max_wait_ms;
}

static bool demand_has_to_queue(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand)
{
    return demand->ticket && snapshot->first_ticket && snapshot->first_ticket < demand->ticket &&
           demand_may_wait(demand);
}

static const struct unstick_snapshot_entry *decision_entry(const struct decision *decision)
{
    return decision->ledger.entry == UNSTICK_NO_ENTRY ? NULL
                                                      : &decision->snapshot->entries[decision->ledger.entry];
}

static void decision_wait(struct decision *decision, enum unstick_wait wait)
{
    decision->plan->verdict = UNSTICK_VERDICT_WAIT;
    decision->plan->wait = wait;
}

/* What torch's cache has to give, and how. Workspaces first: one of 32 MiB was seen to pin a segment of 5.4 GiB. */
static void decision_reclaim(struct decision *decision, int64_t bytes)
{
    decision->plan->reclaim_bytes = (uint64_t)bytes;
    if (bytes)
        decision->plan->actions = UNSTICK_PLAN_CLEAR_WORKSPACES | UNSTICK_PLAN_EMPTY_CACHE;
}

/* Takes by cost, unless that may end up dearer than LRU's choice by more than is left to lose. */
static void decision_take(struct decision *decision, int64_t bytes)
{
    struct usk_victims *victims = &decision->victims;
    int64_t evictable_bytes = victims->evictable_bytes;
    bool is_following = victims->is_following;

    usk_victims_take(victims, bytes);
    if (!decision->has_rival || is_following ||
        usk_rival_stake(decision->snapshot, victims->items, victims->n_taken) <= decision->lead_s)
        return;
    usk_victims_init(victims, decision->snapshot, decision->demand, &decision->ledger, true, victims->items);
    /* Where host memory is short, another order finds places for others: what was promised goes first. */
    if (victims->evictable_bytes != evictable_bytes)
        usk_victims_init(victims, decision->snapshot, decision->demand, &decision->ledger, false, victims->items);
    usk_victims_take(victims, bytes);
}

static void decision_evict(struct decision *decision, int64_t bytes)
{
    struct unstick_plan *plan = decision->plan;

    decision_take(decision, bytes);
    plan->n_victims = decision->victims.n_taken;
    for (size_t i = 0; i < plan->n_victims; i++)
        plan->evict_bytes += plan->victims[i].bytes;
}

static void decision_force(struct decision *decision)
{
    struct unstick_plan *plan = decision->plan;

    plan->verdict = UNSTICK_VERDICT_FORCED;
    plan->was_forced = true;
    decision_reclaim(decision, decision->ledger.cached_bytes);
    if (plan->maybe_bytes)
        plan->actions |= UNSTICK_PLAN_COLLECT;
    decision_evict(decision, decision->victims.evictable_bytes);
}

static void decision_refuse(struct decision *decision)
{
    struct unstick_plan *plan = decision->plan;

    plan->verdict = UNSTICK_VERDICT_REFUSED;
    if (plan->maybe_bytes)
        plan->actions = UNSTICK_PLAN_COLLECT | UNSTICK_PLAN_CLEAR_WORKSPACES | UNSTICK_PLAN_EMPTY_CACHE;
}

static void decision_when_short(struct decision *decision)
{
    const struct usk_ledger *ledger = &decision->ledger;
    int64_t later = decision->victims.evictable_bytes + ledger->pending_bytes;

    if (demand_may_wait(decision->demand) && ledger->pending_bytes && decision->shortage_bytes <= later) {
        decision_wait(decision, UNSTICK_WAIT_RECLAIM);
        return;
    }
    if (demand_may_wait(decision->demand) && ledger->leased_bytes &&
        decision->shortage_bytes <= later + ledger->leased_bytes) {
        decision_wait(decision, UNSTICK_WAIT_LEASES);
        return;
    }
    if (decision->demand->allow_low_memory)
        decision_force(decision);
    else
        decision_refuse(decision);
}

/* The key is taken by contents under other settings, which cannot leave now. Force is no help: a key is one entry. */
static void decision_when_stale_stays(struct decision *decision)
{
    const struct unstick_snapshot_entry *entry = &decision->snapshot->entries[decision->ledger.stale_entry];

    if (demand_may_wait(decision->demand) && !entry->is_pinned)
        decision_wait(decision, UNSTICK_WAIT_LEASES);
    else
        decision->plan->verdict = UNSTICK_VERDICT_REFUSED;
}

static void decision_make(struct decision *decision)
{
    const struct unstick_snapshot_entry *entry = decision_entry(decision);
    const struct usk_ledger *ledger = &decision->ledger;
    struct unstick_plan *plan = decision->plan;

    if (entry && entry->is_loading && demand_may_wait(decision->demand)) {
        decision_wait(decision, UNSTICK_WAIT_LOADING);
    } else if (entry && !ledger->missing_bytes) {
        plan->verdict = UNSTICK_VERDICT_HIT;
    } else if (ledger->is_stale_blocked) {
        decision_when_stale_stays(decision);
    } else if (demand_has_to_queue(decision->snapshot, decision->demand)) {
        decision_wait(decision, UNSTICK_WAIT_TURN);
    } else if (decision->shortage_bytes > decision->victims.evictable_bytes) {
        decision_when_short(decision);
    } else if (decision->shortage_bytes || ledger->stale_bytes) {
        plan->verdict = UNSTICK_VERDICT_EVICT;
        decision_evict(decision, decision->shortage_bytes);
        decision_reclaim(decision, usk_ledger_reclaim(ledger, (int64_t)plan->evict_bytes));
    } else {
        decision_reclaim(decision, usk_ledger_reclaim(ledger, 0));
        plan->verdict = plan->reclaim_bytes ? UNSTICK_VERDICT_RECLAIM : UNSTICK_VERDICT_FITS;
    }
}

/* Time to bring in what is missing: from the tiers of a known entry, else from files. */
static uint64_t decision_move_ns(const struct decision *decision)
{
    const struct unstick_snapshot_entry *entry = decision_entry(decision);
    const struct usk_ledger *ledger = &decision->ledger;
    uint64_t rate = usk_victims_rate(decision->snapshot, UNSTICK_TIER_FILE);

    for (size_t i = 0; entry && i < entry->n_components; i++) {
        const struct unstick_snapshot_component *component = &entry->components[i];

        /* The slowest tier in it is what the restore is felt as. */
        if (component->tier != UNSTICK_TIER_AUTO && component->resident_bytes < component->bytes &&
            usk_victims_rate(decision->snapshot, component->tier) < rate)
            rate = usk_victims_rate(decision->snapshot, component->tier);
    }
    return (uint64_t)((double)ledger->missing_bytes / (double)rate * 1e9);
}

static void decision_fill(struct decision *decision)
{
    const struct unstick_reading *reading = decision->snapshot->reading;
    struct usk_ledger *ledger = &decision->ledger;
    struct unstick_plan *plan = decision->plan;
    int64_t weights = ledger->own_bytes + ledger->missing_bytes, cached = ledger->cached_bytes;

    ledger->evictable_bytes = decision->victims.evictable_bytes;
    plan->entry = ledger->entry;
    plan->stale_entry = ledger->stale_entry;
    plan->basis = ledger->basis;
    plan->required_bytes = (uint64_t)(weights + ledger->working_bytes);
    plan->missing_bytes = (uint64_t)ledger->missing_bytes;
    plan->available_bytes = (uint64_t)(ledger->own_bytes + usk_ledger_available(ledger, ledger->working_bytes,
                                                                                ledger->evictable_bytes));
    ledger->cached_bytes = 0;
    plan->free_bytes = (uint64_t)(ledger->own_bytes + usk_ledger_available(ledger, ledger->working_bytes, 0));
    ledger->cached_bytes = cached;
    plan->evictable_bytes = (uint64_t)ledger->evictable_bytes;
    plan->leased_bytes = (uint64_t)ledger->leased_bytes;
    plan->held_by_others_bytes = usk_ledger_others(reading);
    if (reading->sources & UNSTICK_SOURCE_TORCH)
        plan->maybe_bytes = reading->torch_active_bytes;
}

static const char *decision_check(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                                  const struct unstick_plan *plan)
{
    size_t n_components = 0;

    if (!snapshot || snapshot->size != sizeof(*snapshot) || !demand || demand->size != sizeof(*demand))
        return "snapshot or demand is missing, or of another size";
    if (plan->size != sizeof(*plan))
        return "the plan is of another size";
    for (size_t i = 0; snapshot->entries && i < snapshot->n_entries; i++) {
        if (snapshot->entries[i].n_components > UNSTICK_POLICY_COMPONENTS_MAX - n_components)
            return "the snapshot has more than 8192 components";
        n_components += snapshot->entries[i].n_components;
    }
    if (n_components > plan->max_victims || (n_components && !plan->victims))
        return "the plan has less room for victims than the snapshot has components";
    return NULL;
}

static int decision_fail(struct unstick_plan *plan, const char *wrong)
{
    snprintf(plan->reason, sizeof(plan->reason), "%s", wrong);
    return UNSTICK_INVALID_ARGUMENT;
}

int unstick_decide(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                   struct unstick_plan *plan)
{
    struct decision decision = { .snapshot = snapshot, .demand = demand, .plan = plan };
    const char *wrong;
    uint64_t copy_ns;

    if (!plan)
        return UNSTICK_INVALID_ARGUMENT;
    wrong = decision_check(snapshot, demand, plan);
    if (!wrong)
        wrong = usk_ledger_init(&decision.ledger, snapshot, demand);
    if (wrong)
        return decision_fail(plan, wrong);
    *plan = (struct unstick_plan){ .size = sizeof(*plan), .victims = plan->victims, .max_victims = plan->max_victims };
    decision.shortage_bytes =
        usk_ledger_shortage(&decision.ledger, decision.ledger.missing_bytes, decision.ledger.working_bytes);
    decision.has_rival = snapshot->policy == UNSTICK_POLICY_COST && snapshot->rival && snapshot->rival->lru_bytes;
    if (decision.has_rival)
        decision.lead_s = usk_rival_lead(snapshot);
    usk_victims_init(&decision.victims, snapshot, demand, &decision.ledger, decision.lead_s < 0, plan->victims);
    decision_fill(&decision);
    decision_make(&decision);
    if (plan->verdict == UNSTICK_VERDICT_FORCED || plan->verdict == UNSTICK_VERDICT_REFUSED)
        plan->short_bytes = plan->required_bytes > plan->available_bytes
                                ? plan->required_bytes - plan->available_bytes
                                : 0;
    usk_victims_cost(&decision.victims, &plan->stall_ns, &copy_ns);
    plan->move_ns = decision_move_ns(&decision) + copy_ns;
    usk_suggest(&decision.ledger, snapshot, demand, plan);
    usk_explain(&decision.ledger, snapshot, demand, plan);
    return UNSTICK_OK;
}
