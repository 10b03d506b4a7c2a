/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a process that is checkpointed: this one, which asks for it itself. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

static char folder[] = "/tmp/fakecuda-XXXXXX";

static int state_now(void)
{
    int state = -1;

    assert_cu(cuCheckpointProcessGetState(getpid(), &state), SUCCESS);
    return state;
}

static void test_states(void **state)
{
    CUcheckpointLockArgs args = {.timeoutMs = 1000};
    CUdeviceptr memory = test_memory(GRAIN);
    uint64_t held = test_live().device_bytes;
    int pid = getpid();
    uint32_t word = 0;

    (void)state;
    assert_cu(cuMemsetD32Async(memory, 0x01234567, GRAIN / 4, NULL), SUCCESS);
    assert_int_equal(state_now(), CU_PROCESS_STATE_RUNNING);
    assert_cu(cuCheckpointProcessCheckpoint(pid, NULL), ERROR_ILLEGAL_STATE);
    assert_cu(cuCheckpointProcessRestore(pid, NULL), ERROR_ILLEGAL_STATE);
    assert_cu(cuCheckpointProcessUnlock(pid, NULL), ERROR_ILLEGAL_STATE);
    assert_cu(cuCheckpointProcessLock(pid, &args), SUCCESS);
    assert_int_equal(state_now(), CU_PROCESS_STATE_LOCKED);
    assert_cu(cuCheckpointProcessLock(pid, &args), ERROR_ILLEGAL_STATE);
    assert_cu(cuCheckpointProcessRestore(pid, NULL), ERROR_ILLEGAL_STATE);
    assert_int_equal(test_live().device_bytes, held);
    assert_cu(cuCheckpointProcessCheckpoint(pid, NULL), SUCCESS);
    assert_int_equal(state_now(), CU_PROCESS_STATE_CHECKPOINTED);
    assert_int_equal(test_live().device_bytes, 0);
    assert_int_equal(control.backed_bytes(0), 0);
    assert_cu(cuCheckpointProcessUnlock(pid, NULL), ERROR_ILLEGAL_STATE);
    assert_cu(cuCheckpointProcessCheckpoint(pid, NULL), ERROR_ILLEGAL_STATE);
    control.set("STEAL=255MiB");
    assert_cu(cuCheckpointProcessRestore(pid, NULL), ERROR_OUT_OF_MEMORY);
    control.set("STEAL=0");
    assert_int_equal(state_now(), CU_PROCESS_STATE_CHECKPOINTED);
    assert_cu(cuCheckpointProcessRestore(pid, NULL), SUCCESS);
    assert_int_equal(state_now(), CU_PROCESS_STATE_LOCKED);
    assert_cu(cuCheckpointProcessUnlock(pid, NULL), SUCCESS);
    assert_int_equal(test_live().device_bytes, held);
    assert_cu(cuMemcpyDtoHAsync_v2(&word, memory + GRAIN - 4, 4, NULL), SUCCESS);
    assert_cu(cuStreamSynchronize(NULL), SUCCESS);
    assert_int_equal(word, 0x01234567);
    test_memory_free(memory, GRAIN);
}

static void test_lock_waits_for_work(void **state)
{
    CUcheckpointLockArgs args = {.timeoutMs = 20};
    CUdeviceptr memory = test_memory(GRAIN);
    CUstream stream = test_stream(CU_STREAM_NON_BLOCKING);

    (void)state;
    control.hold(stream, 1);
    assert_cu(cuMemsetD8Async(memory, 1, 1, stream), SUCCESS);
    assert_cu(cuCheckpointProcessLock(getpid(), &args), ERROR_NOT_READY);
    assert_int_equal(state_now(), CU_PROCESS_STATE_RUNNING);
    control.hold(stream, 0);
    assert_cu(cuCheckpointProcessLock(getpid(), NULL), SUCCESS);
    assert_cu(cuCheckpointProcessUnlock(getpid(), NULL), SUCCESS);
    assert_cu(cuStreamDestroy_v2(stream), SUCCESS);
    test_memory_free(memory, GRAIN);
}

static void test_arguments(void **state)
{
    CUcheckpointLockArgs args = {.reserved1 = {[6] = 1}}, early = {.reserved0 = 1};
    int pid = getpid(), said = 7, something = 0;

    (void)state;
    assert_cu(cuCheckpointProcessLock(pid, &args), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessLock(pid, &early), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessCheckpoint(pid, &something), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessRestore(pid, &something), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessUnlock(pid, &something), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessGetState(pid, NULL), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessGetState(0, &said), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessGetState(2147483647, &said), ERROR_INVALID_VALUE);
    assert_cu(cuCheckpointProcessGetState(getppid(), &said), ERROR_NOT_INITIALIZED);
    assert_int_equal(said, 7);
    assert_int_equal(state_now(), CU_PROCESS_STATE_RUNNING);
    assert_int_equal(control.set("PROCESSES="), -1);
    assert_int_equal(control.set("PROCESSES=/0123456789/0123456789/0123456789/0123456789/0123456789/0123456789"), -1);
}

static int group_setup(void **state)
{
    return !mkdtemp(folder) || setenv("FAKECUDA_PROCESSES", folder, 1) ? -1 : test_load(state);
}

static int group_teardown(void **state)
{
    char path[sizeof(folder) + 16];

    (void)state;
    snprintf(path, sizeof(path), "%s/%d", folder, (int)getpid());
    return unlink(path) || rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_case(test_states),
        test_case(test_lock_waits_for_work),
        test_case(test_arguments),
    };

    return cmocka_run_group_tests_name("process", tests, group_setup, group_teardown);
}
