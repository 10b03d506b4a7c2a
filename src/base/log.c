/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void usk_log_write(const struct usk_log *log, enum unstick_log_level level, const char *format, ...)
{
    char line[512];
    va_list args;

    if (!log->sink || level > log->level)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log->sink(log->userdata, level, line);
}
