/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading and writing contents from host memory, wherever they are. Blocks, in chunks: the baton is held while one
 * chunk is submitted and given away while it is awaited. The region is held like a lease meanwhile, so nothing moves.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/math.h"
#include "region/region.h"

#define READ_CHUNK_BYTES (UINT64_C(8) << 20)

static int read_hold(struct unstick_region *region, uint64_t offset, uint64_t bytes, struct unstick_error *error)
{
    struct unstick_context *ctx = region->dev->ctx;
    uint64_t end, size;
    bool is_busy;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    usk_context_lock(ctx);
    size = region->bytes;
    /* A task that only waits for leases to end waits for this one, too. */
    is_busy = region->is_moving;
    if (!is_busy)
        region->n_leases++;
    usk_context_unlock(ctx);
    if (is_busy)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_region_read", "a task holds the region %s", region->name);
    if (usk_add(offset, bytes, &end) && end <= size)
        return UNSTICK_OK;
    usk_context_lock(ctx);
    region->n_leases--;
    usk_context_unlock(ctx);
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_region_read",
                         "%llu bytes at %llu are beyond the end of the region %s (%llu bytes)",
                         (unsigned long long)bytes, (unsigned long long)offset, region->name, (unsigned long long)size);
}

static void read_unhold(struct unstick_region *region)
{
    usk_context_lock(region->dev->ctx);
    region->n_leases--;
    usk_context_unlock(region->dev->ctx);
    usk_context_wake(region->dev->ctx);
}

static int read_wait(struct unstick_device *dev, uint64_t ticket, struct unstick_error *error)
{
    const struct timespec pause = { .tv_nsec = 20000 };
    int r;

    while ((r = usk_device_poll(dev->driver, ticket, error)) == UNSTICK_PENDING)
        nanosleep(&pause, NULL);
    return r;
}

/* The caller's buffer is his again when this returns, whatever it returns. */
static int read_finish(struct unstick_device *dev, uint64_t ticket, struct unstick_error *error)
{
    int r = read_wait(dev, ticket, error);

    if (r < 0) {
        usk_baton_take(dev->ctx);
        usk_device_settle(dev);
        usk_baton_give(dev->ctx);
    }
    return r;
}

/* [baton] Gets the bytes out of a blob. */
static int read_blob(struct unstick_region *region, const struct usk_blob *blob, uint64_t inner, void *buffer,
                     uint64_t bytes, struct unstick_error *error)
{
    uint64_t granule_bytes = usk_region_granule_bytes(region, blob->index);
    void *whole;
    int r;

    if (blob->tier != UNSTICK_TIER_FILE) {
        memcpy(buffer, (const char *)usk_arena_data(blob->arena, blob->index) + inner, bytes);
        return UNSTICK_OK;
    }
    r = usk_backing_check(blob->backing, error);
    if (r < 0)
        return r;
    whole = malloc(granule_bytes);
    if (!whole)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "no host memory to read the region %s",
                             region->name);
    r = usk_backing_read(blob->backing, blob->index, whole, granule_bytes, error);
    if (r == UNSTICK_OK)
        memcpy(buffer, (const char *)whole + inner, bytes);
    free(whole);
    return r;
}

static int read_fail_contents(const struct unstick_region *region, uint64_t offset, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_NO_CONTENTS, 0, "unstick_region_read", "the region %s has no contents at %llu",
                         region->name, (unsigned long long)offset);
}

/* One piece within one granule, as far as is known from where it is to be had. */
static int read_piece_once(struct unstick_region *region, uint64_t offset, void *buffer, uint64_t bytes,
                      struct unstick_error *error)
{
    struct unstick_device *dev = region->dev;
    struct usk_device *driver = dev->driver;
    const struct usk_granule *granule = &region->granules[offset / dev->granule_bytes];
    uint64_t inner = offset % dev->granule_bytes, ticket = 0;
    bool is_submitted = false;
    int r;

