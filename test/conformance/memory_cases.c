/* SPDX-License-Identifier: Apache-2.0 */
/* Address ranges, handles and mappings; what is free. */
#include <stdio.h>
#include <string.h>

#include "base/math.h"
#include "conformance.h"

static void test_capabilities(void **state)
{
    const struct usk_device_caps *caps = &fixture.dev->caps;
    uint64_t free_now, total;

    (void)state;
    assert_true(caps->kind[0] && caps->name[0]);
    assert_true(usk_is_power_of_two(caps->granularity_bytes));
    assert_true(caps->default_granule_bytes && caps->default_granule_bytes % caps->granularity_bytes == 0);
    assert_true(caps->total_bytes >= 16 * caps->granularity_bytes);
    assert_int_equal(fixture.dev->event_fd, fixture.event_fd);
    if (caps->can_hash)
        assert_true(caps->n_hash_slots >= 64 && fixture.dev->hash_results);
    if (caps->can_register_file)
        assert_true(caps->can_register);
    OK(fixture.ops->memory_info(fixture.dev, &free_now, &total, &fixture.error));
    assert_true(total == caps->total_bytes);
    /* NULL is allowed wherever an error is. */
    OK(fixture.ops->memory_info(fixture.dev, &free_now, &total, NULL));
    assert_true(fixture.ops->create(fixture.dev, caps->granularity_bytes + 1, &total, NULL) < 0);
    assert_true(total == caps->total_bytes); /* outputs are written on success only */
}

static void test_reserve(void **state)
{
    uint64_t unit = fixture.unit, address, again, free_before = free_bytes_at_rest();

    (void)state;
    for (uint64_t align = unit; align <= UINT64_C(1) << 30; align *= 4) {
        OK(fixture.ops->reserve(fixture.dev, 3 * unit, align, &address, &fixture.error));
        assert_true(address && address % align == 0);
        OK(fixture.ops->unreserve(fixture.dev, address, 3 * unit, &fixture.error));
    }
    OK(fixture.ops->reserve(fixture.dev, unit, unit, &address, &fixture.error));
    OK(fixture.ops->reserve(fixture.dev, unit, unit, &again, &fixture.error));
    assert_true(address + unit <= again || again + unit <= address);
    OK(fixture.ops->unreserve(fixture.dev, again, unit, &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, address, unit, &fixture.error));
    REFUSED(fixture.ops->reserve(fixture.dev, unit / 2, unit, &address, &fixture.error));

    /* More than there is of anything but addresses: it may be refused, but then properly. */
    if (fixture.ops->reserve(fixture.dev, UINT64_C(16) << 40, unit, &address, &fixture.error) == UNSTICK_OK) {
        OK(fixture.ops->unreserve(fixture.dev, address, UINT64_C(16) << 40, &fixture.error));
    } else {
        assert_true(fixture.error.status < 0 && fixture.error.status != UNSTICK_DEVICE_LOST);
        print_message("16 TiB of addresses: %s\n", fixture.error.text);
    }
    check_free_bytes(free_before);
}

static void test_handle_sizes(void **state)
{
    uint64_t unit = fixture.unit, handle;

    (void)state;
    REFUSED(fixture.ops->create(fixture.dev, unit / 2, &handle, &fixture.error));
    REFUSED(fixture.ops->create(fixture.dev, unit + unit / 2, &handle, &fixture.error));
    REFUSED(fixture.ops->create(fixture.dev, unit + 1, &handle, &fixture.error));
    for (uint64_t n = 1; n <= 5; n += 2) {
        OK(fixture.ops->create(fixture.dev, n * unit, &handle, &fixture.error));
        OK(fixture.ops->release(fixture.dev, handle, &fixture.error));
    }
}

static void test_memory_info_counts_handles(void **state)
{
    uint64_t unit = fixture.unit, n_units = 16, free_before = free_bytes_at_rest(), handles[4], address;

    (void)state;
    for (unsigned int i = 0; i < 4; i++) {
        OK(fixture.ops->create(fixture.dev, n_units / 4 * unit, &handles[i], &fixture.error));
        check_free_bytes(free_before - (i + 1) * n_units / 4 * unit);
    }
    /* Mapping one of them takes nothing more. */
    OK(fixture.ops->reserve(fixture.dev, n_units * unit, unit, &address, &fixture.error));
    OK(fixture.ops->map(fixture.dev, address, n_units / 4 * unit, handles[0], &fixture.error));
    check_free_bytes(free_before - n_units * unit);
    OK(fixture.ops->unmap(fixture.dev, address, n_units / 4 * unit, &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, address, n_units * unit, &fixture.error));
    for (unsigned int i = 0; i < 4; i++)
        OK(fixture.ops->release(fixture.dev, handles[i], &fixture.error));
    check_free_bytes(free_before);
}

