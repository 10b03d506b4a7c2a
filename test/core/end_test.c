/* SPDX-License-Identifier: Apache-2.0 */
/* How tasks end that cannot go on, and how regions end, one behaviour per test. */
#include <unistd.h>

#include "base/os.h"
#include "fixture.h"
#include "store/store_private.h"

#define MODEL_BYTES (20 * GRANULE + 12345)

static void test_cancel_at_every_step(void **state)
{
    struct fixture *fixture = *state;
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    fixture_verb verbs[] = { unstick_region_evict, unstick_region_restore };
    int status;

    fixture_file_open(fixture, &file, MODEL_BYTES, 11);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    for (size_t verb = 0; verb < 2; verb++) {
        int n_steps = 0;

        do {
            struct unstick_task *task;

            assert_int_equal(verbs[verb](region, NULL, &task, NULL), UNSTICK_OK);
            for (int i = 0; i < n_steps && unstick_task_step(task, 1) == UNSTICK_PENDING; i++)
                continue;
            unstick_task_cancel(task);
            status = fixture_step_to_end(fixture, task, NULL);
            assert_true(status == UNSTICK_OK || status == UNSTICK_CANCELED);
            unstick_task_free(task);
            fixture_assert_contents(region, file.image, MODEL_BYTES);
            /* The last ones only wait, as often as the device is slow. */
            n_steps += 1 + n_steps / 16;
        } while (status == UNSTICK_CANCELED && n_steps < 3000);
        assert_int_equal(fixture_run(region, verbs[verb], NULL, NULL), UNSTICK_OK);
    }
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* A driver that asks to be asked again, for ever: no granule is left half way. */
static void test_busy_driver(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script busy = { .busy_maps = UINT32_MAX };
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, 3 * GRANULE);

    fixture_file_open(fixture, &file, 3 * GRANULE, 17);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &busy);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_BUSY);
    assert_true(usk_device_is_valid(fixture->dev));
    fixture_assert_contents(region, file.image, 3 * GRANULE);
    usk_fault_set(fixture->fault, NULL);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    fixture_assert_contents(region, file.image, 3 * GRANULE);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* It asks to be asked again, and the task is canceled meanwhile: the granule in question is here or there. */
static void test_canceled_while_the_driver_is_busy(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script busy = { .busy_maps = UINT32_MAX };
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, 3 * GRANULE);

    fixture_file_open(fixture, &file, 3 * GRANULE, 18);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    for (int is_busy_still = 0; is_busy_still < 2; is_busy_still++) {
        struct unstick_task *task;

        usk_fault_set(fixture->fault, &busy);
        assert_int_equal(unstick_region_evict(region, NULL, &task, NULL), UNSTICK_OK);
        while (usk_fault_n_calls(fixture->fault) < 12)
            assert_int_equal(unstick_task_step(task, 1), UNSTICK_PENDING);
        for (int i = 0; i < 50; i++)
            assert_int_equal(unstick_task_step(task, 1), UNSTICK_PENDING);
        if (!is_busy_still)
            usk_fault_set(fixture->fault, NULL);
        unstick_task_cancel(task);
        assert_int_equal(fixture_step_to_end(fixture, task, NULL), UNSTICK_CANCELED);
        unstick_task_free(task);
        assert_true(usk_device_is_valid(fixture->dev));
        fixture_assert_contents(region, file.image, 3 * GRANULE);
        usk_fault_set(fixture->fault, NULL);
        assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    }
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/*
 * It asks to be asked again for one granule, and fails for another, which had to be copied first and so comes later:
 * the one in question is here or there.
 */
static void test_failed_while_the_driver_is_busy(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script script = { .busy_maps = UINT32_MAX, .fail_at = 2,
                                       .op_mask = UINT64_C(1) << USK_FAULT_UNMAP };
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, 2 * GRANULE);

    fixture_file_open(fixture, &file, 2 * GRANULE, 20);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    file.image[0] ^= 1;
    assert_int_equal(unstick_region_write(region, 0, file.image, 1, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &script);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_DRIVER);
    assert_int_equal(usk_fault_n_calls(fixture->fault), 2);
    usk_fault_set(fixture->fault, NULL);
    assert_true(usk_device_is_valid(fixture->dev));
    fixture_assert_contents(region, file.image, 2 * GRANULE);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    fixture_assert_contents(region, file.image, 2 * GRANULE);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* What was launched on a region may still run when its last reference goes: the memory stays until that has passed. */
