/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request is one decision (switch.c) and then one batch of tasks: evictions that keep their physical
 * memory, and loads or restores that name them as sources, all submitted at once and stepped together, so
 * that memory is handed over while both directions of the link are busy. Between requests no task exists;
 * what the session knows about residency it asks the regions for, so that nothing can get out of step after a
 * failure or an interruption.
 */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/context.h>
#include <unstick/model.h>
#include <unstick/region.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "batch.h"
#include "cli.h"
#include "device/host/host.h"
#include "holders.h"
#include "region/device.h"
#include "switch.h"
#include "verify.h"

/* How long the end of a session waits for what ends in the background. */
#define SESSION_STORE_MS 10000

struct session_model {
    struct unstick_model *model;
    const struct unstick_component *components;
    size_t n_components;
    struct unstick_region **regions;      /* one per component; NULL: no bytes, or not made yet */
    struct switch_region *switch_regions; /* what the decision sees of them */
    uint64_t last_used;
};

struct session {
    struct session_options options;
    const struct workload *workload;
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct unstick_device_info start;
    struct session_model *models;
    struct switch_model *switch_models;
    struct switch_step *steps;
    struct unstick_task **tasks; /* first evictions, then arrivals */
    struct session_eviction *evictions;
    size_t n_regions; /* of all models */
    uint64_t n_requests;
    unsigned int tiers; /* a bit per tier that held a backup */
    uint64_t load_bytes, restore_bytes;
    double load_s, restore_s;
    struct session_summary summary; /* what is counted on the way */
};

static int session_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                         "out of host memory for the models' tables");
}

const char *session_action_name(enum session_action action)
{
    static const char *const names[] = { "load", "hit", "restore" };

    return names[action];
}

const struct unstick_device_info *session_device(const struct session *session)
{
    return &session->start;
}

static int session_info(const struct session *session, struct unstick_device_info *ret_info,
                        struct unstick_error *error)
{
    *ret_info = (struct unstick_device_info){ .size = sizeof(*ret_info) };
    return unstick_device_info(session->dev, ret_info, error);
}

static uint64_t info_held_bytes(const struct unstick_device_info *info)
{
    return info->resident_bytes + info->sentinel_bytes + info->spare_bytes + info->poisoned_bytes;
}

/* --- opening and closing --- */

static int session_open_model(struct session *session, size_t index, struct unstick_error *error)
{
    struct session_model *model = &session->models[index];
    struct switch_model *seen = &session->switch_models[index];
    uint64_t granularity = session->dev->driver->caps.granularity_bytes;
    int r;

    r = unstick_model_open(session->workload->models[index].path, &model->model, error);
    if (r < 0)
        return r;
    model->n_components = unstick_model_components(model->model, &model->components);
    model->regions = calloc(usk_max(model->n_components, 1), sizeof(*model->regions));
    model->switch_regions = calloc(usk_max(model->n_components, 1), sizeof(*model->switch_regions));
    if (!model->regions || !model->switch_regions)
        return session_no_memory(error);
    for (size_t i = 0; i < model->n_components; i++) {
        if (!usk_align_up(model->components[i].layout.bytes, granularity,
                          &model->switch_regions[i].total_bytes))
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "session",
                                 "%s: %s is too large for any device", session->workload->models[index].path,
                                 model->components[i].name);
    }
    seen->regions = model->switch_regions;
    seen->n_regions = model->n_components;
    session->n_regions += model->n_components;
    return UNSTICK_OK;
}

static int session_open_models(struct session *session, struct unstick_error *error)
{
    size_t n = usk_max(session->workload->n_models, 1), n_regions;
    int r = UNSTICK_OK;

    session->models = calloc(n, sizeof(*session->models));
    session->switch_models = calloc(n, sizeof(*session->switch_models));
    session->evictions = calloc(n, sizeof(*session->evictions));
    if (!session->models || !session->switch_models || !session->evictions)
        return session_no_memory(error);
    for (size_t i = 0; r == UNSTICK_OK && i < session->workload->n_models; i++)
        r = session_open_model(session, i, error);
    if (r < 0)
        return r;
    n_regions = usk_max(session->n_regions, 1);
    session->steps = calloc(n_regions, sizeof(*session->steps));
    /* A region is on one side of a request only: it leaves, or it arrives. */
    session->tasks = calloc(n_regions, sizeof(struct unstick_task *));
    return session->steps && session->tasks ? UNSTICK_OK : session_no_memory(error);
}

