/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Task: bytes on their way. The driver thread moves them; wait() only looks, without the GIL, and lets signals through
 * every few hundredths of a second, so that KeyboardInterrupt ends a wait at once. A task that is dropped before its
 * end is cancelled and ends by itself. All tasks are on one list under the GIL: at the end of the process those that
 * still run are cancelled and awaited, since nothing may talk to a driver that is being torn down.
 */
#include "module.h"

#include <poll.h>
#include <string.h>
#include <time.h>

#define TASK_POLL_MS 1
#define TASK_SIGNALS_NS (20 * 1000000ull)
#define TASK_END_NS (1000 * 1000000ull)

static struct py_task *tasks;

typedef int (*task_verb_fn)(struct unstick_region *region, const struct unstick_task_options *options,
                            struct unstick_task **ret_task, struct unstick_error *error);

static const struct {
    const char *name;
    task_verb_fn run;
} task_verbs[] = {
    { "backup", unstick_region_backup },   { "evict", unstick_region_evict },
    { "restore", unstick_region_restore }, { "discard", unstick_region_discard },
    { "revoke", unstick_region_revoke },   { "release", unstick_region_release },
};

static const char *const task_tiers[] = { "auto", "pinned", "pageable", "file", NULL };
static const char *const task_fences[] = { "default", "device", "none", NULL };

static uint64_t task_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Fills sources (n_max long) from a sequence of tasks. The number, or -1 with an exception. */
static Py_ssize_t task_sources(PyObject *sequence, struct unstick_task **sources, Py_ssize_t n_max)
{
    for (Py_ssize_t i = 0; i < n_max; i++) {
        PyObject *source = PySequence_Fast_GET_ITEM(sequence, i);

        if (!PyObject_TypeCheck(source, &py_task_type)) {
            PyErr_SetString(PyExc_TypeError, "sources are tasks");
            return -1;
        }
        sources[i] = ((struct py_task *)source)->task;
    }
    return n_max;
}

static PyObject *task_submit(struct py_region *region, const char *verb, struct unstick_task_options *options)
{
    struct unstick_error error = { 0 };
    task_verb_fn run = NULL;
    struct py_task *self;
    int r;

    for (size_t i = 0; i < sizeof(task_verbs) / sizeof(*task_verbs); i++) {
        if (!strcmp(task_verbs[i].name, verb))
            run = task_verbs[i].run;
    }
    self = (struct py_task *)py_task_type.tp_alloc(&py_task_type, 0);
    if (!self)
        return NULL;
    self->region = (struct py_region *)Py_NewRef(region);
    self->verb = verb;
    self->next = tasks;
    self->at = &tasks;
    if (tasks)
        tasks->at = &self->next;
    tasks = self;
    Py_BEGIN_ALLOW_THREADS
    r = run(region->region, options, &self->task, &error);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        Py_DECREF(self);
        return py_error_raise(&error);
    }
    return (PyObject *)self;
}

PyObject *py_task_start(struct py_region *region, const char *verb, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "tier", "fence", "max_bytes", "verify", "hand_over", "sources", NULL };
    struct unstick_task_options options = { .size = sizeof(options) };
    const char *tier = "auto", *fence = "default";
    int is_verified = 0, is_handed_over = 0, tier_index, fence_index;
    PyObject *sources = NULL, *sequence, *task = NULL;
    uint64_t max_bytes = 0;
    Py_ssize_t n_sources;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$ssO&ppO", (char **)names, &tier, &fence, py_parse_bytes,
                                     &max_bytes, &is_verified, &is_handed_over, &sources))
        return NULL;
    py_enter(region->device->context);
    tier_index = py_word(task_tiers, tier, "tier");
    fence_index = tier_index < 0 ? -1 : py_word(task_fences, fence, "fence");
    if (fence_index < 0)
        return NULL;
    sequence = sources ? PySequence_Fast(sources, "sources are a sequence of tasks") : PyTuple_New(0);
    if (!sequence)
        return NULL;
    n_sources = PySequence_Fast_GET_SIZE(sequence);
    options.sources = n_sources ? PyMem_Calloc((size_t)n_sources, sizeof(*options.sources)) : NULL;
    if (n_sources && !options.sources) {
        PyErr_NoMemory();
        goto out;
    }
    if (task_sources(sequence, options.sources, n_sources) < 0)
        goto out;
    options.n_sources = (size_t)n_sources;
    options.tier = (enum unstick_tier)tier_index;
    options.fence = (enum unstick_fence)fence_index;
    options.max_bytes = max_bytes;
    options.flags = (is_verified ? UNSTICK_TASK_VERIFY : 0u) | (is_handed_over ? UNSTICK_TASK_HAND_OVER : 0u);
    task = task_submit(region, verb, &options);
out:
    PyMem_Free(options.sources);
    Py_DECREF(sequence);
    return task;
}

static void task_dealloc(PyObject *object)
{
    struct py_task *self = (struct py_task *)object;

    if (self->at)
        *self->at = self->next;
    if (self->next)
        self->next->at = self->at;
    if (!py_is_exiting())
        unstick_task_free(self->task);
    Py_XDECREF(self->region);
    Py_TYPE(object)->tp_free(object);
}

