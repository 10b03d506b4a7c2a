/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Did a string take effect? Both sides are read by the rules of the same torch and compared as settings, not as text:
 * order, blanks and repetition do not count. What torch hands back is the string it parsed last, so a difference means
 * that it started before the variable was set, read another variable, or was given other settings since.
 */
#include "policy/allocconf.h"

#include <stdio.h>
#include <string.h>

/* The first setting of `left` that counts and that `right` has not; NULL: there is none. */
static const struct unstick_allocconf_entry *compare_missing(const struct unstick_allocconf *left,
                                                             const struct unstick_allocconf *right)
{
    for (size_t i = 0; i < left->n_entries; i++) {
        const struct unstick_allocconf_entry *entry = &left->entries[i], *other;

        if (entry->is_overridden)
            continue;
        other = usk_allocconf_entry_find(right, entry->key->name);
        /* "0.80" and "0.8" are one number in two spellings. */
        if (other && entry->key->kind == UNSTICK_ALLOCCONF_FRACTION && !(other->fraction < entry->fraction) &&
            !(other->fraction > entry->fraction))
            continue;
        if (!other || strcmp(other->value, entry->value) != 0)
            return entry;
    }
    return NULL;
}

static void verdict_set_difference(struct unstick_allocconf_verdict *verdict, const struct unstick_allocconf *wanted,
                                   const struct unstick_allocconf *found)
{
    const struct unstick_allocconf_entry *missing = compare_missing(wanted, found);
    const struct unstick_allocconf_entry *entry = missing ? missing : compare_missing(found, wanted);
    const struct unstick_allocconf_entry *other;

    if (!entry)
        return;
    other = usk_allocconf_entry_find(missing ? found : wanted, entry->key->name);
    verdict->outcome = UNSTICK_ALLOCCONF_DIFFERENT;
    if (missing && other)
        snprintf(verdict->text, sizeof(verdict->text),
                 "torch works with %s:%.100s, not with %.100s: other settings were given before or since", entry->name,
                 other->value, entry->value);
    else if (missing)
        snprintf(verdict->text, sizeof(verdict->text),
                 "torch works without %s:%.100s: other settings were given before or since", entry->name, entry->value);
    else
        snprintf(verdict->text, sizeof(verdict->text), "torch works with %s:%.100s too, which was not asked for",
                 entry->name, entry->value);
}

static void verdict_set(struct unstick_allocconf_verdict *verdict, const struct unstick_allocconf *wanted,
                        const struct unstick_allocconf *found, const struct unstick_allocconf_readback *readback)
{
    const struct unstick_allocconf_entry *expandable = usk_allocconf_entry_find(wanted, "expandable_segments");

    if (wanted->n_entries && !found->n_entries) {
        verdict->outcome = UNSTICK_ALLOCCONF_NOT_READ;
        snprintf(verdict->text, sizeof(verdict->text),
                 "torch has read no settings: CUDA started before they were set, or they are in a variable that torch "
                 "%u.%u does not read (%s); set %s before torch is imported",
                 readback->torch / 1000, readback->torch % 1000,
                 readback->torch < ALLOCCONF_LENIENT ? "PYTORCH_ALLOC_CONF counts from 2.10 on"
                                                     : "PYTORCH_CUDA_ALLOC_CONF, if set, hides PYTORCH_ALLOC_CONF",
                 unstick_allocconf_variable_at(readback->torch, 0));
    } else if (compare_missing(wanted, found) || compare_missing(found, wanted)) {
        verdict_set_difference(verdict, wanted, found);
    } else if (readback->is_caching_disabled) {
        verdict->outcome = UNSTICK_ALLOCCONF_INERT;
        snprintf(verdict->text, sizeof(verdict->text),
                 "torch has read the settings, and caches nothing: unset PYTORCH_NO_CUDA_MEMORY_CACHING");
    } else if (expandable && expandable->number && readback->expandable_segments < 0) {
        verdict->outcome = UNSTICK_ALLOCCONF_INERT;
        snprintf(verdict->text, sizeof(verdict->text),
                 "torch has read expandable_segments:True and cannot do it on this platform, as on WSL2 and some "
                 "virtual GPUs");
    } else {
        verdict->outcome = UNSTICK_ALLOCCONF_IN_FORCE;
        snprintf(verdict->text, sizeof(verdict->text), "in force");
    }
}

int unstick_allocconf_compare(const char *wanted, const struct unstick_allocconf_readback *readback,
                              struct unstick_allocconf_verdict *verdict)
{
    struct unstick_allocconf left = { .size = sizeof(left) }, right = { .size = sizeof(right) };
    struct unstick_allocconf_input input = { .size = sizeof(input), .text = wanted };
    int r;

    if (!readback || !verdict || readback->size < sizeof(*readback) || verdict->size < sizeof(*verdict))
        return UNSTICK_INVALID_ARGUMENT;
    input.torch = readback->torch;
    r = unstick_allocconf_parse(&input, &left);
    if (r < 0)
        return r;
    /* What torch hands back it has read. If it cannot be read here, nothing of it is known to be in force. */
    input.text = readback->text;
    if (unstick_allocconf_parse(&input, &right) < 0)
        right.n_entries = 0;
    verdict_set(verdict, &left, &right, readback);
    return UNSTICK_OK;
}
