/* SPDX-License-Identifier: Apache-2.0 */
/* Host memory that the device knows of. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "conformance.h"

#define PIECE_BYTES (UINT64_C(1) << 20)

static uint64_t two_mib(void)
{
    return 1 + (2 * PIECE_BYTES - 1) / fixture.unit;
}

static void need_register(void)
{
    if (!fixture.dev->caps.can_register)
        skip();
}

static void test_register_rules(void **state)
{
    unsigned char *host = pages_new(4 * PIECE_BYTES);

    (void)state;
    need_register();
    /* One after the other, in any order; then each may go in any order. */
    OK(fixture.ops->register_host(fixture.dev, host + PIECE_BYTES, PIECE_BYTES, 0, &fixture.error));
    OK(fixture.ops->register_host(fixture.dev, host, PIECE_BYTES, 0, &fixture.error));
    /* Twice, the same or overlapping. */
    REFUSED(fixture.ops->register_host(fixture.dev, host, PIECE_BYTES, 0, &fixture.error));
    REFUSED(fixture.ops->register_host(fixture.dev, host, 2 * PIECE_BYTES, 0, &fixture.error));
    REFUSED(fixture.ops->register_host(fixture.dev, host + PIECE_BYTES + PIECE_BYTES / 2, PIECE_BYTES, 0,
                                       &fixture.error));
    /* What never was registered. */
    REFUSED(fixture.ops->unregister_host(fixture.dev, host + 3 * PIECE_BYTES, PIECE_BYTES, &fixture.error));
    OK(fixture.ops->unregister_host(fixture.dev, host + PIECE_BYTES, PIECE_BYTES, &fixture.error));
    REFUSED(fixture.ops->unregister_host(fixture.dev, host + PIECE_BYTES, PIECE_BYTES, &fixture.error));
    OK(fixture.ops->register_host(fixture.dev, host + PIECE_BYTES, 2 * PIECE_BYTES, 0, &fixture.error));
    OK(fixture.ops->unregister_host(fixture.dev, host + PIECE_BYTES, 2 * PIECE_BYTES, &fixture.error));
    OK(fixture.ops->unregister_host(fixture.dev, host, PIECE_BYTES, &fixture.error));
    pages_free(host, 4 * PIECE_BYTES);
}

/* Registering keeps what is in the memory, and untouched memory may be registered. */
static void test_register_keeps_contents(void **state)
{
    unsigned char *host = pages_new(2 * PIECE_BYTES), *copy = pages_new(PIECE_BYTES);

    (void)state;
    need_register();
    random_fill(host, PIECE_BYTES);
    memcpy(copy, host, PIECE_BYTES);
    OK(fixture.ops->register_host(fixture.dev, host, 2 * PIECE_BYTES, 0, &fixture.error));
    assert_memory_equal(host, copy, PIECE_BYTES);
    for (uint64_t i = PIECE_BYTES; i < 2 * PIECE_BYTES; i += 512)
        assert_int_equal(host[i], 0);
    OK(fixture.ops->unregister_host(fixture.dev, host, 2 * PIECE_BYTES, &fixture.error));
    assert_memory_equal(host, copy, PIECE_BYTES);
    pages_free(copy, PIECE_BYTES);
    pages_free(host, 2 * PIECE_BYTES);
}