int session_open(const struct session_options *options, const struct workload *workload,
                 struct session **ret_session, struct unstick_error *error)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options),
                                                       .host_bytes = options->host_bytes };
    struct unstick_device_options device_options = { .size = sizeof(device_options),
                                                     .limit_bytes = options->limit_bytes,
                                                     .granule_bytes = options->granule_bytes };
    struct session *session = calloc(1, sizeof(*session));
    int r;

    if (!session)
        return session_no_memory(error);
    session->options = *options;
    session->workload = workload;
    session->summary.is_verified = options->is_verifying;
    r = unstick_context_new(&context_options, &session->ctx, error);
    if (r == UNSTICK_OK)
        r = unstick_device_open(session->ctx, options->device, &device_options, &session->dev, error);
    if (r == UNSTICK_OK)
        r = session_info(session, &session->start, error);
    if (r == UNSTICK_OK)
        r = session_open_models(session, error);
    if (r < 0) {
        session_close(session);
        return r;
    }
    *ret_session = session;
    return UNSTICK_OK;
}

struct session *session_close(struct session *session)
{
    if (!session)
        return NULL;
    for (size_t i = 0; session->models && i < session->workload->n_models; i++) {
        struct session_model *model = &session->models[i];

        for (size_t k = 0; model->regions && k < model->n_components; k++)
            unstick_region_unref(model->regions[k]);
        free(model->regions);
        free(model->switch_regions);
        unstick_model_close(model->model);
    }
    /* The context closes what is left, the device included if it would not close by itself. */
    unstick_device_close(session->dev, NULL);
    unstick_context_free(session->ctx);
    free(session->tasks);
    free(session->steps);
    free(session->evictions);
    free(session->switch_models);
    free(session->models);
    free(session);
    return NULL;
}

/* --- the decision --- */

/* Asks the regions what is where. */
static void session_look(struct session *session)
{
    for (size_t i = 0; i < session->workload->n_models; i++) {
        struct session_model *model = &session->models[i];

        session->switch_models[i].last_used = model->last_used;
        for (size_t k = 0; k < model->n_components; k++) {
            struct unstick_region_info info = { .size = sizeof(info) };

            if (model->regions[k])
                unstick_region_info(model->regions[k], &info);
            model->switch_regions[k].resident_bytes = usk_min(info.resident_bytes,
                                                              model->switch_regions[k].total_bytes);
            session->tiers |= info.pinned_bytes ? 1u << UNSTICK_TIER_PINNED : 0;
            session->tiers |= info.pageable_bytes ? 1u << UNSTICK_TIER_PAGEABLE : 0;
            session->tiers |= info.file_bytes ? 1u << UNSTICK_TIER_FILE : 0;
        }
    }
}

static int session_decide(struct session *session, size_t wanted, struct switch_plan *ret_plan,
                          struct unstick_error *error)
{
    const char *key = session->workload->models[wanted].key;
    char required[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX], limit[USK_SIZE_TEXT_MAX];
    uint64_t held, room, capacity;
    struct unstick_device_info info;
    int r;

    r = session_info(session, &info, error);
    if (r < 0)
        return r;
    held = info_held_bytes(&info);
    room = usk_min(info.limit_bytes - usk_min(info.limit_bytes, held),
                   info.total_bytes - usk_min(info.total_bytes, info.used_bytes));
    capacity = info.limit_bytes - usk_min(info.limit_bytes, info.sentinel_bytes + info.poisoned_bytes);
    session_look(session);
    switch_decide(session->switch_models, session->workload->n_models, wanted, room, capacity, session->steps,
                  ret_plan);

