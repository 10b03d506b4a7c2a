/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include <unstick/reading.h>
#include <unstick/status.h>

#include "policy/attribution.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define ALL 31u

/* The H200 of facts: 8-bit FLUX, everything referenced, context 0.5 GiB. */
static struct unstick_reading reading_make(void)
{
    return (struct unstick_reading) {
        .size = sizeof(struct unstick_reading),
        .sources = ALL,
        .total_bytes = 140 * GIB,
        .free_bytes = 140 * GIB - 17 * GIB - 512 * MIB,
        .torch_allocated_bytes = 16 * GIB,
        .torch_reserved_bytes = 17 * GIB,
        .torch_active_bytes = 16 * GIB,
        .torch_inactive_split_bytes = 256 * MIB,
        .context_bytes = 512 * MIB,
    };
}

static struct unstick_attribution attribute(const struct unstick_reading *reading)
{
    struct unstick_attribution attribution = { .size = sizeof(attribution) };

    assert_int_equal(unstick_attribute(reading, &attribution), UNSTICK_OK);
    return attribution;
}

static void assert_says(const struct unstick_attribution *attribution, const char *what)
{
    if (!strstr(attribution->text, what))
        fail_msg("\"%s\" is not in: %s", what, attribution->text);
}

static void test_torch_live(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution = attribute(&reading);

    (void)unused;
    assert_int_equal(attribution.used_bytes, 17 * GIB + 512 * MIB);
    assert_int_equal(attribution.torch_live_bytes, 16 * GIB);
    assert_int_equal(attribution.torch_cached_bytes, 768 * MIB);
    assert_int_equal(attribution.torch_pinned_bytes, 256 * MIB);
    assert_int_equal(attribution.context_bytes, 512 * MIB);
    assert_int_equal(attribution.unexplained_bytes, 0);
    assert_int_equal(attribution.missing, 0);
    assert_int_equal(attribution.largest, UNSTICK_HOLDER_TORCH_LIVE);
    assert_string_equal(attribution.text,
                        "17.5 GiB of 140.0 GiB in use: 16.0 GiB in torch tensors that are still referenced, 768.0 MiB "
                        "cached by torch (empty_cache gives it back), 512.0 MiB by the CUDA context, 256.0 MiB free in "
                        "torch segments that a survivor pins");
}

/* Facts: allocated 0.03, reserved 5.46: a survivor pins a segment, and empty_cache() would give back nothing. */
static void test_torch_pinned_is_not_cached(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution;

    (void)unused;
    reading.torch_allocated_bytes = reading.torch_active_bytes = 32 * MIB;
    reading.torch_reserved_bytes = 5 * GIB;
    reading.torch_inactive_split_bytes = 5 * GIB - 32 * MIB;
    attribution = attribute(&reading);
    assert_int_equal(attribution.torch_cached_bytes, 0);
    assert_int_equal(attribution.torch_pinned_bytes, 5 * GIB - 32 * MIB);
    reading.free_bytes = reading.total_bytes - 5 * GIB - 512 * MIB;
    attribution = attribute(&reading);
    assert_int_equal(attribution.largest, UNSTICK_HOLDER_TORCH_PINNED);
    assert_int_equal(attribution.unexplained_bytes, 0);
}

/* Each holder can be the largest, and is named. */
static void test_largest(void **unused)
{
    static const struct {
        enum unstick_holder holder;
        const char *name, *text;
    } cases[] = {
        { UNSTICK_HOLDER_OURS, "ours", "9.0 GiB in regions of this library" },
        { UNSTICK_HOLDER_TORCH_LIVE, "torch-live", "9.0 GiB in torch tensors" },
        { UNSTICK_HOLDER_TORCH_CACHED, "torch-cached", "9.0 GiB cached by torch" },
        { UNSTICK_HOLDER_TORCH_PINNED, "torch-pinned", "9.0 GiB free in torch segments" },
        { UNSTICK_HOLDER_PROCESSES, "processes", "9.0 GiB by other processes (ollama (pid 77) 9.0 GiB)" },
        { UNSTICK_HOLDER_CONTEXT, "context", "9.0 GiB by the CUDA context" },
        { UNSTICK_HOLDER_UNEXPLAINED, "unexplained", "9.0 GiB unexplained" },
    };
    struct unstick_process process = { .pid = 77, .name = "ollama", .bytes = 9 * GIB };

    (void)unused;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_reading reading = { .size = sizeof(reading), .sources = ALL, .total_bytes = 24 * GIB,
                                           .free_bytes = 15 * GIB };
        struct unstick_attribution attribution;

        switch (cases[i].holder) {
        case UNSTICK_HOLDER_OURS:
            reading.resident_bytes = 8 * GIB;
            reading.sentinel_bytes = 512 * MIB;
            reading.spare_bytes = 256 * MIB;
            reading.poisoned_bytes = 256 * MIB;
            break;
        case UNSTICK_HOLDER_TORCH_LIVE:
            reading.torch_reserved_bytes = reading.torch_active_bytes = 9 * GIB;
            break;
        case UNSTICK_HOLDER_TORCH_CACHED:
            reading.torch_reserved_bytes = 9 * GIB;
            break;
        case UNSTICK_HOLDER_TORCH_PINNED:
            reading.torch_reserved_bytes = reading.torch_inactive_split_bytes = 9 * GIB;
            break;
        case UNSTICK_HOLDER_PROCESSES:
            reading.processes = &process;
            reading.n_processes = 1;
            break;
        case UNSTICK_HOLDER_CONTEXT:
            reading.context_bytes = 9 * GIB;
            break;
        case UNSTICK_HOLDER_UNEXPLAINED:
        case UNSTICK_HOLDER_NONE:
        default:
            break;
        }
        attribution = attribute(&reading);
        assert_int_equal(attribution.largest, cases[i].holder);
        assert_string_equal(unstick_holder_name(attribution.largest), cases[i].name);
        assert_says(&attribution, cases[i].text);
        assert_int_equal(attribution.unexplained_bytes,
                         cases[i].holder == UNSTICK_HOLDER_UNEXPLAINED ? 9 * (int64_t)GIB : 0);
    }
    assert_string_equal(unstick_holder_name((enum unstick_holder)99), "unknown");
    assert_string_equal(unstick_holder_name((enum unstick_holder)-1), "unknown");
}

