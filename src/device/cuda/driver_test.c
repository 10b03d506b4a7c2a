/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "device/cuda/fake_test.h"

/* A driver of any age, made from the fake's functions. */
static struct {
    const char *missing;
    int version;
    bool says_success; /* for what is missing, as the second version does */
    unsigned int n_asked;
} made;

static usk_cu_result made_version(int *ret_version)
{
    *ret_version = made.version;
    return USK_CU_SUCCESS;
}

static usk_cu_result made_version_fails(int *ret_version)
{
    (void)ret_version;
    return USK_CU_UNKNOWN;
}

static usk_cu_result made_find(const char *symbol, void **ret_function, int version)
{
    made.n_asked++;
    assert_true(version >= 2000);
    *ret_function = NULL;
    if (!strcmp(symbol, "cuDriverGetVersion")) {
        usk_cu_fn_cuDriverGetVersion *function = made.version ? made_version : made_version_fails;

        memcpy(ret_function, &function, sizeof(function));
    } else if (version <= made.version && (!made.missing || strcmp(symbol, made.missing))) {
        usk_cu_fn_cuInit *function = table.cuInit;

        memcpy(ret_function, &function, sizeof(function));
    }
    return *ret_function || made.says_success ? USK_CU_SUCCESS : USK_CU_NOT_FOUND;
}

static usk_cu_result made_v1(const char *symbol, void **ret_function, int version, uint64_t flags)
{
    assert_int_equal(flags, 0);
    return made_find(symbol, ret_function, version);
}

static usk_cu_result made_v2(const char *symbol, void **ret_function, int version, uint64_t flags, int *ret_status)
{
    *ret_status = 0;
    return made_v1(symbol, ret_function, version, flags);
}

static void test_newest(void **state)
{
    struct usk_cuda_driver driver;

    (void)state;
    made.version = 13000;
    made.missing = NULL;
    OK(usk_cuda_driver_resolve(made_v2, made_v1, &driver, &error));
    assert_int_equal(driver.version, 13000);
    assert_true(driver.cuCtxRecordEvent && driver.cuCheckpointProcessLock && driver.cuMemMap);
}

/* What is optional may be missing, however the driver says so; the rest is there in the oldest one. */
static void test_oldest(void **state)
{
    struct usk_cuda_driver driver;

    (void)state;
    made.version = USK_CUDA_MIN_DRIVER_VERSION;
    made.missing = NULL;
    for (int says_success = 0; says_success < 2; says_success++) {
        made.says_success = says_success;
        OK(usk_cuda_driver_resolve(NULL, made_v1, &driver, &error));
        assert_true(!driver.cuCtxRecordEvent && !driver.cuCheckpointProcessLock && driver.cuMemMap);
        assert_int_equal(driver.version, USK_CUDA_MIN_DRIVER_VERSION);
    }
    made.says_success = false;
}

static void test_too_old(void **state)
{
    struct usk_cuda_driver driver = { .version = 7 };

    (void)state;
    made.missing = NULL;
    made.version = 11030;
    FAILS(UNSTICK_DRIVER_TOO_OLD, usk_cuda_driver_resolve(made_v2, made_v1, &driver, &error));
    assert_non_null(strstr(error.text, "11.3"));
    assert_int_equal(driver.version, 7);
    made.version = 0;
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_driver_resolve(made_v2, made_v1, &driver, &error));
}

static void test_symbol_missing(void **state)
{
    static const char *const required[] = { "cuInit", "cuMemSetAccess", "cuGetErrorName", "cuLaunchKernel" };
    struct usk_cuda_driver driver;

    (void)state;
    made.version = 13000;
    for (size_t i = 0; i < sizeof(required) / sizeof(required[0]); i++) {
        made.missing = required[i];
        FAILS(UNSTICK_DRIVER_TOO_OLD, usk_cuda_driver_resolve(made_v2, made_v1, &driver, &error));
        assert_non_null(strstr(error.text, required[i]));
    }
    made.missing = NULL;
}

/* Loaded once, and the same for everybody. */
static void test_get(void **state)
{
    const struct usk_cuda_driver *first, *second;

    (void)state;
    OK(usk_cuda_driver_get(&first, &error));
    OK(usk_cuda_driver_get(&second, &error));
    assert_ptr_equal(first, second);
    assert_string_equal(usk_cuda_result_name(first, USK_CU_ILLEGAL_ADDRESS), "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_true(usk_cuda_result_name(first, 123456)[0] && usk_cuda_result_text(first, 123456)[0]);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        driver_test(test_newest),         driver_test(test_oldest), driver_test(test_too_old),
        driver_test(test_symbol_missing), driver_test(test_get),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
