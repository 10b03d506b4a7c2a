/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_WORKING_H
#define USK_POLICY_WORKING_H

#include <unstick/estimate.h>

/* The shape of what runs, from the configurations of its components; 0 where they say nothing. */
struct usk_working_shape {
    uint64_t width;            /* of the transformer's hidden state: heads x width of a head */
    uint64_t patch;            /* latent pixels along a side of one token */
    uint64_t text_tokens;      /* that run beside the image's through the same blocks */
    uint64_t unet_channels;    /* of a U-Net's first block */
    bool has_guidance_batch;   /* classifier-free guidance runs every image twice */
    uint64_t vae_channels;     /* that meet at full resolution: of the second block, or the first if it is alone */
    uint64_t vae_scale;        /* pixels along a side of one latent pixel */
    uint64_t element_bytes;    /* of an activation */
    uint64_t vae_element_bytes; /* the same in the VAE */
};

/* Working memory for `batch` images of width x height. Saturates instead of overflowing. */
void usk_working_memory(const struct usk_working_shape *shape, uint64_t width, uint64_t height, uint64_t batch,
                        struct unstick_working_memory *ret_working);

#endif
