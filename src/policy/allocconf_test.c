/* SPDX-License-Identifier: Apache-2.0 */
/* What is said about allocator strings: warnings, versions, variables, profiles, and whether one is in force. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/allocconf.h"

#define COUNT(_array) (sizeof(_array) / sizeof((_array)[0]))

static struct unstick_allocconf conf = { .size = sizeof(conf) };

static int conf_parse(const char *text, unsigned int minor)
{
    struct unstick_allocconf_input input = {
        .size = sizeof(input), .text = text, .torch = UNSTICK_TORCH(2u, minor)
    };

    return unstick_allocconf_parse(&input, &conf);
}

static bool conf_warns(const char *part)
{
    for (size_t i = 0; i < conf.n_warnings; i++) {
        if (strstr(conf.warnings[i].text, part))
            return true;
    }
    return false;
}

static void warnings_are_given_where_they_hold(void **state)
{
    static const struct {
        unsigned int minor;
        const char *text, *part; /* NULL: no warning at all */
    } cases[] = {
        { 11, "expandable_segments:True", NULL },
        { 11, "", NULL },
        { 11, "max_split_size_mb:128", "15.13 instead of 11.45" },
        { 11, "max_split_size_mb:128,expandable_segments:False", "15.13 instead of 11.45" },
        { 11, "expandable_segments:True,max_split_size_mb:128", "26.80 instead of 10.98" },
        { 11, "max_split_size_mb:20", "stops torch up to 2.9" },
        { 11, "garbage_collection_threshold:0.8", "add per_process_memory_fraction" },
        { 9, "garbage_collection_threshold:0.8", "set_per_process_memory_fraction()" },
        { 11, "garbage_collection_threshold:0.8,per_process_memory_fraction:1", "without a memory fraction" },
        { 11, "garbage_collection_threshold:0.8,per_process_memory_fraction:0.5", NULL },
        { 11, "garbage_collection_threshold:0.8,expandable_segments:True", "nothing with expandable_segments" },
        { 11, "expandable_segments:False,garbage_collection_threshold:0.8,per_process_memory_fraction:0.5", NULL },
        { 11, "backend:cudaMallocAsync", "no memory pools" },
        { 11, "backend:cudaMallocAsync,expandable_segments:True", "expandable_segments does nothing" },
        { 11, "backend:native,expandable_segments:True", NULL },
        { 11, "pinned_num_register_threads:8", "without pinned_use_cuda_host_register" },
        { 11, "pinned_num_register_threads:8,pinned_use_cuda_host_register:True", NULL },
        { 11, "pinned_num_register_threads:1", NULL },
        { 12, "throw_on_cudamalloc_oom:True", "per_process_memory_fraction, which is not given" },
        { 12, "throw_on_cudamalloc_oom:True,per_process_memory_fraction:0.9", NULL },
        { 11, "large_segment_size_mb:32MiB", "'32MiB' reads as 32" },
        { 11, "pinned_reserve_segment_size_mb:-1", "no limit at all" },
        { 11, "roundup_power2_divisions:[256MB:1]", "'256MB' reads as 256" },
        { 11, "roundup_power2_divisions:[256:1x]", "divisions read as 1" },
        { 9, "roundup_power2_divisions:[", "not closed" },
        { 11, "expandable_segments:False,expandable_segments:True", "more than once" },
        { 11, "expandable_segments,True", "skip it unread" },
        { 99, "expandable_segments:True", "newer than what is known" },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(conf_parse(cases[i].text, cases[i].minor), UNSTICK_OK);
        if (cases[i].part ? !conf_warns(cases[i].part) : conf.n_warnings > 0)
            fail_msg("'%s': %s", cases[i].text, conf.n_warnings ? conf.warnings[0].text : "no warning");
    }
}

static void caching_that_is_off_is_warned_about(void **state)
{
    struct unstick_allocconf_input input = {
        .size = sizeof(input), .text = "expandable_segments:True", .torch = UNSTICK_TORCH(2u, 11u)
    };

    (void)state;
    input.is_caching_disabled = 1;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK);
    assert_true(conf_warns("PYTORCH_NO_CUDA_MEMORY_CACHING"));
    assert_true(conf.warnings[0].offset == SIZE_MAX);
}

/* From 2.10 a fraction of 1 is none; before, any call counts. */
static void a_fraction_set_by_the_program_counts(void **state)
{
    struct unstick_allocconf_input input = { .size = sizeof(input), .text = "garbage_collection_threshold:0.8" };

    (void)state;
    input.torch = UNSTICK_TORCH(2u, 9u);
    input.memory_fraction = 1;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK);
    assert_int_equal(conf.n_warnings, 0);
    input.torch = UNSTICK_TORCH(2u, 10u);
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK);
    assert_int_equal(conf.n_warnings, 1);
    input.memory_fraction = 0.8;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK);
    assert_int_equal(conf.n_warnings, 0);
}

