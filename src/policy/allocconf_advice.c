/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What torch takes and a user should still know: settings that do nothing where they stand, and settings that cost
 * memory. A warning is given only for what was measured (docs/allocator.md has the table) or is written in torch's
 * source; it names the key it is about and says what to do.
 */
#include "policy/allocconf.h"

#include <stdio.h>
#include <string.h>

static bool advice_is_true(const struct unstick_allocconf_entry *entry)
{
    return entry && entry->number;
}

static void advise_split(struct unstick_allocconf *conf, bool is_expandable)
{
    const struct unstick_allocconf_entry *split = usk_allocconf_entry_find(conf, "max_split_size_mb");

    if (!split)
        return;
    if (is_expandable)
        usk_allocconf_warn(conf, split->offset, "max_split_size_mb with expandable_segments more than doubles what is "
                                                "reserved (26.80 instead of 10.98 GiB for a 4-bit FLUX): leave it out");
    else
        usk_allocconf_warn(conf, split->offset, "max_split_size_mb reserves a third more (15.13 instead of 11.45 GiB "
                                                "for a 4-bit FLUX): leave it out, use expandable_segments:True");
    if (split->number == 20 && conf->torch >= ALLOCCONF_LENIENT)
        usk_allocconf_warn(conf, split->offset, "max_split_size_mb:20 stops torch up to 2.9: use 21 or more");
}

/* From 2.10 the fraction may stand in the string; before, only the program can set it. */
static bool advice_has_fraction(const struct unstick_allocconf *conf, const struct unstick_allocconf_input *input)
{
    const struct unstick_allocconf_entry *fraction = usk_allocconf_entry_find(conf, "per_process_memory_fraction");

    if (input->memory_fraction > 0)
        return conf->torch < ALLOCCONF_LENIENT || input->memory_fraction < 1;
    return fraction && fraction->fraction < 1;
}

static void advise_threshold(struct unstick_allocconf *conf, const struct unstick_allocconf_input *input,
                             bool is_expandable)
{
    const struct unstick_allocconf_entry *threshold = usk_allocconf_entry_find(conf, "garbage_collection_threshold");

    if (!threshold)
        return;
    if (is_expandable)
        usk_allocconf_warn(conf, threshold->offset,
                           "garbage_collection_threshold does nothing with expandable_segments: leave it out");
    else if (!advice_has_fraction(conf, input))
        usk_allocconf_warn(conf, threshold->offset,
                           "garbage_collection_threshold does nothing without a memory fraction%s",
                           conf->torch < ALLOCCONF_LENIENT
                               ? ": call torch.cuda.set_per_process_memory_fraction(), or leave it out"
                               : " below 1: add per_process_memory_fraction, or leave it out");
}

static void advise_backend(struct unstick_allocconf *conf)
{
    const struct unstick_allocconf_entry *backend = usk_allocconf_entry_find(conf, "backend");

    if (!backend || strcmp(backend->value, "cudaMallocAsync") != 0)
        return;
    usk_allocconf_warn(conf, backend->offset,
                       "cudaMallocAsync has no memory pools: torch.cuda.MemPool, and capture during load, do not work");
    for (size_t i = 0; i < conf->n_entries; i++) {
        const char *name = conf->entries[i].key->name;

        if (strcmp(name, "backend") != 0 && strncmp(name, "pinned_", 7) != 0)
            usk_allocconf_warn(conf, conf->entries[i].offset, "%s does nothing with backend:cudaMallocAsync",
                               conf->entries[i].name);
    }
}

static void advise_pinned(struct unstick_allocconf *conf)
{
    const struct unstick_allocconf_entry *threads = usk_allocconf_entry_find(conf, "pinned_num_register_threads");

    if (threads && threads->number > 1 &&
        !advice_is_true(usk_allocconf_entry_find(conf, "pinned_use_cuda_host_register")))
        usk_allocconf_warn(conf, threads->offset,
                           "pinned_num_register_threads does nothing without pinned_use_cuda_host_register:True");
}

static void advise_refusal(struct unstick_allocconf *conf)
{
    const struct unstick_allocconf_entry *refusal = usk_allocconf_entry_find(conf, "throw_on_cudamalloc_oom");
    const struct unstick_allocconf_entry *fraction = usk_allocconf_entry_find(conf, "per_process_memory_fraction");

    if (advice_is_true(refusal) && !fraction)
        usk_allocconf_warn(conf, refusal->offset,
                           "throw_on_cudamalloc_oom measures against per_process_memory_fraction, which is not given");
}

void usk_allocconf_advise(struct unstick_allocconf *conf, const struct unstick_allocconf_input *input)
{
    bool is_expandable = advice_is_true(usk_allocconf_entry_find(conf, "expandable_segments"));

    if (input->is_caching_disabled)
        usk_allocconf_warn(conf, SIZE_MAX, "PYTORCH_NO_CUDA_MEMORY_CACHING is set: torch caches nothing, every "
                                           "allocation goes to the driver, and the settings of the cache do nothing");
    if (input->torch > UNSTICK_TORCH_NEWEST)
        usk_allocconf_warn(conf, SIZE_MAX, "torch %u.%u is newer than what is known here: read by the rules of %u.%u",
                           input->torch / 1000, input->torch % 1000, UNSTICK_TORCH_NEWEST / 1000,
                           UNSTICK_TORCH_NEWEST % 1000);
    advise_split(conf, is_expandable);
    advise_threshold(conf, input, is_expandable);
    advise_backend(conf);
    advise_pinned(conf);
    advise_refusal(conf);
}
