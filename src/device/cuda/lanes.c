/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane is a non-blocking stream, so that neither the host program's default stream nor another lane waits for it.
 * Each lane has its own notifier: a notifier is a stream too and comes to its events in their order, and a lane that
 * is quick must not be reported behind one that is slow.
 */
#include "device/cuda/lanes.h"

#include "base/error.h"

int usk_cuda_lanes_init(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, int event_fd,
                        struct unstick_error *error)
{
    const struct usk_cuda_driver *driver = core->driver;
    int r;

    for (int i = 0; i < USK_N_LANES; i++) {
        usk_cu_result result;

        result = driver->cuStreamCreate(&lanes->streams[i], USK_CU_STREAM_NON_BLOCKING);
        if (result != USK_CU_SUCCESS)
            return usk_cuda_fail(core, error, result, "cuStreamCreate", "cannot make a stream for copies");
        result = driver->cuEventCreate(&lanes->ends[i], USK_CU_EVENT_DISABLE_TIMING);
        if (result != USK_CU_SUCCESS)
            return usk_cuda_fail(core, error, result, "cuEventCreate", "cannot make an event");
        r = usk_cuda_notifier_init(&lanes->notifiers[i], core, event_fd, error);
        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

int usk_cuda_lanes_drain(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, struct unstick_error *error)
{
    for (int i = 0; i < USK_N_LANES; i++) {
        usk_cu_result result;

        result = core->driver->cuStreamSynchronize(lanes->streams[i]);
        if (result != USK_CU_SUCCESS)
            return usk_cuda_fail(core, error, result, "cuStreamSynchronize", "work of lane %d failed", i);
    }
    return UNSTICK_OK;
}

void usk_cuda_lanes_fini(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core)
{
    for (int i = 0; i < USK_N_LANES; i++) {
        usk_cuda_notifier_fini(&lanes->notifiers[i], core);
        if (core && lanes->ends[i])
            core->driver->cuEventDestroy(lanes->ends[i]);
        if (core && lanes->streams[i])
            core->driver->cuStreamDestroy(lanes->streams[i]);
    }
}

int usk_cuda_lane_check(enum usk_lane lane, const char *operation, struct unstick_error *error)
{
    if ((unsigned int)lane >= USK_N_LANES)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, operation, "there is no lane %d", (int)lane);
    return UNSTICK_OK;
}

static int lane_enter(struct usk_cuda_core *core, enum usk_lane lane, const char *operation,
                      struct usk_cuda_scope *scope, struct unstick_error *error)
{
    int r = usk_cuda_lane_check(lane, operation, error);

    return r < 0 ? r : usk_cuda_enter(core, scope, error);
}

int usk_cuda_lanes_copy_up(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                           uint64_t address, const void *host, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r = lane_enter(core, lane, "copy_up", &scope, error);

    if (r < 0)
        return r;
    result = core->driver->cuMemcpyHtoDAsync(address, host, bytes, lanes->streams[lane]);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemcpyHtoDAsync", "cannot copy %llu bytes from %p up to %#llx",
                             (unsigned long long)bytes, host, (unsigned long long)address);
    return UNSTICK_OK;
}

int usk_cuda_lanes_copy_down(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane, void *host,
                             uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r = lane_enter(core, lane, "copy_down", &scope, error);

    if (r < 0)
        return r;
    result = core->driver->cuMemcpyDtoHAsync(host, address, bytes, lanes->streams[lane]);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemcpyDtoHAsync", "cannot copy %llu bytes from %#llx down to %p",
                             (unsigned long long)bytes, (unsigned long long)address, host);
    return UNSTICK_OK;
}

int usk_cuda_lanes_copy_across(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                               uint64_t to, uint64_t from, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r = lane_enter(core, lane, "copy_across", &scope, error);

    if (r < 0)
        return r;
    result = core->driver->cuMemcpyDtoDAsync(to, from, bytes, lanes->streams[lane]);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemcpyDtoDAsync", "cannot copy %llu bytes from %#llx to %#llx",
                             (unsigned long long)bytes, (unsigned long long)from, (unsigned long long)to);
    return UNSTICK_OK;
}

int usk_cuda_lanes_fill(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane, uint64_t address,
                        uint8_t value, uint64_t bytes, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r = lane_enter(core, lane, "fill", &scope, error);

    if (r < 0)
        return r;
    result = core->driver->cuMemsetD8Async(address, value, bytes, lanes->streams[lane]);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemsetD8Async", "cannot fill %llu bytes at %#llx",
                             (unsigned long long)bytes, (unsigned long long)address);
    return UNSTICK_OK;
}

int usk_cuda_lanes_order(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, enum usk_lane lane,
                         enum usk_lane after, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r = usk_cuda_lane_check(after, "order", error);

    if (r == UNSTICK_OK)
        r = lane_enter(core, lane, "order", &scope, error);
    if (r < 0)
        return r;
    if (lane == after)
        return UNSTICK_OK;
    result = core->driver->cuEventRecord(lanes->ends[after], lanes->streams[after]);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuEventRecord", "cannot order lane %d after lane %d", lane, after);
    result = core->driver->cuStreamWaitEvent(lanes->streams[lane], lanes->ends[after], 0);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuStreamWaitEvent", "cannot order lane %d after lane %d", lane,
                             after);
    return UNSTICK_OK;
}

int usk_cuda_lanes_mark(struct usk_cuda_lanes *lanes, struct usk_cuda_core *core, struct usk_cuda_tickets *tickets,
                        enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_event event;
    usk_cu_result result;
    uint64_t ticket;
    int r = lane_enter(core, lane, "mark", &scope, error);

    if (r < 0)
        return r;
    r = usk_cuda_tickets_take_event(tickets, core, &ticket, &event, error);
    if (r < 0)
        return r;
    result = core->driver->cuEventRecord(event, lanes->streams[lane]);
    if (result != USK_CU_SUCCESS)
        r = usk_cuda_fail(core, error, result, "cuEventRecord", "cannot mark lane %d", lane);
    else
        r = usk_cuda_notifier_after(&lanes->notifiers[lane], core, event, error);
    if (r < 0) {
        usk_cuda_tickets_drop(tickets, ticket);
        return r;
    }
    *ret_ticket = ticket;
    return UNSTICK_OK;
}
