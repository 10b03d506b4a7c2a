/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lane is a thread and a ring of work. One lock guards the rings and the tickets; it is not held while work is done.
 *
 * Work stays in its ring until it is over, and it leaves the ring before a ticket behind it passes. So at any moment
 * the rings hold all work that still touches memory, which is what usk_host_lanes_use() looks through.
 *
 * A lane only ever waits for work that was submitted before it started to wait, so lanes cannot wait for each other in
 * a circle, and they come to an end when nothing new is submitted.
 */
#include "device/host/lanes.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/os.h"

struct ticket {
    unsigned int n_ahead; /* lanes that have not come to the mark */
    bool is_dropped;      /* the last lane frees it */
};

/* Whole pages of device memory that are about to be overwritten. Fresh mappings fault at each page, which takes longer
 * than the copy (4 MiB: 1.5 ms of 1.8); asked for at once they cost half. A failure costs only that. */
static void pages_prepare(void *to, uint64_t bytes)
{
    uint64_t page_bytes = usk_os_page_bytes(), start = ((uintptr_t)to + page_bytes - 1) & ~(page_bytes - 1);
    uint64_t end = ((uintptr_t)to + bytes) & ~(page_bytes - 1);

    if (start < end)
        usk_os_populate((void *)(uintptr_t)start, end - start, NULL);
}

static void work_do(const struct usk_host_work *work)
{
    switch (work->verb) {
    case USK_HOST_COPY:
        if (work->is_to_device)
            pages_prepare(work->to, work->bytes);
        memcpy(work->to, work->from, work->bytes);
        break;
    case USK_HOST_FILL:
        pages_prepare(work->to, work->bytes);
        memset(work->to, work->value, work->bytes);
        break;
    case USK_HOST_HASH:
        for (uint32_t i = 0; i < work->n; i++)
            work->results[i] = usk_hash((const unsigned char *)work->from + i * work->bytes, work->bytes);
        break;
    case USK_HOST_ORDER:
    case USK_HOST_MARK:
        break;
    }
}

static bool work_uses(const struct usk_host_work *work, uintptr_t start, uint64_t bytes)
{
    uint64_t length = work->verb == USK_HOST_HASH ? work->n * work->bytes : work->bytes;
    uintptr_t to = (uintptr_t)work->to, from = (uintptr_t)work->from;

    return (to && to < start + bytes && start < to + length) ||
           (from && from < start + bytes && start < from + length);
}

/* Under the lock. True if the ticket passed with this. */
static bool ticket_advance(struct usk_host_lanes *lanes, uint64_t id)
{
    struct ticket *ticket = usk_slots_get(&lanes->tickets, id);

    if (--ticket->n_ahead)
        return false;
    if (ticket->is_dropped)
        usk_slots_free(&lanes->tickets, id);
    return true;
}

static void *lane_thread(void *userdata)
{
    struct usk_host_lane *lane = userdata;
    struct usk_host_lanes *lanes = lane->lanes;

    pthread_mutex_lock(&lanes->lock);
    while (lane->n || !lanes->is_stopping) {
        struct usk_host_work work;
        bool has_passed = false;

        if (!lane->n) {
            pthread_cond_wait(&lane->changed, &lanes->lock);
            continue;
        }
        work = lane->ring[lane->first];
        if (work.verb == USK_HOST_ORDER) {
            while (lanes->lane[work.after].n_done < work.position) {
                lanes->lane[work.after].has_waiters = true;
                pthread_cond_wait(&lane->changed, &lanes->lock);
            }
        } else if (work.verb != USK_HOST_MARK) {
            pthread_mutex_unlock(&lanes->lock);
            work_do(&work);
            pthread_mutex_lock(&lanes->lock);
        }

        lane->first = (lane->first + 1) & (lane->capacity - 1);
        lane->n--;
        lane->n_done++;
        if (lane->has_waiters) {
            lane->has_waiters = false;
            for (int i = 0; i < USK_N_LANES; i++)
                pthread_cond_signal(&lanes->lane[i].changed);
        }
        if (work.verb == USK_HOST_MARK)
            has_passed = ticket_advance(lanes, work.ticket);
        if (has_passed) {
            pthread_mutex_unlock(&lanes->lock);
            usk_os_event_signal(lanes->event_fd);
            pthread_mutex_lock(&lanes->lock);
        }
    }
    pthread_mutex_unlock(&lanes->lock);
    return NULL;
}

