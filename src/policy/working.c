/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run takes beside the weights: activations, which depend on the image and not on the quantization.
 *
 * The unit is one hidden state of the widest part. How many are alive at once was counted with diffusers 0.42 by
 * running the real modules on tensors without memory (torch's meta device, attention without its matrix) and summing up
 * live storages; the factor adds what a device takes beyond tensors.
 *
 * Transformer: tokens x width of the hidden state. FLUX has 17.3 alive, at 1024 and at 2048 pixels. On an H200 at
 * 1024 x 1024 with 512 tokens of text, and expandable segments, torch's reserve grew by 0.65 GiB in 4-bit (a weight is
 * unpacked for each product) and by 0.85 GiB in 8-bit (products are int32 first): 24.6 and 32.2. Hence 32.
 *
 * U-Net: latent pixels x channels of the first block. That of SDXL has 15.8 alive. Hence 20.
 *
 * VAE: pixels x channels of the decoder's last block but one, which reach full resolution. FLUX's has 3.0 alive: input,
 * norm and activation of that block. Convolutions want a workspace of like size. Hence 6: at 1024 x 1024 the 3 GiB that
 * other engines keep free for a decode.
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
