/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The queue: one step looks at every task once, in order of submission. A task starts when no earlier one wants its
 * region and, if it moves the region, no lease holds it. Tasks are appended under the lock by anybody and removed by
 * the holder of the baton only, so the holder may walk the list between two looks under the lock.
 */
#include "task/task.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"

/* Where nothing signals the event (a lagging driver, a lease of somebody else), this is how often we look. */
#define QUEUE_POLL_MS 1
#define QUEUE_IDLE_MS 50

/* Four threads reach the full speed of touching memory; as many again register and read meanwhile. */
#define CONTEXT_MIN_THREADS 4
#define CONTEXT_MAX_THREADS 8

/* Ends the stretch that is under way; `what` begins the next. */
static void step_look(struct usk_step *step, uint64_t now_ns, const char *what)
{
    if (step->stretch && now_ns - step->looked_ns > step->made_of.stretch_ns) {
        step->made_of.stretch_ns = now_ns - step->looked_ns;
        step->made_of.stretch = step->stretch;
    }
    step->looked_ns = now_ns;
    step->stretch = what;
}

bool usk_step_has_time(struct usk_step *step, const char *what)
{
    uint64_t now_ns = usk_clock_now_ns();

    if (step->has_called && now_ns > step->deadline_ns) {
        step->has_progressed = true;
        return false;
    }
    step_look(step, now_ns, what);
    step->has_called = true;
    step->made_of.n_calls++;
    return true;
}

bool usk_step_may_call(struct usk_step *step, struct unstick_device *dev, const char *what)
{
    if (step->has_called && usk_clock_now_ns() > step->deadline_ns) {
        step->has_progressed = true;
        return false;
    }
    if (!step->burst && !step->is_kept_out && dev->driver->ops->begin_burst) {
        step->is_kept_out = !dev->driver->ops->begin_burst(dev->driver);
        step->burst = step->is_kept_out ? NULL : dev->driver;
    }
    step->is_waiting |= step->is_kept_out;
    return !step->is_kept_out && usk_step_has_time(step, what);
}

int usk_step_poll(struct usk_step *step, struct unstick_device *dev, uint64_t ticket, struct unstick_error *error)
{
    int r = usk_step_has_time(step, "poll") ? usk_device_poll(dev->driver, ticket, error) : UNSTICK_PENDING;

    step->is_waiting |= r == UNSTICK_PENDING;
    return r;
}

static void step_end_burst(struct usk_step *step)
{
    if (step->burst)
        step->burst->ops->end_burst(step->burst);
    step->burst = NULL;
}

void usk_queue_append(struct unstick_task *task)
{
    struct unstick_context *ctx = task->ctx;

    usk_context_lock(ctx);
    task->n_refs++;
    task->region->n_refs++;
    task->region->n_exclusive += task->is_exclusive;
    *ctx->tasks_tail = task;
    ctx->tasks_tail = &task->next;
    ctx->n_tasks++;
    usk_context_unlock(ctx);
}

static struct unstick_task *queue_next(struct unstick_context *ctx, struct unstick_task *task)
{
    struct unstick_task *next;

    usk_context_lock(ctx);
    next = task ? task->next : ctx->tasks;
    usk_context_unlock(ctx);
    return next;
}

bool usk_queue_keeps_spares(struct unstick_device *dev, const struct unstick_task *except)
{
    bool keeps = false;

    usk_context_lock(dev->ctx);
    for (const struct unstick_task *task = dev->ctx->tasks; task && !keeps; task = task->next)
        keeps = task != except && task->region->dev == dev &&
                (task->n_sources || (task->flags & UNSTICK_TASK_HAND_OVER));
    usk_context_unlock(dev->ctx);
    return keeps;
}

