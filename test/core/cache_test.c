/* SPDX-License-Identifier: Apache-2.0 */
/* The cache over a real device: entries, the flow of a request, leases, idle times, shortages, reports. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

#include "base/clock.h"

static uint64_t resident_granules(struct world *world, size_t index)
{
    return (world_entry(world, index).resident_bytes + GRANULE - 1) / GRANULE;
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

/* Deadlock: two threads that hold one model each and want the other's room. */
static void test_who_holds_a_lease_never_waits(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_result result;
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct world world;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    demand = world_demand(&world, 1);
    demand.max_wait_ms = 0; /* without limit, were it allowed to */
    assert_int_equal(world_use(&world, 1, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_non_null(strstr(result.error.text, "holds a lease"));
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

static void test_waits_no_longer_than_it_was_told(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    struct world world;
    uint64_t now_ns;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    demand = world_demand(&world, 1);
    demand.holder = 7;
    demand.max_wait_ms = 60000;
    assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &demand, &request, NULL), UNSTICK_OK);
    now_ns = usk_clock_now_ns();
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(unstick_request_next(request, NULL, now_ns + i * USK_NS_PER_MS, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_WAIT);
    /* The time is a parameter: nobody sleeps here. */
    assert_int_equal(unstick_request_next(request, NULL, now_ns + 59999 * USK_NS_PER_MS, &action), UNSTICK_PENDING);
    assert_int_equal(unstick_request_next(request, NULL, now_ns + 61000 * USK_NS_PER_MS, &action), UNSTICK_TIMED_OUT);
    unstick_request_result(request, &result);
    assert_true(result.wait_ns >= 60000 * USK_NS_PER_MS);
    assert_non_null(strstr(result.text, "held:"));
    unstick_request_free(request);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

/* The second that came waits for the first, although it would need less. */
static void test_order_of_arrival(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    const char *const encoder[] = { "encoder" };
    struct unstick_cache_demand first, second;
    struct unstick_request *requests[2];
    struct unstick_cache_lease *lease;
    struct unstick_cache_event events[UNSTICK_CACHE_EVENTS_MAX];
    struct world world;
    size_t n;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    first = world_demand(&world, 1);
    first.max_wait_ms = 0;
    first.holder = 1;
    second = world_demand(&world, 2);
    second.max_wait_ms = 0;
    second.holder = 2;
    second.components = encoder;
    second.n_components = 1;
    assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &first, &requests[0], NULL), UNSTICK_OK);
    assert_int_equal(world_drive_until_waiting(&world, requests[0]), UNSTICK_PENDING);
    assert_int_equal(unstick_cache_request(world.cache, world_keys[2], &second, &requests[1], NULL), UNSTICK_OK);
    assert_int_equal(world_drive_until_waiting(&world, requests[1]), UNSTICK_PENDING);
    unstick_cache_events(world.cache, 0, events, UNSTICK_CACHE_EVENTS_MAX, &n);
    assert_int_equal(events[n - 1].kind, UNSTICK_EVENT_WAIT);
    assert_string_equal(events[n - 1].detail, "turn");
    unstick_request_free(requests[0]);
    /* The first has given up: now it is the second's turn, and it fits. */
    assert_int_equal(world_drive(&world, requests[1]), UNSTICK_OK);
    unstick_request_free(requests[1]);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

static void test_one_loader_per_key(void **state)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_cache_demand demand;
    struct unstick_request *requests[2];
    struct world world;

    (void)state;
    world_open(&world, NULL);
    demand = (struct unstick_cache_demand){ .size = sizeof(demand), .required_bytes = GRANULE * MODEL_GRANULES };
    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &requests[0], NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &requests[1], NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_wait(requests[0], NULL, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_LOAD);
    assert_int_equal(action.n_components, 0);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_LOADING);
    assert_int_equal(world_drive_until_waiting(&world, requests[1]), UNSTICK_PENDING);
    world_perform(&world, requests[0], &action, &report);
    assert_int_equal(unstick_request_wait(requests[0], &report, &action), UNSTICK_OK);
    assert_int_equal(world_drive(&world, requests[1]), UNSTICK_OK);
    assert_int_equal(world.n_loads, 1);
    assert_int_equal(world_entry(&world, 0).n_leases, 2);
    unstick_request_free(requests[0]);
    unstick_request_free(requests[1]);
    assert_int_equal(world_entry(&world, 0).n_leases, 0);
    world_close(&world);
}

/* --- idle, pin, drop, prefetch --- */

