/* SPDX-License-Identifier: Apache-2.0 */
/* What a plan decides beyond the seed: components, leases, order of arrival, limits, tiers, victims. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <unstick/policy.h>
#include <unstick/status.h>

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

struct desk {
    struct unstick_reading reading;
    struct unstick_snapshot_component components[3][2];
    struct unstick_snapshot_entry entries[3];
    struct unstick_snapshot snapshot;
    struct unstick_demand demand;
    struct unstick_victim victims[6];
    struct unstick_plan plan;
};

/* Three models of 6 GiB each (4 + 2), all there, and a demand for 5 GiB; a, b, c were used in this order. */
static void desk_init(struct desk *desk, uint64_t free_bytes)
{
    static const char *const keys[] = { "a_none", "b_none", "c_none" };

    *desk = (struct desk){
        .reading = { .size = sizeof(desk->reading),
                     .sources = UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS,
                     .total_bytes = 18 * GIB + free_bytes,
                     .free_bytes = free_bytes,
                     .resident_bytes = 18 * GIB },
        .snapshot = { .size = sizeof(desk->snapshot), .n_entries = 3, .turn = 4 },
        .demand = { .size = sizeof(desk->demand), .key = "d_none", .required_bytes = 5 * GIB },
        .plan = { .size = sizeof(desk->plan), .max_victims = 6 },
    };
    for (size_t i = 0; i < 3; i++) {
        desk->entries[i] = (struct unstick_snapshot_entry){ .key = keys[i],
                                                            .components = desk->components[i],
                                                            .n_components = 2,
                                                            .last_used_ns = i + 1 };
        unstick_reuse_note(&desk->entries[i].reuse, i + 1);
        for (size_t j = 0; j < 2; j++)
            desk->components[i][j] =
                (struct unstick_snapshot_component){ .name = j ? "vae" : "transformer",
                                                     .bytes = (j ? 2 : 4) * GIB,
                                                     .resident_bytes = (j ? 2 : 4) * GIB,
                                                     .tier = UNSTICK_TIER_PINNED };
    }
    desk->snapshot.reading = &desk->reading;
    desk->snapshot.entries = desk->entries;
    desk->plan.victims = desk->victims;
}

static const struct unstick_plan *desk_decide(struct desk *desk)
{
    assert_int_equal(unstick_decide(&desk->snapshot, &desk->demand, &desk->plan), UNSTICK_OK);
    return &desk->plan;
}

static bool desk_suggests(const struct desk *desk, enum unstick_suggestion_action action)
{
    for (size_t i = 0; i < desk->plan.n_suggestions; i++) {
        if (desk->plan.suggestions[i].action == action)
            return true;
    }
    return false;
}

static void test_partial_eviction(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 2 * GIB);
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    /* The longest unused, its last component first, and of the next one only what is still missing. */
    assert_int_equal(desk.plan.n_victims, 2);
    assert_int_equal(desk.victims[0].entry, 0);
    assert_int_equal(desk.victims[0].component, 1);
    assert_int_equal(desk.victims[0].bytes, 2 * GIB);
    assert_int_equal(desk.victims[0].n_granules, 32);
    assert_int_equal(desk.victims[1].component, 0);
    assert_int_equal(desk.victims[1].bytes, GIB);
    assert_int_equal(desk.victims[1].tier, UNSTICK_TIER_PINNED);
    assert_int_equal(desk.plan.available_bytes, 20 * GIB);
    assert_int_equal(desk.plan.evictable_bytes, 18 * GIB);
    assert_true(desk.plan.stall_ns > 0);
}

static void test_short_tail_leaves_first(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 5 * GIB - 1);
    desk.components[0][1].bytes = desk.components[0][1].resident_bytes = 100 * MIB;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 36 * MIB);
    desk.reading.free_bytes = 5 * GIB - 37 * MIB;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 100 * MIB);
    desk.snapshot.granule_bytes = 2 * MIB;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 38 * MIB);
}

