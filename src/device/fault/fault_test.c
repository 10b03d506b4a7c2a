/* SPDX-License-Identifier: Apache-2.0 */
#include "device/fault/fault.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/os.h"

#define UNIT (UINT64_C(64) << 10)
#define TOTAL (UINT64_C(16) << 20)

static struct unstick_error error;
static struct usk_device *inner;
static int event_fd;

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)

static int setup(void **state)
{
    if (usk_os_event_new(&event_fd, &error) < 0 || usk_host_open(TOTAL, event_fd, NULL, &inner, &error) < 0)
        return -1;
    return usk_fault_open(inner, (struct usk_device **)state, &error);
}

static int teardown(void **state)
{
    usk_device_close(*state);
    usk_os_close(event_fd);
    return 0;
}

static void set(struct usk_device *dev, struct usk_fault_script script)
{
    usk_fault_set(dev, &script);
}

static int poll_until_over(struct usk_device *dev, uint64_t ticket)
{
    int r;

    while ((r = usk_device_poll(dev, ticket, &error)) == UNSTICK_PENDING)
        ;
    return r;
}

/* One call of each op; what an op needs was made before. All work is in one lane: nothing runs beside it. */
struct rig {
    uint64_t address, spare_address, handle, spare_handle, ticket;
    char memory[64], registered[64]; /* the one is copied from and to, while the other comes and goes */
    void *pinned;
};

static void rig_init(struct rig *rig, struct usk_device *dev)
{
    *rig = (struct rig){ 0 };
    OK(inner->ops->reserve(inner, 4 * UNIT, UNIT, &rig->address, &error));
    OK(inner->ops->reserve(inner, UNIT, UNIT, &rig->spare_address, &error));
    OK(inner->ops->create(inner, UNIT, &rig->handle, &error));
    OK(inner->ops->create(inner, UNIT, &rig->spare_handle, &error));
    OK(inner->ops->map(inner, rig->address, UNIT, rig->handle, &error));
    OK(inner->ops->map(inner, rig->address + UNIT, UNIT, rig->handle, &error));
    OK(inner->ops->host_alloc(inner, 4096, &rig->pinned, &error));
    OK(dev->ops->mark(dev, USK_LANE_UP, &rig->ticket, &error));
}

static int rig_call(struct rig *rig, struct usk_device *dev, enum usk_fault_op op)
{
    const struct usk_device_ops *ops = dev->ops;
    uint64_t a, b;
    void *pointer;

    switch (op) {
    case USK_FAULT_MEMORY_INFO:
        return ops->memory_info(dev, &a, &b, &error);
    case USK_FAULT_RESERVE:
        return ops->reserve(dev, UNIT, UNIT, &a, &error);
    case USK_FAULT_UNRESERVE:
        return ops->unreserve(dev, rig->spare_address, UNIT, &error);
    case USK_FAULT_CREATE:
        return ops->create(dev, UNIT, &a, &error);
    case USK_FAULT_RELEASE:
        return ops->release(dev, rig->spare_handle, &error);
    case USK_FAULT_MAP:
        return ops->map(dev, rig->address + 2 * UNIT, UNIT, rig->handle, &error);
    case USK_FAULT_UNMAP:
        return ops->unmap(dev, rig->address, UNIT, &error);
    case USK_FAULT_COPY_UP:
        return ops->copy_up(dev, USK_LANE_UP, rig->address + UNIT, rig->memory, 64, &error);
    case USK_FAULT_COPY_DOWN:
        return ops->copy_down(dev, USK_LANE_UP, rig->memory, rig->address + UNIT, 64, &error);
    case USK_FAULT_COPY_ACROSS:
        return ops->copy_across(dev, USK_LANE_UP, rig->address + UNIT, rig->address + UNIT + 64, 64, &error);
    case USK_FAULT_FILL:
        return ops->fill(dev, USK_LANE_UP, rig->address + UNIT, 1, 64, &error);
    case USK_FAULT_HASH:
        return ops->hash(dev, USK_LANE_UP, rig->address + UNIT, 64, 1, 0, &error);
    case USK_FAULT_ORDER:
        return ops->order(dev, USK_LANE_HASH, USK_LANE_UP, &error);
    case USK_FAULT_MARK:
        return ops->mark(dev, USK_LANE_UP, &a, &error);
    case USK_FAULT_FENCE_STREAM:
        return ops->fence_stream(dev, NULL, &a, &error);
    case USK_FAULT_FENCE_DEVICE:
        return ops->fence_device(dev, &a, &error);
    case USK_FAULT_POLL:
        return poll_until_over(dev, rig->ticket);
    case USK_FAULT_REGISTER:
        return ops->register_host(dev, rig->registered, 64, 0, &error);
    case USK_FAULT_UNREGISTER:
        return ops->unregister_host(dev, rig->registered, 64, &error);
    case USK_FAULT_HOST_ALLOC:
        return ops->host_alloc(dev, 4096, &pointer, &error);
    default:
        return ops->host_free(dev, rig->pinned, &error);
    }
}

