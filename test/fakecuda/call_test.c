/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static void test_nothing_works_before_init(void **state)
{
    int n;

    (void)state;
    assert_cu(cuDeviceGetCount(&n), ERROR_NOT_INITIALIZED);
    assert_cu(cuCtxSynchronize(), ERROR_NOT_INITIALIZED);
    assert_cu(cuDriverGetVersion(&n), SUCCESS);
    control.set("DEVICES=0");
    assert_cu(cuInit(0), ERROR_NO_DEVICE);
    assert_cu(cuInit(1), ERROR_INVALID_VALUE);
}

static void test_failures_on_order(void **state)
{
    CUmemAllocationProp prop = test_prop();
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    CUevent event;

    (void)state;
    control.fail_at("cuMemCreate", 2, 0, 0);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), ERROR_OUT_OF_MEMORY);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), SUCCESS);
    assert_cu(cuMemRelease(handle), SUCCESS);
    assert_int_equal(control.n_failed(), 1);
    assert_int_equal(control.n_calls("cuMemCreate"), 3);
    assert_int_equal(control.n_calls("cuMemRelease"), 2);
    control.fail_at(NULL, 0, 0, 0);
    control.fail_at("cuEventQuery", 1, CUDA_ERROR_NOT_READY, 1);
    event = test_event();
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    assert_cu(cuEventQuery(event), ERROR_NOT_READY);
    control.fail_at(NULL, 0, 0, 0);
    assert_cu(cuEventQuery(event), SUCCESS);
    control.fail_at("*", 2, 0, 0);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuEventDestroy_v2(event), ERROR_UNKNOWN);
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
    /* Suffixed names name one form. */
    control.fail_at("cuMemAlloc_v2", 1, 0, 0);
    assert_cu(cuMemAlloc_v2(&address, 1), ERROR_OUT_OF_MEMORY);
}

static void test_some_calls_are_spared(void **state)
{
    CUcontext context;
    int mode = CU_CAPTURE_RELAXED;

    (void)state;
    control.fail_at("*", 1, 0, 1);
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    assert_cu(cuThreadExchangeStreamCaptureMode(&mode), SUCCESS);
    assert_cu(cuThreadExchangeStreamCaptureMode(&mode), SUCCESS);
    assert_cu(cuCtxPopCurrent_v2(&context), SUCCESS);
    assert_cu(cuCtxPushCurrent_v2(context), ERROR_UNKNOWN);
    control.fail_at(NULL, 0, 0, 0);
    assert_cu(cuCtxPushCurrent_v2(context), SUCCESS);
}

static void test_a_device_is_lost_on_order(void **state)
{
    CUevent event = test_event();

    (void)state;
    control.reset();
    control.set("LOSE_AT=3");
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuEventQuery(event), SUCCESS);
    assert_cu(cuEventQuery(event), ERROR_LAUNCH_FAILED);
    assert_cu(cuEventDestroy_v2(event), ERROR_LAUNCH_FAILED);
    test_revive();
    assert_cu(cuEventDestroy_v2(event), SUCCESS);
}

static void test_versions(void **state)
{
    void *function, *other;
    int status;

    (void)state;
    assert_cu(cuGetProcAddress_v2("cuDeviceGetUuid", &function, 9020, 0, &status), SUCCESS);
    assert_cu(cuGetProcAddress_v2("cuDeviceGetUuid", &other, 11040, 0, &status), SUCCESS);
    assert_ptr_not_equal(function, other);
    assert_cu(cuGetProcAddress_v2("cuMemAlloc", &function, 3000, 0, &status), SUCCESS);
    assert_int_equal(status, CU_PROC_VERSION_NOT_SUFFICIENT);
    assert_null(function);
    assert_cu(cuGetProcAddress_v2("cuNothing", &function, 13000, 0, &status), SUCCESS);
    assert_int_equal(status, CU_PROC_NOT_FOUND);
    assert_cu(cuGetProcAddress("cuNothing", &function, 13000, 0), ERROR_NOT_FOUND);
    assert_cu(cuGetProcAddress(NULL, &function, 13000, 0), ERROR_INVALID_VALUE);
    assert_cu(cuGetProcAddress_v2("cuInit", NULL, 13000, 0, &status), ERROR_INVALID_VALUE);
    control.set("DRIVER=12040");
    assert_cu(cuGetProcAddress_v2("cuCtxRecordEvent", &function, 13000, 0, &status), SUCCESS);
    assert_int_equal(status, CU_PROC_NOT_FOUND);
    control.set("DRIVER=11040");
    assert_cu(cuGetProcAddress_v2("cuInit", &function, 2000, 0, &status), ERROR_NOT_SUPPORTED);
    assert_cu(cuDriverGetVersion(&status), SUCCESS);
    assert_int_equal(status, 11040);
}

/* The library of the old driver has nothing newer to find. */
static void test_the_old_library(void **state)
{
    void *library = dlopen(FAKECUDA_OLD, RTLD_NOW | RTLD_LOCAL);

    (void)state;
    assert_non_null(library);
    assert_non_null(dlsym(library, "cuGetProcAddress"));
    assert_null(dlsym(library, "cuGetProcAddress_v2"));
    assert_non_null(dlsym(library, "fakecuda_set"));
    dlclose(library);
}

