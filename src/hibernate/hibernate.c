/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two short ways over the driver's states: RUNNING -lock-> LOCKED -save-> CHECKPOINTED, and back. The invariant:
 * whatever fails, the process is at one of the two ends of its way, or the text says where it is. A lock that was taken
 * is given back when what follows fails; a process that the driver calls CHECKPOINTED is never touched but by a
 * restore. The driver itself promises less (it does not keep a process whole when a save fails), so it is asked for the
 * state after every failure, and what is asked for is refused beforehand where it can be seen to fail.
 *
 * How much came free is read from NVML, which needs no context: a context of our own would take half a gigabyte of what
 * is to be freed.
 */
#include "hibernate/hibernate.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/size.h"
#include "hibernate/call.h"
#include "monitor/monitor.h"

#define HIBERNATE_GRACE_MS 5000
#define HIBERNATE_STATE_LIMIT_MS 10000

struct hibernation {
    const struct usk_cuda_driver *driver;
    struct usk_target target;
    struct usk_hibernate_run *run;
    struct usk_nvml *nvml; /* NULL: there is none */
    struct usk_nvml_use before;
    bool has_lock; /* it is ours to give back */
    struct unstick_hibernation report;
};

const char *unstick_hibernate_state_name(enum unstick_hibernate_state state)
{
    switch (state) {
    case UNSTICK_HIBERNATE_RUNNING:
        return "running";
    case UNSTICK_HIBERNATE_LOCKED:
        return "locked";
    case UNSTICK_HIBERNATE_HIBERNATED:
        return "hibernated";
    case UNSTICK_HIBERNATE_FAILED:
        return "failed";
    case UNSTICK_HIBERNATE_MOVING:
        return "moving";
    case UNSTICK_HIBERNATE_UNKNOWN:
        break;
    }
    return "unknown";
}

static enum unstick_hibernate_state state_of(int native)
{
    switch (native) {
    case USK_CU_PROCESS_RUNNING:
        return UNSTICK_HIBERNATE_RUNNING;
    case USK_CU_PROCESS_LOCKED:
        return UNSTICK_HIBERNATE_LOCKED;
    case USK_CU_PROCESS_CHECKPOINTED:
        return UNSTICK_HIBERNATE_HIBERNATED;
    case USK_CU_PROCESS_FAILED:
        return UNSTICK_HIBERNATE_FAILED;
    default:
        return UNSTICK_HIBERNATE_MOVING;
    }
}

/* --- calls of the driver --- */

static const char *result_explain(const struct hibernation *h, usk_cu_result result, char text[160])
{
    snprintf(text, 160, "%s (%s, %d)", usk_cuda_result_text(h->driver, result),
             usk_cuda_result_name(h->driver, result), result);
    return text;
}

/* UNSTICK_OK: the driver answered, and the process lives or the answer was good. */
static int hibernation_call(struct hibernation *h, enum usk_cuda_checkpoint_call call, usk_cu_result *ret_result,
                            int *ret_state, struct unstick_error *error)
{
    bool is_copy = call == USK_CUDA_CHECKPOINT_SAVE || call == USK_CUDA_CHECKPOINT_RESTORE;
    struct usk_hibernate_call what = {
        .call = call,
        .lock_ms = h->run->timeout_ms,
        /* A copy cannot be broken off, and takes as long as it takes. */
        .limit_ms = is_copy || !h->run->timeout_ms ? 0 : h->run->timeout_ms + h->run->grace_ms,
        .grace_ms = h->run->grace_ms,
    };
    int r = usk_hibernate_call(h->driver, &h->target, &what, ret_result, ret_state, error);

    if (r == UNSTICK_OK && *ret_result != USK_CU_SUCCESS && usk_target_is_ending(&h->target))
        r = usk_target_fail_ended(&h->target, usk_cuda_checkpoint_name(call), error);
    if (r < 0)
        h->report.state = UNSTICK_HIBERNATE_UNKNOWN;
    return r;
}

