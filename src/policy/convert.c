/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the libraries convert when they quantize a model, and what they keep.
 *
 * bitsandbytes replaces nn.Linear and nothing else. In a checkpoint that is a two-dimensional `.weight`; so is an
 * embedding, which the last part of its name gives away. transformers leaves out the output embedding, tied weights,
 * the last module and `_keep_in_fp32_modules` (T5's `wo`), diffusers only the last of these; both leave out
 * `llm_int8_skip_modules`. That was read in diffusers 0.42, transformers 5.24 and bitsandbytes 0.50.
 *
 * A class of the table was compared with the library that loads it, so each of its tensors is of one certain kind. In
 * any other class a name may leave open what a tensor is; then the kind says so, and who sums up keeps an interval.
 */
#include "policy/convert.h"

#include <string.h>

#include "base/text.h"

#define PATTERNS_MAX 6

/* Classes whose figures are exact. */
static const struct usk_convert_class {
    const char *name;
    bool is_transformers;
    const char *kept[PATTERNS_MAX];    /* modules that no quantization converts */
    const char *fp32[PATTERNS_MAX];    /* modules that are loaded as fp32 where fp16 is asked for */
    const char *ignored[PATTERNS_MAX]; /* prefixes: tensors of the files that the class does not load */
    uint64_t buffer_bytes;             /* tables that the class computes and no file has */
} classes[] = {
    { "FluxTransformer2DModel", false, { NULL }, { NULL }, { NULL }, 0 },
    { "T5EncoderModel", true, { "wo" }, { "wo" }, { "decoder.", "lm_head." }, 0 },
    { "UMT5EncoderModel", true, { "wo" }, { "wo" }, { "decoder.", "lm_head." }, 0 },
    { "CLIPTextModel",
      true,
      { NULL },
      { NULL },
      { "vision_model.", "visual_projection.", "text_projection.", "logit_scale" },
      77 * 8 },
    { "AutoencoderKL", false, { NULL }, { NULL }, { NULL }, 0 },
};

/* Modules that are nn.Embedding in every model. */
static const char *const embeddings[] = {
    "embed_tokens",  "token_embedding", "position_embedding",  "position_embeddings",   "embed_positions",
    "shared",        "wte",             "wpe",                 "word_embeddings",       "token_type_embeddings",
    "embed_in",      "embedding_table", "tok_embeddings",      "relative_attention_bias",
};

/* Modules that transformers leaves alone in every model, as output embedding. */
static const char *const heads[] = { "lm_head", "embed_out", "output_layer" };

/* Modules that are often the last one, which transformers leaves alone. */
static const char *const last_modules[] = { "text_projection", "visual_projection", "classifier",
                                            "score",           "head",              "pooler" };

/* The module of "a.b.weight" is "a.b": its length, or 0 if the tensor is no weight. */
static size_t name_module(const char *name)
{
    return usk_text_ends(name, ".weight") ? strlen(name) - strlen(".weight") : 0;
}

/* The last part of a module's name. */
static const char *module_last(const char *name, size_t length, size_t *ret_length)
{
    size_t at = length;

    while (at && name[at - 1] != '.')
        at--;
    *ret_length = length - at;
    return name + at;
}

static bool module_is_one_of(const char *name, size_t length, const char *const *words, size_t n_words)
{
    size_t n;
    const char *last = module_last(name, length, &n);

    for (size_t i = 0; i < n_words && words[i]; i++) {
        if (strlen(words[i]) == n && !memcmp(words[i], last, n))
            return true;
    }
    return false;
}

#define MODULE_IS_ONE_OF(_name, _length, _words)                                                             \
    module_is_one_of(_name, _length, _words, sizeof(_words) / sizeof((_words)[0]))

/* How the two libraries match a module against a name that they were told to leave out. */
static bool module_matches(const char *name, size_t length, const char *skip, bool is_transformers)
{
    size_t n = strlen(skip), n_last;
    const char *last = module_last(name, length, &n_last);

    if (!n || n > length)
        return false;
    if (n == length && !memcmp(name, skip, n))
        return true;
    if (is_transformers)
        return (!memcmp(name, skip, n) && name[n] == '.') || !memcmp(name + length - n, skip, n);
    if (n_last == n && !memcmp(last, skip, n))
        return true;
    for (size_t i = 0; i + n < length; i++) {
        if (!memcmp(name + i, skip, n) && name[i + n] == '.')
            return true;
    }
    return false;
}

static uint64_t tensor_elements(const struct unstick_tensor *tensor)
{
    uint64_t elements = 1;

    /* The file holds them all, so the product fits; only beside a dimension of 0 it need not. */
    for (unsigned int i = 0; i < tensor->n_dims; i++) {
        if (!tensor->shape[i])
            return 0;
    }
    for (unsigned int i = 0; i < tensor->n_dims; i++)
        elements *= tensor->shape[i];
    return elements;
}

static bool tensor_is_float(const struct unstick_tensor *tensor)
{
    return tensor->dtype[0] == 'F' || !strcmp(tensor->dtype, "BF16");
}

static bool tensor_is_state(const char *name)
{
    return usk_text_ends(name, ".SCB") || usk_text_ends(name, ".weight.absmax") ||
           usk_text_ends(name, ".weight.quant_map") || usk_text_ends(name, ".weight.nested_absmax") ||
           usk_text_ends(name, ".weight.nested_quant_map");
}

static bool tensor_is_conv_1x1(const struct unstick_tensor *tensor)
{
    if (tensor->n_dims < 3)
        return false;
    for (unsigned int i = 2; i < tensor->n_dims; i++) {
        if (tensor->shape[i] != 1)
            return false;
    }
    return true;
}

static enum unstick_quantization tensors_stored(const struct unstick_tensor *tensors, size_t n_tensors)
{
    enum unstick_quantization stored = UNSTICK_QUANTIZATION_NONE;

    for (size_t i = 0; i < n_tensors; i++) {
        const char *name = tensors[i].name;

        if (usk_text_ends(name, ".weight.nested_absmax"))
            return UNSTICK_QUANTIZATION_4BIT_DQ;
        if (usk_text_ends(name, ".weight.absmax"))
            stored = UNSTICK_QUANTIZATION_4BIT;
        else if (usk_text_ends(name, ".SCB"))
            stored = UNSTICK_QUANTIZATION_8BIT;
        else if (stored == UNSTICK_QUANTIZATION_NONE && name_module(name) && usk_text_begins(tensors[i].dtype, "F8_E"))
            stored = UNSTICK_QUANTIZATION_FP8;
    }
    return stored;
}

const char *usk_estimate_class(const struct unstick_tensor *tensors, size_t n_tensors)
{
    bool has_double = false, has_single = false;

    for (size_t i = 0; i < n_tensors; i++) {
        const char *name = tensors[i].name;

        if (usk_text_ends(name, ".layer.1.DenseReluDense.wo.weight"))
            return "T5EncoderModel";
        has_double |= usk_text_begins(name, "transformer_blocks.0.attn.add_q_proj.");
        has_single |= usk_text_begins(name, "single_transformer_blocks.0.proj_mlp.");
    }
    return has_double && has_single ? "FluxTransformer2DModel" : NULL;
}

static const struct usk_convert_class *class_find(const char *name)
{
    for (size_t i = 0; name && i < sizeof(classes) / sizeof(classes[0]); i++) {
        if (!strcmp(classes[i].name, name))
            return &classes[i];
    }
    return NULL;
}

void usk_convert_init(struct usk_convert *convert, const struct usk_estimate_world *world,
                      const struct unstick_tensor *tensors, size_t n_tensors)
{
    *convert = (struct usk_convert){ .world = world, .known = class_find(world->class_name) };
    convert->stored = tensors_stored(tensors, n_tensors);
    for (size_t i = 0; i < n_tensors; i++) {
        convert->has_shared |= !strcmp(tensors[i].name, "shared.weight");
        convert->has_embed_tokens |= usk_text_ends(tensors[i].name, "embed_tokens.weight");
    }
}

/* bitsandbytes packs a weight into one column, of bytes or of a float type that only stands for bytes. */
bool usk_convert_is_packed(const struct usk_convert *convert, const struct unstick_tensor *tensor)
{
    if (!name_module(tensor->name) || tensor->n_dims != 2)
        return false;
    if (convert->stored == UNSTICK_QUANTIZATION_8BIT)
        return !strcmp(tensor->dtype, "I8");
    return (convert->stored == UNSTICK_QUANTIZATION_4BIT || convert->stored == UNSTICK_QUANTIZATION_4BIT_DQ) &&
           tensor->shape[1] == 1;
}

uint64_t usk_convert_elements(const struct usk_convert *convert, const struct unstick_tensor *tensor)
{
    bool is_4bit = usk_convert_is_packed(convert, tensor) && convert->stored != UNSTICK_QUANTIZATION_8BIT;

    return is_4bit ? tensor->bytes * 2 : tensor_elements(tensor);
}

uint64_t usk_convert_buffer_bytes(const struct usk_convert *convert, uint64_t n_params)
{
    /* The position table of PixArt, 0.8 % of it, is the largest that was met. */
    return convert->known ? convert->known->buffer_bytes : n_params / 100 * 2;
}

static bool convert_is_transformers(const struct usk_convert *convert)
{
    return convert->known ? convert->known->is_transformers : convert->world->is_transformers;
}

static bool convert_is_ignored(const struct usk_convert *convert, const struct unstick_tensor *tensor)
{
    const char *name = tensor->name;

    if (tensor->is_metadata)
        return true;
    for (size_t i = 0; convert->known && i < PATTERNS_MAX && convert->known->ignored[i]; i++) {
        if (usk_text_begins(name, convert->known->ignored[i]))
            return true;
    }
    /* Converters keep both names of a tied tensor. */
    if (convert->has_shared && !strcmp(name, "encoder.embed_tokens.weight"))
        return true;
    return convert->world->has_tied_head && convert->has_embed_tokens && !strcmp(name, "lm_head.weight");
}

static bool convert_is_kept(const struct usk_convert *convert, const char *name, size_t length)
{
    bool is_transformers = convert_is_transformers(convert);

    for (size_t i = 0; i < convert->world->n_skip; i++) {
        if (module_matches(name, length, convert->world->skip[i], is_transformers))
            return true;
    }
    for (size_t i = 0; convert->known && i < PATTERNS_MAX && convert->known->kept[i]; i++) {
        if (module_matches(name, length, convert->known->kept[i], is_transformers))
            return true;
    }
    return false;
}

static bool word_has(const char *word, size_t length, const char *part)
{
    return memmem(word, length, part, strlen(part)) != NULL;
}

/* A weight of a class that is not in the table, of which no list says anything. */
static enum usk_convert_kind convert_guess(const struct usk_convert *convert, const char *name, size_t length)
{
    size_t n_last;
    const char *last = module_last(name, length, &n_last);

    if (convert_is_transformers(convert)) {
        if (MODULE_IS_ONE_OF(name, length, heads))
            return USK_CONVERT_PLAIN;
        if (MODULE_IS_ONE_OF(name, length, last_modules))
            return USK_CONVERT_PLAIN_UNSURE;
    } else if (word_has(name, length, "time_embed")) {
        return USK_CONVERT_LINEAR_UNSURE;
    }
    if (word_has(last, n_last, "norm"))
        return USK_CONVERT_PLAIN;
    return word_has(last, n_last, "embed") && !word_has(last, n_last, "embedder") ? USK_CONVERT_PLAIN_UNSURE
                                                                                   : USK_CONVERT_LINEAR;
}

enum usk_convert_kind usk_convert_classify(const struct usk_convert *convert, const struct unstick_tensor *tensor)
{
    size_t length = name_module(tensor->name);

    if (convert_is_ignored(convert, tensor))
        return USK_CONVERT_IGNORED;
    if (convert->stored != UNSTICK_QUANTIZATION_NONE && tensor_is_state(tensor->name))
        return USK_CONVERT_STATE;
    if (usk_convert_is_packed(convert, tensor))
        return USK_CONVERT_LINEAR;
    if (!tensor_is_float(tensor))
        return USK_CONVERT_RAW;
    if (length && convert->known && module_is_one_of(tensor->name, length, convert->known->fp32, PATTERNS_MAX))
        return USK_CONVERT_FP32;
    if (!length)
        return USK_CONVERT_PLAIN;
    if (tensor->n_dims != 2)
        return !convert->known && tensor_is_conv_1x1(tensor) ? USK_CONVERT_PLAIN_UNSURE : USK_CONVERT_PLAIN;
    if (MODULE_IS_ONE_OF(tensor->name, length, embeddings) || convert_is_kept(convert, tensor->name, length))
        return USK_CONVERT_PLAIN;
    return convert->known ? USK_CONVERT_LINEAR : convert_guess(convert, tensor->name, length);
}
