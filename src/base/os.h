/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_OS_H
#define USK_BASE_OS_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

/*
 * The one seam to the operating system: what is not ISO C or plain POSIX files goes through here, so that another
 * system is one more os_<name>.c. Sizes and offsets are multiples of usk_os_page_bytes() where memory is mapped.
 */

uint64_t usk_os_page_bytes(void);
/* Processors that are online, at least 1. */
unsigned int usk_os_n_cpus(void);

/* True in a child that was forked from the process that had this id. */
bool usk_os_is_forked(int pid);
int usk_os_pid(void);

/* Another process, or a thread of one. */
struct usk_os_process {
    int leader;          /* the process that it belongs to; the same number where it is one */
    char name[32];       /* "?" if unknown; holds no line ends */
    unsigned int users[3]; /* real, effective, saved */
    bool has_ended;      /* its first thread has; the others need not have */
    bool has_memory;     /* false: a kernel's own, or one that is on its way out */
    bool is_in_our_cgroup; /* its memory counts against the same limits as ours */
};

/* UNSTICK_NOT_FOUND: there is none. */
int usk_os_process_read(int pid, struct usk_os_process *ret_process, struct unstick_error *error);
/* A descriptor that polls readable once the process has ended, however its number is used then; -1 if there is none. */
int usk_os_process_watch(int pid);
/* True once it has ended; fd as above, or -1: then by its number. */
bool usk_os_process_has_ended(int pid, int fd);
unsigned int usk_os_user(void);

/* Events: a descriptor that polls readable from signal to drain. -1 is allowed for both and does nothing. */
int usk_os_event_new(int *ret_fd, struct unstick_error *error);
void usk_os_event_signal(int fd);
void usk_os_event_drain(int fd);
/* Blocks until fd is readable or the time is over; false if it is over. timeout_ms < 0: no limit. */
bool usk_os_event_wait(int fd, int timeout_ms);

/* Lets at least that many microseconds pass. */
void usk_os_pause_us(unsigned int us);

/* A thread with all signals blocked; name is at most 15 characters. Join it with pthread_join(). */
int usk_os_thread_new(pthread_t *ret_thread, void *(*run)(void *), void *userdata, const char *name,
                      struct unstick_error *error);

/* Memory without a name that is shared by mapping it more than once. Closed with usk_os_close(). */
int usk_os_shm_new(const char *name, uint64_t bytes, int *ret_fd, struct unstick_error *error);
/* Backs a range, so that a shortage is an error here and no SIGBUS later. */
int usk_os_shm_fill(int fd, uint64_t offset, uint64_t bytes, struct unstick_error *error);
/* Gives a range back to the system; it reads as zeros afterwards. */
int usk_os_shm_punch(int fd, uint64_t offset, uint64_t bytes, struct unstick_error *error);
/* Bytes that are backed now. */
int usk_os_shm_backed(int fd, uint64_t *ret_bytes, struct unstick_error *error);
void usk_os_close(int fd);

/* Reserves addresses without memory behind them: an access is a fault. */
int usk_os_reserve(uint64_t bytes, uint64_t align, void **ret_address, struct unstick_error *error);
/* Maps a range of shared memory over reserved addresses; is_writable as named. */
int usk_os_map_shm(void *address, uint64_t bytes, int fd, uint64_t offset, bool is_writable,
                   struct unstick_error *error);
/* Gives pages back that nobody has pinned. The addresses stay: what is read there is zero, a write takes new pages. */
void usk_os_forget(void *address, uint64_t bytes);
/* Takes what is mapped there away and leaves reserved addresses. */
int usk_os_unmap_to_reserve(void *address, uint64_t bytes, struct unstick_error *error);
int usk_os_unmap(void *address, uint64_t bytes, struct unstick_error *error);

/* Private memory, in huge pages where the system has them, not inherited by a fork, not yet touched. */
int usk_os_map_anonymous(uint64_t bytes, void **ret_address, struct unstick_error *error);
#define USK_OS_HUGE_PAGE_BYTES (UINT64_C(2) << 20)
/* Touches every page for writing. May block for long: for pool threads. */
int usk_os_populate(void *address, uint64_t bytes, struct unstick_error *error);
/* Prefers the memory of a NUMA node for what is not touched yet; node < 0 or a refusal change nothing. */
void usk_os_prefer_node(void *address, uint64_t bytes, int node);

/* What identifies the contents of a file as far as the file system can tell. */
struct usk_file_id {
    uint64_t device, inode, bytes, modified_ns;
};

/* To be read. Anything but a regular file is UNSTICK_BAD_FORMAT, and is not waited for. */
int usk_os_file_open(const char *path, int *ret_fd, struct unstick_error *error);
int usk_os_file_id(int fd, struct usk_file_id *ret_id, struct unstick_error *error);
/* Reads exactly `bytes`; a shorter file is UNSTICK_BAD_FORMAT. `path` is for the message. */
int usk_os_file_read(int fd, const char *path, uint64_t offset, void *buffer, uint64_t bytes,
                     struct unstick_error *error);
/* The first `size` - 1 bytes of a small file, as of /proc, and a NUL behind them; false if it cannot be opened. */
bool usk_os_text_read(const char *path, char *text, size_t size, size_t *ret_length);
/* Maps a file shared and read-only, not inherited by a fork. offset is a multiple of the page. */
int usk_os_file_map(int fd, uint64_t offset, uint64_t bytes, void **ret_address, struct unstick_error *error);
/* Brings the pages of a file mapping into memory. May block for long. */
int usk_os_file_populate(void *address, uint64_t bytes, struct unstick_error *error);

/* What the machine has to give. */
struct usk_os_memory {
    uint64_t total_bytes;         /* MemTotal */
    uint64_t available_bytes;     /* MemAvailable */
    uint64_t cgroup_limit_bytes;  /* lowest memory.max on the way up; UINT64_MAX if none */
    uint64_t cgroup_used_bytes;   /* memory.current less reclaimable file pages of that cgroup; 0 if none */
};

int usk_os_memory(struct usk_os_memory *ret_memory, struct unstick_error *error);

#endif
