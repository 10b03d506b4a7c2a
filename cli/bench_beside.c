/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host program's own work feels of ours: a kernel's time beside an eviction and beside a backup, against its
 * time alone. The library is driven by its own thread, as in a program without a loop, and does not know of the kernel.
 * Only where there is a GPU: on a host device both would share the processors.
 */
#include <unstick/region.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "bench.h"
#include "kernel.h"

#define BESIDE_THREADS 256
/*
 * As a matrix product: sixteen blocks for each multiprocessor of an H100, and so much shared memory for each that four
 * of them run there at once. Memory is kept busy by eight.
 */
#define BESIDE_COMPUTE_BLOCKS 2112
#define BESIDE_COMPUTE_SHARED_BYTES (48 << 10)
#define BESIDE_READ_BLOCKS 1056
/* Beside a backup: shorter than that, so that all of the kernel is beside it. */
#define BESIDE_LINK_SHARE 0.7
#define BESIDE_LINK_BYTES_PER_S 50e9
/* Beside an eviction: what a step of inference takes, and longer than the eviction. */
#define BESIDE_EVICT_S 0.4
/* Inference is many short kernels, one behind the other; between two of them others get their turn. */
#define BESIDE_LAUNCH_S 0.001
#define BESIDE_TRIAL_S 0.2

#define PTX_HEAD(_name)                                                                                               \
    ".version 6.0\n.target sm_60\n.address_size 64\n"                                                                 \
    ".visible .entry " _name "(.param .u64 p_data, .param .u64 p_bytes, .param .u32 p_rounds)\n{\n"                   \
    ".reg .pred %go;\n.reg .b32 %round, %rounds, %thread, %block, %threads, %blocks;\n"                               \
    ".reg .b64 %data, %bytes;\n"                                                                                      \
    "ld.param.u64 %data, [p_data];\nld.param.u64 %bytes, [p_bytes];\nld.param.u32 %rounds, [p_rounds];\n"             \
    "mov.u32 %thread, %tid.x;\nmov.u32 %block, %ctaid.x;\nmov.u32 %threads, %ntid.x;\nmov.u32 %blocks, %nctaid.x;\n"  \
    "mov.u32 %round, 0;\n"

#define FMA(_x) "fma.rn.f32 " _x ", " _x ", 0f3F7FFFFE, 0f3F800000;\n"

/* Arithmetic and nothing else: eight chains of multiply-adds in every thread, 256 of each per round. */
static const char compute_ptx[] = PTX_HEAD("beside")
    ".reg .b32 %i;\n.reg .pred %more;\n.reg .f32 %a, %b, %c, %d, %e, %f, %g, %h;\n"
    "cvt.rn.f32.u32 %a, %thread;\nmov.f32 %b, %a;\nmov.f32 %c, %a;\nmov.f32 %d, %a;\n"
    "mov.f32 %e, %a;\nmov.f32 %f, %a;\nmov.f32 %g, %a;\nmov.f32 %h, %a;\n"
    "ROUND:\nmov.u32 %i, 0;\n"
    "CHAIN:\n" FMA("%a") FMA("%b") FMA("%c") FMA("%d") FMA("%e") FMA("%f") FMA("%g") FMA("%h")
    "add.u32 %i, %i, 1;\nsetp.lt.u32 %more, %i, 256;\n@%more bra CHAIN;\n"
    "add.u32 %round, %round, 1;\nsetp.lt.u32 %go, %round, %rounds;\n@%go bra ROUND;\n"
    "add.f32 %a, %a, %b;\nadd.f32 %a, %a, %c;\nadd.f32 %a, %a, %d;\nadd.f32 %a, %a, %e;\nadd.f32 %a, %a, %f;\n"
    "add.f32 %a, %a, %g;\nadd.f32 %a, %a, %h;\nst.global.f32 [%data], %a;\nret;\n}\n";

