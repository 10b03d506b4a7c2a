/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of torch's CUDA allocator, the versions that take them, and the variables that carry them. Each first
 * version was found by giving the key to the allocator library of every release from 2.1 to 2.14: the release before
 * refuses it. What a key does is said as its source says it; advice is given only where something was measured.
 */
#include "policy/allocconf.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define ANY UNSTICK_TORCH_OLDEST
#define SINCE(_minor) UNSTICK_TORCH(2u, _minor)

static const struct unstick_allocconf_key keys[] = {
    { "backend", NULL, UNSTICK_ALLOCCONF_NAME, "native or cudaMallocAsync", "native", ANY,
      "which allocator serves: torch's own, or the driver's stream-ordered one; fixed when torch is imported",
      "native: with cudaMallocAsync there are no memory pools of one's own, and most other keys do nothing" },
    { "expandable_segments", NULL, UNSTICK_ALLOCCONF_BOOL, "True or False", "False", ANY,
      "segments grow page by page instead of being allocated whole, so that free memory does not splinter",
      "True, alone: reserved 10.98 GiB instead of 11.45 (4-bit FLUX after 4 steps), and 0.04 instead of 5.46 GiB stay "
      "behind after the 8-bit one is freed" },
    { "max_split_size_mb", NULL, UNSTICK_ALLOCCONF_MIB, "more than 20; from 2.10 at least large_segment_size_mb",
      "unlimited", ANY, "blocks larger than this are not split for smaller requests",
      "leave it out: reserved 15.13 GiB instead of 11.45 (4-bit FLUX); with expandable_segments 26.80 instead of "
      "10.98" },
    { "garbage_collection_threshold", NULL, UNSTICK_ALLOCCONF_FRACTION, "above 0, below 1", "off", ANY,
      "above this share of the memory fraction, unused blocks are freed before more is taken",
      "without a memory fraction, and on expandable segments, it does nothing: measured as without" },
    { "roundup_power2_divisions", NULL, UNSTICK_ALLOCCONF_DIVISIONS,
      "a power of two, or a list of power-of-two MiB and divisions; 0 in a list from 2.4", "off", ANY,
      "sizes are rounded up to one of so many steps between powers of two", NULL },
    { "release_lock_on_cudamalloc", "release_lock_on_hipmalloc", UNSTICK_ALLOCCONF_BOOL, "True or False", "False",
      SINCE(2), "the allocator's lock is given up during cudaMalloc, so that other threads go on", NULL },
    { "pinned_use_cuda_host_register", "pinned_use_hip_host_register", UNSTICK_ALLOCCONF_BOOL, "True or False",
      "False", SINCE(2), "pinned host memory is made by malloc and cudaHostRegister instead of cudaHostAlloc", NULL },
    { "pinned_num_register_threads", NULL, UNSTICK_ALLOCCONF_COUNT, "a power of two up to 128", "1", SINCE(2),
      "threads that touch the pages of pinned host memory before it is registered", NULL },
    { "max_non_split_rounding_mb", NULL, UNSTICK_ALLOCCONF_MIB,
      "more than 20; from 2.10 at least large_segment_size_mb", "20", SINCE(6),
      "how much larger than the request a block may be that is too large to split", NULL },
    { "pinned_use_background_threads", NULL, UNSTICK_ALLOCCONF_BOOL, "True or False", "False", SINCE(6),
      "a thread of its own watches when pinned host memory becomes free", NULL },
    { "graph_capture_record_stream_reuse", NULL, UNSTICK_ALLOCCONF_BOOL, "True or False", "False", SINCE(9),
      "while a CUDA graph is captured, blocks used on other streams are reused where the graph allows it", NULL },
    { "per_process_memory_fraction", NULL, UNSTICK_ALLOCCONF_FRACTION, "from 0 to 1", "1", SINCE(10),
      "the share of the device's memory that this process may take", NULL },
    { "pinned_reserve_segment_size_mb", NULL, UNSTICK_ALLOCCONF_MIB, "at least 1", "none", SINCE(10),
      "pinned host memory taken once, from which small blocks are cut; it is never given back", NULL },
    { "large_segment_size_mb", NULL, UNSTICK_ALLOCCONF_MIB, "more than 10", "20", SINCE(11),
      "size of the segments from which blocks of 1 to 10 MiB are cut", NULL },
    { "throw_on_cudamalloc_oom", NULL, UNSTICK_ALLOCCONF_BOOL, "True or False", "False", SINCE(12),
      "an allocation beyond the memory fraction is refused before the driver is asked", NULL },
    { "pinned_free_catch_all", NULL, UNSTICK_ALLOCCONF_BOOL, "True or False", "False", SINCE(12),
      "errors while pinned host memory is freed are swallowed instead of ending the program", NULL },
    { "pinned_max_cached_size_mb", NULL, UNSTICK_ALLOCCONF_MIB, "any", "unlimited", SINCE(13),
      "pinned blocks larger than this go back to the system when they are freed", NULL },
    { "pinned_max_round_threshold_mb", NULL, UNSTICK_ALLOCCONF_MIB, "any", "unlimited", SINCE(13),
      "pinned blocks larger than this are not rounded up to a power of two", NULL },
};

