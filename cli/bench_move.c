/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Evictions, restores and the switch between two regions, through the public interface, each from submission
 * to the end of the task. What changes contents between runs is a fill by the device, which the library is
 * not told of: it has to find out.
 */
#include <string.h>

#include <unstick/region.h>

#include "base/clock.h"
#include "base/hash.h"
#include "bench.h"

struct bench_move {
    struct unstick_region *region, *other;
    struct bench_buffer buffer;
    struct usk_arena *arena;
    uint8_t fill;
};

/* --- references --- */

static int reference_up(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;

    return bench_bring(bench, &state->buffer, state->arena, ret_s, error);
}

static int reference_leave(struct bench *bench, struct bench_move *state, bool is_copying, double *ret_s,
                           struct unstick_error *error)
{
    volatile uint64_t hash;
    uint64_t started_ns;
    double ignored_s;
    int r;

    if (!bench->is_host)
        return bench_copy(bench, &state->buffer, state->arena, USK_LANE_DOWN, ret_s, error);
    r = reference_up(bench, state, &ignored_s, error);
    started_ns = usk_clock_now_ns();
    for (uint32_t i = 0; r == UNSTICK_OK && i < bench->n_granules; i++) {
        void *data = bench_buffer_data(bench, &state->buffer, i);

        hash = usk_hash(data, bench->granule_bytes);
        (void)hash;
        if (is_copying)
            memcpy(usk_arena_data(state->arena, i), data, bench->granule_bytes);
        r = bench_granule_empty(bench, &state->buffer, i, error);
    }
    *ret_s = bench_seconds_since(started_ns);
    if (r == UNSTICK_OK)
        r = bench_buffer_fill(bench, &state->buffer, error);
    return r;
}

static int reference_keep(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    return reference_leave(bench, state, false, ret_s, error);
}

static int reference_down(struct bench *bench, void *state, double *ret_s, struct unstick_error *error)
{
    return reference_leave(bench, state, true, ret_s, error);
}

/* --- ours --- */

static int move_restore(struct unstick_region *region, struct unstick_error *error)
{
    struct unstick_task *task;
    int r = unstick_region_restore(region, NULL, &task, error);

    return r < 0 ? r : bench_task_wait(task, error);
}

static int move_evict(struct unstick_region *region, struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = UNSTICK_TIER_PINNED };
    struct unstick_task *task;
    int r = unstick_region_evict(region, &options, &task, error);

    return r < 0 ? r : bench_task_wait(task, error);
}

static int move_backup(struct unstick_region *region, struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = UNSTICK_TIER_PINNED };
    struct unstick_task *task;
    int r = unstick_region_backup(region, &options, &task, error);

    return r < 0 ? r : bench_task_wait(task, error);
}

static int move_change(struct bench *bench, struct bench_move *state, struct unstick_region *region,
                       struct unstick_error *error)
{
    struct unstick_region_info info = { .size = sizeof(info) };
    int r;

    unstick_region_info(region, &info);
    r = bench->driver->ops->fill(bench->driver, USK_LANE_UP, info.address, ++state->fill, info.bytes, error);
    return r < 0 ? r : bench_lane_wait(bench, USK_LANE_UP, error);
}

static int move_time(int (*move)(struct unstick_region *region, struct unstick_error *error),
                     struct unstick_region *region, double *ret_s, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    int r = move(region, error);

    *ret_s = bench_seconds_since(started_ns);
    return r;
}

static int evict_unchanged(struct bench *bench, void *state_pointer, double *ret_s,
                           struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    int r = move_restore(state->region, error);

    (void)bench;
    return r < 0 ? r : move_time(move_evict, state->region, ret_s, error);
}

static int evict_first(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    int r = move_restore(state->region, error);

    if (r == UNSTICK_OK)
        r = move_change(bench, state, state->region, error);
    if (r == UNSTICK_OK)
        r = move_backup(state->region, error);
    return r < 0 ? r : move_time(move_evict, state->region, ret_s, error);
}

static int evict_dirty(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    int r = move_restore(state->region, error);

    if (r == UNSTICK_OK)
        r = move_change(bench, state, state->region, error);
    return r < 0 ? r : move_time(move_evict, state->region, ret_s, error);
}

static int restore_at_once(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    int r = move_evict(state->region, error);

    (void)bench;
    return r < 0 ? r : move_time(move_restore, state->region, ret_s, error);
}

static int restore_pinned(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    int r = move_evict(state->region, error);

    bench_settle(bench);
    return r < 0 ? r : move_time(move_restore, state->region, ret_s, error);
}

/* state->region is resident, state->other is not; afterwards it is the other way round. */
static int switch_ours(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_move *state = state_pointer;
    struct unstick_task *leaving, *coming;
    struct unstick_task_options evict = { .size = sizeof(evict),
                                          .tier = UNSTICK_TIER_PINNED,
                                          .flags = UNSTICK_TASK_HAND_OVER };
    struct unstick_task_options restore = { .size = sizeof(restore), .sources = &leaving, .n_sources = 1 };
    struct unstick_region *region = state->region;
    uint64_t started_ns = usk_clock_now_ns();
    int r, ended;

    (void)bench;
    r = unstick_region_evict(state->region, &evict, &leaving, error);
    if (r < 0)
        return r;
    r = unstick_region_restore(state->other, &restore, &coming, error);
    if (r == UNSTICK_OK)
        r = bench_task_wait(coming, error);
    ended = unstick_task_wait(leaving, r == UNSTICK_OK ? error : NULL);
    *ret_s = bench_seconds_since(started_ns);
    unstick_task_free(leaving);
    state->region = state->other;
    state->other = region;
    return r < 0 ? r : ended;
}

