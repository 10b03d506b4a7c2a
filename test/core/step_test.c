/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much a step does: on a device each call to which takes longer than a step may, a step makes one call, or one
 * group of calls that belong together. Counted, not timed: a machine may be as slow as it likes.
 */
#include "fixture.h"

/* Longer than USK_TASK_STEP_NS: behind any call there is no time left. */
#define DELAY_US 2500
/* The longest group: a copy, the order of the lanes, its hash, a mark. A file's pieces are a copy each. */
#define GROUP_CALLS 4
#define N_PIECES 8
#define MODEL_BYTES (6 * GRANULE + 4321)

struct scene {
    struct fixture fixture;
    struct unstick_region *region, *other;
    struct fixture_file file;
    uint64_t most_calls;
};

static void scene_open(struct scene *scene, const struct fixture_options *options)
{
    *scene = (struct scene){ 0 };
    fixture_open(&scene->fixture, options);
    fixture_file_open(&scene->fixture, &scene->file, MODEL_BYTES, 7);
    assert_int_equal(unstick_region_new(scene->fixture.dev, "a", MODEL_BYTES, NULL, &scene->region, NULL), 0);
    assert_int_equal(unstick_region_new(scene->fixture.dev, "b", MODEL_BYTES, NULL, &scene->other, NULL), 0);
}

static void scene_close(struct scene *scene)
{
    usk_fault_set(scene->fixture.fault, NULL);
    unstick_region_unref(scene->region);
    unstick_region_unref(scene->other);
    fixture_file_close(&scene->file);
    fixture_close(&scene->fixture);
}

/* Steps a task to its end on the slow device. Only the steps' own calls count: those of the pool's threads do not. */
static void scene_step_to_end(struct scene *scene, struct unstick_task *task)
{
    const uint64_t of_pool = UINT64_C(1) << USK_FAULT_REGISTER | UINT64_C(1) << USK_FAULT_UNREGISTER |
                             UINT64_C(1) << USK_FAULT_HOST_ALLOC | UINT64_C(1) << USK_FAULT_HOST_FREE;
    const struct usk_fault_script slow = { .delay_us = DELAY_US, .count_polls = true, .op_mask = ~of_pool };
    struct unstick_task_result result = { .size = sizeof(result) };

    usk_fault_set(scene->fixture.fault, &slow);
    do {
        uint64_t before = usk_fault_n_calls(scene->fixture.fault), n_calls;

        assert_true(unstick_context_step(scene->fixture.ctx, 0) >= 0);
        n_calls = usk_fault_n_calls(scene->fixture.fault) - before;
        if (n_calls > scene->most_calls)
            scene->most_calls = n_calls;
    } while (unstick_task_result(task, &result) == UNSTICK_PENDING);
    usk_fault_set(scene->fixture.fault, NULL);
    assert_int_equal(result.status, UNSTICK_OK);
    unstick_task_free(task);
}

static void scene_run(struct scene *scene, struct unstick_region *region, fixture_verb verb,
                      const struct unstick_task_options *options)
{
    struct unstick_task *task;

    assert_int_equal(verb(region, options, &task, NULL), UNSTICK_OK);
    scene_step_to_end(scene, task);
}

static void scene_load(struct scene *scene, enum unstick_tier tier)
{
    const struct unstick_task_options options = { .size = sizeof(options), .tier = tier };
    struct unstick_task *task;

    assert_int_equal(unstick_region_load(scene->region, &scene->file.layout, &options, &task, NULL), UNSTICK_OK);
    scene_step_to_end(scene, task);
}

static void scene_dirty(struct scene *scene)
{
    for (uint64_t i = 0; i < MODEL_BYTES; i += GRANULE)
        scene->file.image[i] ^= 0x55;
    assert_int_equal(unstick_region_write(scene->region, 0, scene->file.image, MODEL_BYTES, NULL), UNSTICK_OK);
}

