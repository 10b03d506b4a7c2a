/* SPDX-License-Identifier: Apache-2.0 */
/* What comes into the cache: what the host loads and registers, components one by one, and requests that end early. */
#include <stdlib.h>
#include <string.h>

#include "world.h"

/* --- what the host loads --- */

static void test_host_loads_and_a_backup_follows(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_request_result result;
    struct unstick_cache_lease *lease;
    struct world world;

    (void)state;
    world_open(&world, &options);
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_LOAD);
    assert_true(result.load_ns > 0);
    world_check_contents(&world, lease, 0, 0);
    /* Behind the lease, while it is in use. */
    world_settle(&world);
    assert_int_equal(world_count_events(&world, UNSTICK_EVENT_BACKUP, 0), WORLD_COMPONENTS);
    assert_int_equal(world_entry(&world, 0).pinned_bytes + world_entry(&world, 0).pageable_bytes,
                     world_entry(&world, 0).bytes);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    result = world_visit(&world, 1);
    assert_true(result.n_evictions > 0);
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    assert_int_equal(result.outcome, UNSTICK_OUTCOME_RESTORE);
    assert_int_equal(world.n_loads, 1);
    world_check_contents(&world, lease, 0, 0);
    world_check_contents(&world, lease, 0, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

/* Eviction before loading: the room is there when the host is asked to load. */
static void test_evicts_before_the_host_loads(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_request *request;
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &demand, &request, NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_wait(request, NULL, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_LOAD);
    assert_int_equal(action.bytes, GRANULE * MODEL_GRANULES);
    assert_int_equal(fixture_device_info(&world.fixture).spare_bytes, 0);
    assert_true(usk_device_room_bytes(world.fixture.dev) >= action.bytes);
    world.load_model = 1;
    world_perform(&world, request, &action, &report);
    assert_int_equal(unstick_request_wait(request, &report, &action), UNSTICK_OK);
    unstick_request_free(request);
    world_close(&world);
}

static void test_a_load_that_fails_leaves_nothing(void **state)
{
    const int statuses[] = { UNSTICK_NOT_FOUND, UNSTICK_IO /* after registering everything */ };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    for (size_t i = 0; i < 2; i++) {
        world.load_status = statuses[i];
        assert_int_equal(world_use(&world, 0, &demand, NULL, &result), statuses[i]);
        assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_FAILED);
        assert_int_equal(world_entry(&world, 0).n_components, 0);
        unstick_context_step(world.fixture.ctx, 0);
        assert_int_equal(fixture_device_info(&world.fixture).resident_bytes, 0);
    }
    world.load_status = UNSTICK_OK;
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OK);
    world_close(&world);
}

static void test_host_registers_layouts(void **state)
{
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_cache_lease *lease;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world.load_registers_layouts = true;
    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    world_check_contents(&world, lease, 0, 0);
    world_check_contents(&world, lease, 0, 1);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

static void test_registering_is_checked(void **state)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_cache_component twice;
    struct unstick_request *request;
    struct unstick_error error = { 0 };
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world_write(&world, 0);
    twice = world.layouts[0][0];
    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &request, NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_add(request, &twice, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_request_wait(request, NULL, &action), UNSTICK_PENDING);
    assert_int_equal(unstick_request_add(request, &twice, &error), UNSTICK_OK);
    assert_int_equal(unstick_request_add(request, &twice, &error), UNSTICK_INVALID_ARGUMENT);
    twice.layout = NULL;
    twice.name = "other";
    assert_int_equal(unstick_request_add(request, &twice, &error), UNSTICK_INVALID_ARGUMENT);
    unstick_request_free(request);
    world_close(&world);
}