static int hibernation_ask(struct hibernation *h, struct unstick_error *error)
{
    const char *name = usk_cuda_checkpoint_name(USK_CUDA_CHECKPOINT_STATE);
    usk_cu_result result;
    char why[160];
    int state, r;

    r = hibernation_call(h, USK_CUDA_CHECKPOINT_STATE, &result, &state, error);
    if (r < 0)
        return r;
    switch (result) {
    case USK_CU_SUCCESS:
        h->report.state = state_of(state);
        return UNSTICK_OK;
    case USK_CU_INVALID_VALUE:
    case USK_CU_NOT_INITIALIZED:
        return usk_error_set(error, UNSTICK_UNSUPPORTED, result, name,
                             "process %d (%s) does not use CUDA, so it holds nothing to hibernate: %s", h->target.pid,
                             h->target.name, result_explain(h, result, why));
    case USK_CU_NOT_SUPPORTED:
        return usk_error_set(error, UNSTICK_UNSUPPORTED, result, name,
                             "the driver cannot hibernate process %d (%s) on this platform: %s", h->target.pid,
                             h->target.name, result_explain(h, result, why));
    default:
        return usk_error_set(error, UNSTICK_DRIVER, result, name,
                             "the driver does not tell the state of process %d (%s): %s", h->target.pid,
                             h->target.name, result_explain(h, result, why));
    }
}

/* What the state is after a failure, in words. A lock of ours is given back, and only that. */
static const char *hibernation_settle(struct hibernation *h)
{
    usk_cu_result result;

    if (hibernation_ask(h, NULL) < 0)
        return "what state it is in cannot be told";
    if (h->has_lock && h->report.state == UNSTICK_HIBERNATE_LOCKED &&
        hibernation_call(h, USK_CUDA_CHECKPOINT_UNLOCK, &result, NULL, NULL) == UNSTICK_OK &&
        result == USK_CU_SUCCESS)
        h->report.state = UNSTICK_HIBERNATE_RUNNING;
    switch (h->report.state) {
    case UNSTICK_HIBERNATE_RUNNING:
        return "it runs on as before";
    case UNSTICK_HIBERNATE_LOCKED:
        return h->has_lock ? "it is left locked: wake it" : "somebody has locked it";
    case UNSTICK_HIBERNATE_HIBERNATED:
        return "it stays hibernated";
    case UNSTICK_HIBERNATE_FAILED:
        return "what it had on the GPUs is lost: end it";
    default:
        return "somebody else is at it";
    }
}

static int fail_status(usk_cu_result result, int out_of_memory)
{
    switch (result) {
    case USK_CU_NOT_SUPPORTED:
        return UNSTICK_UNSUPPORTED;
    case USK_CU_OUT_OF_MEMORY:
        return out_of_memory;
    case USK_CU_ILLEGAL_STATE:
        return UNSTICK_WRONG_STATE;
    default:
        return UNSTICK_DRIVER;
    }
}

/* A step failed. `doing` stands behind "the driver did not", `hint` is NULL or what may be the cause. */
static int hibernation_fail(struct hibernation *h, enum usk_cuda_checkpoint_call call, int status,
                            usk_cu_result result, const char *doing, const char *hint, struct unstick_error *error)
{
    const char *settled = hibernation_settle(h);
    char why[160];

    if (h->report.state == UNSTICK_HIBERNATE_FAILED)
        status = UNSTICK_DRIVER;
    return usk_error_set(error, status, result, usk_cuda_checkpoint_name(call),
                         "the driver did not %s process %d (%s): %s; %s%s%s", doing, h->target.pid, h->target.name,
                         result_explain(h, result, why), settled, hint ? "; " : "", hint ? hint : "");
}

