/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_FAULT_FAULT_H
#define USK_DEVICE_FAULT_FAULT_H

#include <stdatomic.h>

#include "device/device.h"

/*
 * A device that passes every call on to another one and can be told to fail, to be slow and to be short of memory.
 * The script is set between calls of the code under test; counting starts when it is set.
 */
struct usk_fault_script {
    uint64_t fail_at;        /* the n-th call fails, counted from 1 over all ops that can fail (close, drop and, unless
                                count_polls, poll are not counted); 0: none */
    int status;              /* with this status; 0: a fitting one per op (create: OUT_OF_DEVICE_MEMORY, else DRIVER) */
    bool is_for_ever;        /* and every later one too */
    bool count_polls;        /* poll counts as well */
    uint64_t op_mask;        /* count only ops with their bit set (enum usk_fault_op); 0: all */
    uint64_t lose_at;        /* from the n-th call on every call returns DEVICE_LOST; 0: never */
    uint64_t steal_bytes;    /* memory that somebody else took: memory_info and create see that much less */
    uint32_t pending_polls;  /* every ticket answers PENDING this many times first */
    uint32_t busy_maps;      /* the next this many maps answer UNSTICK_BUSY */
    uint32_t delay_us;       /* every call takes this much longer */
};

enum usk_fault_op {
    USK_FAULT_MEMORY_INFO, USK_FAULT_RESERVE, USK_FAULT_UNRESERVE, USK_FAULT_CREATE, USK_FAULT_RELEASE, USK_FAULT_MAP,
    USK_FAULT_UNMAP, USK_FAULT_COPY_UP, USK_FAULT_COPY_DOWN, USK_FAULT_COPY_ACROSS, USK_FAULT_FILL, USK_FAULT_HASH,
    USK_FAULT_ORDER, USK_FAULT_MARK, USK_FAULT_FENCE_STREAM, USK_FAULT_FENCE_DEVICE, USK_FAULT_POLL,
    USK_FAULT_REGISTER, USK_FAULT_UNREGISTER, USK_FAULT_HOST_ALLOC, USK_FAULT_HOST_FREE, USK_N_FAULT_OPS,
};

/* The name of an operation, as errors give it. */
const char *usk_fault_op_name(enum usk_fault_op op);

/* Wraps inner, which is closed with the wrapper. */
int usk_fault_open(struct usk_device *inner, struct usk_device **ret_dev, struct unstick_error *error);

/* Sets the script and starts counting at 0. NULL: no faults. Thread-safe. */
void usk_fault_set(struct usk_device *dev, const struct usk_fault_script *script);

/* Calls counted, and failed, since the script was set. */
uint64_t usk_fault_n_calls(struct usk_device *dev);
uint64_t usk_fault_n_failed(struct usk_device *dev);

#endif
