/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_TEST_FILES_H
#define USK_MODEL_TEST_FILES_H

/* cmocka wants these four before its own header. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A new folder under the system's place for temporary files, for test_files_free(); folders are made on the way. */
char *test_files_new(void);
void test_files_free(char *folder);

/* "<folder>/<name>", valid until the fourth call after. */
const char *test_files_path(const char *folder, const char *name);

void test_files_write(const char *folder, const char *name, const void *data, size_t length);
void test_files_write_text(const char *folder, const char *name, const char *text);
void test_files_mkdir(const char *folder, const char *name);

/* A safetensors file: the length, the header, and a hole of data_bytes. */
void test_files_write_tensors(const char *folder, const char *name, const char *header, uint64_t data_bytes);

#endif
