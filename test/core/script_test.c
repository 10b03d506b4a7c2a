/* SPDX-License-Identifier: Apache-2.0 */
/* Random scripts of tasks and faults, see script.c. What is wrong is named by its seed; fuzz/script.c finds more. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "script.h"

#define N_SEEDS 400
#define N_OPS 150

static void test_scripts(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        const char *broken = script_run(NULL, 0, seed, N_OPS);

        if (broken)
            fail_msg("seed %llu: %s", (unsigned long long)seed, broken);
    }
    print_message("%llu tasks: %llu ended well, %llu failed, %llu canceled; %llu faults, %llu reads, %llu lost, "
                  "%llu poisoned\n",
                  (unsigned long long)script_counts.n_tasks, (unsigned long long)script_counts.n_ended_well,
                  (unsigned long long)script_counts.n_failed, (unsigned long long)script_counts.n_canceled,
                  (unsigned long long)script_counts.n_faults, (unsigned long long)script_counts.n_reads,
                  (unsigned long long)script_counts.n_lost, (unsigned long long)script_counts.n_poisoned);
    assert_true(script_counts.n_ended_well > N_SEEDS && script_counts.n_faults > N_SEEDS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_scripts) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
