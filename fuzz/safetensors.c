/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of a safetensors file, without the file: the input is the number of bytes of data in decimal, then the
 * header. What is accepted must lie in the data without a gap, and so must what is loaded of it.
 */
#include <stdlib.h>
#include <string.h>

#include "model/layout.h"
#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

static void layout_check(struct usk_safetensors *safetensors)
{
    struct unstick_extent *extents;
    uint64_t end = 0, bytes;
    size_t n_extents;

    if (usk_layout_make(safetensors->tensors, safetensors->n_tensors, "fuzz", &extents, &n_extents, &bytes, NULL) < 0)
        return;
    for (size_t i = 0; i < n_extents; i++) {
        uint64_t from = extents[i].file_offset - safetensors->data_offset;

        require(extents[i].file_offset >= safetensors->data_offset && from <= safetensors->data_bytes);
        require(extents[i].bytes && extents[i].bytes <= safetensors->data_bytes - from);
        require(extents[i].region_offset % USK_LAYOUT_ALIGN_BYTES == 0 && extents[i].region_offset >= end);
        end = extents[i].region_offset + extents[i].bytes;
    }
    require(end <= bytes && bytes % USK_LAYOUT_ALIGN_BYTES == 0);
    free(extents);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct usk_safetensors *safetensors = NULL;
    struct unstick_error error = { 0 };
    uint64_t data_bytes = 0, end = 0;

    while (n && *data >= '0' && *data <= '9' && data_bytes < UINT64_MAX / 100) {
        data_bytes = data_bytes * 10 + (uint64_t)(*data - '0');
        data++;
        n--;
    }
    if (usk_safetensors_parse((const char *)data, n, data_bytes, "fuzz", &safetensors, &error) < 0) {
        require(error.status == UNSTICK_BAD_FORMAT && error.text[0] && !strchr(error.text, '\n'));
        return 0;
    }
    for (size_t i = 0; i < safetensors->n_tensors; i++) {
        require(safetensors->tensors[i].file_offset == safetensors->data_offset + end);
        end += safetensors->tensors[i].bytes;
    }
    require(end == data_bytes);
    layout_check(safetensors);
    usk_safetensors_free(safetensors);
    return 0;
}
