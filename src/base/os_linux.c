/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linux. Two things are worth knowing. A memfd is backed by fallocate before it is mapped: a page that cannot be had
 * is an error there, and a SIGBUS at the first touch otherwise. And memory that a device may write to is never
 * inherited by a fork (MADV_DONTFORK): copy-on-write would give the parent new pages under a running copy.
 */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"

/* From the kernel's own headers, for C libraries that are older than the kernel. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define OS_MPOL_PREFERRED 1

uint64_t usk_os_page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

unsigned int usk_os_n_cpus(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n > 0 ? (unsigned int)n : 1;
}

int usk_os_pid(void)
{
    return (int)getpid();
}

bool usk_os_is_forked(int pid)
{
    return getpid() != pid;
}

int usk_os_event_new(int *ret_fd, struct unstick_error *error)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return usk_error_errno(error, errno, "eventfd", "cannot make an event descriptor");
    *ret_fd = fd;
    return UNSTICK_OK;
}

void usk_os_event_signal(int fd)
{
    uint64_t one = 1;

    /* Can only fail when the counter is full, and then the descriptor is readable anyway. */
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        return;
}

void usk_os_event_drain(int fd)
{
    uint64_t count;

    /* Nothing to read is fine: the descriptor does not block. */
    if (fd >= 0 && read(fd, &count, sizeof(count)) < 0)
        return;
}

bool usk_os_event_wait(int fd, int timeout_ms)
{
    struct pollfd pollfd = { .fd = fd, .events = POLLIN };

    return poll(&pollfd, 1, timeout_ms) > 0;
}

void usk_os_pause_us(unsigned int us)
{
    struct timespec left = { .tv_sec = us / 1000000, .tv_nsec = (long)(us % 1000000) * 1000 };

    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR) {
    }
}

int usk_os_thread_new(pthread_t *ret_thread, void *(*run)(void *), void *userdata, const char *name,
                      struct unstick_error *error)
{
    sigset_t all, before;
    pthread_t thread;
    int r;

    /* A thread inherits the mask, so that no signal of the host is ever taken by a thread of ours. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&thread, NULL, run, userdata);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, r, "pthread_create",
                             "cannot start the thread %s", name);
    pthread_setname_np(thread, name);
    *ret_thread = thread;
    return UNSTICK_OK;
}

int usk_os_shm_new(const char *name, uint64_t bytes, int *ret_fd, struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd < 0)
        return usk_error_errno(error, errno, "memfd_create", "cannot make shared memory");
    if (ftruncate(fd, (off_t)bytes) < 0)
        return usk_error_errno(error, errno, "ftruncate", "cannot size shared memory to %llu bytes",
                               (unsigned long long)bytes);
    *ret_fd = fd;
    fd = -1;
    return UNSTICK_OK;
}

int usk_os_shm_fill(int fd, uint64_t offset, uint64_t bytes, struct unstick_error *error)
{
    int r;

    do {
        r = fallocate(fd, 0, (off_t)offset, (off_t)bytes);
    } while (r < 0 && errno == EINTR);
    if (r < 0)
        return usk_error_errno(error, errno, "fallocate", "cannot back %llu bytes with memory",
                               (unsigned long long)bytes);
    return UNSTICK_OK;
}

int usk_os_shm_punch(int fd, uint64_t offset, uint64_t bytes, struct unstick_error *error)
{
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes) < 0)
        return usk_error_errno(error, errno, "fallocate", "cannot give %llu bytes back", (unsigned long long)bytes);
    return UNSTICK_OK;
}

int usk_os_shm_backed(int fd, uint64_t *ret_bytes, struct unstick_error *error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return usk_error_errno(error, errno, "fstat", "cannot read the size of shared memory");
    *ret_bytes = (uint64_t)st.st_blocks * 512;
    return UNSTICK_OK;
}

void usk_os_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

int usk_os_reserve(uint64_t bytes, uint64_t align, void **ret_address, struct unstick_error *error)
{
    uint64_t padded, aligned;
    char *raw;

    if (!usk_add(bytes, align, &padded) || padded > (uint64_t)PTRDIFF_MAX)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "mmap",
                             "cannot reserve %llu bytes of addresses", (unsigned long long)bytes);
    raw = mmap(NULL, padded, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot reserve %llu bytes of addresses",
                               (unsigned long long)bytes);

    /* Cut off what the alignment does not need. */
    usk_align_up((uint64_t)(uintptr_t)raw, align, &aligned);
    if (aligned > (uintptr_t)raw)
        munmap(raw, aligned - (uintptr_t)raw);
    if (aligned + bytes < (uintptr_t)raw + padded)
        munmap((void *)(uintptr_t)(aligned + bytes), (uintptr_t)raw + padded - (aligned + bytes));
    *ret_address = (void *)(uintptr_t)aligned;
    return UNSTICK_OK;
}

