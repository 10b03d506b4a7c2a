/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up worlds, demands and what must hold of every plan for them: see src/policy/test_scenario.c. An input is the
 * beginning of the choices of several worlds. plans/plans.c makes them in great numbers, without looking for new ways.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/test_scenario.h"

#define DECIDE_WORLDS 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct scenario scenario;

    for (uint64_t seed = 0; seed < DECIDE_WORLDS; seed++) {
        const char *broken;

        scenario_make(&scenario, data, n, seed);
        broken = scenario_check(&scenario);
        if (broken) {
            fprintf(stderr, "world %u: %s\n", (unsigned int)seed, broken);
            abort();
        }
    }
    return 0;
}
