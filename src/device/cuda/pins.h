/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_PINS_H
#define USK_DEVICE_CUDA_PINS_H

#include "device/cuda/core.h"

/* Host memory that the driver knows of. [any] [blocks] */
int usk_cuda_pins_register(struct usk_cuda_core *core, void *address, uint64_t bytes, bool is_read_only,
                           struct unstick_error *error);
int usk_cuda_pins_unregister(struct usk_cuda_core *core, void *address, struct unstick_error *error);
int usk_cuda_pins_alloc(struct usk_cuda_core *core, uint64_t bytes, void **ret_address, struct unstick_error *error);
int usk_cuda_pins_free(struct usk_cuda_core *core, void *address, struct unstick_error *error);

#endif
