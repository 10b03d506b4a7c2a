/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a whole checkpoint directory. The steps are the libraries' save_pretrained(): tensors are dealt to
 * shards in the order of the state_dict, a new shard begins when the next tensor would make the last one
 * larger than the limit (10 GB in diffusers, 50 GB in transformers), and more than one shard gets an index.
 * All of it happens in a stage, which takes its name at the very end.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/flux.h"

#define DIFFUSERS_SHARD_BYTES UINT64_C(10000000000)
#define TRANSFORMERS_SHARD_BYTES UINT64_C(50000000000)
/* A generous bound for all JSON and headers together: 6000 tensors at full size. */
#define HEADERS_BYTES (UINT64_C(2) << 20)

static const char *const folders[] = { "scheduler", "text_encoder", "text_encoder_2",
                                       "tokenizer", "tokenizer_2",  "transformer",
                                       "vae" };

struct run {
    const struct usk_flux_options *options;
    const struct usk_flux_inventory *inventory;
    const char *path; /* of the stage */
    struct usk_flux_progress progress;
    struct usk_flux_report report;
    struct unstick_error *error;
};

static int run_fail_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc",
                         "out of host memory for the file list");
}

static void run_fill(void *userdata, const struct usk_writer_tensor *tensor, uint64_t offset, void *buffer,
                     size_t bytes)
{
    const struct run *run = userdata;

    usk_flux_fill((const struct usk_flux_tensor *)tensor, run->options->seed, offset, buffer, bytes);
}

static bool run_advance(void *userdata, uint64_t bytes)
{
    struct run *run = userdata;

    run->progress.done_bytes += bytes;
    return !run->options->progress || run->options->progress(run->options->userdata, &run->progress);
}

static bool part_is_diffusers(enum usk_flux_part part)
{
    return part == USK_FLUX_TRANSFORMER || part == USK_FLUX_VAE;
}

/* The tensors of one part, and to which shard each belongs. */
struct deal {
    const struct usk_flux_component *component;
    enum usk_flux_part part;
    uint32_t *shards; /* per tensor */
    uint32_t n_shards;
    uint64_t total_bytes;
};

static void deal_closep(struct deal *deal)
{
    free(deal->shards);
}

static int deal_make(struct deal *deal, uint64_t limit_bytes, struct unstick_error *error)
{
    uint64_t shard_bytes = 0;

    deal->shards = calloc(deal->component->n_tensors, sizeof(*deal->shards));
    if (!deal->shards)
        return run_fail_memory(error);
    deal->n_shards = 1;
    for (size_t i = 0; i < deal->component->n_tensors; i++) {
        uint64_t bytes = deal->component->tensors[i].file.bytes;

        if (shard_bytes && shard_bytes + bytes > limit_bytes) {
            deal->n_shards++;
            shard_bytes = 0;
        }
        deal->shards[i] = deal->n_shards - 1;
        shard_bytes += bytes;
        deal->total_bytes += bytes;
    }
    return UNSTICK_OK;
}

#define FILE_NAME_MAX_BYTES 64

static void deal_name_file(const struct deal *deal, uint32_t shard, char *ret_name)
{
    const char *stem = part_is_diffusers(deal->part) ? "diffusion_pytorch_model" : "model";

    if (deal->n_shards == 1)
        snprintf(ret_name, FILE_NAME_MAX_BYTES, "%s.safetensors", stem);
    else
        snprintf(ret_name, FILE_NAME_MAX_BYTES, "%s-%05u-of-%05u.safetensors", stem, shard + 1,
                 deal->n_shards);
}

static int run_write_text(void *userdata, const char *path, const char *text, struct unstick_error *error)
{
    struct run *run = userdata;
    USK_CLEANUP(usk_freep) char *full_path = NULL;

    if (asprintf(&full_path, "%s/%s", run->path, path) < 0) {
        full_path = NULL;
        return run_fail_memory(error);
    }
    return usk_writer_write_text(full_path, text, error);
}

static int run_write_index(struct run *run, const struct deal *deal)
{
    const char *stem = part_is_diffusers(deal->part) ? "diffusion_pytorch_model" : "model";
    json_t *map = json_object();
    json_t *root = json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)deal->total_bytes,
                             "weight_map", map);
    USK_CLEANUP(usk_freep) char *text = NULL;
    USK_CLEANUP(usk_freep) char *line = NULL;
    char name[FILE_NAME_MAX_BYTES], path[2 * FILE_NAME_MAX_BYTES];

    for (size_t i = 0; i < deal->component->n_tensors; i++) {
        deal_name_file(deal, deal->shards[i], name);
        if (json_object_set_new(map, deal->component->tensors[i].file.name, json_string(name)) < 0)
            break;
    }
    if (root && json_object_size(map) == deal->component->n_tensors)
        text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(root);
    if (!text || asprintf(&line, "%s\n", text) < 0) {
        line = NULL;
        return run_fail_memory(run->error);
    }
    snprintf(path, sizeof(path), "%s/%s.safetensors.index.json", deal->component->name, stem);
    return run_write_text(run, path, line, run->error);
}

