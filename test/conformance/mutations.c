/* SPDX-License-Identifier: Apache-2.0 */
/* A million changes of small buffers, of the kinds that happen to weights: the hash sees every one of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"

enum { BYTES = 256, LEAF = USK_HASH_LEAF_BYTES, N_LEAVES = BYTES / LEAF, N_EACH = 125000 };

static uint64_t random_state = 20240229;

/* splitmix64 */
static uint64_t random_next(void)
{
    uint64_t x = random_state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t random_below(uint64_t limit)
{
    return random_next() % limit;
}

static void swap_bytes(unsigned char *a, unsigned char *b, size_t bytes)
{
    unsigned char held[BYTES];

    memcpy(held, a, bytes);
    memcpy(a, b, bytes);
    memcpy(b, held, bytes);
}

static void rotate(unsigned char *data, size_t by)
{
    unsigned char turned[BYTES];

    memcpy(turned, data + by, BYTES - by);
    memcpy(turned + BYTES - by, data, by);
    memcpy(data, turned, BYTES);
}

static void mutate_bit(unsigned char *data)
{
    data[random_below(BYTES)] ^= (unsigned char)(1u << random_below(8));
}

static void mutate_byte(unsigned char *data)
{
    data[random_below(BYTES)] = (unsigned char)random_next();
}

/* The signs of two fp16 values: bit 15 of two different halves. In a plain product sum, two flips could cancel. */
static void mutate_two_signs(unsigned char *data)
{
    uint64_t first = random_below(BYTES / 2), second = random_below(BYTES / 2 - 1);

    second += second >= first;
    data[2 * first + 1] ^= 0x80;
    data[2 * second + 1] ^= 0x80;
}

static void mutate_swap_leaves(unsigned char *data)
{
    swap_bytes(data + random_below(N_LEAVES) * LEAF, data + random_below(N_LEAVES) * LEAF, LEAF);
}

/* The two words of one leaf: the product alone would not see it. */
static void mutate_swap_words(unsigned char *data)
{
    unsigned char *leaf = data + random_below(N_LEAVES) * LEAF;

    swap_bytes(leaf, leaf + LEAF / 2, LEAF / 2);
}

static void mutate_rotate(unsigned char *data)
{
    static const size_t steps[] = { 1, 2, 4, 8, LEAF, 2 * LEAF, BYTES / 2 };

    rotate(data, steps[random_below(sizeof(steps) / sizeof(steps[0]))]);
}

static void mutate_clear(unsigned char *data)
{
    uint64_t at = random_below(BYTES);

    memset(data + at, random_below(2) ? 0 : 0xff, 1 + random_below(BYTES - at));
}

/* The same difference added to one value and taken from another, as an optimizer or a merge of LoRA might. */
static void mutate_balanced(unsigned char *data)
{
    uint64_t first = random_below(BYTES), second = random_below(BYTES - 1), by = 1 + random_below(255);

    second += second >= first;
    data[first] = (unsigned char)(data[first] + by);
    data[second] = (unsigned char)(data[second] - by);
}

/* What the data is like: noise, small numbers as fp16, int8 weights round 0, or nothing but zeros. */
static void data_fill(unsigned char *data, unsigned int kind)
{
    for (unsigned int i = 0; i < BYTES; i++) {
        switch (kind) {
        case 0:
            data[i] = (unsigned char)random_next();
            break;
        case 1:
            data[i] = i % 2 ? (unsigned char)((random_next() & 0x80) | 0x2c) : (unsigned char)random_next();
            break;
        case 2:
            data[i] = (unsigned char)(random_below(9) - 4);
            break;
        default:
            data[i] = 0;
        }
    }
}

static void test_million_mutations(void **state)
{
    static void (*const mutations[])(unsigned char *) = {
        mutate_bit,        mutate_byte,   mutate_two_signs, mutate_swap_leaves,
        mutate_swap_words, mutate_rotate, mutate_clear,     mutate_balanced,
    };
    _Alignas(16) unsigned char original[BYTES], changed[BYTES];
    uint64_t hash = 0, n_caught = 0, n_same = 0, n_missed = 0;

    (void)state;
    for (unsigned int i = 0; i < 8 * N_EACH; i++) {
        if (i % 1000 == 0) {
            data_fill(original, i / 1000 % 4);
            hash = usk_hash(original, BYTES);
        }
        memcpy(changed, original, BYTES);
        mutations[i % 8](changed);
        /* Some changes change nothing, such as zeros swapped with zeros; the hash must then agree. */
        if (!memcmp(changed, original, BYTES)) {
            n_same++;
            assert_true(usk_hash(changed, BYTES) == hash);
        } else if (usk_hash(changed, BYTES) == hash) {
            n_missed++;
        } else {
            n_caught++;
        }
    }
    assert_int_equal(n_missed, 0);
    assert_int_equal(n_caught + n_same, 8 * N_EACH);
    assert_true(n_caught > 6 * N_EACH);
}

/* Longer or shorter by zeros is another granule too. */
static void test_length_counts(void **state)
{
    _Alignas(16) unsigned char data[BYTES] = { 0 };
    uint64_t seen[N_LEAVES + 1];

    (void)state;
    for (unsigned int n = 0; n <= N_LEAVES; n++) {
        seen[n] = usk_hash(data, n * LEAF);
        for (unsigned int k = 0; k < n; k++)
            assert_true(seen[k] != seen[n]);
    }
}

/* Pinned, so that a hash kept from one version, or made by another back end, stays true. */
static void test_known_values(void **state)
{
    _Alignas(16) unsigned char data[48];

    (void)state;
    for (unsigned int i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)i;
    assert_true(usk_hash(data, 0) == 0);
    assert_int_equal(usk_hash(data, 16), UINT64_C(0xf36aee45cdd1835c));
    assert_int_equal(usk_hash(data, 48), UINT64_C(0xe9e4b325b85547b0));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_million_mutations),
        cmocka_unit_test(test_length_counts),
        cmocka_unit_test(test_known_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
