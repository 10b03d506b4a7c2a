/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_SAFETENSORS_H
#define USK_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include <unstick/model.h>

/* The longest header that the format allows. */
#define USK_SAFETENSORS_HEADER_BYTES_MAX UINT64_C(100000000)

/* More dimensions than any framework has. */
#define USK_SAFETENSORS_DIMENSIONS_MAX 64

/* What the header of one file says, checked: the tensors fill its data section exactly. */
struct usk_safetensors {
    struct unstick_tensor *tensors; /* in the order of their offsets; file and region_offset are 0 */
    size_t n_tensors;               /* length of tensors */
    uint64_t data_offset;           /* where the data section begins in the file */
    uint64_t data_bytes;            /* length of the data section */
};

/* Reads header text; data_bytes follow it in the file. `path` is for messages. */
int usk_safetensors_parse(const char *text, size_t length, uint64_t data_bytes, const char *path,
                          struct usk_safetensors **ret_safetensors, struct unstick_error *error);

/* Reads the header of a file, and nothing else of it. */
int usk_safetensors_open(const char *path, struct usk_safetensors **ret_safetensors, struct unstick_error *error);

/* Moves the tensors out: afterwards the caller frees each with usk_tensor_fini(), and the array. */
struct unstick_tensor *usk_safetensors_take(struct usk_safetensors *safetensors, size_t *ret_n_tensors);

void usk_safetensors_free(struct usk_safetensors *safetensors);
USK_DEFINE_CLEANUP(struct usk_safetensors *, usk_safetensors_free)

void usk_tensor_fini(struct unstick_tensor *tensor);

/* The size of an element, or 0 for a type that the format does not know. *ret_name is a static string. */
unsigned int usk_dtype_bits(const char *name, const char **ret_name);

#endif
