/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_STORE_PRIVATE_H
#define USK_STORE_STORE_PRIVATE_H

#include <pthread.h>

#include "store/block.h"
#include "store/budget.h"
#include "store/store.h"

/* The unit of registration: the driver's other calls wait for one that runs, so each is about a millisecond. */
#define USK_PIECE_BYTES (UINT64_C(64) << 20)

#define USK_RING_MAX 4

struct usk_store {
    struct usk_device *dev;
    struct usk_pool *pool;
    struct usk_budget *budget;
    uint64_t granule_bytes;
    uint64_t piece_bytes; /* USK_PIECE_BYTES; tests make it small */

    /* Over the states of blocks and file pieces, what is charged for them, and the queue of blocks to
     * touch. Held for a few instructions only, never over a call to the device or the system. */
    pthread_mutex_t lock;
    uint64_t charged_bytes[USK_N_BUDGET_KINDS], leaked_bytes[USK_N_BUDGET_KINDS];
    struct usk_block *fill_head;
    struct usk_block **fill_tail;
    unsigned int n_filling, n_filling_max;

    /* Counts up with every submission: who sees all jobs over and no change meanwhile knows that none
     * runs. */
    atomic_uint_least64_t n_submitted;
    atomic_bool has_logged_refusal;
    atomic_bool is_abandoned;

    /* The holder of the baton's. */
    struct usk_arena *arenas;
    struct usk_backing *backings;
    struct usk_block ring[USK_RING_MAX];
    bool ring_is_taken[USK_RING_MAX];
};

/* Ends a registration, unless the device may still use it. */
int usk_store_unregister(struct usk_store *store, void *address, uint64_t bytes, struct unstick_error *error);

void usk_store_submit(struct usk_store *store, struct usk_job *job);

/* Under the lock: the budget and the store's own account together. */
int usk_store_charge(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes, struct unstick_error *error);
void usk_store_uncharge(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes);
void usk_store_recharge(struct usk_store *store, enum usk_budget_kind from, enum usk_budget_kind to, uint64_t bytes);
/* Counts charged bytes that the device keeps; they are never uncharged. */
void usk_store_leak(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes);
/* Without the lock: says so. */
void usk_store_log_leak(struct usk_store *store, uint64_t bytes, const struct unstick_error *why);

/* True if a failure of register_host() means "do without". */
bool usk_store_is_refusal(int status);
/* Says so, once per store. */
void usk_store_log_refusal(struct usk_store *store, const char *what, const struct unstick_error *why);

/* The budget is short: starts giving back what nobody holds. */
void usk_store_squeeze(struct usk_store *store);
/* [blocks] Until no job of the store is queued or runs. */
void usk_store_wait(struct usk_store *store);
/* Frees the arenas and backings that are given up and whose jobs are over. */
void usk_store_reap(struct usk_store *store);

/* What store.c needs of the lists. An arena or backing that was given up is freed by _reap() if its jobs
 * are over; by _destroy() in any case, when no job can run any more. */
void usk_arena_reap(struct usk_store *store);
void usk_arena_wait(struct usk_store *store);
void usk_arena_squeeze(struct usk_store *store);
void usk_arena_destroy_all(struct usk_store *store);
void usk_arena_count(struct usk_store *store, uint64_t bytes[USK_N_BUDGET_KINDS]);

void usk_backing_reap(struct usk_store *store);
void usk_backing_wait(struct usk_store *store);
void usk_backing_destroy_all(struct usk_store *store);
void usk_backing_count(struct usk_store *store, uint64_t bytes[USK_N_BUDGET_KINDS]);

void usk_ring_init(struct usk_store *store);

#endif
