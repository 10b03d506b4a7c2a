/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_INFO_H
#define USK_DEVICE_CUDA_INFO_H

#include "device/cuda/cuda.h"
#include "device/cuda/driver.h"

/* What a device is, without a context on it. */
int usk_cuda_info_read(const struct usk_cuda_driver *driver, usk_cu_device device,
                       struct usk_cuda_device_info *ret_info, struct unstick_error *error);

/* The device that `which` names (see usk_cuda_open()). */
int usk_cuda_info_find(const struct usk_cuda_driver *driver, const char *which, usk_cu_device *ret_device,
                       struct unstick_error *error);

/* What cuDeviceGetCount says; 0 where it says that there is none. */
int usk_cuda_info_count(const struct usk_cuda_driver *driver, unsigned int *ret_n, struct unstick_error *error);

/* The 16 bytes of "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" or "MIG-...", in either case; false if it is none. */
bool usk_cuda_uuid_parse(const char *text, struct usk_cu_uuid *ret_uuid);

#endif
