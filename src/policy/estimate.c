/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a list of tensors to bytes per quantization, in one pass and without memory of its own.
 *
 * convert.c says what kind a tensor is; here each kind gets its bytes, under every quantization at once. A Linear of
 * out x in weights takes, in int8, out x in bytes and a scale of 4 per output (SCB). In four bits: half a byte per
 * weight, an absmax of 4 bytes per 64 weights, a code table of 64 bytes. With double quantization: 1 byte per 64
 * weights, 4 per 256 of those, the mean that was subtracted, 4, and a table of 256 codes for the absmax, 1024. Of that
 * table bitsandbytes 0.50.2 makes a copy per Linear; builds before it share one in the process, which is the low end of
 * the interval. A checkpoint that is quantized already holds one per Linear. All of that is compared with what
 * bitsandbytes really allocates, in test/python/estimate_bnb_test.py.
 *
 * The figure says what is most likely, the interval what is certain: where a kind is unsure, the sums part. Overflow is
 * remembered in the sum and refused once, at the end.
 */
#include "policy/estimate.h"

#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "base/text.h"
#include "policy/convert.h"

#define GIB (UINT64_C(1) << 30)
#define ALIGN_BYTES UINT64_C(512)
#define REGION_BYTES (UINT64_C(2) << 20)
#define ABSMAX_BLOCK 64
#define NESTED_BLOCK 256
#define CODE_BYTES 64
#define OFFSET_BYTES 4
#define NESTED_CODE_BYTES 1024
#define SCALE_BYTES 4

struct sum {
    struct unstick_figure figure;
    bool has_overflown;
};

/* What the pass over the tensors keeps. */
struct pass {
    struct usk_convert convert;
    enum unstick_load_dtype dtype;
    struct unstick_component_estimate *out;
    struct sum sums[UNSTICK_QUANTIZATIONS];
};

const char *unstick_basis_name(enum unstick_basis basis)
{
    static const char *const names[] = { "files", "rules", "generic", "learned", "guess" };

    return (unsigned int)basis < sizeof(names) / sizeof(names[0]) ? names[basis] : "unknown";
}

struct unstick_figure unstick_estimate_guess(enum unstick_quantization quantization)
{
    /* The seed's figures; it has none for the others, which take what their width says. */
    static const uint64_t gib[UNSTICK_QUANTIZATIONS] = {
        [UNSTICK_QUANTIZATION_NONE] = 20,  [UNSTICK_QUANTIZATION_8BIT] = 12,
        [UNSTICK_QUANTIZATION_4BIT] = 8,   [UNSTICK_QUANTIZATION_4BIT_DQ] = 8,
        [UNSTICK_QUANTIZATION_FP8] = 12,   [UNSTICK_QUANTIZATION_FP32] = 40,
    };
    uint64_t bytes = ((unsigned int)quantization < UNSTICK_QUANTIZATIONS ? gib[quantization] : 20) * GIB;

    return (struct unstick_figure){ .bytes = bytes,
                                    .high_bytes = UINT64_MAX,
                                    .aligned_bytes = bytes,
                                    .region_bytes = bytes,
                                    .basis = UNSTICK_BASIS_GUESS };
}

/* --- sums --- */

static void sum_add_to(struct sum *sum, uint64_t *field, uint64_t bytes)
{
    sum->has_overflown |= !usk_add(*field, bytes, field);
}

/* One tensor of `bytes`, which may turn out to be anything from low to high. */
static void sum_add(struct sum *sum, uint64_t bytes, uint64_t low, uint64_t high)
{
    uint64_t aligned;

    sum->has_overflown |= !usk_align_up(bytes, ALIGN_BYTES, &aligned);
    sum_add_to(sum, &sum->figure.bytes, bytes);
    sum_add_to(sum, &sum->figure.low_bytes, low);
    sum_add_to(sum, &sum->figure.high_bytes, high);
    sum_add_to(sum, &sum->figure.aligned_bytes, aligned);
}

static void sum_add_exact(struct sum *sum, uint64_t bytes)
{
    sum_add(sum, bytes, bytes, bytes);
}

/* `count` times `each`, as one tensor. */
static uint64_t sum_times(struct sum *sum, uint64_t count, uint64_t each)
{
    uint64_t bytes;

    sum->has_overflown |= !usk_mul(count, each, &bytes);
    return bytes;
}