static void all_errors_are_told_at_once(void **state)
{
    (void)state;
    assert_int_equal(conf_parse("foo:1,expandable_segments:true,pinned_num_register_threads:3,max_split_size_mb:128",
                                11), UNSTICK_BAD_FORMAT);
    assert_int_equal(conf.n_errors, 3);
    assert_non_null(strstr(conf.errors[0].text, "'foo' is no key of torch 2.11, which stops with a ValueError"));
    assert_int_equal(conf.errors[0].offset, 0);
    assert_int_equal(conf.errors[1].offset, 26);
    assert_non_null(strstr(conf.errors[1].text, "exactly these letters"));
    assert_non_null(strstr(conf.errors[2].text, "power of two, at most 128"));
    assert_int_equal(conf.n_entries, 1);
    assert_int_equal(conf_parse("per_process_memory_fraction:0.5", 9), UNSTICK_BAD_FORMAT);
    assert_string_equal(conf.errors[0].text,
                        "per_process_memory_fraction is known from torch 2.10 on: torch 2.9 stops with a RuntimeError");
}

static void messages_are_one_line(void **state)
{
    (void)state;
    assert_int_equal(conf_parse("a\nb\001c\377:1", 9), UNSTICK_BAD_FORMAT);
    assert_string_equal(conf.errors[0].text, "'a?b?c?' is no key of torch 2.9, which stops with a RuntimeError");
}

static void values_are_what_torch_works_with(void **state)
{
    (void)state;
    assert_int_equal(conf_parse(" max_split_size_mb:128MB,garbage_collection_threshold:.25,expandable_segments:True",
                                11), UNSTICK_OK);
    assert_int_equal(conf.n_entries, 3);
    assert_int_equal(conf.entries[0].number, 128);
    assert_int_equal(conf.entries[0].offset, 1);
    assert_true(conf.entries[1].fraction > 0.2499 && conf.entries[1].fraction < 0.2501);
    assert_int_equal(conf.entries[2].number, 1);
    assert_int_equal(conf_parse("max_split_size_mb:-1", 9), UNSTICK_OK);
    assert_true(conf.entries[0].number == UINT64_MAX >> 20);
}

static void limits_are_told(void **state)
{
    char text[2000] = "";
    struct unstick_error error;

    (void)state;
    memset(text, ' ', UNSTICK_ALLOCCONF_TEXT_MAX - 1);
    assert_int_equal(conf_parse(text, 11), UNSTICK_OK);
    text[UNSTICK_ALLOCCONF_TEXT_MAX - 1] = ' ';
    assert_int_equal(conf_parse(text, 11), UNSTICK_BAD_FORMAT);
    assert_non_null(strstr(conf.errors[0].text, "longer than 1023"));

    text[0] = 0;
    for (int i = 0; i <= UNSTICK_ALLOCCONF_ENTRIES_MAX; i++)
        strcat(text, i ? ",backend:native" : "backend:native");
    assert_int_equal(conf_parse(text, 11), UNSTICK_BAD_FORMAT);
    assert_non_null(strstr(conf.errors[0].text, "more than 32"));

    assert_int_equal(conf_parse("expandable_segments:True", 11), UNSTICK_OK);
    assert_int_equal(unstick_allocconf_emit(&conf, text, 24, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_allocconf_emit(&conf, text, 25, &error), UNSTICK_OK);
}

static void arguments_are_checked(void **state)
{
    struct unstick_allocconf_input input = { .size = sizeof(input), .torch = UNSTICK_TORCH(2u, 0u) };
    struct unstick_allocconf small = { .size = 8 };

    (void)state;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_UNSUPPORTED);
    input.torch = UNSTICK_TORCH(2u, 1u);
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK); /* no text is "" */
    assert_int_equal(unstick_allocconf_parse(&input, &small), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_allocconf_parse(&input, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_allocconf_parse(NULL, &conf), UNSTICK_INVALID_ARGUMENT);
    input.size = 4;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_INVALID_ARGUMENT);
}

