/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One component: the tensors of its files, checked against its index, and their layout.
 *
 * A tensor exists once: files that belong together and both have it are of different downloads, or no shards of one
 * model. An index must be right about every tensor that it names; files may hold more than it names (converters leave
 * such tensors behind), and as they are loaded by whole files these are part of the component.
 */
#include "model/component.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/layout.h"
#include "model/safetensors.h"

static int component_no_memory(const char *name, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "model", "no memory for the tensors of %s", name);
}

void usk_component_fini(struct unstick_component *component)
{
    /* What the public structure shows as constant is ours. */
    struct unstick_tensor *tensors = (struct unstick_tensor *)component->tensors;
    const char **paths = (const char **)component->layout.paths;

    for (size_t i = 0; i < component->n_tensors; i++)
        usk_tensor_fini(&tensors[i]);
    free(tensors);
    for (size_t i = 0; i < component->layout.n_paths; i++)
        free((char *)paths[i]);
    free(paths);
    free((struct unstick_extent *)component->layout.extents);
    free((char *)component->name);
    *component = (struct unstick_component){ 0 };
}

static int component_read_file(struct unstick_component *component, const char *path, uint32_t file,
                               struct unstick_error *error)
{
    USK_CLEANUP(usk_safetensors_freep) struct usk_safetensors *safetensors = NULL;
    USK_CLEANUP(usk_freep) struct unstick_tensor *tensors = NULL;
    struct unstick_tensor *grown;
    size_t n;
    int r;

    r = usk_safetensors_open(path, &safetensors, error);
    if (r < 0)
        return r;
    if (!safetensors->n_tensors)
        return UNSTICK_OK;
    grown = realloc((void *)component->tensors,
                    (component->n_tensors + safetensors->n_tensors) * sizeof(*component->tensors));
    if (!grown)
        return component_no_memory(path, error);
    component->tensors = grown;
    tensors = usk_safetensors_take(safetensors, &n);
    for (size_t i = 0; i < n; i++) {
        tensors[i].file = file;
        grown[component->n_tensors++] = tensors[i];
    }
    return UNSTICK_OK;
}

static int component_compare_names(const void *a, const void *b)
{
    return strcmp((*(const struct unstick_tensor *const *)a)->name, (*(const struct unstick_tensor *const *)b)->name);
}

static const char *component_file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

static int component_check_twice(const struct unstick_tensor *const *sorted, size_t n,
                                 const struct usk_weights *weights, struct unstick_error *error)
{
    char quote[USK_JSON_QUOTE_MAX];

    for (size_t i = 1; i < n; i++) {
        if (!strcmp(sorted[i - 1]->name, sorted[i]->name))
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "model",
                                 "%s: tensor \"%s\" is also in %s: they are not shards of one model",
                                 weights->paths[sorted[i]->file], usk_json_quote(quote, sorted[i]->name),
                                 component_file_name(weights->paths[sorted[i - 1]->file]));
    }
    return UNSTICK_OK;
}

/* Both are sorted by name, so one pass finds what the index names and no file has. */
static int component_check_index(const struct unstick_tensor *const *sorted, size_t n,
                                 const struct usk_weights *weights, struct unstick_error *error)
{
    char quote[USK_JSON_QUOTE_MAX], file[USK_JSON_QUOTE_MAX];
    size_t at = 0;

    for (size_t i = 0; i < weights->index.n_pairs; i++) {
        const struct usk_json_pair *pair = &weights->index.pairs[i];

        while (at < n && strcmp(sorted[at]->name, pair->key) < 0)
            at++;
        if (at < n && !strcmp(sorted[at]->name, pair->key) &&
            !strcmp(component_file_name(weights->paths[sorted[at]->file]), pair->value))
            continue;
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "model",
                             "%s: tensor \"%s\" is not in \"%s\": index and files are of different downloads",
                             weights->index_path, usk_json_quote(quote, pair->key), usk_json_quote(file, pair->value));
    }
    return UNSTICK_OK;
}

static int component_check(const struct unstick_component *component, const struct usk_weights *weights,
                           struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) const struct unstick_tensor **sorted = NULL;
    size_t n = component->n_tensors;
    int r;

    /* Within a file the names are known to differ. */
    if (weights->n_paths < 2 && !weights->index_path)
        return UNSTICK_OK;
    sorted = malloc((n + 1) * sizeof(struct unstick_tensor *));
    if (!sorted)
        return component_no_memory(component->name, error);
    for (size_t i = 0; i < n; i++)
        sorted[i] = &component->tensors[i];
    qsort(sorted, n, sizeof(struct unstick_tensor *), component_compare_names);
    r = component_check_twice(sorted, n, weights, error);
    return r < 0 ? r : component_check_index(sorted, n, weights, error);
}

int usk_component_init(struct unstick_component *component, const char *name, struct usk_weights *weights,
                       struct unstick_error *error)
{
    USK_CLEANUP(usk_component_fini) struct unstick_component made = { .name = strdup(name) };
    struct unstick_extent *extents;
    int r = UNSTICK_OK;

    if (!made.name)
        return component_no_memory(name, error);
    for (size_t i = 0; i < weights->n_paths; i++) {
        r = component_read_file(&made, weights->paths[i], (uint32_t)i, error);
        if (r == UNSTICK_NOT_FOUND && weights->index_path)
            return usk_error_set(error, r, 0, "model", "%s: it names %s, which is missing: download it",
                                 weights->index_path, component_file_name(weights->paths[i]));
        if (r < 0)
            return r;
    }
    r = component_check(&made, weights, error);
    if (r >= 0)
        r = usk_layout_make((struct unstick_tensor *)made.tensors, made.n_tensors, name, &extents,
                            &made.layout.n_extents, &made.layout.bytes, error);
    if (r < 0)
        return r;
    made.layout.extents = extents;
    made.layout.n_paths = weights->n_paths;
    weights->n_paths = 0;
    made.layout.paths = (const char *const *)USK_STEAL(weights->paths);
    *component = made;
    made = (struct unstick_component){ 0 };
    return UNSTICK_OK;
}