#define N_KEYS (sizeof(keys) / sizeof(keys[0]))

const struct unstick_allocconf_key *unstick_allocconf_key_at(size_t index)
{
    return index < N_KEYS ? &keys[index] : NULL;
}

const struct unstick_allocconf_key *unstick_allocconf_key_find(const char *name)
{
    for (size_t i = 0; name && i < N_KEYS; i++) {
        if (!strcmp(keys[i].name, name) || (keys[i].alias && !strcmp(keys[i].alias, name)))
            return &keys[i];
    }
    return NULL;
}

const char *unstick_allocconf_kind_name(enum unstick_allocconf_kind kind)
{
    switch (kind) {
    case UNSTICK_ALLOCCONF_BOOL:
        return "True/False";
    case UNSTICK_ALLOCCONF_MIB:
        return "MiB";
    case UNSTICK_ALLOCCONF_COUNT:
        return "count";
    case UNSTICK_ALLOCCONF_FRACTION:
        return "fraction";
    case UNSTICK_ALLOCCONF_DIVISIONS:
        return "divisions";
    case UNSTICK_ALLOCCONF_NAME:
        return "name";
    }
    return "unknown";
}

/* Digits, at most three of them; the position behind, NULL if there are none. */
static const char *version_read_part(const char *text, unsigned int *ret_part)
{
    unsigned int part = 0;
    size_t i = 0;

    for (; text[i] >= '0' && text[i] <= '9'; i++) {
        if (i == 3)
            return NULL;
        part = part * 10 + (unsigned int)(text[i] - '0');
    }
    *ret_part = part;
    return i ? text + i : NULL;
}

int unstick_allocconf_torch(const char *version, unsigned int *ret_torch, struct unstick_error *error)
{
    unsigned int major = 0, minor = 0;
    const char *rest;

    if (!version || !ret_torch)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "allocconf", "no torch version was given");
    rest = version_read_part(version, &major);
    rest = rest && *rest == '.' ? version_read_part(rest + 1, &minor) : NULL;
    if (!rest || (*rest && !strchr(".+abr-", *rest)))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "allocconf",
                             "'%.40s' is no torch version: it has the form 2.11 or 2.11.0+cu130", version);
    if (UNSTICK_TORCH(major, minor) < UNSTICK_TORCH_OLDEST)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "allocconf",
                             "torch %.40s is too old: allocator settings are known from 2.1 on", version);
    *ret_torch = UNSTICK_TORCH(major, minor);
    return UNSTICK_OK;
}

const char *unstick_allocconf_variable_found(unsigned int torch,
                                             const struct unstick_allocconf_environment *environment,
                                             const char **ret_value)
{
    static const char *const names[] = { "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF" };
    const char *values[3] = { NULL };
    size_t n = torch < ALLOCCONF_LENIENT ? 1 : 3;

    if (!environment || environment->size < sizeof(*environment))
        return NULL;
    values[0] = environment->cuda;
    values[1] = environment->hip;
    values[2] = environment->generic;
    /* A variable that is set to nothing is set: it hides those behind it. */
    for (size_t i = 0; i < n; i++) {
        if (values[i]) {
            if (ret_value)
                *ret_value = values[i];
            return names[i];
        }
    }
    return NULL;
}

const char *unstick_allocconf_variable_at(unsigned int torch, size_t index)
{
    if (index == 0)
        return "PYTORCH_CUDA_ALLOC_CONF";
    return index == 1 && torch >= ALLOCCONF_LENIENT ? "PYTORCH_ALLOC_CONF" : NULL;
}