/* Memory and nothing else: every round a 64th of the data is read, 16 bytes by a thread, a warp's side by side. */
static const char read_ptx[] = PTX_HEAD("beside")
    ".reg .pred %more, %never;\n.reg .b32 %index, %u;\n.reg .b64 %at, %end, %start, %part, %stride, %x, %y, %sum, %v;\n"
    "mad.lo.u32 %index, %block, %threads, %thread;\nmul.wide.u32 %start, %index, 16;\n"
    "mul.lo.u32 %index, %blocks, %threads;\nmul.wide.u32 %stride, %index, 16;\n"
    "shr.u64 %part, %bytes, 6;\nmov.u64 %sum, 0;\n"
    "ROUND:\n"
    "and.b32 %u, %round, 63;\ncvt.u64.u32 %v, %u;\nmul.lo.u64 %v, %v, %part;\nadd.u64 %v, %v, %data;\n"
    "add.u64 %end, %v, %part;\nadd.u64 %at, %v, %start;\n"
    "CHAIN:\nsetp.ge.u64 %more, %at, %end;\n@%more bra NEXT;\n"
    "ld.global.v2.u64 {%x, %y}, [%at];\nxor.b64 %sum, %sum, %x;\nxor.b64 %sum, %sum, %y;\nadd.u64 %at, %at, %stride;\n"
    "bra CHAIN;\n"
    "NEXT:\nadd.u32 %round, %round, 1;\nsetp.lt.u32 %go, %round, %rounds;\n@%go bra ROUND;\n"
    "setp.eq.u64 %never, %sum, 0x5bd1e995a5a5a5a5;\n@%never st.global.u64 [%data], %sum;\nret;\n}\n";

struct bench_beside {
    struct unstick_region *region;
    struct bench_buffer buffer; /* the kernel's */
    struct kernel kernel;
    unsigned int n_blocks, shared_bytes, n_rounds, n_launches;
    uint8_t fill;
};

/* --- the kernel --- */

static int beside_time(struct bench *bench, struct bench_beside *state, double *ret_s, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns(), bytes = bench->bytes;
    void *parameters[] = { &state->buffer.address, &bytes, &state->n_rounds };
    int r = UNSTICK_OK;

    for (unsigned int i = 0; i < state->n_launches && r == UNSTICK_OK; i++)
        r = kernel_launch(&state->kernel, state->n_blocks, BESIDE_THREADS, state->shared_bytes, parameters, error);
    if (r == UNSTICK_OK)
        r = kernel_wait(&state->kernel, error);
    *ret_s = bench_seconds_since(started_ns);
    return r;
}

/* How long a kernel, and how many of them, take about that long. A driver that loads it and does not run it is one that
 * cannot be measured. */
static int beside_calibrate(struct bench *bench, struct bench_beside *state, double wanted_s,
                            struct unstick_error *error)
{
    double taken_s;
    int r;

    state->n_launches = 1;
    state->n_rounds = 1;
    do {
        state->n_rounds *= 2;
        r = beside_time(bench, state, &taken_s, error);
    } while (r == UNSTICK_OK && taken_s < BESIDE_TRIAL_S);
    /* The chip is at its full clock by now. */
    if (r == UNSTICK_OK)
        r = beside_time(bench, state, &taken_s, error);
    if (r < 0)
        return UNSTICK_UNSUPPORTED;
    state->n_rounds = (unsigned int)usk_max((uint64_t)(state->n_rounds * BESIDE_LAUNCH_S / taken_s), 1);
    state->n_launches = (unsigned int)(wanted_s / BESIDE_LAUNCH_S) + 1;
    return r;
}

static int kernel_alone(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_beside *state = state_pointer;

    return beside_time(bench, state, ret_s, error);
}

/* --- the library beside it --- */

typedef int (*beside_verb)(struct unstick_region *region, const struct unstick_task_options *options,
                           struct unstick_task **ret_task, struct unstick_error *error);

static int beside_run(struct bench_beside *state, beside_verb verb, struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = UNSTICK_TIER_PINNED };
    struct unstick_task *task;
    int r = verb(state->region, &options, &task, error);

    if (r < 0)
        return r;
    r = unstick_task_wait(task, error);
    unstick_task_free(task);
    return r;
}

static int kernel_beside(struct bench *bench, struct bench_beside *state, beside_verb verb, double *ret_s,
                         struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = UNSTICK_TIER_PINNED,
                                            .fence = UNSTICK_FENCE_NONE };
    struct unstick_task *task;
    int r = verb(state->region, &options, &task, error), ended;

    if (r < 0)
        return r;
    r = beside_time(bench, state, ret_s, error);
    ended = unstick_task_wait(task, r == UNSTICK_OK ? error : NULL);
    unstick_task_free(task);
    return r < 0 ? r : ended;
}

