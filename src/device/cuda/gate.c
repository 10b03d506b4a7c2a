/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who has to wait for whom, so that no call of a step waits for long.
 *
 * The driver holds one lock over a registration, 1.3 ms for 64 MiB and more while memory is touched for the first time,
 * and its lock is not fair: threads that register without a pause keep every other call out for as long as they have
 * work (a copy was submitted after 180 ms; driver 580). So one thread registers at a time; a burst of our own calls
 * goes first, and none of them meets a registration; and now and then the gate stays closed for as long as it takes to
 * wake a thread of the host program that waits for the driver.
 *
 * The system holds a lock over the address space while a page is touched for the first time, and the driver needs that
 * lock to map: beside four threads that touch huge pages a map took 8 to 13 ms, beside none 2 (measured on an H100,
 * Linux 6.18, driver 580). So no page is touched during a burst, either. Any number of threads page at once.
 */
#include "device/cuda/gate.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#include "base/clock.h"
#include "base/os.h"

/* A thread is awake after about 50 us. */
#define GATE_PAUSE_US 60
#define GATE_PER_PAUSE 4
/* How long the gate is kept for who wanted it and was told to come again. */
#define GATE_KEPT_NS (2 * USK_NS_PER_MS)

enum gate_holder {
    GATE_NOBODY = 0,
    GATE_BURST,
    GATE_REGISTRATION,
};

/* Both locks are the process's, so this is, too. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t has_changed;
    enum gate_holder holder;
    unsigned int n_paging;
    uint64_t kept_until_ns; /* for a burst; 0: nobody wants one, UINT64_MAX: who does is yet to be called */
    int wanted_fd;          /* to be signalled for it */
    unsigned int n_passed;  /* registrations, by who has the gate */
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .has_changed = PTHREAD_COND_INITIALIZER, .wanted_fd = -1 };

/* Under the lock: a burst that was told to come again is called, if nothing is in its way any more. */
static void gate_call_burst(void)
{
    if (gate.kept_until_ns == UINT64_MAX && gate.holder == GATE_NOBODY && !gate.n_paging) {
        gate.kept_until_ns = usk_clock_now_ns() + GATE_KEPT_NS;
        usk_os_event_signal(gate.wanted_fd);
    }
}

/* Under the lock. */
static bool gate_is_kept(void)
{
    return gate.kept_until_ns && usk_clock_now_ns() < gate.kept_until_ns;
}

/* Under the lock: waits for a change; what is kept is so for a short while only, and nobody says when that ends. */
static void gate_wait(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)GATE_KEPT_NS;
    until.tv_sec += until.tv_nsec / (long)USK_NS_PER_S;
    until.tv_nsec %= (long)USK_NS_PER_S;
    pthread_cond_timedwait(&gate.has_changed, &gate.lock, &until);
}

static void gate_give(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.holder = GATE_NOBODY;
    gate_call_burst();
    pthread_cond_broadcast(&gate.has_changed);
    pthread_mutex_unlock(&gate.lock);
}

bool usk_cuda_gate_begin_burst(int event_fd)
{
    bool is_free;

    pthread_mutex_lock(&gate.lock);
    is_free = gate.holder == GATE_NOBODY && !gate.n_paging;
    if (is_free) {
        gate.holder = GATE_BURST;
        gate.kept_until_ns = 0;
    } else {
        gate.kept_until_ns = UINT64_MAX;
        gate.wanted_fd = event_fd;
    }
    pthread_mutex_unlock(&gate.lock);
    return is_free;
}

void usk_cuda_gate_end_burst(void)
{
    gate_give();
}

void usk_cuda_gate_begin_paging(void)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.holder == GATE_BURST || gate_is_kept())
        gate_wait();
    gate.n_paging++;
    pthread_mutex_unlock(&gate.lock);
}

void usk_cuda_gate_end_paging(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.n_paging--;
    gate_call_burst();
    pthread_mutex_unlock(&gate.lock);
}

void usk_cuda_gate_forget(int event_fd)
{
    pthread_mutex_lock(&gate.lock);
    if (gate.kept_until_ns == UINT64_MAX && gate.wanted_fd == event_fd) {
        gate.kept_until_ns = 0;
        gate.wanted_fd = -1;
        pthread_cond_broadcast(&gate.has_changed);
    }
    pthread_mutex_unlock(&gate.lock);
}

void usk_cuda_gate_enter(void)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.holder != GATE_NOBODY || gate_is_kept())
        gate_wait();
    gate.holder = GATE_REGISTRATION;
    gate.kept_until_ns = 0;
    pthread_mutex_unlock(&gate.lock);
}

void usk_cuda_gate_leave(void)
{
    if (++gate.n_passed % GATE_PER_PAUSE == 0)
        usk_os_pause_us(GATE_PAUSE_US);
    gate_give();
}
