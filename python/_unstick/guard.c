/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guard: stands before one method of one module, as an attribute of the instance. A pipeline that leaves gets ten
 * thousand of them, and loses them when it comes back: they are put and taken here, and what one does when it is called
 * is said in a class of Python's made from this one.
 */
#include "module.h"

#include <stdbool.h>
#include <stddef.h>
#include <structmember.h>

struct py_guard {
    PyObject_HEAD
    PyObject *component;
    PyObject *module;   /* a weak reference: the module holds its guards */
    PyObject *name;
    PyObject *previous; /* the attribute that was there; NULL: none */
};

static int guard_traverse(PyObject *object, visitproc visit, void *arg)
{
    struct py_guard *self = (struct py_guard *)object;

    Py_VISIT(self->component);
    Py_VISIT(self->previous);
    return 0;
}

static int guard_clear(PyObject *object)
{
    struct py_guard *self = (struct py_guard *)object;

    Py_CLEAR(self->component);
    Py_CLEAR(self->previous);
    return 0;
}

static void guard_dealloc(PyObject *object)
{
    struct py_guard *self = (struct py_guard *)object;

    PyObject_GC_UnTrack(object);
    guard_clear(object);
    Py_CLEAR(self->module);
    Py_CLEAR(self->name);
    Py_TYPE(object)->tp_free(object);
}

static PyMemberDef guard_members[] = {
    { "component", T_OBJECT_EX, offsetof(struct py_guard, component), READONLY, "Who is asked." },
    { "module", T_OBJECT_EX, offsetof(struct py_guard, module), READONLY, "A weak reference." },
    { "name", T_OBJECT_EX, offsetof(struct py_guard, name), READONLY, "The method." },
    { "previous", T_OBJECT_EX, offsetof(struct py_guard, previous), READONLY,
      "The attribute that stood there before; missing if none did." },
    { 0 },
};

PyTypeObject py_guard_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick._unstick.Guard",
    .tp_doc = "Stands before one method of one module; made by guards_put().",
    .tp_basicsize = sizeof(struct py_guard),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = guard_dealloc,
    .tp_traverse = guard_traverse,
    .tp_clear = guard_clear,
    .tp_members = guard_members,
};

static int guard_put(PyTypeObject *type, PyObject *component, PyObject *module, PyObject *dict, PyObject *name)
{
    PyObject *previous = PyDict_GetItemWithError(dict, name);
    struct py_guard *guard;
    int r;

    if (PyErr_Occurred())
        return -1;
    if (previous && PyObject_TypeCheck(previous, &py_guard_type))
        return 0;
    guard = (struct py_guard *)type->tp_alloc(type, 0);
    if (!guard)
        return -1;
    guard->component = Py_NewRef(component);
    guard->name = Py_NewRef(name);
    guard->previous = Py_XNewRef(previous);
    guard->module = PyWeakref_NewRef(module, NULL);
    r = guard->module ? PyDict_SetItem(dict, name, (PyObject *)guard) : -1;
    Py_DECREF(guard);
    return r;
}

/* Takes a guard of this component's away. */
static int guard_take(PyObject *component, PyObject *dict, PyObject *name)
{
    PyObject *object = PyDict_GetItemWithError(dict, name), *previous;
    int r;

    if (!object || !PyObject_TypeCheck(object, &py_guard_type) || ((struct py_guard *)object)->component != component)
        return PyErr_Occurred() ? -1 : 0;
    previous = Py_XNewRef(((struct py_guard *)object)->previous);
    r = previous ? PyDict_SetItem(dict, name, previous) : PyDict_DelItem(dict, name);
    Py_XDECREF(previous);
    return r;
}

/* What has to be done to whose attributes. */
struct guard_work {
    PyObject *component;
    PyTypeObject *type; /* of the guards to put; NULL: they are taken */
    PyObject *names;    /* by the class of a module: the methods */
    PyObject *others;   /* more of them, for a module that has an attribute of its own under that name */
};

static int guards_one(const struct guard_work *work, PyObject *module, PyObject *dict, PyObject *names, bool is_own)
{
    int r = 0;

    for (Py_ssize_t at = 0; r == 0 && at < PyTuple_GET_SIZE(names); at++) {
        PyObject *name = PyTuple_GET_ITEM(names, at);

        if (!work->type)
            r = guard_take(work->component, dict, name);
        else if (!is_own || PyDict_GetItemWithError(dict, name))
            r = guard_put(work->type, work->component, module, dict, name);
        else if (PyErr_Occurred())
            r = -1;
    }
    return r;
}

/* Puts or takes the guards of each module of a list. */
static int guards_each(const struct guard_work *work, PyObject *modules)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(modules); i++) {
        PyObject *module = Py_NewRef(PyList_GET_ITEM(modules, i));
        PyObject *names = PyDict_GetItemWithError(work->names, (PyObject *)Py_TYPE(module));
        PyObject *dict = names ? PyObject_GenericGetDict(module, NULL) : NULL;
        int r = dict || !PyErr_Occurred() ? 0 : -1;

        if (dict && r == 0)
            r = guards_one(work, module, dict, names, false);
        if (dict && r == 0)
            r = guards_one(work, module, dict, work->others, true);
        Py_XDECREF(dict);
        Py_DECREF(module);
        if (r < 0)
            return -1;
    }
    return 0;
}

PyObject *py_guards_put(PyObject *self, PyObject *args)
{
    struct guard_work work;
    PyObject *modules, *type;

    (void)self;
    if (!PyArg_ParseTuple(args, "O!OO!O!O!:guards_put", &PyType_Type, &type, &work.component, &PyList_Type, &modules,
                          &PyDict_Type, &work.names, &PyTuple_Type, &work.others))
        return NULL;
    work.type = (PyTypeObject *)type;
    if (!PyType_IsSubtype(work.type, &py_guard_type)) {
        PyErr_SetString(PyExc_TypeError, "guards_put() takes a class made from Guard");
        return NULL;
    }
    if (guards_each(&work, modules) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *py_guards_take(PyObject *self, PyObject *args)
{
    struct guard_work work = { .type = NULL };
    PyObject *modules;

    (void)self;
    if (!PyArg_ParseTuple(args, "OO!O!O!:guards_take", &work.component, &PyList_Type, &modules, &PyDict_Type,
                          &work.names, &PyTuple_Type, &work.others) ||
        guards_each(&work, modules) < 0)
        return NULL;
    Py_RETURN_NONE;
}
