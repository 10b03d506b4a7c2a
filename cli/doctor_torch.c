/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of `unstick doctor` that looks at torch's allocator settings: which variable is in force, and what in it does
 * harm. It reads the environment, which is the command line's to do and never the library's.
 */
#include <stdlib.h>
#include <string.h>

#include "doctor.h"

#define TORCH_RECOMMENDED "expandable_segments:True"

/* What to say about a string: level and advice. One place, so that a parser that knows torch's versions can take over. */
struct torch_judgement {
    enum doctor_level level;
    const char *advice;
};

/* True if the list of settings has this one, whatever its value. */
static bool torch_setting_is_there(const char *settings, const char *name)
{
    size_t length = strlen(name);

    for (const char *p = settings; p && *p; p = strchr(p, ','), p = p ? p + 1 : NULL) {
        p += strspn(p, " ");
        if (!strncmp(p, name, length) && p[length] == ':')
            return true;
    }
    return false;
}

static struct torch_judgement torch_judge(const char *settings)
{
    bool is_expandable = strstr(settings, TORCH_RECOMMENDED);

    if (torch_setting_is_there(settings, "max_split_size_mb"))
        return (struct torch_judgement) { DOCTOR_WARN, "take max_split_size_mb out: with it torch keeps up to twice "
                                                       "the memory it uses" };
    if (!is_expandable)
        return (struct torch_judgement) { DOCTOR_WARN, "add expandable_segments:True: without it torch cannot give "
                                                       "freed memory back" };
    if (torch_setting_is_there(settings, "garbage_collection_threshold"))
        return (struct torch_judgement) { DOCTOR_OK, "garbage_collection_threshold does nothing with expandable "
                                                     "segments: it can go" };
    return (struct torch_judgement) { DOCTOR_OK, NULL };
}

void doctor_check_torch(struct doctor *doctor)
{
    static const char *const names[] = { "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF" };
    const char *settings = NULL, *name = names[0], *uncached = getenv("PYTORCH_NO_CUDA_MEMORY_CACHING");
    struct torch_judgement judgement;

    /* The first one that is set wins; before torch 2.10 only the first name counts. */
    for (size_t i = 0; !settings && i < sizeof(names) / sizeof(names[0]); i++) {
        settings = getenv(names[i]);
        name = settings ? names[i] : name;
    }
    if (!settings) {
        doctor_add(doctor, doctor->has_gpu ? DOCTOR_WARN : DOCTOR_OK, "torch settings",
                   doctor->has_gpu ? "export PYTORCH_CUDA_ALLOC_CONF=" TORCH_RECOMMENDED " before torch starts" : NULL,
                   "%s is not set", name);
    } else {
        judgement = torch_judge(settings);
        if (judgement.level == DOCTOR_OK && name != names[0])
            judgement = (struct torch_judgement) {
                DOCTOR_WARN, "before torch 2.10 only PYTORCH_CUDA_ALLOC_CONF counts: set both"
            };
        doctor_add(doctor, judgement.level, "torch settings", judgement.advice, "%s=%.300s", name, settings);
    }
    if (uncached)
        doctor_add(doctor, DOCTOR_WARN, "torch caching",
                   "unset PYTORCH_NO_CUDA_MEMORY_CACHING, unless you look for a memory error",
                   "PYTORCH_NO_CUDA_MEMORY_CACHING=%.40s: torch asks the driver for every tensor", uncached);
}
