/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick estimate`: what a model will take, from its files; without files, what earlier runs took, and without those
 * a guess that says it is one. The figures are the library's; the file of learned peaks is kept here (state.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "cli.h"
#include "state.h"
#include <unstick/estimate.h>

#define ESTIMATE_SIDE_MAX 65536

/* How the working memory is come by, in one line; working.c in the library has the counts. */
#define ESTIMATE_WORKING_BASIS                                                                               \
    "transformer: tokens x width x 32 (17.3 alive, 24.6 to 32.2 measured on an H200); U-Net: latent pixels x "  \
    "channels x 20 (15.8 alive); VAE: pixels x channels x 6 (3.0 alive, and as much for convolutions)"

static const char *const dtypes[] = { "bf16", "fp16", "fp32", NULL };

struct estimate {
    const char *quant, *resolution, *id;
    unsigned int dtype;
    uint64_t batch, record_bytes;
    enum unstick_quantization shown[UNSTICK_QUANTIZATIONS]; /* columns */
    size_t n_shown;
    struct unstick_estimate_options options;
    const char *path;                      /* NULL: by id only */
    char *model_id;
    struct unstick_estimate *model;        /* NULL without path */
    struct unstick_figure totals[UNSTICK_QUANTIZATIONS];
    struct unstick_peak peaks[UNSTICK_QUANTIZATIONS]; /* n_runs 0: none */
};

/* --- what is asked --- */

static bool estimate_read_quant(struct estimate *estimate)
{
    static const enum unstick_quantization all[] = { UNSTICK_QUANTIZATION_NONE, UNSTICK_QUANTIZATION_8BIT,
                                                     UNSTICK_QUANTIZATION_4BIT, UNSTICK_QUANTIZATION_4BIT_DQ };
    struct unstick_error error;

    if (!strcmp(estimate->quant, "all")) {
        memcpy(estimate->shown, all, sizeof(all));
        estimate->n_shown = sizeof(all) / sizeof(all[0]);
        return true;
    }
    if (unstick_quantization_parse(estimate->quant, &estimate->shown[0], &error) < 0) {
        cli_fail_usage("--quant: %s, or all", error.text);
        return false;
    }
    estimate->n_shown = 1;
    return true;
}

/* "1024", or "1280x720". */
static bool estimate_read_resolution(struct estimate *estimate)
{
    unsigned int width = 0, height = 0;
    const char *text = estimate->resolution;
    char rest;
    int n = sscanf(text, "%5ux%5u%c", &width, &height, &rest);

    if (n == 1 && strspn(text, "0123456789") == strlen(text)) {
        height = width;
        n = 2;
    }
    if (n != 2 || strspn(text, "0123456789x") != strlen(text) || !width || !height || width > ESTIMATE_SIDE_MAX ||
        height > ESTIMATE_SIDE_MAX) {
        cli_fail_usage("--resolution '%s': takes pixels from 1 to %d, such as 1024 or 1280x720", text,
                       ESTIMATE_SIDE_MAX);
        return false;
    }
    estimate->options.width = width;
    estimate->options.height = height;
    return true;
}

/* "org/name" from a folder of the Hugging Face cache, else the last part of the path. */
static char *estimate_id_of(const char *path)
{
    static const char marker[] = "/models--";
    USK_CLEANUP(usk_freep) char *resolved = realpath(path, NULL);
    char *id, *at, *end;

    if (!resolved)
        return strdup(path);
    at = strstr(resolved, marker);
    if (!at) {
        at = strrchr(resolved, '/') + 1;
        end = strstr(at, ".safetensors");
        if (end && end > at)
            *end = '\0';
        return strdup(*at ? at : "model");
    }
    at += sizeof(marker) - 1;
    id = strndup(at, strcspn(at, "/"));
    end = id ? strstr(id, "--") : NULL;
    if (end) {
        *end = '/';
        memmove(end + 1, end + 2, strlen(end + 2) + 1);
    }
    return id;
}

/* --- what is known --- */

static int estimate_read_peaks(struct estimate *estimate, struct unstick_error *error)
{
    struct unstick_peaks *peaks = NULL;
    char key[UNSTICK_KEY_MAX];
    int r = cli_state_read_peaks(&peaks, error);

    if (r < 0)
        return r;
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        /* A name that is too long for a key has no peak under one. */
        if (unstick_key_build(estimate->model_id, q, key, sizeof(key), NULL) >= 0)
            (void)unstick_peaks_find(peaks, key, NULL, &estimate->peaks[q]);
    }
    unstick_peaks_free(peaks);
    return UNSTICK_OK;
}

static int estimate_record(struct estimate *estimate, struct unstick_error *error)
{
    char key[UNSTICK_KEY_MAX];
    int r = unstick_key_build(estimate->model_id, estimate->shown[0], key, sizeof(key), error);

    return r < 0 ? r : cli_state_add_peak(key, NULL, estimate->record_bytes, error);
}

static void estimate_total(struct estimate *estimate)
{
    for (enum unstick_quantization q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
        const struct unstick_peak *peak = &estimate->peaks[q];
        struct unstick_figure *total = &estimate->totals[q];

        if (estimate->model) {
            *total = estimate->model->total[q];
        } else if (peak->n_runs) {
            *total = (struct unstick_figure){ .bytes = peak->bytes,
                                              .high_bytes = UINT64_MAX,
                                              .aligned_bytes = peak->bytes,
                                              .region_bytes = peak->bytes,
                                              .basis = UNSTICK_BASIS_LEARNED };
        } else {
            *total = unstick_estimate_guess(q);
        }
    }
}

/* The weakest basis among the columns. */
static const char *estimate_basis(const struct estimate *estimate, const struct unstick_figure *figures)
{
    enum unstick_basis basis = UNSTICK_BASIS_FILES;

    for (size_t i = 0; i < estimate->n_shown; i++) {
        if (figures[estimate->shown[i]].basis > basis)
            basis = figures[estimate->shown[i]].basis;
    }
    return unstick_basis_name(basis);
}

/* --- JSON --- */

/* Past what JSON's integers hold, or not known: null. */
static json_t *json_bytes(uint64_t bytes)
{
    return bytes > INT64_MAX ? json_null() : json_integer((json_int_t)bytes);
}

static json_t *json_figures(const struct estimate *estimate, const struct unstick_figure *figures, size_t offset)
{
    json_t *object = json_object();

    for (size_t i = 0; i < estimate->n_shown; i++) {
        const char *figure = (const char *)&figures[estimate->shown[i]];
        uint64_t bytes;

        memcpy(&bytes, figure + offset, sizeof(bytes));
        json_object_set_new(object, unstick_quantization_name(estimate->shown[i]), json_bytes(bytes));
    }
    return object;
}

#define JSON_FIGURES(_estimate, _figures, _field)                                                            \
    json_figures(_estimate, _figures, offsetof(struct unstick_figure, _field))

static json_t *json_interval(const struct estimate *estimate, const struct unstick_figure *figures)
{
    json_t *object = json_object();

    for (size_t i = 0; i < estimate->n_shown; i++) {
        const struct unstick_figure *figure = &figures[estimate->shown[i]];

        json_object_set_new(object, unstick_quantization_name(estimate->shown[i]),
                            json_pack("[o,o]", json_bytes(figure->low_bytes), json_bytes(figure->high_bytes)));
    }
    return object;
}

static json_t *json_total(const struct estimate *estimate)
{
    const struct unstick_figure *totals = estimate->totals;

    return json_pack("{s:o,s:o,s:o,s:o,s:s}", "params",
                     estimate->model ? json_bytes(estimate->model->n_params) : json_null(), "bytes",
                     JSON_FIGURES(estimate, totals, bytes), "aligned_bytes",
                     JSON_FIGURES(estimate, totals, aligned_bytes), "region_bytes",
                     JSON_FIGURES(estimate, totals, region_bytes), "basis", estimate_basis(estimate, totals));
}

static json_t *json_components(const struct estimate *estimate)
{
    json_t *list = json_array();

    for (size_t i = 0; estimate->model && i < estimate->model->n_components; i++) {
        const struct unstick_component_estimate *component = &estimate->model->components[i];

        json_array_append_new(
            list, json_pack("{s:s,s:s?,s:o,s:o,s:s,s:o,s:s,s:b,s:I}", "name", component->name, "class",
                            component->class_name, "params", json_bytes(component->n_params), "bytes",
                            JSON_FIGURES(estimate, component->figures, bytes), "basis",
                            estimate_basis(estimate, component->figures), "interval",
                            json_interval(estimate, component->figures), "stored", component->stored, "is_quantized",
                            component->is_quantized, "linears", (json_int_t)component->n_linears));
    }
    return list;
}

static json_t *json_learned(const struct estimate *estimate)
{
    json_t *object = json_object();

    for (size_t i = 0; i < estimate->n_shown; i++) {
        const struct unstick_peak *peak = &estimate->peaks[estimate->shown[i]];

        if (peak->n_runs)
            json_object_set_new(object, unstick_quantization_name(estimate->shown[i]),
                                json_pack("{s:I,s:I,s:I}", "bytes", (json_int_t)peak->bytes, "last_bytes",
                                          (json_int_t)peak->last_bytes, "runs", (json_int_t)peak->n_runs));
    }
    return object;
}

static json_t *json_working(const struct estimate *estimate)
{
    const struct unstick_working_memory *working = &estimate->model->working;

    return json_pack("{s:i,s:i,s:i,s:o,s:o,s:s}", "width", (int)estimate->options.width, "height",
                     (int)estimate->options.height, "batch", (int)estimate->options.batch, "denoise_bytes",
                     json_bytes(working->denoise_bytes), "decode_bytes", json_bytes(working->decode_bytes), "basis",
                     ESTIMATE_WORKING_BASIS);
}

static void estimate_print_json(const struct estimate *estimate)
{
    /* A name need not be UTF-8; then it is null. */
    json_t *id = json_string(estimate->model_id), *path = estimate->path ? json_string(estimate->path) : NULL;

    cli_json_print(json_pack("{s:o,s:o,s:s,s:o,s:o,s:o,s:o,s:o,s:o}", "id", id ? id : json_null(), "path",
                             path ? path : json_null(), "dtype", dtypes[estimate->dtype], "components",
                             json_components(estimate), "total", json_total(estimate), "interval",
                             json_interval(estimate, estimate->totals), "working_memory_bytes",
                             estimate->model ? json_bytes(estimate->model->working.bytes) : json_null(),
                             "working_memory", estimate->model ? json_working(estimate) : json_null(), "learned",
                             json_learned(estimate)));
}

/* --- text --- */

static void estimate_print_row(const struct estimate *estimate, const struct cli_column *columns, const char *name,
                               const char *class_name, uint64_t n_params, const struct unstick_figure *figures)
{
    char params[24], sizes[UNSTICK_QUANTIZATIONS][USK_SIZE_TEXT_MAX];
    const char *cells[4 + UNSTICK_QUANTIZATIONS] = { name, class_name ? class_name : "-", params };
    size_t n = 3;

    snprintf(params, sizeof(params), "%llu", (unsigned long long)n_params);
    for (size_t i = 0; i < estimate->n_shown; i++)
        cells[n++] = usk_size_format(sizes[i], figures[estimate->shown[i]].bytes);
    cells[n++] = estimate_basis(estimate, figures);
    cli_table_row(columns, n, cells);
}

static void estimate_print_notes(const struct estimate *estimate)
{
    char low[USK_SIZE_TEXT_MAX], high[USK_SIZE_TEXT_MAX];

    for (size_t i = 0; i < estimate->n_shown; i++) {
        enum unstick_quantization q = estimate->shown[i];
        const struct unstick_figure *total = &estimate->totals[q];

        if (total->high_bytes != UINT64_MAX && strcmp(usk_size_format(low, total->low_bytes),
                                                      usk_size_format(high, total->high_bytes)))
            printf("%s: between %s and %s\n", unstick_quantization_name(q), low, high);
        if (estimate->peaks[q].n_runs)
            printf("%s: %s at most in %llu earlier run%s, %s in the last\n", unstick_quantization_name(q),
                   usk_size_format(low, estimate->peaks[q].bytes), (unsigned long long)estimate->peaks[q].n_runs,
                   estimate->peaks[q].n_runs == 1 ? "" : "s",
                   usk_size_format(high, estimate->peaks[q].last_bytes));
    }
}

static void estimate_print(const struct estimate *estimate)
{
    struct cli_column columns[4 + UNSTICK_QUANTIZATIONS] = { { "component", -16 }, { "class", -24 }, { "params", 14 } };
    const struct unstick_estimate *model = estimate->model;
    size_t n = 3;

    for (size_t i = 0; i < estimate->n_shown; i++)
        columns[n++] = (struct cli_column){ unstick_quantization_name(estimate->shown[i]), 10 };
    columns[n++] = (struct cli_column){ "basis", 0 };
    cli_table_head(columns, n);
    for (size_t i = 0; model && i < model->n_components; i++)
        estimate_print_row(estimate, columns, model->components[i].name, model->components[i].class_name,
                           model->components[i].n_params, model->components[i].figures);
    estimate_print_row(estimate, columns, "total", NULL, model ? model->n_params : 0, estimate->totals);
    estimate_print_notes(estimate);
    if (model && model->working.bytes) {
        char working[USK_SIZE_TEXT_MAX], denoise[USK_SIZE_TEXT_MAX], decode[USK_SIZE_TEXT_MAX];

        printf("working memory at %ux%u, batch %u: %s (denoising %s, decoding %s), beside the above\n",
               estimate->options.width, estimate->options.height, estimate->options.batch,
               usk_size_format(working, model->working.bytes), usk_size_format(denoise, model->working.denoise_bytes),
               usk_size_format(decode, model->working.decode_bytes));
    }
}

/* --- the verb --- */

static int estimate_run(struct estimate *estimate, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    estimate->model_id = estimate->id ? strdup(estimate->id) : estimate_id_of(estimate->path);
    if (!estimate->model_id) {
        *error = (struct unstick_error){ .status = UNSTICK_OUT_OF_HOST_MEMORY };
        return error->status;
    }
    if (estimate->path)
        r = unstick_estimate_new(estimate->path, &estimate->options, &estimate->model, error);
    if (r >= 0 && estimate->record_bytes)
        r = estimate_record(estimate, error);
    if (r >= 0)
        r = estimate_read_peaks(estimate, error);
    if (r >= 0)
        estimate_total(estimate);
    return r;
}

int cmd_estimate(int argc, char **argv)
{
    struct estimate estimate = { .quant = "all", .resolution = "1024", .batch = 1 };
    const struct cli_option options[] = {
        { "quant", "KIND",
          "all (default), none, 8-bit, 4-bit, 4-bit-dq, fp8 or fp32,\nin any spelling: nf4, int8, bf16, ...",
          CLI_TEXT, &estimate.quant, NULL, 0, 0 },
        { "dtype", "TYPE", "what is not quantized is loaded as bf16 (default), fp16\nor fp32", CLI_CHOICE,
          &estimate.dtype, dtypes, 0, 0 },
        { "resolution", "WxH", "of the images, in pixels (default 1024)", CLI_TEXT, &estimate.resolution, NULL, 0, 0 },
        { "batch", "N", "images at once (default 1)", CLI_COUNT, &estimate.batch, NULL, 1, 1024 },
        { "id", "ID", "the model's id in the record of earlier runs (default:\nfrom PATH)", CLI_TEXT, &estimate.id,
          NULL, 0, 0 },
        { "record", "SIZE", "add a peak that was measured, for the one --quant", CLI_SIZE, &estimate.record_bytes, NULL,
          1, INT64_MAX },
    };
    const struct cli_usage usage = {
        .verb = "estimate",
        .operands = "PATH",
        .about = "Says how much device memory a model takes in each quantization, from the headers\n"
                 "of its files. PATH is a diffusers or transformers directory or a .safetensors\n"
                 "file; with --id alone, what earlier runs took, or a guess.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .min_operands = 0,
        .max_operands = 1,
    };
    struct unstick_error error = { 0 };
    int operand, exit_code = CLI_EXIT_OK;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    estimate.path = operand < argc ? argv[operand] : NULL;
    if (!estimate.path && !estimate.id)
        return cli_fail_usage("PATH or --id is missing; see `unstick estimate --help`");
    if (!estimate_read_quant(&estimate) || !estimate_read_resolution(&estimate))
        return CLI_EXIT_USAGE;
    if (estimate.record_bytes && estimate.n_shown != 1)
        return cli_fail_usage("--record takes one --quant: which was it that was measured?");
    estimate.options.size = sizeof(estimate.options);
    estimate.options.dtype = (enum unstick_load_dtype)estimate.dtype;
    estimate.options.batch = (uint32_t)estimate.batch;
    exit_code = CLI_EXIT_OK;
    if (estimate_run(&estimate, &error) < 0)
        exit_code = cli_fail(&error);
    else if (cli_is_json())
        estimate_print_json(&estimate);
    else
        estimate_print(&estimate);
    unstick_estimate_free(estimate.model);
    free(estimate.model_id);
    return exit_code;
}
