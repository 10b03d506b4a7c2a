/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_HOST_HOST_H
#define USK_DEVICE_HOST_HOST_H

#include "device/device.h"

/*
 * The host stand-in: a device whose memory is a memfd of this process. It behaves as a GPU does and enforces the
 * contract at least as strictly, so that what runs on it runs on one. Where it says more than the contract:
 *
 * - unmap() and unregister_host() refuse with UNSTICK_INVALID_ARGUMENT while submitted work uses the range: the thread
 *   of a lane would fault there, and a fault ends the process.
 * - Copies, fills and hashes are checked against the mappings when they are submitted; their failure leaves nothing
 *   queued, and submitted work cannot fail any more.
 * - A ticket that was used up, and a handle that was released, are UNSTICK_INVALID_ARGUMENT.
 * - Nothing runs on the device but its lanes: fence_stream() gives a ticket that is passed, fence_device() one behind
 *   all three lanes.
 *
 * These ask the kernel, not our accounts. For devices of usk_host_open() only.
 */

/* Bytes of the device's memory that the system has backed. */
int usk_host_backed_bytes(struct usk_device *dev, uint64_t *ret_bytes, struct unstick_error *error);
/* Bytes of addresses of this process under which the device's memory is mapped. */
int usk_host_mapped_bytes(struct usk_device *dev, uint64_t *ret_bytes, struct unstick_error *error);

#endif