/* No copy crosses a border between registrations. */
static void test_copy_across_registrations(void **state)
{
    uint64_t n_units[] = { two_mib() };
    unsigned char *host = pages_new(2 * PIECE_BYTES);
    struct memory memory;

    (void)state;
    need_register();
    memory_new(&memory, 1, n_units);
    random_fill(host, 2 * PIECE_BYTES);
    OK(fixture.ops->register_host(fixture.dev, host, PIECE_BYTES, 0, &fixture.error));
    OK(fixture.ops->register_host(fixture.dev, host + PIECE_BYTES, PIECE_BYTES, 0, &fixture.error));
    REFUSED(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, host, 2 * PIECE_BYTES, &fixture.error));
    REFUSED(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, host + PIECE_BYTES - 16, 32,
                                 &fixture.error));
    REFUSED(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, host + PIECE_BYTES - 1, memory.address, 2,
                                   &fixture.error));
    /* Up to the border and from it on is fine. */
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, host, PIECE_BYTES, &fixture.error));
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address + PIECE_BYTES, host + PIECE_BYTES, PIECE_BYTES,
                            &fixture.error));
    lane_wait(USK_LANE_UP);
    OK(fixture.ops->unregister_host(fixture.dev, host, PIECE_BYTES, &fixture.error));
    OK(fixture.ops->unregister_host(fixture.dev, host + PIECE_BYTES, PIECE_BYTES, &fixture.error));
    memory_free(&memory);
    pages_free(host, 2 * PIECE_BYTES);
}

/* A file, mapped read-only: either it works as a source of copies, or it is refused and a buffer does it. */
static void test_register_file(void **state)
{
    char path[] = "/tmp/unstick-conformance-XXXXXX";
    uint64_t n_units[] = { two_mib() };
    unsigned char *contents = pages_new(PIECE_BYTES), *seen = pages_new(PIECE_BYTES);
    struct memory memory;
    void *mapped;
    int fd, r;

    (void)state;
    memory_new(&memory, 1, n_units);
    random_fill(contents, PIECE_BYTES);
    fd = mkstemp(path);
    assert_true(fd >= 0 && unlink(path) == 0);
    assert_true(write(fd, contents, PIECE_BYTES) == (ssize_t)PIECE_BYTES);
    OK(usk_os_file_map(fd, 0, PIECE_BYTES, &mapped, &fixture.error));
    r = fixture.ops->register_host(fixture.dev, mapped, PIECE_BYTES, USK_REGISTER_READ_ONLY, &fixture.error);
    if (fixture.dev->caps.can_register_file) {
        OK(r);
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, mapped, PIECE_BYTES, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, seen, memory.address, PIECE_BYTES, &fixture.error));
        lane_wait(USK_LANE_UP);
        assert_memory_equal(seen, contents, PIECE_BYTES);
        OK(fixture.ops->unregister_host(fixture.dev, mapped, PIECE_BYTES, &fixture.error));
    } else {
        assert_int_equal(r, UNSTICK_UNSUPPORTED);
        assert_int_equal(fixture.error.status, UNSTICK_UNSUPPORTED);
    }
    OK(usk_os_unmap(mapped, PIECE_BYTES, &fixture.error));
    close(fd);
    memory_free(&memory);
    pages_free(seen, PIECE_BYTES);
    pages_free(contents, PIECE_BYTES);
}

static void test_host_alloc(void **state)
{
    uint64_t n_units[] = { two_mib() };
    struct memory memory;
    void *pinned, *other;

    (void)state;
    memory_new(&memory, 1, n_units);
    OK(fixture.ops->host_alloc(fixture.dev, 2 * PIECE_BYTES, &pinned, &fixture.error));
    OK(fixture.ops->host_alloc(fixture.dev, 4096, &other, &fixture.error));
    memset(pinned, 1, 2 * PIECE_BYTES);
    memset(other, 2, 4096);
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, pinned, 2 * PIECE_BYTES, &fixture.error));
    OK(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, other, memory.address, 4096, &fixture.error));
    lane_wait(USK_LANE_UP);
    assert_memory_equal(pinned, other, 4096);
    OK(fixture.ops->host_free(fixture.dev, other, &fixture.error));
    OK(fixture.ops->host_free(fixture.dev, pinned, &fixture.error));
    REFUSED(fixture.ops->host_free(fixture.dev, memory.handles, &fixture.error));
    memory_free(&memory);
}

int conformance_registration(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_register_rules),
        cmocka_unit_test(test_register_keeps_contents),
        cmocka_unit_test(test_copy_across_registrations),
        cmocka_unit_test(test_register_file),
        cmocka_unit_test(test_host_alloc),
    };

    return conformance_run("registration", tests);
}
