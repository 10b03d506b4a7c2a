/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two promises to the host program are kept here. Whatever context is current in a thread when it calls us is current
 * when we return: the primary context is pushed and popped, never set. And no graph capture is disturbed: in the
 * default mode of a thread even the query of an event fails while any other thread captures, and ends that capture, so
 * our calls run in the relaxed mode, which is the thread's own and is put back.
 *
 * And one to our own: some failures are for ever (a kernel read a wild address, the GPU fell off the bus). After the
 * first of them no driver call is made any more, since what they say then is noise and some of them may wait for ever.
 */
#include "device/cuda/core.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "base/os.h"

/* What a result means where the call does not know better. */
struct meaning {
    usk_cu_result result;
    int status;
};

static const struct meaning meanings[] = {
    { USK_CU_INVALID_VALUE, UNSTICK_INVALID_ARGUMENT },
    { USK_CU_OUT_OF_MEMORY, UNSTICK_OUT_OF_DEVICE_MEMORY },
    { USK_CU_NO_DEVICE, UNSTICK_NO_DEVICE },
    { USK_CU_INVALID_DEVICE, UNSTICK_NO_DEVICE },
    { USK_CU_INVALID_HANDLE, UNSTICK_INVALID_ARGUMENT },
    { USK_CU_HOST_MEMORY_NOT_REGISTERED, UNSTICK_INVALID_ARGUMENT },
    { USK_CU_NOT_READY, UNSTICK_BUSY },
    { USK_CU_NOT_PERMITTED, UNSTICK_UNSUPPORTED },
    { USK_CU_NOT_SUPPORTED, UNSTICK_UNSUPPORTED },
    /* A stream is being captured into a graph: later. */
    { USK_CU_STREAM_CAPTURE_UNSUPPORTED, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_INVALIDATED, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_MERGE, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_UNMATCHED, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_UNJOINED, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_ISOLATION, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_IMPLICIT, UNSTICK_BUSY },
    { USK_CU_CAPTURED_EVENT, UNSTICK_BUSY },
    { USK_CU_STREAM_CAPTURE_WRONG_THREAD, UNSTICK_BUSY },
    /* From here on the context is dead, for us and for the host program. */
    { USK_CU_DEINITIALIZED, UNSTICK_DEVICE_LOST },
    { USK_CU_DEVICE_UNAVAILABLE, UNSTICK_DEVICE_LOST },
    { USK_CU_INVALID_CONTEXT, UNSTICK_DEVICE_LOST },
    { USK_CU_ECC_UNCORRECTABLE, UNSTICK_DEVICE_LOST },
    { USK_CU_NVLINK_UNCORRECTABLE, UNSTICK_DEVICE_LOST },
    { USK_CU_CONTAINED, UNSTICK_DEVICE_LOST },
    { USK_CU_ILLEGAL_ADDRESS, UNSTICK_DEVICE_LOST },
    { USK_CU_LAUNCH_TIMEOUT, UNSTICK_DEVICE_LOST },
    { USK_CU_CONTEXT_IS_DESTROYED, UNSTICK_DEVICE_LOST },
    { USK_CU_ASSERT, UNSTICK_DEVICE_LOST },
    { USK_CU_HARDWARE_STACK_ERROR, UNSTICK_DEVICE_LOST },
    { USK_CU_ILLEGAL_INSTRUCTION, UNSTICK_DEVICE_LOST },
    { USK_CU_MISALIGNED_ADDRESS, UNSTICK_DEVICE_LOST },
    { USK_CU_INVALID_ADDRESS_SPACE, UNSTICK_DEVICE_LOST },
    { USK_CU_INVALID_PC, UNSTICK_DEVICE_LOST },
    { USK_CU_LAUNCH_FAILED, UNSTICK_DEVICE_LOST },
    { USK_CU_TENSOR_MEMORY_LEAK, UNSTICK_DEVICE_LOST },
    { USK_CU_SYSTEM_NOT_READY, UNSTICK_DEVICE_LOST },
    { USK_CU_MPS_RPC_FAILURE, UNSTICK_DEVICE_LOST },
    { USK_CU_MPS_CLIENT_TERMINATED, UNSTICK_DEVICE_LOST },
    { USK_CU_EXTERNAL_DEVICE, UNSTICK_DEVICE_LOST },
};

static int meaning_of(usk_cu_result result)
{
    for (size_t i = 0; i < sizeof(meanings) / sizeof(meanings[0]); i++) {
        if (meanings[i].result == result)
            return meanings[i].status;
    }
    return UNSTICK_DRIVER;
}

