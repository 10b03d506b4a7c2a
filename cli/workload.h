/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_WORKLOAD_H
#define CLI_WORKLOAD_H

#include <stddef.h>

#include <unstick/policy.h>
#include <unstick/status.h>

#include "base/cleanup.h"

/* A sequence of requests for models, as a file describes it. All strings are owned. */
struct workload_model {
    char *key;  /* id, underscore, quantization, in the one spelling that keys have */
    char *path; /* a relative one was taken from the workload's folder */
};

struct workload {
    struct workload_model *models;
    size_t n_models;
    size_t *requests; /* indices into models */
    size_t n_requests;
};

/* A key in the spelling that all keys of a world have: `x_nf4` is `x_4-bit`. */
int workload_spell(const char *text, char ret_key[UNSTICK_KEY_MAX], enum unstick_quantization *ret_quantization,
                   struct unstick_error *error);
/* Reads a workload from a file. The error says where it is wrong. Release with workload_fini(). */
int workload_read(const char *path, struct workload *ret_workload, struct unstick_error *error);
/* Adds to a workload (a zeroed one is empty); a key that is there already is UNSTICK_BAD_FORMAT. */
int workload_add_model(struct workload *workload, const char *id, const char *quantization, const char *path,
                       struct unstick_error *error);
int workload_add_request(struct workload *workload, const char *key, struct unstick_error *error);
void workload_fini(struct workload *workload);

static inline void workload_finip(struct workload *workload)
{
    workload_fini(workload);
}

#endif
