/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tickets, notifications and fences: what the conformance suite cannot see, since it has no stream of a host program.
 */
#include "device/cuda/fences.h"

#include "device/cuda/fake_test.h"

static usk_cu_context primary;

/* The host program: a context that it holds, and streams. */
static int setup_host(void **state)
{
    if (setup_driver(state) < 0 || table.cuDevicePrimaryCtxRetain(&primary, 0))
        return -1;
    return 0;
}

static int teardown_host(void **state)
{
    assert_int_equal(table.cuDevicePrimaryCtxRelease(0), 0);
    return teardown(state);
}

static usk_cu_stream stream_new(unsigned int flags)
{
    usk_cu_context popped;
    usk_cu_stream stream;

    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuStreamCreate(&stream, flags), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
    return stream;
}

static void stream_free(usk_cu_stream stream)
{
    usk_cu_context popped;

    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuStreamDestroy(stream), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
}

/* A little work for a stream that is held: without work an event of it has passed already. */
static void stream_work(usk_cu_stream stream, uint64_t address)
{
    assert_int_equal(fake.kernel_write(stream, address, 1, 16), 0);
}

static void test_fence_stream(void **state)
{
    usk_cu_stream stream = stream_new(USK_CU_STREAM_NON_BLOCKING);
    uint64_t address, handle, ticket;

    (void)state;
    open_device();
    memory_new(UNIT, &address, &handle);
    fake.hold(stream, 1);
    stream_work(stream, address);
    OK(dev->ops->fence_stream(dev, stream, &ticket, &error));
    assert_int_equal(usk_device_poll(dev, ticket, &error), UNSTICK_PENDING);
    assert_false(usk_os_event_wait(event_fd, 0));
    fake.hold(stream, 0);
    assert_true(usk_os_event_wait(event_fd, 20000));
    OK(wait_ticket(ticket));
    stream_free(stream);
    memory_free(UNIT, address, handle);
}

