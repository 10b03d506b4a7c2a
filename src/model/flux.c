/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which tensors a FLUX checkpoint has. The list is in the order in which the modules register their
 * parameters, because that is the order in which the libraries cut shards; the writer sorts within a file.
 * Names and shapes were compared with FluxTransformer2DModel and AutoencoderKL of diffusers 0.42,
 * T5EncoderModel and CLIPTextModel of transformers 5.23 and the layers of bitsandbytes 0.50; flux_test.inc
 * holds what they save.
 *
 * Quantized are all Linears of the transformer (504 in dev, 502 in schnell), and all of T5 but `wo`, which
 * transformers keeps as it is (144 of 168). A Linear of n = out x in weights becomes
 *
 *     int8      weight I8 [out, in], SCB F32 [out], weight_format U8 []
 *     nf4       weight U8 [n / 2, 1], absmax F32 [n / 64], quant_map F32 [16], quant_state U8 [length of its
 * JSON] nf4 + dq  absmax U8 [n / 64] instead; nested_absmax F32 [n / 64 / 256 rounded up], nested_quant_map
 * F32 [256]
 *
 * weight_format and quant_state are metadata: the libraries read and drop them. Two sums are kept.
 * device_bytes is what the rest takes. memory_bytes is what bitsandbytes holds after quantizing a bf16
 * checkpoint by itself; for everything but double quantization it is the same. There the nested table is one
 * object for the whole process and counts for no Linear (1024 bytes in the file), and the mean that was
 * subtracted from absmax is a tensor of 4 bytes (a number in the JSON of the file): 1020 bytes less per
 * Linear.
 *
 * Totals of dev: bf16 is 2 x 11,901,408,320. Of those 11,898,322,944 are in Linears, and 3,085,376 (biases,
 * norms) stay, 6,170,752 bytes. int8: 11,898,322,944 + 6,170,752 + SCB 12,263,680 = 11,916,757,376. nf4:
 * 5,949,161,472 + 6,170,752 + absmax 743,645,184 + 504 tables of 64 = 6,699,009,664. dq: 5,949,161,472 +
 * 6,170,752 + absmax 185,911,296 + nested_absmax 2,904,864 + 504 x (64 + 4) = 6,144,182,656. T5:
 * 3,623,878,656 of 4,762,310,656 are quantized.
 */
#include "model/flux.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"

#define IN_CHANNELS 64
#define TIMESTEP_CHANNELS 256
#define LATENT_CHANNELS 16
#define IMAGE_CHANNELS 3
#define VAE_BLOCKS 4
#define VAE_LAYERS 2
#define CLIP_POSITIONS 77
#define T5_BUCKETS 32
#define NF4_BLOCK 64
#define DQ_BLOCK 256
#define PREFIX_BYTES 64
#define NAME_BYTES 128

/* A list that is being made. */
struct list {
    struct usk_flux_component *component;
    enum usk_flux_part part;
    enum usk_flux_quant quant;
    bool is_count; /* elements only */
    bool has_failed;
    size_t capacity;
};

static struct usk_flux_tensor *list_append(struct list *list)
{
    struct usk_flux_component *component = list->component;

    if (component->n_tensors == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 256;
        struct usk_flux_tensor *tensors = realloc(component->tensors, capacity * sizeof(*tensors));

        if (!tensors)
            return NULL;
        component->tensors = tensors;
        list->capacity = capacity;
    }
    component->tensors[component->n_tensors] = (struct usk_flux_tensor){ .part = list->part };
    return &component->tensors[component->n_tensors++];
}

