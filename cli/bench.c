/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all cases share: ours against a reference, interleaved. Reported are the median and the worst of each side and
 * the ratio of the medians as speeds (above 1: ours is faster). Medians, because a shared machine has runs that say
 * nothing about us; the worst, because users feel it.
 */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/context.h>

#include "base/clock.h"
#include "base/error.h"
#include "cli.h"

static const struct cli_column columns[] = {
    { "case", -15 },     { "median", 11 }, { "worst", 11 }, { "GB/s", 8 },
    { "reference", 11 }, { "worst", 11 },  { "ratio", 7 },  { "what, and its reference", 0 },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* --- statistics --- */

struct series {
    double *seconds;
    double median_s, worst_s;
};

static int double_compare(const void *a_pointer, const void *b_pointer)
{
    double a = *(const double *)a_pointer, b = *(const double *)b_pointer;

    return (a > b) - (a < b);
}

static void series_sum_up(struct series *series, uint64_t n, double *scratch)
{
    memcpy(scratch, series->seconds, n * sizeof(*scratch));
    qsort(scratch, n, sizeof(*scratch), double_compare);
    series->median_s = n % 2 ? scratch[n / 2] : (scratch[n / 2 - 1] + scratch[n / 2]) / 2;
    series->worst_s = scratch[n - 1];
}

/* 10^9 bytes of traffic per second. */
static double series_gb_per_s(const struct series *series, uint64_t bytes, unsigned int per_byte)
{
    return (double)bytes * (per_byte ? per_byte : 1) / series->median_s / 1e9;
}

/* --- reporting --- */

static json_t *json_from_series(const struct series *series, uint64_t n, double gb_per_s)
{
    json_t *samples = json_array();

    for (uint64_t i = 0; i < n; i++)
        json_array_append_new(samples, json_real(series->seconds[i] * 1e3));
    return json_pack("{s:f, s:f, s:f, s:o}", "median_ms", series->median_s * 1e3, "worst_ms",
                     series->worst_s * 1e3, "gb_per_s", gb_per_s, "samples_ms", samples);
}

static void bench_report(struct bench *bench, const struct bench_case *bench_case, const struct series *ours,
                         const struct series *theirs)
{
    double gb_per_s = series_gb_per_s(ours, bench->bytes, 1);
    double reference = series_gb_per_s(theirs, bench->bytes, bench_case->theirs_per_byte);
    char cells[N_COLUMNS - 2][32], what[240];
    size_t n;

    if (bench->results) {
        json_t *result = json_from_series(ours, bench->n_runs, gb_per_s);
        json_t *other = json_from_series(theirs, bench->n_runs, reference);

        json_object_set_new(other, "what", json_string(bench_case->reference));
        result = json_pack("{s:s, s:s, s:I, s:o, s:o, s:f}", "case", bench_case->name, "what", bench_case->what,
                           "bytes", (json_int_t)bench->bytes, "ours", result, "reference", other, "ratio",
                           gb_per_s / reference);
        if (bench->slowest.call)
            json_object_set_new(result, "slowest_call",
                                json_pack("{s:s, s:f}", "name", bench->slowest.call, "ms",
                                          (double)bench->slowest.ns / (double)USK_NS_PER_MS));
        json_array_append_new(bench->results, result);
        return;
    }
    snprintf(cells[0], sizeof(cells[0]), "%.2f ms", ours->median_s * 1e3);
    snprintf(cells[1], sizeof(cells[1]), "%.2f ms", ours->worst_s * 1e3);
    snprintf(cells[2], sizeof(cells[2]), "%.2f", gb_per_s);
    snprintf(cells[3], sizeof(cells[3]), "%.2f ms", theirs->median_s * 1e3);
    snprintf(cells[4], sizeof(cells[4]), "%.2f ms", theirs->worst_s * 1e3);
    snprintf(cells[5], sizeof(cells[5]), "%.2f", gb_per_s / reference);
    n = (size_t)snprintf(what, sizeof(what), "%s / %s", bench_case->what, bench_case->reference);
    if (bench->slowest.call && n < sizeof(what))
        snprintf(what + n, sizeof(what) - n, "; slowest call: %s, %.2f ms", bench->slowest.call,
                 (double)bench->slowest.ns / (double)USK_NS_PER_MS);
    cli_table_row(columns, N_COLUMNS,
                  (const char *[N_COLUMNS]){ bench_case->name, cells[0], cells[1], cells[2], cells[3],
                                             cells[4], cells[5], what });
}

void bench_skip(struct bench *bench, const struct bench_case *bench_case, const char *reason)
{
    if (!bench_is_wanted(bench, bench_case->name))
        return;
    if (bench->results)
        json_array_append_new(bench->results, json_pack("{s:s, s:s, s:s}", "case", bench_case->name, "what",
                                                        bench_case->what, "skipped", reason));
    else
        cli_table_row(columns, N_COLUMNS,
                      (const char *[N_COLUMNS]){ bench_case->name, "-", "-", "-", "-", "-", "-", reason });
}

void bench_head_print(void)
{
    cli_table_head(columns, N_COLUMNS);
}

/* --- running --- */

bool bench_is_wanted(const struct bench *bench, const char *name)
{
    size_t length = strlen(name);

    if (!bench->only)
        return true;
    for (const char *p = bench->only; p; p = strchr(p, ','), p = p ? p + 1 : NULL) {
        if (!strncmp(p, name, length) && (!p[length] || p[length] == ','))
            return true;
    }
    return false;
}

/* The sides alternate, and so does who begins: what one leaves in the caches meets the other as often. */
static int bench_measure(struct bench *bench, const struct bench_case *bench_case, void *state,
                         struct series *ours, struct series *theirs, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (uint64_t i = 0; r == UNSTICK_OK && i < bench->n_runs; i++) {
        cli_progress("%s: run %" PRIu64 " of %" PRIu64, bench_case->name, i + 1, bench->n_runs);
        for (uint64_t side = 0; r == UNSTICK_OK && side < 2; side++) {
            bool is_ours = side == i % 2;

            if (cli_is_interrupted())
                return cli_error_interrupted(error);
            r = is_ours ? bench_case->ours(bench, state, &ours->seconds[i], error)
                        : bench_case->theirs(bench, state, &theirs->seconds[i], error);
        }
    }
    return r;
}

int bench_case_run(struct bench *bench, const struct bench_case *bench_case, void *state,
                   struct unstick_error *error)
{
    double *samples = NULL;
    struct series ours, theirs;
    struct unstick_error why;
    int r;

    if (!bench_is_wanted(bench, bench_case->name))
        return UNSTICK_OK;
    samples = calloc(bench->n_runs * 3, sizeof(*samples));
    if (!samples)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                             "out of host memory for the samples");
    ours.seconds = samples;
    theirs.seconds = samples + bench->n_runs;
    bench_note_steps(bench, NULL);
    bench->slowest = (struct bench_slowest){ 0 };
    r = bench_measure(bench, bench_case, state, &ours, &theirs, &why);
    bench_note_steps(bench, bench_case->name);
    if (r == UNSTICK_OK) {
        series_sum_up(&ours, bench->n_runs, samples + 2 * bench->n_runs);
        series_sum_up(&theirs, bench->n_runs, samples + 2 * bench->n_runs);
        bench_report(bench, bench_case, &ours, &theirs);
    }
    free(samples);
    if (r == UNSTICK_UNSUPPORTED) {
        bench_skip(bench, bench_case, why.text);
        return UNSTICK_OK;
    }
    if (r < 0)
        return usk_error_set(error, r, why.native, why.operation, "%s: %s", bench_case->name, why.text);
    return r;
}

