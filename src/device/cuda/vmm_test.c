/* SPDX-License-Identifier: Apache-2.0 */
#include "device/cuda/fake_test.h"

static uint64_t address, handle;

static int setup_memory(void **state)
{
    if (setup_device(state) < 0)
        return -1;
    OK(dev->ops->reserve(dev, 2 * UNIT, UNIT, &address, &error));
    OK(dev->ops->create(dev, UNIT, &handle, &error));
    return 0;
}

static int teardown_memory(void **state)
{
    OK(dev->ops->release(dev, handle, &error));
    OK(dev->ops->unreserve(dev, address, 2 * UNIT, &error));
    return teardown(state);
}

static void test_map_tries_again(void **state)
{
    uint64_t before = fake.n_calls("cuMemSetAccess");

    (void)state;
    fake.set("NOT_READY=3");
    OK(dev->ops->map(dev, address, UNIT, handle, &error));
    assert_int_equal(fake.n_calls("cuMemSetAccess") - before, 4);
    OK(dev->ops->fill(dev, USK_LANE_UP, address, 1, UNIT, &error));
    wait_lane(USK_LANE_UP);
    OK(dev->ops->unmap(dev, address, UNIT, &error));
}

static void test_map_gives_up(void **state)
{
    (void)state;
    fake.set("NOT_READY=1000");
    FAILS(UNSTICK_BUSY, dev->ops->map(dev, address, UNIT, handle, &error));
    assert_int_equal(live_now().mappings, 0);
    fake.set("NOT_READY=0");
    OK(dev->ops->map(dev, address, UNIT, handle, &error));
    OK(dev->ops->unmap(dev, address, UNIT, &error));
}

static void test_map_is_undone(void **state)
{
    (void)state;
    fail_at("cuMemMap", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->map(dev, address, UNIT, handle, &error));
    fail_nothing();
    fail_at("cuMemSetAccess", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->map(dev, address, UNIT, handle, &error));
    assert_non_null(strstr(error.text, "cuMemSetAccess said CUDA_ERROR_OUT_OF_MEMORY"));
    assert_string_equal(error.operation, "cuMemSetAccess");
    assert_int_equal(live_now().mappings, 0);
}

/* What cannot be undone is said to be neither mapped nor free. */
static void test_map_cannot_be_undone(void **state)
{
    (void)state;
    fail_at("cuMemSetAccess", 1, USK_CU_INVALID_VALUE);
    fail_at("cuMemUnmap", 1, USK_CU_INVALID_VALUE);
    FAILS(UNSTICK_POISONED, dev->ops->map(dev, address, UNIT, handle, &error));
    assert_int_equal(live_now().mappings, 1);
    OK(dev->ops->unmap(dev, address, UNIT, &error));
}

static void test_map_repeated(void **state)
{
    uint64_t before = fake.n_calls("cuMemSetAccess");

    (void)state;
    OK(dev->ops->map_repeated(dev, address, 2 * UNIT, handle, UNIT, &error));
    assert_int_equal(fake.n_calls("cuMemSetAccess") - before, 1);
    assert_int_equal(live_now().mappings, 2);
    OK(dev->ops->unmap(dev, address, 2 * UNIT, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->map_repeated(dev, address, 2 * UNIT, handle, 0, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->map_repeated(dev, address, 2 * UNIT - 1, handle, UNIT, &error));
}

static void test_map_repeated_is_undone(void **state)
{
    (void)state;
    fail_at("cuMemMap", 2, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->map_repeated(dev, address, 2 * UNIT, handle, UNIT, &error));
    assert_int_equal(live_now().mappings, 0);
    fail_nothing();
    fail_at("cuMemSetAccess", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->map_repeated(dev, address, 2 * UNIT, handle, UNIT, &error));
    assert_int_equal(live_now().mappings, 0);
    fail_nothing();
    fail_at("cuMemMap", 2, USK_CU_OUT_OF_MEMORY);
    fail_at("cuMemUnmap", 1, USK_CU_INVALID_VALUE);
    FAILS(UNSTICK_POISONED, dev->ops->map_repeated(dev, address, 2 * UNIT, handle, UNIT, &error));
    assert_int_equal(live_now().mappings, 1);
    fail_nothing();
    OK(dev->ops->unmap(dev, address, UNIT, &error));
}

static void test_failures_change_nothing(void **state)
{
    uint64_t other = 77, free_bytes = 78, total_bytes = 79;
    struct fakecuda_live before = live_now(), after;

    (void)state;
    OK(dev->ops->map(dev, address, UNIT, handle, &error));
    fail_at("cuMemRelease", 1, USK_CU_INVALID_VALUE);
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->release(dev, handle, &error));
    fail_at("cuMemUnmap", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->unmap(dev, address, UNIT, &error));
    assert_int_equal(live_now().mappings, 1);
    OK(dev->ops->unmap(dev, address, UNIT, &error));
    fail_at("cuMemAddressFree", 1, USK_CU_INVALID_VALUE);
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->unreserve(dev, address, 2 * UNIT, &error));
    fail_at("cuMemAddressReserve", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_HOST_MEMORY, dev->ops->reserve(dev, UNIT, UNIT, &other, &error));
    fail_at("cuMemCreate", 1, USK_CU_NOT_SUPPORTED);
    FAILS(UNSTICK_UNSUPPORTED, dev->ops->create(dev, UNIT, &other, &error));
    fail_at("cuMemGetInfo", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->memory_info(dev, &free_bytes, &total_bytes, &error));
    assert_true(other == 77 && free_bytes == 78 && total_bytes == 79);
    after = live_now();
    assert_memory_equal(&before, &after, sizeof(before));
}

