/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The invariants that can be checked from outside, for tests: every granule's fields agree with its place, contents
 * exist somewhere, and the accounts are the sum of what the granules, sentinels and spares hold.
 */
#include "region/region.h"

static bool granule_is_valid(const struct unstick_region *region, uint32_t index)
{
    const struct usk_granule *granule = &region->granules[index];

    if (granule->physical && granule->physical->bytes != usk_region_granule_bytes(region, index))
        return false;
    switch (granule->place) {
    case USK_PLACE_EMPTY:
        return !granule->blob;
    case USK_PLACE_DEAD:
        return !granule->blob && !granule->physical;
    case USK_PLACE_RESIDENT:
        return granule->physical;
    case USK_PLACE_EVICTED:
        return granule->blob && granule->blob->is_filled;
    case USK_PLACE_POISONED:
        return !granule->physical;
    }
    return false;
}

static uint64_t sentinel_sum(const struct usk_sentinel *sentinel)
{
    return sentinel->physical ? sentinel->physical->bytes : 0;
}

static bool list_is_valid(const struct unstick_region *region, uint64_t *resident_bytes)
{
    bool is_valid = true;

    for (; region; region = region->next) {
        for (uint32_t i = 0; i < region->n_reserved; i++) {
            is_valid &= granule_is_valid(region, i);
            /* Between an unmap and a map that has to be asked for again a task is at work. */
            is_valid &= region->holder || !region->granules[i].physical || !region->granules[i].is_bare;
            if (region->granules[i].physical)
                *resident_bytes += region->granules[i].physical->bytes;
        }
    }
    return is_valid;
}

bool usk_device_is_valid(struct unstick_device *dev)
{
    uint64_t resident_bytes = 0, spare_bytes = 0;
    bool is_valid = true;

    usk_baton_take(dev->ctx);
    for (const struct usk_physical *spare = dev->spares; spare; spare = spare->next)
        spare_bytes += spare->bytes;
    usk_context_lock(dev->ctx);
    is_valid &= list_is_valid(dev->regions, &resident_bytes);
    is_valid &= list_is_valid(dev->dead, &resident_bytes);
    usk_context_unlock(dev->ctx);
    /* What an arrival has acquired and not yet mapped is in the account only. */
    is_valid &= resident_bytes <= atomic_load(&dev->accounts[USK_ACCOUNT_RESIDENT]);
    if (!dev->ctx->tasks)
        is_valid &= resident_bytes == atomic_load(&dev->accounts[USK_ACCOUNT_RESIDENT]);
    is_valid &= spare_bytes == atomic_load(&dev->accounts[USK_ACCOUNT_SPARE]);
    is_valid &= sentinel_sum(&dev->sentinel) + sentinel_sum(&dev->sliver) ==
                atomic_load(&dev->accounts[USK_ACCOUNT_SENTINEL]);
    is_valid &= usk_device_held_bytes(dev) <= dev->limit_bytes;
    usk_baton_give(dev->ctx);
    return is_valid;
}
