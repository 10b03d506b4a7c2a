/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical memory and its accounts. Every object is in exactly one account from the moment the driver handed it out
 * until the driver took it back, so the sum of the accounts is what we hold; memory that the driver refuses to take
 * back stays in the sum, as poisoned, and is never counted as free.
 */
#include "region/device.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/math.h"
#include "base/size.h"

static void account_move(struct unstick_device *dev, struct usk_physical *physical, enum usk_account to)
{
    atomic_fetch_sub(&dev->accounts[physical->account], physical->bytes);
    atomic_fetch_add(&dev->accounts[to], physical->bytes);
    physical->account = to;
}

uint64_t usk_device_held_bytes(struct unstick_device *dev)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < USK_N_ACCOUNTS; i++)
        sum += atomic_load(&dev->accounts[i]);
    return sum;
}

uint64_t usk_device_room_bytes(struct unstick_device *dev)
{
    uint64_t held = usk_device_held_bytes(dev), room, free_bytes, total_bytes;

    room = dev->limit_bytes - usk_min(held, dev->limit_bytes);
    if (dev->driver->ops->memory_info(dev->driver, &free_bytes, &total_bytes, NULL) == UNSTICK_OK)
        room = usk_min(room, free_bytes);
    return room + atomic_load(&dev->accounts[USK_ACCOUNT_SPARE]);
}

static int physical_fail_limit(struct unstick_device *dev, uint64_t bytes, struct unstick_error *error)
{
    uint64_t held = usk_device_held_bytes(dev), room = dev->limit_bytes - usk_min(held, dev->limit_bytes);
    char asked[USK_SIZE_TEXT_MAX], limit[USK_SIZE_TEXT_MAX], ours[USK_SIZE_TEXT_MAX];

    usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "limit_bytes",
                  "%s more would exceed the limit of %s on this device, %s of which are held; evict something or "
                  "raise the limit",
                  usk_size_format(asked, bytes), usk_size_format(limit, dev->limit_bytes), usk_size_format(ours, held));
    usk_error_shortage(error, bytes, room);
    return UNSTICK_OUT_OF_DEVICE_MEMORY;
}

int usk_physical_new(struct unstick_device *dev, uint64_t bytes, enum usk_account account,
                     struct usk_physical **ret_physical, struct unstick_error *error)
{
    uint64_t after;
    struct usk_physical *physical;
    int r;

    if (!usk_add(usk_device_held_bytes(dev), bytes, &after) || after > dev->limit_bytes)
        return physical_fail_limit(dev, bytes, error);
    physical = calloc(1, sizeof(*physical));
    if (!physical)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to describe a granule");
    r = dev->driver->ops->create(dev->driver, bytes, &physical->handle, error);
    if (r < 0) {
        free(physical);
        return r;
    }
    physical->n_refs = 1;
    physical->bytes = bytes;
    physical->account = account;
    atomic_fetch_add(&dev->accounts[account], bytes);
    *ret_physical = physical;
    return UNSTICK_OK;
}

bool usk_physical_is_at_hand(struct unstick_device *dev, uint64_t bytes)
{
    uint64_t claimed = atomic_load(&dev->claimed_bytes), wanted;

    return !claimed || (usk_add(claimed, bytes, &wanted) && wanted <= usk_device_room_bytes(dev));
}

int usk_physical_acquire(struct unstick_device *dev, uint64_t bytes, struct usk_physical **ret_physical,
                         struct unstick_error *error)
{
    struct usk_physical *spare = dev->spares;
    int r;

    if (spare && spare->bytes == bytes) {
        dev->spares = spare->next;
        spare->next = NULL;
        spare->n_refs = 1;
        account_move(dev, spare, USK_ACCOUNT_RESIDENT);
        *ret_physical = spare;
        return UNSTICK_OK;
    }
    r = usk_physical_new(dev, bytes, USK_ACCOUNT_RESIDENT, ret_physical, error);
    if (r == UNSTICK_OUT_OF_DEVICE_MEMORY && dev->spares) {
        /* A shorter last granule finds no spare of its size, but one in the way. */
        usk_physical_drain(dev, 1);
        r = usk_physical_new(dev, bytes, USK_ACCOUNT_RESIDENT, ret_physical, error);
    }
    return r;
}

struct usk_physical *usk_physical_ref(struct usk_physical *physical)
{
    physical->n_refs++;
    return physical;
}

void usk_physical_poison(struct unstick_device *dev, struct usk_physical *physical)
{
    account_move(dev, physical, USK_ACCOUNT_POISONED);
    free(physical);
}

int usk_physical_unref(struct unstick_device *dev, struct usk_physical *physical, bool to_spare,
                       struct unstick_error *error)
{
    int r;

    if (--physical->n_refs)
        return UNSTICK_OK;
    if (to_spare && physical->bytes == dev->granule_bytes) {
        account_move(dev, physical, USK_ACCOUNT_SPARE);
        physical->next = dev->spares;
        dev->spares = physical;
        return UNSTICK_OK;
    }
    r = dev->driver->ops->release(dev->driver, physical->handle, error);
    if (r < 0) {
        usk_physical_poison(dev, physical);
        return r;
    }
    atomic_fetch_sub(&dev->accounts[physical->account], physical->bytes);
    free(physical);
    return UNSTICK_OK;
}

bool usk_physical_drain(struct unstick_device *dev, unsigned int n)
{
    while (n-- && dev->spares) {
        struct usk_physical *spare = dev->spares;

        dev->spares = spare->next;
        spare->n_refs = 1;
        /* A failure has been counted as poisoned; there is nobody to return it to. */
        usk_physical_unref(dev, spare, false, NULL);
    }
    return dev->spares;
}
