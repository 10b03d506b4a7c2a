/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One granule on its way to the device: its bytes are made ready in host memory that the device can read, physical
 * memory comes under its address, the copy runs, and only when that has been seen to end (and, where asked, the hash to
 * match) the granule is resident. Before that it is what it was, evicted or empty, so a failure at any point has
 * nothing to repair but the mapping.
 */
#include "task/task.h"

#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "base/size.h"

static struct usk_device *arrival_driver(const struct usk_arrival *arrival)
{
    return arrival->task->region->dev->driver;
}

static struct usk_granule *arrival_granule(const struct usk_arrival *arrival)
{
    return &arrival->task->region->granules[arrival->index];
}

static uint64_t arrival_bytes(const struct usk_arrival *arrival)
{
    return usk_region_granule_bytes(arrival->task->region, arrival->index);
}

static struct usk_backing *arrival_backing(const struct usk_arrival *arrival)
{
    return arrival->blob && arrival->blob->backing ? arrival->blob->backing : arrival->task->backing;
}

static void arrival_to(struct usk_arrival *arrival, enum usk_arrival_stage stage, struct usk_step *step)
{
    arrival->stage = stage;
    step->has_progressed = true;
}

static void arrival_fail(struct usk_arrival *arrival, int status)
{
    usk_task_fail(arrival->task, status);
}

static int arrival_fail_memory(struct usk_arrival *arrival)
{
    return usk_error_set(&arrival->task->result.error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                         "no host memory to describe a backup");
}

/* Gives back all that the granule does not keep. The copy, if there was one, is over. */
static void arrival_free(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    struct unstick_device *dev = task->region->dev;

    if (arrival->ring)
        usk_ring_put(dev->store, arrival->ring);
    if (arrival->has_backing_hold)
        usk_backing_put(arrival_backing(arrival), arrival->index);
    if (arrival->has_slot)
        usk_slots_give(dev, arrival->slot, 1);
    if (arrival->physical)
        usk_physical_unref(dev, arrival->physical, usk_queue_keeps_spares(dev, NULL), NULL);
    if (arrival->has_new_blob)
        usk_blob_unref(arrival->blob);
    else if (arrival->has_arena_hold)
        usk_arena_put(task->region->arena, arrival->index);
    arrival->stage = USK_ARRIVAL_FREE;
    task->n_under_way--;
    step->has_progressed = true;
}

/* True while an eviction that this task names may still free memory. */
static bool arrival_may_wait(const struct unstick_task *task)
{
    for (size_t i = 0; i < task->n_sources; i++) {
        if (!usk_task_is_over(task->sources[i]))
            return true;
    }
    return false;
}

/* --- bytes in host memory --- */

static void arrival_run_job(struct usk_job *job)
{
    struct usk_arrival *arrival = (struct usk_arrival *)((char *)job - offsetof(struct usk_arrival, job));
    const struct usk_blob *blob = arrival->blob;
    uint64_t bytes = arrival_bytes(arrival);
    void *data = blob->arena ? usk_arena_data(blob->arena, blob->index) : NULL;

    arrival->job_status = UNSTICK_OK;
    if (arrival_backing(arrival) && (arrival->has_new_blob || blob->tier == UNSTICK_TIER_FILE))
        arrival->job_status = usk_backing_read(arrival_backing(arrival), arrival->index, data ? data : arrival->ring,
                                               bytes, &arrival->job_error);
    if (arrival->job_status == UNSTICK_OK && data && arrival->ring)
        memcpy(arrival->ring, data, bytes);
}

static void arrival_start_job(struct usk_arrival *arrival, struct usk_step *step)
{
    usk_job_reset(&arrival->job);
    arrival->job.run = arrival_run_job;
    usk_pool_submit(arrival->task->ctx->pool, &arrival->job);
    arrival_to(arrival, USK_ARRIVAL_JOB, step);
}

