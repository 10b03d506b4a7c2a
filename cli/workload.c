/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A workload is read completely and checked completely before anything is opened: a typing error in the last
 * request must not show after an hour of work. Unknown members are refused, since a misspelt optional one
 * would be ignored in silence.
 */
#include "workload.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define WORKLOAD_MAX_MODELS 1024
#define WORKLOAD_MAX_REQUESTS 1000000

static int workload_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc",
                         "out of host memory for the workload");
}

/* Grows an array so that one more fits; doubles at powers of two. */
static bool workload_grow(void *array_pointer, size_t n, size_t item_bytes)
{
    void **array = array_pointer;
    void *grown;

    if (n & (n - 1))
        return true;
    grown = reallocarray(*array, n ? n * 2 : 1, item_bytes);
    if (!grown)
        return false;
    *array = grown;
    return true;
}

static const struct workload_model *workload_find(const struct workload *workload, const char *key)
{
    for (size_t i = 0; i < workload->n_models; i++) {
        if (!strcmp(workload->models[i].key, key))
            return &workload->models[i];
    }
    return NULL;
}

int workload_spell(const char *text, char ret_key[UNSTICK_KEY_MAX], enum unstick_quantization *ret_quantization,
                   struct unstick_error *error)
{
    char model_id[UNSTICK_KEY_MAX];
    int r = unstick_key_parse(text, model_id, sizeof(model_id), ret_quantization, error);

    return r < 0 ? r : unstick_key_build(model_id, *ret_quantization, ret_key, UNSTICK_KEY_MAX, error);
}

/*
 * The key in the one spelling that the cache and its figures have: "x_nf4" is "x_4-bit". What ends in no quantization
 * that is known stays as it is spelled.
 */
static char *workload_key(const char *id, const char *quantization)
{
    char key[UNSTICK_KEY_MAX], *spelled = NULL;
    enum unstick_quantization known;

    if (asprintf(&spelled, "%s%s%s", id, quantization ? "_" : "", quantization ? quantization : "") < 0)
        return NULL;
    if (workload_spell(spelled, key, &known, NULL) < 0)
        return spelled;
    free(spelled);
    return strdup(key);
}

static void model_fini(struct workload_model *model)
{
    free(model->key);
    free(model->path);
}

int workload_add_model(struct workload *workload, const char *id, const char *quantization, const char *path,
                       struct unstick_error *error)
{
    struct workload_model model = { .key = workload_key(id, quantization), .path = strdup(path) };
    const struct workload_model *same;

    if (!model.key || !model.path) {
        model_fini(&model);
        return workload_no_memory(error);
    }
    same = workload_find(workload, model.key);
    if (same) {
        int r = usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload",
                              "the model '%s' is there twice (%s and %s)", same->key, same->path, path);

        model_fini(&model);
        return r;
    }
    if (!workload_grow(&workload->models, workload->n_models, sizeof(model))) {
        model_fini(&model);
        return workload_no_memory(error);
    }
    workload->models[workload->n_models++] = model;
    return UNSTICK_OK;
}

/* "a_8-bit, b_4-bit, ...", as many as fit. */
static void workload_list_keys(const struct workload *workload, char *text, size_t size)
{
    size_t length = 0;

    snprintf(text, size, "none");
    for (size_t i = 0; i < workload->n_models && length < size; i++)
        length += (size_t)snprintf(text + length, size - length, "%s%s", i ? ", " : "",
                                   workload->models[i].key);
    if (length >= size)
        snprintf(text + size - 4, 4, "...");
}

int workload_add_request(struct workload *workload, const char *key, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *canonical = workload_key(key, NULL);
    const struct workload_model *model;
    char known[200];

    if (!canonical)
        return workload_no_memory(error);
    model = workload_find(workload, canonical);
    if (!model) {
        workload_list_keys(workload, known, sizeof(known));
        return usk_error_set(
            error, UNSTICK_BAD_FORMAT, 0, "workload",
            "request %zu asks for '%s', which is no model of the workload (<id>_<quantization>: %s)",
            workload->n_requests + 1, key, known);
    }
    if (!workload_grow(&workload->requests, workload->n_requests, sizeof(*workload->requests)))
        return workload_no_memory(error);
    workload->requests[workload->n_requests++] = (size_t)(model - workload->models);
    return UNSTICK_OK;
}

void workload_fini(struct workload *workload)
{
    for (size_t i = 0; i < workload->n_models; i++)
        model_fini(&workload->models[i]);
    free(workload->models);
    free(workload->requests);
    *workload = (struct workload){ 0 };
}

/* Refuses members that are not in `names` (ends with NULL). */
static int object_check_members(const json_t *object, const char *where, const char *const *names,
                                struct unstick_error *error)
{
    void *iter;

    for (iter = json_object_iter((json_t *)object); iter;
         iter = json_object_iter_next((json_t *)object, iter)) {
        const char *key = json_object_iter_key(iter);
        size_t i = 0;

        while (names[i] && strcmp(names[i], key))
            i++;
        if (!names[i])
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "%s has an unknown member '%.64s'",
                                 where, key);
    }
    return UNSTICK_OK;
}

