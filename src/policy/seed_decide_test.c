/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seed's sentences on keys, estimates, conditions, overrides and suggestions, one test each, quoted. Where the seed
 * contradicts itself the test says what holds here; docs/seed.md says why. GB in the seed's code is GiB.
 */
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

/* A card with one cached model on it, and a demand for another. */
struct desk {
    struct unstick_reading reading;
    struct unstick_snapshot_component component;
    struct unstick_snapshot_entry entry;
    struct unstick_snapshot snapshot;
    struct unstick_alternative alternatives[3];
    struct unstick_demand demand;
    struct unstick_victim victims[4];
    struct unstick_plan plan;
};

static void desk_init(struct desk *desk, uint64_t free_bytes, uint64_t cached_bytes)
{
    *desk = (struct desk){
        .reading = { .size = sizeof(desk->reading),
                     .sources = UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS | UNSTICK_SOURCE_TORCH,
                     .total_bytes = 48 * GIB,
                     .free_bytes = free_bytes,
                     .resident_bytes = cached_bytes },
        .component = { .name = "transformer",
                       .bytes = cached_bytes,
                       .resident_bytes = cached_bytes,
                       .tier = UNSTICK_TIER_PINNED },
        .entry = { .key = "black-forest-labs/FLUX.1-dev_8-bit", .n_components = 1 },
        .snapshot = { .size = sizeof(desk->snapshot), .n_entries = cached_bytes != 0 },
        .demand = { .size = sizeof(desk->demand),
                    .key = "black-forest-labs/FLUX.1-dev_4-bit",
                    .quantization = UNSTICK_QUANTIZATION_4BIT },
        .plan = { .size = sizeof(desk->plan), .max_victims = 4 },
    };
    desk->entry.components = &desk->component;
    desk->snapshot.reading = &desk->reading;
    desk->snapshot.entries = &desk->entry;
    desk->plan.victims = desk->victims;
}

static void desk_offer(struct desk *desk, enum unstick_quantization quantization, uint64_t bytes,
                       enum unstick_basis basis)
{
    desk->demand.alternatives = desk->alternatives;
    desk->alternatives[desk->demand.n_alternatives++] =
        (struct unstick_alternative){ .quantization = quantization, .required_bytes = bytes, .basis = basis };
}

static const struct unstick_plan *desk_decide(struct desk *desk)
{
    assert_int_equal(unstick_decide(&desk->snapshot, &desk->demand, &desk->plan), UNSTICK_OK);
    return &desk->plan;
}

static const struct unstick_suggestion *plan_find(const struct unstick_plan *plan,
                                                  enum unstick_suggestion_action action,
                                                  enum unstick_quantization quantization)
{
    for (size_t i = 0; i < plan->n_suggestions; i++) {
        if (plan->suggestions[i].action == action && plan->suggestions[i].quantization == quantization)
            return &plan->suggestions[i];
    }
    return NULL;
}

static bool plan_suggests(const struct unstick_plan *plan, enum unstick_suggestion_action action)
{
    for (size_t i = 0; i < plan->n_suggestions; i++) {
        if (plan->suggestions[i].action == action)
            return true;
    }
    return false;
}

/* "`{model_id}_{quantization}` format ensures different quantization modes are treated as separate models requiring
 * cache invalidation." */
static void test_quantizations_are_separate_models(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 2 * GIB, 12 * GIB);
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(desk.plan.entry, UNSTICK_NO_ENTRY);
    assert_int_equal(desk.plan.victims[0].entry, 0);
    desk.demand.key = "black-forest-labs/FLUX.1-dev_8-bit";
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_HIT);
    assert_int_equal(desk.plan.entry, 0);
}

/* "4-bit quantization: 8.0GB conservative estimate", "8-bit quantization: 12.0GB conservative estimate", "Full
 * precision: 20.0GB conservative estimate"; "Estimates memory requirements per quantization mode". */