static void versions_are_read(void **state)
{
    static const char *const bad[] = { "", "abc", "2", "2.", ".11", "2.x", "v2.11", "2.11x", "-2.1", "2.1111", "2 .1" };
    static const char *const old[] = { "1.13.1", "2.0.1", "0.4" };
    unsigned int torch = 7;
    struct unstick_error error;

    (void)state;
    assert_int_equal(unstick_allocconf_torch("2.11.0+cu130", &torch, &error), UNSTICK_OK);
    assert_int_equal(torch, UNSTICK_TORCH(2u, 11u));
    assert_int_equal(unstick_allocconf_torch("2.9.1a0+git12", &torch, &error), UNSTICK_OK);
    assert_int_equal(torch, UNSTICK_TORCH(2u, 9u));
    assert_int_equal(unstick_allocconf_torch("2.14", &torch, &error), UNSTICK_OK);
    assert_int_equal(unstick_allocconf_torch("3.0", &torch, &error), UNSTICK_OK);
    assert_true(torch > UNSTICK_TORCH_NEWEST);
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(unstick_allocconf_torch(bad[i], &torch, &error), UNSTICK_INVALID_ARGUMENT);
        assert_null(strchr(error.text, '\n'));
    }
    for (size_t i = 0; i < COUNT(old); i++)
        assert_int_equal(unstick_allocconf_torch(old[i], &torch, &error), UNSTICK_UNSUPPORTED);
    assert_int_equal(unstick_allocconf_torch(NULL, &torch, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(torch, UNSTICK_TORCH(3u, 0u));
}

static void the_variable_that_counts(void **state)
{
    struct unstick_allocconf_environment environment = { .size = sizeof(environment), .generic = "g" };
    const char *value = NULL;

    (void)state;
    assert_null(unstick_allocconf_variable_found(UNSTICK_TORCH(2u, 9u), &environment, &value));
    assert_null(value);
    assert_string_equal(unstick_allocconf_variable_found(UNSTICK_TORCH(2u, 10u), &environment, &value),
                        "PYTORCH_ALLOC_CONF");
    assert_string_equal(value, "g");
    environment.hip = "h";
    assert_string_equal(unstick_allocconf_variable_found(UNSTICK_TORCH(2u, 10u), &environment, NULL),
                        "PYTORCH_HIP_ALLOC_CONF");
    environment.cuda = "";
    assert_string_equal(unstick_allocconf_variable_found(UNSTICK_TORCH(2u, 10u), &environment, &value),
                        "PYTORCH_CUDA_ALLOC_CONF");
    assert_string_equal(value, "");
    assert_string_equal(unstick_allocconf_variable_at(UNSTICK_TORCH(2u, 9u), 0), "PYTORCH_CUDA_ALLOC_CONF");
    assert_null(unstick_allocconf_variable_at(UNSTICK_TORCH(2u, 9u), 1));
    assert_string_equal(unstick_allocconf_variable_at(UNSTICK_TORCH(2u, 10u), 1), "PYTORCH_ALLOC_CONF");
    assert_null(unstick_allocconf_variable_at(UNSTICK_TORCH(2u, 10u), 2));
}

static void every_version_takes_every_profile(void **state)
{
    size_t n = 0;

    (void)state;
    for (; unstick_allocconf_profile_at(n); n++) {
        const struct unstick_allocconf_profile *profile = unstick_allocconf_profile_at(n);

        assert_ptr_equal(unstick_allocconf_profile_find(profile->name), profile);
        assert_true(*profile->intent && *profile->measured);
        for (unsigned int minor = 1; minor <= UNSTICK_TORCH_NEWEST % 1000; minor++) {
            assert_int_equal(conf_parse(profile->text, minor), UNSTICK_OK);
            /* Whatever is not recommended says why. */
            assert_int_equal(conf.n_warnings == 0, !strcmp(profile->name, "recommended"));
        }
    }
    assert_int_equal(n, 5);
    assert_ptr_equal(unstick_allocconf_profile_find("default"), unstick_allocconf_profile_find("seed"));
    assert_null(unstick_allocconf_profile_find("fastest"));
}

static void the_choice_says_why(void **state)
{
    static const uint64_t sizes_gib[] = { 0, 8, 12, 24, 80 };
    struct unstick_allocconf_choice choice = { .size = sizeof(choice) }, before = { .reason = "" };

    (void)state;
    for (size_t i = 0; i < COUNT(sizes_gib); i++) {
        assert_int_equal(unstick_allocconf_choose(sizes_gib[i] << 30, UNSTICK_TORCH(2u, 11u), &choice), UNSTICK_OK);
        assert_string_equal(choice.text, "expandable_segments:True");
        assert_string_equal(choice.profile->name, "recommended");
        assert_string_not_equal(choice.reason, before.reason);
        before = choice;
    }
    assert_int_equal(unstick_allocconf_choose(0, UNSTICK_TORCH(2u, 0u), &choice), UNSTICK_UNSUPPORTED);
    choice.size = 3;
    assert_int_equal(unstick_allocconf_choose(0, UNSTICK_TORCH(2u, 1u), &choice), UNSTICK_INVALID_ARGUMENT);
}

static void what_is_in_force(void **state)
{
    static const struct {
        const char *wanted, *found;
        int expandable_segments, is_caching_disabled;
        enum unstick_allocconf_outcome outcome;
    } cases[] = {
        { "expandable_segments:True", "expandable_segments:True", 0, 0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "expandable_segments:True", "expandable_segments:True", 1, 0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "expandable_segments:True", "expandable_segments:True", -1, 0, UNSTICK_ALLOCCONF_INERT },
        { "expandable_segments:True", "expandable_segments:True", 0, 1, UNSTICK_ALLOCCONF_INERT },
        { "expandable_segments:False", "expandable_segments:False", -1, 0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "expandable_segments:True", "", 0, 0, UNSTICK_ALLOCCONF_NOT_READ },
        { "expandable_segments:True", NULL, 0, 0, UNSTICK_ALLOCCONF_NOT_READ },
        { "expandable_segments:True", "expandable_segments:False", 0, 0, UNSTICK_ALLOCCONF_DIFFERENT },
        { "expandable_segments:True", "max_split_size_mb:128", 0, 0, UNSTICK_ALLOCCONF_DIFFERENT },
        { "expandable_segments:True", "expandable_segments:True,max_split_size_mb:128", 0, 0,
          UNSTICK_ALLOCCONF_DIFFERENT },
        { "max_split_size_mb:128,expandable_segments:True", " expandable_segments : True , max_split_size_mb:128MB", 0,
          0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "garbage_collection_threshold:0.8", "garbage_collection_threshold:0.80", 0, 0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "garbage_collection_threshold:0.8", "garbage_collection_threshold:0.6", 0, 0, UNSTICK_ALLOCCONF_DIFFERENT },
        { "expandable_segments:False,expandable_segments:True", "expandable_segments:True", 0, 0,
          UNSTICK_ALLOCCONF_IN_FORCE },
        { "", "", 0, 0, UNSTICK_ALLOCCONF_IN_FORCE },
        { "", "expandable_segments:True", 0, 0, UNSTICK_ALLOCCONF_DIFFERENT },
    };
    struct unstick_allocconf_readback readback = { .size = sizeof(readback), .torch = UNSTICK_TORCH(2u, 11u) };
    struct unstick_allocconf_verdict verdict = { .size = sizeof(verdict) };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        readback.text = cases[i].found;
        readback.expandable_segments = cases[i].expandable_segments;
        readback.is_caching_disabled = cases[i].is_caching_disabled;
        assert_int_equal(unstick_allocconf_compare(cases[i].wanted, &readback, &verdict), UNSTICK_OK);
        if (verdict.outcome != cases[i].outcome)
            fail_msg("'%s', '%s': %s", cases[i].wanted, cases[i].found, verdict.text);
        assert_true(*verdict.text);
    }
    assert_int_equal(unstick_allocconf_compare("foo:1", &readback, &verdict), UNSTICK_BAD_FORMAT);
    readback.torch = UNSTICK_TORCH(2u, 0u);
    assert_int_equal(unstick_allocconf_compare("", &readback, &verdict), UNSTICK_UNSUPPORTED);
    assert_int_equal(unstick_allocconf_compare("", NULL, &verdict), UNSTICK_INVALID_ARGUMENT);
}

