/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads on one cache, with room for two of its four models: they request, wait for each other, lease, cancel,
 * forget, evict, pin, drop, report. For the thread sanitizer above all; whoever holds a lease reads what it should.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "world.h"

#define N_THREADS 8
#define N_ROUNDS 40

struct stress_thread {
    struct world *world;
    uint64_t seed;
    pthread_t thread;
    int n_wrong;
};

static uint64_t stress_random(struct stress_thread *thread, uint64_t below)
{
    thread->seed ^= thread->seed << 13;
    thread->seed ^= thread->seed >> 7;
    thread->seed ^= thread->seed << 17;
    return (thread->seed >> 11) % below;
}

static void stress_check(struct stress_thread *thread, struct unstick_cache_lease *lease, size_t index)
{
    for (size_t k = 0; k < WORLD_COMPONENTS; k++) {
        struct unstick_region *region = unstick_cache_lease_region(lease, world_names[k]);
        const struct fixture_file *file = &thread->world->files[index][k];
        uint8_t bytes[64];
        uint64_t offset = stress_random(thread, file->layout.bytes - sizeof(bytes));

        if (!region)
            continue;
        if (unstick_region_read(region, offset, bytes, sizeof(bytes), NULL) != UNSTICK_OK ||
            memcmp(bytes, file->image + offset, sizeof(bytes)) != 0)
            thread->n_wrong++;
    }
}

static void stress_use(struct stress_thread *thread, size_t index)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_demand demand = world_demand(thread->world, index);
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    int r;

    demand.max_wait_ms = 0;
    if (stress_random(thread, 3) == 0) {
        demand.components = &world_names[stress_random(thread, WORLD_COMPONENTS)];
        demand.n_components = 1;
    }
    if (stress_random(thread, 6) == 0)
        demand.flags = UNSTICK_DEMAND_PREFETCH;
    if (unstick_cache_request(thread->world->cache, world_keys[index], &demand, &request, NULL) != UNSTICK_OK) {
        thread->n_wrong++;
        return;
    }
    if (stress_random(thread, 8) == 0) {
        for (uint64_t i = stress_random(thread, 5); i; i--)
            unstick_request_next(request, NULL, 0, &action);
        unstick_request_free(request);
        return;
    }
    if (stress_random(thread, 8) == 0)
        unstick_request_cancel(request);
    r = unstick_request_wait(request, NULL, &action);
    lease = unstick_request_take_lease(request);
    if (r != UNSTICK_OK && r != UNSTICK_CANCELED) {
        struct unstick_request_result result = { .size = sizeof(result) };

        unstick_request_result(request, &result);
        fprintf(stderr, "%s: %s\n", unstick_status_name(r), result.text);
        thread->n_wrong++;
    }
    unstick_request_free(request);
    if (lease) {
        unstick_cache_lease_use_stream(lease, NULL, NULL);
        stress_check(thread, lease, index);
        thread->n_wrong += unstick_cache_lease_end(lease, NULL) != UNSTICK_OK;
    }
}

static void stress_evict(struct stress_thread *thread, size_t index)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request *request;

    if (unstick_cache_evict(thread->world->cache, world_keys[index], &request, NULL) != UNSTICK_OK)
        return;
    if (unstick_request_wait(request, NULL, &action) != UNSTICK_OK)
        thread->n_wrong++;
    unstick_request_free(request);
}

static void *stress_run(void *userdata)
{
    struct stress_thread *thread = userdata;
    struct unstick_cache *cache = thread->world->cache;
    struct unstick_cache_entry_info infos[WORLD_MODELS];
    struct unstick_cache_event events[16];
    size_t n;

    for (int round = 0; round < N_ROUNDS; round++) {
        size_t index = stress_random(thread, WORLD_MODELS);

        switch (stress_random(thread, 10)) {
        case 0:
            stress_evict(thread, index);
            break;
        case 1:
            unstick_cache_drop(cache, world_keys[index], NULL);
            break;
        case 2:
            unstick_cache_set_idle(cache, world_keys[index], stress_random(thread, 2) ? 0 : UNSTICK_IDLE_NEVER, NULL);
            unstick_cache_step(cache, 0);
            break;
        case 3:
            unstick_cache_entries(cache, infos, WORLD_MODELS, &n);
            unstick_cache_events(cache, 0, events, 16, &n);
            unstick_cache_counts(cache, NULL, NULL);
            unstick_cache_timeout_ms(cache, 0);
            break;
        default:
            stress_use(thread, index);
            break;
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct stress_thread threads[N_THREADS] = { 0 };
    struct world world;

    (void)state;
    world_open(&world, NULL);
    for (size_t i = 0; i < WORLD_MODELS; i++)
        world_write(&world, i);
    for (size_t i = 0; i < N_THREADS; i++) {
        threads[i].world = &world;
        threads[i].seed = 88172645463325252u + i * 7919;
        assert_int_equal(pthread_create(&threads[i].thread, NULL, stress_run, &threads[i]), 0);
    }
    for (size_t i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i].thread, NULL);
        assert_int_equal(threads[i].n_wrong, 0);
    }
    for (size_t i = 0; i < WORLD_MODELS; i++)
        unstick_cache_set_idle(world.cache, world_keys[i], UNSTICK_IDLE_NEVER, NULL);
    world_settle(&world);
    for (size_t i = 0; i < WORLD_MODELS; i++)
        world_visit(&world, i);
    assert_true(usk_device_is_valid(world.fixture.dev));
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
