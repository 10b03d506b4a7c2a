/* SPDX-License-Identifier: Apache-2.0 */
/**
 * What a model's files say: diffusers and transformers directories, sharded checkpoints, single safetensors files.
 * Only headers are read here, never the weights. Files are untrusted input: every length, offset and shape is checked.
 */
#ifndef UNSTICK_MODEL_H
#define UNSTICK_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_model;

/** One tensor of a component. Strings and arrays belong to the model. */
struct unstick_tensor {
    const char *name;      /**< as in the file, such as "transformer_blocks.0.attn.to_q.weight" */
    const char *dtype;     /**< the format's name, such as "BF16" */
    unsigned int n_dims;   /**< length of shape */
    const uint64_t *shape; /**< elements per dimension */
    uint32_t file;         /**< index into unstick_layout.paths */
    uint64_t file_offset;  /**< first byte, from the start of the file */
    uint64_t bytes;        /**< size in the file and on the device */
    uint64_t region_offset; /**< where it lies in the component's region, a multiple of 512; 0 for metadata */
    bool is_metadata;      /**< describes the quantization, is never device memory (weight_format, quant_state.*) */
};

/** A run of bytes that is contiguous in a file and in the region. */
struct unstick_extent {
    uint32_t file;          /**< index into unstick_layout.paths */
    uint64_t file_offset;   /**< first byte, from the start of the file */
    uint64_t region_offset; /**< first byte, from the start of the region */
    uint64_t bytes;         /**< length, > 0 */
};

/** How files make up a region: extents in ascending region offset, not overlapping; what lies between is zero. */
struct unstick_layout {
    const char *const *paths;            /**< files */
    size_t n_paths;                      /**< length of paths */
    const struct unstick_extent *extents; /**< runs */
    size_t n_extents;                    /**< length of extents */
    uint64_t bytes;                      /**< size of the region */
};

/** One component of a model (transformer, text_encoder_2, ...). Everything belongs to the model. */
struct unstick_component {
    const char *name;                     /**< folder name; "model" for a single file or transformers directory */
    const struct unstick_tensor *tensors; /**< in the order of their files and offsets */
    size_t n_tensors;                     /**< length of tensors */
    struct unstick_layout layout;         /**< how to load it */
};

/**
 * Opens a model. @param path a diffusers directory (model_index.json and component folders), a transformers directory,
 * a folder with a *.safetensors.index.json, or one .safetensors file. @return UNSTICK_OK, UNSTICK_NOT_FOUND,
 * UNSTICK_BAD_FORMAT, UNSTICK_IO, UNSTICK_OUT_OF_HOST_MEMORY. The error names file, place and what is wrong.
 */
UNSTICK_EXPORT int unstick_model_open(const char *path, struct unstick_model **ret_model, struct unstick_error *error);

/** Frees the model and everything that was read from it. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_model *unstick_model_close(struct unstick_model *model);

/** The components that have tensors, in the order in which a pipeline uses them. */
UNSTICK_EXPORT size_t unstick_model_components(const struct unstick_model *model,
                                               const struct unstick_component **ret_components);

#ifdef __cplusplus
}
#endif

#endif
