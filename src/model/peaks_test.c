/* SPDX-License-Identifier: Apache-2.0 */
/* Learned peaks: added, merged, written, read again; damage is refused as a whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include <unstick/estimate.h>

#define PRINT_A "0123456789abcdef"
#define PRINT_B "fedcba9876543210"

static struct unstick_peaks *peaks_of(const char *text)
{
    struct unstick_peaks *peaks = NULL;

    assert_int_equal(unstick_peaks_parse(text, strlen(text), &peaks, NULL), UNSTICK_OK);
    return peaks;
}

static void test_add(void **state)
{
    struct unstick_peaks *peaks = peaks_of("");
    struct unstick_peak peak;

    (void)state;
    assert_int_equal(unstick_peaks_find(peaks, "a_8-bit", NULL, &peak), UNSTICK_NOT_FOUND);
    assert_int_equal(unstick_peaks_add(peaks, "a_8-bit", NULL, 300, NULL), UNSTICK_OK);
    assert_int_equal(unstick_peaks_add(peaks, "a_8-bit", NULL, 500, NULL), UNSTICK_OK);
    assert_int_equal(unstick_peaks_add(peaks, "a_8-bit", NULL, 400, NULL), UNSTICK_OK);
    assert_int_equal(unstick_peaks_find(peaks, "a_8-bit", NULL, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, 500);
    assert_int_equal(peak.last_bytes, 400);
    assert_int_equal(peak.n_runs, 3);
    assert_string_equal(peak.fingerprint, "");
    /* Other settings: what was known is of another load. */
    assert_int_equal(unstick_peaks_add(peaks, "a_8-bit", PRINT_A, 200, NULL), UNSTICK_OK);
    assert_int_equal(unstick_peaks_find(peaks, "a_8-bit", PRINT_A, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, 200);
    assert_int_equal(peak.n_runs, 1);
    assert_int_equal(unstick_peaks_find(peaks, "a_8-bit", PRINT_B, &peak), UNSTICK_NOT_FOUND);
    assert_int_equal(unstick_peaks_find(peaks, "a_4-bit", NULL, &peak), UNSTICK_NOT_FOUND);
    unstick_peaks_free(peaks);
}