static void test_estimates_per_mode(void **state)
{
    static const struct {
        enum unstick_quantization quantization;
        uint64_t bytes;
    } guesses[] = {
        { UNSTICK_QUANTIZATION_4BIT, UNSTICK_GUESS_4BIT_BYTES },
        { UNSTICK_QUANTIZATION_8BIT, UNSTICK_GUESS_8BIT_BYTES },
        { UNSTICK_QUANTIZATION_NONE, UNSTICK_GUESS_NONE_BYTES },
    };
    struct desk desk;

    (void)state;
    assert_int_equal(UNSTICK_GUESS_4BIT_BYTES, 8 * GIB);
    assert_int_equal(UNSTICK_GUESS_8BIT_BYTES, 12 * GIB);
    assert_int_equal(UNSTICK_GUESS_NONE_BYTES, 20 * GIB);
    for (size_t i = 0; i < 3; i++) {
        desk_init(&desk, guesses[i].bytes, 0);
        desk.demand.quantization = guesses[i].quantization;
        desk.demand.key = "x_y";
        assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
        assert_int_equal(desk.plan.required_bytes, guesses[i].bytes);
        assert_int_equal(unstick_estimate_guess(guesses[i].quantization).bytes, guesses[i].bytes);
        assert_int_equal(desk.plan.basis, UNSTICK_BASIS_GUESS);
        assert_non_null(strstr(desk.plan.reason, "guess"));
        desk.reading.free_bytes--;
        assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
        /* Whatever is known is believed instead. */
        desk.demand.required_bytes = 3 * GIB;
        desk.demand.basis = UNSTICK_BASIS_LEARNED;
        assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
        assert_int_equal(desk.plan.basis, UNSTICK_BASIS_LEARNED);
    }
}

/* "Cache clearing only triggered when: 1. Requested model/quantization differs from cached". */
static void test_condition_differs_from_cached(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 0, 12 * GIB);
    desk.demand.key = desk.entry.key;
    desk.demand.working_bytes = 40 * GIB; /* however short memory is */
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_HIT);
    assert_int_equal(desk.plan.n_victims, 0);
    assert_int_equal(desk.plan.actions, 0);
}

/* "2. Available GPU memory < estimated requirement". */
static void test_condition_less_than_required(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 8 * GIB, 12 * GIB);
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    assert_int_equal(desk.plan.n_victims, 0);
    desk.reading.free_bytes--;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_EVICT);
    /* The seed clears all of it; one byte short costs one granule here. */
    assert_int_equal(desk.plan.n_victims, 1);
    assert_int_equal(desk.plan.victims[0].n_granules, 1);
    assert_int_equal(desk.plan.evict_bytes, UINT64_C(64) << 20);
    desk.snapshot.policy = UNSTICK_POLICY_CLEAR_EVERYTHING;
    assert_int_equal(desk_decide(&desk)->evict_bytes, 12 * GIB);
}

/* "3. Cache is not empty". */
static void test_condition_not_empty(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 7 * GIB, 0);
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.n_victims, 0);
    assert_int_equal(desk.plan.short_bytes, GIB);
}

/* "Available memory calculation": torch's cache counts as far as empty_cache() really gives it back. */
static void test_available_counts_what_torch_gives_back(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 5 * GIB, 0);
    desk.reading.torch_reserved_bytes = 5 * GIB;
    desk.reading.torch_active_bytes = GIB;
    desk.reading.torch_inactive_split_bytes = GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_RECLAIM);
    assert_int_equal(desk.plan.available_bytes, 8 * GIB);
    assert_int_equal(desk.plan.reclaim_bytes, 3 * GIB);
    assert_int_equal(desk.plan.actions, UNSTICK_PLAN_CLEAR_WORKSPACES | UNSTICK_PLAN_EMPTY_CACHE);
    desk.reading.torch_inactive_split_bytes++;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
}

/* "Detects when cache is empty but memory remains high (indicates quantized model cleanup failure)"; "Detailed error
 * messages with cleanup failure context". */
