/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seed's sentences on the allocator's thresholds, profiles and variables, one test each, quoted. Where the seed
 * contradicts itself, or torch does otherwise, the test says what holds here; docs/seed.md and docs/allocator.md say
 * why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <unstick/allocconf.h>
#include <unstick/policy.h>

#define GIB (UINT64_C(1) << 30)
#define SEED "garbage_collection_threshold:0.8,max_split_size_mb:128,expandable_segments:True"

static struct unstick_allocconf conf = { .size = sizeof(conf) };

static int conf_read(const char *text)
{
    struct unstick_allocconf_input input = { .size = sizeof(input), .text = text, .torch = UNSTICK_TORCH_NEWEST };

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

static const struct unstick_allocconf_entry *conf_find(const char *name)
{
    for (size_t i = 0; i < conf.n_entries; i++) {
        if (!strcmp(conf.entries[i].name, name))
            return &conf.entries[i];
    }
    fail_msg("%s is not there", name);
    return NULL;
}

static void read_profile(const char *name, double threshold, uint64_t split_mb)
{
    const struct unstick_allocconf_profile *profile = unstick_allocconf_profile_find(name);

    assert_non_null(profile);
    assert_int_equal(conf_read(profile->text), UNSTICK_OK);
    assert_true(conf_find("garbage_collection_threshold")->fraction == threshold);
    assert_int_equal(conf_find("max_split_size_mb")->number, split_mb);
}

/* The contradiction: 'garbage_collection_threshold:0.6,...' in the code, "garbage_collection_threshold:0.8: Triggers
 * allocator cleanup at 80% GPU memory usage" and the "Default Configuration" in the text. The text wins. */
static void test_threshold_0_6_or_0_8(void **state)
{
    (void)state;
    read_profile("seed", 0.8, 128);
    assert_true(conf_find("expandable_segments")->number);
    assert_string_equal(unstick_allocconf_profile_find("default")->text, SEED);
    /* The other one is as valid, and does as little. */
    assert_int_equal(conf_read("garbage_collection_threshold:0.6,max_split_size_mb:128,expandable_segments:True"),
                     UNSTICK_OK);
    assert_true(conf_warns("garbage_collection_threshold does nothing with expandable_segments"));
}

/* The contradiction: "The 80% threshold is set high enough to avoid triggering during normal inference (which uses
 * 70-90% memory)". It is not; nothing happens because it does not act, and because what is in use is no victim. */
static void test_80_is_not_above_70_to_90(void **state)
{
    struct unstick_reading reading = { .size = sizeof(reading),
                                       .sources = UNSTICK_SOURCE_DRIVER,
                                       .total_bytes = 20 * GIB };
    struct unstick_snapshot_component component = { .name = "transformer", .tier = UNSTICK_TIER_PINNED };
    struct unstick_snapshot_entry entry = { .key = "a_8-bit", .components = &component, .n_components = 1 };
    struct unstick_snapshot snapshot = { .size = sizeof(snapshot), .reading = &reading, .entries = &entry,
                                         .n_entries = 1 };
    struct unstick_demand demand = { .size = sizeof(demand), .key = "b_4-bit", .required_bytes = 12 * GIB };
    struct unstick_victim victim;
    struct unstick_plan plan = { .size = sizeof(plan), .victims = &victim, .max_victims = 1 };

    (void)state;
    assert_int_equal(conf_read(SEED), UNSTICK_OK);
    assert_true(conf_warns("garbage_collection_threshold does nothing with expandable_segments"));
    for (unsigned int percent = 70; percent <= 90; percent++) {
        component.bytes = component.resident_bytes = 20 * GIB * percent / 100;
        reading.free_bytes = 20 * GIB - component.bytes;
        entry.n_leases = 1; /* inference */
        assert_int_equal(unstick_decide(&snapshot, &demand, &plan), UNSTICK_OK);
        assert_int_equal(plan.n_victims, 0);
        entry.n_leases = 0;
        assert_int_equal(unstick_decide(&snapshot, &demand, &plan), UNSTICK_OK);
        assert_int_equal(plan.verdict, UNSTICK_VERDICT_EVICT);
    }
}

/* "max_split_size_mb:128: Prevents memory fragmentation by limiting block splitting": as measured, it does the
 * opposite. */
static void test_split_size_prevents_fragmentation(void **state)
{
    (void)state;
    assert_int_equal(conf_read(SEED), UNSTICK_OK);
    assert_true(conf_warns("26.80 instead of 10.98"));
    assert_int_equal(conf_read("max_split_size_mb:128"), UNSTICK_OK);
    assert_true(conf_warns("reserves a third more"));
    /* "expandable_segments:True: Enables dynamic memory segment growth": that alone is right. */
    assert_int_equal(conf_read("expandable_segments:True"), UNSTICK_OK);
    assert_int_equal(conf.n_warnings, 0);
    assert_string_equal(unstick_allocconf_profile_find("recommended")->text, "expandable_segments:True");
}

/* "Increase Threshold: Set to 0.9 for pure inference workloads"; "Inference-Optimized", "Memory-Constrained",
 * "Quantization-Heavy". Without a memory fraction none of their thresholds acts, and each says so. */
static void test_alternative_configurations(void **state)
{
    (void)state;
    read_profile("inference-optimized", 0.9, 512);
    assert_true(conf_warns("without a memory fraction"));
    read_profile("memory-constrained", 0.7, 64);
    assert_true(conf_warns("without a memory fraction"));
    read_profile("quantization-heavy", 0.75, 128);
    assert_true(conf_warns("without a memory fraction"));
}

/* "Better for <12GB VRAM systems": the choice for a card says when it would have been meant, and why it is not
 * taken. */
static void test_less_than_12_gb(void **state)
{
    struct unstick_allocconf_choice choice = { .size = sizeof(choice) };

    (void)state;
    assert_int_equal(unstick_allocconf_choose(12 * GIB - 1, UNSTICK_TORCH_NEWEST, &choice), UNSTICK_OK);
    assert_non_null(strstr(choice.reason, "memory-constrained is meant for less than 12 GB"));
    assert_string_equal(choice.text, "expandable_segments:True");
    assert_int_equal(unstick_allocconf_choose(12 * GIB, UNSTICK_TORCH_NEWEST, &choice), UNSTICK_OK);
    assert_null(strstr(choice.reason, "memory-constrained"));
}

/* "Disable During Inference: Set PYTORCH_NO_CUDA_MEMORY_CACHING=1 (disables all caching)": then all of it is inert. */
static void test_caching_disabled(void **state)
{
    struct unstick_allocconf_input input = {
        .size = sizeof(input), .text = SEED, .torch = UNSTICK_TORCH_NEWEST, .is_caching_disabled = 1
    };

    (void)state;
    assert_int_equal(unstick_allocconf_parse(&input, &conf), UNSTICK_OK);
    assert_true(conf_warns("PYTORCH_NO_CUDA_MEMORY_CACHING"));
}

/* "Custom Configuration: Override environment variable before process start"; "Override Method": what the user has set
 * is what counts, and it is read back as written. */
static void test_override_method(void **state)
{
    struct unstick_allocconf_environment environment = {
        .size = sizeof(environment),
        .cuda = "garbage_collection_threshold:0.8,max_split_size_mb:256",
        .generic = "expandable_segments:True",
    };
    const char *value = NULL;

    (void)state;
    assert_string_equal(unstick_allocconf_variable_found(UNSTICK_TORCH_NEWEST, &environment, &value),
                        "PYTORCH_CUDA_ALLOC_CONF");
    assert_int_equal(conf_read(value), UNSTICK_OK);
    assert_int_equal(conf_find("max_split_size_mb")->number, 256);
}

/* "garbage_collection_threshold: 0.0-1.0", "max_split_size_mb: Integer MB", "expandable_segments: Boolean": the ends of
 * the range are torch's to refuse, and so are other spellings of a boolean. */
static void test_parameter_documentation(void **state)
{
    (void)state;
    assert_int_equal(conf_read("garbage_collection_threshold:0.0"), UNSTICK_BAD_FORMAT);
    assert_int_equal(conf_read("garbage_collection_threshold:1.0"), UNSTICK_BAD_FORMAT);
    assert_int_equal(conf_read("garbage_collection_threshold:0.001"), UNSTICK_OK);
    assert_int_equal(conf_read("max_split_size_mb:128.5"), UNSTICK_OK);
    assert_int_equal(conf_find("max_split_size_mb")->number, 128);
    assert_true(conf_warns("reads as 128"));
    assert_int_equal(conf_read("expandable_segments:true"), UNSTICK_BAD_FORMAT);
    assert_int_equal(conf_read("expandable_segments:1"), UNSTICK_BAD_FORMAT);
    assert_int_equal(conf_read("expandable_segments:False"), UNSTICK_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threshold_0_6_or_0_8),
        cmocka_unit_test(test_80_is_not_above_70_to_90),
        cmocka_unit_test(test_split_size_prevents_fragmentation),
        cmocka_unit_test(test_alternative_configurations),
        cmocka_unit_test(test_less_than_12_gb),
        cmocka_unit_test(test_caching_disabled),
        cmocka_unit_test(test_override_method),
        cmocka_unit_test(test_parameter_documentation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
