/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_TASK_TASK_H
#define USK_TASK_TASK_H

#include <stdatomic.h>
#include <stdbool.h>

#include <unstick/task.h>

#include "base/clock.h"
#include "base/worker.h"
#include "region/region.h"

/*
 * A task is one phase and one switch. Its step does a bounded bit and returns UNSTICK_PENDING, or the status it ended
 * with; phases only go forward. What goes wrong is noted in `failure`, from then on nothing new is begun, what is
 * under way is brought to an end granule by granule, and only then the task ends. No task drives another one: sources
 * are looked at, never stepped.
 */

/* Copies that one task keeps under way: enough to hide a wake-up, little enough to cancel within some ms. */
#define USK_TASK_WINDOW 8
/* Mappings that one task changes per step, while the step has time. */
#define USK_TASK_MOVES_PER_STEP 8
/*
 * From here on a step begins no driver call. Beside copies to the host a map takes 1 ms (the driver writes page tables
 * with the engine that copies), beside a registration any call waits for it, a look at a ticket too, 1.3 ms (measured
 * on an H100, driver 580): with the few calls of a group that is under way a step is still short.
 */
#define USK_TASK_STEP_NS (2 * USK_NS_PER_MS)
/* How often a driver that asks to be asked again is asked, a step each. */
#define USK_TASK_MAX_BUSY 1000
/* How often a ticket is asked for behind work that may still run, before the device is given up as lost. */
#define USK_TASK_MAX_MARKS 16
/* Most granules hashed by one call; what the slots allow. */
#define USK_TASK_HASH_BATCH 32

enum usk_task_kind {
    USK_TASK_LOAD,
    USK_TASK_RESTORE,
    USK_TASK_BACKUP,
    USK_TASK_EVICT,
    USK_TASK_DISCARD,
    USK_TASK_REVOKE,
    USK_TASK_RELEASE,
};

enum usk_task_phase {
    USK_PHASE_QUEUED,   /* waits for its turn on the region, and for leases to end */
    USK_PHASE_BEGIN,
    USK_PHASE_FENCE,    /* what was launched on the region comes to an end */
    USK_PHASE_WORK,     /* granules move */
    USK_PHASE_UNDO,     /* a load that failed gives back what it took */
    USK_PHASE_SENTINEL, /* were the sentinels written meanwhile? */
    USK_PHASE_DRAIN,    /* spares that nobody waits for go back */
};

/* What one step of the context hands to its tasks, and what they say about it. */
struct usk_step {
    uint64_t now_ns;
    uint64_t deadline_ns; /* on the library's own clock */
    bool has_called;      /* at least one call was made: a step that is late from the start gets on, too */
    struct usk_device *burst; /* whose calls go first until the step ends; NULL: none were made */
    bool is_kept_out;         /* the device asks to come again */
    bool has_progressed;  /* step again at once */
    bool is_waiting;      /* for the device or a job: they signal the event, or are polled soon */
    uint64_t looked_ns;   /* when the stretch of `made_of` that is under way began */
    const char *stretch;
    struct usk_longest_step made_of;
};

/*
 * Asked before each call to the driver, or group of them that belong together; false: in the next step, which comes at
 * once. `what` names it, for whoever wants to know what a long step was made of.
 */
bool usk_step_has_time(struct usk_step *step, const char *what);
/* The same before one that maps, frees or submits, which would wait for a registration. */
bool usk_step_may_call(struct usk_step *step, struct unstick_device *dev, const char *what);
/* A look at a ticket, PENDING also where the step has no time for it. */
int usk_step_poll(struct usk_step *step, struct unstick_device *dev, uint64_t ticket, struct unstick_error *error);

/* Work that was submitted to the device: up from the first call on, until it has been seen to end. */
struct usk_flight {
    bool is_up, has_ticket;
    uint64_t ticket;
    unsigned int n_marks; /* how often the device would not say */
};

enum usk_flight_end {
    USK_FLIGHT_DOWN,    /* nothing of it runs */
    USK_FLIGHT_UP,      /* look again */
    USK_FLIGHT_MISSING, /* it may run for ever, and the device has been given up: nothing it touches may be reused */
};

/* One granule on its way to the device. */
enum usk_arrival_stage {
    USK_ARRIVAL_FREE,
    USK_ARRIVAL_ARENA,  /* host memory of ours is being made */
    USK_ARRIVAL_PIN,    /* the file is being registered */
    USK_ARRIVAL_RING,   /* a staging buffer is needed */
    USK_ARRIVAL_JOB,    /* a thread reads or copies into host memory */
    USK_ARRIVAL_MEMORY, /* physical memory is needed, and mapped */
    USK_ARRIVAL_SUBMIT, /* mapped, the copy is to be submitted */
    USK_ARRIVAL_COPY,   /* the copy (and hash) runs */
};

struct usk_arrival {
    struct usk_job job;
    struct unstick_task *task;
    enum usk_arrival_stage stage;
    uint32_t index;
    struct usk_blob *blob;         /* where the contents are; NULL: zeros */
    bool has_new_blob;             /* made by this task, not yet the granule's */
    bool has_arena_hold, has_backing_hold, is_direct, needs_ring, has_slot, is_second_try;
    struct usk_flight flight;
    void *ring;                    /* staging buffer, or NULL */
    struct usk_physical *physical; /* acquired, not yet under the granule */
    uint32_t slot;
    unsigned int n_busy;
    int job_status;
    struct unstick_error job_error;
};

