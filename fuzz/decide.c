/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up worlds, demands and what must hold of every plan for them: see src/policy/test_scenario.c. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/test_scenario.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct scenario scenario;
    const char *broken;

    scenario_make(&scenario, data, n, 0);
    broken = scenario_check(&scenario);
    if (broken) {
        fprintf(stderr, "%s\n", broken);
        abort();
    }
    return 0;
}
