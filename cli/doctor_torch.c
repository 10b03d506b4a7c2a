/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of `unstick doctor` that looks at torch's allocator settings: which variable is in force, and what in it
 * does harm. It reads the environment, which is the command line's to do and never the library's. Which torch will read
 * the string is not known here: it is read by the rules of the newest, and what stops an older one is said.
 */
#include <stdlib.h>
#include <string.h>

#include <unstick/allocconf.h>

#include "base/text.h"
#include "doctor.h"

#define TORCH_EXPANDABLE "expandable_segments"
#define TORCH_RECOMMENDED TORCH_EXPANDABLE ":True"

static void torch_advise(struct usk_text *advice, const char *what)
{
    usk_text_add(advice, "%s%s", advice->length ? "; " : "", what);
}

static bool torch_is_expandable(const struct unstick_allocconf *conf)
{
    for (size_t i = 0; i < conf->n_entries; i++) {
        const struct unstick_allocconf_entry *entry = &conf->entries[i];

        if (!strcmp(entry->key->name, TORCH_EXPANDABLE) && !entry->is_overridden)
            return entry->number;
    }
    return false;
}

/* What to change in a string, and how urgent that is. */
static enum doctor_level torch_judge(const char *settings, bool is_uncached, struct usk_text *advice)
{
    static struct unstick_allocconf conf;
    struct unstick_allocconf_input input = {
        .size = sizeof(input),
        .text = settings,
        .torch = UNSTICK_TORCH_NEWEST,
        .is_caching_disabled = is_uncached,
    };
    enum doctor_level level;
    int r;

    conf.size = sizeof(conf);
    r = unstick_allocconf_parse(&input, &conf);
    if (r < 0 && r != UNSTICK_BAD_FORMAT) {
        torch_advise(advice, unstick_status_text(r));
        return DOCTOR_WARN;
    }
    for (size_t i = 0; i < conf.n_errors && i < UNSTICK_ALLOCCONF_NOTES_MAX; i++)
        torch_advise(advice, conf.errors[i].text);
    for (size_t i = 0; i < conf.n_warnings && i < UNSTICK_ALLOCCONF_NOTES_MAX; i++)
        torch_advise(advice, conf.warnings[i].text);
    if (!conf.n_errors && !torch_is_expandable(&conf))
        torch_advise(advice, "add " TORCH_RECOMMENDED ": without it torch cannot give freed memory back");
    level = advice->length ? DOCTOR_WARN : DOCTOR_OK;
    for (size_t i = 0; i < conf.n_entries; i++) {
        const struct unstick_allocconf_key *key = conf.entries[i].key;

        if (key->since > UNSTICK_TORCH_OLDEST)
            usk_text_add(advice, "%s%s stops torch before %u.%u", advice->length ? "; " : "", key->name,
                         key->since / 1000, key->since % 1000);
    }
    return level;
}

void doctor_check_torch(struct doctor *doctor)
{
    const struct unstick_allocconf_environment environment = {
        .size = sizeof(environment),
        .cuda = getenv("PYTORCH_CUDA_ALLOC_CONF"),
        .hip = getenv("PYTORCH_HIP_ALLOC_CONF"),
        .generic = getenv("PYTORCH_ALLOC_CONF"),
    };
    const char *settings = NULL, *uncached = getenv("PYTORCH_NO_CUDA_MEMORY_CACHING");
    const char *name = unstick_allocconf_variable_found(UNSTICK_TORCH_NEWEST, &environment, &settings);
    char buffer[512];
    struct usk_text advice;
    enum doctor_level level;

    usk_text_init(&advice, buffer, sizeof(buffer));
    if (!name) {
        doctor_add(doctor, doctor->has_gpu ? DOCTOR_WARN : DOCTOR_OK, "torch settings",
                   doctor->has_gpu ? "export PYTORCH_CUDA_ALLOC_CONF=" TORCH_RECOMMENDED " before torch starts" : NULL,
                   "PYTORCH_CUDA_ALLOC_CONF is not set");
    } else {
        level = torch_judge(settings, uncached, &advice);
        if (!environment.cuda) {
            level = DOCTOR_WARN;
            torch_advise(&advice, "before torch 2.10 only PYTORCH_CUDA_ALLOC_CONF counts: set both");
        }
        doctor_add(doctor, level, "torch settings", advice.length ? buffer : NULL, "%s=%.300s", name, settings);
    }
    if (uncached)
        doctor_add(doctor, DOCTOR_WARN, "torch caching",
                   "unset PYTORCH_NO_CUDA_MEMORY_CACHING, unless you look for a memory error",
                   "PYTORCH_NO_CUDA_MEMORY_CACHING=%.40s: torch asks the driver for every tensor", uncached);
}
