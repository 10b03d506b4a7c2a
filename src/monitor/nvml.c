/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who else holds memory of a GPU, asked of NVML: the driver's management library, which needs no CUDA
 * context. It comes with the driver and may be absent (containers, WSL), so it is looked up at run time and
 * its few declarations are written here. A process of another PID namespace is listed with a number that
 * means nothing to us and without a name; where the driver does not say how much a process holds (WSL, MIG
 * for others), the amount is unknown, not 0.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/os.h"
#include "monitor/monitor.h"

#define NVML_SUCCESS 0
#define NVML_NOT_AVAILABLE (~0ULL)
#define NVML_MAX_PROCESSES 256

/* nvmlProcessInfo_t of the functions that end in _v2 and _v3, which are the same since driver 470. */
struct nvml_process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance;
    unsigned int compute_instance;
};

/* nvmlMemory_t; what the driver keeps for itself counts as used. */
struct nvml_memory {
    unsigned long long total_bytes;
    unsigned long long free_bytes;
    unsigned long long used_bytes;
};

typedef int (*nvml_processes_fn)(void *device, unsigned int *n, struct nvml_process *processes);

struct usk_nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*error_text)(int status);
    int (*driver_version)(char *text, unsigned int size);
    int (*device_by_uuid)(const char *uuid, void **ret_device);
    nvml_processes_fn compute_processes;
    nvml_processes_fn graphics_processes; /* may be missing */
    int (*virtualization_mode)(void *device, int *ret_mode); /* may be missing */
    int (*device_count)(unsigned int *ret_n);                         /* these three, too */
    int (*device_by_index)(unsigned int index, void **ret_device);
    int (*memory_info)(void *device, struct nvml_memory *ret_memory);
};

static int nvml_fail(const struct usk_nvml *nvml, struct unstick_error *error, int status,
                     const char *operation)
{
    return usk_error_set(error, UNSTICK_DRIVER, status, operation, "NVML: %s failed: %s (%d)", operation,
                         nvml->error_text(status), status);
}

/* The newest of two names. */
static void *nvml_symbol(const struct usk_nvml *nvml, const char *name, const char *older)
{
    void *symbol = dlsym(nvml->library, name);

    return symbol || !older ? symbol : dlsym(nvml->library, older);
}

static bool nvml_load(struct usk_nvml *nvml)
{
    /* POSIX lets dlsym's result be used as a function, C wants it said by a detour. */
#define NVML_LOAD(_member, _name, _older) (*(void **)&nvml->_member = nvml_symbol(nvml, _name, _older))
    NVML_LOAD(init, "nvmlInit_v2", NULL);
    NVML_LOAD(shutdown, "nvmlShutdown", NULL);
    NVML_LOAD(error_text, "nvmlErrorString", NULL);
    NVML_LOAD(driver_version, "nvmlSystemGetDriverVersion", NULL);
    NVML_LOAD(device_by_uuid, "nvmlDeviceGetHandleByUUID", NULL);
    NVML_LOAD(compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3",
              "nvmlDeviceGetComputeRunningProcesses_v2");
    NVML_LOAD(graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v3",
              "nvmlDeviceGetGraphicsRunningProcesses_v2");
    NVML_LOAD(virtualization_mode, "nvmlDeviceGetVirtualizationMode", NULL);
    NVML_LOAD(device_count, "nvmlDeviceGetCount_v2", NULL);
    NVML_LOAD(device_by_index, "nvmlDeviceGetHandleByIndex_v2", NULL);
    NVML_LOAD(memory_info, "nvmlDeviceGetMemoryInfo", NULL);
#undef NVML_LOAD
    return nvml->init && nvml->shutdown && nvml->error_text && nvml->driver_version && nvml->device_by_uuid &&
           nvml->compute_processes;
}

