/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CORE_FIXTURE_H
#define TEST_CORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <unstick/unstick.h>

#include "device/fault/fault.h"
#include "device/host/host.h"
#include "region/region.h"

/* A context with a small host device behind a fault device: granules of 64 KiB, so that a test of many is quick. */
#define GRANULE (UINT64_C(64) << 10)

struct fixture {
    struct unstick_context *ctx;
    struct usk_device *host;  /* closed with the context */
    struct usk_device *fault; /* wraps host */
    struct unstick_device *dev;
    char directory[64];       /* for files; removed at the end */
};

struct fixture_options {
    uint64_t device_bytes; /* 0: 64 MiB */
    uint64_t limit_bytes;
    uint64_t host_bytes;
};

void fixture_open(struct fixture *fixture, const struct fixture_options *options);
/* Frees the context and checks that the host device has nothing left. */
void fixture_close(struct fixture *fixture);

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
