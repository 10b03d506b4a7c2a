/* SPDX-License-Identifier: Apache-2.0 */
/** Devices: a CUDA GPU through the driver API, or the host stand-in that behaves like one. */
#ifndef UNSTICK_DEVICE_H
#define UNSTICK_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/context.h>
#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_device;

/** Options of a device; zero-initialize and set `size` to sizeof. */
struct unstick_device_options {
    size_t size;            /**< sizeof(struct unstick_device_options) */
    uint64_t limit_bytes;   /**< the library never holds more than this on the device: a smaller card; 0: no limit */
    uint64_t granule_bytes; /**< unit of residency, a multiple of the device's granularity; 0: the device's default */
};

/** What a device is and what the library holds on it. The accounts count each physical granule once. */
struct unstick_device_info {
    size_t size;             /**< sizeof(struct unstick_device_info), set by the caller */
    char kind[16];           /**< "cuda" or "host" */
    char name[128];          /**< what the vendor calls it */
    char uuid[64];           /**< "GPU-...", or empty */
    int index;               /**< in the driver's order for this process, as torch and CUDA count; -1: no GPU */
    uint64_t total_bytes;    /**< the device's memory */
    uint64_t used_bytes;     /**< in use by anyone, as the device itself says */
    uint64_t limit_bytes;    /**< the limit in force; total_bytes if none was set */
    uint64_t granule_bytes;  /**< unit of residency */
    uint64_t resident_bytes; /**< account: under regions, with contents */
    uint64_t sentinel_bytes; /**< account: what lies under all evicted ranges */
    uint64_t spare_bytes;    /**< account: kept for hand-over */
    uint64_t poisoned_bytes; /**< account: could not be given back */
    bool can_hash;           /**< evictions copy only what changed */
    bool can_register_file;  /**< a mapped file can be copied from without a copy in host memory */
    bool is_lost;            /**< every call on it fails with UNSTICK_DEVICE_LOST */
};

/**
 * Opens a device. @param spec "cuda:N", "cuda:GPU-<uuid>", "cuda:MIG-<uuid>", "host:SIZE" (such as "host:2GiB"), or
 * "auto": the first GPU, else a host device of half of the memory that is available. @return UNSTICK_OK,
 * UNSTICK_NO_DEVICE, UNSTICK_DRIVER_TOO_OLD, UNSTICK_INVALID_ARGUMENT, or a failure of the driver.
 */
UNSTICK_EXPORT int unstick_device_open(struct unstick_context *ctx, const char *spec,
                                       const struct unstick_device_options *options, struct unstick_device **ret_dev,
                                       struct unstick_error *error);

/**
 * Closes a device. Its regions must have been freed. NULL is allowed. @return UNSTICK_OK, or UNSTICK_BUSY (nothing
 * changed) while a region or task is left.
 */
UNSTICK_EXPORT int unstick_device_close(struct unstick_device *dev, struct unstick_error *error);

/**
 * Reads the device and the accounts; one driver call. @return UNSTICK_OK, UNSTICK_DEVICE_LOST (accounts are still
 * written).
 */
UNSTICK_EXPORT int unstick_device_info(struct unstick_device *dev, struct unstick_device_info *info,
                                       struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
