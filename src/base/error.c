/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int error_fill(struct unstick_error *error, int status, int native, const char *operation, const char *format,
                      va_list args)
{
    if (error) {
        /* The text may be made from the text that it replaces. */
        struct unstick_error filled = { .status = status, .native = native };

        snprintf(filled.operation, sizeof(filled.operation), "%s", operation);
        vsnprintf(filled.text, sizeof(filled.text), format, args);
        *error = filled;
    }
    return status;
}

int usk_error_set(struct unstick_error *error, int status, int native, const char *operation, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    status = error_fill(error, status, native, operation, format, args);
    va_end(args);
    return status;
}

static int error_status_from_errno(int native)
{
    switch (native) {
    case ENOMEM:
        return UNSTICK_OUT_OF_HOST_MEMORY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return UNSTICK_NO_SPACE;
    case ENOENT:
    case ENOTDIR:
        return UNSTICK_NOT_FOUND;
    default:
        return UNSTICK_IO;
    }
}

int usk_error_errno(struct unstick_error *error, int native, const char *operation, const char *format, ...)
{
    int status = error_status_from_errno(native);
    va_list args;

    va_start(args, format);
    error_fill(error, status, native, operation, format, args);
    va_end(args);
    if (error) {
        size_t length = strlen(error->text);
        char reason[64];

        /* GNU strerror_r returns the text, which need not be in the buffer. */
        snprintf(error->text + length, sizeof(error->text) - length, ": %s",
                 strerror_r(native, reason, sizeof(reason)));
    }
    return status;
}

void usk_error_shortage(struct unstick_error *error, uint64_t required_bytes, uint64_t available_bytes)
{
    if (error) {
        error->required_bytes = required_bytes;
        error->available_bytes = available_bytes;
    }
}
