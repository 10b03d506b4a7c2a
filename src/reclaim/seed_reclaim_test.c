/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the original design says about rounds, waits and the last resort, sentence by sentence: each test quotes the one
 * it holds. All of them run strategy SEED against a simulated host and clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "reclaim/test_run.h"

#define MIB (INT64_C(1) << 20)
#define GIB (INT64_C(1) << 30)
/* Six gaps of 300 ms: with actions that take no time, the last round ends here. */
#define ROUNDS_END_MS 1800

static int setup(void **unused)
{
    (void)unused;
    test_host_init(&host);
    options = (struct unstick_reclaim_options) {
        .size = sizeof(options),
        .strategy = UNSTICK_RECLAIM_SEED,
        .target_bytes = 20 * (uint64_t)GIB,
        .what = "black-forest-labs/FLUX.1-dev_4-bit",
    };
    return 0;
}

/* "7-Round Cleanup Strategy": in this order, with these names; each round's actions are the ones it is described by. */
static void test_seven_rounds(void **unused)
{
    static const struct {
        const char *name, *actions;
    } rounds[] = {
        { "standard", "empty_cache" },                          /* "Standard: torch.cuda.empty_cache()" */
        { "python-gc", "collect" },                             /* "Python GC: gc.collect()" */
        { "combined", "collect empty_cache" },                  /* "Combined: Both CUDA and Python cleanup" */
        { "synchronized", "synchronize collect empty_cache" },  /* "torch.cuda.synchronize() + cleanup" */
        { "ipc-collection", "ipc_collect" },                    /* "torch.cuda.ipc_collect()" */
        { "statistics-reset", "reset_stats" },                  /* "Reset PyTorch memory tracking" */
        { "nuclear",                                            /* "aggressive cleanup with multiple passes" */
          "synchronize collect empty_cache ipc_collect synchronize collect empty_cache ipc_collect "
          "synchronize collect empty_cache ipc_collect" },
    };
    char actions[512] = "";
    size_t n = 0;

    (void)unused;
    host.referenced_bytes = 12 * (uint64_t)GIB;
    options.patience_ms = UNSTICK_RECLAIM_NO_WAIT;
    assert_int_equal(run().stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(host.trace[0].kind, UNSTICK_ACTION_MEASURE);
    for (size_t i = 1; i < host.n_trace; i++) {
        const struct unstick_reclaim_action *action = &host.trace[i];
        size_t length = strlen(actions);

        if (action->kind != UNSTICK_ACTION_MEASURE && action->kind != UNSTICK_ACTION_SLEEP) {
            assert_true(action->phase == UNSTICK_PHASE_LAST_RESORT || action->round == n + 1);
            snprintf(actions + length, sizeof(actions) - length, "%s%s", length ? " " : "",
                     unstick_action_name(action->kind));
            continue;
        }
        if (action->kind == UNSTICK_ACTION_SLEEP || !actions[0] || action->phase != UNSTICK_PHASE_ROUND)
            continue;
        assert_true(n < 7);
        assert_string_equal(action->step, rounds[n].name);
        assert_string_equal(actions, rounds[n].actions);
        actions[0] = 0;
        n++;
    }
    assert_int_equal(n, 7);
}

/* "stop at the first round after which the target is met": for every k there is something that only round k frees. */
static void test_met_after_round_k(void **unused)
{
    static const struct {
        size_t member;
        unsigned int round;
    } cases[] = {
        { offsetof(struct test_host, cached_bytes), 1 },
        { offsetof(struct test_host, cyclic_bytes), 3 }, /* round 2 collects, round 3 empties the cache */
        { offsetof(struct test_host, streamed_bytes), 4 },
        { offsetof(struct test_host, ipc_bytes), 7 },    /* round 5 collects it into the cache */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_reclaim_result result;

        setup(unused);
        *(uint64_t *)(void *)((char *)&host + cases[i].member) = 8 * (uint64_t)GIB;
        result = run();
        assert_int_equal(result.stop, UNSTICK_STOP_MET);
        assert_int_equal(result.status, UNSTICK_OK);
        assert_true(result.is_met);
        assert_int_equal(result.n_steps, cases[i].round);
        assert_int_equal(result.steps[result.n_steps - 1].round, cases[i].round);
        assert_int_equal(result.steps[result.n_steps - 1].freed_bytes, 8 * GIB);
        assert_int_equal(result.freed_bytes, 8 * GIB);
        assert_int_equal(host.slept_ms, 300 * (cases[i].round - 1));
        assert_int_equal(result.suggestions, 0);
    }
}

/* The same for rounds whose own actions free nothing: something is released while each of the seven is run. */
static void test_met_during_round_k(void **unused)
{
    for (unsigned int k = 1; k <= 7; k++) {
        /* Rounds take 20, 20, 30, 40, 20, 20 and 130 ms, behind a measurement of 10. */
        static const uint64_t during_ms[] = { 0, 15, 35, 55, 85, 125, 145, 165 };
        struct unstick_reclaim_result result;

        setup(unused);
        host.referenced_bytes = 8 * (uint64_t)GIB;
        host.action_ms = 10;
        options.gap_ms = UNSTICK_RECLAIM_NO_WAIT;
        test_host_at(&host, during_ms[k], TEST_RELEASE, 8 * GIB);
        result = run();
        assert_int_equal(result.stop, UNSTICK_STOP_MET);
        assert_int_equal(result.n_steps, k);
        assert_int_equal(result.steps[k - 1].freed_bytes, 8 * GIB);
        assert_int_equal(host.slept_ms, 0);
    }
}

/* "Timing: 300ms delays between rounds to allow asynchronous cleanup operations to complete." */
static void test_300ms_between_rounds(void **unused)
{
    struct unstick_reclaim_result result;
    size_t n = 0;

    host.referenced_bytes = 8 * (uint64_t)GIB;
    run();
    for (size_t i = 0; i < host.n_trace; i++) {
        if (host.trace[i].phase == UNSTICK_PHASE_ROUND && host.trace[i].kind == UNSTICK_ACTION_SLEEP) {
            assert_int_equal(host.trace[i].sleep_ms, 300);
            n++;
        }
    }
    /* Between them: six, none before the first, none behind the last. */
    assert_int_equal(n, 6);

    /* What completes in the delay behind round 2 counts as its effect, and round 3 is not begun. */
    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, 450, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.n_steps, 2);
    assert_int_equal(result.steps[1].freed_bytes, 8 * GIB);
    assert_int_equal(host.slept_ms, 600);
}

