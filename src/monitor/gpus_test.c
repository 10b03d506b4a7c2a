/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include <fakecuda.h>

#include <unstick/monitor.h>

#include "monitor/monitor.h"

/* FAKE_NVML is a path, from the build. */

#define GIB (UINT64_C(1) << 30)

static void test_list(void **unused)
{
    struct unstick_gpu gpus[4] = { { .size = sizeof(gpus[0]) } };
    struct unstick_monitor *monitor;
    struct fakecuda fake;
    struct fakecuda_live live;
    size_t n = 0;

    (void)unused;
    assert_int_equal(fakecuda_load(&fake), 0);
    assert_int_equal(usk_monitor_new(FAKE_NVML, &monitor, NULL), UNSTICK_OK);
    assert_int_equal(unstick_gpus_list(monitor, gpus, 4, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(gpus[i].size, sizeof(gpus[0]));
        assert_int_equal(gpus[i].index, i);
        assert_int_equal(gpus[i].total_bytes, 80 * GIB);
        assert_true(gpus[i].has_free);
        assert_int_equal(gpus[0].free_bytes - gpus[i].free_bytes, (uint64_t)i * GIB);
        assert_memory_equal(gpus[i].uuid, "GPU-", 4);
    }
    assert_in_range(gpus[0].free_bytes, 70 * GIB, 79 * GIB);
    /* Equal ones are told apart, and looking at them opens none. */
    assert_string_not_equal(gpus[0].uuid, gpus[1].uuid);
    fake.live(&live);
    assert_int_equal(live.retains, 0);
    monitor = unstick_monitor_free(monitor);

    gpus[0] = (struct unstick_gpu){ .size = sizeof(gpus[0]) };
    assert_int_equal(unstick_gpus_list(NULL, gpus, 1, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, 3);
    assert_false(gpus[0].has_free);
    assert_int_equal(unstick_gpus_list(NULL, NULL, 0, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, 3);
}

static void test_failures(void **unused)
{
    struct unstick_gpu gpu = { 0 };
    struct unstick_error error;
    struct fakecuda fake;
    size_t n = 7;

    (void)unused;
    assert_int_equal(unstick_gpus_list(NULL, &gpu, 1, &n, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_gpus_list(NULL, NULL, 0, NULL, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(fakecuda_load(&fake), 0);
    gpu.size = sizeof(gpu);
    fake.fail_at("cuDeviceTotalMem", 1, 0, 0);
    assert_true(unstick_gpus_list(NULL, &gpu, 1, &n, &error) < 0);
    assert_int_equal(n, 7);
    fake.fail_at(NULL, 0, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_failures),
    };

    setenv("FAKECUDA_DEVICES", "3", 1);
    setenv("FAKECUDA_MEMORY", "80GiB", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
