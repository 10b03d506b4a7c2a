/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocator strings, by the rules of every torch. The first byte chooses the version. What is accepted is written and
 * read again: the entries are the same, and so is what is written from them. What is refused is not written.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/allocconf.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void conf_check_same(const struct unstick_allocconf *left, const struct unstick_allocconf *right)
{
    if (left->n_entries != right->n_entries)
        abort();
    for (size_t i = 0; i < left->n_entries; i++) {
        const struct unstick_allocconf_entry *a = &left->entries[i], *b = &right->entries[i];

        if (a->key != b->key || strcmp(a->name, b->name) != 0 || strcmp(a->value, b->value) != 0 ||
            a->number != b->number || memcmp(&a->fraction, &b->fraction, sizeof(a->fraction)) != 0 ||
            a->is_overridden != b->is_overridden)
            abort();
    }
}

static void conf_check_notes(const struct unstick_allocconf_note *notes, size_t n, size_t length)
{
    if (n > UNSTICK_ALLOCCONF_NOTES_MAX)
        abort();
    for (size_t i = 0; i < n; i++) {
        if (!notes[i].text[0] || !memchr(notes[i].text, 0, sizeof(notes[i].text)) ||
            (notes[i].offset != SIZE_MAX && notes[i].offset > length))
            abort();
        for (const char *c = notes[i].text; *c; c++) {
            if (*c < ' ' || *c > '~')
                abort();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct unstick_allocconf conf, again;
    struct unstick_allocconf_input input = { .size = sizeof(input) };
    struct unstick_allocconf_readback readback = { .size = sizeof(readback) };
    struct unstick_allocconf_verdict verdict = { .size = sizeof(verdict) };
    char text[UNSTICK_ALLOCCONF_TEXT_MAX + 64], first[UNSTICK_ALLOCCONF_TEXT_MAX], second[UNSTICK_ALLOCCONF_TEXT_MAX];
    unsigned int versions = UNSTICK_TORCH_NEWEST - UNSTICK_TORCH_OLDEST + 2;
    int r;

    if (!n || n > sizeof(text))
        return 0;
    memcpy(text, data + 1, n - 1);
    text[n - 1] = 0;
    input.text = text;
    input.torch = UNSTICK_TORCH_OLDEST + data[0] % versions;
    conf.size = again.size = sizeof(conf);
    r = unstick_allocconf_parse(&input, &conf);
    if ((r == UNSTICK_OK) != (conf.n_errors == 0) || conf.n_entries > UNSTICK_ALLOCCONF_ENTRIES_MAX)
        abort();
    conf_check_notes(conf.errors, conf.n_errors, strlen(text));
    conf_check_notes(conf.warnings, conf.n_warnings, strlen(text));
    if (r < 0) {
        if (unstick_allocconf_emit(&conf, first, sizeof(first), NULL) != UNSTICK_BAD_FORMAT)
            abort();
        return 0;
    }
    /* The plain form may be longer than what was given: "[" reads as "[]". */
    if (unstick_allocconf_emit(&conf, first, sizeof(first), NULL) < 0)
        return 0;
    input.text = first;
    if (unstick_allocconf_parse(&input, &again) < 0)
        abort();
    conf_check_same(&conf, &again);
    if (unstick_allocconf_emit(&again, second, sizeof(second), NULL) < 0 || strcmp(first, second) != 0)
        abort();
    readback.text = first;
    readback.torch = input.torch;
    if (unstick_allocconf_compare(text, &readback, &verdict) < 0 || verdict.outcome != UNSTICK_ALLOCCONF_IN_FORCE)
        abort();
    return 0;
}
