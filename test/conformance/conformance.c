/* SPDX-License-Identifier: Apache-2.0 */
/* What the cases share: opening and closing, checks of a status, memory on both sides, waiting. */
#include "conformance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/math.h"
#include "base/os.h"

#define EXIT_SKIP 77
#define PATIENCE_NS (20 * USK_NS_PER_S)
#define LAG_NS (2 * USK_NS_PER_S)
#define SETTLE_US 10000

struct conformance_fixture fixture;
static const struct conformance *target;
static uint64_t free_at_start_bytes;

void conformance_check_ok(int status, const char *call, const char *file, int line)
{
    if (status != UNSTICK_OK) {
        print_error("%s\n    gave %s: %s: %s (%d)\n", call, unstick_status_name(status), fixture.error.operation,
                    fixture.error.text, fixture.error.native);
        _fail(file, line);
    }
}

void conformance_check_refused(int status, const char *call, const char *file, int line)
{
    const struct unstick_error *error = &fixture.error;
    bool is_as_expected = status < 0 && status != UNSTICK_DEVICE_LOST;

    if (fixture.target->refusal)
        is_as_expected = status == fixture.target->refusal;
    if (!is_as_expected || error->status != status || !error->operation[0] || !error->text[0]) {
        print_error("%s\n    should have been refused and explained; gave %s, error %s: \"%s\"\n", call,
                    unstick_status_name(status), unstick_status_name(error->status), error->text);
        _fail(file, line);
    }
}

/* What is free once the driver has caught up with what was closed before. */
static uint64_t settle_free_bytes(void)
{
    uint64_t free_now = free_bytes(), free_before;

    do {
        free_before = free_now;
        usleep(SETTLE_US);
        free_now = free_bytes();
    } while (free_now != free_before && !fixture.target->slack_bytes);
    return free_now;
}

int conformance_setup(void **state)
{
    (void)state;
    memset(&fixture, 0, sizeof(fixture));
    fixture.target = target;
    fixture.random = 0x5eed;
    if (usk_os_event_new(&fixture.event_fd, &fixture.error) < 0)
        return -1;
    if (target->open(fixture.event_fd, &fixture.dev, &fixture.error) < 0) {
        print_error("cannot open %s: %s\n", target->name, fixture.error.text);
        return -1;
    }
    fixture.ops = fixture.dev->ops;
    fixture.unit = fixture.dev->caps.granularity_bytes;
    free_at_start_bytes = settle_free_bytes();
    return 0;
}

int conformance_teardown(void **state)
{
    (void)state;
    /* No case may leave anything: what it made is gone, or the device lost count. */
    check_free_bytes(free_at_start_bytes);
    usk_device_close(fixture.dev);
    usk_os_close(fixture.event_fd);
    return 0;
}

int conformance_main(const struct conformance *of, int argc, char **argv)
{
    static int (*const groups[])(void) = {
        conformance_memory,  conformance_copies,       conformance_hashes,
        conformance_tickets, conformance_registration, conformance_threads,
    };
    struct unstick_error error = { 0 };
    struct usk_device *dev;
    int r, n_failed = 0;

    target = of;
    r = target->open(-1, &dev, &error);
    if (r == UNSTICK_NO_DEVICE) {
        printf("skipped: %s: %s\n", target->name, error.text);
        return EXIT_SKIP;
    }
    if (r < 0) {
        printf("cannot open %s: %s: %s\n", target->name, unstick_status_name(r), error.text);
        return EXIT_FAILURE;
    }
    printf("%s: %s, granularity %llu KiB\n", target->name, dev->caps.name,
           (unsigned long long)dev->caps.granularity_bytes >> 10);
    usk_device_close(dev);

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
        n_failed += groups[i]() != 0;
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

void memory_new(struct memory *memory, unsigned int n, const uint64_t *n_units)
{
    uint64_t at;

    *memory = (struct memory){ .n = n };
    for (unsigned int i = 0; i < n; i++) {
        memory->sizes[i] = n_units[i] * fixture.unit;
        memory->bytes += memory->sizes[i];
    }
    OK(fixture.ops->reserve(fixture.dev, memory->bytes, fixture.unit, &memory->address, &fixture.error));
    at = memory->address;
    for (unsigned int i = 0; i < n; i++) {
        OK(fixture.ops->create(fixture.dev, memory->sizes[i], &memory->handles[i], &fixture.error));
        OK(fixture.ops->map(fixture.dev, at, memory->sizes[i], memory->handles[i], &fixture.error));
        at += memory->sizes[i];
    }
}

void memory_free(struct memory *memory)
{
    OK(fixture.ops->unmap(fixture.dev, memory->address, memory->bytes, &fixture.error));
    for (unsigned int i = 0; i < memory->n; i++)
        OK(fixture.ops->release(fixture.dev, memory->handles[i], &fixture.error));
    OK(fixture.ops->unreserve(fixture.dev, memory->address, memory->bytes, &fixture.error));
}

void *pages_new(uint64_t bytes)
{
    uint64_t page_bytes = usk_os_page_bytes();
    void *pages;

    usk_align_up(bytes, page_bytes, &bytes);
    OK(usk_os_map_anonymous(bytes, &pages, &fixture.error));
    return pages;
}

void pages_free(void *pages, uint64_t bytes)
{
    usk_align_up(bytes, usk_os_page_bytes(), &bytes);
    OK(usk_os_unmap(pages, bytes, &fixture.error));
}

/* splitmix64 */
uint64_t random_next(void)
{
    uint64_t x = fixture.random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

uint64_t random_below(uint64_t limit)
{
    return random_next() % limit;
}

void random_fill(void *data, uint64_t bytes)
{
    unsigned char *p = data;

    for (uint64_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = random_next();

        memcpy(p + i, &word, usk_min(sizeof(word), bytes - i));
    }
}

int ticket_wait(uint64_t ticket)
{
    uint64_t end_ns = usk_clock_now_ns() + PATIENCE_NS;
    int r;

    for (;;) {
        usk_os_event_drain(fixture.event_fd);
        r = usk_device_poll(fixture.dev, ticket, &fixture.error);
        if (r != UNSTICK_PENDING)
            return r;
        if (usk_clock_now_ns() > end_ns || !usk_os_event_wait(fixture.event_fd, (int)(PATIENCE_NS / USK_NS_PER_MS)))
            fail_msg("no event for a ticket in %d s", (int)(PATIENCE_NS / USK_NS_PER_S));
    }
}

void lane_wait(enum usk_lane lane)
{
    uint64_t ticket;

    OK(fixture.ops->mark(fixture.dev, lane, &ticket, &fixture.error));
    OK(ticket_wait(ticket));
}

uint64_t free_bytes(void)
{
    uint64_t free_now, total;

    OK(fixture.ops->memory_info(fixture.dev, &free_now, &total, &fixture.error));
    assert_true(free_now <= total);
    return free_now;
}

uint64_t free_bytes_at_rest(void)
{
    check_free_bytes(free_at_start_bytes);
    return free_bytes();
}

void check_free_bytes(uint64_t expected)
{
    uint64_t end_ns = usk_clock_now_ns() + LAG_NS, free_now, slack = fixture.target->slack_bytes;

    do {
        free_now = free_bytes();
        if (free_now <= expected + slack && expected <= free_now + slack)
            return;
    } while (usk_clock_now_ns() < end_ns && usleep(1000) == 0); /* drivers may lag */
    fail_msg("%llu bytes are free, expected %llu", (unsigned long long)free_now, (unsigned long long)expected);
}
