/* SPDX-License-Identifier: Apache-2.0 */
/* `unstick hibernate`: a process gives up all it holds on the GPUs, and sleeps at its next call to CUDA. */
#include "cli.h"
#include "hibernation.h"

int cmd_hibernate(int argc, char **argv)
{
    return hibernation_command(argc, argv, false);
}
