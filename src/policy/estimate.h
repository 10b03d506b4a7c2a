/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_ESTIMATE_H
#define USK_POLICY_ESTIMATE_H

#include <unstick/estimate.h>
#include <unstick/model.h>

/* What decides how the tensors of a component are loaded. */
struct usk_estimate_world {
    const char *class_name;    /* NULL: told from the tensors' names if it can be */
    bool is_transformers;      /* that library loads it, not diffusers */
    const char *const *skip;   /* llm_int8_skip_modules */
    size_t n_skip;             /* length of skip */
    const char *foreign;       /* a quantization that is not bitsandbytes: the files are taken as they are; or NULL */
    bool has_tied_head;        /* tie_word_embeddings: lm_head is embed_tokens */
    bool is_alone;             /* the model is this component: whoever asks for its quantization means it */
    enum unstick_load_dtype dtype;
};

/* Sums up the tensors of one component. Writes everything but name and class_name; `stored` is static or
 * world->foreign. UNSTICK_BAD_FORMAT if the sums do not fit. */
int usk_estimate_component(const struct unstick_tensor *tensors, size_t n_tensors, const char *name,
                           const struct usk_estimate_world *world, struct unstick_component_estimate *ret_estimate,
                           struct unstick_error *error);

/* Adds a component's figures to a total. */
int usk_estimate_add(struct unstick_estimate *total, const struct unstick_component_estimate *component,
                     struct unstick_error *error);

/* The class that the tensors' names give away, or NULL. */
const char *usk_estimate_class(const struct unstick_tensor *tensors, size_t n_tensors);

#endif
