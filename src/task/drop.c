/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Discard, revoke and release: contents and backups go, the addresses stay and lead to the sentinel. A discarded
 * region can be filled again, a revoked or released one cannot.
 *
 * Device memory goes first, all of it, and backups then.
 */
#include "task/task.h"

static int drop_one(struct unstick_task *task, uint32_t index, bool to_spare)
{
    struct usk_granule *granule = &task->region->granules[index];
    int r = UNSTICK_OK;

    if (granule->physical) {
        r = usk_granule_take(task->region, index, to_spare, &task->result.error);
        if (r == UNSTICK_BUSY && task->n_busy++ < USK_TASK_MAX_BUSY)
            return UNSTICK_PENDING;
        if (r == UNSTICK_BUSY)
            r = usk_granule_give_up(task->region, index, &task->result.error);
        if (r < 0)
            return r;
        task->result.done_bytes += usk_region_granule_bytes(task->region, index);
    }
    usk_blob_take(granule, &task->dropped);
    if (granule->place != USK_PLACE_POISONED)
        granule->place = USK_PLACE_EMPTY;
    return UNSTICK_OK;
}

/* A failure of one granule does not keep the others. True when all were tried. */
static bool drop_work(struct unstick_task *task, struct usk_step *step)
{
    bool to_spare = (task->flags & UNSTICK_TASK_HAND_OVER) || usk_queue_keeps_spares(task->region->dev, task);

    for (unsigned int n_moves = 0; n_moves < USK_TASK_MOVES_PER_STEP; task->cursor++) {
        int r;

        if (task->cursor == task->region->n_reserved) {
            usk_blob_unref_all(&task->dropped);
            return true;
        }
        if (task->region->granules[task->cursor].physical) {
            if (!usk_step_may_call(step, task->region->dev, "take"))
                return false;
            n_moves++;
        }
        r = drop_one(task, task->cursor, to_spare);
        if (r == UNSTICK_PENDING) {
            step->is_waiting = true;
            return false;
        }
        if (r < 0)
            usk_task_fail(task, r);
    }
    step->has_progressed = true;
    return false;
}

static void drop_begin(struct unstick_task *task)
{
    struct unstick_region *region = task->region;

    for (uint32_t i = 0; i < region->n_reserved; i++) {
        if (region->granules[i].physical)
            task->result.total_bytes += usk_region_granule_bytes(region, i);
    }
    if (task->kind == USK_TASK_DISCARD)
        return;
    usk_context_lock(task->ctx);
    region->is_revoked = true;
    usk_context_unlock(task->ctx);
}

static int drop_end(struct unstick_task *task)
{
    if (task->has_ticket)
        usk_device_drop(task->region->dev->driver, task->ticket);
    usk_region_trim(task->region);
    return task->failure;
}

int usk_drop_step(struct unstick_task *task, struct usk_step *step)
{
    int r;

    if (task->phase != USK_PHASE_WORK && usk_task_is_stopping(task))
        return drop_end(task);

    switch (task->phase) {
    case USK_PHASE_QUEUED:
    case USK_PHASE_BEGIN:
        drop_begin(task);
        task->phase = task->kind == USK_TASK_RELEASE || task->fence == UNSTICK_FENCE_NONE ? USK_PHASE_WORK
                                                                                          : USK_PHASE_FENCE;
        step->has_progressed = true;
        return UNSTICK_PENDING;
    case USK_PHASE_FENCE:
        r = usk_fence_step(task, step);
        if (r == UNSTICK_PENDING)
            return r;
        if (r < 0) {
            usk_task_fail(task, r);
            return drop_end(task);
        }
        task->phase = USK_PHASE_WORK;
        return UNSTICK_PENDING;
    default:
        return drop_work(task, step) ? drop_end(task) : UNSTICK_PENDING;
    }
}
