/* SPDX-License-Identifier: Apache-2.0 */
/* Folders of every kind, as they are downloaded and as they break. Each test has a folder of its own. */
#include "model/test_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <unstick/model.h>

/* A header of one tensor of n bytes at the beginning, and of one behind it. */
#define ONE(_name, _n) "{\"" _name "\":{\"dtype\":\"U8\",\"shape\":[" _n "],\"data_offsets\":[0," _n "]}}"
#define MAP(_pairs) "{\"weight_map\":{" _pairs "}}"

static int folder_set_up(void **state)
{
    *state = test_files_new();
    return 0;
}

static int folder_tear_down(void **state)
{
    test_files_free(*state);
    return 0;
}

static struct unstick_model *open_model(const char *path)
{
    struct unstick_model *model = NULL;
    struct unstick_error error = { 0 };

    if (unstick_model_open(path, &model, &error) < 0)
        fail_msg("%s", error.text);
    assert_non_null(model);
    return model;
}

/* Opens what must have these components: their names, separated by blanks, in their order. */
static struct unstick_model *open_components(const char *path, const char *expected,
                                             const struct unstick_component **ret_components)
{
    struct unstick_model *model = open_model(path);
    size_t n = unstick_model_components(model, ret_components), at = 0;
    char names[256] = "";

    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", i ? " " : "", (*ret_components)[i].name);
    assert_string_equal(names, expected);
    return model;
}

static void assert_refused(const char *path, int status, const char *message)
{
    struct unstick_model *model = NULL;
    struct unstick_error error = { 0 };

    assert_int_equal(unstick_model_open(path, &model, &error), status);
    assert_int_equal(error.status, status);
    assert_null(model);
    if (!strstr(error.text, message) || strchr(error.text, '\n'))
        fail_msg("\"%s\" instead of \"%s\"", error.text, message);
    assert_int_equal(unstick_model_open(path, &model, NULL), status);
}

/* The one file, by its last name, that a component is read from. */
static void assert_file(const struct unstick_component *component, const char *name)
{
    assert_int_equal(component->layout.n_paths, 1);
    assert_string_equal(strrchr(component->layout.paths[0], '/') + 1, name);
}

static void a_file_is_a_model(void **state)
{
    const struct unstick_component *components;
    struct unstick_model *model;

    test_files_write_tensors(*state, "x.safetensors", ONE("a", "1000"), 1000);
    model = open_components(test_files_path(*state, "x.safetensors"), "model", &components);
    assert_file(components, "x.safetensors");
    assert_int_equal(components[0].n_tensors, 1);
    assert_int_equal(components[0].layout.bytes, 1024);
    assert_int_equal(components[0].layout.n_extents, 1);
    assert_int_equal(components[0].layout.extents[0].bytes, 1000);
    assert_int_equal(components[0].layout.extents[0].file_offset, 8 + strlen(ONE("a", "1000")));
    assert_null(unstick_model_close(model));
    assert_null(unstick_model_close(NULL));
}

static void a_missing_path_is_refused(void **state)
{
    char text[64];

    assert_refused(test_files_path(*state, "none"), UNSTICK_NOT_FOUND, "cannot open the model");
    assert_refused("", UNSTICK_NOT_FOUND, "cannot open the model");
    assert_refused(*state, UNSTICK_NOT_FOUND, "neither a model_index.json nor a .safetensors file");
    test_files_write_text(*state, "pytorch_model.bin", "PK");
    assert_refused(*state, UNSTICK_NOT_FOUND, "only pickled weights");
    test_files_write_text(*state, "x.index.json", "{}");
    assert_refused(test_files_path(*state, "x.index.json"), UNSTICK_BAD_FORMAT, "name the folder that it lies in");
    assert_refused(test_files_path(*state, "pytorch_model.bin"), UNSTICK_BAD_FORMAT, "too short");
    assert_int_equal(mkfifo(test_files_path(*state, "pipe"), 0600), 0);
    assert_refused(test_files_path(*state, "pipe"), UNSTICK_BAD_FORMAT, "not a regular file");
    /* A name that the system refuses, and a file taken for a folder. */
    snprintf(text, sizeof(text), "%s/x.index.json/y", (char *)*state);
    assert_refused(text, UNSTICK_NOT_FOUND, "cannot open the model");
}

static void a_model_without_bytes_is_refused(void **state)
{
    test_files_write_tensors(*state, "x.safetensors", "{}", 0);
    assert_refused(test_files_path(*state, "x.safetensors"), UNSTICK_BAD_FORMAT, "none of its components has a tensor");
    test_files_write_tensors(*state, "x.safetensors", ONE("weight_format", "1"), 1);
    assert_refused(test_files_path(*state, "x.safetensors"), UNSTICK_BAD_FORMAT, "none of its components has a tensor");
}

