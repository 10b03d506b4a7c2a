/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_DRIVE_H
#define CLI_DRIVE_H

#include <unstick/cache.h>

/* Drives a request of the cache to its end, showing progress. An interruption cancels it and returns UNSTICK_CANCELED.
 * Actions that only a host with torch could perform are answered with UNSTICK_UNSUPPORTED. */
int drive_request(struct unstick_request *request, const char *what,
                  struct unstick_error *error);

#endif
