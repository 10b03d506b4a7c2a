/* SPDX-License-Identifier: Apache-2.0 */
/* A number of made-up worlds, each with a seed of its own: `plans [CASES [FIRST]]`. What is wrong is named by it. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/test_scenario.h"

int main(int argc, char **argv)
{
    static struct scenario scenario;
    uint64_t n_cases = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    for (uint64_t seed = first; seed < first + n_cases; seed++) {
        const char *broken;

        scenario_make(&scenario, NULL, 0, seed);
        broken = scenario_check(&scenario);
        if (broken) {
            fprintf(stderr, "seed %" PRIu64 ": %s\n", seed, broken);
            return 1;
        }
    }
    printf("%" PRIu64 " worlds\n", n_cases);
    return 0;
}
