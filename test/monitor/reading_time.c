/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reading costs, and what it says; and what a complete check of a request costs, which takes one, decides among
 * 100 cached models, and has a millisecond for all of it. The device is $UNSTICK_TEST_DEVICE, by default a host device.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <unstick/unstick.h>

#define N_READINGS 201
#define N_ENTRIES 100
#define N_COMPONENTS 4

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static int compare(const void *a_pointer, const void *b_pointer)
{
    const uint64_t *a = a_pointer, *b = b_pointer;

    return (*a > *b) - (*a < *b);
}

static int measure(struct unstick_device *dev, struct unstick_monitor *monitor, const char *what,
                   struct unstick_reading *reading, struct unstick_error *error)
{
    struct unstick_attribution attribution = { .size = sizeof(attribution) };
    static uint64_t times[N_READINGS];

    for (size_t i = 0; i < N_READINGS; i++) {
        uint64_t start_ns = now_ns();
        int r = unstick_device_reading(dev, monitor, 0, reading, error);

        if (r < 0 || (r = unstick_attribute(reading, &attribution)) < 0)
            return r;
        times[i] = now_ns() - start_ns;
    }
    qsort(times, N_READINGS, sizeof(times[0]), compare);
    printf("%s: median %" PRIu64 " us, worst %" PRIu64 " us of %d readings with attribution\n", what,
           times[N_READINGS / 2] / 1000, times[N_READINGS - 1] / 1000, N_READINGS);
    printf("%s: %s\n", what, attribution.text);
    return UNSTICK_OK;
}

/* A model with four components each, for one that is not there. What fits is not the question here. */
static int check(struct unstick_device *dev, struct unstick_monitor *monitor, struct unstick_error *error)
{
    static struct unstick_snapshot_component components[N_ENTRIES][N_COMPONENTS];
    static struct unstick_snapshot_entry entries[N_ENTRIES];
    static struct unstick_victim victims[N_ENTRIES * N_COMPONENTS];
    static char keys[N_ENTRIES][32];
    static uint64_t times[N_READINGS];
    struct unstick_attribution attribution = { .size = sizeof(attribution) };
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_snapshot snapshot = {
        .size = sizeof(snapshot), .reading = &reading, .entries = entries, .n_entries = N_ENTRIES, .turn = N_ENTRIES
    };
    struct unstick_demand demand = { .size = sizeof(demand), .key = "asked-for_4-bit", .required_bytes = 1 };
    struct unstick_plan plan = { .size = sizeof(plan), .victims = victims, .max_victims = N_ENTRIES * N_COMPONENTS };

    for (size_t i = 0; i < N_ENTRIES; i++) {
        for (size_t j = 0; j < N_COMPONENTS; j++)
            components[i][j] = (struct unstick_snapshot_component){ .name = "component", .bytes = UINT64_C(64) << 20,
                                                                    .resident_bytes = UINT64_C(64) << 20,
                                                                    .tier = UNSTICK_TIER_PINNED };
        snprintf(keys[i], sizeof(keys[i]), "model-%zu_8-bit", i);
        entries[i] = (struct unstick_snapshot_entry){ .key = keys[i], .components = components[i],
                                                      .n_components = N_COMPONENTS };
        unstick_reuse_note(&entries[i].reuse, i + 1);
    }
    for (size_t i = 0; i < N_READINGS; i++) {
        uint64_t start_ns = now_ns();
        int r = unstick_device_reading(dev, monitor, 0, &reading, error);

        if (r < 0 || (r = unstick_attribute(&reading, &attribution)) < 0)
            return r;
        /* Half of the models have to leave. */
        demand.required_bytes = reading.free_bytes + (UINT64_C(64) << 20) * N_ENTRIES * N_COMPONENTS / 2;
        if ((r = unstick_decide(&snapshot, &demand, &plan)) < 0)
            return r;
        times[i] = now_ns() - start_ns;
    }
    qsort(times, N_READINGS, sizeof(times[0]), compare);
    printf("complete check: median %" PRIu64 " us, worst %" PRIu64 " us of %d; %s, %zu victims among %d models\n",
           times[N_READINGS / 2] / 1000, times[N_READINGS - 1] / 1000, N_READINGS, unstick_verdict_name(plan.verdict),
           plan.n_victims, N_ENTRIES);
    return plan.verdict == UNSTICK_VERDICT_EVICT ? UNSTICK_OK : UNSTICK_MISMATCH;
}

int main(void)
{
    const char *spec = getenv("UNSTICK_TEST_DEVICE") ? getenv("UNSTICK_TEST_DEVICE") : "host:64MiB";
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_error error = { .text = "" };
    struct unstick_monitor *monitor = NULL;
    struct unstick_context *ctx = NULL;
    struct unstick_device *dev = NULL;
    int r;

    if ((r = unstick_context_new(NULL, &ctx, &error)) >= 0 &&
        (r = unstick_device_open(ctx, spec, NULL, &dev, &error)) >= 0 &&
        (r = unstick_monitor_new(&monitor, &error)) >= 0 &&
        (r = measure(dev, NULL, "without processes", &reading, &error)) >= 0)
        r = measure(dev, monitor, "with processes", &reading, &error);
    if (r >= 0)
        r = check(dev, monitor, &error);
    if (r < 0)
        fprintf(stderr, "%s: %s: %s\n", spec, unstick_status_text(r), error.text);
    else
        printf("processes are %s; this one holds %" PRIu64 " MiB by the driver's list\n",
               reading.sources & UNSTICK_SOURCE_PROCESSES ? "known" : "not known", reading.own_process_bytes >> 20);
    unstick_monitor_free(monitor);
    if (dev)
        unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
