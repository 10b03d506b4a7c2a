/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a reference is called, in the words of who wrote the program: an attribute, a key, a variable, never the dicts
 * and tuples between. Names come from structure only: no repr(), no property, no other code of the objects is run.
 */
#include "heap.h"

#include <structmember.h>
#include <string.h>

static const char *type_name(const PyObject *object)
{
    const char *name = Py_TYPE(object)->tp_name, *dot = strrchr(name, '.');

    return dot ? dot + 1 : name;
}

static PyObject *label_nothing(void)
{
    return PyUnicode_FromString("");
}

/* --- roots ------------------------------------------------------------------------------------------------------- */

/* The name that threading knows a thread by, else its number. */
static PyObject *label_thread(unsigned long thread_id)
{
    PyObject *threading = PyDict_GetItemString(PyImport_GetModuleDict(), "threading");
    PyObject *active = threading ? PyObject_GetAttrString(threading, "_active") : NULL;
    PyObject *ident = PyLong_FromUnsignedLong(thread_id);
    PyObject *thread = active && ident && PyDict_Check(active) ? PyDict_GetItem(active, ident) : NULL;
    PyObject *name = thread ? PyObject_GetAttrString(thread, "_name") : NULL;
    PyObject *text = name && PyUnicode_Check(name) ? PyUnicode_FromFormat("thread \"%U\"", name)
                                                   : PyUnicode_FromFormat("thread %lu", thread_id);

    PyErr_Clear();
    Py_XDECREF(name);
    Py_XDECREF(ident);
    Py_XDECREF(active);
    return text;
}

static PyObject *label_code(const struct heap_root *root)
{
    PyObject *name = ((PyCodeObject *)root->code)->co_qualname, *thread, *text;

    if (!root->thread_id)
        return PyUnicode_FromFormat("frame %U()", name);
    thread = label_thread(root->thread_id);
    text = thread ? PyUnicode_FromFormat("frame %U() of %U", name, thread) : NULL;
    Py_XDECREF(thread);
    return text;
}

static PyObject *label_of_thread(const char *what, unsigned long thread_id)
{
    PyObject *thread = thread_id ? label_thread(thread_id) : PyUnicode_FromString("this thread");
    PyObject *text = thread ? PyUnicode_FromFormat("%s of %U", what, thread) : NULL;

    Py_XDECREF(thread);
    return text;
}

PyObject *label_root(const struct heap_root *root, PyObject *first)
{
    PyObject *code, *text;

    switch (root->kind) {
    case HEAP_ROOT_MODULE:
        return PyUnicode_FromFormat("module %U", root->name);
    case HEAP_ROOT_LOCAL:
    case HEAP_ROOT_NAMESPACE:
        code = label_code(root);
        if (!code)
            return NULL;
        text = root->name ? PyUnicode_FromFormat("%U local \"%U\"", code, root->name)
                          : PyUnicode_FromFormat("%U namespace", code);
        Py_DECREF(code);
        return text;
    case HEAP_ROOT_THREAD:
        return label_of_thread("threading.local", root->thread_id);
    case HEAP_ROOT_EXCEPTION:
        code = PyUnicode_FromFormat("%s being handled", type_name(first));
        text = code ? label_of_thread(PyUnicode_AsUTF8(code), root->thread_id) : NULL;
        Py_XDECREF(code);
        return text;
    case HEAP_ROOT_CONTEXT:
        return label_of_thread("context variables", root->thread_id);
    case HEAP_ROOT_C:
        return PyUnicode_FromFormat("C reference to %s", type_name(first));
    case HEAP_ROOT_SELF:
        return PyUnicode_FromFormat("cycle through the %s itself", type_name(first));
    case HEAP_ROOT_GARBAGE:
        return PyUnicode_FromString("unreachable cycle");
    }
    return label_nothing();
}

/* --- references -------------------------------------------------------------------------------------------------- */

