/* SPDX-License-Identifier: Apache-2.0 */
/* Where tensors are placed, and which of them are loaded in one run. */
#include "model/test_files.h"

#include <stdlib.h>

#include "model/layout.h"

static void contiguous_tensors_join(void **state)
{
    struct unstick_tensor tensors[] = {
        { .file = 0, .file_offset = 100, .bytes = 512 },
        { .file = 0, .file_offset = 612, .bytes = 1024 },
        { .file = 0, .file_offset = 1636, .bytes = 10 },                      /* leaves a gap in the region behind it */
        { .file = 0, .file_offset = 1646, .bytes = 0 },                       /* takes no room */
        { .file = 0, .file_offset = 1646, .bytes = 512 },
        { .file = 0, .file_offset = 2158, .bytes = 33, .is_metadata = true }, /* a gap in the file */
        { .file = 0, .file_offset = 2191, .bytes = 512 },
        { .file = 1, .file_offset = 2703, .bytes = 1 },                       /* contiguous, in another file */
    };
    static const uint64_t offsets[] = { 0, 512, 1536, 2048, 2048, 0, 2560, 3072 };
    static const struct unstick_extent expected[] = {
        { .file = 0, .file_offset = 100, .region_offset = 0, .bytes = 1546 },
        { .file = 0, .file_offset = 1646, .region_offset = 2048, .bytes = 512 },
        { .file = 0, .file_offset = 2191, .region_offset = 2560, .bytes = 512 },
        { .file = 1, .file_offset = 2703, .region_offset = 3072, .bytes = 1 },
    };
    struct unstick_extent *extents = NULL;
    uint64_t bytes = 0;
    size_t n = 0;

    (void)state;
    assert_int_equal(usk_layout_make(tensors, 8, "m", &extents, &n, &bytes, NULL), UNSTICK_OK);
    assert_int_equal(bytes, 3584);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(extents[i].file, expected[i].file);
        assert_int_equal(extents[i].file_offset, expected[i].file_offset);
        assert_int_equal(extents[i].region_offset, expected[i].region_offset);
        assert_int_equal(extents[i].bytes, expected[i].bytes);
    }
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(tensors[i].region_offset, offsets[i]);
    free(extents);
}

static void nothing_to_load_has_no_extents(void **state)
{
    struct unstick_tensor tensors[] = {
        { .file_offset = 100, .bytes = 512, .is_metadata = true },
        { .file_offset = 612, .bytes = 0 },
    };
    struct unstick_extent *extents = NULL;
    uint64_t bytes = 1;
    size_t n = 1;

    (void)state;
    assert_int_equal(usk_layout_make(tensors, 2, "m", &extents, &n, &bytes, NULL), UNSTICK_OK);
    assert_null(extents);
    assert_int_equal(n, 0);
    assert_int_equal(bytes, 0);
}

/* Many files of a size that fits each, but not their sum. */
static void an_overflow_is_refused(void **state)
{
    static const struct {
        uint64_t first, second;
    } sizes[] = { { UINT64_MAX / 2 + 1, UINT64_MAX / 2 + 1 }, { 512, UINT64_MAX - 1023 }, { 0, UINT64_MAX } };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct unstick_tensor tensors[] = { { .bytes = sizes[i].first }, { .file = 1, .bytes = sizes[i].second } };
        struct unstick_extent *extents = NULL;
        struct unstick_error error = { 0 };
        uint64_t bytes = 1;
        size_t n = 1;
        int r = usk_layout_make(tensors, 2, "vae", &extents, &n, &bytes, &error);

        if (i == 1) {
            /* The largest that fits. */
            assert_int_equal(r, UNSTICK_OK);
            assert_int_equal(bytes, UINT64_MAX - 511);
            free(extents);
            continue;
        }
        assert_int_equal(r, UNSTICK_BAD_FORMAT);
        assert_string_equal(error.text, "vae: its tensors overflow 64 bits");
        assert_null(extents);
        assert_int_equal(n, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous_tensors_join),
        cmocka_unit_test(nothing_to_load_has_no_extents),
        cmocka_unit_test(an_overflow_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