/* Under the lock. Room for one more, so that the push after it cannot fail. */
static bool lane_grow(struct usk_host_lane *lane)
{
    if (lane->n == lane->capacity) {
        size_t capacity = lane->capacity ? 2 * lane->capacity : 64;
        struct usk_host_work *ring = malloc(capacity * sizeof(ring[0]));

        if (!ring)
            return false;
        for (size_t i = 0; i < lane->n; i++)
            ring[i] = lane->ring[(lane->first + i) & (lane->capacity - 1)];
        free(lane->ring);
        lane->ring = ring;
        lane->first = 0;
        lane->capacity = capacity;
    }
    return true;
}

static void lane_push(struct usk_host_lane *lane, const struct usk_host_work *work)
{
    lane->ring[(lane->first + lane->n) & (lane->capacity - 1)] = *work;
    if (!lane->n++)
        pthread_cond_signal(&lane->changed);
}

int usk_host_lanes_init(struct usk_host_lanes *lanes, int event_fd, struct unstick_error *error)
{
    static const char *const names[USK_N_LANES] = { "unstick-up", "unstick-down", "unstick-hash" };

    *lanes = (struct usk_host_lanes){ .event_fd = event_fd };
    pthread_mutex_init(&lanes->lock, NULL);
    usk_slots_init(&lanes->tickets, sizeof(struct ticket));
    for (int i = 0; i < USK_N_LANES; i++) {
        lanes->lane[i].lanes = lanes;
        pthread_cond_init(&lanes->lane[i].changed, NULL);
    }
    for (int i = 0; i < USK_N_LANES; i++) {
        int r = usk_os_thread_new(&lanes->lane[i].thread, lane_thread, &lanes->lane[i], names[i], error);

        if (r < 0) {
            usk_host_lanes_fini(lanes);
            return r;
        }
        lanes->lane[i].is_started = true;
    }
    return UNSTICK_OK;
}

void usk_host_lanes_fini(struct usk_host_lanes *lanes)
{
    pthread_mutex_lock(&lanes->lock);
    lanes->is_stopping = true;
    for (int i = 0; i < USK_N_LANES; i++)
        pthread_cond_signal(&lanes->lane[i].changed);
    pthread_mutex_unlock(&lanes->lock);
    for (int i = 0; i < USK_N_LANES; i++) {
        if (lanes->lane[i].is_started)
            pthread_join(lanes->lane[i].thread, NULL);
    }
    /* Only now: a lane that has waiters signals all of them, the others' conditions too. */
    for (int i = 0; i < USK_N_LANES; i++) {
        pthread_cond_destroy(&lanes->lane[i].changed);
        free(lanes->lane[i].ring);
    }
    usk_slots_fini(&lanes->tickets);
    pthread_mutex_destroy(&lanes->lock);
}

static int lanes_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "no memory to queue work for the host device");
}

int usk_host_lanes_submit(struct usk_host_lanes *lanes, enum usk_lane lane, const struct usk_host_work *work,
                          struct unstick_error *error)
{
    bool has_room;

    pthread_mutex_lock(&lanes->lock);
    has_room = lane_grow(&lanes->lane[lane]);
    if (has_room)
        lane_push(&lanes->lane[lane], work);
    pthread_mutex_unlock(&lanes->lock);
    return has_room ? UNSTICK_OK : lanes_no_memory(error);
}