static uint64_t square_root(uint64_t value)
{
    uint64_t low = 0, high = UINT32_MAX;

    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;

        if (middle * middle <= value)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* The int8 form; n_out 0: not known, as the files hold four bits in one column. */
static void sum_add_8bit(struct sum *sum, uint64_t elements, uint64_t n_out)
{
    uint64_t root = square_root(elements);

    sum_add_exact(sum, elements);
    /* Linears are between 16 times as wide as high and the reverse. */
    if (n_out)
        sum_add_exact(sum, sum_times(sum, n_out, SCALE_BYTES));
    else
        sum_add(sum, root * SCALE_BYTES, root / 4 * SCALE_BYTES, root * 4 * SCALE_BYTES);
}

static void sum_add_4bit(struct sum *sum, uint64_t elements, bool is_nested)
{
    uint64_t blocks = usk_div_up(elements, ABSMAX_BLOCK);

    sum_add_exact(sum, usk_div_up(elements, 2));
    sum_add_exact(sum, CODE_BYTES);
    if (!is_nested) {
        sum_add_exact(sum, blocks * SCALE_BYTES);
        return;
    }
    sum_add_exact(sum, blocks);
    sum_add_exact(sum, usk_div_up(blocks, NESTED_BLOCK) * SCALE_BYTES);
    sum_add_exact(sum, OFFSET_BYTES);
    sum_add(sum, NESTED_CODE_BYTES, 0, NESTED_CODE_BYTES);
}

/* What a weight takes at least that may be converted. */
static uint64_t linear_least_bytes(uint64_t elements, enum unstick_quantization quantization, uint64_t plain_bytes)
{
    switch (quantization) {
    case UNSTICK_QUANTIZATION_8BIT:
    case UNSTICK_QUANTIZATION_FP8:
        return elements;
    case UNSTICK_QUANTIZATION_4BIT:
    case UNSTICK_QUANTIZATION_4BIT_DQ:
        return elements / 2;
    default:
        return plain_bytes;
    }
}

/* The width of a float tensor that is loaded; the figure of `quantization` says more than the dtype asked for. */
static uint64_t pass_element_bytes(const struct pass *pass, enum usk_convert_kind kind,
                                   enum unstick_quantization quantization)
{
    if (quantization == UNSTICK_QUANTIZATION_FP32 || pass->dtype == UNSTICK_LOAD_FP32)
        return 4;
    return kind == USK_CONVERT_FP32 && pass->dtype == UNSTICK_LOAD_FP16 ? 4 : 2;
}

static void pass_add_linear(struct pass *pass, const struct unstick_tensor *tensor, enum usk_convert_kind kind,
                            enum unstick_quantization quantization)
{
    enum unstick_quantization stored = pass->convert.stored;
    bool is_packed = usk_convert_is_packed(&pass->convert, tensor);
    struct sum *sum = &pass->sums[quantization];
    uint64_t elements = usk_convert_elements(&pass->convert, tensor), before = sum->figure.bytes, added;

    if (quantization == stored && is_packed) {
        sum_add_exact(sum, tensor->bytes);
        if (quantization == UNSTICK_QUANTIZATION_4BIT_DQ)
            sum_add_exact(sum, OFFSET_BYTES);
        return;
    }
    switch (quantization) {
    case UNSTICK_QUANTIZATION_8BIT:
        sum_add_8bit(sum, elements, is_packed && stored != UNSTICK_QUANTIZATION_8BIT ? 0 : tensor->shape[0]);
        break;
    case UNSTICK_QUANTIZATION_4BIT:
    case UNSTICK_QUANTIZATION_4BIT_DQ:
        sum_add_4bit(sum, elements, quantization == UNSTICK_QUANTIZATION_4BIT_DQ);
        break;
    case UNSTICK_QUANTIZATION_FP8:
        sum_add_exact(sum, elements);
        break;
    default:
        sum_add_exact(sum, sum_times(sum, elements, pass_element_bytes(pass, kind, quantization)));
        break;
    }
    added = sum->figure.bytes - before;
    if (kind == USK_CONVERT_LINEAR_UNSURE)
        sum_add_to(sum, &sum->figure.high_bytes, usk_max(added, sum_times(sum, elements, 4)) - added);
}

static void pass_add_plain(struct pass *pass, const struct unstick_tensor *tensor, enum usk_convert_kind kind,
                           enum unstick_quantization quantization)
{
    struct sum *sum = &pass->sums[quantization];
    uint64_t elements = usk_convert_elements(&pass->convert, tensor);
    uint64_t bytes = sum_times(sum, elements, pass_element_bytes(pass, kind, quantization)), low = bytes, high = bytes;

    if (kind == USK_CONVERT_PLAIN_UNSURE)
        low = linear_least_bytes(elements, quantization, bytes);
    /* Libraries keep the norms of some classes in fp32. */
    if (!pass->convert.known && tensor->n_dims == 1)
        high = usk_max(bytes, sum_times(sum, elements, 4));
    sum_add(sum, bytes, low, high);
}

static void pass_add(struct pass *pass, const struct unstick_tensor *tensor)
{
    enum usk_convert_kind kind = usk_convert_classify(&pass->convert, tensor);
    bool is_linear = kind == USK_CONVERT_LINEAR || kind == USK_CONVERT_LINEAR_UNSURE;
    struct unstick_component_estimate *out = pass->out;

    if (kind == USK_CONVERT_IGNORED)
        return;
    if (kind != USK_CONVERT_STATE)
        pass->sums[0].has_overflown |=
            !usk_add(out->n_params, usk_convert_elements(&pass->convert, tensor), &out->n_params);
    if (!out->is_quantized && (is_linear || kind == USK_CONVERT_PLAIN_UNSURE)) {
        is_linear = is_linear && usk_convert_is_packed(&pass->convert, tensor);
        kind = is_linear ? kind : USK_CONVERT_PLAIN;
    }
    out->n_linears += is_linear;
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        if (is_linear)
            pass_add_linear(pass, tensor, kind, q);
        else if (kind == USK_CONVERT_RAW || (kind == USK_CONVERT_STATE && q == pass->convert.stored))
            sum_add_exact(&pass->sums[q], tensor->bytes);
        else if (kind != USK_CONVERT_STATE)
            pass_add_plain(pass, tensor, kind, q);
    }
}

