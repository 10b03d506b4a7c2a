/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The estimate of a model on disk: what its files say is read here, what follows from it is decided in src/policy.
 *
 * The figures must be those of the model that will be loaded, so the same reader as for loading decides which files
 * count, and refuses what it would refuse then. A config.json belongs to the weights beside it; for a single file that
 * was named by itself none is read, because in a folder of many checkpoints it would be somebody else's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"
#include "model/config.h"
#include "model/file.h"
#include "model/json.h"
#include "policy/estimate.h"
#include "policy/working.h"

#define DEFAULT_SIDE 1024

/* The text that runs beside the image in a joint transformer: what FLUX pads every prompt to, the most among them. */
#define TEXT_TOKENS 512

/* Of the VAE, if the model has none of its own: that of all Stable Diffusion and FLUX models. */
#define DEFAULT_VAE_SCALE 8

struct survey {
    struct unstick_estimate estimate; /* must stay first: it is what the caller has */
    struct unstick_component_estimate *components;
    struct usk_config *configs; /* class names are theirs */
    size_t n_components;
};

USK_DEFINE_CLEANUP(struct unstick_model *, unstick_model_close)
USK_DEFINE_CLEANUP(struct unstick_estimate *, unstick_estimate_free)

struct unstick_estimate *unstick_estimate_free(struct unstick_estimate *estimate)
{
    struct survey *survey = (struct survey *)estimate;

    if (!survey)
        return NULL;
    for (size_t i = 0; i < survey->n_components; i++) {
        free((char *)survey->components[i].name);
        usk_config_fini(&survey->configs[i]);
    }
    free(survey->components);
    free(survey->configs);
    free(survey);
    return NULL;
}

static int survey_no_memory(const char *path, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "estimate", "%s: no memory to estimate it", path);
}

/* The config.json beside a component's files; none is no error. */
static int survey_read_config(const struct unstick_component *component, struct usk_config *ret_config,
                              struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *folder = strdup(component->layout.paths[0]);
    USK_CLEANUP(usk_freep) char *path = NULL;
    USK_CLEANUP(usk_freep) char *text = NULL;
    char *slash = folder ? strrchr(folder, '/') : NULL;
    size_t length;
    int r;

    if (slash)
        *slash = '\0';
    path = folder ? usk_model_path_join(slash ? (*folder ? folder : "/") : ".", "config.json") : NULL;
    if (!path)
        return survey_no_memory(component->name, error);
    if (access(path, F_OK) < 0)
        return UNSTICK_OK;
    r = usk_model_file_read(path, USK_CONFIG_BYTES_MAX, &text, &length, error);
    return r < 0 ? r : usk_config_parse(text, length, path, ret_config, error);
}

static int survey_add(struct survey *survey, const struct unstick_component *component, bool is_alone, bool is_file,
                      const struct unstick_estimate_options *options, struct unstick_error *error)
{
    struct unstick_component_estimate *out = &survey->components[survey->n_components];
    struct usk_config *config = &survey->configs[survey->n_components];
    USK_CLEANUP(usk_freep) char *name = strdup(component->name);
    struct usk_estimate_world world;
    int r;

    if (!name)
        return survey_no_memory(component->name, error);
    r = is_file ? UNSTICK_OK : survey_read_config(component, config, error);
    if (r < 0)
        return r;
    world = (struct usk_estimate_world){
        .class_name = config->class_name ? config->class_name
                                         : usk_estimate_class(component->tensors, component->n_tensors),
        .is_transformers = config->is_transformers,
        .skip = (const char *const *)config->skip,
        .n_skip = config->n_skip,
        .foreign = config->method[0] && strcmp(config->method, "bitsandbytes") != 0 ? config->method : NULL,
        .has_tied_head = config->has_tied_head,
        .is_alone = is_alone,
        .dtype = options->dtype,
    };
    r = usk_estimate_component(component->tensors, component->n_tensors, name, &world, out, error);
    if (r >= 0)
        r = usk_estimate_add(&survey->estimate, out, error);
    if (r < 0) {
        usk_config_fini(config);
        return r;
    }
    name = NULL;
    survey->n_components++;
    return UNSTICK_OK;
}

