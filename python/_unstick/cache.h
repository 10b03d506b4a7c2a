/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UNSTICK_PYTHON_CACHE_H
#define UNSTICK_PYTHON_CACHE_H

#include "module.h"

struct py_cache {
    PyObject_HEAD
    struct py_device *device;
    struct unstick_cache *cache;
};

/* request.c */
PyObject *py_request_start(struct py_cache *cache, PyObject *args, PyObject *kwargs);
PyObject *py_request_evict(struct py_cache *cache, PyObject *key);

/* cache_lease.c: takes the lease over; on failure it is ended. */
PyObject *py_cache_lease_new(struct py_cache *cache, struct unstick_cache_lease *lease);

#endif
