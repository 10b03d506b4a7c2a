/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_STALL_H
#define CLI_STALL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <unstick/status.h>

/*
 * What the machine itself keeps a thread waiting for: a thread that does nothing but sleep notes how much too late it
 * was woken at worst. Virtual machines stop for tens of milliseconds now and then; a step that was stopped looks long,
 * too.
 */
struct stall_watch {
    pthread_t thread;
    atomic_bool is_over;
    atomic_uint_least64_t longest_ns;
};

int stall_watch_start(struct stall_watch *watch, struct unstick_error *error);
/* Ends the thread. @return the longest time that it was late. */
uint64_t stall_watch_stop(struct stall_watch *watch);

#endif
