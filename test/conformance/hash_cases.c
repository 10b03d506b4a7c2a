/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes made by the device are, bit by bit, those of base/hash.c. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/math.h"
#include "conformance.h"

static void need_hash(void)
{
    if (!fixture.dev->caps.can_hash)
        skip();
}

/* n pieces from `offset` of memory whose contents are `expected`. */
static void check_pieces(const struct memory *memory, const unsigned char *expected, uint64_t offset,
                         uint64_t piece_bytes, uint32_t n, uint32_t slot)
{
    OK(fixture.ops->hash(fixture.dev, USK_LANE_HASH, memory->address + offset, piece_bytes, n, slot, &fixture.error));
    lane_wait(USK_LANE_HASH);
    for (uint32_t i = 0; i < n; i++) {
        if (fixture.dev->hash_results[slot + i] != usk_hash(expected + offset + i * piece_bytes, piece_bytes))
            fail_msg("piece %u of %u, each %llu bytes from %llu: wrong hash", i, n, (unsigned long long)piece_bytes,
                     (unsigned long long)offset);
    }
}

static void test_hash_equals_reference(void **state)
{
    /* Around what a thread, a warp and a block of a kernel might take at once, and odd ones. */
    static const uint64_t n_leaves[] = {
        1,   2,   3,   5,    7,    31,   32,   33,   63,   64,    65,    127,   128,   129,   255,    256,
        257, 511, 512, 1023, 1024, 1025, 4095, 4096, 4097, 16383, 16384, 16385, 65537, 99999, 131071,
    };
    static const uint64_t n_units[] = { 1, 3, 2 };
    uint64_t bytes = UINT64_C(6) << 20, sizes[3];
    unsigned char *expected;
    struct memory memory;

    (void)state;
    need_hash();
    /* 6 MiB in three mappings, whatever the granularity. */
    for (unsigned int i = 0; i < 3; i++)
        sizes[i] = n_units[i] * usk_max(1, (UINT64_C(1) << 20) / fixture.unit);
    memory_new(&memory, 3, sizes);
    expected = pages_new(memory.bytes);
    random_fill(expected, memory.bytes);
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_HASH, memory.address, expected, memory.bytes, &fixture.error));

    for (size_t i = 0; i < sizeof(n_leaves) / sizeof(n_leaves[0]); i++) {
        uint64_t piece_bytes = n_leaves[i] * 16, most = usk_min(bytes / piece_bytes, 60);

        check_pieces(&memory, expected, 0, piece_bytes, 1, 0);
        check_pieces(&memory, expected, bytes - piece_bytes, piece_bytes, 1, fixture.dev->caps.n_hash_slots - 1);
        if (most > 1)
            check_pieces(&memory, expected, 16 * random_below((bytes - most * piece_bytes) / 16 + 1), piece_bytes,
                         (uint32_t)most, 2);
    }
    check_pieces(&memory, expected, 0, bytes, 1, 1);
    check_pieces(&memory, expected, 16, (bytes - 16) / 3 / 16 * 16, 3, 1);
    check_pieces(&memory, expected, 0, bytes / 48, 48, 7);
    pages_free(expected, memory.bytes);
    memory_free(&memory);
}

/* Contents that show a wrong carry or a lost high half: all zeros, all ones, single bits. */
static void test_hash_of_extremes(void **state)
{
    static const unsigned char values[] = { 0x00, 0xff, 0x80, 0x01, 0x7f };
    static const uint64_t n_units[] = { 1 };
    struct memory memory;
    unsigned char *expected;

    (void)state;
    need_hash();
    memory_new(&memory, 1, n_units);
    expected = pages_new(memory.bytes);
    for (size_t i = 0; i < sizeof(values); i++) {
        memset(expected, values[i], memory.bytes);
        OK(fixture.ops->fill(fixture.dev, USK_LANE_HASH, memory.address, values[i], memory.bytes, &fixture.error));
        check_pieces(&memory, expected, 0, memory.bytes, 1, 0);
        check_pieces(&memory, expected, 0, memory.bytes / 16, 16, 3);
    }
    pages_free(expected, memory.bytes);
    memory_free(&memory);
}

/* Many submitted at once, into slots of their own, behind copies that they wait for. */
static void test_hashes_in_flight(void **state)
{
    static const uint64_t n_units[] = { 4 };
    enum { N = 32 };
    uint64_t piece_bytes;
    unsigned char *expected;
    struct memory memory;

    (void)state;
    need_hash();
    memory_new(&memory, 1, n_units);
    piece_bytes = memory.bytes / N;
    expected = pages_new(memory.bytes);
    random_fill(expected, memory.bytes);
    for (uint32_t i = 0; i < N; i++) {
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address + i * piece_bytes, expected + i * piece_bytes,
                                piece_bytes, &fixture.error));
        OK(fixture.ops->order(fixture.dev, USK_LANE_HASH, USK_LANE_UP, &fixture.error));
        OK(fixture.ops->hash(fixture.dev, USK_LANE_HASH, memory.address + i * piece_bytes, piece_bytes, 1, 2 * i,
                             &fixture.error));
    }
    lane_wait(USK_LANE_HASH);
    for (uint32_t i = 0; i < N; i++)
        assert_true(fixture.dev->hash_results[2 * i] == usk_hash(expected + i * piece_bytes, piece_bytes));
    pages_free(expected, memory.bytes);
    memory_free(&memory);
}

/* A change of one bit, of one byte, of a sign, anywhere: each gives another hash, and the one of the reference. */
static void test_mutations_are_caught(void **state)
{
    enum { N = 1200, BYTES = 48 * 1024 };
    static const uint64_t n_units[] = { 1 };
    uint64_t original, changed;
    unsigned char *contents;
    struct memory memory;

    (void)state;
    need_hash();
    memory_new(&memory, 1, n_units);
    contents = pages_new(BYTES);
    random_fill(contents, BYTES);
    original = usk_hash(contents, BYTES);
    OK(fixture.ops->copy_up(fixture.dev, USK_LANE_HASH, memory.address, contents, BYTES, &fixture.error));
    lane_wait(USK_LANE_HASH);
    for (unsigned int i = 0; i < N; i++) {
        uint64_t at = random_below(BYTES);
        unsigned char before = contents[at];

        if (i % 2)
            contents[at] ^= (unsigned char)(1u << random_below(8));
        else
            contents[at] = (unsigned char)(before + 1 + random_below(255));
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_HASH, memory.address + at, contents + at, 1, &fixture.error));
        OK(fixture.ops->hash(fixture.dev, USK_LANE_HASH, memory.address, BYTES, 1, i % 64, &fixture.error));
        lane_wait(USK_LANE_HASH);
        changed = fixture.dev->hash_results[i % 64];
        assert_true(changed != original);
        assert_true(changed == usk_hash(contents, BYTES));
        contents[at] = before;
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_HASH, memory.address + at, contents + at, 1, &fixture.error));
        lane_wait(USK_LANE_HASH);
    }
    pages_free(contents, BYTES);
    memory_free(&memory);
}

int conformance_hashes(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_equals_reference),
        cmocka_unit_test(test_hash_of_extremes),
        cmocka_unit_test(test_hashes_in_flight),
        cmocka_unit_test(test_mutations_are_caught),
    };

    return conformance_run("hashes", tests);
}
