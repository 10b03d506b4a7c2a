/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints of processes, by the driver's rules: RUNNING -lock-> LOCKED -checkpoint-> CHECKPOINTED -restore-> LOCKED
 * -unlock-> RUNNING, and ILLEGAL_STATE for everything else. A lock blocks the calls of the process and waits for what
 * it has submitted; when its time is over it leaves the process RUNNING. A checkpoint takes the contents of all memory
 * into the process's own host memory and the memory off its devices; a restore needs as much again. A checkpoint of a
 * process with managed memory fails, and so has the process.
 *
 * Threads of each process serve the others; they make no calls of their own.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "fake.h"

static struct {
    int state, listen_fd, pid;
    pthread_t thread;
    bool is_started;
    uint64_t used_bytes[FAKE_MAX_DEVICES]; /* while CHECKPOINTED */
    unsigned char **contents;              /* of fake.handles, by place */
} process;

void fake_process_wait(enum fake_function function)
{
    switch (function) {
    case FAKE_cuCheckpointProcessGetState:
    case FAKE_cuCheckpointProcessLock:
    case FAKE_cuCheckpointProcessCheckpoint:
    case FAKE_cuCheckpointProcessRestore:
    case FAKE_cuCheckpointProcessUnlock:
    case FAKE_cuGetErrorName:
    case FAKE_cuGetErrorString:
    case FAKE_cuGetProcAddress:
    case FAKE_cuGetProcAddress_v2:
    case FAKE_cuDriverGetVersion:
        return;
    default:
        break;
    }
    while (process.state != CU_PROCESS_STATE_RUNNING)
        pthread_cond_wait(&fake.changed, &fake.lock);
}

static void process_set_state(int state)
{
    process.state = state;
    pthread_cond_broadcast(&fake.changed);
}

/* --- inside of the process --- */

static bool process_is_idle(void)
{
    for (size_t i = 0; i < fake.streams.n; i++)
        if (!fake_stream_is_idle(fake.streams.values[i]))
            return false;
    return true;
}

static CUresult process_lock(unsigned int timeout_ms)
{
    struct timespec end;

    if (process.state != CU_PROCESS_STATE_RUNNING)
        return CUDA_ERROR_ILLEGAL_STATE;
    process_set_state(CU_PROCESS_STATE_LOCKED);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    while (!process_is_idle()) {
        int r = timeout_ms ? pthread_cond_timedwait(&fake.changed, &fake.lock, &end)
                           : pthread_cond_wait(&fake.changed, &fake.lock);

        if (r == ETIMEDOUT) {
            process_set_state(CU_PROCESS_STATE_RUNNING);
            return CUDA_ERROR_NOT_READY;
        }
    }
    return CUDA_SUCCESS;
}

static CUresult process_save(void)
{
    if (process.state != CU_PROCESS_STATE_LOCKED)
        return CUDA_ERROR_ILLEGAL_STATE;
    if (fake.settings.has_managed_memory) {
        process_set_state(CU_PROCESS_STATE_FAILED);
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    process.contents = fake_allocate((fake.handles.n + 1) * sizeof(*process.contents));
    for (size_t i = 0; i < fake.handles.n; i++) {
        struct fake_handle *handle = fake.handles.values[i];

        process.contents[i] = fake_allocate(handle->bytes);
        memcpy(process.contents[i], handle->alias, handle->bytes);
        if (fallocate(handle->device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)handle->offset,
                      (off_t)handle->bytes))
            abort();
    }
    for (int i = 0; i < FAKE_MAX_DEVICES; i++) {
        process.used_bytes[i] = fake.devices[i].used_bytes;
        fake.devices[i].used_bytes = 0;
    }
    process_set_state(CU_PROCESS_STATE_CHECKPOINTED);
    return CUDA_SUCCESS;
}

static CUresult process_restore(void)
{
    if (process.state != CU_PROCESS_STATE_CHECKPOINTED)
        return CUDA_ERROR_ILLEGAL_STATE;
    for (int i = 0; i < FAKE_MAX_DEVICES; i++)
        if (process.used_bytes[i] > fake_memory_free_bytes(&fake.devices[i]))
            return CUDA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; i < fake.handles.n; i++) {
        struct fake_handle *handle = fake.handles.values[i];

        memcpy(handle->alias, process.contents[i], handle->bytes);
        free(process.contents[i]);
    }
    free(process.contents);
    for (int i = 0; i < FAKE_MAX_DEVICES; i++)
        fake.devices[i].used_bytes += process.used_bytes[i];
    process_set_state(CU_PROCESS_STATE_LOCKED);
    return CUDA_SUCCESS;
}

static CUresult process_unlock(void)
{
    if (process.state != CU_PROCESS_STATE_LOCKED)
        return CUDA_ERROR_ILLEGAL_STATE;
    process_set_state(CU_PROCESS_STATE_RUNNING);
    return CUDA_SUCCESS;
}