static void test_leased_and_pinned_stay(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 0);
    desk.entries[0].n_leases = 1;
    desk.components[1][1].n_leases = 1;
    desk.entries[2].is_pinned = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.evictable_bytes, 4 * GIB);
    assert_int_equal(desk.plan.leased_bytes, 8 * GIB);
    desk.demand.required_bytes = 4 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.victims[0].entry, 1);
    assert_int_equal(desk.victims[0].component, 0);
}

static void test_waits_for_leases(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 0);
    for (size_t i = 0; i < 3; i++)
        desk.entries[i].n_leases = 1;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.suggestions[0].action, UNSTICK_SUGGEST_WAIT);
    desk.demand.max_wait_ms = UNSTICK_WAIT_FOREVER;
    desk.demand.waited_ms = UNSTICK_WAIT_FOREVER - 1;
    assert_int_equal(desk_decide(&desk)->wait, UNSTICK_WAIT_LEASES);
    assert_int_equal(desk.plan.n_victims, 0);
    /* With a lease in hand two callers could wait for each other. */
    desk.demand.caller_holds_lease = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    desk.demand.caller_holds_lease = false;
    desk.demand.allow_low_memory = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_WAIT);
    desk.demand.max_wait_ms = 0;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FORCED);
    /* What leases hold suffices to the byte, or would not suffice. */
    desk.demand.max_wait_ms = UNSTICK_WAIT_FOREVER;
    desk.demand.allow_low_memory = false;
    desk.demand.required_bytes = 18 * GIB;
    assert_int_equal(desk_decide(&desk)->wait, UNSTICK_WAIT_LEASES);
    desk.demand.required_bytes++;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
}

/* Leases that hold next to nothing are not worth a word. */
static void test_notable_leases(void **state)
{
    struct desk desk;

    (void)state;
    for (unsigned int mib = 63; mib <= 64; mib++) {
        desk_init(&desk, 5 * GIB - 1);
        desk.snapshot.n_entries = 1;
        desk.entries[0].n_components = 1;
        desk.entries[0].n_leases = 1;
        desk.components[0][0].bytes = desk.components[0][0].resident_bytes = mib * MIB;
        assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
        assert_int_equal(desk.plan.suggestions[0].action == UNSTICK_SUGGEST_WAIT, mib == 64);
    }
}

/* What is there already does not count, however slow its tier: only what is missing is moved. */
static void test_time_of_what_is_missing(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 18 * GIB);
    desk.demand.key = "a_none";
    desk.components[0][0].resident_bytes = 0;
    desk.components[0][1].tier = UNSTICK_TIER_PAGEABLE;
    desk.snapshot.rates[UNSTICK_TIER_PINNED] = desk.snapshot.rates[UNSTICK_TIER_FILE] = 4 * GIB;
    desk.snapshot.rates[UNSTICK_TIER_PAGEABLE] = GIB;
    assert_int_equal(desk_decide(&desk)->move_ns, UINT64_C(1000000000));
    desk.components[0][1].resident_bytes -= 1;
    assert_true(desk_decide(&desk)->move_ns > UINT64_C(3900000000));
}

static void test_order_of_arrival(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 8 * GIB);
    desk.demand.ticket = 7;
    desk.demand.max_wait_ms = UNSTICK_WAIT_FOREVER;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    desk.snapshot.first_ticket = 7;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    desk.snapshot.first_ticket = 6;
    assert_int_equal(desk_decide(&desk)->wait, UNSTICK_WAIT_TURN);
    desk.demand.caller_holds_lease = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    desk.demand.caller_holds_lease = false;
    desk.demand.key = "a_none";
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_HIT);
}

static void test_one_loader(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 8 * GIB);
    desk.demand.key = "a_none";
    desk.components[0][0].resident_bytes = GIB;
    desk.entries[0].is_loading = true;
    desk.demand.max_wait_ms = UNSTICK_WAIT_FOREVER;
    assert_int_equal(desk_decide(&desk)->wait, UNSTICK_WAIT_LOADING);
}

