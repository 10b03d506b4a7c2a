/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FaultDevice: a Device whose driver fails on request, for tests. The one object here that reaches past the public
 * interface: the library's own fault device wraps what the device would be, so that the Python above sees the failures
 * that a program can meet, through the same calls.
 */
#include "module.h"

#include <string.h>

#include "base/error.h"
#include "base/size.h"
#include "device/fault/fault.h"
#include "region/device.h"

static int fault_open_inner(struct unstick_context *ctx, const char *spec, struct usk_device **ret_inner,
                            struct unstick_error *error)
{
    uint64_t bytes;

    if (!strncmp(spec, "cuda:", 5))
        return usk_cuda_open(spec + 5, ctx->event_fd, &ctx->log, ret_inner, error);
    if (!strncmp(spec, "host:", 5) && usk_size_parse(spec + 5, &bytes))
        return usk_host_open(bytes, ctx->event_fd, &ctx->log, ret_inner, error);
    return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "FaultDevice", "%s cannot be made to fail: name host:SIZE", spec);
}

static int fault_open(struct unstick_context *ctx, const char *spec, const struct unstick_device_options *options,
                      struct unstick_device **ret_dev, struct unstick_error *error)
{
    struct usk_device *inner, *driver;
    int r;

    r = fault_open_inner(ctx, spec, &inner, error);
    if (r < 0)
        return r;
    r = usk_fault_open(inner, &driver, error);
    if (r < 0) {
        usk_device_close(inner);
        return r;
    }
    return usk_device_adopt(ctx, driver, options, ret_dev, error);
}

static PyObject *fault_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    return py_device_open(type, args, kwargs, fault_open);
}

static struct usk_device *fault_driver(PyObject *object)
{
    struct py_device *self = (struct py_device *)object;

    if (!self->dev)
        py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "FaultDevice", "the device is closed");
    return self->dev ? self->dev->driver : NULL;
}

/* The bit of each operation that is named. False with an exception. */
static bool fault_mask(PyObject *names, uint64_t *ret_mask)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
        int op = 0;

        while (name && op < USK_N_FAULT_OPS && strcmp(usk_fault_op_name((enum usk_fault_op)op), name) != 0)
            op++;
        if (name && op == USK_N_FAULT_OPS)
            PyErr_Format(PyExc_ValueError, "there is no operation %s", name);
        if (!name || op == USK_N_FAULT_OPS)
            return false;
        *ret_mask |= UINT64_C(1) << op;
    }
    return true;
}

static PyObject *fault_set(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "fail_at",     "status",        "is_for_ever", "ops", "lose_at",
                                         "steal_bytes", "pending_polls", "busy_maps",   NULL };
    struct usk_device *driver = fault_driver(object);
    struct usk_fault_script script = { 0 };
    PyObject *ops = NULL;
    int is_for_ever = 0;

    if (!driver || !PyArg_ParseTupleAndKeywords(args, kwargs, "|$O&ipO!O&O&II:set_faults", (char **)names,
                                                py_parse_bytes, &script.fail_at, &script.status, &is_for_ever,
                                                &PyTuple_Type, &ops, py_parse_bytes, &script.lose_at, py_parse_bytes,
                                                &script.steal_bytes, &script.pending_polls, &script.busy_maps))
        return NULL;
    if (ops && !fault_mask(ops, &script.op_mask))
        return NULL;
    script.is_for_ever = is_for_ever;
    usk_fault_set(driver, &script);
    Py_RETURN_NONE;
}

static PyObject *fault_get_n_calls(PyObject *object, void *unused)
{
    struct usk_device *driver = fault_driver(object);

    (void)unused;
    return driver ? PyLong_FromUnsignedLongLong(usk_fault_n_calls(driver)) : NULL;
}

static PyObject *fault_get_n_failed(PyObject *object, void *unused)
{
    struct usk_device *driver = fault_driver(object);

    (void)unused;
    return driver ? PyLong_FromUnsignedLongLong(usk_fault_n_failed(driver)) : NULL;
}

static PyMethodDef fault_methods[] = {
    { "set_faults", (PyCFunction)(void (*)(void))fault_set, METH_VARARGS | METH_KEYWORDS,
      "Which call of the driver fails from here on; without arguments, none. Counting starts anew." },
    { 0 },
};

static PyGetSetDef fault_getset[] = {
    { "n_calls", fault_get_n_calls, NULL, "Calls of the driver since then.", NULL },
    { "n_failed", fault_get_n_failed, NULL, "How many of them failed.", NULL },
    { 0 },
};

PyTypeObject py_fault_device_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick._unstick.FaultDevice",
    .tp_doc = "FaultDevice(context, spec, *, limit_bytes=0, granule_bytes=0)\n--\n\n"
              "A Device whose driver fails on request, for tests.",
    .tp_basicsize = sizeof(struct py_device),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_base = &py_device_type,
    .tp_new = fault_new,
    .tp_methods = fault_methods,
    .tp_getset = fault_getset,
};
