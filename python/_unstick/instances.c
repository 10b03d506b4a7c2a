/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances: every object of some types that the collector knows of, whoever holds it, in one pass. A type is compared
 * by its own inheritance and never asked: isinstance() runs code of proxies, which import and warn. The collector must
 * not run meanwhile; it does not, as nothing here makes an object that it tracks but the lists.
 *
 * Most of a heap are tuples, dicts and functions: what a type has to do with those asked for is looked up once for
 * each of its objects that come in a row, or nearly so.
 */
#include "module.h"

#define INSTANCES_MOST_TYPES 8
#define INSTANCES_KNOWN 256 /* a power of two */

struct instances {
    PyObject *types, *lists; /* tuples of the same length */
    struct {
        const PyTypeObject *type;
        unsigned char is_of; /* a bit for each of types */
    } known[INSTANCES_KNOWN];
    int r;
};

static unsigned char instances_type(struct instances *all, PyTypeObject *type)
{
    size_t at = ((uintptr_t)type >> 4) & (INSTANCES_KNOWN - 1);

    if (all->known[at].type != type) {
        all->known[at].type = type;
        all->known[at].is_of = 0;
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(all->types); i++) {
            if (PyType_IsSubtype(type, (PyTypeObject *)PyTuple_GET_ITEM(all->types, i)))
                all->known[at].is_of |= (unsigned char)(1u << i);
        }
    }
    return all->known[at].is_of;
}

static int instances_visit(PyObject *object, void *userdata)
{
    struct instances *all = userdata;
    unsigned char is_of = instances_type(all, Py_TYPE(object));

    for (Py_ssize_t i = 0; is_of && all->r == 0; i++, is_of >>= 1) {
        if (is_of & 1)
            all->r = PyList_Append(PyTuple_GET_ITEM(all->lists, i), object);
    }
    return all->r == 0;
}

#if PY_VERSION_HEX >= 0x030c0000

static void instances_collect(struct instances *all)
{
    PyUnstable_GC_VisitObjects(instances_visit, all);
}

#else

static void instances_collect(struct instances *all)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *objects = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;

    all->r = objects ? 0 : -1;
    for (Py_ssize_t i = 0; all->r == 0 && i < PyList_GET_SIZE(objects); i++)
        instances_visit(PyList_GET_ITEM(objects, i), all);
    Py_XDECREF(objects);
    Py_XDECREF(gc);
}

#endif

PyObject *py_instances(PyObject *module, PyObject *types)
{
    struct instances all = { .types = types };
    Py_ssize_t n_types = PyTuple_GET_SIZE(types);

    (void)module;
    for (Py_ssize_t i = 0; i < n_types; i++) {
        if (!PyType_Check(PyTuple_GET_ITEM(types, i)) || n_types > INSTANCES_MOST_TYPES) {
            PyErr_Format(PyExc_TypeError, "instances() takes types, at most %d", INSTANCES_MOST_TYPES);
            return NULL;
        }
    }
    all.lists = PyTuple_New(n_types);
    for (Py_ssize_t i = 0; all.lists && i < n_types; i++) {
        PyObject *list = PyList_New(0);

        if (!list) {
            Py_CLEAR(all.lists);
            break;
        }
        PyObject_GC_UnTrack(list); /* not to be found itself */
        PyTuple_SET_ITEM(all.lists, i, list);
    }
    if (!all.lists)
        return NULL;
    instances_collect(&all);
    for (Py_ssize_t i = 0; i < n_types; i++)
        PyObject_GC_Track(PyTuple_GET_ITEM(all.lists, i));
    if (all.r < 0)
        Py_CLEAR(all.lists);
    return all.lists;
}
