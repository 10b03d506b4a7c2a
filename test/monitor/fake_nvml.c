/* SPDX-License-Identifier: Apache-2.0 */
/* A libnvidia-ml.so.1 with the same processes on every GPU; FAKE_NVML_FAILS names the call that fails,
 * FAKE_NVML_VIRTUALIZATION is the mode of every GPU. With FAKECUDA_PROCESSES there is one GPU, and on it are the
 * processes that run on the fake CUDA driver of that folder, with what they really hold; FAKE_NVML_SCALE times as much.
 * */
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"

#define IN_USE_BY_NOBODY (64ULL << 20)

struct memory {
    unsigned long long total, free, used;
};

struct process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance, compute_instance;
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int status);
int nvmlSystemGetDriverVersion(char *text, unsigned int size);
int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device);
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetVirtualizationMode(void *device, int *ret_mode);
int nvmlDeviceGetCount_v2(unsigned int *ret_n);
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **ret_device);
int nvmlDeviceGetMemoryInfo(void *device, struct memory *ret_memory);

static int failure_of(const char *name)
{
    const char *failing = getenv("FAKE_NVML_FAILS");

    return failing && !strcmp(failing, name) ? 999 : 0;
}

int nvmlInit_v2(void)
{
    return failure_of("init");
}

int nvmlShutdown(void)
{
    unsetenv("FAKE_NVML_FAILS");
    return 0;
}

const char *nvmlErrorString(int status)
{
    return status == 999 ? "Unknown Error" : "Not Found";
}

int nvmlSystemGetDriverVersion(char *text, unsigned int size)
{
    snprintf(text, size, "580.159.03");
    return failure_of("version");
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device)
{
    static int devices[256];
    size_t length = strlen(uuid);
    /* fakecuda's UUIDs end with the GPU's number. */
    int *device = &devices[(length > 2 ? strtoul(uuid + length - 2, NULL, 16) : 0) % 256];

    *device = (int)(device - devices);
    *ret_device = device;
    return strcmp(uuid, "GPU-unknown") ? 0 : 6;
}

static unsigned long long scale(void)
{
    const char *text = getenv("FAKE_NVML_SCALE");

    return text ? strtoull(text, NULL, 10) : 1;
}

static int processes_ask(const char *name, unsigned int *n, struct process *processes, unsigned int most)
{
    struct process_request request = { .verb = PROCESS_USE };
    struct process_answer answer;
    DIR *dir = opendir(name);
    struct dirent *entry;

    *n = 0;
    while (dir && (entry = readdir(dir)) && *n < most) {
        int pid = atoi(entry->d_name);

        if (pid <= 0 || process_ask(name, pid, &request, &answer) || !answer.used_bytes)
            continue;
        processes[*n] = (struct process){ .pid = (unsigned int)pid, .used_bytes = answer.used_bytes * scale() };
        if (failure_of("amount"))
            processes[*n].used_bytes = ~0ULL;
        ++*n;
    }
    if (dir)
        closedir(dir);
    return failure_of("compute");
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *n, struct process *processes)
{
    const char *asked = getenv("FAKECUDA_PROCESSES");

    (void)device;
    if (asked)
        return processes_ask(asked, n, processes, *n);
    processes[0] = (struct process){ .pid = (unsigned int)getppid(), .used_bytes = 1ULL << 30 };
    processes[1] = (struct process){ .pid = (unsigned int)getpid(), .used_bytes = 5ULL << 30 };
    if (failure_of("namespace"))
        processes[1].pid = 2147483644;
    processes[2] = (struct process){ .pid = 2147483646, .used_bytes = 2ULL << 30 };
    processes[3] = (struct process){ .pid = 2147483647, .used_bytes = ~0ULL };
    *n = 4;
    return failure_of("compute");
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *n, struct process *processes)
{
    (void)device;
    if (getenv("FAKECUDA_PROCESSES")) {
        *n = 0;
        return 0;
    }
    processes[0] = (struct process){ .pid = (unsigned int)getppid(), .used_bytes = 1ULL << 30 };
    processes[1] = (struct process){ .pid = 2147483645, .used_bytes = 3ULL << 30 };
    *n = 2;
    return failure_of("graphics");
}

int nvmlDeviceGetVirtualizationMode(void *device, int *ret_mode)
{
    const char *mode = getenv("FAKE_NVML_VIRTUALIZATION");

    (void)device;
    *ret_mode = mode ? atoi(mode) : 0;
    return failure_of("virtualization");
}

int nvmlDeviceGetCount_v2(unsigned int *ret_n)
{
    *ret_n = 1;
    return failure_of("count");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **ret_device)
{
    static int device;

    *ret_device = &device;
    return index ? 2 : failure_of("index");
}

int nvmlDeviceGetMemoryInfo(void *device, struct memory *ret_memory)
{
    struct process processes[64];
    unsigned int n = 64;

    nvmlDeviceGetComputeRunningProcesses_v2(device, &n, processes);
    /* Of each GPU something else is in use. */
    *ret_memory = (struct memory){ .total = 80ULL << 30, .used = IN_USE_BY_NOBODY };
    ret_memory->used += (unsigned long long)*(const int *)device << 30;
    for (unsigned int i = 0; i < n; i++)
        ret_memory->used += processes[i].used_bytes == ~0ULL ? 0 : processes[i].used_bytes;
    ret_memory->free = ret_memory->total - ret_memory->used;
    return failure_of("memory");
}