/* Memory first: who waits for an eviction with a buffer in hand keeps that buffer from the eviction. */
static void arrival_through_ring(struct usk_arrival *arrival, struct usk_step *step)
{
    arrival->needs_ring = true;
    arrival_to(arrival, USK_ARRIVAL_MEMORY, step);
}

/* Where the bytes of a known blob come from. */
static void arrival_route(struct usk_arrival *arrival, struct usk_step *step)
{
    const struct usk_blob *blob = arrival->blob;

    if (!blob || (blob->tier == UNSTICK_TIER_PINNED && !arrival->has_new_blob))
        arrival_to(arrival, USK_ARRIVAL_MEMORY, step);
    else if (blob->tier == UNSTICK_TIER_PINNED)
        arrival_start_job(arrival, step);
    else if (blob->tier == UNSTICK_TIER_FILE && usk_backing_is_direct(arrival_backing(arrival)))
        arrival_to(arrival, USK_ARRIVAL_PIN, step);
    else
        arrival_through_ring(arrival, step);
}

static void arrival_step_arena(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    struct usk_arena *arena = task->region->arena;
    int r;

    if (!arrival->has_arena_hold) {
        r = usk_arena_get(arena, arrival->index, &task->result.error);
        arrival->has_arena_hold = r >= 0;
    } else {
        r = usk_arena_poll(arena, arrival->index, &task->result.error);
    }
    if (r == UNSTICK_PENDING || (r == UNSTICK_HOST_BUDGET && usk_queue_frees_host_memory(task))) {
        step->is_waiting = true;
        return;
    }
    if (r == UNSTICK_OK) {
        arrival->blob = usk_blob_new_arena(arena, arrival->index);
        if (!arrival->blob)
            r = arrival_fail_memory(arrival);
    }
    if (r < 0) {
        arrival_fail(arrival, r);
        return;
    }
    arrival->has_new_blob = true;
    arrival_route(arrival, step);
}

/*
 * Registering a file is slower than the link, the more so the smaller its pieces are in the page cache (24 to 45 GB/s),
 * and only one thread does it at a time. A load, which has all of it to do, reads through the ring what would have to
 * wait, and both together keep the link busy. What was read is registered when the load is over.
 */
static bool arrival_may_read(struct usk_arrival *arrival)
{
    return arrival->task->kind == USK_TASK_LOAD && !arrival->has_backing_hold &&
           usk_backing_is_behind(arrival_backing(arrival), arrival->index);
}

static void arrival_step_pin(struct usk_arrival *arrival, struct usk_step *step)
{
    struct usk_backing *backing = arrival_backing(arrival);
    struct unstick_error error = { 0 };
    int r;

    if (arrival_may_read(arrival) && !arrival_may_wait(arrival->task) &&
        usk_ring_try(arrival->task->region->dev->store, &arrival->ring)) {
        arrival_start_job(arrival, step);
        return;
    }
    if (!arrival->has_backing_hold) {
        r = usk_backing_get(backing, arrival->index, &error);
        arrival->has_backing_hold = r >= 0;
    } else {
        r = usk_backing_poll(backing, arrival->index, &error);
    }
    if (r == UNSTICK_PENDING) {
        step->is_waiting = true;
    } else if (r == UNSTICK_OK) {
        arrival->is_direct = true;
        arrival_to(arrival, USK_ARRIVAL_MEMORY, step);
    } else if (r == UNSTICK_UNSUPPORTED) {
        arrival_through_ring(arrival, step);
    } else {
        arrival->task->result.error = error;
        arrival_fail(arrival, r);
    }
}

static void arrival_step_ring(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    int r = usk_ring_get(task->region->dev->store, &arrival->ring, &task->result.error);

    if (r == UNSTICK_PENDING)
        step->is_waiting = true;
    else if (r == UNSTICK_OK)
        arrival_start_job(arrival, step);
    else
        arrival_fail(arrival, r);
}

