/* SPDX-License-Identifier: Apache-2.0 */
/* What is written; that all of it is well-formed is checked from outside, by test/metrics_format.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/metrics.h>
#include <unstick/status.h>

static char text[16384];

static void write_metrics(const struct unstick_metrics *metrics)
{
    size_t length;

    assert_int_equal(unstick_metrics_write(metrics, text, sizeof(text), &length), UNSTICK_OK);
    assert_int_equal(length, strlen(text));
    assert_true(length > 0 && text[length - 1] == '\n');
}

static void assert_line(const char *line)
{
    const char *found = strstr(text, line);

    if (!found || (found != text && found[-1] != '\n') || found[strlen(line)] != '\n')
        fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void test_nothing(void **unused)
{
    struct unstick_metrics metrics = { .size = sizeof(metrics) };

    (void)unused;
    write_metrics(&metrics);
    assert_null(strstr(text, "unstick_device"));
    assert_null(strstr(text, "_total"));
    assert_line("# TYPE unstick_build_info gauge");
}

/* Only what a reading's sources cover. */
static void test_device(void **unused)
{
    const struct unstick_process processes[] = {
        { .pid = 7, .name = "py\"th\\on", .bytes = 5 },
        { .pid = 8, .name = "?" },
    };
    struct unstick_reading reading = {
        .size = sizeof(reading),
        .sources = UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_PROCESSES,
        .total_bytes = 100,
        .free_bytes = 60,
        .torch_reserved_bytes = 9,
        .processes = processes,
        .n_processes = 2,
    };
    struct unstick_metrics_device device = { .name = "cuda:0", .reading = &reading };
    struct unstick_metrics metrics = { .size = sizeof(metrics), .devices = &device, .n_devices = 1 };

    (void)unused;
    write_metrics(&metrics);
    assert_line("unstick_device_bytes{device=\"cuda:0\",kind=\"total\"} 100");
    assert_line("unstick_device_bytes{device=\"cuda:0\",kind=\"free\"} 60");
    assert_line("unstick_device_process_bytes{device=\"cuda:0\",pid=\"7\",process=\"py\\\"th\\\\on\"} 5");
    assert_null(strstr(text, "pid=\"8\""));
    assert_null(strstr(text, "torch"));
    assert_null(strstr(text, "resident"));
    reading.sources |= UNSTICK_SOURCE_TORCH | UNSTICK_SOURCE_ACCOUNTS;
    write_metrics(&metrics);
    assert_line("unstick_device_bytes{device=\"cuda:0\",kind=\"torch_reserved\"} 9");
    assert_line("unstick_device_bytes{device=\"cuda:0\",kind=\"poisoned\"} 0");
}

