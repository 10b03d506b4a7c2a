/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The settings of torch's allocator, as allocconf.h reads, writes and judges them. Nothing is decided here, and the
 * environment is not touched: what is set, and when, is Python's part, which knows whether torch has started.
 */
#include "module.h"

static unsigned int allocconf_torch(const char *version)
{
    struct unstick_error error = { 0 };
    unsigned int torch = 0;

    if (unstick_allocconf_torch(version, &torch, &error) < 0) {
        py_error_raise(&error);
        return 0;
    }
    return torch;
}

static PyObject *allocconf_notes(const struct unstick_allocconf_note *notes, size_t n)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < n && i < UNSTICK_ALLOCCONF_NOTES_MAX; i++) {
        PyObject *text = PyUnicode_FromString(notes[i].text);

        if (!text || PyList_Append(list, text) < 0)
            Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

static PyObject *allocconf_entries(const struct unstick_allocconf *conf)
{
    PyObject *dict = PyDict_New();

    for (size_t i = 0; dict && i < conf->n_entries; i++) {
        PyObject *value;

        if (conf->entries[i].is_overridden)
            continue;
        value = PyUnicode_FromString(conf->entries[i].value);
        if (!value || PyDict_SetItemString(dict, conf->entries[i].key->name, value) < 0)
            Py_CLEAR(dict);
        Py_XDECREF(value);
    }
    return dict;
}

PyObject *py_allocconf_parse(PyObject *module, PyObject *args)
{
    struct unstick_allocconf_input input = { .size = sizeof(input) };
    struct unstick_allocconf conf = { .size = sizeof(conf) };
    char text[UNSTICK_ALLOCCONF_TEXT_MAX] = "";
    const char *version;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "ssp:allocconf_parse", &input.text, &version, &input.is_caching_disabled))
        return NULL;
    input.torch = allocconf_torch(version);
    if (!input.torch)
        return NULL;
    r = unstick_allocconf_parse(&input, &conf);
    if (r < 0 && r != UNSTICK_BAD_FORMAT)
        return py_error_raise_status(r, "unstick_allocconf_parse", "the settings cannot be read");
    if (r == UNSTICK_OK && unstick_allocconf_emit(&conf, text, sizeof(text), NULL) < 0)
        text[0] = '\0';
    return Py_BuildValue("{ss sN sN sN}", "text", text, "settings", allocconf_entries(&conf), "errors",
                         allocconf_notes(conf.errors, conf.n_errors), "warnings",
                         allocconf_notes(conf.warnings, conf.n_warnings));
}

PyObject *py_allocconf_choose(PyObject *module, PyObject *args)
{
    struct unstick_allocconf_choice choice = { .size = sizeof(choice) };
    const char *version;
    uint64_t bytes;
    unsigned int torch;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "O&s:allocconf_choose", py_parse_bytes, &bytes, &version))
        return NULL;
    torch = allocconf_torch(version);
    if (!torch)
        return NULL;
    r = unstick_allocconf_choose(bytes, torch, &choice);
    if (r < 0)
        return py_error_raise_status(r, "unstick_allocconf_choose", "no settings can be chosen");
    return Py_BuildValue("{ss ss ss}", "profile", choice.profile->name, "text", choice.text, "reason", choice.reason);
}

PyObject *py_allocconf_compare(PyObject *module, PyObject *args)
{
    static const char *const outcomes[] = { "in force", "not read", "different", "inert" };
    struct unstick_allocconf_readback readback = { .size = sizeof(readback) };
    struct unstick_allocconf_verdict verdict = { .size = sizeof(verdict) };
    const char *wanted, *version;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "szspi:allocconf_compare", &wanted, &readback.text, &version,
                          &readback.is_caching_disabled, &readback.expandable_segments))
        return NULL;
    readback.torch = allocconf_torch(version);
    if (!readback.torch)
        return NULL;
    r = unstick_allocconf_compare(wanted, &readback, &verdict);
    if (r < 0)
        return py_error_raise_status(r, "unstick_allocconf_compare", "torch would refuse these settings");
    return Py_BuildValue("ss", outcomes[verdict.outcome], verdict.text);
}

PyObject *py_allocconf_profiles(PyObject *module, PyObject *unused)
{
    const struct unstick_allocconf_profile *profile;
    PyObject *dict = PyDict_New();

    (void)module;
    (void)unused;
    for (size_t i = 0; dict && (profile = unstick_allocconf_profile_at(i)); i++) {
        PyObject *text = PyUnicode_FromString(profile->text);

        if (!text || PyDict_SetItemString(dict, profile->name, text) < 0 ||
            (profile->alias && PyDict_SetItemString(dict, profile->alias, text) < 0))
            Py_CLEAR(dict);
        Py_XDECREF(text);
    }
    return dict;
}

/* (the names to set, the name that counts now or None, its value or None) */
PyObject *py_allocconf_variables(PyObject *module, PyObject *args)
{
    struct unstick_allocconf_environment environment = { .size = sizeof(environment) };
    const char *version, *name, *found, *value = NULL;
    unsigned int torch;
    PyObject *names;

    (void)module;
    if (!PyArg_ParseTuple(args, "szzz:allocconf_variables", &version, &environment.cuda, &environment.hip,
                          &environment.generic))
        return NULL;
    torch = allocconf_torch(version);
    names = torch ? PyList_New(0) : NULL;
    for (size_t i = 0; names && (name = unstick_allocconf_variable_at(torch, i)); i++) {
        PyObject *text = PyUnicode_FromString(name);

        if (!text || PyList_Append(names, text) < 0)
            Py_CLEAR(names);
        Py_XDECREF(text);
    }
    if (!names)
        return NULL;
    found = unstick_allocconf_variable_found(torch, &environment, &value);
    return Py_BuildValue("Nzz", names, found, found ? value : NULL);
}
