/* SPDX-License-Identifier: Apache-2.0 */
/* `unstick version`: what to say first in a bug report. */
#include <stdio.h>

#include <unstick/version.h>

#include "cli.h"

int cmd_version(int argc, char **argv)
{
    static const struct cli_usage usage = { .verb = "version", .about = "Prints the version of unstick." };
    int operand, exit_code;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    if (cli_is_json())
        cli_json_print(json_pack("{s:s}", "version", unstick_version()));
    else
        printf("unstick %s\n", unstick_version());
    return CLI_EXIT_OK;
}