/* [lock] It works, or nothing but its own turn is in its way: it does not wait for anybody who could wait for it. */
static bool task_is_free(const struct unstick_task *task)
{
    const struct unstick_region *region = task->region;

    if (region->holder || region->n_leases)
        return region->holder == task;
    for (const struct unstick_task *earlier = task->ctx->tasks; earlier != task; earlier = earlier->next) {
        if (earlier->region == region)
            return false;
    }
    return true;
}

bool usk_queue_frees_host_memory(const struct unstick_task *task)
{
    bool frees = false;

    usk_context_lock(task->ctx);
    for (const struct unstick_task *other = task->ctx->tasks; other && !frees; other = other->next)
        frees = other != task &&
                (other->kind == USK_TASK_DISCARD || other->kind == USK_TASK_REVOKE ||
                 other->kind == USK_TASK_RELEASE) &&
                task_is_free(other);
    usk_context_unlock(task->ctx);
    return frees;
}

bool usk_queue_drain(struct unstick_device *dev, struct usk_step *step)
{
    for (unsigned int i = 0; i < USK_TASK_MOVES_PER_STEP && dev->spares && usk_step_may_call(step, dev, "drain"); i++)
        usk_physical_drain(dev, 1);
    return dev->spares;
}

/* Whether it is this task's turn on its region; makes it the holder if so. */
static bool task_try_start(struct unstick_task *task)
{
    struct unstick_region *region = task->region;
    bool may_start;

    usk_context_lock(task->ctx);
    may_start = !region->holder && !region->is_keeping && !(task->is_exclusive && region->n_leases);
    for (const struct unstick_task *earlier = task->ctx->tasks; earlier != task && may_start; earlier = earlier->next)
        may_start = earlier->region != region;
    if (may_start) {
        region->holder = task;
        region->is_moving = task->is_exclusive;
    }
    usk_context_unlock(task->ctx);
    return may_start;
}

/* A task that has not started can end at once, holding nothing. */
static int task_step_queued(struct unstick_task *task, struct usk_step *step)
{
    bool is_wanted;

    usk_context_lock(task->ctx);
    is_wanted = task->kind == USK_TASK_EVICT && task->region->is_wanted;
    usk_context_unlock(task->ctx);
    if (is_wanted)
        atomic_store(&task->is_canceled, true);
    if (usk_task_is_stopping(task))
        return task->failure;
    if (atomic_load(&task->region->dev->is_lost))
        return usk_error_set(&task->result.error, UNSTICK_DEVICE_LOST, 0, "unstick_task",
                             "the device of the region %s was lost", task->region->name);
    if (task_try_start(task)) {
        task->phase = USK_PHASE_BEGIN;
        task->result.started_ns = step->now_ns;
        step->has_progressed = true;
    }
    return UNSTICK_PENDING;
}

static int task_step_running(struct unstick_task *task, struct usk_step *step)
{
    switch (task->kind) {
    case USK_TASK_LOAD:
    case USK_TASK_RESTORE:
        return usk_arrive_step(task, step);
    case USK_TASK_BACKUP:
    case USK_TASK_EVICT:
        return usk_leave_step(task, step);
    case USK_TASK_DISCARD:
    case USK_TASK_REVOKE:
    case USK_TASK_RELEASE:
        return usk_drop_step(task, step);
    }
    return UNSTICK_DRIVER;
}

static int task_step(struct unstick_task *task, struct usk_step *step)
{
    int failure = task->failure, status;

    status = task->phase == USK_PHASE_QUEUED ? task_step_queued(task, step) : task_step_running(task, step);
    step->has_progressed |= task->failure != failure;
    return status;
}

static void queue_remove(struct unstick_context *ctx, struct unstick_task *task)
{
    struct unstick_task **at = &ctx->tasks;

    while (*at != task)
        at = &(*at)->next;
    *at = task->next;
    if (!*at)
        ctx->tasks_tail = at;
    ctx->n_tasks--;
}

