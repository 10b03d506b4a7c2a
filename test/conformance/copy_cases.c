/* SPDX-License-Identifier: Apache-2.0 */
/* Copies and fills: that each byte arrives, that no other is touched, and in which order. */
#include <string.h>

#include "base/math.h"
#include "conformance.h"

static const uint64_t five_sizes[] = { 1, 2, 1, 3, 1 };

/* A script of random copies and fills on memory of five mappings, against the same script on an array. */
static void run_random_script(const void *source, uint64_t source_bytes, unsigned int n_steps)
{
    unsigned char *expected, *seen;
    struct memory memory;

    memory_new(&memory, 5, five_sizes);
    expected = pages_new(memory.bytes);
    seen = pages_new(memory.bytes);
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address, 0x5a, memory.bytes, &fixture.error));
    memset(expected, 0x5a, memory.bytes);

    for (unsigned int i = 0; i < n_steps; i++) {
        uint64_t limit = usk_min(memory.bytes / 2, source_bytes);
        uint64_t bytes = 1 + random_below(random_below(4) ? 5000 : limit);
        uint64_t to = random_below(memory.bytes - bytes + 1), from;
        uint8_t value = (uint8_t)random_next();

        switch (random_below(3)) {
        case 0:
            from = random_below(source_bytes - bytes + 1);
            OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address + to, (const char *)source + from, bytes,
                                    &fixture.error));
            memcpy(expected + to, (const char *)source + from, bytes);
            break;
        case 1:
            OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address + to, value, bytes, &fixture.error));
            memset(expected + to, value, bytes);
            break;
        default:
            from = random_below(memory.bytes - bytes + 1);
            if (to < from + bytes && from < to + bytes)
                break;
            OK(fixture.ops->copy_across(fixture.dev, USK_LANE_UP, memory.address + to, memory.address + from, bytes,
                                        &fixture.error));
            memcpy(expected + to, expected + from, bytes);
        }
    }
    /* Down in odd pieces, each across whatever border it meets. */
    for (uint64_t at = 0, bytes; at < memory.bytes; at += bytes) {
        bytes = usk_min(1 + random_below(memory.bytes / 3), memory.bytes - at);
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, seen + at, memory.address + at, bytes, &fixture.error));
    }
    lane_wait(USK_LANE_UP);
    assert_memory_equal(seen, expected, memory.bytes);
    pages_free(seen, memory.bytes);
    pages_free(expected, memory.bytes);
    memory_free(&memory);
}

static void test_random_copies_pageable(void **state)
{
    uint64_t bytes = UINT64_C(3) << 20;
    void *source = pages_new(bytes);

    (void)state;
    random_fill(source, bytes);
    run_random_script(source, bytes, 300);
    pages_free(source, bytes);
}

static void test_random_copies_registered(void **state)
{
    uint64_t bytes = UINT64_C(4) << 20;
    void *source = pages_new(bytes);

    (void)state;
    if (!fixture.dev->caps.can_register)
        skip();
    random_fill(source, bytes);
    OK(fixture.ops->register_host(fixture.dev, source, bytes, 0, &fixture.error));
    run_random_script(source, bytes, 300);
    OK(fixture.ops->unregister_host(fixture.dev, source, bytes, &fixture.error));
    pages_free(source, bytes);
}

/* Down into registered memory at odd places, with guards on both sides. */
static void test_copy_down_touches_its_bytes_only(void **state)
{
    static const uint64_t n_units[] = { 2 };
    uint64_t bytes = UINT64_C(1) << 20;
    unsigned char *host = pages_new(bytes);
    struct memory memory;

    (void)state;
    memory_new(&memory, 1, n_units);
    if (fixture.dev->caps.can_register)
        OK(fixture.ops->register_host(fixture.dev, host, bytes, 0, &fixture.error));
    OK(fixture.ops->fill(fixture.dev, USK_LANE_DOWN, memory.address, 0xd7, memory.bytes, &fixture.error));
    for (unsigned int i = 0; i < 100; i++) {
        uint64_t length = 1 + random_below(300), at = 1 + random_below(bytes - length - 1);

        memset(host, 0, bytes);
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, host + at, memory.address + random_below(1000), length,
                                  &fixture.error));
        lane_wait(USK_LANE_DOWN);
        assert_int_equal(host[at - 1], 0);
        for (uint64_t k = 0; k < length; k++)
            assert_int_equal(host[at + k], 0xd7);
        assert_int_equal(host[at + length], 0);
    }
    if (fixture.dev->caps.can_register)
        OK(fixture.ops->unregister_host(fixture.dev, host, bytes, &fixture.error));
    memory_free(&memory);
    pages_free(host, bytes);
}

static void test_fill_touches_its_bytes_only(void **state)
{
    static const uint64_t n_units[] = { 1, 1 };
    struct memory memory;
    unsigned char *seen;

    (void)state;
    memory_new(&memory, 2, n_units);
    seen = pages_new(memory.bytes);
    for (uint64_t offset = 0; offset < 20; offset += 3) {
        for (uint64_t bytes = 1; bytes < 40; bytes += 7) {
            uint64_t at = memory.bytes / 2 - offset; /* across the border of two mappings */

            OK(fixture.ops->fill(fixture.dev, USK_LANE_HASH, memory.address, 0, memory.bytes, &fixture.error));
            OK(fixture.ops->fill(fixture.dev, USK_LANE_HASH, memory.address + at, 0xff, bytes, &fixture.error));
            OK(fixture.ops->copy_down(fixture.dev, USK_LANE_HASH, seen, memory.address + at - 1, bytes + 2,
                                      &fixture.error));
            lane_wait(USK_LANE_HASH);
            assert_int_equal(seen[0], 0);
            for (uint64_t i = 1; i <= bytes; i++)
                assert_int_equal(seen[i], 0xff);
            assert_int_equal(seen[bytes + 1], 0);
        }
    }
    pages_free(seen, memory.bytes);
    memory_free(&memory);
}

