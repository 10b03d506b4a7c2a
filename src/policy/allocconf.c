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

#define CONF_SIZE_MB_MAX (UINT64_MAX >> 20)
#define CONF_LARGE_SEGMENT_MB 20

enum conf_walk {
    CONF_WALK_ALL,    /* up to 2.9 */
    CONF_WALK_COMMON, /* from 2.10: keys of every device */
    CONF_WALK_CUDA,   /* from 2.10: keys of CUDA */
};

struct conf_reader {
    struct usk_allocconf_tokens tokens;
    struct unstick_allocconf *conf;
    unsigned int torch;
    enum conf_walk walk;
    uint64_t large_segment_mb;
    bool has_failed; /* in the setting that is being read */
};

/* --- notes --- */

static void note_add(struct unstick_allocconf_note *notes, size_t *n, size_t offset, const char *format, va_list args)
{
    if (*n >= UNSTICK_ALLOCCONF_NOTES_MAX)
        return;
    notes[*n].offset = offset;
    vsnprintf(notes[*n].text, sizeof(notes[*n].text), format, args);
    (*n)++;
}

void usk_allocconf_warn(struct unstick_allocconf *conf, size_t offset, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    note_add(conf->warnings, &conf->n_warnings, offset, format, args);
    va_end(args);
}

