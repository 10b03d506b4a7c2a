/* SPDX-License-Identifier: Apache-2.0 */
/* Slots for the results of hashes, a bit each. A run never crosses a word, which keeps the search to one mask. */
#include "region/device.h"

static uint64_t slots_mask(uint32_t n)
{
    return n == 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

bool usk_slots_take(struct unstick_device *dev, uint32_t n, uint32_t *ret_slot)
{
    uint64_t mask = slots_mask(n);

    for (uint32_t word = 0; word < dev->driver->caps.n_hash_slots / 64; word++) {
        for (uint32_t bit = 0; bit + n <= 64; bit++) {
            if (!(dev->hash_slots[word] & (mask << bit))) {
                dev->hash_slots[word] |= mask << bit;
                *ret_slot = word * 64 + bit;
                return true;
            }
        }
    }
    return false;
}

void usk_slots_give(struct unstick_device *dev, uint32_t slot, uint32_t n)
{
    dev->hash_slots[slot / 64] &= ~(slots_mask(n) << (slot % 64));
}
