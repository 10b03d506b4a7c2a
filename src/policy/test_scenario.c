/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The properties of a plan, checked against arithmetic of its own: nothing of src/policy is used but unstick_decide().
 * Sizes come from few values, so that ties, exact fits and off-by-one cases are common rather than never met.
 */
#include "policy/test_scenario.h"

#include <string.h>

static const char *const component_names[SCENARIO_MAX_COMPONENTS] = { "text_encoder", "text_encoder_2", "transformer",
                                                                      "vae" };
static const char *const entry_keys[SCENARIO_MAX_ENTRIES] = { "a_none",  "a_8-bit", "a_4-bit", "b/c_none",
                                                              "d_4-bit", "e_8-bit", "f_none",  "g_h_4-bit-dq" };

static uint64_t scenario_next(struct scenario *scenario)
{
    uint64_t z;

    if (scenario->n_data) {
        scenario->n_data--;
        scenario->state = (scenario->state ^ *scenario->data) * UINT64_C(0x100000001b3);
        return *scenario->data++;
    }
    z = scenario->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t scenario_pick(struct scenario *scenario, uint64_t n)
{
    return scenario_next(scenario) % n;
}

/* Quarter gigabytes up to `n`, sometimes a byte more or less. */
static uint64_t scenario_bytes(struct scenario *scenario, uint64_t n)
{
    uint64_t bytes = scenario_pick(scenario, n * 4 + 1) << 28, odd = scenario_pick(scenario, 16);

    if (odd == 0)
        return bytes + 1;
    return odd == 1 && bytes ? bytes - 1 : bytes;
}

static bool scenario_chance(struct scenario *scenario, unsigned int one_in)
{
    return scenario_pick(scenario, one_in) == 0;
}

static void scenario_make_entry(struct scenario *scenario, size_t index)
{
    struct unstick_snapshot_entry *entry = &scenario->entries[index];

    *entry = (struct unstick_snapshot_entry){
        .key = entry_keys[index],
        .fingerprint = scenario_chance(scenario, 4) ? "0123" : NULL,
        .components = scenario->components[index],
        .n_components = scenario_pick(scenario, SCENARIO_MAX_COMPONENTS + 1),
        .n_leases = scenario_chance(scenario, 4),
        .is_pinned = scenario_chance(scenario, 8),
        .is_loading = scenario_chance(scenario, 8),
        .can_reload = scenario_chance(scenario, 2),
        .reload_ns = scenario_pick(scenario, 100) * 1000000000,
        .last_used_ns = scenario_pick(scenario, 5) * 1000,
    };
    for (uint64_t i = scenario_pick(scenario, 5), turn = 0; i; i--)
        unstick_reuse_note(&entry->reuse, turn += scenario_pick(scenario, 4));
    for (size_t j = 0; j < entry->n_components; j++) {
        uint64_t bytes = scenario_bytes(scenario, 8);

        scenario->components[index][j] = (struct unstick_snapshot_component){
            .name = component_names[j],
            .bytes = bytes,
            .resident_bytes = scenario_chance(scenario, 3)   ? 0
                              : scenario_chance(scenario, 3) ? bytes / (1 + scenario_pick(scenario, 4))
                                                             : bytes,
            .unbacked_bytes = scenario_chance(scenario, 4) ? bytes / 2 : 0,
            .tier = (enum unstick_tier)scenario_pick(scenario, 4),
            .n_leases = scenario_chance(scenario, 8),
        };
    }
}

/* Ahead, behind, or undecided. */
static void scenario_make_rival(struct scenario *scenario)
{
    if (scenario_chance(scenario, 2))
        return;
    scenario->rival = (struct unstick_rival){ .lru_bytes = scenario->lru_bytes,
                                              .room_bytes = scenario_bytes(scenario, 24),
                                              .paid_s = (double)scenario_pick(scenario, 5),
                                              .lru_s = (double)scenario_pick(scenario, 5) };
    for (size_t i = 0; i < SCENARIO_MAX_VICTIMS; i++)
        scenario->lru_bytes[i] = scenario_chance(scenario, 2) ? scenario_bytes(scenario, 8) : 0;
    scenario->snapshot.rival = &scenario->rival;
}

static void scenario_make_reading(struct scenario *scenario)
{
    struct unstick_reading *reading = &scenario->reading;
    uint64_t resident = 0;

    for (size_t i = 0; i < scenario->snapshot.n_entries; i++) {
        for (size_t j = 0; j < scenario->entries[i].n_components; j++)
            resident += scenario->components[i][j].resident_bytes;
    }
    *reading = (struct unstick_reading){
        .size = sizeof(*reading),
        .sources = UNSTICK_SOURCE_DRIVER | (unsigned int)scenario_pick(scenario, 32),
        .taken_ns = 10000,
        .free_bytes = scenario_bytes(scenario, 24),
        .resident_bytes = resident,
        .spare_bytes = scenario_chance(scenario, 4) ? scenario_bytes(scenario, 2) : 0,
        .torch_reserved_bytes = scenario_chance(scenario, 2) ? scenario_bytes(scenario, 8) : 0,
        .torch_active_bytes = scenario_chance(scenario, 2) ? scenario_bytes(scenario, 4) : 0,
        .torch_inactive_split_bytes = scenario_chance(scenario, 4) ? scenario_bytes(scenario, 1) : 0,
        .limit_bytes = scenario_chance(scenario, 8) ? scenario_bytes(scenario, 24) : 0,
    };
    reading->total_bytes =
        reading->free_bytes + resident + reading->torch_reserved_bytes + scenario_bytes(scenario, 4);
}

static void scenario_make_demand(struct scenario *scenario)
{
    struct unstick_demand *demand = &scenario->demand;
    static const uint64_t waits[] = { 0, UNSTICK_WAIT_FOREVER, 1000 };

    *demand = (struct unstick_demand){
        .size = sizeof(*demand),
        .key = scenario_chance(scenario, 2) ? entry_keys[scenario_pick(scenario, 8)] : "x_4-bit",
        .quantization = (enum unstick_quantization)scenario_pick(scenario, 4),
        .components = scenario->wanted,
        .required_bytes = scenario_bytes(scenario, 32),
        .basis = (enum unstick_basis)scenario_pick(scenario, 5),
        .working_bytes = scenario_chance(scenario, 2) ? scenario_bytes(scenario, 4) : 0,
        .allow_low_memory = scenario_chance(scenario, 4),
        .caller_holds_lease = scenario_chance(scenario, 4),
        .max_wait_ms = waits[scenario_pick(scenario, 3)],
        .waited_ms = scenario_pick(scenario, 3) * 500,
        .ticket = scenario_pick(scenario, 4),
        .alternatives = scenario->alternatives,
        .n_alternatives = scenario_pick(scenario, 4),
    };
    demand->fingerprint = scenario_chance(scenario, 8) ? "4567" : NULL;
    if (scenario_chance(scenario, 4)) {
        demand->n_components = 1 + scenario_pick(scenario, 2);
        for (size_t i = 0; i < 2; i++)
            scenario->wanted[i] = component_names[scenario_pick(scenario, SCENARIO_MAX_COMPONENTS)];
    }
    for (size_t i = 0; i < 3; i++)
        scenario->alternatives[i] = (struct unstick_alternative){
            .quantization = (enum unstick_quantization)i,
            .required_bytes = scenario_bytes(scenario, 24),
            .basis = (enum unstick_basis)scenario_pick(scenario, 5),
        };
}

void scenario_make(struct scenario *scenario, const uint8_t *data, size_t n_data, uint64_t seed)
{
    *scenario = (struct scenario){ .data = data, .n_data = n_data, .state = seed };
    scenario->snapshot = (struct unstick_snapshot){
        .size = sizeof(scenario->snapshot),
        .reading = &scenario->reading,
        .entries = scenario->entries,
        .n_entries = scenario_pick(scenario, SCENARIO_MAX_ENTRIES + 1),
        .limit_bytes = scenario_chance(scenario, 3) ? scenario_bytes(scenario, 24) : 0,
        .granule_bytes = UINT64_C(1) << (21 + scenario_pick(scenario, 8)),
        .policy = (enum unstick_policy_kind)scenario_pick(scenario, 3),
        .turn = scenario_pick(scenario, 20),
        .first_ticket = scenario_pick(scenario, 4),
        .pending_bytes = scenario_chance(scenario, 4) ? scenario_bytes(scenario, 4) : 0,
        .host_pinned_bytes = scenario_bytes(scenario, 16),
        .host_pageable_bytes = scenario_bytes(scenario, 16),
    };
    for (size_t i = 0; i < scenario->snapshot.n_entries; i++)
        scenario_make_entry(scenario, i);
    scenario_make_rival(scenario);
    scenario_make_reading(scenario);
    scenario_make_demand(scenario);
}

/* --- the properties --- */

/* The world as the checks see it. */
struct world {
    const struct scenario *scenario;
    const struct unstick_plan *plan;
    int64_t free, cached, spare, room, missing, working, evictable_most;
    size_t entry; /* the demanded key's, whatever its settings */
    bool is_stale, is_known;
};

static bool is_wanted(const struct scenario *scenario, const char *name)
{
    for (size_t i = 0; i < scenario->demand.n_components; i++) {
        if (!strcmp(scenario->wanted[i], name))
            return true;
    }
    return !scenario->demand.n_components;
}

/* Whether nothing forbids that the component leaves. */
static bool world_may_leave(const struct world *world, size_t i, size_t j)
{
    const struct unstick_snapshot_entry *entry = &world->scenario->entries[i];

    if (entry->n_leases || entry->is_pinned || entry->is_loading || entry->components[j].n_leases)
        return false;
    return world->is_stale || i != world->entry || !is_wanted(world->scenario, entry->components[j].name);
}

static void world_make(struct world *world, const struct scenario *scenario, const struct unstick_plan *plan)
{
    const struct unstick_reading *reading = &scenario->reading;
    bool has_accounts = reading->sources & UNSTICK_SOURCE_ACCOUNTS;
    uint64_t limit = scenario->snapshot.limit_bytes;
    int64_t held = (int64_t)(reading->resident_bytes + (has_accounts ? reading->spare_bytes : 0));

    *world = (struct world){ .scenario = scenario, .plan = plan, .entry = SIZE_MAX };
    world->free = (int64_t)reading->free_bytes;
    world->spare = has_accounts ? (int64_t)reading->spare_bytes : 0;
    if (reading->sources & UNSTICK_SOURCE_TORCH) {
        world->cached = (int64_t)(reading->torch_reserved_bytes - reading->torch_active_bytes -
                                  reading->torch_inactive_split_bytes);
        if (world->cached < 0)
            world->cached = 0;
    }
    if (has_accounts && reading->limit_bytes && (!limit || reading->limit_bytes < limit))
        limit = reading->limit_bytes;
    world->room = limit ? (int64_t)limit - held : INT64_MAX / 4;
    world->working = (int64_t)scenario->demand.working_bytes;
    world->missing = (int64_t)plan->missing_bytes;
    for (size_t i = 0; i < scenario->snapshot.n_entries; i++) {
        if (!strcmp(scenario->entries[i].key, scenario->demand.key)) {
            const char *a = scenario->entries[i].fingerprint, *b = scenario->demand.fingerprint;

            world->entry = i;
            world->is_stale = strcmp(a ? a : "", b ? b : "") != 0;
            world->is_known = !world->is_stale;
        }
    }
    for (size_t i = 0; i < scenario->snapshot.n_entries; i++) {
        for (size_t j = 0; j < scenario->entries[i].n_components; j++) {
            if (world_may_leave(world, i, j))
                world->evictable_most += (int64_t)scenario->components[i][j].resident_bytes;
        }
    }
}

static bool world_fits(const struct world *world, int64_t weights, int64_t reclaimed, int64_t gone)
{
    int64_t direct = world->free + reclaimed < world->room ? world->free + reclaimed : world->room;

    return (!weights || weights <= direct + world->spare + gone) &&
           weights + world->working <= world->free + world->cached + world->spare + gone;
}

static const char *check_victims(const struct world *world)
{
    const struct scenario *scenario = world->scenario;
    const struct unstick_plan *plan = world->plan;
    uint64_t sum = 0, pinned = 0, unbacked = 0, granule = scenario->snapshot.granule_bytes;
    bool seen[SCENARIO_MAX_ENTRIES][SCENARIO_MAX_COMPONENTS] = { { false } };

    for (size_t i = 0; i < plan->n_victims; i++) {
        const struct unstick_victim *victim = &plan->victims[i];
        const struct unstick_snapshot_component *component =
            &scenario->components[victim->entry][victim->component];
        bool is_stale = victim->entry == plan->stale_entry;
        uint64_t dirty = component->tier == UNSTICK_TIER_AUTO ? component->resident_bytes
                                                              : component->unbacked_bytes;

        if (seen[victim->entry][victim->component])
            return "a component leaves twice";
        seen[victim->entry][victim->component] = true;
        if (!world_may_leave(world, victim->entry, victim->component))
            return "what is leased, pinned, loading or demanded leaves";
        if (!victim->bytes || victim->bytes > component->resident_bytes)
            return "more leaves than is there";
        if ((victim->bytes + granule - 1) / granule > victim->n_granules ||
            victim->n_granules > victim->bytes / granule + 1)
            return "granules and bytes of a victim disagree";
        if (victim->bytes < component->resident_bytes && (component->resident_bytes - victim->bytes) % granule)
            return "a granule is cut";
        if (victim->is_discard && !is_stale && !scenario->entries[victim->entry].can_reload)
            return "contents are given up that cannot come back";
        if (i && plan->victims[i - 1].score > victim->score)
            return "victims are not in order";
        if (!victim->is_discard && dirty) {
            unbacked += dirty < component->resident_bytes ? dirty : component->resident_bytes;
            if (victim->tier == UNSTICK_TIER_PINNED)
                pinned += dirty < component->resident_bytes ? dirty : component->resident_bytes;
        }
        sum += victim->bytes;
    }
    if (sum != plan->evict_bytes)
        return "evict_bytes is not the sum over the victims";
    if (unbacked > scenario->snapshot.host_pageable_bytes || pinned > scenario->snapshot.host_pinned_bytes)
        return "new backups exceed the host memory that there is";
    if (sum && plan->verdict != UNSTICK_VERDICT_EVICT && plan->verdict != UNSTICK_VERDICT_FORCED)
        return "victims without a verdict that evicts";
    return NULL;
}

/* Never evicts when it need not, and no more granules than it must. */
static const char *check_need(const struct world *world)
{
    const struct unstick_plan *plan = world->plan;
    const struct unstick_victim *last = plan->n_victims ? &plan->victims[plan->n_victims - 1] : NULL;
    uint64_t granule = world->scenario->snapshot.granule_bytes;

    if (!last)
        return NULL;
    if (world->is_known && !world->missing)
        return "something leaves for what is there";
    if (world_fits(world, world->missing, world->cached, 0) && plan->stale_entry == UNSTICK_NO_ENTRY)
        return "something leaves although the demand fits";
    if (plan->verdict != UNSTICK_VERDICT_EVICT || world->scenario->snapshot.policy == UNSTICK_POLICY_CLEAR_EVERYTHING ||
        last->entry == plan->stale_entry)
        return NULL;
    if (world_fits(world, world->missing, world->cached,
                   (int64_t)(plan->evict_bytes - (last->bytes < granule ? last->bytes : granule))))
        return "a granule leaves that need not";
    return NULL;
}

/* What the plan says will be so is so by plain arithmetic. */
static const char *check_promise(const struct world *world)
{
    const struct unstick_plan *plan = world->plan;
    int64_t reclaim = (int64_t)plan->reclaim_bytes, gone = (int64_t)plan->evict_bytes;
    bool is_short = plan->available_bytes < plan->required_bytes;

    if (reclaim > world->cached || (reclaim && !(plan->actions & UNSTICK_PLAN_EMPTY_CACHE)))
        return "more is reclaimed than there is, or without an action";
    switch (plan->verdict) {
    case UNSTICK_VERDICT_HIT:
        return world->is_known && !world->missing ? NULL : "a hit on what is not there";
    case UNSTICK_VERDICT_FITS:
        if (reclaim || gone || plan->actions)
            return "what fits touches something";
        break;
    case UNSTICK_VERDICT_RECLAIM:
        if (!reclaim || gone || world_fits(world, world->missing, 0, 0))
            return "reclaims for nothing, or evicts while reclaiming";
        break;
    case UNSTICK_VERDICT_EVICT:
        if (!gone)
            return "evicts nothing";
        break;
    case UNSTICK_VERDICT_WAIT:
        if (plan->wait == UNSTICK_WAIT_NONE || world->scenario->demand.caller_holds_lease ||
            world->scenario->demand.waited_ms >= world->scenario->demand.max_wait_ms)
            return "waits for nothing, with a lease in hand, or beyond the limit";
        return plan->actions || gone ? "touches something while it waits" : NULL;
    default:
        if (plan->was_forced != (plan->verdict == UNSTICK_VERDICT_FORCED) ||
            (plan->was_forced && !world->scenario->demand.allow_low_memory))
            return "forced by nobody";
        if (!plan->was_forced && gone)
            return "refused, but something leaves";
        if (plan->stale_entry == UNSTICK_NO_ENTRY && !is_short)
            return "refused although it fits";
        if (plan->stale_entry == UNSTICK_NO_ENTRY &&
            world_fits(world, world->missing, world->cached, (int64_t)plan->evictable_bytes))
            return "refused although plain arithmetic says that it fits";
        return NULL;
    }
    if (is_short)
        return "available is less than required, and yet it is promised";
    return world_fits(world, world->missing, reclaim, gone) ? NULL : "promises what its arithmetic refutes";
}

static bool alternative_is_exact(const struct scenario *scenario, const struct unstick_suggestion *suggestion)
{
    for (size_t i = 0; i < scenario->demand.n_alternatives; i++) {
        if (scenario->alternatives[i].quantization == suggestion->quantization)
            return scenario->alternatives[i].basis <= UNSTICK_BASIS_RULES &&
                   scenario->alternatives[i].required_bytes == suggestion->bytes;
    }
    return false;
}

static const char *check_suggestions(const struct world *world)
{
    const struct unstick_plan *plan = world->plan;
    int64_t own = (int64_t)plan->required_bytes - world->working - world->missing;
    uint64_t last = 0;

    for (size_t i = 0; i < plan->n_suggestions; i++) {
        const struct unstick_suggestion *suggestion = &plan->suggestions[i];
        bool is_offer = suggestion->action <= UNSTICK_SUGGEST_LARGER;

        if (!suggestion->text[0])
            return "a suggestion without words";
        if (is_offer && !world_fits(world, (int64_t)suggestion->bytes, world->cached,
                                    (int64_t)plan->evictable_bytes + own))
            return "suggests what does not fit";
        if (suggestion->action == UNSTICK_SUGGEST_SMALLER) {
            if (suggestion->bytes < last)
                return "smaller modes do not come in order";
            last = suggestion->bytes;
        } else if (suggestion->action == UNSTICK_SUGGEST_LARGER) {
            if (!alternative_is_exact(world->scenario, suggestion))
                return "offers a larger mode by a figure that is not exact";
        } else if (suggestion->action == UNSTICK_SUGGEST_FORCE && world->scenario->demand.allow_low_memory) {
            return "suggests to force what was forced";
        }
    }
    return NULL;
}

static bool plan_is_equal(const struct unstick_plan *a, const struct unstick_plan *b)
{
    if (a->verdict != b->verdict || a->wait != b->wait || a->actions != b->actions || a->n_victims != b->n_victims ||
        a->evict_bytes != b->evict_bytes || a->n_suggestions != b->n_suggestions || strcmp(a->reason, b->reason))
        return false;
    for (size_t i = 0; i < a->n_victims; i++) {
        if (a->victims[i].entry != b->victims[i].entry || a->victims[i].component != b->victims[i].component ||
            a->victims[i].bytes != b->victims[i].bytes || a->victims[i].tier != b->victims[i].tier)
            return false;
    }
    for (size_t i = 0; i < a->n_suggestions; i++) {
        if (strcmp(a->suggestions[i].text, b->suggestions[i].text))
            return false;
    }
    return true;
}

static bool plan_is_short(const struct unstick_plan *plan)
{
    return plan->verdict == UNSTICK_VERDICT_REFUSED || plan->verdict == UNSTICK_VERDICT_FORCED;
}

static bool plan_offers(const struct unstick_plan *plan, const struct unstick_suggestion *suggestion)
{
    for (size_t i = 0; i < plan->n_suggestions; i++) {
        if (plan->suggestions[i].action == suggestion->action &&
            plan->suggestions[i].quantization == suggestion->quantization)
            return true;
    }
    return false;
}

/* With more free memory: nothing that was possible becomes impossible, no offer disappears, no more leaves. */
static const char *check_monotone(const struct unstick_plan *less, const struct unstick_plan *more)
{
    if (more->available_bytes < less->available_bytes)
        return "less is available with more free";
    if (!plan_is_short(less) && plan_is_short(more))
        return "refused with more free";
    if (less->verdict == UNSTICK_VERDICT_EVICT && more->evict_bytes > less->evict_bytes)
        return "more leaves with more free";
    if (plan_is_short(less) != plan_is_short(more) || less->verdict == UNSTICK_VERDICT_WAIT ||
        more->verdict == UNSTICK_VERDICT_WAIT)
        return NULL;
    for (size_t i = 0; i < less->n_suggestions; i++) {
        if (less->suggestions[i].action <= UNSTICK_SUGGEST_LARGER && !plan_offers(more, &less->suggestions[i]))
            return "an offer disappears with more free";
    }
    for (size_t i = 0; i < more->n_suggestions; i++) {
        if (more->suggestions[i].action == UNSTICK_SUGGEST_RESTART && !plan_offers(less, &more->suggestions[i]))
            return "a restart is suggested with more free only";
    }
    return NULL;
}

/* The shadow holds no more of anything than there is of it, and no more in all than there is room for. */
static const char *check_rival(struct scenario *scenario, const struct unstick_plan *plan)
{
    const struct unstick_rival *rival = &scenario->rival;
    struct unstick_rival before = *rival;
    uint64_t held_bytes = 0, free_bytes = 0;
    size_t at = 0;

    unstick_rival_note(&scenario->snapshot, &scenario->demand, plan);
    if (rival->n_notes == before.n_notes)
        return rival->paid_s == before.paid_s && rival->lru_s == before.lru_s ? NULL
                                                                              : "what was not noted cost something";
    if (rival->paid_s < before.paid_s || rival->lru_s < before.lru_s)
        return "a request paid less than nothing";
    for (size_t i = 0; i < scenario->snapshot.n_entries; i++) {
        const struct unstick_snapshot_entry *entry = &scenario->entries[i];
        bool is_held = entry->is_pinned || entry->is_loading || entry->n_leases || i == plan->entry;

        for (size_t j = 0; j < entry->n_components; j++, at++) {
            if (scenario->lru_bytes[at] > entry->components[j].bytes)
                return "the shadow has more of a component than there is";
            held_bytes += scenario->lru_bytes[at];
            if (!is_held && !entry->components[j].n_leases)
                free_bytes += scenario->lru_bytes[at];
        }
    }
    if (held_bytes > rival->room_bytes && free_bytes)
        return "the shadow keeps more than there is room for";
    return NULL;
}

const char *scenario_check(struct scenario *scenario)
{
    struct unstick_victim victims[3][SCENARIO_MAX_VICTIMS];
    struct unstick_plan plans[3];
    struct world world;
    const char *broken;
    uint64_t step = scenario_bytes(scenario, 8) + 1;

    for (size_t i = 0; i < 3; i++) {
        /* Whatever the plan held before has no part in it. */
        memset(victims[i], (int)(0xa5 + i), sizeof(victims[i]));
        memset(&plans[i], (int)(0x5a + i), sizeof(plans[i]));
        plans[i].size = sizeof(plans[i]);
        plans[i].victims = victims[i];
        plans[i].max_victims = SCENARIO_MAX_VICTIMS;
        if (i == 2) {
            scenario->reading.free_bytes += step;
        }
        if (unstick_decide(&scenario->snapshot, &scenario->demand, &plans[i]) != UNSTICK_OK)
            return plans[i].reason[0] ? "a good snapshot is refused" : "a good snapshot is refused without words";
    }
    scenario->reading.free_bytes -= step;
    world_make(&world, scenario, &plans[0]);
    if ((broken = check_victims(&world)) || (broken = check_need(&world)) || (broken = check_promise(&world)) ||
        (broken = check_suggestions(&world)))
        return broken;
    if (!plan_is_equal(&plans[0], &plans[1]))
        return "the same input gives another plan";
    broken = check_monotone(&plans[0], &plans[2]);
    return broken ? broken : check_rival(scenario, &plans[0]);
}