/* Where the i-th token stands; the end of the string if there is none. */
static size_t reader_offset(const struct conf_reader *reader, size_t i)
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
__attribute__((format(printf, 3, 4))) static void reader_fail(struct conf_reader *reader, size_t i,
                                                              const char *format, ...)
{
    struct unstick_allocconf *conf = reader->conf;
    size_t offset = reader_offset(reader, i);
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

static const char *reader_text(const struct conf_reader *reader, size_t i, int *ret_length)
{
    /* What a user typed may be long: the front of it says which it is. */
    *ret_length = i < reader->tokens.n ? (int)usk_min(reader->tokens.token[i].length, 40) : 0;
    return i < reader->tokens.n ? reader->tokens.text + reader->tokens.token[i].begin : "";
}

/* False, with an error, where torch would read behind the end. */
static bool reader_has(struct conf_reader *reader, size_t i, const char *what)
{
    if (i < reader->tokens.n)
        return true;
    reader_fail(reader, i, "the string ends where %s should be", what);
    return false;
}

/* A separator. From 2.10 torch steps over whatever is there. */
static bool reader_expect(struct conf_reader *reader, size_t i, const char *separator)
{
    const char *text;
    int length;

    if (usk_allocconf_token_is(&reader->tokens, i, separator))
        return true;
    text = reader_text(reader, i, &length);
    if (reader->torch < ALLOCCONF_LENIENT) {
        if (i < reader->tokens.n)
            reader_fail(reader, i, "'%.*s' stands where '%s' should be", length, text, separator);
        else
            reader_fail(reader, i, "the string ends where '%s' should be", separator);
        return false;
    }
    if (!reader_has(reader, i, "a separator"))
        return false;
    for (size_t n = 0; n < reader->conf->n_warnings; n++) {
        if (reader->conf->warnings[n].offset == reader_offset(reader, i))
            return true;
    }
    usk_allocconf_warn(reader->conf, reader_offset(reader, i),
                       "'%.*s' stands where '%s' should be: torch 2.10 and later skip it unread, older ones stop",
                       length, text, separator);
    return true;
}

/* From 2.10: over the value of a key that the other walk reads. Torch's skipKey(). */
static size_t reader_skip_value(struct conf_reader *reader, size_t i)
{
    if (!reader_expect(reader, ++i, ":") || !reader_has(reader, ++i, "a value"))
        return i;
    if (!usk_allocconf_token_is(&reader->tokens, i, "["))
        return i;
    while (++i < reader->tokens.n && !usk_allocconf_token_is(&reader->tokens, i, "]"))
        continue;
    reader_has(reader, i, "']'");
    return i;
}

/* --- values --- */

/* A whole number at token i, where boundaries of lists are wide in every version. `*ret_length` of its characters
 * count. */
static bool reader_whole(struct conf_reader *reader, size_t i, bool is_wide, uint64_t *ret_value, size_t *ret_length)
{
    const struct usk_allocconf_token *token;
    enum usk_allocconf_read read;
    const char *text;
    int length;

    if (!reader_has(reader, i, "a number"))
        return false;
    token = &reader->tokens.token[i];
    is_wide = is_wide || reader->torch >= ALLOCCONF_LENIENT;
    read = usk_allocconf_read_whole(reader->tokens.text + token->begin, token->length, is_wide, ret_value,
                                    ret_length);
    text = reader_text(reader, i, &length);
    if (read == USK_ALLOCCONF_NO_NUMBER)
        reader_fail(reader, i, "'%.*s' is no number", length, text);
    else if (read == USK_ALLOCCONF_TOO_LARGE)
        reader_fail(reader, i, "%.*s is too large: torch reads it as %s", length, text,
                    is_wide ? "64 bits" : "an int (31 bits)");
    return read == USK_ALLOCCONF_READ;
}

static void reader_warn_rest(struct conf_reader *reader, size_t i, size_t length, const char *value)
{
    const char *text;
    int shown;

    if (length == reader->tokens.token[i].length)
        return;
    text = reader_text(reader, i, &shown);
    usk_allocconf_warn(reader->conf, reader_offset(reader, i), "'%.*s' reads as %s: torch ignores what follows", shown,
                       text, value);
}

/* Writes a number so that the same torch reads the same from it. */
static void value_format(char *text, size_t size, uint64_t value, unsigned int torch)
{
    if (torch < ALLOCCONF_LENIENT && value > INT64_MAX)
        snprintf(text, size, "%lld", (long long)value);
    else
        snprintf(text, size, "%llu", (unsigned long long)value);
}

static bool value_check_whole(struct conf_reader *reader, const struct unstick_allocconf_key *key, size_t i,
                              uint64_t value)
{
    bool is_lenient = reader->torch >= ALLOCCONF_LENIENT;

    if (!strcmp(key->name, "large_segment_size_mb") && value <= 10) {
        reader_fail(reader, i, "large_segment_size_mb:%llu is too small: it must be more than 10",
                    (unsigned long long)value);
    } else if (!strcmp(key->name, "pinned_reserve_segment_size_mb") && !value) {
        reader_fail(reader, i, "pinned_reserve_segment_size_mb:0 is too small: it must be at least 1");
    } else if (key->kind == UNSTICK_ALLOCCONF_COUNT && (!usk_is_power_of_two(value) || value > 128)) {
        reader_fail(reader, i, "%s:%llu: it must be a power of two, at most 128", key->name,
                    (unsigned long long)value);
    } else if (!strcmp(key->name, "max_split_size_mb") || !strcmp(key->name, "max_non_split_rounding_mb")) {
        if (value < reader->large_segment_mb || (!is_lenient && value == reader->large_segment_mb))
            reader_fail(reader, i, "%s:%llu is too small: it must be %s %llu", key->name, (unsigned long long)value,
                        is_lenient ? "at least" : "more than", (unsigned long long)reader->large_segment_mb);
    }
    return !reader->has_failed;
}

static void value_read_whole(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    uint64_t value;
    size_t length;

    if (!reader_whole(reader, i, false, &value, &length) || !value_check_whole(reader, entry->key, i, value))
        return;
    value_format(entry->value, sizeof(entry->value), value, reader->torch);
    entry->number = entry->key->kind == UNSTICK_ALLOCCONF_MIB ? usk_min(value, CONF_SIZE_MB_MAX) : value;
    if (value > INT64_MAX)
        usk_allocconf_warn(reader->conf, reader_offset(reader, i),
                           "%s reads as %llu, which is no limit at all", entry->key->name, (unsigned long long)value);
    reader_warn_rest(reader, i, length, entry->value);
}

static void value_read_fraction(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    bool is_closed = !strcmp(entry->key->name, "per_process_memory_fraction");
    enum usk_allocconf_read read;
    size_t length, blanks;
    double value;
    const char *text;
    int shown;

    if (!reader_has(reader, i, "a number"))
        return;
    text = reader_text(reader, i, &shown);
    read = usk_allocconf_read_real(text, reader->tokens.token[i].length, &value, &length);
    if (read == USK_ALLOCCONF_NO_NUMBER) {
        reader_fail(reader, i, "'%.*s' is no number", shown, text);
    } else if (read == USK_ALLOCCONF_TOO_LARGE || !(is_closed ? value >= 0 && value <= 1 : value > 0 && value < 1)) {
        reader_fail(reader, i, "%s:%.*s: it must be %s", entry->key->name, shown, text, entry->key->range);
    } else {
        /* As it was written: no other text is sure to be the same number. */
        blanks = strspn(text, "\t\n\v\f\r");
        if (length - blanks >= sizeof(entry->value)) {
            reader_fail(reader, i, "the value of %s has too many digits to be kept here", entry->key->name);
            return;
        }
        snprintf(entry->value, sizeof(entry->value), "%.*s", (int)(length - blanks), text + blanks);
        entry->fraction = value;
        reader_warn_rest(reader, i, length, entry->value);
    }
}

static void value_read_bool(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    bool is_true = usk_allocconf_token_is(&reader->tokens, i, "True");
    const char *text;
    int length;

    if (!reader_has(reader, i, "True or False"))
        return;
    text = reader_text(reader, i, &length);
    if (!is_true && !usk_allocconf_token_is(&reader->tokens, i, "False")) {
        reader_fail(reader, i, "%s:%.*s: it must be True or False, in exactly these letters", entry->name, length,
                    text);
        return;
    }
    entry->number = is_true;
    snprintf(entry->value, sizeof(entry->value), "%s", is_true ? "True" : "False");
}

static void value_read_backend(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    const char *text;
    int length;

    if (!reader_has(reader, i, "a backend"))
        return;
    text = reader_text(reader, i, &length);
    if (!usk_allocconf_token_is(&reader->tokens, i, "native") &&
        !usk_allocconf_token_is(&reader->tokens, i, "cudaMallocAsync")) {
        reader_fail(reader, i, "backend:%.*s: it must be native or cudaMallocAsync%s", length, text,
                    usk_allocconf_token_is(&reader->tokens, i, "hipMallocAsync") ? " (ROCm builds take it)" : "");
        return;
    }
    snprintf(entry->value, sizeof(entry->value), "%.*s", length, text);
}

static bool divisions_append(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i,
                             const char *boundary, uint64_t divisions)
{
    size_t length = strlen(entry->value);
    int n = snprintf(entry->value + length, sizeof(entry->value) - length, "%s%s:%llu", length > 1 ? "," : "",
                     boundary, (unsigned long long)divisions);

    /* Room for the bracket. */
    if (n > 0 && (size_t)n + 1 < sizeof(entry->value) - length)
        return true;
    reader_fail(reader, i, "the list of %s is too long to be kept here", entry->key->name);
    return false;
}

/* One "boundary:divisions" at token *i, which ends on the divisions. */
static bool divisions_read_pair(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t *i)
{
    size_t at = *i, length, rest;
    uint64_t divisions, boundary;
    char text[24] = ">";

    if (!reader_expect(reader, ++*i, ":") || !reader_whole(reader, ++*i, false, &divisions, &length))
        return false;
    if (!usk_is_power_of_two(divisions) && (divisions || reader->torch < UNSTICK_TORCH(2u, 4u))) {
        reader_fail(reader, *i, "the divisions of roundup_power2_divisions must be powers of two%s",
                    reader->torch < UNSTICK_TORCH(2u, 4u) ? "" : ", or 0 for none");
        return false;
    }
    if (!usk_allocconf_token_is(&reader->tokens, at, ">")) {
        if (!reader_whole(reader, at, true, &boundary, &rest))
            return false;
        if (!usk_is_power_of_two(boundary)) {
            reader_fail(reader, at, "the boundaries of roundup_power2_divisions must be powers of two, in MiB");
            return false;
        }
        snprintf(text, sizeof(text), "%llu", (unsigned long long)boundary);
        reader_warn_rest(reader, at, rest, text);
    }
    if (!divisions_append(reader, entry, *i, text, divisions))
        return false;
    if (length != reader->tokens.token[*i].length)
        usk_allocconf_warn(reader->conf, reader_offset(reader, *i), "the divisions read as %llu: torch ignores what "
                           "follows", (unsigned long long)divisions);
    return true;
}

/* A list, whose bracket is token i; the index of its last token. */
static size_t divisions_read_list(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    const struct usk_allocconf_tokens *tokens = &reader->tokens;
    size_t open = i;

    snprintf(entry->value, sizeof(entry->value), "[");
    while (++i < tokens->n && !usk_allocconf_token_is(tokens, i, "]")) {
        if (!divisions_read_pair(reader, entry, &i))
            return i;
        /* Older ones read behind the end here, and crash or stop. */
        if (i + 1 >= tokens->n) {
            reader_fail(reader, i + 1, "the list of roundup_power2_divisions is not closed by ']'");
            return i;
        }
        if (!usk_allocconf_token_is(tokens, i + 1, "]") && !reader_expect(reader, ++i, ","))
            return i;
    }
    if (i >= tokens->n && reader->torch >= ALLOCCONF_LENIENT)
        reader_fail(reader, i, "the list of roundup_power2_divisions is not closed by ']'");
    else if (i >= tokens->n)
        usk_allocconf_warn(reader->conf, reader_offset(reader, open),
                           "the list is not closed by ']': torch up to 2.9 lets that pass, later ones stop");
    /* divisions_append() left room. */
    memcpy(entry->value + strlen(entry->value), "]", sizeof("]"));
    return i;
}

static size_t value_read_divisions(struct conf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    uint64_t value;
    size_t length;

    if (usk_allocconf_token_is(&reader->tokens, i, "["))
        return divisions_read_list(reader, entry, i);
    if (!reader_whole(reader, i, false, &value, &length))
        return i;
    if (!usk_is_power_of_two(value)) {
        reader_fail(reader, i, "roundup_power2_divisions:%llu: it must be a power of two", (unsigned long long)value);
        return i;
    }
    value_format(entry->value, sizeof(entry->value), value, reader->torch);
    entry->number = value;
    reader_warn_rest(reader, i, length, entry->value);
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

static const struct unstick_allocconf_key *reader_key(const struct conf_reader *reader, size_t i)
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

static void reader_fail_key(struct conf_reader *reader, size_t i)
{
    const char *stops = reader->torch < ALLOCCONF_LENIENT ? "RuntimeError" : "ValueError";
    unsigned int major = reader->torch / 1000, minor = reader->torch % 1000;
    const struct unstick_allocconf_key *newer;
    char name[48] = "";
    const char *text;
    int length;

    text = reader_text(reader, i, &length);
    snprintf(name, sizeof(name), "%.*s", length, text);
    newer = unstick_allocconf_key_find(name);
    if (newer)
        reader_fail(reader, i, "%s is known from torch %u.%u on: torch %u.%u stops with a %s", name,
                    newer->since / 1000, newer->since % 1000, major, minor, stops);
    else
        reader_fail(reader, i, "'%s' is no key of torch %u.%u, which stops with a %s", name, major, minor, stops);
}

static bool reader_is_mine(const struct conf_reader *reader, const struct unstick_allocconf_key *key)
{
    return reader->walk == CONF_WALK_ALL || key_is_common(key) == (reader->walk == CONF_WALK_COMMON);
}

/* Adds an entry, keeping the order of the string: two walks find theirs in turn. */
static void reader_add(struct conf_reader *reader, size_t i, const struct unstick_allocconf_entry *entry)
{
    struct unstick_allocconf *conf = reader->conf;
    size_t at = conf->n_entries;

    if (at == UNSTICK_ALLOCCONF_ENTRIES_MAX) {
        reader_fail(reader, i, "there are more than %d settings", UNSTICK_ALLOCCONF_ENTRIES_MAX);
        return;
    }
    while (at && conf->entries[at - 1].offset > entry->offset)
        at--;
    memmove(&conf->entries[at + 1], &conf->entries[at], (conf->n_entries - at) * sizeof(conf->entries[0]));
    conf->entries[at] = *entry;
    conf->n_entries++;
}

/* The setting whose key is token i; the index of its last token. */
static size_t reader_setting(struct conf_reader *reader, size_t i)
{
    const struct unstick_allocconf_key *key = reader_key(reader, i);
    struct unstick_allocconf_entry entry = { .key = key, .offset = reader_offset(reader, i) };
    size_t at = i;

    if (!key) {
        reader_fail_key(reader, i);
        return i;
    }
    if (!reader_is_mine(reader, key))
        return reader_skip_value(reader, i);
    snprintf(entry.name, sizeof(entry.name), "%.*s", (int)reader->tokens.token[i].length,
             reader->tokens.text + reader->tokens.token[i].begin);
    if (!reader_expect(reader, ++i, ":"))
        return i;
    i++;
    switch (key->kind) {
    case UNSTICK_ALLOCCONF_BOOL:
        value_read_bool(reader, &entry, i);
        break;
    case UNSTICK_ALLOCCONF_MIB:
    case UNSTICK_ALLOCCONF_COUNT:
        value_read_whole(reader, &entry, i);
        break;
    case UNSTICK_ALLOCCONF_FRACTION:
        value_read_fraction(reader, &entry, i);
        break;
    case UNSTICK_ALLOCCONF_DIVISIONS:
        i = value_read_divisions(reader, &entry, i);
        break;
    case UNSTICK_ALLOCCONF_NAME:
        value_read_backend(reader, &entry, i);
        break;
    }
    if (!reader->has_failed)
        reader_add(reader, at, &entry);
    return i;
}

/* Behind an error: to the next comma outside a list, or the end. */
static size_t reader_recover(const struct conf_reader *reader, size_t i)
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

static void reader_walk(struct conf_reader *reader, enum conf_walk walk)
{
    reader->walk = walk;
    for (size_t i = 0; i < reader->tokens.n; i++) {
        size_t begin = i;

        reader->has_failed = false;
        i = reader_setting(reader, i);
        if (!reader->has_failed && i + 1 < reader->tokens.n)
            reader_expect(reader, ++i, ",");
        if (reader->has_failed)
            i = reader_recover(reader, begin);
    }
}

/* From 2.11: wherever it stands. */
static void reader_find_large_segment(struct conf_reader *reader)
{
    const struct unstick_allocconf_key *key = unstick_allocconf_key_find("large_segment_size_mb");
    uint64_t value;
    size_t length;

    for (size_t i = 0; i < reader->tokens.n; i++) {
        if (!usk_allocconf_token_is(&reader->tokens, i, key->name))
            continue;
        reader->has_failed = false;
        if (reader_expect(reader, ++i, ":") && reader_whole(reader, ++i, false, &value, &length) &&
            value_check_whole(reader, key, i, value))
            reader->large_segment_mb = usk_min(value, CONF_SIZE_MB_MAX);
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
    struct conf_reader reader = { .conf = conf, .large_segment_mb = CONF_LARGE_SEGMENT_MB };

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
        reader_walk(&reader, CONF_WALK_ALL);
    } else {
        if (input->torch >= UNSTICK_TORCH(2u, 11u))
            reader_find_large_segment(&reader);
        reader_walk(&reader, CONF_WALK_COMMON);
        reader_walk(&reader, CONF_WALK_CUDA);
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
