/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report of a session. What was done before a failure is reported too: the object of --json has the
 * requests so far, and "error" instead of "summary".
 */
#include "report.h"

#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "cli.h"

#define REPORT_N_COLUMNS 8

struct reporter {
    const struct session_options *options;
    const struct workload *workload;
    struct session *session;
    struct cli_column columns[REPORT_N_COLUMNS];
    json_t *requests; /* NULL: a table is printed */
};

static double report_gb_per_s(const struct session_report *report)
{
    double ms = report->action == SESSION_LOAD ? report->load_ms : report->restore_ms;

    return ms > 0 ? (double)report->bytes / ms / 1e6 : 0;
}

static void table_init(struct reporter *reporter)
{
    size_t width = strlen("request");

    for (size_t i = 0; i < reporter->workload->n_models; i++) {
        if (strlen(reporter->workload->models[i].key) > width)
            width = strlen(reporter->workload->models[i].key);
    }
    memcpy(reporter->columns,
           (struct cli_column[REPORT_N_COLUMNS]){
               { "request", -(int)(width < 40 ? width : 40) },
               { "action", -7 },
               { "moved", 10 },
               { "time", 10 },
               { "GB/s", 6 },
               { "evicted", 10 },
               { "copied", 10 },
               { reporter->options->is_verifying ? "verified" : "", 0 },
           },
           sizeof(reporter->columns));
    cli_table_head(reporter->columns, REPORT_N_COLUMNS);
}

static void table_add(struct reporter *reporter, const struct session_report *report)
{
    char moved[USK_SIZE_TEXT_MAX], evicted[USK_SIZE_TEXT_MAX], copied[USK_SIZE_TEXT_MAX], time[32], speed[32];
    uint64_t evicted_bytes = 0, copied_bytes = 0;

    for (size_t i = 0; i < report->n_evicted; i++) {
        evicted_bytes += report->evicted[i].bytes;
        copied_bytes += report->evicted[i].copied_bytes;
    }
    snprintf(time, sizeof(time), "%.1f ms", report->total_ms);
    snprintf(speed, sizeof(speed), "%.2f", report_gb_per_s(report));
    cli_table_row(reporter->columns, REPORT_N_COLUMNS,
                  (const char *[REPORT_N_COLUMNS]){
                      reporter->workload->models[report->model].key,
                      session_action_name(report->action),
                      usk_size_format(moved, report->bytes),
                      time,
                      report->action == SESSION_HIT ? "-" : speed,
                      usk_size_format(evicted, evicted_bytes),
                      usk_size_format(copied, copied_bytes),
                      !reporter->options->is_verifying ? ""
                      : report->is_verified            ? "yes"
                                                       : "NO",
                  });
}

static void table_finish(const struct reporter *reporter, const struct session_summary *summary)
{
    char delta[USK_SIZE_TEXT_MAX], residual[USK_SIZE_TEXT_MAX], sentinel[USK_SIZE_TEXT_MAX];
    uint64_t delta_bytes = (uint64_t)(summary->device_delta_bytes < 0 ? -summary->device_delta_bytes
                                                                      : summary->device_delta_bytes);

    printf("\nloads: %llu, restores: %llu, hits: %llu, evictions: %llu; backup: %s",
           (unsigned long long)summary->n_loads, (unsigned long long)summary->n_restores,
           (unsigned long long)summary->n_hits, (unsigned long long)summary->n_evictions,
           summary->backup_tier);
    if (summary->reload_over_restore > 0)
        printf("; a byte from the files takes %.2f times as long as one restored",
               summary->reload_over_restore);
    printf("\n");
    if (reporter->options->is_verifying)
        printf("verified: %s\n", summary->is_verified ? "every tensor after every request" : "NO");
    printf("device against the start: %s%s (sentinel: %s)\n", summary->device_delta_bytes < 0 ? "-" : "",
           usk_size_format(delta, delta_bytes), usk_size_format(sentinel, summary->sentinel_bytes));
    printf("residual: %s\n", usk_size_format(residual, summary->residual_bytes));
}

static json_t *report_bytes(uint64_t bytes)
{
    return json_integer((json_int_t)bytes);
}

