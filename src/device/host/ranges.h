/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_HOST_RANGES_H
#define USK_DEVICE_HOST_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ranges that do not overlap, by their start, each with a word of its owner's. */
struct usk_range {
    uint64_t start, bytes, tag;
};

struct usk_ranges {
    struct usk_range *items;
    size_t n, capacity;
};

void usk_ranges_fini(struct usk_ranges *ranges);

/* Makes room, so that the next insert cannot fail; false when there is no memory. */
bool usk_ranges_grow(struct usk_ranges *ranges);
/* The index of the first range that ends behind `at`; n if there is none. */
size_t usk_ranges_find(const struct usk_ranges *ranges, uint64_t at);
/* The range that starts at `start` and is `bytes` long, or NULL. */
struct usk_range *usk_ranges_exact(const struct usk_ranges *ranges, uint64_t start, uint64_t bytes);
bool usk_ranges_overlaps(const struct usk_ranges *ranges, uint64_t start, uint64_t bytes);

/* Room was made, and nothing overlaps. */
void usk_ranges_insert(struct usk_ranges *ranges, uint64_t start, uint64_t bytes, uint64_t tag);
void usk_ranges_remove(struct usk_ranges *ranges, size_t index, size_t n);

#endif
