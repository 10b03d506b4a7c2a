/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MONITOR_MONITOR_H
#define USK_MONITOR_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/monitor.h>
#include <unstick/status.h>

/*
 * What can be read about the machine and about others on it, without changing anything and without a CUDA
 * context.
 */

/* --- who holds memory --- */

struct usk_holder {
    int pid;
    char name[32];  /* "?" if the process cannot be seen from here */
    uint64_t bytes; /* 0: unknown */
};

#define USK_HOLDERS_MAX 64

/* Sorts by bytes, largest first. */
void usk_holders_sort(struct usk_holder *holders, size_t n_holders);
/* Writes "python (pid 4711) 12.3 GiB, ...", as many as fit with at most `most` of them, and returns text. */
const char *usk_holders_format(char *text, size_t size, const struct usk_holder *holders, size_t n_holders,
                               size_t most);

/* Fills in the name of a process; root as below. */
void usk_holder_name(const char *root, struct usk_holder *holder);

/* The processes other than this one that hold most memory of the machine, at most USK_HOLDERS_MAX. */
int usk_system_holders(const char *root, struct usk_holder holders[USK_HOLDERS_MAX], size_t *ret_n,
                       struct unstick_error *error);

/* --- NVML (nvml.c) --- */

struct usk_nvml;

/* library: NULL for the driver's own. UNSTICK_NOT_FOUND if there is none, UNSTICK_DRIVER if it does not
 * start. */
int usk_nvml_open(const char *library, struct usk_nvml **ret_nvml, struct unstick_error *error);
struct usk_nvml *usk_nvml_close(struct usk_nvml *nvml);
/* "580.159.03" */
int usk_nvml_driver_version(struct usk_nvml *nvml, char *text, size_t size, struct unstick_error *error);
/* The processes other than this one that hold memory of the GPU with this UUID ("GPU-...", "MIG-..."). */
int usk_nvml_holders(struct usk_nvml *nvml, const char *uuid, struct usk_holder holders[USK_HOLDERS_MAX],
                     size_t *ret_n, struct unstick_error *error);

/* usk_nvml_holders(), and what this process holds there; *ret_own_bytes is 0 if it is not listed, which means that the
 * list is in the numbers of another PID namespace, or that it holds nothing; UINT64_MAX if the amount is unknown. */
int usk_nvml_processes(struct usk_nvml *nvml, const char *uuid, struct usk_holder holders[USK_HOLDERS_MAX],
                       size_t *ret_n, uint64_t *ret_own_bytes, struct unstick_error *error);

/* Memory in use on a GPU, by whomever; needs no context on it, which takes memory itself. */
int usk_nvml_used(struct usk_nvml *nvml, const char *uuid, uint64_t *ret_bytes, struct unstick_error *error);

/* What is in use on all GPUs of the machine together, and what one process holds of it. */
struct usk_nvml_use {
    uint64_t used_bytes;
    uint64_t process_bytes;
    bool is_listed;         /* the process is in the list of a GPU */
    bool is_amount_unknown; /* and on one of them nobody says how much it holds */
};

int usk_nvml_use(struct usk_nvml *nvml, int pid, struct usk_nvml_use *ret_use, struct unstick_error *error);

/* How a GPU reaches this machine. */
enum usk_nvml_virtualization {
    USK_NVML_BARE = 0,
    USK_NVML_PASSTHROUGH = 1, /* a whole GPU in a virtual machine */
    USK_NVML_VGPU = 2,        /* a share of one */
};

/* UNSTICK_UNSUPPORTED where NVML does not say. */
int usk_nvml_virtualization(struct usk_nvml *nvml, const char *uuid, enum usk_nvml_virtualization *ret_kind,
                            struct unstick_error *error);

/* --- the monitor (monitor.c) --- */

/* As unstick_monitor_new(), with another NVML; NULL for the driver's own. */
int usk_monitor_new(const char *nvml, struct unstick_monitor **ret_monitor, struct unstick_error *error);
/* What of a GPU is in use; false if it is unknown. */
bool usk_monitor_used_bytes(struct unstick_monitor *monitor, const char *uuid, uint64_t *ret_bytes);
/* Adds the other processes on a GPU to a reading, if they are known. */
void usk_monitor_processes(struct unstick_monitor *monitor, const char *uuid, struct unstick_reading *reading);

/* --- the system (system.c) --- */

/* Resident memory of this process; 0 if it cannot be read. */
uint64_t usk_system_process_bytes(const char *root);

struct usk_system {
    char os[96];         /* "Debian GNU/Linux 12 (bookworm)" */
    char kernel[96];     /* "6.1.0-18-amd64" */
    char machine[32];    /* "x86_64" */
    unsigned int n_cpus; /* usable by this process */
    char huge_pages[16]; /* the system's setting: "always", "madvise", "never"; empty: unknown */
    bool has_cgroup_v2;
    bool is_wsl;
    bool is_container;
    uint64_t memlock_bytes; /* soft limit; UINT64_MAX: none */
};

/* root: "" for the running system; a folder with proc/, sys/ and etc/ for tests. */
int usk_system_read(const char *root, struct usk_system *ret_system, struct unstick_error *error);

#endif
