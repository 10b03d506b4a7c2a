/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store outlives every job that works for it. Arenas and backings are freed by the baton's holder while
 * jobs may still work on them, and a job cannot free what it is embedded in: so what is freed stays on the
 * store's lists, as given up, until its jobs are over. Later calls of the baton's holder sweep the lists, the
 * end of the store waits.
 *
 * Waiting has to see the end of chains, in which one job submits the next: a pass over all jobs that finds
 * each of them over proves nothing if one was submitted behind its back. A count of submissions closes the
 * gap. What a stopped pool dropped is over too; its memory is then given back here, so the pool need not be
 * alive any more.
 */
#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "store/store_private.h"

int usk_store_new(struct usk_device *dev, struct usk_pool *pool, struct usk_budget *budget, uint64_t granule_bytes,
                  struct usk_store **ret_store, struct unstick_error *error)
{
    struct usk_store *store;

    if (!granule_bytes || granule_bytes % usk_os_page_bytes())
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "store",
                             "a granule of %llu bytes is not a multiple of the page",
                             (unsigned long long)granule_bytes);
    store = calloc(1, sizeof(*store));
    if (!store)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a store");
    store->dev = dev;
    store->pool = pool;
    store->budget = budget;
    store->granule_bytes = granule_bytes;
    store->piece_bytes = USK_PIECE_BYTES;
    pthread_mutex_init(&store->lock, NULL);
    store->fill_tail = &store->fill_head;
    store->n_filling_max = (unsigned int)usk_min(USK_BLOCK_SLICES_MAX, usk_pool_threads(pool));
    usk_ring_init(store);
    *ret_store = store;
    return UNSTICK_OK;
}

void usk_store_abandon(struct usk_store *store, bool is_abandoned)
{
    atomic_store(&store->is_abandoned, is_abandoned);
}

int usk_store_unregister(struct usk_store *store, void *address, uint64_t bytes, struct unstick_error *error)
{
    if (atomic_load(&store->is_abandoned))
        return usk_error_set(error, UNSTICK_DEVICE_LOST, 0, "unregister_host",
                             "the device does not say whether it still uses this memory");
    return store->dev->ops->unregister_host(store->dev, address, bytes, error);
}

void usk_store_submit(struct usk_store *store, struct usk_job *job)
{
    atomic_fetch_add(&store->n_submitted, 1);
    usk_pool_submit(store->pool, job);
}

void usk_store_wait(struct usk_store *store)
{
    uint64_t n_before;

    do {
        n_before = atomic_load(&store->n_submitted);
        usk_arena_wait(store);
        usk_backing_wait(store);
        for (unsigned int i = 0; i < USK_RING_MAX; i++)
            usk_block_wait(&store->ring[i]);
    } while (n_before != atomic_load(&store->n_submitted));
}

void usk_store_free(struct usk_store *store)
{
    if (!store)
        return;
    usk_store_wait(store);
    usk_arena_destroy_all(store);
    usk_backing_destroy_all(store);
    for (unsigned int i = 0; i < USK_RING_MAX; i++)
        usk_block_fini(&store->ring[i]);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

int usk_store_charge(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes, struct unstick_error *error)
{
    int r = usk_budget_reserve(store->budget, kind, bytes, error);

    if (r >= 0)
        store->charged_bytes[kind] += bytes;
    return r;
}

void usk_store_uncharge(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes)
{
    usk_budget_return(store->budget, kind, bytes);
    store->charged_bytes[kind] -= bytes;
}

void usk_store_recharge(struct usk_store *store, enum usk_budget_kind from, enum usk_budget_kind to, uint64_t bytes)
{
    usk_budget_move(store->budget, from, to, bytes);
    store->charged_bytes[from] -= bytes;
    store->charged_bytes[to] += bytes;
}

void usk_store_leak(struct usk_store *store, enum usk_budget_kind kind, uint64_t bytes)
{
    /* Buffers of the ring come back, and are waited for; this one does not. */
    if (kind == USK_BUDGET_RING) {
        usk_store_recharge(store, USK_BUDGET_RING, USK_BUDGET_PINNED, bytes);
        kind = USK_BUDGET_PINNED;
    }
    store->leaked_bytes[kind] += bytes;
    atomic_fetch_add(&store->budget->leaked_bytes, bytes);
}

void usk_store_log_leak(struct usk_store *store, uint64_t bytes, const struct unstick_error *why)
{
    char size[USK_SIZE_TEXT_MAX];

    usk_log_write(&store->dev->log, UNSTICK_LOG_ERROR, "%s of host memory stay taken until the process ends: %s",
                  usk_size_format(size, bytes), why->text);
}

bool usk_store_is_refusal(int status)
{
    return status == UNSTICK_UNSUPPORTED || status == UNSTICK_OUT_OF_HOST_MEMORY;
}

void usk_store_log_refusal(struct usk_store *store, const char *what, const struct unstick_error *why)
{
    if (!atomic_exchange(&store->has_logged_refusal, true))
        usk_log_write(&store->dev->log, UNSTICK_LOG_WARNING,
                      "the device does not register %s, copies go through a staging buffer and are slower: %s", what,
                      why->text);
}

void usk_store_squeeze(struct usk_store *store)
{
    usk_arena_squeeze(store);
    usk_ring_trim(store);
}

void usk_store_reap(struct usk_store *store)
{
    usk_arena_reap(store);
    usk_backing_reap(store);
}

bool usk_store_is_valid(struct usk_store *store)
{
    uint64_t held[USK_N_BUDGET_KINDS] = { 0 };
    bool is_valid = true;

    pthread_mutex_lock(&store->lock);
    usk_arena_count(store, held);
    usk_backing_count(store, held);
    for (unsigned int i = 0; i < USK_RING_MAX; i++)
        usk_block_count(&store->ring[i], held);
    for (enum usk_budget_kind kind = 0; kind < USK_N_BUDGET_KINDS; kind++) {
        if (held[kind] + store->leaked_bytes[kind] != store->charged_bytes[kind])
            is_valid = false;
        /* Other stores may be charged to the same budget. */
        if (store->charged_bytes[kind] > atomic_load(usk_budget_counter(store->budget, kind)))
            is_valid = false;
    }
    if (store->n_filling > store->n_filling_max)
        is_valid = false;
    pthread_mutex_unlock(&store->lock);
    if (atomic_load(&store->budget->reserved_bytes) > store->budget->limit_bytes)
        is_valid = false;
    return is_valid;
}
