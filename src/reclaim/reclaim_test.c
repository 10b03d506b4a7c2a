/* SPDX-License-Identifier: Apache-2.0 */
/* The default strategy, leases, other tenants, cancel and failures, against a simulated host and clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reclaim/test_run.h"

#define MIB (INT64_C(1) << 20)
#define GIB (INT64_C(1) << 30)
#define BIT(_kind) UNSTICK_ACTION_BIT(UNSTICK_ACTION_##_kind)

static int setup(void **unused)
{
    (void)unused;
    test_host_init(&host);
    options = (struct unstick_reclaim_options) {
        .size = sizeof(options),
        .target_bytes = 20 * (uint64_t)GIB,
        .what = "flux_8-bit",
    };
    return 0;
}

static void assert_says(const struct unstick_reclaim_result *result, const char *what)
{
    if (!strstr(result->text, what))
        fail_msg("\"%s\" is not in: %s", what, result->text);
}

/* The names of the steps, in order. */
static void assert_steps(const struct unstick_reclaim_result *result, const char *names)
{
    char text[512] = "";

    for (size_t i = 0; i < result->n_steps; i++) {
        size_t length = strlen(text);

        snprintf(text + length, sizeof(text) - length, "%s%s", i ? " " : "", result->steps[i].name);
    }
    assert_string_equal(text, names);
}

static void test_met_already(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.n_steps, 0);
    assert_int_equal(host.n_trace, 1);
    assert_string_equal(result.text, "flux_8-bit: 20.0 GiB asked for, 23.5 GiB available. 23.5 GiB available now");
}

/* Nothing of torch's and nothing to come: no step and no wait at all. */
static void test_nothing_to_do(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.others_bytes = 10 * (uint64_t)GIB;
    host.report.is_cache_empty = true;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.n_steps, 0);
    assert_int_equal(host.n_trace, 1);
    assert_int_equal(result.waited_ms, 0);
    assert_int_equal(result.suggestions, UNSTICK_SUGGEST_OTHER_PROCESS);
    assert_says(&result, "10.0 GiB by other processes (ollama (pid 4711) 10.0 GiB)");
}