    usk_size_format(required, ret_plan->required_bytes);
    usk_size_format(available, ret_plan->available_bytes);
    usk_size_format(limit, info.limit_bytes);
    if (ret_plan->verdict == SWITCH_TOO_LARGE)
        r = usk_error_set(
            error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "replay",
            "%s needs %s (%llu bytes) and can have %s (%llu bytes) of %s, even with the device empty; "
            "use a smaller quantization or a larger device or limit (--device, --device-memory)",
            key, required, (unsigned long long)ret_plan->required_bytes, available,
            (unsigned long long)ret_plan->available_bytes, limit);
    else if (ret_plan->verdict == SWITCH_TAKEN)
        r = usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "replay",
                          "%s needs %s and only %s can be had, with all other models evicted", key, required,
                          available);
    if (r < 0)
        usk_error_shortage(error, ret_plan->required_bytes, ret_plan->available_bytes);
    return ret_plan->verdict == SWITCH_TAKEN ? holders_explain(&session->start, error) : r;
}

/* --- a request --- */

/* Makes the regions of a model, at its first request. */
static int session_make_regions(struct session *session, struct session_model *model,
                                struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < model->n_components; i++) {
        const struct unstick_component *component = &model->components[i];

        if (!model->regions[i] && component->layout.bytes)
            r = unstick_region_new(session->dev, component->name, component->layout.bytes, NULL,
                                   &model->regions[i], error);
    }
    return r;
}

/* Reads the files of what will be loaded, so that loads are measured with a warm page cache. */
static int session_warm(struct session_model *model, const char *key, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < model->n_components; i++) {
        struct unstick_region_info info = { .size = sizeof(info) };

        if (!model->regions[i])
            continue;
        unstick_region_info(model->regions[i], &info);
        if (info.state == UNSTICK_REGION_EMPTY) {
            cli_progress("%s: reading %s", key, model->components[i].name);
            r = verify_warm(&model->components[i], error);
        }
    }
    return r;
}

static int session_submit_evictions(struct session *session, const struct switch_plan *plan, size_t *n_tasks,
                                    struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < plan->n_steps; i++) {
        const struct switch_step *step = &plan->steps[i];
        struct unstick_task_options options = { .size = sizeof(options),
                                                .flags = UNSTICK_TASK_HAND_OVER,
                                                .tier = session->options.tier,
                                                .max_bytes = step->bytes };

        r = unstick_region_evict(session->models[step->model].regions[step->region], &options,
                                 &session->tasks[*n_tasks], error);
        *n_tasks += r == UNSTICK_OK;
    }
    return r;
}

/* Submits a load or restore for every region of the model that is not resident. */
static int session_submit_arrivals(struct session *session, struct session_model *model, size_t n_evictions,
                                   size_t *n_tasks, enum session_action *action, struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options),
                                            .tier = session->options.tier,
                                            .sources = session->tasks,
                                            .n_sources = n_evictions };
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < model->n_components; i++) {
        struct unstick_region_info info = { .size = sizeof(info) };
        struct unstick_task **task = &session->tasks[*n_tasks];

        if (!model->regions[i])
            continue;
        unstick_region_info(model->regions[i], &info);
        if (info.state == UNSTICK_REGION_RESIDENT)
            continue;
        if (info.state == UNSTICK_REGION_EMPTY) {
            *action = SESSION_LOAD;
            r = unstick_region_load(model->regions[i], &model->components[i].layout, &options, task, error);
        } else {
            if (*action == SESSION_HIT)
                *action = SESSION_RESTORE;
            r = unstick_region_restore(model->regions[i], &options, task, error);
        }
        *n_tasks += r == UNSTICK_OK;
    }
    return r;
}

/* From the first start to the last end of some tasks. */
struct span {
    uint64_t started_ns, ended_ns;
};

static void span_add(struct span *span, const struct unstick_task_result *result)
{
    if (!span->ended_ns || result->started_ns < span->started_ns)
        span->started_ns = result->started_ns;
    span->ended_ns = usk_max(span->ended_ns, result->ended_ns);
}

static double span_ms(const struct span *span)
{
    return (double)(span->ended_ns - span->started_ns) / (double)USK_NS_PER_MS;
}

/* Sums up what the evictions of a plan did, per model; one model's steps are neighbours. */
static void session_report_evictions(struct session *session, const struct switch_plan *plan,
                                     struct session_report *report)
{
    struct span all = { 0 }, one = { 0 };

