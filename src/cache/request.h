/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_CACHE_REQUEST_H
#define USK_CACHE_REQUEST_H

#include <stdatomic.h>

#include "cache/cache.h"

/*
 * A request is one phase and one switch, like a task. It belongs to who drives it; what others look at is marked lock.
 *
 *     LOOK -> [MEASURE] -> DECIDE -> RECLAIM -> (DECIDE)
 *                            |   \-> WAIT -> (LOOK)
 *                            v
 *                          LEAVE -> HOST -> ARRIVE -> LEASE -> OVER
 *                            any failure or cancel: -> STOP -> UNDO -> OVER, or LOOK again after a shortage
 */
enum usk_request_phase {
    USK_REQUEST_LOOK,    /* is it there? */
    USK_REQUEST_MEASURE, /* the host adds its figures */
    USK_REQUEST_DECIDE,
    USK_REQUEST_WAIT,    /* for leases, for a turn, for another loader */
    USK_REQUEST_RECLAIM, /* the machine of reclaim.h runs */
    USK_REQUEST_LEAVE,   /* victims leave; what comes may come meanwhile */
    USK_REQUEST_HOST,    /* the host loads */
    USK_REQUEST_ARRIVE,  /* what comes arrives */
    USK_REQUEST_LEASE,
    USK_REQUEST_STOP,    /* tasks are canceled and end */
    USK_REQUEST_UNDO,    /* what came goes back */
    USK_REQUEST_OVER,
};

enum usk_request_kind {
    USK_REQUEST_USE,
    USK_REQUEST_PRELOAD,
    USK_REQUEST_PREFETCH,
    USK_REQUEST_EVICT,
};

enum usk_move_kind {
    USK_MOVE_LEAVE,
    USK_MOVE_FORGET,  /* stays, and gives its backup in host memory up */
    USK_MOVE_DISCARD, /* for good: stale, or no host memory is left */
    USK_MOVE_ARRIVE,
};

/* One component on its way. While it has a move nobody frees it: the move counts as a user of the entry. */
struct usk_move {
    enum usk_move_kind kind;
    struct usk_entry *entry;
    struct usk_component *component;
    uint64_t bytes;        /* LEAVE: how much; 0: all */
    uint64_t before_bytes; /* ARRIVE: resident before */
    struct unstick_task *task;
    bool is_load;          /* ARRIVE: from files */
    bool is_over;
    struct unstick_task_result result;
};

/* From the first start to the last end of some tasks. */
struct usk_span {
    uint64_t started_ns, ended_ns;
};

/* A snapshot in memory that is kept from one decision to the next. */
struct usk_view {
    struct unstick_snapshot snapshot;
    struct unstick_reading reading;
    struct unstick_process *processes;       /* the reading's */
    struct unstick_snapshot_entry *entries;
    struct unstick_snapshot_component *components;
    struct unstick_victim *victims;
    struct unstick_rival rival;              /* the cache's, with the figures of the components beside it */
    struct usk_entry **real_entries;         /* which entry each one is */
    struct usk_component **real_components;  /* likewise; NULL: a claim */
    size_t n_entries_allocated, n_components_allocated, n_components;
    int64_t claimed_bytes;                   /* for loads of hosts, beside the balances of requests */
};

struct unstick_request {
    struct unstick_cache *cache;
    struct usk_entry *entry;
    enum usk_request_kind kind;
    struct unstick_request *next; /* lock */
    atomic_bool is_canceled;

    struct unstick_cache_demand demand;      /* pointers into what follows */
    char fingerprint[UNSTICK_FINGERPRINT_MAX];
    char **names;                            /* demand.components */
    struct usk_component **offered;          /* from demand.layouts; NULL: the entry took it */
    size_t n_offered;
    struct unstick_alternative *alternatives;
    uint64_t holder, ticket;

    enum usk_request_phase phase;
    enum unstick_request_action_kind asked;  /* what the host was asked for last */
    bool is_orphan, is_driven;               /* lock: freed before its end; somebody brings it there now */
    bool is_waiting;                         /* lock: for memory */
    bool is_loading;                         /* lock: the host loads for it */
    bool is_loader;                          /* entry->loader is this */
    bool has_sources;                        /* lock: what comes gets the memory of what leaves for it */
    bool has_reclaimed, has_waited, is_reclaiming_late, has_host_loaded, is_retrying, is_noted;
    unsigned int n_shortages, n_patience;
    int64_t balance_bytes;                   /* lock: while somebody decides; see snapshot.c */
    uint64_t now_ns, started_ns, wait_since_ns, wait_chunk_ns, look_at_ns, seen_generation;
    enum unstick_wait wait;

    struct unstick_reading figures;          /* what the host said last */
    struct unstick_process *processes;       /* of the last reading, until the view takes it */
    struct usk_view view;
    struct unstick_plan plan;

    struct unstick_reclaim *machine;
    struct unstick_reclaim_action reclaim_action;
    struct unstick_reclaim_report reclaim_report;
    bool has_reclaim_figures;
    uint64_t sleep_until_ns, reclaim_started_ns;
    struct unstick_reclaim_step *steps;
    size_t n_steps;

