/* SPDX-License-Identifier: Apache-2.0 */
/* CacheLease: a model of the cache in use. It holds the cache; one that is dropped without an end ends itself. */
#include "cache.h"

struct py_cache_lease {
    PyObject_HEAD
    struct py_cache *cache;
    struct unstick_cache_lease *lease; /* NULL: ended */
};

PyObject *py_cache_lease_new(struct py_cache *cache, struct unstick_cache_lease *lease)
{
    struct py_cache_lease *self = (struct py_cache_lease *)py_cache_lease_type.tp_alloc(&py_cache_lease_type, 0);

    if (!self) {
        unstick_cache_lease_end(lease, NULL);
        return NULL;
    }
    self->cache = (struct py_cache *)Py_NewRef(cache);
    self->lease = lease;
    return (PyObject *)self;
}

static void lease_dealloc(PyObject *object)
{
    struct py_cache_lease *self = (struct py_cache_lease *)object;

    if (!py_is_exiting())
        unstick_cache_lease_end(self->lease, NULL);
    Py_XDECREF(self->cache);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *lease_use_stream(PyObject *object, PyObject *argument)
{
    struct py_cache_lease *self = (struct py_cache_lease *)object;
    struct unstick_error error = { 0 };
    uint64_t stream;

    if (!py_parse_bytes(argument, &stream))
        return NULL;
    if (self->lease && unstick_cache_lease_use_stream(self->lease, (void *)(uintptr_t)stream, &error) < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}

static PyObject *lease_end(PyObject *object, PyObject *unused)
{
    struct py_cache_lease *self = (struct py_cache_lease *)object;
    struct unstick_cache_lease *lease = self->lease;
    struct unstick_error error = { 0 };
    int r;

    (void)unused;
    py_enter(self->cache->device->context);
    /* Taken first: another thread may end it while this one waits. */
    self->lease = NULL;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_cache_lease_end(lease, &error);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        self->lease = lease;
        return py_error_raise(&error);
    }
    Py_RETURN_NONE;
}

static PyMethodDef lease_methods[] = {
    { "use_stream", lease_use_stream, METH_O, "Names a CUDA stream, as an integer, that the model is used on." },
    { "end", lease_end, METH_NOARGS, "Ends the use." },
    { 0 },
};

PyTypeObject py_cache_lease_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick._unstick.CacheLease",
    .tp_doc = "A model in use; made by Request.take_lease().",
    .tp_basicsize = sizeof(struct py_cache_lease),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = lease_dealloc,
    .tp_methods = lease_methods,
};
