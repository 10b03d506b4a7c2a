/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CORE_SCRIPT_H
#define TEST_CORE_SCRIPT_H

#include <stddef.h>
#include <stdint.h>

/*
 * A made-up script of tasks, leases, reads, writes and faults on a few regions, run on the fault device against a
 * model of what each region must hold; for script_test.c and fuzz/script.c. Choices are read from `data`, then from a
 * generator that it and `seed` start. NULL, or the property that was broken; static.
 */
const char *script_run(const uint8_t *data, size_t n, uint64_t seed, unsigned int n_ops);

/* What was done so far, in all runs, so that a test can tell that it tests something. */
struct script_counts {
    uint64_t n_tasks, n_ended_well, n_failed, n_canceled, n_faults, n_reads, n_lost, n_poisoned;
};
extern struct script_counts script_counts;

#endif
