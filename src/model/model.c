/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model: what its path turns out to be, and its components in the order in which a pipeline uses them.
 *
 * A component that is named must be there. One that is silently left out would make every figure derived from the
 * model too small, and the first to notice would be an out-of-memory error much later. So only what is known to have
 * no weights may be without: schedulers, tokenizers, processors, and folders without a model's config.json.
 */
#include <unstick/model.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "model/component.h"
#include "model/file.h"
#include "model/folder.h"
#include "model/index.h"

#define MODEL_INDEX_BYTES_MAX (UINT64_C(1) << 20)

struct unstick_model {
    struct unstick_component *components;
    size_t n_components;
};

/* When a pipeline uses a component, by how its name begins. Victims are chosen, and granules loaded, in this order;
 * a name that is not here runs with the denoiser (controlnet, adapters), between it and the decoder. */
static const struct {
    const char *prefix;
    int rank;
} model_order[] = {
    { "text_encoder", 0 }, { "image_encoder", 1 }, { "prior", 2 },          { "transformer", 3 },
    { "unet", 3 },         { "vae", 5 },           { "vq", 5 },             { "movq", 5 },
    { "vocoder", 6 },      { "safety_checker", 6 },
};

#define MODEL_RANK_OTHER 4

static int model_rank(const char *name)
{
    for (size_t i = 0; i < sizeof(model_order) / sizeof(model_order[0]); i++) {
        if (usk_text_begins(name, model_order[i].prefix))
            return model_order[i].rank;
    }
    return MODEL_RANK_OTHER;
}

static int model_compare_components(const void *a, const void *b)
{
    const struct unstick_component *x = a, *y = b;
    int rank_x = model_rank(x->name), rank_y = model_rank(y->name);

    return rank_x != rank_y ? rank_x - rank_y : strcmp(x->name, y->name);
}

struct unstick_model *unstick_model_close(struct unstick_model *model)
{
    if (model) {
        for (size_t i = 0; i < model->n_components; i++)
            usk_component_fini(&model->components[i]);
        free(model->components);
        free(model);
    }
    return NULL;
}

USK_DEFINE_CLEANUP(struct unstick_model *, unstick_model_close)

size_t unstick_model_components(const struct unstick_model *model, const struct unstick_component **ret_components)
{
    *ret_components = model->components;
    return model->n_components;
}

/* Adds a component, unless there is nothing of it to be put on a device. */
static int model_add(struct unstick_model *model, const char *name, struct usk_weights *weights,
                     struct unstick_error *error)
{
    struct unstick_component *grown;
    int r;

    grown = realloc(model->components, (model->n_components + 1) * sizeof(*grown));
    if (!grown)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "model", "no memory for a component");
    model->components = grown;
    r = usk_component_init(&grown[model->n_components], name, weights, error);
    if (r < 0)
        return r;
    if (grown[model->n_components].layout.bytes)
        model->n_components++;
    else
        usk_component_fini(&grown[model->n_components]);
    return UNSTICK_OK;
}

/* Classes that come with files, but never with weights. */
static bool part_is_weightless(const struct usk_pipeline_part *part)
{
    static const char *const words[] = { "Scheduler", "Tokenizer", "Processor", "FeatureExtractor" };

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(part->class_name, words[i]))
            return true;
    }
    return false;
}

static int model_add_part(struct unstick_model *model, const struct usk_pipeline_part *part, const char *path,
                          struct unstick_error *error)
{
    USK_CLEANUP(usk_weights_fini) struct usk_weights weights = { 0 };
    USK_CLEANUP(usk_freep) char *folder = usk_model_path_join(path, part->name);
    int r;

    if (!folder)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "model", "no memory for a component");
    if (part_is_weightless(part))
        return UNSTICK_OK;
    r = usk_weights_from_folder(folder, &weights, error);
    if (r == UNSTICK_NOT_FOUND && access(folder, F_OK) < 0)
        return usk_error_set(error, r, 0, "model", "%s: model_index.json names it, but it is missing: download it",
                             folder);
    if (r < 0)
        return r;
    if (weights.n_paths)
        return model_add(model, part->name, &weights, error);
    if (weights.has_pickle)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "model",
                             "%s: its weights are pickled (*.bin), which is not read: download or save them as "
                             ".safetensors",
                             folder);
    if (weights.has_config)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "model",
                             "%s: it has a config.json, but no .safetensors file: download it", folder);
    return UNSTICK_OK;
}

static int model_read_pipeline(struct unstick_model *model, const char *path, const char *index_path,
                               struct unstick_error *error)
{
    USK_CLEANUP(usk_pipeline_fini) struct usk_pipeline pipeline = { 0 };
    USK_CLEANUP(usk_freep) char *text = NULL;
    size_t length;
    int r;

    r = usk_model_file_read(index_path, MODEL_INDEX_BYTES_MAX, &text, &length, error);
    if (r >= 0)
        r = usk_pipeline_parse(text, length, index_path, &pipeline, error);
    for (size_t i = 0; i < pipeline.n_parts && r >= 0; i++)
        r = model_add_part(model, &pipeline.parts[i], path, error);
    return r;
}

/* A folder that is no pipeline: transformers, or any with an index or one file. */
static int model_read_folder(struct unstick_model *model, const char *path, struct unstick_error *error)
{
    USK_CLEANUP(usk_weights_fini) struct usk_weights weights = { 0 };
    int r;

    r = usk_weights_from_folder(path, &weights, error);
    if (r < 0)
        return r;
    if (!weights.n_paths)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "model",
                             "%s: neither a model_index.json nor a .safetensors file%s", path,
                             weights.has_pickle ? ", only pickled weights (*.bin), which are not read" : "");
    return model_add(model, "model", &weights, error);
}

static int model_read_file(struct unstick_model *model, const char *path, struct unstick_error *error)
{
    USK_CLEANUP(usk_weights_fini) struct usk_weights weights = { 0 };
    int r;

    if (usk_text_ends(path, ".json"))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "model", "%s: name the folder that it lies in", path);
    r = usk_weights_from_file(path, &weights, error);
    return r < 0 ? r : model_add(model, "model", &weights, error);
}

static int model_read(struct unstick_model *model, const char *path, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *index_path = NULL;
    struct stat st;

    if (stat(path, &st) < 0)
        return usk_error_errno(error, errno, "stat", "cannot open the model %s", path);
    if (!S_ISDIR(st.st_mode))
        return model_read_file(model, path, error);
    index_path = usk_model_path_join(path, "model_index.json");
    if (!index_path)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "model", "no memory to open %s", path);
    if (access(index_path, F_OK) == 0)
        return model_read_pipeline(model, path, index_path, error);
    return model_read_folder(model, path, error);
}

int unstick_model_open(const char *path, struct unstick_model **ret_model, struct unstick_error *error)
{
    USK_CLEANUP(unstick_model_closep) struct unstick_model *model = calloc(1, sizeof(*model));
    int r;

    if (!model)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "model", "no memory to open %s", path);
    r = model_read(model, path, error);
    if (r < 0)
        return r;
    if (!model->n_components)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "model", "%s: none of its components has a tensor", path);
    qsort(model->components, model->n_components, sizeof(*model->components), model_compare_components);
    *ret_model = USK_STEAL(model);
    return UNSTICK_OK;
}