static PyObject *label_key(PyObject *key, bool is_attribute)
{
    if (PyUnicode_CheckExact(key))
        return PyUnicode_FromFormat(is_attribute ? ".%U" : "[%R]", key);
    if (PyLong_CheckExact(key) || PyBytes_CheckExact(key))
        return PyUnicode_FromFormat("[%R]", key);
    return PyUnicode_FromFormat("[<%s>]", type_name(key));
}

/* The key under which a dict holds child, borrowed; NULL if it does not, or as a key only. */
static PyObject *dict_key_of(PyObject *dict, const PyObject *child)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(dict, &at, &key, &value)) {
        if (value == child)
            return key;
    }
    return NULL;
}

/* An object's own dict, borrowed, or NULL. */
static PyObject *object_dict(PyObject *object)
{
    PyObject *dict = NULL;

    if (PyType_Check(object))
        return ((PyTypeObject *)object)->tp_dict;
    if (PyModule_Check(object))
        return PyModule_GetDict(object);
    if (Py_TYPE(object)->tp_dictoffset)
        dict = PyObject_GenericGetDict(object, NULL);
    if (!dict)
        PyErr_Clear();
    Py_XDECREF(dict);
    return dict;
}

/* What torch's modules keep their children in is written the way it is read: .transformer, not ._modules[...]. */
static bool is_torch_registry(PyObject *key)
{
    return PyUnicode_CheckExact(key) && (PyUnicode_CompareWithASCIIString(key, "_modules") == 0 ||
                                         PyUnicode_CompareWithASCIIString(key, "_parameters") == 0 ||
                                         PyUnicode_CompareWithASCIIString(key, "_buffers") == 0);
}

/* A slot or member of any class in the object's order that holds child. */
static PyObject *label_member(PyObject *object, const PyObject *child)
{
    PyObject *order = Py_TYPE(object)->tp_mro;

    for (Py_ssize_t i = 0; order && i < PyTuple_GET_SIZE(order); i++) {
        PyObject *dict = ((PyTypeObject *)PyTuple_GET_ITEM(order, i))->tp_dict, *key, *value;
        Py_ssize_t at = 0;

        while (dict && PyDict_Next(dict, &at, &key, &value)) {
            const PyMemberDef *member = NULL;
            PyObject *held;

            if (Py_IS_TYPE(value, &PyMemberDescr_Type))
                member = ((PyMemberDescrObject *)value)->d_member;

            if (!member || (member->type != T_OBJECT && member->type != T_OBJECT_EX))
                continue;
            memcpy(&held, (const char *)object + member->offset, sizeof(held));
            if (held == child)
                return PyUnicode_FromFormat(".%s", member->name);
        }
    }
    return NULL;
}

static PyObject *label_sequence(PyObject *sequence, const PyObject *child)
{
    Py_ssize_t n = PyList_Check(sequence) ? PyList_GET_SIZE(sequence) : PyTuple_GET_SIZE(sequence);

    for (Py_ssize_t i = 0; i < n; i++) {
        if ((PyList_Check(sequence) ? PyList_GET_ITEM(sequence, i) : PyTuple_GET_ITEM(sequence, i)) == child)
            return PyUnicode_FromFormat("[%zd]", i);
    }
    return label_nothing();
}

struct variable_search {
    const PyObject *value;
    PyObject *name; /* own */
};

static void variable_match(void *userdata, PyObject *name, PyObject *value, bool is_in_cell)
{
    struct variable_search *search = userdata;

    if (!search->name && (value == search->value || (is_in_cell && PyCell_Check(search->value) &&
                                                     PyCell_GET((PyObject *)search->value) == value)))
        search->name = Py_NewRef(name);
}

static PyObject *label_frame(PyFrameObject *frame, const PyObject *child)
{
    struct variable_search search = { .value = child };
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *text;

    frame_each_variable(frame, variable_match, &search);
    text = search.name ? PyUnicode_FromFormat("frame %U() local \"%U\"", code->co_qualname, search.name)
                       : PyUnicode_FromFormat("frame %U()", code->co_qualname);
    Py_XDECREF(search.name);
    Py_DECREF(code);
    return text;
}

