/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Smaller FLUX: the same modules with fewer of them and narrower. The rule must be monotone (a larger divisor
 * never gives a larger model, in any dimension), exact at 1, and close to what was asked for in between; so
 * each part walks down a staircase. A step takes one unit from the dimension that has kept the largest share
 * of its full size, so all shrink together and parameters fall with about the cube of that share; a part
 * stops on the step whose size is nearest to its own share of the whole, in ratio. The staircase is the same
 * for all divisors, which makes it monotone by construction: a smaller target is never reached on an earlier
 * step. The whole is within 15 % of what was asked up to 1/100, within 40 % up to 1/1000 and within a factor
 * of 2 below, where one attention head more or less is what there is to choose from.
 *
 * Two widths belong to two parts: the transformer reads T5's states and CLIP's pooled state. They are set by
 * the encoders. While the transformer looks for its step they follow its own width instead, or its staircase
 * would depend on where the encoders stopped.
 */
#include <stddef.h>

#include "base/math.h"
#include "model/flux.h"

#define T5_WIDTH_FULL 4096
#define CLIP_HEADS_FULL 12
#define HEADS_FULL 24

void usk_flux_shape_full(enum usk_flux_variant variant, struct usk_flux_shape *ret_shape)
{
    *ret_shape = (struct usk_flux_shape){
        .variant = variant,
        .heads = HEADS_FULL,
        .double_blocks = 19,
        .single_blocks = 38,
        .t5_width = T5_WIDTH_FULL,
        .t5_heads = 64,
        .t5_inner = 10240,
        .t5_layers = 24,
        .t5_vocab = 32128,
        .clip_heads = CLIP_HEADS_FULL,
        .clip_layers = 12,
        .clip_vocab = 49408,
        .vae_width = 128,
    };
}

/* One dimension of a part; at least something of it is left. */
struct step {
    size_t offset; /* into the shape; n_steps end with unit 0 */
    uint32_t unit;
};

#define STEP(_field, _unit) { offsetof(struct usk_flux_shape, _field), _unit }

static const struct step steps[USK_FLUX_N_PARTS][6] = {
    [USK_FLUX_TRANSFORMER] = { STEP(heads, 1), STEP(double_blocks, 1), STEP(single_blocks, 1) },
    [USK_FLUX_TEXT_ENCODER_2] = { STEP(t5_width, 64), STEP(t5_heads, 1), STEP(t5_inner, 128),
                                  STEP(t5_layers, 1), STEP(t5_vocab, 256) },
    [USK_FLUX_TEXT_ENCODER] = { STEP(clip_heads, 1), STEP(clip_layers, 1), STEP(clip_vocab, 256) },
    [USK_FLUX_VAE] = { STEP(vae_width, 8) },
};

static uint32_t *step_field(struct usk_flux_shape *shape, const struct step *step)
{
    return (uint32_t *)((char *)shape + step->offset);
}

static uint32_t step_value(const struct usk_flux_shape *shape, const struct step *step)
{
    return *(const uint32_t *)((const char *)shape + step->offset);
}

/* Goes one step down; false at the bottom. */
static bool shape_descend(struct usk_flux_shape *shape, const struct usk_flux_shape *full,
                          enum usk_flux_part part)
{
    const struct step *best = NULL;

    for (const struct step *step = steps[part]; step->unit; step++) {
        if (step_value(shape, step) <= step->unit)
            continue;
        if (!best || (uint64_t)step_value(shape, step) * step_value(full, best) >
                         (uint64_t)step_value(shape, best) * step_value(full, step))
            best = step;
    }
    if (best)
        *step_field(shape, best) -= best->unit;
    return best;
}

static uint64_t shape_measure(struct usk_flux_shape shape, enum usk_flux_part part)
{
    if (part == USK_FLUX_TRANSFORMER) {
        shape.t5_width = (uint32_t)usk_max(shape.heads * T5_WIDTH_FULL / HEADS_FULL / 64, 1) * 64;
        shape.clip_heads = (uint32_t)usk_max(shape.heads * CLIP_HEADS_FULL / HEADS_FULL, 1);
    }
    return usk_flux_elements(&shape, part);
}

void usk_flux_shape_scaled(enum usk_flux_variant variant, uint64_t divide, struct usk_flux_shape *ret_shape)
{
    struct usk_flux_shape full, shape;

    usk_flux_shape_full(variant, &full);
    shape = full;
    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
        double size = (double)shape_measure(full, part), target = size / (double)divide, size_above = size;
        struct usk_flux_shape above = shape;

        while (size > target) {
            above = shape;
            size_above = size;
            if (!shape_descend(&shape, &full, part))
                break;
            size = (double)shape_measure(shape, part);
        }
        if (size_above * size < target * target)
            shape = above;
    }
    *ret_shape = shape;
}
