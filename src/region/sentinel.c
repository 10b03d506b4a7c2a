/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sentinel lies under every address that has no contents on the device, so that a stray kernel reads 0xFF (NaN, or
 * -1) where it would otherwise lose the CUDA context. It is mapped read-write: a kernel that writes to read-only memory
 * loses the context as well (facts of the driver), while a stray write to the sentinel changes nothing but its hash,
 * and the hash is looked at whenever a region returns.
 *
 * It is nearly all that stays on the device of a model that has left, so it is no longer than it has to be, and lies
 * under a longer granule several times. Half of it twice under each of 64 MiB would save 32 MiB and cost 10 ms for 17
 * GiB that leave: the driver takes 33 us to give access to a mapping, of whatever size, and 24 us to undo one (measured
 * on an H100, driver 580).
 */
#include "region/device.h"

#include <sched.h>

static int sentinel_wait(struct unstick_device *dev, enum usk_lane lane, struct unstick_error *error)
{
    uint64_t ticket;
    int r;

    r = dev->driver->ops->mark(dev->driver, lane, &ticket, error);
    if (r < 0)
        return r;
    while ((r = usk_device_poll(dev->driver, ticket, error)) == UNSTICK_PENDING)
        sched_yield();
    return r;
}

static uint64_t sentinel_bytes(const struct usk_sentinel *sentinel)
{
    return sentinel->physical->bytes;
}

static void sentinel_close_one(struct unstick_device *dev, struct usk_sentinel *sentinel)
{
    const struct usk_device_ops *ops = dev->driver->ops;
    uint64_t bytes;

    if (!sentinel->physical)
        return;
    bytes = sentinel_bytes(sentinel);
    /* Hashes and refills are submitted without anybody waiting for them. */
    if (!usk_device_settle(dev)) {
        usk_physical_poison(dev, sentinel->physical);
        *sentinel = (struct usk_sentinel){ 0 };
        return;
    }
    if (sentinel->address && ops->unmap(dev->driver, sentinel->address, bytes, NULL) == UNSTICK_OK)
        ops->unreserve(dev->driver, sentinel->address, bytes, NULL);
    usk_physical_unref(dev, sentinel->physical, false, NULL);
    *sentinel = (struct usk_sentinel){ 0 };
}

static int sentinel_open_one(struct unstick_device *dev, uint64_t bytes, struct usk_sentinel *ret_sentinel,
                             struct unstick_error *error)
{
    const struct usk_device_ops *ops = dev->driver->ops;
    struct usk_sentinel sentinel = { 0 };
    uint64_t address;
    int r;

    r = usk_physical_new(dev, bytes, USK_ACCOUNT_SENTINEL, &sentinel.physical, error);
    if (r < 0)
        return r;
    r = ops->reserve(dev->driver, bytes, dev->driver->caps.granularity_bytes, &address, error);
    if (r < 0)
        goto fail_reserve;
    r = ops->map(dev->driver, address, bytes, sentinel.physical->handle, error);
    if (r < 0)
        goto fail_map;
    sentinel.address = address;

    r = ops->fill(dev->driver, USK_LANE_HASH, address, USK_SENTINEL_BYTE, bytes, error);
    if (r == UNSTICK_OK && dev->driver->caps.can_hash)
        r = ops->hash(dev->driver, USK_LANE_HASH, address, bytes, 1, 0, error);
    if (r == UNSTICK_OK)
        r = sentinel_wait(dev, USK_LANE_HASH, error);
    if (r < 0)
        goto fail_map;
    sentinel.hash = dev->driver->caps.can_hash ? dev->driver->hash_results[0] : 0;
    *ret_sentinel = sentinel;
    return UNSTICK_OK;

fail_map:
    if (!sentinel.address)
        ops->unreserve(dev->driver, address, bytes, NULL);
fail_reserve:
    sentinel_close_one(dev, &sentinel);
    return r;
}

/* Half a granule, a quarter and so on, as long as it is too long and can be halved. */
static uint64_t sentinel_length(const struct unstick_device *dev)
{
    uint64_t bytes = dev->granule_bytes;

    while (bytes > USK_SENTINEL_BYTES && bytes % (2 * dev->driver->caps.granularity_bytes) == 0)
        bytes /= 2;
    return bytes;
}

int usk_sentinel_open(struct unstick_device *dev, struct unstick_error *error)
{
    int r;

    r = sentinel_open_one(dev, sentinel_length(dev), &dev->sentinel, error);
    if (r < 0 || dev->granule_bytes == dev->driver->caps.granularity_bytes)
        return r;
    return sentinel_open_one(dev, dev->driver->caps.granularity_bytes, &dev->sliver, error);
}

void usk_sentinel_close(struct unstick_device *dev)
{
    sentinel_close_one(dev, &dev->sentinel);
    sentinel_close_one(dev, &dev->sliver);
}

int usk_sentinel_map(struct unstick_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    const struct usk_sentinel *sentinel = bytes == dev->granule_bytes ? &dev->sentinel : &dev->sliver;

    return dev->driver->ops->map_repeated(dev->driver, address, bytes, sentinel->physical->handle,
                                          sentinel_bytes(sentinel), error);
}

int usk_sentinel_hash(struct unstick_device *dev, uint32_t slot, struct unstick_error *error)
{
    const struct usk_sentinel *both[] = { &dev->sentinel, &dev->sliver };

    for (uint32_t i = 0; i < 2 && both[i]->physical; i++) {
        int r = dev->driver->ops->hash(dev->driver, USK_LANE_HASH, both[i]->address, sentinel_bytes(both[i]), 1,
                                       slot + i, error);

        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

int usk_sentinel_check(struct unstick_device *dev, uint32_t slot, unsigned int *ret_n_written,
                       struct unstick_error *error)
{
    const struct usk_sentinel *both[] = { &dev->sentinel, &dev->sliver };
    unsigned int n_written = 0;

    for (uint32_t i = 0; i < 2 && both[i]->physical; i++) {
        int r;

        if (dev->driver->hash_results[slot + i] == both[i]->hash)
            continue;
        n_written++;
        r = dev->driver->ops->fill(dev->driver, USK_LANE_HASH, both[i]->address, USK_SENTINEL_BYTE,
                                   sentinel_bytes(both[i]), error);
        if (r < 0)
            return r;
    }
    *ret_n_written = n_written;
    return UNSTICK_OK;
}
