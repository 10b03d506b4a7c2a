/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys, estimates and learned peaks: what is known of a model before it is loaded. The peaks are kept in the command's
 * own file, by its own code, so that what a program learned the command knows, and the other way round.
 */
#include "module.h"

#include "state.h" /* the command's */

static PyObject *estimate_figure(const struct unstick_figure *figure)
{
    return Py_BuildValue("{sK sK sK sK ss}", "bytes", figure->bytes, "low_bytes", figure->low_bytes, "high_bytes",
                         figure->high_bytes, "region_bytes", figure->region_bytes, "basis",
                         unstick_basis_name(figure->basis));
}

static PyObject *estimate_figures(const struct unstick_figure *figures)
{
    PyObject *dict = PyDict_New();

    for (int i = 0; dict && i < UNSTICK_QUANTIZATIONS; i++) {
        PyObject *figure = estimate_figure(&figures[i]);

        if (!figure || PyDict_SetItemString(dict, unstick_quantization_name((enum unstick_quantization)i), figure) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(figure);
    }
    return dict;
}

static PyObject *estimate_components(const struct unstick_estimate *estimate)
{
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict && i < estimate->n_components; i++) {
        PyObject *figures = estimate_figures(estimate->components[i].figures);

        if (!figures || PyDict_SetItemString(dict, estimate->components[i].name, figures) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(figures);
    }
    return dict;
}

PyObject *py_estimate(PyObject *module, PyObject *args)
{
    struct unstick_estimate_options options = { .size = sizeof(options) };
    struct unstick_estimate *estimate = NULL;
    struct unstick_error error = { 0 };
    const char *path;
    PyObject *dict;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "s:estimate", &path))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_estimate_new(path, &options, &estimate, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    dict = Py_BuildValue("{sN sN sK sK}", "total", estimate_figures(estimate->total), "components",
                         estimate_components(estimate), "n_params", estimate->n_params, "working_bytes",
                         estimate->working.bytes);
    unstick_estimate_free(estimate);
    return dict;
}

PyObject *py_key(PyObject *module, PyObject *args)
{
    enum unstick_quantization quantization;
    struct unstick_error error = { 0 };
    const char *model_id, *text;
    PyObject *result = NULL;
    size_t size;
    char *key;

    (void)module;
    if (!PyArg_ParseTuple(args, "ss:key", &model_id, &text))
        return NULL;
    if (unstick_quantization_parse(text, &quantization, &error) < 0)
        return py_error_raise(&error);
    size = strlen(model_id) + 64;
    key = PyMem_Malloc(size);
    if (!key)
        return PyErr_NoMemory();
    if (unstick_key_build(model_id, quantization, key, size, &error) < 0)
        py_error_raise(&error);
    else
        result = Py_BuildValue("ss", key, unstick_quantization_name(quantization));
    PyMem_Free(key);
    return result;
}

PyObject *py_fingerprint(PyObject *module, PyObject *settings)
{
    PyObject *sequence = PySequence_Fast(settings, "settings are a list of strings"), *result = NULL;
    char fingerprint[UNSTICK_FINGERPRINT_MAX];
    struct unstick_error error = { 0 };
    const char **texts;
    Py_ssize_t n;

    (void)module;
    if (!sequence)
        return NULL;
    n = PySequence_Fast_GET_SIZE(sequence);
    texts = PyMem_Calloc((size_t)n + 1, sizeof(*texts));
    if (!texts)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; texts && i < n; i++) {
        texts[i] = PyUnicode_AsUTF8(PySequence_Fast_GET_ITEM(sequence, i));
        if (!texts[i])
            goto out;
    }
    if (texts && unstick_key_fingerprint(texts, (size_t)n, fingerprint, &error) < 0)
        py_error_raise(&error);
    else if (texts)
        result = PyUnicode_FromString(fingerprint);
out:
    PyMem_Free(texts);
    Py_DECREF(sequence);
    return result;
}

/* The highest figure that was measured, or None. */
PyObject *py_peak(PyObject *module, PyObject *args)
{
    struct unstick_peaks *peaks = NULL;
    struct unstick_error error = { 0 };
    struct unstick_peak peak;
    const char *key, *fingerprint;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "sz:peak", &key, &fingerprint))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = cli_state_read_peaks(&peaks, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    r = unstick_peaks_find(peaks, key, fingerprint, &peak);
    unstick_peaks_free(peaks);
    if (r < 0)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(peak.bytes);
}

PyObject *py_peak_add(PyObject *module, PyObject *args)
{
    struct unstick_error error = { 0 };
    const char *key, *fingerprint;
    uint64_t bytes;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "szO&:peak_add", &key, &fingerprint, py_parse_bytes, &bytes))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = cli_state_add_peak(key, fingerprint, bytes, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}