static void test_add_refused(void **state)
{
    static const char *const not_utf8[] = { "\xff", "a\x80", "\xc3", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                            "\xe2\x82", "\xf8\x88\x80\x80\x80" };
    static const char *const utf8[] = { "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf" };
    struct unstick_peaks *peaks = peaks_of("");
    struct unstick_error error;

    (void)state;
    assert_int_equal(unstick_peaks_add(peaks, "", NULL, 1, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_peaks_add(peaks, NULL, NULL, 1, &error), UNSTICK_INVALID_ARGUMENT);
    for (size_t i = 0; i < sizeof(not_utf8) / sizeof(not_utf8[0]); i++)
        assert_int_equal(unstick_peaks_add(peaks, not_utf8[i], NULL, 1, &error), UNSTICK_INVALID_ARGUMENT);
    for (size_t i = 0; i < sizeof(utf8) / sizeof(utf8[0]); i++)
        assert_int_equal(unstick_peaks_add(peaks, utf8[i], NULL, 1, &error), UNSTICK_OK);
    assert_int_equal(unstick_peaks_add(peaks, "a", NULL, 0, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_peaks_add(peaks, "a", NULL, UINT64_MAX, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_peaks_add(peaks, "a", "short", 1, &error), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_peaks_add(peaks, "a", PRINT_A "0", 1, &error), UNSTICK_INVALID_ARGUMENT);
    unstick_peaks_free(peaks);
}

static void test_round_trip(void **state)
{
    struct unstick_peaks *peaks = peaks_of(""), *again;
    struct unstick_peak peak;
    const char *text;
    size_t length;
    char copy[1024];

    (void)state;
    unstick_peaks_add(peaks, "z/\"q\"_none", PRINT_A, INT64_MAX, NULL);
    unstick_peaks_add(peaks, "a_8-bit", NULL, 1, NULL);
    assert_int_equal(unstick_peaks_text(peaks, &text, &length, NULL), UNSTICK_OK);
    assert_int_equal(length, strlen(text));
    assert_true(text[length - 1] == '\n' && strstr(text, "a_8-bit") < strstr(text, "z/"));
    snprintf(copy, sizeof(copy), "%s", text);
    again = peaks_of(copy);
    assert_int_equal(unstick_peaks_find(again, "z/\"q\"_none", PRINT_A, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, INT64_MAX);
    assert_int_equal(unstick_peaks_text(again, &text, &length, NULL), UNSTICK_OK);
    assert_string_equal(text, copy);
    unstick_peaks_free(again);
    unstick_peaks_free(peaks);
}

static void test_merge(void **state)
{
    struct unstick_peaks *mine = peaks_of(""), *theirs = peaks_of("");
    struct unstick_peak peak;

    (void)state;
    unstick_peaks_add(mine, "both", PRINT_A, 500, NULL);
    unstick_peaks_add(theirs, "both", PRINT_A, 300, NULL);
    unstick_peaks_add(mine, "changed", PRINT_A, 500, NULL);
    unstick_peaks_add(theirs, "changed", PRINT_B, 300, NULL);
    unstick_peaks_add(mine, "mine", NULL, 1, NULL);
    unstick_peaks_add(theirs, "theirs", NULL, 2, NULL);
    assert_int_equal(unstick_peaks_merge(mine, theirs, NULL), UNSTICK_OK);
    assert_int_equal(unstick_peaks_find(mine, "both", PRINT_A, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, 500);
    assert_int_equal(peak.last_bytes, 300);
    assert_int_equal(peak.n_runs, 2);
    assert_int_equal(unstick_peaks_find(mine, "changed", PRINT_B, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, 300);
    assert_int_equal(unstick_peaks_find(mine, "mine", NULL, &peak), UNSTICK_OK);
    assert_int_equal(unstick_peaks_find(mine, "theirs", NULL, &peak), UNSTICK_OK);
    assert_int_equal(peak.bytes, 2);
    unstick_peaks_free(theirs);
    unstick_peaks_free(mine);
}

/* What a later version adds survives a write by this one. */
static void test_kept(void **state)
{
    struct unstick_peaks *peaks = peaks_of("{\"version\": 1, \"note\": 7, \"peaks\": {\"a\": {\"bytes\": 1, "
                                           "\"last_bytes\": 1, \"runs\": 1, \"card\": \"H200\"}}}");
    const char *text;
    size_t length;

    (void)state;
    unstick_peaks_add(peaks, "a", NULL, 9, NULL);
    assert_int_equal(unstick_peaks_text(peaks, &text, &length, NULL), UNSTICK_OK);
    assert_non_null(strstr(text, "H200"));
    assert_non_null(strstr(text, "note"));
    unstick_peaks_free(peaks);
}

static void test_damaged(void **state)
{
    static const char *const texts[] = {
        "{", "[]", "null", "\n", "{\"version\": 1}", "{\"version\": 2, \"peaks\": {}}", "{\"peaks\": {}}",
        "{\"version\": 1, \"peaks\": []}", "{\"version\": 1, \"peaks\": {}} x",
        "{\"version\": 1, \"peaks\": {\"a\": 3}}", "{\"version\": 1, \"peaks\": {\"a\": {}}}",
        "{\"version\": 1, \"peaks\": {\"a\": {\"bytes\": -1, \"last_bytes\": 1, \"runs\": 1}}}",
        "{\"version\": 1, \"peaks\": {\"a\": {\"bytes\": 1.5, \"last_bytes\": 1, \"runs\": 1}}}",
        "{\"version\": 1, \"peaks\": {\"\": {\"bytes\": 1, \"last_bytes\": 1, \"runs\": 1}}}",
        "{\"version\": 1, \"peaks\": {\"a\": {\"bytes\": 1, \"last_bytes\": 1, \"runs\": 1, \"fingerprint\": \"x\"}}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct unstick_peaks *peaks = NULL;
        struct unstick_error error = { 0 };

        assert_int_equal(unstick_peaks_parse(texts[i], strlen(texts[i]), &peaks, &error), UNSTICK_BAD_FORMAT);
        assert_null(peaks);
        assert_true(error.text[0] && !strchr(error.text, '\n'));
    }
    assert_null(unstick_peaks_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add),   cmocka_unit_test(test_add_refused), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_merge), cmocka_unit_test(test_kept),        cmocka_unit_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
