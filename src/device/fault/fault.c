/* SPDX-License-Identifier: Apache-2.0 */
/*
 * All calls are counted in one order under one lock, and a call that is to fail does so before the inner device hears
 * of it: so it changed nothing, and the n-th call of one run is the n-th call of the next. The lock is not held while
 * the inner device works.
 *
 * What was submitted before a loss has ended by the time anybody is told of it, as on a device that really is lost.
 *
 * Tickets are wrapped, as each has its own count of answers that it still owes. An answer that is made up to be
 * PENDING signals the event again: who waits for it has been told once, and would wait for ever.
 */
#include "device/fault/fault.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "device/fault/ledger.h"
#include "device/slots.h"

struct fault {
    struct usk_device dev;
    struct usk_device *inner;
    pthread_mutex_t lock;
    struct usk_fault_script script;
    uint64_t n_calls, n_failed;
    struct usk_slots tickets;
    struct usk_fault_ledger ledger;
};

struct fault_ticket {
    uint64_t inner;
    uint32_t n_pending; /* answers that are made up */
};

static const char *const fault_op_names[USK_N_FAULT_OPS] = {
    [USK_FAULT_MEMORY_INFO] = "memory_info",
    [USK_FAULT_RESERVE] = "reserve",
    [USK_FAULT_UNRESERVE] = "unreserve",
    [USK_FAULT_CREATE] = "create",
    [USK_FAULT_RELEASE] = "release",
    [USK_FAULT_MAP] = "map",
    [USK_FAULT_UNMAP] = "unmap",
    [USK_FAULT_COPY_UP] = "copy_up",
    [USK_FAULT_COPY_DOWN] = "copy_down",
    [USK_FAULT_COPY_ACROSS] = "copy_across",
    [USK_FAULT_FILL] = "fill",
    [USK_FAULT_HASH] = "hash",
    [USK_FAULT_ORDER] = "order",
    [USK_FAULT_MARK] = "mark",
    [USK_FAULT_FENCE_STREAM] = "fence_stream",
    [USK_FAULT_FENCE_DEVICE] = "fence_device",
    [USK_FAULT_POLL] = "poll",
    [USK_FAULT_REGISTER] = "register_host",
    [USK_FAULT_UNREGISTER] = "unregister_host",
    [USK_FAULT_HOST_ALLOC] = "host_alloc",
    [USK_FAULT_HOST_FREE] = "host_free",
};

const char *usk_fault_op_name(enum usk_fault_op op)
{
    return fault_op_names[op];
}

static struct fault *fault_from(struct usk_device *dev)
{
    return (struct fault *)dev;
}

/* Under the lock. Counts the call and says with which status it fails; UNSTICK_OK: it does not. */
static int fault_judge(struct fault *fault, enum usk_fault_op op)
{
    const struct usk_fault_script *script = &fault->script;
    bool is_counted = (!script->op_mask || script->op_mask & (UINT64_C(1) << op)) &&
                      (op != USK_FAULT_POLL || script->count_polls);

    if (is_counted)
        fault->n_calls++;
    if (script->lose_at && fault->n_calls >= script->lose_at)
        return UNSTICK_DEVICE_LOST;
    if (!is_counted || !script->fail_at || fault->n_calls < script->fail_at ||
        (fault->n_calls > script->fail_at && !script->is_for_ever))
        return UNSTICK_OK;
    if (script->status)
        return script->status;
    return op == USK_FAULT_CREATE ? UNSTICK_OUT_OF_DEVICE_MEMORY : UNSTICK_DRIVER;
}

/* A device that is lost runs nothing, and who hears that it is lost takes his memory back. The inner device is well, so
 * what it runs is waited for, by everybody who is told: another thread may have submitted something just before. */
static void fault_drain(struct fault *fault)
{
    struct usk_device *inner = fault->inner;
    uint64_t ticket;

    if (inner->ops->fence_device(inner, &ticket, NULL) < 0)
        return;
    while (usk_device_poll(inner, ticket, NULL) == UNSTICK_PENDING)
        sched_yield();
}

static int fault_enter(struct fault *fault, enum usk_fault_op op, struct unstick_error *error)
{
    struct timespec delay = { 0 };
    uint64_t n_calls;
    int status;

    pthread_mutex_lock(&fault->lock);
    status = fault_judge(fault, op);
    n_calls = fault->n_calls;
    delay.tv_sec = fault->script.delay_us / 1000000;
    delay.tv_nsec = fault->script.delay_us % 1000000 * 1000L;
    if (status < 0)
        fault->n_failed++;
    pthread_mutex_unlock(&fault->lock);
    if (delay.tv_sec || delay.tv_nsec)
        nanosleep(&delay, NULL);
    if (status == UNSTICK_OK)
        return UNSTICK_OK;
    if (status == UNSTICK_DEVICE_LOST)
        fault_drain(fault);
    return usk_error_set(error, status, 0, fault_op_names[op], "made to fail by the fault device: %s, call %" PRIu64,
                         fault_op_names[op], n_calls);
}

