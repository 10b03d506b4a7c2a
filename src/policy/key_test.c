/* SPDX-License-Identifier: Apache-2.0 */
/* Keys: what is built is taken apart into the same; spellings; fingerprints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include <unstick/key.h>

static void test_round_trip(void **state)
{
    static const char *const ids[] = { "black-forest-labs/FLUX.1-dev", "a", "a_b", "a__", "org/my_model_v1.0_8-bit",
                                       "_", "/srv/models/x.safetensors" };

    (void)state;
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
            char key[UNSTICK_KEY_MAX], expected[UNSTICK_KEY_MAX], id[UNSTICK_KEY_MAX];
            enum unstick_quantization found = UNSTICK_QUANTIZATIONS;

            assert_int_equal(unstick_key_build(ids[i], q, key, sizeof(key), NULL), UNSTICK_OK);
            snprintf(expected, sizeof(expected), "%s_%s", ids[i], unstick_quantization_name(q));
            assert_string_equal(key, expected);
            assert_int_equal(unstick_key_parse(key, id, sizeof(id), &found, NULL), UNSTICK_OK);
            assert_string_equal(id, ids[i]);
            assert_int_equal(found, q);
        }
    }
}

/* The seed: "{model_id}_{quantization} format ensures different quantization modes are treated as separate models". */
static void test_modes_are_separate(void **state)
{
    char a[UNSTICK_KEY_MAX], b[UNSTICK_KEY_MAX];

    (void)state;
    for (enum unstick_quantization x = 0; x < UNSTICK_QUANTIZATIONS; x++) {
        for (enum unstick_quantization y = 0; y < x; y++) {
            unstick_key_build("m", x, a, sizeof(a), NULL);
            unstick_key_build("m", y, b, sizeof(b), NULL);
            assert_string_not_equal(a, b);
        }
    }
    unstick_key_build("black-forest-labs/FLUX.1-dev", UNSTICK_QUANTIZATION_4BIT, a, sizeof(a), NULL);
    assert_string_equal(a, "black-forest-labs/FLUX.1-dev_4-bit");
}

static void test_spellings(void **state)
{
    static const struct {
        const char *text;
        enum unstick_quantization quantization;
    } cases[] = {
        { "none", UNSTICK_QUANTIZATION_NONE },           { "None", UNSTICK_QUANTIZATION_NONE },
        { "bf16", UNSTICK_QUANTIZATION_NONE },           { "fp16", UNSTICK_QUANTIZATION_NONE },
        { "torch.bfloat16", UNSTICK_QUANTIZATION_NONE }, { "float16", UNSTICK_QUANTIZATION_NONE },
        { "8-bit", UNSTICK_QUANTIZATION_8BIT },          { "8bit", UNSTICK_QUANTIZATION_8BIT },
        { "int8", UNSTICK_QUANTIZATION_8BIT },           { "load_in_8bit", UNSTICK_QUANTIZATION_8BIT },
        { "bnb-8bit", UNSTICK_QUANTIZATION_8BIT },       { "LLM.int8", UNSTICK_QUANTIZATION_8BIT },
        { "4-bit", UNSTICK_QUANTIZATION_4BIT },          { "nf4", UNSTICK_QUANTIZATION_4BIT },
        { "NF4", UNSTICK_QUANTIZATION_4BIT },            { "fp4", UNSTICK_QUANTIZATION_4BIT },
        { "bnb-4bit", UNSTICK_QUANTIZATION_4BIT },       { "bnb_nf4", UNSTICK_QUANTIZATION_4BIT },
        { "4-bit-dq", UNSTICK_QUANTIZATION_4BIT_DQ },    { "nf4_double_quant", UNSTICK_QUANTIZATION_4BIT_DQ },
        { "fp8", UNSTICK_QUANTIZATION_FP8 },             { "torch.float8_e4m3fn", UNSTICK_QUANTIZATION_FP8 },
        { "fp8_e5m2", UNSTICK_QUANTIZATION_FP8 },        { "fp32", UNSTICK_QUANTIZATION_FP32 },
        { "float32", UNSTICK_QUANTIZATION_FP32 },
    };
    static const char *const unknown[] = { "", "5-bit", "int4", "q4_k_m", "bnb", "torch", "-", "8-bit\n", "none!",
                                           "a spelling far longer than any that there could be in the table" };
    struct unstick_error error;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum unstick_quantization found = UNSTICK_QUANTIZATIONS;

        assert_int_equal(unstick_quantization_parse(cases[i].text, &found, &error), UNSTICK_OK);
        if (found != cases[i].quantization)
            fail_msg("%s is read as %s", cases[i].text, unstick_quantization_name(found));
    }
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        enum unstick_quantization found = UNSTICK_QUANTIZATIONS;

        memset(&error, 0, sizeof(error));
        assert_int_equal(unstick_quantization_parse(unknown[i], &found, &error), UNSTICK_INVALID_ARGUMENT);
        assert_int_equal(found, UNSTICK_QUANTIZATIONS);
        assert_null(strchr(error.text, '\n'));
        assert_non_null(strstr(error.text, "4-bit-dq"));
    }
    assert_string_equal(unstick_quantization_name(UNSTICK_QUANTIZATIONS), "unknown");
}

