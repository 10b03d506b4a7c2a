/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who may be hibernated. The driver takes a number and asks little: root reaches everybody's processes, and the number
 * of a thread works as well and leaves its process in a state of which nothing good is known. So it is asked here, and
 * answered before the driver hears of it. The descriptor is taken before anything is read, so that all that is read is
 * of the process that is watched.
 *
 * A process that is killed is asked about while it goes: the driver notices its end before the system calls it one.
 */
#include "hibernate/target.h"

#include <stdio.h>

#include "base/error.h"

static int target_check(const struct usk_target *target, const struct usk_os_process *process,
                        struct unstick_error *error)
{
    unsigned int user = usk_os_user();
    int pid = target->pid;

    if (usk_target_has_ended(target))
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "unstick_hibernate", "process %d (%s) has ended", pid,
                             process->name);
    if (process->leader != pid)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_hibernate",
                             "%d is a thread of process %d (%s); give %d", pid, process->leader, process->name,
                             process->leader);
    for (size_t i = 0; i < sizeof(process->users) / sizeof(process->users[0]); i++) {
        if (process->users[i] != user)
            return usk_error_set(error, UNSTICK_NOT_PERMITTED, 0, "unstick_hibernate",
                                 "process %d (%s) belongs to user %u, and this is user %u; ask as that user", pid,
                                 process->name, process->users[i], user);
    }
    return UNSTICK_OK;
}

int usk_target_open(int pid, struct usk_target *ret_target, struct unstick_error *error)
{
    USK_TARGET(target);
    struct usk_os_process process;
    int r;

    if (pid <= 0)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_hibernate", "%d is no number of a process",
                             pid);
    if (pid == usk_os_pid())
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_hibernate",
                             "a process cannot hibernate itself: it could not wake itself; ask from another one");
    target.pid = pid;
    target.watch_fd = usk_os_process_watch(pid);
    r = usk_os_process_read(pid, &process, error);
    if (r == UNSTICK_OK)
        r = target_check(&target, &process, error);
    if (r < 0)
        return r;
    snprintf(target.name, sizeof(target.name), "%s", process.name);
    target.is_in_our_cgroup = process.is_in_our_cgroup;
    target.has_memory = process.has_memory;
    *ret_target = target;
    target.watch_fd = -1;
    return UNSTICK_OK;
}

void usk_target_close(struct usk_target *target)
{
    usk_os_close(target->watch_fd);
    target->watch_fd = -1;
}

bool usk_target_has_ended(const struct usk_target *target)
{
    struct usk_os_process process;

    if (usk_os_process_has_ended(target->pid, target->watch_fd))
        return true;
    return target->watch_fd < 0 && (usk_os_process_read(target->pid, &process, NULL) < 0 || process.has_ended);
}

bool usk_target_is_ending(const struct usk_target *target)
{
    struct usk_os_process process;

    if (usk_target_has_ended(target) || usk_os_process_read(target->pid, &process, NULL) < 0)
        return true;
    return target->has_memory && !process.has_memory;
}

int usk_target_fail_ended(const struct usk_target *target, const char *operation, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_NOT_FOUND, 0, operation,
                         "process %d (%s) ended meanwhile; what it held on the GPUs is free", target->pid,
                         target->name);
}
