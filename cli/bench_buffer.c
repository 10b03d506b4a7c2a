/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for the references: taken from the driver directly, so that a reference runs none of the code that
 * it is held against. One thread steps the context and calls the driver here, and never both at once, which
 * is what the driver's contract asks for.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/os.h"
#include "bench.h"

#define BENCH_WAIT_MS 1
#define BENCH_SETTLE_US 50000

int bench_granule_fill(struct bench *bench, struct bench_buffer *buffer, uint32_t index,
                       struct unstick_error *error)
{
    const struct usk_device_ops *ops = bench->driver->ops;
    uint64_t address = buffer->address + index * bench->granule_bytes;
    uint64_t handle;
    int r;

    r = ops->create(bench->driver, bench->granule_bytes, &handle, error);
    if (r < 0)
        return r;
    r = ops->map(bench->driver, address, bench->granule_bytes, handle, error);
    if (r != UNSTICK_OK) {
        ops->release(bench->driver, handle, NULL);
        return r;
    }
    buffer->handles[index] = handle;
    return UNSTICK_OK;
}

int bench_granule_empty(struct bench *bench, struct bench_buffer *buffer, uint32_t index,
                        struct unstick_error *error)
{
    const struct usk_device_ops *ops = bench->driver->ops;
    uint64_t address = buffer->address + index * bench->granule_bytes;
    int r;

    if (!buffer->handles[index])
        return UNSTICK_OK;
    r = ops->unmap(bench->driver, address, bench->granule_bytes, error);
    if (r == UNSTICK_OK)
        r = ops->release(bench->driver, buffer->handles[index], error);
    if (r == UNSTICK_OK)
        buffer->handles[index] = 0;
    return r;
}

int bench_buffer_fill(struct bench *bench, struct bench_buffer *buffer, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i++) {
        if (!buffer->handles[i])
            r = bench_granule_fill(bench, buffer, i, error);
    }
    return r;
}

int bench_buffer_empty(struct bench *bench, struct bench_buffer *buffer, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i++)
        r = bench_granule_empty(bench, buffer, i, error);
    return r;
}

int bench_buffer_new(struct bench *bench, bool is_filled, struct bench_buffer *ret_buffer,
                     struct unstick_error *error)
{
    struct bench_buffer buffer = { .handles = calloc(bench->n_granules, sizeof(*buffer.handles)) };
    int r;

    if (!buffer.handles)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                             "out of host memory to measure with");
    r = bench->driver->ops->reserve(bench->driver, bench->bytes, bench->driver->caps.granularity_bytes,
                                    &buffer.address, error);
    if (r < 0) {
        free(buffer.handles);
        return r;
    }
    if (is_filled)
        r = bench_buffer_fill(bench, &buffer, error);
    if (r < 0) {
        bench_buffer_free(bench, &buffer);
        return r;
    }
    *ret_buffer = buffer;
    return UNSTICK_OK;
}

void bench_buffer_free(struct bench *bench, struct bench_buffer *buffer)
{
    if (!buffer->handles)
        return;
    bench_buffer_empty(bench, buffer, NULL);
    bench->driver->ops->unreserve(bench->driver, buffer->address, bench->bytes, NULL);
    free(buffer->handles);
    *buffer = (struct bench_buffer){ 0 };
}

/* A hold on every granule; they are usable when all have been polled. */
static int arena_hold(struct bench *bench, struct usk_arena *arena, uint32_t *n_held,
                      struct unstick_error *error)
{
    int r;

