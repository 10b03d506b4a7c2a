/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a component's tensors lie in its region.
 *
 * In the order of their files and offsets, each at the next multiple of 512 bytes: so that tensors whose size is such
 * a multiple, which is nearly all bytes of a model, are as contiguous in the region as they are in the file and are
 * loaded by one long read. What is not device memory takes no room, and tensors without bytes none either.
 */
#include "model/layout.h"

#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"

static bool extent_joins(const struct unstick_extent *extent, const struct unstick_tensor *tensor)
{
    return extent->file == tensor->file && extent->file_offset + extent->bytes == tensor->file_offset &&
           extent->region_offset + extent->bytes == tensor->region_offset;
}

int usk_layout_make(struct unstick_tensor *tensors, size_t n_tensors, const char *name,
                    struct unstick_extent **ret_extents, size_t *ret_n_extents, uint64_t *ret_bytes,
                    struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) struct unstick_extent *extents = NULL;
    uint64_t end = 0; /* of what is placed, a multiple of the alignment */
    size_t n = 0;

    extents = malloc((n_tensors + 1) * sizeof(*extents));
    if (!extents)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "layout", "%s: no memory for its layout", name);
    for (size_t i = 0; i < n_tensors; i++) {
        struct unstick_tensor *tensor = &tensors[i];

        tensor->region_offset = tensor->is_metadata ? 0 : end;
        if (tensor->is_metadata || !tensor->bytes)
            continue;
        if (!usk_add(end, tensor->bytes, &end) || !usk_align_up(end, USK_LAYOUT_ALIGN_BYTES, &end))
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "layout", "%s: its tensors overflow 64 bits", name);
        if (n && extent_joins(&extents[n - 1], tensor)) {
            extents[n - 1].bytes += tensor->bytes;
            continue;
        }
        extents[n++] = (struct unstick_extent){
            .file = tensor->file,
            .file_offset = tensor->file_offset,
            .region_offset = tensor->region_offset,
            .bytes = tensor->bytes,
        };
    }
    if (n) {
        struct unstick_extent *trimmed = realloc(extents, n * sizeof(*extents));

        if (trimmed)
            extents = trimmed;
        *ret_extents = USK_STEAL(extents);
    } else {
        *ret_extents = NULL;
    }
    *ret_n_extents = n;
    *ret_bytes = end;
    return UNSTICK_OK;
}