/* A string that is there, not empty and fit for one line. */
static int object_get_text(const json_t *object, const char *where, const char *name, const char **ret_text,
                           struct unstick_error *error)
{
    const json_t *member = json_object_get(object, name);
    const char *text = json_string_value(member);

    if (!member)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "%s has no \"%s\"", where, name);
    if (!text || !*text)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload",
                             "\"%s\" of %s is not a string with contents", name, where);
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload",
                                 "\"%s\" of %s has a control character", name, where);
    }
    *ret_text = text;
    return UNSTICK_OK;
}

static int object_get_array(const json_t *object, const char *name, size_t max, const json_t **ret_array,
                            struct unstick_error *error)
{
    const json_t *array = json_object_get(object, name);

    if (!json_is_array(array))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "the workload has no list \"%s\"",
                             name);
    if (json_array_size(array) > max)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload",
                             "\"%s\" has %zu entries; %zu are allowed", name, json_array_size(array), max);
    *ret_array = array;
    return UNSTICK_OK;
}

static int workload_read_model(struct workload *workload, const json_t *entry, size_t index,
                               const char *folder, struct unstick_error *error)
{
    static const char *const members[] = { "id", "quantization", "path", NULL };
    USK_CLEANUP(usk_freep) char *joined = NULL;
    const char *id, *quantization, *path;
    char where[48];
    int r;

    snprintf(where, sizeof(where), "models[%zu]", index);
    if (!json_is_object(entry))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "%s is not an object", where);
    r = object_check_members(entry, where, members, error);
    if (r == UNSTICK_OK)
        r = object_get_text(entry, where, "id", &id, error);
    if (r == UNSTICK_OK)
        r = object_get_text(entry, where, "quantization", &quantization, error);
    if (r == UNSTICK_OK)
        r = object_get_text(entry, where, "path", &path, error);
    if (r < 0)
        return r;
    if (path[0] != '/' && folder[0]) {
        if (asprintf(&joined, "%s/%s", folder, path) < 0) {
            joined = NULL;
            return workload_no_memory(error);
        }
        path = joined;
    }
    return workload_add_model(workload, id, quantization, path, error);
}

static int workload_read_root(struct workload *workload, const json_t *root, const char *folder,
                              struct unstick_error *error)
{
    static const char *const members[] = { "models", "requests", NULL };
    const json_t *models = NULL, *requests = NULL;
    int r;

    if (!json_is_object(root))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload",
                             "a workload is an object with \"models\" and \"requests\"");
    r = object_check_members(root, "the workload", members, error);
    if (r == UNSTICK_OK)
        r = object_get_array(root, "models", WORKLOAD_MAX_MODELS, &models, error);
    if (r == UNSTICK_OK)
        r = object_get_array(root, "requests", WORKLOAD_MAX_REQUESTS, &requests, error);
    for (size_t i = 0; r == UNSTICK_OK && i < json_array_size(models); i++)
        r = workload_read_model(workload, json_array_get(models, i), i, folder, error);
    for (size_t i = 0; r == UNSTICK_OK && i < json_array_size(requests); i++) {
        const char *key = json_string_value(json_array_get(requests, i));

        if (!key)
            r = usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "requests[%zu] is not a string", i);
        else
            r = workload_add_request(workload, key, error);
    }
    return r;
}

int workload_read(const char *path, struct workload *ret_workload, struct unstick_error *error)
{
    USK_CLEANUP(workload_finip) struct workload workload = { 0 };
    USK_CLEANUP(json_decrefp) json_t *root = NULL;
    USK_CLEANUP(usk_freep) char *folder = strdup(path);
    struct unstick_error inner;
    json_error_t where;
    FILE *file;
    char *slash;
    int r;

    if (!folder)
        return workload_no_memory(error);
    slash = strrchr(folder, '/');
    if (slash)
        slash[slash == folder] = 0; /* "/w.json" lies in "/" */
    else
        folder[0] = 0;

    file = fopen(path, "re");
    if (!file)
        return usk_error_errno(error, errno, "fopen", "cannot open the workload %s", path);
    root = json_loadf(file, JSON_REJECT_DUPLICATES, &where);
    /* A folder opens and fails to be read; to the parser it is empty. */
    if (!root && ferror(file)) {
        r = usk_error_errno(error, errno ? errno : EIO, "fread", "cannot read the workload %s", path);
        fclose(file);
        return r;
    }
    fclose(file);
    if (!root)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "workload", "%s: line %d, column %d: %s", path,
                             where.line, where.column, where.text);
    r = workload_read_root(&workload, root, folder, &inner);
    if (r < 0)
        return usk_error_set(error, r, inner.native, inner.operation, "%s: %s", path, inner.text);
    *ret_workload = workload;
    workload = (struct workload){ 0 };
    return UNSTICK_OK;
}