/* The program has not called setlocale(): strtod() reads as torch does in a program that has not either. */
static void fractions_are_read_as_by_strtod(void **state)
{
    static const char *const texts[] = { "0.8",  ".5",    "5.",    "1e-1",     "1e",      "1e+",    "1e+2x",
                                         "0x",   "0xg",   "0x.8",  "0x0.8p0",  "0x.",     "0x1p",   "0x1p3",
                                         "inf",  "nan",   "-0",    "infinit",  "+.25",    "  3",    "1e99",
                                         "1.5e", "1p3",   "0x.p1", "00.125",   "\t\n.75", "1e-300" };

    (void)state;
    for (size_t i = 0; i < COUNT(texts); i++) {
        double value = 0, expected;
        size_t length = 0;
        char *end;

        expected = strtod(texts[i], &end);
        assert_int_equal(usk_allocconf_read_real(texts[i], strlen(texts[i]), &value, &length), USK_ALLOCCONF_READ);
        assert_int_equal(length, end - texts[i]);
        if (value < expected || value > expected)
            fail_msg("%s: %.17g, not %.17g", texts[i], value, expected);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(warnings_are_given_where_they_hold),
        cmocka_unit_test(caching_that_is_off_is_warned_about),
        cmocka_unit_test(a_fraction_set_by_the_program_counts),
        cmocka_unit_test(all_errors_are_told_at_once),
        cmocka_unit_test(messages_are_one_line),
        cmocka_unit_test(values_are_what_torch_works_with),
        cmocka_unit_test(limits_are_told),
        cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(versions_are_read),
        cmocka_unit_test(the_variable_that_counts),
        cmocka_unit_test(every_version_takes_every_profile),
        cmocka_unit_test(the_choice_says_why),
        cmocka_unit_test(what_is_in_force),
        cmocka_unit_test(fractions_are_read_as_by_strtod),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
