/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_WRITER_H
#define USK_MODEL_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

/* Writes safetensors files, laid out as the reference serializer lays them out. */

/* In the rank order of the format: files hold higher ranks first. */
enum usk_writer_dtype {
    USK_WRITER_U8,
    USK_WRITER_I8,
    USK_WRITER_BF16,
    USK_WRITER_F32,
};

#define USK_WRITER_DIMS_MAX 4

struct usk_writer_tensor {
    const char *name;
    enum usk_writer_dtype dtype;
    unsigned int n_dims; /* 0: a scalar */
    uint64_t shape[USK_WRITER_DIMS_MAX];
    uint64_t bytes; /* by usk_writer_tensor_bytes() */
};

/* Makes `bytes` bytes of the tensor's contents, from `offset` on. */
typedef void (*usk_writer_fill_fn)(void *userdata, const struct usk_writer_tensor *tensor, uint64_t offset,
                                   void *buffer, size_t bytes);

/* Called as the work goes on, with the bytes that were written since the last call. False: stop. */
typedef bool (*usk_writer_progress_fn)(void *userdata, uint64_t bytes);

struct usk_writer_options {
    bool is_sparse; /* the header, and a hole where the contents would be; fill is not called */
    usk_writer_fill_fn fill;
    usk_writer_progress_fn progress; /* may be NULL */
    void *userdata;                  /* of both */
};

/* The format's name, such as "BF16". */
const char *usk_writer_dtype_name(enum usk_writer_dtype dtype);

/* The product of dtype and shape; false if it does not fit. */
bool usk_writer_tensor_bytes(enum usk_writer_dtype dtype, unsigned int n_dims, const uint64_t *shape,
                             uint64_t *ret_bytes);

/* Brings tensors into the order of their bytes in a file. */
void usk_writer_sort(const struct usk_writer_tensor **tensors, size_t n_tensors);

/* Makes the head of a file of sorted tensors: length, JSON, padding. Free with free(). */
int usk_writer_head(const struct usk_writer_tensor *const *tensors, size_t n_tensors, char **ret_head,
                    uint64_t *ret_head_bytes, struct unstick_error *error);

/*
 * Writes a new file; sorts `tensors` in place. On any failure, and if progress says stop (UNSTICK_CANCELED),
 * the file is removed. UNSTICK_NO_SPACE, UNSTICK_IO, UNSTICK_NOT_FOUND (the folder),
 * UNSTICK_OUT_OF_HOST_MEMORY.
 */
int usk_writer_write(const char *path, const struct usk_writer_tensor **tensors, size_t n_tensors,
                     const struct usk_writer_options *options, uint64_t *ret_file_bytes,
                     struct unstick_error *error);

/* Writes a new file with this text in it, and removes it on failure. */
int usk_writer_write_text(const char *path, const char *text, struct unstick_error *error);

#endif