static void test_error_names(void **state)
{
    const char *text;

    (void)state;
    assert_cu(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text), SUCCESS);
    assert_string_equal(text, "CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_cu(cuGetErrorString(CUDA_ERROR_ILLEGAL_ADDRESS, &text), SUCCESS);
    assert_string_equal(text, "an illegal memory access was encountered");
    assert_cu(cuGetErrorName(12345, &text), ERROR_INVALID_VALUE);
    assert_null(text);
    assert_cu(cuGetErrorString(12345, &text), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessLock(1, NULL), ERROR_NOT_SUPPORTED);
    assert_cu(cuCheckpointProcessLock(0, NULL), ERROR_INVALID_VALUE);
}

static void test_settings_come_from_the_environment(void **state)
{
    CUmemAllocationProp prop = test_prop();
    CUmemGenericAllocationHandle handle;
    size_t free_bytes, total;

    (void)state;
    setenv("FAKECUDA_MEMORY", "64MiB", 1);
    setenv("FAKECUDA_STEAL", "16MiB", 1);
    setenv("FAKECUDA_FAIL", "cuMemCreate:1:801:forever,cuMemFree:2", 1);
    control.reset();
    assert_cu(cuMemGetInfo_v2(&free_bytes, &total), SUCCESS);
    assert_int_equal(total, 64 * MIB);
    assert_int_equal(free_bytes, 44 * MIB);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), ERROR_NOT_SUPPORTED);
    assert_cu(cuMemCreate(&handle, GRAIN, &prop, 0), ERROR_NOT_SUPPORTED);
    assert_cu(cuMemFree_v2(0), SUCCESS);
    assert_cu(cuMemFree_v2(0), ERROR_UNKNOWN);
    unsetenv("FAKECUDA_MEMORY");
    unsetenv("FAKECUDA_STEAL");
    unsetenv("FAKECUDA_FAIL");
    control.reset();
    assert_int_equal(control.set("NOTHING=1"), -1);
    assert_int_equal(control.set("MEMORY"), -1);
    assert_int_equal(control.set("MEMORY=much"), -1);
    assert_int_equal(control.set("MEMORY=1PiB"), -1);
    assert_int_equal(control.set("FAIL=cuInit"), -1);
    assert_int_equal(control.set("FAIL=cuInit:0"), -1);
    assert_int_equal(control.set("FAIL=cuInit:1:x"), -1);
}

static void hook(void *userdata, const char *name)
{
    *(const char **)userdata = name;
}

static void test_the_hook_sees_every_call(void **state)
{
    const char *seen = NULL;
    CUcontext context;

    (void)state;
    control.set_hook(hook, &seen);
    assert_cu(cuCtxGetCurrent(&context), SUCCESS);
    assert_string_equal(seen, "cuCtxGetCurrent");
    control.set_hook(NULL, NULL);
    assert_cu(cuCtxSynchronize(), SUCCESS);
    assert_string_equal(seen, "cuCtxGetCurrent");
}

static void test_a_forked_child_is_refused(void **state)
{
    pid_t child = fork();
    int status;

    (void)state;
    if (child == 0)
        _exit(cuInit(0) == CUDA_ERROR_NOT_INITIALIZED && cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED &&
                      test_misuse().calls_in_fork == 2
                  ? 0
                  : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(test_misuse().calls_in_fork, 0);
}

/* As a program of its own: leaves a stream, and makes one call too many. */
static int leave_something(void)
{
    CUcontext context;
    CUstream stream;

    cuInit(0);
    cuDevicePrimaryCtxRetain(&context, 0);
    cuCtxPushCurrent_v2(context);
    cuStreamCreate(&stream, 0);
    cuStreamDestroy_v2((CUstream)(uintptr_t)77);
    return 0;
}

static void test_a_program_is_reported(void **state)
{
    char path[] = "fakecuda-call-test-XXXXXX", text[1024] = "";
    int fd = mkstemp(path), status;
    FILE *file;
    pid_t child;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    child = fork();
    if (child == 0) {
        setenv("FAKECUDA_REPORT", path, 1);
        execl("/proc/self/exe", "fakecuda-call-test", "leave", NULL);
        _exit(99);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_non_null(fgets(text, sizeof(text), file));
    fclose(file);
    unlink(path);
    assert_non_null(strstr(text, "{\"calls\": 5, \"failed\": 0, "));
    assert_non_null(strstr(text, "\"streams\": 1, "));
    assert_non_null(strstr(text, "\"retains\": 1, "));
    assert_non_null(strstr(text, "\"stale_handles\": 1, "));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_works_before_init),
        test_case(test_failures_on_order),
        test_case(test_some_calls_are_spared),
        test_case(test_a_device_is_lost_on_order),
        test_case(test_versions),
        test_case(test_the_old_library),
        test_case(test_error_names),
        test_case(test_settings_come_from_the_environment),
        test_case(test_the_hook_sees_every_call),
        test_case(test_a_forked_child_is_refused),
        test_case(test_a_program_is_reported),
    };

    if (argc > 1 && strcmp(argv[1], "leave") == 0)
        return leave_something();
    return cmocka_run_group_tests_name("call", tests, test_load, NULL);
}
