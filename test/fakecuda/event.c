/* SPDX-License-Identifier: Apache-2.0 */
/* Events: the marks they were last recorded with. An event that was never recorded has passed. */
#include <stdlib.h>

#include "fake.h"

static struct fake_event *event_find(CUevent handle)
{
    struct fake_event *event = fake_map_find(&fake.events, (uint64_t)(uintptr_t)handle);

    fake.misuse.stale_handles += !event;
    return event;
}

void fake_event_destroy(struct fake_event *event)
{
    fake_map_remove(&fake.events, event->id);
    fake_marks_clear(&event->marks);
    free(event);
}

static void event_restart(struct fake_event *event, uint64_t capture_id)
{
    fake_marks_clear(&event->marks);
    event->capture_id = capture_id;
    event->n_pending = fake.settings.pending;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags)
{
    struct fake_event *made;

    FAKE_ENTER(cuEventCreate);
    if (!event || flags > 7 || (flags & CU_EVENT_INTERPROCESS && !(flags & CU_EVENT_DISABLE_TIMING)))
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    made = fake_allocate(sizeof(*made));
    *made = (struct fake_event){.id = fake_new_id(), .context = fake_current(), .flags = flags};
    fake_map_put(&fake.events, made->id, made);
    *event = (CUevent)(uintptr_t)made->id;
    return fake_leave(0);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    struct fake_event *found;

    FAKE_ENTER(cuEventDestroy_v2);
    found = event_find(event);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    fake_event_destroy(found);
    return fake_leave(0);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    struct fake_event *found;
    struct fake_stream *in;
    CUresult result;

    FAKE_ENTER(cuEventRecord);
    found = event_find(event);
    in = fake_stream_find(stream);
    if (!found || !in || found->context != in->context)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    result = fake_capture_check_implicit(in);
    if (!result && in->capture && in->capture->is_invalidated)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (result)
        return fake_leave(result);
    event_restart(found, in->capture ? in->capture->id : 0);
    if (!in->capture)
        fake_marks_of_stream(&found->marks, in);
    return fake_leave(0);
}

CUresult cuCtxRecordEvent(CUcontext context, CUevent event)
{
    struct fake_context *found;
    struct fake_event *target;
    CUresult result;

    FAKE_ENTER(cuCtxRecordEvent);
    found = fake_context_find((uint64_t)(uintptr_t)context);
    target = event_find(event);
    if (!found || !found->is_alive)
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (!target || target->context != found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (found->sticky)
        return fake_leave(found->sticky);
    result = fake_capture_check_context(found);
    if (result)
        return fake_leave(result);
    event_restart(target, 0);
    for (size_t i = 0; i < fake.streams.n; i++)
        if (((struct fake_stream *)fake.streams.values[i])->context == found)
            fake_marks_add(&target->marks, fake.streams.values[i]);
    return fake_leave(0);
}

CUresult cuEventQuery(CUevent event)
{
    struct fake_event *found;

    FAKE_ENTER(cuEventQuery);
    found = event_find(event);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (found->capture_id)
        return fake_leave(CUDA_ERROR_CAPTURED_EVENT);
    if (!fake_marks_are_passed(&found->marks))
        return fake_leave(CUDA_ERROR_NOT_READY);
    if (found->n_pending) {
        found->n_pending--;
        return fake_leave(CUDA_ERROR_NOT_READY);
    }
    return fake_leave(0);
}

CUresult cuEventSynchronize(CUevent event)
{
    struct fake_event *found;
    struct fake_marks marks = {0};
    struct fake_context *context;

    FAKE_ENTER(cuEventSynchronize);
    found = event_find(event);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (found->capture_id)
        return fake_leave(CUDA_ERROR_CAPTURED_EVENT);
    /* Another thread may record or destroy the event meanwhile: what it stood for at the call counts. */
    fake_marks_copy(&marks, &found->marks);
    while (!fake_marks_are_passed(&marks))
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_marks_clear(&marks);
    context = fake_current();
    return fake_leave(context ? context->sticky : CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
    struct fake_stream *found;
    struct fake_event *target;
    struct fake_work *work;

    FAKE_ENTER(cuStreamWaitEvent);
    found = fake_stream_find(stream);
    target = event_find(event);
    if (!found || !target)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (flags > 1)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (target->capture_id)
        return fake_leave(fake_capture_join(found, target->capture_id));
    if (found->capture) {
        fake_capture_invalidate(found->capture);
        return fake_leave(CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    work = fake_work_new(FAKE_WORK_NONE);
    fake_marks_copy(&work->after, &target->marks);
    return fake_leave(fake_stream_submit(found, work));
}
