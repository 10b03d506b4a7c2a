/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: a queue and a thread each. All order is said in marks (stream, how much of its work): events, waits, and
 * what the legacy stream and the blocking streams owe each other are sets of marks that work has to see passed before
 * it starts. So an event can stand for one stream or for all of a context, and neither deadlock nor order depends on
 * which thread comes first.
 *
 * Work of a context that has failed is dropped, host functions too, as the driver does. A stream that is destroyed with
 * work in it finishes that first.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static void stream_ref(struct fake_stream *stream)
{
    stream->n_refs++;
}

void fake_stream_unref(struct fake_stream *stream)
{
    if (--stream->n_refs == 0)
        free(stream);
}

bool fake_stream_is_held(const struct fake_stream *stream, int hold)
{
    return !stream->context->sticky && (fake.hold == hold || stream->hold == hold);
}

bool fake_stream_is_idle(const struct fake_stream *stream)
{
    return stream->n_done == stream->n_submitted;
}

void fake_marks_clear(struct fake_marks *marks)
{
    for (size_t i = 0; i < marks->n; i++)
        fake_stream_unref(marks->items[i].stream);
    free(marks->items);
    *marks = (struct fake_marks){0};
}

static void marks_append(struct fake_marks *marks, struct fake_mark mark)
{
    struct fake_mark *items = realloc(marks->items, (marks->n + 1) * sizeof(*items));

    if (!items)
        abort();
    items[marks->n++] = mark;
    marks->items = items;
    stream_ref(mark.stream);
}

void fake_marks_add(struct fake_marks *marks, struct fake_stream *stream)
{
    if (!fake_stream_is_idle(stream))
        marks_append(marks, (struct fake_mark){stream, stream->n_submitted});
}

void fake_marks_copy(struct fake_marks *to, const struct fake_marks *from)
{
    for (size_t i = 0; i < from->n; i++)
        marks_append(to, from->items[i]);
}

bool fake_marks_are_passed(const struct fake_marks *marks)
{
    for (size_t i = 0; i < marks->n; i++)
        if (marks->items[i].stream->n_done < marks->items[i].n)
            return false;
    return true;
}

/* What the legacy stream waits for, and what waits for it. */
static void marks_add_blocking(struct fake_marks *marks, const struct fake_context *context)
{
    for (size_t i = 0; i < fake.streams.n; i++) {
        struct fake_stream *stream = fake.streams.values[i];

        if (stream->context == context && !(stream->flags & CU_STREAM_NON_BLOCKING))
            fake_marks_add(marks, stream);
    }
}

void fake_marks_of_stream(struct fake_marks *marks, struct fake_stream *stream)
{
    if (stream == stream->context->null_stream)
        marks_add_blocking(marks, stream->context);
    else
        fake_marks_add(marks, stream);
}

struct fake_work *fake_work_new(enum fake_work_kind kind)
{
    struct fake_work *work = fake_allocate(sizeof(*work));

    work->kind = kind;
    fake.n_host_functions += kind == FAKE_WORK_HOST;
    return work;
}

void fake_work_free(struct fake_work *work)
{
    fake.n_host_functions -= work->kind == FAKE_WORK_HOST;
    if (work->to.registration)
        fake_host_unuse(work->to.registration);
    if (work->from.registration)
        fake_host_unuse(work->from.registration);
    fake_marks_clear(&work->after);
    free(work);
}

static void stream_run_work(struct fake_stream *stream, const struct fake_work *work)
{
    switch (work->kind) {
    case FAKE_WORK_COPY:
    case FAKE_WORK_FILL:
        fake_copy_run(stream, work);
        break;
    case FAKE_WORK_KERNEL:
        work->kernel->run(stream->context, work);
        break;
    case FAKE_WORK_HOST:
        fake_unlock();
        fake_self.is_in_host_function = true;
        work->function(work->userdata);
        fake_self.is_in_host_function = false;
        fake_lock();
        break;
    case FAKE_WORK_NONE:
        break;
    }
}

static bool stream_may_start(const struct fake_stream *stream)
{
    if (stream->context->sticky)
        return true;
    return !fake_stream_is_held(stream, FAKE_HOLD_START) && fake_marks_are_passed(&stream->first->after);
}

static void *stream_run(void *userdata)
{
    struct fake_stream *stream = userdata;

    fake_lock();
    for (;;) {
        struct fake_work *work = stream->first;

        if (!work && stream->is_destroyed)
            break;
        if (!work || !stream_may_start(stream)) {
            pthread_cond_wait(&fake.changed, &fake.lock);
            continue;
        }
        if (!stream->context->sticky)
            stream_run_work(stream, work);
        stream->first = work->next;
        if (!stream->first)
            stream->last = &stream->first;
        fake_work_free(work);
        stream->n_done++;
        pthread_cond_broadcast(&fake.changed);
    }
    fake_map_remove(&fake.streams, stream->id);
    fake_stream_unref(stream);
    fake_unlock();
    return NULL;
}

