/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ready-made strings. Every known torch takes each of them; the seed's four are kept as they were published, so that
 * they can be compared, and say what was measured. One is recommended for every size of card: no other was better
 * anywhere, and the reason that is given differs with what the alternative would cost on that card.
 */
#include "policy/allocconf.h"

#include <stdio.h>
#include <string.h>

#include "base/size.h"

#define GIB (UINT64_C(1) << 30)

#define RECOMMENDED 0

static const struct unstick_allocconf_profile profiles[] = {
    [RECOMMENDED] = { "recommended", NULL, "expandable_segments:True",
                      "for everything: the best that was measured, and what importing unstick applies",
                      "reserved after 4 steps 10.98 GiB (4-bit FLUX, 10.3 live) and 17.69 GiB (8-bit, 16.6 live); "
                      "0.04 GiB stay behind after the model is freed, 5.46 without it" },
    { "seed", "default", "garbage_collection_threshold:0.8,max_split_size_mb:128,expandable_segments:True",
      "the string that this project began with",
      "reserved after 4 steps 26.80 GiB (4-bit FLUX, 10.3 live) and 29.27 GiB (8-bit, 16.6 live): "
      "max_split_size_mb makes it worse, the threshold does nothing" },
    { "inference-optimized", NULL, "garbage_collection_threshold:0.9,max_split_size_mb:512",
      "meant for inference without clean-up",
      "the threshold does nothing without a memory fraction; max_split_size_mb was measured at 128 only, where it "
      "reserves a third more" },
    { "memory-constrained", NULL, "garbage_collection_threshold:0.7,max_split_size_mb:64",
      "meant for cards of less than 12 GB",
      "the threshold does nothing without a memory fraction; max_split_size_mb:128 reserved 14.05 GiB for a 4-bit "
      "FLUX just loaded, 10.39 without it" },
    { "quantization-heavy", NULL, "garbage_collection_threshold:0.75,max_split_size_mb:128",
      "meant for frequent switches between quantizations",
      "with max_split_size_mb:128 reserved after 4 steps 15.13 GiB (4-bit FLUX) and 23.91 GiB (8-bit), 11.45 and "
      "18.22 without it; after the 8-bit one is freed 0.08 GiB stay, 5.46 without it" },
};

#define N_PROFILES (sizeof(profiles) / sizeof(profiles[0]))

const struct unstick_allocconf_profile *unstick_allocconf_profile_at(size_t index)
{
    return index < N_PROFILES ? &profiles[index] : NULL;
}

const struct unstick_allocconf_profile *unstick_allocconf_profile_find(const char *name)
{
    for (size_t i = 0; name && i < N_PROFILES; i++) {
        if (!strcmp(profiles[i].name, name) || (profiles[i].alias && !strcmp(profiles[i].alias, name)))
            return &profiles[i];
    }
    return NULL;
}

/* What the seed's string would do on a card of this size; the figures are those of docs/allocator.md. */
static const char *choice_reason(uint64_t device_bytes)
{
    if (device_bytes < 12 * GIB)
        return "memory-constrained is meant for less than 12 GB, and its max_split_size_mb reserves a third more: "
               "expandable segments waste least (10.98 GiB reserved for 10.3 live)";
    if (device_bytes < 16 * GIB)
        return "a 4-bit FLUX (10.3 GiB live) fits with expandable segments alone (10.98 GiB reserved); with "
               "max_split_size_mb it takes 15.13 GiB";
    if (device_bytes < 32 * GIB)
        return "an 8-bit FLUX (16.6 GiB live) takes 17.69 GiB with expandable segments alone, 29.27 with the "
               "seed's string";
    return "memory is not short, and expandable segments alone still give back most after a model is freed: 0.04 GiB "
           "stay, 5.46 without them";
}

int unstick_allocconf_choose(uint64_t device_bytes, unsigned int torch, struct unstick_allocconf_choice *choice)
{
    char size[USK_SIZE_TEXT_MAX];

    if (!choice || choice->size < sizeof(*choice))
        return UNSTICK_INVALID_ARGUMENT;
    if (torch < UNSTICK_TORCH_OLDEST)
        return UNSTICK_UNSUPPORTED;
    choice->profile = &profiles[RECOMMENDED];
    snprintf(choice->text, sizeof(choice->text), "%s", profiles[RECOMMENDED].text);
    if (device_bytes)
        snprintf(choice->reason, sizeof(choice->reason), "%s of device memory: %s",
                 usk_size_format(size, device_bytes), choice_reason(device_bytes));
    else
        snprintf(choice->reason, sizeof(choice->reason),
                 "the size of the card is not known: expandable segments alone were best wherever it was measured");
    return UNSTICK_OK;
}
