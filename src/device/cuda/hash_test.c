/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cuda/hash.h"

#include "base/hash.h"
#include "device/cuda/fake_test.h"

static char last_line[512];

static void keep_line(void *userdata, enum unstick_log_level level, const char *line)
{
    (void)userdata;
    (void)level;
    strncpy(last_line, line, sizeof(last_line) - 1);
}

/* The device works and says that it cannot hash, and why. */
static void check_unhashed(const char *why)
{
    const struct usk_log log = { .sink = keep_line, .level = UNSTICK_LOG_WARNING };
    uint64_t address, handle;

    memset(last_line, 0, sizeof(last_line));
    OK(usk_cuda_open_with(&table, "0", event_fd, &log, &dev, &error));
    assert_false(dev->caps.can_hash);
    assert_null(dev->hash_results);
    assert_non_null(strstr(last_line, why));
    memory_new(UNIT, &address, &handle);
    FAILS(UNSTICK_UNSUPPORTED, dev->ops->hash(dev, USK_LANE_HASH, address, UNIT, 1, 0, &error));
    OK(dev->ops->fill(dev, USK_LANE_HASH, address, 1, UNIT, &error));
    wait_lane(USK_LANE_HASH);
    memory_free(UNIT, address, handle);
    usk_device_close(dev);
    dev = NULL;
    fail_nothing();
}

static void test_kernel_does_not_load(void **state)
{
    (void)state;
    fail_at("cuModuleLoadData", 1, USK_CU_UNSUPPORTED_PTX_VERSION);
    check_unhashed("CUDA_ERROR_UNSUPPORTED_PTX_VERSION");
    fail_at("cuModuleGetFunction", 1, USK_CU_NOT_FOUND);
    check_unhashed("CUDA_ERROR_NOT_FOUND");
    fail_at("cuLaunchKernel", 1, USK_CU_LAUNCH_OUT_OF_RESOURCES);
    check_unhashed("cuLaunchKernel said CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES");
}

static usk_cu_result launch_nothing(usk_cu_function function, unsigned int grid_x, unsigned int grid_y,
                                    unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                    unsigned int block_z, unsigned int shared_bytes, usk_cu_stream stream,
                                    void **parameters, void **extra)
{
    (void)function;
    (void)grid_x;
    (void)grid_y;
    (void)grid_z;
    (void)block_x;
    (void)block_y;
    (void)block_z;
    (void)shared_bytes;
    (void)stream;
    (void)parameters;
    (void)extra;
    return USK_CU_SUCCESS;
}

/* A kernel that gives other sums than the reference is not used. */
static void test_wrong_kernel(void **state)
{
    (void)state;
    table.cuLaunchKernel = launch_nothing;
    check_unhashed("where the reference gives");
}

static void test_arguments(void **state)
{
    uint64_t address, handle;

    (void)state;
    open_device();
    memory_new(UNIT, &address, &handle);
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, 4096, 0, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, 0, 1, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, 4095, 1, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address + 8, 4096, 1, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, UINT64_C(1) << 63, 2, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, 4096, 2, 4095, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_LANE_HASH, address, 16, 4097, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->hash(dev, USK_N_LANES, address, 4096, 1, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->fill(dev, (enum usk_lane)-1, address, 0, 16, &error));
    OK(dev->ops->fill(dev, USK_LANE_HASH, address, 0x3c, UNIT, &error));
    OK(dev->ops->hash(dev, USK_LANE_HASH, address, 16, 4096, 0, &error));
    wait_lane(USK_LANE_HASH);
    for (int i = 0; i < 4096; i++)
        assert_true(dev->hash_results[i] == dev->hash_results[0]);
    memory_free(UNIT, address, handle);
}

/* The blocks of a launch: at least one, never without a tile, enough to fill the device, none with more than 16. */
static void test_blocks(void **state)
{
    static const uint64_t sizes[] = { 16, 16384, 16400, 1 << 20, 64 << 20, UINT64_C(256) << 30 };
    static const uint32_t counts[] = { 1, 2, 5, 272, 4096 };

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t k = 0; k < sizeof(counts) / sizeof(counts[0]); k++) {
            uint64_t n_tiles = (sizes[i] + 16383) / 16384, n = usk_cuda_hash_blocks(sizes[i], counts[k], 1056);

            assert_true(n >= 1 && n <= n_tiles && n <= INT32_MAX);
            assert_true(n * counts[k] >= 1056 || n == n_tiles);
        }
    }
    assert_int_equal(usk_cuda_hash_blocks(64 << 20, 1, 1056), 1056);
    assert_int_equal(usk_cuda_hash_blocks(64 << 20, 272, 1056), 4);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        driver_test(test_kernel_does_not_load),
        driver_test(test_wrong_kernel),
        driver_test(test_arguments),
        driver_test(test_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