static void test_partly_resident(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, GIB);
    desk.demand.key = "a_none";
    desk.components[0][0].resident_bytes = GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.plan.missing_bytes, 3 * GIB);
    assert_int_equal(desk.plan.required_bytes, 6 * GIB);
    assert_int_equal(desk.plan.available_bytes, 16 * GIB);
    assert_int_equal(desk.plan.evict_bytes, 2 * GIB);
    assert_int_equal(desk.victims[0].entry, 1);
}

/* A pipeline larger than the card: of its own model, what is not wanted now may leave too. */
static void test_components_one_by_one(void **state)
{
    const char *const wanted[] = { "transformer" };
    struct desk desk;

    (void)state;
    desk_init(&desk, GIB);
    desk.snapshot.n_entries = 1;
    desk.reading.resident_bytes = 2 * GIB;
    desk.components[0][0].resident_bytes = 0;
    desk.demand.key = "a_none";
    desk.snapshot.limit_bytes = 4 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    desk.demand.components = wanted;
    desk.demand.n_components = 1;
    desk.reading.free_bytes = 8 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.victims[0].entry, 0);
    assert_int_equal(desk.victims[0].component, 1);
    assert_int_equal(desk.plan.evict_bytes, 2 * GIB);
    desk.components[0][1].n_leases = 1;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
}

static void test_limit(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 100 * GIB);
    desk.snapshot.limit_bytes = 20 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.plan.evict_bytes, 3 * GIB);
    assert_int_equal(desk.plan.available_bytes, 20 * GIB);
    /* Working memory is not ours, and does not count against our limit. */
    desk.demand.working_bytes = 50 * GIB;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 3 * GIB);
    assert_int_equal(desk.plan.available_bytes, 70 * GIB);
    /* The reading's limit counts too; the smaller one is in force, even under what is held. */
    desk.reading.limit_bytes = 10 * GIB;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 13 * GIB);
}

static void test_working_memory_comes_from_torch(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 5 * GIB);
    desk.reading.sources |= UNSTICK_SOURCE_TORCH;
    desk.reading.torch_reserved_bytes = 2 * GIB;
    desk.demand.working_bytes = 2 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    assert_int_equal(desk.plan.actions, 0);
    desk.demand.required_bytes = 6 * GIB;
    desk.demand.working_bytes = GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_RECLAIM);
    assert_int_equal(desk.plan.reclaim_bytes, GIB);
}

static void test_changed_settings(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 100 * GIB);
    desk.demand.key = "b_none";
    desk.demand.fingerprint = "0123456789abcdef";
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.plan.stale_entry, 1);
    assert_int_equal(desk.plan.entry, UNSTICK_NO_ENTRY);
    assert_int_equal(desk.plan.evict_bytes, 6 * GIB);
    assert_true(desk.victims[0].is_discard && desk.victims[1].is_discard);
    /* In use under the old settings: wait, or refuse; force would make two of one key. */
    desk.entries[1].n_leases = 1;
    desk.demand.allow_low_memory = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_non_null(strstr(desk.plan.reason, "other settings"));
    desk.demand.max_wait_ms = 1;
    assert_int_equal(desk_decide(&desk)->wait, UNSTICK_WAIT_LEASES);
    desk.entries[1].fingerprint = "0123456789abcdef";
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_HIT);
}

/* In use with other settings: to force it would be to have two of one key, so nobody is told to. */
static void test_no_force_for_changed_settings(void **state)
{
    struct desk desk;

    (void)state;
    for (uint64_t free_bytes = 0; free_bytes <= 100 * GIB; free_bytes += 100 * GIB) {
        desk_init(&desk, free_bytes);
        desk.reading.total_bytes = 120 * GIB;
        desk.demand.required_bytes = 50 * GIB;
        desk.demand.basis = UNSTICK_BASIS_FILES;
        desk_decide(&desk);
        assert_int_equal(desk.plan.verdict, free_bytes ? UNSTICK_VERDICT_FITS : UNSTICK_VERDICT_REFUSED);
        assert_int_equal(desk_suggests(&desk, UNSTICK_SUGGEST_FORCE), !free_bytes);
        desk.demand.key = "b_none";
        desk.demand.fingerprint = "0123456789abcdef";
        desk.entries[1].n_leases = 1;
        desk_decide(&desk);
        assert_int_equal(desk.plan.verdict, UNSTICK_VERDICT_REFUSED);
        assert_non_null(strstr(desk.plan.reason, "other settings"));
        assert_false(desk_suggests(&desk, UNSTICK_SUGGEST_FORCE));
        /* What others hold is in nobody's way while memory is not short. */
        assert_int_equal(desk_suggests(&desk, UNSTICK_SUGGEST_OTHERS), !free_bytes);
        assert_int_equal(desk_suggests(&desk, UNSTICK_SUGGEST_WAIT), free_bytes != 0);
    }
}

