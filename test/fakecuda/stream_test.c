/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <stdatomic.h>

#include "test.h"

/* What the streams did, in order. */
static struct {
    _Atomic unsigned int n;
    int items[16];
} trace;

static void trace_add(void *userdata)
{
    trace.items[atomic_load(&trace.n)] = (int)(intptr_t)userdata;
    atomic_fetch_add(&trace.n, 1);
}

static void submit(CUstream stream, int number)
{
    assert_cu(cuLaunchHostFunc(stream, trace_add, (void *)(intptr_t)number), SUCCESS);
}

static int trace_setup(void **state)
{
    atomic_store(&trace.n, 0);
    return test_setup(state);
}

static void test_work_runs_in_order_and_later(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    control.hold(stream, 1);
    for (int i = 0; i < 8; i++)
        submit(stream, i);
    assert_int_equal(test_live().host_functions, 8);
    assert_cu(cuStreamQuery(stream), ERROR_NOT_READY);
    control.hold(stream, 0);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(cuStreamQuery(stream), SUCCESS);
    assert_int_equal(trace.n, 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(trace.items[i], i);
    assert_int_equal(test_live().host_functions, 0);
    assert_cu(cuLaunchHostFunc(stream, NULL, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

static void test_events_and_waits(void **state)
{
    CUstream first = test_stream(CU_STREAM_NON_BLOCKING), second = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event(), never = test_event();

    (void)state;
    assert_cu(cuEventQuery(never), SUCCESS);
    assert_cu(cuStreamWaitEvent(second, never, 0), SUCCESS);
    control.hold(first, 1);
    submit(first, 1);
    assert_cu(cuEventRecord(event, first), SUCCESS);
    assert_cu(cuStreamWaitEvent(second, event, 0), SUCCESS);
    submit(second, 2);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    assert_cu(cuStreamQuery(second), ERROR_NOT_READY);
    control.hold(first, 0);
    assert_cu(cuEventSynchronize(event), SUCCESS);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuStreamSynchronize(second), SUCCESS);
    assert_int_equal(trace.items[0], 1);
    assert_int_equal(trace.items[1], 2);
    assert_cu(cuStreamWaitEvent(second, event, 2), ERROR_INVALID_VALUE);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuEventDestroy_v2(never), SUCCESS);
    assert_cu(cuStreamDestroy_v2(first), SUCCESS);
    assert_cu(cuStreamDestroy_v2(second), SUCCESS);
}

static void test_legacy_stream_waits_for_blocking_ones_only(void **state)
{
    CUstream blocking = test_stream(CU_STREAM_DEFAULT), other = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();

    (void)state;
    control.hold(other, 1);
    submit(other, 3);
    assert_cu(cuEventRecord(event, NULL), SUCCESS);
    assert_cu(cuEventQuery(event), SUCCESS); /* does not see the non-blocking one */
    control.hold(blocking, 1);
    submit(blocking, 1);
    assert_cu(cuEventRecord(event, CU_STREAM_LEGACY), SUCCESS);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    submit(NULL, 2);
    submit(blocking, 4);
    submit(CU_STREAM_PER_THREAD, 5);
    assert_cu(cuStreamQuery(NULL), ERROR_NOT_READY);
    control.hold(blocking, 0);
    assert_cu(cuStreamSynchronize(NULL), SUCCESS);
    assert_int_equal(trace.n, 4);
    assert_int_equal(trace.items[0], 1);
    assert_int_equal(trace.items[1], 2);
    assert_cu(cuStreamQuery(other), ERROR_NOT_READY);
    control.hold(other, 0);
    assert_cu(cuCtxSynchronize(), SUCCESS);
    assert_int_equal(trace.n, 5);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(blocking), SUCCESS);
    assert_cu(cuStreamDestroy_v2(other), SUCCESS);
}

static void test_context_events_see_all(void **state)
{
    CUstream other = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();
    CUcontext context;

    (void)state;
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    control.hold(other, 1);
    submit(other, 1);
    assert_cu(cuCtxRecordEvent(context, event), SUCCESS);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    control.hold(other, 0);
    assert_cu(cuEventSynchronize(event), SUCCESS);
    assert_int_equal(trace.n, 1);
    assert_cu(cuCtxRecordEvent(NULL, event), ERROR_INVALID_CONTEXT);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuCtxRecordEvent(context, event), ERROR_INVALID_HANDLE);
    assert_cu(cuStreamDestroy_v2(other), SUCCESS);
}