static void test_cache_empty_but_memory_high(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 7 * GIB, 0);
    desk.reading.total_bytes = 24 * GIB;
    desk.reading.torch_reserved_bytes = 12 * GIB;
    desk.reading.torch_active_bytes = 12 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.maybe_bytes, 12 * GIB);
    assert_int_equal(desk.plan.held_by_others_bytes, 5 * GIB);
    assert_true(desk.plan.actions & UNSTICK_PLAN_COLLECT);
    assert_non_null(strstr(desk.plan.reason, "12.0 GiB are live in torch"));
    assert_non_null(strstr(desk.plan.reason, "5.0 GiB are held by others"));
    assert_true(plan_suggests(&desk.plan, UNSTICK_SUGGEST_COLLECT));
    /* Only what could suffice is worth looking for. */
    desk.demand.required_bytes = 19 * GIB;
    assert_true(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_COLLECT));
    desk.demand.required_bytes++;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_COLLECT));
    desk.demand.required_bytes = 12 * GIB;
    assert_true(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_OTHERS));
    desk.demand.required_bytes++;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_OTHERS));
}

/* "`allow_low_memory: true` in system constraints bypasses safety checks"; "Enables forcing model loading when cleanup
 * fails"; "Risk: Potential system hangs or OOM errors". */
static void test_override_forces(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 3 * GIB, 2 * GIB);
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_false(desk.plan.was_forced);
    desk.demand.allow_low_memory = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FORCED);
    assert_true(desk.plan.was_forced);
    assert_int_equal(desk.plan.short_bytes, 3 * GIB);
    assert_non_null(strstr(desk.plan.reason, "3.0 GiB are missing"));
    assert_non_null(strstr(desk.plan.reason, "allow_low_memory"));
    /* The cleanup is still done, as far as it goes. */
    assert_int_equal(desk.plan.evict_bytes, 2 * GIB);
}

/* By its value, not by its mere presence: false is false; and what fits was not forced. */
static void test_override_by_value(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 3 * GIB, 0);
    desk.demand.allow_low_memory = false;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    desk_init(&desk, 9 * GIB, 0);
    desk.demand.allow_low_memory = true;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    assert_false(desk.plan.was_forced);
}

/* "Set 'allow_low_memory': true in system constraints to override this safety check." */
static void test_refusal_names_the_override(void **state)
{
    struct desk desk;
    const struct unstick_suggestion *force;

    (void)state;
    desk_init(&desk, 7 * GIB, 0);
    force = plan_find(desk_decide(&desk), UNSTICK_SUGGEST_FORCE, UNSTICK_QUANTIZATION_4BIT);
    assert_non_null(force);
    assert_non_null(strstr(force->text, "'allow_low_memory': true"));
    /* What cannot be on this card is not worth forcing. */
    desk.demand.required_bytes = 49 * GIB;
    desk.demand.basis = UNSTICK_BASIS_RULES;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_FORCE));
}

/* "4-bit -> 8-bit when 10GB+ available": as better quality, by an exact figure. */
static void test_offers_8bit_from_10(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, UNSTICK_OFFER_8BIT_BYTES, 0);
    desk_offer(&desk, UNSTICK_QUANTIZATION_8BIT, 9 * GIB, UNSTICK_BASIS_RULES);
    assert_non_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    desk.reading.free_bytes--;
    assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    desk.reading.free_bytes++;
    desk.alternatives[0].basis = UNSTICK_BASIS_LEARNED;
    assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    desk.alternatives[0].basis = UNSTICK_BASIS_RULES;
    desk.alternatives[0].required_bytes = 10 * GIB + 1;
    assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    assert_int_equal(UNSTICK_OFFER_8BIT_BYTES, 10 * GIB);
}

/* The contradiction: 8-bit is offered at 10 GB, and estimated at 12. Here the estimate wins, in both directions. */
static void test_8bit_at_10_but_estimated_at_12(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 10 * GIB, 0);
    desk_offer(&desk, UNSTICK_QUANTIZATION_8BIT, UNSTICK_GUESS_8BIT_BYTES, UNSTICK_BASIS_RULES);
    assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    desk.reading.free_bytes = 12 * GIB;
    assert_non_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_8BIT));
    desk_init(&desk, 10 * GIB, 0);
    desk.demand.quantization = UNSTICK_QUANTIZATION_NONE;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_null(plan_find(&desk.plan, UNSTICK_SUGGEST_SMALLER, UNSTICK_QUANTIZATION_8BIT));
    assert_non_null(plan_find(&desk.plan, UNSTICK_SUGGEST_SMALLER, UNSTICK_QUANTIZATION_4BIT));
}

