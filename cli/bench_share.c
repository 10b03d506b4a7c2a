/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick bench --share`: what was measured as a row of a table that many cards share. A row names the card, its
 * driver and its link, and nothing of the machine or its user, so that it can be pasted anywhere. Every cell is one
 * that was measured in this run; what was not is a dash, never a guess.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <unstick/version.h>

#include "base/size.h"
#include "bench.h"
#include "monitor/monitor.h"

struct share_cell {
    const char *head;
    const char *name; /* of the case */
    bool is_rate;     /* 10^9 bytes per second; else milliseconds */
};

static const struct share_cell cells[] = {
    { "link up, GB/s", "link-up", true },
    { "down, GB/s", "link-down", true },
    { "leave, ms", "evict-unchanged", false },
    { "leave the first time, ms", "evict-first", false },
    { "come back, ms", "restore-pinned", false },
    { "come back, GB/s", "restore-pinned", true },
    { "switch, ms", "switch", false },
};
#define N_CELLS (sizeof(cells) / sizeof(cells[0]))

const char bench_share_cases[] = "link-up,link-down,evict-unchanged,evict-first,restore-pinned,switch";

/* NULL where the case was skipped or did not run. */
static json_t *share_find(const struct bench *bench, const char *name)
{
    size_t i;
    json_t *result;

    json_array_foreach(bench->results, i, result)
    {
        if (!strcmp(json_string_value(json_object_get(result, "case")), name))
            return json_object_get(result, "ours");
    }
    return NULL;
}

static void share_print_cell(const struct bench *bench, const struct share_cell *cell)
{
    json_t *ours = share_find(bench, cell->name);

    if (!ours)
        printf(" - |");
    else if (cell->is_rate)
        printf(" %.1f |", json_number_value(json_object_get(ours, "gb_per_s")));
    else
        printf(" %.1f (%.1f) |", json_number_value(json_object_get(ours, "median_ms")),
               json_number_value(json_object_get(ours, "worst_ms")));
}

/* A bar in a name would be a cell of its own. */
static void share_print_text(const char *text)
{
    putchar(' ');
    for (const char *p = text; *p; p++)
        putchar(*p == '|' || (unsigned char)*p < ' ' ? '/' : *p);
    printf(" |");
}

static void share_driver(const struct bench *bench, char *version, size_t size)
{
    struct usk_nvml *nvml;

    snprintf(version, size, "-");
    if (bench->is_host || usk_nvml_open(NULL, &nvml, NULL) < 0)
        return;
    if (usk_nvml_driver_version(nvml, version, size, NULL) < 0)
        snprintf(version, size, "-");
    usk_nvml_close(nvml);
}

void bench_share_print(const struct bench *bench, const struct unstick_device_info *info)
{
    char size[USK_SIZE_TEXT_MAX], driver[96], day[16] = "-";
    time_t now = time(NULL);
    struct tm utc;

    share_driver(bench, driver, sizeof(driver));
    if (gmtime_r(&now, &utc))
        strftime(day, sizeof(day), "%Y-%m-%d", &utc);
    printf("| GPU | driver | size |");
    for (size_t i = 0; i < N_CELLS; i++)
        printf(" %s |", cells[i].head);
    printf(" runs | unstick | day |\n|---|---|---|");
    for (size_t i = 0; i < N_CELLS; i++)
        printf("---|");
    printf("---|---|---|\n|");
    share_print_text(info->name);
    share_print_text(driver);
    share_print_text(usk_size_format(size, bench->bytes));
    for (size_t i = 0; i < N_CELLS; i++)
        share_print_cell(bench, &cells[i]);
    printf(" %" PRIu64 " |", bench->n_runs);
    share_print_text(unstick_version());
    share_print_text(day);
    putchar('\n');
}
