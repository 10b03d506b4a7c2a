/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>

#include "test.h"

static void test_primary_contexts_are_counted(void **state)
{
    CUcontext first, again;
    unsigned int flags;
    int active;

    (void)state;
    assert_cu(cuCtxGetCurrent(&first), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRetain(&again, 0), SUCCESS);
    assert_ptr_equal(first, again);
    assert_int_equal(test_live().retains, 2);
    assert_cu(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_cu(cuDevicePrimaryCtxGetState(0, &flags, &active), SUCCESS);
    assert_int_equal(active, 1);
    assert_cu(cuDevicePrimaryCtxRetain(NULL, 0), ERROR_INVALID_VALUE);
    assert_cu(cuDevicePrimaryCtxRetain(&again, 1), ERROR_INVALID_DEVICE);
    assert_cu(cuDevicePrimaryCtxRelease_v2(1), ERROR_INVALID_DEVICE);
    assert_cu(cuDevicePrimaryCtxGetState(-1, &flags, &active), ERROR_INVALID_DEVICE);
    assert_cu(cuCtxDestroy_v2(first), ERROR_INVALID_CONTEXT);
}

static void test_the_current_context_is_a_stack(void **state)
{
    CUcontext primary, own, current;
    CUdevice device;

    (void)state;
    assert_cu(cuCtxGetCurrent(&primary), SUCCESS);
    assert_cu(cuCtxCreate_v2(&own, 0, 0), SUCCESS);
    assert_int_equal(control.context_depth(), 2);
    assert_int_equal(test_live().contexts, 1);
    assert_cu(cuCtxGetCurrent(&current), SUCCESS);
    assert_ptr_equal(current, own);
    assert_cu(cuCtxPushCurrent_v2(primary), SUCCESS);
    assert_cu(cuCtxSetCurrent(own), SUCCESS);
    assert_cu(cuCtxPopCurrent_v2(&current), SUCCESS);
    assert_ptr_equal(current, own);
    assert_cu(cuCtxGetDevice(&device), SUCCESS);
    assert_int_equal(device, 0);
    assert_cu(cuCtxSetCurrent((CUcontext)(uintptr_t)1), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxPushCurrent_v2(NULL), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxDestroy_v2(own), SUCCESS);
    assert_cu(cuCtxDestroy_v2(own), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxPushCurrent_v2(own), ERROR_INVALID_CONTEXT);
    assert_int_equal(control.context_depth(), 1);
    assert_int_equal(test_misuse().stale_handles, 3);
    assert_cu(cuCtxCreate_v2(&own, 0, 1), ERROR_INVALID_DEVICE);
}

static void *call_without_context(void *userdata)
{
    size_t free_bytes, total;
    CUcontext current = userdata;
    CUdeviceptr address;

    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxSynchronize(), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxPopCurrent_v2(NULL), ERROR_INVALID_CONTEXT);
    assert_cu(cuCtxGetCurrent(&current), SUCCESS);
    assert_null(current);
    /* Addresses and memory belong to the process. */
    assert_cu(cuMemAddressReserve(&address, GRAIN, 0, 0, 0), SUCCESS);
    assert_cu(cuMemAddressFree(address, GRAIN), SUCCESS);
    return NULL;
}

static void test_other_threads_have_none(void **state)
{
    CUcontext current;
    pthread_t thread;

    (void)state;
    assert_cu(cuCtxGetCurrent(&current), SUCCESS);
    assert_int_equal(pthread_create(&thread, NULL, call_without_context, current), 0);
    pthread_join(thread, NULL);
    assert_int_equal(test_misuse().calls_without_context, 3);
}

static void test_a_context_takes_all_with_it(void **state)
{
    CUcontext own;
    CUdeviceptr address;
    size_t free_bytes, total;
    void *host;

    (void)state;
    assert_cu(cuCtxCreate_v2(&own, 0, 0), SUCCESS);
    test_stream(CU_STREAM_NON_BLOCKING);
    test_event();
    assert_cu(cuMemAlloc_v2(&address, GRAIN), SUCCESS);
    assert_cu(cuMemHostAlloc(&host, 4096, 0), SUCCESS);
    assert_cu(cuMemsetD8Async(address, 1, GRAIN, NULL), SUCCESS);
    assert_cu(cuCtxPushCurrent_v2(own), SUCCESS);
    assert_cu(cuCtxDestroy_v2(own), SUCCESS);
    assert_int_equal(test_live().left_behind, 4);
    /* It is still on the stack once more. */
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), ERROR_CONTEXT_IS_DESTROYED);
    assert_cu(cuCtxPopCurrent_v2(NULL), SUCCESS);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    control.reset(); /* forgets what was left behind */
}

