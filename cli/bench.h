/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include <unstick/device.h>
#include <unstick/task.h>

#include "device/device.h"
#include "region/device.h"
#include "region/region.h"

/* The slowest single call to the driver that a case has seen, where it looks. */
struct bench_slowest {
    const char *call; /* NULL: it did not look */
    uint64_t ns;
};

/*
 * `unstick bench`. A case measures one thing of ours beside a reference that does the least a program must do
 * to move the same bytes, on the same device; the two alternate run by run, so that whatever disturbs the
 * machine disturbs both. What is prepared for a measurement is outside of its time.
 */
struct bench {
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct usk_device *driver;
    const char *spec;   /* of the device */
    const char *folder; /* for the file that is loaded */
    const char *only;   /* names of cases with commas between; NULL: all */
    uint64_t bytes;     /* whole granules */
    uint64_t granule_bytes;
    uint32_t n_granules;
    uint64_t n_runs;
    bool is_host;             /* the host device: references are on fresh pages */
    struct usk_longest_step longest_step; /* of all cases so far */
    const char *longest_case;             /* in which it was; NULL: between them */
    struct bench_slowest slowest;         /* of the case that is measured */
    json_t *results;          /* NULL: a table is printed */
};

/* Measures once; the time is that of the part that counts. */
typedef int (*bench_run_fn)(struct bench *bench, void *state, double *ret_s, struct unstick_error *error);

struct bench_case {
    const char *name;
    const char *what;
    const char *reference;        /* what ours is compared with */
    unsigned int theirs_per_byte; /* memory traffic of the reference per byte of ours; 0 counts as 1 */
    bench_run_fn ours, theirs;
};

/* Runs a case, if it was asked for, and reports it; a case that the device or the folder cannot do is
 * reported as skipped, with the reason. */
int bench_case_run(struct bench *bench, const struct bench_case *bench_case, void *state,
                   struct unstick_error *error);
bool bench_is_wanted(const struct bench *bench, const char *name);
void bench_skip(struct bench *bench, const struct bench_case *bench_case, const char *reason);

/* Looks whether a longer step was made by now; `name`: of the case, or NULL. */
void bench_note_steps(struct bench *bench, const char *name);

/* The head of the table that the cases fill. */
void bench_head_print(void);

/* Opens bench->spec in a context of its own. */
int bench_open(struct bench *bench, uint64_t limit_bytes, uint64_t granule_bytes, struct unstick_device_info *info,
               struct unstick_error *error);
/* Opens the same device once more, with room for one region of bench->bytes. */
int bench_open_tight(struct bench *bench, struct unstick_error *error);
void bench_close(struct bench *bench);

/* --- bench_buffer.c: memory to measure with --- */

/* Device memory of bench->bytes in granules, outside of all accounts. */
struct bench_buffer {
    uint64_t address;
    uint64_t *handles; /* 0: no memory there */
};

int bench_buffer_new(struct bench *bench, bool is_filled, struct bench_buffer *ret_buffer,
                     struct unstick_error *error);
/* Puts memory under all granules, or takes it all away. */
int bench_buffer_fill(struct bench *bench, struct bench_buffer *buffer, struct unstick_error *error);
int bench_buffer_empty(struct bench *bench, struct bench_buffer *buffer, struct unstick_error *error);
int bench_granule_fill(struct bench *bench, struct bench_buffer *buffer, uint32_t index,
                       struct unstick_error *error);
int bench_granule_empty(struct bench *bench, struct bench_buffer *buffer, uint32_t index,
                        struct unstick_error *error);
void bench_buffer_free(struct bench *bench, struct bench_buffer *buffer);

/* Host memory of bench->bytes as backups have it. Blocks until all of it is usable. */
int bench_arena_new(struct bench *bench, struct usk_arena **ret_arena, struct unstick_error *error);
void bench_arena_free(struct bench *bench, struct usk_arena *arena);

/* Waits for a task of ours and frees it. */
int bench_task_wait(struct unstick_task *task, struct unstick_error *error);

/* Waits until what was submitted to the lane is done. */
int bench_lane_wait(struct bench *bench, enum usk_lane lane, struct unstick_error *error);

/* Waits until what was freed has been dealt with. A driver clears freed memory in the background, with the engine that
 * copies to the device: for 20 ms after 16 GiB were freed a plain copy runs slower, too. A model that comes back after
 * it was of no use for a while does not meet that. */
void bench_settle(struct bench *bench);

/* The plain driver copy: between an arena and a buffer, a granule at a time on one stream. */
int bench_copy(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena, enum usk_lane lane,
               double *ret_s, struct unstick_error *error);

/* The least that brings bytes onto the device: the plain copy; on the host device, memcpy to fresh memory. */
int bench_bring(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena, double *ret_s,
                struct unstick_error *error);

double bench_seconds_since(uint64_t started_ns);

/* On the host device an address is a pointer. */
void *bench_buffer_data(const struct bench *bench, const struct bench_buffer *buffer, uint32_t index);
/* The host device's reference: puts fresh memory under an empty buffer and fills it by memcpy, granule by
 * granule. */
int bench_buffer_copy_fresh(struct bench *bench, struct bench_buffer *buffer, struct usk_arena *arena,
                            struct unstick_error *error);

/* --- bench_share.c: what was measured, to be pasted --- */

/* The cases of a row, for --only. */
extern const char bench_share_cases[];

/* Prints the head of the table and this device's row, from bench->results. */
void bench_share_print(const struct bench *bench, const struct unstick_device_info *info);

/* --- the cases --- */

int bench_link(struct bench *bench, struct unstick_error *error); /* bench_link.c: link, pinning, hash */
int bench_move(struct bench *bench, struct unstick_error *error); /* bench_move.c: evict, restore, switch */
int bench_load(struct bench *bench, struct unstick_error *error); /* bench_load.c */
int bench_vmm(struct bench *bench, struct unstick_error *error);  /* bench_vmm.c: the driver's calls of an eviction */
int bench_beside(struct bench *bench, struct unstick_error *error); /* bench_beside.c: what others feel of it */

#endif