int usk_cuda_fail_lost(struct usk_cuda_core *core, const char *operation, struct unstick_error *error)
{
    const char *first = atomic_load_explicit(&core->lost_operation, memory_order_acquire);
    int result = atomic_load_explicit(&core->lost_result, memory_order_relaxed);

    return usk_error_set(error, UNSTICK_DEVICE_LOST, result, operation,
                         "the device was lost: %s said %s; backups in host memory are intact, the process must be "
                         "restarted to use the device again",
                         first ? first : "the driver", usk_cuda_result_name(core->driver, result));
}

static void core_lose(struct usk_cuda_core *core, usk_cu_result result, const char *operation)
{
    int none = USK_CU_SUCCESS;

    if (!atomic_compare_exchange_strong(&core->lost_result, &none, result))
        return;
    atomic_store_explicit(&core->lost_operation, operation, memory_order_release);
    usk_log_write(&core->log, UNSTICK_LOG_ERROR, "device lost: %s said %s (%d)", operation,
                  usk_cuda_result_name(core->driver, result), result);
    /* The driver does not run our host functions any more; whoever waits must look. */
    usk_os_event_signal(core->event_fd);
}

/* UNKNOWN is what a driver says when it has no better word, about one call or about everything. A stream knows. */
static bool core_is_dead(struct usk_cuda_core *core, usk_cu_result result)
{
    if (meaning_of(result) == UNSTICK_DEVICE_LOST)
        return true;
    if (result != USK_CU_UNKNOWN || !core->probe)
        return false;
    result = core->driver->cuStreamQuery(core->probe);
    return result != USK_CU_SUCCESS && result != USK_CU_NOT_READY;
}

static int fail_va(struct usk_cuda_core *core, struct unstick_error *error, int status, usk_cu_result result,
                   const char *operation, const char *format, va_list args)
{
    char asked[256];

    if (core_is_dead(core, result)) {
        core_lose(core, result, operation);
        return usk_cuda_fail_lost(core, operation, error);
    }
    vsnprintf(asked, sizeof(asked), format, args);
    return usk_error_set(error, status, result, operation, "%s: %s said %s (%d: %s)", asked, operation,
                         usk_cuda_result_name(core->driver, result), result,
                         usk_cuda_result_text(core->driver, result));
}

int usk_cuda_fail(struct usk_cuda_core *core, struct unstick_error *error, usk_cu_result result, const char *operation,
                  const char *format, ...)
{
    va_list args;
    int r;

    va_start(args, format);
    r = fail_va(core, error, meaning_of(result), result, operation, format, args);
    va_end(args);
    return r;
}

int usk_cuda_fail_as(struct usk_cuda_core *core, struct unstick_error *error, int status, usk_cu_result result,
                     const char *operation, const char *format, ...)
{
    va_list args;
    int r;

    va_start(args, format);
    r = fail_va(core, error, status, result, operation, format, args);
    va_end(args);
    return r;
}

int usk_cuda_enter(struct usk_cuda_core *core, struct usk_cuda_scope *scope, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver = core->driver;
    int mode = USK_CU_STREAM_CAPTURE_MODE_RELAXED;
    usk_cu_result result;

    if (usk_cuda_is_lost(core))
        return usk_cuda_fail_lost(core, "cuCtxPushCurrent", error);
    result = driver->cuThreadExchangeStreamCaptureMode(&mode);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuThreadExchangeStreamCaptureMode",
                             "cannot keep stream captures undisturbed");
    result = driver->cuCtxPushCurrent(core->context);
    if (result != USK_CU_SUCCESS) {
        driver->cuThreadExchangeStreamCaptureMode(&mode);
        return usk_cuda_fail(core, error, result, "cuCtxPushCurrent", "cannot use the device's primary context");
    }
    scope->core = core;
    scope->capture_mode = mode;
    return UNSTICK_OK;
}

void usk_cuda_leave(struct usk_cuda_scope *scope)
{
    const struct usk_cuda_driver *driver;
    usk_cu_context popped;

    if (!scope->core)
        return;
    /* Both can only fail when the driver has shut down, and then there is nothing left to restore. */
    driver = scope->core->driver;
    driver->cuCtxPopCurrent(&popped);
    driver->cuThreadExchangeStreamCaptureMode(&scope->capture_mode);
    scope->core = NULL;
}
