/* SPDX-License-Identifier: Apache-2.0 */
/* Before memory goes away: the streams of ended leases, or all work on the device, must have passed. */
#include "task/task.h"

static bool fence_is_wide(struct unstick_task *task)
{
    bool has_been_leased;

    if (task->fence != UNSTICK_FENCE_DEFAULT)
        return task->fence == UNSTICK_FENCE_DEVICE;
    usk_context_lock(task->ctx);
    has_been_leased = task->region->has_been_leased;
    usk_context_unlock(task->ctx);
    return !has_been_leased;
}

int usk_fence_step(struct unstick_task *task, struct usk_step *step)
{
    struct unstick_device *dev = task->region->dev;
    int r;

    if (!usk_step_has_time(step, "fences"))
        return UNSTICK_PENDING;
    r = usk_region_poll_fences(task->region, step->deadline_ns, &task->result.error);
    if (r == UNSTICK_OK && fence_is_wide(task)) {
        if (!task->has_ticket) {
            if (!usk_step_may_call(step, dev, "fence"))
                return UNSTICK_PENDING;
            r = dev->driver->ops->fence_device(dev->driver, &task->ticket, &task->result.error);
        }
        if (r == UNSTICK_OK) {
            task->has_ticket = true;
            r = usk_step_poll(step, dev, task->ticket, &task->result.error);
            task->has_ticket = r == UNSTICK_PENDING;
        }
    }
    step->is_waiting |= r == UNSTICK_PENDING;
    step->has_progressed |= r != UNSTICK_PENDING;
    return r;
}
