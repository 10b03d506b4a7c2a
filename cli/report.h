/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include "session.h"

/*
 * Runs all requests of a workload on a session and reports: a table while they run and a summary, or one JSON
 * object. The last line of the table is "residual: 0 B" if nothing was left behind. Returns the exit code.
 */
int report_run(const struct session_options *options, const struct workload *workload);

#endif
