/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The variables of a frame, without changing how long anything lives. From 3.12 on they can be asked for one by one.
 * 3.11 only gives them as a dict that the frame then keeps, with a reference to every value: such a dict is emptied
 * again, unless somebody else holds it, who had called locals() before.
 */
#include "heap.h"

static bool names_have(PyObject *names, PyObject *name)
{
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        if (PyUnicode_Compare(PyTuple_GET_ITEM(names, i), name) == 0)
            return true;
    }
    return false;
}

#if PY_VERSION_HEX >= 0x030c0000
static void frame_each_of(PyFrameObject *frame, PyObject *names, PyObject *but, bool is_in_cell,
                          frame_variable_fn function, void *userdata)
{
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i), *value;

        if (but && names_have(but, name))
            continue;
        value = PyFrame_GetVar(frame, name);
        if (value) {
            /* The frame holds it. */
            Py_DECREF(value);
            function(userdata, name, value, is_in_cell);
        } else {
            PyErr_Clear();
        }
    }
}

static void frame_each_fast(PyFrameObject *frame, PyCodeObject *code, PyObject *cells, PyObject *frees,
                            frame_variable_fn function, void *userdata)
{
    PyObject *names = PyCode_GetVarnames(code);

    frame_each_of(frame, names, cells, false, function, userdata);
    frame_each_of(frame, cells, NULL, true, function, userdata);
    frame_each_of(frame, frees, NULL, true, function, userdata);
    Py_XDECREF(names);
}
#else
static void frame_each_fast(PyFrameObject *frame, PyCodeObject *code, PyObject *cells, PyObject *frees,
                            frame_variable_fn function, void *userdata)
{
    PyObject *locals = PyFrame_GetLocals(frame), *name, *value;
    Py_ssize_t at = 0;

    (void)code;
    if (!locals || !PyDict_Check(locals)) {
        PyErr_Clear();
        Py_XDECREF(locals);
        return;
    }
    while (PyDict_Next(locals, &at, &name, &value))
        function(userdata, name, value, names_have(cells, name) || names_have(frees, name));
    if (Py_REFCNT(locals) == 2)
        PyDict_Clear(locals);
    Py_DECREF(locals);
}
#endif

void frame_each_variable(PyFrameObject *frame, frame_variable_fn function, void *userdata)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *cells = PyCode_GetCellvars(code), *frees = PyCode_GetFreevars(code);

    if (code->co_flags & CO_OPTIMIZED)
        frame_each_fast(frame, code, cells, frees, function, userdata);
    Py_XDECREF(frees);
    Py_XDECREF(cells);
    Py_DECREF(code);
}
