/* SPDX-License-Identifier: Apache-2.0 */
/* The GPUs by their names, for who wants one and has no torch to ask; nothing is opened for it. */
#include "module.h"

static PyObject *gpus_fill(const struct unstick_gpu *gpus, size_t n)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < n; i++)
        list = py_list_add(list, Py_BuildValue("{ss ss ss sK}", "spec", gpus[i].spec, "name", gpus[i].name, "uuid",
                                               gpus[i].uuid, "total_bytes", gpus[i].total_bytes));
    return list;
}

PyObject *py_gpus(PyObject *module, PyObject *unused)
{
    struct unstick_error error = { 0 };
    struct unstick_gpu gpus[64];
    size_t n = 0;
    int r;

    (void)module;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_device_list(gpus, sizeof(gpus) / sizeof(*gpus), &n, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    return gpus_fill(gpus, n < sizeof(gpus) / sizeof(*gpus) ? n : sizeof(gpus) / sizeof(*gpus));
}
