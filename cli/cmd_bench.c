/* SPDX-License-Identifier: Apache-2.0 */
/* `unstick bench`: its options, the cases one after the other, and what is said at the end. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "bench.h"
#include "cli.h"
#include "stall.h"

#define BENCH_HOST_BYTES (UINT64_C(64) << 20)
#define BENCH_GPU_BYTES (UINT64_C(4) << 30)

/* For --only; the cases themselves are where they are run. */
static const char *const names[] = {
    "link-up",         "link-down",   "pin",         "hash",
    "load-pinned",     "load-file",   "load-cold",   "restore-file",
    "evict-unchanged", "evict-first", "evict-dirty", "restore-pinned",
    "restore-at-once", "switch",      "take-apart",  "take-group",
    "take-half",       "take-unpinning", "beside-backup", "beside-evict",
};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

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
            bench_head_print();
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
