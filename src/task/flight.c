/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was submitted to the device is in flight until a ticket behind it has passed, whatever the calls said: a copy
 * may run although the mark behind it failed, and one that failed when it was polled may not be the last that runs. As
 * long as something is in flight, nothing that it touches is used for anything else: not the memory on either side, not
 * the slot of a hash, not the registration.
 */
#include "task/task.h"

/* A hash may follow the copy in a lane of its own, so the ticket is behind both. */
static int flight_mark(struct usk_device *driver, enum usk_lane lane, uint64_t *ret_ticket)
{
    int r = UNSTICK_OK;

    if (lane != USK_LANE_HASH)
        r = driver->ops->order(driver, USK_LANE_HASH, lane, NULL);
    return r < 0 ? r : driver->ops->mark(driver, USK_LANE_HASH, ret_ticket, NULL);
}

enum usk_flight_end usk_flight_bring_down(struct unstick_task *task, struct usk_flight *flight, enum usk_lane lane,
                                          struct usk_step *step)
{
    struct usk_device *driver = task->region->dev->driver;
    int r;

    if (!flight->is_up)
        return USK_FLIGHT_DOWN;
    if (!usk_step_has_time(step, "look after work that failed"))
        return USK_FLIGHT_UP;
    if (!flight->has_ticket) {
        r = flight_mark(driver, lane, &flight->ticket);
        flight->has_ticket = r == UNSTICK_OK;
    }
    if (flight->has_ticket) {
        r = usk_device_poll(driver, flight->ticket, NULL);
        flight->has_ticket = r == UNSTICK_PENDING;
    }
    if (r == UNSTICK_PENDING)
        return USK_FLIGHT_UP;
    flight->is_up = r != UNSTICK_OK && r != UNSTICK_DEVICE_LOST;
    if (!flight->is_up)
        return USK_FLIGHT_DOWN;
    if (++flight->n_marks < USK_TASK_MAX_MARKS && !atomic_load(&task->region->dev->is_lost))
        return USK_FLIGHT_UP;
    usk_task_give_device_up(task);
    return USK_FLIGHT_MISSING;
}
