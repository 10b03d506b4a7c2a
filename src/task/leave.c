/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backup and evict. Both hash what is resident, in runs of neighbours, and copy what has no valid backup; an eviction
 * then takes the memory of every granule whose backup is valid, while later ones are still hashed and copied. The order
 * hash, compare, take is safe because nobody may use the region from the submission of an eviction to its end, and what
 * was launched before has passed the fence.
 */
#include "task/task.h"

#include "base/error.h"
#include "base/math.h"

static struct usk_device *leave_driver(const struct unstick_task *task)
{
    return task->region->dev->driver;
}

/* Whether the blob that a granule has is of the kind that is asked for. */
static bool leave_is_in_place(const struct unstick_task *task, const struct usk_granule *granule)
{
    if (!granule->blob || !granule->blob->is_filled || !granule->blob->has_hash)
        return false;
    if (task->kind == USK_TASK_EVICT || task->tier == UNSTICK_TIER_AUTO || task->tier == UNSTICK_TIER_FILE)
        return true;
    return granule->blob->tier != UNSTICK_TIER_FILE;
}

/* Marks what this task is about: everything resident, or the last granules that make up max_bytes. */
static void leave_select(struct unstick_task *task)
{
    uint64_t limit = task->kind == USK_TASK_EVICT && task->max_bytes ? task->max_bytes : UINT64_MAX;
    bool can_hash = leave_driver(task)->caps.can_hash;
    uint32_t index = task->region->n_reserved;

    task->cursor = task->take_cursor = task->region->n_reserved;
    while (index-- && task->result.total_bytes < limit) {
        if (task->region->granules[index].place != USK_PLACE_RESIDENT)
            continue;
        task->verdicts[index] = can_hash ? USK_VERDICT_UNKNOWN : USK_VERDICT_COPY;
        task->result.total_bytes += usk_region_granule_bytes(task->region, index);
        task->n_left++;
        task->cursor = task->take_cursor = index;
    }
    task->result.is_hash_missing = !can_hash;
}

static int leave_begin(struct unstick_task *task)
{
    struct unstick_region *region = task->region;
    enum unstick_tier tier = task->tier == UNSTICK_TIER_PAGEABLE ? UNSTICK_TIER_PAGEABLE : UNSTICK_TIER_PINNED;

    leave_select(task);
    if (!task->n_left || region->arena)
        return UNSTICK_OK;
    /* Takes no memory before a granule is copied. */
    return usk_arena_new(region->dev->store, region->dev->granule_bytes, region->reserve_bytes, tier, &region->arena,
                         &task->result.error);
}

/* --- hashes --- */

static int leave_submit_batch(struct unstick_task *task, struct usk_hash_batch *batch)
{
    struct usk_device *driver = leave_driver(task);
    struct unstick_error *error = &task->result.error;
    int r;

    batch->flight.is_up = true;
    r = driver->ops->hash(driver, USK_LANE_HASH, usk_region_granule_address(task->region, batch->first),
                          usk_region_granule_bytes(task->region, batch->first), batch->n, batch->slot, error);
    if (r == UNSTICK_OK)
        r = driver->ops->mark(driver, USK_LANE_HASH, &batch->flight.ticket, error);
    batch->flight.has_ticket = r == UNSTICK_OK;
    return r;
}

