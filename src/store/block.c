/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A block of host memory is charged to the budget before anything is mapped and uncharged after everything is
 * unmapped, whatever happens in between; only memory that the device does not let go of stays charged, for
 * ever.
 *
 * Making one is a chain of jobs: one maps it, up to four touch a slice each, and whoever touched the last
 * slice registers it. Touching (31 GB/s on four threads, less on more) and registering (60 GB/s) of
 * neighbouring blocks run beside each other that way, and no job ever waits for another, so a pool of one
 * thread works as well. All slices of a store stand in one queue, first block first, at most four of them in
 * the pool: however many blocks are asked for, the first one is done first.
 *
 * The owner may lose interest at any time. is_wanted is looked at before each expensive step, and the chain
 * ends by giving the memory back itself; a block that is wanted again before that happened just goes on. All
 * of this is decided under the store's lock, all of it is done without.
 *
 * A job may only be queued again once the pool has let go of it, which is a moment after its last effect can
 * be seen. So a block starts anew only when all its jobs are over; until then it is EMPTY and whoever polls
 * it starts it.
 */
#include "store/block.h"

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "store/store_private.h"

#define BLOCK_SLICE_MIN_BYTES (UINT64_C(16) << 20)

static void block_lock(struct usk_block *block)
{
    pthread_mutex_lock(&block->store->lock);
}

static void block_unlock(struct usk_block *block)
{
    pthread_mutex_unlock(&block->store->lock);
}

/* Under the lock: how much of it is about to go back. */
static void block_set_leaving(struct usk_block *block, uint64_t bytes)
{
    atomic_uint_least64_t *counter = &block->store->budget->leaving_bytes;

    atomic_fetch_add(counter, bytes);
    atomic_fetch_sub(counter, block->leaving_bytes);
    block->leaving_bytes = bytes;
}

/* Gives everything back; the state is the caller's to change. */
static void block_give_back(struct usk_block *block, bool is_pinned)
{
    struct usk_store *store = block->store;
    struct unstick_error error;
    uint64_t leaked_bytes = 0;
    int r = UNSTICK_OK;

    if (block->address) {
        if (is_pinned)
            r = usk_store_unregister(store, block->address, block->bytes, &error);
        /* What the device may still write to must not become somebody else's memory: the addresses are left over. */
        usk_device_begin_paging(store->dev);
        if (r >= 0)
            r = usk_os_unmap(block->address, block->bytes, &error);
        else
            usk_os_forget(block->address, block->bytes);
        usk_device_end_paging(store->dev);
    }

    block_lock(block);
    if (r < 0) {
        leaked_bytes = block->charged_bytes;
        usk_store_leak(store, block->charged_kind, leaked_bytes);
    } else {
        usk_store_uncharge(store, block->charged_kind, block->charged_bytes);
    }
    block_set_leaving(block, 0);
    block->charged_bytes = 0;
    block->address = NULL;
    block->is_pinned = false;
    block_unlock(block);

    if (r < 0)
        usk_store_log_leak(store, leaked_bytes, &error);
}

static void block_set_state(struct usk_block *block, enum usk_block_state state)
{
    block_lock(block);
    block->state = state;
    block_unlock(block);
}

/* The end of a chain that did not make it, because of block->error or for lack of interest. */
static void block_end_without(struct usk_block *block, bool is_pinned)
{
    block_give_back(block, is_pinned);
    block_lock(block);
    block->state = block->state == USK_BLOCK_MAKING && block->is_wanted ? USK_BLOCK_FAILED : USK_BLOCK_EMPTY;
    block_unlock(block);
}

/* True if the chain has to end; from then on nobody can revive it. */
static bool block_is_given_up(struct usk_block *block)
{
    bool is_given_up;

    block_lock(block);
    if (!block->is_wanted)
        block->state = USK_BLOCK_LEAVING;
    is_given_up = block->state == USK_BLOCK_LEAVING || block->error.status < 0;
    block_unlock(block);
    return is_given_up;
}

static void block_fail(struct usk_block *block, const struct unstick_error *error)
{
    block_lock(block);
    if (block->error.status >= 0)
        block->error = *error;
    block_unlock(block);
}

/* Everything is touched: registers it. */
static void block_finish(struct usk_block *block)
{
    struct usk_store *store = block->store;
    struct unstick_error error;
    bool is_pinned = false, is_ready;

    if (block_is_given_up(block)) {
        block_end_without(block, false);
        return;
    }
    if (block->wants_pin) {
        int r = store->dev->ops->register_host(store->dev, block->address, block->bytes, 0, &error);

        is_pinned = r >= 0;
        if (usk_store_is_refusal(r)) {
            usk_store_log_refusal(store, "host memory", &error);
        } else if (r < 0) {
            block_fail(block, &error);
            block_end_without(block, false);
            return;
        }
    }

    block_lock(block);
    is_ready = block->is_wanted;
    block->state = is_ready ? USK_BLOCK_READY : USK_BLOCK_LEAVING;
    block->is_pinned = is_pinned;
    if (!is_pinned && block->charged_kind == USK_BUDGET_PINNED) {
        usk_store_recharge(store, USK_BUDGET_PINNED, USK_BUDGET_PAGEABLE, block->charged_bytes);
        block->charged_kind = USK_BUDGET_PAGEABLE;
    }
    block_unlock(block);
    if (!is_ready)
        block_end_without(block, is_pinned);
}

