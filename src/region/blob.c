/* SPDX-License-Identifier: Apache-2.0 */
/* A blob that lies in an arena owns the arena's hold on its granule; one in files only points there. */
#include "region/region.h"

#include <stdlib.h>

static struct usk_blob *blob_new(enum unstick_tier tier, uint32_t index)
{
    struct usk_blob *blob = calloc(1, sizeof(*blob));

    if (blob) {
        blob->n_refs = 1;
        blob->tier = tier;
        blob->index = index;
    }
    return blob;
}

struct usk_blob *usk_blob_new_arena(struct usk_arena *arena, uint32_t index)
{
    struct usk_blob *blob = blob_new(usk_arena_tier(arena, index), index);

    if (blob)
        blob->arena = arena;
    return blob;
}

struct usk_blob *usk_blob_new_file(struct usk_backing *backing, uint32_t index)
{
    struct usk_blob *blob = blob_new(UNSTICK_TIER_FILE, index);

    if (blob)
        blob->backing = backing;
    return blob;
}

void usk_blob_unref(struct usk_blob *blob)
{
    if (!blob || --blob->n_refs)
        return;
    if (blob->arena)
        usk_arena_put(blob->arena, blob->index);
    free(blob);
}

void usk_blob_take(struct usk_granule *granule, struct usk_blob **list)
{
    if (!granule->blob)
        return;
    granule->blob->next = *list;
    *list = granule->blob;
    granule->blob = NULL;
}

void usk_blob_unref_all(struct usk_blob **list)
{
    while (*list) {
        struct usk_blob *blob = *list;

        *list = blob->next;
        usk_blob_unref(blob);
    }
}