/* Each op counts as one call, fails where it is told to, with the status of its kind, and says which it was. */
static void test_every_op_can_fail(void **state)
{
    struct usk_device *dev = *state;
    static struct rig rig; /* copies into it may go on until the device is closed */

    for (int op = 0; op < USK_N_FAULT_OPS; op++) {
        if (op > 0) {
            teardown(state);
            assert_int_equal(setup(state), 0);
            dev = *state;
        }
        rig_init(&rig, dev);
        set(dev, (struct usk_fault_script){ .fail_at = (uint64_t)op + 1, .count_polls = true });
        for (int i = 0; i < USK_N_FAULT_OPS; i++) {
            int r = rig_call(&rig, dev, (enum usk_fault_op)i);

            assert_int_equal(usk_fault_n_calls(dev), i + 1);
            if (i == op) {
                assert_int_equal(r, i == USK_FAULT_CREATE ? UNSTICK_OUT_OF_DEVICE_MEMORY : UNSTICK_DRIVER);
                assert_int_equal(error.status, r);
                assert_non_null(strstr(error.text, error.operation));
                break;
            }
            OK(r);
        }
        assert_int_equal(usk_fault_n_failed(dev), 1);
        /* Nothing had happened: the same call works now. A poll that failed has used its ticket up. */
        if (op != USK_FAULT_POLL)
            OK(rig_call(&rig, dev, (enum usk_fault_op)op));
        else
            assert_int_equal(rig_call(&rig, dev, USK_FAULT_POLL), UNSTICK_INVALID_ARGUMENT);
    }
}

static void test_status_and_for_ever(void **state)
{
    struct usk_device *dev = *state;
    uint64_t handle;

    set(dev, (struct usk_fault_script){ .fail_at = 2, .status = UNSTICK_BUSY, .is_for_ever = true });
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    for (unsigned int i = 0; i < 3; i++)
        assert_int_equal(dev->ops->release(dev, handle, &error), UNSTICK_BUSY);
    assert_int_equal(usk_fault_n_calls(dev), 4);
    assert_int_equal(usk_fault_n_failed(dev), 3);
    usk_fault_set(dev, NULL);
    assert_int_equal(usk_fault_n_calls(dev), 0);
    assert_int_equal(usk_fault_n_failed(dev), 0);
    OK(dev->ops->release(dev, handle, NULL));
    assert_int_equal(usk_fault_n_calls(dev), 1);
}