static struct process_answer process_serve(const struct process_request *request)
{
    struct process_answer answer = {0};

    fake_lock();
    switch ((enum process_verb)request->verb) {
    case PROCESS_LOCK:
        answer.result = process_lock(request->timeout_ms);
        break;
    case PROCESS_SAVE:
        answer.result = process_save();
        break;
    case PROCESS_RESTORE:
        answer.result = process_restore();
        break;
    case PROCESS_UNLOCK:
        answer.result = process_unlock();
        break;
    default:
        break;
    }
    answer.state = process.state;
    for (int i = 0; i < FAKE_MAX_DEVICES; i++)
        answer.used_bytes += fake.devices[i].used_bytes;
    fake_unlock();
    return answer;
}

static void *process_answer(void *connection)
{
    int fd = (int)(intptr_t)connection;
    struct process_request request;

    if (recv(fd, &request, sizeof(request), MSG_WAITALL) == (ssize_t)sizeof(request)) {
        struct process_answer answer = process_serve(&request);

        send(fd, &answer, sizeof(answer), MSG_NOSIGNAL);
    }
    close(fd);
    return NULL;
}

/* Each in a thread of its own: a lock that waits does not keep others from asking. */
static void *process_run(void *unused)
{
    for (;;) {
        int fd = accept4(process.listen_fd, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd < 0)
            continue;
        if (pthread_create(&thread, NULL, process_answer, (void *)(intptr_t)fd))
            abort();
        pthread_detach(thread);
    }
    return unused;
}

/* Before cuInit() returns somebody listens, so that who saw it return is served. */
void fake_process_start(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    sigset_t all, old;

    if (process.is_started || !fake.settings.processes[0])
        return;
    process.is_started = true;
    process.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/%d", fake.settings.processes, getpid());
    unlink(address.sun_path);
    if (process.listen_fd < 0 || bind(process.listen_fd, (struct sockaddr *)&address, sizeof(address)) ||
        listen(process.listen_fd, 16))
        abort();
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    if (pthread_create(&process.thread, NULL, process_run, NULL))
        abort();
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* --- from outside --- */

/* What the caller hears of a process that does not answer: one that never was, and one that is no CUDA process. */
static CUresult process_fail(int pid)
{
    return kill(pid, 0) && errno == ESRCH ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_INITIALIZED;
}

/* The lock is let go meanwhile: the process asked may be this one. */
static CUresult process_call(int pid, enum process_verb verb, unsigned int timeout_ms, int *ret_state)
{
    struct process_request request = {.verb = (int32_t)verb, .timeout_ms = timeout_ms};
    struct process_answer answer;
    char dir[sizeof(fake.settings.processes)];

    if (pid <= 0)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (!fake.settings.processes[0])
        return fake_leave(CUDA_ERROR_NOT_SUPPORTED);
    memcpy(dir, fake.settings.processes, sizeof(dir));
    while (fake.settings.no_answer & UINT64_C(1) << verb)
        pthread_cond_wait(&fake.changed, &fake.lock);
    fake_leave(0);
    if (process_ask(dir, pid, &request, &answer))
        return process_fail(pid);
    if (ret_state)
        *ret_state = answer.state;
    return answer.result;
}

CUresult cuCheckpointProcessGetState(int pid, int *state)
{
    FAKE_ENTER(cuCheckpointProcessGetState);
    if (!state)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    return process_call(pid, PROCESS_STATE, 0, state);
}

CUresult cuCheckpointProcessLock(int pid, CUcheckpointLockArgs *args)
{
    FAKE_ENTER(cuCheckpointProcessLock);
    if (args && args->reserved0)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    for (size_t i = 0; args && i < sizeof(args->reserved1) / sizeof(args->reserved1[0]); i++)
        if (args->reserved1[i])
            return fake_leave(CUDA_ERROR_INVALID_VALUE);
    return process_call(pid, PROCESS_LOCK, args ? args->timeoutMs : 0, NULL);
}

CUresult cuCheckpointProcessCheckpoint(int pid, void *args)
{
    FAKE_ENTER(cuCheckpointProcessCheckpoint);
    if (args)
        return fake_leave(CUDA_ERROR_INVALID_VALUE); /* of no driver that this one stands for alone */
    return process_call(pid, PROCESS_SAVE, 0, NULL);
}

CUresult cuCheckpointProcessRestore(int pid, void *args)
{
    FAKE_ENTER(cuCheckpointProcessRestore);
    if (args)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    return process_call(pid, PROCESS_RESTORE, 0, NULL);
}

CUresult cuCheckpointProcessUnlock(int pid, void *args)
{
    FAKE_ENTER(cuCheckpointProcessUnlock);
    if (args)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    return process_call(pid, PROCESS_UNLOCK, 0, NULL);
}