/* One granule on its way to host memory. */
enum usk_departure_stage {
    USK_DEPARTURE_FREE,
    USK_DEPARTURE_ARENA,  /* host memory is being made */
    USK_DEPARTURE_RING,   /* a staging buffer is needed */
    USK_DEPARTURE_SUBMIT, /* the copy is to be submitted */
    USK_DEPARTURE_COPY,   /* the copy and the second hash run */
    USK_DEPARTURE_JOB,    /* a thread copies from the staging buffer */
};

struct usk_departure {
    struct usk_job job;
    struct unstick_task *task;
    enum usk_departure_stage stage;
    uint32_t index;
    struct usk_blob *blob; /* where the contents go */
    bool has_new_blob, has_arena_hold, has_slot;
    struct usk_flight flight;
    void *ring;
    uint32_t slot;
    unsigned int n_tries;
};

/* A run of neighbouring granules whose hashes are being taken. */
struct usk_hash_batch {
    bool is_used;
    uint32_t first, n, slot;
    struct usk_flight flight;
};

/* What a leaving task knows about a granule. */
enum usk_verdict {
    USK_VERDICT_SKIP,    /* not this task's, or finished */
    USK_VERDICT_UNKNOWN, /* to be hashed */
    USK_VERDICT_HASHING,
    USK_VERDICT_COPY,    /* has changed, or has no backup where one is wanted */
    USK_VERDICT_COPYING,
    USK_VERDICT_CLEAN,   /* the backup is valid: the memory may go */
};

struct unstick_task {
    struct unstick_context *ctx;
    struct unstick_region *region;
    enum usk_task_kind kind;
    unsigned int flags;
    enum unstick_tier tier;
    enum unstick_fence fence;
    uint64_t max_bytes;
    struct unstick_task **sources;
    size_t n_sources;

    unsigned int n_refs;        /* lock: the user, the queue, tasks that name it as a source */
    atomic_bool is_canceled;
    bool is_exclusive;
    struct unstick_task *next;  /* lock: in the queue */
    struct unstick_task_result published; /* lock */

    /* baton: */
    enum usk_task_phase phase;
    struct unstick_task_result result;
    int failure;                /* first thing that went wrong; 0: nothing */
    uint32_t cursor;            /* next granule to look at */
    uint64_t budget_bytes;      /* still to be moved */
    unsigned int n_busy;
    bool has_ticket;
    uint64_t ticket;
    struct usk_flight flight;          /* load, restore: hashes of the sentinels */
    uint32_t slot;
    bool has_slot;
    struct usk_backing *backing;       /* load */
    uint32_t n_under_way;              /* arrivals or departures */
    struct usk_arrival *arrivals;      /* load, restore: USK_TASK_WINDOW */
    struct usk_departure *departures;  /* backup, evict: USK_TASK_WINDOW */
    bool *has_come;                    /* load, restore: granules that this task brought */
    enum usk_verdict *verdicts;        /* backup, evict: one per granule */
    uint64_t *hashes;                  /* backup, evict: taken before the copy */
    struct usk_blob *dropped;          /* discard, revoke, release: backups that go when the device memory has gone */
    uint32_t take_cursor, n_left;      /* evict: where to look for clean granules, and how many are to go */
    struct usk_hash_batch batches[2];
};

/* Notes a failure; the first one counts, the error's detail is in task->result.error already. */
void usk_task_fail(struct unstick_task *task, int status);
/* The driver does not say any more whether submitted work is over: nothing can be done with the device. */
void usk_task_give_device_up(struct unstick_task *task);
/* True once nothing new is to be begun. */
bool usk_task_is_stopping(struct unstick_task *task);
/* True if a task is over; under no lock. */
bool usk_task_is_over(struct unstick_task *task);

/* The steps by kind: UNSTICK_PENDING, or how the task ended. */
int usk_arrive_step(struct unstick_task *task, struct usk_step *step);
int usk_leave_step(struct unstick_task *task, struct usk_step *step);
int usk_drop_step(struct unstick_task *task, struct usk_step *step);

/* UNSTICK_OK once everything launched on the region, as the task's fence option says, is over. */
int usk_fence_step(struct unstick_task *task, struct usk_step *step);

/* --- flight.c --- */
/* Looks whether work in `lane`, and hashes behind it in theirs, is over, after a call or a poll of it failed. */
enum usk_flight_end usk_flight_bring_down(struct unstick_task *task, struct usk_flight *flight, enum usk_lane lane,
                                          struct usk_step *step);

/* --- arrival.c: one granule. Each call does what can be done now. --- */
void usk_arrival_begin(struct usk_arrival *arrival, struct unstick_task *task, uint32_t index);
void usk_arrival_step(struct usk_arrival *arrival, struct usk_step *step);

/* --- departure.c --- */
void usk_departure_begin(struct usk_departure *departure, struct unstick_task *task, uint32_t index);
void usk_departure_step(struct usk_departure *departure, struct usk_step *step);

/* --- queue.c --- */
/* Puts a task at the end of the queue; the queue takes a reference. */
void usk_queue_append(struct unstick_task *task);
/* True while a task on the device, other than `except`, may take spares over. */
bool usk_queue_keeps_spares(struct unstick_device *dev, const struct unstick_task *except);
/* True while another task is about to give backups up: who is short of host memory waits for it. */
bool usk_queue_frees_host_memory(const struct unstick_task *task);
/* Gives some spares back to the driver; true if more are left. */
bool usk_queue_drain(struct unstick_device *dev, struct usk_step *step);
void usk_task_unref(struct unstick_task *task);

#endif
