/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an eviction asks of the driver for each granule: unmap it, map the sentinel in its place, release the memory.
 * Measured without the library around it, to see what other ways would cost: releases on a thread of their own,
 * several granules to a call, a sentinel of half the size, mapped twice, and registrations of host memory that are
 * undone meanwhile. The slowest single call is reported with its name: no step can be shorter.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "bench.h"

#define GROUP 8 /* granules */

struct bench_vmm {
    struct bench_buffer buffer;
    uint64_t whole, half; /* handles of a granule, and of half of one */
    uint32_t n_laid;      /* granules, from the first, that have a sentinel under them */
};

/* The thread that releases what the other one has taken away. */
struct vmm_releaser {
    struct bench *bench;
    uint64_t *handles;
    atomic_uint n_free; /* so many of them may be released */
    struct bench_slowest slowest;
    struct unstick_error error;
    int status;
    pthread_t thread;
};

static void vmm_note(struct bench_slowest *slowest, const char *call, uint64_t started_ns)
{
    uint64_t took_ns = usk_clock_now_ns() - started_ns;

    if (took_ns > slowest->ns)
        *slowest = (struct bench_slowest){ .call = call, .ns = took_ns };
}

/* Takes the memory of the next n granules from under their addresses, and lays a sentinel there. */
static int vmm_lay(struct bench *bench, struct bench_vmm *state, uint64_t sentinel, uint64_t sentinel_bytes,
                   uint32_t n, struct unstick_error *error)
{
    uint64_t address = state->buffer.address + state->n_laid * bench->granule_bytes;
    const struct usk_device_ops *ops = bench->driver->ops;
    uint64_t bytes = n * bench->granule_bytes;
    uint64_t started_ns = usk_clock_now_ns();
    int r = ops->unmap(bench->driver, address, bytes, error);

    vmm_note(&bench->slowest, "unmap", started_ns);
    if (r < 0)
        return r;
    started_ns = usk_clock_now_ns();
    r = ops->map_repeated(bench->driver, address, bytes, sentinel, sentinel_bytes, error);
    vmm_note(&bench->slowest, "map", started_ns);
    if (r == UNSTICK_OK)
        state->n_laid += n;
    return r;
}

static int vmm_release(struct bench *bench, uint64_t *handle, struct bench_slowest *slowest,
                       struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    int r = bench->driver->ops->release(bench->driver, *handle, error);

    vmm_note(slowest, "release", started_ns);
    if (r == UNSTICK_OK)
        *handle = 0;
    return r;
}

static void *vmm_releaser_run(void *userdata)
{
    struct vmm_releaser *releaser = userdata;

    for (uint32_t i = 0; i < releaser->bench->n_granules && releaser->status == UNSTICK_OK;) {
        if (i < atomic_load(&releaser->n_free)) {
            releaser->status = vmm_release(releaser->bench, &releaser->handles[i], &releaser->slowest,
                                           &releaser->error);
            i++;
        } else {
            usk_os_pause_us(1);
        }
    }
    return NULL;
}

/* Takes the sentinels away. */
static int vmm_lift(struct bench *bench, struct bench_vmm *state, struct unstick_error *error)
{
    while (state->n_laid) {
        uint64_t address = state->buffer.address + (state->n_laid - 1) * bench->granule_bytes;
        int r = bench->driver->ops->unmap(bench->driver, address, bench->granule_bytes, error);

        if (r < 0)
            return r;
        state->n_laid--;
    }
    return UNSTICK_OK;
}

/* Memory under all granules again, where there are sentinels now. */
static int vmm_refill(struct bench *bench, struct bench_vmm *state, struct unstick_error *error)
{
    int r = vmm_lift(bench, state, error);

    if (r == UNSTICK_OK)
        bench_settle(bench);
    return r == UNSTICK_OK ? bench_buffer_fill(bench, &state->buffer, error) : r;
}

static int vmm_alone(struct bench *bench, struct bench_vmm *state, uint64_t sentinel, uint64_t sentinel_bytes,
                     uint32_t n_at_once, double *ret_s, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    int r = UNSTICK_OK;

    for (uint32_t i = 0; i < bench->n_granules && r == UNSTICK_OK;) {
        uint32_t n = (uint32_t)usk_min(n_at_once, bench->n_granules - i);

        r = vmm_lay(bench, state, sentinel, sentinel_bytes, n, error);
        for (; n && r == UNSTICK_OK; n--)
            r = vmm_release(bench, &state->buffer.handles[i++], &bench->slowest, error);
    }
    *ret_s = bench_seconds_since(started_ns);
    return r == UNSTICK_OK ? vmm_refill(bench, state, error) : r;
}

static int vmm_one_thread(struct bench *bench, void *userdata, double *ret_s, struct unstick_error *error)
{
    struct bench_vmm *state = userdata;

    return vmm_alone(bench, state, state->whole, bench->granule_bytes, 1, ret_s, error);
}

