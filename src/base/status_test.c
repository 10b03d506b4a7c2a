/* SPDX-License-Identifier: Apache-2.0 */
/* Every status has a name and a text of its own, and what is none says so. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include <unstick/status.h>

static const int statuses[] = {
#define STATUS_VALUE(_name, _value, _text) _value,
    UNSTICK_STATUS_MAP(STATUS_VALUE)
};

#define N_STATUSES (sizeof(statuses) / sizeof(statuses[0]))

static void test_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_STATUSES; i++) {
        assert_true(strcmp(unstick_status_name(statuses[i]), unstick_status_name(12345)) != 0);
        assert_true(unstick_status_text(statuses[i])[0]);
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(statuses[i], statuses[k]);
            assert_true(strcmp(unstick_status_name(statuses[i]), unstick_status_name(statuses[k])) != 0);
        }
    }
    assert_string_equal(unstick_status_name(UNSTICK_OUT_OF_DEVICE_MEMORY), "OUT_OF_DEVICE_MEMORY");
    assert_true(unstick_status_text(12345)[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_names) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