/* Rounds of which nothing can be done are not waited for: here a lease begins while round 2 collects. */
static void test_no_gap_for_nothing(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 10;
    options.patience_ms = UNSTICK_RECLAIM_NO_WAIT;
    test_host_at(&host, 345, TEST_LEASES, 1);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_LEASED);
    assert_int_equal(result.steps[1].performed, UNSTICK_ACTION_BIT(UNSTICK_ACTION_COLLECT));
    for (size_t i = 2; i < 7; i++)
        assert_int_equal(result.steps[i].performed, 0);
    assert_int_equal(host.slept_ms, 300);
}

/* "Component Cleanup: 2-5 seconds for aggressive cleanup rounds" with steps of 50 ms. */
static void test_rounds_take_2_to_5_seconds(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 50;
    options.patience_ms = UNSTICK_RECLAIM_NO_WAIT;
    result = run();
    assert_true(result.ms >= 2000 && result.ms <= 5000);
}

/* "Cache cleanup: Waits 5 seconds after aggressive cleanup for reference cycle detection" */
static void test_cache_level_waits_5_seconds(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, ROUNDS_END_MS + 4900, TEST_RELEASE, 8 * GIB);
    result = run();
    /* "Rechecks memory and continues if sufficient" */
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_string_equal(result.steps[result.n_steps - 1].name, "patience");
    assert_int_equal(result.steps[result.n_steps - 1].phase, UNSTICK_PHASE_PATIENCE);
    assert_int_equal(result.steps[result.n_steps - 1].freed_bytes, 8 * GIB);
    assert_int_equal(result.ms, ROUNDS_END_MS + 5000);
}

/* Counted from the end of the last round, however long the rounds took. */
static void test_5_seconds_from_the_last_round(void **unused)
{
    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 100;
    run();
    for (size_t i = 0; i < host.n_trace; i++) {
        if (host.trace[i].phase == UNSTICK_PHASE_PATIENCE) {
            uint64_t end_ms = host.trace_ms[i] + 5000, last_ms = 0;

            /* Measurements take their 100 ms out of it too. */
            for (; i < host.n_trace && host.trace[i].phase == UNSTICK_PHASE_PATIENCE; i++)
                last_ms = host.trace_ms[i] + (host.trace[i].kind == UNSTICK_ACTION_SLEEP ? host.trace[i].sleep_ms : 0);
            assert_int_equal(last_ms, end_ms);
            return;
        }
    }
    fail_msg("no patience");
}

/* "Early return prevents unnecessary safety check failures": no wait goes on once it suffices. */
static void test_early_return(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    test_host_at(&host, ROUNDS_END_MS + 1200, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.ms, ROUNDS_END_MS + 1500);
    for (size_t i = 0; i < host.n_trace; i++)
        assert_int_not_equal(host.trace[i].phase, UNSTICK_PHASE_SAFETY);
}

