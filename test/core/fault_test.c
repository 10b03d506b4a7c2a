/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault loop: every call that a task makes to the device fails, at each position, once and for ever, and the
 * device is lost at each position. Afterwards every granule is where it was or where it was going, with the right
 * contents, or reported poisoned; the accounts are what the system has really backed; and a second try works.
 */
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* A GPU's granules are longer, and each takes the same calls: fewer of them do. */
#define MODEL_BYTES ((GRANULE < (UINT64_C(1) << 20) ? 6 : 1) * GRANULE + 4321)

/* Marks and polls have modes of their own: when they fail, what was submitted before them goes on running. */
enum mode { FAIL_ONCE, FAIL_FOR_EVER, LOSE, FAIL_MARK, FAIL_POLL, FAIL_MARKS, N_MODES };

/* How often a poll is asked depends on who is quicker. */
#define MAX_POLLS 16

struct scene {
    struct fixture fixture;
    struct unstick_region *region, *other;
    struct fixture_file file, other_file;
};

static void scene_open(struct scene *scene)
{
    fixture_open(&scene->fixture, NULL);
    fixture_file_open(&scene->fixture, &scene->file, MODEL_BYTES, 21);
    fixture_file_open(&scene->fixture, &scene->other_file, MODEL_BYTES, 22);
    assert_int_equal(unstick_region_new(scene->fixture.dev, "a", MODEL_BYTES, NULL, &scene->region, NULL), 0);
    assert_int_equal(unstick_region_new(scene->fixture.dev, "b", MODEL_BYTES, NULL, &scene->other, NULL), 0);
}

/* What the system has backed is what the accounts say, to the byte. */
static void scene_check_accounts(struct scene *scene)
{
    uint64_t backed_bytes;

    assert_true(usk_device_is_valid(scene->fixture.dev));
    if (!scene->fixture.is_host)
        return;
    assert_int_equal(usk_host_backed_bytes(scene->fixture.inner, &backed_bytes, NULL), UNSTICK_OK);
    assert_int_equal(backed_bytes, usk_device_held_bytes(scene->fixture.dev));
}

static void scene_close(struct scene *scene)
{
    usk_fault_set(scene->fixture.fault, NULL);
    unstick_region_unref(scene->region);
    unstick_region_unref(scene->other);
    scene_check_accounts(scene);
    fixture_file_close(&scene->file);
    fixture_file_close(&scene->other_file);
    fixture_close(&scene->fixture);
}

/* Contents are whole, wherever they are; on a lost device what had a backup is. */
static void scene_check_contents(struct scene *scene, struct unstick_region *region, const uint8_t *image,
                                 bool may_be_empty)
{
    struct unstick_region_info info = fixture_info(region);
    uint8_t buffer[512];

    (void)scene;
    if (info.n_poisoned)
        return;
    for (uint64_t offset = 0; offset + sizeof(buffer) < MODEL_BYTES; offset += MODEL_BYTES / 50) {
        struct unstick_error error = { 0 };
        int r = unstick_region_read(region, offset, buffer, sizeof(buffer), &error);

        if (r == UNSTICK_NO_CONTENTS && may_be_empty)
            continue;
        if (r != UNSTICK_OK)
            fail_msg("%llu: %s", (unsigned long long)offset, error.text);
        assert_memory_equal(buffer, image + offset, sizeof(buffer));
    }
}

/* --- what is done under faults: prepare runs without, act with --- */

struct act {
    const char *name;
    void (*prepare)(struct scene *scene);
    int (*act)(struct scene *scene);
    bool may_be_empty;     /* afterwards, if it failed or not */
    bool has_no_backup;    /* the only copy is on the device: a lost one takes it along */
    fixture_verb again;    /* what a second try is */
};

static struct unstick_task_options options_of(enum unstick_tier tier, unsigned int flags)
{
    return (struct unstick_task_options){ .size = sizeof(struct unstick_task_options), .tier = tier, .flags = flags };
}

static void prepare_nothing(struct scene *scene)
{
    (void)scene;
}

