/* SPDX-License-Identifier: Apache-2.0 */
/* Granules that die, one behaviour per test, and those that a region grows by. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "fixture.h"
#include "store/store_private.h"

#define MODEL_BYTES (20 * GRANULE + 12345)

static void test_keep(void **state)
{
    struct fixture *fixture = *state;
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    const struct unstick_span spans[] = { { 17 * GRANULE + 5, GRANULE }, { 3 * GRANULE - 1, 1 }, { 0, 10 } };
    const struct unstick_span beyond = { MODEL_BYTES, 3 * GRANULE };
    struct unstick_region_info info;
    struct unstick_lease *lease;
    uint64_t bytes = 0;

    fixture_file_open(fixture, &file, MODEL_BYTES, 12);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_keep(region, &beyond, 1, &bytes, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_keep(region, spans, 3, &bytes, NULL), UNSTICK_BUSY);
    assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).n_dead, 0);

    assert_int_equal(unstick_region_keep(region, spans, 3, &bytes, NULL), UNSTICK_OK);
    info = fixture_info(region);
    assert_int_equal(info.n_dead, 21 - 4);
    assert_int_equal(info.state, UNSTICK_REGION_RESIDENT);
    assert_int_equal(info.resident_bytes, 4 * GRANULE);
    assert_int_equal(info.pinned_bytes, 4 * GRANULE);
    assert_int_equal(info.dead_bytes, bytes);
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 4 * GRANULE);
    assert_true(usk_device_is_valid(fixture->dev));
    assert_int_equal(fixture_peek(fixture, info.address + 5 * GRANULE), 0xff);
    assert_int_equal(unstick_region_keep(region, spans, 3, &bytes, NULL), UNSTICK_OK);
    assert_int_equal(bytes, 0);

    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_EVICTED);
    /* A backup alone goes, too. */
    assert_int_equal(unstick_region_keep(region, spans, 1, &bytes, NULL), UNSTICK_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(fixture_info(region).pinned_bytes, 2 * GRANULE);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    info = fixture_info(region);
    assert_int_equal(info.state, UNSTICK_REGION_RESIDENT);
    assert_int_equal(info.resident_bytes, 2 * GRANULE);
    for (uint64_t at = 17 * GRANULE; at < 19 * GRANULE; at += GRANULE / 4)
        assert_int_equal(fixture_peek(fixture, info.address + at), file.image[at]);

    assert_int_equal(unstick_region_keep(region, NULL, 0, &bytes, NULL), UNSTICK_OK);
    assert_int_equal(bytes, 2 * GRANULE);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_discard, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* For every call that fails: what stays is whole, and the next attempt ends it. */
static void test_keep_on_a_driver_that_fails(void **state)
{
    struct fixture *fixture = *state;
    const struct unstick_span span = { 2 * GRANULE, GRANULE };
    struct usk_fault_script script = { .op_mask = (UINT64_C(1) << USK_FAULT_UNMAP) | (UINT64_C(1) << USK_FAULT_MAP) |
                                                  (UINT64_C(1) << USK_FAULT_FENCE_DEVICE) };

    do {
        struct unstick_region *region = fixture_region_new(fixture, 6 * GRANULE);
        int r;

        assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
        fixture_poke(fixture, fixture_info(region).address + 2 * GRANULE, 7);
        script.fail_at++;
        usk_fault_set(fixture->fault, &script);
        r = unstick_region_keep(region, &span, 1, NULL, NULL);
        assert_true(r == UNSTICK_OK || usk_fault_n_failed(fixture->fault));
        assert_true(usk_device_is_valid(fixture->dev));
        if (!usk_fault_n_failed(fixture->fault))
            script.fail_at = 0;
        usk_fault_set(fixture->fault, NULL);
        assert_int_equal(unstick_region_keep(region, &span, 1, NULL, NULL), UNSTICK_OK);
        assert_int_equal(fixture_device_info(fixture).resident_bytes, GRANULE);
        assert_int_equal(fixture_peek(fixture, fixture_info(region).address + 2 * GRANULE), 7);
        unstick_region_unref(region);
        assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
    } while (script.fail_at);
}

/* cmocka's checks belong to the main thread: this one notes how it went. */
struct keeper {
    pthread_t thread;
    struct unstick_region *region;
    atomic_bool is_over;
    int status;
};

static void *keeper_run(void *userdata)
{
    struct keeper *keeper = userdata;

    keeper->status = unstick_region_keep(keeper->region, NULL, 0, NULL, NULL);
    atomic_store(&keeper->is_over, true);
    return NULL;
}

/* Gives up the whole region, in a thread of its own that has begun when this returns. */
static void keeper_start(struct keeper *keeper, struct unstick_region *region)
{
    *keeper = (struct keeper){ .region = region };
    assert_int_equal(pthread_create(&keeper->thread, NULL, keeper_run, keeper), 0);
    while (!fixture_info(region).n_leases && !atomic_load(&keeper->is_over))
        usleep(10);
}

static void keeper_join(struct keeper *keeper)
{
    pthread_join(keeper->thread, NULL);
    assert_int_equal(keeper->status, UNSTICK_OK);
}

/* A backup moves nothing, and copies what is being given up: it comes behind. */
static void test_backup_while_granules_die(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script slow = { .pending_polls = 300 };
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_task *task;
    struct keeper keeper;

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &slow);
    keeper_start(&keeper, region);
    assert_int_equal(unstick_region_backup(region, NULL, &task, NULL), UNSTICK_OK);
    for (int i = 0; !atomic_load(&keeper.is_over); i++) {
        unstick_context_step(fixture->ctx, 0);
        usleep(50);
        if (i == 100)
            usk_fault_set(fixture->fault, NULL);
    }
    keeper_join(&keeper);
    assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    assert_int_equal(fixture_info(region).pinned_bytes, 0);
    assert_true(usk_device_is_valid(fixture->dev));
    unstick_region_unref(region);
}

