/* SPDX-License-Identifier: Apache-2.0 */
/* The two JSON files that name others: what they may say, and that no name leads out of the folder. */
#include "model/test_files.h"

#include <string.h>

#include "model/index.h"

typedef int (*parse_fn)(const char *text, struct unstick_error *error);

static int index_parse(const char *text, struct unstick_error *error)
{
    struct usk_json_map weights = { 0 };
    int r = usk_index_parse(text, strlen(text), "i.json", &weights, error);

    usk_json_map_fini(&weights);
    return r;
}

static int pipeline_parse(const char *text, struct unstick_error *error)
{
    struct usk_pipeline pipeline = { 0 };
    int r = usk_pipeline_parse(text, strlen(text), "i.json", &pipeline, error);

    usk_pipeline_fini(&pipeline);
    return r;
}

static void assert_refused(parse_fn parse, const char *text, const char *message)
{
    struct unstick_error error = { 0 };

    if (parse(text, &error) >= 0)
        fail_msg("accepted: %s", text);
    assert_int_equal(error.status, UNSTICK_BAD_FORMAT);
    if (!strstr(error.text, message) || strncmp(error.text, "i.json: ", 8))
        fail_msg("\"%s\" instead of \"%s\" for %s", error.text, message, text);
}

#define MAP(_pairs) "{\"metadata\":{\"total_size\":1},\"weight_map\":{" _pairs "}}"

static void bad_indexes_are_refused(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", "the index must be an object" },
        { "[]", "the index must be an object" },
        { "{}", "\"weight_map\" is missing or empty" },
        { "{\"metadata\":{}}", "\"weight_map\" is missing or empty" },
        { MAP(""), "\"weight_map\" is missing or empty" },
        { MAP("\"a\":\"m.safetensors\"") " x", "something follows" },
        { "{\"weight_map\":[]}", "weight_map must be an object" },
        { "{\"weight_map\":{\"a\":1}}", "must be a string" },
        { "{\"weight_map\":{\"a\":\"m.safetensors\"},\"weight_map\":{}}", "\"weight_map\" is there twice" },
        { "{\"weight_map\":{\"a\":\"m.safetensors\"},\"x\"}", "expected ':'" },
        { "{\"weight_map\":{\"a\":\"m.safetensors\"},\"x\":}", "broken JSON" },
        { "{\"metadata\":{\"a\":1,\"a\":2},\"weight_map\":{\"a\":\"m.safetensors\"}}", "duplicate" },
        { MAP("\"a\":\"m.safetensors\",\"a\":\"n.safetensors\""), "weight_map has the key \"a\" twice" },
        { MAP("\"a\":\"\""), "leads out of the folder" },
        { MAP("\"a\":\"..\""), "leads out of the folder" },
        { MAP("\"a\":\"../m.safetensors\""), "\"../m.safetensors\" leads out of the folder" },
        { MAP("\"a\":\"/etc/m.safetensors\""), "leads out of the folder" },
        { MAP("\"a\":\"b/../../m.safetensors\""), "leads out of the folder" },
        { MAP("\"a\":\".m.safetensors\""), "leads out of the folder" },
        { MAP("\"a\":\"m.bin\""), "\"m.bin\" is not a .safetensors file" },
        { MAP("\"a\":\"m.safetensors\",\"b\":\"x.safetensors.txt\""), "is not a .safetensors file" },
        { MAP("\"a\":\"m\\u0000.safetensors\""), "broken JSON" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(index_parse, cases[i].text, cases[i].message);
}

static void an_index_maps_tensors_to_files(void **state)
{
    static const char text[] = " {\"weight_map\": {\"b\\u00e9\": \"m-2.safetensors\", \"a\": \"m-1.safetensors\"}, "
                               "\"metadata\": {\"total_size\": 1.5, \"x\": [null, {}]}}\n";
    struct usk_json_map weights = { 0 };

    (void)state;
    assert_int_equal(usk_index_parse(text, strlen(text), "i.json", &weights, NULL), UNSTICK_OK);
    assert_int_equal(weights.n_pairs, 2);
    assert_string_equal(weights.pairs[0].key, "a");
    assert_string_equal(weights.pairs[0].value, "m-1.safetensors");
    assert_string_equal(weights.pairs[1].key, "b\xc3\xa9");
    assert_string_equal(weights.pairs[1].value, "m-2.safetensors");
    usk_json_map_fini(&weights);
}

static void bad_pipelines_are_refused(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "", "the text ends in the middle" },
        { "[]", "a model index must be an object" },
        { "\"a\"", "a model index must be an object" },
        { "{}", "names no component" },
        { "{\"_class_name\":\"X\",\"scale\":1,\"a\":[null,null]}", "names no component" },
        { "{\"unet\":[\"diffusers\",\"X\"],\"unet\":[\"diffusers\",\"X\"]}", "duplicate" },
        { "{\"unet\":[\"diffusers\",\"X\"]}}", "something follows" },
        { "{\"unet\":[\"diffusers\",\"X\"]", "the text ends in the middle" },
        { "{\"../unet\":[\"diffusers\",\"X\"]}", "\"../unet\" leads out of the folder" },
        { "{\"..\":[\"diffusers\",\"X\"]}", "leads out of the folder" },
        { "{\"/etc\":[\"diffusers\",\"X\"]}", "leads out of the folder" },
        { "{\"\":[\"diffusers\",\"X\"]}", "leads out of the folder" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(pipeline_parse, cases[i].text, cases[i].message);
}

static void a_pipeline_lists_components_and_not_settings(void **state)
{
    static const char text[] =
        "{\"_class_name\":\"FluxPipeline\",\"_diffusers_version\":\"0.30.0\",\"_hidden\":[\"a\",\"b\"],"
        "\"transformer\":[\"diffusers\",\"FluxTransformer2DModel\"],\"image_encoder\":[null,null],"
        "\"boundary_ratio\":0.9,\"sizes\":[1,2],\"three\":[\"a\",\"b\",\"c\"],\"text\":\"x\","
        "\"vae\":[\"diffusers\",\"AutoencoderKL\"]}";
    struct usk_pipeline pipeline = { 0 };

    (void)state;
    assert_int_equal(usk_pipeline_parse(text, strlen(text), "i.json", &pipeline, NULL), UNSTICK_OK);
    assert_int_equal(pipeline.n_parts, 2);
    assert_string_equal(pipeline.parts[0].name, "transformer");
    assert_string_equal(pipeline.parts[0].class_name, "FluxTransformer2DModel");
    assert_string_equal(pipeline.parts[1].name, "vae");
    assert_string_equal(pipeline.parts[1].class_name, "AutoencoderKL");
    usk_pipeline_fini(&pipeline);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_indexes_are_refused),
        cmocka_unit_test(an_index_maps_tensors_to_files),
        cmocka_unit_test(bad_pipelines_are_refused),
        cmocka_unit_test(a_pipeline_lists_components_and_not_settings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