static CUresult stream_start_thread(struct fake_stream *stream)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int failed;

    if (stream->has_thread)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    failed = pthread_create(&thread, &attributes, stream_run, stream);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    stream->has_thread = !failed;
    return failed ? CUDA_ERROR_OUT_OF_MEMORY : 0;
}

struct fake_stream *fake_stream_new(struct fake_context *context, unsigned int flags, bool is_callers)
{
    struct fake_stream *stream = fake_allocate(sizeof(*stream));

    *stream = (struct fake_stream){
        .id = fake_new_id(), .context = context, .flags = flags, .n_refs = 1, .is_callers = is_callers};
    stream->last = &stream->first;
    fake_map_put(&fake.streams, stream->id, stream);
    return stream;
}

struct fake_stream *fake_stream_find(CUstream handle)
{
    struct fake_context *context = fake_current();
    struct fake_stream *stream;

    if (!handle || handle == CU_STREAM_LEGACY)
        return context ? context->null_stream : NULL;
    if (handle == CU_STREAM_PER_THREAD)
        return context ? context->thread_stream : NULL;
    stream = fake_map_find(&fake.streams, (uint64_t)(uintptr_t)handle);
    if (stream && !stream->is_destroyed && stream->is_callers)
        return stream;
    fake.misuse.stale_handles++;
    return NULL;
}

void fake_stream_destroy(struct fake_stream *stream)
{
    if (stream->is_destroyed)
        return;
    if (stream->capture) {
        fake_capture_invalidate(stream->capture);
        fake_capture_drop(stream);
    }
    stream->is_destroyed = true;
    if (!stream->has_thread) {
        fake_map_remove(&fake.streams, stream->id);
        fake_stream_unref(stream);
    }
    pthread_cond_broadcast(&fake.changed);
}

CUresult fake_stream_submit(struct fake_stream *stream, struct fake_work *work)
{
    struct fake_context *context = stream->context;
    CUresult result = fake_capture_check_implicit(stream);

    if (!result && stream->capture && stream->capture->is_invalidated)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (!result && !stream->capture)
        result = stream_start_thread(stream);
    if (result || stream->capture) {
        fake_work_free(work);
        return result;
    }
    if (stream == context->null_stream)
        marks_add_blocking(&work->after, context);
    else if (!(stream->flags & CU_STREAM_NON_BLOCKING))
        fake_marks_add(&work->after, context->null_stream);
    *stream->last = work;
    stream->last = &work->next;
    stream->n_submitted++;
    pthread_cond_broadcast(&fake.changed);
    return 0;
}

void fake_stream_drain(struct fake_stream *stream)
{
    uint64_t n = stream->n_submitted;

    stream_ref(stream);
    while (stream->n_done < n)
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_stream_unref(stream);
}

CUresult cuStreamCreate(CUstream *stream, unsigned int flags)
{
    FAKE_ENTER(cuStreamCreate);
    if (!stream || flags > CU_STREAM_NON_BLOCKING)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *stream = (CUstream)(uintptr_t)fake_stream_new(fake_current(), flags, true)->id;
    return fake_leave(0);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    struct fake_stream *found;

    FAKE_ENTER(cuStreamDestroy_v2);
    found = fake_stream_find(stream);
    if (!found || !found->is_callers)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    fake_stream_destroy(found);
    return fake_leave(0);
}

/* Asking a stream that is being captured is a mistake in every mode. */
static CUresult stream_check_ask(struct fake_stream *stream)
{
    if (!stream)
        return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) {
        fake_capture_invalidate(stream->capture);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return fake_capture_check_implicit(stream);
}

CUresult cuStreamQuery(CUstream stream)
{
    struct fake_stream *found;
    struct fake_marks marks = {0};
    CUresult result;

    FAKE_ENTER(cuStreamQuery);
    found = fake_stream_find(stream);
    result = stream_check_ask(found);
    if (!result) {
        fake_marks_of_stream(&marks, found);
        result = fake_marks_are_passed(&marks) ? 0 : CUDA_ERROR_NOT_READY;
        fake_marks_clear(&marks);
    }
    return fake_leave(result);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    struct fake_stream *found;
    struct fake_context *context;
    struct fake_marks marks = {0};
    CUresult result;

    FAKE_ENTER(cuStreamSynchronize);
    found = fake_stream_find(stream);
    result = stream_check_ask(found);
    if (result)
        return fake_leave(result);
    fake_marks_of_stream(&marks, found);
    while (!fake_marks_are_passed(&marks))
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_marks_clear(&marks);
    context = fake_current();
    return fake_leave(context ? context->sticky : CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *userdata)
{
    struct fake_stream *found;
    struct fake_work *work;

    FAKE_ENTER(cuLaunchHostFunc);
    found = fake_stream_find(stream);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!function)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    work = fake_work_new(FAKE_WORK_HOST);
    work->function = function;
    work->userdata = userdata;
    return fake_leave(fake_stream_submit(found, work));
}
