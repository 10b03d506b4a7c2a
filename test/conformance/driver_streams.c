/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What we rely on in the driver where streams are concerned: what an event waits for, and what may be done while the
 * host program captures a stream of its own. Part of driver.c, which says how to read what is printed.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

static void wait_for_flag(void *userdata)
{
    atomic_int *flag = userdata;

    while (!atomic_load(flag))
        usleep(100);
}

void check_fences(void)
{
    atomic_int flag = 0;
    usk_cu_stream stream;
    usk_cu_event event, context_event;
    usk_cu_context context;

    MUST(cu.cuCtxGetCurrent(&context));
    MUST(cu.cuStreamCreate(&stream, USK_CU_STREAM_NON_BLOCKING));
    MUST(cu.cuEventCreate(&event, USK_CU_EVENT_DISABLE_TIMING));
    MUST(cu.cuEventCreate(&context_event, USK_CU_EVENT_DISABLE_TIMING));
    MUST(cu.cuLaunchHostFunc(stream, wait_for_flag, &flag));
    MUST(cu.cuEventRecord(event, NULL));
    fact_result(cu.cuEventSynchronize(event), USK_CU_SUCCESS,
                "an event on the default stream does not wait for a non-blocking stream");
    fact_result(cu.cuStreamQuery(stream), USK_CU_NOT_READY, "which is not done");
    if (cu.cuCtxRecordEvent) {
        MUST(cu.cuCtxRecordEvent(context, context_event));
        usleep(20000);
        fact_result(cu.cuEventQuery(context_event), USK_CU_NOT_READY, "an event on the context does wait for it");
    }
    atomic_store(&flag, 1);
    MUST(cu.cuStreamSynchronize(stream));
    if (cu.cuCtxRecordEvent)
        fact_result(cu.cuEventSynchronize(context_event), USK_CU_SUCCESS, "and passes with it");
    MUST(cu.cuEventDestroy(context_event));
    MUST(cu.cuEventDestroy(event));
    MUST(cu.cuStreamDestroy(stream));
}

/* What we might do while the host program captures a stream of its own. Each makes what it needs before the capture. */
struct capture_rig {
    usk_cu_stream captured, ours;
    usk_cu_event event;
    usk_cu_context context;
    usk_cu_ptr address;      /* 4 units: one mapped, one reserved for mapping, two free */
    usk_cu_handle handle;
    unsigned char *host;     /* 2 MiB: the first registered */
};

static usk_cu_result op_event_query(struct capture_rig *rig)
{
    return cu.cuEventQuery(rig->event);
}

static usk_cu_result op_event_record(struct capture_rig *rig)
{
    return cu.cuEventRecord(rig->event, rig->ours);
}

static usk_cu_result op_context_record(struct capture_rig *rig)
{
    return cu.cuCtxRecordEvent ? cu.cuCtxRecordEvent(rig->context, rig->event) : USK_CU_NOT_FOUND;
}

static usk_cu_result op_copy_up(struct capture_rig *rig)
{
    return cu.cuMemcpyHtoDAsync(rig->address, rig->host, MIB, rig->ours);
}

static usk_cu_result op_fill(struct capture_rig *rig)
{
    return cu.cuMemsetD8Async(rig->address, 1, unit, rig->ours);
}

static usk_cu_result op_wait_event(struct capture_rig *rig)
{
    return cu.cuStreamWaitEvent(rig->ours, rig->event, 0);
}

static void nothing(void *userdata)
{
    (void)userdata;
}

static usk_cu_result op_host_func(struct capture_rig *rig)
{
    return cu.cuLaunchHostFunc(rig->ours, nothing, NULL);
}

static usk_cu_result op_create_release(struct capture_rig *rig)
{
    usk_cu_handle handle;
    usk_cu_result result = cu.cuMemCreate(&handle, unit, &prop, 0);

    (void)rig;
    return result ? result : cu.cuMemRelease(handle);
}

static usk_cu_result op_map_unmap(struct capture_rig *rig)
{
    usk_cu_result result = cu.cuMemMap(rig->address + unit, unit, 0, rig->handle, 0);

    if (!result)
        result = cu.cuMemSetAccess(rig->address + unit, unit, &read_write, 1);
    return result ? result : cu.cuMemUnmap(rig->address + unit, unit);
}

static usk_cu_result op_reserve_free(struct capture_rig *rig)
{
    usk_cu_ptr address;
    usk_cu_result result = cu.cuMemAddressReserve(&address, unit, 0, 0, 0);

    (void)rig;
    return result ? result : cu.cuMemAddressFree(address, unit);
}

static usk_cu_result op_register(struct capture_rig *rig)
{
    usk_cu_result result = cu.cuMemHostRegister(rig->host + MIB, MIB, 0);

    return result ? result : cu.cuMemHostUnregister(rig->host + MIB);
}

static usk_cu_result op_memory_info(struct capture_rig *rig)
{
    size_t free_now, total;

    (void)rig;
    return cu.cuMemGetInfo(&free_now, &total);
}

static usk_cu_result op_is_capturing(struct capture_rig *rig)
{
    int status;

    return cu.cuStreamIsCapturing(rig->captured, &status);
}

