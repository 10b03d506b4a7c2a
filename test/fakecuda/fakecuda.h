/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKECUDA_H
#define FAKECUDA_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * A CUDA driver without a GPU: libcuda.so.1 over shared memory, which holds its caller to the rules of the real one.
 *
 * Programs find it through LD_LIBRARY_PATH (test/fakecuda/meson.build: fakecuda_env) and set it up with variables that
 * are read at the first call; a test sets the same things, and more, through the functions below, which it finds with
 * fakecuda_load(). Every setting is NAME=VALUE:
 *
 *   FAKECUDA_DEVICES=1           how many (at most 8)
 *   FAKECUDA_MEMORY=256MiB       memory of each; what a context needs itself (4 MiB) is taken from it
 *   FAKECUDA_DRIVER=13000        the driver's version; functions that came later are not there
 *   FAKECUDA_COMPUTE=90          compute capability, times ten
 *   FAKECUDA_FAIL=name:n[:code][:forever][,...]   the n-th call of the function fails, counted from now; '*' counts
 *                                every function that a caller can be expected to survive. Code: the driver's number
 *   FAKECUDA_LOSE_AT=n           the n-th call, counted as for '*', finds the device lost (719), as do all later ones
 *   FAKECUDA_NOT_READY=n         cuMemSetAccess answers NOT_READY n times per range before it does its work
 *   FAKECUDA_PENDING=n           every recorded event answers NOT_READY n times more than it must
 *   FAKECUDA_FREE_LAG_MS=n       released memory can be had again only after n ms
 *   FAKECUDA_NO_VMM=1            no virtual memory management
 *   FAKECUDA_NO_READ_ONLY_REGISTER=1   read-only file mappings cannot be registered
 *   FAKECUDA_COPY_GBPS=x         copies take at least as long as at x * 10^9 bytes a second
 *   FAKECUDA_COPY_DELAY_MS=n     and this much more each
 *   FAKECUDA_STEAL=SIZE          memory of every device that another process holds
 *   FAKECUDA_DIRTY=1             new memory holds 0xA5, not zeros
 *   FAKECUDA_PROCESSES=DIR       processes with the same folder can checkpoint each other (process.h); at most 63 bytes
 *   FAKECUDA_MANAGED=1           this process has managed memory, so that saving it fails, for good
 *   FAKECUDA_NO_ANSWER=BITS      calls about a checkpoint that never return while the bit is set, whatever the other
 *                                process does: 1 its state, 2 lock, 4 checkpoint, 8 restore, 16 unlock
 *   FAKECUDA_REPORT=FILE         at exit, what is still alive and what was misused is written there as JSON
 */

/* What is alive. Objects that went down with their context are not: they are counted in left_behind. */
#define FAKECUDA_LIVE_MAP(X)                                                                                 \
    X(handles)          /* physical memory somebody holds, or that is mapped */                              \
    X(mappings)                                                                                              \
    X(reservations)                                                                                          \
    X(allocations)      /* cuMemAlloc */                                                                     \
    X(registrations)    /* cuMemHostRegister */                                                              \
    X(registered_bytes)                                                                                      \
    X(host_allocations) /* cuMemHostAlloc */                                                                 \
    X(retains)          /* of primary contexts */                                                            \
    X(contexts)         /* made with cuCtxCreate */                                                          \
    X(streams)          /* made by the caller */                                                             \
    X(events)                                                                                                \
    X(modules)                                                                                               \
    X(host_functions)   /* submitted and not yet run */                                                      \
    X(captures)                                                                                              \
    X(device_bytes)     /* memory of all devices in use by handles */                                        \
    X(left_behind)      /* objects that their owner did not destroy before their context went */

/* What a correct program never does, whatever it was answered. */
#define FAKECUDA_MISUSE_MAP(X)                                                                               \
    X(calls_in_host_function) /* a driver call inside a cuLaunchHostFunc function */                         \
    X(calls_without_context)                                                                                 \
    X(calls_in_fork)                                                                                         \
    X(stale_handles)          /* a stream, event, module, ... that never was or is no more */                \
    X(unmapped_in_use)        /* device memory that submitted work still needed */                           \
    X(unregistered_in_use)    /* host memory that submitted work still needed */                             \
    X(captures_broken)        /* captures of others that a call invalidated */

