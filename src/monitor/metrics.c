/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics as text. Each family is written once, with its HELP and TYPE lines before all of its samples, and only if it
 * has any. Values are whole bytes, counts, or seconds that are printed from whole nanoseconds: no floating point, whose
 * decimal point would follow the locale of the host program. The text is whole or absent, never cut.
 */
#include <string.h>

#include <unstick/metrics.h>
#include <unstick/status.h>
#include <unstick/version.h>

#include "base/text.h"

typedef unsigned long long ull;

static const struct {
    uint64_t ns;
    const char *seconds;
} metrics_bounds[] = {
    { 10000, "0.00001" },  { 50000, "0.00005" },   { 100000, "0.0001" },   { 500000, "0.0005" },  { 1000000, "0.001" },
    { 5000000, "0.005" },  { 10000000, "0.01" },   { 25000000, "0.025" },  { 50000000, "0.05" },  { 100000000, "0.1" },
    { 250000000, "0.25" }, { 500000000, "0.5" },   { 1000000000, "1" },    { 2500000000, "2.5" }, { 5000000000, "5" },
    { 10000000000, "10" }, { 20000000000, "20" },  { 30000000000, "30" },  { 60000000000, "60" },
};

#define METRICS_N_BOUNDS (sizeof(metrics_bounds) / sizeof(metrics_bounds[0]))

_Static_assert(METRICS_N_BOUNDS + 1 == UNSTICK_HISTOGRAM_BUCKETS, "one bucket has no bound");

void unstick_histogram_add(struct unstick_histogram *histogram, uint64_t ns)
{
    size_t bucket = 0;

    while (bucket < METRICS_N_BOUNDS && ns > metrics_bounds[bucket].ns)
        bucket++;
    histogram->counts[bucket]++;
    histogram->sum_ns += ns;
}

/* --- labels --- */

/* name="value", escaped as the format asks: backslash, quote and line feed. */
static void metrics_label(struct usk_text *text, const char *separator, const char *name, const char *value)
{
    const char *p = value ? value : "";

    usk_text_add(text, "%s%s=\"", separator, name);
    while (*p) {
        size_t length = usk_text_utf8_length(p);

        if (!length)
            usk_text_add(text, "\xef\xbf\xbd");
        else if (*p == '\n')
            usk_text_add(text, "\\n");
        else if (*p == '"' || *p == '\\')
            usk_text_add(text, "\\%c", *p);
        else
            usk_text_add(text, "%.*s", (int)length, p);
        p += length ? length : 1;
    }
    usk_text_add(text, "\"");
}

