/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up backups that nothing depends on: what is resident is its own contents, as long as there is a device. Its
 * next eviction has to copy it out, which is less than what others lose that have their only copy in host memory.
 */
#include "base/math.h"
#include "region/region.h"

uint64_t usk_region_forget_backups(struct unstick_region *region)
{
    struct unstick_context *ctx = region->dev->ctx;
    uint64_t bytes = 0;
    bool is_held;

    usk_baton_take(ctx);
    usk_context_lock(ctx);
    is_held = region->holder || region->is_keeping || atomic_load(&region->dev->is_lost);
    usk_context_unlock(ctx);
    for (uint32_t i = 0; i < region->n_reserved && !is_held; i++) {
        struct usk_granule *granule = &region->granules[i];

        /* Files cost no host memory of ours. */
        if (granule->place != USK_PLACE_RESIDENT || !granule->blob || !granule->blob->arena)
            continue;
        usk_blob_unref(granule->blob);
        granule->blob = NULL;
        bytes += usk_region_granule_bytes(region, i);
    }
    if (bytes) {
        usk_region_trim(region);
        usk_region_publish(region);
    }
    usk_baton_give(ctx);
    return bytes;
}
