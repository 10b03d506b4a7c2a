/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/device.h>
#include <unstick/task.h>

#include "workload.h"

/*
 * A session runs the requests of a workload for real on one device. All models' headers are read when it
 * opens; a model takes memory from its first request on. What replay and demo share.
 */
struct session_options {
    const char *device;
    uint64_t limit_bytes;   /* 0: none */
    uint64_t host_bytes;    /* 0: automatic */
    uint64_t granule_bytes; /* 0: the device's default */
    enum unstick_tier tier;
    bool is_verifying; /* compare every tensor with its file after every request */
};

enum session_action {
    SESSION_LOAD,    /* from the files, for the first time */
    SESSION_HIT,     /* all of it was resident */
    SESSION_RESTORE, /* at least a part of it had been evicted */
};

const char *session_action_name(enum session_action action);

struct session_eviction {
    size_t model;
    uint64_t bytes;
    uint64_t copied_bytes;
    double ms;
};

struct session_report {
    size_t model;
    enum session_action action;
    struct session_eviction *evicted; /* belongs to the session, until the next request */
    size_t n_evicted;
    uint64_t bytes;             /* moved to the device */
    double load_ms, restore_ms; /* the one of the action; the other is 0 */
    double evict_ms;            /* from the first eviction's start to the last one's end */
    double total_ms;
    uint64_t used_after_bytes;        /* what we hold */
    uint64_t device_used_after_bytes; /* what the device says is in use */
    bool is_verified;                 /* every byte was compared and is the file's */
};

struct session_summary {
    uint64_t n_loads, n_restores, n_hits, n_evictions;
    uint64_t residual_bytes;    /* what we hold after all was released, less the sentinel */
    int64_t device_delta_bytes; /* what the device says, against the start */
    uint64_t sentinel_bytes;
    const char *backup_tier;    /* "pinned", "pageable", "file", "mixed", or "none" */
    bool is_verified;           /* every request was */
    double reload_over_restore; /* time per byte; 0: one of the two never happened */
};

struct session;

/* workload outlives the session. */
int session_open(const struct session_options *options, const struct workload *workload,
                 struct session **ret_session, struct unstick_error *error);
/* The device as it was when the session opened. */
const struct unstick_device_info *session_device(const struct session *session);
/* Runs request number `index` of the workload. UNSTICK_CANCELED after an interruption. ret_report is written
 * whole or not at all; UNSTICK_MISMATCH if the contents are not the files', with a report. */
int session_request(struct session *session, size_t index, struct session_report *ret_report,
                    struct unstick_error *error);
/* Releases all models and says what is left. */
int session_finish(struct session *session, struct session_summary *ret_summary, struct unstick_error *error);
/* Ends the session; NULL is allowed. Without session_finish() what is left is released unseen. */
struct session *session_close(struct session *session);

#endif