/* From the best to the last: each file is added, and must be preferred to all that are there already. */
static void the_best_name_is_chosen(void **state)
{
    static const char *const names[] = {
        "adapter_model.safetensors",
        "model.fp16.safetensors",
        "model.safetensors",
        "diffusion_pytorch_model.safetensors",
    };
    const struct unstick_component *components;

    test_files_write_text(*state, "config.json", "{}");
    test_files_write_text(*state, "._model.safetensors", "not ours");
    test_files_write_text(*state, "notes.json", "{}");
    test_files_write_tensors(*state, "model-00001-of-00002.safetensors", ONE("s", "1"), 1);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct unstick_model *model;

        test_files_write_tensors(*state, names[i], ONE("a", "1"), 1);
        model = open_components(*state, "model", &components);
        assert_file(components, names[i]);
        unstick_model_close(model);
    }
}

static void an_index_is_preferred_to_a_file(void **state)
{
    static const char *const names[] = {
        "model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.json",
    };
    const struct unstick_component *components;
    struct unstick_model *model;

    test_files_write_tensors(*state, "x-1.safetensors", ONE("a", "1"), 1);
    test_files_write_tensors(*state, "model.fp16.safetensors", ONE("a", "1"), 1);
    test_files_write_text(*state, "other.safetensors.index.json", MAP("\"a\":\"x-1.safetensors\""));
    model = open_components(*state, "model", &components);
    assert_file(components, "x-1.safetensors");
    unstick_model_close(model);
    test_files_write_tensors(*state, "model.safetensors", ONE("a", "1"), 1);
    for (size_t i = 0; i < 2; i++) {
        test_files_write_text(*state, names[i], MAP("\"a\":\"x-1.safetensors\""));
        model = open_components(*state, "model", &components);
        assert_file(components, "x-1.safetensors");
        unstick_model_close(model);
        test_files_write_tensors(*state, "diffusion_pytorch_model.safetensors", ONE("a", "1"), 1);
    }
}

static void a_variant_stands_in_if_it_is_the_only_one(void **state)
{
    const struct unstick_component *components;
    struct unstick_model *model;

    test_files_write_tensors(*state, "model.fp16-00001-of-00001.safetensors", ONE("a", "1"), 1);
    test_files_write_text(*state, "model.safetensors.index.fp16.json",
                          MAP("\"a\":\"model.fp16-00001-of-00001.safetensors\""));
    model = open_components(*state, "model", &components);
    assert_file(components, "model.fp16-00001-of-00001.safetensors");
    unstick_model_close(model);
    test_files_write_tensors(*state, "model.bf16.safetensors", ONE("a", "1"), 1);
    assert_refused(*state, UNSTICK_BAD_FORMAT,
                   "\"model.bf16.safetensors\" and \"model.safetensors.index.fp16.json\" (2 in all) could each be");
}

static void a_choice_is_refused(void **state)
{
    test_files_write_tensors(*state, "c.safetensors", ONE("a", "1"), 1);
    test_files_write_tensors(*state, "b.safetensors", ONE("a", "1"), 1);
    test_files_write_tensors(*state, "a.safetensors", ONE("a", "1"), 1);
    assert_refused(*state, UNSTICK_BAD_FORMAT, "\"a.safetensors\" and \"");
    assert_refused(*state, UNSTICK_BAD_FORMAT, "(3 in all) could each be the weights");
}

static void shards_without_an_index_are_refused(void **state)
{
    test_files_write_tensors(*state, "model-00001-of-00002.safetensors", ONE("a", "1"), 1);
    assert_refused(*state, UNSTICK_NOT_FOUND, "\"model-00001-of-00002.safetensors\" is one of several shards");
    test_files_write_tensors(*state, "model-00002-of-00002.safetensors", ONE("b", "1"), 1);
    assert_refused(*state, UNSTICK_NOT_FOUND, "index (*.safetensors.index.json) is missing");
}

