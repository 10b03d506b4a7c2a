/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sorted array. The tables hold thousands of entries, are filled mostly in order (at the end) and emptied in runs,
 * so a binary search and a memmove beat a tree. Making room is apart from inserting: who changes the system in between
 * asks for room first and then cannot fail half-way.
 */
#include "device/host/ranges.h"

#include <stdlib.h>
#include <string.h>

void usk_ranges_fini(struct usk_ranges *ranges)
{
    free(ranges->items);
    *ranges = (struct usk_ranges){ 0 };
}

bool usk_ranges_grow(struct usk_ranges *ranges)
{
    if (ranges->n == ranges->capacity) {
        size_t capacity = ranges->capacity ? 2 * ranges->capacity : 64;
        struct usk_range *items = realloc(ranges->items, capacity * sizeof(items[0]));

        if (!items)
            return false;
        ranges->items = items;
        ranges->capacity = capacity;
    }
    return true;
}

size_t usk_ranges_find(const struct usk_ranges *ranges, uint64_t at)
{
    size_t low = 0, high = ranges->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ranges->items[middle].start + ranges->items[middle].bytes <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct usk_range *usk_ranges_exact(const struct usk_ranges *ranges, uint64_t start, uint64_t bytes)
{
    size_t i = usk_ranges_find(ranges, start);

    if (i == ranges->n || ranges->items[i].start != start || ranges->items[i].bytes != bytes)
        return NULL;
    return &ranges->items[i];
}

bool usk_ranges_overlaps(const struct usk_ranges *ranges, uint64_t start, uint64_t bytes)
{
    size_t i = usk_ranges_find(ranges, start);

    return i < ranges->n && ranges->items[i].start < start + bytes;
}

void usk_ranges_insert(struct usk_ranges *ranges, uint64_t start, uint64_t bytes, uint64_t tag)
{
    size_t i = usk_ranges_find(ranges, start);

    memmove(&ranges->items[i + 1], &ranges->items[i], (ranges->n - i) * sizeof(ranges->items[0]));
    ranges->items[i] = (struct usk_range){ .start = start, .bytes = bytes, .tag = tag };
    ranges->n++;
}

void usk_ranges_remove(struct usk_ranges *ranges, size_t index, size_t n)
{
    memmove(&ranges->items[index], &ranges->items[index + n], (ranges->n - index - n) * sizeof(ranges->items[0]));
    ranges->n -= n;
}