/* Only what attribution says can still yield. */
static void test_only_what_can_yield(void **unused)
{
    static const struct {
        size_t member;
        const char *steps;
    } cases[] = {
        { offsetof(struct test_host, cached_bytes), "standard" },
        { offsetof(struct test_host, streamed_bytes), "synchronized" },
        { offsetof(struct test_host, cyclic_bytes), "collected" },
        { offsetof(struct test_host, hooked_bytes), "collected" },
        { offsetof(struct test_host, ipc_bytes), "collected ipc-collection" },
        { offsetof(struct test_host, workspace_bytes), "collected ipc-collection workspaces" },
        { offsetof(struct test_host, pinned_bytes), "ipc-collection workspaces" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_reclaim_result result;

        setup(unused);
        options.flags = UNSTICK_RECLAIM_HAS_IPC;
        *(uint64_t *)(void *)((char *)&host + cases[i].member) = 8 * (uint64_t)GIB;
        result = run();
        assert_steps(&result, cases[i].steps);
        assert_int_equal(result.stop, UNSTICK_STOP_MET);
        assert_int_equal(result.freed_bytes, 8 * GIB);
        assert_int_equal(result.steps[result.n_steps - 1].freed_bytes, 8 * GIB);
        assert_int_equal(result.waited_ms, 0);
        if (cases[i].member == offsetof(struct test_host, cyclic_bytes))
            assert_int_equal(result.steps[0].n_collected, 8192);
    }
}

/* facts: a 32 MiB workspace inside a 5.4 GiB segment. A cache that is emptied gives nothing; cleared first, all. */
static void test_workspace(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.workspace_bytes = 32 * (uint64_t)MIB;
    host.pinned_bytes = 5 * (uint64_t)GIB;
    result = run();
    assert_steps(&result, "collected workspaces");
    assert_int_equal(result.steps[0].freed_bytes, 0);
    assert_int_equal(result.steps[1].freed_bytes, 5 * GIB + 32 * MIB);
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
}

static void test_referenced(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.referenced_bytes = 17 * (uint64_t)GIB;
    host.pinned_bytes = 100 * (uint64_t)MIB;
    options.cannot = BIT(CLEAR_WORKSPACES);
    result = run();
    assert_steps(&result, "collected");
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.status, UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(result.waited_ms, 0);
    assert_int_equal(result.suggestions, UNSTICK_SUGGEST_DROP_REFERENCES | UNSTICK_SUGGEST_EXPANDABLE);
}

/* A host without torch: nothing is known, and nothing can be done. */
static void test_no_torch(void **unused)
{
    struct unstick_reclaim_result result;

    host.sources &= ~(unsigned int)UNSTICK_SOURCE_TORCH;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    options.cannot = BIT(EMPTY_CACHE) | BIT(COLLECT) | BIT(SYNCHRONIZE) | BIT(IPC_COLLECT) | BIT(CLEAR_WORKSPACES) |
                     BIT(DETACH_HOOKS);
    result = run();
    assert_int_equal(result.n_steps, 0);
    assert_int_equal(result.suggestions, 0);
    assert_says(&result, "ask for less, or restart");

    /* Torch without statistics (a pluggable allocator): one try each. */
    setup(unused);
    host.sources &= ~(unsigned int)UNSTICK_SOURCE_TORCH;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    test_host_at(&host, 1000, TEST_PENDING, 0);
    result = run();
    assert_steps(&result, "standard synchronized collected workspaces patience");
}

/* --- waits --- */

static void test_process_is_ending(void **unused)
{
    struct unstick_reclaim_result result;

    host.others_bytes = 10 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    test_host_at(&host, 1700, TEST_OTHERS, -10 * GIB);
    result = run();
    assert_steps(&result, "patience");
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.ms, 2000);
    assert_int_equal(result.freed_bytes, 0);
    assert_int_equal(result.others_bytes, 10 * GIB);
    assert_says(&result, "patience gave nothing in 2.0 s; other processes gave back 10.0 GiB meanwhile");

    /* It ends without having given enough: no reason to wait on. */
    setup(unused);
    host.others_bytes = 10 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    test_host_at(&host, 1200, TEST_OTHERS, -1 * GIB);
    test_host_at(&host, 1200, TEST_PENDING, 0);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    /* One more chunk, because it was still shrinking in the one before. */
    assert_int_equal(result.waited_ms, 2000);

    /* It never ends: the wait does. */
    setup(unused);
    host.others_bytes = 10 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    result = run();
    assert_steps(&result, "patience");
    assert_int_equal(result.waited_ms, 5000);

    setup(unused);
    host.others_bytes = 10 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    host.report.is_cache_empty = true;
    result = run();
    assert_steps(&result, "patience safety");
    assert_int_equal(result.waited_ms, 12000);
}

/* Seen from readings alone: while the rounds are run, another process shrinks. */
static void test_shrinking_is_seen(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.others_bytes = 8 * (uint64_t)GIB;
    host.cached_bytes = (uint64_t)GIB;
    host.action_ms = 10;
    test_host_at(&host, 15, TEST_OTHERS, -1 * GIB);
    test_host_at(&host, 300, TEST_OTHERS, -1 * GIB);
    test_host_at(&host, 800, TEST_OTHERS, -4 * GIB);
    result = run();
    assert_steps(&result, "standard patience");
    assert_int_equal(result.steps[0].freed_bytes, GIB);
    assert_int_equal(result.steps[0].others_bytes, GIB);
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
}

/* A collection elsewhere leaves its tensors in torch's cache: a round gets them, waiting does not. */
static void test_collection_is_due(void **unused)
{
    struct unstick_reclaim_result result;

    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_COLLECTION;
    test_host_at(&host, 700, TEST_LET_GO, 8 * GIB);
    result = run();
    assert_steps(&result, "collected workspaces patience standard");
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(result.steps[3].freed_bytes, 8 * GIB);
    assert_int_equal(result.ms, 1000);

    /* Nothing changed by it: what was tried is not tried again. */
    setup(unused);
    host.referenced_bytes = 8 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_COLLECTION;
    test_host_at(&host, 1700, TEST_PENDING, 0);
    result = run();
    assert_steps(&result, "collected workspaces patience");
    assert_int_equal(result.waited_ms, 2000);
}

/* --- leases --- */

