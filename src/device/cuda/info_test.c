/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cuda/info.h"

#include <stdlib.h>

#include "device/cuda/fake_test.h"

static void test_uuid_parse(void **state)
{
    static const char *const bad[] = {
        "",
        "0",
        "GPU-",
        "GPU-00112233-4455-6677-8899-aabbccddeef",
        "GPU-00112233-4455-6677-8899-aabbccddeeff0",
        "GPU-0011223344-55-6677-8899-aabbccddeeff",
        "GPU-00112233-4455-6677-8899-aabbccddeefg",
        "gpu-00112233-4455-6677-8899-aabbccddeeff",
        "00112233-4455-6677-8899-aabbccddeeff",
        "MIG-GPU-00112233-4455-6677-8899-aabbccddeeff/1/0",
    };
    static const unsigned char expected[] = { 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77,
                                              0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
    struct usk_cu_uuid uuid;

    (void)state;
    assert_true(usk_cuda_uuid_parse("GPU-00112233-4455-6677-8899-aabbccddeeff", &uuid));
    assert_memory_equal(uuid.bytes, expected, sizeof(expected));
    memset(&uuid, 0, sizeof(uuid));
    assert_true(usk_cuda_uuid_parse("MIG-00112233-4455-6677-8899-AABBCCDDEEFF", &uuid));
    assert_memory_equal(uuid.bytes, expected, sizeof(expected));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        /* A copy of just that length: a parser that reads on is found. */
        char *copy = strdup(bad[i]);

        assert_false(usk_cuda_uuid_parse(copy, &uuid));
        free(copy);
    }
}

static void test_find(void **state)
{
    struct usk_cuda_device_info infos[3], info;
    usk_cu_device device;

    (void)state;
    fake.set("DEVICES=3");
    for (int i = 0; i < 3; i++) {
        OK(usk_cuda_device_info((unsigned int)i, &infos[i], &error));
        OK(usk_cuda_info_find(&table, infos[i].uuid, &device, &error));
        assert_int_equal(device, i);
    }
    OK(usk_cuda_info_find(&table, "2", &device, &error));
    assert_int_equal(device, 2);
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_info_find(&table, "3", &device, &error));
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_info_find(&table, "99999999999999999999999", &device, &error));
    FAILS(UNSTICK_NO_DEVICE,
          usk_cuda_info_find(&table, "GPU-00112233-4455-6677-8899-aabbccddeeff", &device, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_cuda_info_find(&table, "", &device, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_cuda_info_find(&table, "-1", &device, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_cuda_info_find(&table, "0x1", &device, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, usk_cuda_info_find(&table, "GPU-1234", &device, &error));
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_device_info(3, &info, &error));
    assert_int_equal(fake.n_calls("cuDevicePrimaryCtxRetain"), 0);
}

static void test_info(void **state)
{
    struct usk_cuda_device_info info;

    (void)state;
    OK(usk_cuda_device_info(0, &info, &error));
    assert_true(info.name[0] && !strncmp(info.uuid, "GPU-", 4));
    assert_int_equal(info.total_bytes, UINT64_C(256) << 20);
    assert_true(info.can_map && info.can_register && info.can_register_file && !info.is_integrated);
    assert_int_equal(info.compute_major, 9);
    assert_true(info.numa_node >= -1);
    fake.set("NO_VMM=1");
    fake.set("NO_READ_ONLY_REGISTER=1");
    OK(usk_cuda_device_info(0, &info, &error));
    assert_true(!info.can_map && info.can_register && !info.can_register_file);
}

/* Every call that info makes may fail: the attributes are then taken as not there, the rest is said. */
static void test_info_failures(void **state)
{
    struct usk_cuda_device_info info;

    (void)state;
    fail_at("cuDeviceGetName", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, usk_cuda_device_info(0, &info, &error));
    fail_at("cuDeviceTotalMem", 1, USK_CU_INVALID_DEVICE);
    FAILS(UNSTICK_NO_DEVICE, usk_cuda_device_info(0, &info, &error));
    fail_at("cuDeviceGet", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, usk_cuda_device_info(0, &info, &error));
    fail_nothing();
    fail_always("cuDeviceGetAttribute", USK_CU_INVALID_VALUE);
    fail_always("cuDeviceGetPCIBusId", USK_CU_UNKNOWN);
    fail_always("cuDeviceGetUuid_v2", USK_CU_UNKNOWN);
    OK(usk_cuda_device_info(0, &info, &error));
    assert_true(!info.can_map && !info.can_register_file && !info.uuid[0] && !info.pci[0] && info.numa_node == -1);
    FAILS(UNSTICK_DRIVER, usk_cuda_info_find(&table, "GPU-00112233-4455-6677-8899-aabbccddeeff", &(usk_cu_device){ 0 },
                                             &error));
}

static usk_cu_result name_of_slice(char *name, int size, usk_cu_device device)
{
    (void)device;
    strncpy(name, "Fake A100-SXM4-40GB MIG 1g.5gb", (size_t)size);
    return USK_CU_SUCCESS;
}

static void test_mig(void **state)
{
    struct usk_cuda_device_info info;

    (void)state;
    table.cuDeviceGetName = name_of_slice;
    OK(usk_cuda_info_read(&table, 0, &info, &error));
    assert_memory_equal(info.uuid, "MIG-", 4);
    OK(usk_cuda_open_with(&table, info.uuid, event_fd, NULL, &dev, &error));
    assert_string_equal(dev->caps.uuid, info.uuid);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        driver_test(test_uuid_parse),    driver_test(test_find), driver_test(test_info),
        driver_test(test_info_failures), driver_test(test_mig),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