/* Publishes the result, lets the region go, and drops what the queue held. */
static void task_end(struct unstick_task *task, int status, uint64_t now_ns)
{
    struct unstick_context *ctx = task->ctx;
    struct unstick_region *region = task->region;

    usk_backing_free(task->backing);
    task->backing = NULL;
    if (status == UNSTICK_DEVICE_LOST)
        atomic_store(&region->dev->is_lost, true);
    if (status == UNSTICK_OK)
        task->result.error = (struct unstick_error){ 0 };
    task->result.status = status;
    task->result.ended_ns = now_ns;
    usk_region_publish(region);
    usk_context_lock(ctx);
    if (task->kind == USK_TASK_LOAD && status == UNSTICK_OK)
        region->used_bytes = usk_max(region->used_bytes, region->bytes);
    task->published = task->result;
    if (region->holder == task) {
        region->holder = NULL;
        region->is_moving = false;
    }
    region->n_exclusive -= task->is_exclusive;
    region->is_wanted &= region->n_exclusive != 0;
    queue_remove(ctx, task);
    usk_context_unlock(ctx);

    /* Whoever waits in poll() for this task looks again. */
    usk_context_wake(ctx);
    usk_task_unref(task);
    usk_region_unref_in_step(region);
}

static void task_publish(struct unstick_task *task)
{
    usk_context_lock(task->ctx);
    task->published = task->result;
    usk_context_unlock(task->ctx);
}

static void queue_step_devices(struct unstick_context *ctx, struct usk_step *step)
{
    struct unstick_device *dev;

    usk_context_lock(ctx);
    dev = ctx->devices;
    usk_context_unlock(ctx);
    while (dev) {
        enum usk_reap reap;

        step_look(step, usk_clock_now_ns(), "end of a region");
        reap = usk_region_reap(dev, step->deadline_ns);

        step->has_progressed |= reap == USK_REAP_MORE;
        step->is_waiting |= reap == USK_REAP_WAITING || reap == USK_REAP_BLOCKED;
        if (dev->spares && !usk_queue_keeps_spares(dev, NULL))
            step->has_progressed |= usk_queue_drain(dev, step);
        usk_context_lock(ctx);
        dev = dev->next;
        usk_context_unlock(ctx);
    }
}

static void queue_step_task(struct unstick_task *task, struct usk_step *step)
{
    int status = task_step(task, step);

    if (status == UNSTICK_PENDING) {
        task_publish(task);
    } else {
        step->has_progressed = true;
        task_end(task, status, step->now_ns);
    }
}

/* Steps every task once, beginning with another one each time: who comes last may find that the time is up. */
static void queue_step_tasks(struct unstick_context *ctx, struct usk_step *step)
{
    struct unstick_task *task, *next;
    unsigned int first, index = 0;

    usk_context_lock(ctx);
    first = ctx->n_tasks ? ctx->n_steps++ % ctx->n_tasks : 0;
    usk_context_unlock(ctx);
    for (task = queue_next(ctx, NULL); task; task = next, index++) {
        next = queue_next(ctx, task);
        if (index >= first)
            queue_step_task(task, step);
    }
    index = 0;
    for (task = queue_next(ctx, NULL); task && index < first; task = next, index++) {
        next = queue_next(ctx, task);
        queue_step_task(task, step);
    }
}

/* [baton] */
static int queue_step(struct unstick_context *ctx, uint64_t now_ns)
{
    uint64_t started_ns = usk_clock_now_ns(), took_ns;
    struct usk_step step = { .now_ns = now_ns, .deadline_ns = started_ns + USK_TASK_STEP_NS };
    struct unstick_task *task;
    int timeout_ms;

    usk_os_event_drain(ctx->event_fd);
    queue_step_tasks(ctx, &step);
    queue_step_devices(ctx, &step);
    step_end_burst(&step);

    task = queue_next(ctx, NULL);
    timeout_ms = step.has_progressed ? 0 : step.is_waiting ? QUEUE_POLL_MS : QUEUE_IDLE_MS;
    atomic_store(&ctx->next_timeout_ms, task || step.has_progressed || step.is_waiting ? timeout_ms : -1);
    took_ns = usk_clock_now_ns() - started_ns;
    step_look(&step, started_ns + took_ns, NULL);
    if (took_ns > atomic_load(&ctx->longest_step_ns)) {
        atomic_store(&ctx->longest_step_ns, took_ns);
        ctx->longest_step = step.made_of;
        ctx->longest_step.ns = took_ns;
    }
    return task ? UNSTICK_PENDING : UNSTICK_OK;
}

