/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_RECLAIM_TEST_HOST_H
#define USK_RECLAIM_TEST_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/reclaim.h>

/*
 * A host with a torch and a clock that are simulated: it performs what a machine asks for, as torch does (an emptied
 * cache gives back wholly free segments only; a collection moves what was in cycles into the cache), and lets things
 * happen at given times. Nothing sleeps.
 */

enum test_event_kind {
    TEST_RELEASE,   /* bytes of referenced tensors go back to the driver */
    TEST_LET_GO,    /* bytes of referenced tensors go into torch's cache */
    TEST_ORPHAN,    /* bytes of referenced tensors are left in a cycle */
    TEST_OTHERS,    /* others take bytes; negative: give back */
    TEST_LEASES,    /* bytes is the number of leases from now on */
    TEST_PENDING,   /* bytes is the set of causes from now on */
    TEST_CACHE,     /* bytes: the cache is empty from now on, or not */
    TEST_CANCEL,    /* the run is canceled */
    TEST_LOSE,      /* the device cannot be read any more */
};

struct test_event {
    uint64_t at_ms;
    enum test_event_kind kind;
    int64_t bytes;
};

#define TEST_EVENTS_MAX 16
#define TEST_TRACE_MAX 4096

struct test_host {
    uint64_t now_ns;
    uint64_t total_bytes, context_bytes;
    uint64_t referenced_bytes; /* torch: live */
    uint64_t cyclic_bytes;     /* torch: live until collected */
    uint64_t hooked_bytes;     /* torch: live until hooks are detached and collected */
    uint64_t streamed_bytes;   /* torch: freed, until its stream is synchronized */
    uint64_t ipc_bytes;        /* torch: live until ipc_collect */
    uint64_t workspace_bytes;  /* torch: live until the workspaces are cleared; pins pinned_bytes */
    uint64_t pinned_bytes;     /* torch: free parts of used segments */
    uint64_t cached_bytes;     /* torch: wholly free segments */
    uint64_t resident_bytes, others_bytes;
    uint64_t limit_bytes;
    unsigned int sources;
    uint64_t action_ms;        /* what each action takes */
    bool is_clock_frozen;
    bool is_lost;
    unsigned int fails;        /* UNSTICK_ACTION_BIT: these return `fails_with` */
    int fails_with;
    struct unstick_reclaim_report report;
    struct test_event events[TEST_EVENTS_MAX];
    size_t n_events;

    struct unstick_process process;
    struct unstick_reclaim_action trace[TEST_TRACE_MAX];
    uint64_t trace_ms[TEST_TRACE_MAX]; /* when each was asked for */
    bool trace_leased[TEST_TRACE_MAX]; /* what the machine had been told by then */
    size_t n_trace;
    uint64_t slept_ms;
    uint64_t target_bytes;
    size_t n_readings, n_enough;       /* measurements, and those that met target_bytes */
    uint64_t first_free_bytes, last_free_bytes;
};

/* 24 GiB, a context of 512 MiB, all sources, nothing in use, the clock at an odd hour. */
void test_host_init(struct test_host *host);
void test_host_at(struct test_host *host, uint64_t at_ms, enum test_event_kind kind, int64_t bytes);
uint64_t test_host_free_bytes(const struct test_host *host);
void test_host_read(struct test_host *host, struct unstick_reading *reading);
/* Runs a machine to its end. False if it does not end within TEST_TRACE_MAX actions or breaks the contract. */
bool test_host_run(struct test_host *host, struct unstick_reclaim *machine);
/* How many actions of a kind were asked for. */
size_t test_host_count(const struct test_host *host, enum unstick_action_kind kind);

#endif
