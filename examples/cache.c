/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two models on a device with room for one, through the cache. A request says what to do next; this program performs it
 * and sleeps where it is told to wait. The first model is loaded by the program itself, into a region of its own; the
 * second comes from a file, which the cache loads. Then they take turns: what leaves is evicted, what comes back is
 * restored to the same addresses. Try it with "host:256MiB" (the default, runs anywhere) or "cuda:0".
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unstick/unstick.h>

#define MIB (UINT64_C(1) << 20)
#define MODEL_BYTES (160 * MIB)

struct program {
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct unstick_cache *cache;
    char path[64];                  /* a file with the second model's weights */
    struct unstick_extent extent;
    const char *paths[1];
    struct unstick_layout layout;
};

/* A program with a model library of its own would call that here. */
static int load(struct program *program, struct unstick_request *request, struct unstick_error *error)
{
    struct unstick_cache_component component = { .size = sizeof(component), .name = "transformer" };
    struct unstick_task *task = NULL;
    int r = unstick_region_new(program->dev, "transformer", MODEL_BYTES, NULL, &component.region, error);

    if (r >= 0)
        r = unstick_region_restore(component.region, NULL, &task, error);
    if (r >= 0)
        r = unstick_task_wait(task, error);
    if (r >= 0)
        r = unstick_region_write(component.region, 0, "weights", sizeof("weights"), error);
    if (r >= 0)
        r = unstick_request_add(request, &component, error);
    unstick_task_free(task);
    /* The cache has taken a reference of its own. */
    unstick_region_unref(component.region);
    return r;
}

static void perform(struct program *program, struct unstick_request *request,
                    const struct unstick_request_action *action, struct unstick_request_report *report,
                    struct unstick_error *error)
{
    struct pollfd fd = { .fd = action->fd, .events = POLLIN };

    *report = (struct unstick_request_report){ .size = sizeof(*report), .error = error };
    switch (action->kind) {
    case UNSTICK_DO_WAIT: /* an event loop would go on with other things */
        poll(&fd, 1, action->timeout_ms);
        break;
    case UNSTICK_DO_LOAD:
        report->status = load(program, request, error);
        break;
    default: /* there is no torch here */
        report->status = UNSTICK_UNSUPPORTED;
        break;
    }
}

static int use(struct program *program, const char *key, const struct unstick_cache_demand *demand,
               struct unstick_error *error)
{
    static const char *const outcomes[] = { "hit", "restored", "loaded" };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    int r = unstick_cache_request(program->cache, key, demand, &request, error);

    if (r < 0)
        return r;
    while ((r = unstick_request_next(request, &report, 0, &action)) == UNSTICK_PENDING)
        perform(program, request, &action, &report, error);
    unstick_request_result(request, &result);
    lease = unstick_request_take_lease(request);
    if (r == UNSTICK_OK)
        printf("%-14s %-8s %4" PRIu64 " MiB moved, %zu evicted\n", key, outcomes[result.outcome], result.bytes / MIB,
               result.n_evictions);
    else
        fprintf(stderr, "%s\n", result.text);
    /* With a GPU: unstick_cache_lease_use_stream(lease, stream), then the model's kernels. */
    unstick_cache_lease_end(lease, NULL);
    unstick_request_free(request);
    return r;
}

static int write_model(struct program *program)
{
    int fd;

    snprintf(program->path, sizeof(program->path), "/tmp/unstick-example-XXXXXX");
    fd = mkstemp(program->path);
    if (fd < 0 || ftruncate(fd, (off_t)MODEL_BYTES) < 0 || close(fd) < 0)
        return UNSTICK_IO;
    program->paths[0] = program->path;
    program->extent = (struct unstick_extent){ .bytes = MODEL_BYTES };
    program->layout = (struct unstick_layout){ program->paths, 1, &program->extent, 1, MODEL_BYTES };
    return UNSTICK_OK;
}

static int take_turns(struct program *program, struct unstick_error *error)
{
    struct unstick_cache_component file = {
        .size = sizeof(file), .name = "transformer", .layout = &program->layout
    };
    struct unstick_cache_demand own = { .size = sizeof(own), .required_bytes = MODEL_BYTES };
    struct unstick_cache_demand files = { .size = sizeof(files), .layouts = &file, .n_layouts = 1 };
    int r = UNSTICK_OK;

    for (int turn = 0; r == UNSTICK_OK && turn < 3; turn++) {
        r = use(program, "sketch_8-bit", &own, error);
        if (r == UNSTICK_OK)
            r = use(program, "render_4-bit", &files, error);
    }
    return r;
}

int main(int argc, char **argv)
{
    struct unstick_device_options options = { .size = sizeof(options), .limit_bytes = 250 * MIB };
    struct unstick_error error = { .text = "" };
    struct program program = { .ctx = NULL };
    int r;

    if ((r = unstick_context_new(NULL, &program.ctx, &error)) >= 0 &&
        (r = unstick_device_open(program.ctx, argc > 1 ? argv[1] : "host:256MiB", &options, &program.dev,
                                 &error)) >= 0 &&
        (r = unstick_cache_open(program.dev, NULL, &program.cache, &error)) >= 0 && (r = write_model(&program)) >= 0)
        r = take_turns(&program, &error);
    if (r < 0)
        fprintf(stderr, "cache: %s: %s\n", unstick_status_text(r), error.text);

    unstick_cache_close(program.cache, NULL);
    if (program.dev)
        unstick_device_close(program.dev, NULL);
    unstick_context_free(program.ctx);
    if (program.path[0])
        unlink(program.path);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
