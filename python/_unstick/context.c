/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Context: what everything else hangs off. It is freed when the last object that needs it has gone, and never at the
 * interpreter's end, where tensors over its memory may outlive every Python object.
 */
#include "module.h"

static int context_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "host_bytes", "n_threads", "log_level", NULL };
    struct py_context *self = (struct py_context *)object;
    struct unstick_context_options options = { .size = sizeof(options) };
    uint64_t host_bytes = 0;
    unsigned int n_threads = 0;
    int log_level = UNSTICK_LOG_WARNING, r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$O&Ii:Context", (char **)names, py_parse_bytes, &host_bytes,
                                     &n_threads, &log_level))
        return -1;
    if (self->ctx) {
        PyErr_SetString(PyExc_RuntimeError, "a context is made once");
        return -1;
    }
    if (!self->log)
        self->log = py_log_new();
    if (!self->log) {
        PyErr_NoMemory();
        return -1;
    }
    options.host_bytes = host_bytes;
    options.n_threads = n_threads;
    options.log_level = (enum unstick_log_level)(log_level < 0 ? 0 : log_level > 3 ? 3 : log_level);
    options.log = py_log_write;
    options.log_userdata = self->log;

    struct unstick_error error = { 0 };
    Py_BEGIN_ALLOW_THREADS
    r = unstick_context_new(&options, &self->ctx, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        py_error_raise(&error);
    return r < 0 ? -1 : 0;
}

static void context_dealloc(PyObject *object)
{
    struct py_context *self = (struct py_context *)object;

    if (!py_is_exiting()) {
        struct unstick_context_info info = { .size = sizeof(info) };
        /* In a forked child nothing is freed, and the ring may be locked for ever. */
        bool is_forked = self->ctx && unstick_context_info(self->ctx, &info) == UNSTICK_FORKED;

        Py_BEGIN_ALLOW_THREADS
        unstick_context_free(self->ctx);
        Py_END_ALLOW_THREADS
        if (!is_forked)
            py_log_free(self->log);
    }
    Py_TYPE(object)->tp_free(object);
}

static PyObject *context_info(PyObject *object, PyObject *unused)
{
    struct py_context *self = (struct py_context *)object;
    struct unstick_context_info info = { .size = sizeof(info) };
    int r;

    (void)unused;
    py_enter(self);
    if (!self->ctx)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Context.info", "the context was never made");
    r = unstick_context_info(self->ctx, &info);
    if (r < 0)
        return py_error_raise_status(r, "unstick_context_info", "");
    return py_info_context(&info);
}

static PyObject *context_repr(PyObject *object)
{
    struct py_context *self = (struct py_context *)object;
    struct unstick_context_info info = { .size = sizeof(info) };
    PyObject *limit, *repr;

    if (!self->ctx || unstick_context_info(self->ctx, &info) < 0)
        return PyUnicode_FromString("<unstick.Context of another process>");
    limit = py_info_size(info.host_limit_bytes);
    if (!limit)
        return NULL;
    repr = PyUnicode_FromFormat("<unstick.Context: %u tasks, backups may take %U>", info.n_tasks, limit);
    Py_DECREF(limit);
    return repr;
}

static PyMethodDef context_methods[] = {
    { "info", context_info, METH_NOARGS, "What the context holds in host memory, as a dict." },
    { 0 },
};

PyTypeObject py_context_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Context",
    .tp_doc = "Context(*, host_bytes=0, n_threads=0, log_level=1)\n--\n\n"
              "What everything else hangs off; two contexts share nothing.",
    .tp_basicsize = sizeof(struct py_context),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = context_init,
    .tp_dealloc = context_dealloc,
    .tp_repr = context_repr,
    .tp_methods = context_methods,
};