/* "Triggered when low memory detected with empty cache (indicating sticky models)" */
static void test_safety_level_needs_an_empty_cache(void **unused)
{
    struct unstick_reclaim_result result;

    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, ROUNDS_END_MS + 5100, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.status, UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(result.ms, ROUNDS_END_MS + 5000);

    /* "Updates memory readings and proceeds if threshold met" */
    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    test_host_at(&host, ROUNDS_END_MS + 5100, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_string_equal(result.steps[result.n_steps - 1].name, "safety");
    assert_int_equal(result.steps[result.n_steps - 1].freed_bytes, 8 * GIB);
    assert_int_equal(result.ms, ROUNDS_END_MS + 5500);

    /* The cache may become empty while the first wait lasts. */
    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, ROUNDS_END_MS + 2000, TEST_CACHE, true);
    test_host_at(&host, ROUNDS_END_MS + 11900, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.ms, ROUNDS_END_MS + 12000);
}

/* "Memory safety check: Non-blocking 7-second wait": at 12.1 s it is over. */
static void test_safety_level_ends(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    test_host_at(&host, ROUNDS_END_MS + 12100, TEST_RELEASE, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_false(result.is_met);
    assert_int_equal(result.freed_bytes, 0);
    assert_int_equal(result.ms, ROUNDS_END_MS + 12000);
    assert_int_equal(result.waited_ms, ROUNDS_END_MS + 12000);
}

/*
 * "yields control back to Griptape in 500ms chunks during the 7-second wait"; "for i in range(int(seconds /
 * chunk_size))": ten chunks, then fourteen, each an action of its own, with a measurement behind it.
 */
static void test_500ms_chunks(void **unused)
{
    size_t n_patience = 0, n_safety = 0;

    (void)unused;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    run();
    for (size_t i = 0; i < host.n_trace; i++) {
        if (host.trace[i].kind != UNSTICK_ACTION_SLEEP || host.trace[i].phase == UNSTICK_PHASE_ROUND)
            continue;
        assert_int_equal(host.trace[i].sleep_ms, 500);
        assert_int_equal(host.trace[i + 1].kind, UNSTICK_ACTION_MEASURE);
        n_patience += host.trace[i].phase == UNSTICK_PHASE_PATIENCE;
        n_safety += host.trace[i].phase == UNSTICK_PHASE_SAFETY;
    }
    assert_int_equal(n_patience, 10);
    assert_int_equal(n_safety, 14);
}

/*
 * "runs asynchronously taking 5-10 seconds. The dual patience mechanism captures this delayed cleanup at both the cache
 * level and safety check level". "Single-point waiting was insufficient": of that range the first wait alone catches
 * its very beginning, which is why there are two.
 */
static void test_5_to_10_seconds(void **unused)
{
    for (uint64_t ms = 5000; ms <= 10000; ms += 250) {
        struct unstick_reclaim_result result;

        setup(unused);
        host.referenced_bytes = 11 * (uint64_t)GIB;
        host.report.is_cache_empty = true;
        test_host_at(&host, ROUNDS_END_MS + ms, TEST_RELEASE, 11 * GIB);
        result = run();
        assert_int_equal(result.stop, UNSTICK_STOP_MET);
        /* "can free significant memory (11+ GB observed)" */
        assert_int_equal(result.steps[result.n_steps - 1].freed_bytes, 11 * GIB);
        assert_string_equal(result.steps[result.n_steps - 1].name, ms <= 5000 ? "patience" : "safety");
    }
}

/* "Nuclear Memory Recovery": the six calls in their order, each measured; resets of statistics only when asked for. */
static void test_last_resort(void **unused)
{
    static const char *const names[] = { "empty_cache",
                                         "ipc_collect",
                                         "synchronize",
                                         "reset_accumulated_memory_stats",
                                         "reset_max_memory_allocated",
                                         "reset_max_memory_cached" };
    static const unsigned int stats[] = { 0, 0, 0, UNSTICK_STATS_ACCUMULATED, UNSTICK_STATS_PEAK, UNSTICK_STATS_PEAK };
    struct unstick_reclaim_result result;
    size_t first = 0, n = 0;

    host.referenced_bytes = 8 * (uint64_t)GIB;
    options.flags = UNSTICK_RECLAIM_RESET_STATS;
    result = run();
    /* Behind seven rounds and a wait. */
    assert_int_equal(result.n_steps, 8 + 6);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(result.steps[8 + i].phase, UNSTICK_PHASE_LAST_RESORT);
        assert_string_equal(result.steps[8 + i].name, names[i]);
    }
    while (host.trace[first].phase != UNSTICK_PHASE_LAST_RESORT)
        first++;
    for (size_t i = first; i < host.n_trace; i += 2, n++) {
        assert_int_equal(host.trace[i].stats, stats[n]);
        assert_int_equal(host.trace[i + 1].kind, UNSTICK_ACTION_MEASURE);
    }
    assert_int_equal(n, 6);

    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    result = run();
    assert_int_equal(result.n_steps, 8 + 3);
    assert_string_equal(result.steps[10].name, "synchronize");

    /* What comes free at last is taken by it, and it stops there. */
    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, ROUNDS_END_MS + 4990, TEST_LET_GO, 8 * GIB);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.n_steps, 9);
    assert_string_equal(result.steps[8].name, "empty_cache");
    assert_int_equal(result.steps[8].freed_bytes, 8 * GIB);
}