/* Without the GIL: looks until the task ends or the time is over. */
static int task_look(const struct py_task *self, uint64_t until_ns, struct unstick_task_result *result)
{
    struct pollfd event = { .fd = unstick_context_fd(self->region->device->context->ctx), .events = POLLIN };
    int status;

    for (;;) {
        status = unstick_task_result(self->task, result);
        if (status != UNSTICK_PENDING || task_now_ns() >= until_ns)
            return status;
        poll(&event, 1, TASK_POLL_MS);
    }
}

static PyObject *task_wait(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "timeout", NULL };
    struct py_task *self = (struct py_task *)object;
    struct unstick_task_result result = { .size = sizeof(result) };
    uint64_t end_ns = UINT64_MAX;
    PyObject *timeout = Py_None;
    int status;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O:wait", (char **)names, &timeout))
        return NULL;
    if (timeout != Py_None) {
        double seconds = PyFloat_AsDouble(timeout);

        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
        if (seconds < 1e9)
            end_ns = task_now_ns() + (seconds > 0 ? (uint64_t)(seconds * 1e9) : 0);
    }
    for (;;) {
        uint64_t until_ns = task_now_ns() + TASK_SIGNALS_NS;

        Py_BEGIN_ALLOW_THREADS
        status = task_look(self, until_ns < end_ns ? until_ns : end_ns, &result);
        py_stop_if_left_behind();
        Py_END_ALLOW_THREADS
        if (status != UNSTICK_PENDING)
            break;
        if (PyErr_CheckSignals() < 0)
            return NULL;
        if (task_now_ns() >= end_ns)
            return py_error_raise_status(UNSTICK_TIMED_OUT, "Task.wait", "the task has not ended in the time given");
    }
    py_enter(self->region->device->context);
    if (status == UNSTICK_FORKED)
        return py_error_raise_status(status, "Task.wait", "this task belongs to the parent process");
    if (status < 0) {
        result.error.status = status;
        return py_error_raise(&result.error);
    }
    return py_info_task(&result);
}

static PyObject *task_cancel(PyObject *object, PyObject *unused)
{
    (void)unused;
    unstick_task_cancel(((struct py_task *)object)->task);
    Py_RETURN_NONE;
}

static PyObject *task_result(PyObject *object, PyObject *unused)
{
    struct py_task *self = (struct py_task *)object;
    struct unstick_task_result result = { .size = sizeof(result) };

    (void)unused;
    py_enter(self->region->device->context);
    if (unstick_task_result(self->task, &result) == UNSTICK_FORKED)
        return py_error_raise_status(UNSTICK_FORKED, "Task.result", "this task belongs to the parent process");
    return py_info_task(&result);
}

static PyObject *task_get_done(PyObject *object, void *unused)
{
    struct unstick_task_result result = { .size = sizeof(result) };

    (void)unused;
    return PyBool_FromLong(unstick_task_result(((struct py_task *)object)->task, &result) != UNSTICK_PENDING);
}

static PyObject *task_get_region(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct py_task *)object)->region);
}

static PyObject *task_repr(PyObject *object)
{
    struct py_task *self = (struct py_task *)object;
    struct unstick_task_result result = { .size = sizeof(result) };
    int status = unstick_task_result(self->task, &result);
    PyObject *done, *total, *repr = NULL;

    if (status == UNSTICK_FORKED)
        return PyUnicode_FromFormat("<unstick.Task: %s of %R in another process>", self->verb, self->region->name);
    done = py_info_size(result.done_bytes);
    total = py_info_size(result.total_bytes);
    if (done && total)
        repr = PyUnicode_FromFormat("<unstick.Task: %s of %R, %s, %U of %U>", self->verb, self->region->name,
                                    unstick_status_text(status), done, total);
    Py_XDECREF(total);
    Py_XDECREF(done);
    return repr;
}

void py_task_end_all(void)
{
    uint64_t until_ns = task_now_ns() + TASK_END_NS;

    for (const struct py_task *task = tasks; task; task = task->next) {
        if (task->task)
            unstick_task_cancel(task->task);
    }
    for (const struct py_task *task = tasks; task; task = task->next) {
        struct unstick_task_result result = { .size = sizeof(result) };

        if (task->task)
            task_look(task, until_ns, &result);
    }
}

static PyMethodDef task_methods[] = {
    { "wait", (PyCFunction)(void (*)(void))task_wait, METH_VARARGS | METH_KEYWORDS,
      "Waits, without the GIL, until the task ends; its result. Raises what the task failed with." },
    { "cancel", task_cancel, METH_NOARGS, "Asks the task to end early." },
    { "result", task_result, METH_NOARGS, "How far the task is or how it ended, as a dict; never raises its failure." },
    { 0 },
};

static PyGetSetDef task_getset[] = {
    { "done", task_get_done, NULL, "Whether the task has ended.", NULL },
    { "region", task_get_region, NULL, "The region.", NULL },
    { 0 },
};

PyTypeObject py_task_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Task",
    .tp_doc = "Bytes on their way; made by Region.evict() and its like. Dropped before its end, it is cancelled.",
    .tp_basicsize = sizeof(struct py_task),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = task_dealloc,
    .tp_repr = task_repr,
    .tp_methods = task_methods,
    .tp_getset = task_getset,
};
