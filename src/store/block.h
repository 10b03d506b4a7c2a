/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_BLOCK_H
#define USK_STORE_BLOCK_H

#include "base/worker.h"
#include "store/budget.h"

struct usk_store;
struct usk_block;

/* Threads that touch one block at a time: four reach the full speed, more are slower. */
#define USK_BLOCK_SLICES_MAX 4

enum usk_block_state {
    USK_BLOCK_EMPTY,   /* no memory */
    USK_BLOCK_MAKING,  /* jobs map, touch and register it */
    USK_BLOCK_READY,   /* usable */
    USK_BLOCK_FAILED,  /* no memory; error says why */
    USK_BLOCK_LEAVING, /* a job gives it back */
};

struct usk_block_job {
    struct usk_job job; /* first */
    struct usk_block *block;
};

/* A stretch of host memory of our own: a piece of an arena, or a buffer of the ring. Lives inside its
 * owner, at one address. */
struct usk_block {
    struct usk_store *store;
    uint64_t bytes;
    enum usk_budget_kind kind; /* what it is charged as when it is made */
    bool wants_pin;

    /* Under the store's lock. */
    enum usk_block_state state;
    bool is_wanted;
    bool is_pinned;
    enum usk_budget_kind charged_kind;
    uint64_t charged_bytes, leaving_bytes;
    unsigned int n_slices, n_slices_taken, n_slices_left;
    struct usk_block *fill_next;
    struct unstick_error error;

    /* Its job's until it is READY, its owner's then. */
    void *address;

    struct usk_block_job map, release, slices[USK_BLOCK_SLICES_MAX];
};

void usk_block_init(struct usk_block *block, struct usk_store *store, uint64_t bytes, enum usk_budget_kind kind,
                    bool wants_pin);

enum usk_block_state usk_block_state(struct usk_block *block);

/* Sees to it that the block is there, or becomes so: OK, PENDING, or a failure to begin; one that failed
 * before is tried again. may_squeeze: others give back what they do not hold if the budget is short. */
int usk_block_want(struct usk_block *block, bool may_squeeze, struct unstick_error *error);
/* The same for who wants it already, only that a failure stays. */
int usk_block_poll(struct usk_block *block, struct unstick_error *error);
/* Nobody wants it any more. */
void usk_block_drop(struct usk_block *block);

/* True if no job of it is queued or runs. */
bool usk_block_is_idle(struct usk_block *block);
/* [blocks] Waits for the jobs that are queued or run now. */
void usk_block_wait(struct usk_block *block);
/* [blocks] No job can run any more: gives everything back here and now. */
void usk_block_fini(struct usk_block *block);

/* Adds what is charged for it. Under the lock. */
void usk_block_count(const struct usk_block *block, uint64_t bytes[USK_N_BUDGET_KINDS]);

#endif
