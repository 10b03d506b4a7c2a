/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_COMPONENT_H
#define USK_MODEL_COMPONENT_H

#include "model/folder.h"
#include <unstick/model.h>

/* Reads the headers of a component's files and lays it out. Takes the paths out of `weights` on success. The component
 * may have no tensor, or none with bytes: then its layout has 0 bytes. */
int usk_component_init(struct unstick_component *component, const char *name, struct usk_weights *weights,
                       struct unstick_error *error);
void usk_component_fini(struct unstick_component *component);

#endif
