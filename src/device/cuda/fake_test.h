/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_FAKE_TEST_H
#define USK_DEVICE_CUDA_FAKE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <fakecuda.h>

#include "base/os.h"
#include "device/cuda/cuda.h"
#include "device/cuda/driver.h"

/*
 * What the tests of the CUDA back end share: the fake driver, a copy of its table in which a test may put functions of
 * its own, and a device. Each test ends with proof that nothing is left in the driver and that no rule was broken.
 */
#define UNIT (UINT64_C(2) << 20)

static struct fakecuda fake;
static struct usk_cuda_driver table;
static struct usk_device *dev;
static struct unstick_error error;
static int event_fd;

#define OK(_call)                                                                                                     \
    do {                                                                                                              \
        int status_ = (_call);                                                                                        \
        if (status_ != UNSTICK_OK)                                                                                    \
            fail_msg("%s: %s: %s", #_call, unstick_status_name(status_), error.text);                                 \
    } while (0)

#define FAILS(_status, _call)                                                                                         \
    do {                                                                                                              \
        memset(&error, 0, sizeof(error));                                                                             \
        assert_int_equal(_call, _status);                                                                             \
        assert_int_equal(error.status, _status);                                                                      \
        assert_true(error.text[0] && error.operation[0] && !strchr(error.text, '\n'));                                \
    } while (0)

/* The n-th call from now on fails; code 0: as the fake finds fitting. */
static inline void fail_at(const char *name, uint64_t n, int code)
{
    fake.fail_at(name, n, code, 0);
}

static inline void fail_always(const char *name, int code)
{
    fake.fail_at(name, 1, code, 1);
}

static inline void fail_nothing(void)
{
    fake.fail_at(NULL, 0, 0, 0);
}

static inline struct fakecuda_live live_now(void)
{
    struct fakecuda_live live;

    fake.live(&live);
    return live;
}

static inline void check_clean(void)
{
    static const struct fakecuda_misuse good;
    struct fakecuda_live live = live_now(), none = { 0 };
    struct fakecuda_misuse misuse;

    /* Objects that went down with a lost context were left to the driver on purpose. */
    none.left_behind = live.left_behind;
    assert_memory_equal(&live, &none, sizeof(live));
    fake.misuse(&misuse);
    assert_memory_equal(&misuse, &good, sizeof(misuse));
    assert_int_equal(fake.context_depth(), 0);
}

static inline void open_device(void)
{
    OK(usk_cuda_open_with(&table, "0", event_fd, NULL, &dev, &error));
}

static inline int setup_driver(void **state)
{
    const struct usk_cuda_driver *driver;

    (void)state;
    if (!fake.reset && fakecuda_load(&fake) < 0)
        return -1;
    fake.reset();
    if (usk_cuda_driver_get(&driver, &error) < 0)
        return -1;
    table = *driver;
    dev = NULL;
    return usk_os_event_new(&event_fd, &error);
}

static inline int setup_device(void **state)
{
    return setup_driver(state) < 0 ? -1 : usk_cuda_open_with(&table, "0", event_fd, NULL, &dev, &error);
}

static inline int teardown(void **state)
{
    (void)state;
    fake.hold(NULL, 0);
    usk_device_close(dev);
    dev = NULL;
    usk_os_close(event_fd);
    check_clean();
    return 0;
}

#define driver_test(_name) cmocka_unit_test_setup_teardown(_name, setup_driver, teardown)
#define device_test(_name) cmocka_unit_test_setup_teardown(_name, setup_device, teardown)

static inline int wait_ticket(uint64_t ticket)
{
    int r;

    while ((r = usk_device_poll(dev, ticket, &error)) == UNSTICK_PENDING)
        usk_os_event_wait(event_fd, 1);
    return r;
}

static inline void wait_lane(enum usk_lane lane)
{
    uint64_t ticket;

    OK(dev->ops->mark(dev, lane, &ticket, &error));
    OK(wait_ticket(ticket));
}

/* One handle behind addresses of its own. */
static inline void memory_new(uint64_t bytes, uint64_t *ret_address, uint64_t *ret_handle)
{
    OK(dev->ops->reserve(dev, bytes, UNIT, ret_address, &error));
    OK(dev->ops->create(dev, bytes, ret_handle, &error));
    OK(dev->ops->map(dev, *ret_address, bytes, *ret_handle, &error));
}

static inline void memory_free(uint64_t bytes, uint64_t address, uint64_t handle)
{
    OK(dev->ops->unmap(dev, address, bytes, &error));
    OK(dev->ops->release(dev, handle, &error));
    OK(dev->ops->unreserve(dev, address, bytes, &error));
}

#endif
