/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two JSON files that say which files make up a model.
 *
 * Both come with the download and name files to be opened next, so each name must be that of an entry of the folder
 * at hand: no separators, no "..", nothing hidden. Symbolic links are not looked through on purpose: a Hugging Face
 * cache consists of them, and who can plant a link can plant the file as well.
 */
#include "model/index.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"

#define INDEX_VALUE_BYTES_MAX (UINT64_C(1) << 20)

static int index_refuse(const char *path, const char *name, const char *what, struct unstick_error *error)
{
    char quote[USK_JSON_QUOTE_MAX];

    return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "index", "%s: \"%s\" %s", path, usk_json_quote(quote, name),
                         what);
}

static bool index_is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

static int index_check_files(const struct usk_json_map *weights, const char *path, struct unstick_error *error)
{
    for (size_t i = 0; i < weights->n_pairs; i++) {
        const char *name = weights->pairs[i].value;

        if (!index_is_plain_name(name))
            return index_refuse(path, name, "leads out of the folder: an index may name files beside it only", error);
        if (!usk_text_ends(name, ".safetensors"))
            return index_refuse(path, name, "is not a .safetensors file", error);
    }
    return UNSTICK_OK;
}

int usk_index_parse(const char *text, size_t length, const char *path, struct usk_json_map *ret_weights,
                    struct unstick_error *error)
{
    USK_CLEANUP(usk_json_map_fini) struct usk_json_map weights = { 0 };
    struct usk_json json = { .text = text, .length = length, .path = path };
    size_t n_seen = 0;
    int r;

    r = usk_json_enter(&json, "the index", error);
    if (r < 0)
        return r;
    for (;;) {
        USK_CLEANUP(json_decrefp) json_t *key = NULL;
        USK_CLEANUP(json_decrefp) json_t *value = NULL;

        r = usk_json_next(&json, &n_seen, &key, error);
        if (r < 0)
            return r;
        if (!key)
            break;
        if (strcmp(json_string_value(key), "weight_map")) {
            r = usk_json_take(&json, INDEX_VALUE_BYTES_MAX, &value, error);
        } else if (weights.strings) {
            return index_refuse(path, "weight_map", "is there twice", error);
        } else {
            r = usk_json_take_map(&json, "weight_map", &weights, error);
        }
        if (r < 0)
            return r;
    }
    r = usk_json_end(&json, error);
    if (r < 0)
        return r;
    if (!weights.n_pairs)
        return index_refuse(path, "weight_map", "is missing or empty: the index names no tensors", error);
    r = index_check_files(&weights, path, error);
    if (r < 0)
        return r;
    *ret_weights = weights;
    weights = (struct usk_json_map){ 0 };
    return UNSTICK_OK;
}

void usk_pipeline_fini(struct usk_pipeline *pipeline)
{
    for (size_t i = 0; i < pipeline->n_parts; i++) {
        free(pipeline->parts[i].name);
        free(pipeline->parts[i].class_name);
    }
    free(pipeline->parts);
    *pipeline = (struct usk_pipeline){ 0 };
}

/* A component is a pair [library, class] under a key that is not the pipeline's own; [null, null] is one that was left
 * out, anything else a setting. */
static bool pipeline_is_part(const char *name, const json_t *value)
{
    return name[0] != '_' && json_array_size(value) == 2 && json_is_string(json_array_get(value, 0)) &&
           json_is_string(json_array_get(value, 1));
}

static int pipeline_add(struct usk_pipeline *pipeline, const char *name, const char *class_name, const char *path,
                        struct unstick_error *error)
{
    size_t n = pipeline->n_parts;
    struct usk_pipeline_part *grown;

    if (!index_is_plain_name(name))
        return index_refuse(path, name, "leads out of the folder: a component is a folder beside the file", error);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(pipeline->parts[i].name, name))
            return index_refuse(path, name, "is there twice", error);
    }
    grown = realloc(pipeline->parts, (n + 1) * sizeof(*grown));
    if (grown) {
        pipeline->parts = grown;
        grown[n] = (struct usk_pipeline_part){ .name = strdup(name), .class_name = strdup(class_name) };
        pipeline->n_parts++;
    }
    if (!grown || !grown[n].name || !grown[n].class_name)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "index", "%s: no memory to read it", path);
    return UNSTICK_OK;
}

int usk_pipeline_parse(const char *text, size_t length, const char *path, struct usk_pipeline *ret_pipeline,
                       struct unstick_error *error)
{
    USK_CLEANUP(usk_pipeline_fini) struct usk_pipeline pipeline = { 0 };
    USK_CLEANUP(json_decrefp) json_t *root = NULL;
    struct usk_json json = { .text = text, .length = length, .path = path };
    const char *name;
    json_t *value;
    int r;

    r = usk_json_take_all(&json, INDEX_VALUE_BYTES_MAX, &root, error);
    if (r < 0)
        return r;
    if (!json_is_object(root))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "index", "%s: a model index must be an object", path);
    json_object_foreach(root, name, value) {
        if (!pipeline_is_part(name, value))
            continue;
        r = pipeline_add(&pipeline, name, json_string_value(json_array_get(value, 1)), path, error);
        if (r < 0)
            return r;
    }
    if (!pipeline.n_parts)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "index",
                             "%s: it names no component: each is a key with a list [library, class]", path);
    *ret_pipeline = pipeline;
    pipeline = (struct usk_pipeline){ 0 };
    return UNSTICK_OK;
}
