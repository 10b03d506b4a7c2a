/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tickets are pooled events. A ticket names the event and how often it has been used, so that polling one that was used
 * up finds an error and not somebody else's event. The lock guards the pool, never a call of the driver: an event that
 * is out of the pool belongs to whoever has the ticket.
 */
#include "device/cuda/cuda.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/os.h"

#define TICKET_NONE UINT32_MAX

static void ticket_notify(void *userdata)
{
    usk_os_event_signal(*(const int *)userdata);
}

/* Takes an event out of the pool, which grows by one if it is empty. */
static int ticket_take(struct usk_cuda *cuda, uint32_t *ret_index, usk_cu_event *ret_event,
                       struct unstick_error *error)
{
    usk_cu_event event;
    uint32_t index;
    int r;

    pthread_mutex_lock(&cuda->lock);
    index = cuda->first_free;
    if (index != TICKET_NONE) {
        cuda->first_free = cuda->events[index].next_free;
        cuda->events[index].is_used = true;
        *ret_event = cuda->events[index].event;
    }
    pthread_mutex_unlock(&cuda->lock);
    *ret_index = index;
    if (index != TICKET_NONE)
        return UNSTICK_OK;

    r = usk_cuda_check(cuda, cuda->driver->cuEventCreate(&event, USK_CU_EVENT_DISABLE_TIMING), "cuEventCreate",
                       UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r < 0)
        return r;
    pthread_mutex_lock(&cuda->lock);
    if (cuda->n_events == cuda->n_allocated) {
        uint32_t n = cuda->n_allocated ? 2 * cuda->n_allocated : 64;
        struct usk_cuda_event *events = realloc(cuda->events, n * sizeof(*events));

        if (events) {
            cuda->events = events;
            cuda->n_allocated = n;
        }
    }
    if (cuda->n_events < cuda->n_allocated) {
        index = cuda->n_events++;
        cuda->events[index] = (struct usk_cuda_event){ .event = event, .is_used = true };
    }
    pthread_mutex_unlock(&cuda->lock);
    if (index == TICKET_NONE) {
        cuda->driver->cuEventDestroy(event);
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc", "no host memory for a ticket");
    }
    *ret_index = index;
    *ret_event = event;
    return UNSTICK_OK;
}

static void ticket_give(struct usk_cuda *cuda, uint32_t index)
{
    pthread_mutex_lock(&cuda->lock);
    cuda->events[index].is_used = false;
    cuda->events[index].generation++;
    cuda->events[index].next_free = cuda->first_free;
    cuda->first_free = index;
    pthread_mutex_unlock(&cuda->lock);
}

static uint64_t ticket_of(struct usk_cuda *cuda, uint32_t index)
{
    uint64_t ticket;

    pthread_mutex_lock(&cuda->lock);
    ticket = (uint64_t)cuda->events[index].generation << 32 | index;
    pthread_mutex_unlock(&cuda->lock);
    return ticket;
}

static bool ticket_find(struct usk_cuda *cuda, uint64_t ticket, usk_cu_event *ret_event)
{
    uint32_t index = (uint32_t)ticket;
    bool is_found;

    pthread_mutex_lock(&cuda->lock);
    is_found = index < cuda->n_events && cuda->events[index].is_used &&
               cuda->events[index].generation == (uint32_t)(ticket >> 32);
    if (is_found)
        *ret_event = cuda->events[index].event;
    pthread_mutex_unlock(&cuda->lock);
    return is_found;
}

int usk_cuda_order(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_event event;
    uint32_t index;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = ticket_take(cuda, &index, &event, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuEventRecord(event, cuda->lanes[after]), "cuEventRecord",
                       UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r == UNSTICK_OK)
        r = usk_cuda_check(cuda, cuda->driver->cuStreamWaitEvent(cuda->lanes[lane], event, 0), "cuStreamWaitEvent",
                           UNSTICK_OUT_OF_HOST_MEMORY, error);
    /* A wait is on the event as it was recorded: it may be used again at once. */
    ticket_give(cuda, index);
    return r;
}

/* Has the event's passing signalled through a stream of its own; without that it is found by polling. */
static void ticket_announce(struct usk_cuda *cuda, enum usk_lane lane, usk_cu_event event)
{
    if (cuda->notify_fd >= 0 && !cuda->driver->cuStreamWaitEvent(cuda->notify[lane], event, 0))
        cuda->driver->cuLaunchHostFunc(cuda->notify[lane], ticket_notify, &cuda->notify_fd);
}

int usk_cuda_mark(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_event event;
    uint32_t index;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = ticket_take(cuda, &index, &event, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuEventRecord(event, cuda->lanes[lane]), "cuEventRecord",
                       UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r < 0) {
        ticket_give(cuda, index);
        return r;
    }
    ticket_announce(cuda, lane, event);
    *ret_ticket = ticket_of(cuda, index);
    return UNSTICK_OK;
}

int usk_cuda_fence_stream(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    int capture = USK_CU_STREAM_CAPTURE_STATUS_NONE;
    usk_cu_event event;
    uint32_t index;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuStreamIsCapturing(stream, &capture), "cuStreamIsCapturing",
                       UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r < 0)
        return r;
    if (capture != USK_CU_STREAM_CAPTURE_STATUS_NONE)
        return usk_error_set(error, UNSTICK_BUSY, 0, "cuStreamIsCapturing",
                             "the stream is being captured into a graph; try again when the capture has ended");
    r = ticket_take(cuda, &index, &event, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuEventRecord(event, stream), "cuEventRecord", UNSTICK_OUT_OF_HOST_MEMORY,
                       error);
    if (r < 0)
        ticket_give(cuda, index);
    else
        *ret_ticket = ticket_of(cuda, index);
    return r;
}

int usk_cuda_fence_device(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_event event;
    uint32_t index;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = ticket_take(cuda, &index, &event, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuCtxRecordEvent(cuda->context, event), "cuCtxRecordEvent",
                       UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r < 0)
        ticket_give(cuda, index);
    else
        *ret_ticket = ticket_of(cuda, index);
    return r;
}

int usk_cuda_poll(struct usk_device *dev, uint64_t ticket, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_result result;
    usk_cu_event event;
    USK_CUDA_SCOPE(scope);
    int r;

    if (!ticket_find(cuda, ticket, &event))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "poll", "the ticket was used up already");
    r = usk_cuda_enter(cuda, &scope, error);
    if (r == UNSTICK_OK) {
        result = cuda->driver->cuEventQuery(event);
        if (result == USK_CU_NOT_READY)
            return UNSTICK_PENDING;
        r = usk_cuda_check(cuda, result, "cuEventQuery", UNSTICK_OUT_OF_HOST_MEMORY, error);
    }
    ticket_give(cuda, (uint32_t)ticket);
    return r;
}

void usk_cuda_drop(struct usk_device *dev, uint64_t ticket)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_event event;

    if (ticket_find(cuda, ticket, &event))
        ticket_give(cuda, (uint32_t)ticket);
}

void usk_cuda_destroy_events(struct usk_cuda *cuda)
{
    for (uint32_t i = 0; i < cuda->n_events; i++)
        cuda->driver->cuEventDestroy(cuda->events[i].event);
    free(cuda->events);
}
