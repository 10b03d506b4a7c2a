/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_WORKER_H
#define USK_BASE_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>

#include <unstick/status.h>

/*
 * A pool of library-owned threads for what may block: reading files, touching and registering memory. All signals are
 * blocked in them. A job is embedded in what it works for; who submits it polls for the end and must keep it alive
 * until then.
 */
struct usk_pool;

struct usk_job {
    void (*run)(struct usk_job *job);  /* on a pool thread */
    atomic_int state;                  /* enum usk_job_state */
    struct usk_job *next;
};

enum usk_job_state {
    USK_JOB_IDLE = 0, /* never submitted, or reset by usk_job_reset() */
    USK_JOB_QUEUED,
    USK_JOB_RUNNING,
    USK_JOB_DONE,     /* ran; what it wrote is visible to who saw this */
    USK_JOB_DROPPED,  /* the pool was stopped before it ran */
};

/* Makes a pool of n_threads (1 to 64). event_fd, an eventfd or -1, is signalled after each job. */
int usk_pool_new(unsigned int n_threads, int event_fd, struct usk_pool **ret_pool, struct unstick_error *error);

/* Drops what is queued, waits for what runs, ends the threads. NULL is allowed. */
void usk_pool_free(struct usk_pool *pool);

/* Queues an idle job; first in, first out. Cannot fail. */
void usk_pool_submit(struct usk_pool *pool, struct usk_job *job);

/* Blocks until the job is done or dropped; an idle job returns at once. */
void usk_pool_wait(struct usk_pool *pool, struct usk_job *job);

unsigned int usk_pool_threads(const struct usk_pool *pool);

/* True once the job will not run any more (done or dropped), or was never submitted. */
static inline bool usk_job_is_over(struct usk_job *job)
{
    int state = atomic_load_explicit(&job->state, memory_order_acquire);

    return state != USK_JOB_QUEUED && state != USK_JOB_RUNNING;
}

/* Makes a job that is over submittable again. */
static inline void usk_job_reset(struct usk_job *job)
{
    atomic_store_explicit(&job->state, USK_JOB_IDLE, memory_order_relaxed);
}

#endif
