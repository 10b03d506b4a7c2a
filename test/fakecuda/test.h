/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKECUDA_TEST_H
#define FAKECUDA_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "driver.h"
#include "fakecuda.h"

/* What the tests of the fake share: a device with a current context, and proof that nothing is left after each test. */
#define MIB (UINT64_C(1) << 20)
#define GRAIN (2 * MIB)

static struct fakecuda control;

#define assert_cu(_result, _expected) assert_int_equal(_result, CUDA_##_expected)

static inline int test_load(void **state)
{
    (void)state;
    return fakecuda_load(&control);
}

static inline int test_setup(void **state)
{
    CUcontext context;

    (void)state;
    control.reset();
    assert_cu(cuInit(0), SUCCESS);
    assert_cu(cuDevicePrimaryCtxRetain(&context, 0), SUCCESS);
    assert_cu(cuCtxPushCurrent_v2(context), SUCCESS);
    return 0;
}

static inline struct fakecuda_live test_live(void)
{
    struct fakecuda_live live;

    control.live(&live);
    return live;
}

static inline struct fakecuda_misuse test_misuse(void)
{
    struct fakecuda_misuse misuse;

    control.misuse(&misuse);
    return misuse;
}

static inline int test_teardown(void **state)
{
    static const struct fakecuda_live nothing;
    struct fakecuda_live live;

    (void)state;
    control.hold(NULL, 0);
    control.set("MEMORY=256MiB");
    if (control.context_depth() != 1 || cuCtxPopCurrent_v2(NULL) || cuDevicePrimaryCtxRelease_v2(0))
        return -1;
    live = test_live();
    return memcmp(&live, &nothing, sizeof(live)) == 0 && control.backed_bytes(0) == 0 ? 0 : -1;
}

static inline CUmemAllocationProp test_prop(void)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}};
}

static inline CUmemGenericAllocationHandle test_create(uint64_t bytes)
{
    CUmemAllocationProp prop = test_prop();
    CUmemGenericAllocationHandle handle;

    assert_cu(cuMemCreate(&handle, bytes, &prop, 0), SUCCESS);
    return handle;
}

static inline CUdeviceptr test_reserve(uint64_t bytes)
{
    CUdeviceptr address;

    assert_cu(cuMemAddressReserve(&address, bytes, 0, 0, 0), SUCCESS);
    return address;
}

static inline CUresult test_access(CUdeviceptr address, uint64_t bytes, int flags)
{
    CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE}, .flags = flags};

    return cuMemSetAccess(address, bytes, &access, 1);
}

/* Memory of its own handle, read-write. */
static inline CUdeviceptr test_memory(uint64_t bytes)
{
    CUmemGenericAllocationHandle handle = test_create(bytes);
    CUdeviceptr address = test_reserve(bytes);

    assert_cu(cuMemMap(address, bytes, 0, handle, 0), SUCCESS);
    assert_cu(test_access(address, bytes, CU_MEM_ACCESS_READWRITE), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    return address;
}

static inline void test_memory_free(CUdeviceptr address, uint64_t bytes)
{
    assert_cu(cuMemUnmap(address, bytes), SUCCESS);
    assert_cu(cuMemAddressFree(address, bytes), SUCCESS);
}

static inline CUstream test_stream(unsigned int flags)
{
    CUstream stream;

    assert_cu(cuStreamCreate(&stream, flags), SUCCESS);
    return stream;
}

static inline CUevent test_event(void)
{
    CUevent event;

    assert_cu(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING), SUCCESS);
    return event;
}

/* Ends a test that broke its context: the next retain makes a sound one. */
static inline void test_revive(void)
{
    control.reset();
}

#define test_case(_name) cmocka_unit_test_setup_teardown(_name, test_setup, test_teardown)

#endif