static void shards_are_read_in_the_order_of_their_names(void **state)
{
    const struct unstick_component *components;
    const struct unstick_tensor *tensors;
    struct unstick_model *model;

    test_files_write_tensors(*state, "m-2.safetensors", ONE("a", "512"), 512);
    test_files_write_tensors(*state, "m-1.safetensors",
                             "{\"c\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,12]},"
                             "\"b.weight_format\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[12,13]},"
                             "\"d\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[13,13]}}",
                             13);
    /* The last tensor of the first file is not in the index, and belongs to the model nevertheless. */
    test_files_write_text(*state, "m.safetensors.index.json",
                          MAP("\"a\":\"m-2.safetensors\",\"c\":\"m-1.safetensors\","
                              "\"b.weight_format\":\"m-1.safetensors\""));
    model = open_components(*state, "model", &components);
    tensors = components[0].tensors;
    assert_int_equal(components[0].layout.n_paths, 2);
    assert_string_equal(strrchr(components[0].layout.paths[0], '/'), "/m-1.safetensors");
    assert_string_equal(strrchr(components[0].layout.paths[1], '/'), "/m-2.safetensors");
    assert_int_equal(components[0].n_tensors, 4);
    assert_string_equal(tensors[0].name, "c");
    assert_string_equal(tensors[0].dtype, "F16");
    assert_int_equal(tensors[0].n_dims, 2);
    assert_int_equal(tensors[0].shape[1], 3);
    assert_int_equal(tensors[0].file, 0);
    assert_true(tensors[1].is_metadata);
    assert_string_equal(tensors[2].name, "d");
    assert_int_equal(tensors[3].file, 1);
    assert_int_equal(tensors[3].region_offset, 512);
    assert_int_equal(components[0].layout.bytes, 1024);
    assert_int_equal(components[0].layout.n_extents, 2);
    assert_int_equal(components[0].layout.extents[1].file, 1);
    unstick_model_close(model);
}

static void a_wrong_index_is_refused(void **state)
{
    static const struct {
        const char *map;
        int status;
        const char *message;
    } cases[] = {
        { MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-3.safetensors\""), UNSTICK_NOT_FOUND,
          "index.json: it names m-3.safetensors, which is missing: download it" },
        { MAP("\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\""), UNSTICK_BAD_FORMAT,
          "tensor \"b\" is not in \"m-1.safetensors\"" },
        { MAP("\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\""), UNSTICK_BAD_FORMAT,
          "tensor \"a\" is not in \"m-2.safetensors\"" },
        { MAP("\"a\":\"m-1.safetensors\",\"z\":\"m-2.safetensors\""), UNSTICK_BAD_FORMAT,
          "tensor \"z\" is not in \"m-2.safetensors\"" },
        { MAP("\"a\":\"m-1.safetensors\",\"b\":\"twice.safetensors\""), UNSTICK_BAD_FORMAT,
          "twice.safetensors: tensor \"a\" is also in m-1.safetensors" },
        { MAP("\"a\":\"m-1.safetensors\",\"b\":\"short.safetensors\""), UNSTICK_BAD_FORMAT,
          "short.safetensors: it has" },
        { MAP("\"a\":\"../m-1.safetensors\""), UNSTICK_BAD_FORMAT, "leads out of the folder" },
        { "{", UNSTICK_BAD_FORMAT, "model.safetensors.index.json: broken JSON at byte 1" },
    };

    test_files_write_tensors(*state, "m-1.safetensors", ONE("a", "1"), 1);
    test_files_write_tensors(*state, "m-2.safetensors", ONE("b", "1"), 1);
    test_files_write_tensors(*state, "twice.safetensors",
                             "{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                             "\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}",
                             2);
    test_files_write_text(*state, "short.safetensors", "");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        test_files_write_text(*state, "model.safetensors.index.json", cases[i].map);
        assert_refused(*state, cases[i].status, cases[i].message);
    }
    assert_int_equal(truncate(test_files_path(*state, "model.safetensors.index.json"), 100000001), 0);
    assert_refused(*state, UNSTICK_BAD_FORMAT, "it has 100000001 bytes, at most 100000000 belong there");
    assert_int_equal(unlink(test_files_path(*state, "model.safetensors.index.json")), 0);
    assert_int_equal(symlink("nowhere", test_files_path(*state, "model.safetensors.index.json")), 0);
    assert_refused(*state, UNSTICK_NOT_FOUND, "cannot open");
}

/* A Hugging Face cache: the snapshot is links to files that are named by their hash. */
static void links_are_followed(void **state)
{
    const struct unstick_component *components;
    struct unstick_model *model;
    char target[128];

    test_files_mkdir(*state, "blobs");
    test_files_mkdir(*state, "snapshot");
    test_files_write_tensors(*state, "blobs/0123", ONE("a", "1"), 1);
    test_files_write_text(*state, "blobs/4567", MAP("\"a\":\"m-00001-of-00001.safetensors\""));
    assert_int_equal(symlink("../blobs/0123", test_files_path(*state, "snapshot/m-00001-of-00001.safetensors")), 0);
    assert_int_equal(symlink("../blobs/4567", test_files_path(*state, "snapshot/m.safetensors.index.json")), 0);
    assert_int_equal(symlink("snapshot", test_files_path(*state, "main")), 0);
    /* The folder's name may end in separators. */
    snprintf(target, sizeof(target), "%s/main//", (char *)*state);
    model = open_components(target, "model", &components);
    assert_file(components, "m-00001-of-00001.safetensors");
    snprintf(target, sizeof(target), "%s/main/m-00001-of-00001.safetensors", (char *)*state);
    assert_string_equal(components[0].layout.paths[0], target);
    unstick_model_close(model);
}

