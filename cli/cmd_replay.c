/* SPDX-License-Identifier: Apache-2.0 */
/* `unstick replay`: a sequence of model requests, run for real. */
#include "cli.h"
#include "report.h"

int cmd_replay(int argc, char **argv)
{
    /* In the order of enum unstick_tier. */
    static const char *const tiers[] = { "auto", "pinned", "pageable", "file", NULL };
    USK_CLEANUP(workload_finip) struct workload workload = { 0 };
    struct session_options options = { .device = "auto" };
    unsigned int tier = UNSTICK_TIER_AUTO;
    const struct cli_option table[] = {
        { "device", "DEVICE",
          "auto, cuda:N, cuda:GPU-<uuid> or host:SIZE; auto is the first GPU, else\n"
          "a host device of half of the available memory",
          CLI_TEXT, &options.device, NULL, 0, 0 },
        { "device-memory", "SIZE", "never hold more than this on the device (a smaller card)", CLI_SIZE,
          &options.limit_bytes, NULL, 1, 0 },
        { "host-memory", "SIZE", "never hold more than this for backups in host memory", CLI_SIZE,
          &options.host_bytes, NULL, 1, 0 },
        { "backup", "TIER", "where evicted contents live: auto, pinned, pageable or file", CLI_CHOICE, &tier,
          tiers, 0, 0 },
        { "granule", "SIZE", "unit of residency; 0: the device's default", CLI_SIZE, &options.granule_bytes,
          NULL, 0, 0 },
        { "verify", NULL,
          "compare every tensor with its file after every request, outside the\n"
          "timings",
          CLI_FLAG, &options.is_verifying, NULL, 0, 0 },
    };
    const struct cli_usage usage = {
        .verb = "replay",
        .operands = "WORKLOAD.json",
        .about =
            "Runs a sequence of model requests for real on a device. Each request makes that model "
            "resident,\n"
            "evicting as little as needed; each switch is timed, and what is left at the end is counted.\n"
            "\n"
            "The workload: {\"models\": [{\"id\": \"flux-dev\", \"quantization\": \"8-bit\", \"path\": "
            "\"DIR\"}, ...],\n"
            "\"requests\": [\"flux-dev_8-bit\", ...]}. A model is a diffusers or transformers folder or a\n"
            ".safetensors file; a relative path starts at the workload's folder. Loads are timed with the "
            "files\n"
            "in the page cache. SIZE takes bytes or units, such as 1536, 64MiB or 2GiB.",
        .options = table,
        .n_options = sizeof(table) / sizeof(table[0]),
        .min_operands = 1,
        .max_operands = 1,
    };
    struct unstick_error error;
    int operand, exit_code, r;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    options.tier = (enum unstick_tier)tier;
    r = workload_read(argv[operand], &workload, &error);
    if (r < 0)
        return cli_fail(&error);
    return report_run(&options, &workload);
}