static void test_map_rules(void **state)
{
    uint64_t unit = fixture.unit, address, handle, other;

    (void)state;
    OK(fixture.ops->reserve(fixture.dev, 8 * unit, unit, &address, &fixture.error));
    OK(fixture.ops->create(fixture.dev, 2 * unit, &handle, &fixture.error));
    OK(fixture.ops->create(fixture.dev, 2 * unit, &other, &fixture.error));

    /* A handle is mapped whole, at a multiple of the granularity, inside what was reserved. */
    REFUSED(fixture.ops->map(fixture.dev, address, unit, handle, &fixture.error));
    REFUSED(fixture.ops->map(fixture.dev, address, 4 * unit, handle, &fixture.error));
    REFUSED(fixture.ops->map(fixture.dev, address + unit / 2, 2 * unit, handle, &fixture.error));
    if (!fixture.target->is_permissive)
        REFUSED(fixture.ops->map(fixture.dev, address + 7 * unit, 2 * unit, handle, &fixture.error));

    /* Not over another mapping, wherever it starts. */
    OK(fixture.ops->map(fixture.dev, address + 2 * unit, 2 * unit, handle, &fixture.error));
    for (uint64_t n = 1; n <= 3; n++)
        REFUSED(fixture.ops->map(fixture.dev, address + n * unit, 2 * unit, other, &fixture.error));
    OK(fixture.ops->map(fixture.dev, address, 2 * unit, other, &fixture.error));

    /* A mapping is unmapped whole. */
    REFUSED(fixture.ops->unmap(fixture.dev, address, unit, &fixture.error));
    REFUSED(fixture.ops->unmap(fixture.dev, address + unit, unit, &fixture.error));
    REFUSED(fixture.ops->unmap(fixture.dev, address, 3 * unit, &fixture.error));
    REFUSED(fixture.ops->unmap(fixture.dev, address + unit, 3 * unit, &fixture.error));

    /* None of the refused calls changed anything: both are still there, and come away in one. */
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, address, 1, 4 * unit, &fixture.error));
    lane_wait(USK_LANE_UP);
    OK(fixture.ops->unmap(fixture.dev, address, 4 * unit, &fixture.error));
    REFUSED(fixture.ops->fill(fixture.dev, USK_LANE_UP, address, 1, unit, &fixture.error));

    /* The addresses are free again, for either. */
    OK(fixture.ops->map(fixture.dev, address + unit, 2 * unit, other, &fixture.error));
    OK(fixture.ops->unmap(fixture.dev, address + unit, 2 * unit, &fixture.error));
    OK(fixture.ops->release(fixture.dev, other, &fixture.error));
    OK(fixture.ops->release(fixture.dev, handle, &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, address, 8 * unit, &fixture.error));
}

static void test_unmap_many_at_once(void **state)
{
    static const uint64_t n_units[] = { 1, 3, 2, 1, 4 };
    uint64_t unit = fixture.unit;
    struct memory memory;

    (void)state;
    memory_new(&memory, 5, n_units);
    /* The three in the middle, of three sizes; the outer two stay usable. */
    OK(fixture.ops->unmap(fixture.dev, memory.address + unit, 6 * unit, &fixture.error));
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address, 7, unit, &fixture.error));
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address + 7 * unit, 7, 4 * unit, &fixture.error));
    lane_wait(USK_LANE_UP);
    REFUSED(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address + 3 * unit, 7, unit, &fixture.error));
    OK(fixture.ops->map(fixture.dev, memory.address + unit, 3 * unit, memory.handles[1], &fixture.error));
    OK(fixture.ops->map(fixture.dev, memory.address + 4 * unit, 2 * unit, memory.handles[2], &fixture.error));
    OK(fixture.ops->map(fixture.dev, memory.address + 6 * unit, unit, memory.handles[3], &fixture.error));
    memory_free(&memory);
}

