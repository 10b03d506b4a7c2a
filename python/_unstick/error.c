/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions are made from UNSTICK_STATUS_MAP, one class per failure, so that the list is written once. The class
 * tells what kind of failure it was, the attributes carry the detail of struct unstick_error, and the text is the
 * library's own line. Where Python has a class that a caller would catch for this, ours is one of those, too.
 */
#include "module.h"

#include <ctype.h>

static PyObject *error_base;

static struct {
    int status;
    const char *name;
    const char *text;
    PyObject *type;
} error_classes[] = {
#define ERROR_CLASS(_name, _value, _text) { UNSTICK_##_name, #_name, _text, NULL },
    UNSTICK_STATUS_MAP(ERROR_CLASS)
#undef ERROR_CLASS
};

#define N_ERROR_CLASSES (sizeof(error_classes) / sizeof(*error_classes))

/* OUT_OF_DEVICE_MEMORY becomes OutOfDeviceMemoryError. */
static void error_class_name(const char *status_name, char *ret_name, size_t size)
{
    size_t n = 0;

    for (const char *at = status_name; *at && n + 1 < size; at++) {
        if (*at != '_')
            ret_name[n++] = (char)(at == status_name || at[-1] == '_' ? *at : tolower((unsigned char)*at));
    }
    ret_name[n] = '\0';
    PyOS_snprintf(ret_name + n, size - n, "Error");
}

static PyObject *error_builtin(int status)
{
    switch (status) {
    case UNSTICK_INVALID_ARGUMENT:
        return PyExc_ValueError;
    case UNSTICK_OUT_OF_HOST_MEMORY:
    case UNSTICK_HOST_BUDGET:
    case UNSTICK_OUT_OF_DEVICE_MEMORY:
        return PyExc_MemoryError;
    case UNSTICK_TIMED_OUT:
        return PyExc_TimeoutError;
    case UNSTICK_NOT_PERMITTED:
        return PyExc_PermissionError;
    case UNSTICK_UNSUPPORTED:
        return PyExc_NotImplementedError;
    default:
        return NULL;
    }
}

static int error_class_add(PyObject *module, size_t index)
{
    PyObject *builtin = error_builtin(error_classes[index].status);
    PyObject *bases = builtin ? PyTuple_Pack(2, error_base, builtin) : PyTuple_Pack(1, error_base);
    char name[64], full_name[96];
    PyObject *type;

    if (!bases)
        return -1;
    error_class_name(error_classes[index].name, name, sizeof(name));
    PyOS_snprintf(full_name, sizeof(full_name), "unstick.%s", name);
    type = PyErr_NewExceptionWithDoc(full_name, error_classes[index].text, bases, NULL);
    Py_DECREF(bases);
    error_classes[index].type = type;
    return type ? PyModule_AddObjectRef(module, name, type) : -1;
}

int py_error_init(PyObject *module)
{
    error_base = PyErr_NewExceptionWithDoc(
        "unstick.Error",
        "A failure of unstick: status, status_name, native, required_bytes, available_bytes, operation, text.", NULL,
        NULL);
    if (!error_base || PyModule_AddObjectRef(module, "Error", error_base) < 0)
        return -1;
    for (size_t i = 0; i < N_ERROR_CLASSES; i++) {
        if (error_classes[i].status < 0 && error_class_add(module, i) < 0)
            return -1;
    }
    return 0;
}

static PyObject *error_type(int status)
{
    for (size_t i = 0; i < N_ERROR_CLASSES; i++) {
        if (error_classes[i].status == status && error_classes[i].type)
            return error_classes[i].type;
    }
    return error_base;
}

/* Steals value. */
static int error_put(PyObject *exception, const char *name, PyObject *value)
{
    int r = value ? PyObject_SetAttrString(exception, name, value) : -1;

    Py_XDECREF(value);
    return r;
}

static PyObject *error_text(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *py_error_new(const struct unstick_error *error, const char *long_text)
{
    PyObject *type = error_type(error->status);
    PyObject *line = error_text(*error->text ? error->text : unstick_status_text(error->status));
    PyObject *text = !line || !long_text ? Py_XNewRef(line) : error_text(long_text);
    PyObject *exception = text ? PyObject_CallOneArg(type, text) : NULL;

    if (exception && (error_put(exception, "status", PyLong_FromLong(error->status)) < 0 ||
                      error_put(exception, "status_name", error_text(unstick_status_name(error->status))) < 0 ||
                      error_put(exception, "native", PyLong_FromLong(error->native)) < 0 ||
                      error_put(exception, "required_bytes", PyLong_FromUnsignedLongLong(error->required_bytes)) < 0 ||
                      error_put(exception, "available_bytes",
                                PyLong_FromUnsignedLongLong(error->available_bytes)) < 0 ||
                      error_put(exception, "operation", error_text(error->operation)) < 0 ||
                      error_put(exception, "text", Py_NewRef(line)) < 0))
        Py_CLEAR(exception);
    Py_XDECREF(text);
    Py_XDECREF(line);
    return exception;
}

PyObject *py_error_raise(const struct unstick_error *error)
{
    PyObject *exception = py_error_new(error, NULL);

    if (exception)
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    Py_XDECREF(exception);
    return NULL;
}

PyObject *py_error_raise_status(int status, const char *operation, const char *text)
{
    struct unstick_error error = { .status = status };

    PyOS_snprintf(error.operation, sizeof(error.operation), "%s", operation);
    PyOS_snprintf(error.text, sizeof(error.text), "%s", text);
    return py_error_raise(&error);
}
