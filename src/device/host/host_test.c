/* SPDX-License-Identifier: Apache-2.0 */
/* What the host device promises beyond the contract; the contract itself is test/conformance's. */
#include "device/host/host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/os.h"

#define UNIT (UINT64_C(64) << 10)
#define TOTAL (UINT64_C(64) << 20)

static struct unstick_error error;

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)
#define INVALID(_call)                                                                                       \
    do {                                                                                                     \
        error.text[0] = '\0';                                                                                \
        assert_int_equal((_call), UNSTICK_INVALID_ARGUMENT);                                                 \
        assert_int_equal(error.status, UNSTICK_INVALID_ARGUMENT);                                            \
        assert_true(error.text[0] && error.operation[0]);                                                    \
    } while (0)

static int setup(void **state)
{
    return usk_host_open(TOTAL, -1, NULL, (struct usk_device **)state, &error);
}

static int teardown(void **state)
{
    usk_device_close(*state);
    return 0;
}

static uint64_t backed(struct usk_device *dev)
{
    uint64_t bytes = UINT64_MAX;

    OK(usk_host_backed_bytes(dev, &bytes, &error));
    return bytes;
}

static uint64_t mapped(struct usk_device *dev)
{
    uint64_t bytes = UINT64_MAX;

    OK(usk_host_mapped_bytes(dev, &bytes, &error));
    return bytes;
}

static uint64_t used(struct usk_device *dev)
{
    uint64_t free_bytes, total_bytes;

    OK(dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    return total_bytes - free_bytes;
}

static void check_figures(struct usk_device *dev, uint64_t used_bytes, uint64_t mapped_bytes)
{
    assert_int_equal(used(dev), used_bytes);
    assert_int_equal(backed(dev), used_bytes);
    assert_int_equal(mapped(dev), mapped_bytes);
}

static void lane_wait(struct usk_device *dev, enum usk_lane lane)
{
    uint64_t ticket;
    int r;

    OK(dev->ops->mark(dev, lane, &ticket, &error));
    while ((r = usk_device_poll(dev, ticket, &error)) == UNSTICK_PENDING)
        ;
    OK(r);
}

static unsigned int n_open_files(void)
{
    char path[32], target[32];
    unsigned int n = 0;

    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n += readlink(path, target, sizeof(target)) > 0;
    }
    return n;
}

static void test_open(void **state)
{
    struct usk_device *dev = NULL;
    unsigned int n_files = n_open_files();

    (void)state;
    INVALID(usk_host_open(0, -1, NULL, &dev, &error));
    INVALID(usk_host_open(UNIT - 1, -1, NULL, &dev, &error));
    INVALID(usk_host_open(UINT64_MAX, -1, NULL, &dev, &error));
    assert_null(dev);

    OK(usk_host_open(UNIT + 5, -1, NULL, &dev, &error));
    assert_int_equal(dev->caps.total_bytes, UNIT);
    assert_string_equal(dev->caps.kind, "host");
    assert_int_equal(dev->caps.index, -1);
    assert_string_equal(dev->caps.name, "host memory (64.0 KiB)");
    usk_device_close(dev);
    /* More than there is: only what is used of it costs. */
    OK(usk_host_open(UINT64_C(1) << 50, -1, NULL, &dev, &error));
    check_figures(dev, 0, 0);
    usk_device_close(dev);
    usk_device_close(NULL);
    assert_int_equal(n_open_files(), n_files);
}

/* The kernel's own figures follow each step, at once. */
static void test_figures(void **state)
{
    struct usk_device *dev = *state;
    uint64_t address, handles[2];

    OK(dev->ops->reserve(dev, 16 * UNIT, UNIT, &address, &error));
    check_figures(dev, 0, 0);
    OK(dev->ops->create(dev, 4 * UNIT, &handles[0], &error));
    OK(dev->ops->create(dev, UNIT, &handles[1], &error));
    check_figures(dev, 5 * UNIT, 0);
    OK(dev->ops->map(dev, address, 4 * UNIT, handles[0], &error));
    OK(dev->ops->map(dev, address + 4 * UNIT, UNIT, handles[1], &error));
    OK(dev->ops->map(dev, address + 5 * UNIT, UNIT, handles[1], &error));
    check_figures(dev, 5 * UNIT, 6 * UNIT);
    OK(dev->ops->release(dev, handles[0], &error));
    check_figures(dev, 5 * UNIT, 6 * UNIT);
    OK(dev->ops->unmap(dev, address, 4 * UNIT, &error));
    check_figures(dev, UNIT, 2 * UNIT);
    OK(dev->ops->unmap(dev, address + 4 * UNIT, UNIT, &error));
    OK(dev->ops->unmap(dev, address + 5 * UNIT, UNIT, &error));
    check_figures(dev, UNIT, 0);
    OK(dev->ops->release(dev, handles[1], &error));
    check_figures(dev, 0, 0);
    OK(dev->ops->unreserve(dev, address, 16 * UNIT, &error));
}