/* What is asked for is the request's, and outlives the components that are replaced. */
static void test_names_of_what_is_missing(void **state)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_demand demand = world_host_demand();
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    struct unstick_region *region;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    region = unstick_region_ref(unstick_cache_lease_region(lease, world.layouts[0][0].name));
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_settle(&world);
    assert_int_equal(fixture_run(region, unstick_region_discard, NULL, NULL), UNSTICK_OK);
    unstick_region_unref(region);

    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &request, NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_wait(request, NULL, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_LOAD);
    assert_int_equal(action.n_components, 1);
    assert_int_equal(unstick_request_add(request, &world.layouts[0][0], NULL), UNSTICK_OK);
    assert_string_equal(action.components[0], world.layouts[0][0].name);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    unstick_request_free(request);
    world_close(&world);
}

/* Tensors that come to a model after its load, and those that leave it. */
static void test_components_come_and_go_later(void **state)
{
    struct unstick_cache_component later;
    struct unstick_cache_entry_info info;
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct unstick_error error = { 0 };
    struct unstick_region *region;
    struct world world;
    size_t n;

    (void)state;
    world_open(&world, NULL);
    demand = world_demand(&world, 0);
    later = (struct unstick_cache_component){ .size = sizeof(later), .name = "lora" };
    assert_int_equal(unstick_region_new(world.fixture.dev, "lora", GRANULE, NULL, &region, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    later.region = region;
    assert_int_equal(unstick_cache_add(world.cache, world_keys[0], &later, &error), UNSTICK_NOT_FOUND);
    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_cache_add(world.cache, world_keys[0], &later, &error), UNSTICK_OK);
    assert_int_equal(unstick_cache_add(world.cache, world_keys[0], &later, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_cache_remove(world.cache, world_keys[0], world_names[0], &error), UNSTICK_BUSY);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);

    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    assert_ptr_equal(unstick_cache_lease_region(lease, "lora"), region);
    assert_int_equal(unstick_cache_remove(world.cache, world_keys[0], "lora", &error), UNSTICK_BUSY);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);

    while (unstick_cache_step(world.cache, 0) == UNSTICK_PENDING)
        ;
    assert_int_equal(unstick_cache_remove(world.cache, world_keys[0], "lora", &error), UNSTICK_OK);
    assert_int_equal(unstick_cache_remove(world.cache, world_keys[0], "lora", &error), UNSTICK_NOT_FOUND);
    assert_int_equal(unstick_cache_remove(world.cache, "nobody_8-bit", "lora", &error), UNSTICK_NOT_FOUND);
    assert_int_equal(unstick_cache_entries(world.cache, &info, 1, &n), UNSTICK_OK);
    assert_int_equal(info.n_components, WORLD_COMPONENTS);
    unstick_region_unref(region);
    world_close(&world);
}

/* --- components one by one --- */