static void test_labels(void **unused)
{
    static const struct {
        const char *model, *written;
    } cases[] = {
        { "a/b.c_4-bit", "a/b.c_4-bit" },
        { "two\nlines", "two\\nlines" },
        { "\"\\", "\\\"\\\\" },
        { "Bärchen ⚡ 𝄞", "Bärchen ⚡ 𝄞" },
        { "\xff" "a\xc3", "\xef\xbf\xbd" "a\xef\xbf\xbd" },
        { "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },             /* overlong */
        { "\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* a surrogate */
        { "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "", "" },
        { NULL, "" },
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_metrics_model model = { cases[i].model, "vae", "pinned", UINT64_MAX };
        struct unstick_metrics metrics = { .size = sizeof(metrics), .models = &model, .n_models = 1 };
        char line[256];

        write_metrics(&metrics);
        snprintf(line, sizeof(line),
                 "unstick_model_bytes{model=\"%s\",component=\"vae\",tier=\"pinned\"} 18446744073709551615",
                 cases[i].written);
        assert_line(line);
    }
}

static void test_histogram(void **unused)
{
    struct unstick_histogram histogram = { .sum_ns = 0 };
    struct unstick_metrics metrics = { .size = sizeof(metrics), .timings[UNSTICK_TIMING_RESTORE] = &histogram };

    (void)unused;
    unstick_histogram_add(&histogram, 0);
    unstick_histogram_add(&histogram, 10000);        /* a bound belongs to its bucket */
    unstick_histogram_add(&histogram, 10001);
    unstick_histogram_add(&histogram, 335000000);
    unstick_histogram_add(&histogram, 3600000000000);
    write_metrics(&metrics);
    assert_line("# TYPE unstick_restore_seconds histogram");
    assert_line("unstick_restore_seconds_bucket{le=\"0.00001\"} 2");
    assert_line("unstick_restore_seconds_bucket{le=\"0.00005\"} 3");
    assert_line("unstick_restore_seconds_bucket{le=\"0.25\"} 3");
    assert_line("unstick_restore_seconds_bucket{le=\"0.5\"} 4");
    assert_line("unstick_restore_seconds_bucket{le=\"60\"} 4");
    assert_line("unstick_restore_seconds_bucket{le=\"+Inf\"} 5");
    assert_line("unstick_restore_seconds_sum 3600.335020001");
    assert_line("unstick_restore_seconds_count 5");
    assert_null(strstr(text, "unstick_load_seconds"));
}

static void test_counts_and_memory(void **unused)
{
    struct unstick_metrics_counts counts = { .n_hits = 1, .up_bytes = 2, .down_bytes = 3, .reclaimed_bytes = 4 };
    struct unstick_system_reading system = { .size = sizeof(system), .total_bytes = 10, .available_bytes = 6 };
    struct unstick_context_info host = { .size = sizeof(host), .host_pinned_bytes = 5, .host_ring_bytes = 1 };
    struct unstick_metrics metrics = { .size = sizeof(metrics), .counts = &counts, .system = &system, .host = &host };

    (void)unused;
    write_metrics(&metrics);
    assert_line("unstick_hits_total 1");
    assert_line("unstick_copied_bytes_total{direction=\"up\"} 2");
    assert_line("unstick_copied_bytes_total{direction=\"down\"} 3");
    assert_line("unstick_reclaimed_bytes_total 4");
    assert_line("unstick_host_bytes{kind=\"pinned\"} 5");
    assert_line("unstick_system_memory_bytes{kind=\"available\"} 6");
    assert_null(strstr(text, "unstick_cgroup"));
    system.cgroup_limit_bytes = 8;
    system.cgroup_used_bytes = 7;
    write_metrics(&metrics);
    assert_line("unstick_cgroup_memory_bytes{kind=\"used\"} 7");
}

/* Whole or nothing, and how much is needed is said. */
static void test_buffer(void **unused)
{
    struct unstick_metrics_counts counts = { .n_hits = 1 };
    struct unstick_metrics metrics = { .size = sizeof(metrics), .counts = &counts };
    size_t needed, length;

    (void)unused;
    assert_int_equal(unstick_metrics_write(&metrics, NULL, 0, &needed), UNSTICK_OK);
    assert_true(needed > 100 && needed < sizeof(text));
    for (size_t size = 1; size <= needed; size++) {
        memset(text, 'x', sizeof(text));
        assert_int_equal(unstick_metrics_write(&metrics, text, size, &length), UNSTICK_OK);
        assert_int_equal(length, needed);
        assert_int_equal(text[0], 0);
        assert_int_equal(text[size], 'x');
    }
    assert_int_equal(unstick_metrics_write(&metrics, text, needed + 1, &length), UNSTICK_OK);
    assert_int_equal(strlen(text), needed);
}

static void test_bad_arguments(void **unused)
{
    struct unstick_metrics metrics = { .size = sizeof(metrics) };
    struct unstick_metrics_device device = { .name = "cuda:0" };
    size_t length;

    (void)unused;
    assert_int_equal(unstick_metrics_write(NULL, text, 1, &length), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_metrics_write(&metrics, NULL, 1, &length), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_metrics_write(&metrics, text, 1, NULL), UNSTICK_INVALID_ARGUMENT);
    metrics.n_devices = 1;
    assert_int_equal(unstick_metrics_write(&metrics, text, 1, &length), UNSTICK_INVALID_ARGUMENT);
    metrics.devices = &device;
    assert_int_equal(unstick_metrics_write(&metrics, text, 1, &length), UNSTICK_INVALID_ARGUMENT);
    metrics.size = 4;
    assert_int_equal(unstick_metrics_write(&metrics, text, 1, &length), UNSTICK_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing),           cmocka_unit_test(test_device),
        cmocka_unit_test(test_labels),            cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_counts_and_memory), cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
