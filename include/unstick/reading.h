/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Readings: what is known of one device's memory at one moment, and who holds it.
 *
 * A reading is plain data. The library fills in what it can see (the driver, its own accounts, other processes); what
 * only the host program knows (torch's statistics) the host adds. A source that is missing is not guessed: its bit in
 * `sources` stays clear, and whatever would have to be derived from it is reported as unknown.
 */
#ifndef UNSTICK_READING_H
#define UNSTICK_READING_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where the figures of a reading come from; bits of unstick_reading.sources. */
enum unstick_source {
    UNSTICK_SOURCE_DRIVER = 1u << 0,    /**< total_bytes and free_bytes */
    UNSTICK_SOURCE_ACCOUNTS = 1u << 1,  /**< resident_bytes to poisoned_bytes, limit_bytes */
    UNSTICK_SOURCE_TORCH = 1u << 2,     /**< the torch_ figures */
    UNSTICK_SOURCE_PROCESSES = 1u << 3, /**< processes and own_process_bytes; absent on WSL2, vGPU and in containers */
    UNSTICK_SOURCE_CONTEXT = 1u << 4,   /**< context_bytes */
};

/** Another process on the device. */
struct unstick_process {
    int pid;        /**< as seen from here */
    char name[32];  /**< "?" if the process cannot be seen from here */
    uint64_t bytes; /**< what it holds on the device; 0: unknown */
};

/** One device's memory at one moment; zero-initialize, set `size` to sizeof, set the bit of each source. */
struct unstick_reading {
    size_t size;                    /**< sizeof(struct unstick_reading) */
    unsigned int sources;           /**< enum unstick_source, or-ed */
    uint64_t taken_ns;              /**< when, on the monotonic clock of the caller */
    uint64_t total_bytes;           /**< the device's memory */
    uint64_t free_bytes;            /**< free for anyone, as the driver says */
    uint64_t limit_bytes;           /**< most that the library may hold; 0: no limit */
    uint64_t resident_bytes;        /**< our account: under regions */
    uint64_t sentinel_bytes;        /**< our account: under evicted ranges */
    uint64_t spare_bytes;           /**< our account: kept for hand-over */
    uint64_t poisoned_bytes;        /**< our account: could not be given back */
    uint64_t torch_allocated_bytes; /**< memory_stats()["allocated_bytes.all.current"] */
    uint64_t torch_reserved_bytes;  /**< memory_stats()["reserved_bytes.all.current"] */
    uint64_t torch_active_bytes;    /**< memory_stats()["active_bytes.all.current"] */
    uint64_t torch_inactive_split_bytes; /**< memory_stats()["inactive_split_bytes.all.current"] */
    uint64_t context_bytes;         /**< this process's CUDA context with its libraries, measured when it was made */
    uint64_t own_process_bytes;     /**< this process as the driver's per-process list counts it; 0: not listed */
    const struct unstick_process *processes; /**< the other processes on the device; the caller's array */
    size_t n_processes;             /**< length of processes */
};

/** The largest holder of what is in use: the short answer to "cache empty, memory high". */
enum unstick_holder {
    UNSTICK_HOLDER_NONE = 0,     /**< next to nothing is in use */
    UNSTICK_HOLDER_OURS,         /**< regions of this library */
    UNSTICK_HOLDER_TORCH_LIVE,   /**< tensors that somebody in this process still references */
    UNSTICK_HOLDER_TORCH_CACHED, /**< wholly free segments of torch's allocator: empty_cache() gives them back */
    UNSTICK_HOLDER_TORCH_PINNED, /**< free parts of segments in which a survivor lives: nothing gives them back */
    UNSTICK_HOLDER_PROCESSES,    /**< other processes */
    UNSTICK_HOLDER_CONTEXT,      /**< the CUDA context and its libraries */
    UNSTICK_HOLDER_UNEXPLAINED,  /**< none of these */
};

/** Who holds what is in use on a device. Figures that would need a missing source are 0 and named in `missing`. */
struct unstick_attribution {
    size_t size;                  /**< sizeof(struct unstick_attribution), set by the caller */
    uint64_t used_bytes;          /**< total - free, as the driver says */
    uint64_t ours_bytes;          /**< the sum of our accounts */
    uint64_t torch_live_bytes;    /**< torch active */
    uint64_t torch_cached_bytes;  /**< torch reserved - active - inactive_split */
    uint64_t torch_pinned_bytes;  /**< torch inactive_split */
    uint64_t others_bytes;        /**< the sum over other processes */
    uint64_t context_bytes;       /**< this process's context; without its source: what own_process_bytes leaves */
    int64_t unexplained_bytes;    /**< used less all of the above; negative when a source counts late or twice */
    unsigned int missing;         /**< enum unstick_source: what was not known */
    enum unstick_holder largest;  /**< who holds most */
    char text[448];               /**< the same in one line of English, naming the largest processes */
};

/** The name of a holder, such as "torch-live"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_holder_name(enum unstick_holder holder);

/**
 * Attributes what is in use to who holds it. Pure: no clock, no memory, no driver; any thread.
 * @param attribution size set by the caller; the rest is written. @return UNSTICK_OK or UNSTICK_INVALID_ARGUMENT.
 */
UNSTICK_EXPORT int unstick_attribute(const struct unstick_reading *reading, struct unstick_attribution *attribution);

#ifdef __cplusplus
}
#endif

#endif
