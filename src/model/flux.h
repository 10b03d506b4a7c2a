/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_FLUX_H
#define USK_MODEL_FLUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

#include "model/writer.h"

/*
 * FLUX-shaped checkpoints: what diffusers, transformers and bitsandbytes would write for FLUX.1, with made-up
 * weights, at full size or smaller. flux_scale.c has the shapes, flux.c the list of tensors, flux_fill.c
 * their contents, flux_config.c what stands beside them, flux_write.c and flux_stage.c the directory.
 */

enum usk_flux_variant {
    USK_FLUX_DEV,
    USK_FLUX_SCHNELL,
};

/* Of the transformer and text_encoder_2; text_encoder and vae are bf16 always. */
enum usk_flux_quant {
    USK_FLUX_NONE,   /* bf16 */
    USK_FLUX_INT8,   /* bitsandbytes LLM.int8() */
    USK_FLUX_NF4,    /* bitsandbytes nf4, blocks of 64 */
    USK_FLUX_NF4_DQ, /* the same with double quantization, blocks of 256 */
};

enum usk_flux_part {
    USK_FLUX_TRANSFORMER,
    USK_FLUX_TEXT_ENCODER_2, /* T5 */
    USK_FLUX_TEXT_ENCODER,   /* CLIP */
    USK_FLUX_VAE,
    USK_FLUX_N_PARTS,
};

/* --- shapes (flux_scale.c) --- */

#define USK_FLUX_HEAD 128     /* width of an attention head of the transformer */
#define USK_FLUX_TEXT_HEAD 64 /* the same of both text encoders */
#define USK_FLUX_SCALE_MAX 4096

/* What differs between sizes. Every Linear's output is a multiple of 32 and its input one of 64, as the
 * kernels of bitsandbytes want it. */
struct usk_flux_shape {
    enum usk_flux_variant variant;
    uint32_t heads, double_blocks, single_blocks;               /* transformer */
    uint32_t t5_width, t5_heads, t5_inner, t5_layers, t5_vocab; /* widths are multiples of 64 */
    uint32_t clip_heads, clip_layers, clip_vocab;
    uint32_t vae_width; /* channels of the first block, a multiple of 8 */
};

void usk_flux_shape_full(enum usk_flux_variant variant, struct usk_flux_shape *ret_shape);
/* The shape with about 1/divide of the parameters in each part; 1 <= divide <= USK_FLUX_SCALE_MAX, 1 is
 * exact. No dimension grows with divide. The same for all quantizations. */
void usk_flux_shape_scaled(enum usk_flux_variant variant, uint64_t divide, struct usk_flux_shape *ret_shape);

/* --- tensors (flux.c) --- */

enum usk_flux_content {
    USK_FLUX_WEIGHTS, /* small numbers of both signs, or any bytes for integers */
    USK_FLUX_SCALES,  /* small positive numbers, or any bytes for integers */
    USK_FLUX_ZERO,
    USK_FLUX_NF4_TABLE,
    USK_FLUX_DYNAMIC_TABLE,
    USK_FLUX_QUANT_STATE, /* JSON text */
};

struct usk_flux_tensor {
    struct usk_writer_tensor file; /* its place in a file; must stay first */
    enum usk_flux_part part;
    enum usk_flux_content content;
    bool is_metadata; /* says how to read others; never device memory */
    char *text;       /* QUANT_STATE; else NULL */
};

struct usk_flux_component {
    const char *name; /* folder */
    enum usk_flux_quant quant;
    struct usk_flux_tensor *tensors; /* in the order of the module's state_dict */
    size_t n_tensors;
    size_t n_quantized;    /* Linears */
    uint64_t elements;     /* parameters of the model before quantization */
    uint64_t device_bytes; /* tensors that are no metadata: what loading these files takes */
    uint64_t memory_bytes; /* what bitsandbytes holds when it quantizes while loading; see flux.c */
};