/* "4-bit/8-bit -> full precision when 20GB+ available". */
static void test_offers_full_precision_from_20(void **state)
{
    static const enum unstick_quantization from[] = { UNSTICK_QUANTIZATION_4BIT, UNSTICK_QUANTIZATION_8BIT };
    struct desk desk;

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        desk_init(&desk, UNSTICK_OFFER_NONE_BYTES, 0);
        desk.demand.quantization = from[i];
        desk_offer(&desk, UNSTICK_QUANTIZATION_NONE, 19 * GIB, UNSTICK_BASIS_RULES);
        assert_non_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_NONE));
        desk.reading.free_bytes--;
        assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_LARGER, UNSTICK_QUANTIZATION_NONE));
    }
    assert_int_equal(UNSTICK_OFFER_NONE_BYTES, 20 * GIB);
    /* Nothing is better than what is best. */
    desk.demand.quantization = UNSTICK_QUANTIZATION_NONE;
    desk.demand.required_bytes = GIB;
    desk.reading.free_bytes = 40 * GIB;
    assert_int_equal(desk_decide(&desk)->n_suggestions, 0);
}

/* "Workflow restart when <6GB available": with nothing left to reclaim. */
static void test_restart_below_6(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, UNSTICK_VIABLE_BYTES - 1, 0);
    assert_true(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_RESTART));
    desk.reading.free_bytes = UNSTICK_VIABLE_BYTES;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_RESTART));
    assert_int_equal(UNSTICK_VIABLE_BYTES, 6 * GIB);
    /* Torch's cache, or a model in use: something is left, so no restart yet. */
    desk.reading.free_bytes = 2 * GIB;
    desk.reading.torch_reserved_bytes = GIB;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_RESTART));
    desk_init(&desk, 2 * GIB, 3 * GIB);
    desk.entry.n_leases = 1;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_RESTART));
    /* And so is what is on its way back, though it will not suffice. */
    desk_init(&desk, 2 * GIB, 0);
    desk.snapshot.pending_bytes = GIB;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_RESTART));
    /* What fits below 6 GB is no reason to restart. */
    desk_init(&desk, 2 * GIB, 0);
    desk.demand.required_bytes = GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
    assert_false(plan_suggests(&desk.plan, UNSTICK_SUGGEST_RESTART));
}

/* "Provides context-aware fallback suggestions based on available memory": when short, what fits, smaller first. */
static void test_smaller_first(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 13 * GIB, 0);
    desk.demand.quantization = UNSTICK_QUANTIZATION_NONE;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(desk.plan.suggestions[0].action, UNSTICK_SUGGEST_SMALLER);
    assert_int_equal(desk.plan.suggestions[0].quantization, UNSTICK_QUANTIZATION_4BIT);
    assert_non_null(strstr(desk.plan.suggestions[0].text, "guess"));
    assert_int_equal(desk.plan.suggestions[1].action, UNSTICK_SUGGEST_SMALLER);
    assert_int_equal(desk.plan.suggestions[1].quantization, UNSTICK_QUANTIZATION_8BIT);
    /* Known figures are used before guesses, and working memory counts. */
    desk_offer(&desk, UNSTICK_QUANTIZATION_4BIT, 11 * GIB, UNSTICK_BASIS_RULES);
    desk.demand.working_bytes = GIB + 1;
    assert_int_equal(desk_decide(&desk)->suggestions[0].bytes, 11 * GIB);
    assert_null(plan_find(&desk.plan, UNSTICK_SUGGEST_SMALLER, UNSTICK_QUANTIZATION_8BIT));
    desk.demand.working_bytes = 2 * GIB + 1;
    assert_false(plan_suggests(desk_decide(&desk), UNSTICK_SUGGEST_SMALLER));
}

