/* SPDX-License-Identifier: Apache-2.0 */
/* Configurations: what is read, what is passed over, what is refused. */
#include <string.h>

#include "model/config.h"
#include "model/test_files.h"
#include "policy/estimate.h"

static struct usk_config parse(const char *text)
{
    struct usk_config config = { 0 };

    assert_int_equal(usk_config_parse(text, strlen(text), "config.json", &config, NULL), UNSTICK_OK);
    return config;
}

static void test_diffusers(void **state)
{
    struct usk_config config = parse("{\"_class_name\": \"FluxTransformer2DModel\", \"architectures\": [\"No\"], "
                                     "\"num_attention_heads\": 24, \"attention_head_dim\": 128, \"patch_size\": 1, "
                                     "\"guidance_embeds\": true, \"joint_attention_dim\": 4096, "
                                     "\"quantization_config\": {\"quant_method\": \"bitsandbytes\", "
                                     "\"llm_int8_skip_modules\": [null, \"proj_out\", 3]}}");

    (void)state;
    assert_string_equal(config.class_name, "FluxTransformer2DModel");
    assert_false(config.is_transformers);
    assert_true(config.has_guidance);
    assert_int_equal(config.n_heads, 24);
    assert_int_equal(config.head_width, 128);
    assert_int_equal(config.patch, 1);
    assert_int_equal(config.text_width, 4096);
    assert_string_equal(config.method, "bitsandbytes");
    assert_int_equal(config.n_skip, 1);
    assert_string_equal(config.skip[0], "proj_out");
    usk_config_fini(&config);
}

static void test_transformers(void **state)
{
    struct usk_config config = parse("{\"architectures\": [\"LlamaForCausalLM\"], \"tie_word_embeddings\": true, "
                                     "\"quantization_config\": {\"quant_method\": \"gptq\", "
                                     "\"llm_int8_skip_modules\": \"lm_head\"}}");

    (void)state;
    assert_string_equal(config.class_name, "LlamaForCausalLM");
    assert_true(config.is_transformers);
    assert_true(config.has_tied_head);
    assert_string_equal(config.method, "gptq");
    assert_int_equal(config.n_skip, 1);
    usk_config_fini(&config);
}

static void test_passed_over(void **state)
{
    static const char *const texts[] = {
        "{}",
        "{\"_class_name\": 3, \"architectures\": \"x\", \"quantization_config\": null}",
        "{\"_class_name\": \"\", \"architectures\": [], \"quantization_config\": []}",
        "{\"num_attention_heads\": [5, 10], \"attention_head_dim\": -1, \"patch_size\": 1.5}",
        "{\"block_out_channels\": {}, \"patch_size\": 99999999999}",
        "{\"quantization_config\": {\"quant_method\": 8, \"llm_int8_skip_modules\": [\"x\"]}}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct usk_config config = parse(texts[i]);

        assert_null(config.class_name);
        assert_string_equal(config.method, "");
        assert_int_equal(config.n_skip + config.n_heads + config.head_width + config.patch + config.n_blocks, 0);
        usk_config_fini(&config);
    }
}

static void test_refused(void **state)
{
    static const char *const texts[] = { "", "[]", "3", "null", "{", "{\"a\": 1,}", "{} {}", "{\"a\": 1, \"a\": 2}" };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct usk_config config = { 0 };
        struct unstick_error error = { 0 };

        assert_int_equal(usk_config_parse(texts[i], strlen(texts[i]), "x/config.json", &config, &error),
                         UNSTICK_BAD_FORMAT);
        assert_non_null(strstr(error.text, "x/config.json"));
        assert_null(strchr(error.text, '\n'));
        assert_null(config.class_name);
    }
}

/* --- a folder, read as a whole --- */

#define LINEAR "{\"fc.weight\": {\"dtype\": \"F16\", \"shape\": [64, 64], \"data_offsets\": [0, 8192]}}"

static void test_folder(void **state)
{
    char *folder = test_files_new();
    struct unstick_estimate *estimate = NULL;
    struct unstick_error error = { 0 };

    (void)state;
    test_files_write_tensors(folder, "model.safetensors", LINEAR, 8192);
    test_files_write_text(folder, "config.json", "{\"architectures\": [\"New\"]}");
    assert_int_equal(unstick_estimate_new(folder, NULL, &estimate, &error), UNSTICK_OK);
    assert_int_equal(estimate->n_components, 1);
    assert_string_equal(estimate->components[0].name, "model");
    assert_string_equal(estimate->components[0].class_name, "New");
    assert_int_equal(estimate->total[UNSTICK_QUANTIZATION_8BIT].bytes, 4096 + 256);
    assert_int_equal(estimate->total[UNSTICK_QUANTIZATION_8BIT].basis, UNSTICK_BASIS_GENERIC);
    assert_int_equal(estimate->working.bytes, 0);
    assert_null(unstick_estimate_free(estimate));
    /* The file by itself: what lies beside it is not asked. */
    test_files_write_text(folder, "config.json", "broken");
    assert_int_equal(unstick_estimate_new(test_files_path(folder, "model.safetensors"), NULL, &estimate, &error),
                     UNSTICK_OK);
    assert_null(estimate->components[0].class_name);
    assert_null(unstick_estimate_free(estimate));
    estimate = NULL;
    assert_int_equal(unstick_estimate_new(folder, NULL, &estimate, &error), UNSTICK_BAD_FORMAT);
    assert_non_null(strstr(error.text, "config.json"));
    assert_null(estimate);
    test_files_free(folder);
}

static void test_options(void **state)
{
    const struct unstick_estimate_options no_size = { .dtype = UNSTICK_LOAD_BF16 };
    const struct unstick_estimate_options no_dtype = { .size = sizeof(no_dtype), .dtype = (enum unstick_load_dtype)9 };
    struct unstick_estimate *estimate = NULL;

    (void)state;
    assert_int_equal(unstick_estimate_new("/", &no_size, &estimate, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(unstick_estimate_new("/", &no_dtype, &estimate, NULL), UNSTICK_INVALID_ARGUMENT);
    assert_null(estimate);
    assert_null(unstick_estimate_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_diffusers), cmocka_unit_test(test_transformers), cmocka_unit_test(test_passed_over),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_folder),       cmocka_unit_test(test_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