static void test_cheap_tiers_leave_first(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 4 * GIB);
    desk.components[0][0].tier = desk.components[0][1].tier = UNSTICK_TIER_PAGEABLE;
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 1);
    desk.snapshot.policy = UNSTICK_POLICY_LRU;
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 0);
}

static void test_host_memory_for_new_backups(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 0);
    desk.snapshot.n_entries = 1;
    desk.demand.required_bytes = 4 * GIB;
    desk.components[0][0].tier = desk.components[0][1].tier = UNSTICK_TIER_AUTO;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.evictable_bytes, 0);
    desk.snapshot.host_pageable_bytes = 5 * GIB;
    desk.snapshot.host_pinned_bytes = 2 * GIB;
    /* 2 pinned, then 3 pageable are left, which the transformer does not fit into. */
    assert_int_equal(desk_decide(&desk)->evictable_bytes, 2 * GIB);
    desk.snapshot.host_pageable_bytes = 6 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.victims[0].tier, UNSTICK_TIER_PINNED);
    assert_int_equal(desk.victims[1].tier, UNSTICK_TIER_PAGEABLE);
    desk.snapshot.host_pageable_bytes = desk.snapshot.host_pinned_bytes = 0;
    desk.entries[0].can_reload = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_true(desk.victims[0].is_discard);
    assert_int_equal(desk.victims[0].tier, UNSTICK_TIER_AUTO);
}

/* Who goes round is missed longest right after its use; who comes at random is missed as ever. */
static void test_round_robin(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 4 * GIB);
    for (size_t i = 0; i < 3; i++) {
        desk.entries[i].reuse = (struct unstick_reuse){ 0 };
        for (uint64_t turn = i; turn < 40; turn += 4)
            unstick_reuse_note(&desk.entries[i].reuse, turn);
    }
    desk.snapshot.turn = 39;
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 2);
    desk.snapshot.policy = UNSTICK_POLICY_LRU;
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 0);
}

/* A batch of one model is one use: hundreds of requests do not make it look regular, or hide that it is current. */
static void test_batch_is_one_turn(void **state)
{
    struct unstick_reuse reuse = { 0 };

    (void)state;
    for (size_t i = 0; i < 500; i++)
        unstick_reuse_note(&reuse, 3);
    assert_int_equal(reuse.n_uses, 1);
    unstick_reuse_note(&reuse, 7);
    assert_int_equal(reuse.n_uses, 2);
    assert_true(reuse.mean_turns == 4);
    unstick_reuse_note(&reuse, 6); /* a turn that is over is ignored */
    assert_int_equal(reuse.last_turn, 7);
}

/* A visitor is no end of a batch: who is in the middle of one stays, even if another came round more often so far. */
static void test_batch_survives_visitors(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 4 * GIB);
    desk.snapshot.n_entries = 2;
    for (size_t i = 0; i < 2; i++)
        desk.entries[i].reuse = (struct unstick_reuse){ 0 };
    for (uint64_t turn = 1; turn < 12; turn += turn % 2 ? 3 : 1)
        unstick_reuse_note(&desk.entries[0].reuse, turn);
    unstick_reuse_note(&desk.entries[1].reuse, 1);
    unstick_reuse_note(&desk.entries[1].reuse, 13);
    desk.snapshot.turn = 14;
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 1);
    unstick_reuse_note(&desk.entries[1].reuse, 13);
    unstick_reuse_note(&desk.entries[1].reuse, 13);
    assert_int_equal(desk_decide(&desk)->victims[0].entry, 0);
}