/* Adds what is stored under `name`; NULL if memory is short. */
static struct usk_flux_tensor *list_store(struct list *list, enum usk_flux_content content,
                                          enum usk_writer_dtype dtype, unsigned int n_dims,
                                          const uint64_t *shape, const char *name, const char *suffix)
{
    struct usk_flux_tensor *tensor;
    char *full_name = NULL;

    if (list->has_failed || !(tensor = list_append(list)) || asprintf(&full_name, "%s%s", name, suffix) < 0) {
        list->has_failed = true;
        return NULL;
    }
    tensor->file.name = full_name;
    tensor->file.dtype = dtype;
    tensor->file.n_dims = n_dims;
    for (unsigned int i = 0; i < n_dims; i++)
        tensor->file.shape[i] = shape[i];
    usk_writer_tensor_bytes(dtype, n_dims, shape, &tensor->file.bytes);
    tensor->content = content;
    list->component->device_bytes += tensor->file.bytes;
    return tensor;
}

/* Metadata is in the file only. */
static void list_store_metadata(struct list *list, enum usk_flux_content content, unsigned int n_dims,
                                const uint64_t *shape, const char *name, const char *suffix, char *text)
{
    struct usk_flux_tensor *tensor = list_store(list, content, USK_WRITER_U8, n_dims, shape, name, suffix);

    if (!tensor) {
        free(text);
        return;
    }
    tensor->text = text;
    tensor->is_metadata = true;
    list->component->device_bytes -= tensor->file.bytes;
}

/* A parameter that is never quantized. */
static void list_add(struct list *list, unsigned int n_dims, const uint64_t *shape, const char *name,
                     const char *suffix)
{
    uint64_t elements = 1;

    for (unsigned int i = 0; i < n_dims; i++)
        elements *= shape[i];
    list->component->elements += elements;
    if (!list->is_count)
        list_store(list, USK_FLUX_WEIGHTS, USK_WRITER_BF16, n_dims, shape, name, suffix);
}

static void list_add_vector(struct list *list, uint64_t length, const char *name, const char *suffix)
{
    list_add(list, 1, &length, name, suffix);
}

/* Weight and bias of a norm. */
static void list_add_norm(struct list *list, uint64_t length, const char *name)
{
    list_add_vector(list, length, name, ".weight");
    list_add_vector(list, length, name, ".bias");
}

static void list_add_int8(struct list *list, uint64_t out, const char *name)
{
    list_store(list, USK_FLUX_SCALES, USK_WRITER_F32, 1, &out, name, ".SCB");
    list_store_metadata(list, USK_FLUX_ZERO, 0, NULL, name, ".weight_format", NULL);
}

/* The keys are those of bitsandbytes, in its order. The offset is the mean of absmax; any number will do, but
 * not one that depends on the seed: its length is part of the layout. */
static char *nf4_state(const struct list *list, uint64_t out, uint64_t in)
{
    char *text;

    if (asprintf(
            &text,
            "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"bfloat16\", \"shape\": [%llu, "
            "%llu]%s}",
            NF4_BLOCK, (unsigned long long)out, (unsigned long long)in,
            list->quant == USK_FLUX_NF4_DQ
                ? ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": 0.0234375"
                : "") < 0)
        return NULL;
    return text;
}

static void list_add_nf4(struct list *list, uint64_t out, uint64_t in, const char *name)
{
    static const uint64_t codes = 16, nested_codes = 256;
    uint64_t blocks = out * in / NF4_BLOCK, nested = usk_div_up(blocks, DQ_BLOCK), length;
    bool is_nested = list->quant == USK_FLUX_NF4_DQ;
    char *state = nf4_state(list, out, in);

    if (!state) {
        list->has_failed = true;
        return;
    }
    list_store(list, USK_FLUX_SCALES, is_nested ? USK_WRITER_U8 : USK_WRITER_F32, 1, &blocks, name,
               ".weight.absmax");
    list_store(list, USK_FLUX_NF4_TABLE, USK_WRITER_F32, 1, &codes, name, ".weight.quant_map");
    if (is_nested) {
        list_store(list, USK_FLUX_SCALES, USK_WRITER_F32, 1, &nested, name, ".weight.nested_absmax");
        list_store(list, USK_FLUX_DYNAMIC_TABLE, USK_WRITER_F32, 1, &nested_codes, name,
                   ".weight.nested_quant_map");
    }
    length = strlen(state);
    list_store_metadata(list, USK_FLUX_QUANT_STATE, 1, &length, name, ".weight.quant_state.bitsandbytes__nf4",
                        state);
}