/* What the sentinel needs: one handle several times in a row, all of it or nothing. */
static void test_map_repeated(void **state)
{
    uint64_t unit = fixture.unit, free_before = free_bytes_at_rest(), address, handle, other;
    unsigned char pattern[64], seen[64];

    (void)state;
    random_fill(pattern, sizeof(pattern));
    OK(fixture.ops->reserve(fixture.dev, 8 * unit, unit, &address, &fixture.error));
    OK(fixture.ops->create(fixture.dev, 2 * unit, &handle, &fixture.error));
    OK(fixture.ops->create(fixture.dev, unit, &other, &fixture.error));
    OK(fixture.ops->map_repeated(fixture.dev, address, 6 * unit, handle, 2 * unit, &fixture.error));
    check_free_bytes(free_before - 3 * unit);
    OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, address, 0xff, 6 * unit, &fixture.error));
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, address + 3 * unit - 32, pattern, sizeof(pattern),
                            &fixture.error));
    lane_wait(USK_LANE_UP);
    for (uint64_t i = 0; i < 3; i++) {
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, seen, address + (2 * i + 1) * unit - 32, sizeof(seen),
                                  &fixture.error));
        lane_wait(USK_LANE_DOWN);
        assert_memory_equal(seen, pattern, sizeof(seen));
    }
    OK(fixture.ops->unmap(fixture.dev, address + 2 * unit, 4 * unit, &fixture.error));
    OK(fixture.ops->unmap(fixture.dev, address, 2 * unit, &fixture.error));

    /* The handle's own size, a multiple of it, and nothing in the way. */
    REFUSED(fixture.ops->map_repeated(fixture.dev, address, 2 * unit, handle, unit, &fixture.error));
    REFUSED(fixture.ops->map_repeated(fixture.dev, address, 3 * unit, handle, 2 * unit, &fixture.error));
    REFUSED(fixture.ops->map_repeated(fixture.dev, address, 2 * unit, handle, 0, &fixture.error));
    OK(fixture.ops->map(fixture.dev, address + 5 * unit, unit, other, &fixture.error));
    REFUSED(fixture.ops->map_repeated(fixture.dev, address, 6 * unit, handle, 2 * unit, &fixture.error));
    OK(fixture.ops->map_repeated(fixture.dev, address, 4 * unit, handle, 2 * unit, &fixture.error));
    OK(fixture.ops->unmap(fixture.dev, address, 4 * unit, &fixture.error));
    OK(fixture.ops->unmap(fixture.dev, address + 5 * unit, unit, &fixture.error));
    OK(fixture.ops->release(fixture.dev, other, &fixture.error));
    OK(fixture.ops->release(fixture.dev, handle, &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, address, 8 * unit, &fixture.error));
    check_free_bytes(free_before);
}

/* What the sentinel needs: one handle under many addresses. */
static void test_shared_handle(void **state)
{
    enum { N = 12 };
    uint64_t unit = fixture.unit, free_before = free_bytes_at_rest(), address, handle;
    unsigned char pattern[64], seen[64];

    (void)state;
    random_fill(pattern, sizeof(pattern));
    OK(fixture.ops->reserve(fixture.dev, N * unit, unit, &address, &fixture.error));
    OK(fixture.ops->create(fixture.dev, unit, &handle, &fixture.error));
    for (uint64_t i = 0; i < N; i++)
        OK(fixture.ops->map(fixture.dev, address + i * unit, unit, handle, &fixture.error));
    check_free_bytes(free_before - unit);
    /* Written through one address, read through all. */
    for (uint64_t i = 0; i < N; i += 5) {
        pattern[0] = (unsigned char)i;
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, address + i * unit + 100, pattern, sizeof(pattern),
                                &fixture.error));
        lane_wait(USK_LANE_UP);
        for (uint64_t k = 0; k < N; k++) {
            OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, seen, address + k * unit + 100, sizeof(seen),
                                      &fixture.error));
            lane_wait(USK_LANE_DOWN);
            assert_memory_equal(seen, pattern, sizeof(seen));
        }
    }
    /* Taken away at some, it stays at the others; released, it stays until the last one is gone. */
    OK(fixture.ops->unmap(fixture.dev, address, 4 * unit, &fixture.error));
    OK(fixture.ops->release(fixture.dev, handle, &fixture.error));
    OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, seen, address + 9 * unit + 100, sizeof(seen),
                              &fixture.error));
    lane_wait(USK_LANE_DOWN);
    assert_memory_equal(seen, pattern, sizeof(seen));
    check_free_bytes(free_before - unit);
    OK(fixture.ops->unmap(fixture.dev, address + 4 * unit, (N - 4) * unit, &fixture.error));
    check_free_bytes(free_before);
    OK(fixture.ops->unreserve(fixture.dev, address, N * unit, &fixture.error));
}

