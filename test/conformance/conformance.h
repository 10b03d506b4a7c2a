/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CONFORMANCE_H
#define TEST_CONFORMANCE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "device/device.h"

/*
 * One suite for all devices: it holds each of them to the sentences of device.h. A device is instantiated by a program
 * that says how it is opened and calls conformance_main(), which exits with 0, 1 (failed) or 77 (no such device here).
 */
struct conformance {
    const char *name;
    int (*open)(int event_fd, struct usk_device **ret_dev, struct unstick_error *error);
    int refusal;             /* how it refuses what it can check itself; 0: in any way but by being lost */
    uint64_t slack_bytes;    /* memory_info() may differ that much from our count: tables of the driver */
    bool is_permissive;      /* maps over the end of a reservation, which is for the caller not to ask for */
};

/* What the cases of a group work on; opened for each group. */
struct conformance_fixture {
    const struct conformance *target;
    struct usk_device *dev;
    const struct usk_device_ops *ops;
    uint64_t unit;           /* the granularity */
    int event_fd;
    struct unstick_error error;
    uint64_t random;         /* state; seeded the same for each group */
};

extern struct conformance_fixture fixture;

/* The groups. */
int conformance_memory(void);
int conformance_copies(void);
int conformance_hashes(void);
int conformance_tickets(void);
int conformance_registration(void);
int conformance_threads(void);

int conformance_setup(void **state);
int conformance_teardown(void **state);

#define conformance_run(_name, _tests)                                                                       \
    cmocka_run_group_tests_name(_name, _tests, conformance_setup, conformance_teardown)

/* Opens `target`; all groups run on it. An argument is a pattern of cases, such as "*ticket*". */
int conformance_main(const struct conformance *target, int argc, char **argv);

/* Checks of a call; &fixture.error is its last argument. The second one: nothing was done, and the error says why. */
#define OK(_call) conformance_check_ok((_call), #_call, __FILE__, __LINE__)
#define REFUSED(_call) conformance_check_refused((_call), #_call, __FILE__, __LINE__)
void conformance_check_ok(int status, const char *call, const char *file, int line);
void conformance_check_refused(int status, const char *call, const char *file, int line);

/* Device memory behind one range of addresses: n handles one behind the other. */
struct memory {
    uint64_t address, bytes;
    uint64_t handles[8], sizes[8]; /* a size in bytes each */
    unsigned int n;
};

void memory_new(struct memory *memory, unsigned int n, const uint64_t *n_units);
void memory_free(struct memory *memory);

/* Host memory, whole pages. */
void *pages_new(uint64_t bytes);
void pages_free(void *pages, uint64_t bytes);

uint64_t random_next(void);
uint64_t random_below(uint64_t limit);
void random_fill(void *data, uint64_t bytes);

/* Waits for all that was submitted to the lane. */
void lane_wait(enum usk_lane lane);
/* Polls a ticket to its end, by way of event_fd, and returns what it ended with. */
int ticket_wait(uint64_t ticket);

uint64_t free_bytes(void);
/* The same before anything is held, when what earlier cases released has arrived. */
uint64_t free_bytes_at_rest(void);
/* The device's free memory comes to `expected`, if need be after a while. */
void check_free_bytes(uint64_t expected);

#endif
