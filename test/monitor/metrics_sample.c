/* SPDX-License-Identifier: Apache-2.0 */
/* Prints metrics with everything in them, awkward names included, for metrics_format.py and promtool. */
#include <stdio.h>
#include <stdlib.h>

#include <unstick/unstick.h>

int main(void)
{
    static char text[65536];
    const struct unstick_process processes[] = {
        { .pid = 7, .name = "python", .bytes = UINT64_C(3) << 30 },
        { .pid = 8, .name = "a \"b\" \\", .bytes = 1 },
        { .pid = 9, .name = "?" },
    };
    struct unstick_reading readings[2] = {
        { .size = sizeof(readings[0]), .sources = 31, .total_bytes = UINT64_C(24) << 30, .free_bytes = 1,
          .processes = processes, .n_processes = 3 },
        { .size = sizeof(readings[0]), .sources = UNSTICK_SOURCE_DRIVER, .total_bytes = UINT64_MAX },
    };
    const struct unstick_metrics_device devices[] = { { "cuda:0", &readings[0] }, { "cuda:1", &readings[1] } };
    const struct unstick_metrics_model models[] = {
        { "black-forest-labs/FLUX.1-dev_4-bit", "transformer", "device", 6699009664 },
        { "black-forest-labs/FLUX.1-dev_4-bit", "transformer", "pinned", 6699009664 },
        { "two\nlines \xff \xe2\x9a\xa1 \\ \"", "", "file", 0 },
    };
    struct unstick_context_info host = { .size = sizeof(host), .host_pinned_bytes = 1 };
    struct unstick_system_reading system = { .size = sizeof(system) };
    struct unstick_metrics_counts counts = { .n_hits = UINT64_MAX };
    struct unstick_histogram histograms[UNSTICK_N_TIMINGS] = { 0 }; /* of the first: nothing */
    struct unstick_metrics metrics = {
        .size = sizeof(metrics), .devices = devices, .n_devices = 2,      .models = models,
        .n_models = 3,           .host = &host,      .system = &system,   .counts = &counts,
    };
    size_t length;

    if (unstick_system_read(&system, NULL) < 0)
        return EXIT_FAILURE;
    system.cgroup_limit_bytes = system.total_bytes;
    for (size_t i = 0; i < UNSTICK_N_TIMINGS; i++) {
        for (uint64_t ns = 1; i != UNSTICK_TIMING_LOAD && ns < UINT64_C(100000000000); ns = ns * 3 + 7)
            unstick_histogram_add(&histograms[i], ns);
        metrics.timings[i] = &histograms[i];
    }
    if (unstick_metrics_write(&metrics, text, sizeof(text), &length) < 0 || length >= sizeof(text))
        return EXIT_FAILURE;
    return fputs(text, stdout) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
