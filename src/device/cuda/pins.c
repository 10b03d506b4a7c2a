/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registered memory is known to all contexts of the process ("portable"), so that one backup serves several GPUs. The
 * driver keeps the books: what is registered twice, or is not, it says itself.
 *
 * Refusals are told from shortages, since the caller acts on them: a mapping that the driver does not take (of a file
 * system without struct pages, a writable file mapping, memory that another part of the program has registered) is
 * UNSUPPORTED and goes through a ring; out of memory means host memory here.
 *
 * The driver holds one lock over a registration, 1.3 ms for 64 MiB and more while memory is touched for the first time,
 * and its lock is not fair: threads that register without a pause keep every other call out for as long as they have
 * work (a copy was submitted after 180 ms; driver 580). So there is a gate in front of it. One thread registers at a
 * time; a burst of our own calls goes first, and none of them meets a registration; and now and then the gate stays
 * closed for as long as it takes to wake a thread of the host program that waits for the driver.
 */
#include "device/cuda/pins.h"

#include <pthread.h>
#include <time.h>

#include "base/clock.h"
#include "base/os.h"
#include "base/size.h"

/* A thread is awake after about 50 us. */
#define PINS_PAUSE_US 60
#define PINS_PER_PAUSE 4
/* How long the gate is kept for who wanted it and was told to come again. */
#define PINS_KEPT_NS (2 * USK_NS_PER_MS)

/* The driver's lock is the process's, so this is, too. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t is_open;
    bool is_taken;
    uint64_t kept_until_ns; /* for a burst; 0: nobody wants one */
    int wanted_fd;          /* to be signalled for it */
    unsigned int n_passed;  /* registrations, by who has the gate */
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .is_open = PTHREAD_COND_INITIALIZER, .wanted_fd = -1 };

bool usk_cuda_pins_begin_burst(int event_fd)
{
    bool is_free;

    pthread_mutex_lock(&gate.lock);
    is_free = !gate.is_taken;
    if (is_free) {
        gate.is_taken = true;
        gate.kept_until_ns = 0;
    } else {
        gate.kept_until_ns = UINT64_MAX;
        gate.wanted_fd = event_fd;
    }
    pthread_mutex_unlock(&gate.lock);
    return is_free;
}

void usk_cuda_pins_end_burst(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.is_taken = false;
    if (gate.kept_until_ns) {
        gate.kept_until_ns = usk_clock_now_ns() + PINS_KEPT_NS;
        usk_os_event_signal(gate.wanted_fd);
    }
    pthread_cond_broadcast(&gate.is_open);
    pthread_mutex_unlock(&gate.lock);
}

/* Under the lock: true while somebody else goes first. */
static bool gate_is_kept(void)
{
    return gate.is_taken || (gate.kept_until_ns && usk_clock_now_ns() < gate.kept_until_ns);
}

static void gate_enter(void)
{
    pthread_mutex_lock(&gate.lock);
    while (gate_is_kept()) {
        struct timespec until;

        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += (long)PINS_KEPT_NS;
        until.tv_sec += until.tv_nsec / (long)USK_NS_PER_S;
        until.tv_nsec %= (long)USK_NS_PER_S;
        pthread_cond_timedwait(&gate.is_open, &gate.lock, &until);
    }
    gate.is_taken = true;
    gate.kept_until_ns = 0;
    pthread_mutex_unlock(&gate.lock);
}

static void gate_leave(void)
{
    if (++gate.n_passed % PINS_PER_PAUSE == 0)
        usk_os_pause_us(PINS_PAUSE_US);
    usk_cuda_pins_end_burst();
}

int usk_cuda_pins_register(struct usk_cuda_core *core, void *address, uint64_t bytes, bool is_read_only,
                           struct unstick_error *error)
{
    unsigned int flags = USK_CU_MEMHOSTREGISTER_PORTABLE;
    char text[USK_SIZE_TEXT_MAX];
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    if (is_read_only)
        flags |= USK_CU_MEMHOSTREGISTER_READ_ONLY;
    gate_enter();
    result = core->driver->cuMemHostRegister(address, bytes, flags);
    gate_leave();
    switch (result) {
    case USK_CU_SUCCESS:
        return UNSTICK_OK;
    case USK_CU_OUT_OF_MEMORY:
        r = UNSTICK_OUT_OF_HOST_MEMORY;
        break;
    case USK_CU_INVALID_VALUE:
    case USK_CU_HOST_MEMORY_ALREADY_REGISTERED:
    case USK_CU_NOT_PERMITTED:
    case USK_CU_NOT_SUPPORTED:
    case USK_CU_OPERATING_SYSTEM:
        r = UNSTICK_UNSUPPORTED;
        break;
    default:
        r = UNSTICK_DRIVER;
    }
    return usk_cuda_fail_as(core, error, r, result, "cuMemHostRegister", "cannot register %s of host memory at %p%s",
                            usk_size_format(text, bytes), address, is_read_only ? ", a read-only mapping" : "");
}

int usk_cuda_pins_unregister(struct usk_cuda_core *core, void *address, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    gate_enter();
    result = core->driver->cuMemHostUnregister(address);
    gate_leave();
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemHostUnregister", "cannot end the registration at %p", address);
    return UNSTICK_OK;
}

int usk_cuda_pins_alloc(struct usk_cuda_core *core, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    char text[USK_SIZE_TEXT_MAX];
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    void *address;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemHostAlloc(&address, bytes, USK_CU_MEMHOSTALLOC_PORTABLE);
    if (result == USK_CU_OUT_OF_MEMORY)
        return usk_cuda_fail_as(core, error, UNSTICK_OUT_OF_HOST_MEMORY, result, "cuMemHostAlloc",
                                "no room for %s of pinned host memory", usk_size_format(text, bytes));
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemHostAlloc", "cannot allocate %llu bytes of pinned host memory",
                             (unsigned long long)bytes);
    *ret_address = address;
    return UNSTICK_OK;
}

int usk_cuda_pins_free(struct usk_cuda_core *core, void *address, struct unstick_error *error)
{
    USK_CUDA_SCOPE(scope);
    usk_cu_result result;
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    result = core->driver->cuMemFreeHost(address);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuMemFreeHost", "cannot free pinned host memory at %p", address);
    return UNSTICK_OK;
}
