/* SPDX-License-Identifier: Apache-2.0 */
/* Lists that are filled item by item: `list = py_list_add(list, item)` until it is NULL. */
#include "module.h"

PyObject *py_list_add(PyObject *list, PyObject *item)
{
    if (list && (!item || PyList_Append(list, item) < 0))
        Py_CLEAR(list);
    Py_XDECREF(item);
    return list;
}
