/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Tasks move bytes and never block. A task is submitted, stepped to its end by whoever drives the context, and freed.
 *
 * After any failure or cancel every granule is in its old or its target state with valid contents: the region may be
 * partial, nothing is lost. A task that was not freed when it ended keeps its result; freeing a task that has not
 * ended cancels it and lets it end by itself.
 *
 * A region takes one task at a time; another one queues behind it in order of submission.
 */
#ifndef UNSTICK_TASK_H
#define UNSTICK_TASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/model.h>
#include <unstick/region.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_task;

/** Where a backup lives. */
enum unstick_tier {
    UNSTICK_TIER_AUTO = 0,     /**< file if the device can register files, else pinned; pageable where pinning fails */
    UNSTICK_TIER_PINNED = 1,   /**< registered host memory: the speed of the link */
    UNSTICK_TIER_PAGEABLE = 2, /**< plain host memory through a pinned ring */
    UNSTICK_TIER_FILE = 3,     /**< the model's own files: no host memory of ours */
};

/** What an eviction waits for before it takes memory away. */
enum unstick_fence {
    UNSTICK_FENCE_DEFAULT = 0, /**< the streams of ended leases; the whole device if the region was never leased */
    UNSTICK_FENCE_DEVICE = 1,  /**< all work submitted to the device by this process so far */
    UNSTICK_FENCE_NONE = 2,    /**< nothing: the caller knows that the region is idle */
};

/** Flags of unstick_task_options. */
enum unstick_task_flags {
    UNSTICK_TASK_VERIFY = 1u << 0,    /**< restore, load: hash what arrived and compare it with the backup */
    UNSTICK_TASK_HAND_OVER = 1u << 1, /**< evict: keep the physical memory for a task that names this one as a source */
};

/** Options common to all tasks; zero-initialize and set `size` to sizeof. NULL means the defaults. */
struct unstick_task_options {
    size_t size;                /**< sizeof(struct unstick_task_options) */
    unsigned int flags;         /**< enum unstick_task_flags */
    enum unstick_tier tier;     /**< load, backup, evict: where the backup goes */
    enum unstick_fence fence;   /**< evict */
    uint64_t max_bytes;         /**< evict: stop once this much was freed, last granules first; restore: once this much
                                     is back, first granules first; rounded up to granules; 0: everything */
    struct unstick_task **sources; /**< load, restore: evictions of the same context whose memory this task waits for
                                        and takes over */
    size_t n_sources;           /**< length of sources; read during the call only */
};

/** How a task ended, or how far it is. */
struct unstick_task_result {
    size_t size;             /**< sizeof(struct unstick_task_result), set by the caller */
    int status;              /**< UNSTICK_PENDING until it ends */
    struct unstick_error error; /**< why it failed */
    uint64_t total_bytes;    /**< bytes that the task set out to move or free */
    uint64_t done_bytes;     /**< bytes moved or freed so far */
    uint64_t copied_bytes;   /**< evict, backup: bytes copied because they had changed or had no backup */
    uint64_t missing_bytes;  /**< restore, load: how much device memory was short */
    enum unstick_tier tier;  /**< the tier that was really used for what was copied; AUTO if nothing was */
    bool has_mixed_tiers;    /**< the granules' backups are not all in the same tier */
    bool has_verified;       /**< every granule that arrived was hashed and matched */
    bool is_hash_missing;    /**< the device cannot hash: everything was copied */
    uint64_t stray_writes;   /**< restore: sentinels found written since the last check */
    uint64_t started_ns;     /**< first step, on the clock that step was given */
    uint64_t ended_ns;       /**< last step; 0 while pending */
};

/**
 * Loads the bytes that `layout` names from their files into an empty region, one granule after the other; gaps are
 * zeroed. On failure the region is empty again. @param layout read during the call only.
 * @return UNSTICK_OK and a task, or UNSTICK_INVALID_ARGUMENT, UNSTICK_REVOKED, UNSTICK_IO, UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_region_load(struct unstick_region *region, const struct unstick_layout *layout,
                                       const struct unstick_task_options *options, struct unstick_task **ret_task,
                                       struct unstick_error *error);

/** Copies what has no valid backup yet to the store, while the region stays resident and in use. */
UNSTICK_EXPORT int unstick_region_backup(struct unstick_region *region, const struct unstick_task_options *options,
                                         struct unstick_task **ret_task, struct unstick_error *error);

/**
 * Takes the region's memory away and keeps its contents: what changed since the backup is copied, the rest is not.
 * Waits for leases to end. From here to the task's end the caller must not launch work that uses the region, unless
 * it takes a lease first.
 */
UNSTICK_EXPORT int unstick_region_evict(struct unstick_region *region, const struct unstick_task_options *options,
                                        struct unstick_task **ret_task, struct unstick_error *error);

/**
 * Brings the region back to the same addresses, bit-identical. Granules that never had contents come back zeroed.
 * Out of device memory leaves what has not come back evicted and says how much is missing.
 */
UNSTICK_EXPORT int unstick_region_restore(struct unstick_region *region, const struct unstick_task_options *options,
                                          struct unstick_task **ret_task, struct unstick_error *error);

/** Drops contents and backups; the range stays and can be loaded or restored (as zeros) again. */
UNSTICK_EXPORT int unstick_region_discard(struct unstick_region *region, const struct unstick_task_options *options,
                                          struct unstick_task **ret_task, struct unstick_error *error);

/** Drops contents, backups and access for good, even while addresses of it are still held. */
UNSTICK_EXPORT int unstick_region_revoke(struct unstick_region *region, const struct unstick_task_options *options,
                                         struct unstick_task **ret_task, struct unstick_error *error);

/** Like revoke, without the fence of an eviction: the caller is done with the region. The last unref ends the range. */
UNSTICK_EXPORT int unstick_region_release(struct unstick_region *region, const struct unstick_task_options *options,
                                          struct unstick_task **ret_task, struct unstick_error *error);

/** Steps the task's context once, without blocking. @return the task's status. */
UNSTICK_EXPORT int unstick_task_step(struct unstick_task *task, uint64_t now_ns);

/** Blocks until the task ends, stepping its context. @return the task's status; the detail is in error. */
UNSTICK_EXPORT int unstick_task_wait(struct unstick_task *task, struct unstick_error *error);

/** Asks the task to end early. It ends with UNSTICK_CANCELED, or with UNSTICK_OK if that came first. */
UNSTICK_EXPORT void unstick_task_cancel(struct unstick_task *task);

/** Reads how far the task is, or how it ended. @return the task's status. */
UNSTICK_EXPORT int unstick_task_result(struct unstick_task *task, struct unstick_task_result *result);

/** Frees a task; one that has not ended is cancelled and ends by itself. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_task *unstick_task_free(struct unstick_task *task);

#ifdef __cplusplus
}
#endif

#endif
