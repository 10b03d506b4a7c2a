/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_DRIVER_H
#define USK_DEVICE_CUDA_DRIVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/cuda/abi.h"
#include "device/device.h"

/* The driver's functions; an optional one that is missing is NULL. */
struct usk_cuda_driver {
#define USK_CUDA_SYMBOL_MEMBER(_name, _version, _need, _parameters) usk_cu_fn_##_name *_name;
    USK_CUDA_SYMBOLS(USK_CUDA_SYMBOL_MEMBER)
#undef USK_CUDA_SYMBOL_MEMBER
    int version;
};

/* Loads libcuda.so.1 once per process and initializes it; UNSTICK_NO_DEVICE where there is none. */
int usk_cuda_driver_get(const struct usk_cuda_driver **ret_driver, struct unstick_error *error);

/* What a result of the driver means, said in one line. */
int usk_cuda_fail(const struct usk_cuda_driver *driver, usk_cu_result result, const char *call, int memory_status,
                  struct unstick_error *error);
bool usk_cuda_is_sticky(usk_cu_result result);

#endif