static void survey_add_shape(struct usk_working_shape *shape, const struct usk_config *config, const char *name,
                             const struct unstick_estimate_options *options)
{
    uint64_t element_bytes = options->dtype == UNSTICK_LOAD_FP32 ? 4 : 2;

    if (!strncmp(name, "vae", 3) && config->n_blocks) {
        shape->vae_channels = config->block_channels[config->n_blocks > 1];
        shape->vae_scale = config->n_blocks <= 16 ? UINT64_C(1) << (config->n_blocks - 1) : 0;
        shape->vae_element_bytes = element_bytes;
    } else if (config->n_blocks) {
        shape->unet_channels = usk_max(shape->unet_channels, config->block_channels[0]);
        shape->has_guidance_batch = true;
        shape->element_bytes = element_bytes;
    } else if (!config->is_transformers && config->n_heads * config->head_width > shape->width) {
        /* A ControlNet runs beside the transformer and is the smaller one. */
        shape->width = config->n_heads * config->head_width;
        shape->text_tokens = config->text_width ? TEXT_TOKENS : 0;
        shape->has_guidance_batch = !config->has_guidance;
        shape->element_bytes = element_bytes;
        /* FLUX packs 2 x 2 latent pixels before the transformer, whose own patch_size is 1. */
        shape->patch = config->patch > 1 ? config->patch : 2;
    }
}

static void survey_add_working(struct survey *survey, const struct unstick_estimate_options *options)
{
    struct usk_working_shape shape = { 0 };

    for (size_t i = 0; i < survey->n_components; i++)
        survey_add_shape(&shape, &survey->configs[i], survey->components[i].name, options);
    if (!shape.vae_scale)
        shape.vae_scale = DEFAULT_VAE_SCALE;
    usk_working_memory(&shape, options->width ? options->width : DEFAULT_SIDE,
                       options->height ? options->height : DEFAULT_SIDE, options->batch ? options->batch : 1,
                       &survey->estimate.working);
}

static int survey_check(const struct unstick_estimate_options *options, struct unstick_error *error)
{
    if (options->size != sizeof(*options) || (unsigned int)options->dtype > UNSTICK_LOAD_FP32)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "estimate", "the options' size or dtype is none");
    return UNSTICK_OK;
}

int unstick_estimate_new(const char *path, const struct unstick_estimate_options *options,
                         struct unstick_estimate **ret_estimate, struct unstick_error *error)
{
    static const struct unstick_estimate_options defaults = { .size = sizeof(defaults) };
    USK_CLEANUP(unstick_estimate_freep) struct unstick_estimate *estimate = NULL;
    USK_CLEANUP(unstick_model_closep) struct unstick_model *model = NULL;
    const struct unstick_component *components;
    struct survey *survey;
    struct stat st;
    size_t n;
    int r;

    if (!options)
        options = &defaults;
    r = survey_check(options, error);
    if (r >= 0)
        r = unstick_model_open(path, &model, error);
    if (r < 0)
        return r;
    if (stat(path, &st) < 0)
        return usk_error_errno(error, errno, "stat", "cannot open the model %s", path);
    n = unstick_model_components(model, &components);
    survey = calloc(1, sizeof(*survey));
    if (!survey)
        return survey_no_memory(path, error);
    estimate = &survey->estimate;
    survey->components = calloc(n, sizeof(*survey->components));
    survey->configs = calloc(n, sizeof(*survey->configs));
    if (!survey->components || !survey->configs)
        return survey_no_memory(path, error);
    for (size_t i = 0; i < n && r >= 0; i++)
        r = survey_add(survey, &components[i], n == 1, !S_ISDIR(st.st_mode), options, error);
    if (r < 0)
        return r;
    survey_add_working(survey, options);
    estimate->components = survey->components;
    estimate->n_components = survey->n_components;
    *ret_estimate = USK_STEAL(estimate);
    return UNSTICK_OK;
}