static void prepare_pinned(struct scene *scene)
{
    assert_int_equal(fixture_load(scene->region, &scene->file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
}

static void prepare_file(struct scene *scene)
{
    assert_int_equal(fixture_load(scene->region, &scene->file, UNSTICK_TIER_FILE, NULL), UNSTICK_OK);
}

static void prepare_written(struct scene *scene)
{
    assert_int_equal(fixture_run(scene->region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_write(scene->region, 0, scene->file.image, MODEL_BYTES, NULL), UNSTICK_OK);
}

static void prepare_dirty(struct scene *scene)
{
    prepare_pinned(scene);
    for (uint64_t i = 0; i < MODEL_BYTES; i += GRANULE)
        scene->file.image[i] ^= 0x55;
    assert_int_equal(unstick_region_write(scene->region, 0, scene->file.image, MODEL_BYTES, NULL), UNSTICK_OK);
}

static void prepare_evicted(struct scene *scene)
{
    prepare_pinned(scene);
    assert_int_equal(fixture_run(scene->region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
}

static void prepare_evicted_pageable(struct scene *scene)
{
    assert_int_equal(fixture_load(scene->region, &scene->file, UNSTICK_TIER_PAGEABLE, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(scene->region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
}

static void prepare_evicted_file(struct scene *scene)
{
    prepare_file(scene);
    assert_int_equal(fixture_run(scene->region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
}

static void prepare_pair(struct scene *scene)
{
    prepare_evicted(scene);
    assert_int_equal(fixture_load(scene->other, &scene->other_file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
}

static int act_load_pinned(struct scene *scene)
{
    return fixture_load(scene->region, &scene->file, UNSTICK_TIER_PINNED, NULL);
}

static int act_load_pageable(struct scene *scene)
{
    return fixture_load(scene->region, &scene->file, UNSTICK_TIER_PAGEABLE, NULL);
}

static int act_load_file(struct scene *scene)
{
    return fixture_load(scene->region, &scene->file, UNSTICK_TIER_FILE, NULL);
}

static int act_backup(struct scene *scene)
{
    return fixture_run(scene->region, unstick_region_backup, NULL, NULL);
}

static int act_backup_pageable(struct scene *scene)
{
    struct unstick_task_options options = options_of(UNSTICK_TIER_PAGEABLE, 0);

    return fixture_run(scene->region, unstick_region_backup, &options, NULL);
}

static int act_evict(struct scene *scene)
{
    return fixture_run(scene->region, unstick_region_evict, NULL, NULL);
}

static int act_restore(struct scene *scene)
{
    struct unstick_task_options options = options_of(UNSTICK_TIER_AUTO, UNSTICK_TASK_VERIFY);

    return fixture_run(scene->region, unstick_region_restore, &options, NULL);
}

static int act_discard(struct scene *scene)
{
    return fixture_run(scene->region, unstick_region_discard, NULL, NULL);
}

static int act_release(struct scene *scene)
{
    return fixture_run(scene->region, unstick_region_release, NULL, NULL);
}

static int act_switch(struct scene *scene)
{
    struct unstick_task_options evict_options = options_of(UNSTICK_TIER_AUTO, UNSTICK_TASK_HAND_OVER);
    struct unstick_task_options restore_options = options_of(UNSTICK_TIER_AUTO, 0);
    struct unstick_task *evict, *restore;
    int r, s;

    assert_int_equal(unstick_region_evict(scene->other, &evict_options, &evict, NULL), UNSTICK_OK);
    restore_options.sources = &evict;
    restore_options.n_sources = 1;
    assert_int_equal(unstick_region_restore(scene->region, &restore_options, &restore, NULL), UNSTICK_OK);
    s = unstick_task_wait(evict, NULL);
    r = unstick_task_wait(restore, NULL);
    unstick_task_free(evict);
    unstick_task_free(restore);
    /* Spares that nobody takes go back with the steps that follow. */
    while (unstick_context_step(scene->fixture.ctx, 0) != UNSTICK_OK ||
           atomic_load(&scene->fixture.dev->accounts[USK_ACCOUNT_SPARE]))
        continue;
    return r < 0 ? r : s;
}

static const struct act acts[] = {
    { "load pinned", prepare_nothing, act_load_pinned, true, false, NULL },
    { "load pageable", prepare_nothing, act_load_pageable, true, false, NULL },
    { "load file", prepare_nothing, act_load_file, true, false, NULL },
    { "backup", prepare_written, act_backup, false, true, unstick_region_backup },
    { "backup pageable", prepare_written, act_backup_pageable, false, true, unstick_region_backup },
    { "evict", prepare_pinned, act_evict, false, false, unstick_region_evict },
    { "evict file", prepare_file, act_evict, false, false, unstick_region_evict },
    { "evict dirty", prepare_dirty, act_evict, false, true, unstick_region_evict },
    { "restore", prepare_evicted, act_restore, false, false, unstick_region_restore },
    { "restore pageable", prepare_evicted_pageable, act_restore, false, false, unstick_region_restore },
    { "restore file", prepare_evicted_file, act_restore, false, false, unstick_region_restore },
    { "discard", prepare_pinned, act_discard, true, false, unstick_region_discard },
    { "release", prepare_pinned, act_release, true, false, unstick_region_release },
    { "switch", prepare_pair, act_switch, false, false, unstick_region_restore },
};

static struct usk_fault_script script_of(enum mode mode, uint64_t n)
{
    const uint64_t mark = UINT64_C(1) << USK_FAULT_MARK, poll = UINT64_C(1) << USK_FAULT_POLL;

    if (mode == LOSE)
        return (struct usk_fault_script){ .lose_at = n };
    if (mode == FAIL_POLL)
        return (struct usk_fault_script){ .fail_at = n, .op_mask = poll, .count_polls = true };
    if (mode == FAIL_MARK || mode == FAIL_MARKS)
        return (struct usk_fault_script){ .fail_at = n, .op_mask = mark, .is_for_ever = mode == FAIL_MARKS };
    return (struct usk_fault_script){ .fail_at = n, .is_for_ever = mode == FAIL_FOR_EVER };
}

/* One position; true if the fault was reached. */
static bool run_once(const struct act *act, enum mode mode, uint64_t n)
{
    struct scene scene;
    struct usk_fault_script script = script_of(mode, n);
    uint64_t n_failed;
    int r;

    scene_open(&scene);
    act->prepare(&scene);
    usk_fault_set(scene.fixture.fault, &script);
    r = act->act(&scene);
    n_failed = usk_fault_n_failed(scene.fixture.fault);
    if (mode == LOSE) {
        if (n_failed && r != UNSTICK_DEVICE_LOST && r != UNSTICK_OK)
            fail_msg("%s, lost at %llu: %s", act->name, (unsigned long long)n, unstick_status_name(r));
        if (!act->has_no_backup && n_failed)
            scene_check_contents(&scene, scene.region, scene.file.image, act->may_be_empty);
    } else if (atomic_load(&scene.fixture.dev->is_lost)) {
        /* It never said any more whether its copies were over. */
        assert_true(mode == FAIL_FOR_EVER || mode == FAIL_MARKS);
        if (!act->has_no_backup)
            scene_check_contents(&scene, scene.region, scene.file.image, act->may_be_empty);
    } else {
        usk_fault_set(scene.fixture.fault, NULL);
        scene_check_accounts(&scene);
        scene_check_contents(&scene, scene.region, scene.file.image, act->may_be_empty);
        scene_check_contents(&scene, scene.other, scene.other_file.image, true);
        if (r < 0 && act->again && !fixture_info(scene.region).n_poisoned)
            assert_int_equal(fixture_run(scene.region, act->again, NULL, NULL), UNSTICK_OK);
        scene_check_contents(&scene, scene.region, scene.file.image, act->may_be_empty);
    }
    scene_close(&scene);
    return n_failed;
}

static void test_every_position(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        for (enum mode mode = 0; mode < N_MODES; mode++) {
            uint64_t n = 1;

            while (run_once(&acts[i], mode, n) && (mode != FAIL_POLL || n < MAX_POLLS))
                n++;
            print_message("%s, mode %d: %llu positions\n", acts[i].name, (int)mode, (unsigned long long)n - 1);
            /* Discarding and releasing asks nothing of the lanes. */
            assert_true(n > 1 || mode > LOSE);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_position) };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
