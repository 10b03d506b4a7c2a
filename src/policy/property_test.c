/* SPDX-License-Identifier: Apache-2.0 */
/* Every plan, for made-up worlds: `property-test [CASES [SEED]]`. The same checks run under the fuzzer. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/test_scenario.h"

static uint64_t n_cases = 100000, first_seed = 1;

static void test_properties(void **state)
{
    static struct scenario scenario;
    struct unstick_victim victims[SCENARIO_MAX_VICTIMS];
    uint64_t n_verdicts[7] = { 0 }, n_waits[5] = { 0 }, n_suggestions[7] = { 0 };

    (void)state;
    for (uint64_t seed = first_seed; seed < first_seed + n_cases; seed++) {
        struct unstick_plan plan = { .size = sizeof(plan), .victims = victims, .max_victims = SCENARIO_MAX_VICTIMS };
        const char *broken;

        scenario_make(&scenario, NULL, 0, seed);
        broken = scenario_check(&scenario);
        assert_int_equal(unstick_decide(&scenario.snapshot, &scenario.demand, &plan), UNSTICK_OK);
        if (broken)
            fail_msg("seed %" PRIu64 ": %s; %s: %s", seed, broken, unstick_verdict_name(plan.verdict), plan.reason);
        n_verdicts[plan.verdict]++;
        n_waits[plan.wait]++;
        for (size_t i = 0; i < plan.n_suggestions; i++)
            n_suggestions[plan.suggestions[i].action]++;
    }
    /* Properties of what never happens prove nothing. */
    for (size_t i = 0; i < 7; i++) {
        print_message("%s: %" PRIu64 "\n", unstick_verdict_name((enum unstick_verdict)i), n_verdicts[i]);
        assert_true(n_verdicts[i] > n_cases / 1000);
    }
    for (size_t i = 0; i < 5; i++)
        assert_true(n_waits[i] > n_cases / 1000);
    for (size_t i = 0; i < 7; i++) {
        print_message("suggests %s: %" PRIu64 "\n", unstick_suggestion_name((enum unstick_suggestion_action)i),
                      n_suggestions[i]);
        assert_true(n_suggestions[i] > 0);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_properties) };

    if (argc > 1)
        n_cases = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