int usk_host_lanes_order(struct usk_host_lanes *lanes, enum usk_lane lane, enum usk_lane after,
                         struct unstick_error *error)
{
    const struct usk_host_lane *other = &lanes->lane[after];
    bool has_room = true;

    pthread_mutex_lock(&lanes->lock);
    if (lane != after && other->n) {
        struct usk_host_work work = { .verb = USK_HOST_ORDER, .after = after, .position = other->n_done + other->n };

        has_room = lane_grow(&lanes->lane[lane]);
        if (has_room)
            lane_push(&lanes->lane[lane], &work);
    }
    pthread_mutex_unlock(&lanes->lock);
    return has_room ? UNSTICK_OK : lanes_no_memory(error);
}

int usk_host_lanes_mark(struct usk_host_lanes *lanes, unsigned int lane_mask, uint64_t *ret_ticket,
                        struct unstick_error *error)
{
    struct usk_host_work work = { .verb = USK_HOST_MARK };
    struct ticket *ticket = NULL;
    bool has_room = true, is_passed;

    pthread_mutex_lock(&lanes->lock);
    for (int i = 0; i < USK_N_LANES; i++)
        has_room = has_room && lane_grow(&lanes->lane[i]);
    if (has_room)
        ticket = usk_slots_new(&lanes->tickets, &work.ticket);
    if (!ticket) {
        pthread_mutex_unlock(&lanes->lock);
        return lanes_no_memory(error);
    }
    /* An idle lane has passed the mark already: its thread need not wake up to say so. */
    for (int i = 0; i < USK_N_LANES; i++) {
        if ((lane_mask & (1u << i)) && lanes->lane[i].n) {
            lane_push(&lanes->lane[i], &work);
            ticket->n_ahead++;
        }
    }
    is_passed = !ticket->n_ahead;
    pthread_mutex_unlock(&lanes->lock);
    *ret_ticket = work.ticket;
    if (is_passed)
        usk_os_event_signal(lanes->event_fd);
    return UNSTICK_OK;
}

int usk_host_lanes_poll(struct usk_host_lanes *lanes, uint64_t ticket_id, struct unstick_error *error)
{
    struct ticket *ticket;
    bool is_known, is_pending;

    pthread_mutex_lock(&lanes->lock);
    ticket = usk_slots_get(&lanes->tickets, ticket_id);
    is_known = ticket && !ticket->is_dropped;
    is_pending = is_known && ticket->n_ahead;
    if (is_known && !is_pending)
        usk_slots_free(&lanes->tickets, ticket_id);
    pthread_mutex_unlock(&lanes->lock);
    if (!is_known)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "poll", "this ticket was used up, or never given out");
    return is_pending ? UNSTICK_PENDING : UNSTICK_OK;
}

void usk_host_lanes_drop(struct usk_host_lanes *lanes, uint64_t ticket_id)
{
    struct ticket *ticket;

    pthread_mutex_lock(&lanes->lock);
    ticket = usk_slots_get(&lanes->tickets, ticket_id);
    if (ticket && ticket->n_ahead)
        ticket->is_dropped = true;
    else if (ticket)
        usk_slots_free(&lanes->tickets, ticket_id);
    pthread_mutex_unlock(&lanes->lock);
}

bool usk_host_lanes_use(struct usk_host_lanes *lanes, const void *address, uint64_t bytes)
{
    bool is_used = false;

    pthread_mutex_lock(&lanes->lock);
    for (int i = 0; i < USK_N_LANES; i++) {
        const struct usk_host_lane *lane = &lanes->lane[i];

        for (size_t k = 0; k < lane->n && !is_used; k++)
            is_used = work_uses(&lane->ring[(lane->first + k) & (lane->capacity - 1)], (uintptr_t)address, bytes);
    }
    pthread_mutex_unlock(&lanes->lock);
    return is_used;
}
