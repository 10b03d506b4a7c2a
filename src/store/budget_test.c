/* SPDX-License-Identifier: Apache-2.0 */
#include "store/budget.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/math.h"
#include "base/os.h"

#define GIB (UINT64_C(1) << 30)

static void test_limit(void **state)
{
    struct unstick_error error;
    struct usk_os_memory memory;
    struct usk_budget budget;
    uint64_t all_bytes;

    (void)state;
    assert_int_equal(usk_os_memory(&memory, &error), UNSTICK_OK);
    all_bytes = usk_min(memory.total_bytes, memory.cgroup_limit_bytes);
    assert_int_equal(usk_budget_init(&budget, 12345, &error), UNSTICK_OK);
    assert_int_equal(budget.limit_bytes, 12345);
    assert_int_equal(usk_budget_init(&budget, UINT64_MAX, &error), UNSTICK_OK);
    assert_int_equal(budget.limit_bytes, all_bytes);
    /* Something is left for the others, and something is there for us. */
    assert_int_equal(usk_budget_init(&budget, 0, &error), UNSTICK_OK);
    assert_true(budget.limit_bytes > 0);
    assert_true(budget.limit_bytes <= all_bytes / 10 * 9);
    assert_int_equal(budget.reserved_bytes, 0);
}

static void test_automatic_limit(void **state)
{
    struct usk_os_memory memory = { .total_bytes = 64 * GIB, .cgroup_limit_bytes = UINT64_MAX };

    (void)state;
    memory.available_bytes = 40 * GIB;
    assert_int_equal(usk_budget_limit(&memory, 0), 36 * GIB);
    memory.available_bytes = 4 * GIB;
    assert_int_equal(usk_budget_limit(&memory, 0), 3 * GIB);
    memory.available_bytes = GIB;
    assert_int_equal(usk_budget_limit(&memory, 0), GIB / 2);
    memory.available_bytes = 0;
    assert_int_equal(usk_budget_limit(&memory, 0), 0);
    /* The cgroup is tighter than the machine, and may be over its limit for a moment. */
    memory.available_bytes = 40 * GIB;
    memory.cgroup_limit_bytes = 24 * GIB;
    memory.cgroup_used_bytes = 4 * GIB;
    assert_int_equal(usk_budget_limit(&memory, 0), 18 * GIB);
    assert_int_equal(usk_budget_limit(&memory, 30 * GIB), 24 * GIB);
    memory.cgroup_used_bytes = 25 * GIB;
    assert_int_equal(usk_budget_limit(&memory, 0), 0);
    memory.cgroup_limit_bytes = UINT64_MAX;
    assert_int_equal(usk_budget_limit(&memory, 100 * GIB), 64 * GIB);
}

static void test_counts_by_kind(void **state)
{
    struct usk_budget budget = { .limit_bytes = 100 };
    struct unstick_error error;

    (void)state;
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_PINNED, 60, &error), UNSTICK_OK);
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_RING, 30, &error), UNSTICK_OK);
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_PAGEABLE, 11, &error), UNSTICK_HOST_BUDGET);
    assert_int_equal(error.status, UNSTICK_HOST_BUDGET);
    assert_int_equal(error.required_bytes, 11);
    assert_int_equal(error.available_bytes, 10);
    assert_non_null(strstr(error.text, "11 B"));
    assert_non_null(strstr(error.text, "host_bytes"));
    assert_non_null(strstr(error.text, "file tier"));
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_PAGEABLE, UINT64_MAX, NULL), UNSTICK_HOST_BUDGET);
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_PAGEABLE, 10, &error), UNSTICK_OK);
    assert_int_equal(budget.reserved_bytes, 100);
    /* Files are counted only. */
    assert_int_equal(usk_budget_reserve(&budget, USK_BUDGET_FILE, 1000, &error), UNSTICK_OK);
    assert_int_equal(budget.file_bytes, 1000);
    assert_int_equal(budget.reserved_bytes, 100);
    usk_budget_return(&budget, USK_BUDGET_FILE, 1000);
    usk_budget_move(&budget, USK_BUDGET_PINNED, USK_BUDGET_PAGEABLE, 60);
    assert_int_equal(budget.pinned_bytes, 0);
    assert_int_equal(budget.pageable_bytes, 70);
    assert_int_equal(budget.reserved_bytes, 100);
    assert_false(usk_budget_will_fit(&budget, USK_BUDGET_RING, 1));
    budget.leaving_bytes = 5;
    assert_true(usk_budget_will_fit(&budget, USK_BUDGET_RING, 5));
    assert_false(usk_budget_will_fit(&budget, USK_BUDGET_RING, 6));
    /* The ring makes room for all but itself. */
    assert_true(usk_budget_will_fit(&budget, USK_BUDGET_PINNED, 35));
    assert_false(usk_budget_will_fit(&budget, USK_BUDGET_PINNED, 36));
    usk_budget_return(&budget, USK_BUDGET_PAGEABLE, 70);
    usk_budget_return(&budget, USK_BUDGET_RING, 30);
    assert_int_equal(budget.reserved_bytes + budget.pageable_bytes + budget.ring_bytes + budget.file_bytes, 0);
}

static void *race_run(void *userdata)
{
    struct usk_budget *budget = userdata;
    uintptr_t n_wrong = 0;

    for (unsigned int i = 0; i < 20000; i++) {
        if (usk_budget_reserve(budget, USK_BUDGET_PINNED, 7, NULL) == UNSTICK_OK)
            usk_budget_return(budget, USK_BUDGET_PINNED, 7);
        n_wrong += atomic_load(&budget->reserved_bytes) > budget->limit_bytes;
    }
    return (void *)n_wrong;
}

static void test_never_above_the_limit(void **state)
{
    struct usk_budget budget = { .limit_bytes = 15 };
    pthread_t threads[4];

    (void)state;
    for (unsigned int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race_run, &budget), 0);
    for (unsigned int i = 0; i < 4; i++) {
        void *n_wrong;

        pthread_join(threads[i], &n_wrong);
        assert_null(n_wrong);
    }
    assert_int_equal(budget.reserved_bytes, 0);
    assert_int_equal(budget.pinned_bytes, 0);
}

static void test_machine(void **state)
{
    struct unstick_error error;

    (void)state;
    assert_int_equal(usk_budget_check_machine(1, &error), UNSTICK_OK);
    assert_int_equal(usk_budget_check_machine(UINT64_MAX, &error), UNSTICK_OUT_OF_HOST_MEMORY);
    assert_int_equal(error.required_bytes, UINT64_MAX);
    assert_true(error.available_bytes > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limit),          cmocka_unit_test(test_automatic_limit),
        cmocka_unit_test(test_counts_by_kind), cmocka_unit_test(test_never_above_the_limit),
        cmocka_unit_test(test_machine),
    };

    return cmocka_run_group_tests_name("budget", tests, NULL, NULL);
}
