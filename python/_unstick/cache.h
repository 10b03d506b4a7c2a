/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UNSTICK_PYTHON_CACHE_H
#define UNSTICK_PYTHON_CACHE_H

#include "module.h"

struct py_cache {
    PyObject_HEAD
    struct py_device *device;
    struct unstick_cache *cache;
};

/* cache.c: the index of a word in a list that ends with NULL, or -1 with an exception. */
int py_cache_word(const char *const *words, const char *word, const char *what);

/* request.c */
PyObject *py_request_start(struct py_cache *cache, PyObject *args, PyObject *kwargs);
PyObject *py_request_evict(struct py_cache *cache, PyObject *key);

#endif
