/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_HIBERNATE_TARGET_H
#define USK_HIBERNATE_TARGET_H

#include "base/cleanup.h"
#include "base/os.h"

/* The process that is to be hibernated or woken. */
struct usk_target {
    int pid;
    int watch_fd; /* polls readable once it has ended; -1: the system has no such thing */
    char name[32];
    bool has_memory; /* as long as it lives */
    bool is_in_our_cgroup;
};

/*
 * Takes a process that may be hibernated by this one: it lives, is no thread, not the caller's own, of the same user.
 */
int usk_target_open(int pid, struct usk_target *ret_target, struct unstick_error *error);
/* Allows a target that is zero or was closed. */
void usk_target_close(struct usk_target *target);

bool usk_target_has_ended(const struct usk_target *target);
/* True also while it is on its way out: for who was told by others that something is wrong with it. */
bool usk_target_is_ending(const struct usk_target *target);
int usk_target_fail_ended(const struct usk_target *target, const char *operation, struct unstick_error *error);

#define USK_TARGET(_name) USK_CLEANUP(usk_target_close) struct usk_target _name = { .watch_fd = -1 }

#endif
