/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Made-up weights. Any byte of any tensor is a function of the seed, the tensor's name and the byte's place,
 * so that a checkpoint is the same whatever the chunks, the threads or the order of writing were, and a test
 * can make a byte again without the file. The generator is therefore a counter through a mixer (splitmix64's
 * finalizer), one word of 8 bytes at a time; nothing carries over from one word to the next, which lets the
 * compiler overlap them.
 *
 * Numbers must survive arithmetic: a random bf16 is infinite or NaN once in 256 times. Sign and mantissa are
 * random, and the two low bits of the exponent, which gives magnitudes of 2^-7 to 2^-3: a mask and an or per
 * word. The same masks on 32 bits give the same range in f32. Integers may be anything. Code tables are the
 * real ones. Bytes are those of a little-endian machine, like the format's and like every machine that CUDA
 * runs on.
 */
#include <string.h>

#include "base/math.h"
#include "model/flux.h"

#define GOLDEN UINT64_C(0x9e3779b97f4a7c15)

#define WORD_BYTES sizeof(uint64_t)

/* Exponent 120 to 123 of 127: the bits that stay random, and those that are set. */
#define BF16_MASK UINT64_C(0x81ff81ff81ff81ff)
#define BF16_BITS UINT64_C(0x3c003c003c003c00)
#define F32_MASK UINT64_C(0x81ffffff81ffffff)
#define F32_BITS UINT64_C(0x3c0000003c000000)
#define F32_POSITIVE UINT64_C(0x7fffffff7fffffff)

static uint64_t word_mix(uint64_t word)
{
    word = (word ^ (word >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    word = (word ^ (word >> 27)) * UINT64_C(0x94d049bb133111eb);
    return word ^ (word >> 31);
}

/* The start of a tensor's counter. FNV-1a over the name tells tensors apart, the mixer spreads them. */
static uint64_t tensor_key(const struct usk_flux_tensor *tensor, uint64_t seed)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325) + tensor->part;

    for (const char *next = tensor->file.name; *next; next++)
        hash = (hash ^ (unsigned char)*next) * UINT64_C(0x100000001b3);
    return word_mix(hash ^ word_mix(seed + GOLDEN));
}

struct masks {
    uint64_t keep, set;
};

static struct masks tensor_masks(const struct usk_flux_tensor *tensor)
{
    struct masks masks = { UINT64_MAX, 0 };

    if (tensor->file.dtype == USK_WRITER_BF16)
        masks = (struct masks){ BF16_MASK, BF16_BITS };
    else if (tensor->file.dtype == USK_WRITER_F32)
        masks = (struct masks){ F32_MASK, F32_BITS };
    if (tensor->file.dtype == USK_WRITER_F32 && tensor->content == USK_FLUX_SCALES)
        masks.keep &= F32_POSITIVE;
    return masks;
}

static uint64_t word_make(uint64_t key, uint64_t index, struct masks masks)
{
    return (word_mix(key + index * GOLDEN) & masks.keep) | masks.set;
}

static void fill_random(const struct usk_flux_tensor *tensor, uint64_t seed, uint64_t offset,
                        unsigned char *next, size_t bytes)
{
    uint64_t key = tensor_key(tensor, seed), index = offset / WORD_BYTES, word;
    struct masks masks = tensor_masks(tensor);
    size_t skip = offset % WORD_BYTES;

    if (skip) {
        size_t head = usk_min(WORD_BYTES - skip, bytes);

        word = word_make(key, index++, masks);
        memcpy(next, (unsigned char *)&word + skip, head);
        next += head;
        bytes -= head;
    }
    for (size_t i = 0; i < bytes / WORD_BYTES; i++) {
        word = word_make(key, index + i, masks);
        memcpy(next + i * WORD_BYTES, &word, WORD_BYTES);
    }
    word = word_make(key, index + bytes / WORD_BYTES, masks);
    memcpy(next + bytes / WORD_BYTES * WORD_BYTES, &word, bytes % WORD_BYTES);
}

/* The 16 codes of nf4: quantiles of the normal distribution, scaled to 1. */
static const float nf4_table[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/* The 256 codes of the nested quantization, ascending: seven decades, the k-th with 2^k means of equal steps
 * between 0.1 and 1, both signs; 0; and 1. May differ from bitsandbytes in the last bit of a float. */
static void dynamic_table_make(float table[256])
{
    double decade = 1e-6;

    table[127] = 0.0f;
    table[255] = 1.0f;
    for (unsigned int k = 0, above = 128; k < 7; k++, decade *= 10) {
        unsigned int n = 1u << k;

        for (unsigned int i = 0; i < n; i++, above++) {
            table[above] = (float)(decade * (0.1 + 0.9 * (i + 0.5) / n));
            table[254 - above] = -table[above];
        }
    }
}

void usk_flux_fill(const struct usk_flux_tensor *tensor, uint64_t seed, uint64_t offset, void *buffer,
                   size_t bytes)
{
    float table[256];

    switch (tensor->content) {
    case USK_FLUX_NF4_TABLE:
        memcpy(buffer, (const char *)nf4_table + offset, bytes);
        break;
    case USK_FLUX_DYNAMIC_TABLE:
        dynamic_table_make(table);
        memcpy(buffer, (const char *)table + offset, bytes);
        break;
    case USK_FLUX_QUANT_STATE:
        memcpy(buffer, tensor->text + offset, bytes);
        break;
    case USK_FLUX_ZERO:
        memset(buffer, 0, bytes);
        break;
    default:
        fill_random(tensor, seed, offset, buffer, bytes);
        break;
    }
}
