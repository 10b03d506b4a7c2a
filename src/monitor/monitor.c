/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readings of a device. NVML is opened once and kept: opening it takes longer than all readings of a request together.
 *
 * Its list of processes counts only where it can be trusted: this process has a context on the device and so must be
 * listed itself. If it is not, the list is in the numbers of another PID namespace (a container), this process would be
 * taken for a stranger, and the list is as good as missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/monitor.h>

#include "base/clock.h"
#include "base/error.h"
#include "monitor/monitor.h"
#include "region/context.h"
#include "region/device.h"

struct unstick_monitor {
    struct usk_nvml *nvml; /* NULL: there is none */
    struct unstick_process processes[USK_HOLDERS_MAX];
};

int usk_monitor_new(const char *nvml, struct unstick_monitor **ret_monitor, struct unstick_error *error)
{
    struct unstick_monitor *monitor = calloc(1, sizeof(*monitor));

    if (!monitor)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a monitor");
    /* Its absence is no failure, and shows in every reading. */
    if (usk_nvml_open(nvml, &monitor->nvml, NULL) < 0)
        monitor->nvml = NULL;
    *ret_monitor = monitor;
    return UNSTICK_OK;
}

int unstick_monitor_new(struct unstick_monitor **ret_monitor, struct unstick_error *error)
{
    return usk_monitor_new(NULL, ret_monitor, error);
}

struct unstick_monitor *unstick_monitor_free(struct unstick_monitor *monitor)
{
    if (monitor) {
        usk_nvml_close(monitor->nvml);
        free(monitor);
    }
    return NULL;
}

bool usk_monitor_used_bytes(struct unstick_monitor *monitor, const char *uuid, uint64_t *ret_bytes)
{
    return monitor && monitor->nvml && usk_nvml_used(monitor->nvml, uuid, ret_bytes, NULL) == UNSTICK_OK;
}

void usk_monitor_processes(struct unstick_monitor *monitor, const char *uuid, struct unstick_reading *reading)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    uint64_t own_bytes;
    size_t n;

    if (!monitor->nvml || usk_nvml_processes(monitor->nvml, uuid, holders, &n, &own_bytes, NULL) < 0 || !own_bytes)
        return;
    for (size_t i = 0; i < n; i++) {
        monitor->processes[i] = (struct unstick_process) { .pid = holders[i].pid, .bytes = holders[i].bytes };
        memcpy(monitor->processes[i].name, holders[i].name, sizeof(holders[i].name));
    }
    reading->sources |= UNSTICK_SOURCE_PROCESSES;
    reading->own_process_bytes = own_bytes == UINT64_MAX ? 0 : own_bytes;
    reading->processes = monitor->processes;
    reading->n_processes = n;
}

int unstick_device_reading(struct unstick_device *dev, struct unstick_monitor *monitor, uint64_t now_ns,
                           struct unstick_reading *reading, struct unstick_error *error)
{
    struct unstick_device_info info = { .size = sizeof(info) };
    struct unstick_reading filled = { .size = sizeof(filled) };
    int r;

    if (!dev || !reading || reading->size < sizeof(*reading))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_reading",
                             "no device, or reading->size is not set");
    r = unstick_device_info(dev, &info, error);
    if (r < 0 && r != UNSTICK_DEVICE_LOST)
        return r;

    filled.size = reading->size;
    filled.taken_ns = now_ns ? now_ns : usk_clock_now_ns();
    filled.sources = UNSTICK_SOURCE_ACCOUNTS;
    filled.total_bytes = info.total_bytes;
    filled.limit_bytes = info.limit_bytes < info.total_bytes ? info.limit_bytes : 0;
    filled.resident_bytes = info.resident_bytes;
    filled.sentinel_bytes = info.sentinel_bytes;
    filled.spare_bytes = info.spare_bytes;
    filled.poisoned_bytes = info.poisoned_bytes;
    if (r == UNSTICK_OK) {
        filled.sources |= UNSTICK_SOURCE_DRIVER;
        filled.free_bytes = info.total_bytes > info.used_bytes ? info.total_bytes - info.used_bytes : 0;
        /* A host device is memory of this process alone, and there is no context on it. */
        if (!strcmp(info.kind, "host"))
            filled.sources |= UNSTICK_SOURCE_PROCESSES | UNSTICK_SOURCE_CONTEXT;
        else if (monitor)
            usk_monitor_processes(monitor, info.uuid, &filled);
    }
    *reading = filled;
    return r;
}
