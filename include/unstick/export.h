/* SPDX-License-Identifier: Apache-2.0 */
/** Symbol visibility: everything is hidden unless it is declared with UNSTICK_EXPORT. */
#ifndef UNSTICK_EXPORT_H
#define UNSTICK_EXPORT_H

#if defined(__GNUC__)
#define UNSTICK_EXPORT __attribute__((visibility("default")))
#else
#define UNSTICK_EXPORT
#endif

#endif
