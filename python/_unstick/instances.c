/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances: every object of a type that the collector knows of, whoever holds it. A type is compared by its own
 * inheritance and never asked: isinstance() runs code of proxies, which import and warn. The collector must not run
 * meanwhile; it does not, as nothing here makes an object that it tracks but the list.
 */
#include "module.h"

static int instances_add(PyObject *list, PyTypeObject *type, PyObject *object)
{
    return PyType_IsSubtype(Py_TYPE(object), type) ? PyList_Append(list, object) : 0;
}

#if PY_VERSION_HEX >= 0x030c0000

struct instances_visit {
    PyObject *list;
    PyTypeObject *type;
    int r;
};

static int instances_visit(PyObject *object, void *userdata)
{
    struct instances_visit *visit = userdata;

    if (object != visit->list)
        visit->r = instances_add(visit->list, visit->type, object);
    return visit->r == 0;
}

static int instances_collect(PyObject *list, PyTypeObject *type)
{
    struct instances_visit visit = { .list = list, .type = type };

    PyUnstable_GC_VisitObjects(instances_visit, &visit);
    return visit.r;
}

#else

static int instances_collect(PyObject *list, PyTypeObject *type)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *all = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;
    int r = all ? 0 : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(all); i++)
        r = instances_add(list, type, PyList_GET_ITEM(all, i));
    Py_XDECREF(all);
    Py_XDECREF(gc);
    return r;
}

#endif

PyObject *py_instances(PyObject *module, PyObject *type)
{
    PyObject *list;

    (void)module;
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "instances() takes a type");
        return NULL;
    }
    list = PyList_New(0);
    if (list && instances_collect(list, (PyTypeObject *)type) < 0)
        Py_CLEAR(list);
    return list;
}