/* --- cases --- */

static void move_close(struct bench *bench, struct bench_move *state)
{
    unstick_region_unref(state->region);
    unstick_region_unref(state->other);
    bench_buffer_free(bench, &state->buffer);
    bench_arena_free(bench, state->arena);
}

/* A region with contents and a backup, evicted. */
static int move_make_region(struct bench *bench, struct bench_move *state, const char *name,
                            struct unstick_region **ret_region, struct unstick_error *error)
{
    int r = unstick_region_new(bench->dev, name, bench->bytes, NULL, ret_region, error);

    if (r == UNSTICK_OK)
        r = move_restore(*ret_region, error);
    if (r == UNSTICK_OK)
        r = move_change(bench, state, *ret_region, error);
    return r == UNSTICK_OK ? move_evict(*ret_region, error) : r;
}

static int move_run_one_region(struct bench *bench, struct unstick_error *error)
{
    const char *down = bench->is_host ? "memcpy, hash and punch" : "plain driver copy of the same bytes";
    const char *keep = bench->is_host ? "hash and punch" : "plain driver copy of the same bytes";
    const char *up = bench->is_host ? "fallocate, map and memcpy" : "plain driver copy";
    const struct bench_case cases[] = {
        { .name = "evict-unchanged",
          .what = "evict what is as its backup",
          .reference = keep,
          .ours = evict_unchanged,
          .theirs = reference_keep },
        { .name = "evict-first",
          .what = "first eviction after a backup",
          .reference = keep,
          .ours = evict_first,
          .theirs = reference_keep },
        { .name = "evict-dirty",
          .what = "evict what changed everywhere",
          .reference = down,
          .ours = evict_dirty,
          .theirs = reference_down },
        { .name = "restore-pinned",
          .what = "restore from pinned memory",
          .reference = up,
          .ours = restore_pinned,
          .theirs = reference_up },
        { .name = "restore-at-once",
          .what = "the same, while the driver still clears what was just freed",
          .reference = up,
          .ours = restore_at_once,
          .theirs = reference_up },
    };
    struct bench_move state = { 0 };
    int r;

    r = bench_buffer_new(bench, true, &state.buffer, error);
    if (r == UNSTICK_OK)
        r = bench_arena_new(bench, &state.arena, error);
    if (r == UNSTICK_OK)
        r = move_make_region(bench, &state, "bench", &state.region, error);
    for (size_t i = 0; r == UNSTICK_OK && i < sizeof(cases) / sizeof(cases[0]); i++)
        r = bench_case_run(bench, &cases[i], &state, error);
    move_close(bench, &state);
    return r;
}

/* On a device of its own, with room for one of two regions, so that memory has to be handed over. */
static int move_run_switch(struct bench *bench, struct unstick_error *error)
{
    const struct bench_case switching = {
        .name = "switch",
        .what = "evict one region and restore another into its memory",
        .reference = bench->is_host ? "fallocate, map and memcpy of the incoming bytes"
                                    : "plain driver copy of the incoming bytes",
        .ours = switch_ours,
        .theirs = reference_up,
    };
    struct bench_move state = { 0 };
    struct bench tight = *bench;
    int r;

    if (!bench_is_wanted(bench, switching.name))
        return UNSTICK_OK;
    r = bench_open_tight(&tight, error);
    if (r == UNSTICK_OK)
        r = bench_buffer_new(&tight, true, &state.buffer, error);
    if (r == UNSTICK_OK)
        r = bench_arena_new(&tight, &state.arena, error);
    if (r == UNSTICK_OK)
        r = move_make_region(&tight, &state, "one", &state.region, error);
    if (r == UNSTICK_OK)
        r = move_make_region(&tight, &state, "two", &state.other, error);
    if (r == UNSTICK_OK)
        r = move_restore(state.region, error);
    if (r == UNSTICK_OK)
        r = bench_case_run(&tight, &switching, &state, error);
    if (tight.dev)
        move_close(&tight, &state);
    bench_close(&tight);
    bench->longest_step = tight.longest_step;
    bench->longest_case = tight.longest_case;
    return r;
}

int bench_move(struct bench *bench, struct unstick_error *error)
{
    static const char *const names[] = { "evict-unchanged", "evict-first", "evict-dirty", "restore-pinned",
                                         "restore-at-once" };
    bool is_wanted = false;
    int r = UNSTICK_OK;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        is_wanted |= bench_is_wanted(bench, names[i]);
    if (is_wanted)
        r = move_run_one_region(bench, error);
    return r == UNSTICK_OK ? move_run_switch(bench, error) : r;
}
