/* SPDX-License-Identifier: Apache-2.0 */
/* The cache over a real device: entries, the flow of a request, leases, idle times, the host's part. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

#include "base/clock.h"

static uint64_t resident_granules(struct world *world, size_t index)
{
    return world_entry(world, index).resident_bytes / GRANULE + (world_entry(world, index).resident_bytes % GRANULE != 0);
}

/* --- load, hit, evict, restore --- */

static void test_loads_then_hits(void **state)
{
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_ABSENT);
    result = world_visit(&world, 0);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_LOAD);
    assert_int_equal(result.bytes, world_entry(&world, 0).bytes);
    assert_true(result.load_ns > 0 && result.restore_ns == 0);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    result = world_visit(&world, 0);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_HIT);
    assert_int_equal(result.verdict, UNSTICK_VERDICT_HIT);
    assert_int_equal(result.bytes, 0);
    assert_int_equal(world_entry(&world, 0).n_hits, 1);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_LOAD, 0), 2);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_HIT, 0), 1);
    world_close(&world);
}

static void test_evicts_as_little_as_needed_and_restores(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    result = world_visit(&world, 1);
    assert_int_equal(result.verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(result.n_evictions, 1);
    assert_true(resident_granules(&world, 0) >= 3);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_PARTIAL);
    result = world_visit(&world, 0);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_RESTORE);
    assert_true(result.bytes < world_entry(&world, 0).bytes);
    assert_true(world_entry(&world, 0).restore_ns > 0);
    assert_true(world_entry(&world, 1).evict_ns > 0);
    world_close(&world);
}

/* --- leases --- */

static void test_leased_is_never_evicted(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_result result;
    struct unstick_cache_lease *lease;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    demand = world_demand(&world, 1);
    demand.holder = 7;
    assert_int_equal(world_use(&world, 1, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(result.verdict, UNSTICK_VERDICT_REFUSED);
    assert_true(result.required_bytes > result.available_bytes);
    assert_true(result.held_by_us_bytes > 0);
    assert_int_equal(result.error.required_bytes, result.required_bytes);
    assert_non_null(strstr(result.error.text, world_keys[1]));
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_FAILED);
    assert_int_equal(world_entry(&world, 1).n_components, 0);
    world_check_contents(&world, lease, 0, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_visit(&world, 1);
    world_close(&world);
}

static void test_waits_for_a_lease_of_another(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    struct world world;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    demand = world_demand(&world, 1);
    demand.holder = 7;
    demand.max_wait_ms = 0;
    assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &demand, &request, NULL), UNSTICK_OK);
    assert_int_equal(world_drive_until_waiting(&world, request), UNSTICK_PENDING);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    lease = unstick_request_take_lease(request);
    world_check_contents(&world, lease, 1, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    unstick_request_free(request);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_then_hits),
        cmocka_unit_test(test_evicts_as_little_as_needed_and_restores),
        cmocka_unit_test(test_leased_is_never_evicted),
        cmocka_unit_test(test_waits_for_a_lease_of_another),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