static void arrival_step_job(struct usk_arrival *arrival, struct usk_step *step)
{
    if (!usk_job_is_over(&arrival->job)) {
        step->is_waiting = true;
        return;
    }
    if (arrival->job_status < 0) {
        arrival->task->result.error = arrival->job_error;
        arrival_fail(arrival, arrival->job_status);
        return;
    }
    arrival_to(arrival, arrival_granule(arrival)->physical ? USK_ARRIVAL_SUBMIT : USK_ARRIVAL_MEMORY, step);
}

/* --- memory on the device --- */

static void arrival_step_memory(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    struct unstick_error error = { 0 };
    int r = UNSTICK_OK;

    if (!arrival->physical) {
        /* Asked before the attempt: what a source freed after that is still found by it. */
        bool may_wait = arrival_may_wait(task);

        if (!usk_step_may_call(step, task->region->dev, "create"))
            return;
        /* What is free now may be what another request counts on, and this one's share is still on its way. */
        if (may_wait && !usk_physical_is_at_hand(task->region->dev, arrival_bytes(arrival))) {
            step->is_waiting = true;
            return;
        }
        r = usk_physical_acquire(task->region->dev, arrival_bytes(arrival), &arrival->physical, &error);
        if (r == UNSTICK_OUT_OF_DEVICE_MEMORY && may_wait) {
            step->is_waiting = true;
            return;
        }
    }
    if (r == UNSTICK_OK) {
        if (!usk_step_may_call(step, task->region->dev, "bring"))
            return;
        r = usk_granule_bring(task->region, arrival->index, arrival->physical, &error);
    }
    if (r == UNSTICK_BUSY && arrival->n_busy++ < USK_TASK_MAX_BUSY) {
        step->is_waiting = true;
        return;
    }
    if (r < 0) {
        task->result.error = error;
        arrival_fail(arrival, r);
        return;
    }
    arrival->physical = NULL;
    arrival_to(arrival, arrival->needs_ring ? USK_ARRIVAL_RING : USK_ARRIVAL_SUBMIT, step);
}

/* --- the copy --- */

static bool arrival_wants_hash(const struct usk_arrival *arrival)
{
    const struct unstick_task *task = arrival->task;

    if (!arrival_driver(arrival)->caps.can_hash || !arrival->blob)
        return false;
    if (!arrival->blob->has_hash)
        return arrival->has_new_blob;
    /* What a file holds is not ours to be sure of. */
    return (task->flags & UNSTICK_TASK_VERIFY) || arrival->blob->tier == UNSTICK_TIER_FILE;
}

static int arrival_submit_direct(struct usk_arrival *arrival, uint64_t address)
{
    struct usk_device *driver = arrival_driver(arrival);
    struct usk_backing *backing = arrival_backing(arrival);
    struct unstick_error *error = &arrival->task->result.error;
    const struct usk_run *runs;
    size_t n_runs = usk_backing_runs(backing, arrival->index, &runs);
    int r = UNSTICK_OK;

    /* Also where the granule is longer than what the files fill of it, whether the region has grown since or not. */
    if (usk_backing_has_gaps(backing, arrival->index, arrival_bytes(arrival)))
        r = driver->ops->fill(driver, USK_LANE_UP, address, 0, arrival_bytes(arrival), error);
    for (size_t i = 0; i < n_runs && r == UNSTICK_OK; i++)
        r = driver->ops->copy_up(driver, USK_LANE_UP, address + runs[i].offset, runs[i].host, runs[i].bytes, error);
    return r;
}

static int arrival_submit_copy(struct usk_arrival *arrival, uint64_t address)
{
    struct usk_device *driver = arrival_driver(arrival);
    struct unstick_error *error = &arrival->task->result.error;
    uint64_t bytes = arrival_bytes(arrival);

    if (!arrival->blob)
        return driver->ops->fill(driver, USK_LANE_UP, address, 0, bytes, error);
    if (arrival->is_direct)
        return arrival_submit_direct(arrival, address);
    return driver->ops->copy_up(driver, USK_LANE_UP, address,
                                arrival->ring ? arrival->ring : usk_arena_data(arrival->blob->arena, arrival->index),
                                bytes, error);
}

