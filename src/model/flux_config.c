/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON files of a FLUX directory, as save_pretrained() of the libraries writes them: keys sorted, two
 * blanks of indentation, a final line break. Everything in them follows from the shape and the quantization,
 * so a scaled checkpoint is one that the libraries can build a model from. Tokenizers are configurations
 * only: there is no vocabulary that would mean anything to made-up weights.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/flux.h"

#define DIFFUSERS_VERSION "0.42.1"
#define TRANSFORMERS_VERSION "5.23.0"

/* NULL for no quantization: the key is left out. */
static json_t *config_quantization(enum usk_flux_quant quant)
{
    bool is_int8 = quant == USK_FLUX_INT8;

    if (quant == USK_FLUX_NONE)
        return NULL;
    return json_pack("{s:b,s:b,s:s,s:s,s:s,s:b,s:b,s:b,s:n,s:f,s:b,s:b,s:s}", "_load_in_4bit", !is_int8,
                     "_load_in_8bit", is_int8, "bnb_4bit_compute_dtype", is_int8 ? "float32" : "bfloat16",
                     "bnb_4bit_quant_storage", "uint8", "bnb_4bit_quant_type", is_int8 ? "fp4" : "nf4",
                     "bnb_4bit_use_double_quant", quant == USK_FLUX_NF4_DQ,
                     "llm_int8_enable_fp32_cpu_offload", 0, "llm_int8_has_fp16_weight", 0,
                     "llm_int8_skip_modules", "llm_int8_threshold", 6.0, "load_in_4bit", !is_int8,
                     "load_in_8bit", is_int8, "quant_method", "bitsandbytes");
}

static json_t *config_transformer(const struct usk_flux_inventory *inventory)
{
    const struct usk_flux_shape *shape = &inventory->shape;

    return json_pack("{s:s,s:s,s:i,s:[i,i,i],s:b,s:i,s:i,s:i,s:i,s:i,s:n,s:i,s:i,s:o*}", "_class_name",
                     "FluxTransformer2DModel", "_diffusers_version", DIFFUSERS_VERSION, "attention_head_dim",
                     USK_FLUX_HEAD, "axes_dims_rope", 16, 56, 56, "guidance_embeds",
                     shape->variant == USK_FLUX_DEV, "in_channels", 64, "joint_attention_dim",
                     (int)shape->t5_width, "num_attention_heads", (int)shape->heads, "num_layers",
                     (int)shape->double_blocks, "num_single_layers", (int)shape->single_blocks,
                     "out_channels", "patch_size", 1, "pooled_projection_dim",
                     (int)shape->clip_heads * USK_FLUX_TEXT_HEAD, "quantization_config",
                     config_quantization(inventory->parts[USK_FLUX_TRANSFORMER].quant));
}

static json_t *config_t5(const struct usk_flux_inventory *inventory)
{
    const struct usk_flux_shape *shape = &inventory->shape;
    json_t *config = json_pack("{s:[s],s:f,s:i,s:i,s:i,s:s,s:f,s:s,s:i,s:s,s:f}", "architectures",
                               "T5EncoderModel", "classifier_dropout", 0.0, "d_ff", (int)shape->t5_inner,
                               "d_kv", USK_FLUX_TEXT_HEAD, "d_model", (int)shape->t5_width, "dense_act_fn",
                               "gelu_new", "dropout_rate", 0.1, "dtype", "bfloat16", "eos_token_id", 1,
                               "feed_forward_proj", "gated-gelu", "initializer_factor", 1.0);
    json_t *rest = json_pack(
        "{s:b,s:b,s:b,s:f,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:b,s:b,s:s,s:b,s:i,s:o*}", "is_decoder", 0,
        "is_encoder_decoder", 0, "is_gated_act", 1, "layer_norm_epsilon", 1e-6, "model_type", "t5",
        "num_decoder_layers", (int)shape->t5_layers, "num_heads", (int)shape->t5_heads, "num_layers",
        (int)shape->t5_layers, "pad_token_id", 0, "relative_attention_max_distance", 128,
        "relative_attention_num_buckets", 32, "scale_decoder_outputs", 0, "tie_word_embeddings", 1,
        "transformers_version", TRANSFORMERS_VERSION, "use_cache", 0, "vocab_size", (int)shape->t5_vocab,
        "quantization_config", config_quantization(inventory->parts[USK_FLUX_TEXT_ENCODER_2].quant));

    if (!config || !rest || json_object_update(config, rest) < 0) {
        json_decref(config);
        config = NULL;
    }
    json_decref(rest);
    return config;
}

static json_t *config_clip(const struct usk_flux_inventory *inventory)
{
    const struct usk_flux_shape *shape = &inventory->shape;
    int width = (int)shape->clip_heads * USK_FLUX_TEXT_HEAD, vocab = (int)shape->clip_vocab;

    /* The last two tokens of the vocabulary begin and end a text. */
    return json_pack("{s:[s],s:f,s:i,s:s,s:i,s:s,s:i,s:f,s:f,s:i,s:f,s:i,s:s,s:i,s:i,s:i,s:i,s:s,s:i}",
                     "architectures", "CLIPTextModel", "attention_dropout", 0.0, "bos_token_id", vocab - 2,
                     "dtype", "bfloat16", "eos_token_id", vocab - 1, "hidden_act", "quick_gelu",
                     "hidden_size", width, "initializer_factor", 1.0, "initializer_range", 0.02,
                     "intermediate_size", 4 * width, "layer_norm_eps", 1e-5, "max_position_embeddings", 77,
                     "model_type", "clip_text_model", "num_attention_heads", (int)shape->clip_heads,
                     "num_hidden_layers", (int)shape->clip_layers, "pad_token_id", 1, "projection_dim", width,
                     "transformers_version", TRANSFORMERS_VERSION, "vocab_size", vocab);
}