/* Names of devices may begin alike: each still counts its own mappings only. */
static void test_devices_are_apart(void **state)
{
    struct usk_device *devs[12];
    uint64_t address[12], handle;

    (void)state;
    for (unsigned int i = 0; i < 12; i++) {
        OK(usk_host_open(TOTAL, -1, NULL, &devs[i], &error));
        OK(devs[i]->ops->reserve(devs[i], 16 * UNIT, UNIT, &address[i], &error));
        OK(devs[i]->ops->create(devs[i], (i + 1) * UNIT, &handle, &error));
        OK(devs[i]->ops->map(devs[i], address[i], (i + 1) * UNIT, handle, &error));
    }
    for (unsigned int i = 0; i < 12; i++)
        check_figures(devs[i], (i + 1) * UNIT, (i + 1) * UNIT);
    for (unsigned int i = 0; i < 12; i++)
        usk_device_close(devs[i]);
}

/* Closing takes down what the caller forgot: no descriptor and no mapping is left. */
static void test_close_frees_all(void **state)
{
    uint64_t address, handle;
    unsigned int n_files = n_open_files();
    struct usk_device *dev;
    char line[512];
    FILE *file;
    void *pinned, *host;
    unsigned int n_left = 0, n_others = 0;

    file = fopen("/proc/self/maps", "re");
    while (fgets(line, sizeof(line), file))
        n_others += strstr(line, "memfd:unstick-host") != NULL;
    fclose(file);

    (void)state;
    host = malloc(4096);
    OK(usk_host_open(TOTAL, -1, NULL, &dev, &error));
    OK(dev->ops->reserve(dev, 16 * UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, 4 * UNIT, &handle, &error));
    OK(dev->ops->map(dev, address + UNIT, 4 * UNIT, handle, &error));
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    OK(dev->ops->register_host(dev, host, 4096, 0, &error));
    OK(dev->ops->host_alloc(dev, 5000, &pinned, &error));
    for (unsigned int i = 0; i < 20; i++)
        OK(dev->ops->fill(dev, USK_LANE_UP, address + UNIT, 1, 4 * UNIT, &error));
    usk_device_close(dev);
    free(host);
    assert_int_equal(n_open_files(), n_files);
    file = fopen("/proc/self/maps", "re");
    while (fgets(line, sizeof(line), file))
        n_left += strstr(line, "memfd:unstick-host") != NULL;
    fclose(file);
    assert_int_equal(n_left, n_others);
}

