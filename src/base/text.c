/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The length counts on past the end of the buffer, so that a caller who got too little room learns how much is needed;
 * nothing is ever written behind the end, and what is there is a string at every moment.
 */
#include "base/text.h"

#include <stdio.h>

void usk_text_init(struct usk_text *text, char *buffer, size_t size)
{
    *text = (struct usk_text) { .buffer = buffer, .size = size };
    buffer[0] = 0;
}

void usk_text_add(struct usk_text *text, const char *format, ...)
{
    bool is_full = usk_text_is_cut(text);
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(is_full ? NULL : text->buffer + text->length, is_full ? 0 : text->size - text->length, format,
                       args);
    va_end(args);
    text->length += length > 0 ? (size_t)length : 0;
}
