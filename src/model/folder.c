/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which files of a folder are its weights.
 *
 * Downloads hold the same weights more than once: as one file and in shards, in several precisions ("fp16" variants),
 * in other containers. Loading two of them would double the memory and, worse, mix precisions. So every name gets a
 * rank, the best rank that occurs wins, and where a rank leaves a choice the caller is asked to make it:
 *
 *     0, 1   diffusion_pytorch_model.safetensors.index.json, then diffusion_pytorch_model.safetensors
 *     2, 3   model.safetensors.index.json, then model.safetensors
 *     4      any other index
 *     5      a variant of the two names above: model.fp16.safetensors, model.safetensors.index.fp16.json
 *     6      any other file
 *     7      a shard; with none of the above its index is missing
 */
#include "model/folder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/file.h"
#include "model/index.h"

enum folder_rank {
    FOLDER_STEM = 0, /* and 1, 2, 3 */
    FOLDER_INDEX = 4,
    FOLDER_VARIANT = 5,
    FOLDER_FILE = 6,
    FOLDER_SHARD = 7,
    FOLDER_NONE = 8,
};

static const char *const folder_stems[] = { "diffusion_pytorch_model", "model" };

static int folder_no_memory(const char *path, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "folder", "%s: no memory to read it", path);
}

void usk_weights_fini(struct usk_weights *weights)
{
    for (size_t i = 0; i < weights->n_paths; i++)
        free(weights->paths[i]);
    free(weights->paths);
    free(weights->index_path);
    usk_json_map_fini(&weights->index);
    *weights = (struct usk_weights){ 0 };
}

/* The name without the suffix ends in "-00001-of-00003". */
static bool name_is_shard(const char *name, size_t length)
{
    static const char pattern[] = "-#####-of-#####";
    size_t n = sizeof(pattern) - 1;

    if (length < n)
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = name[length - n + i];

        if (pattern[i] == '#' ? !isdigit((unsigned char)c) : c != pattern[i])
            return false;
    }
    return true;
}

static bool name_ends_in(const char *name, const char *suffix, size_t *ret_length)
{
    size_t length = strlen(name), n = strlen(suffix);

    if (length <= n || strcmp(name + length - n, suffix))
        return false;
    *ret_length = length - n;
    return true;
}

static int name_rank(const char *name)
{
    const char *variant_index;
    bool is_index, is_file;
    size_t length;

    if (name[0] == '.')
        return FOLDER_NONE;
    variant_index = strstr(name, ".safetensors.index.");
    is_index = name_ends_in(name, ".safetensors.index.json", &length);
    is_file = !is_index && name_ends_in(name, ".safetensors", &length);
    if (!is_index && !is_file && !(variant_index && name_ends_in(name, ".json", &length)))
        return FOLDER_NONE;
    if (is_file && name_is_shard(name, length))
        return FOLDER_SHARD;

    for (int i = 0; i < 2; i++) {
        size_t n = strlen(folder_stems[i]);

        if (length < n || strncmp(name, folder_stems[i], n))
            continue;
        if (length == n)
            return FOLDER_STEM + 2 * i + (is_index ? 0 : 1);
        if (name[n] == '.')
            return FOLDER_VARIANT;
    }
    return is_file ? FOLDER_FILE : FOLDER_INDEX;
}

static int weights_add(struct usk_weights *weights, char *path, const char *folder, struct unstick_error *error)
{
    char **grown = path ? realloc(weights->paths, (weights->n_paths + 1) * sizeof(*grown)) : NULL;

    if (!grown) {
        free(path);
        return folder_no_memory(folder, error);
    }
    weights->paths = grown;
    weights->paths[weights->n_paths++] = path;
    return UNSTICK_OK;
}

int usk_weights_from_file(const char *path, struct usk_weights *ret_weights, struct unstick_error *error)
{
    struct usk_weights weights = { 0 };
    int r = weights_add(&weights, strdup(path), path, error);

    if (r >= 0)
        *ret_weights = weights;
    return r;
}

