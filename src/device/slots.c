/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing array with a list of free places through it. The number is (generation << 32 | place + 1), and the
 * generation of a place counts up when the place is given back, so that a number that somebody kept too long is found
 * out. A place would have to be reused 2^32 times while the number is kept for the two to meet.
 */
#include "device/slots.h"

#include <stdlib.h>
#include <string.h>

#define SLOT_IN_USE UINT32_MAX

struct slot_head {
    uint32_t generation;
    uint32_t next; /* SLOT_IN_USE, or the link of the list of free places */
};

static size_t slot_stride(const struct usk_slots *slots)
{
    return sizeof(struct slot_head) + slots->item_bytes;
}

static struct slot_head *slot_at(const struct usk_slots *slots, uint32_t place)
{
    return (struct slot_head *)(void *)(slots->items + place * slot_stride(slots));
}

void usk_slots_init(struct usk_slots *slots, size_t item_bytes)
{
    /* Items hold 64-bit fields behind the head of 8 bytes. */
    *slots = (struct usk_slots){ .item_bytes = (item_bytes + 7) & ~(size_t)7 };
}

void usk_slots_fini(struct usk_slots *slots)
{
    free(slots->items);
    *slots = (struct usk_slots){ .item_bytes = slots->item_bytes };
}

void *usk_slots_new(struct usk_slots *slots, uint64_t *ret_id)
{
    struct slot_head *head;
    uint32_t place;

    if (slots->free_head) {
        place = slots->free_head - 1;
        head = slot_at(slots, place);
        slots->free_head = head->next;
    } else {
        if (slots->n == slots->capacity) {
            uint32_t capacity = slots->capacity ? 2 * slots->capacity : 64;
            void *items = realloc(slots->items, capacity * slot_stride(slots));

            if (!items)
                return NULL;
            slots->items = items;
            slots->capacity = capacity;
        }
        place = slots->n++;
        head = slot_at(slots, place);
        head->generation = 1;
    }
    head->next = SLOT_IN_USE;
    memset(head + 1, 0, slots->item_bytes);
    *ret_id = (uint64_t)head->generation << 32 | (place + 1);
    return head + 1;
}

void *usk_slots_get(const struct usk_slots *slots, uint64_t id)
{
    uint32_t place = (uint32_t)id - 1;
    struct slot_head *head;

    if (place >= slots->n)
        return NULL;
    head = slot_at(slots, place);
    return head->next == SLOT_IN_USE && head->generation == id >> 32 ? head + 1 : NULL;
}

void usk_slots_free(struct usk_slots *slots, uint64_t id)
{
    uint32_t place = (uint32_t)id - 1;
    struct slot_head *head = slot_at(slots, place);

    head->generation++;
    head->next = slots->free_head;
    slots->free_head = place + 1;
}
