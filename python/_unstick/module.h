/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UNSTICK_PYTHON_MODULE_H
#define UNSTICK_PYTHON_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>

#include <unstick/unstick.h>

#ifdef Py_GIL_DISABLED
#error "unstick needs CPython with the GIL: build it for 3.11 to 3.14, not for the free-threaded variant"
#endif
#if PY_VERSION_HEX < 0x030b0000 || PY_VERSION_HEX >= 0x030f0000
#error "unstick needs CPython 3.11 to 3.14"
#endif

/*
 * Ownership follows the C objects: a task or lease holds its region, a region its device, a device its context, as
 * strong references between the Python objects. So whatever order the interpreter drops them in, the C objects die
 * from the leaves up.
 */
struct py_log;

struct py_context {
    PyObject_HEAD
    struct unstick_context *ctx; /* NULL once closed */
    struct py_log *log;
    bool has_driver;
};

struct py_device {
    PyObject_HEAD
    struct py_context *context;
    struct unstick_device *dev; /* NULL once closed */
    PyObject *spec;
    int dl_type, dl_id; /* DLPack's words for it */
    bool is_host;
};

struct py_region {
    PyObject_HEAD
    struct py_device *device;
    struct unstick_region *region;
    PyObject *name;
    PyObject *weakrefs;
    bool sheds;                   /* granules whose last tensor has died are given back */
    bool is_shedding;             /* on the list of those that have some */
    struct py_region *next_to_shed;
};

struct py_lease {
    PyObject_HEAD
    struct py_region *region;
    struct unstick_lease *lease; /* NULL once ended */
};

struct py_task {
    PyObject_HEAD
    struct py_region *region;
    struct unstick_task *task;
    const char *verb;
    struct py_task *next, **at; /* the list of all tasks, for the end of the process */
};

extern PyTypeObject py_context_type, py_device_type, py_region_type, py_lease_type, py_task_type, py_memory_type;
extern PyTypeObject py_cache_type, py_request_type, py_cache_lease_type, py_fault_device_type;
extern PyTypeObject py_guard_type;

/* error.c: raises the exception of error->status with the detail as attributes. Returns NULL. */
int py_error_init(PyObject *module);
/* The same without raising it; long_text, unless NULL, is what str() gives. */
PyObject *py_error_new(const struct unstick_error *error, const char *long_text);
PyObject *py_error_raise(const struct unstick_error *error);
PyObject *py_error_raise_status(int status, const char *operation, const char *text);

/* device.c: makes a Device, or an object of a type derived from it, with what `open` opens. */
typedef int (*py_device_open_fn)(struct unstick_context *ctx, const char *spec,
                                 const struct unstick_device_options *options, struct unstick_device **ret_dev,
                                 struct unstick_error *error);
PyObject *py_device_open(PyTypeObject *type, PyObject *args, PyObject *kwargs, py_device_open_fn open);

/* info.c: the C structs as dicts. */
PyObject *py_info_context(const struct unstick_context_info *info);
PyObject *py_info_device(const struct unstick_device_info *info);
PyObject *py_info_region(const struct unstick_region_info *info);
PyObject *py_info_task(const struct unstick_task_result *result);
const char *py_info_state_name(int state);
PyObject *py_info_size(uint64_t bytes);

/* list.c: adds an item to a list and takes its reference over. The list; or NULL, with the list gone, if the item is
 * NULL or there is no memory. */
PyObject *py_list_add(PyObject *list, PyObject *item);

/* word.c: the index of a word in a list that ends with NULL, or -1 with an exception. */
int py_word(const char *const *words, const char *word, const char *what);

/* log.c: lines wait in a ring until a thread that holds the GIL hands them to `logging`. */
struct py_log *py_log_new(void);
void py_log_free(struct py_log *log);
void py_log_write(void *userdata, enum unstick_log_level level, const char *line);
void py_log_drain(struct py_log *log);

/* task.c */
struct unstick_task;
PyObject *py_task_start(struct py_region *region, const char *verb, PyObject *args, PyObject *kwargs);
void py_task_end_all(void);

/* lease.c */
PyObject *py_lease_begin(struct py_region *region, bool cancels_eviction);

/* memory.c */
PyObject *py_memory_new(struct py_region *region, uint64_t offset, uint64_t bytes);
PyObject *py_memory_list(const struct py_region *region);
uint64_t py_memory_n_live(const struct py_region *region);
void py_memory_sweep(void);

/* hibernate.c */
PyObject *py_hibernate(PyObject *module, PyObject *args);
PyObject *py_wake(PyObject *module, PyObject *args);
PyObject *py_hibernate_state(PyObject *module, PyObject *args);

/* instances.c */
PyObject *py_instances(PyObject *module, PyObject *types);

/* survey.c */
PyObject *py_survey(PyObject *self, PyObject *args);
PyObject *py_modules(PyObject *self, PyObject *module);

/* guard.c */
PyObject *py_guards_put(PyObject *self, PyObject *args);
PyObject *py_guards_take(PyObject *self, PyObject *args);

/* allocconf.c */
PyObject *py_allocconf_parse(PyObject *module, PyObject *args);
PyObject *py_allocconf_choose(PyObject *module, PyObject *args);
PyObject *py_allocconf_compare(PyObject *module, PyObject *args);
PyObject *py_allocconf_profiles(PyObject *module, PyObject *unused);
PyObject *py_allocconf_variables(PyObject *module, PyObject *args);

/* estimate.c */
PyObject *py_estimate(PyObject *module, PyObject *args);
PyObject *py_key(PyObject *module, PyObject *args);
PyObject *py_fingerprint(PyObject *module, PyObject *settings);
PyObject *py_peak(PyObject *module, PyObject *args);
PyObject *py_peak_add(PyObject *module, PyObject *args);

/* reading.c */
PyObject *py_gpus(PyObject *module, PyObject *unused);
PyObject *py_reading(PyObject *module, PyObject *args);
PyObject *py_system(PyObject *module, PyObject *unused);

/* For "O&": a number of bytes; anything below 0, above 2^64 or not whole is an exception. */
int py_parse_bytes(PyObject *object, void *ret_bytes);

/* True from the interpreter's own end on: what is left belongs to the operating system. */
bool py_is_exiting(void);
/* Without the GIL: returns at once, but never to a thread that an ending interpreter leaves behind. */
void py_stop_if_left_behind(void);

/* Hands waiting log lines on and gives memory back whose last tensor has died. Every method starts with it. */
void py_enter(struct py_context *context);

#endif
