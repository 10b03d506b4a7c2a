/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_HASH_H
#define USK_DEVICE_CUDA_HASH_H

#include "device/cuda/core.h"

#define USK_CUDA_N_HASH_SLOTS 4096

/* The kernel's text. */
extern const char usk_cuda_hash_ptx[];

/* The hash of base/hash.h on the device. */
struct usk_cuda_hash {
    usk_cu_module module;
    usk_cu_function kernel, publish;
    usk_cu_ptr sums;         /* a slot each, on the device */
    uint64_t *results;       /* a slot each, pinned; what the caller reads */
    uint32_t n_blocks_best;  /* so many blocks fill the device */
};

/* Inside of a scope: loads the kernel and compares it with the reference, on `stream`. UNSTICK_UNSUPPORTED: it cannot
 * be used here, for the reason in `error`. */
int usk_cuda_hash_init(struct usk_cuda_hash *hash, struct usk_cuda_core *core, unsigned int n_multiprocessors,
                       usk_cu_stream stream, struct unstick_error *error);
/* Inside of a scope, or with core NULL when the device is lost. A zeroed hash is allowed. */
void usk_cuda_hash_fini(struct usk_cuda_hash *hash, struct usk_cuda_core *core);

/* [baton] */
int usk_cuda_hash_submit(struct usk_cuda_hash *hash, struct usk_cuda_core *core, usk_cu_stream stream,
                         uint64_t address, uint64_t piece_bytes, uint32_t n, uint32_t slot,
                         struct unstick_error *error);

/* How many blocks share a piece. */
uint32_t usk_cuda_hash_blocks(uint64_t piece_bytes, uint32_t n, uint32_t n_blocks_best);

#endif
