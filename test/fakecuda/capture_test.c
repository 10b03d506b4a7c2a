/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "test.h"

/* A mode for this thread; says which it was. */
static int take_mode(int mode)
{
    assert_cu(cuThreadExchangeStreamCaptureMode(&mode), SUCCESS);
    return mode;
}

static int status_of(CUstream stream)
{
    int status;

    assert_cu(cuStreamIsCapturing(stream, &status), SUCCESS);
    return status;
}

static void *capture_elsewhere(void *stream)
{
    assert_cu(control.capture_begin(stream, CU_CAPTURE_GLOBAL), SUCCESS);
    return NULL;
}

/* Somebody else's thread captures: in global mode that forbids unsafe calls to this one. */
static CUstream captured_by_another(void)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, capture_elsewhere, stream), 0);
    pthread_join(thread, NULL);
    assert_int_equal(status_of(stream), CU_CAPTURE_STATUS_ACTIVE);
    return stream;
}

static void test_global_captures_forbid_unsafe_calls(void **state)
{
    CUevent event = test_event();
    CUstream stream = captured_by_another();

    (void)state;
    assert_cu(cuEventQuery(event), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(status_of(stream), CU_CAPTURE_STATUS_INVALIDATED);
    assert_int_equal(test_misuse().captures_broken, 1);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_int_equal(test_live().captures, 0);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
}

static void test_a_relaxed_view_is_allowed(void **state)
{
    CUdeviceptr address = test_memory(GRAIN);
    CUevent event = test_event();
    void *host;
    CUstream stream;

    (void)state;
    assert_cu(cuMemHostAlloc(&host, 4096, 0), SUCCESS);
    stream = captured_by_another();
    assert_int_equal(take_mode(CU_CAPTURE_RELAXED), CU_CAPTURE_GLOBAL);
    assert_cu(cuEventQuery(event), SUCCESS);
    test_memory_free(address, GRAIN);
    assert_cu(cuMemFreeHost(host), SUCCESS);
    assert_int_equal(take_mode(CU_CAPTURE_THREAD_LOCAL), CU_CAPTURE_RELAXED);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_int_equal(status_of(stream), CU_CAPTURE_STATUS_ACTIVE);
    take_mode(CU_CAPTURE_GLOBAL);
    assert_int_equal(test_misuse().captures_broken, 0);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
}

static void test_own_captures(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();
    CUgraph graph;

    (void)state;
    assert_cu(cuStreamBeginCapture_v2(stream, 3), ERROR_INVALID_VALUE);
    assert_cu(cuStreamBeginCapture_v2(stream, CU_CAPTURE_THREAD_LOCAL), SUCCESS);
    assert_cu(cuStreamBeginCapture_v2(stream, CU_CAPTURE_THREAD_LOCAL), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_cu(cuEventQuery(event), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_cu(cuEventRecord(event, stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(cuStreamEndCapture(stream, &graph), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_null(graph);
    assert_cu(cuStreamEndCapture(stream, &graph), ERROR_ILLEGAL_STATE);
    assert_cu(cuStreamBeginCapture_v2(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuStreamEndCapture(stream, &graph), SUCCESS);
    assert_cu(cuGraphDestroy(graph), SUCCESS);
    assert_cu(cuGraphDestroy(graph), ERROR_INVALID_VALUE);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
}

/* The captured stream itself may not be asked, in whatever mode; its work is not run. */
static void test_captured_streams(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING), joined = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent inside = test_event(), outside = test_event();
    CUdeviceptr address = test_memory(GRAIN);

    (void)state;
    assert_cu(cuMemsetD8_v2(address, 1, 16), SUCCESS);
    assert_cu(control.capture_begin(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuMemsetD8Async(address, 2, 16, stream), SUCCESS);
    assert_cu(cuEventRecord(inside, stream), SUCCESS);
    assert_cu(cuEventQuery(inside), ERROR_CAPTURED_EVENT);
    assert_cu(cuEventSynchronize(inside), ERROR_CAPTURED_EVENT);
    assert_cu(cuStreamWaitEvent(joined, inside, 0), SUCCESS);
    assert_cu(cuStreamWaitEvent(joined, inside, 0), SUCCESS);
    assert_int_equal(status_of(joined), CU_CAPTURE_STATUS_ACTIVE);
    assert_int_equal(test_live().captures, 1);
    assert_cu(control.capture_end(joined), ERROR_ILLEGAL_STATE);
    assert_cu(control.capture_end(stream), SUCCESS);
    assert_int_equal(status_of(joined), CU_CAPTURE_STATUS_NONE);
    assert_cu(cuStreamWaitEvent(joined, inside, 0), ERROR_CAPTURED_EVENT);
    assert_int_equal(*(volatile char *)(uintptr_t)address, 1);

    assert_cu(control.capture_begin(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuStreamWaitEvent(stream, outside, 0), ERROR_STREAM_CAPTURE_ISOLATION);
    assert_cu(control.capture_end(stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(control.capture_begin(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuStreamQuery(stream), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_cu(cuMemsetD8Async(address, 2, 16, stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(control.capture_end(stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(control.capture_end((void *)1), ERROR_INVALID_HANDLE);
    assert_cu(cuEventDestroy_v2(inside), SUCCESS);
    assert_cu(cuEventDestroy_v2(outside), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuStreamDestroy_v2(joined), SUCCESS);
    test_memory_free(address, GRAIN);
}

/* Calls about all work of a context break its captures in every mode. */
static void test_context_calls(void **state)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    CUevent event = test_event();
    CUcontext context;

    (void)state;
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    take_mode(CU_CAPTURE_RELAXED);
    assert_cu(control.capture_begin(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuCtxRecordEvent(context, event), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_cu(control.capture_end(stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(control.capture_begin(stream, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuCtxSynchronize(), ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_cu(control.capture_end(stream), ERROR_STREAM_CAPTURE_INVALIDATED);
    take_mode(CU_CAPTURE_GLOBAL);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

/* The legacy stream would wait for a blocking one that is captured. */
static void test_legacy_stream(void **state)
{
    CUstream blocking = test_stream(CU_STREAM_DEFAULT);
    CUdeviceptr address = test_memory(GRAIN);
    CUevent event = test_event();
    int status;

    (void)state;
    assert_cu(control.capture_begin(blocking, CU_CAPTURE_RELAXED), SUCCESS);
    assert_cu(cuStreamIsCapturing(NULL, &status), ERROR_STREAM_CAPTURE_IMPLICIT);
    assert_int_equal(status_of(blocking), CU_CAPTURE_STATUS_ACTIVE);
    assert_cu(cuMemsetD8Async(address, 2, 16, NULL), ERROR_STREAM_CAPTURE_IMPLICIT);
    assert_int_equal(status_of(blocking), CU_CAPTURE_STATUS_INVALIDATED);
    assert_cu(cuEventRecord(event, NULL), ERROR_STREAM_CAPTURE_IMPLICIT);
    assert_cu(cuStreamQuery(NULL), ERROR_STREAM_CAPTURE_IMPLICIT);
    assert_cu(control.capture_end(blocking), ERROR_STREAM_CAPTURE_INVALIDATED);
    assert_cu(cuMemsetD8Async(address, 2, 16, NULL), SUCCESS);
    assert_cu(cuCtxSynchronize(), SUCCESS);
    assert_cu(cuStreamIsCapturing(NULL, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuStreamIsCapturing((CUstream)(uintptr_t)5, &status), ERROR_INVALID_HANDLE);
    assert_cu(cuThreadExchangeStreamCaptureMode(NULL), ERROR_INVALID_VALUE);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    assert_cu(cuStreamDestroy_v2(blocking), SUCCESS);
    test_memory_free(address, GRAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_global_captures_forbid_unsafe_calls),
        test_case(test_a_relaxed_view_is_allowed),
        test_case(test_own_captures),
        test_case(test_captured_streams),
        test_case(test_context_calls),
        test_case(test_legacy_stream),
    };

    return cmocka_run_group_tests_name("capture", tests, test_load, NULL);
}
