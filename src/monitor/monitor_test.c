/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <unstick/context.h>
#include <unstick/device.h>
#include <unstick/monitor.h>
#include <unstick/region.h>
#include <unstick/task.h>

#include "monitor/monitor.h"

/* FAKE_NVML is a path, from the build. */

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static struct unstick_context *ctx;
static struct unstick_device *dev;

static int setup(void **unused)
{
    struct unstick_device_options options = { .size = sizeof(options), .limit_bytes = 192 * MIB };

    (void)unused;
    unsetenv("FAKE_NVML_FAILS");
    assert_int_equal(unstick_context_new(NULL, &ctx, NULL), UNSTICK_OK);
    assert_int_equal(unstick_device_open(ctx, "host:256MiB", &options, &dev, NULL), UNSTICK_OK);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    assert_int_equal(unstick_device_close(dev, NULL), UNSTICK_OK);
    ctx = unstick_context_free(ctx);
    return 0;
}

/* A host device says everything itself, and its reading explains all that is in use. */
static void test_device(void **unused)
{
    struct unstick_reading before = { .size = sizeof(before) }, reading = { .size = sizeof(reading) };
    struct unstick_attribution attribution = { .size = sizeof(attribution) };
    struct unstick_region *region;
    struct unstick_task *task;
    void *address;

    (void)unused;
    assert_int_equal(unstick_device_reading(dev, NULL, 42, &before, NULL), UNSTICK_OK);
    assert_int_equal(before.taken_ns, 42);
    assert_int_equal(before.sources, UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS | UNSTICK_SOURCE_PROCESSES |
                                         UNSTICK_SOURCE_CONTEXT);
    assert_int_equal(before.total_bytes, 256 * MIB);
    assert_int_equal(before.limit_bytes, 192 * MIB);
    assert_int_equal(before.n_processes, 0);

    assert_int_equal(unstick_region_new(dev, "weights", 8 * MIB, NULL, &region, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_alloc(region, 8 * MIB, &address, NULL), UNSTICK_OK);
    assert_int_equal(unstick_region_restore(region, NULL, &task, NULL), UNSTICK_OK);
    assert_int_equal(unstick_task_wait(task, NULL), UNSTICK_OK);
    unstick_task_free(task);
    assert_int_equal(unstick_device_reading(dev, NULL, 0, &reading, NULL), UNSTICK_OK);
    assert_true(reading.taken_ns > 0);
    assert_true(reading.resident_bytes >= 8 * MIB);
    assert_int_equal(before.free_bytes - reading.free_bytes, reading.resident_bytes);

    assert_int_equal(unstick_attribute(&reading, &attribution), UNSTICK_OK);
    assert_int_equal(attribution.missing, UNSTICK_SOURCE_TORCH);
    assert_int_equal(attribution.unexplained_bytes, 0);
    unstick_region_unref(region);
}

static void test_bad_arguments(void **unused)
{
    struct unstick_reading reading = { .size = 1 };
    struct unstick_error error;
    int status;

    (void)unused;
    assert_int_equal(unstick_device_reading(dev, NULL, 0, &reading, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_device_reading(dev, NULL, 0, NULL, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_device_reading(NULL, NULL, 0, &reading, &error), UNSTICK_INVALID_ARGUMENT);
    reading.size = sizeof(reading);
    if (fork() == 0)
        _exit(unstick_device_reading(dev, NULL, 0, &reading, NULL) == UNSTICK_FORKED && !reading.sources ? 0 : 1);
    assert_true(wait(&status) > 0);
    assert_int_equal(status, 0);
}

/* The other processes, and this one apart. */
static void test_processes(void **unused)
{
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_monitor *monitor;

    (void)unused;
    assert_int_equal(usk_monitor_new(FAKE_NVML, &monitor, NULL), UNSTICK_OK);
    usk_monitor_processes(monitor, "GPU-0", &reading);
    assert_int_equal(reading.sources, UNSTICK_SOURCE_PROCESSES);
    assert_int_equal(reading.n_processes, 4);
    assert_int_equal(reading.own_process_bytes, 5 * GIB);
    assert_int_equal(reading.processes[0].bytes, 3 * GIB);
    assert_string_equal(reading.processes[0].name, "?");
    assert_int_equal(reading.processes[2].pid, getppid());
    assert_int_equal(reading.processes[3].bytes, 0);

    /* A failure leaves the source out. */
    reading = (struct unstick_reading) { .size = sizeof(reading) };
    usk_monitor_processes(monitor, "GPU-unknown", &reading);
    assert_int_equal(reading.sources, 0);
    setenv("FAKE_NVML_FAILS", "compute", 1);
    usk_monitor_processes(monitor, "GPU-0", &reading);
    assert_int_equal(reading.sources, 0);
    assert_null(unstick_monitor_free(monitor));
}

/* In a container this process is listed under a number that is not its own here: so would be the others. */
static void test_another_pid_namespace(void **unused)
{
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_monitor *monitor;

    (void)unused;
    assert_int_equal(usk_monitor_new(FAKE_NVML, &monitor, NULL), UNSTICK_OK);
    setenv("FAKE_NVML_FAILS", "namespace", 1);
    usk_monitor_processes(monitor, "GPU-0", &reading);
    assert_int_equal(reading.sources, 0);
    assert_int_equal(reading.n_processes, 0);
    unstick_monitor_free(monitor);
}

static void test_without_nvml(void **unused)
{
    struct unstick_reading reading = { .size = sizeof(reading) };
    struct unstick_monitor *monitor;

    (void)unused;
    assert_int_equal(usk_monitor_new("/nonexistent/libnvidia-ml.so.1", &monitor, NULL), UNSTICK_OK);
    usk_monitor_processes(monitor, "GPU-0", &reading);
    assert_int_equal(reading.sources, 0);
    assert_int_equal(unstick_device_reading(dev, monitor, 0, &reading, NULL), UNSTICK_OK);
    unstick_monitor_free(monitor);
    assert_null(unstick_monitor_free(NULL));
}

static void test_system(void **unused)
{
    struct unstick_system_reading system = { .size = sizeof(system) };

    (void)unused;
    assert_int_equal(unstick_system_read(&system, NULL), UNSTICK_OK);
    assert_true(system.total_bytes >= system.available_bytes && system.available_bytes > 0);
    assert_true(system.process_bytes > 0 && system.process_bytes < system.total_bytes);
    assert_true(system.cgroup_limit_bytes || !system.cgroup_used_bytes);
    assert_int_equal(unstick_system_read(NULL, NULL), UNSTICK_INVALID_ARGUMENT);
    system.size = 8;
    assert_int_equal(unstick_system_read(&system, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(usk_system_process_bytes("/nonexistent"), 0);
}

int main(void)
{
#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(device), TEST(bad_arguments), TEST(processes), TEST(another_pid_namespace), TEST(without_nvml),
        TEST(system),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
