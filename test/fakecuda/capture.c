/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Captures of streams into graphs, as far as they matter to somebody who is not capturing: which calls they forbid, and
 * that a forbidden call spoils the capture. A capture in global mode forbids unsafe calls to every thread, one in
 * thread-local mode to its own, unless the calling thread has said that it takes a relaxed view
 * (cuThreadExchangeStreamCaptureMode). What is captured is not kept: nobody launches it.
 */
#include <stdlib.h>

#include "fake.h"

void fake_capture_invalidate(struct fake_capture *capture)
{
    if (!capture->is_invalidated)
        fake.misuse.captures_broken++;
    capture->is_invalidated = true;
}

static bool capture_is_concerned(const struct fake_capture *capture)
{
    bool is_own = pthread_equal(capture->owner, pthread_self());

    if (fake_self.capture_mode == CU_CAPTURE_RELAXED || capture->mode == CU_CAPTURE_RELAXED)
        return false;
    if (is_own)
        return true;
    return fake_self.capture_mode == CU_CAPTURE_GLOBAL && capture->mode == CU_CAPTURE_GLOBAL;
}

CUresult fake_capture_check_unsafe(void)
{
    CUresult result = 0;

    for (size_t i = 0; fake.n_captures && i < fake.streams.n; i++) {
        struct fake_capture *capture = ((struct fake_stream *)fake.streams.values[i])->capture;

        if (!capture || !capture_is_concerned(capture))
            continue;
        fake_capture_invalidate(capture);
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

CUresult fake_capture_check_context(struct fake_context *context)
{
    CUresult result = 0;

    for (size_t i = 0; fake.n_captures && i < fake.streams.n; i++) {
        struct fake_stream *stream = fake.streams.values[i];

        if (!stream->capture || stream->context != context)
            continue;
        fake_capture_invalidate(stream->capture);
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

static struct fake_capture *capture_find_implicit(const struct fake_stream *stream)
{
    if (stream != stream->context->null_stream || !fake.n_captures)
        return NULL;
    for (size_t i = 0; i < fake.streams.n; i++) {
        struct fake_stream *other = fake.streams.values[i];

        if (other->capture && other->context == stream->context && !(other->flags & CU_STREAM_NON_BLOCKING))
            return other->capture;
    }
    return NULL;
}

CUresult fake_capture_check_implicit(struct fake_stream *stream)
{
    struct fake_capture *capture = capture_find_implicit(stream);

    if (!capture)
        return 0;
    fake_capture_invalidate(capture);
    return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

CUresult fake_capture_begin(struct fake_stream *stream, int mode)
{
    struct fake_capture *capture;

    if (mode < CU_CAPTURE_GLOBAL || mode > CU_CAPTURE_RELAXED)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture || !stream->is_callers)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    capture = fake_allocate(sizeof(*capture));
    *capture = (struct fake_capture){
        .id = fake_new_id(), .mode = mode, .owner = pthread_self(), .n_streams = 1, .origin = stream};
    stream->capture = capture;
    fake.n_captures++;
    return 0;
}

/* The stream leaves its capture; the last one ends it. */
void fake_capture_drop(struct fake_stream *stream)
{
    struct fake_capture *capture = stream->capture;

    stream->capture = NULL;
    if (--capture->n_streams)
        return;
    fake.n_captures--;
    free(capture);
}

CUresult fake_capture_end(struct fake_stream *stream)
{
    struct fake_capture *capture = stream->capture;
    bool is_invalidated;

    if (!capture || capture->origin != stream)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (capture->mode != CU_CAPTURE_RELAXED && !pthread_equal(capture->owner, pthread_self()))
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    is_invalidated = capture->is_invalidated;
    for (size_t i = 0; i < fake.streams.n; i++) {
        struct fake_stream *other = fake.streams.values[i];

        if (other != stream && other->capture == capture)
            fake_capture_drop(other);
    }
    fake_capture_drop(stream);
    return is_invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : 0;
}

/* A stream that waits for an event of a capture becomes part of it. */
CUresult fake_capture_join(struct fake_stream *stream, uint64_t capture_id)
{
    for (size_t i = 0; i < fake.streams.n; i++) {
        struct fake_capture *capture = ((struct fake_stream *)fake.streams.values[i])->capture;

        if (!capture || capture->id != capture_id)
            continue;
        if (stream->capture == capture)
            return 0;
        if (stream->capture || capture->is_invalidated)
            return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        stream->capture = capture;
        capture->n_streams++;
        return 0;
    }
    return CUDA_ERROR_CAPTURED_EVENT;
}

CUresult cuStreamIsCapturing(CUstream stream, int *status)
{
    struct fake_stream *found;

    FAKE_ENTER(cuStreamIsCapturing);
    found = fake_stream_find(stream);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    if (!status)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    /* The one question about the legacy stream that does not break what it asks about. */
    if (capture_find_implicit(found))
        return fake_leave(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    *status = CU_CAPTURE_STATUS_NONE;
    if (found->capture)
        *status = found->capture->is_invalidated ? CU_CAPTURE_STATUS_INVALIDATED : CU_CAPTURE_STATUS_ACTIVE;
    return fake_leave(0);
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode)
{
    struct fake_stream *found;

    FAKE_ENTER(cuStreamBeginCapture_v2);
    found = fake_stream_find(stream);
    return fake_leave(found ? fake_capture_begin(found, mode) : CUDA_ERROR_INVALID_HANDLE);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    struct fake_stream *found;
    CUresult result;
    uint64_t id;

    FAKE_ENTER(cuStreamEndCapture);
    found = fake_stream_find(stream);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    result = fake_capture_end(found);
    if (graph)
        *graph = NULL;
    if (!result && graph) {
        id = fake_new_id();
        fake_map_put(&fake.graphs, id, &fake);
        *graph = (CUgraph)(uintptr_t)id;
    }
    return fake_leave(result);
}

CUresult cuGraphDestroy(CUgraph graph)
{
    FAKE_ENTER(cuGraphDestroy);
    if (!fake_map_find(&fake.graphs, (uint64_t)(uintptr_t)graph)) {
        fake.misuse.stale_handles++;
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fake_map_remove(&fake.graphs, (uint64_t)(uintptr_t)graph);
    return fake_leave(0);
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode)
{
    int before = fake_self.capture_mode;

    FAKE_ENTER(cuThreadExchangeStreamCaptureMode);
    if (!mode || *mode < CU_CAPTURE_GLOBAL || *mode > CU_CAPTURE_RELAXED)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    fake_self.capture_mode = *mode;
    *mode = before;
    return fake_leave(0);
}