/* A guess grows with the model: where a demand is half as large again as the guess for its mode, so are the others. */
static void test_guesses_grow(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 18 * GIB, 0);
    desk.demand.quantization = UNSTICK_QUANTIZATION_NONE;
    desk.demand.required_bytes = 30 * GIB;
    assert_int_equal(desk_decide(&desk)->suggestions[0].bytes, 12 * GIB);
    assert_int_equal(desk.plan.suggestions[1].bytes, 18 * GIB);
    desk.reading.free_bytes--;
    assert_null(plan_find(desk_decide(&desk), UNSTICK_SUGGEST_SMALLER, UNSTICK_QUANTIZATION_8BIT));
    /* It does not shrink: conservative is what the seed calls it. */
    desk.reading.free_bytes = 8 * GIB;
    desk.demand.required_bytes = 10 * GIB;
    assert_int_equal(desk_decide(&desk)->suggestions[0].bytes, 8 * GIB);
}

/* "Rechecks available memory after waiting and proceeds if sufficient memory becomes available"; "Updates memory
 * readings and proceeds if threshold met". A wait has a cause that can still yield, and ends with it. */
static void test_waits_for_what_comes_back(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 5 * GIB, 0);
    desk.snapshot.pending_bytes = 3 * GIB;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED); /* it may not wait */
    desk.demand.max_wait_ms = 7000;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_WAIT);
    assert_int_equal(desk.plan.wait, UNSTICK_WAIT_RECLAIM);
    desk.demand.waited_ms = 6999;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_WAIT);
    desk.demand.waited_ms = 7000;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    desk.demand.waited_ms = 500;
    desk.reading.free_bytes = 8 * GIB;
    desk.snapshot.pending_bytes = 0;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_FITS);
}

/* The contradiction: a wait of 5 s for an event of 5 to 10 s. By default no clock is waited for: nothing to come is no
 * wait at all, whatever limit the caller set. */
static void test_no_wait_for_nothing(void **state)
{
    struct desk desk;

    (void)state;
    desk_init(&desk, 5 * GIB, 0);
    desk.demand.max_wait_ms = UNSTICK_WAIT_FOREVER;
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
    desk.snapshot.pending_bytes = 2 * GIB; /* not enough */
    assert_int_equal(desk_decide(&desk)->verdict, UNSTICK_VERDICT_REFUSED);
}

/* "Return ASYNC_MEMORY_CHECK_NEEDED" as a status: every verdict has its name. */
static void test_verdicts_are_typed(void **state)
{
    (void)state;
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_HIT), "hit");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_FITS), "fits");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_RECLAIM), "reclaim");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_EVICT), "evict");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_WAIT), "wait");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_FORCED), "forced");
    assert_string_equal(unstick_verdict_name(UNSTICK_VERDICT_REFUSED), "refused");
    assert_string_equal(unstick_verdict_name((enum unstick_verdict)7), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantizations_are_separate_models),
        cmocka_unit_test(test_estimates_per_mode),
        cmocka_unit_test(test_condition_differs_from_cached),
        cmocka_unit_test(test_condition_less_than_required),
        cmocka_unit_test(test_condition_not_empty),
        cmocka_unit_test(test_available_counts_what_torch_gives_back),
        cmocka_unit_test(test_cache_empty_but_memory_high),
        cmocka_unit_test(test_override_forces),
        cmocka_unit_test(test_override_by_value),
        cmocka_unit_test(test_refusal_names_the_override),
        cmocka_unit_test(test_offers_8bit_from_10),
        cmocka_unit_test(test_8bit_at_10_but_estimated_at_12),
        cmocka_unit_test(test_offers_full_precision_from_20),
        cmocka_unit_test(test_restart_below_6),
        cmocka_unit_test(test_smaller_first),
        cmocka_unit_test(test_guesses_grow),
        cmocka_unit_test(test_waits_for_what_comes_back),
        cmocka_unit_test(test_no_wait_for_nothing),
        cmocka_unit_test(test_verdicts_are_typed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