static void list_add_linear(struct list *list, uint64_t out, uint64_t in, bool has_bias, const char *name)
{
    const uint64_t shape[] = { out, in }, packed[] = { out * in / 2, 1 };
    bool is_nf4 = list->quant == USK_FLUX_NF4 || list->quant == USK_FLUX_NF4_DQ;

    if (list->is_count || list->quant == USK_FLUX_NONE) {
        list_add(list, 2, shape, name, ".weight");
    } else {
        list->component->elements += out * in;
        list->component->n_quantized++;
        list_store(list, USK_FLUX_WEIGHTS, is_nf4 ? USK_WRITER_U8 : USK_WRITER_I8, 2, is_nf4 ? packed : shape,
                   name, ".weight");
    }
    if (has_bias)
        list_add_vector(list, out, name, ".bias");
    if (list->is_count)
        return;
    if (is_nf4)
        list_add_nf4(list, out, in, name);
    else if (list->quant == USK_FLUX_INT8)
        list_add_int8(list, out, name);
}

/* Adds a Linear whose name is made of a prefix and its own. */
static void list_add_named(struct list *list, uint64_t out, uint64_t in, bool has_bias, const char *prefix,
                           const char *own)
{
    char name[NAME_BYTES];

    snprintf(name, sizeof(name), "%s%s", prefix, own);
    list_add_linear(list, out, in, has_bias, name);
}

static void list_add_embedder(struct list *list, uint64_t width, uint64_t in, const char *name)
{
    list_add_named(list, width, in, true, name, ".linear_1");
    list_add_named(list, width, width, true, name, ".linear_2");
}

static void list_add_double_block(struct list *list, uint64_t width, uint32_t index)
{
    static const char *const qk_norms[] = { "attn.norm_q", "attn.norm_k", "attn.norm_added_q",
                                            "attn.norm_added_k" };
    static const char *const squares[] = { "attn.to_q",       "attn.to_k",       "attn.to_v",
                                           "attn.to_out.0",   "attn.add_q_proj", "attn.add_k_proj",
                                           "attn.add_v_proj", "attn.to_add_out" };
    char prefix[PREFIX_BYTES], name[NAME_BYTES];

    snprintf(prefix, sizeof(prefix), "transformer_blocks.%u.", index);
    list_add_named(list, 6 * width, width, true, prefix, "norm1.linear");
    list_add_named(list, 6 * width, width, true, prefix, "norm1_context.linear");
    for (size_t half = 0; half < 2; half++) {
        for (size_t i = 0; i < 2; i++) {
            snprintf(name, sizeof(name), "%s%s", prefix, qk_norms[2 * half + i]);
            list_add_vector(list, USK_FLUX_HEAD, name, ".weight");
        }
        for (size_t i = 0; i < 4; i++)
            list_add_named(list, width, width, true, prefix, squares[4 * half + i]);
    }
    for (size_t i = 0; i < 2; i++) {
        list_add_named(list, 4 * width, width, true, prefix, i ? "ff_context.net.0.proj" : "ff.net.0.proj");
        list_add_named(list, width, 4 * width, true, prefix, i ? "ff_context.net.2" : "ff.net.2");
    }
}

