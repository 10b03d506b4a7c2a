/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fence is a ticket behind what the host program submitted, which may end in an hour or never. So nothing of ours may
 * stand behind a fence: fences have notifiers of their own, and each fence takes one that is idle if there is any.
 *
 * Nothing is recorded on a stream that is being captured: it would become part of the graph. Streams do not tell on
 * behalf of others, though: before the fence of a whole device only a capture that blocks the default stream can be
 * seen. A capture on a non-blocking stream (torch's are) is invalidated by the driver, which then says so: the host
 * program should not ask for that fence while it captures.
 *
 * The fence of a whole device is one call since CUDA 12.5. Before, a thread waits for the context. It counts: a wait
 * that starts after a fence was asked for ends that fence and all earlier ones, so many fences cost one wait.
 */
#include "device/cuda/fences.h"

#include "base/error.h"
#include "base/os.h"

int usk_cuda_fences_init(struct usk_cuda_fences *fences, struct usk_cuda_core *core, struct usk_cuda_tickets *tickets,
                         int event_fd, struct unstick_error *error)
{
    *fences = (struct usk_cuda_fences){ .event_fd = event_fd, .core = core, .tickets = tickets };
    pthread_mutex_init(&fences->lock, NULL);
    pthread_cond_init(&fences->is_asked, NULL);
    for (int i = 0; i < USK_CUDA_FENCE_NOTIFIERS; i++) {
        int r = usk_cuda_notifier_init(&fences->notifiers[i], core, event_fd, error);

        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

void usk_cuda_fences_stop(struct usk_cuda_fences *fences)
{
    bool has_thread;

    pthread_mutex_lock(&fences->lock);
    fences->is_stopping = true;
    has_thread = fences->has_thread;
    pthread_cond_signal(&fences->is_asked);
    pthread_mutex_unlock(&fences->lock);
    if (has_thread)
        pthread_join(fences->thread, NULL);
}

void usk_cuda_fences_fini(struct usk_cuda_fences *fences, struct usk_cuda_core *core)
{
    for (int i = 0; i < USK_CUDA_FENCE_NOTIFIERS; i++)
        usk_cuda_notifier_fini(&fences->notifiers[i], core);
    pthread_cond_destroy(&fences->is_asked);
    pthread_mutex_destroy(&fences->lock);
}

static int fences_synchronize(struct usk_cuda_core *core, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuCtxSynchronize();
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuCtxSynchronize", "cannot wait for all work on the device");
    return UNSTICK_OK;
}

static void *fences_thread(void *userdata)
{
    struct usk_cuda_fences *fences = userdata;

    pthread_mutex_lock(&fences->lock);
    for (;;) {
        struct unstick_error error = { 0 };
        uint64_t sync;
        int r;

        while (!fences->is_stopping && fences->n_asked == fences->n_done)
            pthread_cond_wait(&fences->is_asked, &fences->lock);
        if (fences->is_stopping)
            break;
        sync = fences->n_asked;
        pthread_mutex_unlock(&fences->lock);

        r = fences_synchronize(fences->core, &error);
        usk_cuda_tickets_settle(fences->tickets, sync, r, &error);
        usk_os_event_signal(fences->event_fd);

        pthread_mutex_lock(&fences->lock);
        fences->n_done = sync;
    }
    pthread_mutex_unlock(&fences->lock);
    return NULL;
}

/* The ticket is drawn before the thread can see that it was asked for, so that it cannot be passed by. */
static int fences_ask_thread(struct usk_cuda_fences *fences, uint64_t *ret_ticket, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    pthread_mutex_lock(&fences->lock);
    if (!fences->has_thread) {
        r = usk_os_thread_new(&fences->thread, fences_thread, fences, "unstick-fence", error);
        fences->has_thread = r == UNSTICK_OK;
    }
    if (r == UNSTICK_OK)
        r = usk_cuda_tickets_take_sync(fences->tickets, fences->n_asked + 1, ret_ticket, error);
    if (r == UNSTICK_OK) {
        fences->n_asked++;
        pthread_cond_signal(&fences->is_asked);
    }
    pthread_mutex_unlock(&fences->lock);
    return r;
}

/* An idle one, else the one with the fewest fences in it. Two threads that pick the same one do no harm. */
static struct usk_cuda_notifier *fences_pick_notifier(struct usk_cuda_fences *fences)
{
    struct usk_cuda_notifier *best = &fences->notifiers[0];

    for (int i = 1; i < USK_CUDA_FENCE_NOTIFIERS; i++) {
        if (atomic_load(&fences->notifiers[i].n_pending) < atomic_load(&best->n_pending))
            best = &fences->notifiers[i];
    }
    return best;
}

/* UNSTICK_BUSY while the stream is captured, or cannot tell because another one is. */
static int fences_check_capture(struct usk_cuda_core *core, usk_cu_stream stream, struct unstick_error *error)
{
    int capture_status = USK_CU_STREAM_CAPTURE_STATUS_NONE;
    usk_cu_result result;

    result = core->driver->cuStreamIsCapturing(stream, &capture_status);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuStreamIsCapturing", "cannot fence stream %p", (void *)stream);
    if (capture_status != USK_CU_STREAM_CAPTURE_STATUS_NONE)
        return usk_error_set(error, UNSTICK_BUSY, 0, "cuStreamIsCapturing",
                             "stream %p is being captured into a graph: fence it when the capture has ended",
                             (void *)stream);
    return UNSTICK_OK;
}

/* Behind a stream, or without one behind everything in the context. */
static int fences_record(struct usk_cuda_fences *fences, const usk_cu_stream *stream, uint64_t *ret_ticket,
                         struct unstick_error *error)
{
    struct usk_cuda_core *core = fences->core;
    usk_cu_event event;
    usk_cu_result result;
    uint64_t ticket;
    int r = usk_cuda_tickets_take_event(fences->tickets, core, &ticket, &event, error);

    if (r < 0)
        return r;
    result = stream ? core->driver->cuEventRecord(event, *stream)
                    : core->driver->cuCtxRecordEvent(core->context, event);
    if (result == USK_CU_SUCCESS)
        r = usk_cuda_notifier_after(fences_pick_notifier(fences), core, event, error);
    else if (stream)
        r = usk_cuda_fail(core, error, result, "cuEventRecord", "cannot fence stream %p", (void *)*stream);
    else
        r = usk_cuda_fail(core, error, result, "cuCtxRecordEvent", "cannot fence all work on the device");
    if (r < 0) {
        usk_cuda_tickets_drop(fences->tickets, ticket);
        return r;
    }
    *ret_ticket = ticket;
    return UNSTICK_OK;
}

int usk_cuda_fences_stream(struct usk_cuda_fences *fences, usk_cu_stream stream, uint64_t *ret_ticket,
                           struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(fences->core, &scope, error);

    if (r == UNSTICK_OK)
        r = fences_check_capture(fences->core, stream, error);
    return r < 0 ? r : fences_record(fences, &stream, ret_ticket, error);
}

int usk_cuda_fences_device(struct usk_cuda_fences *fences, uint64_t *ret_ticket, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(fences->core, &scope, error);

    if (r == UNSTICK_OK)
        r = fences_check_capture(fences->core, USK_CU_STREAM_LEGACY, error);
    if (r < 0)
        return r;
    if (!fences->core->driver->cuCtxRecordEvent)
        return fences_ask_thread(fences, ret_ticket, error);
    return fences_record(fences, NULL, ret_ticket, error);
}