    struct usk_move *moves;
    size_t n_moves, n_leaving;               /* the first n_leaving leave */
    size_t n_submitted;
    bool is_stale;                           /* the entry's contents are of other settings: they go first */
    bool is_for_host;                        /* the host has to load something */
    char **missing;                          /* what: names; copies, as who loads it replaces components */
    size_t n_missing;
    uint64_t host_started_ns;

    struct unstick_cache_lease *lease;
    int failure;                             /* what it will end with */
    struct unstick_error error;
    struct unstick_request_result result;
    struct unstick_request_eviction *evictions;
    struct usk_span *eviction_spans;         /* one for each of them */
    struct usk_span load, restore, evict;
    char text[2048];
};

/* [lock] A load of this holder's is under way in the host. */
bool usk_requests_are_loading(struct unstick_cache *cache, uint64_t holder, const struct unstick_request *except);
/* One turn of the machine; true: go on at once. Else ret_action is filled in, or it is over. */
bool usk_request_advance(struct unstick_request *request, struct unstick_request_action *ret_action);
void usk_request_destroy(struct unstick_request *request);
enum unstick_reclaim_strategy usk_request_strategy(const struct unstick_request *request);
bool usk_request_wants(const struct unstick_request *request, const char *name);
bool usk_request_may_wait(const struct unstick_request *request);

/* Brings requests that were freed before their end nearer to it. */
void usk_requests_tend(struct unstick_cache *cache, uint64_t now_ns);

/* --- flow.c --- */

/* Notes the first thing that went wrong and turns to the way out. */
void usk_flow_fail(struct unstick_request *request, int status);
bool usk_flow_is_canceled(struct unstick_request *request);
/* [lock] Comes again when something has changed, or after a while. */
void usk_flow_begin_waiting(struct unstick_request *request, enum unstick_wait wait);
void usk_flow_stop_waiting(struct unstick_request *request);
/* Fills in when to come again; false. */
bool usk_flow_wait_for_tasks(struct unstick_request *request, struct unstick_request_action *ret_action);
/* [lock] Everything that is wanted is on the device, under the settings that are wanted. */
bool usk_request_is_there(const struct unstick_request *request);

/* --- end.c: phases --- */

bool usk_flow_lease(struct unstick_request *request);
bool usk_flow_stop(struct unstick_request *request, struct unstick_request_action *ret_action);
bool usk_flow_undo(struct unstick_request *request, struct unstick_request_action *ret_action);

/* --- snapshot.c --- */

/*
 * Reads the device, with the host's figures. Asking for the other processes takes longer than all the rest and no plan
 * needs them; they are left out if somebody else asks just now.
 */
int usk_request_read(struct unstick_request *request, bool has_processes, struct unstick_reading *ret_reading);
/* [lock] Fills the view and decides. */
int usk_request_decide(struct unstick_request *request, const struct unstick_reading *reading);
/* [lock] The plan is carried out, or there was a hit: noted once per request for the account of what LRU had paid. */
void usk_request_note_plan(struct unstick_request *request);
void usk_request_note_hit(struct unstick_request *request);
void usk_view_fini(struct usk_view *view);

/* --- mark.c, moves.c --- */

int usk_moves_no_memory(struct unstick_request *request);
/* [lock] What is wanted and not there has to come, from the store, from files, or from the host. */
int usk_moves_mark_arrivals(struct unstick_request *request);

/* [lock] Marks what the plan moves, so that nobody else counts on it; from here on the request is the loader. */
int usk_moves_mark(struct unstick_request *request);
void usk_moves_forget_missing(struct unstick_request *request);
/* [lock] The moves that an eviction on request makes. */
int usk_moves_mark_eviction(struct unstick_request *request);
/* Submits what may be submitted now. */
int usk_moves_submit(struct unstick_request *request);
/* Looks at the tasks; true when all that were submitted are over. Failures are noted. */
bool usk_moves_poll(struct unstick_request *request);
/* What left is gone: stale components are taken out. [not under the lock] */
void usk_moves_settle_leaving(struct unstick_request *request);
/* [lock] After the host's load: what it registered and is not there has to arrive as well. */
int usk_moves_mark_added(struct unstick_request *request);
/* [lock] The marks go, the moves stay until they are finished. */
void usk_moves_unmark_all(struct unstick_request *request);
void usk_moves_cancel(struct unstick_request *request);
/* Submits the way back of what came; false: there is nothing to do. */
bool usk_moves_undo(struct unstick_request *request);
/* Drops all marks. If `is_lost`, what came with this request goes again: offers go back to the request. */
void usk_moves_finish(struct unstick_request *request, bool is_lost);
bool usk_moves_may_overlap(const struct unstick_request *request);

/* --- recover.c --- */

/* Starts a machine of reclaim.h for what the plan lacks. */
int usk_recover_begin(struct unstick_request *request);
/* True: it is over. Else ret_action is filled in. */
bool usk_recover_next(struct unstick_request *request, struct unstick_request_action *ret_action);
void usk_recover_report(struct unstick_request *request, const struct unstick_request_report *report);
void usk_recover_end(struct unstick_request *request);

/* --- failure.c --- */

/* The plan says no: an error with key, required, available, holders, what was tried and what to do. */
int usk_failure_refuse(struct unstick_request *request);
/* Writes the full text of a failure. */
void usk_failure_explain(struct unstick_request *request);

#endif
