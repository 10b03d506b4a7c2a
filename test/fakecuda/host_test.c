/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

#define PAGE 4096

static unsigned char *map_new(int rights, int flags, int fd, uint64_t bytes)
{
    void *address = mmap(NULL, bytes, rights, flags, fd, 0);

    assert_ptr_not_equal(address, MAP_FAILED);
    return address;
}

static unsigned char *anonymous_new(uint64_t bytes)
{
    return map_new(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, bytes);
}

static void test_registrations(void **state)
{
    unsigned char *host = anonymous_new(4 * PAGE);

    (void)state;
    assert_cu(cuMemHostRegister_v2(NULL, PAGE, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(host, 0, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(host, PAGE, 16), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(host, PAGE, CU_MEMHOSTREGISTER_IOMEMORY), ERROR_NOT_SUPPORTED);
    assert_cu(cuMemHostRegister_v2(host, UINT64_C(512) << 30, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(host, 2 * PAGE, 0), SUCCESS);
    assert_cu(cuMemHostRegister_v2(host, 2 * PAGE, 0), ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    assert_cu(cuMemHostRegister_v2(host + PAGE, 2 * PAGE, 0), ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    assert_int_equal(test_live().registrations, 1);
    assert_int_equal(test_live().registered_bytes, 2 * PAGE);
    assert_cu(cuMemHostUnregister(host + PAGE), ERROR_HOST_MEMORY_NOT_REGISTERED);
    assert_cu(cuMemHostUnregister(NULL), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostUnregister(host), SUCCESS);
    assert_cu(cuMemHostUnregister(host), ERROR_HOST_MEMORY_NOT_REGISTERED);
    munmap(host + PAGE, PAGE);
    assert_cu(cuMemHostRegister_v2(host, 4 * PAGE, 0), ERROR_INVALID_VALUE); /* a hole */
    mprotect(host, PAGE, PROT_NONE);
    assert_cu(cuMemHostRegister_v2(host, PAGE, 0), ERROR_INVALID_VALUE);
    munmap(host, 4 * PAGE);
    assert_cu(cuMemHostRegister_v2(host, PAGE, 0), ERROR_INVALID_VALUE);
}

/* The page cache as the source of copies: read-only, and said so. */
static void test_files(void **state)
{
    char path[] = "fakecuda-host-test-XXXXXX";
    int fd = mkstemp(path), memory = memfd_create("host-test", 0);
    unsigned char *writable, *readable, *memfd;
    CUdeviceptr address = test_memory(GRAIN);
    int value;

    (void)state;
    assert_true(fd >= 0 && memory >= 0);
    unlink(path);
    assert_int_equal(ftruncate(fd, PAGE), 0);
    assert_int_equal(ftruncate(memory, PAGE), 0);
    writable = map_new(PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE);
    readable = map_new(PROT_READ, MAP_SHARED, fd, 2 * PAGE);
    memfd = map_new(PROT_READ | PROT_WRITE, MAP_SHARED, memory, PAGE);
    assert_cu(cuDeviceGetAttribute(&value, CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 0), SUCCESS);
    assert_int_equal(value, 1);
    assert_cu(cuMemHostRegister_v2(writable, PAGE, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(writable, PAGE, CU_MEMHOSTREGISTER_READ_ONLY), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(readable, PAGE, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(readable, 2 * PAGE, CU_MEMHOSTREGISTER_READ_ONLY), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostRegister_v2(memfd, PAGE, 0), SUCCESS);
    assert_cu(cuMemHostRegister_v2(readable, PAGE, CU_MEMHOSTREGISTER_READ_ONLY), SUCCESS);
    writable[10] = 77;
    assert_cu(cuMemcpyHtoD_v2(address, readable, PAGE), SUCCESS);
    assert_cu(cuMemcpyDtoH_v2(memfd, address, PAGE), SUCCESS);
    assert_int_equal(memfd[10], 77);
    assert_cu(cuMemcpyDtoH_v2(readable, address, PAGE), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostUnregister(readable), SUCCESS);
    assert_cu(cuMemHostUnregister(memfd), SUCCESS);
    control.set("NO_READ_ONLY_REGISTER=1");
    assert_cu(cuDeviceGetAttribute(&value, CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 0), SUCCESS);
    assert_int_equal(value, 0);
    assert_cu(cuMemHostRegister_v2(readable, PAGE, CU_MEMHOSTREGISTER_READ_ONLY), ERROR_NOT_SUPPORTED);
    munmap(writable, PAGE);
    munmap(readable, 2 * PAGE);
    munmap(memfd, PAGE);
    close(fd);
    close(memory);
    test_memory_free(address, GRAIN);
}

static void test_copies_stay_in_one_registration(void **state)
{
    unsigned char *host = anonymous_new(4 * PAGE);
    CUdeviceptr address = test_memory(GRAIN);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    assert_cu(cuMemHostRegister_v2(host, 2 * PAGE, 0), SUCCESS);
    assert_cu(cuMemHostRegister_v2(host + 2 * PAGE, PAGE, 0), SUCCESS);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host, 2 * PAGE, stream), SUCCESS);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host + PAGE, 2 * PAGE, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoHAsync_v2(host + PAGE, address, 2 * PAGE, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host + 2 * PAGE, 2 * PAGE, stream), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host + 3 * PAGE, PAGE, stream), SUCCESS); /* pageable */
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(cuMemHostUnregister(host), SUCCESS);
    assert_int_equal(test_misuse().unregistered_in_use, 0);
    control.hold(stream, 1);
    assert_cu(cuMemcpyHtoDAsync_v2(address, host + 2 * PAGE, PAGE, stream), SUCCESS);
    assert_cu(cuMemHostUnregister(host + 2 * PAGE), SUCCESS);
    assert_int_equal(test_misuse().unregistered_in_use, 1);
    control.hold(stream, 0);
    assert_cu(cuStreamSynchronize(stream), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    munmap(host, 4 * PAGE);
    test_memory_free(address, GRAIN);
}

static void test_host_allocations(void **state)
{
    void *host;

    (void)state;
    assert_cu(cuMemHostAlloc(NULL, 1, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostAlloc(&host, 0, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemHostAlloc(&host, SIZE_MAX, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemHostAlloc(&host, SIZE_MAX / 2, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemHostAlloc(&host, 100, 0), SUCCESS);
    assert_int_equal(test_live().host_allocations, 1);
    assert_cu(cuMemHostRegister_v2(host, 100, 0), ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    assert_cu(cuMemHostUnregister(host), ERROR_HOST_MEMORY_NOT_REGISTERED);
    assert_cu(cuMemFreeHost((char *)host + 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemFreeHost(host), SUCCESS);
    assert_cu(cuMemFreeHost(host), ERROR_INVALID_VALUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_registrations),
        test_case(test_files),
        test_case(test_copies_stay_in_one_registration),
        test_case(test_host_allocations),
    };

    return cmocka_run_group_tests_name("host", tests, test_load, NULL);
}