static uint64_t fault_steal_bytes(struct fault *fault)
{
    uint64_t bytes;

    pthread_mutex_lock(&fault->lock);
    bytes = fault->script.steal_bytes;
    pthread_mutex_unlock(&fault->lock);
    return bytes;
}

static void fault_close(struct usk_device *dev)
{
    struct fault *fault = fault_from(dev);

    fault_drain(fault);
    usk_fault_ledger_undo(&fault->ledger, fault->inner);
    usk_device_close(fault->inner);
    usk_fault_ledger_fini(&fault->ledger);
    usk_slots_fini(&fault->tickets);
    pthread_mutex_destroy(&fault->lock);
    free(fault);
}

static int fault_free_bytes(struct fault *fault, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                            struct unstick_error *error)
{
    uint64_t free_bytes;
    int r;

    r = fault->inner->ops->memory_info(fault->inner, &free_bytes, ret_total_bytes, error);
    if (r < 0)
        return r;
    *ret_free_bytes = free_bytes - usk_min(free_bytes, fault_steal_bytes(fault));
    return UNSTICK_OK;
}

static int fault_memory_info(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                             struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_MEMORY_INFO, error);
    return r < 0 ? r : fault_free_bytes(fault, ret_free_bytes, ret_total_bytes, error);
}

static int fault_reserve(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                         struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_RESERVE, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->reserve(fault->inner, bytes, align_bytes, ret_address, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_add(&fault->ledger, USK_LEDGER_RANGE, *ret_address, bytes);
    return r;
}

static int fault_unreserve(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_UNRESERVE, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->unreserve(fault->inner, address, bytes, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_remove(&fault->ledger, USK_LEDGER_RANGE, address, 1);
    return r;
}

static int fault_create(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    uint64_t free_bytes, total_bytes;
    int r;

    r = fault_enter(fault, USK_FAULT_CREATE, error);
    if (r < 0)
        return r;
    if (fault_steal_bytes(fault)) {
        r = fault_free_bytes(fault, &free_bytes, &total_bytes, error);
        if (r < 0)
            return r;
        if (bytes > free_bytes) {
            r = usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "create",
                              "asked for %" PRIu64 " bytes, %" PRIu64 " are free: the fault device took the rest",
                              bytes, free_bytes);
            usk_error_shortage(error, bytes, free_bytes);
            return r;
        }
    }
    r = fault->inner->ops->create(fault->inner, bytes, ret_handle, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_add(&fault->ledger, USK_LEDGER_HANDLE, *ret_handle, bytes);
    return r;
}

static int fault_release(struct usk_device *dev, uint64_t handle, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_RELEASE, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->release(fault->inner, handle, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_remove(&fault->ledger, USK_LEDGER_HANDLE, handle, 1);
    return r;
}

/* Whether a map is to answer BUSY; counted down. */
static bool fault_is_busy(struct fault *fault)
{
    bool is_busy;

    pthread_mutex_lock(&fault->lock);
    is_busy = fault->script.busy_maps;
    if (is_busy)
        fault->script.busy_maps--;
    pthread_mutex_unlock(&fault->lock);
    return is_busy;
}

static int fault_map_repeated(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                              uint64_t piece_bytes, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_MAP, error);
    if (r < 0)
        return r;
    if (fault_is_busy(fault))
        return usk_error_set(error, UNSTICK_BUSY, 0, "map", "made busy by the fault device: try again");
    r = fault->inner->ops->map_repeated(fault->inner, address, bytes, handle, piece_bytes, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_add(&fault->ledger, USK_LEDGER_MAPPING, address, bytes);
    return r;
}

static int fault_map(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                     struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_MAP, error);
    if (r < 0)
        return r;
    if (fault_is_busy(fault))
        return usk_error_set(error, UNSTICK_BUSY, 0, "map", "made busy by the fault device: try again");
    r = fault->inner->ops->map(fault->inner, address, bytes, handle, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_add(&fault->ledger, USK_LEDGER_MAPPING, address, bytes);
    return r;
}

static int fault_unmap(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_UNMAP, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->unmap(fault->inner, address, bytes, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_remove(&fault->ledger, USK_LEDGER_MAPPING, address, bytes);
    return r;
}

static int fault_copy_up(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *host,
                         uint64_t bytes, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_COPY_UP, error);
    return r < 0 ? r : fault->inner->ops->copy_up(fault->inner, lane, address, host, bytes, error);
}

static int fault_copy_down(struct usk_device *dev, enum usk_lane lane, void *host, uint64_t address, uint64_t bytes,
                           struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_COPY_DOWN, error);
    return r < 0 ? r : fault->inner->ops->copy_down(fault->inner, lane, host, address, bytes, error);
}

static int fault_copy_across(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                             struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_COPY_ACROSS, error);
    return r < 0 ? r : fault->inner->ops->copy_across(fault->inner, lane, to, from, bytes, error);
}

static int fault_fill(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                      struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_FILL, error);
    return r < 0 ? r : fault->inner->ops->fill(fault->inner, lane, address, value, bytes, error);
}