static void test_figures_from_outside(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 4 * GIB);
    desk.entries[0].reuse.mean_turns = __builtin_nan("");
    desk.entries[1].reuse.mean_turns = -1;
    desk.entries[2].reuse.deviation_turns = __builtin_inf();
    desk.entries[2].reuse.mean_turns = 1e300;
    assert_int_equal(desk_decide(&desk)->evict_bytes, GIB);
}

static void desk_refuse(struct desk *desk, const char *says)
{
    assert_int_equal(unstick_decide(&desk->snapshot, &desk->demand, &desk->plan), UNSTICK_INVALID_ARGUMENT);
    assert_non_null(strstr(desk->plan.reason, says));
    desk_init(desk, 0);
}

static void test_bad_input(void **state)
{
    struct desk desk;

    (void)state;
    assert_int_equal(unstick_decide(NULL, NULL, NULL), UNSTICK_INVALID_ARGUMENT);
    desk_init(&desk, 0);
    desk.snapshot.size--;
    desk_refuse(&desk, "another size");
    desk.plan.size--;
    desk_refuse(&desk, "another size");
    desk.plan.max_victims = 5;
    desk_refuse(&desk, "room for victims");
    desk.snapshot.reading = NULL;
    desk_refuse(&desk, "no reading");
    desk.reading.sources = UNSTICK_SOURCE_TORCH;
    desk_refuse(&desk, "no reading");
    desk.demand.key = "";
    desk_refuse(&desk, "no key");
    desk.entries[1].key = NULL;
    desk_refuse(&desk, "no key");
    desk.entries[1].components = NULL;
    desk_refuse(&desk, "components");
    desk.entries[2].key = desk.demand.key = "a_none";
    desk_refuse(&desk, "two entries");
    desk.reading.free_bytes = UNSTICK_POLICY_BYTES_MAX + 1;
    desk_refuse(&desk, "256 TiB");
    desk.components[1][1].bytes = UINT64_MAX;
    desk_refuse(&desk, "256 TiB");
    desk.components[1][1].tier = (enum unstick_tier)4;
    desk_refuse(&desk, "tier");
    desk.demand.working_bytes = UINT64_MAX;
    desk_refuse(&desk, "256 TiB");
    desk.demand.n_alternatives = 1;
    desk_refuse(&desk, "no list");
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(unstick_basis_name(UNSTICK_BASIS_GUESS), "guess");
    assert_string_equal(unstick_basis_name((enum unstick_basis)9), "unknown");
    assert_string_equal(unstick_wait_name(UNSTICK_WAIT_TURN), "turn");
    assert_string_equal(unstick_wait_name((enum unstick_wait)9), "unknown");
    assert_string_equal(unstick_suggestion_name(UNSTICK_SUGGEST_RESTART), "restart");
    assert_string_equal(unstick_suggestion_name((enum unstick_suggestion_action)9), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_partial_eviction),
        cmocka_unit_test(test_short_tail_leaves_first),
        cmocka_unit_test(test_leased_and_pinned_stay),
        cmocka_unit_test(test_waits_for_leases),
        cmocka_unit_test(test_notable_leases),
        cmocka_unit_test(test_time_of_what_is_missing),
        cmocka_unit_test(test_order_of_arrival),
        cmocka_unit_test(test_one_loader),
        cmocka_unit_test(test_partly_resident),
        cmocka_unit_test(test_components_one_by_one),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_working_memory_comes_from_torch),
        cmocka_unit_test(test_changed_settings),
        cmocka_unit_test(test_no_force_for_changed_settings),
        cmocka_unit_test(test_cheap_tiers_leave_first),
        cmocka_unit_test(test_host_memory_for_new_backups),
        cmocka_unit_test(test_round_robin),
        cmocka_unit_test(test_batch_is_one_turn),
        cmocka_unit_test(test_batch_survives_visitors),
        cmocka_unit_test(test_figures_from_outside),
        cmocka_unit_test(test_bad_input),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
