/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver has no file descriptor to wait for; the nearest thing is a function that it calls from a thread of its
 * own when a stream comes to it. A host function holds up its stream until it has returned, so it never goes into a
 * lane: a side stream waits for the event and calls it.
 *
 * What a host function gets is a number, not a pointer. It looks the number up among the notifiers that live, under
 * the lock that ends their life: a driver that calls late, after a failure of the device, finds nothing and does
 * nothing. A driver that does not call at all, because the device was lost, is made up for by core.c, which signals
 * event_fd when it learns of that.
 */
#include "device/cuda/notify.h"

#include <pthread.h>

#include "base/os.h"

static pthread_mutex_t living_lock = PTHREAD_MUTEX_INITIALIZER;
static struct usk_cuda_notifier *living;
static uint64_t last_id;

static void notifier_call(void *userdata)
{
    uint64_t id = (uint64_t)(uintptr_t)userdata;

    pthread_mutex_lock(&living_lock);
    for (struct usk_cuda_notifier *notifier = living; notifier; notifier = notifier->next) {
        if (notifier->id == id) {
            atomic_fetch_sub(&notifier->n_pending, 1);
            usk_os_event_signal(notifier->event_fd);
            break;
        }
    }
    pthread_mutex_unlock(&living_lock);
}

int usk_cuda_notifier_init(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core, int event_fd,
                           struct unstick_error *error)
{
    usk_cu_result result;

    *notifier = (struct usk_cuda_notifier){ .event_fd = event_fd };
    if (event_fd < 0)
        return UNSTICK_OK;
    result = core->driver->cuStreamCreate(&notifier->stream, USK_CU_STREAM_NON_BLOCKING);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuStreamCreate", "cannot make a stream for notifications");
    pthread_mutex_lock(&living_lock);
    notifier->id = ++last_id;
    notifier->next = living;
    living = notifier;
    pthread_mutex_unlock(&living_lock);
    return UNSTICK_OK;
}

void usk_cuda_notifier_fini(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core)
{
    if (!notifier->id)
        return;
    pthread_mutex_lock(&living_lock);
    for (struct usk_cuda_notifier **link = &living; *link; link = &(*link)->next) {
        if (*link == notifier) {
            *link = notifier->next;
            break;
        }
    }
    pthread_mutex_unlock(&living_lock);
    if (core)
        core->driver->cuStreamDestroy(notifier->stream);
}

int usk_cuda_notifier_after(struct usk_cuda_notifier *notifier, struct usk_cuda_core *core, usk_cu_event event,
                            struct unstick_error *error)
{
    const struct usk_cuda_driver *driver = core->driver;
    usk_cu_result result;

    if (!notifier->id)
        return UNSTICK_OK;
    result = driver->cuStreamWaitEvent(notifier->stream, event, 0);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuStreamWaitEvent", "cannot wait for the event of a ticket");
    atomic_fetch_add(&notifier->n_pending, 1);
    result = driver->cuLaunchHostFunc(notifier->stream, notifier_call, (void *)(uintptr_t)notifier->id);
    if (result != USK_CU_SUCCESS) {
        atomic_fetch_sub(&notifier->n_pending, 1);
        return usk_cuda_fail(core, error, result, "cuLaunchHostFunc", "cannot be told when a ticket has passed");
    }
    return UNSTICK_OK;
}