int usk_os_map_shm(void *address, uint64_t bytes, int fd, uint64_t offset, bool is_writable,
                   struct unstick_error *error)
{
    int protection = is_writable ? PROT_READ | PROT_WRITE : PROT_READ;

    if (mmap(address, bytes, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot map %llu bytes of shared memory",
                               (unsigned long long)bytes);
    /* A refusal only means that a child sees the mapping; it must not use it in any case. */
    madvise(address, bytes, MADV_DONTFORK);
    return UNSTICK_OK;
}

void usk_os_forget(void *address, uint64_t bytes)
{
    madvise(address, bytes, MADV_DONTNEED);
}

int usk_os_unmap_to_reserve(void *address, uint64_t bytes, struct unstick_error *error)
{
    if (mmap(address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot unmap %llu bytes", (unsigned long long)bytes);
    return UNSTICK_OK;
}

int usk_os_unmap(void *address, uint64_t bytes, struct unstick_error *error)
{
    if (munmap(address, bytes) < 0)
        return usk_error_errno(error, errno, "munmap", "cannot unmap %llu bytes", (unsigned long long)bytes);
    return UNSTICK_OK;
}

int usk_os_map_anonymous(uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (address == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot map %llu bytes", (unsigned long long)bytes);
    madvise(address, bytes, MADV_HUGEPAGE);
    madvise(address, bytes, MADV_DONTFORK);
    *ret_address = address;
    return UNSTICK_OK;
}

/* One call holds the lock on the address space; who maps something waits for it, and everybody else for him, also a
 * driver with its own lock held. A virtual machine may take milliseconds for memory that it touches for the first time:
 * so each call is a huge page. */
static int populate_all(char *address, uint64_t bytes, int advice)
{
    for (uint64_t offset = 0; offset < bytes;) {
        uint64_t n = usk_min(bytes - offset, USK_OS_HUGE_PAGE_BYTES);

        if (madvise(address + offset, n, advice) == 0)
            offset += n;
        else if (errno != EINTR && errno != EAGAIN)
            return -1;
    }
    return 0;
}

int usk_os_populate(void *address, uint64_t bytes, struct unstick_error *error)
{
    volatile char *pages = address;
    uint64_t page_bytes = usk_os_page_bytes();

    if (populate_all(address, bytes, MADV_POPULATE_WRITE) == 0)
        return UNSTICK_OK;
    if (errno != EINVAL && errno != ENOSYS)
        return usk_error_errno(error, errno, "madvise", "cannot populate %llu bytes", (unsigned long long)bytes);
    /* Before Linux 5.14: write to each page what it holds; a shortage then is the kernel's to settle. */
    for (uint64_t offset = 0; offset < bytes; offset += page_bytes) {
        char held = pages[offset];

        pages[offset] = held;
    }
    return UNSTICK_OK;
}

void usk_os_prefer_node(void *address, uint64_t bytes, int node)
{
    unsigned long mask[16] = { 0 };
    unsigned long n_bits = sizeof(mask) * CHAR_BIT;

    if (node < 0 || (unsigned long)node >= n_bits - 1)
        return;
    mask[(unsigned long)node / (sizeof(long) * CHAR_BIT)] |= 1ul << ((unsigned long)node % (sizeof(long) * CHAR_BIT));
    syscall(SYS_mbind, address, bytes, OS_MPOL_PREFERRED, mask, n_bits, 0);
}

int usk_os_file_open(const char *path, int *ret_fd, struct unstick_error *error)
{
    /* A pipe that somebody put there must not be waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;

    if (fd < 0)
        return usk_error_errno(error, errno, "open", "cannot open %s", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "open", "%s is not a regular file", path);
    }
    *ret_fd = fd;
    return UNSTICK_OK;
}

int usk_os_file_id(int fd, struct usk_file_id *ret_id, struct unstick_error *error)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return usk_error_errno(error, errno, "fstat", "cannot identify a file");
    *ret_id = (struct usk_file_id){
        .device = st.st_dev,
        .inode = st.st_ino,
        .bytes = (uint64_t)st.st_size,
        .modified_ns = (uint64_t)st.st_mtim.tv_sec * UINT64_C(1000000000) + (uint64_t)st.st_mtim.tv_nsec,
    };
    return UNSTICK_OK;
}

int usk_os_file_read(int fd, const char *path, uint64_t offset, void *buffer, uint64_t bytes,
                     struct unstick_error *error)
{
    char *p = buffer;

    while (bytes) {
        ssize_t n = pread(fd, p, usk_min(bytes, UINT64_C(1) << 30), (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return usk_error_errno(error, errno, "pread", "cannot read %s at %llu", path, (unsigned long long)offset);
        if (n == 0)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "pread", "%s ends at %llu, %llu bytes short", path,
                                 (unsigned long long)offset, (unsigned long long)bytes);
        p += n;
        offset += (uint64_t)n;
        bytes -= (uint64_t)n;
    }
    return UNSTICK_OK;
}

int usk_os_file_map(int fd, uint64_t offset, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    void *address = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, (off_t)offset);

    if (address == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot map %llu bytes of a file", (unsigned long long)bytes);
    madvise(address, bytes, MADV_DONTFORK);
    *ret_address = address;
    return UNSTICK_OK;
}

int usk_os_file_populate(void *address, uint64_t bytes, struct unstick_error *error)
{
    /* EINVAL: before Linux 5.14, where registering faults the pages in, only slower. */
    if (populate_all(address, bytes, MADV_POPULATE_READ) < 0 && errno != EINVAL)
        return usk_error_errno(error, errno, "madvise", "cannot bring %llu bytes of a file into memory",
                               (unsigned long long)bytes);
    return UNSTICK_OK;
}

bool usk_os_text_read(const char *path, char *text, size_t size, size_t *ret_length)
{
    FILE *file = fopen(path, "re");

    if (!file)
        return false;
    *ret_length = fread(text, 1, size - 1, file);
    fclose(file);
    text[*ret_length] = '\0';
    return true;
}

/* Finds "<key> <number> [kB]" in a file of such lines; false if it is not there. */
static bool memory_find(const char *path, const char *key, uint64_t *ret_value)
{
    size_t length = strlen(key);
    bool is_found = false;
    char line[256];
    FILE *file = fopen(path, "re");

    if (!file)
        return false;
    while (!is_found && fgets(line, sizeof(line), file)) {
        if (!strncmp(line, key, length) && (line[length] == ' ' || line[length] == ':')) {
            *ret_value = strtoull(line + length + 1, NULL, 10);
            is_found = true;
        }
    }
    fclose(file);
    return is_found;
}

/* Reads a file that holds one number; "max" and no such file are false. */
static bool memory_read_number(const char *directory, const char *name, uint64_t *ret_value)
{
    char path[PATH_MAX + 64], text[64];
    bool is_number = false;
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    file = fopen(path, "re");
    if (!file)
        return false;
    if (fgets(text, sizeof(text), file) && text[0] >= '0' && text[0] <= '9') {
        *ret_value = strtoull(text, NULL, 10);
        is_number = true;
    }
    fclose(file);
    return is_number;
}

/* The lowest limit on the way from this process's cgroup to the root, and what that cgroup uses. */
static void memory_read_cgroup(struct usk_os_memory *memory)
{
    char line[PATH_MAX], directory[PATH_MAX + 32], stat_path[PATH_MAX + 64];
    FILE *file = fopen("/proc/self/cgroup", "re");
    bool is_found = false;

    memory->cgroup_limit_bytes = UINT64_MAX;
    memory->cgroup_used_bytes = 0;
    if (!file)
        return;
    while (!is_found && fgets(line, sizeof(line), file))
        is_found = !strncmp(line, "0::", 3);
    fclose(file);
    if (!is_found)
        return;
    line[strcspn(line, "\n")] = '\0';
    snprintf(directory, sizeof(directory), "/sys/fs/cgroup%s", line + 3);

    while (strlen(directory) >= strlen("/sys/fs/cgroup")) {
        uint64_t limit, used, file_bytes = 0;

        if (memory_read_number(directory, "memory.max", &limit) && limit < memory->cgroup_limit_bytes &&
            memory_read_number(directory, "memory.current", &used)) {
            snprintf(stat_path, sizeof(stat_path), "%s/memory.stat", directory);
            memory_find(stat_path, "inactive_file", &file_bytes);
            memory->cgroup_limit_bytes = limit;
            memory->cgroup_used_bytes = used - usk_min(used, file_bytes);
        }
        *strrchr(directory, '/') = '\0';
    }
}

int usk_os_memory(struct usk_os_memory *ret_memory, struct unstick_error *error)
{
    struct usk_os_memory memory = { 0 };

    if (!memory_find("/proc/meminfo", "MemTotal", &memory.total_bytes) ||
        !memory_find("/proc/meminfo", "MemAvailable", &memory.available_bytes))
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "/proc/meminfo", "cannot read how much memory there is");
    memory.total_bytes *= 1024;
    memory.available_bytes *= 1024;
    memory_read_cgroup(&memory);
    *ret_memory = memory;
    return UNSTICK_OK;
}
