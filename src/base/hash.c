/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <endian.h>
#include <string.h>

/* ISO C11 has no 128-bit integer; both compilers that are supported do. */
__extension__ typedef unsigned __int128 hash_product;

static inline uint64_t hash_leaf(const unsigned char *leaf, uint64_t key_a, uint64_t key_b)
{
    uint64_t words[2];
    hash_product product;

    memcpy(words, leaf, sizeof(words));
    product = (hash_product)(le64toh(words[0]) ^ key_a) * (le64toh(words[1]) ^ key_b);
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t usk_hash(const void *data, size_t bytes)
{
    const unsigned char *leaf = data, *end = leaf + bytes;
    uint64_t key_a = USK_HASH_KEY_A, key_b = USK_HASH_KEY_B, sum_even = 0, sum_odd = 0;

    /* Two sums, so that the adds of neighbouring leaves do not wait for each other. */
    while (end - leaf >= 2 * USK_HASH_LEAF_BYTES) {
        sum_even += hash_leaf(leaf, key_a, key_b);
        sum_odd += hash_leaf(leaf + USK_HASH_LEAF_BYTES, key_a + USK_HASH_STEP_A, key_b + USK_HASH_STEP_B);
        key_a += 2 * USK_HASH_STEP_A;
        key_b += 2 * USK_HASH_STEP_B;
        leaf += 2 * USK_HASH_LEAF_BYTES;
    }
    if (leaf < end)
        sum_even += hash_leaf(leaf, key_a, key_b);
    return sum_even + sum_odd;
}