static void metrics_family(struct usk_text *text, const char *name, const char *type, const char *help)
{
    usk_text_add(text, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* --- gauges --- */

struct metrics_kind {
    const char *name;
    unsigned int source;
    uint64_t bytes;
};

static void metrics_write_device(struct usk_text *text, const struct unstick_metrics_device *device)
{
    const struct unstick_reading *reading = device->reading;
    const struct metrics_kind kinds[] = {
        { "total", UNSTICK_SOURCE_DRIVER, reading->total_bytes },
        { "free", UNSTICK_SOURCE_DRIVER, reading->free_bytes },
        { "resident", UNSTICK_SOURCE_ACCOUNTS, reading->resident_bytes },
        { "sentinel", UNSTICK_SOURCE_ACCOUNTS, reading->sentinel_bytes },
        { "spare", UNSTICK_SOURCE_ACCOUNTS, reading->spare_bytes },
        { "poisoned", UNSTICK_SOURCE_ACCOUNTS, reading->poisoned_bytes },
        { "torch_allocated", UNSTICK_SOURCE_TORCH, reading->torch_allocated_bytes },
        { "torch_active", UNSTICK_SOURCE_TORCH, reading->torch_active_bytes },
        { "torch_inactive_split", UNSTICK_SOURCE_TORCH, reading->torch_inactive_split_bytes },
        { "torch_reserved", UNSTICK_SOURCE_TORCH, reading->torch_reserved_bytes },
        { "context", UNSTICK_SOURCE_CONTEXT, reading->context_bytes },
        { "own_process", UNSTICK_SOURCE_PROCESSES, reading->own_process_bytes },
    };

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (!(reading->sources & kinds[i].source))
            continue;
        usk_text_add(text, "unstick_device_bytes");
        metrics_label(text, "{", "device", device->name);
        usk_text_add(text, ",kind=\"%s\"} %llu\n", kinds[i].name, (ull)kinds[i].bytes);
    }
}

static void metrics_write_devices(struct usk_text *text, const struct unstick_metrics *metrics)
{
    bool has_any = false, has_processes = false;

    for (size_t i = 0; i < metrics->n_devices; i++) {
        const struct unstick_reading *reading = metrics->devices[i].reading;

        has_any |= reading->sources != 0;
        has_processes |= (reading->sources & UNSTICK_SOURCE_PROCESSES) && reading->n_processes;
    }
    if (has_any)
        metrics_family(text, "unstick_device_bytes", "gauge", "Memory of a device by who holds it.");
    for (size_t i = 0; i < metrics->n_devices; i++)
        metrics_write_device(text, &metrics->devices[i]);
    if (has_processes)
        metrics_family(text, "unstick_device_process_bytes", "gauge",
                       "Memory of a device that another process holds; processes of unknown use are left out.");
    for (size_t i = 0; i < metrics->n_devices; i++) {
        const struct unstick_reading *reading = metrics->devices[i].reading;

        for (size_t k = 0; (reading->sources & UNSTICK_SOURCE_PROCESSES) && k < reading->n_processes; k++) {
            const struct unstick_process *process = &reading->processes[k];
            char name[sizeof(process->name) + 1] = "";

            if (!process->bytes)
                continue;
            memcpy(name, process->name, sizeof(process->name));
            usk_text_add(text, "unstick_device_process_bytes");
            metrics_label(text, "{", "device", metrics->devices[i].name);
            usk_text_add(text, ",pid=\"%d\"", process->pid);
            metrics_label(text, ",", "process", name);
            usk_text_add(text, "} %llu\n", (ull)process->bytes);
        }
    }
}

static void metrics_write_models(struct usk_text *text, const struct unstick_metrics *metrics)
{
    if (metrics->n_models)
        metrics_family(text, "unstick_model_bytes", "gauge", "Bytes of a model's component by where they are.");
    for (size_t i = 0; i < metrics->n_models; i++) {
        const struct unstick_metrics_model *model = &metrics->models[i];

        usk_text_add(text, "unstick_model_bytes");
        metrics_label(text, "{", "model", model->model);
        metrics_label(text, ",", "component", model->component);
        metrics_label(text, ",", "tier", model->tier);
        usk_text_add(text, "} %llu\n", (ull)model->bytes);
    }
}

static void metrics_write_kinds(struct usk_text *text, const char *name, const char *help,
                                const struct metrics_kind *kinds, size_t n_kinds)
{
    metrics_family(text, name, "gauge", help);
    for (size_t i = 0; i < n_kinds; i++)
        usk_text_add(text, "%s{kind=\"%s\"} %llu\n", name, kinds[i].name, (ull)kinds[i].bytes);
}

static void metrics_write_host(struct usk_text *text, const struct unstick_context_info *host)
{
    const struct metrics_kind kinds[] = {
        { "limit", 0, host->host_limit_bytes },       { "pinned", 0, host->host_pinned_bytes },
        { "pageable", 0, host->host_pageable_bytes }, { "file", 0, host->host_file_bytes },
        { "ring", 0, host->host_ring_bytes },
    };

    metrics_write_kinds(text, "unstick_host_bytes", "Host memory that holds backups, by kind, and their limit.", kinds,
                        sizeof(kinds) / sizeof(kinds[0]));
}

static void metrics_write_system(struct usk_text *text, const struct unstick_system_reading *system)
{
    const struct metrics_kind memory[] = {
        { "total", 0, system->total_bytes },
        { "available", 0, system->available_bytes },
        { "process", 0, system->process_bytes },
    };
    const struct metrics_kind cgroup[] = {
        { "limit", 0, system->cgroup_limit_bytes },
        { "used", 0, system->cgroup_used_bytes },
    };

    metrics_write_kinds(text, "unstick_system_memory_bytes", "Memory of the machine, and of this process in it.",
                        memory, sizeof(memory) / sizeof(memory[0]));
    if (system->cgroup_limit_bytes)
        metrics_write_kinds(text, "unstick_cgroup_memory_bytes", "The tightest memory limit of this process's cgroups.",
                            cgroup, sizeof(cgroup) / sizeof(cgroup[0]));
}

/* --- counters and histograms --- */

static void metrics_write_counts(struct usk_text *text, const struct unstick_metrics_counts *counts)
{
    const struct {
        const char *name, *help;
        uint64_t value;
    } families[] = {
        { "unstick_hits_total", "Requests for a model that was resident.", counts->n_hits },
        { "unstick_loads_total", "Models loaded from their files.", counts->n_loads },
        { "unstick_evictions_total", "Evictions, whole or in part.", counts->n_evictions },
        { "unstick_restores_total", "Restores of evicted models.", counts->n_restores },
        { "unstick_failures_total", "Requests that failed.", counts->n_failures },
        { "unstick_stray_writes_total", "Writes found in the memory under evicted models.", counts->n_stray_writes },
        { "unstick_reclaimed_bytes_total", "Bytes that steps of reclaim gave back.", counts->reclaimed_bytes },
    };

    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        metrics_family(text, families[i].name, "counter", families[i].help);
        usk_text_add(text, "%s %llu\n", families[i].name, (ull)families[i].value);
    }
    metrics_family(text, "unstick_copied_bytes_total", "counter", "Bytes copied to (up) and from (down) devices.");
    usk_text_add(text, "unstick_copied_bytes_total{direction=\"up\"} %llu\n", (ull)counts->up_bytes);
    usk_text_add(text, "unstick_copied_bytes_total{direction=\"down\"} %llu\n", (ull)counts->down_bytes);
}

