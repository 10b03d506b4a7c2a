/* SPDX-License-Identifier: Apache-2.0 */
/* The verbs of regions on a host device, one behaviour per test. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

#define MODEL_BYTES (20 * GRANULE + 12345)

static void evict_and_restore(struct fixture *fixture, enum unstick_tier tier)
{
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_task_result result;
    struct unstick_task_options verify = { .size = sizeof(verify), .flags = UNSTICK_TASK_VERIFY };

    fixture_file_open(fixture, &file, MODEL_BYTES, 1);
    assert_int_equal(fixture_load(region, &file, tier, &result), UNSTICK_OK);
    assert_int_equal(result.tier, tier);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
    fixture_assert_contents(region, file.image, MODEL_BYTES);

    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.copied_bytes, 0);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_EVICTED);
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
    assert_true(usk_device_is_valid(fixture->dev));
    fixture_assert_contents(region, file.image, MODEL_BYTES);

    assert_int_equal(fixture_run(region, unstick_region_restore, &verify, &result), UNSTICK_OK);
    assert_true(result.has_verified);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    unstick_region_unref(region);
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
    fixture_file_close(&file);
}

static void test_pinned(void **state)
{
    evict_and_restore(*state, UNSTICK_TIER_PINNED);
}

static void test_pageable(void **state)
{
    evict_and_restore(*state, UNSTICK_TIER_PAGEABLE);
}

static void test_file(void **state)
{
    evict_and_restore(*state, UNSTICK_TIER_FILE);
}

/* One changed byte copies its granule and nothing else, whatever the tier. */
static void test_dirty(void **state)
{
    static const enum unstick_tier tiers[] = { UNSTICK_TIER_PINNED, UNSTICK_TIER_PAGEABLE, UNSTICK_TIER_FILE };

    for (size_t i = 0; i < 3; i++) {
        struct fixture_file file;
        struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
        struct unstick_task_result result;

        fixture_file_open(*state, &file, MODEL_BYTES, 2);
        assert_int_equal(fixture_load(region, &file, tiers[i], NULL), UNSTICK_OK);
        file.image[7 * GRANULE + 99] ^= 1;
        assert_int_equal(unstick_region_write(region, 7 * GRANULE + 99, file.image + 7 * GRANULE + 99, 1, NULL),
                         UNSTICK_OK);
        assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_OK);
        assert_int_equal(result.copied_bytes, GRANULE);
        assert_int_equal(fixture_run(region, unstick_region_restore, NULL, &result), UNSTICK_OK);
        fixture_assert_contents(region, file.image, MODEL_BYTES);
        assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_OK);
        assert_int_equal(result.copied_bytes, 0);
        fixture_assert_contents(region, file.image, MODEL_BYTES);
        unstick_region_unref(region);
        fixture_file_close(&file);
    }
}

static void test_empty_restores_as_zeros(void **state)
{
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
    uint8_t *zeros = calloc(1, MODEL_BYTES);
    struct unstick_task_result result;
    void *address;

    assert_int_equal(unstick_region_alloc(region, 1000, &address, NULL), UNSTICK_OK);
    assert_int_equal((uintptr_t)address % 512, 0);
    assert_int_equal(fixture_peek(*state, (uintptr_t)address), 0xff); /* the sentinel */
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    fixture_assert_contents(region, zeros, MODEL_BYTES);
    /* Never backed up: the first eviction copies everything. */
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_OK);
    assert_true(result.copied_bytes >= MODEL_BYTES);
    assert_int_equal(fixture_peek(*state, (uintptr_t)address), 0xff);
    unstick_region_unref(region);
    free(zeros);
}

static void test_backup_makes_evictions_free(void **state)
{
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
    uint8_t *image = malloc(MODEL_BYTES);
    struct unstick_task_result result;

    fixture_fill(image, MODEL_BYTES, 3);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_write(region, 0, image, MODEL_BYTES, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_backup, NULL, &result), UNSTICK_OK);
    assert_true(result.copied_bytes >= MODEL_BYTES);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.copied_bytes, 0);
    fixture_assert_contents(region, image, MODEL_BYTES);
    unstick_region_unref(region);
    free(image);
}

