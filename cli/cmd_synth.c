/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick synth`: writes FLUX-shaped checkpoints with made-up weights, so that everything else can be tried
 * and measured without a download. The work is in src/model/flux*.c; this says what was asked and what came
 * of it.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/size.h"
#include "cli.h"
#include "model/flux.h"

static const char *const models[] = { "flux-dev", "flux-schnell", NULL };
static const char *const quants[] = { "none", "8-bit", "4-bit", "4-bit-dq", NULL };

/* A terminal shows no more. */
#define SYNTH_PROGRESS_NS (UINT64_C(100) * USK_NS_PER_MS)

struct synth {
    unsigned int model, quant;
    uint64_t scale, seed;
    bool is_sparse;
    uint64_t shown_ns;
};

static bool synth_progress(void *userdata, const struct usk_flux_progress *progress)
{
    struct synth *synth = userdata;
    uint64_t now_ns = usk_clock_now_ns();
    char done[USK_SIZE_TEXT_MAX], total[USK_SIZE_TEXT_MAX];

    if (cli_is_interrupted())
        return false;
    if (now_ns - synth->shown_ns >= SYNTH_PROGRESS_NS) {
        synth->shown_ns = now_ns;
        cli_progress("%s: %s of %s", progress->part, usk_size_format(done, progress->done_bytes),
                     usk_size_format(total, progress->total_bytes));
    }
    return true;
}

static void synth_print_json(const struct synth *synth, const char *dir, const struct usk_flux_report *report,
                             double seconds)
{
    json_t *parts = json_array(), *path = json_string(dir);

    for (size_t i = 0; i < USK_FLUX_N_PARTS; i++)
        json_array_append_new(parts, json_pack("{s:s,s:I,s:I,s:I,s:I,s:I}", "name", report->parts[i].name,
                                               "tensors", (json_int_t)report->parts[i].n_tensors, "files",
                                               (json_int_t)report->parts[i].n_files, "file_bytes",
                                               (json_int_t)report->parts[i].file_bytes, "device_bytes",
                                               (json_int_t)report->parts[i].device_bytes, "memory_bytes",
                                               (json_int_t)report->parts[i].memory_bytes));
    /* A path need not be UTF-8; then it is null. */
    cli_json_print(json_pack("{s:o,s:s,s:s,s:I,s:I,s:b,s:o,s:I,s:f}", "path", path ? path : json_null(),
                             "model", models[synth->model], "quantization", quants[synth->quant], "scale",
                             (json_int_t)synth->scale, "seed", (json_int_t)synth->seed, "is_sparse",
                             synth->is_sparse, "components", parts, "file_bytes",
                             (json_int_t)report->file_bytes, "seconds", seconds));
}

static void synth_print(const struct synth *synth, const char *dir, const struct usk_flux_report *report,
                        double seconds)
{
    static const struct cli_column columns[] = {
        { "component", -16 }, { "tensors", 8 }, { "files", 6 }, { "on disk", 12 }, { "device bytes", 16 },
    };
    char files[USK_SIZE_TEXT_MAX];

    cli_table_head(columns, 5);
    for (size_t i = 0; i < USK_FLUX_N_PARTS; i++) {
        char n_tensors[24], n_files[24], device[24];
        const char *cells[] = { report->parts[i].name, n_tensors, n_files, files, device };

        snprintf(n_tensors, sizeof(n_tensors), "%zu", report->parts[i].n_tensors);
        snprintf(n_files, sizeof(n_files), "%zu", report->parts[i].n_files);
        snprintf(device, sizeof(device), "%llu", (unsigned long long)report->parts[i].device_bytes);
        usk_size_format(files, report->parts[i].file_bytes);
        cli_table_row(columns, 5, cells);
    }
    printf("%s: %s, %s, 1/%llu, %s%s in %.1f s\n", dir, models[synth->model], quants[synth->quant],
           (unsigned long long)synth->scale, usk_size_format(files, report->file_bytes),
           synth->is_sparse ? " (sparse: reads as zeros)" : "", seconds);
}

int cmd_synth(int argc, char **argv)
{
    struct synth synth = { .scale = 1 };
    const struct cli_option options[] = {
        { "model", "NAME", "flux-dev (default) or flux-schnell", CLI_CHOICE, &synth.model, models, 0, 0 },
        { "quant", "KIND",
          "none (default: bf16), 8-bit, 4-bit, or 4-bit-dq (double\nquantization), as bitsandbytes "
          "saves them",
          CLI_CHOICE, &synth.quant, quants, 0, 0 },
        { "scale", "D",
          "about 1/D of the full size, 1 to 4096; 1 (default) is exact:\n34 GB as bf16, 18 GB in 8-bit, "
          "11 GB in 4-bit",
          CLI_COUNT, &synth.scale, NULL, 1, USK_FLUX_SCALE_MAX },
        { "seed", "S", "the same seed gives the same bytes (default 0)", CLI_COUNT, &synth.seed, NULL, 0,
          INT64_MAX },
        { "sparse", NULL, "headers and holes only: full size to a reader, no disk", CLI_FLAG,
          &synth.is_sparse, NULL, 0, 0 },
    };
    const struct cli_usage usage = {
        .verb = "synth",
        .operands = "DIR",
        .about = "Writes a FLUX-shaped checkpoint with made-up weights to DIR, in the layout of\n"
                 "diffusers. DIR must be missing or empty; it is there complete, or not at all.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .min_operands = 1,
        .max_operands = 1,
    };
    struct usk_flux_options flux = { .progress = synth_progress, .userdata = &synth };
    struct usk_flux_report report;
    struct unstick_error error;
    uint64_t started_ns = usk_clock_now_ns();
    double seconds;
    int operand, exit_code;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    flux.variant = synth.model;
    flux.quant = synth.quant;
    flux.scale = synth.scale;
    flux.seed = synth.seed;
    flux.is_sparse = synth.is_sparse;
    if (usk_flux_write(argv[operand], &flux, &report, &error))
        return cli_fail(&error);
    cli_progress_end();
    seconds = (double)(usk_clock_now_ns() - started_ns) / (double)USK_NS_PER_S;
    if (cli_is_json())
        synth_print_json(&synth, argv[operand], &report, seconds);
    else
        synth_print(&synth, argv[operand], &report, seconds);
    return CLI_EXIT_OK;
}
