/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every key at every version boundary. The versions in these tables are measured: the same strings were given to the
 * allocator library of torch 2.1.2, 2.2.2, 2.3.1, 2.4.1, 2.5.1, 2.6.0, 2.7.1, 2.8.0, 2.9.1, 2.10.0, 2.11.0, 2.12.1,
 * 2.13.0 and 2.14.1. Only backend:cudaMallocAsync needs a driver there; its rule is from the source.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <unstick/allocconf.h>

#define MINOR_OLDEST 1u
#define MINOR_NEWEST 14u

#define COUNT(_array) (sizeof(_array) / sizeof((_array)[0]))

/* Taken by torch 2.first to 2.last. */
static const struct {
    const char *text;
    unsigned int first, last;
    const char *plain; /* as it is written again; NULL: the same */
} taken[] = {
    { "max_split_size_mb:128MB", 1, 14, "max_split_size_mb:128" },
    { "max_split_size_mb:20", 10, 14, NULL },
    { "max_split_size_mb:21", 1, 14, NULL },
    { "max_split_size_mb:+30", 1, 14, "max_split_size_mb:30" },
    { "max_split_size_mb:-1", 1, 9, NULL },
    { "max_split_size_mb:-1", 10, 14, "max_split_size_mb:18446744073709551615" },
    { "max_split_size_mb:-5000000000", 10, 14, "max_split_size_mb:18446744068709551616" },
    { "max_split_size_mb:5000000000", 10, 14, NULL },
    { "max_split_size_mb:128.9", 1, 14, "max_split_size_mb:128" },
    { "max_split_size_mb:128,", 1, 14, "max_split_size_mb:128" },
    { "", 1, 14, NULL },
    { "max_split_size_mb:128:expandable_segments:True", 10, 14, "max_split_size_mb:128,expandable_segments:True" },
    { "max_split_size_mb,128,expandable_segments:True", 10, 14, "max_split_size_mb:128,expandable_segments:True" },
    { "max_split_size_mb,128", 10, 14, "max_split_size_mb:128" },
    { " max_split_size_mb : 128 , expandable_segments : True ",
      1, 14, "max_split_size_mb:128,expandable_segments:True" },
    { "\tmax_split_size_mb:128", 10, 14, "max_split_size_mb:128" },
    { "max_split_size_mb:128,max_split_size_mb:256", 1, 14, NULL },
    { "max_non_split_rounding_mb:128", 6, 14, NULL },
    { "max_non_split_rounding_mb:20", 10, 14, NULL },
    { "max_non_split_rounding_mb:21", 6, 14, NULL },
    { "garbage_collection_threshold:0.8", 1, 14, NULL },
    { "garbage_collection_threshold:0.999", 1, 14, NULL },
    { "garbage_collection_threshold:1e-1", 1, 14, NULL },
    { "garbage_collection_threshold:0x0.8p0", 1, 14, NULL },
    { "garbage_collection_threshold:.5x", 1, 14, "garbage_collection_threshold:.5" },
    { "roundup_power2_divisions:8", 1, 14, NULL },
    { "roundup_power2_divisions:8x", 1, 14, "roundup_power2_divisions:8" },
    { "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]", 1, 14, NULL },
    { "roundup_power2_divisions:[256:0,>:1]", 4, 14, NULL },
    { "roundup_power2_divisions:[]", 1, 14, NULL },
    { "roundup_power2_divisions:[256MB:1]", 1, 14, "roundup_power2_divisions:[256:1]" },
    { "roundup_power2_divisions:[256:1,]", 1, 14, "roundup_power2_divisions:[256:1]" },
    { "roundup_power2_divisions:[>:8]", 1, 14, NULL },
    { "roundup_power2_divisions:[>:8,256:1]", 1, 14, NULL },
    { "roundup_power2_divisions:[", 1, 9, "roundup_power2_divisions:[]" },
    { "roundup_power2_divisions:[1:1]", 1, 14, NULL },
    { "roundup_power2_divisions:[9223372036854775808:2]", 1, 14, NULL },
    { "roundup_power2_divisions:[64:8,256:4,1024:4,>:1],expandable_segments:True", 1, 14, NULL },
    { "roundup_power2_divisions:8]", 10, 14, "roundup_power2_divisions:8" },
    { "expandable_segments:True", 1, 14, NULL },
    { "expandable_segments:False", 1, 14, NULL },
    { "expandable_segments,True", 10, 14, "expandable_segments:True" },
    { "expandable_segments:Tr ue", 1, 14, "expandable_segments:True" },
    { "expandable_segments:True,garbage_collection_threshold:0.8,max_split_size_mb:128", 1, 14, NULL },
    { "backend:native", 1, 14, NULL },
    { "backend:cudaMallocAsync", 1, 14, NULL },
    { "release_lock_on_cudamalloc:True", 2, 14, NULL },
    { "release_lock_on_hipmalloc:True", 2, 14, NULL },
    { "pinned_use_cuda_host_register:True", 2, 14, NULL },
    { "pinned_use_hip_host_register:True", 2, 14, NULL },
    { "pinned_num_register_threads:8", 2, 14, NULL },
    { "pinned_num_register_threads:128", 2, 14, NULL },
    { "pinned_num_register_threads:1", 2, 14, NULL },
    { "pinned_num_register_threads:8t", 2, 14, "pinned_num_register_threads:8" },
    { "pinned_use_background_threads:True", 6, 14, NULL },
    { "pinned_reserve_segment_size_mb:1", 10, 14, NULL },
    { "pinned_reserve_segment_size_mb:-1", 10, 14, "pinned_reserve_segment_size_mb:18446744073709551615" },
    { "graph_capture_record_stream_reuse:True", 9, 14, NULL },
    { "per_process_memory_fraction:0.5", 10, 14, NULL },
    { "per_process_memory_fraction:0", 10, 14, NULL },
    { "per_process_memory_fraction:1", 10, 14, NULL },
    { "large_segment_size_mb:11", 11, 14, NULL },
    { "large_segment_size_mb:12", 11, 14, NULL },
    { "large_segment_size_mb:513", 11, 14, NULL },
    { "large_segment_size_mb:11,max_split_size_mb:12", 11, 14, NULL },
    { "large_segment_size_mb:-1", 11, 14, "large_segment_size_mb:18446744073709551615" },
    { "throw_on_cudamalloc_oom:True", 12, 14, NULL },
    { "pinned_free_catch_all:True", 12, 14, NULL },
    { "pinned_max_cached_size_mb:0", 13, 14, NULL },
    { "pinned_max_cached_size_mb:-1", 13, 14, "pinned_max_cached_size_mb:18446744073709551615" },
    { "pinned_max_cached_size_mb:1", 13, 14, NULL },
    { "pinned_max_round_threshold_mb:0", 13, 14, NULL },
    { "pinned_max_round_threshold_mb:1", 13, 14, NULL },
    { "pinned_max_round_threshold_mb:3", 13, 14, NULL },
    { "roundup_power2_divisions:[>:8],roundup_power2_divisions:[256:0]", 4, 14, NULL },
    { "pinned_max_cached_size_mb:99999999999999999", 13, 14, NULL },
    { "pinned_max_round_threshold_mb:17592186044416", 13, 14, NULL },
    { "pinned_max_round_threshold_mb:17592186044415", 13, 14, NULL },
};