static uint64_t block_slice_bytes(const struct usk_block *block)
{
    uint64_t n = usk_min(USK_BLOCK_SLICES_MAX, usk_div_up(block->bytes, BLOCK_SLICE_MIN_BYTES));

    /* No huge page is shared by two threads. */
    return usk_div_up(usk_div_up(block->bytes, n), USK_OS_HUGE_PAGE_BYTES) * USK_OS_HUGE_PAGE_BYTES;
}

/* Hands slices to the pool, as many as may run. */
static void block_pump(struct usk_store *store)
{
    for (;;) {
        struct usk_block *block;
        struct usk_block_job *slice = NULL;

        pthread_mutex_lock(&store->lock);
        block = store->fill_head;
        if (block && store->n_filling < store->n_filling_max) {
            slice = &block->slices[block->n_slices_taken++];
            store->n_filling++;
            if (block->n_slices_taken == block->n_slices) {
                store->fill_head = block->fill_next;
                if (!store->fill_head)
                    store->fill_tail = &store->fill_head;
            }
        }
        pthread_mutex_unlock(&store->lock);
        if (!slice)
            return;
        usk_store_submit(store, &slice->job);
    }
}

/* Piece by piece, so that the device's calls are never kept waiting for long. */
static int block_touch(struct usk_block *block, uint64_t offset, uint64_t bytes, struct unstick_error *error)
{
    struct usk_device *dev = block->store->dev;
    int r = UNSTICK_OK;

    for (uint64_t end = offset + bytes; offset < end && r >= 0; offset += USK_OS_HUGE_PAGE_BYTES) {
        usk_device_begin_paging(dev);
        r = usk_os_populate((char *)block->address + offset, usk_min(USK_OS_HUGE_PAGE_BYTES, end - offset), error);
        usk_device_end_paging(dev);
    }
    return r;
}

static void block_run_slice(struct usk_job *job)
{
    struct usk_block_job *slice = (struct usk_block_job *)job;
    struct usk_block *block = slice->block;
    struct usk_store *store = block->store;
    uint64_t slice_bytes = block_slice_bytes(block), offset = (uint64_t)(slice - block->slices) * slice_bytes;
    bool is_last;

    if (!block_is_given_up(block)) {
        struct unstick_error error;
        int r = block_touch(block, offset, usk_min(slice_bytes, block->bytes - offset), &error);

        if (r < 0)
            block_fail(block, &error);
    }

    block_lock(block);
    store->n_filling--;
    is_last = !--block->n_slices_left;
    block_unlock(block);
    block_pump(store);
    if (is_last)
        block_finish(block);
}

static void block_run_map(struct usk_job *job)
{
    struct usk_block *block = ((struct usk_block_job *)job)->block;
    struct usk_store *store = block->store;
    struct unstick_error error;
    int r;

    if (block_is_given_up(block)) {
        block_end_without(block, false);
        return;
    }
    r = usk_budget_check_machine(block->bytes, &error);
    if (r >= 0)
        r = usk_os_map_anonymous(block->bytes, &block->address, &error);
    if (r < 0) {
        block_fail(block, &error);
        block_end_without(block, false);
        return;
    }
    usk_os_prefer_node(block->address, block->bytes, store->dev->caps.numa_node);

    block_lock(block);
    block->n_slices = (unsigned int)usk_div_up(block->bytes, block_slice_bytes(block));
    block->n_slices_left = block->n_slices;
    block->n_slices_taken = 0;
    block->fill_next = NULL;
    *store->fill_tail = block;
    store->fill_tail = &block->fill_next;
    block_unlock(block);
    block_pump(store);
}

static void block_run_release(struct usk_job *job)
{
    struct usk_block *block = ((struct usk_block_job *)job)->block;

    block_give_back(block, block->is_pinned);
    block_set_state(block, USK_BLOCK_EMPTY);
}

static void block_job_init(struct usk_block *block, struct usk_block_job *job, void (*run)(struct usk_job *job))
{
    job->block = block;
    job->job.run = run;
    atomic_init(&job->job.state, USK_JOB_IDLE);
}

void usk_block_init(struct usk_block *block, struct usk_store *store, uint64_t bytes, enum usk_budget_kind kind,
                    bool wants_pin)
{
    *block = (struct usk_block){ .store = store, .bytes = bytes, .kind = kind, .wants_pin = wants_pin };
    block_job_init(block, &block->map, block_run_map);
    block_job_init(block, &block->release, block_run_release);
    for (unsigned int i = 0; i < USK_BLOCK_SLICES_MAX; i++)
        block_job_init(block, &block->slices[i], block_run_slice);
}

