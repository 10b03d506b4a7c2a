/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load and restore: granules come to the device, first ones first, a window of them under way at a time, so that
 * mapping the next ones hides behind the copies of those before. A restore that fails keeps what has come, except when
 * memory was short: then it is better to have given it all back. A load that fails leaves nothing.
 */
#include "task/task.h"

#include <stdio.h>

#include "base/error.h"
#include "base/math.h"
#include "base/size.h"

static bool arrive_wants(const struct unstick_task *task, uint32_t index)
{
    enum usk_place place = task->region->granules[index].place;

    return place == USK_PLACE_EMPTY || place == USK_PLACE_EVICTED;
}

/* The bytes that the task sets out to bring. */
static uint64_t arrive_sum(const struct unstick_task *task)
{
    uint64_t sum = 0, limit = task->kind == USK_TASK_RESTORE && task->max_bytes ? task->max_bytes : UINT64_MAX;

    for (uint32_t i = 0; i < usk_region_n_granules(task->region) && sum < limit; i++) {
        if (arrive_wants(task, i))
            sum += usk_region_granule_bytes(task->region, i);
    }
    return sum;
}

static int arrive_fail_shortage(struct unstick_task *task, uint64_t required, uint64_t available)
{
    char asked[USK_SIZE_TEXT_MAX], there[USK_SIZE_TEXT_MAX], missing[USK_SIZE_TEXT_MAX];

    task->result.missing_bytes = required - available;
    usk_error_set(&task->result.error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "unstick_region_restore",
                  "the region %s needs %s on the device, %s is there: %s is missing; evict something first",
                  task->region->name, usk_size_format(asked, required), usk_size_format(there, available),
                  usk_size_format(missing, required - available));
    usk_error_shortage(&task->result.error, required, available);
    return UNSTICK_OUT_OF_DEVICE_MEMORY;
}

static int arrive_begin_load(struct unstick_task *task)
{
    struct unstick_region *region = task->region;
    enum unstick_tier tier = task->tier;

    for (uint32_t i = 0; i < usk_region_n_granules(region); i++) {
        if (region->granules[i].place != USK_PLACE_EMPTY)
            return usk_error_set(&task->result.error, UNSTICK_BUSY, 0, "unstick_region_load",
                                 "the region %s has contents already; discard them first", region->name);
    }
    if (tier == UNSTICK_TIER_AUTO)
        tier = usk_backing_is_direct(task->backing) ? UNSTICK_TIER_FILE : UNSTICK_TIER_PINNED;
    task->tier = tier;
    if (tier == UNSTICK_TIER_FILE || region->arena)
        return UNSTICK_OK;
    return usk_arena_new(region->dev->store, region->dev->granule_bytes, region->reserve_bytes, tier, &region->arena,
                         &task->result.error);
}

static int arrive_begin(struct unstick_task *task)
{
    struct unstick_region *region = task->region;
    uint64_t required, room;
    int r = UNSTICK_OK;

    if (task->kind == USK_TASK_LOAD)
        r = arrive_begin_load(task);
    else if (region->backing)
        r = usk_backing_check(region->backing, &task->result.error);
    if (r < 0)
        return r;
    required = arrive_sum(task);
    task->result.total_bytes = required;
    task->budget_bytes = required;
    room = task->n_sources ? UINT64_MAX : usk_device_room_bytes(region->dev);
    return required > room ? arrive_fail_shortage(task, required, room) : UNSTICK_OK;
}

static void arrive_admit(struct unstick_task *task, struct usk_step *step)
{
    uint32_t n = usk_region_n_granules(task->region);

    for (uint32_t i = 0; i < USK_TASK_WINDOW && task->budget_bytes; i++) {
        uint64_t bytes;

        if (task->arrivals[i].stage != USK_ARRIVAL_FREE)
            continue;
        while (task->cursor < n && !arrive_wants(task, task->cursor))
            task->cursor++;
        if (task->cursor == n) {
            task->budget_bytes = 0;
            return;
        }
        bytes = usk_region_granule_bytes(task->region, task->cursor);
        task->budget_bytes -= usk_min(bytes, task->budget_bytes);
        usk_arrival_begin(&task->arrivals[i], task, task->cursor++);
        step->has_progressed = true;
    }
}

static bool arrive_work(struct unstick_task *task, struct usk_step *step)
{
    for (uint32_t i = 0; i < USK_TASK_WINDOW; i++)
        usk_arrival_step(&task->arrivals[i], step);
    if (!usk_task_is_stopping(task))
        arrive_admit(task, step);
    return !task->n_under_way && (task->failure || !task->budget_bytes);
}