static json_t *config_repeat(const char *text)
{
    return json_pack("[s,s,s,s]", text, text, text, text);
}

static json_t *config_vae(const struct usk_flux_inventory *inventory)
{
    int width = (int)inventory->shape.vae_width;

    return json_pack(
        "{s:s,s:s,s:s,s:[i,i,i,i],s:o,s:b,s:i,s:i,s:n,s:n,s:i,s:b,s:i,s:i,s:i,s:f,s:f,s:o,s:b,s:b}",
        "_class_name", "AutoencoderKL", "_diffusers_version", DIFFUSERS_VERSION, "act_fn", "silu",
        "block_out_channels", width, 2 * width, 4 * width, 4 * width, "down_block_types",
        config_repeat("DownEncoderBlock2D"), "force_upcast", 1, "in_channels", 3, "latent_channels", 16,
        "latents_mean", "latents_std", "layers_per_block", 2, "mid_block_add_attention", 1, "norm_num_groups",
        (int)usk_flux_vae_groups(&inventory->shape), "out_channels", 3, "sample_size", 1024, "scaling_factor",
        0.3611, "shift_factor", 0.1159, "up_block_types", config_repeat("UpDecoderBlock2D"),
        "use_post_quant_conv", 0, "use_quant_conv", 0);
}

static json_t *config_scheduler(const struct usk_flux_inventory *inventory)
{
    bool is_dev = inventory->shape.variant == USK_FLUX_DEV;

    return json_pack("{s:s,s:s,s:i,s:f,s:i,s:f,s:i,s:f,s:b}", "_class_name",
                     "FlowMatchEulerDiscreteScheduler", "_diffusers_version", DIFFUSERS_VERSION,
                     "base_image_seq_len", 256, "base_shift", 0.5, "max_image_seq_len", 4096, "max_shift",
                     1.15, "num_train_timesteps", 1000, "shift", is_dev ? 3.0 : 1.0, "use_dynamic_shifting",
                     is_dev);
}

static json_t *config_tokenizer(const struct usk_flux_inventory *inventory)
{
    (void)inventory;
    return json_pack("{s:s,s:i}", "tokenizer_class", "CLIPTokenizer", "model_max_length", 77);
}

static json_t *config_tokenizer_2(const struct usk_flux_inventory *inventory)
{
    bool is_dev = inventory->shape.variant == USK_FLUX_DEV;

    return json_pack("{s:s,s:i}", "tokenizer_class", "T5TokenizerFast", "model_max_length",
                     is_dev ? 512 : 256);
}

static json_t *config_index(const struct usk_flux_inventory *inventory)
{
    (void)inventory;
    return json_pack("{s:s,s:s,s:[n,n],s:[n,n],s:[s,s],s:[s,s],s:[s,s],s:[s,s],s:[s,s],s:[s,s],s:[s,s]}",
                     "_class_name", "FluxPipeline", "_diffusers_version", DIFFUSERS_VERSION,
                     "feature_extractor", "image_encoder", "scheduler", "diffusers",
                     "FlowMatchEulerDiscreteScheduler", "text_encoder", "transformers", "CLIPTextModel",
                     "text_encoder_2", "transformers", "T5EncoderModel", "tokenizer", "transformers",
                     "CLIPTokenizer", "tokenizer_2", "transformers", "T5TokenizerFast", "transformer",
                     "diffusers", "FluxTransformer2DModel", "vae", "diffusers", "AutoencoderKL");
}

static const struct {
    const char *path;
    json_t *(*make)(const struct usk_flux_inventory *inventory);
} files[] = {
    { "model_index.json", config_index },
    { "scheduler/scheduler_config.json", config_scheduler },
    { "text_encoder/config.json", config_clip },
    { "text_encoder_2/config.json", config_t5 },
    { "tokenizer/tokenizer_config.json", config_tokenizer },
    { "tokenizer_2/tokenizer_config.json", config_tokenizer_2 },
    { "transformer/config.json", config_transformer },
    { "vae/config.json", config_vae },
};

int usk_flux_config_write(const struct usk_flux_inventory *inventory, usk_flux_config_fn write,
                          void *userdata, struct unstick_error *error)
{
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        json_t *config = files[i].make(inventory);
        /* 15 digits give back the decimal that was written here. */
        USK_CLEANUP(usk_freep)
        char *text =
            config ? json_dumps(config, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15)) : NULL;
        USK_CLEANUP(usk_freep) char *line = NULL;
        int status;

        json_decref(config);
        if (!text || asprintf(&line, "%s\n", text) < 0) {
            line = NULL;
            return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "json",
                                 "out of host memory for %s", files[i].path);
        }
        status = write(userdata, files[i].path, line, error);
        if (status)
            return status;
    }
    return UNSTICK_OK;
}