static int hibernation_fail_state(const struct hibernation *h, struct unstick_error *error)
{
    static const char *const texts[] = {
        [UNSTICK_HIBERNATE_UNKNOWN] = "is in no known state",
        [UNSTICK_HIBERNATE_RUNNING] = "runs: there is nothing to wake",
        [UNSTICK_HIBERNATE_LOCKED] = "is locked by somebody who hibernates or wakes it, or did not finish: wake it",
        [UNSTICK_HIBERNATE_HIBERNATED] = "is hibernated already",
        [UNSTICK_HIBERNATE_FAILED] = "has lost what it had on the GPUs in an attempt to save or restore it: end it",
        [UNSTICK_HIBERNATE_MOVING] = "is being saved or restored by somebody: wait for that",
    };

    return usk_error_set(error, UNSTICK_WRONG_STATE, 0, usk_cuda_checkpoint_name(USK_CUDA_CHECKPOINT_STATE),
                         "process %d (%s) %s", h->target.pid, h->target.name, texts[h->report.state]);
}

/* --- readings --- */

/* True if NVML says what the process holds; one that is in no list may also be one that NVML cannot name. */
static bool use_is_known(const struct usk_nvml_use *use)
{
    return use->is_listed && !use->is_amount_unknown;
}

static void hibernation_read_before(struct hibernation *h)
{
    if (usk_nvml_open(NULL, &h->nvml, NULL) < 0)
        h->nvml = NULL;
    if (!h->nvml || usk_nvml_use(h->nvml, h->target.pid, &h->before, NULL) < 0) {
        h->nvml = usk_nvml_close(h->nvml);
        return;
    }
    h->report.sources = UNSTICK_SOURCE_DRIVER | (use_is_known(&h->before) ? (unsigned int)UNSTICK_SOURCE_PROCESSES : 0);
    h->report.device_before_bytes = h->report.device_after_bytes = h->before.used_bytes;
    h->report.process_before_bytes = h->report.process_after_bytes = h->before.process_bytes;
}

static void hibernation_read_after(struct hibernation *h)
{
    struct usk_nvml_use after;

    if (!h->nvml)
        return;
    if (usk_nvml_use(h->nvml, h->target.pid, &after, NULL) < 0) {
        h->report.sources = 0;
        return;
    }
    h->report.device_after_bytes = after.used_bytes;
    h->report.process_after_bytes = after.process_bytes;
    if (h->before.is_amount_unknown || after.is_amount_unknown)
        h->report.sources &= ~(unsigned int)UNSTICK_SOURCE_PROCESSES;
    else if (after.is_listed)
        h->report.sources |= UNSTICK_SOURCE_PROCESSES;
}

/* The driver takes host memory for all of it and does not ask whether there is as much. */
static int hibernation_check_room(const struct hibernation *h, struct unstick_error *error)
{
    struct usk_os_memory memory;
    uint64_t available_bytes, needed_bytes = h->before.process_bytes;
    char needed[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX];

    if (!(h->report.sources & UNSTICK_SOURCE_PROCESSES) || usk_os_memory(&memory, NULL) < 0)
        return UNSTICK_OK;
    available_bytes = memory.available_bytes;
    if (h->target.is_in_our_cgroup && memory.cgroup_limit_bytes != UINT64_MAX)
        available_bytes = usk_min(available_bytes, memory.cgroup_limit_bytes - usk_min(memory.cgroup_limit_bytes,
                                                                                        memory.cgroup_used_bytes));
    if (needed_bytes <= available_bytes)
        return UNSTICK_OK;
    usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "unstick_hibernate",
                  "process %d (%s) holds %s on the GPUs, and %s of host memory are available to keep that in; it runs "
                  "on as before",
                  h->target.pid, h->target.name, usk_size_format(needed, needed_bytes),
                  usk_size_format(available, available_bytes));
    usk_error_shortage(error, needed_bytes, available_bytes);
    return UNSTICK_OUT_OF_HOST_MEMORY;
}