/* "Process-wide actions only while nothing is leased": skipped, said, and done once the lease has ended. */
static void test_leases(void **unused)
{
    struct unstick_reclaim_result result;

    host.cached_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    host.report.pending = UNSTICK_CAUSE_LEASE;
    test_host_at(&host, 60000, TEST_LEASES, 0);
    result = run();
    assert_steps(&result, "standard leases standard");
    assert_int_equal(result.steps[0].skipped, BIT(EMPTY_CACHE));
    assert_int_equal(result.steps[0].performed, 0);
    assert_int_equal(result.steps[1].phase, UNSTICK_PHASE_LEASE);
    assert_int_equal(result.steps[1].ms, 60000);
    assert_int_equal(result.stop, UNSTICK_STOP_MET);
    assert_int_equal(host.trace[1].kind, UNSTICK_ACTION_SLEEP);

    /* The caller's limit. */
    setup(unused);
    host.cached_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    host.report.pending = UNSTICK_CAUSE_LEASE;
    options.lease_ms = 1300;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_LEASED);
    assert_int_equal(result.waited_ms, 1300);
    assert_int_equal(test_host_count(&host, UNSTICK_ACTION_EMPTY_CACHE), 0);
    assert_int_equal(result.suggestions, UNSTICK_SUGGEST_END_LEASES);
    assert_says(&result, "Tried: standard skipped; leases gave nothing in 1.3 s");

    /* A lease of the caller's own will not end while it waits. */
    setup(unused);
    host.cached_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_LEASED);
    assert_int_equal(result.waited_ms, 0);

    /* Nor will one whose holder has come to wait as well. */
    setup(unused);
    host.cached_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    host.report.pending = UNSTICK_CAUSE_LEASE;
    test_host_at(&host, 1600, TEST_PENDING, 0);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_LEASED);
    assert_int_equal(result.waited_ms, 2000);

    setup(unused);
    host.cached_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    host.report.pending = UNSTICK_CAUSE_LEASE;
    options.lease_ms = UNSTICK_RECLAIM_NO_WAIT;
    assert_int_equal(run().waited_ms, 0);
}

/* Hooks are taken off what is being unloaded, which nobody leases. */
static void test_detach_is_not_process_wide(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.hooked_bytes = 8 * (uint64_t)GIB;
    host.report.n_leased = 1;
    result = run();
    assert_steps(&result, "collected workspaces");
    assert_int_equal(result.steps[0].performed, BIT(DETACH_HOOKS));
    assert_int_equal(result.steps[0].skipped, BIT(COLLECT) | BIT(EMPTY_CACHE));
}

/* A lease that begins within a round: the rest of the round is left out. */
static void test_lease_begins(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    options.strategy = UNSTICK_RECLAIM_SEED;
    options.gap_ms = options.patience_ms = UNSTICK_RECLAIM_NO_WAIT;
    host.cyclic_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 10;
    /* Measure, two rounds with their measurements: round 3 collects from 50 to 60 ms. */
    test_host_at(&host, 55, TEST_LEASES, 2);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_LEASED);
    assert_int_equal(result.steps[2].performed, BIT(COLLECT));
    assert_int_equal(result.steps[2].skipped, BIT(EMPTY_CACHE));
    assert_int_equal(result.steps[6].performed, 0);
    assert_int_equal(test_host_count(&host, UNSTICK_ACTION_EMPTY_CACHE), 1);
    assert_int_equal(result.freed_bytes, 0);
}

/* --- others --- */

/* Another tenant takes what was freed: freed is freed, and the target is not met. */
static void test_tenant_takes(void **unused)
{
    struct unstick_reclaim_result result;

    host.cached_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 10;
    test_host_at(&host, 25, TEST_OTHERS, 6 * GIB);
    result = run();
    assert_false(result.is_met);
    assert_int_equal(result.steps[0].freed_bytes, 8 * GIB);
    assert_int_equal(result.steps[0].others_bytes, -6 * GIB);
    assert_true(result.steps[0].is_attributed);
    assert_int_equal(result.after_bytes - result.before_bytes, 2 * GIB);
    assert_says(&result, "standard gave 8.0 GiB; other processes took 6.0 GiB meanwhile");

    /* The other way round: what a tenant gave back is not read as recovery. */
    setup(unused);
    options.strategy = UNSTICK_RECLAIM_SEED;
    host.referenced_bytes = 2 * (uint64_t)GIB;
    host.others_bytes = 8 * (uint64_t)GIB;
    host.action_ms = 10;
    test_host_at(&host, 15, TEST_OTHERS, -8 * GIB);
    result = run();
    assert_true(result.is_met);
    assert_int_equal(result.steps[0].freed_bytes, 0);
    assert_int_equal(result.steps[0].others_bytes, 8 * GIB);
    assert_says(&result, "standard gave nothing; other processes gave back 8.0 GiB meanwhile");
}