static void test_idle_at_once_and_after_a_time(void **state)
{
    struct unstick_request_result result;
    struct world world;
    uint64_t now_ns;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 0);
    world_visit(&world, 1);
    assert_int_equal(unstick_cache_timeout_ms(world.cache, 0), -1);
    assert_int_equal(unstick_cache_set_idle(world.cache, world_keys[0], 0, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_set_idle(world.cache, world_keys[1], 30000, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_timeout_ms(world.cache, 0), 0);
    world_settle(&world);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_EVICTED);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_RESIDENT);
    now_ns = world_entry(&world, 1).last_used_ns;
    assert_in_range(unstick_cache_timeout_ms(world.cache, now_ns), 29999, 30001);
    unstick_cache_step(world.cache, now_ns + 29999 * USK_NS_PER_MS);
    world_settle(&world);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_RESIDENT);
    unstick_cache_step(world.cache, now_ns + 30001 * USK_NS_PER_MS);
    world_settle(&world);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_EVICTED);
    result = world_visit(&world, 1);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_RESTORE);
    world_close(&world);
}

static void test_idle_while_its_backup_is_written(void **state)
{
    struct world_options options = { .cache = { .size = sizeof(struct unstick_cache_options), .has_idle = true } };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_cache_entry_info info;
    struct unstick_cache_lease *lease;
    struct world world;
    size_t n;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    unstick_cache_step(world.cache, 0); /* the backup begins, behind the lease */
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    while (unstick_cache_step(world.cache, 0) == UNSTICK_PENDING)
        ;
    assert_int_equal(unstick_cache_entries(world.cache, &info, 1, &n), UNSTICK_OK);
    assert_int_equal(info.state, UNSTICK_ENTRY_EVICTED);
    world_close(&world);
}

static void test_leased_is_never_idle(void **state)
{
    struct unstick_cache_lease *lease;
    struct world world;

    (void)state;
    world_open(&world, &(struct world_options){ .cache = { .size = sizeof(struct unstick_cache_options),
                                                           .has_idle = true } });
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    world_settle(&world);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_settle(&world);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_EVICTED);
    world_close(&world);
}

static void test_pinned_never_leaves(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    assert_int_equal(unstick_cache_pin(world.cache, world_keys[0], true, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_pin(world.cache, "none_none", true, NULL), UNSTICK_NOT_FOUND);
    assert_int_equal(world_use(&world, 1, NULL, NULL, NULL), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    assert_int_equal(unstick_cache_pin(world.cache, world_keys[0], false, NULL), UNSTICK_OK);
    world_visit(&world, 1);
    world_close(&world);
}

static void test_drop(void **state)
{
    struct unstick_cache_lease *lease;
    struct unstick_error error = { 0 };
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_drop(world.cache, world_keys[0], &error), UNSTICK_BUSY);
    assert_int_equal(unstick_cache_close(world.cache, &error), UNSTICK_BUSY);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_drop(world.cache, world_keys[0], &error), UNSTICK_OK);
    assert_int_equal(unstick_cache_drop(world.cache, world_keys[0], &error), UNSTICK_NOT_FOUND);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_ABSENT);
    assert_int_equal(fixture_device_info(&world.fixture).resident_bytes, 0);
    assert_int_equal(world_visit(&world, 0).outcome, UNSTICK_OUTCOME_LOAD);
    world_close(&world);
}

static void test_preload_and_prefetch(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_cache_lease *lease = NULL;
    struct unstick_request_result result;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, &options);
    demand = world_demand(&world, 0);
    demand.flags = UNSTICK_DEMAND_PREFETCH;
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    assert_null(lease);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    /* It would have to evict: then it does nothing. */
    demand = world_demand(&world, 1);
    demand.flags = UNSTICK_DEMAND_PREFETCH;
    assert_int_equal(world_use(&world, 1, &demand, &lease, &result), UNSTICK_OK);
    assert_int_equal(result.verdict, UNSTICK_VERDICT_REFUSED);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    demand.flags = UNSTICK_DEMAND_PRELOAD;
    assert_int_equal(world_use(&world, 1, &demand, &lease, &result), UNSTICK_OK);
    assert_null(lease);
    assert_int_equal(world_state(&world, 1), UNSTICK_ENTRY_RESIDENT);
    assert_int_equal(world_visit(&world, 1).outcome, UNSTICK_OUTCOME_HIT);
    world_close(&world);
}

/* --- short of memory --- */

static void test_force_counts_by_its_value(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_result result;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, &options);
    demand = world_demand(&world, 0);
    demand.working_bytes = fixture_device_info(&world.fixture).total_bytes;
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    demand.allow_low_memory = true;
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.verdict, UNSTICK_VERDICT_FORCED);
    world_close(&world);
}