static void test_partial(void **state)
{
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
    struct unstick_task_options options = { .size = sizeof(options), .max_bytes = 3 * GRANULE };
    struct unstick_task_result result;

    fixture_file_open(*state, &file, MODEL_BYTES, 4);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, &options, &result), UNSTICK_OK);
    assert_true(result.done_bytes >= 3 * GRANULE && result.done_bytes <= 4 * GRANULE);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_PARTIAL);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    options.max_bytes = GRANULE;
    assert_int_equal(fixture_run(region, unstick_region_restore, &options, &result), UNSTICK_OK);
    assert_int_equal(result.done_bytes, GRANULE);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* A device with room for one of two models: their memory changes hands and the limit is never exceeded. */
static void test_hand_over(void **state)
{
    struct fixture fixture;
    struct fixture_options small = { .limit_bytes = 25 * GRANULE };
    struct unstick_region *regions[2];
    struct fixture_file files[2];

    (void)state;
    fixture_open(&fixture, &small);
    for (int i = 0; i < 2; i++) {
        regions[i] = fixture_region_new(&fixture, MODEL_BYTES);
        fixture_file_open(&fixture, &files[i], MODEL_BYTES, 5 + (uint64_t)i);
    }
    assert_int_equal(fixture_load(regions[0], &files[0], UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(fixture_load(regions[1], &files[1], UNSTICK_TIER_PINNED, NULL), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(fixture_info(regions[1]).state, UNSTICK_REGION_EMPTY);
    assert_int_equal(fixture_run(regions[0], unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_load(regions[1], &files[1], UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);

    for (int turn = 0; turn < 4; turn++) {
        struct unstick_region *in = regions[turn % 2], *out = regions[1 - turn % 2];
        struct unstick_task_options evict_options = { .size = sizeof(evict_options), .flags = UNSTICK_TASK_HAND_OVER };
        struct unstick_task *evict, *restore;
        struct unstick_task_options restore_options = { .size = sizeof(restore_options), .sources = &evict,
                                                       .n_sources = 1 };

        assert_int_equal(unstick_region_evict(out, &evict_options, &evict, NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_restore(in, &restore_options, &restore, NULL), UNSTICK_OK);
        assert_int_equal(fixture_step_to_end(&fixture, restore, NULL), UNSTICK_OK);
        assert_int_equal(unstick_task_wait(evict, NULL), UNSTICK_OK);
        unstick_task_free(evict);
        unstick_task_free(restore);
        assert_int_equal(fixture_device_info(&fixture).spare_bytes, 0);
        fixture_assert_contents(in, files[turn % 2].image, MODEL_BYTES);
        fixture_assert_contents(out, files[1 - turn % 2].image, MODEL_BYTES);
    }
    for (int i = 0; i < 2; i++) {
        unstick_region_unref(regions[i]);
        fixture_file_close(&files[i]);
    }
    fixture_close(&fixture);
}

static void test_shortage_at_restore(void **state)
{
    struct fixture *fixture = *state;
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct usk_fault_script thief = { 0 };
    struct unstick_task_result result;
    uint64_t free_bytes, total_bytes;

    fixture_file_open(fixture, &file, MODEL_BYTES, 8);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture->inner->ops->memory_info(fixture->inner, &free_bytes, &total_bytes, NULL), UNSTICK_OK);
    thief.steal_bytes = free_bytes - 8 * GRANULE;
    usk_fault_set(fixture->fault, &thief);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, &result), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_true(result.missing_bytes >= 12 * GRANULE && result.missing_bytes < 22 * GRANULE);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_EVICTED);
    assert_int_equal(fixture_device_info(fixture).resident_bytes, 0);
    usk_fault_set(fixture->fault, NULL);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

static void test_stray_write(void **state)
{
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);
    struct unstick_task_result result;
    uint64_t address = fixture_info(region).address;

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    fixture_poke(*state, address + 3 * GRANULE + 5, 0);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.stray_writes, 1);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_peek(*state, address + 3 * GRANULE + 5), 0xff);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.stray_writes, 0);
    unstick_region_unref(region);
}