static void test_stale_numbers(void **state)
{
    uint64_t address, handle, again, ticket;
    struct usk_device *dev = *state;

    OK(dev->ops->reserve(dev, 4 * UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    OK(dev->ops->release(dev, handle, &error));
    INVALID(dev->ops->release(dev, handle, &error));
    INVALID(dev->ops->map(dev, address, UNIT, handle, &error));
    /* The place is used again, the number is not. */
    OK(dev->ops->create(dev, UNIT, &again, &error));
    assert_true(again != handle);
    INVALID(dev->ops->release(dev, handle, &error));
    INVALID(dev->ops->release(dev, 0, &error));
    INVALID(dev->ops->release(dev, UINT64_MAX, &error));
    /* Released, it can neither be mapped nor released again, though it lives. */
    OK(dev->ops->map(dev, address, UNIT, again, &error));
    OK(dev->ops->release(dev, again, &error));
    INVALID(dev->ops->map(dev, address + UNIT, UNIT, again, &error));
    INVALID(dev->ops->release(dev, again, &error));
    OK(dev->ops->unmap(dev, address, UNIT, &error));

    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    OK(usk_device_poll(dev, ticket, &error));
    INVALID(usk_device_poll(dev, ticket, &error));
    usk_device_drop(dev, ticket);
    usk_device_drop(dev, 0);
    INVALID(usk_device_poll(dev, 0, &error));
    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    usk_device_drop(dev, ticket);
    INVALID(usk_device_poll(dev, ticket, &error));
    OK(dev->ops->unreserve(dev, address, 4 * UNIT, &error));
}

/* A ticket given up before it passed gives its place back when it does. */
static void test_dropped_tickets_cost_nothing(void **state)
{
    struct usk_device *dev = *state;
    uint64_t address, handle, ticket;

    OK(dev->ops->reserve(dev, 16 * UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, 16 * UNIT, &handle, &error));
    OK(dev->ops->map(dev, address, 16 * UNIT, handle, &error));
    for (unsigned int i = 0; i < 500; i++) {
        OK(dev->ops->fill(dev, USK_LANE_UP, address, 1, 16 * UNIT, &error));
        OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
        usk_device_drop(dev, ticket);
        lane_wait(dev, USK_LANE_UP);
    }
    /* The lower half of a ticket is its place. */
    OK(dev->ops->mark(dev, USK_LANE_UP, &ticket, &error));
    assert_true((uint32_t)ticket < 16);
    OK(usk_device_poll(dev, ticket, &error));
}

static void test_arguments(void **state)
{
    enum usk_lane no_lane = USK_N_LANES;
    struct usk_device *dev = *state;
    uint64_t address, handle, out;
    char host[64];
    void *pinned;

    OK(dev->ops->reserve(dev, 8 * UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, 4 * UNIT, &handle, &error));
    OK(dev->ops->map(dev, address, 4 * UNIT, handle, &error));

    INVALID(dev->ops->reserve(dev, 0, UNIT, &out, &error));
    INVALID(dev->ops->reserve(dev, UNIT, UNIT / 2, &out, &error));
    INVALID(dev->ops->reserve(dev, UNIT, 3 * UNIT, &out, &error));
    INVALID(dev->ops->create(dev, 0, &out, &error));
    INVALID(dev->ops->unreserve(dev, address, 4 * UNIT, &error));
    INVALID(dev->ops->unreserve(dev, address + UNIT, 7 * UNIT, &error));
    INVALID(dev->ops->unreserve(dev, address, 8 * UNIT, &error)); /* something is mapped */
    INVALID(dev->ops->unmap(dev, address, 0, &error));
    INVALID(dev->ops->unmap(dev, address, 5 * UNIT, &error)); /* a gap at the end */
    INVALID(dev->ops->unmap(dev, address + 4 * UNIT, UNIT, &error));
    INVALID(dev->ops->unmap(dev, 0 - UNIT, 2 * UNIT, &error));
    INVALID(dev->ops->map(dev, 0, 4 * UNIT, handle, &error));

    INVALID(dev->ops->fill(dev, no_lane, address, 0, 16, &error));
    INVALID(dev->ops->fill(dev, USK_LANE_UP, address, 0, 0, &error));
    INVALID(dev->ops->fill(dev, USK_LANE_UP, address, 0, UINT64_MAX, &error));
    INVALID(dev->ops->copy_up(dev, no_lane, address, host, 16, &error));
    INVALID(dev->ops->copy_up(dev, USK_LANE_UP, address, NULL, 16, &error));
    INVALID(dev->ops->copy_down(dev, no_lane, host, address, 16, &error));
    INVALID(dev->ops->copy_down(dev, USK_LANE_UP, NULL, address, 16, &error));
    INVALID(dev->ops->copy_across(dev, no_lane, address, address + 64, 16, &error));
    INVALID(dev->ops->copy_across(dev, USK_LANE_UP, address, address + 8, 16, &error));
    INVALID(dev->ops->copy_across(dev, USK_LANE_UP, address + 8, address, 16, &error));
    OK(dev->ops->copy_across(dev, USK_LANE_UP, address + 16, address, 16, &error));
    INVALID(dev->ops->hash(dev, no_lane, address, 16, 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 16, 0, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 0, 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 24, 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address + 8, 16, 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 4 * UNIT + 16, 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 16, 2, dev->caps.n_hash_slots - 1, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, 16, dev->caps.n_hash_slots + 1, 0, &error));
    INVALID(dev->ops->hash(dev, USK_LANE_HASH, address, UINT64_C(1) << 63, 2, 0, &error));
    INVALID(dev->ops->order(dev, no_lane, USK_LANE_UP, &error));
    INVALID(dev->ops->order(dev, USK_LANE_UP, no_lane, &error));
    INVALID(dev->ops->mark(dev, no_lane, &out, &error));

    INVALID(dev->ops->register_host(dev, NULL, 4096, 0, &error));
    INVALID(dev->ops->register_host(dev, host, 0, 0, &error));
    INVALID(dev->ops->register_host(dev, host, UINT64_MAX, 0, &error));
    INVALID(dev->ops->unregister_host(dev, host, 0, &error));
    OK(dev->ops->register_host(dev, host, sizeof(host), 0, &error));
    INVALID(dev->ops->unregister_host(dev, host, 32, &error));
    INVALID(dev->ops->unregister_host(dev, host + 32, 32, &error));
    OK(dev->ops->unregister_host(dev, host, sizeof(host), &error));
    INVALID(dev->ops->host_alloc(dev, 0, &pinned, &error));
    INVALID(dev->ops->host_alloc(dev, UINT64_MAX, &pinned, &error));
    INVALID(dev->ops->host_free(dev, host, &error));

    lane_wait(dev, USK_LANE_UP);
    OK(dev->ops->unmap(dev, address, 4 * UNIT, &error));
    OK(dev->ops->release(dev, handle, &error));
    OK(dev->ops->unreserve(dev, address, 8 * UNIT, &error));
}

/* Memory without pages behind it, and files, are refused in the way that makes the store use a ring. */
static void test_register_is_refused(void **state)
{
    struct usk_device *dev = *state;
    void *reserved;
    char host[64];

    OK(usk_os_reserve(UNIT, UNIT, &reserved, &error));
    OK(usk_os_unmap(reserved, UNIT, &error));
    assert_int_equal(dev->ops->register_host(dev, reserved, UNIT, 0, &error), UNSTICK_UNSUPPORTED);
    assert_true(error.text[0]);
    /* Nothing is left of it in the table. */
    INVALID(dev->ops->unregister_host(dev, reserved, UNIT, &error));
    assert_int_equal(dev->ops->register_host(dev, host, 64, USK_REGISTER_READ_ONLY, &error), UNSTICK_UNSUPPORTED);
}

/* Memory that submitted work still uses is not taken away. The lane has some 100 ms to do ahead of it. */
static void test_memory_in_use(void **state)
{
    bool unmap_was_refused = false, unregister_was_refused = false, free_was_refused = false;
    struct usk_device *dev = *state;
    uint64_t address, handles[2];
    unsigned char *host;
    void *pinned;

    host = malloc(UNIT);
    OK(dev->ops->reserve(dev, TOTAL / 2 + UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, TOTAL / 2, &handles[0], &error));
    OK(dev->ops->create(dev, UNIT, &handles[1], &error));
    OK(dev->ops->map(dev, address, TOTAL / 2, handles[0], &error));
    OK(dev->ops->map(dev, address + TOTAL / 2, UNIT, handles[1], &error));
    for (unsigned int round = 0; round < 50; round++) {
        uint64_t last = address + TOTAL / 2;
        int r;

        OK(dev->ops->register_host(dev, host, UNIT, 0, &error));
        OK(dev->ops->host_alloc(dev, UNIT, &pinned, &error));
        for (unsigned int i = 0; i < 10; i++)
            OK(dev->ops->fill(dev, USK_LANE_DOWN, address, 1, TOTAL / 2, &error));
        OK(dev->ops->copy_down(dev, USK_LANE_DOWN, host, last, UNIT, &error));
        OK(dev->ops->copy_up(dev, USK_LANE_DOWN, last, pinned, UNIT, &error));
        OK(dev->ops->hash(dev, USK_LANE_DOWN, last, UNIT / 4, 4, 0, &error));
        r = dev->ops->unmap(dev, last, UNIT, &error);
        unmap_was_refused |= r == UNSTICK_INVALID_ARGUMENT;
        if (r == UNSTICK_OK)
            OK(dev->ops->map(dev, last, UNIT, handles[1], &error));
        r = dev->ops->unregister_host(dev, host, UNIT, &error);
        unregister_was_refused |= r == UNSTICK_INVALID_ARGUMENT;
        if (r == UNSTICK_OK)
            OK(dev->ops->register_host(dev, host, UNIT, 0, &error));
        r = dev->ops->host_free(dev, pinned, &error);
        free_was_refused |= r == UNSTICK_INVALID_ARGUMENT;
        if (r == UNSTICK_OK)
            OK(dev->ops->host_alloc(dev, UNIT, &pinned, &error));
        lane_wait(dev, USK_LANE_DOWN);
        OK(dev->ops->host_free(dev, pinned, &error));
        OK(dev->ops->unregister_host(dev, host, UNIT, &error));
        if (unmap_was_refused && unregister_was_refused && free_was_refused)
            break;
    }
    assert_true(unmap_was_refused && unregister_was_refused && free_was_refused);
    /* When it is over, it goes. */
    OK(dev->ops->unmap(dev, address, TOTAL / 2 + UNIT, &error));
    OK(dev->ops->release(dev, handles[0], &error));
    OK(dev->ops->release(dev, handles[1], &error));
    OK(dev->ops->unreserve(dev, address, TOTAL / 2 + UNIT, &error));
    check_figures(dev, 0, 0);
    free(host);
}

static void test_full(void **state)
{
    struct usk_device *dev = *state;
    uint64_t handle, other;

    OK(dev->ops->create(dev, TOTAL - 2 * UNIT, &handle, &error));
    assert_int_equal(dev->ops->create(dev, 3 * UNIT, &other, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    assert_int_equal(error.required_bytes, 3 * UNIT);
    assert_int_equal(error.available_bytes, 2 * UNIT);
    assert_non_null(strstr(error.text, "192.0 KiB"));
    assert_non_null(strstr(error.text, "128.0 KiB"));
    OK(dev->ops->create(dev, 2 * UNIT, &other, &error));
    assert_int_equal(dev->ops->create(dev, UNIT, &other, &error), UNSTICK_OUT_OF_DEVICE_MEMORY);
    check_figures(dev, TOTAL, 0);
    OK(dev->ops->release(dev, other, &error));
    OK(dev->ops->release(dev, handle, &error));
    check_figures(dev, 0, 0);
}

/* Handles of all sizes come and go for long: the figures stay right, and no two share memory. */
static void test_random_handles(void **state)
{
    enum { N = 40 };
    struct { uint64_t handle, bytes; unsigned char mark; } held[N] = { 0 };
    struct usk_device *dev = *state;
    uint64_t address, sum = 0;
    uint32_t random = 1;

    OK(dev->ops->reserve(dev, N * 16 * UNIT, UNIT, &address, &error));
    for (unsigned int step = 0; step < 3000; step++) {
        unsigned int i;
        unsigned char *memory;

        random = random * 1664525u + 1013904223u;
        i = (random >> 16) % N;
        memory = (unsigned char *)(uintptr_t)(address + i * 16 * UNIT);
        if (held[i].bytes) {
            assert_int_equal(memory[0], held[i].mark);
            assert_int_equal(memory[held[i].bytes - 1], held[i].mark);
            OK(dev->ops->unmap(dev, (uintptr_t)memory, held[i].bytes, &error));
            OK(dev->ops->release(dev, held[i].handle, &error));
            sum -= held[i].bytes;
            held[i].bytes = 0;
        } else {
            held[i].bytes = (1 + (random >> 24) % 16) * UNIT;
            held[i].mark = (unsigned char)step;
            OK(dev->ops->create(dev, held[i].bytes, &held[i].handle, &error));
            OK(dev->ops->map(dev, (uintptr_t)memory, held[i].bytes, held[i].handle, &error));
            memory[0] = memory[held[i].bytes - 1] = held[i].mark;
            sum += held[i].bytes;
        }
        if (step % 100 == 0)
            check_figures(dev, sum, sum);
        assert_int_equal(used(dev), sum);
    }
    check_figures(dev, sum, sum);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices_are_apart), /* the first, for its names to begin alike: -1, -10, -11 */
        cmocka_unit_test(test_open),
        cmocka_unit_test_setup_teardown(test_figures, setup, teardown),
        cmocka_unit_test(test_close_frees_all),
        cmocka_unit_test_setup_teardown(test_stale_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dropped_tickets_cost_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_arguments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_register_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_memory_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_random_handles, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