static int arrival_submit(struct usk_arrival *arrival)
{
    struct usk_device *driver = arrival_driver(arrival);
    struct unstick_error *error = &arrival->task->result.error;
    uint64_t address = usk_region_granule_address(arrival->task->region, arrival->index);
    enum usk_lane last = USK_LANE_UP;
    int r;

    /* From the first call on something may run, whatever that call says. */
    arrival->flight.is_up = true;
    r = arrival_submit_copy(arrival, address);
    if (r == UNSTICK_OK && arrival->has_slot) {
        last = USK_LANE_HASH;
        r = driver->ops->order(driver, USK_LANE_HASH, USK_LANE_UP, error);
        if (r == UNSTICK_OK)
            r = driver->ops->hash(driver, USK_LANE_HASH, address, arrival_bytes(arrival), 1, arrival->slot, error);
    }
    if (r == UNSTICK_OK)
        r = driver->ops->mark(driver, last, &arrival->flight.ticket, error);
    arrival->flight.has_ticket = r == UNSTICK_OK;
    return r;
}

static void arrival_step_submit(struct usk_arrival *arrival, struct usk_step *step)
{
    int r;

    if (!arrival->has_slot && arrival_wants_hash(arrival)) {
        arrival->has_slot = usk_slots_take(arrival->task->region->dev, 1, &arrival->slot);
        if (!arrival->has_slot) {
            step->is_waiting = true;
            return;
        }
    }
    if (!usk_step_may_call(step, arrival->task->region->dev, "copy"))
        return;
    r = arrival_submit(arrival);
    if (r < 0)
        arrival_fail(arrival, r);
    else
        arrival_to(arrival, USK_ARRIVAL_COPY, step);
}

static int arrival_check_hash(struct usk_arrival *arrival, bool *ret_again)
{
    struct unstick_task *task = arrival->task;
    uint64_t hash = arrival_driver(arrival)->hash_results[arrival->slot];

    *ret_again = false;
    if (!arrival->blob->has_hash) {
        arrival->blob->hash = hash;
        arrival->blob->has_hash = true;
        return UNSTICK_OK;
    }
    if (hash == arrival->blob->hash)
        return UNSTICK_OK;
    if (!arrival->is_second_try) {
        arrival->is_second_try = *ret_again = true;
        return UNSTICK_OK;
    }
    return usk_error_set(&task->result.error,
                         arrival->blob->tier == UNSTICK_TIER_FILE ? UNSTICK_BACKUP_CHANGED : UNSTICK_MISMATCH, 0,
                         "unstick_region_restore",
                         "granule %u of the region %s differs from what was backed up, twice; it stays evicted",
                         arrival->index, task->region->name);
}

static void arrival_settle(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    struct usk_granule *granule = arrival_granule(arrival);

    granule->place = USK_PLACE_RESIDENT;
    if (arrival->has_new_blob) {
        granule->blob = arrival->blob;
        granule->blob->is_filled = true;
        arrival->has_new_blob = false;
        arrival->has_arena_hold = false;
    }
    task->has_come[arrival->index] = true;
    task->result.done_bytes += arrival_bytes(arrival);
    arrival_free(arrival, step);
}

static void arrival_step_copy(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    bool is_again = false;
    int r = usk_step_poll(step, task->region->dev, arrival->flight.ticket, &task->result.error);

    if (r == UNSTICK_PENDING)
        return;
    arrival->flight.has_ticket = false;
    arrival->flight.is_up = r < 0 && r != UNSTICK_DEVICE_LOST;
    if (r == UNSTICK_OK && arrival->has_slot)
        r = arrival_check_hash(arrival, &is_again);
    if (r < 0)
        arrival_fail(arrival, r);
    else if (is_again)
        arrival_to(arrival, USK_ARRIVAL_SUBMIT, step);
    else
        arrival_settle(arrival, step);
}