    for (; *n_held < bench->n_granules; ++*n_held) {
        r = usk_arena_get(arena, *n_held, error);
        if (r < 0)
            return r;
    }
    for (uint32_t i = 0; i < bench->n_granules; i++) {
        while ((r = usk_arena_poll(arena, i, error)) == UNSTICK_PENDING) {
            usk_os_event_wait(bench->ctx->event_fd, BENCH_WAIT_MS);
            usk_os_event_drain(bench->ctx->event_fd);
        }
        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

int bench_arena_new(struct bench *bench, struct usk_arena **ret_arena, struct unstick_error *error)
{
    struct usk_arena *arena;
    uint32_t n_held = 0;
    int r;

    r = usk_arena_new(bench->dev->store, bench->granule_bytes, bench->bytes, UNSTICK_TIER_PINNED, &arena,
                      error);
    if (r < 0)
        return r;
    r = arena_hold(bench, arena, &n_held, error);
    if (r < 0) {
        while (n_held--)
            usk_arena_put(arena, n_held);
        usk_arena_free(arena);
        return r;
    }
    *ret_arena = arena;
    return UNSTICK_OK;
}

void bench_arena_free(struct bench *bench, struct usk_arena *arena)
{
    if (!arena)
        return;
    for (uint32_t i = 0; i < bench->n_granules; i++)
        usk_arena_put(arena, i);
    usk_arena_free(arena);
}

int bench_task_wait(struct unstick_task *task, struct unstick_error *error)
{
    int r = unstick_task_wait(task, error);

    unstick_task_free(task);
    return r;
}

int bench_lane_wait(struct bench *bench, enum usk_lane lane, struct unstick_error *error)
{
    uint64_t ticket;
    int r;

    r = bench->driver->ops->mark(bench->driver, lane, &ticket, error);
    if (r < 0)
        return r;
    while ((r = usk_device_poll(bench->driver, ticket, error)) == UNSTICK_PENDING) {
        usk_os_event_wait(bench->ctx->event_fd, BENCH_WAIT_MS);
        usk_os_event_drain(bench->ctx->event_fd);
    }
    return r;
}

void bench_settle(struct bench *bench)
{
    if (!bench->is_host)
        usk_os_pause_us(BENCH_SETTLE_US);
}

int bench_copy(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena, enum usk_lane lane,
               double *ret_s, struct unstick_error *error)
{
    const struct usk_device_ops *ops = bench->driver->ops;
    uint64_t started_ns = usk_clock_now_ns();
    int r = UNSTICK_OK, ended;

    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i++) {
        uint64_t address = buffer->address + i * bench->granule_bytes;
        void *host = usk_arena_data(arena, i);

        if (lane == USK_LANE_DOWN)
            r = ops->copy_down(bench->driver, lane, host, address, bench->granule_bytes, error);
        else
            r = ops->copy_up(bench->driver, lane, address, host, bench->granule_bytes, error);
    }
    ended = bench_lane_wait(bench, lane, r == UNSTICK_OK ? error : NULL);
    *ret_s = bench_seconds_since(started_ns);
    return r < 0 ? r : ended;
}

void *bench_buffer_data(const struct bench *bench, const struct bench_buffer *buffer, uint32_t index)
{
    return (void *)(uintptr_t)(buffer->address + index * bench->granule_bytes);
}

int bench_buffer_copy_fresh(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena,
                            struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i++) {
        r = bench_granule_fill(bench, buffer, i, error);
        if (r == UNSTICK_OK)
            memcpy(bench_buffer_data(bench, buffer, i), usk_arena_data(arena, i), bench->granule_bytes);
    }
    return r;
}

int bench_bring(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena, double *ret_s,
                struct unstick_error *error)
{
    uint64_t started_ns;
    int r;

    if (!bench->is_host)
        return bench_copy(bench, buffer, arena, USK_LANE_UP, ret_s, error);
    r = bench_buffer_empty(bench, buffer, error);
    started_ns = usk_clock_now_ns();
    if (r == UNSTICK_OK)
        r = bench_buffer_copy_fresh(bench, buffer, arena, error);
    *ret_s = bench_seconds_since(started_ns);
    return r;
}

double bench_seconds_since(uint64_t started_ns)
{
    return (double)(usk_clock_now_ns() - started_ns) / (double)USK_NS_PER_S;
}