/* Backups that are on their way out lie in the arena until they are gone. */
static void test_backups_forgotten_while_granules_die(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script slow = { .delay_us = 200 };
    struct unstick_region *region = fixture_region_new(fixture, 60 * GRANULE);
    struct keeper keeper;

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_backup, NULL, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &slow);
    keeper_start(&keeper, region);
    while (fixture_device_info(fixture).resident_bytes == 60 * GRANULE && !atomic_load(&keeper.is_over))
        usleep(50);
    while (!atomic_load(&keeper.is_over)) {
        usk_region_forget_backups(region);
        /* As whoever makes the next arena does. */
        usk_baton_take(fixture->ctx);
        usk_store_reap(fixture->dev->store);
        usk_baton_give(fixture->ctx);
    }
    keeper_join(&keeper);
    usk_fault_set(fixture->fault, NULL);
    assert_int_equal(fixture_info(region).pinned_bytes, 0);
    assert_true(usk_device_is_valid(fixture->dev));
    unstick_region_unref(region);
}

static void *publisher_run(void *userdata)
{
    struct keeper *publisher = userdata;

    while (!atomic_load(&publisher->is_over)) {
        usk_baton_take(publisher->region->dev->ctx);
        usk_region_publish(publisher->region);
        usk_baton_give(publisher->region->dev->ctx);
    }
    return NULL;
}

/* What a region has grown by is empty from then on, whoever takes its census meanwhile. */
static void test_census_while_growing(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region_options options = { .size = sizeof(options), .reserve_bytes = 500 * GRANULE };
    struct keeper publisher = { 0 };
    uint32_t n_granules = 1, n_wrong = 0;
    void *address;

    assert_int_equal(unstick_region_new(fixture->dev, "r", GRANULE, &options, &publisher.region, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_alloc(publisher.region, GRANULE, &address, NULL), UNSTICK_OK);
    assert_int_equal(pthread_create(&publisher.thread, NULL, publisher_run, &publisher), 0);
    for (; n_granules < 500; n_granules++) {
        assert_int_equal(unstick_region_alloc(publisher.region, GRANULE, &address, NULL), UNSTICK_OK);
        for (int i = 0; i < 100; i++)
            n_wrong += fixture_info(publisher.region).n_granules != n_granules + 1;
    }
    atomic_store(&publisher.is_over, true);
    pthread_join(publisher.thread, NULL);
    assert_int_equal(n_wrong, 0);
    unstick_region_unref(publisher.region);
}

/* The rest of what was the last granule is zeros, also when it is the last one no more. */
static void test_restore_of_what_has_grown(void **state)
{
    struct unstick_task_options hand_over = { .size = sizeof(hand_over), .flags = UNSTICK_TASK_HAND_OVER };
    struct unstick_task_options from = { .size = sizeof(from), .n_sources = 1 };
    struct unstick_region_options options = { .size = sizeof(options) };
    struct fixture_options limited = { 0 };
    struct unstick_region *region, *other;
    struct unstick_task *out, *in;
    struct fixture_file file;
    struct fixture fixture;
    uint64_t bytes, part = GRANULE;
    void *address;

    (void)state;
    GRANULE *= 4;
    /* One of them at a time, beside the sentinels, so that the memory of one comes under the other. */
    limited.limit_bytes = 4 * GRANULE + part;
    fixture_open(&fixture, &limited);
    options.reserve_bytes = 3 * GRANULE;
    bytes = GRANULE + part;
    fixture_file_open(&fixture, &file, bytes, 90);
    /* To the very end, so that nothing of the layout is a gap. */
    file.layout.extents = (struct unstick_extent[]){ { .file_offset = 0, .bytes = bytes } };
    file.layout.n_extents = 1;
    assert_int_equal(unstick_region_new(fixture.dev, "r", bytes, &options, &region, NULL), UNSTICK_OK);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_FILE, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_alloc(region, GRANULE, &address, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);

    other = fixture_region_new(&fixture, 3 * GRANULE);
    assert_int_equal(fixture_run(other, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    for (uint64_t at = 0; at < 3 * GRANULE; at += part)
        fixture_poke(&fixture, fixture_info(other).address + at, 7);
    assert_int_equal(unstick_region_evict(other, &hand_over, &out, NULL), UNSTICK_OK);
    from.sources = &out;
    assert_int_equal(unstick_region_restore(region, &from, &in, NULL), UNSTICK_OK);
    assert_int_equal(unstick_task_wait(out, NULL), UNSTICK_OK);
    assert_int_equal(unstick_task_wait(in, NULL), UNSTICK_OK);
    for (uint64_t at = bytes; at < 3 * GRANULE; at += part)
        assert_int_equal(fixture_peek(&fixture, fixture_info(region).address + at), 0);
    unstick_task_free(out);
    unstick_task_free(in);
    unstick_region_unref(region);
    unstick_region_unref(other);
    fixture_file_close(&file);
    fixture_close(&fixture);
    GRANULE = part;
}

int main(void)
{
#define CASE(_name) cmocka_unit_test_setup_teardown(_name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_keep),
        CASE(test_keep_on_a_driver_that_fails),
        CASE(test_backup_while_granules_die),
        CASE(test_backups_forgotten_while_granules_die),
        CASE(test_census_while_growing),
        cmocka_unit_test(test_restore_of_what_has_grown),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
