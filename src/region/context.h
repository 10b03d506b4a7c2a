/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_REGION_CONTEXT_H
#define USK_REGION_CONTEXT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <unstick/context.h>

#include "base/log.h"
#include "base/worker.h"
#include "store/store.h"

struct unstick_device;
struct unstick_task;

/* A step, and the longest stretch in it from one call to the driver to the next. */
struct usk_longest_step {
    uint64_t ns, stretch_ns;
    const char *stretch;  /* what began it; NULL: no call was made */
    unsigned int n_calls; /* or groups of them that belong together */
};

/*
 * Two things order the threads of a context.
 *
 * The lock guards what many threads look at: the lists, lease counts, and the published figures of regions and tasks.
 * It is held for a few instructions, never over a driver call, a log line or another lock.
 *
 * The baton makes one thread at a time the one that changes mappings and submits work: a step, the making and ending of
 * a region, a blocking read. It is held over driver calls, but no query ever waits for it, and who holds it calls
 * nobody back. Granules, accounts, stores and everything marked [baton] in device.h belong to its holder.
 */
struct unstick_context {
    int pid; /* of the process that made it */
    pthread_mutex_t lock;
    pthread_cond_t baton_is_free;
    bool is_baton_taken;
    int event_fd;
    struct usk_log log;
    struct usk_pool *pool;
    struct usk_budget budget;

    struct unstick_device *devices;  /* lock */
    struct unstick_task *tasks;      /* lock: that have not ended, in order of submission */
    struct unstick_task **tasks_tail;
    unsigned int n_tasks;
    unsigned int n_steps;            /* lock: whose turn it is to be stepped first */

    atomic_uint_least64_t longest_step_ns;
    struct usk_longest_step longest_step; /* baton: the same one, and what it was made of */
    atomic_int next_timeout_ms;      /* what the last step found */

    pthread_t driver; /* lock */
    bool has_driver;
    atomic_bool is_ending;
};

/* True if this is a forked child; the caller returns UNSTICK_FORKED and touches nothing. */
bool usk_context_is_forked(const struct unstick_context *ctx);
int usk_context_fail_forked(struct unstick_error *error);

void usk_context_lock(struct unstick_context *ctx);
void usk_context_unlock(struct unstick_context *ctx);

void usk_baton_take(struct unstick_context *ctx);
bool usk_baton_try(struct unstick_context *ctx);
void usk_baton_give(struct unstick_context *ctx);

/* Wakes whoever waits for the context's fd: something changed that a step should see. */
void usk_context_wake(struct unstick_context *ctx);

#endif
