/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A buffer is taken by one user at a time and only when it is ready. Buffers are made one after the other,
 * each only when all that there are are taken: two are enough to keep a link busy, the others are for tasks
 * side by side. A buffer that cannot be made is an error only for who would get none otherwise; everybody
 * else waits for one.
 */
#include "store/store_private.h"

void usk_ring_init(struct usk_store *store)
{
    for (unsigned int i = 0; i < USK_RING_MAX; i++)
        usk_block_init(&store->ring[i], store, store->granule_bytes, USK_BUDGET_RING, store->dev->caps.can_register);
}

/* Begins a buffer, if one is left to make. */
static int ring_make(struct usk_store *store, bool has_others, struct unstick_error *error)
{
    for (unsigned int i = 0; i < USK_RING_MAX; i++) {
        struct usk_block *block = &store->ring[i];
        int r = UNSTICK_PENDING;

        switch (usk_block_state(block)) {
        case USK_BLOCK_READY:
            continue;
        case USK_BLOCK_FAILED:
            /* With others in use it stays as it is, so that nobody tries for ever. */
            if (!has_others) {
                r = usk_block_poll(block, error);
                usk_block_drop(block);
            }
            break;
        case USK_BLOCK_EMPTY:
            r = usk_block_want(block, !has_others, error);
            break;
        case USK_BLOCK_MAKING:
        case USK_BLOCK_LEAVING:
            break;
        }
        return r < 0 && has_others ? UNSTICK_PENDING : r;
    }
    return UNSTICK_PENDING;
}

/* Takes a buffer that is free and ready. ret_has_others: some are ready, but taken. */
static bool ring_take(struct usk_store *store, void **ret_buffer, bool *ret_has_others)
{
    *ret_has_others = false;
    for (unsigned int i = 0; i < USK_RING_MAX; i++) {
        if (usk_block_state(&store->ring[i]) != USK_BLOCK_READY)
            continue;
        if (!store->ring_is_taken[i]) {
            store->ring_is_taken[i] = true;
            *ret_buffer = store->ring[i].address;
            return true;
        }
        *ret_has_others = true;
    }
    return false;
}

int usk_ring_get(struct usk_store *store, void **ret_buffer, struct unstick_error *error)
{
    bool has_others;

    return ring_take(store, ret_buffer, &has_others) ? UNSTICK_OK : ring_make(store, has_others, error);
}

bool usk_ring_try(struct usk_store *store, void **ret_buffer)
{
    bool has_failed = false, has_others;

    if (ring_take(store, ret_buffer, &has_others))
        return true;
    for (unsigned int i = 0; i < USK_RING_MAX; i++) {
        if (usk_block_state(&store->ring[i]) == USK_BLOCK_FAILED) {
            /* Nobody depends on it: it is empty again for who does. */
            usk_block_drop(&store->ring[i]);
            has_failed = true;
        }
    }
    if (!has_failed)
        (void)ring_make(store, true, NULL);
    return false;
}

void usk_ring_put(struct usk_store *store, void *buffer)
{
    for (unsigned int i = 0; i < USK_RING_MAX; i++) {
        if (store->ring_is_taken[i] && store->ring[i].address == buffer)
            store->ring_is_taken[i] = false;
    }
}

void usk_ring_trim(struct usk_store *store)
{
    for (unsigned int i = 0; i < USK_RING_MAX; i++) {
        if (!store->ring_is_taken[i] && usk_block_state(&store->ring[i]) == USK_BLOCK_READY)
            usk_block_drop(&store->ring[i]);
    }
}
