/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seed's sentences on its cache and its patience, one test each, quoted, against the cache over a real device. Time
 * is a parameter: nobody sleeps here.
 */
#include <string.h>

#include "world.h"

#include "base/clock.h"

/* A world in which the seed's strategy runs, and somebody else holds all of the device but `free_granules`. */
static void seed_open_with(struct world *world, uint64_t free_granules, enum unstick_reclaim_strategy strategy)
{
    struct world_options options = { .cache = { .size = sizeof(struct unstick_cache_options),
                                                .strategy = strategy } };
    struct usk_fault_script script = { 0 };
    struct unstick_device_info info;

    world_open(world, &options);
    info = fixture_device_info(&world->fixture);
    script.steal_bytes = info.total_bytes - info.used_bytes - free_granules * GRANULE;
    usk_fault_set(world->fixture.fault, &script);
}

static void seed_open(struct world *world, uint64_t free_granules)
{
    seed_open_with(world, free_granules, UNSTICK_RECLAIM_SEED);
}

static void seed_give_back(struct world *world)
{
    usk_fault_set(world->fixture.fault, NULL);
}

/* How a request went whose waits pass at once. */
struct seed_run {
    int status;
    uint64_t waited_ms, longest_ms;
    unsigned int n_actions;
};

/* Memory comes back once so much was waited behind the last action; UINT64_MAX: never. */
static struct seed_run seed_drive_with(struct world *world, size_t index, uint64_t comes_back_ms, unsigned int flags)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_cache_demand demand = world_demand(world, index);
    struct unstick_request *request;
    struct seed_run run = { 0 };
    uint64_t now_ns = usk_clock_now_ns(), quiet_ms = 0;

    demand.max_wait_ms = 0;
    demand.flags |= flags;
    assert_int_equal(unstick_cache_request(world->cache, world_keys[index], &demand, &request, NULL), UNSTICK_OK);
    while ((run.status = unstick_request_next(request, &report, now_ns, &action)) == UNSTICK_PENDING) {
        report.status = UNSTICK_OK;
        if (action.kind == UNSTICK_DO_RECLAIM) {
            run.n_actions++;
            quiet_ms = 0;
        } else if (action.fd < 0) {
            uint64_t ms = (uint64_t)action.timeout_ms;

            now_ns += ms * USK_NS_PER_MS;
            quiet_ms += ms;
            run.waited_ms += ms;
            run.longest_ms = ms > run.longest_ms ? ms : run.longest_ms;
            if (quiet_ms >= comes_back_ms)
                seed_give_back(world);
        } else {
            world_perform(world, request, &action, &report);
            now_ns += USK_NS_PER_MS;
        }
    }
    unstick_request_free(request);
    return run;
}

static struct seed_run seed_drive(struct world *world, size_t index, uint64_t comes_back_ms)
{
    return seed_drive_with(world, index, comes_back_ms, 0);
}

/* The same patience, for one demand on a cache that has none. */
static void test_patience_of_one_demand(void **state)
{
    struct seed_run run;
    struct world world;

    (void)state;
    seed_open_with(&world, MODEL_GRANULES - 2, UNSTICK_RECLAIM_DEFAULT);
    run = seed_drive(&world, 0, 4500);
    assert_int_equal(run.status, UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_true(run.waited_ms < 500);
    run = seed_drive_with(&world, 0, 4500, UNSTICK_DEMAND_SEED);
    assert_int_equal(run.status, UNSTICK_OK);
    assert_true(run.waited_ms >= 4500);
    world_close(&world);
}

/* "`{model_id}_{quantization}` format ensures different quantization modes are treated as separate models" */
static void test_cache_key_strategy(void **state)
{
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(world_visit(&world, 0).outcome, UNSTICK_OUTCOME_LOAD); /* flux-dev_8-bit */
    assert_int_equal(world_visit(&world, 1).outcome, UNSTICK_OUTCOME_LOAD); /* flux-dev_4-bit */
    assert_int_equal(world_visit(&world, 0).outcome, UNSTICK_OUTCOME_HIT);
    world_close(&world);
}

/* "requiring cache invalidation": the same key with other settings is not the same contents. */
static void test_invalidation_on_changed_settings(void **state)
{
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 0);
    demand = world_demand(&world, 0);
    demand.fingerprint = "00000000000000aa";
    /* In use: it cannot be replaced, and is not. */
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    demand.holder = 5;
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_BUSY);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_LOAD);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_DISCARD, 0), WORLD_COMPONENTS);
    assert_string_equal(world_entry(&world, 0).fingerprint, "00000000000000aa");
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_HIT);
    world_close(&world);
}

