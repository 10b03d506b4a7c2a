/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host device while the system refuses: each allocation and each call through base/os.h fails at each position.
 * Afterwards the device's word, the kernel's blocks and the kernel's mappings agree with what the caller was told, and
 * everything can be undone. The calls are caught by the linker (--wrap).
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/os.h"
#include "device/fault/fault.h"
#include "device/host/host.h"

#define MIB (UINT64_C(1) << 20)
#define UNIT (UINT64_C(64) << 10)
#define TOTAL (UINT64_C(16) << 20)

enum { N_HANDLES = 70, N_TICKETS = 150 }; /* more than the first size of every table */

static struct unstick_error error;
static unsigned int n_calls, fail_at;
static bool has_failed;
static uint64_t available_bytes; /* what the machine has; 0: ask it */
static uint64_t cgroup_bytes;    /* what our cgroup may take; 0: ask it */
static const char *refused_path; /* fopen of this fails */

static bool must_fail(void)
{
    if (!fail_at || ++n_calls != fail_at)
        return false;
    has_failed = true;
    return true;
}

static int refuse(struct unstick_error *into)
{
    return usk_error_errno(into, ENOSPC, "test", "made to fail");
}

/* The linker sends every call of `name` to __wrap_name, and __real_name to the thing itself. */
#define WRAP_ALLOCATION(_name, _params, _args)                                                               \
    void *__real_##_name _params;                                                                            \
    void *__wrap_##_name _params;                                                                            \
    void *__wrap_##_name _params                                                                             \
    {                                                                                                        \
        return must_fail() ? NULL : __real_##_name _args;                                                    \
    }
#define WRAP_OS(_name, _params, _args)                                                                       \
    int __real_##_name _params;                                                                              \
    int __wrap_##_name _params;                                                                              \
    int __wrap_##_name _params                                                                               \
    {                                                                                                        \
        return must_fail() ? refuse(e) : __real_##_name _args;                                               \
    }

WRAP_ALLOCATION(malloc, (size_t n), (n))
WRAP_ALLOCATION(calloc, (size_t n, size_t each), (n, each))
WRAP_ALLOCATION(realloc, (void *p, size_t n), (p, n))
WRAP_OS(usk_os_thread_new, (pthread_t *t, void *(*run)(void *), void *u, const char *n, struct unstick_error *e),
        (t, run, u, n, e))
WRAP_OS(usk_os_shm_new, (const char *n, uint64_t b, int *fd, struct unstick_error *e), (n, b, fd, e))
WRAP_OS(usk_os_shm_fill, (int fd, uint64_t o, uint64_t b, struct unstick_error *e), (fd, o, b, e))
WRAP_OS(usk_os_shm_punch, (int fd, uint64_t o, uint64_t b, struct unstick_error *e), (fd, o, b, e))
WRAP_OS(usk_os_reserve, (uint64_t b, uint64_t a, void **r, struct unstick_error *e), (b, a, r, e))
WRAP_OS(usk_os_unmap, (void *p, uint64_t b, struct unstick_error *e), (p, b, e))
WRAP_OS(usk_os_map_shm, (void *p, uint64_t b, int fd, uint64_t o, bool w, struct unstick_error *e),
        (p, b, fd, o, w, e))
WRAP_OS(usk_os_unmap_to_reserve, (void *p, uint64_t b, struct unstick_error *e), (p, b, e))
WRAP_OS(usk_os_map_anonymous, (uint64_t b, void **r, struct unstick_error *e), (b, r, e))
WRAP_OS(usk_os_populate, (void *p, uint64_t b, struct unstick_error *e), (p, b, e))
WRAP_OS(usk_os_file_populate, (void *p, uint64_t b, struct unstick_error *e), (p, b, e))

int __real_usk_os_memory(struct usk_os_memory *ret_memory, struct unstick_error *e);
int __wrap_usk_os_memory(struct usk_os_memory *ret_memory, struct unstick_error *e);
int __wrap_usk_os_memory(struct usk_os_memory *ret_memory, struct unstick_error *e)
{
    int r;

    if (must_fail())
        return refuse(e);
    r = __real_usk_os_memory(ret_memory, e);
    if (r == UNSTICK_OK && available_bytes)
        ret_memory->available_bytes = available_bytes;
    if (r == UNSTICK_OK && cgroup_bytes) {
        ret_memory->cgroup_limit_bytes = cgroup_bytes + MIB;
        ret_memory->cgroup_used_bytes = MIB;
    }
    return r;
}

FILE *__real_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode);
FILE *__wrap_fopen(const char *path, const char *mode)
{
    if (refused_path && !strcmp(path, refused_path)) {
        errno = EMFILE;
        return NULL;
    }
    return __real_fopen(path, mode);
}

FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode)
{
    return __wrap_fopen(path, mode);
}

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)

