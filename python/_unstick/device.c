/* SPDX-License-Identifier: Apache-2.0 */
/* Device: a GPU or its stand-in on the host. Kept open by every region on it, closed with the last reference. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

/* kDLCPU and kDLCUDA of DLPack. */
#define DEVICE_DL_CPU 1
#define DEVICE_DL_CUDA 2

PyObject *py_device_open(PyTypeObject *type, PyObject *args, PyObject *kwargs, py_device_open_fn open)
{
    static const char *const names[] = { "context", "spec", "limit_bytes", "granule_bytes", NULL };
    struct unstick_device_options options = { .size = sizeof(options) };
    struct unstick_device_info info = { .size = sizeof(info) };
    uint64_t limit_bytes = 0, granule_bytes = 0;
    struct unstick_error error = { 0 };
    struct py_context *context;
    struct py_device *self;
    const char *spec = "auto";
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|s$O&O&:Device", (char **)names, &py_context_type, &context,
                                     &spec, py_parse_bytes, &limit_bytes, py_parse_bytes, &granule_bytes))
        return NULL;
    py_enter(context);
    if (!context->ctx)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Device", "the context was never made");
    self = (struct py_device *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->context = (struct py_context *)Py_NewRef(context);
    self->spec = PyUnicode_FromString(spec);
    options.limit_bytes = limit_bytes;
    options.granule_bytes = granule_bytes;
    Py_BEGIN_ALLOW_THREADS
    r = open(context->ctx, spec, &options, &self->dev, &error);
    if (r == UNSTICK_OK)
        r = unstick_device_info(self->dev, &info, &error);
    Py_END_ALLOW_THREADS
    if (r < 0 || !self->spec) {
        Py_DECREF(self);
        return r < 0 ? py_error_raise(&error) : NULL;
    }
    self->is_host = strcmp(info.kind, "cuda") != 0;
    self->dl_type = self->is_host ? DEVICE_DL_CPU : DEVICE_DL_CUDA;
    self->dl_id = info.index < 0 ? 0 : info.index;
    return (PyObject *)self;
}

static PyObject *device_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return py_device_open(type, args, kwargs, unstick_device_open);
}

static void device_dealloc(PyObject *object)
{
    struct py_device *self = (struct py_device *)object;

    if (!py_is_exiting() && self->dev) {
        Py_BEGIN_ALLOW_THREADS
        unstick_device_close(self->dev, NULL);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(self->spec);
    Py_XDECREF(self->context);
    Py_TYPE(object)->tp_free(object);
}

static bool device_read(struct py_device *self, struct unstick_device_info *info)
{
    struct unstick_error error = { 0 };
    int r;

    py_enter(self->context);
    *info = (struct unstick_device_info){ .size = sizeof(*info) };
    if (!self->dev) {
        py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Device", "the device is closed");
        return false;
    }
    Py_BEGIN_ALLOW_THREADS
    r = unstick_device_info(self->dev, info, &error);
    Py_END_ALLOW_THREADS
    /* A lost device still tells what we hold on it. */
    if (r < 0 && r != UNSTICK_DEVICE_LOST)
        py_error_raise(&error);
    return r == UNSTICK_OK || r == UNSTICK_DEVICE_LOST;
}

static PyObject *device_info(PyObject *object, PyObject *unused)
{
    struct unstick_device_info info;

    (void)unused;
    return device_read((struct py_device *)object, &info) ? py_info_device(&info) : NULL;
}

static PyObject *device_close(PyObject *object, PyObject *unused)
{
    struct py_device *self = (struct py_device *)object;
    struct unstick_error error = { 0 };
    int r;

    (void)unused;
    py_enter(self->context);
    Py_BEGIN_ALLOW_THREADS
    r = unstick_device_close(self->dev, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    self->dev = NULL;
    Py_RETURN_NONE;
}

static PyObject *device_repr(PyObject *object)
{
    struct py_device *self = (struct py_device *)object;
    struct unstick_device_info info = { .size = sizeof(info) };
    PyObject *resident, *limit, *repr = NULL;

    if (!self->dev)
        return PyUnicode_FromFormat("<unstick.Device %U: closed>", self->spec);
    if (unstick_device_info(self->dev, &info, NULL) == UNSTICK_FORKED)
        return PyUnicode_FromFormat("<unstick.Device %U of another process>", self->spec);
    resident = py_info_size(info.resident_bytes);
    limit = py_info_size(info.limit_bytes);
    if (resident && limit)
        repr = PyUnicode_FromFormat("<unstick.Device %U (%s): %U of %U resident%s>", self->spec, info.name, resident,
                                    limit, info.is_lost ? ", LOST" : "");
    Py_XDECREF(limit);
    Py_XDECREF(resident);
    return repr;
}

static PyObject *device_get_spec(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct py_device *)object)->spec);
}

static PyObject *device_get_context(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct py_device *)object)->context);
}

static PyObject *device_get_kind(PyObject *object, void *unused)
{
    (void)unused;
    return PyUnicode_FromString(((struct py_device *)object)->is_host ? "host" : "cuda");
}

static PyObject *device_get_index(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromLong(((struct py_device *)object)->dl_id);
}

static PyMethodDef device_methods[] = {
    { "info", device_info, METH_NOARGS, "The device and what the library holds on it, as a dict." },
    { "close", device_close, METH_NOARGS, "Closes the device; BusyError while a region or tensor of it is left." },
    { 0 },
};

static PyGetSetDef device_getset[] = {
    { "spec", device_get_spec, NULL, "What the device was opened as.", NULL },
    { "context", device_get_context, NULL, "The context.", NULL },
    { "kind", device_get_kind, NULL, "\"cuda\" or \"host\".", NULL },
    { "index", device_get_index, NULL, "The index as torch counts; 0 for a host device.", NULL },
    { 0 },
};

PyTypeObject py_device_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Device",
    .tp_doc = "Device(context, spec='auto', *, limit_bytes=0, granule_bytes=0)\n--\n\n"
              "A GPU ('cuda:0', 'cuda:GPU-...'), or a stand-in on the host ('host:2GiB').",
    .tp_basicsize = sizeof(struct py_device),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = device_new,
    .tp_dealloc = device_dealloc,
    .tp_repr = device_repr,
    .tp_methods = device_methods,
    .tp_getset = device_getset,
};
