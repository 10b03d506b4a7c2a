/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run takes beside the weights: activations, which depend on the image and not on the quantization.
 *
 * Transformer: tokens x width of the hidden state x 32. In units of one hidden state, the widest point of a FLUX block
 * has the state, its residual and its norm (3), q, k, v and the rotated copies in fp32 (3 + 4), the MLP before and
 * after its activation (8), attention and MLP side by side and projected (6): 24, and LLM.int8() holds the int32
 * products of the MLP too (8). At 1024 x 1024 with 512 tokens of text that is 0.84 GiB; measured there, with
 * expandable segments, torch's reserve grew by 0.65 GiB in 4-bit and by 0.85 GiB in 8-bit.
 *
 * U-Net: latent pixels x channels of the first block x 20: the skip connections of all levels (5), and one block of the
 * last level with its concatenated input (15). Counted, not measured.
 *
 * VAE: pixels x channels x 6. The last block of the decoder begins at full resolution with the channels of the block
 * before; its input, norm and activation are there at once (3), and convolutions want a workspace of like size (3). At
 * 1024 x 1024 that is the 3 GiB which other engines keep free for a decode.
 *
 * A shortage ends a run and a spare costs nothing, so each is rounded towards more.
 */
#include "policy/working.h"

#include "base/math.h"

#define TRANSFORMER_STATES 32
#define UNET_STATES 20
#define VAE_STATES 6

static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;

    return usk_mul(a, b, &product) ? product : UINT64_MAX;
}

/* Squares of `side` pixels that cover the image. */
static uint64_t tiles(uint64_t width, uint64_t height, uint64_t side)
{
    return times(usk_div_up(width, side), usk_div_up(height, side));
}

static uint64_t working_denoise(const struct usk_working_shape *shape, uint64_t width, uint64_t height, uint64_t batch)
{
    uint64_t rows = times(batch, shape->has_guidance_batch ? 2 : 1), tokens;

    if (!shape->vae_scale)
        return 0;
    if (shape->width && shape->patch) {
        tokens = tiles(width, height, times(shape->vae_scale, shape->patch));
        if (!usk_add(tokens, shape->text_tokens, &tokens))
            return UINT64_MAX;
        return times(times(times(tokens, rows), times(shape->width, shape->element_bytes)), TRANSFORMER_STATES);
    }
    return times(times(times(tiles(width, height, shape->vae_scale), rows),
                       times(shape->unet_channels, shape->element_bytes)),
                 UNET_STATES);
}

void usk_working_memory(const struct usk_working_shape *shape, uint64_t width, uint64_t height, uint64_t batch,
                        struct unstick_working_memory *ret_working)
{
    ret_working->denoise_bytes = working_denoise(shape, width, height, batch);
    ret_working->decode_bytes = times(times(times(width, height), batch),
                                      times(times(shape->vae_channels, shape->vae_element_bytes), VAE_STATES));
    ret_working->bytes = usk_max(ret_working->denoise_bytes, ret_working->decode_bytes);
}
