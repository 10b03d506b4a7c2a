/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/hash.h"
#include "device/cuda/abi.h"

#include "test.h"

#define PTX_HEAD(_version, _target) "// made for a test\n.version " _version "\n.target " _target "\n.address_size 64\n"
#define PTX_ENTRY(_name)                                                                                     \
    ".visible .entry " _name "(\n    .param .u64 address,\n    .param .u64 piece_bytes,\n    .param .u64 results\n)" \
    "{\n    ret;\n}\n"

static const char ptx[] = PTX_HEAD("6.0", "sm_60") PTX_ENTRY("other") PTX_ENTRY(USK_CUDA_HASH_KERNEL);

static CUfunction function_of(CUmodule *ret_module)
{
    CUfunction function;

    assert_cu(cuModuleLoadData(ret_module, ptx), SUCCESS);
    assert_cu(cuModuleGetFunction(&function, *ret_module, USK_CUDA_HASH_KERNEL), SUCCESS);
    return function;
}

static CUresult launch(CUfunction function, unsigned int n, CUstream stream, uint64_t address, uint64_t piece_bytes,
                       uint64_t results)
{
    void *parameters[] = {&address, &piece_bytes, &results};

    return cuLaunchKernel(function, 8, n, 1, USK_CUDA_HASH_BLOCK, 1, 1, 0, stream, parameters, NULL);
}