static PyObject *label_generator(PyObject *generator, const PyObject *child)
{
    const char *what = PyCoro_CheckExact(generator) ? "cr_frame" : PyAsyncGen_CheckExact(generator) ? "ag_frame"
                                                                                                    : "gi_frame";
    PyObject *frame = PyObject_GetAttrString(generator, what), *variable = NULL, *text;

    if (frame && PyFrame_Check(frame))
        variable = label_frame((PyFrameObject *)frame, child);
    PyErr_Clear();
    text = variable ? PyUnicode_FromFormat("%s %U", type_name(generator), variable)
                    : PyUnicode_FromString(type_name(generator));
    Py_XDECREF(variable);
    Py_XDECREF(frame);
    return text;
}

/* closure "x": a cell below a function's closure is named by the function's code. */
static PyObject *label_cell(PyObject *const *objects, Py_ssize_t at)
{
    PyObject *names = NULL, *text = NULL;

    if (at >= 2 && PyTuple_Check(objects[at - 1]) && PyFunction_Check(objects[at - 2]))
        names = PyCode_GetFreevars((PyCodeObject *)PyFunction_GET_CODE(objects[at - 2]));
    for (Py_ssize_t i = 0; names && !text && i < PyTuple_GET_SIZE(names); i++) {
        if (i < PyTuple_GET_SIZE(objects[at - 1]) &&
            PyTuple_GET_ITEM(objects[at - 1], i) == objects[at])
            text = PyUnicode_FromFormat("closure \"%U\" of %U()", PyTuple_GET_ITEM(names, i),
                                        ((PyFunctionObject *)objects[at - 2])->func_qualname);
    }
    Py_XDECREF(names);
    return text ? text : PyUnicode_FromString("closure");
}

static PyObject *label_function(PyObject *function, const PyObject *child)
{
    if (child == PyFunction_GET_CLOSURE(function) || child == object_dict(function))
        return label_nothing();
    if (child == PyFunction_GET_DEFAULTS(function) || child == PyFunction_GET_KW_DEFAULTS(function))
        return PyUnicode_FromFormat("default of %U()", ((PyFunctionObject *)function)->func_qualname);
    if (child == PyFunction_GET_GLOBALS(function))
        return PyUnicode_FromFormat("globals of %U()", ((PyFunctionObject *)function)->func_qualname);
    return NULL;
}

static PyObject *label_method(PyObject *method)
{
    PyObject *function = PyMethod_GET_FUNCTION(method);

    if (PyFunction_Check(function))
        return PyUnicode_FromFormat("bound method %U", ((PyFunctionObject *)function)->func_qualname);
    return PyUnicode_FromString("bound method");
}

static PyObject *label_exception(PyObject *exception, PyObject *child)
{
    if (PyTraceBack_Check(child))
        return PyUnicode_FromFormat("exception traceback of %s", type_name(exception));
    if (PyExceptionInstance_Check(child))
        return PyUnicode_FromFormat("context of %s", type_name(exception));
    return NULL;
}

/* A dict's label depends on whose dict it is. */
static PyObject *label_dict(enum heap_root_kind kind, PyObject *const *objects, Py_ssize_t at)
{
    PyObject *dict = objects[at], *key = dict_key_of(dict, objects[at + 1]);
    bool is_namespace = at == 0 && (kind == HEAP_ROOT_MODULE || kind == HEAP_ROOT_NAMESPACE);
    bool is_attribute = at == 0 ? kind == HEAP_ROOT_THREAD : object_dict(objects[at - 1]) == dict;

    if (!key)
        return PyUnicode_FromString("[key]");
    if (at > 0 && PyModule_Check(objects[at - 1]))
        is_namespace = true;
    if (is_namespace && PyUnicode_CheckExact(key))
        return Py_NewRef(key);
    if (is_attribute && is_torch_registry(key))
        return label_nothing();
    if (at > 0 && !is_attribute) {
        /* One step up lies the registry's own name, with its owner or the owner's dict above it. */
        PyObject *above = PyDict_Check(objects[at - 1]) ? objects[at - 1] : object_dict(objects[at - 1]);
        PyObject *name = above ? dict_key_of(above, dict) : NULL;

        is_attribute = name && is_torch_registry(name);
    }
    return label_key(key, is_attribute);
}

