/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monitor/monitor.h"

/* FAKE_NVML and NO_NVML (a library that is something else) are paths, from the build. */

static int setup(void **unused)
{
    (void)unused;
    return unsetenv("FAKE_NVML_FAILS");
}

static void test_holders(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    struct unstick_error error;
    struct usk_nvml *nvml;
    char version[32];
    size_t n;

    (void)unused;
    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, NULL), UNSTICK_OK);
    assert_int_equal(usk_nvml_driver_version(nvml, version, sizeof(version), NULL), UNSTICK_OK);
    assert_string_equal(version, "580.159.03");
    /* Largest first, unknown last; this process is left out, and one in both lists is there once. */
    assert_int_equal(usk_nvml_holders(nvml, "GPU-0", holders, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, 4);
    assert_int_equal(holders[0].pid, 2147483645);
    assert_true(holders[0].bytes == UINT64_C(3) << 30);
    assert_string_equal(holders[0].name, "?");
    assert_int_equal(holders[1].pid, 2147483646);
    assert_int_equal(holders[2].pid, getppid());
    assert_true(holders[2].bytes == UINT64_C(1) << 30);
    assert_string_not_equal(holders[2].name, "?");
    assert_int_equal(holders[3].pid, 2147483647);
    assert_true(!holders[3].bytes);

    assert_int_equal(usk_nvml_holders(nvml, "GPU-unknown", holders, &n, &error), UNSTICK_DRIVER);
    assert_int_equal(error.native, 6);
    assert_non_null(strstr(error.text, "Not Found"));
    usk_nvml_close(nvml);
}

static void test_used(void **unused)
{
    uint64_t used_bytes = 0;
    struct unstick_error error;
    struct usk_nvml *nvml;

    (void)unused;
    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, NULL), UNSTICK_OK);
    /* What the processes hold that say so, and 64 MiB that are nobody's. */
    assert_int_equal(usk_nvml_used(nvml, "GPU-0", &used_bytes, NULL), UNSTICK_OK);
    assert_int_equal(used_bytes, (UINT64_C(8) << 30) + (64 << 20));
    assert_int_equal(usk_nvml_used(nvml, "GPU-unknown", &used_bytes, &error), UNSTICK_DRIVER);
    setenv("FAKE_NVML_FAILS", "memory", 1);
    assert_int_equal(usk_nvml_used(nvml, "GPU-0", &used_bytes, &error), UNSTICK_DRIVER);
    assert_non_null(strstr(error.text, "nvmlDeviceGetMemoryInfo"));
    usk_nvml_close(nvml);
}

static void test_failures(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    struct unstick_error error;
    struct usk_nvml *nvml;
    char version[32];
    size_t n = 0;

    (void)unused;
    setenv("FAKE_NVML_FAILS", "init", 1);
    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, &error), UNSTICK_DRIVER);
    assert_non_null(strstr(error.text, "nvmlInit"));
    unsetenv("FAKE_NVML_FAILS");

    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, &error), UNSTICK_OK);
    setenv("FAKE_NVML_FAILS", "version", 1);
    assert_int_equal(usk_nvml_driver_version(nvml, version, sizeof(version), &error), UNSTICK_DRIVER);
    setenv("FAKE_NVML_FAILS", "compute", 1);
    assert_int_equal(usk_nvml_holders(nvml, "GPU-0", holders, &n, &error), UNSTICK_DRIVER);
    assert_int_equal(error.native, 999);
    assert_int_equal(n, 0);
    /* Without the list of those that draw there is the other one. */
    setenv("FAKE_NVML_FAILS", "graphics", 1);
    assert_int_equal(usk_nvml_holders(nvml, "GPU-0", holders, &n, &error), UNSTICK_OK);
    assert_int_equal(n, 3);
    usk_nvml_close(nvml);
}

