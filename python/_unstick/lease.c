/* SPDX-License-Identifier: Apache-2.0 */
/* Lease: a region in use. A context manager; one that is dropped without an end ends itself. */
#include "module.h"

PyObject *py_lease_begin(struct py_region *region, bool cancels_eviction)
{
    unsigned int flags = cancels_eviction ? UNSTICK_LEASE_CANCEL_EVICTION : 0;
    struct unstick_error error = { 0 };
    struct py_lease *self;

    py_enter(region->device->context);
    self = (struct py_lease *)py_lease_type.tp_alloc(&py_lease_type, 0);
    if (!self)
        return NULL;
    self->region = (struct py_region *)Py_NewRef(region);
    if (unstick_lease_begin(region->region, flags, &self->lease, &error) < 0) {
        Py_DECREF(self);
        return py_error_raise(&error);
    }
    return (PyObject *)self;
}

static int lease_end(struct py_lease *self, struct unstick_error *error)
{
    struct unstick_lease *lease = self->lease;
    int r;

    /* Taken first: another thread may end it while this one waits. */
    self->lease = NULL;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_lease_end(lease, error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        self->lease = lease;
    return r;
}

static void lease_dealloc(PyObject *object)
{
    struct py_lease *self = (struct py_lease *)object;

    if (!py_is_exiting())
        unstick_lease_end(self->lease, NULL);
    Py_XDECREF(self->region);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *lease_end_method(PyObject *object, PyObject *unused)
{
    struct py_lease *self = (struct py_lease *)object;
    struct unstick_error error = { 0 };

    (void)unused;
    py_enter(self->region->device->context);
    if (lease_end(self, &error) < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}

static PyObject *lease_use_stream(PyObject *object, PyObject *argument)
{
    struct py_lease *self = (struct py_lease *)object;
    struct unstick_error error = { 0 };
    uint64_t stream;

    if (!py_parse_bytes(argument, &stream))
        return NULL;
    if (!self->lease)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Lease.use_stream", "the lease has ended");
    if (unstick_lease_use_stream(self->lease, (void *)(uintptr_t)stream, &error) < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}

static PyObject *lease_enter(PyObject *object, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(object);
}

static PyObject *lease_exit(PyObject *object, PyObject *args)
{
    (void)args;
    return lease_end_method(object, NULL);
}

static PyObject *lease_repr(PyObject *object)
{
    struct py_lease *self = (struct py_lease *)object;

    return PyUnicode_FromFormat("<unstick.Lease of %R%s>", self->region->name, self->lease ? "" : ": ended");
}

static PyMethodDef lease_methods[] = {
    { "use_stream", lease_use_stream, METH_O, "Names a CUDA stream, as an integer, that the region is used on." },
    { "end", lease_end_method, METH_NOARGS, "Ends the use; an eviction waits for the streams that were named." },
    { "__enter__", lease_enter, METH_NOARGS, NULL },
    { "__exit__", lease_exit, METH_VARARGS, NULL },
    { 0 },
};

PyTypeObject py_lease_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Lease",
    .tp_doc = "A region in use; made by Region.lease().",
    .tp_basicsize = sizeof(struct py_lease),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = lease_dealloc,
    .tp_repr = lease_repr,
    .tp_methods = lease_methods,
};