    for (size_t i = 0; i < plan->n_steps; i++) {
        struct unstick_task_result result = { .size = sizeof(result) };
        struct session_eviction *eviction;

        unstick_task_result(session->tasks[i], &result);
        if (!i || plan->steps[i - 1].model != plan->steps[i].model) {
            session->evictions[report->n_evicted++] = (struct session_eviction){
                .model = plan->steps[i].model
            };
            one = (struct span){ 0 };
        }
        eviction = &session->evictions[report->n_evicted - 1];
        span_add(&one, &result);
        span_add(&all, &result);
        eviction->bytes += result.done_bytes;
        eviction->copied_bytes += result.copied_bytes;
        eviction->ms = span_ms(&one);
    }
    report->evicted = session->evictions;
    report->evict_ms = span_ms(&all);
}

static void session_report_arrivals(struct session *session, size_t first, size_t n_tasks,
                                    struct session_report *report)
{
    struct span span = { 0 };

    for (size_t i = first; i < n_tasks; i++) {
        struct unstick_task_result result = { .size = sizeof(result) };

        unstick_task_result(session->tasks[i], &result);
        span_add(&span, &result);
        report->bytes += result.done_bytes;
    }
    if (report->action == SESSION_LOAD) {
        report->load_ms = span_ms(&span);
        session->load_bytes += report->bytes;
        session->load_s += report->load_ms / 1000;
    } else if (report->action == SESSION_RESTORE) {
        report->restore_ms = span_ms(&span);
        session->restore_bytes += report->bytes;
        session->restore_s += report->restore_ms / 1000;
    }
}

static void session_count(struct session *session, const struct session_report *report)
{
    struct session_summary *summary = &session->summary;

    summary->n_loads += report->action == SESSION_LOAD;
    summary->n_restores += report->action == SESSION_RESTORE;
    summary->n_hits += report->action == SESSION_HIT;
    summary->n_evictions += report->n_evicted;
    summary->is_verified = summary->is_verified && report->is_verified;
}

static int session_verify(struct session_model *model, const char *key, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < model->n_components; i++) {
        if (!model->regions[i])
            continue;
        cli_progress("%s: verifying %s", key, model->components[i].name);
        r = verify_component(key, &model->components[i], model->regions[i], error);
    }
    return r;
}

/* The timed part: from the decision to the end of the last task. */
static int session_switch(struct session *session, size_t wanted, struct session_report *report,
                          struct unstick_error *error)
{
    struct batch batch = { .ctx = session->ctx, .tasks = session->tasks };
    uint64_t started_ns = usk_clock_now_ns();
    struct switch_plan plan;
    int r;

    r = session_decide(session, wanted, &plan, error);
    if (r < 0)
        return r;
    r = session_submit_evictions(session, &plan, &batch.n_tasks, error);
    if (r == UNSTICK_OK)
        r = session_submit_arrivals(session, &session->models[wanted], plan.n_steps, &batch.n_tasks,
                                    &report->action, error);
    if (r < 0) {
        struct unstick_error ignored;

        batch_cancel(&batch);
        batch_wait(&batch, "stopping", &ignored);
    } else {
        r = batch_wait(&batch, session->workload->models[wanted].key, error);
        report->total_ms = (double)(usk_clock_now_ns() - started_ns) / (double)USK_NS_PER_MS;
    }
    if (r == UNSTICK_OK) {
        session_report_evictions(session, &plan, report);
        session_report_arrivals(session, plan.n_steps, batch.n_tasks, report);
    } else if (r == UNSTICK_OUT_OF_DEVICE_MEMORY) {
        holders_explain(&session->start, error);
    }
    batch_clear(&batch);
    return r;
}

int session_request(struct session *session, size_t index, struct session_report *ret_report,
                    struct unstick_error *error)
{
    size_t wanted = session->workload->requests[index];
    struct session_model *model = &session->models[wanted];
    const char *key = session->workload->models[wanted].key;
    struct session_report report = { .model = wanted, .action = SESSION_HIT };
    struct unstick_device_info info;
    int r;

    if (cli_is_interrupted())
        return cli_error_interrupted(error);
    model->last_used = ++session->n_requests;
    r = session_make_regions(session, model, error);
    if (r == UNSTICK_OK)
        r = session_warm(model, key, error);
    if (r == UNSTICK_OK)
        r = session_switch(session, wanted, &report, error);
    if (r == UNSTICK_OK)
        r = session_info(session, &info, error);
    if (r < 0)
        return r;
    report.used_after_bytes = info_held_bytes(&info);
    report.device_used_after_bytes = info.used_bytes;
    session_look(session);
    if (session->options.is_verifying) {
        r = session_verify(model, key, error);
        report.is_verified = r == UNSTICK_OK;
        if (r < 0 && r != UNSTICK_MISMATCH)
            return r;
    }
    session_count(session, &report);
    *ret_report = report;
    return r;
}