/* --- the way back --- */

/* The memory under the granule cannot be taken away: it is lost to us, its contents are not. */
static void arrival_poison(struct usk_arrival *arrival)
{
    struct usk_granule *granule = arrival_granule(arrival);
    struct unstick_device *dev = arrival->task->region->dev;

    usk_physical_poison(dev, granule->physical);
    granule->physical = NULL;
    if (!atomic_load(&dev->is_lost))
        granule->place = USK_PLACE_POISONED;
}

/* Undoes what there is to undo, one stage at a time; what a stage has begun is first seen to end. */
static void arrival_step_leave(struct usk_arrival *arrival, struct usk_step *step)
{
    struct unstick_task *task = arrival->task;
    enum usk_flight_end end;
    int r = UNSTICK_OK;

    if (arrival->stage == USK_ARRIVAL_JOB && !usk_job_is_over(&arrival->job)) {
        step->is_waiting = true;
        return;
    }
    end = usk_flight_bring_down(task, &arrival->flight, USK_LANE_UP, step);
    if (end == USK_FLIGHT_UP) {
        step->is_waiting = true;
        return;
    }
    if (end == USK_FLIGHT_MISSING && arrival_granule(arrival)->physical) {
        arrival_poison(arrival);
    } else if (arrival_granule(arrival)->physical) {
        if (!usk_step_may_call(step, arrival->task->region->dev, "take"))
            return;
        r = usk_granule_take(task->region, arrival->index, usk_queue_keeps_spares(task->region->dev, NULL), NULL);
        if (r == UNSTICK_BUSY && arrival->n_busy++ < USK_TASK_MAX_BUSY) {
            step->is_waiting = true;
            return;
        }
        if (r == UNSTICK_BUSY)
            r = usk_granule_give_up(task->region, arrival->index, NULL);
        if (r < 0)
            arrival_poison(arrival);
    }
    arrival_free(arrival, step);
}

void usk_arrival_begin(struct usk_arrival *arrival, struct unstick_task *task, uint32_t index)
{
    struct usk_granule *granule = &task->region->granules[index];

    *arrival = (struct usk_arrival){ .task = task, .index = index, .blob = granule->blob };
    task->n_under_way++;
    arrival->stage = USK_ARRIVAL_ARENA;
    if (task->kind == USK_TASK_LOAD && task->tier == UNSTICK_TIER_FILE) {
        arrival->blob = usk_blob_new_file(task->backing, index);
        arrival->has_new_blob = arrival->blob;
        if (!arrival->blob)
            arrival_fail(arrival, arrival_fail_memory(arrival));
    }
}

void usk_arrival_step(struct usk_arrival *arrival, struct usk_step *step)
{
    bool has_to_end = arrival->stage == USK_ARRIVAL_COPY && arrival->flight.has_ticket;

    if (arrival->stage != USK_ARRIVAL_FREE && !has_to_end && usk_task_is_stopping(arrival->task)) {
        arrival_step_leave(arrival, step);
        return;
    }
    switch (arrival->stage) {
    case USK_ARRIVAL_FREE:
        break;
    case USK_ARRIVAL_ARENA:
        if (arrival->task->kind == USK_TASK_LOAD && !arrival->has_new_blob)
            arrival_step_arena(arrival, step);
        else
            arrival_route(arrival, step);
        break;
    case USK_ARRIVAL_PIN:
        arrival_step_pin(arrival, step);
        break;
    case USK_ARRIVAL_RING:
        arrival_step_ring(arrival, step);
        break;
    case USK_ARRIVAL_JOB:
        arrival_step_job(arrival, step);
        break;
    case USK_ARRIVAL_MEMORY:
        arrival_step_memory(arrival, step);
        break;
    case USK_ARRIVAL_SUBMIT:
        arrival_step_submit(arrival, step);
        break;
    case USK_ARRIVAL_COPY:
        arrival_step_copy(arrival, step);
        break;
    }
}
