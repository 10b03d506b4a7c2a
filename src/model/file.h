/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_FILE_H
#define USK_MODEL_FILE_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

/* Opens a regular file, through symbolic links; anything else (a pipe would block) is refused. */
int usk_model_file_open(const char *path, int *ret_fd, uint64_t *ret_bytes, struct unstick_error *error);

/* Reads a whole file of at most max_bytes. The text ends in NUL, which length does not count; the caller frees it. */
int usk_model_file_read(const char *path, uint64_t max_bytes, char **ret_text, size_t *ret_length,
                        struct unstick_error *error);

/* "<folder>/<name>" for the caller to free; NULL without memory. */
char *usk_model_path_join(const char *folder, const char *name);

#endif