/* The file may have been written while it was read. */
static void arrive_check_file(struct unstick_task *task)
{
    int r;

    if (task->failure || task->kind != USK_TASK_LOAD)
        return;
    r = usk_backing_check(task->backing, &task->result.error);
    if (r < 0)
        usk_task_fail(task, r);
}

/* What a failure leaves on the device. */
static bool arrive_must_undo(const struct unstick_task *task)
{
    return task->failure && (task->kind == USK_TASK_LOAD || task->failure == UNSTICK_OUT_OF_DEVICE_MEMORY);
}

static void arrive_undo_one(struct unstick_task *task, uint32_t index)
{
    struct usk_granule *granule = &task->region->granules[index];

    if (task->kind == USK_TASK_LOAD) {
        usk_blob_unref(granule->blob);
        granule->blob = NULL;
    }
    if (granule->physical) {
        /* It cannot be taken away, and as the contents are of no use any more nobody may think that it is theirs. */
        usk_physical_poison(task->region->dev, granule->physical);
        granule->physical = NULL;
        granule->place = USK_PLACE_POISONED;
    } else {
        granule->place = granule->blob ? USK_PLACE_EVICTED : USK_PLACE_EMPTY;
    }
}

static bool arrive_undo(struct unstick_task *task, struct usk_step *step)
{
    bool to_spare = usk_queue_keeps_spares(task->region->dev, NULL);

    for (uint32_t n_moves = 0; task->cursor < task->region->n_reserved; task->cursor++) {
        int r;

        if (!task->has_come[task->cursor])
            continue;
        if (n_moves++ == USK_TASK_MOVES_PER_STEP || !usk_step_may_call(step, task->region->dev, "take"))
            return false;
        r = usk_granule_take(task->region, task->cursor, to_spare, NULL);
        if (r == UNSTICK_BUSY && task->n_busy++ < USK_TASK_MAX_BUSY) {
            step->is_waiting = true;
            return false;
        }
        if (r == UNSTICK_BUSY)
            r = usk_granule_give_up(task->region, task->cursor, NULL);
        if (r < 0 && task->kind == USK_TASK_RESTORE && !atomic_load(&task->region->dev->is_lost))
            continue; /* it has come and is whole: it stays */
        task->result.done_bytes -= usk_region_granule_bytes(task->region, task->cursor);
        arrive_undo_one(task, task->cursor);
        step->has_progressed = true;
    }
    return true;
}

static void arrive_report_strays(struct unstick_task *task, unsigned int n_written)
{
    struct unstick_device *dev = task->region->dev;
    struct unstick_region *region;
    char names[320] = "";
    size_t length = 0;

    usk_context_lock(task->ctx);
    for (region = dev->regions; region; region = region->next) {
        if (region->was_evicted && length < sizeof(names) - 1)
            length += (size_t)snprintf(names + length, sizeof(names) - length, "%s%s", length ? ", " : "",
                                       region->name);
    }
    usk_context_unlock(task->ctx);
    task->result.stray_writes += n_written;
    dev->n_stray_writes += n_written;
    usk_log_write(&task->ctx->log, UNSTICK_LOG_WARNING,
                  "something wrote to memory that was evicted; the regions evicted since the last check: %s", names);
}

static int arrive_hash_sentinel(struct unstick_task *task)
{
    struct unstick_device *dev = task->region->dev;
    int r;

    task->flight = (struct usk_flight){ .is_up = true };
    r = usk_sentinel_hash(dev, task->slot, NULL);
    if (r == UNSTICK_OK)
        r = dev->driver->ops->mark(dev->driver, USK_LANE_HASH, &task->flight.ticket, NULL);
    task->flight.has_ticket = r == UNSTICK_OK;
    return r;
}

