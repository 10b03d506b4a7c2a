/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Monitoring: readings of a device, of its processes and of the machine. Each reads what is there now; nothing is
 * sampled in the background. What cannot be read is left out, never guessed.
 */
#ifndef UNSTICK_MONITOR_H
#define UNSTICK_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/device.h>
#include <unstick/export.h>
#include <unstick/reading.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Knows who else uses the devices: holds the driver's management library (NVML) open. One thread at a time. */
struct unstick_monitor;

/**
 * Makes a monitor. Without NVML (WSL2, containers without the utility capability) it is made all the same, and knows
 * no processes. @param ret_monitor written on success; unstick_monitor_free() it. @return UNSTICK_OK or
 * UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_monitor_new(struct unstick_monitor **ret_monitor, struct unstick_error *error);

/** Frees a monitor. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_monitor *unstick_monitor_free(struct unstick_monitor *monitor);

/**
 * Reads a device: the driver's figures, our accounts, and with a monitor the other processes. One driver call and two
 * of NVML. What only the host knows (torch's statistics, the context's size) the host adds, with its source's bit.
 * @param monitor NULL: without processes; a host device has none. @param now_ns for taken_ns; 0: the library's own
 * monotonic clock. @param reading size set by the caller; its processes belong to the monitor and live until it is used
 * again or freed. @return UNSTICK_OK; UNSTICK_DEVICE_LOST (the accounts are still written);
 * UNSTICK_INVALID_ARGUMENT, UNSTICK_FORKED or another failure of the driver (nothing is written).
 */
UNSTICK_EXPORT int unstick_device_reading(struct unstick_device *dev, struct unstick_monitor *monitor, uint64_t now_ns,
                                          struct unstick_reading *reading, struct unstick_error *error);

/** A GPU that this process may use; the caller sets size of the first. */
struct unstick_gpu {
    size_t size;          /**< sizeof(struct unstick_gpu) */
    int index;            /**< in the driver's order for this process: "cuda:N" */
    char name[128];       /**< what the vendor calls it */
    char uuid[64];        /**< "GPU-..." or "MIG-...": tells equal ones apart, and lasts */
    uint64_t total_bytes; /**< its memory */
    uint64_t free_bytes;  /**< of which nobody uses; counts if has_free */
    bool has_free;        /**< NVML knows */
};

/**
 * Lists the GPUs that CUDA_VISIBLE_DEVICES leaves, without a context on any of them: nothing is opened, no memory is
 * taken, and the current device stays the current one. @param monitor NULL: without free_bytes. @param gpus may be NULL
 * if max is 0. @param ret_n how many there are, also if that is more than max; 0 without a driver.
 * @return UNSTICK_OK, UNSTICK_DRIVER_TOO_OLD, UNSTICK_INVALID_ARGUMENT, or a failure of the driver.
 */
UNSTICK_EXPORT int unstick_gpus_list(struct unstick_monitor *monitor, struct unstick_gpu *gpus, size_t max,
                                     size_t *ret_n, struct unstick_error *error);

/** The machine's memory at one moment. */
struct unstick_system_reading {
    size_t size;                 /**< sizeof(struct unstick_system_reading), set by the caller */
    uint64_t total_bytes;        /**< MemTotal */
    uint64_t available_bytes;    /**< MemAvailable */
    uint64_t cgroup_limit_bytes; /**< lowest memory.max of this process's cgroups (version 2); 0: none */
    uint64_t cgroup_used_bytes;  /**< in use of that one, without file pages it can drop; 0 if there is no limit */
    uint64_t process_bytes;      /**< resident memory of this process */
};

/** Reads the machine's memory; a few small files. Any thread. @return UNSTICK_OK, UNSTICK_UNSUPPORTED (no /proc),
 * UNSTICK_INVALID_ARGUMENT. */
UNSTICK_EXPORT int unstick_system_read(struct unstick_system_reading *reading, struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
