/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A component's config.json, as far as it decides memory: the class, what is quantized and what is not, and the widths
 * from which activations are told.
 *
 * Any member may be missing, null or of another type than expected: configurations come from dozens of classes, and
 * what one calls a number is a list in another. So a member that is not understood counts as absent; only a text that
 * is no JSON object is refused, because then it is not known what else is wrong with the download.
 */
#include "model/config.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/json.h"

void usk_config_fini(struct usk_config *config)
{
    for (size_t i = 0; i < config->n_skip; i++)
        free(config->skip[i]);
    free(config->skip);
    free(config->class_name);
    *config = (struct usk_config){ 0 };
}

static int config_no_memory(const char *path, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "config", "%s: no memory to read it", path);
}

static uint64_t config_number(const json_t *value)
{
    json_int_t number = json_is_integer(value) ? json_integer_value(value) : 0;

    return number > 0 && number <= USK_CONFIG_NUMBER_MAX ? (uint64_t)number : 0;
}

static int config_read_class(struct usk_config *config, const json_t *root, const char *path,
                             struct unstick_error *error)
{
    const json_t *name = json_object_get(root, "_class_name");

    if (!json_is_string(name)) {
        name = json_array_get(json_object_get(root, "architectures"), 0);
        config->is_transformers = true;
    }
    if (!json_is_string(name) || !json_string_length(name))
        return UNSTICK_OK;
    config->class_name = strdup(json_string_value(name));
    return config->class_name ? UNSTICK_OK : config_no_memory(path, error);
}

/* One name, or a list in which some may be null. */
static int config_read_skip(struct usk_config *config, const json_t *skip, const char *path,
                            struct unstick_error *error)
{
    size_t n = json_is_string(skip) ? 1 : json_array_size(skip);

    if (!n)
        return UNSTICK_OK;
    config->skip = calloc(n, sizeof(*config->skip));
    if (!config->skip)
        return config_no_memory(path, error);
    for (size_t i = 0; i < n; i++) {
        const json_t *name = json_is_string(skip) ? skip : json_array_get(skip, i);

        if (!json_is_string(name) || !json_string_length(name))
            continue;
        config->skip[config->n_skip] = strdup(json_string_value(name));
        if (!config->skip[config->n_skip])
            return config_no_memory(path, error);
        config->n_skip++;
    }
    return UNSTICK_OK;
}

static void config_read_shape(struct usk_config *config, const json_t *root)
{
    const json_t *blocks = json_object_get(root, "block_out_channels");

    config->has_tied_head = json_is_true(json_object_get(root, "tie_word_embeddings"));
    config->has_guidance = json_object_get(root, "guidance_embeds") != NULL;
    config->n_heads = config_number(json_object_get(root, "num_attention_heads"));
    config->head_width = config_number(json_object_get(root, "attention_head_dim"));
    config->patch = config_number(json_object_get(root, "patch_size"));
    config->text_width = config_number(json_object_get(root, "joint_attention_dim"));
    config->n_blocks = json_array_size(blocks);
    for (size_t i = 0; i < 2; i++)
        config->block_channels[i] = config_number(json_array_get(blocks, i));
}

int usk_config_parse(const char *text, size_t length, const char *path, struct usk_config *ret_config,
                     struct unstick_error *error)
{
    USK_CLEANUP(usk_config_fini) struct usk_config config = { 0 };
    USK_CLEANUP(json_decrefp) json_t *root = NULL;
    struct usk_json json = { .text = text, .length = length, .path = path };
    const json_t *quantization, *method;
    int r;

    r = usk_json_take_all(&json, USK_CONFIG_BYTES_MAX, &root, error);
    if (r < 0)
        return r;
    if (!json_is_object(root))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "config", "%s: a configuration must be an object", path);
    r = config_read_class(&config, root, path, error);
    if (r < 0)
        return r;
    config_read_shape(&config, root);
    quantization = json_object_get(root, "quantization_config");
    method = json_object_get(quantization, "quant_method");
    if (json_is_string(method)) {
        char quote[USK_JSON_QUOTE_MAX];

        snprintf(config.method, sizeof(config.method), "%.31s", usk_json_quote(quote, json_string_value(method)));
        r = config_read_skip(&config, json_object_get(quantization, "llm_int8_skip_modules"), path, error);
        if (r < 0)
            return r;
    }
    *ret_config = config;
    config = (struct usk_config){ 0 };
    return UNSTICK_OK;
}
