/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_DRIVER_H
#define USK_DEVICE_CUDA_DRIVER_H

#include "device/cuda/abi.h"

#include <unstick/status.h>

/* The driver's functions; an optional one that the driver lacks is NULL. */
struct usk_cuda_driver {
#define USK_CUDA_SYMBOL_FIELD(_name, _version, _need, _parameters) usk_cu_fn_##_name *_name;
    USK_CUDA_SYMBOLS(USK_CUDA_SYMBOL_FIELD)
#undef USK_CUDA_SYMBOL_FIELD
    int version;
};

/* The driver of this process, loaded and initialized by the first call that succeeds, and kept for good. */
int usk_cuda_driver_get(const struct usk_cuda_driver **ret_driver, struct unstick_error *error);

/* Fills a table through the cuGetProcAddress of a library: `v2`, or `v1` where v2 is NULL. The driver need not be
 * initialized. */
int usk_cuda_driver_resolve(usk_cu_get_proc_address_v2 *v2, usk_cu_get_proc_address_v1 *v1,
                            struct usk_cuda_driver *ret_driver, struct unstick_error *error);

/* The driver's name and words for a result; never NULL. */
const char *usk_cuda_result_name(const struct usk_cuda_driver *driver, usk_cu_result result);
const char *usk_cuda_result_text(const struct usk_cuda_driver *driver, usk_cu_result result);

#endif