/* --- the end --- */

/* Not a batch: a signal has no say in it. */
/* Registrations of host memory end in the background, and the driver has tables for them on the device. */
static void session_wait_for_store(struct session *session)
{
    struct unstick_context_info info = { .size = sizeof(info) };

    for (unsigned int i = 0; i < SESSION_STORE_MS; i++) {
        if (unstick_context_info(session->ctx, &info) < 0 ||
            !(info.host_pinned_bytes || info.host_pageable_bytes || info.host_file_bytes))
            return;
        unstick_context_step(session->ctx, 0);
        usk_os_pause_us(1000);
    }
}

static int session_release(struct session *session, struct unstick_error *error)
{
    int r = UNSTICK_OK, ended;

    for (size_t i = 0; i < session->workload->n_models; i++) {
        struct session_model *model = &session->models[i];

        for (size_t k = 0; k < model->n_components; k++) {
            struct unstick_task *task = NULL;

            if (!model->regions[k])
                continue;
            ended = unstick_region_release(model->regions[k], NULL, &task, r == UNSTICK_OK ? error : NULL);
            if (ended == UNSTICK_OK)
                ended = unstick_task_wait(task, r == UNSTICK_OK ? error : NULL);
            unstick_task_free(task);
            model->regions[k] = unstick_region_unref(model->regions[k]);
            r = r == UNSTICK_OK ? ended : r;
        }
    }
    /* Regions without references are ended by the next step. */
    unstick_context_step(session->ctx, 0);
    session_wait_for_store(session);
    return r;
}

static const char *session_tier_name(const struct session *session)
{
    switch (session->tiers) {
    case 0:
        return "none";
    case 1u << UNSTICK_TIER_PINNED:
        return "pinned";
    case 1u << UNSTICK_TIER_PAGEABLE:
        return "pageable";
    case 1u << UNSTICK_TIER_FILE:
        return "file";
    default:
        return "mixed";
    }
}

/* On the host device the kernel is asked too: memory that is backed or mapped beyond the sentinels is left
 * over. */
static int session_residual_of_host(const struct session *session, uint64_t sentinel_bytes,
                                    uint64_t *residual_bytes, struct unstick_error *error)
{
    uint64_t backed_bytes, mapped_bytes;
    int r;

    r = usk_host_backed_bytes(session->dev->driver, &backed_bytes, error);
    if (r == UNSTICK_OK)
        r = usk_host_mapped_bytes(session->dev->driver, &mapped_bytes, error);
    if (r < 0)
        return r;
    *residual_bytes = usk_max(*residual_bytes, backed_bytes - usk_min(backed_bytes, sentinel_bytes));
    *residual_bytes = usk_max(*residual_bytes, mapped_bytes - usk_min(mapped_bytes, sentinel_bytes));
    return UNSTICK_OK;
}

int session_finish(struct session *session, struct session_summary *ret_summary, struct unstick_error *error)
{
    struct session_summary summary = session->summary;
    struct unstick_device_info info;
    int r;

    r = session_release(session, error);
    if (r == UNSTICK_OK)
        r = session_info(session, &info, error);
    if (r < 0)
        return r;
    summary.sentinel_bytes = info.sentinel_bytes;
    summary.residual_bytes = info.resident_bytes + info.spare_bytes + info.poisoned_bytes;
    summary.device_delta_bytes = (int64_t)info.used_bytes - (int64_t)session->start.used_bytes;
    if (!strcmp(info.kind, "host")) {
        r = session_residual_of_host(session, info.sentinel_bytes, &summary.residual_bytes, error);
        if (r < 0)
            return r;
    }
    summary.backup_tier = session_tier_name(session);
    if (session->load_bytes && session->restore_bytes && session->restore_s > 0)
        summary.reload_over_restore = (session->load_s / (double)session->load_bytes) /
                                      (session->restore_s / (double)session->restore_bytes);
    *ret_summary = summary;
    return UNSTICK_OK;
}
