/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_CONFIG_H
#define USK_MODEL_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

/* The longest config.json that is read. */
#define USK_CONFIG_BYTES_MAX (UINT64_C(1) << 20)

/* Larger than any width, count or scale of a model that exists. */
#define USK_CONFIG_NUMBER_MAX 1000000

#define USK_CONFIG_METHOD_MAX 32

/* What a component's config.json says about the memory it takes. Numbers are 0 where it says nothing. */
struct usk_config {
    char *class_name;     /* such as "T5EncoderModel"; NULL if it has none */
    bool is_transformers; /* of that library: `architectures`, not `_class_name` */
    bool has_tied_head;   /* tie_word_embeddings */
    bool has_guidance;    /* guidance_embeds: guidance is an input, no image runs twice */
    char method[USK_CONFIG_METHOD_MAX]; /* quantization_config.quant_method; empty: not quantized */
    char **skip;                        /* llm_int8_skip_modules */
    size_t n_skip;                      /* length of skip */
    uint64_t n_heads, head_width;       /* num_attention_heads, attention_head_dim */
    uint64_t patch;                     /* patch_size */
    uint64_t text_width;                /* joint_attention_dim: text runs beside the image */
    uint64_t block_channels[2];         /* the first two of block_out_channels */
    uint64_t n_blocks;                  /* length of block_out_channels */
};

/* `path` is for messages. UNSTICK_BAD_FORMAT, UNSTICK_OUT_OF_HOST_MEMORY. */
int usk_config_parse(const char *text, size_t length, const char *path, struct usk_config *ret_config,
                     struct unstick_error *error);
void usk_config_fini(struct usk_config *config);

#endif
