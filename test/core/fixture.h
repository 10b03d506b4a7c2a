/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CORE_FIXTURE_H
#define TEST_CORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unstick/unstick.h>

#include "device/fault/fault.h"
#include "device/host/host.h"
#include "region/region.h"

/*
 * A context with a small device behind a fault device: a host device, or the GPU that UNSTICK_TEST_DEVICE names
 * ("cuda:0"). Granules are as small as the device allows, so that a test of many is quick.
 */
extern uint64_t fixture_granule_bytes;
#define GRANULE fixture_granule_bytes

/* For main(): which device it is; false if it is not there (exit with 77). */
bool fixture_init(void);

struct fixture {
    struct unstick_context *ctx;
    struct usk_device *inner; /* closed with the context */
    struct usk_device *fault; /* wraps inner */
    struct unstick_device *dev;
    bool is_host;
    char directory[64];       /* for files; removed at the end */
};

struct fixture_options {
    uint64_t limit_bytes;
    uint64_t host_bytes;
};

void fixture_open(struct fixture *fixture, const struct fixture_options *options);
/* Frees the context and checks that the host device has nothing left. */
void fixture_close(struct fixture *fixture);
/* The two for each test of a group; *state is the fixture. */
int fixture_setup(void **state);
int fixture_teardown(void **state);

struct unstick_region *fixture_region_new(struct fixture *fixture, uint64_t bytes);

/* A file with seeded contents, as a layout of n_extents runs with gaps between them; strings live in the fixture. */
struct fixture_file {
    char path[128];
    const char *paths[1];
    struct unstick_extent extents[8];
    struct unstick_layout layout;
    uint8_t *image; /* what the region must hold: layout.bytes */
};

void fixture_file_open(struct fixture *fixture, struct fixture_file *file, uint64_t bytes, uint64_t seed);
void fixture_file_close(struct fixture_file *file);

/* One byte of the device, as a stray kernel would read or write it. */
uint8_t fixture_peek(struct fixture *fixture, uint64_t address);
void fixture_poke(struct fixture *fixture, uint64_t address, uint8_t value);

/* Fills memory with seeded bytes. */
void fixture_fill(uint8_t *bytes, uint64_t n, uint64_t seed);

/* Submits, waits, frees: the task's status. `ret_result` may be NULL. */
typedef int (*fixture_verb)(struct unstick_region *, const struct unstick_task_options *, struct unstick_task **,
                            struct unstick_error *);
int fixture_run(struct unstick_region *region, fixture_verb verb, const struct unstick_task_options *options,
                struct unstick_task_result *ret_result);
int fixture_load(struct unstick_region *region, const struct fixture_file *file, enum unstick_tier tier,
                 struct unstick_task_result *ret_result);

/* Steps a task to its end, checking every invariant after each step. */
int fixture_step_to_end(struct fixture *fixture, struct unstick_task *task, struct unstick_task_result *ret_result);

void fixture_assert_contents(struct unstick_region *region, const uint8_t *image, uint64_t bytes);
struct unstick_region_info fixture_info(struct unstick_region *region);
struct unstick_device_info fixture_device_info(struct fixture *fixture);

#endif