static int run_write_shard(struct run *run, const struct deal *deal, uint32_t shard)
{
    const struct usk_flux_component *component = deal->component;
    USK_CLEANUP(usk_freep)
    const struct usk_writer_tensor **tensors = calloc(component->n_tensors, sizeof(struct usk_writer_tensor *));
    USK_CLEANUP(usk_freep) char *path = NULL;
    struct usk_writer_options options = {
        .is_sparse = run->options->is_sparse,
        .fill = run_fill,
        .progress = run_advance,
        .userdata = run,
    };
    char name[FILE_NAME_MAX_BYTES];
    uint64_t file_bytes;
    size_t n_tensors = 0;
    int status;

    deal_name_file(deal, shard, name);
    if (!tensors || asprintf(&path, "%s/%s/%s", run->path, component->name, name) < 0) {
        path = NULL;
        return run_fail_memory(run->error);
    }
    for (size_t i = 0; i < component->n_tensors; i++) {
        if (deal->shards[i] == shard)
            tensors[n_tensors++] = &component->tensors[i].file;
    }
    status = usk_writer_write(path, tensors, n_tensors, &options, &file_bytes, run->error);
    if (status)
        return status;
    run->report.parts[deal->part].file_bytes += file_bytes;
    run->report.file_bytes += file_bytes;
    return UNSTICK_OK;
}

static int run_write_part(struct run *run, enum usk_flux_part part)
{
    USK_CLEANUP(deal_closep) struct deal deal = { .component = &run->inventory->parts[part], .part = part };
    uint64_t limit_bytes = run->options->shard_bytes;
    int status;

    if (!limit_bytes)
        limit_bytes = part_is_diffusers(part) ? DIFFUSERS_SHARD_BYTES : TRANSFORMERS_SHARD_BYTES;
    run->progress.part = deal.component->name;
    status = deal_make(&deal, limit_bytes, run->error);
    for (uint32_t shard = 0; shard < deal.n_shards && !status; shard++)
        status = run_write_shard(run, &deal, shard);
    if (!status && deal.n_shards > 1)
        status = run_write_index(run, &deal);
    run->report.parts[part].name = deal.component->name;
    run->report.parts[part].n_tensors = deal.component->n_tensors;
    run->report.parts[part].n_files = deal.n_shards;
    run->report.parts[part].device_bytes = deal.component->device_bytes;
    run->report.parts[part].memory_bytes = deal.component->memory_bytes;
    return status;
}

static int run_write(struct run *run)
{
    int status = UNSTICK_OK;

    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
        USK_CLEANUP(usk_freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", run->path, folders[i]) < 0) {
            path = NULL;
            return run_fail_memory(run->error);
        }
        if (mkdir(path, 0777) < 0)
            return usk_error_errno(run->error, errno, "mkdir", "cannot create %s", path);
    }
    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS && !status; part++)
        status = run_write_part(run, part);
    return status ? status : usk_flux_config_write(run->inventory, run_write_text, run, run->error);
}

static uint64_t inventory_sum(const struct usk_flux_inventory *inventory)
{
    uint64_t bytes = 0;

    for (enum usk_flux_part part = 0; part < USK_FLUX_N_PARTS; part++) {
        for (size_t i = 0; i < inventory->parts[part].n_tensors; i++)
            bytes += inventory->parts[part].tensors[i].file.bytes;
    }
    return bytes;
}

static int run_begin(struct run *run, const char *dir, struct usk_flux_stage **ret_stage)
{
    uint64_t bytes = inventory_sum(run->inventory);

    run->progress.total_bytes = bytes;
    return usk_flux_stage_new(dir, run->options->is_sparse ? 0 : bytes + HEADERS_BYTES, ret_stage,
                              run->error);
}

int usk_flux_write(const char *dir, const struct usk_flux_options *options,
                   struct usk_flux_report *ret_report, struct unstick_error *error)
{
    struct run run = { .options = options, .error = error };
    struct usk_flux_inventory *inventory;
    struct usk_flux_stage *stage;
    struct usk_flux_shape shape;
    int status;

    if (!options->scale || options->scale > USK_FLUX_SCALE_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "synth", "scale %llu: takes 1 to %d",
                             (unsigned long long)options->scale, USK_FLUX_SCALE_MAX);
    usk_flux_shape_scaled(options->variant, options->scale, &shape);
    status = usk_flux_inventory_new(&shape, options->quant, &inventory, error);
    if (status)
        return status;
    run.inventory = inventory;
    status = run_begin(&run, dir, &stage);
    if (!status) {
        run.path = usk_flux_stage_path(stage);
        status = run_write(&run);
        if (status)
            usk_flux_stage_discard(stage);
        else
            status = usk_flux_stage_commit(stage, error);
    }
    usk_flux_inventory_free(inventory);
    if (!status)
        *ret_report = run.report;
    return status;
}
