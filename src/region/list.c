/* SPDX-License-Identifier: Apache-2.0 */
/* The GPUs that there are, before one is chosen: asking creates no context, and takes no memory on any. */
#include <stdio.h>

#include <unstick/device.h>

#include "device/cuda/cuda.h"

int unstick_device_list(struct unstick_gpu *gpus, size_t n_max, size_t *ret_n, struct unstick_error *error)
{
    unsigned int n = 0;
    int r = usk_cuda_count(&n, error);

    for (unsigned int i = 0; r == UNSTICK_OK && i < n && i < n_max; i++) {
        struct usk_cuda_device_info info;

        r = usk_cuda_device_info(i, &info, error);
        if (r < 0)
            break;
        gpus[i] = (struct unstick_gpu){ .total_bytes = info.total_bytes };
        snprintf(gpus[i].spec, sizeof(gpus[i].spec), "cuda:%u", i);
        snprintf(gpus[i].name, sizeof(gpus[i].name), "%s", info.name);
        snprintf(gpus[i].uuid, sizeof(gpus[i].uuid), "%s", info.uuid);
    }
    if (r == UNSTICK_OK)
        *ret_n = n;
    return r;
}
