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

int nvmlInit_v2(void);
int nvmlShutdown(void);
const char *nvmlErrorString(int status);
int nvmlSystemGetDriverVersion(char *text, unsigned int size);
int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device);
int nvmlDeviceGetComputeRunningProcesses_v2(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned int *n, struct process *processes);
int nvmlDeviceGetVirtualizationMode(void *device, int *ret_mode);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret_memory[3]);

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

/* Total, free, used: the GPU of the highest number has most to give. */
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret_memory[3])
{
    unsigned long long n = *(const int *)device;

    ret_memory[0] = 24ULL << 30;
    ret_memory[1] = (n + 1) << 30;
    ret_memory[2] = ret_memory[0] - ret_memory[1];
    return failure_of("memory");
}
