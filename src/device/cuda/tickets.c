/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ticket names a slot and the slot's generation, which grows each time the slot is given back: a ticket that was used
 * up is never taken for its successor. A slot keeps its event for the next ticket, since making one costs the driver
 * more than recording it; recording an event again does not touch who already waits for the earlier record, so a
 * dropped ticket need not be waited for.
 *
 * The lock guards the slots only. An event is made, recorded and queried outside of it, by whoever holds the slot.
 */
#include "device/cuda/tickets.h"

#include <stdlib.h>

#include "base/error.h"

#define SLOT_NONE UINT32_MAX
#define SLOTS_MAX (UINT32_C(1) << 24)

enum slot_kind {
    SLOT_FREE = 0,
    SLOT_EVENT,
    SLOT_SYNC, /* result is valid once is_settled */
};

struct usk_cuda_ticket {
    enum slot_kind kind;
    uint32_t generation;
    uint32_t next_free;
    usk_cu_event event; /* made at first use, kept when the slot is free */
    uint64_t sync;
    bool is_settled;
    int status;
    int native;
};

void usk_cuda_tickets_init(struct usk_cuda_tickets *tickets)
{
    *tickets = (struct usk_cuda_tickets){ .first_free = SLOT_NONE };
    pthread_mutex_init(&tickets->lock, NULL);
}

void usk_cuda_tickets_fini(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core)
{
    for (uint32_t i = 0; core && i < tickets->n_slots; i++) {
        if (tickets->slots[i].event)
            core->driver->cuEventDestroy(tickets->slots[i].event);
    }
    free(tickets->slots);
    pthread_mutex_destroy(&tickets->lock);
}

static uint64_t ticket_make(uint32_t index, uint32_t generation)
{
    return (uint64_t)generation << 32 | (index + 1);
}

/* The slot of a ticket that is still out; NULL if it is none. Under the lock. */
static struct usk_cuda_ticket *ticket_find(struct usk_cuda_tickets *tickets, uint64_t ticket)
{
    uint32_t index = (uint32_t)ticket - 1;
    struct usk_cuda_ticket *slot;

    if (index >= tickets->n_slots)
        return NULL;
    slot = &tickets->slots[index];
    return slot->kind != SLOT_FREE && slot->generation == ticket >> 32 ? slot : NULL;
}

/* Under the lock. */
static void slot_give(struct usk_cuda_tickets *tickets, struct usk_cuda_ticket *slot)
{
    slot->kind = SLOT_FREE;
    slot->generation++;
    slot->next_free = tickets->first_free;
    tickets->first_free = (uint32_t)(slot - tickets->slots);
}

/* Under the lock. */
static bool tickets_grow(struct usk_cuda_tickets *tickets)
{
    uint32_t n = tickets->n_slots ? 2 * tickets->n_slots : 64;
    struct usk_cuda_ticket *slots;

    if (n > SLOTS_MAX)
        return false;
    slots = realloc(tickets->slots, n * sizeof(slots[0]));
    if (!slots)
        return false;
    for (uint32_t i = n; i-- > tickets->n_slots;) {
        slots[i] = (struct usk_cuda_ticket){ .next_free = tickets->first_free };
        tickets->first_free = i;
    }
    tickets->slots = slots;
    tickets->n_slots = n;
    return true;
}

static int tickets_take(struct usk_cuda_tickets *tickets, enum slot_kind kind, uint64_t sync, uint64_t *ret_ticket,
                        usk_cu_event *ret_event, struct unstick_error *error)
{
    struct usk_cuda_ticket *slot = NULL;

    pthread_mutex_lock(&tickets->lock);
    if (tickets->first_free != SLOT_NONE || tickets_grow(tickets)) {
        uint32_t index = tickets->first_free;

        slot = &tickets->slots[index];
        tickets->first_free = slot->next_free;
        slot->kind = kind;
        slot->sync = sync;
        slot->is_settled = false;
        *ret_ticket = ticket_make(index, slot->generation);
        *ret_event = slot->event;
    }
    pthread_mutex_unlock(&tickets->lock);
    if (!slot)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "realloc",
                             "no memory for one more ticket beside %u", tickets->n_slots);
    return UNSTICK_OK;
}

