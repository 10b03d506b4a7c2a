/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_INDEX_H
#define USK_MODEL_INDEX_H

#include <stddef.h>

#include "model/json.h"

/* Reads a <name>.safetensors.index.json: its weight_map, tensor to file. Every file is a plain name in the index's
 * folder. `path` is for messages. */
int usk_index_parse(const char *text, size_t length, const char *path, struct usk_json_map *ret_weights,
                    struct unstick_error *error);

/* The components that a model_index.json names, in its order. */
struct usk_pipeline {
    struct usk_pipeline_part {
        char *name;       /* a plain folder name */
        char *class_name; /* such as "FluxTransformer2DModel" */
    } *parts;
    size_t n_parts; /* length of parts */
};

/* Reads a model_index.json. `path` is for messages. */
int usk_pipeline_parse(const char *text, size_t length, const char *path, struct usk_pipeline *ret_pipeline,
                       struct unstick_error *error);
void usk_pipeline_fini(struct usk_pipeline *pipeline);

#endif
