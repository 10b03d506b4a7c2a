/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_HOLDERS_H
#define CLI_HOLDERS_H

#include <unstick/device.h>

/* Adds to the text of a shortage of device memory which other processes hold some, or that this cannot be
 * told. Returns the error's status. */
int holders_explain(const struct unstick_device_info *device, struct unstick_error *error);

#endif
