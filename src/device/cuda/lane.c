/* SPDX-License-Identifier: Apache-2.0 */
/* Lanes are streams of our own that wait for no other stream; see device.h for what runs in them. */
#include "device/cuda/cuda.h"

#include "base/hash.h"
#include "base/math.h"

/* 512 blocks of 256 threads fill the largest GPU of today with one piece; smaller pieces take fewer. */
#define LANE_HASH_MAX_BLOCKS 512
#define LANE_HASH_LEAVES_PER_THREAD 8

int usk_cuda_copy_up(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *host, uint64_t bytes,
                     struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemcpyHtoDAsync(address, host, bytes, cuda->lanes[lane]),
                          "cuMemcpyHtoDAsync", UNSTICK_OUT_OF_HOST_MEMORY, error);
}

int usk_cuda_copy_down(struct usk_device *dev, enum usk_lane lane, void *host, uint64_t address, uint64_t bytes,
                       struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemcpyDtoHAsync(host, address, bytes, cuda->lanes[lane]),
                          "cuMemcpyDtoHAsync", UNSTICK_OUT_OF_HOST_MEMORY, error);
}

int usk_cuda_copy_across(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                         struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemcpyDtoDAsync(to, from, bytes, cuda->lanes[lane]),
                          "cuMemcpyDtoDAsync", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
}

int usk_cuda_fill(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                  struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    return usk_cuda_check(cuda, cuda->driver->cuMemsetD8Async(address, value, bytes, cuda->lanes[lane]),
                          "cuMemsetD8Async", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
}

static usk_cu_result lane_launch_hash(struct usk_cuda *cuda, usk_cu_stream stream, uint64_t address,
                                      uint64_t piece_bytes, uint32_t n, usk_cu_ptr results)
{
    void *parameters[USK_CUDA_HASH_N_PARAMETERS] = {
        [USK_CUDA_HASH_ADDRESS] = &address,
        [USK_CUDA_HASH_PIECE_BYTES] = &piece_bytes,
        [USK_CUDA_HASH_RESULTS] = &results,
    };
    uint64_t n_threads = usk_div_up(piece_bytes / USK_HASH_LEAF_BYTES, LANE_HASH_LEAVES_PER_THREAD);
    unsigned int n_blocks = (unsigned int)usk_min(usk_div_up(n_threads, USK_CUDA_HASH_BLOCK), LANE_HASH_MAX_BLOCKS);

    return cuda->driver->cuLaunchKernel(cuda->hash, n_blocks, n, 1, USK_CUDA_HASH_BLOCK, 1, 1, 0, stream, parameters,
                                        NULL);
}

int usk_cuda_hash(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                  uint32_t slot, struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    usk_cu_ptr results = cuda->results + (uint64_t)slot * sizeof(uint64_t);
    usk_cu_stream stream = cuda->lanes[lane];
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuMemsetD8Async(results, 0, n * sizeof(uint64_t), stream),
                       "cuMemsetD8Async", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, lane_launch_hash(cuda, stream, address, piece_bytes, n, results), "cuLaunchKernel",
                       UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r < 0)
        return r;
    return usk_cuda_check(
        cuda,
        cuda->driver->cuMemcpyDtoHAsync(&cuda->pinned_results[slot], results, n * sizeof(uint64_t), stream),
        "cuMemcpyDtoHAsync", UNSTICK_OUT_OF_HOST_MEMORY, error);
}
