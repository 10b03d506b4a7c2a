/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One granule's bytes on their way to host memory: hash (taken by the task before), copy, hash, in this order; equal
 * hashes prove that the copy is what the granule held, and become the hash of the backup. Unequal ones mean that
 * somebody wrote meanwhile: the copy is made again, a few times. The granule stays resident all along, so a failure
 * loses nothing but the backup that was being overwritten.
 */
#include "task/task.h"

#include <string.h>

#include "base/error.h"

#define DEPARTURE_MAX_TRIES 3

static struct usk_device *departure_driver(const struct usk_departure *departure)
{
    return departure->task->region->dev->driver;
}

static struct usk_granule *departure_granule(const struct usk_departure *departure)
{
    return &departure->task->region->granules[departure->index];
}

static uint64_t departure_bytes(const struct usk_departure *departure)
{
    return usk_region_granule_bytes(departure->task->region, departure->index);
}

static void departure_to(struct usk_departure *departure, enum usk_departure_stage stage, struct usk_step *step)
{
    departure->stage = stage;
    step->has_progressed = true;
}

static void departure_fail(struct usk_departure *departure, int status)
{
    usk_task_fail(departure->task, status);
}

static void departure_free(struct usk_departure *departure, enum usk_verdict verdict, struct usk_step *step)
{
    struct unstick_task *task = departure->task;

    if (departure->ring)
        usk_ring_put(task->region->dev->store, departure->ring);
    if (departure->has_slot)
        usk_slots_give(task->region->dev, departure->slot, 1);
    if (departure->has_new_blob)
        usk_blob_unref(departure->blob);
    else if (departure->has_arena_hold)
        usk_arena_put(task->region->arena, departure->index);
    task->verdicts[departure->index] = verdict;
    departure->stage = USK_DEPARTURE_FREE;
    task->n_under_way--;
    step->has_progressed = true;
}

static void departure_step_arena(struct usk_departure *departure, struct usk_step *step)
{
    struct unstick_task *task = departure->task;
    struct usk_blob *blob = departure_granule(departure)->blob;
    struct usk_arena *arena = task->region->arena;
    int r;

    if (blob && blob->arena && blob->n_refs == 1) {
        /* Overwritten in place: until the copy is proven it is nobody's backup. */
        departure->blob = blob;
    } else {
        if (!departure->has_arena_hold) {
            r = usk_arena_get(arena, departure->index, &task->result.error);
            departure->has_arena_hold = r >= 0;
        } else {
            r = usk_arena_poll(arena, departure->index, &task->result.error);
        }
        if (r == UNSTICK_PENDING || (r == UNSTICK_HOST_BUDGET && usk_queue_frees_host_memory(task))) {
            step->is_waiting = true;
            return;
        }
        if (r == UNSTICK_OK) {
            departure->blob = usk_blob_new_arena(arena, departure->index);
            if (!departure->blob)
                r = usk_error_set(&task->result.error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                                  "no host memory to describe a backup");
        }
        if (r < 0) {
            departure_fail(departure, r);
            return;
        }
        departure->has_new_blob = true;
    }
    departure_to(departure,
                 departure->blob->tier == UNSTICK_TIER_PINNED ? USK_DEPARTURE_SUBMIT : USK_DEPARTURE_RING, step);
}

static void departure_step_ring(struct usk_departure *departure, struct usk_step *step)
{
    struct unstick_task *task = departure->task;
    int r = usk_ring_get(task->region->dev->store, &departure->ring, &task->result.error);

    if (r == UNSTICK_PENDING)
        step->is_waiting = true;
    else if (r < 0)
        departure_fail(departure, r);
    else
        departure_to(departure, USK_DEPARTURE_SUBMIT, step);
}

static int departure_submit(struct usk_departure *departure)
{
    struct usk_device *driver = departure_driver(departure);
    struct unstick_error *error = &departure->task->result.error;
    uint64_t address = usk_region_granule_address(departure->task->region, departure->index);
    uint64_t bytes = departure_bytes(departure);
    void *to = departure->ring ? departure->ring : usk_arena_data(departure->blob->arena, departure->index);
    enum usk_lane last = USK_LANE_DOWN;
    int r;

    departure->flight.is_up = true;
    departure->blob->is_filled = departure->blob->has_hash = false;
    r = driver->ops->copy_down(driver, USK_LANE_DOWN, to, address, bytes, error);
    if (r == UNSTICK_OK && departure->has_slot) {
        last = USK_LANE_HASH;
        r = driver->ops->order(driver, USK_LANE_HASH, USK_LANE_DOWN, error);
        if (r == UNSTICK_OK)
            r = driver->ops->hash(driver, USK_LANE_HASH, address, bytes, 1, departure->slot, error);
    }
    if (r == UNSTICK_OK)
        r = driver->ops->mark(driver, last, &departure->flight.ticket, error);
    departure->flight.has_ticket = r == UNSTICK_OK;
    return r;
}

static void departure_step_submit(struct usk_departure *departure, struct usk_step *step)
{
    struct unstick_device *dev = departure->task->region->dev;
    int r;

    if (dev->driver->caps.can_hash && !departure->has_slot) {
        departure->has_slot = usk_slots_take(dev, 1, &departure->slot);
        if (!departure->has_slot) {
            step->is_waiting = true;
            return;
        }
    }
    if (!usk_step_may_call(step, departure->task->region->dev, "copy"))
        return;
    r = departure_submit(departure);
    if (r < 0)
        departure_fail(departure, r);
    else
        departure_to(departure, USK_DEPARTURE_COPY, step);
}