static int fault_hash(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                      uint32_t slot, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_HASH, error);
    return r < 0 ? r : fault->inner->ops->hash(fault->inner, lane, address, piece_bytes, n, slot, error);
}

static int fault_order(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_ORDER, error);
    return r < 0 ? r : fault->inner->ops->order(fault->inner, lane, after, error);
}

/* The place of a ticket is made before the inner device is asked, so that a ticket of its is never lost. */
static int fault_ticket_new(struct fault *fault, uint64_t *ret_id, struct unstick_error *error)
{
    struct fault_ticket *ticket;

    pthread_mutex_lock(&fault->lock);
    ticket = usk_slots_new(&fault->tickets, ret_id);
    if (ticket)
        ticket->n_pending = fault->script.pending_polls;
    pthread_mutex_unlock(&fault->lock);
    if (!ticket)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "no memory for a ticket");
    return UNSTICK_OK;
}

/* Ends the making of a ticket: it stands for the inner one, or for nothing where that was refused. */
static int fault_ticket_end(struct fault *fault, uint64_t id, uint64_t inner, int status, uint64_t *ret_ticket)
{
    pthread_mutex_lock(&fault->lock);
    if (status < 0)
        usk_slots_free(&fault->tickets, id);
    else
        ((struct fault_ticket *)usk_slots_get(&fault->tickets, id))->inner = inner;
    pthread_mutex_unlock(&fault->lock);
    if (status == UNSTICK_OK)
        *ret_ticket = id;
    return status;
}

static int fault_mark(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    uint64_t id, inner = 0;
    int r;

    r = fault_enter(fault, USK_FAULT_MARK, error);
    if (r == UNSTICK_OK)
        r = fault_ticket_new(fault, &id, error);
    if (r < 0)
        return r;
    r = fault->inner->ops->mark(fault->inner, lane, &inner, error);
    return fault_ticket_end(fault, id, inner, r, ret_ticket);
}

static int fault_fence_stream(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    uint64_t id, inner = 0;
    int r;

    r = fault_enter(fault, USK_FAULT_FENCE_STREAM, error);
    if (r == UNSTICK_OK)
        r = fault_ticket_new(fault, &id, error);
    if (r < 0)
        return r;
    r = fault->inner->ops->fence_stream(fault->inner, stream, &inner, error);
    return fault_ticket_end(fault, id, inner, r, ret_ticket);
}

static int fault_fence_device(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    uint64_t id, inner = 0;
    int r;

    r = fault_enter(fault, USK_FAULT_FENCE_DEVICE, error);
    if (r == UNSTICK_OK)
        r = fault_ticket_new(fault, &id, error);
    if (r < 0)
        return r;
    r = fault->inner->ops->fence_device(fault->inner, &inner, error);
    return fault_ticket_end(fault, id, inner, r, ret_ticket);
}

/* Takes the ticket out of the table. False if there is none. */
static bool fault_ticket_take(struct fault *fault, uint64_t id, uint64_t *ret_inner)
{
    const struct fault_ticket *ticket;

    pthread_mutex_lock(&fault->lock);
    ticket = usk_slots_get(&fault->tickets, id);
    if (ticket) {
        *ret_inner = ticket->inner;
        usk_slots_free(&fault->tickets, id);
    }
    pthread_mutex_unlock(&fault->lock);
    return ticket;
}

static void fault_drop(struct usk_device *dev, uint64_t id)
{
    struct fault *fault = fault_from(dev);
    uint64_t inner;

    if (fault_ticket_take(fault, id, &inner))
        usk_device_drop(fault->inner, inner);
}

static int fault_poll(struct usk_device *dev, uint64_t id, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    bool is_known, is_pending = false;
    struct fault_ticket *ticket;
    uint64_t inner = 0;
    int r;

    r = fault_enter(fault, USK_FAULT_POLL, error);
    if (r < 0) {
        fault_drop(dev, id); /* a failure uses the ticket up */
        return r;
    }
    pthread_mutex_lock(&fault->lock);
    ticket = usk_slots_get(&fault->tickets, id);
    is_known = ticket;
    if (ticket) {
        inner = ticket->inner;
        is_pending = ticket->n_pending;
        if (is_pending)
            ticket->n_pending--;
    }
    pthread_mutex_unlock(&fault->lock);
    if (is_pending) {
        usk_os_event_signal(dev->event_fd);
        return UNSTICK_PENDING;
    }
    if (!is_known)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "poll", "this ticket was used up, or never given out");
    r = usk_device_poll(fault->inner, inner, error);
    if (r != UNSTICK_PENDING)
        fault_ticket_take(fault, id, &inner);
    return r;
}

