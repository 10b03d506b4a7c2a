/* SPDX-License-Identifier: Apache-2.0 */
/* What a CUDA device promises beyond the contract of all devices: to the host program, and when things fail. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "device/cuda/fake_test.h"

#define N_OPS 20

/* What the operations work on; outputs go here too. */
static struct {
    uint64_t address, handle, other_address, other_handle, ticket;
    void *host, *pinned;
} at;

static int setup_ops(void **state)
{
    if (setup_device(state) < 0)
        return -1;
    memory_new(UNIT, &at.address, &at.handle);
    OK(usk_os_map_anonymous(UNIT, &at.host, &error));
    return 0;
}

static void ops_free(void)
{
    memory_free(UNIT, at.address, at.handle);
    OK(usk_os_unmap(at.host, UNIT, &error));
}

/* Each function of the device once; those that undo another one come right behind it. */
static int op_call(unsigned int i)
{
    const struct usk_device_ops *ops = dev->ops;
    uint64_t free_bytes, total_bytes;

    switch (i) {
    case 0:
        return ops->memory_info(dev, &free_bytes, &total_bytes, &error);
    case 1:
        return ops->reserve(dev, UNIT, UNIT, &at.other_address, &error);
    case 2:
        return ops->create(dev, UNIT, &at.other_handle, &error);
    case 3:
        return ops->map(dev, at.other_address, UNIT, at.other_handle, &error);
    case 4:
        return ops->copy_up(dev, USK_LANE_UP, at.address, at.host, 4096, &error);
    case 5:
        return ops->copy_across(dev, USK_LANE_UP, at.other_address, at.address, 4096, &error);
    case 6:
        return ops->order(dev, USK_LANE_DOWN, USK_LANE_UP, &error);
    case 7:
        return ops->copy_down(dev, USK_LANE_DOWN, at.host, at.other_address, 4096, &error);
    case 8:
        return ops->fill(dev, USK_LANE_DOWN, at.address, 1, 4096, &error);
    case 9:
        return ops->order(dev, USK_LANE_HASH, USK_LANE_DOWN, &error);
    case 10:
        return ops->hash(dev, USK_LANE_HASH, at.address, 4096, 2, 0, &error);
    case 11:
        return ops->mark(dev, USK_LANE_HASH, &at.ticket, &error);
    case 12:
        return wait_ticket(at.ticket);
    case 13:
        return ops->unmap(dev, at.other_address, UNIT, &error);
    case 14:
        return ops->release(dev, at.other_handle, &error);
    case 15:
        return ops->unreserve(dev, at.other_address, UNIT, &error);
    case 16:
        return ops->register_host(dev, at.host, UNIT, 0, &error);
    case 17:
        return ops->unregister_host(dev, at.host, UNIT, &error);
    case 18:
        return ops->host_alloc(dev, 4096, &at.pinned, &error);
    case 19:
        return ops->host_free(dev, at.pinned, &error);
    default:
        return UNSTICK_INVALID_ARGUMENT;
    }
}

static int capture_mode(void)
{
    int mode = USK_CU_STREAM_CAPTURE_MODE_GLOBAL, own;

    assert_int_equal(table.cuThreadExchangeStreamCaptureMode(&mode), 0);
    own = mode;
    assert_int_equal(table.cuThreadExchangeStreamCaptureMode(&mode), 0);
    return own;
}

static void set_capture_mode(int mode)
{
    assert_int_equal(table.cuThreadExchangeStreamCaptureMode(&mode), 0);
}

/* The thread's context and capture mode are after each call, good or bad, what they were before. */
static void test_thread_is_left_as_it_was(void **state)
{
    usk_cu_context primary, seen;

    (void)state;
    fake.set("DEVICES=2");
    assert_int_equal(table.cuDevicePrimaryCtxRetain(&primary, 1), 0);
    for (int has_context = 0; has_context < 2; has_context++) {
        if (has_context)
            assert_int_equal(table.cuCtxPushCurrent(primary), 0);
        for (int mode = 0; mode < 3; mode++) {
            set_capture_mode(mode);
            for (unsigned int i = 0; i < N_OPS; i++) {
                fail_at("*", 2, USK_CU_INVALID_VALUE);
                if (i != 12)
                    op_call(i); /* pushing is the first call: what it is for fails, if it makes one */
                fail_nothing();
                assert_int_equal(fake.context_depth(), has_context);
                assert_int_equal(capture_mode(), mode);
                if (i == 4)
                    assert_int_equal(error.native, USK_CU_INVALID_VALUE);
                OK(op_call(i));
                assert_int_equal(fake.context_depth(), has_context);
                assert_int_equal(capture_mode(), mode);
            }
        }
        if (has_context) {
            assert_int_equal(table.cuCtxGetCurrent(&seen), 0);
            assert_ptr_equal(seen, primary);
            assert_int_equal(table.cuCtxPopCurrent(&seen), 0);
        }
    }
    set_capture_mode(USK_CU_STREAM_CAPTURE_MODE_GLOBAL);
    assert_int_equal(table.cuDevicePrimaryCtxRelease(1), 0);
    ops_free();
}