static void list_add_single_block(struct list *list, uint64_t width, uint32_t index)
{
    char prefix[PREFIX_BYTES];

    snprintf(prefix, sizeof(prefix), "single_transformer_blocks.%u.", index);
    list_add_named(list, 3 * width, width, true, prefix, "norm.linear");
    list_add_named(list, 4 * width, width, true, prefix, "proj_mlp");
    list_add_named(list, width, 5 * width, true, prefix, "proj_out");
    for (size_t i = 0; i < 2; i++) {
        char name[NAME_BYTES];

        snprintf(name, sizeof(name), "%sattn.norm_%c", prefix, i ? 'k' : 'q');
        list_add_vector(list, USK_FLUX_HEAD, name, ".weight");
    }
    list_add_named(list, width, width, true, prefix, "attn.to_q");
    list_add_named(list, width, width, true, prefix, "attn.to_k");
    list_add_named(list, width, width, true, prefix, "attn.to_v");
}

static void list_add_transformer(struct list *list, const struct usk_flux_shape *shape)
{
    uint64_t width = (uint64_t)shape->heads * USK_FLUX_HEAD;

    list_add_embedder(list, width, TIMESTEP_CHANNELS, "time_text_embed.timestep_embedder");
    if (shape->variant == USK_FLUX_DEV)
        list_add_embedder(list, width, TIMESTEP_CHANNELS, "time_text_embed.guidance_embedder");
    list_add_embedder(list, width, (uint64_t)shape->clip_heads * USK_FLUX_TEXT_HEAD,
                      "time_text_embed.text_embedder");
    list_add_linear(list, width, shape->t5_width, true, "context_embedder");
    list_add_linear(list, width, IN_CHANNELS, true, "x_embedder");
    for (uint32_t i = 0; i < shape->double_blocks; i++)
        list_add_double_block(list, width, i);
    for (uint32_t i = 0; i < shape->single_blocks; i++)
        list_add_single_block(list, width, i);
    list_add_linear(list, 2 * width, width, true, "norm_out.linear");
    list_add_linear(list, IN_CHANNELS, width, true, "proj_out");
}

/* T5 has no biases. encoder.embed_tokens.weight is shared.weight, and is stored once. */
static void list_add_t5(struct list *list, const struct usk_flux_shape *shape)
{
    uint64_t width = shape->t5_width, heads_width = (uint64_t)shape->t5_heads * USK_FLUX_TEXT_HEAD;
    const uint64_t embedding[] = { shape->t5_vocab, width }, buckets[] = { T5_BUCKETS, shape->t5_heads };
    const uint64_t out[] = { width, shape->t5_inner };
    char prefix[PREFIX_BYTES], name[NAME_BYTES];

    list_add(list, 2, embedding, "shared", ".weight");
    for (uint32_t i = 0; i < shape->t5_layers; i++) {
        snprintf(prefix, sizeof(prefix), "encoder.block.%u.layer.0.SelfAttention.", i);
        list_add_named(list, heads_width, width, false, prefix, "q");
        list_add_named(list, heads_width, width, false, prefix, "k");
        list_add_named(list, heads_width, width, false, prefix, "v");
        list_add_named(list, width, heads_width, false, prefix, "o");
        if (!i)
            list_add(list, 2, buckets, prefix, "relative_attention_bias.weight");
        snprintf(name, sizeof(name), "encoder.block.%u.layer.0", i);
        list_add_vector(list, width, name, ".layer_norm.weight");
        snprintf(prefix, sizeof(prefix), "encoder.block.%u.layer.1.", i);
        list_add_named(list, shape->t5_inner, width, false, prefix, "DenseReluDense.wi_0");
        list_add_named(list, shape->t5_inner, width, false, prefix, "DenseReluDense.wi_1");
        list_add(list, 2, out, prefix, "DenseReluDense.wo.weight");
        list_add_vector(list, width, prefix, "layer_norm.weight");
    }
    list_add_vector(list, width, "encoder.final_layer_norm", ".weight");
}