static void test_fence_while_capturing(void **state)
{
    usk_cu_stream captured = stream_new(USK_CU_STREAM_NON_BLOCKING), blocking = stream_new(0);
    uint64_t ticket;

    (void)state;
    open_device();
    assert_int_equal(fake.capture_begin(captured, USK_CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    FAILS(UNSTICK_BUSY, dev->ops->fence_stream(dev, captured, &ticket, &error));
    /* Others are not concerned, the default stream neither. */
    OK(dev->ops->fence_stream(dev, blocking, &ticket, &error));
    OK(wait_ticket(ticket));
    OK(dev->ops->fence_stream(dev, NULL, &ticket, &error));
    OK(wait_ticket(ticket));
    assert_int_equal(fake.capture_end(captured), 0);

    /* The capture of a blocking stream concerns the default stream, and shows before anything is spoilt. */
    assert_int_equal(fake.capture_begin(blocking, USK_CU_STREAM_CAPTURE_MODE_GLOBAL), 0);
    FAILS(UNSTICK_BUSY, dev->ops->fence_stream(dev, NULL, &ticket, &error));
    FAILS(UNSTICK_BUSY, dev->ops->fence_device(dev, &ticket, &error));
    assert_int_equal(fake.capture_end(blocking), 0);
    OK(dev->ops->fence_device(dev, &ticket, &error));
    OK(wait_ticket(ticket));
    stream_free(captured);
    stream_free(blocking);
}

/* A fence that stays is in nobody's way: neither lanes nor other fences are reported behind it. */
static void test_fences_do_not_hold_up(void **state)
{
    usk_cu_stream stuck = stream_new(USK_CU_STREAM_NON_BLOCKING), quick = stream_new(USK_CU_STREAM_NON_BLOCKING);
    uint64_t address, handle, slow[3], ticket;

    (void)state;
    open_device();
    memory_new(UNIT, &address, &handle);
    fake.hold(stuck, 1);
    stream_work(stuck, address);
    for (int i = 0; i < 3; i++)
        OK(dev->ops->fence_stream(dev, stuck, &slow[i], &error));
    OK(dev->ops->fence_stream(dev, quick, &ticket, &error));
    assert_true(usk_os_event_wait(event_fd, 20000));
    OK(wait_ticket(ticket));
    usk_os_event_drain(event_fd);
    for (int i = 0; i < USK_N_LANES; i++) {
        OK(dev->ops->mark(dev, (enum usk_lane)i, &ticket, &error));
        assert_true(usk_os_event_wait(event_fd, 20000));
        OK(wait_ticket(ticket));
        usk_os_event_drain(event_fd);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(usk_device_poll(dev, slow[i], &error), UNSTICK_PENDING);
    fake.hold(stuck, 0);
    for (int i = 0; i < 3; i++)
        OK(wait_ticket(slow[i]));
    stream_free(stuck);
    stream_free(quick);
    memory_free(UNIT, address, handle);
}

/* Memory that the host program took by itself, in the primary context. */
static usk_cu_ptr program_memory_new(void)
{
    usk_cu_context popped;
    usk_cu_ptr address;

    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuMemAlloc(&address, UNIT), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
    return address;
}

/* The host program's stream goes on after the device was closed: nobody is told, and nothing is touched. */
static void test_close_with_fence_out(void **state)
{
    usk_cu_stream stream = stream_new(USK_CU_STREAM_NON_BLOCKING);
    usk_cu_ptr address = program_memory_new();
    usk_cu_context popped;
    uint64_t ticket;

    (void)state;
    /* Without a kernel there is no memory of ours to free, for which a driver waits for the whole device. */
    fail_at("cuModuleLoadData", 1, USK_CU_INVALID_PTX);
    open_device();
    fake.hold(stream, 1);
    stream_work(stream, address);
    OK(dev->ops->fence_stream(dev, stream, &ticket, &error));
    assert_int_equal(live_now().host_functions, 1);
    usk_device_close(dev);
    dev = NULL;
    assert_false(usk_os_event_wait(event_fd, 0));
    fake.hold(stream, 0);
    assert_int_equal(table.cuCtxPushCurrent(primary), 0);
    assert_int_equal(table.cuCtxSynchronize(), 0);
    assert_int_equal(table.cuMemFree(address), 0);
    assert_int_equal(table.cuCtxPopCurrent(&popped), 0);
    stream_free(stream);
    assert_false(usk_os_event_wait(event_fd, 0));
}

static void test_used_up(void **state)
{
    uint64_t first, second;

    (void)state;
    open_device();
    OK(dev->ops->mark(dev, USK_LANE_UP, &first, &error));
    OK(wait_ticket(first));
    /* The second takes the place of the first, and is another ticket. */
    OK(dev->ops->mark(dev, USK_LANE_UP, &second, &error));
    assert_int_not_equal(first, second);
    assert_int_equal((uint32_t)first, (uint32_t)second);
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_device_poll(dev, first, &error));
    usk_device_drop(dev, first);
    OK(wait_ticket(second));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_device_poll(dev, second, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_device_poll(dev, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_device_poll(dev, UINT64_MAX, &error));
}

/* A driver before 12.5. */
static void open_old_device(void)
{
    table.cuCtxRecordEvent = NULL;
    open_device();
}

static void test_thread_fence(void **state)
{
    usk_cu_stream stream = stream_new(USK_CU_STREAM_NON_BLOCKING);
    uint64_t address, handle, first, second, dropped, third;

    (void)state;
    open_old_device();
    memory_new(UNIT, &address, &handle);
    wait_lane(USK_LANE_UP);
    usk_os_event_drain(event_fd);
    OK(dev->ops->fence_device(dev, &first, &error));
    assert_true(usk_os_event_wait(event_fd, 20000));
    OK(wait_ticket(first));

    usk_os_event_drain(event_fd);
    fake.hold(stream, 1);
    stream_work(stream, address);
    OK(dev->ops->fence_device(dev, &first, &error));
    OK(dev->ops->fence_device(dev, &second, &error));
    OK(dev->ops->fence_device(dev, &dropped, &error));
    usk_device_drop(dev, dropped);
    assert_int_equal(usk_device_poll(dev, first, &error), UNSTICK_PENDING);
    assert_int_equal(usk_device_poll(dev, second, &error), UNSTICK_PENDING);
    fake.hold(stream, 0);
    OK(wait_ticket(second));
    OK(wait_ticket(first));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_device_poll(dev, dropped, &error));

    /* The next one waits for what came after. */
    fake.hold(stream, 1);
    stream_work(stream, address);
    OK(dev->ops->fence_device(dev, &third, &error));
    assert_int_equal(usk_device_poll(dev, third, &error), UNSTICK_PENDING);
    fake.hold(stream, 0);
    OK(wait_ticket(third));
    stream_free(stream);
    memory_free(UNIT, address, handle);
}

static void test_thread_fence_fails(void **state)
{
    uint64_t ticket;
    int r;

    (void)state;
    open_old_device();
    fail_at("cuCtxSynchronize", 1, USK_CU_STREAM_CAPTURE_UNSUPPORTED);
    OK(dev->ops->fence_device(dev, &ticket, &error));
    memset(&error, 0, sizeof(error));
    r = wait_ticket(ticket);
    assert_int_equal(r, UNSTICK_BUSY);
    assert_true(error.status == UNSTICK_BUSY && error.native == USK_CU_STREAM_CAPTURE_UNSUPPORTED && error.text[0]);
    /* The thread goes on. */
    OK(dev->ops->fence_device(dev, &ticket, &error));
    OK(wait_ticket(ticket));
}

static void test_thread_fence_when_lost(void **state)
{
    usk_cu_stream stream = stream_new(USK_CU_STREAM_NON_BLOCKING);
    usk_cu_ptr address = program_memory_new();
    uint64_t ticket;

    (void)state;
    open_old_device();
    fake.hold(stream, 1);
    stream_work(stream, address);
    OK(dev->ops->fence_device(dev, &ticket, &error));
    fake.lose(0, USK_CU_ILLEGAL_ADDRESS);
    assert_int_equal(wait_ticket(ticket), UNSTICK_DEVICE_LOST);
    usk_device_close(dev);
    dev = NULL;
}

/* Closing with fences that nobody asked about ends the thread. */
static void test_thread_fence_close(void **state)
{
    uint64_t ticket;

    (void)state;
    open_old_device();
    for (int i = 0; i < 20; i++)
        OK(dev->ops->fence_device(dev, &ticket, &error));
}

/* Nobody listens: tickets pass all the same, and no stream waits for them. */
static void test_no_event(void **state)
{
    uint64_t ticket;

    (void)state;
    OK(usk_cuda_open_with(&table, "0", -1, NULL, &dev, &error));
    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    OK(wait_ticket(ticket));
    OK(dev->ops->fence_device(dev, &ticket, &error));
    OK(wait_ticket(ticket));
    assert_int_equal(fake.n_calls("cuLaunchHostFunc"), 0);
    assert_int_equal(live_now().streams, USK_N_LANES);
}

#define host_test(_name) cmocka_unit_test_setup_teardown(_name, setup_host, teardown_host)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        host_test(test_fence_stream),
        host_test(test_fence_while_capturing),
        host_test(test_fences_do_not_hold_up),
        host_test(test_close_with_fence_out),
        host_test(test_used_up),
        host_test(test_thread_fence),
        host_test(test_thread_fence_fails),
        host_test(test_thread_fence_when_lost),
        host_test(test_thread_fence_close),
        host_test(test_no_event),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