static void test_nothing_in_use(void **unused)
{
    struct unstick_reading reading = { .size = sizeof(reading), .sources = ALL, .total_bytes = GIB, .free_bytes = GIB };
    struct unstick_attribution attribution = attribute(&reading);

    (void)unused;
    assert_int_equal(attribution.largest, UNSTICK_HOLDER_NONE);
    assert_string_equal(attribution.text, "0 B of 1.0 GiB in use");
}

/* WSL2, vGPU, containers: no list of processes. What they hold is unexplained, and why is said. */
static void test_missing_sources(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution;

    (void)unused;
    reading.sources = ALL & ~(unsigned int)(UNSTICK_SOURCE_PROCESSES | UNSTICK_SOURCE_TORCH);
    attribution = attribute(&reading);
    assert_int_equal(attribution.missing, UNSTICK_SOURCE_PROCESSES | UNSTICK_SOURCE_TORCH);
    assert_int_equal(attribution.torch_live_bytes, 0);
    assert_int_equal(attribution.torch_cached_bytes, 0);
    assert_int_equal(attribution.torch_pinned_bytes, 0);
    assert_int_equal(attribution.unexplained_bytes, 17 * GIB);
    assert_int_equal(attribution.largest, UNSTICK_HOLDER_UNEXPLAINED);
    assert_says(&attribution, "; not known: torch's statistics, what other processes hold");

    /* Figures without their bit are not looked at. */
    reading.sources = UNSTICK_SOURCE_TORCH;
    attribution = attribute(&reading);
    assert_int_equal(attribution.used_bytes, 0);
    assert_int_equal(attribution.unexplained_bytes, 0);
    assert_int_equal(attribution.context_bytes, 0);
    assert_says(&attribution, "what the driver says, the library's own accounts");

    reading.sources = 0;
    attribution = attribute(&reading);
    assert_int_equal(attribution.missing, ALL);
    assert_int_equal(attribution.largest, UNSTICK_HOLDER_NONE);
}

/* A process of which the driver does not say how much it holds makes the sum a lower bound. */
static void test_unknown_amount(void **unused)
{
    const struct unstick_process processes[] = {
        { .pid = 5, .name = "?" },
        { .pid = 6, .name = "ollama", .bytes = 2 * GIB },
        { .pid = 7, .name = "python", .bytes = 3 * GIB },
    };
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution;

    (void)unused;
    reading.free_bytes -= 6 * GIB;
    reading.processes = processes;
    reading.n_processes = 3;
    attribution = attribute(&reading);
    assert_int_equal(attribution.others_bytes, 5 * GIB);
    assert_int_equal(attribution.unexplained_bytes, GIB);
    assert_int_equal(attribution.missing, UNSTICK_SOURCE_PROCESSES);
    assert_says(&attribution, "5.0 GiB by other processes (python (pid 7) 3.0 GiB, ollama (pid 6) 2.0 GiB and 1 more)");
    reading.n_processes = 1;
    attribution = attribute(&reading);
    assert_says(&attribution, "0 B by other processes (? (pid 5) an unknown amount)");
}

/* Sources that count at different moments: the remainder is negative and stays so. */
static void test_negative(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution;

    (void)unused;
    reading.free_bytes += 2 * GIB;
    attribution = attribute(&reading);
    assert_int_equal(attribution.unexplained_bytes, -2 * (int64_t)GIB);
    assert_says(&attribution, "exceed that by 2.0 GiB");

    /* Torch's own figures read while it works: never a wrapped "cached". */
    reading.torch_reserved_bytes = GIB;
    assert_int_equal(attribute(&reading).torch_cached_bytes, 0);
    /* Free above total, as some virtual GPUs say. */
    reading.free_bytes = reading.total_bytes + 1;
    assert_int_equal(attribute(&reading).used_bytes, 0);
}