static void test_end_waits_for_the_device(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script slow = { .pending_polls = 100, .count_polls = true,
                                     .op_mask = UINT64_C(1) << USK_FAULT_POLL };

    for (int is_leased = 0; is_leased < 2; is_leased++) {
        struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
        struct unstick_lease *lease;

        assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
        usk_fault_set(fixture->fault, &slow);
        if (is_leased) {
            assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_OK);
            assert_int_equal(unstick_lease_use_stream(lease, NULL, NULL), UNSTICK_OK);
            assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
        }
        unstick_region_unref(region);
        assert_true(usk_fault_n_calls(fixture->fault) > 100);
        assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
        usk_fault_set(fixture->fault, NULL);
        /* Without memory there is nothing to wait for. */
        usk_fault_set(fixture->fault, &slow);
        unstick_region_unref(fixture_region_new(fixture, MODEL_BYTES));
        assert_int_equal(usk_fault_n_calls(fixture->fault), 0);
        usk_fault_set(fixture->fault, NULL);
    }
}

/* Host memory goes when all device memory has gone: the driver undoes registrations slowly, and lets others wait. */
static void test_backups_go_last(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script counting = { .op_mask = UINT64_C(1) << USK_FAULT_UNREGISTER };
    struct unstick_region *region = fixture_region_new(fixture, 20 * GRANULE);
    struct unstick_task *task;

    fixture->dev->store->piece_bytes = GRANULE; /* as it is with granules of 64 MiB */
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_backup, NULL, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &counting);
    assert_int_equal(unstick_region_release(region, NULL, &task, NULL), UNSTICK_OK);
    while (fixture_info(region).resident_bytes) {
        assert_int_equal(usk_fault_n_calls(fixture->fault), 0);
        unstick_task_step(task, 0);
        usk_os_pause_us(2000); /* for the store's threads */
    }
    assert_int_equal(fixture_step_to_end(fixture, task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    unstick_region_unref(region);
    usk_fault_set(fixture->fault, NULL);
}

/* While a graph is captured nothing can be fenced: who drops the last reference may be the one who captures. */
static void test_end_while_capturing(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct usk_fault_script capturing = { .fail_at = 1, .is_for_ever = true, .status = UNSTICK_BUSY,
                                          .op_mask = UINT64_C(1) << USK_FAULT_FENCE_DEVICE };

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    usk_fault_set(fixture->fault, &capturing);
    unstick_region_unref(region);
    assert_true(fixture_device_info(fixture).resident_bytes > 0);
    assert_true(usk_device_is_valid(fixture->dev));
    assert_int_equal(unstick_device_close(fixture->dev, NULL), UNSTICK_BUSY);
    unstick_context_step(fixture->ctx, 0);
    assert_true(unstick_context_timeout_ms(fixture->ctx) >= 0);
    usk_fault_set(fixture->fault, NULL);
    for (int i = 0; i < 10000 && fixture_device_info(fixture).resident_bytes; i++) {
        unstick_context_step(fixture->ctx, 0);
        usleep(100);
    }
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
}

static void test_left_open(void **state)
{
    /* The teardown frees the context with a region resident and a task queued. */
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
    struct unstick_task *task;

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_evict(region, NULL, &task, NULL), UNSTICK_OK);
    unstick_task_free(task);
}

int main(void)
{
#define CASE(_name) cmocka_unit_test_setup_teardown(_name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_cancel_at_every_step),
        CASE(test_busy_driver),
        CASE(test_canceled_while_the_driver_is_busy),
        CASE(test_failed_while_the_driver_is_busy),
        CASE(test_end_waits_for_the_device),
        CASE(test_backups_go_last),
        CASE(test_end_while_capturing),
        CASE(test_left_open),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
