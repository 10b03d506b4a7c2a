/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request of a workload is a request of the cache (unstick/cache.h), with the files' layouts as what the cache can
 * load by itself. What the session knows about residency it asks the cache for, so that nothing can get out of step
 * after a failure or an interruption.
 */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/cache.h>
#include <unstick/context.h>
#include <unstick/model.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "cli.h"
#include "device/host/host.h"
#include "drive.h"
#include "holders.h"
#include "region/device.h"
#include "verify.h"

/* How long the end of a session waits for what ends in the background. */
#define SESSION_STORE_MS 10000

struct session_model {
    struct unstick_model *model;
    const struct unstick_component *components;
    size_t n_components;
    struct unstick_cache_component *layouts; /* one per component that has bytes */
    size_t n_layouts;
    bool was_loaded;
};

struct session {
    struct session_options options;
    const struct workload *workload;
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct unstick_cache *cache;
    struct unstick_device_info start;
    struct session_model *models;
    struct session_eviction *evictions;
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
    int r;

    r = unstick_model_open(session->workload->models[index].path, &model->model, error);
    if (r < 0)
        return r;
    model->n_components = unstick_model_components(model->model, &model->components);
    model->layouts = calloc(usk_max(model->n_components, 1), sizeof(*model->layouts));
    if (!model->layouts)
        return session_no_memory(error);
    for (size_t i = 0; i < model->n_components; i++) {
        if (model->components[i].layout.bytes)
            model->layouts[model->n_layouts++] =
                (struct unstick_cache_component){ .size = sizeof(*model->layouts),
                                                  .name = model->components[i].name,
                                                  .layout = &model->components[i].layout };
    }
    return UNSTICK_OK;
}

static int session_open_models(struct session *session, struct unstick_error *error)
{
    size_t n = usk_max(session->workload->n_models, 1);
    int r = UNSTICK_OK;

    session->models = calloc(n, sizeof(*session->models));
    session->evictions = calloc(n, sizeof(*session->evictions));
    if (!session->models || !session->evictions)
        return session_no_memory(error);
    for (size_t i = 0; r == UNSTICK_OK && i < session->workload->n_models; i++)
        r = session_open_model(session, i, error);
    return r;
}

int session_open(const struct session_options *options, const struct workload *workload,
                 struct session **ret_session, struct unstick_error *error)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options),
                                                       .host_bytes = options->host_bytes };
    struct unstick_device_options device_options = { .size = sizeof(device_options),
                                                     .limit_bytes = options->limit_bytes,
                                                     .granule_bytes = options->granule_bytes };
    /* There is no torch here whose memory could be reclaimed. */
    struct unstick_cache_options cache_options = { .size = sizeof(cache_options),
                                                   .tier = options->tier,
                                                   .cannot = ~0u };
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
        r = unstick_cache_open(session->dev, &cache_options, &session->cache, error);
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
    unstick_cache_close(session->cache, NULL);
    for (size_t i = 0; session->models && i < session->workload->n_models; i++) {
        free(session->models[i].layouts);
        unstick_model_close(session->models[i].model);
    }
    /* The context closes what is left, the device included if it would not close by itself. */
    unstick_device_close(session->dev, NULL);
    unstick_context_free(session->ctx);
    free(session->evictions);
    free(session->models);
    free(session);
    return NULL;
}

/* --- a request --- */

/* Reads the files of what will be loaded, so that loads are measured with a warm page cache. */
static int session_warm(const struct session_model *model, const char *key, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && !model->was_loaded && i < model->n_components; i++) {
        if (!model->components[i].layout.bytes)
            continue;
        cli_progress("%s: reading %s", key, model->components[i].name);
        r = verify_warm(&model->components[i], error);
    }
    return r;
}

static double session_ms(uint64_t ns)
{
    return (double)ns / (double)USK_NS_PER_MS;
}

static size_t session_find(const struct session *session, const char *key)
{
    size_t i = 0;

    while (i < session->workload->n_models && strcmp(session->workload->models[i].key, key) != 0)
        i++;
    return i;
}

static void session_report_evictions(struct session *session, const struct unstick_request_result *result,
                                     struct session_report *report)
{
    for (size_t i = 0; i < result->n_evictions; i++) {
        const struct unstick_request_eviction *eviction = &result->evictions[i];
        size_t model = session_find(session, eviction->key);

        if (model < session->workload->n_models)
            session->evictions[report->n_evicted++] = (struct session_eviction){ .model = model,
                                                                                 .bytes = eviction->bytes,
                                                                                 .copied_bytes = eviction->copied_bytes,
                                                                                 .ms = session_ms(eviction->ns) };
    }
    report->evicted = session->evictions;
    report->evict_ms = session_ms(result->evict_ns);
}

static void session_report_arrivals(struct session *session, const struct unstick_request_result *result,
                                    struct session_report *report)
{
    double ms = session_ms(result->load_ns + result->restore_ns);