/* "Cache clearing only triggered when: 1. Requested model/quantization differs from cached" */
static void test_nothing_leaves_for_what_is_cached(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES };
    struct world world;

    (void)state;
    options.room_granules++;
    world_open(&world, &options);
    world_visit(&world, 0);
    /* Not a byte is free, and nothing leaves. */
    assert_int_equal(world_visit(&world, 0).outcome, UNSTICK_OUTCOME_HIT);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_EVICT, 0), 0);
    world_close(&world);
}

/* "2. Available GPU memory < estimated requirement" */
static void test_nothing_leaves_while_there_is_room(void **state)
{
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 0);
    assert_int_equal(world_visit(&world, 1).verdict, UNSTICK_VERDICT_FITS);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    world_close(&world);
}

/* "3. Cache is not empty" */
static void test_nothing_is_cleared_in_an_empty_cache(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES - 2 };
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(result.n_evictions, 0);
    world_close(&world);
}

/* "Waits 5 seconds after aggressive cleanup"; "Non-blocking 7-second wait"; "in 500ms chunks" */
static void test_patience_in_chunks(void **state)
{
    struct seed_run run;
    struct world world;

    (void)state;
    seed_open(&world, MODEL_GRANULES - 2);
    run = seed_drive(&world, 0, UINT64_MAX);
    assert_int_equal(run.status, UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(run.longest_ms, 500);
    /* 5 s, and 7 s more since the cache is empty; and six gaps of 300 ms between seven rounds. */
    assert_in_range(run.waited_ms, 12000 + 6 * 300 - 500, 12000 + 7 * 300 + 500);
    assert_true(run.n_actions >= 7);
    world_close(&world);
}

/* "Rechecks memory and continues if sufficient" */
static void test_cache_level_patience_catches_it(void **state)
{
    struct seed_run run;
    struct world world;

    (void)state;
    seed_open(&world, MODEL_GRANULES - 2);
    run = seed_drive(&world, 0, 4500);
    assert_int_equal(run.status, UNSTICK_OK);
    assert_in_range(run.waited_ms, 4500, 5000 + 7 * 300 + 500);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    world_close(&world);
}

/* "Waits 7 seconds specifically for reference cycle detection; Updates memory readings and proceeds" */
static void test_safety_level_patience_catches_it(void **state)
{
    struct seed_run run;
    struct world world;

    (void)state;
    seed_open(&world, MODEL_GRANULES - 2);
    run = seed_drive(&world, 0, 9000);
    assert_int_equal(run.status, UNSTICK_OK);
    assert_in_range(run.waited_ms, 9000, 12000 + 7 * 300 + 500);
    world_close(&world);
}

/* By default nothing is waited for that cannot come. */
static void test_default_has_no_patience_without_a_cause(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES - 2 };
    struct seed_run run;
    struct world world;

    (void)state;
    world_open(&world, &options);
    run = seed_drive(&world, 0, UINT64_MAX);
    assert_int_equal(run.status, UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(run.waited_ms, 0);
    world_close(&world);
}

/* The seed clears the cache first and cleans up behind it: eviction, then the rounds, which end once there is room. */
static void test_clears_then_cleans_up(void **state)
{
    struct seed_run run;
    struct world world;

    (void)state;
    seed_open(&world, MODEL_GRANULES + 1);
    world_visit(&world, 0);
    run = seed_drive(&world, 1, UINT64_MAX);
    assert_int_equal(run.status, UNSTICK_OK);
    assert_int_equal(run.waited_ms, 0);
    assert_true(world_count_events(&world, UNSTICK_EVENT_EVICT, 0) > 0);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_RESIDENT);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patience_of_one_demand),
        cmocka_unit_test(test_cache_key_strategy),
        cmocka_unit_test(test_invalidation_on_changed_settings),
        cmocka_unit_test(test_nothing_leaves_for_what_is_cached),
        cmocka_unit_test(test_nothing_leaves_while_there_is_room),
        cmocka_unit_test(test_nothing_is_cleared_in_an_empty_cache),
        cmocka_unit_test(test_patience_in_chunks),
        cmocka_unit_test(test_cache_level_patience_catches_it),
        cmocka_unit_test(test_safety_level_patience_catches_it),
        cmocka_unit_test(test_default_has_no_patience_without_a_cause),
        cmocka_unit_test(test_clears_then_cleans_up),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
