/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash is three things in one stream: the slots are zeroed, a kernel adds to them, another one copies the sums to
 * pinned memory. A kernel, since a copy of the driver would stand in the queue of the engine that carries evictions to
 * the host, behind all of their copies: hashes taken between them would come in bursts, and the link would be idle in
 * between. All slots differ between hashes that are under way, so these may be in different lanes.
 *
 * A kernel that is wrong would be worse than none: an eviction would take changed memory for unchanged. So before it
 * is trusted it has to give what the reference gives, on this GPU, as this driver compiled it; and without it
 * everything is copied.
 */
#include "device/cuda/hash.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/math.h"

#define TILE_BYTES (UINT64_C(1024) * USK_HASH_LEAF_BYTES)

/*
 * Two blocks have 32 KiB of loads under way on a multiprocessor, which is about what memory needs to be busy; the rest
 * of it is for the host program's kernels, which would otherwise wait for every hash as a whole.
 */
#define BLOCKS_PER_MULTIPROCESSOR 2

/* The test's data: two pieces of whole tiles and a short one. It lies behind the sums in the same allocation, which
 * takes 2 MiB of the device anyway, since to free another one would wait for the host program's kernels. */
#define TEST_N 2
#define TEST_PIECE_BYTES (2 * TILE_BYTES + 333 * USK_HASH_LEAF_BYTES)
#define TEST_BYTES (TEST_N * TEST_PIECE_BYTES)
#define SUMS_BYTES (USK_CUDA_N_HASH_SLOTS * sizeof(uint64_t))

uint32_t usk_cuda_hash_blocks(uint64_t piece_bytes, uint32_t n, uint32_t n_blocks_best)
{
    uint64_t n_tiles = usk_div_up(piece_bytes, TILE_BYTES);

    return (uint32_t)usk_min(usk_div_up(n_blocks_best, n), n_tiles);
}

static usk_cu_result hash_launch(const struct usk_cuda_hash *hash, const struct usk_cuda_driver *driver,
                                 usk_cu_stream stream, uint64_t address, uint64_t piece_bytes, uint32_t n,
                                 uint32_t slot, const char **ret_operation)
{
    usk_cu_ptr sums = hash->sums + slot * sizeof(uint64_t);
    void *parameters[USK_CUDA_HASH_N_PARAMETERS] = {
        [USK_CUDA_HASH_ADDRESS] = &address,
        [USK_CUDA_HASH_PIECE_BYTES] = &piece_bytes,
        [USK_CUDA_HASH_RESULTS] = &sums,
    };
    /* Pinned memory has the same address on both sides. */
    usk_cu_ptr results = (uintptr_t)&hash->results[slot];
    uint64_t n_results = n;
    void *publish[USK_CUDA_PUBLISH_N_PARAMETERS] = {
        [USK_CUDA_PUBLISH_RESULTS] = &results,
        [USK_CUDA_PUBLISH_SUMS] = &sums,
        [USK_CUDA_PUBLISH_N] = &n_results,
    };
    usk_cu_result result;

    *ret_operation = "cuMemsetD8Async";
    result = driver->cuMemsetD8Async(sums, 0, n * sizeof(uint64_t), stream);
    if (result != USK_CU_SUCCESS)
        return result;
    *ret_operation = "cuLaunchKernel";
    result = driver->cuLaunchKernel(hash->kernel, usk_cuda_hash_blocks(piece_bytes, n, hash->n_blocks_best), n, 1,
                                    USK_CUDA_HASH_BLOCK, 1, 1, 0, stream, parameters, NULL);
    if (result != USK_CU_SUCCESS)
        return result;
    return driver->cuLaunchKernel(hash->publish, (uint32_t)usk_div_up(n, USK_CUDA_HASH_BLOCK), 1, 1,
                                  USK_CUDA_HASH_BLOCK, 1, 1, 0, stream, publish, NULL);
}

int usk_cuda_hash_submit(struct usk_cuda_hash *hash, struct usk_cuda_core *core, usk_cu_stream stream,
                         uint64_t address, uint64_t piece_bytes, uint32_t n, uint32_t slot,
                         struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    const char *operation;
    usk_cu_result result;
    uint64_t bytes;
    int r;

    if (!hash->kernel)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "hash", "this device has no hash kernel");
    if (!n || n > USK_CUDA_N_HASH_SLOTS || slot > USK_CUDA_N_HASH_SLOTS - n || !piece_bytes ||
        (address | piece_bytes) % USK_HASH_LEAF_BYTES || !usk_mul(piece_bytes, n, &bytes))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "hash",
                             "cannot hash %" PRIu32 " pieces of %" PRIu64 " bytes into slot %" PRIu32
                             " of %d: pieces and addresses are multiples of 16, and all results have a slot",
                             n, piece_bytes, slot, USK_CUDA_N_HASH_SLOTS);
    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = hash_launch(hash, core->driver, stream, address, piece_bytes, n, slot, &operation);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, operation,
                             "cannot hash %" PRIu32 " pieces of %" PRIu64 " bytes at %#" PRIx64, n, piece_bytes,
                             address);
    return UNSTICK_OK;
}

