/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_HOST_MEMORY_H
#define USK_DEVICE_HOST_MEMORY_H

#include <stdatomic.h>

#include "device/device.h"
#include "device/host/lanes.h"
#include "device/host/ranges.h"
#include "device/slots.h"

/* The memory of one host device: the file, what of it is handed out, and where it is mapped. [baton] throughout,
 * except for used_bytes. */
struct usk_host_memory {
    int fd;
    char name[48];                     /* of the memfd; no other in this process has it */
    uint64_t granularity_bytes;
    uint64_t total_bytes;
    atomic_uint_least64_t used_bytes;  /* sum of `used` */
    struct usk_ranges used;            /* of the file; tag: handle */
    size_t n_packed;                   /* that many ranges of `used` lie at the start of the file with no gap */
    struct usk_slots handles;
    struct usk_ranges reservations;    /* of addresses; tag: 0 */
    struct usk_ranges mappings;        /* of addresses; tag: handle */
    uint64_t credit_bytes;             /* may be handed out before the machine is asked again what it has */
};

int usk_host_memory_init(struct usk_host_memory *memory, uint64_t bytes, uint64_t granularity_bytes,
                         struct unstick_error *error);
/* Also takes down what the caller forgot. */
void usk_host_memory_fini(struct usk_host_memory *memory);

int usk_host_memory_reserve(struct usk_host_memory *memory, uint64_t bytes, uint64_t align_bytes,
                            uint64_t *ret_address, struct unstick_error *error);
int usk_host_memory_unreserve(struct usk_host_memory *memory, uint64_t address, uint64_t bytes,
                              struct unstick_error *error);
int usk_host_memory_create(struct usk_host_memory *memory, uint64_t bytes, uint64_t *ret_handle,
                           struct unstick_error *error);
int usk_host_memory_release(struct usk_host_memory *memory, uint64_t id, struct unstick_error *error);
int usk_host_memory_map(struct usk_host_memory *memory, uint64_t address, uint64_t bytes, uint64_t id,
                        struct unstick_error *error);
int usk_host_memory_unmap(struct usk_host_memory *memory, struct usk_host_lanes *lanes, const struct usk_log *log,
                          uint64_t address, uint64_t bytes, struct unstick_error *error);

/* UNSTICK_OK if every byte of the range is mapped; `operation` is for the message. */
int usk_host_memory_check(const struct usk_host_memory *memory, const char *operation, uint64_t address,
                          uint64_t bytes, struct unstick_error *error);

int usk_host_memory_backed(const struct usk_host_memory *memory, uint64_t *ret_bytes, struct unstick_error *error);
int usk_host_memory_mapped(const struct usk_host_memory *memory, uint64_t *ret_bytes, struct unstick_error *error);

#endif
