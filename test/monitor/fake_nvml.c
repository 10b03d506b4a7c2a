/* SPDX-License-Identifier: Apache-2.0 */
/* A libnvidia-ml.so.1 with the same processes on every GPU; FAKE_NVML_FAILS names the call that fails,
 * FAKE_NVML_VIRTUALIZATION is the mode of every GPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct process {
    unsigned int pid;
    unsigned long long used_bytes;
    unsigned int gpu_instance, compute_instance;
};

struct memory {
    unsigned long long total_bytes, free_bytes, used_bytes;
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int status);
int nvmlSystemGetDriverVersion(char *text, unsigned int size);
int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device);
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetVirtualizationMode(void *device, int *ret_mode);
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory);

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
    static int device;

    *ret_device = &device;
    return strcmp(uuid, "GPU-unknown") ? 0 : 6;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *n, struct process *processes)
{
    (void)device;
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

/* With each question 10 MiB less are in use: as if a context had ended in between. */
int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory)
{
    static unsigned long long n_asked;

    (void)device;
    memory->total_bytes = 128ULL << 20;
    memory->used_bytes = (60 - 10 * n_asked++) << 20;
    memory->free_bytes = memory->total_bytes - memory->used_bytes;
    return failure_of("memory");
}
