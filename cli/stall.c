/* SPDX-License-Identifier: Apache-2.0 */
/* A sleeper that is alone: what it is late by is the machine's doing. */
#include "stall.h"

#include "base/clock.h"
#include "base/os.h"

#define STALL_SLEEP_US 500

static void *stall_run(void *userdata)
{
    struct stall_watch *watch = userdata;

    while (!atomic_load(&watch->is_over)) {
        uint64_t due_ns = usk_clock_now_ns() + STALL_SLEEP_US * (USK_NS_PER_MS / 1000), now_ns;

        usk_os_pause_us(STALL_SLEEP_US);
        now_ns = usk_clock_now_ns();
        if (now_ns > due_ns && now_ns - due_ns > atomic_load(&watch->longest_ns))
            atomic_store(&watch->longest_ns, now_ns - due_ns);
    }
    return NULL;
}

int stall_watch_start(struct stall_watch *watch, struct unstick_error *error)
{
    atomic_init(&watch->is_over, false);
    atomic_init(&watch->longest_ns, 0);
    return usk_os_thread_new(&watch->thread, stall_run, watch, "unstick-stall", error);
}

uint64_t stall_watch_stop(struct stall_watch *watch)
{
    atomic_store(&watch->is_over, true);
    pthread_join(watch->thread, NULL);
    return atomic_load(&watch->longest_ns);
}
