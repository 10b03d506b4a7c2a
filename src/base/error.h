/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_ERROR_H
#define USK_BASE_ERROR_H

#include <unstick/status.h>

/*
 * Fills `error` (NULL is allowed) and returns `status`, so that a failure reads `return usk_error_set(...)`. Who
 * decides that something is an error calls this; everybody above forwards what it got.
 */
int usk_error_set(struct unstick_error *error, int status, int native, const char *operation, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* A failure of the operating system: maps errno to a status (ENOMEM, ENOSPC, ENOENT, ... else IO). */
int usk_error_errno(struct unstick_error *error, int native, const char *operation, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Adds the two figures of a shortage to an error that was set. */
void usk_error_shortage(struct unstick_error *error, uint64_t required_bytes, uint64_t available_bytes);

#endif