static int vmm_group(struct bench *bench, void *userdata, double *ret_s, struct unstick_error *error)
{
    struct bench_vmm *state = userdata;

    return vmm_alone(bench, state, state->whole, bench->granule_bytes, GROUP, ret_s, error);
}

static int vmm_half_sentinel(struct bench *bench, void *userdata, double *ret_s, struct unstick_error *error)
{
    struct bench_vmm *state = userdata;

    return vmm_alone(bench, state, state->half, bench->granule_bytes / 2, 1, ret_s, error);
}

/* The same while the store's threads give registered host memory back, of which there is as much. */
static int vmm_beside_unpinning(struct bench *bench, void *userdata, double *ret_s, struct unstick_error *error)
{
    struct bench_vmm *state = userdata;
    struct usk_arena *arena = NULL;
    int r = bench_arena_new(bench, &arena, error);

    if (r < 0)
        return r;
    bench_arena_free(bench, arena);
    return vmm_alone(bench, state, state->whole, bench->granule_bytes, 1, ret_s, error);
}

static int vmm_two_threads(struct bench *bench, void *userdata, double *ret_s, struct unstick_error *error)
{
    struct bench_vmm *state = userdata;
    struct vmm_releaser releaser = { .bench = bench, .handles = state->buffer.handles };
    uint64_t started_ns = usk_clock_now_ns();
    int r = usk_os_thread_new(&releaser.thread, vmm_releaser_run, &releaser, "unstick-release", error);

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < bench->n_granules && r == UNSTICK_OK; i++) {
        r = vmm_lay(bench, state, state->whole, bench->granule_bytes, 1, error);
        atomic_store(&releaser.n_free, i + 1);
    }
    atomic_store(&releaser.n_free, bench->n_granules); /* after a failure, too: it is waited for */
    pthread_join(releaser.thread, NULL);
    *ret_s = bench_seconds_since(started_ns);
    if (releaser.slowest.ns > bench->slowest.ns)
        bench->slowest = releaser.slowest;
    if (r == UNSTICK_OK && releaser.status < 0) {
        *error = releaser.error;
        r = releaser.status;
    }
    return r == UNSTICK_OK ? vmm_refill(bench, state, error) : r;
}

/* --- running --- */

static void vmm_close(struct bench *bench, struct bench_vmm *state)
{
    vmm_lift(bench, state, NULL);
    bench_buffer_free(bench, &state->buffer);
    if (state->half)
        bench->driver->ops->release(bench->driver, state->half, NULL);
    if (state->whole)
        bench->driver->ops->release(bench->driver, state->whole, NULL);
}

int bench_vmm(struct bench *bench, struct unstick_error *error)
{
    static const struct bench_case cases[] = {
        { .name = "take-apart",
          .what = "unmap, map the sentinel, release: on one thread",
          .reference = "the same, the releases on a thread of their own",
          .ours = vmm_one_thread,
          .theirs = vmm_two_threads },
        { .name = "take-group",
          .what = "the same on one thread, eight granules to a call that unmaps and one that sets access",
          .reference = "granule by granule",
          .ours = vmm_group,
          .theirs = vmm_one_thread },
        { .name = "take-half",
          .what = "the same on one thread, the sentinel of half a granule mapped twice",
          .reference = "the sentinel of a granule",
          .ours = vmm_half_sentinel,
          .theirs = vmm_one_thread },
        { .name = "take-unpinning",
          .what = "the same on one thread, while others give as much registered host memory back",
          .reference = "while nobody does",
          .ours = vmm_beside_unpinning,
          .theirs = vmm_one_thread },
    };
    const char *reason = bench->is_host ? "a driver's work; there is none" : "the granule has no half";
    struct bench_vmm state = { 0 };
    bool is_wanted = false;
    int r;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        is_wanted |= bench_is_wanted(bench, cases[i].name);
    if (!is_wanted)
        return UNSTICK_OK;
    if (bench->is_host || bench->granule_bytes % (2 * bench->driver->caps.granularity_bytes)) {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
            bench_skip(bench, &cases[i], reason);
        return UNSTICK_OK;
    }
    r = bench_buffer_new(bench, true, &state.buffer, error);
    if (r == UNSTICK_OK)
        r = bench->driver->ops->create(bench->driver, bench->granule_bytes, &state.whole, error);
    if (r == UNSTICK_OK)
        r = bench->driver->ops->create(bench->driver, bench->granule_bytes / 2, &state.half, error);
    for (size_t i = 0; r == UNSTICK_OK && i < sizeof(cases) / sizeof(cases[0]); i++)
        r = bench_case_run(bench, &cases[i], &state, error);
    vmm_close(bench, &state);
    return r;
}