static void list_add_clip(struct list *list, const struct usk_flux_shape *shape)
{
    static const char *const projections[] = { "k_proj", "v_proj", "q_proj", "out_proj" };
    uint64_t width = (uint64_t)shape->clip_heads * USK_FLUX_TEXT_HEAD;
    const uint64_t tokens[] = { shape->clip_vocab, width }, positions[] = { CLIP_POSITIONS, width };
    char prefix[PREFIX_BYTES], name[NAME_BYTES];

    list_add(list, 2, tokens, "embeddings.token_embedding", ".weight");
    list_add(list, 2, positions, "embeddings.position_embedding", ".weight");
    for (uint32_t i = 0; i < shape->clip_layers; i++) {
        snprintf(prefix, sizeof(prefix), "encoder.layers.%u.self_attn.", i);
        for (size_t k = 0; k < 4; k++)
            list_add_named(list, width, width, true, prefix, projections[k]);
        snprintf(prefix, sizeof(prefix), "encoder.layers.%u.", i);
        snprintf(name, sizeof(name), "%slayer_norm1", prefix);
        list_add_norm(list, width, name);
        list_add_named(list, 4 * width, width, true, prefix, "mlp.fc1");
        list_add_named(list, width, 4 * width, true, prefix, "mlp.fc2");
        snprintf(name, sizeof(name), "%slayer_norm2", prefix);
        list_add_norm(list, width, name);
    }
    list_add_norm(list, width, "final_layer_norm");
}

static void list_add_conv(struct list *list, uint64_t out, uint64_t in, uint64_t kernel, const char *name)
{
    const uint64_t shape[] = { out, in, kernel, kernel };

    list_add(list, 4, shape, name, ".weight");
    list_add_vector(list, out, name, ".bias");
}

static void list_add_resnet(struct list *list, uint64_t out, uint64_t in, const char *prefix)
{
    char name[NAME_BYTES];

    snprintf(name, sizeof(name), "%s.norm1", prefix);
    list_add_norm(list, in, name);
    snprintf(name, sizeof(name), "%s.conv1", prefix);
    list_add_conv(list, out, in, 3, name);
    snprintf(name, sizeof(name), "%s.norm2", prefix);
    list_add_norm(list, out, name);
    snprintf(name, sizeof(name), "%s.conv2", prefix);
    list_add_conv(list, out, out, 3, name);
    if (out != in) {
        snprintf(name, sizeof(name), "%s.conv_shortcut", prefix);
        list_add_conv(list, out, in, 1, name);
    }
}

static void list_add_mid_block(struct list *list, uint64_t width, const char *half)
{
    static const char *const projections[] = { "to_q", "to_k", "to_v", "to_out.0" };
    char prefix[PREFIX_BYTES];

    snprintf(prefix, sizeof(prefix), "%s.mid_block.attentions.0.group_norm", half);
    list_add_norm(list, width, prefix);
    snprintf(prefix, sizeof(prefix), "%s.mid_block.attentions.0.", half);
    for (size_t i = 0; i < 4; i++)
        list_add_named(list, width, width, true, prefix, projections[i]);
    for (unsigned int i = 0; i < 2; i++) {
        snprintf(prefix, sizeof(prefix), "%s.mid_block.resnets.%u", half, i);
        list_add_resnet(list, width, width, prefix);
    }
}

/* The blocks of one half: the decoder mirrors the encoder and has one layer more in each block. */
static void list_add_blocks(struct list *list, const uint64_t *widths, bool is_decoder)
{
    uint64_t in = widths[is_decoder ? VAE_BLOCKS - 1 : 0];
    char prefix[PREFIX_BYTES];

    for (unsigned int i = 0; i < VAE_BLOCKS; i++) {
        uint64_t out = widths[is_decoder ? VAE_BLOCKS - 1 - i : i];

        for (unsigned int k = 0; k < VAE_LAYERS + (is_decoder ? 1u : 0u); k++) {
            snprintf(prefix, sizeof(prefix), "%s_blocks.%u.resnets.%u",
                     is_decoder ? "decoder.up" : "encoder.down", i, k);
            list_add_resnet(list, out, in, prefix);
            in = out;
        }
        if (i < VAE_BLOCKS - 1) {
            snprintf(prefix, sizeof(prefix), "%s_blocks.%u.%ssamplers.0.conv",
                     is_decoder ? "decoder.up" : "encoder.down", i, is_decoder ? "up" : "down");
            list_add_conv(list, out, out, 3, prefix);
        }
    }
}

