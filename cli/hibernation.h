/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_HIBERNATION_H
#define CLI_HIBERNATION_H

#include <stdbool.h>

/* What `hibernate` and `wake` share: the options, the run with its progress, and the report. */
int hibernation_command(int argc, char **argv, bool is_wake);

#endif