static void test_events_may_be_late(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();

    (void)state;
    control.set("PENDING=2");
    assert_cu(cuEventRecord(event, stream), SUCCESS);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

static _Atomic int answer;

static void call_the_driver(void *userdata)
{
    atomic_store(&answer, cuEventQuery(userdata));
}

static void test_host_functions_may_not_call(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();

    (void)state;
    assert_cu(cuLaunchHostFunc(stream, call_the_driver, event), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(atomic_load(&answer), ERROR_NOT_PERMITTED);
    assert_int_equal(test_misuse().calls_in_host_function, 1);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

static void test_a_failed_context_drops_work(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();
    CUcontext current;
    size_t free_bytes, total;

    (void)state;
    control.hold(stream, 1);
    submit(stream, 1);
    assert_cu(cuEventRecord(event, stream), SUCCESS);
    control.lose(0, CUDA_ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuEventQuery(event), ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuEventSynchronize(event), ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuMemAddressFree(0, 0), ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuStreamDestroy_v2(stream), ERROR_ECC_UNCORRECTABLE);
    assert_cu(cuCtxGetCurrent(&current), SUCCESS);
    assert_int_equal(control.n_failed(), 5);
    while (test_live().host_functions) /* the thread drops it */
        ;
    assert_int_equal(trace.n, 0);
    test_revive();
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

static void test_destroyed_streams_finish(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();

    (void)state;
    control.hold(stream, 1);
    submit(stream, 1);
    assert_cu(cuEventRecord(event, stream), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_int_equal(test_live().streams, 0);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    assert_cu(cuStreamQuery(stream), ERROR_INVALID_HANDLE);
    assert_cu(cuStreamDestroy_v2(stream), ERROR_INVALID_HANDLE);
    assert_int_equal(test_misuse().stale_handles, 2);
    control.hold(stream, 0);
    assert_cu(cuEventSynchronize(event), SUCCESS);
    assert_int_equal(trace.n, 1);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), ERROR_INVALID_HANDLE);
    assert_cu(cuEventQuery(event), ERROR_INVALID_HANDLE);
    assert_cu(cuEventSynchronize(event), ERROR_INVALID_HANDLE);
    assert_cu(cuEventRecord(event, NULL), ERROR_INVALID_HANDLE);
    assert_cu(cuStreamWaitEvent(NULL, event, 0), ERROR_INVALID_HANDLE);
    assert_cu(cuLaunchHostFunc(stream, trace_add, NULL), ERROR_INVALID_HANDLE);
}

static void test_bad_arguments(void **state)
{
    CUstream stream;
    CUevent event;

    (void)state;
    assert_cu(cuStreamCreate(NULL, 0), ERROR_INVALID_VALUE);
    assert_cu(cuStreamCreate(&stream, 2), ERROR_INVALID_VALUE);
    assert_cu(cuStreamDestroy_v2(NULL), ERROR_INVALID_HANDLE);
    assert_cu(cuEventCreate(NULL, 0), ERROR_INVALID_VALUE);
    assert_cu(cuEventCreate(&event, CU_EVENT_INTERPROCESS), ERROR_INVALID_VALUE);
    assert_int_equal(control.hold((void *)1, 1), -1);
}

static void *use_streams(void *userdata)
{
    CUevent event;
    CUstream stream;

    assert_cu(cuCtxPushCurrent_v2(userdata), SUCCESS);
    event = test_event();
    stream = test_stream(CU_STREAM_NON_BLOCKING);
    for (unsigned int i = 0; i < 100; i++) {
        unsigned char bytes[64] = {0};
        CUdeviceptr address = test_memory(GRAIN);

        assert_cu(cuMemsetD8Async(address, (unsigned char)i, GRAIN, stream), SUCCESS);
        assert_cu(cuMemcpyDtoHAsync_v2(bytes, address, sizeof(bytes), stream), SUCCESS);
        assert_cu(cuEventRecord(event, stream), SUCCESS);
        while (cuEventQuery(event) == CUDA_ERROR_NOT_READY)
            ;
        assert_int_equal(bytes[63], i);
        test_memory_free(address, GRAIN);
    }
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuCtxPopCurrent_v2(NULL), SUCCESS);
    return NULL;
}

static void test_many_threads(void **state)
{
    pthread_t threads[4];
    CUcontext context;

    (void)state;
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    for (unsigned int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_streams, context), 0);
    for (unsigned int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(test_misuse().unmapped_in_use, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TRACED(_name) cmocka_unit_test_setup_teardown(_name, trace_setup, test_teardown)
        TRACED(test_work_runs_in_order_and_later),
        TRACED(test_events_and_waits),
        TRACED(test_legacy_stream_waits_for_blocking_ones_only),
        TRACED(test_context_events_see_all),
        TRACED(test_events_may_be_late),
        TRACED(test_host_functions_may_not_call),
        TRACED(test_a_failed_context_drops_work),
        TRACED(test_destroyed_streams_finish),
        TRACED(test_bad_arguments),
        TRACED(test_many_threads),
    };

    return cmocka_run_group_tests_name("stream", tests, test_load, NULL);
}