/* Refused by every version. */
static const char *const refused[] = {
    "max_split_size_mb:19",
    "max_split_size_mb:0x30",
    "max_split_size_mb:99999999999999999999",
    "max_split_size_mb:abc",
    "max_split_size_mb:",
    "max_split_size_mb",
    ",",
    ",max_split_size_mb:128",
    "max_split_size_mb=128",
    "max_split_size_mb:128;expandable_segments:True",
    "max_split_size_mb:128 expandable_segments:True",
    "max_split_size_mb:128,,expandable_segments:True",
    "max_non_split_rounding_mb:19",
    "garbage_collection_threshold:0",
    "garbage_collection_threshold:1",
    "garbage_collection_threshold:1.0",
    "garbage_collection_threshold:nan",
    "garbage_collection_threshold:inf",
    "garbage_collection_threshold:-0.5",
    "garbage_collection_threshold:80%",
    "garbage_collection_threshold:1e-400",
    "garbage_collection_threshold:4e-320",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:-8",
    "roundup_power2_divisions:[256:1,512:2,1024:4,>:8",
    "roundup_power2_divisions:[256]",
    "roundup_power2_divisions:[256:]",
    "roundup_power2_divisions:[300:1]",
    "roundup_power2_divisions:[256:3]",
    "roundup_power2_divisions:[0:1]",
    "roundup_power2_divisions:[256:1 512:2]",
    "roundup_power2_divisions:[256:1;512:2]",
    "roundup_power2_divisions:[256:1,512:2",
    "roundup_power2_divisions:[-256:1]",
    "roundup_power2_divisions:[18446744073709551616:2]",
    "roundup_power2_divisions:[64:8]expandable_segments:True",
    "expandable_segments:true",
    "expandable_segments:1",
    "expandable_segments:[True]",
    "expandable_segments:",
    "expandable_segments",
    "backend:hipMallocAsync",
    "backend:foo",
    "backend:",
    "release_lock_on_cudamalloc:yes",
    "pinned_use_cuda_host_register:x",
    "pinned_num_register_threads:256",
    "pinned_num_register_threads:0",
    "pinned_num_register_threads:3",
    "pinned_use_background_threads:x",
    "pinned_reserve_segment_size_mb:0",
    "graph_capture_record_stream_reuse:x",
    "per_process_memory_fraction:1.0001",
    "per_process_memory_fraction:-0.1",
    "per_process_memory_fraction:nan",
    "large_segment_size_mb:10",
    "large_segment_size_mb:1",
    "large_segment_size_mb:32,max_split_size_mb:24",
    "max_split_size_mb:24,large_segment_size_mb:32",
    "throw_on_cudamalloc_oom:x",
    "pinned_free_catch_all:x",
    "expandable_segments_reserve:0.5",
    "expandable_segments_reserve:40G",
    "expandable_segments_reserve:x",
    "expandable_segments_reserve_by_class:[a:0.5,b:4G]",
    "expandable_segments_reserve_by_class:x",
    "foo:1",
    "foo:[1,2]",
    "foo:[1,2",
    "foo",
    "use_uvm:True",
    "pinned_max_cached_size_mb:x",
    "roundup_power2_divisions:[18446744073709551616:2],x",
};

