/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other processes, on Linux. A number names a process only while it lives and may name another one afterwards, so a
 * process is watched through a descriptor (kernel 5.3). The number of a thread has an entry in /proc too, which looks
 * like that of a process: status says whose it is. A process that was killed first loses its memory, then its files, of
 * which others hear, and only then it has ended.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/os.h"

static bool process_file_read(const char *pid, const char *name, char *text, size_t size)
{
    char path[64];
    size_t length;

    snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
    return usk_os_text_read(path, text, size, &length) && length > 0;
}

/* What follows "\nName:" and its blanks, or an empty text. */
static const char *process_field(const char *status, const char *name)
{
    const char *at = strstr(status, name);

    return at ? at + strlen(name) + strspn(at + strlen(name), " \t") : "";
}

static void process_name_read(const char *pid, char *name, size_t size)
{
    if (!process_file_read(pid, "comm", name, size))
        snprintf(name, size, "?");
    name[strcspn(name, "\n")] = '\0';
    for (char *at = name; *at; at++) {
        if (!isprint((unsigned char)*at))
            *at = '?';
    }
}

static bool process_is_in_our_cgroup(const char *pid)
{
    char theirs[1024], ours[1024];

    return process_file_read(pid, "cgroup", theirs, sizeof(theirs)) &&
           process_file_read("self", "cgroup", ours, sizeof(ours)) && !strcmp(theirs, ours);
}

int usk_os_process_read(int pid, struct usk_os_process *ret_process, struct unstick_error *error)
{
    struct usk_os_process process = { .leader = pid };
    char number[16], status[2048], state;
    unsigned int *users = process.users;

    snprintf(number, sizeof(number), "%d", pid);
    if (pid <= 0 || !process_file_read(number, "status", status, sizeof(status)))
        return usk_error_set(error, UNSTICK_NOT_FOUND, ESRCH, "/proc/PID/status", "there is no process %d", pid);
    state = *process_field(status, "\nState:");
    process.has_ended = state == 'Z' || state == 'X';
    process.has_memory = *process_field(status, "\nVmSize:");
    process.leader = (int)strtol(process_field(status, "\nTgid:"), NULL, 10);
    if (sscanf(process_field(status, "\nUid:"), "%u %u %u", &users[0], &users[1], &users[2]) != 3)
        return usk_error_set(error, UNSTICK_IO, 0, "/proc/PID/status", "cannot read whose process %d is", pid);
    process_name_read(number, process.name, sizeof(process.name));
    process.is_in_our_cgroup = process_is_in_our_cgroup(number);
    *ret_process = process;
    return UNSTICK_OK;
}

int usk_os_process_watch(int pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

bool usk_os_process_has_ended(int pid, int fd)
{
    struct pollfd watched = { .fd = fd, .events = POLLIN };

    if (fd >= 0)
        return poll(&watched, 1, 0) > 0;
    return kill(pid, 0) < 0 && errno == ESRCH;
}

unsigned int usk_os_user(void)
{
    return (unsigned int)geteuid();
}