static void test_revoke(void **state)
{
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES), *held;
    struct unstick_task *task;
    struct unstick_lease *lease;
    uint8_t byte;

    fixture_file_open(*state, &file, MODEL_BYTES, 9);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    held = unstick_region_ref(region);
    assert_int_equal(fixture_run(region, unstick_region_revoke, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_REVOKED);
    assert_int_equal(fixture_info(region).pinned_bytes, 0);
    assert_int_equal(fixture_device_info(*state).resident_bytes, 0);
    assert_int_equal(unstick_region_restore(region, NULL, &task, NULL), UNSTICK_REVOKED);
    assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_REVOKED);
    assert_int_equal(unstick_region_read(region, 0, &byte, 1, NULL), UNSTICK_NO_CONTENTS);
    unstick_region_unref(region);
    /* The addresses outlive the region for whoever still holds them. */
    assert_int_equal(fixture_peek(*state, fixture_info(held).address), 0xff);
    unstick_region_unref(held);
    fixture_file_close(&file);
}

static void test_discard_and_load_again(void **state)
{
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);

    fixture_file_open(*state, &file, MODEL_BYTES, 10);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
        assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_BUSY);
        assert_int_equal(fixture_run(region, unstick_region_discard, NULL, NULL), UNSTICK_OK);
        assert_int_equal(fixture_info(region).state, UNSTICK_REGION_EMPTY);
    }
    unstick_region_unref(region);
    fixture_file_close(&file);
}

static void test_leases(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_lease *lease, *second;
    struct unstick_task *task;
    struct unstick_task_result result = { .size = sizeof(result) };

    assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_NOT_RESIDENT);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_lease_use_stream(lease, NULL, NULL), UNSTICK_OK);

    /* The eviction waits for the lease, and lets no second one in. */
    assert_int_equal(unstick_region_evict(region, NULL, &task, NULL), UNSTICK_OK);
    for (int i = 0; i < 50; i++)
        assert_int_equal(unstick_task_step(task, 1), UNSTICK_PENDING);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
    assert_int_equal(unstick_lease_begin(region, 0, &second, NULL), UNSTICK_BUSY);
    assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
    assert_int_equal(fixture_step_to_end(fixture, task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);

    /* Asked to, it gives way instead. */
    assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_evict(region, NULL, &task, NULL), UNSTICK_OK);
    assert_int_equal(unstick_lease_begin(region, UNSTICK_LEASE_CANCEL_EVICTION, &second, NULL), UNSTICK_BUSY);
    assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_CANCELED);
    unstick_task_free(task);
    assert_int_equal(unstick_lease_begin(region, 0, &second, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).n_leases, 2);
    assert_int_equal(unstick_lease_end(second, NULL), UNSTICK_OK);
    assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
    unstick_region_unref(region);
}

static void test_reads_within_the_region(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region *region = fixture_region_new(fixture, 2 * GRANULE);
    struct unstick_error error = { 0 };
    uint8_t bytes[16];

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_read(region, 2 * GRANULE - 15, bytes, 16, &error), UNSTICK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "beyond the end"));
    assert_int_equal(unstick_region_write(region, UINT64_MAX - 3, bytes, 16, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_region_read(region, 2 * GRANULE - 16, bytes, 16, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_read(region, 2 * GRANULE, bytes, 0, NULL), UNSTICK_OK);
    assert_int_equal(fixture_info(region).n_leases, 0);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_write(region, 0, bytes, 16, &error), UNSTICK_NOT_RESIDENT);
    unstick_region_unref(region);
}