int unstick_context_step(struct unstick_context *ctx, uint64_t now_ns)
{
    int r;

    if (usk_context_is_forked(ctx))
        return UNSTICK_FORKED;
    if (!usk_baton_try(ctx))
        return UNSTICK_PENDING;
    r = queue_step(ctx, now_ns ? now_ns : usk_clock_now_ns());
    usk_baton_give(ctx);
    return r;
}

int unstick_context_timeout_ms(struct unstick_context *ctx)
{
    return usk_context_is_forked(ctx) ? -1 : atomic_load(&ctx->next_timeout_ms);
}

int unstick_context_fd(struct unstick_context *ctx)
{
    return ctx->event_fd;
}

/* Sleeps until there may be something to do. */
static void queue_sleep(struct unstick_context *ctx)
{
    int timeout_ms = atomic_load(&ctx->next_timeout_ms);

    if (timeout_ms)
        usk_os_event_wait(ctx->event_fd, timeout_ms < 0 ? QUEUE_IDLE_MS : timeout_ms);
}

int unstick_task_step(struct unstick_task *task, uint64_t now_ns)
{
    int r = unstick_context_step(task->ctx, now_ns);
    struct unstick_task_result result = { .size = sizeof(result) };

    return r < 0 ? r : unstick_task_result(task, &result);
}

int unstick_task_wait(struct unstick_task *task, struct unstick_error *error)
{
    struct unstick_task_result result = { .size = sizeof(result) };

    if (usk_context_is_forked(task->ctx))
        return usk_context_fail_forked(error);
    while (unstick_task_result(task, &result) == UNSTICK_PENDING) {
        if (usk_baton_try(task->ctx)) {
            queue_step(task->ctx, usk_clock_now_ns());
            usk_baton_give(task->ctx);
            if (!usk_task_is_over(task))
                queue_sleep(task->ctx);
        } else {
            /* Somebody else steps, and drains the event. */
            usk_os_event_wait(task->ctx->event_fd, QUEUE_POLL_MS);
        }
    }
    if (result.status < 0 && error)
        *error = result.error;
    return result.status;
}

static void *queue_drive(void *userdata)
{
    struct unstick_context *ctx = userdata;

    while (!atomic_load(&ctx->is_ending)) {
        if (usk_baton_try(ctx)) {
            queue_step(ctx, usk_clock_now_ns());
            usk_baton_give(ctx);
        }
        queue_sleep(ctx);
    }
    return NULL;
}

int unstick_context_start_driver(struct unstick_context *ctx, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    usk_baton_take(ctx);
    if (!ctx->has_driver)
        r = usk_os_thread_new(&ctx->driver, queue_drive, ctx, "unstick-driver", error);
    ctx->has_driver |= r == UNSTICK_OK;
    usk_baton_give(ctx);
    return r;
}

static unsigned int context_n_threads(void)
{
    return (unsigned int)usk_max(CONTEXT_MIN_THREADS, usk_min(usk_os_n_cpus() / 2, CONTEXT_MAX_THREADS));
}

int unstick_context_new(const struct unstick_context_options *options, struct unstick_context **ret_ctx,
                        struct unstick_error *error)
{
    struct unstick_context *ctx;
    unsigned int n_threads = options && options->n_threads ? options->n_threads : context_n_threads();
    int r;

