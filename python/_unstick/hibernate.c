/* SPDX-License-Identifier: Apache-2.0 */
/* Hibernating other processes. A call takes seconds and calls nobody back, so other threads run meanwhile. */
#include "module.h"

/* An int, or None where nothing is known. */
static PyObject *hibernate_bytes(const struct unstick_hibernation *report, unsigned int source, uint64_t bytes)
{
    if (report->sources & source)
        return PyLong_FromUnsignedLongLong(bytes);
    Py_RETURN_NONE;
}

static PyObject *hibernate_report(const struct unstick_hibernation *report)
{
    return Py_BuildValue(
        "{si ss sN sN sN sN sK sK sK}", "pid", report->pid, "state", unstick_hibernate_state_name(report->state),
        "process_before_bytes", hibernate_bytes(report, UNSTICK_SOURCE_PROCESSES, report->process_before_bytes),
        "process_after_bytes", hibernate_bytes(report, UNSTICK_SOURCE_PROCESSES, report->process_after_bytes),
        "device_before_bytes", hibernate_bytes(report, UNSTICK_SOURCE_DRIVER, report->device_before_bytes),
        "device_after_bytes", hibernate_bytes(report, UNSTICK_SOURCE_DRIVER, report->device_after_bytes), "lock_ns",
        report->lock_ns, "copy_ns", report->copy_ns, "total_ns", report->total_ns);
}

static PyObject *hibernate_call(PyObject *args, int (*call)(int, uint32_t, struct unstick_hibernation *,
                                                            struct unstick_error *))
{
    struct unstick_hibernation report = { .size = sizeof(report) };
    struct unstick_error error = { 0 };
    unsigned int timeout_ms;
    int pid, r;

    if (!PyArg_ParseTuple(args, "iI", &pid, &timeout_ms))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = call(pid, timeout_ms, &report, &error);
    Py_END_ALLOW_THREADS
    return r < 0 ? py_error_raise(&error) : hibernate_report(&report);
}

PyObject *py_hibernate(PyObject *module, PyObject *args)
{
    (void)module;
    return hibernate_call(args, unstick_hibernate);
}

PyObject *py_wake(PyObject *module, PyObject *args)
{
    (void)module;
    return hibernate_call(args, unstick_wake);
}

PyObject *py_hibernate_state(PyObject *module, PyObject *args)
{
    enum unstick_hibernate_state state;
    struct unstick_error error = { 0 };
    int pid, r;

    (void)module;
    if (!PyArg_ParseTuple(args, "i:hibernate_state", &pid))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_hibernate_state(pid, &state, &error);
    Py_END_ALLOW_THREADS
    return r < 0 ? py_error_raise(&error) : PyUnicode_FromString(unstick_hibernate_state_name(state));
}