/* Whether quantizing a pipeline touches a component: encoders of images and short texts, and what makes pixels, are
 * left as they are by every recipe, because little is saved and much is lost. */
static bool component_is_quantized(const char *name, const struct usk_estimate_world *world)
{
    static const char *const names[] = { "vae", "vq", "movq", "vocoder", "safety_checker", "image_encoder" };
    static const char *const parts[] = { "CLIP", "Autoencoder", "VQ", "Vocoder", "SafetyChecker" };

    if (world->is_alone)
        return true;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (usk_text_begins(name, names[i]))
            return false;
    }
    for (size_t i = 0; world->class_name && i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (strstr(world->class_name, parts[i]))
            return false;
    }
    return true;
}

/* Everything is what the files say: another quantization than ours to know. */
static void pass_add_foreign(struct pass *pass, const struct unstick_tensor *tensor)
{
    struct unstick_component_estimate *out = pass->out;

    if (tensor->is_metadata)
        return;
    pass->sums[0].has_overflown |=
        !usk_add(out->n_params, usk_convert_elements(&pass->convert, tensor), &out->n_params);
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++)
        sum_add_exact(&pass->sums[q], tensor->bytes);
}

static bool figure_finish(struct unstick_figure *figure)
{
    return usk_align_up(figure->aligned_bytes, REGION_BYTES, &figure->region_bytes);
}

int usk_estimate_component(const struct unstick_tensor *tensors, size_t n_tensors, const char *name,
                           const struct usk_estimate_world *world, struct unstick_component_estimate *ret_estimate,
                           struct unstick_error *error)
{
    struct unstick_component_estimate out = { .name = name, .class_name = world->class_name };
    struct pass pass = { .dtype = world->dtype, .out = &out };
    enum unstick_quantization stored;
    bool has_overflown = false;

    usk_convert_init(&pass.convert, world, tensors, n_tensors);
    stored = pass.convert.stored;
    out.stored = world->foreign ? world->foreign : unstick_quantization_name(stored);
    out.is_quantized = !world->foreign && component_is_quantized(name, world);
    for (size_t i = 0; i < n_tensors; i++) {
        if (world->foreign)
            pass_add_foreign(&pass, &tensors[i]);
        else
            pass_add(&pass, &tensors[i]);
    }
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        /* fp8 files are read into another dtype, unless somebody casts them back. */
        bool is_as_stored = stored == q && q != UNSTICK_QUANTIZATION_NONE && q != UNSTICK_QUANTIZATION_FP8;

        if (!world->foreign)
            sum_add_to(&pass.sums[q], &pass.sums[q].figure.high_bytes,
                       usk_convert_buffer_bytes(&pass.convert, out.n_params));
        out.figures[q] = pass.sums[q].figure;
        out.figures[q].basis = world->foreign || is_as_stored ? UNSTICK_BASIS_FILES
                               : pass.convert.known           ? UNSTICK_BASIS_RULES
                                                              : UNSTICK_BASIS_GENERIC;
        has_overflown |= pass.sums[q].has_overflown || !figure_finish(&out.figures[q]);
    }
    if (has_overflown)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "estimate", "%s: its tensors are larger than any memory",
                             name);
    *ret_estimate = out;
    return UNSTICK_OK;
}

int usk_estimate_add(struct unstick_estimate *total, const struct unstick_component_estimate *component,
                     struct unstick_error *error)
{
    bool fits = usk_add(total->n_params, component->n_params, &total->n_params);

    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        const struct unstick_figure *figure = &component->figures[q];
        struct unstick_figure *sum = &total->total[q];

        fits &= usk_add(sum->bytes, figure->bytes, &sum->bytes);
        fits &= usk_add(sum->low_bytes, figure->low_bytes, &sum->low_bytes);
        fits &= usk_add(sum->high_bytes, figure->high_bytes, &sum->high_bytes);
        fits &= usk_add(sum->aligned_bytes, figure->aligned_bytes, &sum->aligned_bytes);
        /* Each component is a region of its own. */
        fits &= usk_add(sum->region_bytes, figure->region_bytes, &sum->region_bytes);
        if (figure->basis > sum->basis)
            sum->basis = figure->basis;
    }
    return fits ? UNSTICK_OK
                : usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "estimate", "%s: the model is larger than any memory",
                                component->name);
}
