/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick bench`: ours against a reference, interleaved. Reported are the median and the worst of each side
 * and the ratio of the medians as speeds (above 1: ours is faster). Medians, because a shared machine has
 * runs that say nothing about us; the worst, because users feel it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/context.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "bench.h"
#include "cli.h"
#include "stall.h"

#define BENCH_HOST_BYTES (UINT64_C(64) << 20)
#define BENCH_GPU_BYTES (UINT64_C(4) << 30)

static const struct cli_column columns[] = {
    { "case", -15 },     { "median", 11 }, { "worst", 11 }, { "GB/s", 8 },
    { "reference", 11 }, { "worst", 11 },  { "ratio", 7 },  { "what, and its reference", 0 },
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

/* For --only; the cases themselves are where they are run. */
static const char *const names[] = {
    "link-up",         "link-down",   "pin",         "hash",
    "load-pinned",     "load-file",   "load-cold",   "restore-file",
    "evict-unchanged", "evict-first", "evict-dirty", "restore-pinned",
    "restore-at-once", "switch",      "take-apart",  "take-half",
    "take-unpinning",  "beside-backup", "beside-evict",
};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

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

/* How much of the device there is to measure with: two regions and two buffers fit, and a backup of each
 * region. */
static uint64_t bench_pick_bytes(const struct unstick_device_info *info)
{
    uint64_t room = (info->total_bytes - usk_min(info->total_bytes, info->used_bytes)) / 4;
    uint64_t wanted = strcmp(info->kind, "host") ? BENCH_GPU_BYTES : BENCH_HOST_BYTES;
    struct usk_os_memory memory;

    if (usk_os_memory(&memory, NULL) == UNSTICK_OK)
        room = usk_min(room, usk_min(memory.available_bytes, memory.cgroup_limit_bytes) / 8);
    return usk_min(room, wanted);
}

static int bench_open(struct bench *bench, uint64_t limit_bytes, uint64_t granule_bytes,
                      struct unstick_device_info *info, struct unstick_error *error)
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

static void bench_size(struct bench *bench, const struct unstick_device_info *info, uint64_t bytes)
{
    bench->is_host = !strcmp(info->kind, "host");
    bench->granule_bytes = info->granule_bytes;
    if (!bytes)
        bytes = bench_pick_bytes(info);
    bench->n_granules = (uint32_t)usk_min(usk_max(bytes / info->granule_bytes, 1), UINT32_MAX);
    bench->bytes = bench->n_granules * info->granule_bytes;
}

static int bench_run(struct bench *bench, struct unstick_error *error)
{
    int r = bench_link(bench, error);

    if (r == UNSTICK_OK)
        r = bench_load(bench, error);
    if (r == UNSTICK_OK)
        r = bench_move(bench, error);
    if (r == UNSTICK_OK)
        r = bench_vmm(bench, error);
    return r == UNSTICK_OK ? bench_beside(bench, error) : r;
}

static void bench_finish(const struct bench *bench, const struct unstick_device_info *info, bool is_shared,
                         uint64_t stall_ns)
{
    const struct usk_longest_step *longest = &bench->longest_step;
    double longest_ms = (double)longest->ns / (double)USK_NS_PER_MS;
    double stretch_ms = (double)longest->stretch_ns / (double)USK_NS_PER_MS;
    double stall_ms = (double)stall_ns / (double)USK_NS_PER_MS;

    if (is_shared) {
        if (!cli_has_failed())
            bench_share_print(bench, info);
        json_decref(bench->results);
        return;
    }
    if (!bench->results) {
        printf("\nlongest step: %.3f ms, in %s: %u calls, the longest %.3f ms (%s); a thread that only slept was "
               "late by up to %.3f ms\n",
               longest_ms, bench->longest_case ? bench->longest_case : "preparing", longest->n_calls, stretch_ms,
               longest->stretch ? longest->stretch : "none", stall_ms);
        return;
    }
    cli_json_print(json_pack("{s:{s:s, s:s, s:I, s:I}, s:I, s:I, s:f, s:{s:s?, s:i, s:s?, s:f}, s:f, s:o}",
                             "device", "name", info->name,
                             "kind", info->kind, "total_bytes", (json_int_t)info->total_bytes,
                             "granule_bytes", (json_int_t)info->granule_bytes, "bytes",
                             (json_int_t)bench->bytes, "runs", (json_int_t)bench->n_runs, "longest_step_ms",
                             longest_ms, "longest_step", "case", bench->longest_case, "calls", (int)longest->n_calls,
                             "longest_call", longest->stretch, "longest_call_ms", stretch_ms, "longest_stall_ms",
                             stall_ms, "results", bench->results));
}

static bool bench_check_names(const char *only)
{
    for (const char *p = only; p; p = strchr(p, ','), p = p ? p + 1 : NULL) {
        size_t length = strcspn(p, ","), i = 0;

        while (i < N_NAMES && (strlen(names[i]) != length || strncmp(p, names[i], length)))
            i++;
        if (i == N_NAMES) {
            cli_fail_usage("--only: there is no case '%.*s'; a run without --only lists them", (int)length,
                           p);
            return false;
        }
    }
    return true;
}

int cmd_bench(int argc, char **argv)
{
    struct bench bench = { .spec = "auto", .n_runs = 20 };
    struct unstick_device_info info = { .size = sizeof(info) };
    const char *folder = getenv("TMPDIR");
    uint64_t granule_bytes = 0, bytes = 0;
    bool is_shared = false;
    const struct cli_option table[] = {
        { "device", "DEVICE", "as for replay", CLI_TEXT, &bench.spec, NULL, 0, 0 },
        { "size", "SIZE",
          "what is moved, rounded down to granules; by default 4 GiB on a GPU and\n"
          "64 MiB on a host device, or less where memory is short",
          CLI_SIZE, &bytes, NULL, 1, 0 },
        { "granule", "SIZE", "unit of residency; 0: the device's default", CLI_SIZE, &granule_bytes, NULL, 0,
          0 },
        { "runs", "N", "runs per case and side, at least 20", CLI_COUNT, &bench.n_runs, NULL, 20, 100000 },
        { "only", "CASES", "names of cases with commas between, such as pin,hash", CLI_TEXT, &bench.only,
          NULL, 0, 0 },
        { "dir", "DIR", "where the file is made that is loaded; by default $TMPDIR or /tmp", CLI_TEXT,
          &folder, NULL, 0, 0 },
        { "share", NULL,
          "only a row for a table of cards, to be pasted: card, driver, what was\n"
          "measured, and nothing of the machine",
          CLI_FLAG, &is_shared, NULL, 0, 0 },
    };
    const struct cli_usage usage = {
        .verb = "bench",
        .about =
            "Measures link, pinning, load, evict, restore, switch and hash, each beside a reference that "
            "does the\n"
            "least a program must do to move the same bytes, run by run: a plain driver copy on one stream "
            "from\n"
            "the same kind of memory, with no mapping. On a host device the reference is allocation, mapping "
            "and\n"
            "memcpy on fresh pages, and memcpy, hash and hole punching. The ratio is that of the speeds.",
        .options = table,
        .n_options = sizeof(table) / sizeof(table[0]),
    };
    struct stall_watch stall;
    struct unstick_error error;
    int operand, exit_code, r;
    uint64_t stall_ns;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    if (bench.only && !bench_check_names(bench.only))
        return CLI_EXIT_USAGE;
    if (is_shared && cli_is_json())
        return cli_fail_usage("--share prints a row of a table; --json prints everything: give one of the two");
    if (is_shared && !bench.only)
        bench.only = bench_share_cases;
    bench.folder = folder && *folder ? folder : "/tmp";
    if (stall_watch_start(&stall, &error) < 0)
        return cli_fail(&error);
    r = bench_open(&bench, 0, granule_bytes, &info, &error);
    if (r == UNSTICK_OK) {
        char size[USK_SIZE_TEXT_MAX];

        bench_size(&bench, &info, bytes);
        if (cli_is_json() || is_shared) {
            bench.results = json_array();
        } else {
            printf("%s, %s, %" PRIu64 " runs\n\n", info.name, usk_size_format(size, bench.bytes),
                   bench.n_runs);
            cli_table_head(columns, N_COLUMNS);
        }
        r = bench_run(&bench, &error);
    }
    if (r < 0)
        cli_fail(&error);
    bench_close(&bench);
    stall_ns = stall_watch_stop(&stall);
    if (bench.bytes)
        bench_finish(&bench, &info, is_shared, stall_ns);
    return r < 0 ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}
