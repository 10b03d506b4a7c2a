/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_TEXT_H
#define USK_BASE_TEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Text that is put together piece by piece in the caller's buffer: always terminated, cut where the buffer ends. */
struct usk_text {
    char *buffer;
    size_t size;    /* of the buffer, at least 1 */
    size_t length;  /* what all of it would take, as with snprintf: is_cut is length >= size */
};

void usk_text_init(struct usk_text *text, char *buffer, size_t size);
void usk_text_add(struct usk_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static inline bool usk_text_is_cut(const struct usk_text *text)
{
    return text->length >= text->size;
}

/* The length of the UTF-8 sequence that text begins with; 0 if that is none (also overlong ones, surrogates, beyond
 * U+10FFFF). */
size_t usk_text_utf8_length(const char *text);

static inline bool usk_text_begins(const char *text, const char *prefix)
{
    return !strncmp(text, prefix, strlen(prefix));
}

static inline bool usk_text_ends(const char *text, const char *suffix)
{
    size_t length = strlen(text), n = strlen(suffix);

    return length >= n && !strcmp(text + length - n, suffix);
}

#endif