/* Figures that no device has neither wrap nor trap. */
static void test_saturation(void **unused)
{
    struct unstick_process processes[8];
    struct unstick_reading reading = {
        .size = sizeof(reading),
        .sources = ALL,
        .total_bytes = UINT64_MAX,
        .resident_bytes = UINT64_MAX,
        .sentinel_bytes = UINT64_MAX,
        .torch_active_bytes = UINT64_MAX,
        .torch_inactive_split_bytes = UINT64_MAX,
        .torch_reserved_bytes = UINT64_MAX,
        .context_bytes = UINT64_MAX,
        .processes = processes,
        .n_processes = 8,
    };
    struct unstick_attribution attribution;

    (void)unused;
    for (size_t i = 0; i < 8; i++) {
        processes[i] = (struct unstick_process) { .pid = 2147483647, .bytes = UINT64_MAX };
        memset(processes[i].name, 'x', sizeof(processes[i].name));
    }
    attribution = attribute(&reading);
    assert_int_equal(attribution.unexplained_bytes, 0);
    assert_true(attribution.ours_bytes == UINT64_MAX);
    assert_true(strlen(attribution.text) < sizeof(attribution.text));
    reading.total_bytes = 0;
    assert_true(attribute(&reading).unexplained_bytes == -INT64_MAX);
    assert_true(usk_bytes_difference(UINT64_MAX, 0) == INT64_MAX);
    assert_true(usk_bytes_difference(0, UINT64_MAX) == -INT64_MAX);
    assert_true(usk_bytes_sum_signed(INT64_MIN, -1) == INT64_MIN);
    assert_true(usk_bytes_sum_signed(INT64_MAX, 1) == INT64_MAX);
}

/* Where nobody measured the context, the process list and what this process knows of itself leave it. */
static void test_context_from_process_list(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution;

    (void)unused;
    reading.sources &= ~(unsigned int)UNSTICK_SOURCE_CONTEXT;
    reading.context_bytes = 77;
    assert_int_equal(attribute(&reading).context_bytes, 0);
    assert_int_equal(attribute(&reading).missing, UNSTICK_SOURCE_CONTEXT);
    reading.own_process_bytes = 17 * GIB + 300 * MIB;
    attribution = attribute(&reading);
    assert_int_equal(attribution.context_bytes, 300 * MIB);
    assert_int_equal(attribution.missing, 0);
    assert_int_equal(attribution.unexplained_bytes, 212 * MIB);
    reading.own_process_bytes = GIB;
    assert_int_equal(attribute(&reading).context_bytes, 0);
}

static void test_available(void **unused)
{
    struct unstick_reading reading = { .size = sizeof(reading), .sources = ALL, .total_bytes = 24 * GIB,
                                       .free_bytes = 10 * GIB, .resident_bytes = 6 * GIB, .limit_bytes = 12 * GIB };

    (void)unused;
    assert_int_equal(usk_reading_available(&reading), 6 * GIB);
    reading.limit_bytes = 5 * GIB;
    assert_int_equal(usk_reading_available(&reading), 0);
    reading.limit_bytes = 0;
    assert_int_equal(usk_reading_available(&reading), 10 * GIB);
    reading.limit_bytes = 1;
    reading.sources = UNSTICK_SOURCE_DRIVER;
    assert_int_equal(usk_reading_available(&reading), 10 * GIB);
}

static void test_bad_arguments(void **unused)
{
    struct unstick_reading reading = reading_make();
    struct unstick_attribution attribution = { .size = sizeof(attribution) };

    (void)unused;
    assert_int_equal(unstick_attribute(NULL, &attribution), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_attribute(&reading, NULL), UNSTICK_INVALID_ARGUMENT);
    reading.n_processes = 1;
    assert_int_equal(unstick_attribute(&reading, &attribution), UNSTICK_INVALID_ARGUMENT);
    reading = reading_make();
    reading.size = 8;
    assert_int_equal(unstick_attribute(&reading, &attribution), UNSTICK_INVALID_ARGUMENT);
    reading = reading_make();
    attribution.size = 0;
    assert_int_equal(unstick_attribute(&reading, &attribution), UNSTICK_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch_live),     cmocka_unit_test(test_torch_pinned_is_not_cached),
        cmocka_unit_test(test_largest),        cmocka_unit_test(test_nothing_in_use),
        cmocka_unit_test(test_missing_sources), cmocka_unit_test(test_unknown_amount),
        cmocka_unit_test(test_negative),       cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_context_from_process_list),
        cmocka_unit_test(test_available),      cmocka_unit_test(test_bad_arguments),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