static void test_copies_outside_of_mappings(void **state)
{
    uint64_t unit = fixture.unit, address, handle;
    unsigned char *host = pages_new(2 * unit);

    (void)state;
    random_fill(host, 2 * unit);
    OK(fixture.ops->reserve(fixture.dev, 3 * unit, unit, &address, &fixture.error));
    OK(fixture.ops->create(fixture.dev, unit, &handle, &fixture.error));
    OK(fixture.ops->map(fixture.dev, address + unit, unit, handle, &fixture.error));
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, address + unit, 3, unit, &fixture.error));

    /* Nothing mapped at all; the front missing; the end missing. */
    REFUSED(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, address, host, 16, &fixture.error));
    REFUSED(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, host, address, 16, &fixture.error));
    REFUSED(fixture.ops->fill(fixture.dev, USK_LANE_UP, address, 1, 16, &fixture.error));
    REFUSED(fixture.ops->copy_across(fixture.dev, USK_LANE_UP, address + unit, address, 16, &fixture.error));
    REFUSED(fixture.ops->copy_across(fixture.dev, USK_LANE_UP, address, address + unit, 16, &fixture.error));
    if (fixture.target->refusal) {
        REFUSED(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, address + unit - 16, host, 32, &fixture.error));
        REFUSED(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, address + 2 * unit - 16, host, 32, &fixture.error));
        REFUSED(fixture.ops->fill(fixture.dev, USK_LANE_UP, address + 2 * unit - 16, 1, 32, &fixture.error));
    }

    /* Nothing of it happened, and the device goes on. */
    OK(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, host, address + unit, unit, &fixture.error));
    lane_wait(USK_LANE_UP);
    for (uint64_t i = 0; i < unit; i++)
        assert_int_equal(host[i], 3);
    OK(fixture.ops->unmap(fixture.dev, address + unit, unit, &fixture.error));
    OK(fixture.ops->release(fixture.dev, handle, &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, address, 3 * unit, &fixture.error));
    pages_free(host, 2 * unit);
}

/* Each round writes new contents through three lanes in turn; a lane that did not wait would pass old ones on. */
static void test_order_between_lanes(void **state)
{
    static const uint64_t n_units[] = { 4, 4 };
    uint64_t half, from, to;
    unsigned char *up, *down;
    struct memory memory;

    (void)state;
    memory_new(&memory, 2, n_units);
    half = memory.bytes / 2;
    from = memory.address;
    to = memory.address + half;
    up = pages_new(half);
    down = pages_new(half);
    for (unsigned int round = 0; round < 60; round++) {
        uint64_t last = half - 1 - random_below(64);

        memset(up, (int)(round + 1), half);
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, from, up, half, &fixture.error));
        OK(fixture.ops->order(fixture.dev, USK_LANE_HASH, USK_LANE_UP, &fixture.error));
        OK(fixture.ops->copy_across(fixture.dev, USK_LANE_HASH, to, from, half, &fixture.error));
        OK(fixture.ops->order(fixture.dev, USK_LANE_DOWN, USK_LANE_HASH, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, down, to, half, &fixture.error));
        /* The next round may not overtake this one either. */
        OK(fixture.ops->order(fixture.dev, USK_LANE_UP, USK_LANE_DOWN, &fixture.error));
        lane_wait(USK_LANE_DOWN);
        assert_int_equal(down[0], round + 1);
        assert_int_equal(down[last], round + 1);
        assert_memory_equal(down, up, half);
    }
    pages_free(down, half);
    pages_free(up, half);
    memory_free(&memory);
}

/* order() speaks of what was submitted so far: chains of it in both directions cannot get stuck. */
static void test_order_in_circles(void **state)
{
    static const uint64_t n_units[] = { 1 };
    struct memory memory;
    unsigned char seen;

    (void)state;
    memory_new(&memory, 1, n_units);
    for (unsigned int i = 0; i < 200; i++) {
        enum usk_lane lane = (enum usk_lane)(i % USK_N_LANES), after = (enum usk_lane)((i + 1) % USK_N_LANES);

        OK(fixture.ops->order(fixture.dev, lane, after, &fixture.error));
        OK(fixture.ops->fill(fixture.dev, lane, memory.address, (uint8_t)i, 4096, &fixture.error));
        OK(fixture.ops->order(fixture.dev, after, lane, &fixture.error));
        OK(fixture.ops->order(fixture.dev, lane, lane, &fixture.error));
    }
    for (int i = 0; i < USK_N_LANES; i++)
        lane_wait((enum usk_lane)i);
    OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, &seen, memory.address + 4095, 1, &fixture.error));
    lane_wait(USK_LANE_DOWN);
    assert_int_equal(seen, 199);
    memory_free(&memory);
}

int conformance_copies(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_copies_pageable),
        cmocka_unit_test(test_random_copies_registered),
        cmocka_unit_test(test_copy_down_touches_its_bytes_only),
        cmocka_unit_test(test_fill_touches_its_bytes_only),
        cmocka_unit_test(test_copies_outside_of_mappings),
        cmocka_unit_test(test_order_between_lanes),
        cmocka_unit_test(test_order_in_circles),
    };

    return conformance_run("copies", tests);
}
