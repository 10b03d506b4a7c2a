/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_MATH_H
#define USK_BASE_MATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Checked arithmetic: true if the result fits; *ret is written in either case. */
static inline bool usk_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_add_overflow(a, b, ret);
}

static inline bool usk_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    return !__builtin_mul_overflow(a, b, ret);
}

static inline uint64_t usk_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t usk_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* a / b, rounded up; b > 0. */
static inline uint64_t usk_div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* The next multiple of `to`, a power of two, at or above `value`. True if it fits. */
static inline bool usk_align_up(uint64_t value, uint64_t to, uint64_t *ret)
{
    bool fits = usk_add(value, to - 1, ret);

    *ret &= ~(to - 1);
    return fits;
}

static inline bool usk_is_power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

#endif
