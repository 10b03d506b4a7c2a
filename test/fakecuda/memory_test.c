/* SPDX-License-Identifier: Apache-2.0 */
#include "test.h"

static void test_granularity(void **state)
{
    CUmemAllocationProp prop = test_prop();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    size_t bytes;

    (void)state;
    assert_cu(cuMemGetAllocationGranularity(&bytes, &prop, CU_MEM_GRANULARITY_MINIMUM), SUCCESS);
    assert_int_equal(bytes, GRAIN);
    assert_cu(cuMemGetAllocationGranularity(&bytes, &prop, 2), ERROR_INVALID_VALUE);
    assert_cu(cuMemCreate(&handle, MIB, &prop, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemCreate(&handle, 0, &prop, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemCreate(&handle, GRAIN, NULL, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressReserve(&address, MIB, 0, 0, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressReserve(&address, GRAIN, 3, 0, 0), ERROR_INVALID_VALUE);
    prop.location.id = 1;
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), ERROR_INVALID_DEVICE);
    prop = test_prop();
    prop.requestedHandleTypes = 8;
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), ERROR_NOT_SUPPORTED);
}

static void test_reservations(void **state)
{
    CUdeviceptr address;

    (void)state;
    assert_cu(cuMemAddressReserve(&address, GRAIN, 64 * MIB, 0, 0), SUCCESS);
    assert_int_equal(address % (64 * MIB), 0);
    assert_cu(cuMemAddressFree(address, 2 * GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressFree(address + GRAIN, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressFree(address, GRAIN), SUCCESS);
    assert_cu(cuMemAddressFree(address, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressReserve(&address, UINT64_C(1) << 60, 0, 0, 0), ERROR_OUT_OF_MEMORY);
}

static void test_map_goes_by_whole_handles(void **state)
{
    CUmemGenericAllocationHandle handle = test_create(2 * GRAIN);
    CUdeviceptr address = test_reserve(4 * GRAIN);

    (void)state;
    assert_cu(cuMemMap(address, GRAIN, 0, handle, 0), ERROR_NOT_SUPPORTED);
    assert_cu(cuMemMap(address, GRAIN, GRAIN, handle, 0), ERROR_NOT_SUPPORTED);
    assert_cu(cuMemMap(address, 4 * GRAIN, 0, handle, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemMap(address, 2 * GRAIN, GRAIN, handle, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemMap(address + MIB, 2 * GRAIN, 0, handle, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemMap(address, 2 * GRAIN, 0, handle, 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemMap(address + 3 * GRAIN, 2 * GRAIN, 0, handle, 0), ERROR_INVALID_VALUE);
    assert_int_equal(test_misuse().stale_handles, 0);
    assert_cu(cuMemMap(address, 2 * GRAIN, 0, handle + 1, 0), ERROR_INVALID_VALUE);
    assert_int_equal(test_misuse().stale_handles, 1);
    assert_cu(cuMemMap(address, 2 * GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(cuMemMap(address + GRAIN, 2 * GRAIN, 0, handle, 0), ERROR_INVALID_VALUE);
    /* The same memory at a second address. */
    assert_cu(cuMemMap(address + 2 * GRAIN, 2 * GRAIN, 0, handle, 0), SUCCESS);
    assert_int_equal(test_live().mappings, 2);
    assert_cu(cuMemAddressFree(address, 4 * GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemRelease(handle), SUCCESS);
    test_memory_free(address, 4 * GRAIN);
}

static void test_unmap_goes_by_whole_mappings(void **state)
{
    CUmemGenericAllocationHandle handle = test_create(2 * GRAIN);
    CUdeviceptr address = test_reserve(8 * GRAIN);

    (void)state;
    for (unsigned int i = 0; i < 3; i++)
        assert_cu(cuMemMap(address + 2 * i * GRAIN, 2 * GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(cuMemUnmap(address, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemUnmap(address + GRAIN, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemUnmap(address, 3 * GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemUnmap(address, 8 * GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemUnmap(address, 0), ERROR_INVALID_VALUE);
    assert_int_equal(test_live().mappings, 3);
    assert_cu(cuMemUnmap(address, 6 * GRAIN), SUCCESS);
    assert_cu(cuMemUnmap(address, 2 * GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_cu(cuMemAddressFree(address, 8 * GRAIN), SUCCESS);
}

static void test_access_is_asked_for(void **state)
{
    CUmemGenericAllocationHandle handle = test_create(GRAIN);
    CUdeviceptr address = test_reserve(2 * GRAIN);
    CUmemLocation here = {.type = CU_MEM_LOCATION_TYPE_DEVICE};
    CUmemAccessDesc elsewhere = {.location = {CU_MEM_LOCATION_TYPE_DEVICE, 7}, .flags = CU_MEM_ACCESS_READ};
    unsigned long long flags;
    char byte = 1;

    (void)state;
    assert_cu(cuMemMap(address, GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(cuMemMap(address + GRAIN, GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(cuMemGetAccess(&flags, &here, address), SUCCESS);
    assert_int_equal(flags, CU_MEM_ACCESS_NONE);
    assert_cu(cuMemcpyHtoD_v2(address, &byte, 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoH_v2(&byte, address, 1), ERROR_INVALID_VALUE);
    assert_cu(test_access(address, MIB, CU_MEM_ACCESS_READWRITE), ERROR_INVALID_VALUE);
    assert_cu(test_access(address, GRAIN, 2), ERROR_INVALID_VALUE);
    assert_cu(cuMemSetAccess(address, GRAIN, &elsewhere, 1), ERROR_INVALID_DEVICE);
    assert_cu(test_access(address, 2 * GRAIN, CU_MEM_ACCESS_READWRITE), SUCCESS);
    assert_cu(cuMemcpyHtoD_v2(address, &byte, 1), SUCCESS);
    assert_int_equal(*(volatile char *)(uintptr_t)(address + GRAIN), 1); /* one handle, seen from both sides */
    assert_cu(test_access(address, GRAIN, CU_MEM_ACCESS_READ), SUCCESS);
    assert_cu(cuMemcpyHtoD_v2(address, &byte, 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemsetD8_v2(address, 0, 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemcpyDtoH_v2(&byte, address, 1), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    test_memory_free(address, 2 * GRAIN);
}

static void test_memory_lives_to_the_last_mapping(void **state)
{
    CUmemGenericAllocationHandle handle = test_create(2 * GRAIN), again;
    CUdeviceptr address = test_reserve(2 * GRAIN);
    size_t free_bytes, before, total;

    (void)state;
    assert_cu(cuMemGetInfo_v2(&before, &total), SUCCESS);
    assert_int_equal(control.backed_bytes(0), 2 * GRAIN);
    assert_cu(cuMemMap(address, 2 * GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_cu(cuMemRelease(handle), ERROR_INVALID_VALUE);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(free_bytes, before);
    assert_cu(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)address), SUCCESS);
    assert_int_equal(again, handle);
    assert_cu(cuMemUnmap(address, 2 * GRAIN), SUCCESS);
    assert_int_equal(control.backed_bytes(0), 2 * GRAIN);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_int_equal(control.backed_bytes(0), 0);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(free_bytes, before + 2 * GRAIN);
    assert_cu(cuMemAddressFree(address, 2 * GRAIN), SUCCESS);
}

static void test_memory_is_short(void **state)
{
    CUmemAllocationProp prop = test_prop();
    CUmemGenericAllocationHandle handle, other;
    size_t free_bytes, total;

    (void)state;
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(total, 256 * MIB);
    assert_cu(cuMemCreate(&handle, free_bytes + GRAIN, &prop, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemCreate(&handle, free_bytes, &prop, 0), SUCCESS);
    assert_cu(cuMemCreate(&other, GRAIN, &prop, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemRelease(handle), SUCCESS);
    control.steal(0, free_bytes - GRAIN);
    assert_cu(cuMemCreate(&handle, 2 * GRAIN, &prop, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), SUCCESS);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(free_bytes, 0);
    assert_cu(cuMemRelease(handle), SUCCESS);
}

static void test_free_memory_lags(void **state)
{
    CUmemGenericAllocationHandle handle;
    size_t before, free_bytes, total;

    (void)state;
    assert_cu(cuMemGetInfo_v2(&before, &total), SUCCESS);
    control.set("FREE_LAG_MS=3600000");
    handle = test_create(GRAIN);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(free_bytes, before - GRAIN);
    control.reset();
    control.set("FREE_LAG_MS=1");
    handle = test_create(GRAIN);
    assert_cu(cuMemRelease(handle), SUCCESS);
    do
        assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    while (free_bytes != before);
}

static void test_set_access_may_not_be_ready(void **state)
{
    CUmemGenericAllocationHandle handle = test_create(GRAIN);
    CUdeviceptr address = test_reserve(GRAIN);

    (void)state;
    control.set("NOT_READY=2");
    assert_cu(cuMemMap(address, GRAIN, 0, handle, 0), SUCCESS);
    assert_cu(test_access(address, GRAIN, CU_MEM_ACCESS_READWRITE), ERROR_NOT_READY);
    assert_cu(test_access(address, GRAIN, CU_MEM_ACCESS_READWRITE), ERROR_NOT_READY);
    assert_cu(test_access(address, GRAIN, CU_MEM_ACCESS_READWRITE), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    test_memory_free(address, GRAIN);
}

static void test_new_memory_may_be_dirty(void **state)
{
    CUdeviceptr address;

    (void)state;
    control.set("DIRTY=1");
    address = test_memory(GRAIN);
    assert_int_equal(*(volatile unsigned char *)(uintptr_t)(address + GRAIN - 1), 0xa5);
    test_memory_free(address, GRAIN);
}

static void test_plain_allocations(void **state)
{
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    unsigned char byte = 3;

    (void)state;
    assert_cu(cuMemAlloc_v2(&address, 0), ERROR_INVALID_VALUE);
    assert_cu(cuMemAlloc_v2(&address, 512 * MIB), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemAlloc_v2(&address, UINT64_C(1) << 60), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemAlloc_v2(&address, 100), SUCCESS);
    assert_int_equal(test_live().allocations, 1);
    assert_int_equal(test_live().handles, 0);
    assert_cu(cuMemcpyHtoD_v2(address, &byte, 1), SUCCESS);
    /* None of the other calls takes it. */
    assert_cu(cuMemUnmap(address, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(cuMemAddressFree(address, GRAIN), ERROR_INVALID_VALUE);
    assert_cu(test_access(address, GRAIN, CU_MEM_ACCESS_READ), ERROR_INVALID_VALUE);
    assert_cu(cuMemRetainAllocationHandle(&handle, (void *)(uintptr_t)address), ERROR_INVALID_VALUE);
    assert_cu(cuMemFree_v2(address + 1), ERROR_INVALID_VALUE);
    assert_cu(cuMemFree_v2(address), SUCCESS);
    assert_cu(cuMemFree_v2(address), ERROR_INVALID_VALUE);
    assert_cu(cuMemFree_v2(0), SUCCESS);
}

static void test_devices_without_vmm(void **state)
{
    CUdeviceptr address;
    int value;

    (void)state;
    control.set("NO_VMM=1");
    assert_cu(cuDeviceGetAttribute(&value, CU_ATTRIBUTE_VMM_SUPPORTED, 0), SUCCESS);
    assert_int_equal(value, 0);
    assert_cu(cuMemAddressReserve(&address, GRAIN, 0, 0, 0), ERROR_NOT_SUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_granularity),
        test_case(test_reservations),
        test_case(test_map_goes_by_whole_handles),
        test_case(test_unmap_goes_by_whole_mappings),
        test_case(test_access_is_asked_for),
        test_case(test_memory_lives_to_the_last_mapping),
        test_case(test_memory_is_short),
        test_case(test_free_memory_lags),
        test_case(test_set_access_may_not_be_ready),
        test_case(test_new_memory_may_be_dirty),
        test_case(test_plain_allocations),
        test_case(test_devices_without_vmm),
    };

    return cmocka_run_group_tests_name("memory", tests, test_load, NULL);
}
