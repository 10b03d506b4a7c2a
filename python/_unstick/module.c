/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module. At the interpreter's end nothing native is freed any more: other threads may still compute on memory of
 * a region, and tensors may outlive every object here; the operating system takes it all. Only what still moves is
 * stopped, by a function registered with atexit. A daemon thread that waits for such a task meanwhile never comes back:
 * it would raise, and print, for a program that is over.
 */
#include "heap.h"

#include <stdatomic.h>
#include <unistd.h>

static atomic_bool is_exiting;
static unsigned long exiting_thread;

bool py_is_exiting(void)
{
    return atomic_load(&is_exiting);
}

void py_stop_if_left_behind(void)
{
    while (py_is_exiting() && PyThread_get_thread_ident() != exiting_thread)
        pause();
}

int py_parse_bytes(PyObject *object, void *ret_bytes)
{
    unsigned long long bytes = PyLong_AsUnsignedLongLong(object);

    if (bytes == (unsigned long long)-1 && PyErr_Occurred())
        return 0;
    *(uint64_t *)ret_bytes = bytes;
    return 1;
}

void py_enter(struct py_context *context)
{
    py_log_drain(context->log);
    py_memory_sweep();
}

static PyObject *module_at_exit(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    exiting_thread = PyThread_get_thread_ident();
    atomic_store(&is_exiting, true);
    Py_BEGIN_ALLOW_THREADS
    py_task_end_all();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static int module_register_exit(PyObject *module)
{
    PyObject *atexit = PyImport_ImportModule("atexit");
    PyObject *function = atexit ? PyObject_GetAttrString(module, "_at_exit") : NULL;
    PyObject *done = function ? PyObject_CallMethod(atexit, "register", "O", function) : NULL;

    Py_XDECREF(done);
    Py_XDECREF(function);
    Py_XDECREF(atexit);
    return done ? 0 : -1;
}

static PyMethodDef module_methods[] = {
    { "holders", py_holders, METH_VARARGS,
      "holders(targets, limit): who holds the objects of the list targets, as a list of dicts." },
    { "cycles", py_cycles, METH_VARARGS,
      "cycles(type): unreachable islands with an instance of type, as a list of dicts." },
    { "_at_exit", module_at_exit, METH_NOARGS, "Called once, by atexit." },
    { "instances", py_instances, METH_VARARGS,
      "(type...): for each a list of the objects of it, or of one made from it, that the collector knows." },
    { "survey", py_survey, METH_VARARGS,
      "(module, classify, unwrap, slots, bookkeeping, found): what lies under it, and the modules with their names." },
    { "modules", py_modules, METH_O, "A module and all below it, each once." },
    { "guards_put", py_guards_put, METH_VARARGS,
      "(class, component, modules, {type: names}, names): a guard before each of these methods that has none; before "
      "the last ones where the module itself has such an attribute." },
    { "guards_take", py_guards_take, METH_VARARGS,
      "(component, modules, {type: names}, names): takes its guards away." },
    { "hibernate", py_hibernate, METH_VARARGS, "(pid, milliseconds): a dict." },
    { "wake", py_wake, METH_VARARGS, "(pid, milliseconds): a dict." },
    { "hibernate_state", py_hibernate_state, METH_VARARGS, "(pid): which state the driver says it is in." },
    { "allocconf_parse", py_allocconf_parse, METH_VARARGS, "(text, torch's version, is caching disabled): a dict." },
    { "allocconf_choose", py_allocconf_choose, METH_VARARGS, "(bytes of the card, torch's version): a dict." },
    { "allocconf_compare", py_allocconf_compare, METH_VARARGS,
      "(wanted, what torch says or None, torch's version, is caching disabled, expandable): outcome and text." },
    { "allocconf_profiles", py_allocconf_profiles, METH_NOARGS, "The ready-made strings by name." },
    { "allocconf_variables", py_allocconf_variables, METH_VARARGS,
      "(torch's version, CUDA's, HIP's, the generic variable): names to set, the name that counts, its value." },
    { "gpus", py_gpus, METH_NOARGS, "The GPUs of this process, none of them opened, as a list of dicts." },
    { "reading", py_reading, METH_VARARGS, "(device, torch's figures or None): who holds what is in use, as a dict." },
    { "system", py_system, METH_NOARGS, "The machine's memory, as a dict." },
    { "estimate", py_estimate, METH_VARARGS, "What a model takes, from its files." },
    { "key", py_key, METH_VARARGS, "(model_id, quantization): the key, and the quantization's own name." },
    { "fingerprint", py_fingerprint, METH_O, "Of settings, a list of \"key=value\"." },
    { "peak", py_peak, METH_VARARGS, "(key, fingerprint): the highest figure measured so far, or None." },
    { "peak_add", py_peak_add, METH_VARARGS, "(key, fingerprint, bytes): records one." },
    { 0 },
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "unstick._unstick",
    .m_doc = "The C core of unstick.",
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit__unstick(void);

PyMODINIT_FUNC PyInit__unstick(void)
{
    PyTypeObject *types[] = { &py_context_type, &py_device_type, &py_region_type,
                              &py_lease_type,   &py_task_type,    &py_memory_type,
                              &py_cache_type,   &py_request_type, &py_cache_lease_type,
                              &py_fault_device_type, &py_guard_type };
    PyObject *module = PyModule_Create(&module_def), *gc;

    if (!module)
        return NULL;
    gc = PyImport_ImportModule("gc");
    Py_XDECREF(gc);
    if (!gc)
        goto fail;
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); i++) {
        if (PyModule_AddType(module, types[i]) < 0)
            goto fail;
    }
    if (py_error_init(module) < 0 || PyModule_AddStringConstant(module, "version", unstick_version()) < 0 ||
        module_register_exit(module) < 0)
        goto fail;
    return module;

fail:
    Py_DECREF(module);
    return NULL;
}
