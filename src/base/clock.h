/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_CLOCK_H
#define USK_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define USK_NS_PER_MS UINT64_C(1000000)
#define USK_NS_PER_S UINT64_C(1000000000)

/* CLOCK_MONOTONIC in nanoseconds; never 0, so that 0 can mean "not yet". */
static inline uint64_t usk_clock_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * USK_NS_PER_S + (uint64_t)now.tv_nsec + 1;
}

#endif