/* What the hand-over needs: contents stay with the handle, not with the address. */
static void test_contents_move_with_handle(void **state)
{
    static const uint64_t n_units[] = { 1, 1 };
    unsigned char seen[2][16], pattern[2][16];
    uint64_t unit = fixture.unit;
    struct memory memory;

    (void)state;
    memory_new(&memory, 2, n_units);
    random_fill(pattern, sizeof(pattern));
    for (unsigned int i = 0; i < 2; i++)
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address + i * unit, pattern[i], sizeof(pattern[i]),
                                &fixture.error));
    lane_wait(USK_LANE_UP);
    OK(fixture.ops->unmap(fixture.dev, memory.address, 2 * unit, &fixture.error));
    OK(fixture.ops->map(fixture.dev, memory.address, unit, memory.handles[1], &fixture.error));
    OK(fixture.ops->map(fixture.dev, memory.address + unit, unit, memory.handles[0], &fixture.error));
    for (unsigned int i = 0; i < 2; i++)
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, seen[i], memory.address + i * unit, sizeof(seen[i]),
                                  &fixture.error));
    lane_wait(USK_LANE_DOWN);
    assert_memory_equal(seen[0], pattern[1], sizeof(seen[0]));
    assert_memory_equal(seen[1], pattern[0], sizeof(seen[1]));
    memory_free(&memory);
}

static void check_out_of_memory(int status)
{
    if (status != UNSTICK_OUT_OF_DEVICE_MEMORY || !fixture.error.text[0])
        fail_msg("expected out of device memory; got %s: %s", unstick_status_name(status), fixture.error.text);
    assert_int_equal(fixture.error.status, status);
}

static void test_out_of_memory(void **state)
{
    uint64_t unit = fixture.unit, free_before = free_bytes_at_rest(), handles[128], handle, size, free_now;
    uint64_t last_size = 0;
    unsigned int n = 0;

    (void)state;
    size = usk_max(fixture.dev->caps.total_bytes, unit) / unit * unit + unit;
    check_out_of_memory(fixture.ops->create(fixture.dev, size, &handle, &fixture.error));
    check_free_bytes(free_before);

    /* Full to the last granule, with ever smaller handles. */
    for (size = free_before / unit * unit; size >= unit && n < 127;) {
        int r = fixture.ops->create(fixture.dev, size, &handles[n], &fixture.error);

        if (r == UNSTICK_OK) {
            last_size = size;
            n++;
            size = usk_min(size, free_bytes() / unit * unit);
        } else {
            check_out_of_memory(r);
            size = size / 2 / unit * unit;
        }
    }
    check_out_of_memory(fixture.ops->create(fixture.dev, 8 * unit, &handle, &fixture.error));
    /* The device goes on: what is given back can be had again. */
    free_now = free_bytes();
    OK(fixture.ops->release(fixture.dev, handles[--n], &fixture.error));
    check_free_bytes(free_now + last_size);
    OK(fixture.ops->create(fixture.dev, unit, &handles[n++], &fixture.error));
    while (n)
        OK(fixture.ops->release(fixture.dev, handles[--n], &fixture.error));
    check_free_bytes(free_before);
}

/* Device memory is not fragmented by handles of many sizes that come and go: what is free can be had, as one. */
static void test_no_fragmentation(void **state)
{
    uint64_t unit = fixture.unit, free_before = free_bytes_at_rest(), handles[24], big;

    (void)state;
    for (unsigned int i = 0; i < 24; i++)
        OK(fixture.ops->create(fixture.dev, unit, &handles[i], &fixture.error));
    for (unsigned int i = 0; i < 24; i += 2)
        OK(fixture.ops->release(fixture.dev, handles[i], &fixture.error));
    OK(fixture.ops->create(fixture.dev, 12 * unit, &big, &fixture.error));
    check_free_bytes(free_before - 24 * unit);
    OK(fixture.ops->release(fixture.dev, big, &fixture.error));
    for (unsigned int i = 1; i < 24; i += 2)
        OK(fixture.ops->release(fixture.dev, handles[i], &fixture.error));
    check_free_bytes(free_before);
}

int conformance_memory(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_capabilities),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_handle_sizes),
        cmocka_unit_test(test_memory_info_counts_handles),
        cmocka_unit_test(test_map_rules),
        cmocka_unit_test(test_unmap_many_at_once),
        cmocka_unit_test(test_map_repeated),
        cmocka_unit_test(test_shared_handle),
        cmocka_unit_test(test_contents_move_with_handle),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_no_fragmentation),
    };

    return conformance_run("memory", tests);
}