/* The current primary context may go while it is current. */
static void test_released_while_current(void **state)
{
    CUcontext context;
    CUevent event;

    (void)state;
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRelease_v2(0), ERROR_INVALID_CONTEXT);
    assert_cu(cuEventCreate(&event, 0), ERROR_CONTEXT_IS_DESTROYED);
    assert_cu(cuCtxPushCurrent_v2(context), ERROR_INVALID_CONTEXT);
    assert_cu(cuDevicePrimaryCtxRetain(&context, 0), SUCCESS);
    assert_cu(cuEventCreate(&event, 0), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
}

static void test_contexts_need_memory(void **state)
{
    CUcontext context;

    (void)state;
    control.steal(0, 256 * MIB);
    assert_cu(cuCtxCreate_v2(&context, 0, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRetain(&context, 0), ERROR_OUT_OF_MEMORY);
    control.steal(0, 0);
    assert_cu(cuDevicePrimaryCtxRetain(&context, 0), SUCCESS);
}

static void test_devices(void **state)
{
    char name[32], id[16];
    CUuuid first, second;
    CUcontext context;
    size_t bytes;
    int n, value;

    (void)state;
    assert_cu(cuDeviceGet(&n, 1), ERROR_INVALID_DEVICE);
    control.set("DEVICES=2");
    assert_cu(cuDeviceGetCount(&n), SUCCESS);
    assert_int_equal(n, 2);
    assert_cu(cuDeviceGet(&n, 1), SUCCESS);
    assert_cu(cuDeviceGetName(name, sizeof(name), 1), SUCCESS);
    assert_string_equal(name, "Fake GPU 1");
    assert_cu(cuDeviceGetPCIBusId(id, sizeof(id), 1), SUCCESS);
    assert_string_equal(id, "0000:f1:00.0");
    assert_cu(cuDeviceGetUuid_v2(&first, 0), SUCCESS);
    assert_cu(cuDeviceGetUuid_v2(&second, 1), SUCCESS);
    assert_memory_not_equal(&first, &second, sizeof(first));
    assert_cu(cuDeviceGetUuid(&second, 0), SUCCESS);
    assert_memory_equal(&first, &second, sizeof(first));
    assert_cu(cuDeviceTotalMem_v2(&bytes, 1), SUCCESS);
    assert_int_equal(bytes, 256 * MIB);
    control.set("COMPUTE=75");
    assert_cu(cuDeviceGetAttribute(&value, CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 1), SUCCESS);
    assert_int_equal(value, 7);
    assert_cu(cuDeviceGetAttribute(&value, CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 1), SUCCESS);
    assert_int_equal(value, 5);
    assert_cu(cuDeviceGetAttribute(&value, 100000, 1), ERROR_INVALID_VALUE);
    assert_cu(cuDeviceGetAttribute(&value, 1, 2), ERROR_INVALID_DEVICE);
    /* Losing one leaves the other. */
    assert_cu(cuDevicePrimaryCtxRetain(&context, 1), SUCCESS);
    control.lose(1, 0);
    assert_cu(cuCtxSynchronize(), SUCCESS);
    assert_cu(cuCtxPushCurrent_v2(context), SUCCESS);
    assert_cu(cuCtxSynchronize(), ERROR_LAUNCH_FAILED);
    assert_cu(cuCtxGetDevice(&n), SUCCESS);
    assert_cu(cuCtxPopCurrent_v2(NULL), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRelease_v2(1), SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_primary_contexts_are_counted),
        test_case(test_the_current_context_is_a_stack),
        test_case(test_other_threads_have_none),
        test_case(test_a_context_takes_all_with_it),
        test_case(test_released_while_current),
        test_case(test_contexts_need_memory),
        test_case(test_devices),
    };

    return cmocka_run_group_tests_name("context", tests, test_load, NULL);
}