enum usk_block_state usk_block_state(struct usk_block *block)
{
    enum usk_block_state state;

    block_lock(block);
    state = block->state;
    block_unlock(block);
    return state;
}

bool usk_block_is_idle(struct usk_block *block)
{
    bool is_idle = usk_job_is_over(&block->map.job) && usk_job_is_over(&block->release.job);

    for (unsigned int i = 0; i < USK_BLOCK_SLICES_MAX; i++)
        is_idle = is_idle && usk_job_is_over(&block->slices[i].job);
    return is_idle;
}

/* Under the lock: charges an empty block. What is charged the queue may work on. */
static int block_begin(struct usk_block *block, struct unstick_error *error)
{
    int r = usk_store_charge(block->store, block->kind, block->bytes, error);

    if (r < 0)
        return r;
    block->charged_kind = block->kind;
    block->charged_bytes = block->bytes;
    block->state = USK_BLOCK_MAKING;
    block->is_wanted = true;
    block->error = (struct unstick_error){ 0 };
    usk_job_reset(&block->map.job);
    usk_job_reset(&block->release.job);
    for (unsigned int i = 0; i < USK_BLOCK_SLICES_MAX; i++)
        usk_job_reset(&block->slices[i].job);
    return UNSTICK_OK;
}

int usk_block_want(struct usk_block *block, bool may_squeeze, struct unstick_error *error)
{
    struct usk_store *store = block->store;
    bool is_begun = false;
    int r = UNSTICK_PENDING;

    block_lock(block);
    switch (block->state) {
    case USK_BLOCK_READY:
        r = UNSTICK_OK;
        break;
    case USK_BLOCK_MAKING:
        block->is_wanted = true;
        block_set_leaving(block, 0);
        break;
    case USK_BLOCK_LEAVING:
        break;
    case USK_BLOCK_EMPTY:
    case USK_BLOCK_FAILED:
        if (usk_block_is_idle(block)) {
            r = block_begin(block, error);
            is_begun = r >= 0;
        } else {
            block->state = USK_BLOCK_EMPTY;
        }
        break;
    }
    block_unlock(block);

    if (is_begun) {
        usk_store_submit(store, &block->map.job);
        return UNSTICK_PENDING;
    }
    if (r < 0) {
        if (may_squeeze)
            usk_store_squeeze(store);
        if (!usk_budget_will_fit(store->budget, block->kind, block->bytes))
            return r;
        /* It will fit in a moment: whoever polls begins it then. */
        block_set_state(block, USK_BLOCK_EMPTY);
        return UNSTICK_PENDING;
    }
    return r;
}

int usk_block_poll(struct usk_block *block, struct unstick_error *error)
{
    enum usk_block_state state;
    struct unstick_error why;

    block_lock(block);
    state = block->state;
    why = block->error;
    block_unlock(block);

    switch (state) {
    case USK_BLOCK_READY:
        return UNSTICK_OK;
    case USK_BLOCK_FAILED:
        if (error)
            *error = why;
        return why.status;
    case USK_BLOCK_EMPTY:
        return usk_block_want(block, true, error);
    case USK_BLOCK_MAKING:
    case USK_BLOCK_LEAVING:
        break;
    }
    return UNSTICK_PENDING;
}

void usk_block_drop(struct usk_block *block)
{
    bool is_leaving = false;

    block_lock(block);
    block->is_wanted = false;
    switch (block->state) {
    case USK_BLOCK_READY:
        /* Its release job is over: it was when the block was begun. */
        is_leaving = true;
        block->state = USK_BLOCK_LEAVING;
        block_set_leaving(block, block->charged_bytes);
        break;
    case USK_BLOCK_MAKING:
        block_set_leaving(block, block->charged_bytes);
        break;
    case USK_BLOCK_FAILED:
        block->state = USK_BLOCK_EMPTY;
        break;
    case USK_BLOCK_EMPTY:
    case USK_BLOCK_LEAVING:
        break;
    }
    block_unlock(block);
    if (is_leaving)
        usk_store_submit(block->store, &block->release.job);
}

static void block_job_wait(struct usk_block *block, struct usk_block_job *job)
{
    /* Not even the pool is touched for a job that is over: it may be gone by now, and have dropped the
     * job. */
    if (!usk_job_is_over(&job->job))
        usk_pool_wait(block->store->pool, &job->job);
}

void usk_block_wait(struct usk_block *block)
{
    block_job_wait(block, &block->map);
    for (unsigned int i = 0; i < USK_BLOCK_SLICES_MAX; i++)
        block_job_wait(block, &block->slices[i]);
    block_job_wait(block, &block->release);
}

void usk_block_fini(struct usk_block *block)
{
    block_give_back(block, block->is_pinned);
    block_set_state(block, USK_BLOCK_EMPTY);
}

void usk_block_count(const struct usk_block *block, uint64_t bytes[USK_N_BUDGET_KINDS])
{
    bytes[block->charged_kind] += block->charged_bytes;
}