static usk_cu_result op_stream_sync(struct capture_rig *rig)
{
    return cu.cuStreamSynchronize(rig->ours);
}

struct capture_op {
    const char *name;
    usk_cu_result (*run)(struct capture_rig *rig);
    bool must_survive; /* under the relaxed mode: src/device/cuda does it then */
};

static const struct capture_op capture_ops[] = {
    { "event query", op_event_query, true },
    { "event record on our stream", op_event_record, true },
    { "wait for an event on our stream", op_wait_event, true },
    { "copy up on our stream", op_copy_up, true },
    { "fill on our stream", op_fill, true },
    { "host function on our stream", op_host_func, true },
    { "create and release", op_create_release, true },
    { "map, access, unmap", op_map_unmap, true },
    { "reserve and free addresses", op_reserve_free, true },
    { "register and unregister", op_register, true },
    { "memory info", op_memory_info, true },
    { "is the stream capturing", op_is_capturing, true },
    { "synchronize our stream", op_stream_sync, false },
    { "event record on the context", op_context_record, false },
};

struct capture_run {
    struct capture_rig *rig;
    const struct capture_op *op;
    bool is_relaxed;
    usk_cu_result result;
};

static void *capture_run(void *userdata)
{
    struct capture_run *run = userdata;
    usk_cu_context popped;
    int mode = USK_CU_STREAM_CAPTURE_MODE_RELAXED;

    MUST(cu.cuCtxPushCurrent(run->rig->context));
    if (run->is_relaxed)
        MUST(cu.cuThreadExchangeStreamCaptureMode(&mode));
    run->result = run->op->run(run->rig);
    if (run->is_relaxed)
        MUST(cu.cuThreadExchangeStreamCaptureMode(&mode));
    MUST(cu.cuCtxPopCurrent(&popped));
    return NULL;
}

/* While a stream is captured in the global mode, an op runs in the capturing thread or in another one. */
static void check_one_capture(struct capture_rig *rig, const struct capture_op *op, bool is_relaxed,
                              bool is_other_thread)
{
    struct capture_run run = { .rig = rig, .op = op, .is_relaxed = is_relaxed };
    graph captured = NULL;
    usk_cu_result result;
    pthread_t thread;
    bool survived;

    MUST(cu.cuEventRecord(rig->event, rig->ours));
    MUST(cu.cuStreamSynchronize(rig->ours));
    MUST(cu.cuStreamBeginCapture(rig->captured, USK_CU_STREAM_CAPTURE_MODE_GLOBAL));
    if (!is_other_thread || pthread_create(&thread, NULL, capture_run, &run))
        capture_run(&run);
    else
        pthread_join(thread, NULL);
    result = cu.cuStreamEndCapture(rig->captured, &captured);
    survived = result == USK_CU_SUCCESS;
    if (captured)
        MUST(cu.cuGraphDestroy(captured));
    cu.cuStreamSynchronize(rig->ours);
    if (is_relaxed && op->must_survive)
        fact(run.result == USK_CU_SUCCESS && survived, "relaxed, %s thread: %s: %s, the capture %s",
             is_other_thread ? "other" : "same", op->name, driver_name_of(run.result),
             survived ? "survives" : "is lost");
    else
        seen(run.result, "%s, %s thread, the capture %s: %s", is_relaxed ? "relaxed" : "global",
             is_other_thread ? "other" : "same", survived ? "survives" : "is lost", op->name);
}

void check_captures(void)
{
    struct capture_rig rig = { 0 };

    if (!cu.cuStreamBeginCapture || !cu.cuStreamEndCapture || !cu.cuGraphDestroy) {
        printf("seen   this driver does not capture\n");
        return;
    }
    MUST(cu.cuCtxGetCurrent(&rig.context));
    MUST(cu.cuStreamCreate(&rig.captured, USK_CU_STREAM_NON_BLOCKING));
    MUST(cu.cuStreamCreate(&rig.ours, USK_CU_STREAM_NON_BLOCKING));
    MUST(cu.cuEventCreate(&rig.event, USK_CU_EVENT_DISABLE_TIMING));
    rig.address = driver_reserve(4 * unit);
    rig.handle = driver_create(unit);
    driver_map(rig.address, unit, rig.handle);
    rig.host = driver_map_host(2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    MUST(cu.cuMemHostRegister(rig.host, MIB, 0));

    for (size_t i = 0; i < sizeof(capture_ops) / sizeof(capture_ops[0]); i++) {
        for (unsigned int how = 0; how < 4; how++)
            check_one_capture(&rig, &capture_ops[i], how & 1, how & 2);
        /* What a refused op left half done. */
        cu.cuMemUnmap(rig.address + unit, unit);
        cu.cuMemHostUnregister(rig.host + MIB);
    }

    MUST(cu.cuMemHostUnregister(rig.host));
    munmap(rig.host, 2 * MIB);
    MUST(cu.cuMemUnmap(rig.address, unit));
    MUST(cu.cuMemRelease(rig.handle));
    MUST(cu.cuMemAddressFree(rig.address, 4 * unit));
    MUST(cu.cuEventDestroy(rig.event));
    MUST(cu.cuStreamDestroy(rig.ours));
    MUST(cu.cuStreamDestroy(rig.captured));
}