/* The device would take both; the demand says that it may not. */
static void test_a_limit_of_one_demand(void **state)
{
    struct world_options options = { .room_granules = 2 * MODEL_GRANULES + 6 };
    struct unstick_request_result result;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    demand = world_demand(&world, 1);
    demand.limit_bytes = (MODEL_GRANULES - 1) * GRANULE;
    assert_int_equal(world_use(&world, 1, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_RESIDENT);
    demand.limit_bytes = (MODEL_GRANULES + 3) * GRANULE;
    assert_int_equal(world_use(&world, 1, &demand, NULL, &result), UNSTICK_OK);
    assert_true(result.n_evictions > 0);
    /* The next one has the whole device again. */
    assert_int_equal(world_visit(&world, 0).n_evictions, 0);
    world_close(&world);
}

static struct world_options torch_options(void)
{
    return (struct world_options){ .cache = { .size = sizeof(struct unstick_cache_options),
                                              .flags = UNSTICK_CACHE_HAS_FIGURES } };
}

/* torch sits on most of the device, in its cache: that is given back before anything is evicted. */
static void test_reclaims_before_it_evicts(void **state)
{
    struct world_options options = torch_options();
    struct unstick_request_result result;
    struct usk_fault_script steal = { 0 };
    struct world world;
    uint64_t total;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    total = fixture_device_info(&world.fixture).total_bytes;
    steal.steal_bytes = total - (MODEL_GRANULES + 4) * GRANULE;
    usk_fault_set(world.fixture.fault, &steal);
    world.figures.sources = UNSTICK_SOURCE_TORCH;
    world.figures.torch_reserved_bytes = steal.steal_bytes;
    world.figures.torch_active_bytes = GRANULE;
    assert_int_equal(world_use(&world, 1, NULL, NULL, &result), UNSTICK_OK);
    assert_true(world.n_measures > 0);
    assert_true(world.n_reclaims > 0);
    assert_true(result.n_steps > 0);
    /* The host's empty_cache() gave nothing: then models leave. */
    assert_true(result.n_evictions > 0);
    assert_true(world_count_events(&world, UNSTICK_EVENT_RECLAIM, 0) > 0);
    world_close(&world);
}

static void test_failure_says_everything(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES - 1 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_cache_demand demand;
    struct unstick_request *request;
    struct world world;

    (void)state;
    world_open(&world, &options);
    demand = world_demand(&world, 0);
    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &request, NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_wait(request, NULL, &action), UNSTICK_OUT_OF_DEVICE_MEMORY);
    unstick_request_result(request, &result);
    assert_int_equal(result.required_bytes, result.error.required_bytes);
    assert_true(result.available_bytes < result.required_bytes);
    assert_ptr_equal(strstr(result.text, world_keys[0]), result.text); /* once, in front */
    assert_null(strstr(result.text + 1, world_keys[0]));
    assert_non_null(strstr(result.text, "held:"));
    assert_non_null(strstr(result.text, "tried:"));
    assert_non_null(strstr(result.text, "to do:"));
    assert_true(result.n_suggestions > 0);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_REFUSED, 0), 1);
    unstick_request_free(request);
    world_close(&world);
}

