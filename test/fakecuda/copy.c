/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies and fills. What the driver can see at submission it refuses there (no memory, no right, a host range that a
 * registration covers in part) and the context survives; what has gone wrong only when the work runs, as memory that
 * was unmapped too early, ends the context. A copy from or to pageable memory is over when the call returns.
 */
#include <string.h>
#include <time.h>

#include "fake.h"

struct copy_job {
    struct fake_stream *stream;
    const struct fake_work *work;
    uint64_t started_ns, delay_ns;
    double gbps;
    bool is_broken;
};

static void copy_visit_write(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    memcpy(piece, (const unsigned char *)userdata + offset, bytes);
}

static void copy_fill_piece(const struct fake_work *work, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    unsigned char pattern[4];

    if (work->pattern_bytes == 1) {
        memset(piece, (int)work->pattern, bytes);
        return;
    }
    memcpy(pattern, &work->pattern, sizeof(pattern));
    for (uint64_t i = 0; i < bytes; i++)
        piece[i] = pattern[(offset + i) % sizeof(pattern)];
}

/* Keeps the memory in use as long as a slow link would, and as a test that holds the stream. */
static void copy_take_time(const struct copy_job *job, uint64_t done_bytes)
{
    uint64_t ns = job->delay_ns;
    struct timespec until;

    if (job->gbps > 0)
        ns += (uint64_t)((double)done_bytes / job->gbps);
    if (ns) {
        ns += job->started_ns;
        until = (struct timespec){.tv_sec = (time_t)(ns / UINT64_C(1000000000)),
                                  .tv_nsec = (long)(ns % UINT64_C(1000000000))};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL))
            ;
    }
    fake_lock();
    while (fake_stream_is_held(job->stream, FAKE_HOLD_END))
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_unlock();
}

/* A piece of the device's side is pinned; in a copy across, of `from`: the same then for what it is copied to. */
static void copy_visit(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    struct copy_job *job = userdata;
    const struct fake_work *work = job->work;

    if (work->kind == FAKE_WORK_FILL) {
        copy_fill_piece(work, piece, offset, bytes);
    } else if (work->from.host) {
        memcpy(piece, work->from.host + offset, bytes);
    } else if (work->to.host) {
        memcpy(work->to.host + offset, piece, bytes);
    } else {
        fake_lock();
        if (!fake_memory_visit(job->stream->context, work->to.address + offset, bytes, CU_MEM_ACCESS_READWRITE,
                               copy_visit_write, piece))
            job->is_broken = true;
        fake_unlock();
    }
    copy_take_time(job, offset + bytes);
}

void fake_copy_run(struct fake_stream *stream, const struct fake_work *work)
{
    struct copy_job job = {
        .stream = stream,
        .work = work,
        .started_ns = fake_now_ns(),
        .delay_ns = fake.settings.copy_delay_ms * UINT64_C(1000000),
        .gbps = fake.settings.copy_gbps,
    };
    bool is_read = work->kind == FAKE_WORK_COPY && !work->from.host;

    if (fake_memory_visit(stream->context, is_read ? work->from.address : work->to.address, work->bytes,
                          is_read ? CU_MEM_ACCESS_READ : CU_MEM_ACCESS_READWRITE, copy_visit, &job) &&
        !job.is_broken)
        return;
    /* It was good when it was submitted. */
    fake.misuse.unmapped_in_use++;
    fake_context_fail(stream->context, CUDA_ERROR_ILLEGAL_ADDRESS);
}

static CUresult copy_check(struct fake_context *context, struct fake_work *work)
{
    CUresult result = 0;

    if (work->from.host)
        result = fake_host_use(work->from.host, work->bytes, false, &work->from.registration);
    else if (work->kind == FAKE_WORK_COPY &&
             !fake_memory_is_accessible(context->device, work->from.address, work->bytes, CU_MEM_ACCESS_READ))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result)
        return result;
    if (work->to.host)
        return fake_host_use(work->to.host, work->bytes, true, &work->to.registration);
    if (!fake_memory_is_accessible(context->device, work->to.address, work->bytes, CU_MEM_ACCESS_READWRITE))
        return CUDA_ERROR_INVALID_VALUE;
    return 0;
}

/* Ends the call: the lock is held on entry and given back. */
static CUresult copy_submit(struct fake_work *work, CUstream handle, bool is_awaited)
{
    struct fake_stream *stream = fake_stream_find(handle);
    struct fake_context *context = fake_current();
    bool is_pageable;
    CUresult result;

    if (!stream || !work->bytes) {
        fake_work_free(work);
        return fake_leave(stream ? 0 : CUDA_ERROR_INVALID_HANDLE);
    }
    result = copy_check(context, work);
    if (result) {
        fake_work_free(work);
        return fake_leave(result);
    }
    is_pageable = (work->from.host && !work->from.registration) || (work->to.host && !work->to.registration);
    result = fake_stream_submit(stream, work);
    if (result || stream->capture || !(is_pageable || is_awaited))
        return fake_leave(result);
    fake_stream_drain(stream);
    context = fake_current();
    return fake_leave(context ? context->sticky : CUDA_ERROR_CONTEXT_IS_DESTROYED);
}

static CUresult copy_up(CUdeviceptr to, const void *from, size_t bytes, CUstream stream, bool is_awaited)
{
    struct fake_work *work;

    if (!from)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    work = fake_work_new(FAKE_WORK_COPY);
    work->to.address = to;
    work->from.host = (unsigned char *)(uintptr_t)from;
    work->bytes = bytes;
    return copy_submit(work, stream, is_awaited);
}

static CUresult copy_down(void *to, CUdeviceptr from, size_t bytes, CUstream stream, bool is_awaited)
{
    struct fake_work *work;

    if (!to)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    work = fake_work_new(FAKE_WORK_COPY);
    work->to.host = to;
    work->from.address = from;
    work->bytes = bytes;
    return copy_submit(work, stream, is_awaited);
}

static CUresult copy_fill(CUdeviceptr to, unsigned int value, unsigned int value_bytes, size_t n, CUstream stream,
                          bool is_awaited)
{
    struct fake_work *work;

    if (to % value_bytes || n > SIZE_MAX / value_bytes)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    work = fake_work_new(FAKE_WORK_FILL);
    work->to.address = to;
    work->pattern = value;
    work->pattern_bytes = value_bytes;
    work->bytes = n * value_bytes;
    return copy_submit(work, stream, is_awaited);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    FAKE_ENTER(cuMemcpyHtoDAsync_v2);
    return copy_up(to, from, bytes, stream, false);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    FAKE_ENTER(cuMemcpyDtoHAsync_v2);
    return copy_down(to, from, bytes, stream, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    struct fake_work *work;

    FAKE_ENTER(cuMemcpyDtoDAsync_v2);
    work = fake_work_new(FAKE_WORK_COPY);
    work->to.address = to;
    work->from.address = from;
    work->bytes = bytes;
    return copy_submit(work, stream, false);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    FAKE_ENTER(cuMemcpyHtoD_v2);
    return copy_up(to, from, bytes, NULL, true);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    FAKE_ENTER(cuMemcpyDtoH_v2);
    return copy_down(to, from, bytes, NULL, true);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream)
{
    FAKE_ENTER(cuMemsetD8Async);
    return copy_fill(to, value, 1, n, stream, false);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t n, CUstream stream)
{
    FAKE_ENTER(cuMemsetD32Async);
    return copy_fill(to, value, 4, n, stream, false);
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n)
{
    FAKE_ENTER(cuMemsetD8_v2);
    return copy_fill(to, value, 1, n, NULL, true);
}
