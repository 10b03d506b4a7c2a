/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Scripts of tasks, leases, reads, writes and faults on the fault device, against a model: see test/core/script.c,
 * whose unit test makes them from seeds. An input is the beginning of a script's choices. Workers of the library
 * decide what is quicker, so a finding may need its input more than once.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "script.h"

#define SCRIPT_OPS 80

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *broken = script_run(data, n, 1, SCRIPT_OPS);

    if (broken) {
        fprintf(stderr, "%s\n", broken);
        abort();
    }
    return 0;
}