#define PART(_name, _class) "\"" _name "\":[\"library\",\"" _class "\"]"

static void a_pipeline_has_its_components_in_the_order_of_use(void **state)
{
    const struct unstick_component *components;
    struct unstick_model *model;
    static const char *const files[] = {
        "vae/diffusion_pytorch_model.safetensors",         "transformer/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",                  "text_encoder_2/model.safetensors",
        "image_encoder/model.safetensors",                 "safety_checker/model.safetensors",
        "controlnet/diffusion_pytorch_model.safetensors",
    };

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        test_files_write_tensors(*state, files[i], ONE("a", "1"), 1);
    test_files_write_text(*state, "transformer/config.json", "{}");
    test_files_write_text(*state, "scheduler/scheduler_config.json", "{}");
    test_files_write_text(*state, "guider/guider_config.json", "{}");
    test_files_write_text(*state, "feature_extractor/config.json", "{}");
    test_files_write_tensors(*state, "empty/model.safetensors", "{}", 0);
    /* Single-file weights beside the folders are the same model once more. */
    test_files_write_tensors(*state, "flux1-dev.safetensors", ONE("a", "1"), 1);
    test_files_write_text(*state, "model_index.json",
                          "{\"_class_name\":\"FluxPipeline\"," PART("vae", "AutoencoderKL") ","
                          PART("safety_checker", "StableDiffusionSafetyChecker") ","
                          PART("controlnet", "FluxControlNet") "," PART("transformer", "FluxTransformer2DModel") ","
                          PART("image_encoder", "CLIPVision") "," PART("text_encoder_2", "T5EncoderModel") ","
                          PART("text_encoder", "CLIPTextModel") ","
                          PART("scheduler", "FlowMatchEulerDiscreteScheduler") ","
                          PART("tokenizer", "CLIPTokenizer") "," PART("feature_extractor", "CLIPImageProcessor") ","
                          PART("guider", "ClassifierFreeGuidance") "," PART("empty", "Nothing")
                          ",\"prior\":[null,null]}");
    model = open_components(*state,
                            "text_encoder text_encoder_2 image_encoder transformer controlnet vae safety_checker",
                            &components);
    unstick_model_close(model);
}

static void an_incomplete_pipeline_is_refused(void **state)
{
    test_files_write_text(*state, "model_index.json", "{" PART("unet", "UNet2DConditionModel") "}");
    assert_refused(*state, UNSTICK_NOT_FOUND, "/unet: model_index.json names it, but it is missing: download it");
    test_files_write_text(*state, "unet", "a file");
    assert_refused(*state, UNSTICK_NOT_FOUND, "/unet: Not a directory");
    assert_int_equal(unlink(test_files_path(*state, "unet")), 0);
    test_files_write_text(*state, "unet/config.json", "{}");
    assert_refused(*state, UNSTICK_NOT_FOUND, "/unet: it has a config.json, but no .safetensors file: download it");
    test_files_write_text(*state, "unet/diffusion_pytorch_model.bin", "PK");
    assert_refused(*state, UNSTICK_NOT_FOUND, "/unet: its weights are pickled (*.bin)");
    test_files_write_text(*state, "unet/diffusion_pytorch_model.safetensors", "{}");
    assert_refused(*state, UNSTICK_BAD_FORMAT, "/unet/diffusion_pytorch_model.safetensors: it has 2 bytes");
    test_files_write_text(*state, "model_index.json", "{" PART("../unet", "UNet2DConditionModel") "}");
    assert_refused(*state, UNSTICK_BAD_FORMAT, "leads out of the folder");
    assert_int_equal(truncate(test_files_path(*state, "model_index.json"), (1 << 20) + 1), 0);
    assert_refused(*state, UNSTICK_BAD_FORMAT, "it has 1048577 bytes, at most 1048576 belong there");
    assert_int_equal(unlink(test_files_path(*state, "model_index.json")), 0);
    test_files_mkdir(*state, "model_index.json");
    assert_refused(*state, UNSTICK_BAD_FORMAT, "model_index.json is not a regular file");
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, folder_set_up, folder_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_file_is_a_model),
        TEST(a_missing_path_is_refused),
        TEST(a_model_without_bytes_is_refused),
        TEST(the_best_name_is_chosen),
        TEST(an_index_is_preferred_to_a_file),
        TEST(a_variant_stands_in_if_it_is_the_only_one),
        TEST(a_choice_is_refused),
        TEST(shards_without_an_index_are_refused),
        TEST(shards_are_read_in_the_order_of_their_names),
        TEST(a_wrong_index_is_refused),
        TEST(links_are_followed),
        TEST(a_pipeline_has_its_components_in_the_order_of_use),
        TEST(an_incomplete_pipeline_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