    report->bytes = result->bytes;
    if (result->outcome == UNSTICK_OUTCOME_LOAD) {
        report->action = SESSION_LOAD;
        report->load_ms = ms;
        session->load_bytes += report->bytes;
        session->load_s += ms / 1000;
    } else if (result->outcome == UNSTICK_OUTCOME_RESTORE) {
        report->action = SESSION_RESTORE;
        report->restore_ms = ms;
        session->restore_bytes += report->bytes;
        session->restore_s += ms / 1000;
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

/* Which tiers hold something now. */
static void session_look(struct session *session)
{
    struct unstick_cache_entry_info *infos = calloc(usk_max(session->workload->n_models, 1), sizeof(*infos));
    size_t n = 0;

    if (infos)
        unstick_cache_entries(session->cache, infos, session->workload->n_models, &n);
    for (size_t i = 0; infos && i < n && i < session->workload->n_models; i++) {
        session->tiers |= infos[i].pinned_bytes ? 1u << UNSTICK_TIER_PINNED : 0;
        session->tiers |= infos[i].pageable_bytes ? 1u << UNSTICK_TIER_PAGEABLE : 0;
        session->tiers |= infos[i].file_bytes ? 1u << UNSTICK_TIER_FILE : 0;
    }
    free(infos);
}

static int session_verify(const struct session_model *model, struct unstick_cache_lease *lease, const char *key,
                          struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < model->n_components; i++) {
        struct unstick_region *region = unstick_cache_lease_region(lease, model->components[i].name);

        if (!region)
            continue;
        cli_progress("%s: verifying %s", key, model->components[i].name);
        r = verify_component(key, &model->components[i], region, error);
    }
    return r;
}

/* The timed part: from the decision to the lease. */
static int session_switch(struct session *session, size_t wanted, struct session_report *report,
                          struct unstick_cache_lease **ret_lease, struct unstick_error *error)
{
    const char *key = session->workload->models[wanted].key;
    struct unstick_cache_demand demand = { .size = sizeof(demand),
                                           .layouts = session->models[wanted].layouts,
                                           .n_layouts = session->models[wanted].n_layouts,
                                           .max_wait_ms = UNSTICK_CACHE_NO_WAIT };
    struct unstick_request_result result = { .size = sizeof(result) };
    uint64_t started_ns = usk_clock_now_ns();
    struct unstick_request *request;
    int r = unstick_cache_request(session->cache, key, &demand, &request, error);

    if (r < 0)
        return r;
    r = drive_request(request, key, error);
    report->total_ms = session_ms(usk_clock_now_ns() - started_ns);
    unstick_request_result(request, &result);
    if (r == UNSTICK_OK) {
        session_report_evictions(session, &result, report);
        session_report_arrivals(session, &result, report);
        *ret_lease = unstick_request_take_lease(request);
        session->models[wanted].was_loaded = true;
    } else if (r == UNSTICK_OUT_OF_DEVICE_MEMORY) {
        holders_explain(&session->start, error);
    }
    unstick_request_free(request);
    return r;
}

int session_request(struct session *session, size_t index, struct session_report *ret_report,
                    struct unstick_error *error)
{
    size_t wanted = session->workload->requests[index];
    struct session_model *model = &session->models[wanted];
    const char *key = session->workload->models[wanted].key;
    struct session_report report = { .model = wanted, .action = SESSION_HIT };
    struct unstick_cache_lease *lease = NULL;
    struct unstick_device_info info;
    int r;

    if (cli_is_interrupted())
        return cli_error_interrupted(error);
    r = session_warm(model, key, error);
    /* A model without a byte is there, wherever it is. */
    if (r == UNSTICK_OK && model->n_layouts)
        r = session_switch(session, wanted, &report, &lease, error);
    if (r == UNSTICK_OK)
        r = session_info(session, &info, error);
    if (r == UNSTICK_OK) {
        report.used_after_bytes = info_held_bytes(&info);
        report.device_used_after_bytes = info.used_bytes;
        session_look(session);
    }
    if (r == UNSTICK_OK && session->options.is_verifying) {
        r = lease ? session_verify(model, lease, key, error) : UNSTICK_OK;
        report.is_verified = r == UNSTICK_OK;
    }
    unstick_cache_lease_end(lease, NULL);
    if (r < 0 && r != UNSTICK_MISMATCH)
        return r;
    session_count(session, &report);
    *ret_report = report;
    return r;
}

/* --- the end --- */

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

/* Not a request: a signal has no say in it. */
static int session_release(struct session *session, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < session->workload->n_models; i++) {
        r = unstick_cache_drop(session->cache, session->workload->models[i].key, error);
        /* Never asked for. */
        if (r == UNSTICK_NOT_FOUND)
            r = UNSTICK_OK;
    }
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
