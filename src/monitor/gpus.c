/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The GPUs that there are to choose from. A context on each of them would take half a gigabyte, so none is made: names
 * and sizes come from the driver, what is free from NVML, which is asked by UUID because it does not know
 * CUDA_VISIBLE_DEVICES.
 */
#include <string.h>

#include <unstick/monitor.h>

#include "base/error.h"
#include "base/math.h"
#include "device/cuda/cuda.h"
#include "monitor/monitor.h"

int unstick_gpus_list(struct unstick_monitor *monitor, struct unstick_gpu *gpus, size_t max, size_t *ret_n,
                      struct unstick_error *error)
{
    struct usk_cuda_info driver;
    int r;

    if (!ret_n || (max && (!gpus || gpus->size < sizeof(*gpus))))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_gpus_list",
                             "no place for the number of GPUs, or gpus->size is not set");
    r = usk_cuda_info(&driver, error);
    if (r == UNSTICK_NO_DEVICE)
        driver.n_devices = 0;
    else if (r < 0)
        return r;
    for (unsigned int i = 0; i < driver.n_devices && i < max; i++) {
        struct unstick_gpu gpu = { .size = gpus->size, .index = (int)i };
        struct usk_cuda_device_info info;
        uint64_t used_bytes;

        r = usk_cuda_device_info(i, &info, error);
        if (r < 0)
            return r;
        memcpy(gpu.name, info.name, sizeof(gpu.name));
        memcpy(gpu.uuid, info.uuid, sizeof(gpu.uuid));
        gpu.total_bytes = info.total_bytes;
        gpu.has_free = usk_monitor_used_bytes(monitor, gpu.uuid, &used_bytes);
        if (gpu.has_free)
            gpu.free_bytes = gpu.total_bytes - usk_min(gpu.total_bytes, used_bytes);
        gpus[i] = gpu;
    }
    *ret_n = driver.n_devices;
    return UNSTICK_OK;
}