    usk_baton_take(dev->ctx);
    if (granule->place == USK_PLACE_RESIDENT && !atomic_load(&dev->is_lost)) {
        r = driver->ops->copy_down(driver, USK_LANE_DOWN, buffer, region->address + offset, bytes, error);
        if (r == UNSTICK_OK)
            r = driver->ops->mark(driver, USK_LANE_DOWN, &ticket, error);
        is_submitted = r == UNSTICK_OK;
        if (!is_submitted)
            usk_device_settle(dev);
    } else if (granule->blob && granule->blob->is_filled) {
        /* Evicted, or resident on a device that was lost: then the last backup is what is left. */
        r = read_blob(region, granule->blob, inner, buffer, bytes, error);
    } else if (granule->place == USK_PLACE_RESIDENT) {
        r = usk_error_set(error, UNSTICK_DEVICE_LOST, 0, "unstick_region_read",
                          "the device was lost with the only copy of these bytes of the region %s", region->name);
    } else {
        r = read_fail_contents(region, offset, error);
    }
    usk_baton_give(dev->ctx);
    return is_submitted ? read_finish(dev, ticket, error) : r;
}

static int read_piece(struct unstick_region *region, uint64_t offset, void *buffer, uint64_t bytes,
                      struct unstick_error *error)
{
    bool was_lost = atomic_load(&region->dev->is_lost);
    int r = read_piece_once(region, offset, buffer, bytes, error);

    /* Whoever else has found that out meanwhile. */
    if (r == UNSTICK_DEVICE_LOST && !was_lost) {
        atomic_store(&region->dev->is_lost, true);
        r = read_piece_once(region, offset, buffer, bytes, error);
    }
    return r;
}

static int write_piece(struct unstick_region *region, uint64_t offset, const void *buffer, uint64_t bytes,
                       struct unstick_error *error)
{
    struct unstick_device *dev = region->dev;
    struct usk_device *driver = dev->driver;
    uint64_t ticket = 0;
    bool is_submitted = false;
    int r;

    usk_baton_take(dev->ctx);
    if (region->granules[offset / dev->granule_bytes].place != USK_PLACE_RESIDENT) {
        r = usk_error_set(error, UNSTICK_NOT_RESIDENT, 0, "unstick_region_write",
                          "the region %s is not on the device; restore it first", region->name);
    } else {
        r = driver->ops->copy_up(driver, USK_LANE_UP, region->address + offset, buffer, bytes, error);
        if (r == UNSTICK_OK)
            r = driver->ops->mark(driver, USK_LANE_UP, &ticket, error);
        is_submitted = r == UNSTICK_OK;
        if (!is_submitted)
            usk_device_settle(dev);
    }
    usk_baton_give(dev->ctx);
    return is_submitted ? read_finish(dev, ticket, error) : r;
}

/* The part of [offset, offset + bytes) that lies in one granule, and in one chunk. */
static uint64_t read_piece_bytes(const struct unstick_region *region, uint64_t offset, uint64_t bytes)
{
    uint64_t granule_bytes = region->dev->granule_bytes;

    return usk_min(bytes, usk_min(granule_bytes - offset % granule_bytes, READ_CHUNK_BYTES));
}

/* Granule by granule and chunk by chunk; from `from` into the region, or without it to `to`. */
static int read_pieces(struct unstick_region *region, uint64_t offset, char *to, const char *from, uint64_t bytes,
                       struct unstick_error *error)
{
    int r = read_hold(region, offset, bytes, error);

    if (r < 0)
        return r;
    for (uint64_t at = 0, n; at < bytes && r == UNSTICK_OK; at += n) {
        n = read_piece_bytes(region, offset + at, bytes - at);
        r = from ? write_piece(region, offset + at, from + at, n, error)
                 : read_piece(region, offset + at, to + at, n, error);
    }
    if (r == UNSTICK_DEVICE_LOST)
        atomic_store(&region->dev->is_lost, true);
    read_unhold(region);
    return r;
}

int unstick_region_read(struct unstick_region *region, uint64_t offset, void *buffer, size_t bytes,
                        struct unstick_error *error)
{
    return read_pieces(region, offset, buffer, NULL, bytes, error);
}

int unstick_region_write(struct unstick_region *region, uint64_t offset, const void *buffer, size_t bytes,
                         struct unstick_error *error)
{
    return read_pieces(region, offset, NULL, buffer, bytes, error);
}