    if (options && (options->size < sizeof(*options) || n_threads > 64))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_context_new",
                             "the options are malformed: zero them, set size to sizeof, and ask for 1 to 64 threads");
    ctx = calloc(1, sizeof(*ctx));
    if (!ctx)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory for a context");
    ctx->pid = usk_os_pid();
    ctx->tasks_tail = &ctx->tasks;
    atomic_store(&ctx->next_timeout_ms, -1);
    if (options)
        ctx->log = (struct usk_log){ options->log, options->log_level, options->log_userdata };
    r = usk_budget_init(&ctx->budget, options ? options->host_bytes : 0, error);
    if (r < 0)
        goto fail_budget;
    r = usk_os_event_new(&ctx->event_fd, error);
    if (r < 0)
        goto fail_budget;
    r = usk_pool_new(n_threads, ctx->event_fd, &ctx->pool, error);
    if (r < 0)
        goto fail_pool;
    pthread_mutex_init(&ctx->lock, NULL);
    pthread_cond_init(&ctx->baton_is_free, NULL);
    *ret_ctx = ctx;
    return UNSTICK_OK;

fail_pool:
    usk_os_close(ctx->event_fd);
fail_budget:
    free(ctx);
    return r;
}

/* Cancels everything and steps until it is over. */
static void context_finish(struct unstick_context *ctx)
{
    usk_context_lock(ctx);
    for (struct unstick_task *task = ctx->tasks; task; task = task->next)
        atomic_store(&task->is_canceled, true);
    usk_context_unlock(ctx);
    usk_baton_take(ctx);
    while (queue_step(ctx, usk_clock_now_ns()) == UNSTICK_PENDING) {
        usk_baton_give(ctx);
        queue_sleep(ctx);
        usk_baton_take(ctx);
    }
    usk_baton_give(ctx);
}

static void context_close_device(struct unstick_context *ctx, struct unstick_device *dev)
{
    usk_context_lock(ctx);
    for (struct unstick_region *region = dev->regions; region; region = region->next)
        region->n_refs = 0;
    if (dev->regions) {
        struct unstick_region **at = &dev->dead;

        while (*at)
            at = &(*at)->next;
        *at = dev->regions;
        dev->regions = NULL;
    }
    usk_context_unlock(ctx);
    usk_region_reap_all(dev, true);
    unstick_device_close(dev, NULL);
}

struct unstick_context *unstick_context_free(struct unstick_context *ctx)
{
    if (!ctx || usk_context_is_forked(ctx))
        return NULL;
    if (ctx->has_driver) {
        atomic_store(&ctx->is_ending, true);
        usk_context_wake(ctx);
        pthread_join(ctx->driver, NULL);
    }
    context_finish(ctx);
    while (ctx->devices)
        context_close_device(ctx, ctx->devices);
    usk_pool_free(ctx->pool);
    usk_os_close(ctx->event_fd);
    pthread_cond_destroy(&ctx->baton_is_free);
    pthread_mutex_destroy(&ctx->lock);
    free(ctx);
    return NULL;
}

int unstick_context_info(struct unstick_context *ctx, struct unstick_context_info *info)
{
    if (usk_context_is_forked(ctx))
        return UNSTICK_FORKED;
    if (info->size < sizeof(*info))
        return UNSTICK_INVALID_ARGUMENT;
    info->host_limit_bytes = ctx->budget.limit_bytes;
    info->host_pinned_bytes = atomic_load(&ctx->budget.pinned_bytes);
    info->host_pageable_bytes = atomic_load(&ctx->budget.pageable_bytes);
    info->host_file_bytes = atomic_load(&ctx->budget.file_bytes);
    info->host_ring_bytes = atomic_load(&ctx->budget.ring_bytes);
    info->longest_step_ns = atomic_load(&ctx->longest_step_ns);
    usk_context_lock(ctx);
    info->n_tasks = ctx->n_tasks;
    usk_context_unlock(ctx);
    return UNSTICK_OK;
}
