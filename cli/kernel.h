/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_KERNEL_H
#define CLI_KERNEL_H

#include "device/cuda/driver.h"

/*
 * A kernel of somebody else, as a host program would launch it: on a stream of its own in the primary context, unseen
 * by the library. For measuring and testing what the library does beside it. One thread at a time; nothing stays
 * current.
 */
struct kernel {
    const struct usk_cuda_driver *driver;
    usk_cu_device device;
    usk_cu_context context;
    usk_cu_module module;
    usk_cu_function function;
    usk_cu_stream stream;
};

/* which: as for usk_cuda_open(). UNSTICK_UNSUPPORTED: the driver does not take the text. */
int kernel_open(struct kernel *kernel, const char *which, const char *ptx, const char *name,
                struct unstick_error *error);
/* Starts it; parameters as for cuLaunchKernel(). shared_bytes: of shared memory per block, at most 48 KiB. */
int kernel_launch(struct kernel *kernel, unsigned int n_blocks, unsigned int n_threads, unsigned int shared_bytes,
                  void **parameters, struct unstick_error *error);
/* Blocks until it is over. */
int kernel_wait(struct kernel *kernel, struct unstick_error *error);
/* One that was never opened (zeroed) is left alone. */
void kernel_close(struct kernel *kernel);

#endif