/* Without the list of processes torch's reserved memory tells own from others'; without that, nothing does. */
static void test_sources(void **unused)
{
    struct unstick_reclaim_result result;

    for (int has_torch = 1; has_torch >= 0; has_torch--) {
        setup(unused);
        host.sources = UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS | (has_torch ? UNSTICK_SOURCE_TORCH : 0u);
        host.cached_bytes = 8 * (uint64_t)GIB;
        host.action_ms = 10;
        test_host_at(&host, 15, TEST_OTHERS, 3 * GIB);
        result = run();
        assert_string_equal(result.steps[0].name, "standard");
        assert_int_equal(result.steps[0].freed_bytes, has_torch ? 8 * GIB : 5 * GIB);
        assert_int_equal(result.steps[0].others_bytes, has_torch ? -3 * GIB : 0);
        assert_int_equal(result.steps[0].is_attributed, has_torch);
    }
}

/* --- ends --- */

/* At any chunk: the next call ends it. */
static void test_cancel(void **unused)
{
    /* The run would take 13.8 s. */
    for (uint64_t ms = 0; ms <= 13700; ms += 100) {
        struct unstick_reclaim_result result;

        setup(unused);
        options.strategy = UNSTICK_RECLAIM_SEED;
        host.referenced_bytes = 8 * (uint64_t)GIB;
        host.report.is_cache_empty = true;
        test_host_at(&host, ms, TEST_CANCEL, 0);
        result = run();
        assert_int_equal(result.stop, UNSTICK_STOP_CANCELED);
        assert_int_equal(result.status, UNSTICK_CANCELED);
        assert_true(result.ms >= ms && result.ms < ms + 500);
        assert_says(&result, ". Canceled. ");
    }
    setup(unused);
    teardown(unused);
    assert_int_equal(unstick_reclaim_new(&options, &machine, NULL), UNSTICK_OK);
    unstick_reclaim_cancel(machine);
    unstick_reclaim_cancel(NULL);
    assert_true(test_host_run(&host, machine));
    assert_int_equal(host.n_trace, 0);
}

/* A result can be read at any moment, and a run that is over stays over. */
static void test_over_is_over(void **unused)
{
    struct unstick_reclaim_action action = { .size = sizeof(action) };
    struct unstick_reclaim_result result = { .size = sizeof(result) }, again;

    (void)unused;
    host.cached_bytes = 8 * (uint64_t)GIB;
    assert_int_equal(unstick_reclaim_new(&options, &machine, NULL), UNSTICK_OK);
    assert_int_equal(unstick_reclaim_result(machine, &result), UNSTICK_OK);
    assert_int_equal(result.status, UNSTICK_PENDING);
    assert_int_equal(result.stop, UNSTICK_STOP_NOT_YET);
    assert_false(result.is_met);
    assert_int_equal(result.suggestions, 0);
    result = run();
    assert_int_equal(unstick_reclaim_next(machine, NULL, NULL, host.now_ns + 1000000000, &action), UNSTICK_OK);
    assert_int_equal(action.kind, UNSTICK_ACTION_DONE);
    unstick_reclaim_cancel(machine);
    assert_int_equal(unstick_reclaim_next(machine, NULL, NULL, 0, &action), UNSTICK_OK);
    again = (struct unstick_reclaim_result) { .size = sizeof(again) };
    assert_int_equal(unstick_reclaim_result(machine, &again), UNSTICK_OK);
    assert_int_equal(again.stop, UNSTICK_STOP_MET);
    assert_string_equal(again.text, result.text);
}

static void test_failures(void **unused)
{
    struct unstick_reclaim_result result;

    /* An action fails: recorded, and the run goes on. */
    host.cached_bytes = 8 * (uint64_t)GIB;
    host.fails = BIT(EMPTY_CACHE);
    host.fails_with = UNSTICK_DRIVER;
    result = run();
    assert_int_equal(result.steps[0].status, UNSTICK_DRIVER);
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_says(&result, "standard failed (the driver failed the call)");

    /* The device is lost: no more readings, the run ends and says so. */
    setup(unused);
    options.strategy = UNSTICK_RECLAIM_SEED;
    host.referenced_bytes = 8 * (uint64_t)GIB;
    test_host_at(&host, 1000, TEST_LOSE, 0);
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_FAILED);
    assert_int_equal(result.status, UNSTICK_DEVICE_LOST);
    assert_says(&result, "the device was lost");

    /* From the beginning. */
    setup(unused);
    host.is_lost = true;
    result = run();
    assert_int_equal(result.stop, UNSTICK_STOP_FAILED);
    assert_false(result.is_met);
}

