/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One queue, one lock, one condition for "there is work" and one for "a job is over". Jobs are coarse (milliseconds),
 * so the lock is never the bottleneck. A job's state is atomic on top of that, so that polling takes no lock.
 */
#include "base/worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/os.h"

struct usk_pool {
    pthread_mutex_t lock;
    pthread_cond_t has_work;
    pthread_cond_t has_ended;
    struct usk_job *head;
    struct usk_job **tail;
    bool is_stopping;
    int event_fd;
    unsigned int n_threads;
    pthread_t threads[];
};

static void job_set_state(struct usk_job *job, enum usk_job_state state)
{
    atomic_store_explicit(&job->state, (int)state, memory_order_release);
}

static struct usk_job *pool_pop(struct usk_pool *pool)
{
    struct usk_job *job = pool->head;

    if (job) {
        pool->head = job->next;
        if (!pool->head)
            pool->tail = &pool->head;
        job->next = NULL;
    }
    return job;
}

static void *pool_thread(void *userdata)
{
    struct usk_pool *pool = userdata;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct usk_job *job;

        while (!pool->is_stopping && !pool->head)
            pthread_cond_wait(&pool->has_work, &pool->lock);
        if (pool->is_stopping)
            break;
        job = pool_pop(pool);
        job_set_state(job, USK_JOB_RUNNING);
        pthread_mutex_unlock(&pool->lock);

        job->run(job);

        pthread_mutex_lock(&pool->lock);
        /* From here on the job may be gone: whoever polls it owns it again. */
        job_set_state(job, USK_JOB_DONE);
        pthread_cond_broadcast(&pool->has_ended);
        usk_os_event_signal(pool->event_fd);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int usk_pool_new(unsigned int n_threads, int event_fd, struct usk_pool **ret_pool, struct unstick_error *error)
{
    struct usk_pool *pool;

    pool = calloc(1, sizeof(*pool) + n_threads * sizeof(pool->threads[0]));
    if (!pool)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a pool of threads");
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->has_work, NULL);
    pthread_cond_init(&pool->has_ended, NULL);
    pool->tail = &pool->head;
    pool->event_fd = event_fd;

    for (; pool->n_threads < n_threads; pool->n_threads++) {
        int r = usk_os_thread_new(&pool->threads[pool->n_threads], pool_thread, pool, "unstick-worker", error);

        if (r < 0) {
            usk_pool_free(pool);
            return r;
        }
    }
    *ret_pool = pool;
    return UNSTICK_OK;
}

void usk_pool_free(struct usk_pool *pool)
{
    struct usk_job *job;

    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->is_stopping = true;
    while ((job = pool_pop(pool)))
        job_set_state(job, USK_JOB_DROPPED);
    pthread_cond_broadcast(&pool->has_work);
    pthread_cond_broadcast(&pool->has_ended);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned int i = 0; i < pool->n_threads; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->has_ended);
    pthread_cond_destroy(&pool->has_work);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

void usk_pool_submit(struct usk_pool *pool, struct usk_job *job)
{
    pthread_mutex_lock(&pool->lock);
    job->next = NULL;
    if (pool->is_stopping) {
        job_set_state(job, USK_JOB_DROPPED);
    } else {
        job_set_state(job, USK_JOB_QUEUED);
        *pool->tail = job;
        pool->tail = &job->next;
        pthread_cond_signal(&pool->has_work);
    }
    pthread_mutex_unlock(&pool->lock);
}

void usk_pool_wait(struct usk_pool *pool, struct usk_job *job)
{
    pthread_mutex_lock(&pool->lock);
    while (!usk_job_is_over(job))
        pthread_cond_wait(&pool->has_ended, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

unsigned int usk_pool_threads(const struct usk_pool *pool)
{
    return pool->n_threads;
}