/* The copy is in the blob: the blob becomes the granule's backup. */
static void departure_settle(struct usk_departure *departure, struct usk_step *step)
{
    struct unstick_task *task = departure->task;
    struct usk_granule *granule = departure_granule(departure);

    departure->blob->is_filled = true;
    if (departure->has_slot) {
        departure->blob->hash = task->hashes[departure->index];
        departure->blob->has_hash = true;
    }
    if (departure->has_new_blob) {
        usk_blob_unref(granule->blob);
        granule->blob = departure->blob;
        departure->has_new_blob = false;
        departure->has_arena_hold = false;
    }
    if (task->result.tier != UNSTICK_TIER_AUTO && task->result.tier != departure->blob->tier)
        task->result.has_mixed_tiers = true;
    task->result.tier = departure->blob->tier;
    task->result.copied_bytes += departure_bytes(departure);
    if (task->kind == USK_TASK_BACKUP)
        task->result.done_bytes += departure_bytes(departure);
    departure_free(departure, USK_VERDICT_CLEAN, step);
}

static void departure_run_job(struct usk_job *job)
{
    struct usk_departure *departure = (struct usk_departure *)((char *)job - offsetof(struct usk_departure, job));

    memcpy(usk_arena_data(departure->blob->arena, departure->index), departure->ring, departure_bytes(departure));
}

static int departure_fail_changing(struct usk_departure *departure)
{
    struct unstick_task *task = departure->task;

    return usk_error_set(&task->result.error, UNSTICK_CONTENTS_CHANGING, 0, "unstick_region_backup",
                         "granule %u of the region %s was written each of the %u times it was copied; finish what uses "
                         "it first",
                         departure->index, task->region->name, DEPARTURE_MAX_TRIES);
}

static void departure_step_copy(struct usk_departure *departure, struct usk_step *step)
{
    struct unstick_task *task = departure->task;
    int r = usk_step_poll(step, task->region->dev, departure->flight.ticket, &task->result.error);

    if (r == UNSTICK_PENDING)
        return;
    departure->flight.has_ticket = false;
    departure->flight.is_up = r < 0 && r != UNSTICK_DEVICE_LOST;
    if (r == UNSTICK_OK && departure->has_slot) {
        uint64_t hash = departure_driver(departure)->hash_results[departure->slot];

        if (hash != task->hashes[departure->index]) {
            /* Taken before the next copy, it is the first hash of that one. */
            task->hashes[departure->index] = hash;
            if (++departure->n_tries < DEPARTURE_MAX_TRIES) {
                departure_to(departure, USK_DEPARTURE_SUBMIT, step);
                return;
            }
            r = departure_fail_changing(departure);
        }
    }
    if (r < 0) {
        departure_fail(departure, r);
    } else if (departure->ring) {
        usk_job_reset(&departure->job);
        departure->job.run = departure_run_job;
        usk_pool_submit(task->ctx->pool, &departure->job);
        departure_to(departure, USK_DEPARTURE_JOB, step);
    } else {
        departure_settle(departure, step);
    }
}

static void departure_step_job(struct usk_departure *departure, struct usk_step *step)
{
    if (usk_job_is_over(&departure->job))
        departure_settle(departure, step);
    else
        step->is_waiting = true;
}

/* Ends without a backup. */
static void departure_step_leave(struct usk_departure *departure, struct usk_step *step)
{
    struct usk_granule *granule = departure_granule(departure);

    if (usk_flight_bring_down(departure->task, &departure->flight, USK_LANE_DOWN, step) == USK_FLIGHT_UP) {
        step->is_waiting = true;
        return;
    }
    if (departure->blob && departure->blob == granule->blob && !departure->blob->is_filled) {
        usk_blob_unref(granule->blob);
        granule->blob = NULL;
    }
    departure_free(departure, USK_VERDICT_SKIP, step);
}

void usk_departure_begin(struct usk_departure *departure, struct unstick_task *task, uint32_t index)
{
    *departure = (struct usk_departure){ .task = task, .index = index, .stage = USK_DEPARTURE_ARENA };
    task->verdicts[index] = USK_VERDICT_COPYING;
    task->n_under_way++;
}

void usk_departure_step(struct usk_departure *departure, struct usk_step *step)
{
    bool has_to_end = departure->stage == USK_DEPARTURE_JOB ||
                      (departure->stage == USK_DEPARTURE_COPY && departure->flight.has_ticket);

    if (departure->stage != USK_DEPARTURE_FREE && !has_to_end && usk_task_is_stopping(departure->task)) {
        departure_step_leave(departure, step);
        return;
    }
    switch (departure->stage) {
    case USK_DEPARTURE_FREE:
        break;
    case USK_DEPARTURE_ARENA:
        departure_step_arena(departure, step);
        break;
    case USK_DEPARTURE_RING:
        departure_step_ring(departure, step);
        break;
    case USK_DEPARTURE_SUBMIT:
        departure_step_submit(departure, step);
        break;
    case USK_DEPARTURE_COPY:
        departure_step_copy(departure, step);
        break;
    case USK_DEPARTURE_JOB:
        departure_step_job(departure, step);
        break;
    }
}