/* Who writes to a device that is lost is not the only one to know. */
static void test_write_finds_the_loss(void **state)
{
    struct usk_fault_script lose = { .lose_at = 1 };
    struct unstick_region *region;
    struct fixture fixture;
    uint8_t byte = 1;

    (void)state;
    fixture_open(&fixture, NULL);
    region = fixture_region_new(&fixture, GRANULE);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    usk_fault_set(fixture.fault, &lose);
    assert_int_equal(unstick_region_write(region, 0, &byte, 1, NULL), UNSTICK_DEVICE_LOST);
    usk_fault_set(fixture.fault, NULL);
    assert_true(fixture_device_info(&fixture).is_lost);
    unstick_region_unref(region);
    fixture_close(&fixture);
}

/* max_bytes is for evictions and restores: what a load left out could never be loaded again. */
static void test_loads_are_whole(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_task_options options = { .size = sizeof(options), .max_bytes = GRANULE };
    struct unstick_region *region = fixture_region_new(fixture, 3 * GRANULE);
    struct fixture_file file;
    struct unstick_task *task;

    fixture_file_open(fixture, &file, 3 * GRANULE, 19);
    assert_int_equal(unstick_region_load(region, &file.layout, &options, &task, NULL), UNSTICK_OK);
    assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    fixture_assert_contents(region, file.image, 3 * GRANULE);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

/* Memory that is free but promised to somebody is left alone by who gets some from what it evicts. */
static void test_claimed_memory_is_left(void **state)
{
    struct fixture_options options = { .limit_bytes = 9 * GRANULE };
    struct unstick_task_options evict_options = { .size = sizeof(evict_options), .flags = UNSTICK_TASK_HAND_OVER };
    struct unstick_task *evict, *restore;
    struct unstick_task_options restore_options = { .size = sizeof(restore_options), .sources = &evict,
                                                    .n_sources = 1 };
    struct unstick_region *in, *out;
    struct fixture fixture;

    (void)state;
    fixture_open(&fixture, &options);
    in = fixture_region_new(&fixture, 4 * GRANULE);
    out = fixture_region_new(&fixture, 4 * GRANULE);
    assert_int_equal(fixture_run(in, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(in, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(out, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    atomic_store(&fixture.dev->claimed_bytes, 4 * GRANULE);
    assert_int_equal(unstick_region_evict(out, &evict_options, &evict, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(in, &restore_options, &restore, NULL), UNSTICK_OK);
    while (unstick_task_step(restore, 1) == UNSTICK_PENDING)
        assert_true(usk_device_room_bytes(fixture.dev) >= 4 * GRANULE);
    assert_int_equal(fixture_info(in).state, UNSTICK_REGION_RESIDENT);
    unstick_task_free(restore);
    unstick_task_free(evict);
    unstick_region_unref(in);
    unstick_region_unref(out);
    fixture_close(&fixture);
}

static void test_sources_of_the_same_context(void **state)
{
    struct unstick_task *sources[2] = { NULL, NULL };
    struct unstick_task_options options = { .size = sizeof(options), .sources = sources, .n_sources = 2 };
    struct unstick_region *region, *elsewhere;
    struct unstick_task *restore = NULL;
    struct unstick_error error;
    struct fixture fixture, other;

    (void)state;
    fixture_open(&fixture, NULL);
    fixture_open(&other, NULL);
    region = fixture_region_new(&fixture, 2 * GRANULE);
    elsewhere = fixture_region_new(&other, 2 * GRANULE);
    assert_int_equal(unstick_region_evict(region, NULL, &sources[0], NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(region, &options, &restore, &error), UNSTICK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "source 1 is NULL"));
    assert_int_equal(unstick_region_evict(elsewhere, NULL, &sources[1], NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(region, &options, &restore, &error), UNSTICK_INVALID_ARGUMENT);
    assert_non_null(strstr(error.text, "source 1 is a task of another context"));
    assert_null(restore);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(unstick_task_wait(sources[i], NULL), UNSTICK_OK);
        unstick_task_free(sources[i]);
    }
    unstick_region_unref(region);
    unstick_region_unref(elsewhere);
    fixture_close(&other);
    fixture_close(&fixture);
}

static void test_budget(void **state)
{
    struct fixture fixture;
    struct fixture_options poor = { .host_bytes = 6 * GRANULE };
    struct unstick_region *region;
    struct unstick_task_result result;

    (void)state;
    fixture_open(&fixture, &poor);
    region = fixture_region_new(&fixture, MODEL_BYTES);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, &result), UNSTICK_HOST_BUDGET);
    assert_true(usk_device_is_valid(fixture.dev));
    unstick_region_unref(region);
    fixture_close(&fixture);
}

/* What would free host memory, but waits for the one that is short of it, is not waited for. */
static void test_budget_behind_oneself(void **state)
{
    struct fixture fixture;
    struct fixture_options poor = { .host_bytes = 6 * GRANULE };
    struct unstick_region *regions[2];
    struct unstick_task *evictions[2], *discards[2];

    (void)state;
    fixture_open(&fixture, &poor);
    for (size_t i = 0; i < 2; i++) {
        regions[i] = fixture_region_new(&fixture, MODEL_BYTES);
        assert_int_equal(fixture_run(regions[i], unstick_region_restore, NULL, NULL), UNSTICK_OK);
    }
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(unstick_region_evict(regions[i], NULL, &evictions[i], NULL), UNSTICK_OK);
        assert_int_equal(unstick_region_discard(regions[i], NULL, &discards[i], NULL), UNSTICK_OK);
    }
    for (size_t i = 0; i < 2; i++) {
        unsigned int n_steps = 0;

        while (unstick_task_step(evictions[i], 0) == UNSTICK_PENDING) {
            assert_true(++n_steps < 20000);
            usleep(50);
        }
        assert_int_equal(unstick_task_wait(discards[i], NULL), UNSTICK_OK);
        unstick_task_free(evictions[i]);
        unstick_task_free(discards[i]);
        unstick_region_unref(regions[i]);
    }
    assert_true(usk_device_is_valid(fixture.dev));
    fixture_close(&fixture);
}

static void test_changed_file(void **state)
{
    struct fixture_file file;
    struct unstick_region *region = fixture_region_new(*state, MODEL_BYTES);

    fixture_file_open(*state, &file, MODEL_BYTES, 12);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_FILE, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(truncate(file.path, 1000), 0);
    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_BACKUP_CHANGED);
    assert_int_equal(fixture_info(region).state, UNSTICK_REGION_EVICTED);
    unstick_region_unref(region);
    fixture_file_close(&file);
}

static void test_fork(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_region *evicted = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_task *under_way;
    struct fixture_file file;
    int status;
    pid_t child;

    fixture_file_open(fixture, &file, MODEL_BYTES, 31);
    assert_int_equal(fixture_load(region, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(fixture_load(evicted, &file, UNSTICK_TIER_PINNED, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(evicted, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(evicted, NULL, &under_way, NULL), UNSTICK_OK);
    unstick_context_step(fixture->ctx, 0);
    child = fork();
    if (child == 0) {
        struct unstick_task *task;
        uint8_t byte;
        struct unstick_region_info info = { .size = sizeof(info) };
        bool is_right = unstick_region_restore(region, NULL, &task, NULL) == UNSTICK_FORKED &&
                        unstick_region_info(region, &info) == UNSTICK_FORKED &&
                        unstick_context_step(fixture->ctx, 0) == UNSTICK_FORKED &&
                        unstick_task_wait(under_way, NULL) == UNSTICK_FORKED &&
                        unstick_region_read(region, 0, &byte, 1, NULL) == UNSTICK_FORKED &&
                        unstick_region_write(region, 0, &byte, 1, NULL) == UNSTICK_FORKED;

        unstick_task_free(under_way);
        unstick_region_unref(region);
        unstick_region_unref(evicted);
        unstick_context_free(fixture->ctx);
        _exit(is_right ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(unstick_task_wait(under_way, NULL), UNSTICK_OK);
    unstick_task_free(under_way);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    fixture_assert_contents(region, file.image, MODEL_BYTES);
    fixture_assert_contents(evicted, file.image, MODEL_BYTES);
    assert_true(usk_device_is_valid(fixture->dev));
    unstick_region_unref(region);
    unstick_region_unref(evicted);
    fixture_file_close(&file);
}

static void test_driver_thread(void **state)
{
    struct fixture *fixture = *state;
    struct unstick_region *region = fixture_region_new(fixture, MODEL_BYTES);
    struct unstick_task *task;
    struct unstick_task_result result = { .size = sizeof(result) };

    assert_int_equal(unstick_context_start_driver(fixture->ctx, NULL), UNSTICK_OK);
    assert_int_equal(unstick_context_start_driver(fixture->ctx, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(region, NULL, &task, NULL), UNSTICK_OK);
    for (int i = 0; i < 10000 && unstick_task_result(task, &result) == UNSTICK_PENDING; i++)
        usleep(1000);
    assert_int_equal(result.status, UNSTICK_OK);
    unstick_task_free(task);
    unstick_region_unref(region);
}

/* What is used again and again and never evicted keeps a few fences, not one for each use. */
static void test_fences_do_not_pile_up(void **state)
{
    struct fixture *fixture = *state;
    struct usk_fault_script all = { .count_polls = true, .op_mask = UINT64_C(1) << USK_FAULT_POLL };
    struct usk_fault_script slow = { .pending_polls = 200, .op_mask = UINT64_C(1) << USK_FAULT_POLL };
    /* A small one: what its eviction polls for itself is counted, too. */
    struct unstick_region *region = fixture_region_new(fixture, GRANULE);
    struct unstick_lease *lease;

    assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    for (int is_slow = 1; is_slow >= 0; is_slow--) {
        /* Work that takes its time is waited for, all of it. */
        if (is_slow)
            usk_fault_set(fixture->fault, &slow);
        for (int i = 0; i < (is_slow ? 100 : 1000); i++) {
            assert_int_equal(unstick_lease_begin(region, 0, &lease, NULL), UNSTICK_OK);
            assert_int_equal(unstick_lease_use_stream(lease, NULL, NULL), UNSTICK_OK);
            assert_int_equal(unstick_lease_end(lease, NULL), UNSTICK_OK);
        }
        usk_fault_set(fixture->fault, &all);
        assert_int_equal(fixture_run(region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
        if (is_slow)
            assert_true(usk_fault_n_calls(fixture->fault) >= 100);
        else
            assert_true(usk_fault_n_calls(fixture->fault) < 100);
        usk_fault_set(fixture->fault, NULL);
        assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    }
    unstick_region_unref(region);
}

int main(void)
{
#define CASE(_name) cmocka_unit_test_setup_teardown(_name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_pinned),
        CASE(test_pageable),
        CASE(test_file),
        CASE(test_dirty),
        CASE(test_empty_restores_as_zeros),
        CASE(test_backup_makes_evictions_free),
        CASE(test_partial),
        CASE(test_hand_over),
        CASE(test_shortage_at_restore),
        CASE(test_stray_write),
        CASE(test_revoke),
        CASE(test_discard_and_load_again),
        CASE(test_leases),
        CASE(test_reads_within_the_region),
        CASE(test_write_finds_the_loss),
        CASE(test_loads_are_whole),
        CASE(test_claimed_memory_is_left),
        CASE(test_sources_of_the_same_context),
        CASE(test_budget),
        CASE(test_budget_behind_oneself),
        CASE(test_changed_file),
        CASE(test_fork),
        CASE(test_driver_thread),
        CASE(test_fences_do_not_pile_up),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