int usk_nvml_open(const char *library, struct usk_nvml **ret_nvml, struct unstick_error *error)
{
    const char *name = library ? library : "libnvidia-ml.so.1";
    struct usk_nvml *nvml = calloc(1, sizeof(*nvml));
    int r, status;

    if (!nvml)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "out of host memory to open %s",
                             name);
    nvml->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!nvml->library) {
        r = usk_error_set(error, UNSTICK_NOT_FOUND, 0, "dlopen", "NVML (%s) is not there", name);
        goto fail_nvml;
    }
    if (!nvml_load(nvml)) {
        r = usk_error_set(error, UNSTICK_DRIVER_TOO_OLD, 0, "dlsym",
                          "NVML (%s) is too old; driver 470 or newer is needed", name);
        goto fail_library;
    }
    status = nvml->init();
    if (status != NVML_SUCCESS) {
        r = nvml_fail(nvml, error, status, "nvmlInit");
        goto fail_library;
    }
    *ret_nvml = nvml;
    return UNSTICK_OK;

fail_library:
    dlclose(nvml->library);
fail_nvml:
    free(nvml);
    return r;
}

struct usk_nvml *usk_nvml_close(struct usk_nvml *nvml)
{
    if (nvml) {
        nvml->shutdown();
        dlclose(nvml->library);
        free(nvml);
    }
    return NULL;
}

int usk_nvml_driver_version(struct usk_nvml *nvml, char *text, size_t size, struct unstick_error *error)
{
    int status = nvml->driver_version(text, (unsigned int)size);

    return status == NVML_SUCCESS ? UNSTICK_OK : nvml_fail(nvml, error, status, "nvmlSystemGetDriverVersion");
}

/* A process that computes and draws is in both lists, with the same amount. */
static bool holders_have(const struct usk_holder *holders, size_t n, int pid)
{
    for (size_t i = 0; i < n; i++) {
        if (holders[i].pid == pid)
            return true;
    }
    return false;
}

static int nvml_device(struct usk_nvml *nvml, const char *uuid, void **ret_device, struct unstick_error *error)
{
    int status = nvml->device_by_uuid(uuid, ret_device);

    return status == NVML_SUCCESS ? UNSTICK_OK : nvml_fail(nvml, error, status, "nvmlDeviceGetHandleByUUID");
}

static int nvml_add_processes(struct usk_nvml *nvml, nvml_processes_fn list, void *device,
                              struct usk_holder *holders, size_t *n, uint64_t *own_bytes,
                              struct unstick_error *error)
{
    struct nvml_process processes[NVML_MAX_PROCESSES];
    unsigned int n_processes = NVML_MAX_PROCESSES;
    int status = list(device, &n_processes, processes);

    /* With more than that the array is left alone. */
    if (status != NVML_SUCCESS)
        return nvml_fail(nvml, error, status, "nvmlDeviceGetComputeRunningProcesses");
    for (unsigned int i = 0; i < n_processes && *n < USK_HOLDERS_MAX; i++) {
        struct usk_holder holder = { .pid = (int)processes[i].pid };

        if (holder.pid == usk_os_pid())
            *own_bytes = processes[i].used_bytes;
        if (holder.pid == usk_os_pid() || holders_have(holders, *n, holder.pid))
            continue;
        if (processes[i].used_bytes != NVML_NOT_AVAILABLE)
            holder.bytes = processes[i].used_bytes;
        usk_holder_name("", &holder);
        holders[(*n)++] = holder;
    }
    return UNSTICK_OK;
}

int usk_nvml_holders(struct usk_nvml *nvml, const char *uuid, struct usk_holder holders[USK_HOLDERS_MAX],
                     size_t *ret_n, struct unstick_error *error)
{
    uint64_t own_bytes;

    return usk_nvml_processes(nvml, uuid, holders, ret_n, &own_bytes, error);
}

int usk_nvml_processes(struct usk_nvml *nvml, const char *uuid, struct usk_holder holders[USK_HOLDERS_MAX],
                       size_t *ret_n, uint64_t *ret_own_bytes, struct unstick_error *error)
{
    uint64_t own_bytes = 0;
    void *device;
    size_t n = 0;
    int r;

    r = nvml_device(nvml, uuid, &device, error);
    if (r < 0)
        return r;
    r = nvml_add_processes(nvml, nvml->compute_processes, device, holders, &n, &own_bytes, error);
    /* A GPU without a display engine refuses the second question. */
    if (r == UNSTICK_OK && nvml->graphics_processes)
        nvml_add_processes(nvml, nvml->graphics_processes, device, holders, &n, &own_bytes, NULL);
    if (r < 0)
        return r;
    usk_holders_sort(holders, n);
    *ret_n = n;
    *ret_own_bytes = own_bytes;
    return UNSTICK_OK;
}

