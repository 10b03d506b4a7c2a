/* SPDX-License-Identifier: Apache-2.0 */
/**
 * The context: what everything else hangs off. Two contexts share nothing.
 *
 * Threads: every function may be called from any thread, unless it says otherwise. Work is advanced by whoever calls
 * unstick_context_step(), unstick_task_step() or unstick_task_wait(), or by the optional driver thread; one of them at
 * a time, the others find that there is nothing to do. Nothing here calls back into the host but the log sink, and
 * that never under a lock.
 *
 * Fork: in a forked child every call returns UNSTICK_FORKED and nothing is freed.
 */
#ifndef UNSTICK_CONTEXT_H
#define UNSTICK_CONTEXT_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_context;

/** How much the log says; each level includes the ones above it. */
enum unstick_log_level {
    UNSTICK_LOG_ERROR = 0,
    UNSTICK_LOG_WARNING = 1,
    UNSTICK_LOG_INFO = 2,
    UNSTICK_LOG_DEBUG = 3,
};

/** Receives one line without a newline. May be called from any thread, also a library-owned one; must not call back. */
typedef void (*unstick_log_fn)(void *userdata, enum unstick_log_level level, const char *line);

/** Options of a context; zero-initialize and set `size` to sizeof. */
struct unstick_context_options {
    size_t size;                     /**< sizeof(struct unstick_context_options) */
    uint64_t host_bytes;             /**< most host memory that backups may take; 0: from MemAvailable and the cgroup */
    unsigned int n_threads;          /**< worker threads for file reads and pinning, 1 to 64; 0: the library chooses */
    enum unstick_log_level log_level; /**< lines above this level are dropped */
    unstick_log_fn log;              /**< NULL: no log */
    void *log_userdata;              /**< handed to log */
};

/** What the context holds in host memory. */
struct unstick_context_info {
    size_t size;                  /**< sizeof(struct unstick_context_info), set by the caller */
    uint64_t host_limit_bytes;    /**< the budget in force */
    uint64_t host_pinned_bytes;   /**< registered host memory that holds backups */
    uint64_t host_pageable_bytes; /**< pageable host memory that holds backups */
    uint64_t host_file_bytes;     /**< bytes of model files that are registered with a device */
    uint64_t host_ring_bytes;     /**< staging memory */
    uint64_t longest_step_ns;     /**< the longest step so far */
    unsigned int n_tasks;         /**< tasks that have not ended */
};

/**
 * Makes a context. @param options may be NULL for the defaults. @param ret_ctx written on success only; release with
 * unstick_context_free(). @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT or UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_context_new(const struct unstick_context_options *options, struct unstick_context **ret_ctx,
                                       struct unstick_error *error);

/** Ends all work, closes what is still open and frees the context. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_context *unstick_context_free(struct unstick_context *ctx);

/** Reads what the context holds. @return UNSTICK_OK or UNSTICK_INVALID_ARGUMENT. */
UNSTICK_EXPORT int unstick_context_info(struct unstick_context *ctx, struct unstick_context_info *info);

/**
 * Does a bounded bit of work on every task and returns; never blocks. @param now_ns a monotonic clock; 0: the
 * library's own. @return UNSTICK_OK if no task is left, UNSTICK_PENDING if there is work in progress, UNSTICK_FORKED.
 */
UNSTICK_EXPORT int unstick_context_step(struct unstick_context *ctx, uint64_t now_ns);

/** Milliseconds after which step should be called even if the fd stays silent; -1: no need, 0: at once. */
UNSTICK_EXPORT int unstick_context_timeout_ms(struct unstick_context *ctx);

/** A descriptor that becomes readable when step has something to do. Owned by the context: poll it, nothing else. */
UNSTICK_EXPORT int unstick_context_fd(struct unstick_context *ctx);

/**
 * Starts a library-owned thread that steps until the context is freed, for hosts without a loop; a second call
 * changes nothing. @return UNSTICK_OK or UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_context_start_driver(struct unstick_context *ctx, struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