static int folder_compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int weights_read_index(struct usk_weights *weights, const char *folder, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) const char **names = NULL;
    USK_CLEANUP(usk_freep) char *text = NULL;
    size_t length, n;
    int r;

    r = usk_model_file_read(weights->index_path, USK_INDEX_BYTES_MAX, &text, &length, error);
    if (r >= 0)
        r = usk_index_parse(text, length, weights->index_path, &weights->index, error);
    if (r < 0)
        return r;
    n = weights->index.n_pairs;
    names = malloc(n * sizeof(*names));
    if (!names)
        return folder_no_memory(folder, error);
    for (size_t i = 0; i < n; i++)
        names[i] = weights->index.pairs[i].value;
    qsort(names, n, sizeof(*names), folder_compare_names);
    for (size_t i = 0; i < n && r >= 0; i++) {
        if (!i || strcmp(names[i - 1], names[i]))
            r = weights_add(weights, usk_model_path_join(folder, names[i]), folder, error);
    }
    return r;
}

/* What the names of a folder come to. */
struct folder_choice {
    int rank;      /* the best */
    size_t n;      /* how many names have it */
    char *name;    /* the first of them, in the order of names */
    char *another; /* a second one, for the message */
};

static void folder_choice_fini(struct folder_choice *choice)
{
    free(choice->name);
    free(choice->another);
}

static bool folder_choice_add(struct folder_choice *choice, const char *name, int rank)
{
    char *copy;

    if (rank > choice->rank)
        return true;
    copy = strdup(name);
    if (!copy)
        return false;
    if (rank < choice->rank) {
        folder_choice_fini(choice);
        *choice = (struct folder_choice){ .rank = rank, .n = 1, .name = copy };
        return true;
    }
    choice->n++;
    if (strcmp(copy, choice->name) < 0) {
        char *name_before = choice->name;

        choice->name = copy;
        copy = name_before;
    }
    free(choice->another);
    choice->another = copy;
    return true;
}

static int folder_scan(const char *path, struct folder_choice *choice, struct usk_weights *weights,
                       struct unstick_error *error)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    size_t length;
    bool is_ok = true;
    int native;

    if (!folder)
        return usk_error_errno(error, errno, "opendir", "cannot open the folder %s", path);
    while (errno = 0, is_ok && (entry = readdir(folder))) {
        int rank = name_rank(entry->d_name);

        if (rank < FOLDER_NONE)
            is_ok = folder_choice_add(choice, entry->d_name, rank);
        weights->has_config |= !strcmp(entry->d_name, "config.json");
        weights->has_pickle |= name_ends_in(entry->d_name, ".bin", &length);
    }
    native = errno;
    closedir(folder);
    if (!is_ok)
        return folder_no_memory(path, error);
    if (native)
        return usk_error_errno(error, native, "readdir", "cannot read the folder %s", path);
    return UNSTICK_OK;
}

static int folder_refuse_choice(const char *path, const struct folder_choice *choice, struct unstick_error *error)
{
    char first[USK_JSON_QUOTE_MAX], second[USK_JSON_QUOTE_MAX];

    usk_json_quote(first, choice->name);
    if (choice->rank == FOLDER_SHARD)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "folder",
                             "%s: \"%s\" is one of several shards, but their index (*.safetensors.index.json) is "
                             "missing: download it",
                             path, first);
    return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "folder",
                         "%s: \"%s\" and \"%s\" (%zu in all) could each be the weights: name the file that is meant, "
                         "or move the others away",
                         path, first, usk_json_quote(second, choice->another), choice->n);
}

int usk_weights_from_folder(const char *path, struct usk_weights *ret_weights, struct unstick_error *error)
{
    USK_CLEANUP(folder_choice_fini) struct folder_choice choice = { .rank = FOLDER_NONE };
    USK_CLEANUP(usk_weights_fini) struct usk_weights weights = { 0 };
    char *chosen;
    int r;

    r = folder_scan(path, &choice, &weights, error);
    if (r < 0)
        return r;
    if (choice.rank < FOLDER_NONE) {
        if (choice.n > 1 || choice.rank == FOLDER_SHARD)
            return folder_refuse_choice(path, &choice, error);
        chosen = usk_model_path_join(path, choice.name);
        if (!chosen)
            return folder_no_memory(path, error);
        if (strstr(choice.name, ".safetensors.index.")) {
            weights.index_path = chosen;
            r = weights_read_index(&weights, path, error);
        } else {
            r = weights_add(&weights, chosen, path, error);
        }
        if (r < 0)
            return r;
    }
    *ret_weights = weights;
    weights = (struct usk_weights){ 0 };
    return UNSTICK_OK;
}