static void test_use(void **unused)
{
    static const char *const failing[] = { "count", "index", "memory" };
    struct usk_nvml_use use;
    struct unstick_error error;
    struct usk_nvml *nvml;

    (void)unused;
    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, NULL), UNSTICK_OK);
    assert_int_equal(usk_nvml_use(nvml, getppid(), &use, NULL), UNSTICK_OK);
    assert_true(use.is_listed && !use.is_amount_unknown);
    assert_true(use.process_bytes == UINT64_C(1) << 30);
    assert_true(use.used_bytes == (UINT64_C(64) << 20) + (UINT64_C(8) << 30));
    assert_int_equal(usk_nvml_use(nvml, 2147483647, &use, NULL), UNSTICK_OK);
    assert_true(use.is_listed && use.is_amount_unknown);
    assert_int_equal(usk_nvml_use(nvml, 2147483640, &use, NULL), UNSTICK_OK);
    assert_true(!use.is_listed && !use.process_bytes);
    for (size_t i = 0; i < sizeof(failing) / sizeof(failing[0]); i++) {
        setenv("FAKE_NVML_FAILS", failing[i], 1);
        assert_int_equal(usk_nvml_use(nvml, getppid(), &use, &error), UNSTICK_DRIVER);
        assert_int_equal(error.native, 999);
    }
    /* A list that cannot be had leaves the process unlisted. */
    setenv("FAKE_NVML_FAILS", "compute", 1);
    assert_int_equal(usk_nvml_use(nvml, getppid(), &use, &error), UNSTICK_OK);
    assert_false(use.is_listed);
    usk_nvml_close(nvml);
}

static void test_virtualization(void **unused)
{
    enum usk_nvml_virtualization kind = USK_NVML_PASSTHROUGH;
    struct usk_nvml *nvml;

    (void)unused;
    assert_int_equal(usk_nvml_open(FAKE_NVML, &nvml, NULL), UNSTICK_OK);
    assert_int_equal(usk_nvml_virtualization(nvml, "GPU-0", &kind, NULL), UNSTICK_OK);
    assert_int_equal(kind, USK_NVML_BARE);
    setenv("FAKE_NVML_VIRTUALIZATION", "2", 1);
    assert_int_equal(usk_nvml_virtualization(nvml, "GPU-0", &kind, NULL), UNSTICK_OK);
    assert_int_equal(kind, USK_NVML_VGPU);
    setenv("FAKE_NVML_VIRTUALIZATION", "3", 1);
    assert_int_equal(usk_nvml_virtualization(nvml, "GPU-0", &kind, NULL), UNSTICK_UNSUPPORTED);
    unsetenv("FAKE_NVML_VIRTUALIZATION");
    setenv("FAKE_NVML_FAILS", "virtualization", 1);
    assert_int_equal(usk_nvml_virtualization(nvml, "GPU-0", &kind, NULL), UNSTICK_UNSUPPORTED);
    assert_int_equal(usk_nvml_virtualization(nvml, "GPU-unknown", &kind, NULL), UNSTICK_DRIVER);
    assert_int_equal(kind, USK_NVML_VGPU);
    usk_nvml_close(nvml);
}

static void test_absent(void **unused)
{
    struct unstick_error error;
    struct usk_nvml *nvml = NULL;

    (void)unused;
    assert_int_equal(usk_nvml_open("/nonexistent/libnvidia-ml.so.1", &nvml, &error), UNSTICK_NOT_FOUND);
    assert_non_null(strstr(error.text, "/nonexistent"));
    assert_int_equal(usk_nvml_open(NO_NVML, &nvml, &error), UNSTICK_DRIVER_TOO_OLD);
    assert_null(nvml);
    assert_null(usk_nvml_close(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_holders, setup),
        cmocka_unit_test_setup(test_used, setup),
        cmocka_unit_test_setup(test_failures, setup),
        cmocka_unit_test_setup(test_use, setup),
        cmocka_unit_test_setup(test_virtualization, setup),
        cmocka_unit_test_setup(test_absent, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