/* --- the two ways --- */

static int hibernation_lock(struct hibernation *h, struct unstick_error *error)
{
    uint64_t started_ns = usk_clock_now_ns();
    const char *settled;
    usk_cu_result result;
    int r;

    atomic_store(&h->run->phase, USK_HIBERNATE_LOCK);
    r = hibernation_call(h, USK_CUDA_CHECKPOINT_LOCK, &result, NULL, error);
    h->report.lock_ns = usk_clock_now_ns() - started_ns;
    if (r < 0)
        return r;
    switch (result) {
    case USK_CU_SUCCESS:
        h->has_lock = true;
        h->report.state = UNSTICK_HIBERNATE_LOCKED;
        return UNSTICK_OK;
    case USK_CU_NOT_READY:
    case USK_CU_TIMEOUT:
        settled = hibernation_settle(h);
        return usk_error_set(error, UNSTICK_TIMED_OUT, result, usk_cuda_checkpoint_name(USK_CUDA_CHECKPOINT_LOCK),
                             "what process %d (%s) submitted to its GPUs was not done within %u ms; %s", h->target.pid,
                             h->target.name, h->run->timeout_ms, settled);
    default:
        return hibernation_fail(h, USK_CUDA_CHECKPOINT_LOCK, fail_status(result, UNSTICK_OUT_OF_HOST_MEMORY), result,
                                "lock", NULL, error);
    }
}

static int hibernation_unlock(struct hibernation *h, struct unstick_error *error)
{
    usk_cu_result result;
    int r;

    h->has_lock = true;
    atomic_store(&h->run->phase, USK_HIBERNATE_UNLOCK);
    r = hibernation_call(h, USK_CUDA_CHECKPOINT_UNLOCK, &result, NULL, error);
    if (r < 0)
        return r;
    if (result == USK_CU_SUCCESS) {
        h->report.state = UNSTICK_HIBERNATE_RUNNING;
        return UNSTICK_OK;
    }
    r = hibernation_fail(h, USK_CUDA_CHECKPOINT_UNLOCK, fail_status(result, UNSTICK_OUT_OF_HOST_MEMORY), result,
                         "unlock", NULL, error);
    /* A second try is part of settling. */
    return h->report.state == UNSTICK_HIBERNATE_RUNNING ? UNSTICK_OK : r;
}

/* Saves or restores. */
static int hibernation_copy(struct hibernation *h, enum usk_cuda_checkpoint_call call, struct unstick_error *error)
{
    bool is_save = call == USK_CUDA_CHECKPOINT_SAVE;
    uint64_t started_ns = usk_clock_now_ns();
    usk_cu_result result;
    int r;

    atomic_store(&h->run->phase, USK_HIBERNATE_COPY);
    r = hibernation_call(h, call, &result, NULL, error);
    h->report.copy_ns = usk_clock_now_ns() - started_ns;
    if (r < 0)
        return r;
    if (result != USK_CU_SUCCESS && is_save)
        return hibernation_fail(h, call, fail_status(result, UNSTICK_OUT_OF_HOST_MEMORY), result, "save",
                                "managed (UVM) memory and memory shared with other processes (IPC) cannot be saved",
                                error);
    if (result != USK_CU_SUCCESS)
        return hibernation_fail(h, call, fail_status(result, UNSTICK_OUT_OF_DEVICE_MEMORY), result, "restore",
                                "make room on its GPUs and wake it again", error);
    h->report.state = is_save ? UNSTICK_HIBERNATE_HIBERNATED : UNSTICK_HIBERNATE_LOCKED;
    return UNSTICK_OK;
}

