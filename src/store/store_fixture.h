/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_STORE_FIXTURE_H
#define USK_STORE_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/store_private.h"

/* A job that keeps a thread of the pool until it is opened. */
struct gate {
    struct usk_job job;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_entered, is_open;
};

/*
 * A store on a device that does nothing but keep account of registrations: what a driver would refuse (twice,
 * not as registered, memory that is not there) counts as a violation, and each call can be made to fail.
 */
#define GRANULE (UINT64_C(1) << 20)
#define PIECE (4 * GRANULE)

struct recorder {
    struct usk_device dev; /* first */
    pthread_mutex_t lock;
    struct {
        char *start;
        uint64_t bytes;
        unsigned int flags;
    } pins[256];
    unsigned int n_pins, n_registered, n_unregistered, n_violations, n_lines;
    /* The n-th call from now on and all later ones answer with this status; 0: none. */
    unsigned int register_fails_at, unregister_fails_at;
    int register_status;
    struct gate *register_gate; /* where the next registration waits; NULL: it does not */
    char last_line[512];
};

struct fixture {
    struct recorder recorder;
    struct usk_pool *pool;
    struct usk_budget budget;
    struct usk_store *store;
    struct gate gates[2];
    struct unstick_error error;
    char directory[64]; /* for files, removed at the end */
};

int fixture_setup(void **state);         /* four threads */
int fixture_setup_one_thread(void **state);
/* Ends the store and fails unless everything was given back but `leaked_bytes` of the fixture's recorder. */
int fixture_teardown(void **state);
/* Frees the store only, and looks as above. */
void fixture_end(struct fixture *f, uint64_t leaked_bytes);

/* With one thread: what is submitted behind a gate waits until it is opened. */
void gate_submit(struct fixture *f, struct gate *gate);
void gate_wait(struct gate *gate); /* until the thread stands at it */
void gate_open(struct fixture *f, struct gate *gate);
/* The first gate, and the thread stands at it. */
void gate_close(struct fixture *f);

/* Waits until nothing is queued or runs. */
void fixture_settle(struct fixture *f);

/* Bytes that are registered, mapped for the arena's sake or not. */
uint64_t recorder_pinned(struct recorder *recorder);
bool recorder_covers(struct recorder *recorder, const void *start, uint64_t bytes);

int arena_wait(struct fixture *f, struct usk_arena *arena, uint32_t index);
int backing_wait(struct fixture *f, struct usk_backing *backing, uint32_t index);
int ring_wait(struct fixture *f, void **ret_buffer);

/* Writes a file of `bytes` bytes whose byte at i is file_byte(seed, i); returns its path. */
const char *file_make(struct fixture *f, const char *name, unsigned int seed, uint64_t bytes);
uint8_t file_byte(unsigned int seed, uint64_t offset);

#endif