static void test_one_region(void **state)
{
    struct unstick_task_options verified = { .size = sizeof(verified), .flags = UNSTICK_TASK_VERIFY };
    struct scene scene;

    (void)state;
    scene_open(&scene, NULL);
    scene_load(&scene, UNSTICK_TIER_PINNED);
    scene_run(&scene, scene.region, unstick_region_evict, NULL); /* unchanged */
    scene_run(&scene, scene.region, unstick_region_restore, &verified);
    scene_dirty(&scene);
    scene_run(&scene, scene.region, unstick_region_evict, NULL);
    scene_run(&scene, scene.region, unstick_region_restore, NULL);
    scene_dirty(&scene);
    scene_run(&scene, scene.region, unstick_region_backup, NULL);
    scene_run(&scene, scene.region, unstick_region_evict, NULL); /* the first after a backup */
    scene_run(&scene, scene.region, unstick_region_restore, NULL);
    assert_in_range(scene.most_calls, 1, GROUP_CALLS);
    fixture_assert_contents(scene.region, scene.file.image, MODEL_BYTES);
    scene_run(&scene, scene.region, unstick_region_discard, NULL);
    scene_run(&scene, scene.region, unstick_region_restore, NULL); /* zeros */
    scene_run(&scene, scene.region, unstick_region_revoke, NULL);
    assert_in_range(scene.most_calls, 1, GROUP_CALLS);
    scene_close(&scene);
}

static void test_from_a_file(void **state)
{
    struct scene scene;

    (void)state;
    scene_open(&scene, NULL);
    scene_load(&scene, UNSTICK_TIER_FILE);
    scene_run(&scene, scene.region, unstick_region_evict, NULL);
    scene_run(&scene, scene.region, unstick_region_restore, NULL);
    fixture_assert_contents(scene.region, scene.file.image, MODEL_BYTES);
    scene_run(&scene, scene.region, unstick_region_release, NULL);
    assert_in_range(scene.most_calls, 1, GROUP_CALLS + N_PIECES);
    scene_close(&scene);
}

/* Two tasks and a hand-over: what both do counts together. */
static void test_hand_over(void **state)
{
    struct unstick_task_options out = { .size = sizeof(out), .flags = UNSTICK_TASK_HAND_OVER };
    struct unstick_task_options in = { .size = sizeof(in) };
    struct unstick_task *leaving, *coming;
    struct scene scene;

    (void)state;
    scene_open(&scene, NULL);
    scene_load(&scene, UNSTICK_TIER_PINNED);
    assert_int_equal(unstick_region_evict(scene.region, &out, &leaving, NULL), UNSTICK_OK);
    in.sources = &leaving;
    in.n_sources = 1;
    assert_int_equal(unstick_region_restore(scene.other, &in, &coming, NULL), UNSTICK_OK);
    scene_step_to_end(&scene, coming);
    unstick_task_free(leaving);
    assert_in_range(scene.most_calls, 1, GROUP_CALLS);
    scene_close(&scene);
}

/* Many fences of ended leases are looked at one after the other, in as many steps as that takes. */
static void test_fences(void **state)
{
    struct scene scene;

    (void)state;
    scene_open(&scene, NULL);
    scene_load(&scene, UNSTICK_TIER_PINNED);
    for (int i = 0; i < 12; i++) {
        struct unstick_lease *lease;

        assert_int_equal(unstick_lease_begin(scene.region, 0, &lease, NULL), UNSTICK_OK);
        assert_int_equal(unstick_lease_use_stream(lease, NULL, NULL), UNSTICK_OK);
        assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
    }
    scene_run(&scene, scene.region, unstick_region_evict, NULL);
    assert_in_range(scene.most_calls, 1, GROUP_CALLS);
    scene_close(&scene);
}

/* What a step was made of is known afterwards; one without any call can be the longest where the machine was busy. */
static void test_the_longest_step_is_explained(void **state)
{
    const struct usk_longest_step *longest;
    struct scene scene;

    (void)state;
    scene_open(&scene, NULL);
    longest = &scene.fixture.ctx->longest_step;
    scene_load(&scene, UNSTICK_TIER_PINNED);
    assert_int_equal(longest->ns, scene.fixture.ctx->longest_step_ns);
    assert_true(longest->ns >= DELAY_US * UINT64_C(1000));
    assert_in_range(longest->n_calls, 0, GROUP_CALLS);
    if (longest->n_calls) {
        assert_non_null(longest->stretch);
        assert_in_range(longest->stretch_ns, DELAY_US * UINT64_C(1000), longest->ns);
    }
    scene_close(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_region),
        cmocka_unit_test(test_from_a_file),
        cmocka_unit_test(test_hand_over),
        cmocka_unit_test(test_fences),
        cmocka_unit_test(test_the_longest_step_is_explained),
    };

    return fixture_init() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
