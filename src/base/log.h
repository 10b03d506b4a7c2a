/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_LOG_H
#define USK_BASE_LOG_H

#include <unstick/context.h>

/* Where lines go; a zeroed one drops them all. Never called under a lock: the host's sink may take its own. */
struct usk_log {
    unstick_log_fn sink;
    enum unstick_log_level level;
    void *userdata;
};

void usk_log_write(const struct usk_log *log, enum unstick_log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
