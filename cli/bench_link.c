/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What everything else is built from: copies from and to our pinned memory beside the driver's own, making
 * that memory beside the driver's own allocation, and the hash beside a copy inside the device.
 */
#include "base/clock.h"
#include "base/math.h"
#include "base/os.h"
#include "bench.h"

struct bench_link {
    struct bench_buffer buffer, other;
    struct usk_arena *arena;
    void *allocated; /* by the driver */
};

/* The driver's own memory, in the same chunks. */
static int link_copy_allocated(struct bench *bench, struct bench_link *state, enum usk_lane lane,
                               double *ret_s, struct unstick_error *error)
{
    const struct usk_device_ops *ops = bench->driver->ops;
    uint64_t started_ns = usk_clock_now_ns();
    int r = UNSTICK_OK, ended;

    for (uint64_t at = 0; r == UNSTICK_OK && at < bench->bytes; at += bench->granule_bytes) {
        char *host = (char *)state->allocated + at;

        if (lane == USK_LANE_DOWN)
            r = ops->copy_down(bench->driver, lane, host, state->buffer.address + at, bench->granule_bytes,
                               error);
        else
            r = ops->copy_up(bench->driver, lane, state->buffer.address + at, host, bench->granule_bytes,
                             error);
    }
    ended = bench_lane_wait(bench, lane, r == UNSTICK_OK ? error : NULL);
    *ret_s = bench_seconds_since(started_ns);
    return r < 0 ? r : ended;
}

static int link_up(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_link *state = state_pointer;

    return bench_copy(bench, &state->buffer, state->arena, USK_LANE_UP, ret_s, error);
}

static int link_up_reference(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    return link_copy_allocated(bench, state, USK_LANE_UP, ret_s, error);
}

static int link_down(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_link *state = state_pointer;

    return bench_copy(bench, &state->buffer, state->arena, USK_LANE_DOWN, ret_s, error);
}

static int link_down_reference(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    return link_copy_allocated(bench, state, USK_LANE_DOWN, ret_s, error);
}

/* One write per page: some of the memory is there already, the rest comes now. */
static void memory_touch(void *memory, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes; at += usk_os_page_bytes())
        ((volatile char *)memory)[at] = 1;
}

static int pin_ours(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    struct usk_arena *arena;
    int r;

    (void)state;
    r = bench_arena_new(bench, &arena, error);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < bench->n_granules; i++)
        memory_touch(usk_arena_data(arena, i), bench->granule_bytes);
    *ret_s = bench_seconds_since(started_ns);
    bench_arena_free(bench, arena);
    return UNSTICK_OK;
}

static int pin_reference(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    void *memory;
    int r;

    (void)state;
    r = bench->driver->ops->host_alloc(bench->driver, bench->bytes, &memory, error);
    if (r < 0)
        return r;
    memory_touch(memory, bench->bytes);
    *ret_s = bench_seconds_since(started_ns);
    return bench->driver->ops->host_free(bench->driver, memory, error);
}

static int hash_ours(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_link *state = state_pointer;
    uint32_t n_slots = bench->driver->caps.n_hash_slots, n;
    uint64_t started_ns = usk_clock_now_ns();
    int r = UNSTICK_OK, ended;

    /* The results are not read, so a slot may be written more than once; hashes in a lane run in order. */
    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i += n) {
        n = (uint32_t)usk_min(bench->n_granules - i, n_slots);
        r = bench->driver->ops->hash(bench->driver, USK_LANE_HASH,
                                     state->buffer.address + i * bench->granule_bytes, bench->granule_bytes,
                                     n, 0, error);
        if (r == UNSTICK_OK && n == n_slots)
            r = bench_lane_wait(bench, USK_LANE_HASH, error);
    }
    ended = bench_lane_wait(bench, USK_LANE_HASH, r == UNSTICK_OK ? error : NULL);
    *ret_s = bench_seconds_since(started_ns);
    return r < 0 ? r : ended;
}

static int hash_reference(struct bench *bench, void *state_pointer, double *ret_s,
                          struct unstick_error *error)
{
    struct bench_link *state = state_pointer;
    uint64_t started_ns = usk_clock_now_ns();
    int r = UNSTICK_OK, ended;

    for (uint64_t at = 0; r == UNSTICK_OK && at < bench->bytes; at += bench->granule_bytes)
        r = bench->driver->ops->copy_across(bench->driver, USK_LANE_HASH, state->other.address + at,
                                            state->buffer.address + at, bench->granule_bytes, error);
    ended = bench_lane_wait(bench, USK_LANE_HASH, r == UNSTICK_OK ? error : NULL);
    *ret_s = bench_seconds_since(started_ns);
    return r < 0 ? r : ended;
}

static const struct bench_case case_up = {
    .name = "link-up",
    .what = "copy to the device from our pinned memory",
    .reference = "from the driver's own",
    .ours = link_up,
    .theirs = link_up_reference,
};
static const struct bench_case case_down = {
    .name = "link-down",
    .what = "copy from the device to our pinned memory",
    .reference = "to the driver's own",
    .ours = link_down,
    .theirs = link_down_reference,
};
static const struct bench_case case_pin = {
    .name = "pin",
    .what = "make pinned memory and touch it",
    .reference = "the driver's own allocation",
    .ours = pin_ours,
    .theirs = pin_reference,
};
static const struct bench_case case_hash = {
    .name = "hash",
    .what = "hash on the device",
    .reference = "copy inside the device, read and written",
    .theirs_per_byte = 2,
    .ours = hash_ours,
    .theirs = hash_reference,
};

static int link_run_copies(struct bench *bench, struct bench_link *state, struct unstick_error *error)
{
    int r;

    if (!bench_is_wanted(bench, case_up.name) && !bench_is_wanted(bench, case_down.name))
        return UNSTICK_OK;
    r = bench_arena_new(bench, &state->arena, error);
    if (r < 0)
        return r;
    r = bench->driver->ops->host_alloc(bench->driver, bench->bytes, &state->allocated, error);
    if (r == UNSTICK_OK) {
        memory_touch(state->allocated, bench->bytes);
        r = bench_case_run(bench, &case_up, state, error);
        if (r == UNSTICK_OK)
            r = bench_case_run(bench, &case_down, state, error);
        bench->driver->ops->host_free(bench->driver, state->allocated, NULL);
    }
    bench_arena_free(bench, state->arena);
    return r;
}

static int link_run_hash(struct bench *bench, struct bench_link *state, struct unstick_error *error)
{
    int r;

    if (!bench_is_wanted(bench, case_hash.name))
        return UNSTICK_OK;
    if (!bench->driver->caps.can_hash) {
        bench_skip(bench, &case_hash, "the device cannot hash");
        return UNSTICK_OK;
    }
    r = bench_buffer_new(bench, true, &state->other, error);
    if (r == UNSTICK_OK)
        r = bench_case_run(bench, &case_hash, state, error);
    bench_buffer_free(bench, &state->other);
    return r;
}

int bench_link(struct bench *bench, struct unstick_error *error)
{
    struct bench_link state = { 0 };
    int r;

    r = bench_buffer_new(bench, true, &state.buffer, error);
    if (r < 0)
        return r;
    r = link_run_copies(bench, &state, error);
    if (r == UNSTICK_OK)
        r = bench_case_run(bench, &case_pin, &state, error);
    if (r == UNSTICK_OK)
        r = link_run_hash(bench, &state, error);
    bench_buffer_free(bench, &state.buffer);
    return r;
}
