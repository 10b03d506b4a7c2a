/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host that says anything: options, readings, reports and the time are whatever the input holds. However little sense
 * they make, nothing wraps, what is leased is left alone, and the machine ends once the bytes run out and time goes on.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/reclaim.h>

#include "reclaim/reclaim.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

struct input {
    const uint8_t *data;
    size_t n;
};

static bool input_take(struct input *input, void *to, size_t n)
{
    bool is_there = input->n >= n;

    if (is_there) {
        memcpy(to, input->data, n);
        input->data += n;
        input->n -= n;
    }
    return is_there;
}

static void reading_take(struct input *input, struct unstick_reading *reading, struct unstick_process *process)
{
    uint64_t figures[14];
    uint8_t sources;

    /* What does not come from the input stays as it was at the last measurement. */
    if (!input_take(input, &sources, sizeof(sources)) || !input_take(input, figures, sizeof(figures)))
        return;
    reading->sources = (sources & 31u) | UNSTICK_SOURCE_DRIVER;
    reading->total_bytes = figures[0];
    reading->free_bytes = figures[1];
    reading->limit_bytes = figures[2];
    reading->resident_bytes = figures[3];
    reading->sentinel_bytes = figures[4];
    reading->spare_bytes = figures[5];
    reading->poisoned_bytes = figures[6];
    reading->torch_allocated_bytes = figures[7];
    reading->torch_reserved_bytes = figures[8];
    reading->torch_active_bytes = figures[9];
    reading->torch_inactive_split_bytes = figures[10];
    reading->context_bytes = figures[11];
    reading->own_process_bytes = figures[12];
    process->bytes = figures[13];
    memcpy(process->name, figures, sizeof(process->name));
    reading->processes = process;
    reading->n_processes = sources >> 7;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct input input = { data, n };
    struct unstick_reclaim_options options = { .size = 0 };
    struct unstick_reclaim_action action = { .size = sizeof(action) };
    struct unstick_reclaim_report report = { .size = sizeof(report) };
    struct unstick_reclaim_result result = { .size = sizeof(result) };
    struct unstick_reading reading = { .size = sizeof(reading), .sources = UNSTICK_SOURCE_DRIVER };
    struct unstick_process process = { .pid = 1 };
    struct unstick_reclaim machine;
    uint64_t now_ns = 0;
    int8_t said[4] = { 0 };

    if (!input_take(&input, &options, sizeof(options)))
        return 0;
    options.size = sizeof(options);
    options.what = "fuzz";
    if (usk_reclaim_init(&machine, &options, NULL) < 0)
        return 0;
    for (unsigned int i = 0;; i++) {
        int r = unstick_reclaim_next(&machine, &reading, &report, now_ns, &action);

        if (r == UNSTICK_OK)
            break;
        if (r != UNSTICK_PENDING || (report.n_leased && usk_reclaim_is_process_wide(action.kind)))
            abort();
        /* A gap of 49 days in chunks of a millisecond is long, and no fault. */
        if (i == 4096)
            return 0;
        if (input_take(&input, said, sizeof(said)) && !input_take(&input, &now_ns, sizeof(now_ns)))
            now_ns = 0;
        if (!input.n)
            memset(said, 0, sizeof(said));
        report = (struct unstick_reclaim_report) {
            .size = sizeof(report),
            .status = said[0] > 0 ? 0 : said[0],
            .n_leased = said[1] & 1,
            .is_cache_empty = said[2] & 1,
            .pending = (unsigned char)said[3],
        };
        now_ns += input.n ? 0 : UINT64_C(1000000000);
        if (action.kind == UNSTICK_ACTION_MEASURE)
            reading_take(&input, &reading, &process);
    }
    if (unstick_reclaim_result(&machine, &result) < 0 || result.stop == UNSTICK_STOP_NOT_YET ||
        result.n_steps > USK_RECLAIM_STEPS_MAX || !memchr(result.text, 0, sizeof(result.text)))
        abort();
    return 0;
}
