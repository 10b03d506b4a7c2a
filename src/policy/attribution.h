/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_ATTRIBUTION_H
#define USK_POLICY_ATTRIBUTION_H

#include <stdbool.h>
#include <stdint.h>

#include <unstick/reading.h>

/* What is derived from a reading in more than one place. All of it saturates instead of wrapping. */

/* a - b. */
int64_t usk_bytes_difference(uint64_t a, uint64_t b);
uint64_t usk_bytes_sum(uint64_t a, uint64_t b);
int64_t usk_bytes_sum_signed(int64_t a, int64_t b);

/* The sum of our accounts; 0 without UNSTICK_SOURCE_ACCOUNTS. */
uint64_t usk_reading_ours(const struct unstick_reading *reading);
/* What empty_cache() would give back; 0 without UNSTICK_SOURCE_TORCH. */
uint64_t usk_reading_torch_cached(const struct unstick_reading *reading);
/* What other processes hold. False if that is not known of all of them: *ret_bytes is then what is known. */
bool usk_reading_others(const struct unstick_reading *reading, uint64_t *ret_bytes);
/* What our own limit leaves; UINT64_MAX if there is none. */
uint64_t usk_reading_room(const struct unstick_reading *reading);
/* What could be taken now: what is free, within that. */
uint64_t usk_reading_available(const struct unstick_reading *reading);

#endif
