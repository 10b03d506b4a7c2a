/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_CONVERT_H
#define USK_POLICY_CONVERT_H

#include <unstick/key.h>
#include <unstick/model.h>

#include "policy/estimate.h"

/* What loading makes of a tensor. */
enum usk_convert_kind {
    USK_CONVERT_IGNORED,       /* not loaded, or counted under another name */
    USK_CONVERT_STATE,         /* belongs to a Linear that the files hold quantized */
    USK_CONVERT_LINEAR,        /* converted by a quantization */
    USK_CONVERT_LINEAR_UNSURE, /* the same, but may be kept, in fp32 */
    USK_CONVERT_PLAIN_UNSURE,  /* loaded as it is, but may be converted */
    USK_CONVERT_PLAIN,         /* loaded, as the dtype that is asked for */
    USK_CONVERT_FP32,          /* the same, but stays fp32 under fp16 */
    USK_CONVERT_RAW,           /* integers: loaded as they are */
};

struct usk_convert_class;

/* What has to be known of a component before one of its tensors can be told. */
struct usk_convert {
    const struct usk_estimate_world *world;
    const struct usk_convert_class *known; /* NULL: a class that is not in the table */
    enum unstick_quantization stored;      /* how the files hold the Linears */
    bool has_shared;                       /* T5's embedding has two names for one tensor */
    bool has_embed_tokens;                 /* what lm_head may be tied to */
};

void usk_convert_init(struct usk_convert *convert, const struct usk_estimate_world *world,
                      const struct unstick_tensor *tensors, size_t n_tensors);
enum usk_convert_kind usk_convert_classify(const struct usk_convert *convert, const struct unstick_tensor *tensor);

/* The files hold the tensor as a quantized weight. */
bool usk_convert_is_packed(const struct usk_convert *convert, const struct unstick_tensor *tensor);

/* The most that buffers can take which are computed and not in the files, such as position tables. */
uint64_t usk_convert_buffer_bytes(const struct usk_convert *convert, uint64_t n_params);

/* Parameters, also of a packed weight. */
uint64_t usk_convert_elements(const struct usk_convert *convert, const struct unstick_tensor *tensor);

#endif
