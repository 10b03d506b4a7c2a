/* SPDX-License-Identifier: Apache-2.0 */
/* Tickets, fences and the event that tells of them. */
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "conformance.h"

static const uint64_t four_units[] = { 4 };

static void test_ticket_of_idle_lane(void **state)
{
    (void)state;
    for (int i = 0; i < USK_N_LANES; i++) {
        uint64_t ticket;

        usk_os_event_drain(fixture.event_fd);
        OK(fixture.ops->mark(fixture.dev, (enum usk_lane)i, &ticket, &fixture.error));
        assert_true(usk_os_event_wait(fixture.event_fd, 20000));
        OK(ticket_wait(ticket));
    }
}

/* Never passed before the work ahead of it is done, and the event comes without anybody polling. */
static void test_ticket_is_behind_its_work(void **state)
{
    struct memory memory;
    unsigned char *host;

    (void)state;
    memory_new(&memory, 1, four_units);
    host = pages_new(memory.bytes);
    for (unsigned int i = 1; i <= 50; i++) {
        uint64_t ticket;

        usk_os_event_drain(fixture.event_fd);
        OK(fixture.ops->fill(fixture.dev, USK_LANE_DOWN, memory.address, (uint8_t)i, memory.bytes, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_DOWN, host, memory.address, memory.bytes, &fixture.error));
        OK(fixture.ops->mark(fixture.dev, USK_LANE_DOWN, &ticket, &fixture.error));
        assert_true(usk_os_event_wait(fixture.event_fd, 20000));
        OK(ticket_wait(ticket));
        assert_int_equal(host[0], i);
        assert_int_equal(host[memory.bytes - 1], i);
    }
    pages_free(host, memory.bytes);
    memory_free(&memory);
}

/* A ticket of one lane does not wait for another lane, which has much more to do. Copies are what has to be overtaken:
 * a GPU may run two fills one behind the other, whatever streams they are in. */
static void test_lanes_run_beside_each_other(void **state)
{
    uint64_t slow, quick;
    struct memory memory;
    bool has_overtaken = false;
    void *host;

    (void)state;
    memory_new(&memory, 1, four_units);
    OK(fixture.ops->host_alloc(fixture.dev, memory.bytes / 2, &host, &fixture.error));
    memset(host, 1, memory.bytes / 2);
    for (unsigned int round = 0; round < 20 && !has_overtaken; round++) {
        int r;

        for (unsigned int i = 0; i < 400; i++)
            OK(fixture.ops->copy_up(fixture.dev, USK_LANE_UP, memory.address, host, memory.bytes / 2, &fixture.error));
        OK(fixture.ops->mark(fixture.dev, USK_LANE_UP, &slow, &fixture.error));
        OK(fixture.ops->fill(fixture.dev, USK_LANE_DOWN, memory.address + memory.bytes / 2, 2, 64, &fixture.error));
        OK(fixture.ops->mark(fixture.dev, USK_LANE_DOWN, &quick, &fixture.error));
        OK(ticket_wait(quick));
        r = usk_device_poll(fixture.dev, slow, &fixture.error);
        if (r == UNSTICK_PENDING) {
            has_overtaken = true;
            OK(ticket_wait(slow));
        } else {
            OK(r);
        }
    }
    assert_true(has_overtaken);
    OK(fixture.ops->host_free(fixture.dev, host, &fixture.error));
    memory_free(&memory);
}

static void test_many_tickets(void **state)
{
    enum { N = 10000 };
    uint64_t *tickets = calloc(N, sizeof(tickets[0]));
    struct memory memory;

    (void)state;
    assert_non_null(tickets);
    memory_new(&memory, 1, four_units);
    for (uint32_t i = 0; i < N; i++) {
        enum usk_lane lane = (enum usk_lane)(i % USK_N_LANES);

        if (i % 16 == 0)
            OK(fixture.ops->fill(fixture.dev, lane, memory.address + i % 3 * 64, 1, 64, &fixture.error));
        OK(fixture.ops->mark(fixture.dev, lane, &tickets[i], &fixture.error));
    }
    /* All are outstanding at once; used up in another order, some by dropping. */
    for (uint32_t i = N - 1; i > 0; i--) {
        uint64_t k = random_below(i + 1), ticket = tickets[k];

        tickets[k] = tickets[i];
        tickets[i] = ticket;
    }
    for (uint32_t i = 0; i < N; i++) {
        if (i % 4 == 3)
            usk_device_drop(fixture.dev, tickets[i]);
        else
            OK(ticket_wait(tickets[i]));
    }
    memory_free(&memory);
    free(tickets);
}

