/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a plain C program drives reclaim. It wants more of its device than is free, while a model that nobody uses any
 * more still lies there. The library says what to try; the program does what it can (it has neither torch nor a
 * garbage collector, but it can drop its idle model and trim its heap), says that it cannot do the rest, and reads the
 * device when it is asked to. Try it with "host:256MiB" (the default, runs anywhere) or "cuda:0".
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <unstick/unstick.h>

#define MIB (UINT64_C(1) << 20)
#define MODEL_BYTES (160 * MIB)

struct program {
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct unstick_monitor *monitor;
    struct unstick_region *idle; /* loaded, and needed by nobody */
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* An event loop would start a timer here and go on; this program has nothing else to do. */
static void sleep_for(uint32_t ms)
{
    struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

    nanosleep(&time, NULL);
}

static int load_idle_model(struct program *program, struct unstick_error *error)
{
    struct unstick_task *task = NULL;
    void *address;
    int r;

    if ((r = unstick_region_new(program->dev, "idle", MODEL_BYTES, NULL, &program->idle, error)) < 0 ||
        (r = unstick_region_alloc(program->idle, MODEL_BYTES, &address, error)) < 0 ||
        (r = unstick_region_restore(program->idle, NULL, &task, error)) < 0)
        return r;
    r = unstick_task_wait(task, error);
    unstick_task_free(task);
    return r;
}

/* What this program can do of what it is asked. */
static int perform(struct program *program, const struct unstick_reclaim_action *action)
{
    switch (action->kind) {
    case UNSTICK_ACTION_COLLECT:
        program->idle = unstick_region_unref(program->idle);
        unstick_context_step(program->ctx, 0);
        return UNSTICK_OK;
    case UNSTICK_ACTION_EMPTY_CACHE:
#if defined(__GLIBC__)
        malloc_trim(0);
        return UNSTICK_OK;
#else
        return UNSTICK_UNSUPPORTED;
#endif
    case UNSTICK_ACTION_SLEEP:
        sleep_for(action->sleep_ms);
        return UNSTICK_OK;
    case UNSTICK_ACTION_MEASURE: /* done by the caller, who hands the reading on */
    case UNSTICK_ACTION_DONE:
        return UNSTICK_OK;
    default:
        return UNSTICK_UNSUPPORTED;
    }
}

static int reclaim(struct program *program, uint64_t target_bytes, struct unstick_error *error)
{
    struct unstick_reclaim_options options = {
        .size = sizeof(options),
        .target_bytes = target_bytes,
        .what = "next model",
    };
    struct unstick_reclaim_action action = { .size = sizeof(action) };
    struct unstick_reclaim_report report = { .size = sizeof(report) };
    struct unstick_reclaim_result result = { .size = sizeof(result) };
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_reclaim *machine;
    int r = unstick_reclaim_new(&options, &machine, error);

    if (r < 0)
        return r;
    while (unstick_reclaim_next(machine, &reading, &report, now_ns(), &action) == UNSTICK_PENDING) {
        report.status = perform(program, &action);
        if (action.kind == UNSTICK_ACTION_MEASURE)
            report.status = unstick_device_reading(program->dev, program->monitor, now_ns(), &reading, error);
        printf("%-12s %-16s %s\n", action.step, unstick_action_name(action.kind), unstick_status_text(report.status));
    }
    r = unstick_reclaim_result(machine, &result);
    if (r == UNSTICK_OK) {
        for (size_t i = 0; i < result.n_steps; i++)
            printf("%-12s gave %" PRId64 " MiB\n", result.steps[i].name, result.steps[i].freed_bytes / (int64_t)MIB);
        printf("%s\n", result.text);
        r = result.status;
    }
    unstick_reclaim_free(machine);
    return r;
}

int main(int argc, char **argv)
{
    struct unstick_error error = { .text = "" };
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct program program = { .ctx = NULL };
    int r;

    if ((r = unstick_context_new(NULL, &program.ctx, &error)) >= 0 &&
        (r = unstick_device_open(program.ctx, argc > 1 ? argv[1] : "host:256MiB", NULL, &program.dev, &error)) >= 0 &&
        (r = unstick_monitor_new(&program.monitor, &error)) >= 0 && (r = load_idle_model(&program, &error)) >= 0 &&
        (r = unstick_device_reading(program.dev, program.monitor, 0, &reading, &error)) >= 0)
        r = reclaim(&program, reading.free_bytes + MODEL_BYTES / 2, &error);
    if (r < 0)
        fprintf(stderr, "reclaim: %s: %s\n", unstick_status_text(r), error.text);

    unstick_region_unref(program.idle);
    unstick_monitor_free(program.monitor);
    if (program.dev)
        unstick_device_close(program.dev, NULL);
    unstick_context_free(program.ctx);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