static void test_refused(void **state)
{
    static const char *const keys[] = { "", "flux", "_8-bit", "flux_", "flux_5-bit", "flux-8-bit", "fl\nux_8-bit" };
    enum unstick_quantization q = UNSTICK_QUANTIZATIONS;
    struct unstick_error error;
    char buffer[8] = "before";

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        memset(&error, 0, sizeof(error));
        assert_int_equal(unstick_key_parse(keys[i], buffer, sizeof(buffer), &q, &error), UNSTICK_INVALID_ARGUMENT);
        assert_true(error.text[0] && !strchr(error.text, '\n'));
    }
    assert_int_equal(unstick_key_parse("12345678_8-bit", buffer, sizeof(buffer), &q, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_key_build("a", UNSTICK_QUANTIZATION_8BIT, buffer, 7, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_key_build("", UNSTICK_QUANTIZATION_8BIT, buffer, 8, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_key_build("a\n", UNSTICK_QUANTIZATION_NONE, buffer, 8, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_key_build("a", UNSTICK_QUANTIZATIONS, buffer, 8, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_string_equal(buffer, "before");
    assert_int_equal(q, UNSTICK_QUANTIZATIONS);
    assert_int_equal(unstick_key_build("a", UNSTICK_QUANTIZATION_8BIT, buffer, 8, NULL), UNSTICK_OK);
    assert_string_equal(buffer, "a_8-bit");
}

static void test_fingerprint(void **state)
{
    static const char *const abc[] = { "dtype=bfloat16", "device_map=auto", "revision=" };
    static const char *const cab[] = { "revision=", "dtype=bfloat16", "device_map=auto" };
    static const char *const other[] = { "dtype=bfloat16", "device_map=auto", "revision=1" };
    static const char *const swapped[] = { "dtype=auto", "device_map=bfloat16", "revision=" };
    static const char *const twice[] = { "a=1", "b=2", "a=1" };
    static const char *const bad[] = { "=1" };
    char one[UNSTICK_FINGERPRINT_MAX], two[UNSTICK_FINGERPRINT_MAX];

    (void)state;
    assert_int_equal(unstick_key_fingerprint(abc, 3, one, NULL), UNSTICK_OK);
    assert_int_equal(unstick_key_fingerprint(cab, 3, two, NULL), UNSTICK_OK);
    assert_string_equal(one, two);
    assert_int_equal(strlen(one), 16);
    assert_int_equal(strspn(one, "0123456789abcdef"), 16);
    /* Written to files: it must not change with a version. */
    assert_string_equal(one, "aad0d2148056431c");
    unstick_key_fingerprint(other, 3, two, NULL);
    assert_string_not_equal(one, two);
    unstick_key_fingerprint(swapped, 3, two, NULL);
    assert_string_not_equal(one, two);
    unstick_key_fingerprint(abc, 2, two, NULL);
    assert_string_not_equal(one, two);
    assert_int_equal(unstick_key_fingerprint(NULL, 0, two, NULL), UNSTICK_OK);
    assert_int_equal(unstick_key_fingerprint(twice, 3, two, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_key_fingerprint(bad, 1, two, NULL), UNSTICK_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_modes_are_separate), cmocka_unit_test(test_spellings),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_fingerprint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
