/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_HASH_H
#define USK_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/*
 * The hash that tells whether a granule changed. It must be the same on every device, so it is written down here and
 * nowhere else; hash.c is the reference, the CUDA kernel and the conformance suite follow it bit by bit.
 *
 * A granule is a sequence of leaves of 16 bytes. Leaf i holds two little-endian 64-bit words a, b and gives
 *
 *     x = a ^ (USK_HASH_KEY_A + i * USK_HASH_STEP_A)
 *     y = b ^ (USK_HASH_KEY_B + i * USK_HASH_STEP_B)
 *     t = low64(x * y) ^ high64(x * y)            (all modulo 2^64, the product of 128 bits)
 *
 * and the hash is the sum of all t modulo 2^64. The sum makes the order of evaluation free; the keys make the place of
 * a leaf count. It finds accidents, not adversaries: two granules that differ by chance agree with probability 2^-64.
 */
#define USK_HASH_LEAF_BYTES 16
#define USK_HASH_KEY_A UINT64_C(0x9e3779b97f4a7c15)
#define USK_HASH_KEY_B UINT64_C(0xc2b2ae3d27d4eb4f)
#define USK_HASH_STEP_A UINT64_C(0xd6e8feb86659fd93)
#define USK_HASH_STEP_B UINT64_C(0xa0761d6478bd642f)

/* The hash of `bytes` bytes, a multiple of USK_HASH_LEAF_BYTES; data is aligned to 8. */
uint64_t usk_hash(const void *data, size_t bytes);

#endif