/* Detection only: whatever fails here changes nothing of what has come. True when it is over. */
static bool arrive_check_sentinel(struct unstick_task *task, struct usk_step *step)
{
    struct unstick_device *dev = task->region->dev;
    unsigned int n_written = 0;
    int r = UNSTICK_OK;

    if (!dev->driver->caps.can_hash)
        return true;
    if (!task->has_slot) {
        if (!usk_step_may_call(step, dev, "hash"))
            return false;
        task->has_slot = usk_slots_take(dev, 2, &task->slot);
        step->is_waiting |= !task->has_slot;
        if (!task->has_slot)
            return false;
        r = arrive_hash_sentinel(task);
    }
    if (task->flight.has_ticket) {
        r = usk_step_poll(step, dev, task->flight.ticket, NULL);
        if (r == UNSTICK_PENDING)
            return false;
        task->flight.has_ticket = false;
        task->flight.is_up = r < 0 && r != UNSTICK_DEVICE_LOST;
        if (r == UNSTICK_OK)
            r = usk_sentinel_check(dev, task->slot, &n_written, NULL);
        if (n_written)
            arrive_report_strays(task, n_written);
        if (r == UNSTICK_OK)
            task->region->was_evicted = false;
    }
    if (r < 0)
        usk_log_write(&task->ctx->log, UNSTICK_LOG_WARNING, "the sentinels could not be checked: %s",
                      unstick_status_text(r));
    if (usk_flight_bring_down(task, &task->flight, USK_LANE_HASH, step) == USK_FLIGHT_UP) {
        step->is_waiting = true;
        return false;
    }
    usk_slots_give(dev, task->slot, 2);
    task->has_slot = false;
    return true;
}

static void arrive_keep_backing(struct unstick_task *task)
{
    struct unstick_region *region = task->region;

    if (task->kind != USK_TASK_LOAD)
        return;
    if (!task->failure && task->tier == UNSTICK_TIER_FILE) {
        usk_backing_free(region->backing);
        region->backing = task->backing;
        usk_backing_pin(region->backing);
        usk_ring_trim(region->dev->store);
    } else {
        usk_backing_free(task->backing);
    }
    task->backing = NULL;
    usk_region_trim(region);
}

static enum unstick_tier arrive_tier(const struct unstick_task *task, bool *ret_is_mixed)
{
    enum unstick_tier tier = UNSTICK_TIER_AUTO;

    for (uint32_t i = 0; i < usk_region_n_granules(task->region); i++) {
        const struct usk_blob *blob = task->region->granules[i].blob;

        if (!blob)
            continue;
        *ret_is_mixed |= tier != UNSTICK_TIER_AUTO && tier != blob->tier;
        tier = blob->tier;
    }
    return tier;
}

static int arrive_end(struct unstick_task *task)
{
    if (!task->failure) {
        task->result.tier = arrive_tier(task, &task->result.has_mixed_tiers);
        task->result.has_verified = (task->flags & UNSTICK_TASK_VERIFY) && task->region->dev->driver->caps.can_hash;
        task->result.is_hash_missing = !task->region->dev->driver->caps.can_hash;
        return UNSTICK_OK;
    }
    if (task->failure == UNSTICK_OUT_OF_DEVICE_MEMORY && !task->result.missing_bytes)
        task->result.missing_bytes = task->result.total_bytes - usk_min(usk_device_room_bytes(task->region->dev),
                                                                        task->result.total_bytes);
    return task->failure;
}

int usk_arrive_step(struct unstick_task *task, struct usk_step *step)
{
    struct unstick_device *dev = task->region->dev;
    int r;

    switch (task->phase) {
    case USK_PHASE_QUEUED:
    case USK_PHASE_BEGIN:
        if (!usk_step_has_time(step, "begin"))
            return UNSTICK_PENDING;
        r = usk_task_is_stopping(task) ? task->failure : arrive_begin(task);
        if (r < 0)
            usk_task_fail(task, r);
        task->phase = USK_PHASE_WORK;
        step->has_progressed = true;
        return UNSTICK_PENDING;
    case USK_PHASE_FENCE:
    case USK_PHASE_WORK:
        if (!arrive_work(task, step))
            return UNSTICK_PENDING;
        arrive_check_file(task);
        task->cursor = 0;
        task->phase = arrive_must_undo(task) ? USK_PHASE_UNDO : USK_PHASE_SENTINEL;
        step->has_progressed = true;
        return UNSTICK_PENDING;
    case USK_PHASE_UNDO:
        if (!arrive_undo(task, step))
            return UNSTICK_PENDING;
        task->phase = USK_PHASE_SENTINEL;
        step->has_progressed = true;
        return UNSTICK_PENDING;
    case USK_PHASE_SENTINEL:
        if (!arrive_check_sentinel(task, step))
            return UNSTICK_PENDING;
        arrive_keep_backing(task);
        task->phase = USK_PHASE_DRAIN;
        step->has_progressed = true;
        return UNSTICK_PENDING;
    case USK_PHASE_DRAIN:
        if (task->n_sources && !usk_queue_keeps_spares(dev, task) && usk_queue_drain(dev, step)) {
            step->has_progressed = true;
            return UNSTICK_PENDING;
        }
        return arrive_end(task);
    }
    return UNSTICK_DRIVER;
}
