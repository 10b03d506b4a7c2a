/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

#define N_GRANULES 1024

uint64_t fixture_granule_bytes = UINT64_C(64) << 10;
static const char *fixture_gpu; /* what to open; NULL: a host device */
static struct usk_device *fixture_keeper; /* keeps the GPU's context between fixtures: making one takes long */

bool fixture_init(void)
{
    const char *spec = getenv("UNSTICK_TEST_DEVICE");

    if (!spec || strncmp(spec, "cuda:", 5) != 0)
        return true;
    if (usk_cuda_open(spec + 5, -1, NULL, &fixture_keeper, NULL) != UNSTICK_OK)
        return false;
    fixture_gpu = spec + 5;
    fixture_granule_bytes = fixture_keeper->caps.granularity_bytes;
    return true;
}

static int fixture_open_inner(struct fixture *fixture, struct unstick_error *error)
{
    struct usk_log log = { 0 };

    fixture->is_host = !fixture_gpu;
    if (fixture_gpu)
        return usk_cuda_open(fixture_gpu, fixture->ctx->event_fd, &log, &fixture->inner, error);
    return usk_host_open(N_GRANULES * GRANULE, fixture->ctx->event_fd, &log, &fixture->inner, error);
}

void fixture_open(struct fixture *fixture, const struct fixture_options *options)
{
    struct unstick_context_options context_options = {
        .size = sizeof(context_options),
        .host_bytes = options && options->host_bytes ? options->host_bytes : UINT64_C(1) << 30,
    };
    struct unstick_device_options device_options = {
        .size = sizeof(device_options),
        .granule_bytes = GRANULE,
        .limit_bytes = options && options->limit_bytes ? options->limit_bytes : N_GRANULES * GRANULE,
    };
    struct unstick_error error = { 0 };

    memset(fixture, 0, sizeof(*fixture));
    snprintf(fixture->directory, sizeof(fixture->directory), "/tmp/unstick-test-XXXXXX");
    assert_non_null(mkdtemp(fixture->directory));
    assert_int_equal(unstick_context_new(&context_options, &fixture->ctx, &error), UNSTICK_OK);
    if (fixture_open_inner(fixture, &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(usk_fault_open(fixture->inner, &fixture->fault, &error), UNSTICK_OK);
    if (usk_device_adopt(fixture->ctx, fixture->fault, &device_options, &fixture->dev, &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
}

void fixture_close(struct fixture *fixture)
{
    usk_fault_set(fixture->fault, NULL);
    unstick_context_free(fixture->ctx);
    rmdir(fixture->directory);
}

int fixture_setup(void **state)
{
    struct fixture *fixture = malloc(sizeof(*fixture));

    fixture_open(fixture, NULL);
    *state = fixture;
    return 0;
}

int fixture_teardown(void **state)
{
    fixture_close(*state);
    free(*state);
    return 0;
}

struct unstick_region *fixture_region_new(struct fixture *fixture, uint64_t bytes)
{
    struct unstick_region *region;
    struct unstick_error error = { 0 };

    if (unstick_region_new(fixture->dev, "transformer", bytes, NULL, &region, &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
    return region;
}

static void fixture_finish_copy(struct fixture *fixture)
{
    uint64_t ticket;
    int r;

    assert_int_equal(fixture->inner->ops->mark(fixture->inner, USK_LANE_UP, &ticket, NULL), UNSTICK_OK);
    while ((r = usk_device_poll(fixture->inner, ticket, NULL)) == UNSTICK_PENDING)
        continue;
    assert_int_equal(r, UNSTICK_OK);
}

uint8_t fixture_peek(struct fixture *fixture, uint64_t address)
{
    uint8_t value = 0;

    assert_int_equal(fixture->inner->ops->copy_down(fixture->inner, USK_LANE_UP, &value, address, 1, NULL), UNSTICK_OK);
    fixture_finish_copy(fixture);
    return value;
}

void fixture_poke(struct fixture *fixture, uint64_t address, uint8_t value)
{
    assert_int_equal(fixture->inner->ops->copy_up(fixture->inner, USK_LANE_UP, address, &value, 1, NULL), UNSTICK_OK);
    fixture_finish_copy(fixture);
}

void fixture_fill(uint8_t *bytes, uint64_t n, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (uint64_t i = 0; i < n; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = (uint8_t)(state >> 24);
    }
}

void fixture_file_open(struct fixture *fixture, struct fixture_file *file, uint64_t bytes, uint64_t seed)
{
    size_t n_extents = sizeof(file->extents) / sizeof(file->extents[0]);
    uint64_t stride = bytes / n_extents, file_offset = 100;
    uint8_t *content = malloc(bytes + 100);
    FILE *stream;

    memset(file, 0, sizeof(*file));
    snprintf(file->path, sizeof(file->path), "%s/%llu.bin", fixture->directory, (unsigned long long)seed);
    fixture_fill(content, bytes + 100, seed);
    file->image = calloc(1, bytes);
    for (size_t i = 0; i < n_extents; i++) {
        /* Runs that start and end anywhere, with a gap of a few bytes up to a few hundred behind each. */
        uint64_t length = stride - 1 - i * 100;

        file->extents[i] = (struct unstick_extent){ 0, file_offset, i * stride, length };
        memcpy(file->image + i * stride, content + file_offset, length);
        file_offset += length;
    }
    file->paths[0] = file->path;
    file->layout = (struct unstick_layout){ file->paths, 1, file->extents, n_extents, bytes };
    stream = fopen(file->path, "w");
    assert_non_null(stream);
    assert_int_equal(fwrite(content, 1, bytes + 100, stream), bytes + 100);
    fclose(stream);
    free(content);
}

void fixture_file_close(struct fixture_file *file)
{
    unlink(file->path);
    free(file->image);
}

static int fixture_finish(struct unstick_task *task, struct unstick_task_result *ret_result)
{
    struct unstick_task_result result = { .size = sizeof(result) };
    int r = unstick_task_wait(task, NULL);

    assert_int_equal(unstick_task_result(task, &result), r);
    if (ret_result)
        *ret_result = result;
    unstick_task_free(task);
    return r;
}

int fixture_run(struct unstick_region *region, fixture_verb verb, const struct unstick_task_options *options,
                struct unstick_task_result *ret_result)
{
    struct unstick_error error = { 0 };
    struct unstick_task *task;
    int r = verb(region, options, &task, &error);

    return r < 0 ? r : fixture_finish(task, ret_result);
}

int fixture_load(struct unstick_region *region, const struct fixture_file *file, enum unstick_tier tier,
                 struct unstick_task_result *ret_result)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = tier };
    struct unstick_error error = { 0 };
    struct unstick_task *task;
    int r = unstick_region_load(region, &file->layout, &options, &task, &error);

    return r < 0 ? r : fixture_finish(task, ret_result);
}

int fixture_step_to_end(struct fixture *fixture, struct unstick_task *task, struct unstick_task_result *ret_result)
{
    struct unstick_task_result result = { .size = sizeof(result) };
    uint64_t now_ns = 1;

    while (unstick_task_step(task, now_ns) == UNSTICK_PENDING) {
        now_ns += 1000000;
        assert_true(usk_device_is_valid(fixture->dev));
        usleep(20);
    }
    assert_true(usk_device_is_valid(fixture->dev));
    unstick_task_result(task, &result);
    if (ret_result)
        *ret_result = result;
    return result.status;
}

void fixture_assert_contents(struct unstick_region *region, const uint8_t *image, uint64_t bytes)
{
    uint8_t *content = malloc(bytes);
    struct unstick_error error = { 0 };

    if (unstick_region_read(region, 0, content, bytes, &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
    assert_memory_equal(content, image, bytes);
    free(content);
}

struct unstick_region_info fixture_info(struct unstick_region *region)
{
    struct unstick_region_info info = { .size = sizeof(info) };

    assert_int_equal(unstick_region_info(region, &info), UNSTICK_OK);
    return info;
}

struct unstick_device_info fixture_device_info(struct fixture *fixture)
{
    struct unstick_device_info info = { .size = sizeof(info) };

    assert_int_equal(unstick_device_info(fixture->dev, &info, NULL), UNSTICK_OK);
    return info;
}
