/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_SLOTS_H
#define USK_DEVICE_SLOTS_H

#include <stddef.h>
#include <stdint.h>

/*
 * Things that are known to callers by a number: handles, tickets. A number is never 0 and means one thing only: after
 * usk_slots_free() it is stale, and usk_slots_get() answers NULL for it instead of whatever has its place now.
 */
struct usk_slots {
    unsigned char *items; /* each a head and item_bytes behind it */
    size_t item_bytes;
    uint32_t n, capacity;
    uint32_t free_head;   /* 1 + the first free place; 0: none */
};

void usk_slots_init(struct usk_slots *slots, size_t item_bytes);
void usk_slots_fini(struct usk_slots *slots);

/* A zeroed item and its number; NULL when there is no memory. The pointer is valid until the next call of this. */
void *usk_slots_new(struct usk_slots *slots, uint64_t *ret_id);
/* NULL if the number is stale or never was one. Valid as above. */
void *usk_slots_get(const struct usk_slots *slots, uint64_t id);
/* The number is valid. */
void usk_slots_free(struct usk_slots *slots, uint64_t id);

#endif