static struct unstick_allocconf conf = { .size = sizeof(conf) }, again = { .size = sizeof(again) };

static int conf_parse(struct unstick_allocconf *into, const char *text, unsigned int minor)
{
    struct unstick_allocconf_input input = {
        .size = sizeof(input), .text = text, .torch = UNSTICK_TORCH(2u, minor)
    };

    return unstick_allocconf_parse(&input, into);
}

/* A string whose reading changed has a row for each reading. */
static size_t row_find(const char *text, unsigned int minor)
{
    for (size_t i = 0; i < COUNT(taken); i++) {
        if (!strcmp(taken[i].text, text) && minor >= taken[i].first && minor <= taken[i].last)
            return i;
    }
    return SIZE_MAX;
}

static void every_version_takes_what_torch_takes(void **state)
{
    char text[UNSTICK_ALLOCCONF_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < COUNT(taken); i++) {
        for (unsigned int minor = MINOR_OLDEST; minor <= MINOR_NEWEST; minor++) {
            size_t row = row_find(taken[i].text, minor);
            int r = conf_parse(&conf, taken[i].text, minor);

            if ((r == UNSTICK_OK) != (row != SIZE_MAX))
                fail_msg("torch 2.%u, '%s': %d %s", minor, taken[i].text, r, conf.n_errors ? conf.errors[0].text : "");
            if (row == SIZE_MAX) {
                assert_int_equal(r, UNSTICK_BAD_FORMAT);
                continue;
            }
            assert_int_equal(unstick_allocconf_emit(&conf, text, sizeof(text), NULL), UNSTICK_OK);
            assert_string_equal(text, taken[row].plain ? taken[row].plain : taken[row].text);
        }
    }
}

static void no_version_takes_what_torch_refuses(void **state)
{
    char text[UNSTICK_ALLOCCONF_TEXT_MAX] = "untouched";

    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        for (unsigned int minor = MINOR_OLDEST; minor <= MINOR_NEWEST; minor++) {
            if (conf_parse(&conf, refused[i], minor) != UNSTICK_BAD_FORMAT || !conf.n_errors)
                fail_msg("torch 2.%u takes '%s'", minor, refused[i]);
            assert_int_equal(unstick_allocconf_emit(&conf, text, sizeof(text), NULL), UNSTICK_BAD_FORMAT);
        }
    }
    assert_string_equal(text, "untouched");
}

static void what_is_written_reads_the_same(void **state)
{
    char text[UNSTICK_ALLOCCONF_TEXT_MAX];

    (void)state;
    for (size_t i = 0; i < COUNT(taken); i++) {
        for (unsigned int minor = taken[i].first; minor <= taken[i].last; minor++) {
            assert_int_equal(conf_parse(&conf, taken[i].text, minor), UNSTICK_OK);
            assert_int_equal(unstick_allocconf_emit(&conf, text, sizeof(text), NULL), UNSTICK_OK);
            assert_int_equal(conf_parse(&again, text, minor), UNSTICK_OK);
            assert_int_equal(again.n_entries, conf.n_entries);
            for (size_t n = 0; n < conf.n_entries; n++) {
                assert_ptr_equal(again.entries[n].key, conf.entries[n].key);
                assert_string_equal(again.entries[n].value, conf.entries[n].value);
                assert_int_equal(again.entries[n].number, conf.entries[n].number);
                assert_memory_equal(&again.entries[n].fraction, &conf.entries[n].fraction, sizeof(double));
            }
        }
    }
}

/* No key is left out of the tables, and none is taken before its first version. */
static void every_key_is_in_the_tables(void **state)
{
    (void)state;
    for (size_t k = 0; unstick_allocconf_key_at(k); k++) {
        const struct unstick_allocconf_key *key = unstick_allocconf_key_at(k);
        size_t length = strlen(key->name);
        unsigned int first = MINOR_NEWEST + 1;

        for (size_t i = 0; i < COUNT(taken); i++) {
            if (!strncmp(taken[i].text, key->name, length) && taken[i].text[length] == ':' && taken[i].first < first)
                first = taken[i].first;
        }
        assert_int_equal(key->since, UNSTICK_TORCH(2u, first));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_version_takes_what_torch_takes),
        cmocka_unit_test(no_version_takes_what_torch_refuses),
        cmocka_unit_test(what_is_written_reads_the_same),
        cmocka_unit_test(every_key_is_in_the_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
