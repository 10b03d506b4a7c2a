/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Metrics in Prometheus' text format (version 0.0.4), written from plain structs into a buffer of the caller's: no
 * server, no registry, no memory of its own. Whoever has the figures fills the structs and serves the text.
 */
#ifndef UNSTICK_METRICS_H
#define UNSTICK_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/context.h>
#include <unstick/export.h>
#include <unstick/monitor.h>
#include <unstick/reading.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What is timed; each is a histogram unstick_<name>_seconds. */
enum unstick_timing {
    UNSTICK_TIMING_LOAD = 0, /**< unstick_load_seconds: a model from its files */
    UNSTICK_TIMING_EVICT,    /**< unstick_evict_seconds */
    UNSTICK_TIMING_RESTORE,  /**< unstick_restore_seconds */
    UNSTICK_TIMING_RECLAIM,  /**< unstick_reclaim_seconds: rounds and waits */
    UNSTICK_TIMING_DECIDE,   /**< unstick_decide_seconds: a complete check */
    UNSTICK_N_TIMINGS,       /**< how many there are */
};

/** Buckets of a histogram, the one without a bound included. */
#define UNSTICK_HISTOGRAM_BUCKETS 20

/** How long things took: counts per bucket, from 10 us to 60 s. Zero-initialize. */
struct unstick_histogram {
    uint64_t counts[UNSTICK_HISTOGRAM_BUCKETS]; /**< per bucket, not cumulated */
    uint64_t sum_ns;                            /**< of all of them */
};

/** Counts one that took `ns`. Not thread-safe. */
UNSTICK_EXPORT void unstick_histogram_add(struct unstick_histogram *histogram, uint64_t ns);

/** One device, for unstick_device_bytes and unstick_device_process_bytes. */
struct unstick_metrics_device {
    const char *name;                      /**< the value of the label `device`, such as "cuda:0" */
    const struct unstick_reading *reading; /**< only what its sources cover is written */
};

/** The bytes of one component in one tier, for unstick_model_bytes; each triple once. */
struct unstick_metrics_model {
    const char *model;     /**< the cache key */
    const char *component; /**< such as "transformer" */
    const char *tier;      /**< "device", "pinned", "pageable", "file" */
    uint64_t bytes;        /**< there now */
};

/** What has happened since the start. */
struct unstick_metrics_counts {
    uint64_t n_hits;          /**< unstick_hits_total: requests for what was resident */
    uint64_t n_loads;         /**< unstick_loads_total */
    uint64_t n_evictions;     /**< unstick_evictions_total */
    uint64_t n_restores;      /**< unstick_restores_total */
    uint64_t n_failures;      /**< unstick_failures_total: requests that failed */
    uint64_t n_stray_writes;  /**< unstick_stray_writes_total: writes to what was evicted */
    uint64_t up_bytes;        /**< unstick_copied_bytes_total{direction="up"}: to the device */
    uint64_t down_bytes;      /**< unstick_copied_bytes_total{direction="down"} */
    uint64_t reclaimed_bytes; /**< unstick_reclaimed_bytes_total: given back by steps of reclaim */
};

/** Everything that is written; what is NULL or 0 long is left out. Zero-initialize, set `size` to sizeof. */
struct unstick_metrics {
    size_t size;                                                /**< sizeof(struct unstick_metrics) */
    const struct unstick_metrics_device *devices;               /**< one per device */
    size_t n_devices;                                           /**< length of devices */
    const struct unstick_metrics_model *models;                 /**< one per model, component and tier */
    size_t n_models;                                            /**< length of models */
    const struct unstick_context_info *host;                    /**< unstick_host_bytes */
    const struct unstick_system_reading *system;                /**< unstick_system_memory_bytes and the cgroup's */
    const struct unstick_metrics_counts *counts;                /**< the _total families */
    const struct unstick_histogram *timings[UNSTICK_N_TIMINGS]; /**< by enum unstick_timing */
};

/**
 * Writes the metrics. Pure; any thread. Labels are escaped; bytes that are not UTF-8 become U+FFFD.
 * @param buffer may be NULL if buffer_bytes is 0. @param ret_length what the text takes, without its end. If it is not
 * below buffer_bytes the buffer holds "" (half a line would be an error of format): call again with more.
 * @return UNSTICK_OK or UNSTICK_INVALID_ARGUMENT.
 */
UNSTICK_EXPORT int unstick_metrics_write(const struct unstick_metrics *metrics, char *buffer, size_t buffer_bytes,
                                         size_t *ret_length);

#ifdef __cplusplus
}
#endif

#endif