struct usk_flux_inventory {
    struct usk_flux_shape shape;
    struct usk_flux_component parts[USK_FLUX_N_PARTS];
};

int usk_flux_inventory_new(const struct usk_flux_shape *shape, enum usk_flux_quant quant,
                           struct usk_flux_inventory **ret_inventory, struct unstick_error *error);
struct usk_flux_inventory *usk_flux_inventory_free(struct usk_flux_inventory *inventory);

/* Parameters of one part, without making its list. */
uint64_t usk_flux_elements(const struct usk_flux_shape *shape, enum usk_flux_part part);

/* Channels per group of the VAE's norms divide all widths. */
uint32_t usk_flux_vae_groups(const struct usk_flux_shape *shape);

/* --- contents (flux_fill.c) --- */

/* The bytes of a tensor from `offset` on: a function of seed, part, name and offset and of nothing else. */
void usk_flux_fill(const struct usk_flux_tensor *tensor, uint64_t seed, uint64_t offset, void *buffer,
                   size_t bytes);

/* --- configuration (flux_config.c) --- */

/* Calls `write` for every JSON file of the directory but the indices of shards: path relative to it, and
 * text. */
typedef int (*usk_flux_config_fn)(void *userdata, const char *path, const char *text,
                                  struct unstick_error *error);
int usk_flux_config_write(const struct usk_flux_inventory *inventory, usk_flux_config_fn write,
                          void *userdata, struct unstick_error *error);

/* --- the directory that is being written (flux_stage.c) --- */

struct usk_flux_stage;

/* Checks that `dir` can be made (it is missing, or empty), removes what killed runs left beside it, and makes
 * a directory under another name there. required_bytes 0: free space is not asked for. */
int usk_flux_stage_new(const char *dir, uint64_t required_bytes, struct usk_flux_stage **ret_stage,
                       struct unstick_error *error);
/* Where to write to. */
const char *usk_flux_stage_path(const struct usk_flux_stage *stage);
/* Gives it its name. The stage is free in either case; on failure nothing is left. */
int usk_flux_stage_commit(struct usk_flux_stage *stage, struct unstick_error *error);
/* Removes it. NULL is allowed. */
struct usk_flux_stage *usk_flux_stage_discard(struct usk_flux_stage *stage);

/* --- everything (flux_write.c) --- */

struct usk_flux_progress {
    const char *part; /* the folder being written */
    uint64_t done_bytes, total_bytes;
};

/* False: stop, remove what was written, UNSTICK_CANCELED. Called some hundred times per second at most. */
typedef bool (*usk_flux_progress_fn)(void *userdata, const struct usk_flux_progress *progress);

struct usk_flux_options {
    enum usk_flux_variant variant;
    enum usk_flux_quant quant;
    uint64_t scale; /* 1 .. USK_FLUX_SCALE_MAX */
    uint64_t seed;
    bool is_sparse;                /* headers and holes: full size for the reader, no disk */
    uint64_t shard_bytes;          /* 0: as the libraries do by default; else the largest file, for tests */
    usk_flux_progress_fn progress; /* may be NULL */
    void *userdata;
};

struct usk_flux_report {
    struct {
        const char *name;
        size_t n_tensors, n_files;
        uint64_t file_bytes;   /* of the weight files */
        uint64_t device_bytes; /* as in the inventory */
        uint64_t memory_bytes;
    } parts[USK_FLUX_N_PARTS];
    uint64_t file_bytes;
};

/* Writes a checkpoint in the diffusers layout to `dir`, all or nothing. UNSTICK_INVALID_ARGUMENT,
 * UNSTICK_NO_SPACE, UNSTICK_NOT_FOUND, UNSTICK_IO, UNSTICK_CANCELED, UNSTICK_OUT_OF_HOST_MEMORY. */
int usk_flux_write(const char *dir, const struct usk_flux_options *options,
                   struct usk_flux_report *ret_report, struct unstick_error *error);

#endif
