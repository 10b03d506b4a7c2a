/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readings as dicts: which GPUs there are, who holds what is in use on one, and the machine. Each opens NVML and closes
 * it again: they are for people who look, not for the way of a request, which keeps a monitor of its own.
 */
#include "module.h"

#include <string.h>
#include <unstick/monitor.h>

#define READING_GPUS_MAX 64

PyObject *py_gpus(PyObject *module, PyObject *unused)
{
    struct unstick_gpu gpus[READING_GPUS_MAX] = { { .size = sizeof(gpus[0]) } };
    struct unstick_monitor *monitor = NULL;
    struct unstick_error error = { 0 };
    PyObject *list;
    size_t n = 0;
    int r;

    (void)module;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    if (unstick_monitor_new(&monitor, NULL) < 0)
        monitor = NULL;
    r = unstick_gpus_list(monitor, gpus, READING_GPUS_MAX, &n, &error);
    unstick_monitor_free(monitor);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    list = PyList_New(0);
    for (size_t i = 0; list && i < n && i < READING_GPUS_MAX; i++) {
        PyObject *free_bytes = gpus[i].has_free ? PyLong_FromUnsignedLongLong(gpus[i].free_bytes) : Py_NewRef(Py_None);
        PyObject *gpu = Py_BuildValue("{si ss ss sK sN}", "index", gpus[i].index, "name", gpus[i].name, "uuid",
                                      gpus[i].uuid, "total_bytes", gpus[i].total_bytes, "free_bytes", free_bytes);

        if (!gpu || PyList_Append(list, gpu) < 0)
            Py_CLEAR(list);
        Py_XDECREF(gpu);
    }
    return list;
}

static PyObject *reading_processes(const struct unstick_reading *reading)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < reading->n_processes; i++) {
        const struct unstick_process *one = &reading->processes[i];
        PyObject *item = Py_BuildValue("{si sN sK}", "pid", one->pid, "name",
                                       PyUnicode_DecodeUTF8(one->name, (Py_ssize_t)strlen(one->name), "replace"),
                                       "bytes", one->bytes);

        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

/* device, (allocated, reserved, active, inactive split) as torch says or None */
PyObject *py_reading(PyObject *module, PyObject *args)
{
    struct unstick_attribution attribution = { .size = sizeof(attribution) };
    struct unstick_reading reading = { .size = sizeof(reading) };
    uint64_t allocated, reserved, active, split;
    struct unstick_monitor *monitor = NULL;
    struct unstick_error error = { 0 };
    PyObject *figures = Py_None, *result;
    struct py_device *device;
    int r;

    (void)module;
    if (!PyArg_ParseTuple(args, "O!|O:reading", &py_device_type, &device, &figures))
        return NULL;
    if (figures != Py_None && !PyArg_ParseTuple(figures, "O&O&O&O&", py_parse_bytes, &allocated, py_parse_bytes,
                                                &reserved, py_parse_bytes, &active, py_parse_bytes, &split))
        return NULL;
    py_enter(device->context);
    if (!device->dev)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "reading", "the device is closed");
    Py_BEGIN_ALLOW_THREADS
    if (unstick_monitor_new(&monitor, NULL) < 0)
        monitor = NULL;
    r = unstick_device_reading(device->dev, monitor, 0, &reading, &error);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        unstick_monitor_free(monitor);
        return py_error_raise(&error);
    }
    if (figures != Py_None) {
        reading.sources |= UNSTICK_SOURCE_TORCH;
        reading.torch_allocated_bytes = allocated;
        reading.torch_reserved_bytes = reserved;
        reading.torch_active_bytes = active;
        reading.torch_inactive_split_bytes = split;
    }
    unstick_attribute(&reading, &attribution);
    result = Py_BuildValue(
        "{sK sK sK sK sK sK sK sK sL ss ss sN}", "total_bytes", reading.total_bytes, "free_bytes", reading.free_bytes,
        "ours_bytes", attribution.ours_bytes, "torch_live_bytes", attribution.torch_live_bytes, "torch_cached_bytes",
        attribution.torch_cached_bytes, "torch_pinned_bytes", attribution.torch_pinned_bytes, "others_bytes",
        attribution.others_bytes, "context_bytes", attribution.context_bytes, "unexplained_bytes",
        (long long)attribution.unexplained_bytes, "largest", unstick_holder_name(attribution.largest), "text",
        attribution.text, "processes", reading_processes(&reading));
    unstick_monitor_free(monitor);
    return result;
}

PyObject *py_system(PyObject *module, PyObject *unused)
{
    struct unstick_system_reading reading = { .size = sizeof(reading) };
    struct unstick_error error = { 0 };
    int r;

    (void)module;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_system_read(&reading, &error);
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise(&error);
    return Py_BuildValue("{sK sK sK sK sK}", "total_bytes", reading.total_bytes, "available_bytes",
                         reading.available_bytes, "cgroup_limit_bytes", reading.cgroup_limit_bytes,
                         "cgroup_used_bytes", reading.cgroup_used_bytes, "process_bytes", reading.process_bytes);
}
