/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_FOLDER_H
#define USK_MODEL_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

#include "model/json.h"

/* Where the weights of one component are. */
struct usk_weights {
    char **paths;              /* files, in the order of their names */
    size_t n_paths;            /* length of paths; 0: the folder has no weights */
    char *index_path;          /* the index that named them, or NULL */
    struct usk_json_map index; /* its tensors and their files, without the folder */
    bool has_config;           /* a config.json lies there: a model's folder, not a tokenizer's */
    bool has_pickle;           /* weights lie there, but as *.bin, which is not read */
};

/* The longest index that is read. */
#define USK_INDEX_BYTES_MAX UINT64_C(100000000)

/* One file. */
int usk_weights_from_file(const char *path, struct usk_weights *ret_weights, struct unstick_error *error);

/* Chooses among the files of a folder. One without weights is no error here. */
int usk_weights_from_folder(const char *path, struct usk_weights *ret_weights, struct unstick_error *error);

void usk_weights_fini(struct usk_weights *weights);

#endif