static usk_cu_result hash_try(struct usk_cuda_hash *hash, const struct usk_cuda_driver *driver, usk_cu_stream stream,
                              const void *data, const char **ret_operation)
{
    usk_cu_ptr copy = hash->sums + SUMS_BYTES;
    usk_cu_result result;

    *ret_operation = "cuMemcpyHtoDAsync";
    result = driver->cuMemcpyHtoDAsync(copy, data, TEST_BYTES, stream);
    if (result == USK_CU_SUCCESS)
        result = hash_launch(hash, driver, stream, copy, TEST_PIECE_BYTES, TEST_N, 0, ret_operation);
    if (result == USK_CU_SUCCESS) {
        *ret_operation = "cuStreamSynchronize";
        result = driver->cuStreamSynchronize(stream);
    }
    return result;
}

static int hash_test(struct usk_cuda_hash *hash, struct usk_cuda_core *core, usk_cu_stream stream,
                     struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) uint64_t *data = malloc(TEST_BYTES);
    uint64_t word = USK_HASH_KEY_A;
    const char *operation;
    usk_cu_result result;

    if (!data)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "no memory to test the hash kernel");
    for (size_t i = 0; i < TEST_BYTES / sizeof(uint64_t); i++) {
        data[i] = word;
        word = word * USK_HASH_STEP_B + USK_HASH_STEP_A;
    }
    result = hash_try(hash, core->driver, stream, data, &operation);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, operation, "cannot test the hash kernel");
    for (uint32_t i = 0; i < TEST_N; i++) {
        uint64_t expected = usk_hash((const char *)data + i * TEST_PIECE_BYTES, TEST_PIECE_BYTES);

        if (hash->results[i] != expected)
            return usk_error_set(error, UNSTICK_MISMATCH, 0, "hash",
                                 "the hash kernel gives %#" PRIx64 " where the reference gives %#" PRIx64,
                                 hash->results[i], expected);
    }
    return UNSTICK_OK;
}

static int hash_load(struct usk_cuda_hash *hash, struct usk_cuda_core *core, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver = core->driver;
    usk_cu_result result;
    void *results;

    result = driver->cuModuleLoadData(&hash->module, usk_cuda_hash_ptx);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuModuleLoadData", "the driver does not compile the hash kernel");
    result = driver->cuModuleGetFunction(&hash->kernel, hash->module, USK_CUDA_HASH_KERNEL);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuModuleGetFunction", "the hash kernel is not in its module");
    result = driver->cuModuleGetFunction(&hash->publish, hash->module, USK_CUDA_PUBLISH_KERNEL);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuModuleGetFunction",
                             "half of the hash kernel is not in its module");
    result = driver->cuMemAlloc(&hash->sums, SUMS_BYTES + TEST_BYTES);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemAlloc", "no device memory for hashes");
    result = driver->cuMemHostAlloc(&results, SUMS_BYTES, USK_CU_MEMHOSTALLOC_PORTABLE);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemHostAlloc", "no pinned host memory for hashes");
    hash->results = results;
    return UNSTICK_OK;
}

int usk_cuda_hash_init(struct usk_cuda_hash *hash, struct usk_cuda_core *core, unsigned int n_multiprocessors,
                       usk_cu_stream stream, struct unstick_error *error)
{
    int r;

    *hash = (struct usk_cuda_hash){ .n_blocks_best = n_multiprocessors * BLOCKS_PER_MULTIPROCESSOR };
    r = hash_load(hash, core, error);
    if (r == UNSTICK_OK)
        r = hash_test(hash, core, stream, error);
    if (r == UNSTICK_OK)
        return UNSTICK_OK;
    usk_cuda_hash_fini(hash, usk_cuda_is_lost(core) ? NULL : core);
    if (r == UNSTICK_DEVICE_LOST)
        return r;
    if (error)
        error->status = UNSTICK_UNSUPPORTED;
    return UNSTICK_UNSUPPORTED;
}

void usk_cuda_hash_fini(struct usk_cuda_hash *hash, struct usk_cuda_core *core)
{
    if (core && hash->results)
        core->driver->cuMemFreeHost(hash->results);
    if (core && hash->sums)
        core->driver->cuMemFree(hash->sums);
    if (core && hash->module)
        core->driver->cuModuleUnload(hash->module);
    *hash = (struct usk_cuda_hash){ 0 };
}
