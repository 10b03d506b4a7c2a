/* SPDX-License-Identifier: Apache-2.0 */
/* Submitting, reading and freeing tasks: the public face. What they do is in arrive.c, leave.c and drop.c. */
#include "task/task.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"

void usk_task_fail(struct unstick_task *task, int status)
{
    if (!task->failure)
        task->failure = status;
    if (status == UNSTICK_DEVICE_LOST)
        atomic_store(&task->region->dev->is_lost, true);
}

void usk_task_give_device_up(struct unstick_task *task)
{
    usk_store_abandon(task->region->dev->store, true);
    if (!atomic_exchange(&task->region->dev->is_lost, true))
        usk_log_write(&task->ctx->log, UNSTICK_LOG_ERROR,
                      "the driver does not say whether its copies are over: the device is given up as lost");
}

bool usk_task_is_stopping(struct unstick_task *task)
{
    if (!task->failure && atomic_load(&task->is_canceled)) {
        usk_error_set(&task->result.error, UNSTICK_CANCELED, 0, "unstick_task_cancel", "canceled on request");
        task->failure = UNSTICK_CANCELED;
    }
    return task->failure;
}

bool usk_task_is_over(struct unstick_task *task)
{
    bool is_over;

    usk_context_lock(task->ctx);
    is_over = task->published.status != UNSTICK_PENDING;
    usk_context_unlock(task->ctx);
    return is_over;
}

static void task_destroy(struct unstick_task *task)
{
    for (size_t i = 0; i < task->n_sources; i++)
        usk_task_unref(task->sources[i]);
    free(task->sources);
    free(task->arrivals);
    free(task->departures);
    free(task->has_come);
    free(task->verdicts);
    free(task->hashes);
    free(task);
}

void usk_task_unref(struct unstick_task *task)
{
    struct unstick_context *ctx = task->ctx;
    bool is_last;

    usk_context_lock(ctx);
    is_last = --task->n_refs == 0;
    usk_context_unlock(ctx);
    if (is_last)
        task_destroy(task);
}

static bool task_allocate(struct unstick_task *task)
{
    uint32_t n = task->region->n_reserved;
    bool is_arriving = task->kind == USK_TASK_LOAD || task->kind == USK_TASK_RESTORE;
    bool is_leaving = task->kind == USK_TASK_BACKUP || task->kind == USK_TASK_EVICT;

    if (is_arriving) {
        task->arrivals = calloc(USK_TASK_WINDOW, sizeof(*task->arrivals));
        task->has_come = calloc(n, sizeof(*task->has_come));
    }
    if (is_leaving) {
        task->departures = calloc(USK_TASK_WINDOW, sizeof(*task->departures));
        task->verdicts = calloc(n, sizeof(*task->verdicts));
        task->hashes = calloc(n, sizeof(*task->hashes));
    }
    return (!is_arriving || (task->arrivals && task->has_come)) &&
           (!is_leaving || (task->departures && task->verdicts && task->hashes));
}

static bool task_copy_sources(struct unstick_task *task, const struct unstick_task_options *options)
{
    if (!options || !options->n_sources)
        return true;
    task->sources = calloc(options->n_sources, sizeof(struct unstick_task *));
    if (!task->sources)
        return false;
    usk_context_lock(task->ctx);
    for (size_t i = 0; i < options->n_sources; i++) {
        task->sources[i] = options->sources[i];
        task->sources[i]->n_refs++;
    }
    usk_context_unlock(task->ctx);
    task->n_sources = options->n_sources;
    return true;
}

static int task_check(const struct unstick_region *region, const struct unstick_task_options *options,
                      struct unstick_error *error)
{
    if (usk_context_is_forked(region->dev->ctx))
        return usk_context_fail_forked(error);
    if (!options)
        return UNSTICK_OK;
    if (options->size < sizeof(*options) || options->tier > UNSTICK_TIER_FILE ||
        options->fence > UNSTICK_FENCE_NONE || (options->n_sources && !options->sources))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_task_options",
                             "the options of a task are malformed; zero them and set size to sizeof");
    for (size_t i = 0; i < options->n_sources; i++) {
        /* One of another context is stepped under that one's baton. */
        if (!options->sources[i] || options->sources[i]->ctx != region->dev->ctx)
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_task_options",
                                 "source %zu is %s; sources are tasks of the region's own context", i,
                                 options->sources[i] ? "a task of another context" : "NULL");
    }
    return UNSTICK_OK;
}

static int task_new(struct unstick_region *region, enum usk_task_kind kind, const struct unstick_task_options *options,
                    struct unstick_task **ret_task, struct unstick_error *error)
{
    struct unstick_task *task;
    int r = task_check(region, options, error);

