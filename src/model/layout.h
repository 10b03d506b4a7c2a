/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_LAYOUT_H
#define USK_MODEL_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/model.h>

/* Where tensors may begin in a region: the alignment of every allocator whose memory they come from or go to. */
#define USK_LAYOUT_ALIGN_BYTES UINT64_C(512)

/* Places tensors, in their order, in a region: writes their region_offset and makes the extents (an array for the
 * caller to free, NULL if there are none) and the size. `name` is for the message. */
int usk_layout_make(struct unstick_tensor *tensors, size_t n_tensors, const char *name,
                    struct unstick_extent **ret_extents, size_t *ret_n_extents, uint64_t *ret_bytes,
                    struct unstick_error *error);

#endif