static json_t *json_from_request(const struct reporter *reporter, const struct session_report *report)
{
    json_t *evicted = json_array();

    for (size_t i = 0; i < report->n_evicted; i++) {
        const struct session_eviction *eviction = &report->evicted[i];

        json_array_append_new(evicted, json_pack("{s:s, s:o, s:f, s:o}", "key",
                                                 reporter->workload->models[eviction->model].key, "bytes",
                                                 report_bytes(eviction->bytes), "ms", eviction->ms,
                                                 "copied_bytes", report_bytes(eviction->copied_bytes)));
    }
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:f, s:f, s:f, s:f, s:o, s:o, s:o, s:o}", "key",
        reporter->workload->models[report->model].key, "action", session_action_name(report->action),
        "evicted", evicted, "bytes", report_bytes(report->bytes), "load_ms", report->load_ms, "restore_ms",
        report->restore_ms, "evict_ms", report->evict_ms, "total_ms", report->total_ms, "gb_per_s",
        report->action == SESSION_HIT ? json_null() : json_real(report_gb_per_s(report)), "used_after_bytes",
        report_bytes(report->used_after_bytes), "device_used_after_bytes",
        report_bytes(report->device_used_after_bytes), "verified",
        reporter->options->is_verifying ? json_boolean(report->is_verified) : json_null());
}

static json_t *json_from_device(const struct unstick_device_info *info)
{
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", info->name, "kind", info->kind, "total_bytes",
                     report_bytes(info->total_bytes), "limit_bytes", report_bytes(info->limit_bytes),
                     "used_at_start_bytes", report_bytes(info->used_bytes));
}

static json_t *json_from_summary(const struct reporter *reporter, const struct session_summary *summary)
{
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:I, s:o, s:s, s:o, s:o}", "loads", report_bytes(summary->n_loads),
        "restores", report_bytes(summary->n_restores), "hits", report_bytes(summary->n_hits), "evictions",
        report_bytes(summary->n_evictions), "residual_bytes", report_bytes(summary->residual_bytes),
        "device_delta_bytes", (json_int_t)summary->device_delta_bytes, "sentinel_bytes",
        report_bytes(summary->sentinel_bytes), "backup_tier", summary->backup_tier, "verified",
        reporter->options->is_verifying ? json_boolean(summary->is_verified) : json_null(),
        "reload_over_restore",
        summary->reload_over_restore > 0 ? json_real(summary->reload_over_restore) : json_null());
}

/* Runs the requests; what was done is in the table or in reporter->requests even on failure. */
static int report_requests(struct reporter *reporter, struct unstick_error *error)
{
    struct session_report report;
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < reporter->workload->n_requests; i++) {
        r = session_request(reporter->session, i, &report, error);
        if (r < 0 && r != UNSTICK_MISMATCH)
            break;
        if (reporter->requests)
            json_array_append_new(reporter->requests, json_from_request(reporter, &report));
        else
            table_add(reporter, &report);
        /* Nobody reads on: main says why it failed. */
        if (ferror(stdout))
            break;
    }
    return r;
}

int report_run(const struct session_options *options, const struct workload *workload)
{
    struct reporter reporter = { .options = options, .workload = workload };
    struct session_summary summary;
    struct unstick_error error;
    json_t *root = NULL;
    int r, finished;

    r = session_open(options, workload, &reporter.session, &error);
    if (r < 0)
        return cli_fail(&error);
    if (cli_is_json()) {
        reporter.requests = json_array();
        root = json_pack("{s:o, s:O}", "device", json_from_device(session_device(reporter.session)),
                         "requests", reporter.requests);
    } else {
        table_init(&reporter);
    }
    r = report_requests(&reporter, &error);
    if (r < 0)
        cli_fail(&error);
    finished = session_finish(reporter.session, &summary, &error);
    if (finished < 0)
        cli_fail(&error);
    /* The device goes before the last word is printed: a failure to end it cannot follow a good report. */
    session_close(reporter.session);
    if (finished == UNSTICK_OK && summary.residual_bytes)
        cli_fail_text(UNSTICK_POISONED, "%llu bytes are left on the device after everything was released",
                      (unsigned long long)summary.residual_bytes);
    if (root) {
        if (finished == UNSTICK_OK)
            json_object_set_new(root, "summary", json_from_summary(&reporter, &summary));
        json_decref(reporter.requests);
        cli_json_print(root);
    } else if (finished == UNSTICK_OK) {
        table_finish(&reporter, &summary);
    }
    return cli_has_failed() ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}
