/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_VERIFY_H
#define CLI_VERIFY_H

#include <unstick/model.h>
#include <unstick/region.h>

/* Compares every tensor of a component, as its region holds it now, with the bytes of its file.
 * UNSTICK_MISMATCH names the first tensor that differs; UNSTICK_CANCELED after an interruption. */
int verify_component(const char *key, const struct unstick_component *component,
                     struct unstick_region *region, struct unstick_error *error);

/* Reads the files of a component once, so that they are in the page cache if it can hold them. */
int verify_warm(const struct unstick_component *component, struct unstick_error *error);

#endif