/* Giving a ticket up neither waits nor harms the work or the tickets behind it. */
static void test_drop(void **state)
{
    uint64_t dropped, ticket;
    struct memory memory;
    unsigned char seen;

    (void)state;
    memory_new(&memory, 1, four_units);
    for (unsigned int i = 1; i <= 100; i++) {
        OK(fixture.ops->fill(fixture.dev, USK_LANE_UP, memory.address, (uint8_t)i, memory.bytes, &fixture.error));
        OK(fixture.ops->mark(fixture.dev, USK_LANE_UP, &dropped, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, USK_LANE_UP, &seen, memory.address + memory.bytes - 1, 1,
                                  &fixture.error));
        OK(fixture.ops->mark(fixture.dev, USK_LANE_UP, &ticket, &fixture.error));
        usk_device_drop(fixture.dev, dropped);
        OK(ticket_wait(ticket));
        assert_int_equal(seen, i);
    }
    memory_free(&memory);
}

static void test_fences(void **state)
{
    struct memory memory;
    uint64_t ticket;
    unsigned char *host;

    (void)state;
    memory_new(&memory, 1, four_units);
    host = pages_new(memory.bytes);
    OK(fixture.ops->fence_stream(fixture.dev, NULL, &ticket, &fixture.error));
    OK(ticket_wait(ticket));
    OK(fixture.ops->fence_device(fixture.dev, &ticket, &fixture.error));
    OK(ticket_wait(ticket));
    /* All work of this process: that of the lanes too. */
    for (unsigned int i = 1; i <= 30; i++) {
        enum usk_lane lane = (enum usk_lane)(i % USK_N_LANES);

        OK(fixture.ops->fill(fixture.dev, lane, memory.address, (uint8_t)i, memory.bytes, &fixture.error));
        OK(fixture.ops->copy_down(fixture.dev, lane, host, memory.address, memory.bytes, &fixture.error));
        OK(fixture.ops->fence_device(fixture.dev, &ticket, &fixture.error));
        OK(ticket_wait(ticket));
        assert_int_equal(host[memory.bytes - 1], i);
    }
    OK(fixture.ops->fence_stream(fixture.dev, NULL, &ticket, &fixture.error));
    usk_device_drop(fixture.dev, ticket);
    OK(fixture.ops->fence_device(fixture.dev, &ticket, &fixture.error));
    usk_device_drop(fixture.dev, ticket);
    pages_free(host, memory.bytes);
    memory_free(&memory);
}

/* Closing waits for work and frees tickets that nobody asked about; the sanitizers watch. */
static void test_close_with_work_and_tickets(void **state)
{
    uint64_t unit = fixture.unit, address, handle, ticket;
    unsigned char *host = pages_new(8 * unit);
    struct usk_device *dev;

    (void)state;
    OK(fixture.target->open(-1, &dev, &fixture.error));
    assert_int_equal(dev->event_fd, -1);
    OK(dev->ops->reserve(dev, 8 * unit, unit, &address, &fixture.error));
    OK(dev->ops->create(dev, 8 * unit, &handle, &fixture.error));
    OK(dev->ops->map(dev, address, 8 * unit, handle, &fixture.error));
    OK(dev->ops->fill(dev, USK_LANE_UP, address, 0xc5, 8 * unit, &fixture.error));
    OK(dev->ops->fence_device(dev, &ticket, &fixture.error));
    /* Without an event to wait for, polling alone must do. */
    while (usk_device_poll(dev, ticket, &fixture.error) == UNSTICK_PENDING)
        ;
    OK(dev->ops->unmap(dev, address, 8 * unit, &fixture.error));
    OK(dev->ops->release(dev, handle, &fixture.error));
    OK(dev->ops->unreserve(dev, address, 8 * unit, &fixture.error));
    for (unsigned int i = 0; i < 100; i++)
        OK(dev->ops->mark(dev, (enum usk_lane)(i % USK_N_LANES), &ticket, &fixture.error));
    OK(dev->ops->fence_device(dev, &ticket, &fixture.error));
    OK(dev->ops->fence_stream(dev, NULL, &ticket, &fixture.error));
    usk_device_close(dev);
    pages_free(host, 8 * unit);
}

int conformance_tickets(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ticket_of_idle_lane),
        cmocka_unit_test(test_ticket_is_behind_its_work),
        cmocka_unit_test(test_lanes_run_beside_each_other),
        cmocka_unit_test(test_many_tickets),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_fences),
        cmocka_unit_test(test_close_with_work_and_tickets),
    };

    return conformance_run("tickets", tests);
}