static void test_entering_fails(void **state)
{
    uint64_t free_bytes, total_bytes;

    (void)state;
    set_capture_mode(USK_CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    fail_at("cuCtxPushCurrent", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    assert_int_equal(capture_mode(), USK_CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    fail_at("cuThreadExchangeStreamCaptureMode", 1, USK_CU_INVALID_VALUE);
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    fail_nothing();
    assert_int_equal(fake.context_depth(), 0);
    set_capture_mode(USK_CU_STREAM_CAPTURE_MODE_GLOBAL);
    ops_free();
}

static usk_cu_stream host_stream(unsigned int flags)
{
    usk_cu_context primary, popped;
    usk_cu_stream stream;

    assert_int_equal(table.cuDevicePrimaryCtxRetain(&primary, 0), 0);
    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuStreamCreate(&stream, flags), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
    return stream;
}

static void host_stream_free(usk_cu_stream stream)
{
    usk_cu_context primary, popped;

    assert_int_equal(table.cuDevicePrimaryCtxRetain(&primary, 0), 0);
    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuStreamDestroy(stream), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
    assert_int_equal(table.cuDevicePrimaryCtxRelease(0), 0);
    assert_int_equal(table.cuDevicePrimaryCtxRelease(0), 0);
}

static void *ops_thread(void *userdata)
{
    for (unsigned int i = 0; i < N_OPS; i++) {
        if (op_call(i) != UNSTICK_OK)
            *(bool *)userdata = true;
    }
    return NULL;
}

/* The host program captures a graph in the strictest mode: all our calls work, and it does not notice. */
static void test_captures_are_not_disturbed(void **state)
{
    usk_cu_stream stream = host_stream(USK_CU_STREAM_NON_BLOCKING);
    bool has_failed = false;
    pthread_t thread;

    (void)state;
    assert_int_equal(fake.capture_begin(stream, USK_CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    ops_thread(&has_failed);
    assert_int_equal(pthread_create(&thread, NULL, ops_thread, &has_failed), 0);
    pthread_join(thread, NULL);
    assert_false(has_failed);
    assert_int_equal(fake.capture_end(stream), 0);
    host_stream_free(stream);
    ops_free();
}

/* After the first failure that is for ever nothing is asked of the driver any more. */
static void test_lost(void **state)
{
    static const int codes[] = { USK_CU_ILLEGAL_ADDRESS, USK_CU_LAUNCH_FAILED, USK_CU_ECC_UNCORRECTABLE,
                                 USK_CU_DEINITIALIZED, 0 };
    uint64_t ticket, n_calls, again;

    (void)state;
    ops_free();
    usk_device_close(dev);
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        open_device();
        OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
        usk_os_event_wait(event_fd, -1);
        usk_os_event_drain(event_fd);
        fake.lose(0, codes[i]);
        FAILS(UNSTICK_DEVICE_LOST, usk_device_poll(dev, ticket, &error));
        assert_int_equal(error.native, codes[i] ? codes[i] : USK_CU_LAUNCH_FAILED);
        /* Whoever waits for the event is told. */
        assert_true(usk_os_event_wait(event_fd, 0));
        n_calls = fake.n_calls("*");
        for (unsigned int k = 0; k < N_OPS; k++) {
            if (k != 12)
                FAILS(UNSTICK_DEVICE_LOST, op_call(k));
        }
        FAILS(UNSTICK_DEVICE_LOST, dev->ops->fence_device(dev, &again, &error));
        FAILS(UNSTICK_DEVICE_LOST, dev->ops->fence_stream(dev, NULL, &again, &error));
        assert_non_null(strstr(error.text, "cuEventQuery said CUDA_ERROR_"));
        usk_device_drop(dev, ticket);
        assert_int_equal(fake.n_calls("*"), n_calls);
        usk_device_close(dev);
        dev = NULL;
        assert_int_equal(live_now().retains, 0);
        fake.reset();
    }
}

/* Work is stuck for good and the device is lost: closing does not wait for it. */
static void test_close_when_lost_does_not_wait(void **state)
{
    uint64_t ticket;

    (void)state;
    ops_free();
    fake.hold(NULL, 1);
    OK(dev->ops->mark(dev, USK_LANE_DOWN, &ticket, &error));
    fake.lose(0, 0);
    usk_device_close(dev); /* finds out by itself */
    dev = NULL;
    fake.reset();
}

static usk_cu_result stream_is_dead(usk_cu_stream stream)
{
    (void)stream;
    return USK_CU_UNKNOWN;
}

/* "Unknown" may be about one call or about all: a stream is asked. */
static void test_unknown(void **state)
{
    uint64_t handle;

    (void)state;
    ops_free();
    fail_at("cuMemCreate", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->create(dev, UNIT, &handle, &error));
    fake.hold(NULL, 1);
    OK(dev->ops->mark(dev, USK_LANE_UP, &handle, &error));
    fail_nothing();
    fail_at("cuMemCreate", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->create(dev, UNIT, &handle, &error));
    fake.hold(NULL, 0);
    fail_nothing();
    fail_at("cuMemCreate", 1, USK_CU_UNKNOWN);
    table.cuStreamQuery = stream_is_dead;
    FAILS(UNSTICK_DEVICE_LOST, dev->ops->create(dev, UNIT, &handle, &error));
}

/* No lock of ours is held when the driver is called: a call that takes one would not return. */
static void take_lock(void *userdata, const char *name)
{
    (void)name;
    ++*(unsigned int *)userdata;
    usk_device_drop(dev, UINT64_MAX);
}

static void test_no_lock_over_driver_calls(void **state)
{
    unsigned int n = 0;
    uint64_t ticket;

    (void)state;
    fake.set_hook(take_lock, &n);
    for (unsigned int i = 0; i < N_OPS; i++)
        OK(op_call(i));
    OK(dev->ops->fence_stream(dev, NULL, &ticket, &error));
    usk_device_drop(dev, ticket);
    OK(dev->ops->fence_device(dev, &ticket, &error));
    usk_device_drop(dev, ticket);
    fake.set_hook(NULL, NULL);
    assert_true(n > N_OPS);
    ops_free();
}

/* The mark after a copy that the driver refuses, and so on: each call fails once, then all goes on. */
static void test_every_call_fails_once(void **state)
{
    uint64_t n_failed;

    (void)state;
    for (unsigned int i = 0; i < N_OPS; i++) {
        for (uint64_t n = 1;; n++) {
            struct fakecuda_live before = live_now(), after;
            int r;

            fail_at("*", n, USK_CU_INVALID_VALUE);
            r = op_call(i);
            n_failed = fake.n_failed();
            fail_nothing();
            if (r == UNSTICK_OK)
                break;
            /* Retries and readings for a message may swallow none: what failed was said. */
            assert_int_equal(n_failed, 1);
            assert_true(r < 0 && r != UNSTICK_DEVICE_LOST);
            if (i == 12)
                OK(op_call(11)); /* the ticket was used up by its failure */
            after = live_now();
            before.events = after.events; /* kept for the next ticket */
            before.host_functions = after.host_functions;
            if (i != 12)
                assert_memory_equal(&before, &after, sizeof(before));
        }
    }
    ops_free();
}

/* Opening fails at each of its calls: nothing is left, or a device without hashes is. */
static void test_open_fails_everywhere(void **state)
{
    static const int codes[] = { 0, USK_CU_OUT_OF_MEMORY, USK_CU_ILLEGAL_ADDRESS };
    unsigned int n_unhashed = 0, n_refused = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        for (uint64_t n = 1;; n++) {
            uint64_t n_failed;
            int r;

            fail_at("*", n, codes[i]);
            memset(&error, 0, sizeof(error));
            r = usk_cuda_open_with(&table, "0", event_fd, NULL, &dev, &error);
            n_failed = fake.n_failed();
            fail_nothing();
            if (r == UNSTICK_OK) {
                n_unhashed += !dev->caps.can_hash;
                assert_true(dev->caps.can_hash == (dev->hash_results != NULL));
                usk_device_close(dev);
                dev = NULL;
                if (!n_failed)
                    break;
            } else {
                n_refused++;
                assert_int_equal(r, error.status);
                assert_true(error.text[0]);
            }
            check_clean();
        }
    }
    assert_true(n_unhashed > 5 && n_refused > 20);
}

static void test_open_refuses(void **state)
{
    (void)state;
    fake.set("NO_VMM=1");
    FAILS(UNSTICK_UNSUPPORTED, usk_cuda_open_with(&table, "0", event_fd, NULL, &dev, &error));
    assert_non_null(strstr(error.text, "virtual memory"));
    assert_int_equal(fake.n_calls("cuDevicePrimaryCtxRetain"), 0);
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_cuda_open_with(&table, "first", event_fd, NULL, &dev, &error));
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_open("1", event_fd, NULL, &dev, &error));
    assert_null(dev);
}

static usk_cu_result odd_granularity(size_t *ret_bytes, const struct usk_cu_mem_prop *prop, int option)
{
    (void)prop;
    (void)option;
    *ret_bytes = 3 << 20;
    return USK_CU_SUCCESS;
}

static void test_open_refuses_odd_granularity(void **state)
{
    (void)state;
    table.cuMemGetAllocationGranularity = odd_granularity;
    FAILS(UNSTICK_UNSUPPORTED, usk_cuda_open_with(&table, "0", event_fd, NULL, &dev, &error));
}

static void test_capabilities(void **state)
{
    void *memory;

    (void)state;
    open_device();
    assert_true(dev->caps.can_register && dev->caps.can_register_file && dev->caps.can_checkpoint &&
                dev->caps.has_real_vram && dev->caps.can_hash);
    assert_int_equal(dev->caps.default_granule_bytes, UINT64_C(64) << 20);
    assert_int_equal(dev->caps.driver_version, 13000);
    usk_device_close(dev);

    fake.set("NO_READ_ONLY_REGISTER=1");
    table.cuCheckpointProcessLock = NULL;
    open_device();
    assert_true(dev->caps.can_register && !dev->caps.can_register_file && !dev->caps.can_checkpoint);
    OK(usk_os_map_anonymous(UNIT, &memory, &error));
    FAILS(UNSTICK_UNSUPPORTED, dev->ops->register_host(dev, memory, UNIT, USK_REGISTER_READ_ONLY, &error));
    assert_int_equal(fake.n_calls("cuMemHostRegister"), 0);
    OK(usk_os_unmap(memory, UNIT, &error));
}

/* Two devices, and one device twice: they share the context and nothing else. */
static void test_two_at_once(void **state)
{
    struct usk_device *first, *second;
    uint64_t ticket;

    (void)state;
    fake.set("DEVICES=2");
    open_device();
    OK(usk_cuda_open_with(&table, "0", -1, NULL, &first, &error));
    OK(usk_cuda_open_with(&table, "1", event_fd, NULL, &second, &error));
    assert_string_not_equal(first->caps.uuid, second->caps.uuid);
    assert_int_equal(first->caps.index, 0);
    assert_int_equal(second->caps.index, 1);
    OK(first->ops->mark(first, USK_LANE_UP, &ticket, &error));
    usk_device_close(second);
    while (usk_device_poll(first, ticket, &error) == UNSTICK_PENDING)
        ;
    usk_device_close(first);
    wait_lane(USK_LANE_UP);
}

#define ops_test(_name) cmocka_unit_test_setup_teardown(_name, setup_ops, teardown)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        ops_test(test_thread_is_left_as_it_was),
        ops_test(test_entering_fails),
        ops_test(test_captures_are_not_disturbed),
        ops_test(test_lost),
        ops_test(test_close_when_lost_does_not_wait),
        ops_test(test_unknown),
        ops_test(test_no_lock_over_driver_calls),
        ops_test(test_every_call_fails_once),
        driver_test(test_open_fails_everywhere),
        driver_test(test_open_refuses),
        driver_test(test_open_refuses_odd_granularity),
        driver_test(test_capabilities),
        driver_test(test_two_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