int usk_nvml_used(struct usk_nvml *nvml, const char *uuid, uint64_t *ret_bytes, struct unstick_error *error)
{
    struct nvml_memory memory;
    void *device;
    int status, r;

    if (!nvml->memory_info)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "nvmlDeviceGetMemoryInfo",
                             "this NVML does not say how much memory is in use");
    r = nvml_device(nvml, uuid, &device, error);
    if (r < 0)
        return r;
    status = nvml->memory_info(device, &memory);
    if (status != NVML_SUCCESS)
        return nvml_fail(nvml, error, status, "nvmlDeviceGetMemoryInfo");
    *ret_bytes = memory.used_bytes;
    return UNSTICK_OK;
}

/* Adds what one GPU says. */
static int nvml_add_use(struct usk_nvml *nvml, unsigned int index, int pid, struct usk_nvml_use *use,
                        struct unstick_error *error)
{
    struct nvml_process processes[NVML_MAX_PROCESSES];
    unsigned int n_processes = NVML_MAX_PROCESSES;
    struct nvml_memory memory;
    void *device;
    int status;

    status = nvml->device_by_index(index, &device);
    if (status != NVML_SUCCESS)
        return nvml_fail(nvml, error, status, "nvmlDeviceGetHandleByIndex");
    status = nvml->memory_info(device, &memory);
    if (status != NVML_SUCCESS)
        return nvml_fail(nvml, error, status, "nvmlDeviceGetMemoryInfo");
    use->used_bytes += memory.used_bytes;
    if (nvml->compute_processes(device, &n_processes, processes) != NVML_SUCCESS)
        n_processes = 0;
    for (unsigned int i = 0; i < n_processes; i++) {
        if ((int)processes[i].pid != pid)
            continue;
        use->is_listed = true;
        if (processes[i].used_bytes == NVML_NOT_AVAILABLE)
            use->is_amount_unknown = true;
        else
            use->process_bytes += processes[i].used_bytes;
    }
    return UNSTICK_OK;
}

int usk_nvml_use(struct usk_nvml *nvml, int pid, struct usk_nvml_use *ret_use, struct unstick_error *error)
{
    struct usk_nvml_use use = { 0 };
    unsigned int n = 0;
    int status, r = UNSTICK_OK;

    if (!nvml->device_count || !nvml->device_by_index || !nvml->memory_info)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "nvmlDeviceGetCount", "this NVML does not list the GPUs");
    status = nvml->device_count(&n);
    if (status != NVML_SUCCESS)
        return nvml_fail(nvml, error, status, "nvmlDeviceGetCount");
    for (unsigned int i = 0; r == UNSTICK_OK && i < n; i++)
        r = nvml_add_use(nvml, i, pid, &use, error);
    if (r == UNSTICK_OK)
        *ret_use = use;
    return r;
}

int usk_nvml_virtualization(struct usk_nvml *nvml, const char *uuid, enum usk_nvml_virtualization *ret_kind,
                            struct unstick_error *error)
{
    void *device;
    int status, mode = 0, r;

    if (!nvml->virtualization_mode)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "nvmlDeviceGetVirtualizationMode",
                             "this NVML does not say how a GPU is virtualized");
    r = nvml_device(nvml, uuid, &device, error);
    if (r < 0)
        return r;
    status = nvml->virtualization_mode(device, &mode);
    /* Slices of a GPU refuse the question; modes above these are those of a hypervisor's own side. */
    if (status != NVML_SUCCESS || mode < USK_NVML_BARE || mode > USK_NVML_VGPU)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, status, "nvmlDeviceGetVirtualizationMode",
                             "NVML does not say how %s is virtualized", uuid);
    *ret_kind = (enum usk_nvml_virtualization)mode;
    return UNSTICK_OK;
}