/* As much as there is: everything that can yield is done. */
static void test_no_target(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.cached_bytes = (uint64_t)GIB;
    host.streamed_bytes = (uint64_t)GIB;
    options.target_bytes = 0;
    result = run();
    assert_int_equal(result.freed_bytes, 2 * GIB);
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.status, UNSTICK_OK);
    assert_true(result.is_met);
    assert_int_equal(result.suggestions, 0);
}

/* Where the limit of a smaller card is what binds, emptying torch's cache does not help: nothing is tried. */
static void test_limit(void **unused)
{
    struct unstick_reclaim_result result;

    (void)unused;
    host.cached_bytes = (uint64_t)GIB;
    host.resident_bytes = 2 * (uint64_t)GIB;
    host.limit_bytes = 12 * (uint64_t)GIB;
    host.report.pending = UNSTICK_CAUSE_PROCESS;
    options.flags = UNSTICK_RECLAIM_CAN_REVOKE;
    result = run();
    assert_int_equal(result.before_bytes, 10 * GIB);
    assert_int_equal(result.n_steps, 0);
    assert_int_equal(result.stop, UNSTICK_STOP_EXHAUSTED);
    assert_int_equal(result.suggestions, UNSTICK_SUGGEST_EVICT);
    assert_says(&result, "evict other models or raise the limit");

    setup(unused);
    host.limit_bytes = 20 * (uint64_t)GIB;
    assert_int_equal(run().stop, UNSTICK_STOP_MET);
}

static void test_bad_arguments(void **unused)
{
    struct unstick_reclaim_action action = { .size = sizeof(action) };
    struct unstick_reclaim_report report = { .size = 1 };
    struct unstick_reclaim_result result = { .size = 1 };
    struct unstick_reading reading;
    struct unstick_error error;

    (void)unused;
    test_host_read(&host, &reading);
    assert_int_equal(unstick_reclaim_new(NULL, &machine, NULL), UNSTICK_INVALID_ARGUMENT);
    options.size = 0;
    assert_int_equal(unstick_reclaim_new(&options, &machine, &error), UNSTICK_INVALID_ARGUMENT);
    options.size = sizeof(options);
    options.strategy = (enum unstick_reclaim_strategy)7;
    assert_int_equal(unstick_reclaim_new(&options, &machine, &error), UNSTICK_INVALID_ARGUMENT);
    assert_string_equal(error.text, "there is no strategy 7");
    options.strategy = UNSTICK_RECLAIM_SEED;
    options.chunk_ms = UNSTICK_RECLAIM_NO_WAIT;
    assert_int_equal(unstick_reclaim_new(&options, &machine, &error), UNSTICK_INVALID_ARGUMENT);
    options.chunk_ms = 0;
    assert_int_equal(unstick_reclaim_new(&options, &machine, &error), UNSTICK_OK);

    assert_int_equal(unstick_reclaim_next(NULL, NULL, NULL, 0, &action), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_reclaim_next(machine, NULL, NULL, 0, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_reclaim_next(machine, NULL, &report, 0, &action), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_reclaim_next(machine, NULL, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_ACTION_MEASURE);
    assert_int_equal(unstick_reclaim_next(machine, NULL, NULL, 0, &action), UNSTICK_INVALID_ARGUMENT);
    reading.sources = UNSTICK_SOURCE_TORCH;
    assert_int_equal(unstick_reclaim_next(machine, &reading, NULL, 0, &action), UNSTICK_INVALID_ARGUMENT);
    reading.sources = UNSTICK_SOURCE_DRIVER;
    assert_int_equal(unstick_reclaim_next(machine, &reading, NULL, 0, &action), UNSTICK_OK);
    assert_int_equal(unstick_reclaim_result(machine, &result), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_reclaim_result(NULL, &result), UNSTICK_INVALID_ARGUMENT);
    assert_string_equal(unstick_action_name((enum unstick_action_kind)99), "unknown");
    assert_string_equal(unstick_action_name(UNSTICK_ACTION_DETACH_HOOKS), "detach_hooks");
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(met_already),
        TEST(nothing_to_do),
        TEST(only_what_can_yield),
        TEST(workspace),
        TEST(referenced),
        TEST(no_torch),
        TEST(process_is_ending),
        TEST(shrinking_is_seen),
        TEST(collection_is_due),
        TEST(leases),
        TEST(detach_is_not_process_wide),
        TEST(lease_begins),
        TEST(tenant_takes),
        TEST(sources),
        TEST(cancel),
        TEST(over_is_over),
        TEST(failures),
        TEST(no_target),
        TEST(limit),
        TEST(bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