static int fault_register(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                          struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_REGISTER, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->register_host(fault->inner, address, bytes, flags, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_add(&fault->ledger, USK_LEDGER_REGISTRATION, (uintptr_t)address, bytes);
    return r;
}

static int fault_unregister(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_UNREGISTER, error);
    if (r == UNSTICK_OK)
        r = fault->inner->ops->unregister_host(fault->inner, address, bytes, error);
    if (r == UNSTICK_OK)
        usk_fault_ledger_remove(&fault->ledger, USK_LEDGER_REGISTRATION, (uintptr_t)address, 1);
    return r;
}

static bool fault_begin_burst(struct usk_device *dev)
{
    struct usk_device *inner = fault_from(dev)->inner;

    return !inner->ops->begin_burst || inner->ops->begin_burst(inner);
}

static void fault_end_burst(struct usk_device *dev)
{
    struct usk_device *inner = fault_from(dev)->inner;

    if (inner->ops->end_burst)
        inner->ops->end_burst(inner);
}

static void fault_begin_paging(struct usk_device *dev)
{
    usk_device_begin_paging(fault_from(dev)->inner);
}

static void fault_end_paging(struct usk_device *dev)
{
    usk_device_end_paging(fault_from(dev)->inner);
}

static int fault_host_alloc(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_HOST_ALLOC, error);
    return r < 0 ? r : fault->inner->ops->host_alloc(fault->inner, bytes, ret_address, error);
}

static int fault_host_free(struct usk_device *dev, void *address, struct unstick_error *error)
{
    struct fault *fault = fault_from(dev);
    int r;

    r = fault_enter(fault, USK_FAULT_HOST_FREE, error);
    return r < 0 ? r : fault->inner->ops->host_free(fault->inner, address, error);
}

static const struct usk_device_ops fault_ops = {
    .close = fault_close,
    .memory_info = fault_memory_info,
    .reserve = fault_reserve,
    .unreserve = fault_unreserve,
    .create = fault_create,
    .release = fault_release,
    .map = fault_map,
    .map_repeated = fault_map_repeated,
    .unmap = fault_unmap,
    .copy_up = fault_copy_up,
    .copy_down = fault_copy_down,
    .copy_across = fault_copy_across,
    .fill = fault_fill,
    .hash = fault_hash,
    .order = fault_order,
    .mark = fault_mark,
    .fence_stream = fault_fence_stream,
    .fence_device = fault_fence_device,
    .poll = fault_poll,
    .drop = fault_drop,
    .begin_burst = fault_begin_burst,
    .end_burst = fault_end_burst,
    .begin_paging = fault_begin_paging,
    .end_paging = fault_end_paging,
    .register_host = fault_register,
    .unregister_host = fault_unregister,
    .host_alloc = fault_host_alloc,
    .host_free = fault_host_free,
};

int usk_fault_open(struct usk_device *inner, struct usk_device **ret_dev, struct unstick_error *error)
{
    struct fault *fault = calloc(1, sizeof(*fault));

    if (!fault)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a fault device");
    pthread_mutex_init(&fault->lock, NULL);
    usk_fault_ledger_init(&fault->ledger);
    usk_slots_init(&fault->tickets, sizeof(struct fault_ticket));
    fault->inner = inner;
    fault->dev = *inner;
    fault->dev.ops = &fault_ops;
    *ret_dev = &fault->dev;
    return UNSTICK_OK;
}

void usk_fault_set(struct usk_device *dev, const struct usk_fault_script *script)
{
    struct fault *fault = fault_from(dev);

    pthread_mutex_lock(&fault->lock);
    fault->script = script ? *script : (struct usk_fault_script){ 0 };
    fault->n_calls = 0;
    fault->n_failed = 0;
    pthread_mutex_unlock(&fault->lock);
}

uint64_t usk_fault_n_calls(struct usk_device *dev)
{
    struct fault *fault = fault_from(dev);
    uint64_t n;

    pthread_mutex_lock(&fault->lock);
    n = fault->n_calls;
    pthread_mutex_unlock(&fault->lock);
    return n;
}

uint64_t usk_fault_n_failed(struct usk_device *dev)
{
    struct fault *fault = fault_from(dev);
    uint64_t n;

    pthread_mutex_lock(&fault->lock);
    n = fault->n_failed;
    pthread_mutex_unlock(&fault->lock);
    return n;
}
