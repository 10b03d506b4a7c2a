/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver call may never return: the driver talks to a thread inside of the other process, which may be killed,
 * stopped, or wait for a third process. So each call is made on a thread of its own, and who asked waits for three
 * things: the answer, the end of the process, the time. What both sides touch is one object that the last of them
 * frees; a thread that is left behind therefore harms nobody, and writes nowhere but there.
 */
#include "hibernate/call.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/error.h"

/* Where a process cannot be watched it is looked at so often. */
#define CALL_LOOK_MS 100

struct call {
    const struct usk_cuda_driver *driver;
    enum usk_cuda_checkpoint_call call;
    int pid;
    unsigned int lock_ms;
    int done_fd;
    atomic_uint n_refs;
    atomic_bool is_done; /* what stands below is written */
    usk_cu_result result;
    int state;
};

static void call_unref(struct call *call)
{
    if (atomic_fetch_sub(&call->n_refs, 1) == 1) {
        usk_os_close(call->done_fd);
        free(call);
    }
}

USK_DEFINE_CLEANUP(struct call *, call_unref)

static void *call_run(void *userdata)
{
    struct call *call = userdata;

    call->result = usk_cuda_checkpoint(call->driver, call->call, call->pid, call->lock_ms, &call->state);
    atomic_store(&call->is_done, true);
    usk_os_event_signal(call->done_fd);
    call_unref(call);
    return NULL;
}

static int call_start(const struct usk_cuda_driver *driver, int pid, const struct usk_hibernate_call *what,
                      struct call **ret_call, struct unstick_error *error)
{
    USK_CLEANUP(call_unrefp) struct call *call = calloc(1, sizeof(*call));
    pthread_t thread;
    int r;

    if (!call)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a call of the driver");
    call->driver = driver;
    call->call = what->call;
    call->pid = pid;
    call->lock_ms = what->lock_ms;
    call->done_fd = -1;
    atomic_init(&call->n_refs, 1);
    atomic_init(&call->is_done, false);
    r = usk_os_event_new(&call->done_fd, error);
    if (r < 0)
        return r;
    atomic_fetch_add(&call->n_refs, 1);
    r = usk_os_thread_new(&thread, call_run, call, "unstick-wait", error);
    if (r < 0) {
        atomic_fetch_sub(&call->n_refs, 1);
        return r;
    }
    pthread_detach(thread);
    *ret_call = USK_STEAL(call);
    return UNSTICK_OK;
}

/* How long to sleep: until end_ns (0: for ever), and no longer than until the next look. */
static int call_sleep_ms(uint64_t now_ns, uint64_t end_ns, int watch_fd)
{
    uint64_t ms = end_ns ? (end_ns - now_ns + USK_NS_PER_MS - 1) / USK_NS_PER_MS : UINT64_MAX;

    if (watch_fd < 0 && ms > CALL_LOOK_MS)
        ms = CALL_LOOK_MS;
    if (ms == UINT64_MAX)
        return -1;
    return ms < 60000 ? (int)ms : 60000;
}

static uint64_t call_end_ns(uint64_t now_ns, uint64_t limit_ms)
{
    return limit_ms ? now_ns + limit_ms * USK_NS_PER_MS : 0;
}

/* UNSTICK_OK: there is an answer. */
static int call_wait(const struct call *call, const struct usk_target *target, const struct usk_hibernate_call *what,
                     struct unstick_error *error)
{
    const char *name = usk_cuda_checkpoint_name(call->call);
    struct pollfd fds[] = { { .fd = call->done_fd, .events = POLLIN }, { .fd = target->watch_fd, .events = POLLIN } };
    uint64_t now_ns = usk_clock_now_ns(), end_ns = call_end_ns(now_ns, what->limit_ms);
    bool has_ended = false;

    for (;;) {
        if (atomic_load(&call->is_done))
            return UNSTICK_OK;
        if (end_ns && now_ns >= end_ns)
            break;
        poll(fds, has_ended ? 1 : 2, call_sleep_ms(now_ns, end_ns, has_ended ? 0 : target->watch_fd));
        now_ns = usk_clock_now_ns();
        if (!has_ended && usk_target_has_ended(target)) {
            has_ended = true;
            end_ns = now_ns + what->grace_ms * USK_NS_PER_MS;
        }
    }
    if (has_ended)
        return usk_target_fail_ended(target, name, error);
    return usk_error_set(error, UNSTICK_TIMED_OUT, 0, name,
                         "the driver did not answer for process %d (%s) within %llu ms: is it stopped, or does it "
                         "share memory with a process that is hibernated?",
                         target->pid, target->name, (unsigned long long)what->limit_ms);
}

int usk_hibernate_call(const struct usk_cuda_driver *driver, const struct usk_target *target,
                       const struct usk_hibernate_call *what, usk_cu_result *ret_result, int *ret_state,
                       struct unstick_error *error)
{
    USK_CLEANUP(call_unrefp) struct call *call = NULL;
    int r = call_start(driver, target->pid, what, &call, error);

    if (r == UNSTICK_OK && call)
        r = call_wait(call, target, what, error);
    if (r < 0 || !call)
        return r;
    *ret_result = call->result;
    if (ret_state)
        *ret_state = call->state;
    return UNSTICK_OK;
}
