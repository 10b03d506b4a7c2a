/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "test.h"

static unsigned char *host_new(uint64_t bytes)
{
    void *host;

    assert_cu(cuMemHostAlloc(&host, bytes, 0), SUCCESS);
    return host;
}

static int is_all(const unsigned char *bytes, unsigned char value, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (bytes[i] != value)
            return 0;
    return 1;
}

/* Two mappings side by side: what is copied may cross their border. */
static CUdeviceptr two_mappings(void)
{
    CUdeviceptr address = test_reserve(2 * GRAIN);

    for (unsigned int i = 0; i < 2; i++) {
        CUmemGenericAllocationHandle handle = test_create(GRAIN);

        assert_cu(cuMemMap(address + i * GRAIN, GRAIN, 0, handle, 0), SUCCESS);
        assert_cu(cuMemRelease(handle), SUCCESS);
    }
    assert_cu(test_access(address, 2 * GRAIN, CU_MEM_ACCESS_READWRITE), SUCCESS);
    return address;
}

static void test_copies_and_fills(void **state)
{
    CUdeviceptr from = two_mappings(), to = two_mappings();
    unsigned char *host = host_new(MIB), *back = host_new(MIB);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    for (unsigned int i = 0; i < MIB; i++)
        host[i] = (unsigned char)(i * 7 + i / 256);
    assert_cu(cuMemcpyHtoDAsync_v2(from + GRAIN - 1000, host, MIB, stream), SUCCESS);
    assert_cu(cuMemcpyDtoDAsync_v2(to + GRAIN - 500, from + GRAIN - 1000, MIB, stream), SUCCESS);
    assert_cu(cuMemcpyDtoHAsync_v2(back, to + GRAIN - 500, MIB, stream), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_memory_equal(back, host, MIB);
    assert_cu(cuMemsetD8Async(to + GRAIN - 3, 0xab, 7, stream), SUCCESS);
    assert_cu(cuMemsetD32Async(from + GRAIN - 8, 0x04030201, 4, stream), SUCCESS);
    assert_cu(cuMemcpyDtoHAsync_v2(back, to + GRAIN - 3, 7, stream), SUCCESS);
    assert_cu(cuMemcpyDtoHAsync_v2(back + 16, from + GRAIN - 8, 16, stream), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_true(is_all(back, 0xab, 7));
    for (unsigned int i = 0; i < 16; i++)
        assert_int_equal(back[16 + i], i % 4 + 1);
    assert_cu(cuMemFreeHost(host), SUCCESS);
    assert_cu(cuMemFreeHost(back), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    test_memory_free(from, 2 * GRAIN);
    test_memory_free(to, 2 * GRAIN);
}

/* Registered memory is copied when the stream gets there, pageable memory before the call returns. */
static void test_pageable_copies_wait(void **state)
{
    static unsigned char pageable[256];
    CUdeviceptr address = test_memory(GRAIN);
    unsigned char *pinned = host_new(256);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    assert_cu(cuMemsetD8_v2(address, 5, 256), SUCCESS);
    control.hold(stream, 1);
    assert_cu(cuMemcpyDtoHAsync_v2(pinned, address, 256, stream), SUCCESS);
    assert_cu(cuStreamQuery(stream), ERROR_NOT_READY);
    assert_true(is_all(pinned, 0, 256));
    control.hold(stream, 0);
    assert_cu(cuMemcpyDtoHAsync_v2(pageable, address, 256, stream), SUCCESS);
    assert_true(is_all(pageable, 5, 256));
    assert_true(is_all(pinned, 5, 256));
    assert_cu(cuMemFreeHost(pinned), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    test_memory_free(address, GRAIN);
}

/* What can be seen at submission is refused, and nothing else happens. */
static void test_bad_copies_are_refused(void **state)
{
    CUdeviceptr address = test_reserve(2 * GRAIN), memory = test_memory(GRAIN);
    unsigned char *host = host_new(MIB);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    assert_cu(cuMemcpyHtoDAsync_v2(address, host, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoHAsync_v2(host, address, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoDAsync_v2(address, memory, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoDAsync_v2(memory, address, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemsetD8Async(address, 0, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemsetD8Async(memory, 0, GRAIN + 1, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemsetD8Async(memory + 1, 0, UINT64_MAX, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemsetD32Async(memory + 2, 0, 1, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(memory, NULL, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoHAsync_v2(NULL, memory, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(memory, host + MIB - 8, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(memory, (void *)(uintptr_t)memory, 16, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(memory, host, 16, (CUstream)(uintptr_t)99), ERROR_INVALID_HANDLE);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host, 0, stream), SUCCESS);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(cuMemFreeHost(host), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    assert_cu(cuMemAddressFree(address, 2 * GRAIN), SUCCESS);
    test_memory_free(memory, GRAIN);
}

static void test_memory_unmapped_before_the_work(void **state)
{
    CUdeviceptr address = test_memory(GRAIN);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    size_t free_bytes, total;

    (void)state;
    control.hold(stream, 1);
    assert_cu(cuMemsetD8Async(address, 1, GRAIN, stream), SUCCESS);
    test_memory_free(address, GRAIN);
    assert_int_equal(test_misuse().unmapped_in_use, 0);
    control.hold(stream, 0);
    assert_cu(cuStreamSynchronize(stream), ERROR_ILLEGAL_ADDRESS);
    assert_int_equal(test_misuse().unmapped_in_use, 1);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), ERROR_ILLEGAL_ADDRESS);
    test_revive();
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

/* The copy runs into memory that was its own and goes meanwhile: nobody crashes, the context fails. */
static void unmap_while_it_runs(CUdeviceptr to, CUdeviceptr from, int gone)
{
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);
    const volatile unsigned char *seen = (const unsigned char *)(uintptr_t)to;

    control.hold(stream, 2);
    if (from)
        assert_cu(cuMemcpyDtoDAsync_v2(to, from, GRAIN, stream), SUCCESS);
    else
        assert_cu(cuMemsetD8Async(to, 1, GRAIN, stream), SUCCESS);
    while (!seen[0])
        ;
    test_memory_free(gone == 0 ? to : from, GRAIN);
    assert_cu(cuStreamQuery(stream), ERROR_NOT_READY);
    control.hold(stream, 0);
    assert_cu(cuStreamSynchronize(stream), ERROR_ILLEGAL_ADDRESS);
    assert_int_equal(test_misuse().unmapped_in_use, 1);
    test_revive();
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
}

static void test_memory_unmapped_during_the_work(void **state)
{
    CUdeviceptr from = test_memory(GRAIN), to = test_memory(GRAIN);

    (void)state;
    unmap_while_it_runs(test_memory(GRAIN), 0, 0);
    assert_cu(cuMemsetD8_v2(from, 1, GRAIN), SUCCESS);
    unmap_while_it_runs(to, from, 1);
    test_memory_free(to, GRAIN);
}

static void test_memory_gone_on_the_other_side(void **state)
{
    CUdeviceptr from = test_memory(GRAIN), to = test_memory(GRAIN);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    control.hold(stream, 1);
    assert_cu(cuMemcpyDtoDAsync_v2(to, from, GRAIN, stream), SUCCESS);
    assert_cu(test_access(to, GRAIN, CU_MEM_ACCESS_READ), SUCCESS);
    control.hold(stream, 0);
    assert_cu(cuStreamSynchronize(stream), ERROR_ILLEGAL_ADDRESS);
    test_revive();
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    test_memory_free(from, GRAIN);
    test_memory_free(to, GRAIN);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void test_copies_take_time(void **state)
{
    CUdeviceptr address = test_memory(GRAIN);
    uint64_t started;

    (void)state;
    control.set("COPY_GBPS=0.5");
    started = now_ns();
    assert_cu(cuMemsetD8_v2(address, 1, GRAIN), SUCCESS);
    assert_true(now_ns() - started >= 4 * GRAIN / 2);
    control.set("COPY_GBPS=0");
    control.set("COPY_DELAY_MS=3");
    started = now_ns();
    assert_cu(cuMemsetD8_v2(address, 1, 16), SUCCESS);
    assert_true(now_ns() - started >= 3000000);
    test_memory_free(address, GRAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_copies_and_fills),
        test_case(test_pageable_copies_wait),
        test_case(test_bad_copies_are_refused),
        test_case(test_memory_unmapped_before_the_work),
        test_case(test_memory_unmapped_during_the_work),
        test_case(test_memory_gone_on_the_other_side),
        test_case(test_copies_take_time),
    };

    return cmocka_run_group_tests_name("copy", tests, test_load, NULL);
}
