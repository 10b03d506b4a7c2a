/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for all that we submitted, for those who may block and are about to take memory away that nothing else
 * guards: when a device closes, and when a copy of a reader failed half way. A device that was lost runs nothing.
 */
#include "region/device.h"

#include <time.h>

#include "store/store.h"

/* How often a device is asked that does not say whether its work is over. */
#define SETTLE_MAX_TRIES 16

static int settle_once(struct unstick_device *dev)
{
    const struct usk_device_ops *ops = dev->driver->ops;
    const struct timespec pause = { .tv_nsec = 20000 };
    uint64_t ticket;
    int r = UNSTICK_OK;

    for (int lane = 0; lane < USK_N_LANES && r == UNSTICK_OK; lane++) {
        if (lane != USK_LANE_HASH)
            r = ops->order(dev->driver, USK_LANE_HASH, (enum usk_lane)lane, NULL);
    }
    if (r == UNSTICK_OK)
        r = ops->mark(dev->driver, USK_LANE_HASH, &ticket, NULL);
    if (r < 0)
        return r;
    while ((r = usk_device_poll(dev->driver, ticket, NULL)) == UNSTICK_PENDING)
        nanosleep(&pause, NULL);
    return r;
}

bool usk_device_settle(struct unstick_device *dev)
{
    for (int i = 0; i < SETTLE_MAX_TRIES; i++) {
        int r = settle_once(dev);

        if (r == UNSTICK_OK || r == UNSTICK_DEVICE_LOST) {
            usk_store_abandon(dev->store, false);
            return true;
        }
    }
    usk_store_abandon(dev->store, true);
    if (!atomic_exchange(&dev->is_lost, true))
        usk_log_write(&dev->ctx->log, UNSTICK_LOG_ERROR,
                      "the driver does not say whether its copies are over: the device is given up as lost");
    return false;
}