/* Contents that can be loaded again give their host memory up for those that cannot. */
static void test_host_memory_goes_to_what_cannot_be_loaded_again(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3,
                                     .host_bytes = (2 * MODEL_GRANULES + 7) * GRANULE,
                                     .cache = { .size = sizeof(struct unstick_cache_options),
                                                .flags = UNSTICK_CACHE_NO_BACKUP,
                                                .tier = UNSTICK_TIER_PAGEABLE } };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_request_result result;
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 1);
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[1], &request, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    unstick_request_free(request);
    assert_true(world_entry(&world, 1).pageable_bytes > 0);
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    /* The backup of 1 and that of 0 do not both fit: 1 can be loaded again. */
    if (world_use(&world, 2, NULL, &lease, &result) != UNSTICK_OK)
        fail_msg("%s", result.error.text);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    assert_true(world_count_events(&world, UNSTICK_EVENT_DISCARD, 0) > 0);
    assert_true(world_entry(&world, 1).pageable_bytes < MODEL_GRANULES * GRANULE);
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_RESTORE);
    world_check_contents(&world, lease, 0, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    /* And backups of what is resident go first of all. */
    assert_int_equal(world_visit(&world, 1).outcome, UNSTICK_OUTCOME_LOAD);
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    world_check_contents(&world, lease, 0, 0);
    world_check_contents(&world, lease, 0, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

/* --- reports --- */

static void test_reports_and_events(void **state)
{
    struct unstick_cache_component_info components[4];
    struct unstick_histogram timings[UNSTICK_N_TIMINGS];
    struct unstick_metrics_counts counts;
    struct unstick_cache_event events[4];
    struct world world;
    uint64_t last;
    size_t n;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 0);
    assert_int_equal(unstick_cache_components(world.cache, world_keys[0], components, 4, &n), UNSTICK_OK);
    assert_int_equal(n, 2);
    assert_string_equal(components[1].name, "transformer");
    assert_true(components[1].load_ns > 0 && components[1].last_used_ns > 0);
    assert_int_equal(components[1].resident_bytes, components[1].bytes);
    assert_int_equal(unstick_cache_components(world.cache, "none_none", components, 4, &n), UNSTICK_NOT_FOUND);
    last = world_last_event(&world);
    for (int i = 0; i < 300; i++)
        world_visit(&world, 0);
    assert_int_equal(unstick_cache_events(world.cache, last, events, 4, &n), UNSTICK_OK);
    assert_int_equal(n, 4);
    /* Three events each: older ones were overwritten, and the numbers show it. */
    assert_true(events[0].sequence > last + 1);
    assert_int_equal(events[1].sequence, events[0].sequence + 1);
    assert_int_equal(unstick_cache_counts(world.cache, &counts, timings), UNSTICK_OK);
    assert_int_equal(counts.n_hits, 300);
    assert_int_equal(counts.n_loads, 1);
    assert_int_equal(counts.up_bytes, world_entry(&world, 0).bytes);
    assert_true(timings[UNSTICK_TIMING_LOAD].sum_ns > 0);
    for (int kind = UNSTICK_EVENT_HIT; kind <= UNSTICK_EVENT_DROP; kind++)
        assert_string_not_equal(unstick_cache_event_name((enum unstick_cache_event_kind)kind), "unknown");
    assert_string_equal(unstick_cache_event_name((enum unstick_cache_event_kind)99), "unknown");
    assert_string_equal(unstick_entry_state_name(UNSTICK_ENTRY_PARTIAL), "partial");
    assert_string_equal(unstick_entry_state_name((enum unstick_entry_state)99), "unknown");
    world_close(&world);
}

static void test_bad_arguments(void **state)
{
    struct unstick_cache_options options = { .size = 1 };
    struct unstick_cache_demand demand;
    struct unstick_request *request;
    struct unstick_cache *cache;
    struct unstick_error error = { 0 };
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(unstick_cache_open(world.fixture.dev, &options, &cache, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_cache_request(world.cache, "", NULL, &request, &error), UNSTICK_INVALID_ARGUMENT);
    demand = world_demand(&world, 0);
    demand.fingerprint = "longer than sixteen characters";
    assert_int_equal(unstick_cache_request(world.cache, "a_b", &demand, &request, &error), UNSTICK_INVALID_ARGUMENT);
    demand = world_demand(&world, 0);
    world.layouts[0][1].name = world.layouts[0][0].name;
    assert_int_equal(unstick_cache_request(world.cache, "a_b", &demand, &request, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_cache_evict(world.cache, "a_b", &request, &error), UNSTICK_NOT_FOUND);
    assert_int_equal(unstick_cache_close(NULL, NULL), UNSTICK_OK);
    assert_null(unstick_request_free(NULL));
    assert_int_equal(unstick_cache_lease_end(NULL, NULL), UNSTICK_OK);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads_then_hits),
        cmocka_unit_test(test_evicts_as_little_as_needed_and_restores),
        cmocka_unit_test(test_leased_is_never_evicted),
        cmocka_unit_test(test_waits_for_a_lease_of_another),
        cmocka_unit_test(test_who_holds_a_lease_never_waits),
        cmocka_unit_test(test_waits_no_longer_than_it_was_told),
        cmocka_unit_test(test_order_of_arrival),
        cmocka_unit_test(test_one_loader_per_key),
        cmocka_unit_test(test_idle_at_once_and_after_a_time),
        cmocka_unit_test(test_idle_while_its_backup_is_written),
        cmocka_unit_test(test_leased_is_never_idle),
        cmocka_unit_test(test_pinned_never_leaves),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_preload_and_prefetch),
        cmocka_unit_test(test_a_limit_of_one_demand),
        cmocka_unit_test(test_force_counts_by_its_value),
        cmocka_unit_test(test_reclaims_before_it_evicts),
        cmocka_unit_test(test_failure_says_everything),
        cmocka_unit_test(test_host_memory_goes_to_what_cannot_be_loaded_again),
        cmocka_unit_test(test_reports_and_events),
        cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
