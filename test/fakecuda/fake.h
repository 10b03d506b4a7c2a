/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKECUDA_FAKE_H
#define FAKECUDA_FAKE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"
#include "fakecuda.h"

/*
 * Inside the fake. One lock guards all of it; fake_enter() takes it and fake_leave() gives it back, and in between only
 * the functions that say so let it go. What takes long (copies, hashes, host functions) runs on the threads of the
 * streams without it.
 */
#define FAKE_MAX_DEVICES 8
#define FAKE_MAX_PARAMETERS 8
#define FAKE_GRANULARITY_BYTES (UINT64_C(2) << 20)
#define FAKE_CONTEXT_BYTES (UINT64_C(4) << 20)
#define FAKE_MAX_REGISTRATION_BYTES (UINT64_C(512) << 30)

/* What a function needs (CUDA_FUNCTION_MAP). */
enum {
    FAKE_INIT = 1 << 0,       /* cuInit() before */
    FAKE_CONTEXT = 1 << 1,    /* a current context that is alive, and has not failed */
    FAKE_VMM = 1 << 2,        /* cuInit(); the device can; no failed context may be current */
    FAKE_NOT_STICKY = 1 << 3, /* works in a context that has failed */
    FAKE_UNSAFE = 1 << 4,     /* breaks captures in global mode */
};

enum fake_function {
#define FAKE_FUNCTION_ENUM(_name, _suffix, _since, _needs, _arguments) FAKE_##_name##_suffix,
    CUDA_FUNCTION_MAP(FAKE_FUNCTION_ENUM)
#undef FAKE_FUNCTION_ENUM
    FAKE_N_FUNCTIONS,
};

/* An ordered map from a number (an address, a handle) to an object. */
struct fake_map {
    uint64_t *keys;
    void **values;
    size_t n, n_allocated;
};

/* The object with the greatest key <= key (floor), with this key (find), or NULL. */
void *fake_map_floor(const struct fake_map *map, uint64_t key);
void *fake_map_find(const struct fake_map *map, uint64_t key);
/* The place of the first key >= key; map->n if there is none. */
size_t fake_map_place(const struct fake_map *map, uint64_t key);
void fake_map_put(struct fake_map *map, uint64_t key, void *value);
void fake_map_remove(struct fake_map *map, uint64_t key);

/* Memory that is running out in a test's own process ends the process. */
void *fake_allocate(size_t bytes);

struct fake_settings {
    unsigned int n_devices, compute;
    uint64_t memory_bytes, steal_bytes;
    int driver_version;
    uint64_t lose_at, not_ready, pending, free_lag_ms, copy_delay_ms;
    double copy_gbps;
    bool has_no_vmm, has_no_read_only_register, is_dirty, has_managed_memory;
    uint64_t no_answer; /* bits, 1 << enum process_verb */
    char processes[64]; /* the folder of the sockets; empty: processes cannot be checkpointed */
};

struct fake_lag {
    uint64_t bytes, until_ns;
};

struct fake_device {
    int ordinal, fd;
    uint64_t total_bytes, used_bytes, stolen_bytes;
    uint64_t next_offset;    /* in the file: never used twice, so nothing stale shows */
    struct fake_lag *lags;   /* memory on its way back */
    size_t n_lags;
    struct fake_context *primary;
    CUresult lost;           /* what every context of the device answers; 0: the device is there */
};

struct fake_context {
    uint64_t id;
    struct fake_device *device;
    struct fake_stream *null_stream, *thread_stream;
    unsigned int n_retains, flags;
    CUresult sticky;
    bool is_primary, is_alive;
};

struct fake_handle {
    uint64_t id, bytes, offset;
    struct fake_device *device;
    unsigned char *alias;     /* where the fake itself sees the memory, whatever the caller did to its mappings */
    unsigned int n_holds, n_mappings;
};

struct fake_reservation {
    uint64_t address, bytes;
    struct fake_context *allocated_in; /* by cuMemAlloc, not to be touched by other calls; NULL: by the caller */
};

struct fake_mapping {
    uint64_t address, bytes;
    struct fake_handle *handle;
    unsigned char access[FAKE_MAX_DEVICES];
    uint64_t n_not_ready;     /* NOT_READY answers still to give */
    unsigned int n_in_use;    /* by work that runs now */
    bool is_gone;             /* unmapped meanwhile: the last user frees it */
};

struct fake_registration {
    uint64_t address, bytes;
    unsigned int flags, n_in_use; /* by work that is submitted */
    bool is_allocation, is_gone;
    struct fake_context *context;
};

