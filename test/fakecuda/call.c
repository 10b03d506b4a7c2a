/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How every driver call begins and ends. The order of the checks is the driver's: is it initialized, is there a
 * context, has that context failed, does the call break a capture; only then the call looks at its arguments. A failure
 * that a test asked for comes after them, as the last thing that can go wrong before anything has been done.
 */
#include <stdlib.h>
#include <string.h>

#include "fake.h"

struct fake_world fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
_Thread_local struct fake_thread fake_self;

struct call_info {
    const char *name, *symbol;
    int since;
    unsigned int needs;
    void (*function)(void);
};

static const struct call_info call_infos[] = {
#define CALL_INFO(_name, _suffix, _since, _needs, _arguments)                                                \
    {#_name, #_name #_suffix, _since, _needs, (void (*)(void))_name##_suffix},
    CUDA_FUNCTION_MAP(CALL_INFO)
#undef CALL_INFO
};

#define CALL_MAX_FAILURES 32

struct call_failure {
    int function; /* -1: any that is_survivable() */
    uint64_t at, n_seen;
    CUresult code;
    bool is_for_ever;
};

static struct {
    struct call_failure failures[CALL_MAX_FAILURES];
    size_t n_failures;
    uint64_t n_calls[FAKE_N_FUNCTIONS], n_survivable, n_failed;
    void (*hook)(void *userdata, const char *name);
    void *hook_userdata;
} script;

static pthread_once_t call_once = PTHREAD_ONCE_INIT;

/* A failure of these leaves a caller nothing to do: they do not fail unless named. */
static bool call_is_survivable(enum fake_function function)
{
    switch (function) {
    case FAKE_cuDriverGetVersion:
    case FAKE_cuGetErrorName:
    case FAKE_cuGetErrorString:
    case FAKE_cuGetProcAddress:
    case FAKE_cuGetProcAddress_v2:
    case FAKE_cuCtxGetCurrent:
    case FAKE_cuCtxPopCurrent_v2:
    case FAKE_cuThreadExchangeStreamCaptureMode:
        return false;
    default:
        return true;
    }
}

static CUresult call_default_code(int function)
{
    switch (function) {
    case FAKE_cuMemCreate:
    case FAKE_cuMemAddressReserve:
    case FAKE_cuMemMap:
    case FAKE_cuMemAlloc_v2:
    case FAKE_cuMemHostAlloc:
    case FAKE_cuMemHostRegister_v2:
    case FAKE_cuStreamCreate:
    case FAKE_cuEventCreate:
    case FAKE_cuModuleLoadData:
    case FAKE_cuDevicePrimaryCtxRetain:
        return CUDA_ERROR_OUT_OF_MEMORY;
    default:
        return CUDA_ERROR_UNKNOWN;
    }
}

static int call_by_name(const char *name)
{
    for (int i = 0; i < FAKE_N_FUNCTIONS; i++)
        if (strcmp(name, call_infos[i].symbol) == 0)
            return i;
    for (int i = FAKE_N_FUNCTIONS - 1; i >= 0; i--)
        if (strcmp(name, call_infos[i].name) == 0)
            return i;
    return -1;
}

static void call_fork_child(void)
{
    atomic_store(&fake.is_forked, true);
    pthread_mutex_unlock(&fake.lock);
}

static void call_start(void)
{
    /* A child gets a lock that nobody holds, and then refuses. */
    pthread_atfork(fake_lock, fake_unlock, call_fork_child);
    fake_lock();
    fake_settings_load();
    fake_unlock();
}

void fake_lock(void)
{
    pthread_mutex_lock(&fake.lock);
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&fake.lock);
}

/* What a script says to this call: 0, or a failure. */
static CUresult call_count(enum fake_function function)
{
    bool is_survivable = call_is_survivable(function);
    CUresult result = 0;

    script.n_calls[function]++;
    script.n_survivable += is_survivable;
    for (size_t i = 0; i < script.n_failures; i++) {
        struct call_failure *failure = &script.failures[i];

        if (failure->function < 0 ? !is_survivable : failure->function != (int)function)
            continue;
        failure->n_seen++;
        if (failure->n_seen == failure->at || (failure->is_for_ever && failure->n_seen > failure->at))
            result = failure->code ? failure->code : call_default_code((int)function);
    }
    if (is_survivable && fake.settings.lose_at && script.n_survivable == fake.settings.lose_at)
        for (int i = 0; i < FAKE_MAX_DEVICES; i++)
            fake_device_lose(&fake.devices[i], CUDA_ERROR_LAUNCH_FAILED);
    return result;
}