void bench_note_steps(struct bench *bench, const char *name)
{
    if (!bench->ctx)
        return;
    usk_baton_take(bench->ctx);
    if (bench->ctx->longest_step.ns > bench->longest_step.ns) {
        bench->longest_step = bench->ctx->longest_step;
        bench->longest_case = name;
    }
    usk_baton_give(bench->ctx);
}

/* --- the device --- */

int bench_open(struct bench *bench, uint64_t limit_bytes, uint64_t granule_bytes, struct unstick_device_info *info,
               struct unstick_error *error)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options) };
    struct unstick_device_options device_options = { .size = sizeof(device_options),
                                                     .limit_bytes = limit_bytes,
                                                     .granule_bytes = granule_bytes };
    int r;

    bench->ctx = NULL;
    bench->dev = NULL;
    r = unstick_context_new(&context_options, &bench->ctx, error);
    if (r == UNSTICK_OK)
        r = unstick_device_open(bench->ctx, bench->spec, &device_options, &bench->dev, error);
    if (r == UNSTICK_OK)
        bench->driver = bench->dev->driver;
    return r == UNSTICK_OK ? unstick_device_info(bench->dev, info, error) : r;
}

int bench_open_tight(struct bench *bench, struct unstick_error *error)
{
    struct unstick_device_info info = { .size = sizeof(info) };
    int r = unstick_device_info(bench->dev, &info, error);

    if (r == UNSTICK_OK)
        r = bench_open(bench, bench->bytes + info.sentinel_bytes, bench->granule_bytes, &info, error);
    return r;
}

void bench_close(struct bench *bench)
{
    bench_note_steps(bench, NULL);
    unstick_device_close(bench->dev, NULL);
    unstick_context_free(bench->ctx);
    bench->dev = NULL;
    bench->ctx = NULL;
}