static int hibernation_save(struct hibernation *h, struct unstick_error *error)
{
    int r;

    if (h->report.state != UNSTICK_HIBERNATE_RUNNING)
        return hibernation_fail_state(h, error);
    r = hibernation_check_room(h, error);
    if (r == UNSTICK_OK)
        r = hibernation_lock(h, error);
    if (r < 0)
        return r;
    if (atomic_load(&h->run->is_canceled)) {
        r = hibernation_unlock(h, error);
        return r < 0 ? r
                     : usk_error_set(error, UNSTICK_CANCELED, 0, "unstick_hibernate",
                                     "canceled before process %d (%s) was saved; it runs on as before", h->target.pid,
                                     h->target.name);
    }
    return hibernation_copy(h, USK_CUDA_CHECKPOINT_SAVE, error);
}

static int hibernation_wake(struct hibernation *h, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    if (h->report.state == UNSTICK_HIBERNATE_HIBERNATED)
        r = hibernation_copy(h, USK_CUDA_CHECKPOINT_RESTORE, error);
    if (r < 0)
        return r;
    if (h->report.state != UNSTICK_HIBERNATE_LOCKED)
        return hibernation_fail_state(h, error);
    return hibernation_unlock(h, error);
}

static int hibernation_run(struct hibernation *h, struct unstick_error *error)
{
    int r = usk_target_open(h->run->pid, &h->target, error);

    if (r == UNSTICK_OK)
        r = usk_cuda_checkpoint_driver(&h->driver, error);
    if (r == UNSTICK_OK)
        r = hibernation_ask(h, error);
    if (r < 0)
        return r;
    hibernation_read_before(h);
    r = h->run->is_wake ? hibernation_wake(h, error) : hibernation_save(h, error);
    hibernation_read_after(h);
    usk_nvml_close(h->nvml);
    return r;
}

int usk_hibernate_run(struct usk_hibernate_run *run, struct unstick_hibernation *ret_report,
                      struct unstick_error *error)
{
    struct hibernation h = { .run = run, .target = { .watch_fd = -1 } };
    uint64_t started_ns = usk_clock_now_ns();
    int r;

    if (ret_report && ret_report->size < sizeof(*ret_report))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_hibernate",
                             "the report's size is not set: sizeof(struct unstick_hibernation) is %zu",
                             sizeof(*ret_report));
    if (!run->grace_ms)
        run->grace_ms = HIBERNATE_GRACE_MS;
    r = hibernation_run(&h, error);
    usk_target_close(&h.target);
    h.report.size = sizeof(h.report);
    h.report.pid = run->pid;
    h.report.total_ns = usk_clock_now_ns() - started_ns;
    if (ret_report)
        *ret_report = h.report;
    return r;
}

int unstick_hibernate(int pid, uint32_t timeout_ms, struct unstick_hibernation *ret_report,
                      struct unstick_error *error)
{
    struct usk_hibernate_run run = { .pid = pid, .timeout_ms = timeout_ms };

    return usk_hibernate_run(&run, ret_report, error);
}

int unstick_wake(int pid, uint32_t timeout_ms, struct unstick_hibernation *ret_report, struct unstick_error *error)
{
    struct usk_hibernate_run run = { .pid = pid, .timeout_ms = timeout_ms, .is_wake = true };

    return usk_hibernate_run(&run, ret_report, error);
}

int unstick_hibernate_state(int pid, enum unstick_hibernate_state *ret_state, struct unstick_error *error)
{
    struct usk_hibernate_run run = {
        .timeout_ms = HIBERNATE_STATE_LIMIT_MS - HIBERNATE_GRACE_MS, .grace_ms = HIBERNATE_GRACE_MS };
    struct hibernation h = { .run = &run, .target = { .watch_fd = -1 } };
    int r = usk_target_open(pid, &h.target, error);

    if (r == UNSTICK_OK)
        r = usk_cuda_checkpoint_driver(&h.driver, error);
    if (r == UNSTICK_OK)
        r = hibernation_ask(&h, error);
    usk_target_close(&h.target);
    if (r == UNSTICK_OK)
        *ret_state = h.report.state;
    return r;
}