static void test_ptx_is_looked_at(void **state)
{
    CUmodule module;
    CUfunction function;

    (void)state;
    assert_cu(cuModuleLoadData(&module, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuModuleLoadData(&module, "#include <cuda.h>"), ERROR_INVALID_PTX);
    assert_cu(cuModuleLoadData(&module, ".version 6.0\n.address_size 64\n"), ERROR_INVALID_PTX);
    assert_cu(cuModuleLoadData(&module, PTX_HEAD("9.9", "sm_60")), ERROR_UNSUPPORTED_PTX_VERSION);
    assert_cu(cuModuleLoadData(&module, PTX_HEAD("6.0", "sm_100")), ERROR_NO_BINARY_FOR_GPU);
    control.set("DRIVER=11040");
    assert_cu(cuModuleLoadData(&module, PTX_HEAD("7.5", "sm_60")), ERROR_UNSUPPORTED_PTX_VERSION);
    assert_cu(cuModuleLoadData(&module, PTX_HEAD("7.4", "sm_60") ".entry broken"), SUCCESS);
    assert_cu(cuModuleGetFunction(&function, module, "broken"), ERROR_NOT_FOUND);
    assert_cu(cuModuleGetFunction(&function, module, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuModuleUnload(module), SUCCESS);
    assert_cu(cuModuleUnload(module), ERROR_INVALID_HANDLE);
    assert_cu(cuModuleGetFunction(&function, module, "broken"), ERROR_INVALID_HANDLE);
}

static void test_launches_are_checked(void **state)
{
    static const char wrong[] = PTX_HEAD("6.0", "sm_60") ".entry " USK_CUDA_HASH_KERNEL "(.param .u32 address)\n{}\n";
    CUdeviceptr address = test_memory(GRAIN);
    uint64_t piece_bytes = 16;
    void *parameters[] = {&address, &piece_bytes, &address};
    CUmodule module, other;
    CUfunction function = function_of(&module), unknown;

    (void)state;
    assert_cu(launch(function, 0, NULL, address, 16, address), ERROR_INVALID_VALUE);
    assert_cu(launch(function, 65536, NULL, address, 16, address), ERROR_INVALID_VALUE);
    assert_cu(cuLaunchKernel(function, 1, 1, 1, 2048, 1, 1, 0, NULL, parameters, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuLaunchKernel(function, 1, 1, 1, 16, 1, 1, 0, NULL, parameters, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, parameters), ERROR_INVALID_VALUE);
    assert_cu(cuLaunchKernel(NULL, 1, 1, 1, 32, 1, 1, 0, NULL, parameters, NULL), ERROR_INVALID_HANDLE);
    assert_cu(cuModuleGetFunction(&unknown, module, "other"), SUCCESS);
    assert_cu(launch(unknown, 1, NULL, address, 16, address), ERROR_NOT_SUPPORTED);
    assert_cu(cuModuleLoadData(&other, wrong), SUCCESS);
    assert_cu(cuModuleGetFunction(&unknown, other, USK_CUDA_HASH_KERNEL), SUCCESS);
    assert_cu(launch(unknown, 1, NULL, address, 16, address), ERROR_INVALID_VALUE);
    assert_cu(cuModuleUnload(other), SUCCESS);
    assert_cu(cuModuleUnload(module), SUCCESS);
    assert_cu(launch(function, 1, NULL, address, 16, address), ERROR_INVALID_HANDLE);
    test_memory_free(address, GRAIN);
}

/* Pieces within a mapping and across two; results in device memory and in the host's; sums, not values. */
static void test_hashes(void **state)
{
    CUdeviceptr address = test_reserve(2 * GRAIN), sums = test_memory(GRAIN);
    uint64_t expected[3], *host, back[3];
    CUmodule module;
    CUfunction function = function_of(&module);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    unsigned char *bytes = malloc(3 * MIB);
    void *pinned;

    (void)state;
    for (unsigned int i = 0; i < 2; i++) {
        CUmemGenericAllocationHandle handle = test_create(GRAIN);

        assert_cu(cuMemMap(address + i * GRAIN, GRAIN, 0, handle, 0), SUCCESS);
        assert_cu(cuMemRelease(handle), SUCCESS);
    }
    assert_cu(test_access(address, 2 * GRAIN, CU_MEM_ACCESS_READWRITE), SUCCESS);
    for (unsigned int i = 0; i < 3 * MIB; i++)
        bytes[i] = (unsigned char)(i * 31 + i / 999);
    assert_cu(cuMemcpyHtoD_v2(address + 512 * 1024, bytes, 3 * MIB), SUCCESS);
    assert_cu(test_access(address, 2 * GRAIN, CU_MEM_ACCESS_READ), SUCCESS);
    for (unsigned int i = 0; i < 3; i++)
        expected[i] = usk_hash(bytes + i * MIB, MIB);
    assert_cu(cuMemHostAlloc(&pinned, 4096, 0), SUCCESS);
    host = pinned;
    host[1] = 10;
    assert_cu(launch(function, 3, stream, address + 512 * 1024, MIB, (uint64_t)(uintptr_t)host), SUCCESS);
    assert_cu(launch(function, 3, stream, address + 512 * 1024, MIB, sums), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_int_equal(host[0], expected[0]);
    assert_int_equal(host[1], expected[1] + 10);
    assert_int_equal(host[2], expected[2]);
    assert_cu(cuMemcpyDtoH_v2(back, sums, sizeof(back)), SUCCESS);
    assert_memory_equal(back, expected, sizeof(back));
    free(bytes);
    assert_cu(cuMemFreeHost(pinned), SUCCESS);
    assert_cu(cuModuleUnload(module), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    test_memory_free(address, 2 * GRAIN);
    test_memory_free(sums, GRAIN);
}

/* A kernel that faults ends the context, for all streams and all calls. */
static void test_kernels_fault(void **state)
{
    CUdeviceptr address = test_reserve(2 * GRAIN), memory = test_memory(GRAIN);
    const struct {
        uint64_t address, piece_bytes, results;
        CUresult result;
    } cases[] = {
        {address, 16, memory, CUDA_ERROR_ILLEGAL_ADDRESS},
        {memory, 16, address, CUDA_ERROR_ILLEGAL_ADDRESS},
        {memory, 16, (uint64_t)(uintptr_t)&address, CUDA_ERROR_ILLEGAL_ADDRESS}, /* pageable */
        {memory + 8, 16, memory, CUDA_ERROR_MISALIGNED_ADDRESS},
        {memory, 16, memory + 4, CUDA_ERROR_MISALIGNED_ADDRESS},
        {memory, 24, memory, CUDA_ERROR_LAUNCH_FAILED},
    };
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        CUmodule module;
        CUfunction function = function_of(&module);

        assert_cu(launch(function, 1, stream, cases[i].address, cases[i].piece_bytes, cases[i].results), SUCCESS);
        assert_int_equal(cuStreamSynchronize(stream), cases[i].result);
        assert_int_equal(cuModuleUnload(module), cases[i].result);
        test_revive();
        assert_cu(cuModuleUnload(module), SUCCESS);
    }
    assert_int_equal(test_misuse().unmapped_in_use, 0);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuMemAddressFree(address, 2 * GRAIN), SUCCESS);
    test_memory_free(memory, GRAIN);
}

/* What stray kernels of the host program do to an evicted range. */
static void test_stray_kernels(void **state)
{
    CUdeviceptr memory = test_memory(GRAIN);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    assert_cu(control.kernel_write(stream, memory + 5, 9, 3), SUCCESS);
    assert_cu(control.kernel_read(NULL, memory, GRAIN), SUCCESS);
    assert_cu(cuCtxSynchronize(), SUCCESS);
    assert_int_equal(*(volatile unsigned char *)(uintptr_t)(memory + 7), 9);
    assert_int_equal(*(volatile unsigned char *)(uintptr_t)(memory + 8), 0);
    assert_cu(test_access(memory, GRAIN, CU_MEM_ACCESS_READ), SUCCESS);
    assert_cu(control.kernel_read(stream, memory, GRAIN), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(control.kernel_write(stream, memory, 1, 1), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), ERROR_ILLEGAL_ADDRESS);
    test_revive();
    assert_int_equal(control.kernel_read((void *)3, memory, 1), CUDA_ERROR_INVALID_HANDLE);
    test_memory_free(memory, GRAIN);
    assert_cu(control.kernel_read(stream, memory, 1), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), ERROR_ILLEGAL_ADDRESS);
    test_revive();
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_ptx_is_looked_at),
        test_case(test_launches_are_checked),
        test_case(test_hashes),
        test_case(test_kernels_fault),
        test_case(test_stray_kernels),
    };

    return cmocka_run_group_tests_name("module", tests, test_load, NULL);
}