static void test_out_of_memory(void **state)
{
    uint64_t other;

    (void)state;
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->create(dev, 512 * UNIT, &other, &error));
    assert_int_equal(error.required_bytes, 512 * UNIT);
    assert_true(error.available_bytes && error.available_bytes < 128 * UNIT);
    assert_non_null(strstr(error.text, "1.0 GiB"));
    /* Without the reading the rest of the message remains. */
    fail_at("cuMemGetInfo", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, dev->ops->create(dev, 512 * UNIT, &other, &error));
    assert_int_equal(error.available_bytes, 0);
}

static void test_registration_failures(void **state)
{
    static const struct {
        int code, status;
    } answers[] = {
        { USK_CU_INVALID_VALUE, UNSTICK_UNSUPPORTED },
        { USK_CU_HOST_MEMORY_ALREADY_REGISTERED, UNSTICK_UNSUPPORTED },
        { USK_CU_NOT_PERMITTED, UNSTICK_UNSUPPORTED },
        { USK_CU_NOT_SUPPORTED, UNSTICK_UNSUPPORTED },
        { USK_CU_OPERATING_SYSTEM, UNSTICK_UNSUPPORTED },
        { USK_CU_OUT_OF_MEMORY, UNSTICK_OUT_OF_HOST_MEMORY },
        { USK_CU_UNKNOWN, UNSTICK_DRIVER },
    };
    void *memory, *pinned = &memory;

    (void)state;
    OK(usk_os_map_anonymous(UNIT, &memory, &error));
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        fail_at("cuMemHostRegister", 1, answers[i].code);
        FAILS(answers[i].status, dev->ops->register_host(dev, memory, UNIT, 0, &error));
        assert_int_equal(error.native, answers[i].code);
        fail_nothing();
    }
    assert_int_equal(live_now().registrations, 0);
    OK(dev->ops->register_host(dev, memory, UNIT, 0, &error));
    fail_at("cuMemHostUnregister", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->unregister_host(dev, memory, UNIT, &error));
    OK(dev->ops->unregister_host(dev, memory, UNIT, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, dev->ops->unregister_host(dev, memory, UNIT, &error));
    OK(usk_os_unmap(memory, UNIT, &error));

    fail_at("cuMemHostAlloc", 1, USK_CU_OUT_OF_MEMORY);
    FAILS(UNSTICK_OUT_OF_HOST_MEMORY, dev->ops->host_alloc(dev, UNIT, &pinned, &error));
    fail_at("cuMemHostAlloc", 2, USK_CU_UNKNOWN);
    OK(dev->ops->host_alloc(dev, UNIT, &memory, &error));
    FAILS(UNSTICK_DRIVER, dev->ops->host_alloc(dev, UNIT, &pinned, &error));
    assert_ptr_equal(pinned, &memory);
    fail_at("cuMemFreeHost", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, dev->ops->host_free(dev, memory, &error));
    OK(dev->ops->host_free(dev, memory, &error));
}

#define memory_test(_name) cmocka_unit_test_setup_teardown(_name, setup_memory, teardown_memory)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        memory_test(test_map_tries_again),         memory_test(test_map_gives_up),
        memory_test(test_map_is_undone),           memory_test(test_map_repeated),
        memory_test(test_map_repeated_is_undone),
        memory_test(test_map_cannot_be_undone),
        memory_test(test_failures_change_nothing), memory_test(test_out_of_memory),
        memory_test(test_registration_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