static void metrics_write_timing(struct usk_text *text, enum unstick_timing timing,
                                 const struct unstick_histogram *histogram)
{
    static const struct {
        const char *name, *help;
    } families[UNSTICK_N_TIMINGS] = {
        [UNSTICK_TIMING_LOAD] = { "unstick_load_seconds", "How long loading a model from its files took." },
        [UNSTICK_TIMING_EVICT] = { "unstick_evict_seconds", "How long evictions took." },
        [UNSTICK_TIMING_RESTORE] = { "unstick_restore_seconds", "How long restores took." },
        [UNSTICK_TIMING_RECLAIM] = { "unstick_reclaim_seconds", "How long reclaim took, waits included." },
        [UNSTICK_TIMING_DECIDE] = { "unstick_decide_seconds", "How long a complete check took." },
    };
    const char *name = families[timing].name;
    uint64_t n = 0;

    metrics_family(text, name, "histogram", families[timing].help);
    for (size_t i = 0; i < UNSTICK_HISTOGRAM_BUCKETS; i++) {
        n += histogram->counts[i];
        usk_text_add(text, "%s_bucket{le=\"%s\"} %llu\n", name,
                     i < METRICS_N_BOUNDS ? metrics_bounds[i].seconds : "+Inf", (ull)n);
    }
    usk_text_add(text, "%s_sum %llu.%09llu\n%s_count %llu\n", name, (ull)(histogram->sum_ns / 1000000000),
                 (ull)(histogram->sum_ns % 1000000000), name, (ull)n);
}

static bool metrics_is_valid(const struct unstick_metrics *metrics)
{
    if (!metrics || metrics->size < sizeof(*metrics) || (metrics->n_devices && !metrics->devices) ||
        (metrics->n_models && !metrics->models))
        return false;
    for (size_t i = 0; i < metrics->n_devices; i++) {
        const struct unstick_reading *reading = metrics->devices[i].reading;

        if (!reading || reading->size < sizeof(*reading) || (reading->n_processes && !reading->processes))
            return false;
    }
    return (!metrics->host || metrics->host->size >= sizeof(*metrics->host)) &&
           (!metrics->system || metrics->system->size >= sizeof(*metrics->system));
}

int unstick_metrics_write(const struct unstick_metrics *metrics, char *buffer, size_t buffer_bytes, size_t *ret_length)
{
    char nothing[1];
    struct usk_text text;

    if (!metrics_is_valid(metrics) || !ret_length || (buffer_bytes && !buffer))
        return UNSTICK_INVALID_ARGUMENT;
    usk_text_init(&text, buffer_bytes ? buffer : nothing, buffer_bytes ? buffer_bytes : 1);
    metrics_family(&text, "unstick_build_info", "gauge", "The version of the library.");
    usk_text_add(&text, "unstick_build_info{version=\"%s\"} 1\n", unstick_version());
    metrics_write_devices(&text, metrics);
    metrics_write_models(&text, metrics);
    if (metrics->host)
        metrics_write_host(&text, metrics->host);
    if (metrics->system)
        metrics_write_system(&text, metrics->system);
    if (metrics->counts)
        metrics_write_counts(&text, metrics->counts);
    for (unsigned int i = 0; i < UNSTICK_N_TIMINGS; i++) {
        if (metrics->timings[i])
            metrics_write_timing(&text, (enum unstick_timing)i, metrics->timings[i]);
    }
    if (usk_text_is_cut(&text) && buffer_bytes)
        buffer[0] = 0;
    *ret_length = text.length;
    return UNSTICK_OK;
}