/* A place in a stream's work; passed when the stream has done as much. */
struct fake_mark {
    struct fake_stream *stream;
    uint64_t n;
};

struct fake_marks {
    struct fake_mark *items;
    size_t n;
};

enum fake_work_kind { FAKE_WORK_NONE, FAKE_WORK_COPY, FAKE_WORK_FILL, FAKE_WORK_KERNEL, FAKE_WORK_HOST };

struct fake_side {
    uint64_t address;        /* of the device */
    unsigned char *host;     /* or of the host */
    struct fake_registration *registration;
};

struct fake_work {
    struct fake_work *next;
    enum fake_work_kind kind;
    struct fake_marks after; /* does not start before these */
    struct fake_side to, from;
    uint64_t bytes;
    unsigned int pattern, pattern_bytes;
    const struct fake_kernel *kernel;
    uint64_t parameters[FAKE_MAX_PARAMETERS], grid[3];
    CUhostFn function;
    void *userdata;
};

struct fake_capture {
    uint64_t id;
    int mode;
    pthread_t owner;
    bool is_invalidated;
    unsigned int n_streams;
    struct fake_stream *origin;
};

enum fake_hold { FAKE_HOLD_NONE, FAKE_HOLD_START, FAKE_HOLD_END };

struct fake_stream {
    uint64_t id;
    struct fake_context *context;
    unsigned int flags;
    struct fake_work *first, **last;
    uint64_t n_submitted, n_done;
    struct fake_capture *capture;
    unsigned int n_refs;
    int hold;                 /* enum fake_hold */
    bool has_thread, is_destroyed, is_callers;
};

struct fake_event {
    uint64_t id;
    struct fake_context *context;
    unsigned int flags;
    struct fake_marks marks;
    uint64_t n_pending;  /* NOT_READY answers still to give */
    uint64_t capture_id; /* of the capture it was last recorded in; 0: none */
};

struct fake_module {
    uint64_t id;
    struct fake_context *context;
    char *text;
};

struct fake_entry {
    uint64_t id;
    struct fake_module *module;
    const struct fake_kernel *kernel;
    unsigned int n_parameters;
    unsigned int parameter_bytes[FAKE_MAX_PARAMETERS];
};

/* A kernel that the fake knows: what it does with its parameters, on the thread of a stream. */
struct fake_kernel {
    const char *name;
    unsigned int n_parameters;
    unsigned int parameter_bytes[FAKE_MAX_PARAMETERS];
    /* With the lock held, lets it go meanwhile. */
    void (*run)(struct fake_context *context, const struct fake_work *work);
};

struct fake_world {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool is_forked;
    bool is_initialized;
    int hold; /* enum fake_hold, for all streams */
    struct fake_settings settings;
    struct fake_device devices[FAKE_MAX_DEVICES];
    struct fake_map contexts, streams, events, modules, entries, handles, reservations, mappings, registrations, graphs;
    uint64_t next_id;
    unsigned int n_captures;
    uint64_t n_host_functions, n_left_behind;
    struct fakecuda_misuse misuse;
};
extern struct fake_world fake;

/* The calling thread. */
struct fake_thread {
    uint64_t contexts[32];
    unsigned int n_contexts;
    int capture_mode;
    bool is_in_host_function;
};
extern _Thread_local struct fake_thread fake_self;