/* Everything has changed, so that all of it is copied. */
static int beside_backup(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_beside *state = state_pointer;
    struct unstick_region_info info = { .size = sizeof(info) };
    int r;

    unstick_region_info(state->region, &info);
    usk_baton_take(bench->ctx);
    r = bench->driver->ops->fill(bench->driver, USK_LANE_UP, info.address, ++state->fill, info.bytes, error);
    if (r == UNSTICK_OK)
        r = bench_lane_wait(bench, USK_LANE_UP, error);
    usk_baton_give(bench->ctx);
    return r < 0 ? r : kernel_beside(bench, state, unstick_region_backup, ret_s, error);
}

static int beside_evict(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_beside *state = state_pointer;
    int r = beside_run(state, unstick_region_restore, error);

    bench_settle(bench);
    return r < 0 ? r : kernel_beside(bench, state, unstick_region_evict, ret_s, error);
}

/* --- cases --- */

static int beside_open(struct bench *bench, struct bench_beside *state, const char *ptx, double wanted_s,
                       struct unstick_error *error)
{
    int r = kernel_open(&state->kernel, bench->driver->caps.uuid, ptx, "beside", error);

    state->n_blocks = ptx == compute_ptx ? BESIDE_COMPUTE_BLOCKS : BESIDE_READ_BLOCKS;
    state->shared_bytes = ptx == compute_ptx ? BESIDE_COMPUTE_SHARED_BYTES : 0;
    return r < 0 ? r : beside_calibrate(bench, state, wanted_s, error);
}

static int beside_run_case(struct bench *bench, struct bench_beside *state, const struct bench_case *bench_case,
                           const char *ptx, double wanted_s, struct unstick_error *error)
{
    struct unstick_error why = { 0 };
    int r;

    if (!bench_is_wanted(bench, bench_case->name))
        return UNSTICK_OK;
    r = beside_open(bench, state, ptx, wanted_s, &why);
    if (r == UNSTICK_OK) {
        r = bench_case_run(bench, bench_case, state, error);
    } else if (r == UNSTICK_UNSUPPORTED) {
        bench_skip(bench, bench_case, why.text);
        r = UNSTICK_OK;
    } else if (error) {
        *error = why;
    }
    kernel_close(&state->kernel);
    return r;
}

static int beside_run_cases(struct bench *bench, const struct bench_case *cases, struct unstick_error *error)
{
    double backup_s = BESIDE_LINK_SHARE * (double)bench->bytes / BESIDE_LINK_BYTES_PER_S;
    struct bench_beside state = { 0 };
    int r;

    r = unstick_context_start_driver(bench->ctx, error);
    if (r == UNSTICK_OK) {
        usk_baton_take(bench->ctx);
        r = bench_buffer_new(bench, true, &state.buffer, error);
        usk_baton_give(bench->ctx);
    }
    if (r == UNSTICK_OK)
        r = unstick_region_new(bench->dev, "beside", bench->bytes, NULL, &state.region, error);
    if (r == UNSTICK_OK)
        r = beside_run(&state, unstick_region_restore, error);
    if (r == UNSTICK_OK)
        r = beside_run(&state, unstick_region_backup, error);
    if (r == UNSTICK_OK)
        r = beside_run_case(bench, &state, &cases[0], compute_ptx, backup_s, error);
    if (r == UNSTICK_OK)
        r = beside_run_case(bench, &state, &cases[1], read_ptx, BESIDE_EVICT_S, error);
    unstick_region_unref(state.region);
    usk_baton_take(bench->ctx);
    bench_buffer_free(bench, &state.buffer);
    usk_baton_give(bench->ctx);
    return r;
}

int bench_beside(struct bench *bench, struct unstick_error *error)
{
    const struct bench_case cases[] = {
        { .name = "beside-backup",
          .what = "a kernel of arithmetic while another region is backed up",
          .reference = "the kernel alone",
          .ours = beside_backup,
          .theirs = kernel_alone },
        { .name = "beside-evict",
          .what = "a kernel that reads memory while another region is evicted",
          .reference = "the kernel alone",
          .ours = beside_evict,
          .theirs = kernel_alone },
    };
    struct bench driven = *bench;
    int r;

    if (!bench_is_wanted(bench, cases[0].name) && !bench_is_wanted(bench, cases[1].name))
        return UNSTICK_OK;
    if (bench->is_host) {
        bench_skip(bench, &cases[0], "there is no GPU");
        bench_skip(bench, &cases[1], "there is no GPU");
        return UNSTICK_OK;
    }
    r = bench_open_tight(&driven, error);
    if (r == UNSTICK_OK)
        r = beside_run_cases(&driven, cases, error);
    bench_close(&driven);
    bench->longest_step = driven.longest_step;
    bench->longest_case = driven.longest_case;
    return r;
}