static void leave_admit_batch(struct unstick_task *task, struct usk_hash_batch *batch, struct usk_step *step)
{
    uint32_t first = task->cursor, n = 0;
    int r;

    while (first < task->region->n_reserved && task->verdicts[first] != USK_VERDICT_UNKNOWN)
        first++;
    task->cursor = first;
    while (n < USK_TASK_HASH_BATCH && first + n < task->region->n_reserved &&
           task->verdicts[first + n] == USK_VERDICT_UNKNOWN &&
           usk_region_granule_bytes(task->region, first + n) == usk_region_granule_bytes(task->region, first))
        n++;
    if (!n)
        return;
    if (!usk_step_may_call(step, task->region->dev, "hash"))
        return;
    *batch = (struct usk_hash_batch){ .first = first, .n = n };
    if (!usk_slots_take(task->region->dev, n, &batch->slot)) {
        step->is_waiting = true;
        return;
    }
    r = leave_submit_batch(task, batch);
    if (r < 0)
        usk_task_fail(task, r);
    batch->is_used = true;
    task->cursor += n;
    for (uint32_t i = 0; i < n; i++)
        task->verdicts[first + i] = USK_VERDICT_HASHING;
    step->has_progressed = true;
}

static void leave_judge(struct unstick_task *task, uint32_t index, uint64_t hash)
{
    const struct usk_granule *granule = &task->region->granules[index];
    bool is_clean = leave_is_in_place(task, granule) && granule->blob->hash == hash;

    task->hashes[index] = hash;
    task->verdicts[index] = is_clean ? USK_VERDICT_CLEAN : USK_VERDICT_COPY;
}

static void leave_step_batch(struct unstick_task *task, struct usk_hash_batch *batch, struct usk_step *step)
{
    struct usk_device *driver = leave_driver(task);
    int r;

    if (!batch->is_used) {
        if (!usk_task_is_stopping(task))
            leave_admit_batch(task, batch, step);
        return;
    }
    if (batch->flight.has_ticket) {
        r = usk_step_poll(step, task->region->dev, batch->flight.ticket, &task->result.error);
        if (r == UNSTICK_PENDING)
            return;
        batch->flight.has_ticket = false;
        batch->flight.is_up = r < 0 && r != UNSTICK_DEVICE_LOST;
        for (uint32_t i = 0; i < batch->n && r == UNSTICK_OK; i++)
            leave_judge(task, batch->first + i, driver->hash_results[batch->slot + i]);
        if (r < 0)
            usk_task_fail(task, r);
    }
    /* A hash that may run reads memory that the next task may take away. */
    if (usk_flight_bring_down(task, &batch->flight, USK_LANE_HASH, step) == USK_FLIGHT_UP) {
        step->is_waiting = true;
        return;
    }
    usk_slots_give(task->region->dev, batch->slot, batch->n);
    batch->is_used = false;
    step->has_progressed = true;
}

/* --- copies --- */

