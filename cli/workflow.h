/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_WORKFLOW_H
#define CLI_WORKFLOW_H

#include <unstick/policy.h>

/* Says which models of a workload fit together on the device of `snapshot` (which has no entries), what each switch
 * will cost, and in which order least is moved. Prints it, and returns the exit code. */
int workflow_advise(const char *path, const struct unstick_snapshot *snapshot, uint64_t working_bytes);

#endif
