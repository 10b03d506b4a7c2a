/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two who use one cache at the same time, stopped where it hurts: what one has loaded by half, what is on its way out,
 * what both would count on. Each was found by the soak test first.
 */
#include <stdlib.h>

#include "world.h"

#include "base/clock.h"
#include "cache/request.h"

static struct unstick_cache_demand host_demand(void)
{
    return (struct unstick_cache_demand){ .size = sizeof(struct unstick_cache_demand),
                                          .required_bytes = MODEL_GRANULES * GRANULE };
}

static struct unstick_request *request_new(struct world *world, size_t index, const struct unstick_cache_demand *demand)
{
    struct unstick_request *request;

    assert_int_equal(unstick_cache_request(world->cache, world_keys[index], demand, &request, NULL), UNSTICK_OK);
    return request;
}

/* The host has loaded one component and goes on with the next; nobody may use the first yet: it goes if that fails. */
static void test_half_loaded_is_not_there(void **state)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report failed = { .size = sizeof(failed), .status = UNSTICK_IO };
    struct unstick_cache_demand whole = host_demand(), part = host_demand();
    struct unstick_cache_component encoder = { .size = sizeof(encoder), .name = world_names[0] };
    struct unstick_request *first, *second;
    struct unstick_region *region;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    part.components = &world_names[0];
    part.n_components = 1;
    whole.holder = 1;
    part.holder = 2;
    first = request_new(&world, 0, &whole);
    assert_int_equal(unstick_request_wait(first, NULL, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_LOAD);
    assert_int_equal(unstick_region_new(world.fixture.dev, "encoder", ENCODER_GRANULES * GRANULE, NULL, &region, NULL),
                     UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    encoder.region = region;
    assert_int_equal(unstick_request_add(first, &encoder, NULL), UNSTICK_OK);
    unstick_region_unref(region);

    second = request_new(&world, 0, &part);
    assert_int_equal(unstick_request_next(second, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_WAIT);
    assert_int_equal(unstick_request_wait(first, &failed, &action), UNSTICK_IO);
    unstick_request_free(first);
    /* Now it is the second one's to load. */
    assert_int_equal(unstick_request_wait(second, NULL, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_LOAD);
    world.load_model = 0;
    world_perform(&world, second, &action, &failed);
    assert_int_equal(unstick_request_wait(second, &failed, &action), UNSTICK_OK);
    unstick_request_free(second);
    world_close(&world);
}

/*
 * The one room that is free belongs to a request whose copies have not begun; another room is being made. A third one
 * counts on that, and does not begin before it is there.
 */
static void test_room_that_is_being_made_is_waited_for(void **state)
{
    struct usk_fault_script slow = { .pending_polls = 200 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request *eviction, *bringer, *waiter;
    struct unstick_cache_demand demand;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    world_visit(&world, 1);
    world_visit(&world, 2);
    world_visit(&world, 0);
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[1], &eviction, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, eviction), UNSTICK_OK);
    unstick_request_free(eviction);
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[2], &eviction, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, eviction), UNSTICK_OK);
    unstick_request_free(eviction);

    usk_fault_set(world.fixture.fault, &slow);
    demand = world_demand(&world, 1);
    bringer = request_new(&world, 1, &demand);
    assert_int_equal(unstick_request_next(bringer, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[0], &eviction, NULL), UNSTICK_OK);
    assert_int_equal(unstick_request_next(eviction, NULL, 0, &action), UNSTICK_PENDING);
    demand = world_demand(&world, 2);
    demand.max_wait_ms = 0;
    waiter = request_new(&world, 2, &demand);
    assert_int_equal(unstick_request_next(waiter, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(waiter->phase, USK_REQUEST_WAIT);
    usk_fault_set(world.fixture.fault, NULL);
    assert_int_equal(world_drive(&world, bringer), UNSTICK_OK);
    assert_int_equal(world_drive(&world, eviction), UNSTICK_OK);
    assert_int_equal(world_drive(&world, waiter), UNSTICK_OK);
    assert_int_equal(waiter->n_shortages, 0);
    unstick_request_free(bringer);
    unstick_request_free(eviction);
    unstick_request_free(waiter);
    world_close(&world);
}

/* What was dropped and is not freed yet is nobody's entry, and comes back all the same: no reason to refuse. */
static void test_nothing_is_refused_while_something_ends(void **state)
{
    struct unstick_cache_lease *lease;
    struct unstick_request_action action = { .size = sizeof(action) };
    struct world_options options = { .room_granules = MODEL_GRANULES + 1 };
    struct unstick_cache_demand demand;
    struct unstick_request *request;
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_use(&world, 0, NULL, &lease, NULL);
    demand = world_demand(&world, 1);
    demand.holder = 1;
    usk_cache_lock(world.cache);
    usk_cache_begin_end(world.cache);
    usk_cache_unlock(world.cache);
    request = request_new(&world, 1, &demand);
    assert_int_equal(unstick_request_next(request, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(request->phase, USK_REQUEST_WAIT);
    usk_cache_end(world.cache);
    assert_int_equal(world_drive(&world, request), UNSTICK_OUT_OF_DEVICE_MEMORY);
    unstick_request_free(request);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

/* The host moves a region past the cache: whoever asks for it waits until that is over. */
static void test_a_region_that_is_moved_by_others_is_waited_for(void **state)
{
    struct usk_fault_script slow = { .pending_polls = 200 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_lease *lease = NULL;
    struct unstick_cache_demand demand;
    struct unstick_request *request;
    struct unstick_region *region;
    struct unstick_task *task;
    struct world world;

    (void)state;
    world_open(&world, NULL);
    assert_int_equal(world_use(&world, 0, NULL, &lease, NULL), UNSTICK_OK);
    region = unstick_region_ref(unstick_cache_lease_region(lease, world_names[0]));
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    usk_fault_set(world.fixture.fault, &slow);
    assert_int_equal(unstick_region_evict(region, NULL, &task, NULL), UNSTICK_OK);
    demand = world_demand(&world, 0);
    request = request_new(&world, 0, &demand);
    assert_int_equal(unstick_request_next(request, NULL, 0, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_WAIT);
    usk_fault_set(world.fixture.fault, NULL);
    assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    lease = unstick_request_take_lease(request);
    world_check_contents(&world, lease, 0, 0);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    unstick_request_free(request);
    unstick_region_unref(region);
    world_close(&world);
}

/* Another one has begun to load the model when who waited for memory comes back: its last reading decides nothing. */
static void test_overtaken_at_its_last_look(void **state)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_demand demand;
    struct unstick_request *late, *early;
    struct unstick_cache_lease *lease;
    struct world world;
    uint64_t now_ns;

    (void)state;
    options.cache.size = sizeof(options.cache);
    options.cache.flags = UNSTICK_CACHE_HAS_FIGURES;
    world_open(&world, &options);
    demand = world_demand(&world, 0);
    assert_int_equal(world_use(&world, 0, &demand, &lease, NULL), UNSTICK_OK);
    demand = world_demand(&world, 1);
    demand.max_wait_ms = 60000;
    demand.holder = 7;
    late = request_new(&world, 1, &demand);
    demand.holder = 8;
    early = request_new(&world, 1, &demand);
    now_ns = usk_clock_now_ns();
    assert_int_equal(unstick_request_next(late, NULL, now_ns, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_MEASURE);
    assert_int_equal(unstick_request_next(late, NULL, now_ns, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_WAIT);
    /* As on a GPU that other processes use. */
    assert_null(late->view.processes);
    late->view.processes = calloc(1, sizeof(*late->view.processes));
    late->view.processes[0].bytes = GRANULE;
    late->view.reading.processes = late->view.processes;
    late->view.reading.n_processes = 1;
    late->view.reading.sources |= UNSTICK_SOURCE_PROCESSES;

    now_ns += 61000 * USK_NS_PER_MS;
    assert_int_equal(unstick_request_next(late, NULL, now_ns, &action), UNSTICK_PENDING);
    assert_int_equal(action.kind, UNSTICK_DO_MEASURE);
    late->entry->loader = early;
    assert_int_equal(unstick_request_next(late, NULL, now_ns, &action), UNSTICK_TIMED_OUT);
    late->entry->loader = NULL;
    unstick_request_free(late);
    unstick_request_free(early);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_loaded_is_not_there),
        cmocka_unit_test(test_room_that_is_being_made_is_waited_for),
        cmocka_unit_test(test_nothing_is_refused_while_something_ends),
        cmocka_unit_test(test_a_region_that_is_moved_by_others_is_waited_for),
        cmocka_unit_test(test_overtaken_at_its_last_look),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
