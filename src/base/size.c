/* SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"

#include <stddef.h>
#include <stdio.h>
#include <strings.h>

#include "base/math.h"

static const struct {
    const char *name;
    uint64_t bytes;
} size_units[] = {
    { "", 1 },
    { "B", 1 },
    { "K", UINT64_C(1) << 10 },
    { "M", UINT64_C(1) << 20 },
    { "G", UINT64_C(1) << 30 },
    { "T", UINT64_C(1) << 40 },
    { "KiB", UINT64_C(1) << 10 },
    { "MiB", UINT64_C(1) << 20 },
    { "GiB", UINT64_C(1) << 30 },
    { "TiB", UINT64_C(1) << 40 },
    { "kB", UINT64_C(1000) },
    { "MB", UINT64_C(1000000) },
    { "GB", UINT64_C(1000000000) },
    { "TB", UINT64_C(1000000000000) },
};

static bool size_unit_find(const char *name, uint64_t *ret_bytes)
{
    for (size_t i = 0; i < sizeof(size_units) / sizeof(size_units[0]); i++) {
        if (!strcasecmp(size_units[i].name, name)) {
            *ret_bytes = size_units[i].bytes;
            return true;
        }
    }
    return false;
}

static bool size_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool usk_size_parse(const char *text, uint64_t *ret_bytes)
{
    uint64_t whole = 0, numerator = 0, denominator = 1, unit, bytes, fraction;
    const char *p = text;

    if (!size_is_digit(*p))
        return false;
    for (; size_is_digit(*p); p++) {
        if (!usk_mul(whole, 10, &whole) || !usk_add(whole, (uint64_t)(*p - '0'), &whole))
            return false;
    }
    if (*p == '.') {
        if (!size_is_digit(*++p))
            return false;
        for (; size_is_digit(*p); p++) {
            /* Six digits are below a byte per MiB; the rest changes nothing anybody means. */
            if (denominator < 1000000) {
                numerator = numerator * 10 + (uint64_t)(*p - '0');
                denominator *= 10;
            }
        }
    }
    while (*p == ' ')
        p++;
    if (!size_unit_find(p, &unit) || !usk_mul(whole, unit, &bytes))
        return false;
    /* unit <= 2^40 and numerator < 10^6 < 2^20: no overflow. */
    fraction = unit * numerator / denominator;
    if (!usk_add(bytes, fraction, &bytes))
        return false;
    *ret_bytes = bytes;
    return true;
}

const char *usk_size_format(char text[USK_SIZE_TEXT_MAX], uint64_t bytes)
{
    static const char *const names[] = { "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    size_t unit = 0;

    if (bytes < 1024) {
        snprintf(text, USK_SIZE_TEXT_MAX, "%u B", (unsigned int)bytes);
        return text;
    }
    for (value /= 1024; value >= 1024 && unit + 1 < sizeof(names) / sizeof(names[0]); unit++)
        value /= 1024;
    snprintf(text, USK_SIZE_TEXT_MAX, "%.1f %s", value, names[unit]);
    return text;
}
