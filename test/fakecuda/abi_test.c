/* SPDX-License-Identifier: Apache-2.0 */
/* The driver's interface is written down twice, in the library and here: both have to say the same. */
#include <string.h>

#include "device/cuda/abi.h"

#include "test.h"

_Static_assert(sizeof(struct usk_cu_uuid) == sizeof(CUuuid), "");
_Static_assert(sizeof(struct usk_cu_mem_prop) == sizeof(CUmemAllocationProp), "");
_Static_assert(offsetof(struct usk_cu_mem_prop, location) == offsetof(CUmemAllocationProp, location), "");
_Static_assert(offsetof(struct usk_cu_mem_prop, win32_handle_meta_data) ==
                   offsetof(CUmemAllocationProp, win32HandleMetaData),
               "");
_Static_assert(offsetof(struct usk_cu_mem_prop, alloc_flags) == offsetof(CUmemAllocationProp, allocFlags), "");
_Static_assert(sizeof(struct usk_cu_mem_access) == sizeof(CUmemAccessDesc), "");
_Static_assert(sizeof(struct usk_cu_checkpoint_lock_args) == sizeof(CUcheckpointLockArgs), "");
_Static_assert(offsetof(struct usk_cu_checkpoint_lock_args, timeout_ms) == offsetof(CUcheckpointLockArgs, timeoutMs),
               "");
_Static_assert(offsetof(struct usk_cu_mem_access, flags) == offsetof(CUmemAccessDesc, flags), "");

static void test_results_are_the_same(void **state)
{
    static const struct {
        int value;
        const char *name;
    } results[] = {
#define ABI_RESULT(_name, _value) {_value, "CUDA_ERROR_" #_name},
        USK_CUDA_RESULTS(ABI_RESULT)
#undef ABI_RESULT
    };
    unsigned int n_known = 0;

    (void)state;
    for (size_t i = 1; i < sizeof(results) / sizeof(results[0]); i++) {
        const char *name;

        if (cuGetErrorName(results[i].value, &name) != CUDA_SUCCESS)
            continue;
        assert_string_equal(name, results[i].name);
        n_known++;
    }
    assert_in_range(n_known, 25, 100);
}

static void test_constants_are_the_same(void **state)
{
    static const int pairs[][2] = {
        {USK_CU_ATTRIBUTE_MULTIPROCESSOR_COUNT, CU_ATTRIBUTE_MULTIPROCESSOR_COUNT},
        {USK_CU_ATTRIBUTE_INTEGRATED, CU_ATTRIBUTE_INTEGRATED},
        {USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR},
        {USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR},
        {USK_CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED, CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED},
        {USK_CU_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, CU_ATTRIBUTE_VMM_SUPPORTED},
        {USK_CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED},
        {USK_CU_MEM_ALLOCATION_TYPE_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED},
        {USK_CU_MEM_HANDLE_TYPE_NONE, CU_MEM_HANDLE_TYPE_NONE},
        {USK_CU_MEM_LOCATION_TYPE_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE},
        {USK_CU_MEM_ACCESS_FLAGS_PROT_NONE, CU_MEM_ACCESS_NONE},
        {USK_CU_MEM_ACCESS_FLAGS_PROT_READ, CU_MEM_ACCESS_READ},
        {USK_CU_MEM_ACCESS_FLAGS_PROT_READWRITE, CU_MEM_ACCESS_READWRITE},
        {USK_CU_MEM_ALLOC_GRANULARITY_MINIMUM, CU_MEM_GRANULARITY_MINIMUM},
        {USK_CU_MEM_ALLOC_GRANULARITY_RECOMMENDED, CU_MEM_GRANULARITY_RECOMMENDED},
        {USK_CU_MEMHOSTREGISTER_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE},
        {USK_CU_MEMHOSTREGISTER_READ_ONLY, CU_MEMHOSTREGISTER_READ_ONLY},
        {USK_CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING},
        {USK_CU_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING},
        {USK_CU_STREAM_CAPTURE_STATUS_NONE, CU_CAPTURE_STATUS_NONE},
        {USK_CU_STREAM_CAPTURE_STATUS_ACTIVE, CU_CAPTURE_STATUS_ACTIVE},
        {USK_CU_STREAM_CAPTURE_STATUS_INVALIDATED, CU_CAPTURE_STATUS_INVALIDATED},
        {USK_CU_STREAM_CAPTURE_MODE_GLOBAL, CU_CAPTURE_GLOBAL},
        {USK_CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CU_CAPTURE_THREAD_LOCAL},
        {USK_CU_STREAM_CAPTURE_MODE_RELAXED, CU_CAPTURE_RELAXED},
        {USK_CU_PROCESS_RUNNING, CU_PROCESS_STATE_RUNNING},
        {USK_CU_PROCESS_LOCKED, CU_PROCESS_STATE_LOCKED},
        {USK_CU_PROCESS_CHECKPOINTED, CU_PROCESS_STATE_CHECKPOINTED},
        {USK_CU_PROCESS_FAILED, CU_PROCESS_STATE_FAILED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
        assert_int_equal(pairs[i][0], pairs[i][1]);
}

/* Every function is found at the version the library asks for, and the required ones in the oldest driver. */
static void test_symbols_are_found(void **state)
{
    enum { REQUIRED, OPTIONAL };
    static const struct {
        const char *name;
        int version, need;
    } symbols[] = {
#define ABI_SYMBOL(_name, _version, _need, _parameters) {#_name, _version, _need},
        USK_CUDA_SYMBOLS(ABI_SYMBOL)
#undef ABI_SYMBOL
    };

    (void)state;
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *now, *then;
        int status;

        control.set("DRIVER=13000");
        assert_cu(cuGetProcAddress_v2(symbols[i].name, &now, symbols[i].version, 0, &status), SUCCESS);
        if (status != CU_PROC_SUCCESS)
            fail_msg("%s at version %d: status %d", symbols[i].name, symbols[i].version, status);
        assert_non_null(now);
        control.set("DRIVER=11040");
        assert_int_equal(cuGetProcAddress(symbols[i].name, &then, symbols[i].version, 0),
                         symbols[i].need == REQUIRED ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND);
        assert_ptr_equal(then, symbols[i].need == REQUIRED ? now : NULL);
    }
    control.set("DRIVER=13000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results_are_the_same),
        cmocka_unit_test(test_constants_are_the_same),
        cmocka_unit_test(test_symbols_are_found),
    };

    return cmocka_run_group_tests_name("abi", tests, test_load, NULL);
}
