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

size_t usk_text_utf8_length(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    unsigned int least, value;
    size_t length;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        length = 2, least = 0x80, value = p[0] & 0x1fu;
    else if ((p[0] & 0xf0) == 0xe0)
        length = 3, least = 0x800, value = p[0] & 0x0fu;
    else if ((p[0] & 0xf8) == 0xf0)
        length = 4, least = 0x10000, value = p[0] & 0x07u;
    else
        return 0;
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (p[i] & 0x3fu);
    }
    return value < least || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff) ? 0 : length;
}