/* call.c: every driver function begins and ends so. enter: 0 with the lock held, or what to return. */
CUresult fake_enter(enum fake_function function);
CUresult fake_leave(CUresult result);
/* The context that is current, or NULL; alive and sound if the function asked for FAKE_CONTEXT. */
struct fake_context *fake_current(void);
#define FAKE_ENTER(_function)                                                                                \
    do {                                                                                                     \
        CUresult entered_ = fake_enter(FAKE_##_function);                                                    \
        if (entered_)                                                                                        \
            return entered_;                                                                                 \
    } while (0)
/* For the control functions. start: reads the environment, once. */
void fake_start(void);
void fake_lock(void);
void fake_unlock(void);
void fake_script_add(const char *name, uint64_t n, CUresult code, bool is_for_ever);
void fake_script_clear(void);
uint64_t fake_script_n_failed(void);
uint64_t fake_script_n_calls(const char *name);
void fake_script_reset(void);
void fake_script_hook(void (*hook)(void *userdata, const char *name), void *userdata);

/* control.c */
void fake_settings_load(void);
uint64_t fake_now_ns(void);
uint64_t fake_new_id(void);

/* process.c: from cuInit() on this process can be checkpointed by others. */
void fake_process_start(void);
/* With the lock held: waits while this process is locked, unless the function is one of the checkpoint's own. */
void fake_process_wait(enum fake_function function);

/* device.c */
struct fake_device *fake_device_find(CUdevice ordinal);
void fake_device_lose(struct fake_device *device, CUresult code);

/* context.c */
struct fake_context *fake_context_find(uint64_t id);
/* The first failure of a kind that lasts. Work not yet begun is dropped. */
void fake_context_drain(struct fake_context *context); /* waits for all its work, the lock let go */
void fake_context_fail(struct fake_context *context, CUresult code);

/* memory.c */
uint64_t fake_memory_free_bytes(struct fake_device *device);
bool fake_memory_take(struct fake_device *device, uint64_t bytes);
void fake_memory_give(struct fake_device *device, uint64_t bytes);
/* True if all of the range is mapped with that access for the device. */
bool fake_memory_is_accessible(const struct fake_device *device, uint64_t address, uint64_t bytes, int access);
bool fake_memory_is_device(uint64_t address);
/* Does something to every piece of a range of device memory, with the lock held on entry and exit and not between:
 * the pieces are pinned. False: the range is not accessible, nothing was done. */
typedef void fake_piece_fn(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes);
bool fake_memory_visit(struct fake_context *context, uint64_t address, uint64_t bytes, int access,
                       fake_piece_fn *visit, void *userdata);
/* Takes away what cuMemAlloc gave out in a context that ends. */
void fake_memory_end_context(struct fake_context *context);

/* host.c: the registration that covers host memory, or NULL, in use until unuse. INVALID_VALUE where one covers it in
 * part, or forbids it. */
CUresult fake_host_use(const void *address, uint64_t bytes, bool is_written,
                       struct fake_registration **ret_registration);
void fake_host_unuse(struct fake_registration *registration);
void fake_host_end_context(struct fake_context *context);

/* stream.c */
struct fake_stream *fake_stream_new(struct fake_context *context, unsigned int flags, bool is_callers);
/* By its handle, the special ones included, in the current context. NULL: there is none. */
struct fake_stream *fake_stream_find(CUstream handle);
void fake_stream_destroy(struct fake_stream *stream);
void fake_stream_unref(struct fake_stream *stream);
struct fake_work *fake_work_new(enum fake_work_kind kind);
void fake_work_free(struct fake_work *work);
/*
 * Gives the work to the stream, which frees it, also on failure; while that is captured it is dropped, as it goes into
 * a graph nobody runs.
 */
CUresult fake_stream_submit(struct fake_stream *stream, struct fake_work *work);
/* Waits for it with the lock let go. */
void fake_stream_drain(struct fake_stream *stream);
/* True while a test keeps the stream's work from starting (or, if that is asked, from ending). */
bool fake_stream_is_held(const struct fake_stream *stream, int hold);
bool fake_stream_is_idle(const struct fake_stream *stream);

void fake_marks_clear(struct fake_marks *marks);
void fake_marks_add(struct fake_marks *marks, struct fake_stream *stream);
void fake_marks_copy(struct fake_marks *to, const struct fake_marks *from);
bool fake_marks_are_passed(const struct fake_marks *marks);
/* What an event in the stream stands for: on the legacy stream also the blocking ones. */
void fake_marks_of_stream(struct fake_marks *marks, struct fake_stream *stream);

/* copy.c */
void fake_copy_run(struct fake_stream *stream, const struct fake_work *work);

/* event.c */
void fake_event_destroy(struct fake_event *event);

/* module.c */
void fake_module_destroy(struct fake_module *module);

/* capture.c */
/* An unsafe call: STREAM_CAPTURE_UNSUPPORTED, and the captures it concerns are invalid. */
CUresult fake_capture_check_unsafe(void);
/* A call that concerns all work of a context; the same whatever mode the thread is in. */
CUresult fake_capture_check_context(struct fake_context *context);
CUresult fake_capture_begin(struct fake_stream *stream, int mode);
CUresult fake_capture_end(struct fake_stream *stream);
void fake_capture_invalidate(struct fake_capture *capture);
CUresult fake_capture_join(struct fake_stream *stream, uint64_t capture_id);
void fake_capture_drop(struct fake_stream *stream);
/* For work on the legacy stream: IMPLICIT if a blocking stream of the context is captured. */
CUresult fake_capture_check_implicit(struct fake_stream *stream);

#endif