/* A pipeline that is larger than the device: encode, then denoise, with no offloading by hand. */
static void test_components_leased_one_by_one(void **state)
{
    struct world_options options = { .room_granules = TRANSFORMER_GRANULES + 1 };
    struct unstick_cache_lease *lease;
    struct unstick_cache_demand demand;
    struct unstick_request_result result;
    struct world world;

    (void)state;
    world_open(&world, &options);
    demand = world_demand(&world, 0);
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    for (size_t round = 0; round < 3; round++) {
        for (size_t k = 0; k < WORLD_COMPONENTS; k++) {
            demand.components = &world_names[k];
            demand.n_components = 1;
            assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
            world_check_contents(&world, lease, 0, k);
            assert_null(unstick_cache_lease_region(lease, world_names[1 - k]));
            assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
        }
    }
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_PARTIAL);
    /* In use: then the other one has no room, and nothing is touched. */
    demand.components = &world_names[0];
    assert_int_equal(world_use(&world, 0, &demand, &lease, &result), UNSTICK_OK);
    demand.components = &world_names[1];
    demand.holder = 9;
    assert_int_equal(world_use(&world, 0, &demand, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    world_check_contents(&world, lease, 0, 0);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

/* --- cancel --- */

/* Cancelled after every number of steps: nothing of it stays, and what was there is whole. */
static void test_cancel_at_every_step(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    bool is_over = false;

    (void)state;
    for (unsigned int at = 0; !is_over; at++) {
        struct unstick_request_action action = { .size = sizeof(action) };
        struct unstick_request_report report = { .size = sizeof(report) };
        struct unstick_cache_demand demand;
        struct unstick_request *request;
        struct world world;
        int r = UNSTICK_PENDING;

        world_open(&world, &options);
        world_visit(&world, 0);
        demand = at % 2 ? world_demand(&world, 1) : world_host_demand();
        world.load_model = 1;
        assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &demand, &request, NULL), UNSTICK_OK);
        for (unsigned int i = 0; i < at / 2 && r == UNSTICK_PENDING; i++) {
            r = unstick_request_next(request, &report, 0, &action);
            if (r == UNSTICK_PENDING)
                world_perform(&world, request, &action, &report);
        }
        is_over = r != UNSTICK_PENDING && at > 20;
        unstick_request_cancel(request);
        r = world_drive(&world, request);
        if (r == UNSTICK_CANCELED) {
            unstick_context_step(world.fixture.ctx, 0);
            assert_int_equal(world_entry(&world, 1).resident_bytes, 0);
            assert_int_equal(fixture_device_info(&world.fixture).resident_bytes, world_entry(&world, 0).resident_bytes);
        } else {
            assert_int_equal(r, UNSTICK_OK);
        }
        unstick_request_free(request);
        world_visit(&world, 0);
        world_visit(&world, 1);
        world_close(&world);
    }
}

/* The same, but its owner just forgets it. */
static void test_free_at_every_step(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };

    (void)state;
    for (unsigned int at = 0; at < 24; at++) {
        struct unstick_request_action action = { .size = sizeof(action) };
        struct unstick_cache_demand demand;
        struct unstick_request *request;
        struct world world;

        world_open(&world, &options);
        world_visit(&world, 0);
        demand = world_demand(&world, 1);
        assert_int_equal(unstick_cache_request(world.cache, world_keys[1], &demand, &request, NULL), UNSTICK_OK);
        for (unsigned int i = 0; i < at; i++)
            unstick_request_next(request, NULL, 0, &action);
        unstick_request_free(request);
        world_settle(&world);
        world_visit(&world, 0);
        world_close(&world);
    }
}

/* A restore that is canceled gives back what it brought. */
static void test_cancelled_restore_goes_back(void **state)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request *request;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 0);
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[0], &request, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    unstick_request_free(request);
    assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_EVICTED);
    demand = world_demand(&world, 0);
    assert_int_equal(unstick_cache_request(world.cache, world_keys[0], &demand, &request, NULL), UNSTICK_OK);
    for (int i = 0; i < 4; i++)
        unstick_request_next(request, NULL, 0, &action);
    unstick_request_cancel(request);
    if (world_drive(&world, request) == UNSTICK_CANCELED) {
        assert_int_equal(world_state(&world, 0), UNSTICK_ENTRY_EVICTED);
        assert_int_equal(fixture_device_info(&world.fixture).resident_bytes, 0);
    }
    unstick_request_free(request);
    world_visit(&world, 0);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_loads_and_a_backup_follows),
        cmocka_unit_test(test_evicts_before_the_host_loads),
        cmocka_unit_test(test_a_load_that_fails_leaves_nothing),
        cmocka_unit_test(test_host_registers_layouts),
        cmocka_unit_test(test_registering_is_checked),
        cmocka_unit_test(test_names_of_what_is_missing),
        cmocka_unit_test(test_components_come_and_go_later),
        cmocka_unit_test(test_components_leased_one_by_one),
        cmocka_unit_test(test_cancel_at_every_step),
        cmocka_unit_test(test_free_at_every_step),
        cmocka_unit_test(test_cancelled_restore_goes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
