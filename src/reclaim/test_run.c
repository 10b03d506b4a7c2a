/* SPDX-License-Identifier: Apache-2.0 */
/* One machine at a time, so that a test that fails leaves nothing behind but what teardown() frees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "reclaim/test_run.h"

struct test_host host;
struct unstick_reclaim *machine;
struct unstick_reclaim_options options;

int teardown(void **unused)
{
    (void)unused;
    machine = unstick_reclaim_free(machine);
    return 0;
}

struct unstick_reclaim_result run(void)
{
    struct unstick_reclaim_result result = { .size = sizeof(result) };

    unstick_reclaim_free(machine);
    machine = NULL;
    assert_int_equal(unstick_reclaim_new(&options, &machine, NULL), UNSTICK_OK);
    assert_true(test_host_run(&host, machine));
    assert_int_equal(unstick_reclaim_result(machine, &result), UNSTICK_OK);
    return result;
}