int usk_cuda_tickets_take_sync(struct usk_cuda_tickets *tickets, uint64_t sync, uint64_t *ret_ticket,
                               struct unstick_error *error)
{
    usk_cu_event event;

    return tickets_take(tickets, SLOT_SYNC, sync, ret_ticket, &event, error);
}

int usk_cuda_tickets_take_event(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core, uint64_t *ret_ticket,
                                usk_cu_event *ret_event, struct unstick_error *error)
{
    usk_cu_event event;
    usk_cu_result result;
    uint64_t ticket;
    int r;

    r = tickets_take(tickets, SLOT_EVENT, 0, &ticket, &event, error);
    if (r < 0)
        return r;
    if (!event) {
        result = core->driver->cuEventCreate(&event, USK_CU_EVENT_DISABLE_TIMING);
        if (result != USK_CU_SUCCESS) {
            usk_cuda_tickets_drop(tickets, ticket);
            return usk_cuda_fail(core, error, result, "cuEventCreate", "cannot make an event for a ticket");
        }
        pthread_mutex_lock(&tickets->lock);
        tickets->slots[(uint32_t)ticket - 1].event = event;
        pthread_mutex_unlock(&tickets->lock);
    }
    *ret_ticket = ticket;
    *ret_event = event;
    return UNSTICK_OK;
}

void usk_cuda_tickets_settle(struct usk_cuda_tickets *tickets, uint64_t sync, int status,
                             const struct unstick_error *error)
{
    pthread_mutex_lock(&tickets->lock);
    for (uint32_t i = 0; i < tickets->n_slots; i++) {
        struct usk_cuda_ticket *slot = &tickets->slots[i];

        if (slot->kind == SLOT_SYNC && !slot->is_settled && slot->sync <= sync) {
            slot->is_settled = true;
            slot->status = status;
            slot->native = status < 0 ? error->native : 0;
        }
    }
    pthread_mutex_unlock(&tickets->lock);
}

void usk_cuda_tickets_drop(struct usk_cuda_tickets *tickets, uint64_t ticket)
{
    struct usk_cuda_ticket *slot;

    pthread_mutex_lock(&tickets->lock);
    slot = ticket_find(tickets, ticket);
    if (slot)
        slot_give(tickets, slot);
    pthread_mutex_unlock(&tickets->lock);
}

static int ticket_poll_event(struct usk_cuda_core *core, usk_cu_event event, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuEventQuery(event);
    if (result == USK_CU_SUCCESS)
        return UNSTICK_OK;
    if (result == USK_CU_NOT_READY)
        return UNSTICK_PENDING;
    return usk_cuda_fail(core, error, result, "cuEventQuery", "the work before a ticket failed");
}

int usk_cuda_tickets_poll(struct usk_cuda_tickets *tickets, struct usk_cuda_core *core, uint64_t ticket,
                          struct unstick_error *error)
{
    struct usk_cuda_ticket seen = { 0 };
    struct usk_cuda_ticket *slot;
    int r;

    pthread_mutex_lock(&tickets->lock);
    slot = ticket_find(tickets, ticket);
    if (slot)
        seen = *slot;
    pthread_mutex_unlock(&tickets->lock);

    switch (seen.kind) {
    case SLOT_EVENT:
        r = ticket_poll_event(core, seen.event, error);
        break;
    case SLOT_SYNC:
        if (usk_cuda_is_lost(core))
            r = usk_cuda_fail_lost(core, "cuCtxSynchronize", error);
        else if (!seen.is_settled)
            r = UNSTICK_PENDING;
        else if (seen.status == UNSTICK_OK)
            r = UNSTICK_OK;
        else
            r = usk_error_set(error, seen.status, seen.native, "cuCtxSynchronize",
                              "cannot wait for all work on the device: the driver said %s (%d)",
                              usk_cuda_result_name(core->driver, seen.native), seen.native);
        break;
    default:
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "poll", "ticket %#llx is none, or is used up",
                             (unsigned long long)ticket);
    }
    if (r != UNSTICK_PENDING)
        usk_cuda_tickets_drop(tickets, ticket);
    return r;
}