static PyObject *label_instance(PyObject *object, PyObject *child)
{
    PyObject *dict = object_dict(object), *key;

    if (dict == child)
        return label_nothing();
    key = dict ? dict_key_of(dict, child) : NULL;
    if (key)
        return is_torch_registry(key) ? label_nothing() : label_key(key, true);
    return NULL;
}

static PyObject *label_reference(enum heap_root_kind kind, PyObject *const *objects, Py_ssize_t at)
{
    PyObject *parent = objects[at], *child = objects[at + 1], *label = NULL;

    if (PyDict_Check(parent))
        return label_dict(kind, objects, at);
    if (PyTuple_Check(parent) && PyCell_Check(child) && at > 0 && PyFunction_Check(objects[at - 1]))
        return label_nothing();
    if (PyCell_Check(parent))
        return label_cell(objects, at);
    if (PyFrame_Check(parent))
        return label_frame((PyFrameObject *)parent, child);
    if (PyGen_Check(parent) || PyCoro_CheckExact(parent) || PyAsyncGen_CheckExact(parent))
        return label_generator(parent, child);
    if (PyTraceBack_Check(parent))
        return label_nothing();
    if (PyMethod_Check(parent))
        return label_method(parent);
    if (PyAnySet_Check(parent))
        return PyUnicode_FromString("{...}");
    if (PyFunction_Check(parent))
        label = label_function(parent, child);
    if (PyExceptionInstance_Check(parent))
        label = label_exception(parent, child);
    if (!label && !PyErr_Occurred())
        label = label_instance(parent, child);
    if (!label && !PyErr_Occurred())
        label = label_member(parent, child);
    if (!label && !PyErr_Occurred() && (PyList_Check(parent) || PyTuple_Check(parent)))
        label = label_sequence(parent, child);
    if (!label && !PyErr_Occurred() && child == (PyObject *)Py_TYPE(parent))
        label = PyUnicode_FromString(".__class__");
    if (!label && !PyErr_Occurred())
        label = PyUnicode_FromFormat("%s", type_name(parent));
    return label;
}

int label_chain(enum heap_root_kind kind, PyObject *const *objects, Py_ssize_t n, PyObject *steps)
{
    for (Py_ssize_t i = 0; i + 1 < n; i++) {
        PyObject *label = label_reference(kind, objects, i), *step = NULL;
        int r = label ? 0 : -1;

        if (label && PyUnicode_GET_LENGTH(label)) {
            step = Py_BuildValue("{sOss}", "label", label, "type", Py_TYPE(objects[i + 1])->tp_name);
            r = step ? PyList_Append(steps, step) : -1;
        }
        Py_XDECREF(step);
        Py_XDECREF(label);
        if (r < 0)
            return -1;
    }
    return 0;
}

PyObject *label_text(PyObject *root, PyObject *steps)
{
    PyObject *parts = PyList_New(0), *arrow = PyUnicode_FromString(" -> "), *text = NULL;
    int r = parts && arrow ? PyList_Append(parts, root) : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(steps); i++)
        r = PyList_Append(parts, PyDict_GetItemString(PyList_GET_ITEM(steps, i), "label"));
    if (r == 0)
        text = PyUnicode_Join(arrow, parts);
    Py_XDECREF(arrow);
    Py_XDECREF(parts);
    return text;
}
