/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readings of the system. Each one may be missing (a container hides files, a kernel is built without a
 * feature), and a reading that is missing is left out, never guessed; only what every Linux has is an error.
 * All files are looked up below `root`, so that tests bring their own.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "base/error.h"
#include "base/os.h"
#include "base/size.h"
#include "monitor/monitor.h"

/* The first `size` - 1 bytes of a small file, without the line's end; false if there is none. */
static bool file_read(const char *root, const char *path, char *text, size_t size)
{
    char full[512];
    size_t length;

    snprintf(full, sizeof(full), "%s%s", root, path);
    if (!usk_os_text_read(full, text, size, &length))
        return false;
    while (length && text[length - 1] == '\n')
        text[--length] = 0;
    return true;
}

static bool file_exists(const char *root, const char *path)
{
    char text[8];

    return file_read(root, path, text, sizeof(text));
}

/* "always [madvise] never": the word in brackets. */
static void huge_pages_read(const char *root, char *setting, size_t size)
{
    char text[128];
    char *word, *end;

    if (!file_read(root, "/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof(text)))
        return;
    word = strchr(text, '[');
    end = word ? strchr(word, ']') : NULL;
    if (end)
        snprintf(setting, size, "%.*s", (int)(end - word - 1), word + 1);
}

static void os_read(const char *root, char *name, size_t size)
{
    char text[2048];
    char *value, *end;

    snprintf(name, size, "Linux");
    if (!file_read(root, "/etc/os-release", text, sizeof(text)))
        return;
    value = strstr(text, "PRETTY_NAME=");
    if (!value)
        return;
    value += strlen("PRETTY_NAME=");
    value += *value == '"';
    end = value + strcspn(value, "\"\n");
    snprintf(name, size, "%.*s", (int)(end - value), value);
}

int usk_system_read(const char *root, struct usk_system *ret_system, struct unstick_error *error)
{
    struct usk_system system = { .memlock_bytes = UINT64_MAX };
    struct rlimit memlock;
    struct utsname names;
    char text[256];
    cpu_set_t cpus;

    if (uname(&names) < 0)
        return usk_error_errno(error, errno, "uname", "cannot read the kernel's name");
    snprintf(system.kernel, sizeof(system.kernel), "%s", names.release);
    if (file_read(root, "/proc/sys/kernel/osrelease", text, sizeof(text)))
        snprintf(system.kernel, sizeof(system.kernel), "%.95s", text);
    snprintf(system.machine, sizeof(system.machine), "%.31s", names.machine);
    os_read(root, system.os, sizeof(system.os));
    huge_pages_read(root, system.huge_pages, sizeof(system.huge_pages));
    system.has_cgroup_v2 = file_exists(root, "/sys/fs/cgroup/cgroup.controllers");
    system.is_wsl = strcasestr(system.kernel, "microsoft");
    system.is_container = file_exists(root, "/.dockerenv") || file_exists(root, "/run/.containerenv");
    system.n_cpus = 1;
    /* Fails on machines with more processors than the set has room for; those have enough. */
    if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
        system.n_cpus = (unsigned int)CPU_COUNT(&cpus);
    if (getrlimit(RLIMIT_MEMLOCK, &memlock) == 0 && memlock.rlim_cur != RLIM_INFINITY)
        system.memlock_bytes = memlock.rlim_cur;
    *ret_system = system;
    return UNSTICK_OK;
}

static int holder_compare(const void *a_pointer, const void *b_pointer)
{
    const struct usk_holder *a = a_pointer, *b = b_pointer;

    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    return (a->pid > b->pid) - (a->pid < b->pid);
}

void usk_holders_sort(struct usk_holder *holders, size_t n_holders)
{
    qsort(holders, n_holders, sizeof(*holders), holder_compare);
}

const char *usk_holders_format(char *text, size_t size, const struct usk_holder *holders, size_t n_holders,
                               size_t most)
{
    size_t length = 0;

    text[0] = 0;
    for (size_t i = 0; i < n_holders && length < size; i++) {
        char bytes[USK_SIZE_TEXT_MAX];

        if (i == most) {
            snprintf(text + length, size - length, " and %zu more", n_holders - most);
            break;
        }
        length += (size_t)snprintf(
            text + length, size - length, "%s%s (pid %d) %s", i ? ", " : "", holders[i].name, holders[i].pid,
            holders[i].bytes ? usk_size_format(bytes, holders[i].bytes) : "an unknown amount");
    }
    return text;
}

void usk_holder_name(const char *root, struct usk_holder *holder)
{
    char path[64], text[32];

    snprintf(holder->name, sizeof(holder->name), "?");
    snprintf(path, sizeof(path), "/proc/%d/comm", holder->pid);
    if (!file_read(root, path, text, sizeof(text)) || !text[0])
        return;
    /* Any process may give itself any name; it goes to a terminal. */
    for (char *p = text; *p; p++) {
        if (!isprint((unsigned char)*p))
            *p = '?';
    }
    snprintf(holder->name, sizeof(holder->name), "%s", text);
}

/* Adds to the largest ones, in any order; n is how many there are. */
static size_t holders_keep(struct usk_holder *holders, size_t n, const struct usk_holder *holder)
{
    size_t smallest = 0;

    if (n < USK_HOLDERS_MAX) {
        holders[n] = *holder;
        return n + 1;
    }
    for (size_t i = 1; i < n; i++) {
        if (holders[i].bytes < holders[smallest].bytes)
            smallest = i;
    }
    if (holder->bytes > holders[smallest].bytes)
        holders[smallest] = *holder;
    return n;
}

int usk_system_holders(const char *root, struct usk_holder holders[USK_HOLDERS_MAX], size_t *ret_n,
                       struct unstick_error *error)
{
    unsigned long long pages;
    struct dirent *entry;
    char path[512], text[128];
    size_t n = 0;
    DIR *folder;

    snprintf(path, sizeof(path), "%s/proc", root);
    folder = opendir(path);
    if (!folder)
        return usk_error_errno(error, errno, "opendir", "cannot list the processes in %s", path);
    while ((entry = readdir(folder))) {
        struct usk_holder holder = { .pid = atoi(entry->d_name) };

        if (!isdigit((unsigned char)entry->d_name[0]) || holder.pid == usk_os_pid())
            continue;
        /* A process may end between any two lines of this; kernel threads have no memory. */
        snprintf(path, sizeof(path), "/proc/%d/statm", holder.pid);
        if (!file_read(root, path, text, sizeof(text)) || sscanf(text, "%*u %llu", &pages) != 1 || !pages)
            continue;
        holder.bytes = pages * usk_os_page_bytes();
        usk_holder_name(root, &holder);
        n = holders_keep(holders, n, &holder);
    }
    closedir(folder);
    usk_holders_sort(holders, n);
    *ret_n = n;
    return UNSTICK_OK;
}

uint64_t usk_system_process_bytes(const char *root)
{
    unsigned long long pages;
    char text[128];

    if (!file_read(root, "/proc/self/statm", text, sizeof(text)) || sscanf(text, "%*u %llu", &pages) != 1)
        return 0;
    return pages * usk_os_page_bytes();
}

int unstick_system_read(struct unstick_system_reading *reading, struct unstick_error *error)
{
    struct usk_os_memory memory;
    int r;

    if (!reading || reading->size < sizeof(*reading))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_system_read", "reading->size is not set");
    r = usk_os_memory(&memory, error);
    if (r < 0)
        return r;
    *reading = (struct unstick_system_reading) {
        .size = reading->size,
        .total_bytes = memory.total_bytes,
        .available_bytes = memory.available_bytes,
        .process_bytes = usk_system_process_bytes(""),
    };
    if (memory.cgroup_limit_bytes != UINT64_MAX) {
        reading->cgroup_limit_bytes = memory.cgroup_limit_bytes;
        reading->cgroup_used_bytes = memory.cgroup_used_bytes;
    }
    return UNSTICK_OK;
}
