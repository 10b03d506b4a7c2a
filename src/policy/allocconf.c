/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads an allocator string as torch does. The invariant: a string has errors here if and only if the given torch
 * refuses it, and its entries are what that torch then works with. To hold it, the walk over the tokens is torch's own,
 * oddities included:
 *
 *   - up to 2.9 there is one walk, in which every separator is insisted on;
 *   - from 2.10 there are two, one for the keys of all devices and one for CUDA's, each of which skips the other's keys
 *     and takes whatever stands where a separator should be;
 *   - from 2.11 large_segment_size_mb is looked for before both, since others are measured against it.
 *
 * Unlike torch the walk goes on behind an error, from the next comma, so that a user sees all of them at once.
 */
#include "policy/allocconf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"

#define CONF_LARGE_SEGMENT_MB 20

/* --- notes --- */

static void note_add(struct unstick_allocconf_note *notes, size_t *n, size_t offset, const char *format, va_list args)
{
    if (*n >= UNSTICK_ALLOCCONF_NOTES_MAX)
        return;
    notes[*n].offset = offset;
    vsnprintf(notes[*n].text, sizeof(notes[*n].text), format, args);
    /* It may quote anything, and is one line of ASCII all the same. */
    for (char *c = notes[*n].text; *c; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    (*n)++;
}

void usk_allocconf_warn(struct unstick_allocconf *conf, size_t offset, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    note_add(conf->warnings, &conf->n_warnings, offset, format, args);
    va_end(args);
}

size_t usk_allocconf_offset(const struct usk_allocconf_reader *reader, size_t i)
{
    const struct usk_allocconf_token *last;

    if (i < reader->tokens.n)
        return reader->tokens.token[i].offset;
    if (!reader->tokens.n)
        return 0;
    last = &reader->tokens.token[reader->tokens.n - 1];
    return (size_t)last->offset + last->length;
}

/* The two walks see the same fault: it is told once. */
void usk_allocconf_fail(struct usk_allocconf_reader *reader, size_t i, const char *format, ...)
{
    struct unstick_allocconf *conf = reader->conf;
    size_t offset = usk_allocconf_offset(reader, i);
    va_list args;

    reader->has_failed = true;
    for (size_t n = 0; n < conf->n_errors; n++) {
        if (conf->errors[n].offset == offset)
            return;
    }
    va_start(args, format);
    note_add(conf->errors, &conf->n_errors, offset, format, args);
    va_end(args);
}

/* --- tokens --- */

const char *usk_allocconf_shown(const struct usk_allocconf_reader *reader, size_t i, int *ret_length)
{
    /* What a user typed may be long: the front of it says which it is. */
    *ret_length = i < reader->tokens.n ? (int)usk_min(reader->tokens.token[i].length, 40) : 0;
    return i < reader->tokens.n ? reader->tokens.text + reader->tokens.token[i].begin : "";
}

bool usk_allocconf_has(struct usk_allocconf_reader *reader, size_t i, const char *what)
{
    if (i < reader->tokens.n)
        return true;
    usk_allocconf_fail(reader, i, "the string ends where %s should be", what);
    return false;
}

bool usk_allocconf_expect(struct usk_allocconf_reader *reader, size_t i, const char *separator)
{
    const char *text;
    int length;

    if (usk_allocconf_token_is(&reader->tokens, i, separator))
        return true;
    text = usk_allocconf_shown(reader, i, &length);
    if (reader->torch < ALLOCCONF_LENIENT) {
        if (i < reader->tokens.n)
            usk_allocconf_fail(reader, i, "'%.*s' stands where '%s' should be", length, text, separator);
        else
            usk_allocconf_fail(reader, i, "the string ends where '%s' should be", separator);
        return false;
    }
    if (!usk_allocconf_has(reader, i, "a separator"))
        return false;
    for (size_t n = 0; n < reader->conf->n_warnings; n++) {
        if (reader->conf->warnings[n].offset == usk_allocconf_offset(reader, i))
            return true;
    }
    usk_allocconf_warn(reader->conf, usk_allocconf_offset(reader, i),
                       "'%.*s' stands where '%s' should be: torch 2.10 and later skip it unread, older ones stop",
                       length, text, separator);
    return true;
}

/* From 2.10: over the value of a key that the other walk reads. Torch's skipKey(). */
static size_t reader_skip_value(struct usk_allocconf_reader *reader, size_t i)
{
    if (!usk_allocconf_expect(reader, ++i, ":") || !usk_allocconf_has(reader, ++i, "a value"))
        return i;
    if (!usk_allocconf_token_is(&reader->tokens, i, "["))
        return i;
    while (++i < reader->tokens.n && !usk_allocconf_token_is(&reader->tokens, i, "]"))
        continue;
    usk_allocconf_has(reader, i, "']'");
    return i;
}

/* --- settings --- */

static bool key_is_common(const struct unstick_allocconf_key *key)
{
    static const char *const names[] = { "max_split_size_mb",        "max_non_split_rounding_mb",
                                         "expandable_segments",      "garbage_collection_threshold",
                                         "roundup_power2_divisions", "pinned_use_background_threads",
                                         "large_segment_size_mb",    "pinned_max_cached_size_mb",
                                         "pinned_max_round_threshold_mb" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (!strcmp(names[i], key->name))
            return true;
    }
    return false;
}

static const struct unstick_allocconf_key *reader_key(const struct usk_allocconf_reader *reader, size_t i)
{
    const struct usk_allocconf_token *token = &reader->tokens.token[i];
    const struct unstick_allocconf_key *key;
    char name[sizeof(((struct unstick_allocconf_entry *)NULL)->name)];

    if (token->length >= sizeof(name))
        return NULL;
    memcpy(name, reader->tokens.text + token->begin, token->length);
    name[token->length] = 0;
    key = unstick_allocconf_key_find(name);
    return key && key->since <= reader->torch ? key : NULL;
}

static void reader_fail_key(struct usk_allocconf_reader *reader, size_t i)
{
    const char *stops = reader->torch < ALLOCCONF_LENIENT ? "RuntimeError" : "ValueError";
    unsigned int major = reader->torch / 1000, minor = reader->torch % 1000;
    const struct unstick_allocconf_key *newer;
    char name[48] = "";
    const char *text;
    int length;

    text = usk_allocconf_shown(reader, i, &length);
    snprintf(name, sizeof(name), "%.*s", length, text);
    newer = unstick_allocconf_key_find(name);
    if (newer)
        usk_allocconf_fail(reader, i, "%s is known from torch %u.%u on: torch %u.%u stops with a %s", name,
                           newer->since / 1000, newer->since % 1000, major, minor, stops);
    else
        usk_allocconf_fail(reader, i, "'%s' is no key of torch %u.%u, which stops with a %s", name, major, minor,
                           stops);
}

static bool reader_is_mine(const struct usk_allocconf_reader *reader, const struct unstick_allocconf_key *key)
{
    return reader->walk == USK_ALLOCCONF_WALK_ALL || key_is_common(key) == (reader->walk == USK_ALLOCCONF_WALK_COMMON);
}

/* Adds an entry, keeping the order of the string: two walks find theirs in turn. */
static void reader_add(struct usk_allocconf_reader *reader, size_t i, const struct unstick_allocconf_entry *entry)
{
    struct unstick_allocconf *conf = reader->conf;
    size_t at = conf->n_entries;

    if (at == UNSTICK_ALLOCCONF_ENTRIES_MAX) {
        usk_allocconf_fail(reader, i, "there are more than %d settings", UNSTICK_ALLOCCONF_ENTRIES_MAX);
        return;
    }
    while (at && conf->entries[at - 1].offset > entry->offset)
        at--;
    memmove(&conf->entries[at + 1], &conf->entries[at], (conf->n_entries - at) * sizeof(conf->entries[0]));
    conf->entries[at] = *entry;
    conf->n_entries++;
}

/* The setting whose key is token i; the index of its last token. */
static size_t reader_setting(struct usk_allocconf_reader *reader, size_t i)
{
    const struct unstick_allocconf_key *key = reader_key(reader, i);
    struct unstick_allocconf_entry entry = { .key = key, .offset = usk_allocconf_offset(reader, i) };
    size_t at = i;

    if (!key) {
        reader_fail_key(reader, i);
        return i;
    }
    if (!reader_is_mine(reader, key))
        return reader_skip_value(reader, i);
    snprintf(entry.name, sizeof(entry.name), "%.*s", (int)reader->tokens.token[i].length,
             reader->tokens.text + reader->tokens.token[i].begin);
    if (!usk_allocconf_expect(reader, ++i, ":"))
        return i;
    i++;
    i = usk_allocconf_value_read(reader, &entry, i);
    if (!reader->has_failed)
        reader_add(reader, at, &entry);
    return i;
}

/* Behind an error: to the next comma outside a list, or the end. */
static size_t reader_recover(const struct usk_allocconf_reader *reader, size_t i)
{
    bool is_in_list = false;

    for (i++; i < reader->tokens.n; i++) {
        if (usk_allocconf_token_is(&reader->tokens, i, "["))
            is_in_list = true;
        else if (usk_allocconf_token_is(&reader->tokens, i, "]"))
            is_in_list = false;
        else if (!is_in_list && usk_allocconf_token_is(&reader->tokens, i, ","))
            break;
    }
    return i;
}

static void reader_walk(struct usk_allocconf_reader *reader, enum usk_allocconf_walk walk)
{
    reader->walk = walk;
    for (size_t i = 0; i < reader->tokens.n; i++) {
        size_t begin = i;

        reader->has_failed = false;
        i = reader_setting(reader, i);
        if (!reader->has_failed && i + 1 < reader->tokens.n)
            usk_allocconf_expect(reader, ++i, ",");
        if (reader->has_failed)
            i = reader_recover(reader, begin);
    }
}

/* From 2.11: wherever it stands. */
static void reader_find_large_segment(struct usk_allocconf_reader *reader)
{
    const struct unstick_allocconf_key *key = unstick_allocconf_key_find("large_segment_size_mb");
    uint64_t value;
    size_t length;

    for (size_t i = 0; i < reader->tokens.n; i++) {
        if (!usk_allocconf_token_is(&reader->tokens, i, key->name))
            continue;
        reader->has_failed = false;
        if (usk_allocconf_expect(reader, ++i, ":") && usk_allocconf_whole(reader, ++i, false, &value, &length) &&
            usk_allocconf_value_check(reader, key, i, value))
            reader->large_segment_mb = usk_min(value, ALLOCCONF_MIB_MAX);
    }
}

static void conf_mark_overridden(struct unstick_allocconf *conf)
{
    for (size_t i = 0; i < conf->n_entries; i++) {
        struct unstick_allocconf_entry *entry = &conf->entries[i];

        if (usk_allocconf_entry_find(conf, entry->key->name) == entry)
            continue;
        entry->is_overridden = 1;
        usk_allocconf_warn(conf, entry->offset, "%s is given more than once: the last one counts", entry->name);
    }
}

const struct unstick_allocconf_entry *usk_allocconf_entry_find(const struct unstick_allocconf *conf, const char *key)
{
    for (size_t i = conf->n_entries; i > 0; i--) {
        if (!strcmp(conf->entries[i - 1].key->name, key))
            return &conf->entries[i - 1];
    }
    return NULL;
}

static void conf_fail_length(struct unstick_allocconf *conf)
{
    conf->errors[0].offset = SIZE_MAX;
    snprintf(conf->errors[0].text, sizeof(conf->errors[0].text), "the string is longer than %d characters",
             UNSTICK_ALLOCCONF_TEXT_MAX - 1);
    conf->n_errors = 1;
}

int unstick_allocconf_parse(const struct unstick_allocconf_input *input, struct unstick_allocconf *conf)
{
    struct usk_allocconf_reader reader = { .conf = conf, .large_segment_mb = CONF_LARGE_SEGMENT_MB };

    if (!input || !conf || input->size < sizeof(*input) || conf->size < sizeof(*conf))
        return UNSTICK_INVALID_ARGUMENT;
    if (input->torch < UNSTICK_TORCH_OLDEST)
        return UNSTICK_UNSUPPORTED;
    conf->torch = reader.torch = input->torch;
    conf->n_entries = conf->n_errors = conf->n_warnings = 0;
    if (!usk_allocconf_tokens_split(&reader.tokens, input->text ? input->text : "", input->torch)) {
        conf_fail_length(conf);
        return UNSTICK_BAD_FORMAT;
    }
    if (input->torch < ALLOCCONF_LENIENT) {
        reader_walk(&reader, USK_ALLOCCONF_WALK_ALL);
    } else {
        if (input->torch >= UNSTICK_TORCH(2u, 11u))
            reader_find_large_segment(&reader);
        reader_walk(&reader, USK_ALLOCCONF_WALK_COMMON);
        reader_walk(&reader, USK_ALLOCCONF_WALK_CUDA);
    }
    conf_mark_overridden(conf);
    usk_allocconf_advise(conf, input);
    return conf->n_errors ? UNSTICK_BAD_FORMAT : UNSTICK_OK;
}

int unstick_allocconf_emit(const struct unstick_allocconf *conf, char *text, size_t size, struct unstick_error *error)
{
    char out[UNSTICK_ALLOCCONF_TEXT_MAX];
    size_t length = 0;

    if (!conf || !text || conf->size < sizeof(*conf))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "allocconf", "no settings, or nowhere to write them");
    if (conf->n_errors)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "allocconf", "the settings are not valid: %s",
                             conf->errors[0].text);
    out[0] = 0;
    for (size_t i = 0; i < conf->n_entries && length < sizeof(out); i++)
        length += (size_t)snprintf(out + length, sizeof(out) - length, "%s%s:%s", i ? "," : "", conf->entries[i].name,
                                   conf->entries[i].value);
    if (length >= sizeof(out) || length >= size)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "allocconf",
                             "the settings take %zu characters, and there is room for %zu", length + 1,
                             usk_min(size, sizeof(out)));
    memcpy(text, out, length + 1);
    return UNSTICK_OK;
}
