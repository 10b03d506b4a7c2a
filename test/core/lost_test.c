/* SPDX-License-Identifier: Apache-2.0 */
/* A device that is lost in the middle: every call ends and says so, and what has a backup stays readable. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "fixture.h"

#define MODEL_BYTES (5 * GRANULE + 777)

/* One region of each kind that a loss can meet. */
enum { RESIDENT, EVICTED, PAGEABLE, FILED, SOLE, N_REGIONS };

struct scene {
    struct fixture fixture;
    struct unstick_region *regions[N_REGIONS];
    struct fixture_file files[N_REGIONS];
};

static void scene_open(struct scene *scene)
{
    static const enum unstick_tier tiers[] = { UNSTICK_TIER_PINNED, UNSTICK_TIER_PINNED, UNSTICK_TIER_PAGEABLE,
                                               UNSTICK_TIER_FILE };

    fixture_open(&scene->fixture, NULL);
    for (uint64_t i = 0; i < N_REGIONS; i++) {
        fixture_file_open(&scene->fixture, &scene->files[i], MODEL_BYTES, 70 + i);
        assert_int_equal(unstick_region_new(scene->fixture.dev, "r", MODEL_BYTES, NULL, &scene->regions[i], NULL), 0);
        if (i != SOLE)
            assert_int_equal(fixture_load(scene->regions[i], &scene->files[i], tiers[i], NULL), UNSTICK_OK);
        if (i != RESIDENT && i != SOLE)
            assert_int_equal(fixture_run(scene->regions[i], unstick_region_evict, NULL, NULL), UNSTICK_OK);
    }
    assert_int_equal(fixture_run(scene->regions[SOLE], unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_write(scene->regions[SOLE], 0, scene->files[SOLE].image, MODEL_BYTES, NULL), 0);
}

static void scene_close(struct scene *scene)
{
    for (int i = 0; i < N_REGIONS; i++) {
        unstick_region_unref(scene->regions[i]);
        fixture_file_close(&scene->files[i]);
    }
    fixture_close(&scene->fixture);
}

static void scene_lose(struct scene *scene)
{
    struct usk_fault_script lost = { .lose_at = 1 };

    usk_fault_set(scene->fixture.fault, &lost);
}

static void scene_check_backups(struct scene *scene)
{
    uint8_t byte;

    for (int i = 0; i < SOLE; i++)
        fixture_assert_contents(scene->regions[i], scene->files[i].image, MODEL_BYTES);
    assert_int_equal(unstick_region_read(scene->regions[SOLE], 0, &byte, 1, NULL), UNSTICK_DEVICE_LOST);
}

static const fixture_verb verbs[] = {
    unstick_region_evict, unstick_region_restore, unstick_region_backup, unstick_region_discard,
};

static void test_every_call_ends(void **state)
{
    struct unstick_device_info info = { .size = sizeof(info) };
    struct unstick_error error = { 0 };
    struct unstick_region *region;
    struct scene scene;

    (void)state;
    scene_open(&scene);
    scene_lose(&scene);
    assert_int_equal(unstick_device_info(scene.fixture.dev, &info, &error), UNSTICK_DEVICE_LOST);
    assert_true(info.is_lost);
    for (int i = 0; i < N_REGIONS; i++) {
        assert_int_equal(unstick_region_write(scene.regions[i], 0, "x", 1, NULL),
                         i == RESIDENT || i == SOLE ? UNSTICK_DEVICE_LOST : UNSTICK_NOT_RESIDENT);
        for (size_t k = 0; k < sizeof(verbs) / sizeof(verbs[0]); k++)
            assert_int_equal(fixture_run(scene.regions[i], verbs[k], NULL, NULL), UNSTICK_DEVICE_LOST);
    }
    assert_int_equal(unstick_region_new(scene.fixture.dev, "n", 1, NULL, &region, &error), UNSTICK_DEVICE_LOST);
    assert_true(error.text[0]);
    scene_check_backups(&scene);
    /* A device does not come back: what its driver says later is not believed. */
    usk_fault_set(scene.fixture.fault, NULL);
    for (int i = 0; i < N_REGIONS; i++)
        assert_int_equal(fixture_run(scene.regions[i], unstick_region_restore, NULL, NULL), UNSTICK_DEVICE_LOST);
    scene_check_backups(&scene);
    scene_close(&scene);
}

/* Tasks that are queued or in the middle end too, whoever waits for them and however many steps they had. */
static void test_tasks_under_way(void **state)
{
    (void)state;
    for (int n_steps = 0; n_steps < 12; n_steps++) {
        struct unstick_task *tasks[4];
        struct scene scene;

        scene_open(&scene);
        assert_int_equal(unstick_region_evict(scene.regions[RESIDENT], NULL, &tasks[0], NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_restore(scene.regions[EVICTED], NULL, &tasks[1], NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_restore(scene.regions[FILED], NULL, &tasks[2], NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_restore(scene.regions[RESIDENT], NULL, &tasks[3], NULL), UNSTICK_OK);
        for (int i = 0; i < n_steps; i++)
            unstick_context_step(scene.fixture.ctx, 0);
        scene_lose(&scene);
        for (int i = 0; i < 4; i++) {
            int r = unstick_task_wait(tasks[i], NULL);

            assert_true(r == UNSTICK_DEVICE_LOST || (r == UNSTICK_OK && n_steps));
            unstick_task_free(tasks[i]);
        }
        assert_true(usk_device_is_valid(scene.fixture.dev));
        assert_int_equal(fixture_run(scene.regions[RESIDENT], unstick_region_evict, NULL, NULL), UNSTICK_DEVICE_LOST);
        scene_check_backups(&scene);
        scene_close(&scene);
    }
}

/* A driver that never says whether a copy is over: the caller's buffer may still be written to, so the device is given
 * up, and what the copy may use is not given back even to a driver that takes it. */
static void test_silent_device(void **state)
{
    struct usk_fault_script silent = { .fail_at = 1, .is_for_ever = true, .op_mask = UINT64_C(1) << USK_FAULT_MARK };
    struct unstick_device_info info;
    struct scene scene;
    uint8_t byte;

    (void)state;
    scene_open(&scene);
    usk_fault_set(scene.fixture.fault, &silent);
    assert_int_equal(unstick_region_read(scene.regions[SOLE], 0, &byte, 1, NULL), UNSTICK_DRIVER);
    assert_true(fixture_device_info(&scene.fixture).is_lost);
    scene_check_backups(&scene);
    assert_int_equal(fixture_run(scene.regions[EVICTED], unstick_region_restore, NULL, NULL), UNSTICK_DEVICE_LOST);
    unstick_region_unref(scene.regions[RESIDENT]);
    scene.regions[RESIDENT] = NULL;
    info = fixture_device_info(&scene.fixture);
    assert_true(info.poisoned_bytes >= MODEL_BYTES);
    scene_close(&scene);
}

/* What is resident on a device that was lost has nothing but its backup. */
static void test_backups_are_kept(void **state)
{
    struct scene scene;

    (void)state;
    scene_open(&scene);
    scene_lose(&scene);
    assert_int_equal(unstick_region_write(scene.regions[RESIDENT], 0, "x", 1, NULL), UNSTICK_DEVICE_LOST);
    assert_int_equal(usk_region_forget_backups(scene.regions[RESIDENT]), 0);
    scene_check_backups(&scene);
    scene_close(&scene);
}

struct reader {
    pthread_t thread;
    struct unstick_region *region;
    uint8_t byte;
    int status;
};

static void *reader_run(void *userdata)
{
    struct reader *reader = userdata;

    reader->status = unstick_region_read(reader->region, 0, &reader->byte, 1, NULL);
    return NULL;
}

/* Who reads finds the backup, also if it was somebody else who found the loss. */
static void test_read_while_others_find_the_loss(void **state)
{
    struct usk_fault_script slow = { .pending_polls = 2000 };
    struct usk_fault_script lost = { .lose_at = 1, .count_polls = true };
    struct reader reader = { 0 };
    struct scene scene;

    (void)state;
    scene_open(&scene);
    reader.region = scene.regions[RESIDENT];
    usk_fault_set(scene.fixture.fault, &slow);
    assert_int_equal(pthread_create(&reader.thread, NULL, reader_run, &reader), 0);
    usleep(20000);
    atomic_store(&scene.fixture.dev->is_lost, true);
    usk_fault_set(scene.fixture.fault, &lost);
    pthread_join(reader.thread, NULL);
    assert_int_equal(reader.status, UNSTICK_OK);
    assert_int_equal(reader.byte, scene.files[RESIDENT].image[0]);
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_ends),
        cmocka_unit_test(test_tasks_under_way),
        cmocka_unit_test(test_silent_device),
        cmocka_unit_test(test_backups_are_kept),
        cmocka_unit_test(test_read_while_others_find_the_loss),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
