/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_CUDA_H
#define USK_DEVICE_CUDA_CUDA_H

#include "device/device.h"

/* What the CUDA driver says about itself and its devices. Nothing here creates a context or takes device memory. */

struct usk_cuda_info {
    int driver_version;       /* such as 13000 for CUDA 13.0 */
    unsigned int n_devices;   /* those that CUDA_VISIBLE_DEVICES leaves */
    bool can_record_context;  /* cuCtxRecordEvent (12.5): a fence behind everything without a thread */
    bool can_checkpoint;      /* cuCheckpointProcess* (driver 570) */
};

struct usk_cuda_device_info {
    char name[128];
    char uuid[64];            /* "GPU-..." or "MIG-..." */
    char pci[32];             /* "0000:1a:00.0", as in /sys/bus/pci/devices; empty if unknown */
    uint64_t total_bytes;
    int numa_node;            /* -1: unknown, or the system has one node only */
    int compute_major, compute_minor;
    int n_multiprocessors;
    int compute_mode;         /* 0: default, 2: prohibited, 3: one process only */
    bool is_integrated;       /* its memory is the host's */
    bool can_map;             /* virtual memory management, without which we cannot work */
    bool can_register;        /* host memory can be registered */
    bool can_register_file;   /* and so can read-only mappings of files */
};

/* UNSTICK_NO_DEVICE: there is no driver; UNSTICK_DRIVER_TOO_OLD. A driver without devices is fine. */
int usk_cuda_info(struct usk_cuda_info *ret_info, struct unstick_error *error);
int usk_cuda_device_info(unsigned int ordinal, struct usk_cuda_device_info *ret_info, struct unstick_error *error);

/*
 * usk_cuda_open() with a table of functions of the caller's making, which outlives the device: tests make calls fail.
 */
struct usk_cuda_driver;
int usk_cuda_open_with(const struct usk_cuda_driver *driver, const char *which, int event_fd,
                       const struct usk_log *log, struct usk_device **ret_dev, struct unstick_error *error);

#endif
