/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The element types of the safetensors format, all of them. Only their size matters here: the bytes of a tensor are
 * moved, never looked at.
 */
#include "model/safetensors.h"

#include <string.h>

static const struct {
    const char *name;
    unsigned int bits;
} dtypes[] = {
    { "F4", 4 },           { "F6_E2M3", 6 },     { "F6_E3M2", 6 },     { "BOOL", 8 }, { "U8", 8 },
    { "I8", 8 },           { "F8_E5M2", 8 },     { "F8_E4M3", 8 },     { "F8_E8M0", 8 },
    { "F8_E4M3FNUZ", 8 },  { "F8_E5M2FNUZ", 8 }, { "I16", 16 },        { "U16", 16 }, { "F16", 16 },
    { "BF16", 16 },        { "I32", 32 },        { "U32", 32 },        { "F32", 32 }, { "C64", 64 },
    { "F64", 64 },         { "I64", 64 },        { "U64", 64 },
};

unsigned int usk_dtype_bits(const char *name, const char **ret_name)
{
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
        if (!strcmp(dtypes[i].name, name)) {
            *ret_name = dtypes[i].name;
            return dtypes[i].bits;
        }
    }
    return 0;
}
