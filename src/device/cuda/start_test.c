/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the driver is found and started, with its failures in order: a process loads a driver once, so this is one test.
 */
#include "device/cuda/fake_test.h"

static void check_count(unsigned int expected)
{
    unsigned int n = 77;

    OK(usk_cuda_count(&n, &error));
    assert_int_equal(n, expected);
}

static void test_start(void **state)
{
    struct usk_cuda_info info;
    struct usk_device *opened;
    unsigned int n = 77;

    (void)state;
    assert_int_equal(fakecuda_load(&fake), 0);

    /* A driver and no GPU is as good as no driver. */
    fail_always("cuInit", USK_CU_NO_DEVICE);
    check_count(0);
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_info(&info, &error));
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_open("0", -1, NULL, &opened, &error));

    /* A driver that is broken is not. */
    fail_nothing();
    fail_always("cuInit", USK_CU_SYSTEM_DRIVER_MISMATCH);
    FAILS(UNSTICK_DRIVER, usk_cuda_count(&n, &error));
    assert_int_equal(error.native, USK_CU_SYSTEM_DRIVER_MISMATCH);
    assert_int_equal(usk_cuda_count(&n, NULL), UNSTICK_DRIVER);
    FAILS(UNSTICK_DRIVER, usk_cuda_open("0", -1, NULL, &opened, &error));
    fail_nothing();
    fake.set("DRIVER=11020");
    FAILS(UNSTICK_DRIVER_TOO_OLD, usk_cuda_count(&n, &error));
    assert_int_equal(n, 77);

    /* A failure leaves nothing behind: the next call tries again. */
    fake.set("DRIVER=13000");
    fake.set("DEVICES=3");
    check_count(3);
    fail_at("cuDeviceGetCount", 1, USK_CU_NO_DEVICE);
    check_count(0);
    fail_at("cuDeviceGetCount", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, usk_cuda_count(&n, &error));
    OK(usk_cuda_info(&info, &error));
    assert_int_equal(info.n_devices, 3);
    assert_int_equal(info.driver_version, 13000);
    assert_true(info.can_record_context && info.can_checkpoint);
    /* None of this took a context. */
    assert_int_equal(fake.n_calls("cuDevicePrimaryCtxRetain"), 0);
    check_clean();
}

int main(void)
{
    static const struct CMUnitTest tests[] = { cmocka_unit_test(test_start) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
