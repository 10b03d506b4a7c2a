/* SPDX-License-Identifier: Apache-2.0 */
/* The functions marked [any], by four threads, beside one that holds the baton. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "conformance.h"

enum { N_THREADS = 4, N_ROUNDS = 60, BYTES = 64 * 1024 };

/* cmocka's checks belong to the main thread: a thread notes what went wrong first. */
struct worker {
    pthread_t thread;
    unsigned char *host;
    int status;
    struct unstick_error error;
};

static int worker_round(struct worker *worker)
{
    struct usk_device *dev = fixture.dev;
    uint64_t free_now, total, tickets[3];
    void *pinned;
    int r;

    r = dev->ops->memory_info(dev, &free_now, &total, &worker->error);
    if (r < 0)
        return r;
    for (unsigned int i = 0; i < 3; i++) {
        r = i % 2 ? dev->ops->fence_device(dev, &tickets[i], &worker->error)
                  : dev->ops->fence_stream(dev, NULL, &tickets[i], &worker->error);
        if (r < 0)
            return r;
    }
    usk_device_drop(dev, tickets[2]);
    for (unsigned int i = 0; i < 2; i++) {
        while ((r = usk_device_poll(dev, tickets[i], &worker->error)) == UNSTICK_PENDING)
            sched_yield();
        if (r < 0)
            return r;
    }
    if (dev->caps.can_register) {
        r = dev->ops->register_host(dev, worker->host, BYTES, 0, &worker->error);
        if (r < 0)
            return r;
        r = dev->ops->unregister_host(dev, worker->host, BYTES, &worker->error);
        if (r < 0)
            return r;
    }
    r = dev->ops->host_alloc(dev, BYTES, &pinned, &worker->error);
    if (r < 0)
        return r;
    memset(pinned, 1, BYTES);
    return dev->ops->host_free(dev, pinned, &worker->error);
}

static void *worker_run(void *userdata)
{
    struct worker *worker = userdata;

    for (unsigned int i = 0; i < N_ROUNDS && worker->status == UNSTICK_OK; i++)
        worker->status = worker_round(worker);
    return NULL;
}

static void test_any_thread(void **state)
{
    static const uint64_t n_units[] = { 1 };
    struct worker workers[N_THREADS] = { 0 };
    unsigned char up[256], down[256];

    (void)state;
    for (unsigned int i = 0; i < N_THREADS; i++) {
        workers[i].host = pages_new(BYTES);
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    }
    for (unsigned int round = 0; round < N_ROUNDS; round++) {
        struct memory memory;

        random_fill(up, sizeof(up));
        memory_new(&memory, 1, n_units);
        OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, up, sizeof(up), &fixture.error));
        OK(fixture.ops->order(fixture.dev, USK_LANE_DOWN, USK_LANE_UP, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, down, memory.address, sizeof(down), &fixture.error));
        lane_wait(USK_LANE_DOWN);
        assert_memory_equal(up, down, sizeof(up));
        memory_free(&memory);
    }
    for (unsigned int i = 0; i < N_THREADS; i++)
        pthread_join(workers[i].thread, NULL);
    for (unsigned int i = 0; i < N_THREADS; i++) {
        if (workers[i].status != UNSTICK_OK)
            fail_msg("thread %u: %s: %s", i, unstick_status_name(workers[i].status), workers[i].error.text);
        pages_free(workers[i].host, BYTES);
    }
}

/* A ticket that one thread drew may be used up by another. */
static void *ticket_poller(void *userdata)
{
    struct worker *worker = userdata;
    uint64_t *tickets = (uint64_t *)(void *)worker->host;

    for (unsigned int i = 0; i < N_ROUNDS && worker->status == UNSTICK_OK; i++) {
        while ((worker->status = usk_device_poll(fixture.dev, tickets[i], &worker->error)) == UNSTICK_PENDING)
            sched_yield();
    }
    return NULL;
}

static void test_tickets_change_threads(void **state)
{
    uint64_t tickets[N_THREADS][N_ROUNDS];
    struct worker workers[N_THREADS] = { 0 };

    (void)state;
    for (unsigned int i = 0; i < N_THREADS; i++) {
        for (unsigned int k = 0; k < N_ROUNDS; k++)
            OK(fixture.ops->mark(fixture.dev, (enum usk_lane)(k % USK_N_LANES), &tickets[i][k], &fixture.error));
        workers[i].host = (unsigned char *)tickets[i];
        assert_int_equal(pthread_create(&workers[i].thread, NULL, ticket_poller, &workers[i]), 0);
    }
    for (unsigned int i = 0; i < N_THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_int_equal(workers[i].status, UNSTICK_OK);
    }
}

int conformance_threads(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_thread),
        cmocka_unit_test(test_tickets_change_threads),
    };

    return conformance_run("threads", tests);
}