static void list_add_vae(struct list *list, const struct usk_flux_shape *shape)
{
    uint64_t first = shape->vae_width, last = 4 * first;
    const uint64_t widths[VAE_BLOCKS] = { first, 2 * first, last, last };

    list_add_conv(list, first, IMAGE_CHANNELS, 3, "encoder.conv_in");
    list_add_blocks(list, widths, false);
    list_add_mid_block(list, last, "encoder");
    list_add_norm(list, last, "encoder.conv_norm_out");
    list_add_conv(list, 2 * LATENT_CHANNELS, last, 3, "encoder.conv_out");
    list_add_conv(list, last, LATENT_CHANNELS, 3, "decoder.conv_in");
    list_add_blocks(list, widths, true);
    list_add_mid_block(list, last, "decoder");
    list_add_norm(list, first, "decoder.conv_norm_out");
    list_add_conv(list, IMAGE_CHANNELS, first, 3, "decoder.conv_out");
}

static const struct {
    const char *name;
    bool is_quantized;
    void (*add)(struct list *list, const struct usk_flux_shape *shape);
} parts[USK_FLUX_N_PARTS] = {
    [USK_FLUX_TRANSFORMER] = { "transformer", true, list_add_transformer },
    [USK_FLUX_TEXT_ENCODER_2] = { "text_encoder_2", true, list_add_t5 },
    [USK_FLUX_TEXT_ENCODER] = { "text_encoder", false, list_add_clip },
    [USK_FLUX_VAE] = { "vae", false, list_add_vae },
};

uint64_t usk_flux_elements(const struct usk_flux_shape *shape, enum usk_flux_part part)
{
    struct usk_flux_component component = { 0 };
    struct list list = { .component = &component, .part = part, .is_count = true };

    parts[part].add(&list, shape);
    return component.elements;
}

uint32_t usk_flux_vae_groups(const struct usk_flux_shape *shape)
{
    /* The lowest bit of a width is its largest power of two. */
    return (uint32_t)usk_min(shape->vae_width & -shape->vae_width, 32);
}

int usk_flux_inventory_new(const struct usk_flux_shape *shape, enum usk_flux_quant quant,
                           struct usk_flux_inventory **ret_inventory, struct unstick_error *error)
{
    struct usk_flux_inventory *inventory = calloc(1, sizeof(*inventory));
    bool has_failed = !inventory;

    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS && !has_failed; part++) {
        struct usk_flux_component *component = &inventory->parts[part];
        struct list list = { .component = component, .part = part };

        component->name = parts[part].name;
        component->quant = list.quant = parts[part].is_quantized ? quant : USK_FLUX_NONE;
        parts[part].add(&list, shape);
        component->memory_bytes = component->device_bytes;
        if (component->quant == USK_FLUX_NF4_DQ)
            component->memory_bytes -= component->n_quantized * (256 * sizeof(float) - sizeof(float));
        has_failed = list.has_failed;
    }
    if (has_failed) {
        usk_flux_inventory_free(inventory);
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc",
                             "out of host memory for the list of tensors");
    }
    inventory->shape = *shape;
    *ret_inventory = inventory;
    return UNSTICK_OK;
}

struct usk_flux_inventory *usk_flux_inventory_free(struct usk_flux_inventory *inventory)
{
    if (!inventory)
        return NULL;
    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
        struct usk_flux_component *component = &inventory->parts[part];

        for (size_t i = 0; i < component->n_tensors; i++) {
            free((char *)component->tensors[i].file.name);
            free(component->tensors[i].text);
        }
        free(component->tensors);
    }
    free(inventory);
    return NULL;
}
