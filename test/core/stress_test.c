/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Many threads on one context: they restore, evict, back up, lease, read, cancel and query five regions on a device
 * with room for three, while one thread drives. For the thread sanitizer above all; contents are checked at the end.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

#define MODEL_BYTES (8 * GRANULE)
#define N_REGIONS 5
#define N_THREADS 8
#define N_ROUNDS 60

struct stress {
    struct fixture fixture;
    struct unstick_region *regions[N_REGIONS];
    uint8_t *images[N_REGIONS];
};

struct stress_thread {
    struct stress *stress;
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

/* What may come of a verb while others pull at the same region. */
static bool stress_is_expected(int status)
{
    return status == UNSTICK_OK || status == UNSTICK_CANCELED || status == UNSTICK_OUT_OF_DEVICE_MEMORY;
}

static void stress_run(struct stress_thread *thread, struct unstick_region *region, fixture_verb verb)
{
    struct unstick_task *task;

    if (verb(region, NULL, &task, NULL) != UNSTICK_OK) {
        thread->n_wrong++;
        return;
    }
    if (stress_random(thread, 4) == 0)
        unstick_task_cancel(task);
    if (stress_random(thread, 8) != 0)
        thread->n_wrong += !stress_is_expected(unstick_task_wait(task, NULL));
    unstick_task_free(task);
}

static void stress_lease(struct stress_thread *thread, struct unstick_region *region)
{
    struct unstick_lease *lease;
    uint8_t bytes[64];
    uint64_t offset = stress_random(thread, MODEL_BYTES - sizeof(bytes));

    if (unstick_lease_begin(region, UNSTICK_LEASE_CANCEL_EVICTION, &lease, NULL) != UNSTICK_OK)
        return;
    unstick_lease_use_stream(lease, NULL, NULL);
    if (unstick_region_read(region, offset, bytes, sizeof(bytes), NULL) != UNSTICK_OK)
        thread->n_wrong++;
    for (int i = 0; i < N_REGIONS; i++) {
        if (thread->stress->regions[i] == region)
            thread->n_wrong += memcmp(bytes, thread->stress->images[i] + offset, sizeof(bytes)) != 0;
    }
    thread->n_wrong += unstick_lease_end(lease, NULL) != UNSTICK_OK;
}

static void *stress_thread(void *userdata)
{
    struct stress_thread *thread = userdata;
    struct stress *stress = thread->stress;

    for (int i = 0; i < N_ROUNDS; i++) {
        struct unstick_region *region = stress->regions[stress_random(thread, N_REGIONS)];
        struct unstick_region_info info = { .size = sizeof(info) };
        struct unstick_device_info device_info = { .size = sizeof(device_info) };

        switch (stress_random(thread, 6)) {
        case 0:
        case 1:
            stress_run(thread, region, unstick_region_restore);
            break;
        case 2:
            stress_run(thread, region, unstick_region_evict);
            break;
        case 3:
            stress_run(thread, region, unstick_region_backup);
            break;
        case 4:
            stress_lease(thread, region);
            break;
        default:
            thread->n_wrong += unstick_region_info(region, &info) != UNSTICK_OK;
            thread->n_wrong += unstick_device_info(stress->fixture.dev, &device_info, NULL) != UNSTICK_OK;
            unstick_context_step(stress->fixture.ctx, 0);
            break;
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct fixture_options options = { .limit_bytes = 3 * MODEL_BYTES + 3 * GRANULE };
    struct stress stress;
    struct stress_thread threads[N_THREADS];

    (void)state;
    fixture_open(&stress.fixture, &options);
    for (uint64_t i = 0; i < N_REGIONS; i++) {
        stress.images[i] = malloc(MODEL_BYTES);
        fixture_fill(stress.images[i], MODEL_BYTES, 100 + i);
        assert_int_equal(unstick_region_new(stress.fixture.dev, "r", MODEL_BYTES, NULL, &stress.regions[i], NULL), 0);
        assert_int_equal(fixture_run(stress.regions[i], unstick_region_restore, NULL, NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_write(stress.regions[i], 0, stress.images[i], MODEL_BYTES, NULL), UNSTICK_OK);
        assert_int_equal(fixture_run(stress.regions[i], unstick_region_evict, NULL, NULL), UNSTICK_OK);
    }
    assert_int_equal(unstick_context_start_driver(stress.fixture.ctx, NULL), UNSTICK_OK);
    for (uint64_t i = 0; i < N_THREADS; i++) {
        threads[i] = (struct stress_thread){ .stress = &stress, .seed = i * 7919 + 1 };
        assert_int_equal(pthread_create(&threads[i].thread, NULL, stress_thread, &threads[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i].thread, NULL);
        assert_int_equal(threads[i].n_wrong, 0);
    }
    for (int i = 0; i < N_REGIONS; i++) {
        struct unstick_task *task;

        /* Behind whatever was left to end by itself. */
        assert_int_equal(unstick_region_evict(stress.regions[i], NULL, &task, NULL), UNSTICK_OK);
        assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_OK);
        unstick_task_free(task);
        fixture_assert_contents(stress.regions[i], stress.images[i], MODEL_BYTES);
    }
    assert_true(usk_device_is_valid(stress.fixture.dev));
    for (int i = 0; i < N_REGIONS; i++) {
        unstick_region_unref(stress.regions[i]);
        free(stress.images[i]);
    }
    fixture_close(&stress.fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_threads) };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