#define FAKECUDA_FIELD(_name) uint64_t _name;
struct fakecuda_live {
    FAKECUDA_LIVE_MAP(FAKECUDA_FIELD)
};
struct fakecuda_misuse {
    FAKECUDA_MISUSE_MAP(FAKECUDA_FIELD)
};
#undef FAKECUDA_FIELD

#define FAKECUDA_CONTROL_MAP(X)                                                                              \
    /* Changes a setting, "NOT_READY=3"; 0, or -1 if there is no such thing. MEMORY: while none is in use. */ \
    X(int, set, (const char *assignment))                                                                    \
    /* Settings as the environment says, counters and misuse zero, no failures, nothing held, nothing lost. */ \
    X(void, reset, (void))                                                                                   \
    /* One more failure: as FAKECUDA_FAIL. code 0: a fitting one. name NULL: forgets all. */                 \
    X(void, fail_at, (const char *name, uint64_t n, int code, int is_for_ever))                                 \
    /* Calls that a script failed since it was set, lost ones included. */                                   \
    X(uint64_t, n_failed, (void))                                                                            \
    /* Calls of a function ("*": as FAKECUDA_FAIL counts) since start or reset. */                           \
    X(uint64_t, n_calls, (const char *name))                                                                 \
    /* Every context of the device fails from now on. code 0: 719. */                                        \
    X(void, lose, (int device, int code))                                                                    \
    /* Bytes of the device that another process holds from now on. */                                        \
    X(void, steal, (int device, uint64_t bytes))                                                             \
    /* Bytes of the system's memory behind the device, by the system's own count. */                         \
    X(uint64_t, backed_bytes, (int device))                                                                  \
    X(void, live, (struct fakecuda_live * ret_live))                                                         \
    X(void, misuse, (struct fakecuda_misuse * ret_misuse))                                                   \
    /* 1: no work starts; 2: copies and fills start and do not end; 0: let go. stream NULL: all streams. */  \
    X(int, hold, (void *stream, int how))                                                                    \
    /* Capture as cuStreamBeginCapture (mode 0 global, 1 thread-local, 2 relaxed); end says how it went. */  \
    X(int, capture_begin, (void *stream, int mode))                                                          \
    X(int, capture_end, (void *stream))                                                                      \
    /* Kernels of somebody else: they read or write a byte range, and fault as kernels do. */                \
    X(int, kernel_read, (void *stream, uint64_t address, uint64_t bytes))                                    \
    X(int, kernel_write, (void *stream, uint64_t address, uint8_t value, uint64_t bytes))                    \
    /* The calling thread's stack of contexts: how many. */                                                  \
    X(unsigned int, context_depth, (void))                                                                   \
    /* Called at the start of every driver call, on its thread, with the driver's lock not held: a test can  \
     * ask there whether its own locks are free. NULL: none. */                                              \
    X(void, set_hook, (void (*hook)(void *userdata, const char *name), void *userdata))

/* The same functions as members, for those who load the driver with dlopen(). */
struct fakecuda {
#define FAKECUDA_MEMBER(_type, _name, _arguments) _type(*_name) _arguments;
    FAKECUDA_CONTROL_MAP(FAKECUDA_MEMBER)
#undef FAKECUDA_MEMBER
};

/* 0, or -1 if the libcuda.so.1 that is found is not this one. */
static inline int fakecuda_load(struct fakecuda *ret_fake)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *symbol;

    if (!library)
        return -1;
#define FAKECUDA_LOAD(_type, _name, _arguments)                                                              \
    symbol = dlsym(library, "fakecuda_" #_name);                                                             \
    if (!symbol) {                                                                                           \
        dlclose(library);                                                                                    \
        return -1;                                                                                           \
    }                                                                                                        \
    memcpy(&ret_fake->_name, &symbol, sizeof(symbol));
    FAKECUDA_CONTROL_MAP(FAKECUDA_LOAD)
#undef FAKECUDA_LOAD
    return 0;
}

#endif
