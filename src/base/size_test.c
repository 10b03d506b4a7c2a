/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as people type them: units of both kinds, fractions, and everything that is no size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/size.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        { "0", 0 },
        { "1536", 1536 },
        { "7B", 7 },
        { "2GiB", 2 * GIB },
        { "2gib", 2 * GIB },
        { "2 G", 2 * GIB },
        { "1.5MiB", MIB + MIB / 2 },
        { "0.25KiB", 256 },
        { "1.00000000001 KiB", 1024 },
        { "3kB", 3000 },
        { "1.5GB", UINT64_C(1500000000) },
        { "16777215TiB", UINT64_C(16777215) << 40 },
        { "18446744073709551615", UINT64_MAX },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint64_t bytes = 1;

        assert_true(usk_size_parse(sizes[i].text, &bytes));
        assert_int_equal(bytes, sizes[i].bytes);
    }
}

static void test_no_sizes(void **state)
{
    static const char *const texts[] = { "", " 1", "-1", "+1", ".5", "1.", "1.x", "x", "1XB", "1 Gi", "1e3", "0x10",
                                         "18446744073709551616", "99999999999999999999", "16777216TiB",
                                         "18446744073709551615.9KiB", "1GiB " };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        uint64_t bytes = 42;

        if (usk_size_parse(texts[i], &bytes))
            fail_msg("'%s' is no size", texts[i]);
        assert_int_equal(bytes, 42);
    }
}

static void test_format(void **state)
{
    char text[USK_SIZE_TEXT_MAX];

    (void)state;
    assert_string_equal(usk_size_format(text, 0), "0 B");
    assert_string_equal(usk_size_format(text, 1023), "1023 B");
    assert_string_equal(usk_size_format(text, 1536), "1.5 KiB");
    assert_string_equal(usk_size_format(text, 17 * GIB - 1), "17.0 GiB");
    assert_string_equal(usk_size_format(text, UINT64_MAX), "16777216.0 TiB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_no_sizes),
        cmocka_unit_test(test_format),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
