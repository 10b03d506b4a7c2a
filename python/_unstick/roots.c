/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The roots: modules, the running frames of all threads (whose variables the collector does not see), what threads
 * keep for themselves, and exceptions being handled. The order is that of preference where two are as close. Frames of
 * this package on top of the caller's stack are the question itself and hold nothing.
 */
#include "heap.h"

#include <string.h>

struct roots_frame {
    struct heap *heap;
    PyObject *code;
    unsigned long thread_id;
    bool is_own;
};

static void roots_meet_variable(void *userdata, PyObject *name, PyObject *value, bool is_in_cell)
{
    struct roots_frame *frame = userdata;
    uint32_t root = HEAP_NONE;

    if (value == frame->heap->ignored)
        return;
    if (!frame->is_own) {
        root = heap_root_add(frame->heap, HEAP_ROOT_LOCAL, frame->code, name, frame->thread_id);
        if (root == HEAP_NONE)
            return;
        frame->heap->roots[root & ~HEAP_IS_ROOT].is_in_cell = is_in_cell;
        heap_meet(frame->heap, root, value);
    } else if (heap_find(frame->heap, value) < frame->heap->n_targets) {
        heap_meet(frame->heap, root, value);
    }
}

static void roots_add_modules(struct heap *heap)
{
    PyObject *modules = PyImport_GetModuleDict(), *name, *module;
    Py_ssize_t at = 0;

    while (PyDict_Next(modules, &at, &name, &module)) {
        uint32_t root = PyUnicode_Check(name) ? heap_root_add(heap, HEAP_ROOT_MODULE, NULL, name, 0) : HEAP_NONE;

        if (root == HEAP_NONE)
            continue;
        if (PyModule_Check(module))
            heap_meet(heap, root, PyModule_GetDict(module));
        heap_meet(heap, root, module);
    }
}

/* Whether a frame belongs to this package. */
static bool frame_is_own(PyFrameObject *frame)
{
    PyObject *globals = PyFrame_GetGlobals(frame);
    PyObject *name = PyDict_Check(globals) ? PyDict_GetItemString(globals, "__name__") : NULL;
    const char *text = name && PyUnicode_Check(name) ? PyUnicode_AsUTF8(name) : NULL;
    bool is_own = text && (!strcmp(text, "unstick") || !strncmp(text, "unstick.", 8));

    Py_DECREF(globals);
    return is_own;
}

static void roots_add_namespace(struct heap *heap, PyFrameObject *frame, PyObject *code, unsigned long thread_id)
{
    PyObject *globals = PyFrame_GetGlobals(frame), *locals = NULL;
    uint32_t root = heap_root_add(heap, HEAP_ROOT_NAMESPACE, code, NULL, thread_id);

    if (!(((PyCodeObject *)code)->co_flags & CO_OPTIMIZED))
        locals = PyFrame_GetLocals(frame);
    if (root != HEAP_NONE) {
        heap_meet(heap, root, globals);
        if (locals)
            heap_meet(heap, root, locals);
    }
    PyErr_Clear();
    Py_XDECREF(locals);
    Py_DECREF(globals);
}

static void roots_add_frames(struct heap *heap, PyThreadState *thread, bool is_caller, bool wants_variables)
{
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    bool is_own = is_caller;

    while (frame) {
        PyObject *code = (PyObject *)PyFrame_GetCode(frame);
        unsigned long thread_id = is_caller ? 0 : thread->thread_id;
        PyFrameObject *back;

        is_own = is_own && frame_is_own(frame);
        if (wants_variables) {
            struct roots_frame state = { heap, code, thread_id, is_own };

            frame_each_variable(frame, roots_meet_variable, &state);
        } else if (!is_own) {
            roots_add_namespace(heap, frame, code, thread_id);
        }
        back = PyFrame_GetBack(frame);
        Py_DECREF(code);
        Py_DECREF(frame);
        frame = back;
    }
}

/*
 * Up to 3.12 a thread's part of a threading.local hangs off the thread's dict through an object that the collector
 * does not see: its first field is the dict with the attributes. What is read is checked to be an object of its size.
 */
static void roots_add_local_dicts(struct heap *heap, PyObject *dict, unsigned long thread_id)
{
#if PY_VERSION_HEX < 0x030d0000
    PyObject *key, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(dict, &at, &key, &value)) {
        PyObject *attributes;
        uint32_t root;

        if (strcmp(Py_TYPE(value)->tp_name, "_thread._localdummy") != 0 ||
            Py_TYPE(value)->tp_basicsize < (Py_ssize_t)(sizeof(PyObject) + sizeof(PyObject *)))
            continue;
        memcpy(&attributes, (const char *)value + sizeof(PyObject), sizeof(attributes));
        root = heap_root_add(heap, HEAP_ROOT_THREAD, NULL, NULL, thread_id);
        if (attributes && root != HEAP_NONE)
            heap_meet(heap, root, attributes);
    }
#else
    (void)heap;
    (void)dict;
    (void)thread_id;
#endif
}

static void roots_add_thread(struct heap *heap, PyThreadState *thread, bool is_caller)
{
    unsigned long thread_id = is_caller ? 0 : thread->thread_id;
    uint32_t root;

    if (thread->dict) {
        roots_add_local_dicts(heap, thread->dict, thread_id);
        root = heap_root_add(heap, HEAP_ROOT_THREAD, NULL, NULL, thread_id);
        if (root != HEAP_NONE)
            heap_meet(heap, root, thread->dict);
    }
    for (const _PyErr_StackItem *item = thread->exc_info; item; item = item->previous_item) {
        if (!item->exc_value || item->exc_value == Py_None)
            continue;
        root = heap_root_add(heap, HEAP_ROOT_EXCEPTION, NULL, NULL, thread_id);
        if (root != HEAP_NONE)
            heap_meet(heap, root, item->exc_value);
    }
    if (thread->context) {
        root = heap_root_add(heap, HEAP_ROOT_CONTEXT, NULL, NULL, thread_id);
        if (root != HEAP_NONE)
            heap_meet(heap, root, thread->context);
    }
}

void heap_add_roots(struct heap *heap)
{
    PyThreadState *caller = PyThreadState_Get();
    PyThreadState *first = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(caller));

    roots_add_modules(heap);
    for (PyThreadState *thread = first; thread; thread = PyThreadState_Next(thread))
        roots_add_frames(heap, thread, thread == caller, true);
    for (PyThreadState *thread = first; thread; thread = PyThreadState_Next(thread))
        roots_add_thread(heap, thread, thread == caller);
    for (PyThreadState *thread = first; thread; thread = PyThreadState_Next(thread))
        roots_add_frames(heap, thread, thread == caller, false);
}