/* What the caller knows that it has. */
struct holdings {
    uint64_t address, reserved_bytes;
    uint64_t handles[N_HANDLES], tickets[N_TICKETS];
    bool is_held[N_HANDLES], is_mapped[N_HANDLES];
    unsigned int n_handles, n_tickets, n_registered;
    char host[N_HANDLES];
    void *pinned;
};

/* Goes up to the first failure. */
static int acquire(struct usk_device *dev, struct holdings *have)
{
    const struct usk_device_ops *ops = dev->ops;
    int r;

    r = ops->reserve(dev, N_HANDLES * UNIT, UNIT, &have->address, &error);
    if (r < 0)
        return r;
    have->reserved_bytes = N_HANDLES * UNIT;
    for (; have->n_handles < N_HANDLES; have->n_handles++) {
        unsigned int i = have->n_handles;

        r = ops->create(dev, UNIT, &have->handles[i], &error);
        if (r < 0)
            return r;
        have->is_held[i] = true;
        r = ops->map(dev, have->address + i * UNIT, UNIT, have->handles[i], &error);
        if (r < 0)
            return r;
        have->is_mapped[i] = true;
    }
    for (; have->n_registered < N_HANDLES; have->n_registered++) {
        r = ops->register_host(dev, &have->host[have->n_registered], 1, 0, &error);
        if (r < 0)
            return r;
    }
    r = ops->host_alloc(dev, UNIT, &have->pinned, &error);
    if (r < 0)
        return r;
    for (; have->n_tickets < N_TICKETS; have->n_tickets++) {
        enum usk_lane lane = (enum usk_lane)(have->n_tickets % USK_N_LANES), other = (enum usk_lane)((lane + 1) % 3);

        r = ops->order(dev, lane, other, &error);
        if (r == UNSTICK_OK)
            r = ops->fill(dev, lane, have->address + have->n_tickets, 1, 1, &error);
        if (r == UNSTICK_OK)
            r = have->n_tickets % 2 ? ops->mark(dev, lane, &have->tickets[have->n_tickets], &error)
                                    : ops->fence_device(dev, &have->tickets[have->n_tickets], &error);
        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

/* Also up to the first failure; called again, it goes on from there. */
static int give_back(struct usk_device *dev, struct holdings *have)
{
    const struct usk_device_ops *ops = dev->ops;
    uint64_t ticket;
    int r;

    for (; have->n_tickets; have->n_tickets--) {
        while ((r = usk_device_poll(dev, have->tickets[have->n_tickets - 1], &error)) == UNSTICK_PENDING)
            ;
        OK(r);
    }
    /* Work without a ticket of its own. */
    r = ops->fence_device(dev, &ticket, &error);
    if (r < 0)
        return r;
    while ((r = usk_device_poll(dev, ticket, &error)) == UNSTICK_PENDING)
        ;
    OK(r);
    if (have->pinned) {
        r = ops->host_free(dev, have->pinned, &error);
        have->pinned = NULL; /* what the system does not take back is not the device's any more */
        if (r < 0)
            return r;
    }
    for (; have->n_registered; have->n_registered--) {
        r = ops->unregister_host(dev, &have->host[have->n_registered - 1], 1, &error);
        if (r < 0)
            return r;
    }
    for (unsigned int i = 0; i < N_HANDLES; i++) {
        /* Some are released before they are unmapped, some after. */
        for (unsigned int k = 0; k < 2; k++) {
            if ((i + k) % 2 ? !have->is_mapped[i] : !have->is_held[i])
                continue;
            if ((i + k) % 2) {
                r = ops->unmap(dev, have->address + i * UNIT, UNIT, &error);
                if (r < 0)
                    return r;
                have->is_mapped[i] = false;
            } else {
                r = ops->release(dev, have->handles[i], &error);
                if (r < 0)
                    return r;
                have->is_held[i] = false;
            }
        }
    }
    if (have->reserved_bytes) {
        r = ops->unreserve(dev, have->address, have->reserved_bytes, &error);
        if (r < 0)
            return r;
        have->reserved_bytes = 0;
    }
    return UNSTICK_OK;
}

/* n_lost: handles that the system did not take back when their last mapping went; they count as used. */
static void check_figures(struct usk_device *dev, const struct holdings *have, uint64_t n_lost)
{
    uint64_t free_bytes, total_bytes, backed_bytes, mapped_bytes, expected = n_lost * UNIT, expected_mapped = 0;

    for (unsigned int i = 0; i < N_HANDLES; i++) {
        expected += have->is_held[i] || have->is_mapped[i] ? UNIT : 0;
        expected_mapped += have->is_mapped[i] ? UNIT : 0;
    }
    OK(dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    OK(usk_host_backed_bytes(dev, &backed_bytes, &error));
    OK(usk_host_mapped_bytes(dev, &mapped_bytes, &error));
    assert_int_equal(total_bytes - free_bytes, expected);
    assert_int_equal(backed_bytes, expected);
    assert_int_equal(mapped_bytes, expected_mapped);
}

static unsigned int n_warnings;

static void count_warning(void *userdata, enum unstick_log_level level, const char *line)
{
    (void)userdata;
    n_warnings += level == UNSTICK_LOG_WARNING && strstr(line, "host device") != NULL;
}

static void test_every_refusal(void **state)
{
    static struct holdings have;
    struct usk_log log = { .sink = count_warning, .level = UNSTICK_LOG_WARNING };
    unsigned int n_failures = 0, n = 0;

    (void)state;
    do {
        struct usk_device *dev;
        int r;

        memset(&have, 0, sizeof(have));
        n_warnings = 0;
        has_failed = false;
        OK(usk_host_open(TOTAL, -1, &log, &dev, &error));
        n_calls = 0;
        fail_at = ++n;
        memset(&error, 0, sizeof(error));
        r = acquire(dev, &have);
        if (r == UNSTICK_OK)
            r = give_back(dev, &have);
        fail_at = 0;
        if (r < 0) {
            assert_true(has_failed);
            assert_int_equal(error.status, r);
            assert_true(error.text[0]);
            assert_true(r != UNSTICK_DEVICE_LOST);
        }
        n_failures += r < 0;
        check_figures(dev, &have, n_warnings);
        OK(give_back(dev, &have));
        check_figures(dev, &have, n_warnings);
        usk_device_close(dev);
    } while (has_failed);
    /* Each handle takes three calls of the system at least, to make it and to map it and to give it back. */
    assert_true(n_failures > 3 * N_HANDLES);
}

static unsigned int n_open_files(void)
{
    char path[32], target[32];
    unsigned int n = 0;

    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n += readlink(path, target, sizeof(target)) > 0;
    }
    return n;
}

static void test_open_is_refused(void **state)
{
    unsigned int n_files = n_open_files();
    struct usk_device *dev, *outer;

    (void)state;
    for (unsigned int n = 1;; n++) {
        int r;

        n_calls = 0;
        has_failed = false;
        fail_at = n;
        dev = NULL;
        r = usk_host_open(TOTAL, -1, NULL, &dev, &error);
        fail_at = 0;
        if (!has_failed) {
            OK(r);
            break;
        }
        assert_true(r < 0 && !dev && error.text[0]);
        assert_int_equal(n_open_files(), n_files);
    }
    /* The wrapper too; then the inner device is still the caller's. */
    n_calls = 0;
    fail_at = 1;
    assert_int_equal(usk_fault_open(dev, &outer, &error), UNSTICK_OUT_OF_HOST_MEMORY);
    fail_at = 0;
    OK(usk_fault_open(dev, &outer, &error));
    n_calls = 0;
    fail_at = 1;
    for (int i = 0; i < 3; i++) {
        uint64_t ticket;

        n_calls = 0;
        assert_int_equal(i == 0   ? outer->ops->mark(outer, USK_LANE_UP, &ticket, &error)
                         : i == 1 ? outer->ops->fence_stream(outer, NULL, &ticket, &error)
                                  : outer->ops->fence_device(outer, &ticket, &error),
                         UNSTICK_OUT_OF_HOST_MEMORY);
    }
    fail_at = 0;
    usk_device_close(outer);
    assert_int_equal(n_open_files(), n_files);
}

/* A machine that has less than the device: an error, before the kernel looks for somebody to kill. */
static void test_machine_is_short(void **state)
{
    uint64_t handle, bytes;
    struct usk_device *dev;

    (void)state;
    OK(usk_host_open(TOTAL, -1, NULL, &dev, &error));
    available_bytes = (UINT64_C(64) << 20) + 3 * UNIT;
    assert_int_equal(dev->ops->create(dev, 4 * UNIT, &handle, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(error.required_bytes, 4 * UNIT);
    assert_int_equal(error.available_bytes, 3 * UNIT);
    assert_non_null(strstr(error.text, "the machine is short of memory"));
    OK(dev->ops->create(dev, 3 * UNIT, &handle, &error));
    available_bytes = 1;
    assert_int_equal(dev->ops->create(dev, UNIT, &handle, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(error.available_bytes, 0);
    OK(usk_host_backed_bytes(dev, &bytes, &error));
    assert_int_equal(bytes, 3 * UNIT);
    available_bytes = 0;
    cgroup_bytes = 64 * MIB + UNIT;
    assert_int_equal(dev->ops->create(dev, 2 * UNIT, &handle, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(error.available_bytes, UNIT);
    cgroup_bytes = 0;
    OK(dev->ops->create(dev, UNIT, &handle, &error));

    refused_path = "/proc/self/maps";
    assert_int_equal(usk_host_mapped_bytes(dev, &bytes, &error), UNSTICK_IO);
    assert_true(error.text[0]);
    refused_path = NULL;
    usk_device_close(dev);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_refusal),
        cmocka_unit_test(test_open_is_refused),
        cmocka_unit_test(test_machine_is_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
