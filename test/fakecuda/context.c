/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contexts: one primary one per device, counted, and others that are made and destroyed. Which one is current is a
 * stack per thread, of numbers and not of pointers, so that a context may go while it is still on one.
 */
#include <stdlib.h>

#include "fake.h"

struct fake_context *fake_context_find(uint64_t id)
{
    return fake_map_find(&fake.contexts, id);
}

struct fake_context *fake_current(void)
{
    struct fake_context *context;

    if (!fake_self.n_contexts)
        return NULL;
    context = fake_context_find(fake_self.contexts[fake_self.n_contexts - 1]);
    return context && context->is_alive ? context : NULL;
}

void fake_context_fail(struct fake_context *context, CUresult code)
{
    if (!context->sticky)
        context->sticky = code;
    pthread_cond_broadcast(&fake.changed);
}

void fake_context_drain(struct fake_context *context)
{
    struct fake_marks marks = {0};

    for (size_t i = 0; i < fake.streams.n; i++)
        if (((struct fake_stream *)fake.streams.values[i])->context == context)
            fake_marks_add(&marks, fake.streams.values[i]);
    while (!fake_marks_are_passed(&marks))
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_marks_clear(&marks);
}

static void context_start(struct fake_context *context)
{
    context->is_alive = true;
    context->sticky = context->device->lost;
    context->null_stream = fake_stream_new(context, CU_STREAM_DEFAULT, false);
    context->thread_stream = fake_stream_new(context, CU_STREAM_DEFAULT, false);
    /* Held whether there is room or not, as a context that exists is not taken away. */
    context->device->used_bytes += FAKE_CONTEXT_BYTES;
}

static bool context_owns(const struct fake_context *owner, const struct fake_context *context)
{
    if (owner != context)
        return false;
    fake.n_left_behind++;
    return true;
}

/* Waits for the work, then ends everything that belongs to the context. Memory of the VMM calls belongs to none. */
static void context_stop(struct fake_context *context)
{
    fake_context_drain(context);
    context->is_alive = false;
    for (size_t i = fake.streams.n; i-- > 0;) {
        struct fake_stream *stream = fake.streams.values[i];

        if (stream->context != context || stream->is_destroyed)
            continue;
        fake.n_left_behind += stream->is_callers;
        fake_stream_destroy(stream);
    }
    for (size_t i = fake.events.n; i-- > 0;)
        if (context_owns(((struct fake_event *)fake.events.values[i])->context, context))
            fake_event_destroy(fake.events.values[i]);
    for (size_t i = fake.modules.n; i-- > 0;)
        if (context_owns(((struct fake_module *)fake.modules.values[i])->context, context))
            fake_module_destroy(fake.modules.values[i]);
    fake_host_end_context(context);
    fake_memory_end_context(context);
    context->null_stream = context->thread_stream = NULL;
    context->device->used_bytes -= FAKE_CONTEXT_BYTES;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    struct fake_device *found;

    FAKE_ENTER(cuDevicePrimaryCtxRetain);
    found = fake_device_find(device);
    if (!context)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!found->primary) {
        found->primary = fake_allocate(sizeof(*found->primary));
        *found->primary = (struct fake_context){.id = fake_new_id(), .device = found, .is_primary = true};
        fake_map_put(&fake.contexts, found->primary->id, found->primary);
    }
    if (!found->primary->is_alive) {
        if (fake_memory_free_bytes(found) < FAKE_CONTEXT_BYTES)
            return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
        context_start(found->primary);
    }
    found->primary->n_retains++;
    *context = (CUcontext)(uintptr_t)found->primary->id;
    return fake_leave(0);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    struct fake_device *found;

    FAKE_ENTER(cuDevicePrimaryCtxRelease_v2);
    found = fake_device_find(device);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!found->primary || !found->primary->n_retains)
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (!--found->primary->n_retains)
        context_stop(found->primary);
    return fake_leave(0);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active)
{
    struct fake_device *found;

    FAKE_ENTER(cuDevicePrimaryCtxGetState);
    found = fake_device_find(device);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    *flags = 0;
    *active = found->primary && found->primary->is_alive;
    return fake_leave(0);
}

static CUresult context_push(uint64_t id)
{
    if (fake_self.n_contexts == sizeof(fake_self.contexts) / sizeof(fake_self.contexts[0]))
        return CUDA_ERROR_OUT_OF_MEMORY;
    fake_self.contexts[fake_self.n_contexts++] = id;
    return 0;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned int flags, CUdevice device)
{
    struct fake_device *found;
    struct fake_context *made;
    CUresult result;

    FAKE_ENTER(cuCtxCreate_v2);
    found = fake_device_find(device);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    if (fake_memory_free_bytes(found) < FAKE_CONTEXT_BYTES)
        return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
    made = fake_allocate(sizeof(*made));
    *made = (struct fake_context){.id = fake_new_id(), .device = found, .flags = flags};
    result = context_push(made->id);
    if (result) {
        free(made);
        return fake_leave(result);
    }
    fake_map_put(&fake.contexts, made->id, made);
    context_start(made);
    *context = (CUcontext)(uintptr_t)made->id;
    return fake_leave(0);
}

CUresult cuCtxDestroy_v2(CUcontext context)
{
    struct fake_context *found;

    FAKE_ENTER(cuCtxDestroy_v2);
    found = fake_context_find((uint64_t)(uintptr_t)context);
    if (!found || found->is_primary) {
        fake.misuse.stale_handles += !found;
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    if (fake_self.n_contexts && fake_self.contexts[fake_self.n_contexts - 1] == found->id)
        fake_self.n_contexts--;
    context_stop(found);
    fake_map_remove(&fake.contexts, found->id);
    free(found);
    return fake_leave(0);
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    struct fake_context *found;

    FAKE_ENTER(cuCtxPushCurrent_v2);
    found = fake_context_find((uint64_t)(uintptr_t)context);
    if (!found || !found->is_alive) {
        fake.misuse.stale_handles += context != NULL;
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    return fake_leave(context_push(found->id));
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    FAKE_ENTER(cuCtxPopCurrent_v2);
    if (!fake_self.n_contexts) {
        fake.misuse.calls_without_context++;
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    fake_self.n_contexts--;
    if (context)
        *context = (CUcontext)(uintptr_t)fake_self.contexts[fake_self.n_contexts];
    return fake_leave(0);
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    FAKE_ENTER(cuCtxSetCurrent);
    if (context && !fake_context_find((uint64_t)(uintptr_t)context)) {
        fake.misuse.stale_handles++;
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    if (fake_self.n_contexts)
        fake_self.n_contexts--;
    return fake_leave(context ? context_push((uint64_t)(uintptr_t)context) : 0);
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    FAKE_ENTER(cuCtxGetCurrent);
    if (!context)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *context = fake_self.n_contexts ? (CUcontext)(uintptr_t)fake_self.contexts[fake_self.n_contexts - 1] : NULL;
    return fake_leave(0);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    FAKE_ENTER(cuCtxGetDevice);
    if (!device)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *device = fake_current()->device->ordinal;
    return fake_leave(0);
}

CUresult cuCtxSynchronize(void)
{
    struct fake_context *context;
    CUresult result;

    FAKE_ENTER(cuCtxSynchronize);
    context = fake_current();
    result = fake_capture_check_context(context);
    if (result)
        return fake_leave(result);
    fake_context_drain(context);
    context = fake_current();
    return fake_leave(context ? context->sticky : CUDA_ERROR_CONTEXT_IS_DESTROYED);
}