    if (r < 0)
        return r;
    task = calloc(1, sizeof(*task));
    if (!task)
        goto fail_memory;
    task->ctx = region->dev->ctx;
    task->region = region;
    task->kind = kind;
    task->is_exclusive = kind != USK_TASK_BACKUP;
    task->n_refs = 1;
    task->result.size = sizeof(task->result);
    task->result.status = UNSTICK_PENDING;
    task->published = task->result;
    if (options) {
        task->flags = options->flags;
        task->tier = options->tier;
        task->fence = options->fence;
        task->max_bytes = options->max_bytes;
    }
    if (!task_allocate(task) || !task_copy_sources(task, options))
        goto fail_memory;
    *ret_task = task;
    return UNSTICK_OK;

fail_memory:
    if (task)
        task_destroy(task);
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a task");
}

/* Checks that the region takes this task at all, then hands it to the queue. */
static int task_submit(struct unstick_task *task, struct unstick_task **ret_task, struct unstick_error *error)
{
    struct unstick_region *region = task->region;
    bool is_refused;

    usk_context_lock(task->ctx);
    is_refused = region->is_revoked && task->kind != USK_TASK_RELEASE && task->kind != USK_TASK_REVOKE;
    usk_context_unlock(task->ctx);
    if (is_refused) {
        usk_baton_take(task->ctx);
        usk_backing_free(task->backing);
        usk_baton_give(task->ctx);
        task_destroy(task);
        return usk_error_set(error, UNSTICK_REVOKED, 0, "unstick_task", "the region %s was revoked", region->name);
    }
    usk_queue_append(task);
    usk_context_wake(task->ctx);
    *ret_task = task;
    return UNSTICK_OK;
}

static int task_run(struct unstick_region *region, enum usk_task_kind kind, const struct unstick_task_options *options,
                    struct unstick_task **ret_task, struct unstick_error *error)
{
    struct unstick_task *task = NULL;
    int r = task_new(region, kind, options, &task, error);

    return r < 0 || !task ? r : task_submit(task, ret_task, error);
}

int unstick_region_load(struct unstick_region *region, const struct unstick_layout *layout,
                        const struct unstick_task_options *options, struct unstick_task **ret_task,
                        struct unstick_error *error)
{
    uint64_t granule_bytes = region->dev->granule_bytes;
    struct unstick_task *task = NULL;
    int r = task_check(region, options, error);

    if (r < 0)
        return r;
    if (!layout || !layout->bytes ||
        usk_div_up(layout->bytes, granule_bytes) != usk_div_up(region->bytes, granule_bytes) ||
        layout->bytes > region->reserve_bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_load",
                             "the layout has %llu bytes, the region %s has %llu",
                             layout ? (unsigned long long)layout->bytes : 0, region->name,
                             (unsigned long long)region->bytes);
    r = task_new(region, USK_TASK_LOAD, options, &task, error);
    if (r < 0 || !task)
        return r;
    usk_baton_take(task->ctx);
    r = usk_backing_new(region->dev->store, layout, granule_bytes, &task->backing, error);
    usk_baton_give(task->ctx);
    if (r < 0) {
        task_destroy(task);
        return r;
    }
    return task_submit(task, ret_task, error);
}

int unstick_region_backup(struct unstick_region *region, const struct unstick_task_options *options,
                          struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_BACKUP, options, ret_task, error);
}

int unstick_region_evict(struct unstick_region *region, const struct unstick_task_options *options,
                         struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_EVICT, options, ret_task, error);
}

int unstick_region_restore(struct unstick_region *region, const struct unstick_task_options *options,
                           struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_RESTORE, options, ret_task, error);
}

int unstick_region_discard(struct unstick_region *region, const struct unstick_task_options *options,
                           struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_DISCARD, options, ret_task, error);
}

int unstick_region_revoke(struct unstick_region *region, const struct unstick_task_options *options,
                          struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_REVOKE, options, ret_task, error);
}

int unstick_region_release(struct unstick_region *region, const struct unstick_task_options *options,
                           struct unstick_task **ret_task, struct unstick_error *error)
{
    return task_run(region, USK_TASK_RELEASE, options, ret_task, error);
}

void unstick_task_cancel(struct unstick_task *task)
{
    if (usk_context_is_forked(task->ctx))
        return;
    atomic_store(&task->is_canceled, true);
    usk_context_wake(task->ctx);
}

int unstick_task_result(struct unstick_task *task, struct unstick_task_result *result)
{
    size_t size = result->size;

    if (usk_context_is_forked(task->ctx))
        return UNSTICK_FORKED;
    if (size < sizeof(*result))
        return UNSTICK_INVALID_ARGUMENT;
    usk_context_lock(task->ctx);
    *result = task->published;
    usk_context_unlock(task->ctx);
    result->size = size;
    return result->status;
}

struct unstick_task *unstick_task_free(struct unstick_task *task)
{
    if (!task || usk_context_is_forked(task->ctx))
        return NULL;
    if (!usk_task_is_over(task))
        unstick_task_cancel(task);
    usk_task_unref(task);
    return NULL;
}
