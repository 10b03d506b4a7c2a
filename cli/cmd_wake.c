/* SPDX-License-Identifier: Apache-2.0 */
/* `unstick wake`: a process that was hibernated gets back what it held, and goes on. */
#include "cli.h"
#include "hibernation.h"

int cmd_wake(int argc, char **argv)
{
    return hibernation_command(argc, argv, true);
}
