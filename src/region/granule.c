/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies under one granule's address. Each of the two moves is an unmap and a map; between them the address is
 * bare, and a driver that fails there (or asks to be asked again) leaves it so. A bare granule is a state like any
 * other: its contents are where `place` says, only a stray access would not be caught.
 */
#include "region/region.h"

#include "base/error.h"

static int granule_make_bare(struct unstick_region *region, uint32_t index, struct unstick_error *error)
{
    struct usk_granule *granule = &region->granules[index];
    int r;

    if (granule->is_bare)
        return UNSTICK_OK;
    r = region->dev->driver->ops->unmap(region->dev->driver, usk_region_granule_address(region, index),
                                        usk_region_granule_bytes(region, index), error);
    if (r == UNSTICK_OK)
        granule->is_bare = true;
    return r;
}

static int granule_cover(struct unstick_region *region, uint32_t index, struct unstick_error *error)
{
    int r = usk_sentinel_map(region->dev, usk_region_granule_address(region, index),
                             usk_region_granule_bytes(region, index), error);

    if (r == UNSTICK_OK)
        region->granules[index].is_bare = false;
    return r;
}

static int granule_map(struct unstick_region *region, uint32_t index, const struct usk_physical *physical,
                       struct unstick_error *error)
{
    int r = region->dev->driver->ops->map(region->dev->driver, usk_region_granule_address(region, index),
                                          physical->bytes, physical->handle, error);

    if (r == UNSTICK_OK)
        region->granules[index].is_bare = false;
    return r;
}

int usk_granule_bring(struct unstick_region *region, uint32_t index, struct usk_physical *physical,
                      struct unstick_error *error)
{
    int r;

    r = granule_make_bare(region, index, error);
    if (r < 0)
        return r;
    r = granule_map(region, index, physical, error);
    if (r == UNSTICK_OK) {
        region->granules[index].physical = physical;
        return UNSTICK_OK;
    }
    /* Whether it is to be tried again or not, nobody should find a hole meanwhile. */
    granule_cover(region, index, NULL);
    return r;
}

int usk_granule_give_up(struct unstick_region *region, uint32_t index, struct unstick_error *error)
{
    struct usk_granule *granule = &region->granules[index];
    struct usk_physical *physical = granule->physical;

    if (granule_map(region, index, physical, NULL) == UNSTICK_OK)
        return usk_error_set(error, UNSTICK_BUSY, 0, "map", "the driver kept asking to try again later");
    granule->physical = NULL;
    usk_physical_unref(region->dev, physical, false, NULL);
    return UNSTICK_OK;
}

int usk_granule_take(struct unstick_region *region, uint32_t index, bool to_spare, struct unstick_error *error)
{
    struct usk_granule *granule = &region->granules[index];
    struct usk_physical *physical = granule->physical;
    int r;

    r = granule_make_bare(region, index, error);
    if (r < 0)
        return r;
    r = granule_cover(region, index, error);
    if (r == UNSTICK_BUSY)
        return r;
    if (r < 0 && granule_map(region, index, physical, NULL) == UNSTICK_OK)
        return r;
    granule->physical = NULL;
    /* What the driver does not take back is counted as poisoned there; the granule itself is fine. */
    usk_physical_unref(region->dev, physical, to_spare, NULL);
    return UNSTICK_OK;
}