static void test_mask_and_polls(void **state)
{
    uint64_t handle, ticket, free_bytes, total_bytes;
    struct usk_device *dev = *state;

    set(dev, (struct usk_fault_script){ .fail_at = 2, .op_mask = UINT64_C(1) << USK_FAULT_CREATE });
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    OK(dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    OK(dev->ops->release(dev, handle, &error));
    assert_int_equal(usk_fault_n_calls(dev), 1);
    assert_int_equal(dev->ops->create(dev, UNIT, &handle, NULL), UNSTICK_OUT_OF_DEVICE_MEMORY);
    OK(dev->ops->create(dev, UNIT, &handle, &error));

    /* Polls come as often as the caller likes: they count when asked for only. */
    set(dev, (struct usk_fault_script){ .fail_at = 2 });
    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    OK(poll_until_over(dev, ticket));
    assert_int_equal(usk_fault_n_calls(dev), 1);
    assert_int_equal(usk_fault_n_failed(dev), 0);
}

/* Lost is lost: every call says so from then on, a poll too, which uses its ticket up; close works. */
static void test_lost(void **state)
{
    struct usk_device *dev = *state;
    uint64_t ticket;
    static struct rig rig; /* copies into it may go on until the device is closed */

    rig_init(&rig, dev);
    set(dev, (struct usk_fault_script){ .lose_at = 2 });
    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    for (int op = 0; op < USK_N_FAULT_OPS; op++) {
        assert_int_equal(rig_call(&rig, dev, (enum usk_fault_op)op), UNSTICK_DEVICE_LOST);
        assert_int_equal(error.status, UNSTICK_DEVICE_LOST);
    }
    assert_int_equal(usk_device_poll(dev, ticket, &error), UNSTICK_DEVICE_LOST);
    usk_device_drop(dev, ticket);
    /* Neither the lane nor the table behind has kept the tickets. */
    usk_fault_set(dev, NULL);
    assert_int_equal(usk_device_poll(dev, ticket, &error), UNSTICK_INVALID_ARGUMENT);
}

static void test_lost_is_seen_by_poll(void **state)
{
    struct usk_device *dev = *state;
    uint64_t ticket;

    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    set(dev, (struct usk_fault_script){ .lose_at = 1, .count_polls = true });
    assert_int_equal(usk_device_poll(dev, ticket, &error), UNSTICK_DEVICE_LOST);
    assert_int_equal(usk_fault_n_failed(dev), 1);
}

static void test_stolen_memory(void **state)
{
    uint64_t free_bytes, total_bytes, handle, other;
    struct usk_device *dev = *state;

    set(dev, (struct usk_fault_script){ .steal_bytes = TOTAL - 4 * UNIT });
    OK(dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    assert_int_equal(free_bytes, 4 * UNIT);
    assert_int_equal(total_bytes, TOTAL);
    OK(dev->ops->create(dev, 3 * UNIT, &handle, &error));
    assert_int_equal(dev->ops->create(dev, 2 * UNIT, &other, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(error.required_bytes, 2 * UNIT);
    assert_int_equal(error.available_bytes, UNIT);
    OK(dev->ops->create(dev, UNIT, &other, &error));
    /* More was taken than there is: nothing is free, and nothing wraps. */
    set(dev, (struct usk_fault_script){ .steal_bytes = UINT64_MAX });
    OK(dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    assert_int_equal(free_bytes, 0);
    usk_fault_set(dev, NULL);
    OK(dev->ops->create(dev, 2 * UNIT, &handle, &error));
}

/* Each ticket owes its own answers, and the event comes again for each, so that nobody waits for ever. */
static void test_pending_polls(void **state)
{
    struct usk_device *dev = *state;
    uint64_t tickets[3];

    set(dev, (struct usk_fault_script){ .pending_polls = 3 });
    OK(dev->ops->mark(dev, USK_LANE_UP, &tickets[0], &error));
    OK(dev->ops->fence_stream(dev, NULL, &tickets[1], &error));
    OK(dev->ops->fence_device(dev, &tickets[2], &error));
    for (unsigned int i = 0; i < 3; i++) {
        for (unsigned int k = 0; k < 3; k++) {
            usk_os_event_drain(event_fd);
            assert_int_equal(usk_device_poll(dev, tickets[i], &error), UNSTICK_PENDING);
            assert_true(usk_os_event_wait(event_fd, 0));
        }
        OK(poll_until_over(dev, tickets[i]));
        assert_int_equal(usk_device_poll(dev, tickets[i], &error), UNSTICK_INVALID_ARGUMENT);
    }
    usk_device_drop(dev, tickets[0]); /* stale: nothing happens */
}

static void test_busy_maps(void **state)
{
    uint64_t address, handle;
    struct usk_device *dev = *state;

    OK(dev->ops->reserve(dev, UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    set(dev, (struct usk_fault_script){ .busy_maps = 2 });
    for (unsigned int i = 0; i < 2; i++) {
        assert_int_equal(dev->ops->map(dev, address, UNIT, handle, &error), UNSTICK_BUSY);
        assert_int_equal(error.status, UNSTICK_BUSY);
    }
    OK(dev->ops->map(dev, address, UNIT, handle, &error));
    assert_int_equal(usk_fault_n_calls(dev), 3);
    assert_int_equal(usk_fault_n_failed(dev), 0);
}

/* What the inner device refuses is handed on as it is, tickets included. */
static void test_inner_failures(void **state)
{
    struct usk_device *dev = *state;
    uint64_t ticket = 1234, handle;

    assert_int_equal(dev->ops->mark(dev, USK_N_LANES, &ticket, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(ticket, 1234);
    assert_int_equal(dev->ops->create(dev, UNIT + 1, &handle, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(usk_fault_n_failed(dev), 0);
}

enum { N_THREADS = 4, N_ROUNDS = 500 };

static void *count_run(void *userdata)
{
    struct usk_device *dev = userdata;
    uint64_t free_bytes, total_bytes, n_failed = 0;

    for (unsigned int i = 0; i < N_ROUNDS; i++)
        n_failed += dev->ops->memory_info(dev, &free_bytes, &total_bytes, NULL) != UNSTICK_OK;
    return (void *)(uintptr_t)n_failed;
}

/* Of the calls of four threads together, exactly the n-th fails. */
static void test_threads(void **state)
{
    struct usk_device *dev = *state;
    pthread_t threads[N_THREADS];
    uintptr_t n_failed = 0;

    set(dev, (struct usk_fault_script){ .fail_at = N_THREADS * N_ROUNDS / 2 });
    for (unsigned int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count_run, dev), 0);
    for (unsigned int i = 0; i < N_THREADS; i++) {
        void *result;

        pthread_join(threads[i], &result);
        n_failed += (uintptr_t)result;
    }
    assert_int_equal(n_failed, 1);
    assert_int_equal(usk_fault_n_calls(dev), N_THREADS * N_ROUNDS);
    assert_int_equal(usk_fault_n_failed(dev), 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_op_can_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(test_status_and_for_ever, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mask_and_polls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_is_seen_by_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stolen_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pending_polls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_busy_maps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inner_failures, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