/*
 * "Even nuclear cleanup cannot overcome fundamental bitsandbytes limitations where quantized parameters remain sticky":
 * what is referenced stays through everything; the user is told by whom, and what goes further.
 */
static void test_nuclear_cannot(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 11 * (uint64_t)GIB;
    host.resident_bytes = (uint64_t)GIB;
    options.flags = UNSTICK_RECLAIM_CAN_REVOKE | UNSTICK_RECLAIM_CAN_HIBERNATE;
    result = run();
    assert_false(result.is_met);
    assert_int_equal(result.freed_bytes, 0);
    assert_int_equal(result.suggestions,
                     UNSTICK_SUGGEST_REVOKE | UNSTICK_SUGGEST_HIBERNATE | UNSTICK_SUGGEST_DROP_REFERENCES);
    assert_non_null(strstr(result.text, "black-forest-labs/FLUX.1-dev_4-bit: 20.0 GiB asked for, 11.5 GiB available"));
    assert_non_null(strstr(result.text, "Tried: standard, python-gc, combined, synchronized, ipc-collection, "
                                        "statistics-reset, nuclear gave nothing; patience"));
    assert_non_null(strstr(result.text, "patience gave nothing in 5.0 s"));
    assert_non_null(strstr(result.text, "11.5 GiB available now, 8.5 GiB short"));
    assert_non_null(strstr(result.text, "11.0 GiB in torch tensors that are still referenced"));
    assert_non_null(strstr(result.text, "What to do: find out who still holds tensors"));
    assert_non_null(strstr(result.text, "revoke"));
    assert_non_null(strstr(result.text, "hibernate"));

    /* The longest of all texts is whole. */
    setup(unused);
    host.referenced_bytes = 11 * (uint64_t)GIB;
    host.resident_bytes = (uint64_t)GIB;
    host.pinned_bytes = (uint64_t)GIB;
    host.others_bytes = 3 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    test_host_at(&host, 3000, TEST_OTHERS, GIB);
    options.flags = UNSTICK_RECLAIM_CAN_REVOKE | UNSTICK_RECLAIM_CAN_HIBERNATE | UNSTICK_RECLAIM_RESET_STATS;
    options.what = "an-organization-with-a-long-name/a-model-with-a-long-name-too-and-a-version-1.0.0-final_4-bit-dq";
    result = run();
    assert_int_equal(result.n_steps, 15);
    assert_non_null(strstr(result.text, "hibernate the whole process"));
    assert_true(strlen(result.text) + 100 < sizeof(result.text));
}

/* "Fallback: Gracefully handles PyTorch versions without ... support": what a torch lacks is skipped, and said. */
static void test_graceful_fallback(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.cyclic_bytes = 8 * (uint64_t)GIB;
    options.cannot = UNSTICK_ACTION_BIT(UNSTICK_ACTION_EMPTY_CACHE);
    host.fails = UNSTICK_ACTION_BIT(UNSTICK_ACTION_IPC_COLLECT);
    host.fails_with = UNSTICK_UNSUPPORTED;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.n_steps, 7 + 1 + 3);
    assert_int_equal(test_host_count(&host, UNSTICK_ACTION_EMPTY_CACHE), 0);
    assert_int_equal(result.steps[0].skipped, UNSTICK_ACTION_BIT(UNSTICK_ACTION_EMPTY_CACHE));
    assert_int_equal(result.steps[0].performed, 0);
    assert_int_equal(result.steps[2].performed, UNSTICK_ACTION_BIT(UNSTICK_ACTION_COLLECT));
    assert_int_equal(result.steps[4].skipped, UNSTICK_ACTION_BIT(UNSTICK_ACTION_IPC_COLLECT));
    assert_int_equal(result.steps[4].status, UNSTICK_OK);
    assert_non_null(strstr(result.text, "Tried: standard skipped; python-gc"));
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(seven_rounds),
        TEST(met_after_round_k),
        TEST(met_during_round_k),
        TEST(300ms_between_rounds),
        TEST(no_gap_for_nothing),
        TEST(rounds_take_2_to_5_seconds),
        TEST(cache_level_waits_5_seconds),
        TEST(5_seconds_from_the_last_round),
        TEST(early_return),
        TEST(safety_level_needs_an_empty_cache),
        TEST(safety_level_ends),
        TEST(500ms_chunks),
        TEST(5_to_10_seconds),
        TEST(last_resort),
        TEST(nuclear_cannot),
        TEST(graceful_fallback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
