/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_VMM_H
#define USK_DEVICE_CUDA_VMM_H

#include "device/cuda/core.h"

/* Addresses and physical memory of a device. [baton] */

/* The smallest handle, without a context. */
int usk_cuda_vmm_granularity(struct usk_cuda_core *core, uint64_t *ret_bytes, struct unstick_error *error);

/* [any] */
int usk_cuda_vmm_info(struct usk_cuda_core *core, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                      struct unstick_error *error);

int usk_cuda_vmm_reserve(struct usk_cuda_core *core, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                         struct unstick_error *error);
int usk_cuda_vmm_unreserve(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, struct unstick_error *error);
int usk_cuda_vmm_create(struct usk_cuda_core *core, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error);
int usk_cuda_vmm_release(struct usk_cuda_core *core, uint64_t handle, struct unstick_error *error);
int usk_cuda_vmm_map(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, uint64_t handle,
                     struct unstick_error *error);
int usk_cuda_vmm_map_repeated(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, uint64_t handle,
                              uint64_t piece_bytes, struct unstick_error *error);
int usk_cuda_vmm_unmap(struct usk_cuda_core *core, uint64_t address, uint64_t bytes, struct unstick_error *error);

#endif