static CUresult call_check(enum fake_function function)
{
    unsigned int needs = call_infos[function].needs;
    struct fake_context *context;

    if (!needs)
        return 0;
    if (!fake.is_initialized)
        return CUDA_ERROR_NOT_INITIALIZED;
    if (needs & FAKE_CONTEXT && !fake_self.n_contexts) {
        fake.misuse.calls_without_context++;
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    if (needs & FAKE_VMM && fake.settings.has_no_vmm)
        return CUDA_ERROR_NOT_SUPPORTED;
    context = fake_current();
    if (needs & FAKE_CONTEXT && !context) {
        fake.misuse.calls_without_context++;
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    }
    if (needs & (FAKE_CONTEXT | FAKE_VMM) && !(needs & FAKE_NOT_STICKY) && context && context->sticky) {
        script.n_failed++;
        return context->sticky;
    }
    if (needs & FAKE_UNSAFE)
        return fake_capture_check_unsafe();
    return 0;
}

void fake_start(void)
{
    pthread_once(&call_once, call_start);
}

CUresult fake_enter(enum fake_function function)
{
    void (*hook)(void *userdata, const char *name);
    void *hook_userdata;
    CUresult injected, result;

    fake_start();
    fake_lock();
    if (atomic_load(&fake.is_forked)) {
        fake.misuse.calls_in_fork++;
        return fake_leave(CUDA_ERROR_NOT_INITIALIZED);
    }
    if (fake_self.is_in_host_function) {
        fake.misuse.calls_in_host_function++;
        return fake_leave(CUDA_ERROR_NOT_PERMITTED);
    }
    hook = script.hook;
    hook_userdata = script.hook_userdata;
    if (hook) {
        fake_unlock();
        hook(hook_userdata, call_infos[function].name);
        fake_lock();
    }
    fake_process_wait(function);
    injected = call_count(function);
    result = call_check(function);
    if (!result && injected) {
        script.n_failed++;
        result = injected;
    }
    return result ? fake_leave(result) : 0;
}

CUresult fake_leave(CUresult result)
{
    fake_unlock();
    return result;
}

void fake_script_add(const char *name, uint64_t n, CUresult code, bool is_for_ever)
{
    int function = strcmp(name, "*") == 0 ? -1 : call_by_name(name);

    /* A script that names nothing would make a test that cannot fail. */
    if (script.n_failures == CALL_MAX_FAILURES || (function < 0 && strcmp(name, "*") != 0))
        abort();
    script.failures[script.n_failures++] =
        (struct call_failure){.function = function, .at = n, .code = code, .is_for_ever = is_for_ever};
}

void fake_script_clear(void)
{
    script.n_failures = 0;
    script.n_failed = 0;
}

void fake_script_reset(void)
{
    fake_script_clear();
    memset(script.n_calls, 0, sizeof(script.n_calls));
    script.n_survivable = 0;
    script.hook = NULL;
}

void fake_script_hook(void (*hook)(void *userdata, const char *name), void *userdata)
{
    script.hook = hook;
    script.hook_userdata = userdata;
}

uint64_t fake_script_n_failed(void)
{
    return script.n_failed;
}

uint64_t fake_script_n_calls(const char *name)
{
    int function = call_by_name(name);

    if (strcmp(name, "*") == 0)
        return script.n_survivable;
    return function < 0 ? 0 : script.n_calls[function];
}

/* The newest form of a function that is not newer than the caller and the driver are. */
static int call_find_symbol(const char *name, int version, void **ret_function)
{
    int status = CU_PROC_NOT_FOUND;
    const struct call_info *best = NULL;

    for (int i = 0; i < FAKE_N_FUNCTIONS; i++) {
        const struct call_info *info = &call_infos[i];

        if (strcmp(info->name, name) != 0 || info->since > fake.settings.driver_version)
            continue;
        if (info->since > version)
            status = best ? status : CU_PROC_VERSION_NOT_SUFFICIENT;
        else if (!best || info->since > best->since)
            best = info;
    }
    if (!best)
        return status;
    memcpy(ret_function, &best->function, sizeof(*ret_function));
    return CU_PROC_SUCCESS;
}

CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    int status;

    FAKE_ENTER(cuGetProcAddress);
    if (!name || !function || flags > 2)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *function = NULL;
    status = call_find_symbol(name, version, function);
    return fake_leave(status == CU_PROC_SUCCESS ? 0 : CUDA_ERROR_NOT_FOUND);
}

/* This form came with CUDA 12 and says by its status what it did not find; the call itself succeeds. */
CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    int found;

    FAKE_ENTER(cuGetProcAddress_v2);
    if (fake.settings.driver_version < 12000)
        return fake_leave(CUDA_ERROR_NOT_SUPPORTED);
    if (!name || !function || flags > 2)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *function = NULL;
    found = call_find_symbol(name, version, function);
    if (status)
        *status = found;
    return fake_leave(0);
}

static const struct {
    CUresult code;
    const char *name, *text;
} call_results[] = {
#define CALL_RESULT(_name, _value, _text) {_value, "CUDA_" #_name, _text},
    CUDA_RESULT_MAP(CALL_RESULT)
#undef CALL_RESULT
};

CUresult cuGetErrorName(CUresult code, const char **text)
{
    FAKE_ENTER(cuGetErrorName);
    *text = NULL;
    for (size_t i = 0; i < sizeof(call_results) / sizeof(call_results[0]); i++)
        if (call_results[i].code == code)
            *text = call_results[i].name;
    return fake_leave(*text ? 0 : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuGetErrorString(CUresult code, const char **text)
{
    FAKE_ENTER(cuGetErrorString);
    *text = NULL;
    for (size_t i = 0; i < sizeof(call_results) / sizeof(call_results[0]); i++)
        if (call_results[i].code == code)
            *text = call_results[i].text;
    return fake_leave(*text ? 0 : CUDA_ERROR_INVALID_VALUE);
}