/* The next granule that has to be copied; the ones before `cursor` have been judged or are about to be. */
static bool leave_find(const struct unstick_task *task, enum usk_verdict verdict, uint32_t *ret_index)
{
    for (uint32_t i = task->take_cursor; i < task->region->n_reserved; i++) {
        if (task->verdicts[i] == verdict) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

static void leave_copy(struct unstick_task *task, struct usk_step *step)
{
    uint32_t index;

    for (uint32_t i = 0; i < USK_TASK_WINDOW; i++) {
        usk_departure_step(&task->departures[i], step);
        if (task->departures[i].stage == USK_DEPARTURE_FREE && !usk_task_is_stopping(task) &&
            leave_find(task, USK_VERDICT_COPY, &index)) {
            usk_departure_begin(&task->departures[i], task, index);
            step->has_progressed = true;
        }
    }
}

/* --- taking --- */

static void leave_account_taken(struct unstick_task *task, uint32_t index)
{
    task->region->granules[index].place = USK_PLACE_EVICTED;
    task->verdicts[index] = USK_VERDICT_SKIP;
    task->result.done_bytes += usk_region_granule_bytes(task->region, index);
    task->n_left--;
}

static void leave_take(struct unstick_task *task, struct usk_step *step)
{
    bool to_spare = (task->flags & UNSTICK_TASK_HAND_OVER) || usk_queue_keeps_spares(task->region->dev, task);
    unsigned int n_moves = 0;

    for (uint32_t i = task->take_cursor; i < task->region->n_reserved && n_moves < USK_TASK_MOVES_PER_STEP; i++) {
        int r;

        if (task->verdicts[i] != USK_VERDICT_CLEAN)
            continue;
        if (task->kind == USK_TASK_BACKUP) {
            task->verdicts[i] = USK_VERDICT_SKIP;
            task->n_left--;
            continue;
        }
        if (!usk_step_may_call(step, task->region->dev, "take"))
            return;
        n_moves++;
        r = usk_granule_take(task->region, i, to_spare, &task->result.error);
        if (r == UNSTICK_BUSY && task->n_busy++ < USK_TASK_MAX_BUSY) {
            step->is_waiting = true;
            return;
        }
        if (r == UNSTICK_BUSY)
            r = usk_granule_give_up(task->region, i, &task->result.error);
        if (r < 0) {
            usk_task_fail(task, r);
            return;
        }
        leave_account_taken(task, i);
        step->has_progressed = true;
    }
    while (task->take_cursor < task->region->n_reserved && task->verdicts[task->take_cursor] == USK_VERDICT_SKIP)
        task->take_cursor++;
}

/* A task that stops while the driver asks to be asked again has a granule without an address: one way or the other. */
static void leave_finish_half(struct unstick_task *task)
{
    for (uint32_t i = task->take_cursor; i < task->region->n_reserved; i++) {
        const struct usk_granule *granule = &task->region->granules[i];

        if (granule->physical && granule->is_bare && usk_granule_give_up(task->region, i, NULL) == UNSTICK_OK)
            leave_account_taken(task, i);
    }
}

/* An eviction that a lease is waiting for gives way. */
static void leave_check_wanted(struct unstick_task *task)
{
    bool is_wanted;

    if (task->kind != USK_TASK_EVICT)
        return;
    usk_context_lock(task->ctx);
    is_wanted = task->region->is_wanted;
    usk_context_unlock(task->ctx);
    if (is_wanted)
        atomic_store(&task->is_canceled, true);
}

static bool leave_is_idle(const struct unstick_task *task)
{
    return !task->n_under_way && !task->batches[0].is_used && !task->batches[1].is_used;
}

static bool leave_work(struct unstick_task *task, struct usk_step *step)
{
    for (size_t i = 0; i < 2; i++)
        leave_step_batch(task, &task->batches[i], step);
    leave_copy(task, step);
    if (!usk_task_is_stopping(task))
        leave_take(task, step);
    if (usk_task_is_stopping(task))
        leave_finish_half(task);
    return leave_is_idle(task) && (task->failure || !task->n_left);
}

static int leave_end(struct unstick_task *task)
{
    if (task->has_ticket)
        usk_device_drop(leave_driver(task), task->ticket);
    if (task->kind == USK_TASK_EVICT && task->result.done_bytes)
        task->region->was_evicted = true;
    return task->failure;
}

int usk_leave_step(struct unstick_task *task, struct usk_step *step)
{
    int r;

    leave_check_wanted(task);
    if (task->phase != USK_PHASE_WORK && usk_task_is_stopping(task))
        return leave_end(task);

    switch (task->phase) {
    case USK_PHASE_QUEUED:
    case USK_PHASE_BEGIN:
        task->phase = task->kind == USK_TASK_EVICT ? USK_PHASE_FENCE : USK_PHASE_WORK;
        r = leave_begin(task);
        break;
    case USK_PHASE_FENCE:
        r = task->fence == UNSTICK_FENCE_NONE ? UNSTICK_OK : usk_fence_step(task, step);
        if (r == UNSTICK_PENDING)
            return r;
        task->phase = USK_PHASE_WORK;
        break;
    default:
        if (leave_work(task, step))
            return leave_end(task);
        return UNSTICK_PENDING;
    }
    step->has_progressed = true;
    if (r < 0)
        usk_task_fail(task, r);
    return r < 0 ? leave_end(task) : UNSTICK_PENDING;
}
