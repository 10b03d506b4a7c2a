/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole idea in one program: memory on a device, written, taken away while its address stays valid, and brought
 * back bit-identical. Every call blocks. Try it with "host:256MiB" (the default, runs anywhere) or "cuda:0".
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <unstick/unstick.h>

#define N_WORDS (UINT64_C(16) << 20)

/* Waits for a task that was submitted with `status` and frees it. */
static int finish(int status, struct unstick_task **task, struct unstick_error *error)
{
    if (status == UNSTICK_OK) {
        status = unstick_task_wait(*task, error);
        *task = unstick_task_free(*task);
    }
    return status;
}

static void report(const char *when, struct unstick_device *dev)
{
    struct unstick_device_info info = { .size = sizeof(info) };

    if (unstick_device_info(dev, &info, NULL) == UNSTICK_OK)
        printf("%-8s %4" PRIu64 " MiB of ours on %s\n", when, info.resident_bytes >> 20, info.name);
}

static int run(struct unstick_device *dev, struct unstick_region *region, uint32_t *words, struct unstick_error *error)
{
    const uint64_t bytes = N_WORDS * sizeof(*words);
    struct unstick_task_options verify = { .size = sizeof(verify), .flags = UNSTICK_TASK_VERIFY };
    struct unstick_task *task = NULL;
    void *address;
    int r;

    /* The address is fixed from here on. A region without contents is restored as zeros. */
    if ((r = unstick_region_alloc(region, bytes, &address, error)) < 0 ||
        (r = finish(unstick_region_restore(region, NULL, &task, error), &task, error)) < 0)
        return r;
    for (uint64_t i = 0; i < N_WORDS; i++)
        words[i] = (uint32_t)(i * 2654435761u);
    if ((r = unstick_region_write(region, 0, words, bytes, error)) < 0)
        return r;
    report("written", dev);

    if ((r = finish(unstick_region_evict(region, NULL, &task, error), &task, error)) < 0)
        return r;
    report("evicted", dev);

    if ((r = finish(unstick_region_restore(region, &verify, &task, error), &task, error)) < 0)
        return r;
    report("restored", dev);

    for (uint64_t i = 0; i < N_WORDS; i++)
        words[i] = 0;
    if ((r = unstick_region_read(region, 0, words, bytes, error)) < 0)
        return r;
    for (uint64_t i = 0; i < N_WORDS; i++)
        if (words[i] != (uint32_t)(i * 2654435761u))
            return fprintf(stderr, "word %" PRIu64 " differs\n", i), UNSTICK_MISMATCH;
    printf("%" PRIu64 " MiB at %p came back bit-identical\n", bytes >> 20, address);
    return UNSTICK_OK;
}

int main(int argc, char **argv)
{
    struct unstick_error error = { .text = "" };
    struct unstick_context *ctx = NULL;
    struct unstick_device *dev = NULL;
    struct unstick_region *region = NULL;
    uint32_t *words = malloc(N_WORDS * sizeof(*words));
    int r = UNSTICK_OUT_OF_HOST_MEMORY;

    if (words && (r = unstick_context_new(NULL, &ctx, &error)) >= 0 &&
        (r = unstick_device_open(ctx, argc > 1 ? argv[1] : "host:256MiB", NULL, &dev, &error)) >= 0 &&
        (r = unstick_region_new(dev, "weights", N_WORDS * sizeof(*words), NULL, &region, &error)) >= 0)
        r = run(dev, region, words, &error);
    if (r < 0)
        fprintf(stderr, "blocking: %s: %s\n", unstick_status_text(r), error.text);

    unstick_region_unref(region);
    if (dev)
        unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    free(words);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
