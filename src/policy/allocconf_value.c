/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The values of settings: what torch makes of them, and which it refuses. A value is kept in its plainest form, from
 * which the same torch reads the same again; what was in the string beside it is warned about, since it was meant.
 */
#include "policy/allocconf.h"

#include <stdio.h>
#include <string.h>

#include "base/math.h"

bool usk_allocconf_whole(struct usk_allocconf_reader *reader, size_t i, bool is_wide, uint64_t *ret_value,
                         size_t *ret_length)
{
    const struct usk_allocconf_token *token;
    enum usk_allocconf_read read;
    const char *text;
    int length;

    if (!usk_allocconf_has(reader, i, "a number"))
        return false;
    token = &reader->tokens.token[i];
    is_wide = is_wide || reader->torch >= ALLOCCONF_LENIENT;
    read = usk_allocconf_read_whole(reader->tokens.text + token->begin, token->length, is_wide, ret_value, ret_length);
    text = usk_allocconf_shown(reader, i, &length);
    if (read == USK_ALLOCCONF_NO_NUMBER)
        usk_allocconf_fail(reader, i, "'%.*s' is no number", length, text);
    else if (read == USK_ALLOCCONF_TOO_LARGE)
        usk_allocconf_fail(reader, i, "%.*s is too large: torch reads it as %s", length, text, is_wide ? "64 bits"
                           : "an int (31 bits)");
    return read == USK_ALLOCCONF_READ;
}

static void reader_warn_rest(struct usk_allocconf_reader *reader, size_t i, size_t length, const char *value)
{
    const char *text;
    int shown;

    if (length == reader->tokens.token[i].length)
        return;
    text = usk_allocconf_shown(reader, i, &shown);
    usk_allocconf_warn(reader->conf, usk_allocconf_offset(reader, i), "'%.*s' reads as %s: torch ignores what follows",
                       shown, text, value);
}

/* Writes a number so that the same torch reads the same from it. */
static void value_format(char *text, size_t size, uint64_t value, unsigned int torch)
{
    if (torch < ALLOCCONF_LENIENT && value > INT64_MAX)
        snprintf(text, size, "%lld", (long long)value);
    else
        snprintf(text, size, "%llu", (unsigned long long)value);
}

bool usk_allocconf_value_check(struct usk_allocconf_reader *reader, const struct unstick_allocconf_key *key, size_t i,
                               uint64_t value)
{
    bool is_lenient = reader->torch >= ALLOCCONF_LENIENT;

    if (!strcmp(key->name, "large_segment_size_mb") && value <= 10) {
        usk_allocconf_fail(reader, i, "large_segment_size_mb:%llu is too small: it must be more than 10",
                           (unsigned long long)value);
    } else if (!strcmp(key->name, "pinned_reserve_segment_size_mb") && !value) {
        usk_allocconf_fail(reader, i, "pinned_reserve_segment_size_mb:0 is too small: it must be at least 1");
    } else if (key->kind == UNSTICK_ALLOCCONF_COUNT && (!usk_is_power_of_two(value) || value > 128)) {
        usk_allocconf_fail(reader, i, "%s:%llu: it must be a power of two, at most 128", key->name,
                           (unsigned long long)value);
    } else if (!strcmp(key->name, "max_split_size_mb") || !strcmp(key->name, "max_non_split_rounding_mb")) {
        if (value < reader->large_segment_mb || (!is_lenient && value == reader->large_segment_mb))
            usk_allocconf_fail(reader, i, "%s:%llu is too small: it must be %s %llu", key->name,
                               (unsigned long long)value, is_lenient ? "at least" : "more than",
                               (unsigned long long)reader->large_segment_mb);
    }
    return !reader->has_failed;
}

static void value_read_whole(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    uint64_t value;
    size_t length;

    if (!usk_allocconf_whole(reader, i, false, &value, &length) ||
        !usk_allocconf_value_check(reader, entry->key, i, value))
        return;
    value_format(entry->value, sizeof(entry->value), value, reader->torch);
    entry->number = entry->key->kind == UNSTICK_ALLOCCONF_MIB ? usk_min(value, ALLOCCONF_MIB_MAX) : value;
    if (value > INT64_MAX)
        usk_allocconf_warn(reader->conf, usk_allocconf_offset(reader, i), "%s reads as %llu, which is no limit at all",
                           entry->key->name, (unsigned long long)value);
    reader_warn_rest(reader, i, length, entry->value);
}

static void value_read_fraction(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    bool is_closed = !strcmp(entry->key->name, "per_process_memory_fraction");
    enum usk_allocconf_read read;
    size_t length, blanks;
    double value;
    const char *text;
    int shown;

    if (!usk_allocconf_has(reader, i, "a number"))
        return;
    text = usk_allocconf_shown(reader, i, &shown);
    read = usk_allocconf_read_real(text, reader->tokens.token[i].length, &value, &length);
    if (read == USK_ALLOCCONF_NO_NUMBER) {
        usk_allocconf_fail(reader, i, "'%.*s' is no number", shown, text);
    } else if (read == USK_ALLOCCONF_TOO_LARGE || !(is_closed ? value >= 0 && value <= 1 : value > 0 && value < 1)) {
        usk_allocconf_fail(reader, i, "%s:%.*s: it must be %s", entry->key->name, shown, text, entry->key->range);
    } else {
        /* As it was written: no other text is sure to be the same number. */
        blanks = strspn(text, "\t\n\v\f\r");
        if (length - blanks >= sizeof(entry->value)) {
            usk_allocconf_fail(reader, i, "the value of %s has too many digits to be kept here", entry->key->name);
            return;
        }
        snprintf(entry->value, sizeof(entry->value), "%.*s", (int)(length - blanks), text + blanks);
        entry->fraction = value;
        reader_warn_rest(reader, i, length, entry->value);
    }
}

static void value_read_bool(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    bool is_true = usk_allocconf_token_is(&reader->tokens, i, "True");
    const char *text;
    int length;

    if (!usk_allocconf_has(reader, i, "True or False"))
        return;
    text = usk_allocconf_shown(reader, i, &length);
    if (!is_true && !usk_allocconf_token_is(&reader->tokens, i, "False")) {
        usk_allocconf_fail(reader, i, "%s:%.*s: it must be True or False, in exactly these letters", entry->name,
                           length, text);
        return;
    }
    entry->number = is_true;
    snprintf(entry->value, sizeof(entry->value), "%s", is_true ? "True" : "False");
}

static void value_read_backend(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    const char *text;
    int length;

    if (!usk_allocconf_has(reader, i, "a backend"))
        return;
    text = usk_allocconf_shown(reader, i, &length);
    if (!usk_allocconf_token_is(&reader->tokens, i, "native") &&
        !usk_allocconf_token_is(&reader->tokens, i, "cudaMallocAsync")) {
        usk_allocconf_fail(reader, i, "backend:%.*s: it must be native or cudaMallocAsync%s", length, text,
                           usk_allocconf_token_is(&reader->tokens, i, "hipMallocAsync") ? " (ROCm builds take it)"
                           : "");
        return;
    }
    snprintf(entry->value, sizeof(entry->value), "%.*s", length, text);
}

static bool divisions_append(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i,
                             const char *boundary, uint64_t divisions)
{
    size_t length = strlen(entry->value);
    int n = snprintf(entry->value + length, sizeof(entry->value) - length, "%s%s:%llu", length > 1 ? "," : "", boundary,
                     (unsigned long long)divisions);

    /* Room for the bracket. */
    if (n > 0 && (size_t)n + 1 < sizeof(entry->value) - length)
        return true;
    usk_allocconf_fail(reader, i, "the list of %s is too long to be kept here", entry->key->name);
    return false;
}

/* One "boundary:divisions" at token *i, which ends on the divisions. */
static bool divisions_read_pair(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t *i)
{
    size_t at = *i, length, rest;
    uint64_t divisions, boundary;
    char text[24] = ">";

    if (!usk_allocconf_expect(reader, ++*i, ":") || !usk_allocconf_whole(reader, ++*i, false, &divisions, &length))
        return false;
    if (!usk_is_power_of_two(divisions) && (divisions || reader->torch < UNSTICK_TORCH(2u, 4u))) {
        usk_allocconf_fail(reader, *i, "the divisions of roundup_power2_divisions must be powers of two%s",
                           reader->torch < UNSTICK_TORCH(2u, 4u) ? "" : ", or 0 for none");
        return false;
    }
    if (!usk_allocconf_token_is(&reader->tokens, at, ">")) {
        if (!usk_allocconf_whole(reader, at, true, &boundary, &rest))
            return false;
        if (!usk_is_power_of_two(boundary)) {
            usk_allocconf_fail(reader, at, "the boundaries of roundup_power2_divisions must be powers of two, in MiB");
            return false;
        }
        snprintf(text, sizeof(text), "%llu", (unsigned long long)boundary);
        reader_warn_rest(reader, at, rest, text);
    }
    if (!divisions_append(reader, entry, *i, text, divisions))
        return false;
    if (length != reader->tokens.token[*i].length)
        usk_allocconf_warn(reader->conf, usk_allocconf_offset(reader, *i),
                           "the divisions read as %llu: torch ignores what " "follows", (unsigned long long)divisions);
    return true;
}

/* A list, whose bracket is token i; the index of its last token. */
static size_t divisions_read_list(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    const struct usk_allocconf_tokens *tokens = &reader->tokens;
    size_t open = i;

    snprintf(entry->value, sizeof(entry->value), "[");
    while (++i < tokens->n && !usk_allocconf_token_is(tokens, i, "]")) {
        if (!divisions_read_pair(reader, entry, &i))
            return i;
        /* Older ones read behind the end here, and crash or stop. */
        if (i + 1 >= tokens->n) {
            usk_allocconf_fail(reader, i + 1, "the list of roundup_power2_divisions is not closed by ']'");
            return i;
        }
        if (!usk_allocconf_token_is(tokens, i + 1, "]") && !usk_allocconf_expect(reader, ++i, ","))
            return i;
    }
    if (i >= tokens->n && reader->torch >= ALLOCCONF_LENIENT)
        usk_allocconf_fail(reader, i, "the list of roundup_power2_divisions is not closed by ']'");
    else if (i >= tokens->n)
        usk_allocconf_warn(reader->conf, usk_allocconf_offset(reader, open),
                           "the list is not closed by ']': torch up to 2.9 lets that pass, later ones stop");
    /* divisions_append() left room. */
    memcpy(entry->value + strlen(entry->value), "]", sizeof("]"));
    return i;
}

static size_t value_read_divisions(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    uint64_t value;
    size_t length;

    if (usk_allocconf_token_is(&reader->tokens, i, "["))
        return divisions_read_list(reader, entry, i);
    if (!usk_allocconf_whole(reader, i, false, &value, &length))
        return i;
    if (!usk_is_power_of_two(value)) {
        usk_allocconf_fail(reader, i, "roundup_power2_divisions:%llu: it must be a power of two",
                           (unsigned long long)value);
        return i;
    }
    value_format(entry->value, sizeof(entry->value), value, reader->torch);
    entry->number = value;
    reader_warn_rest(reader, i, length, entry->value);
    return i;
}

size_t usk_allocconf_value_read(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i)
{
    switch (entry->key->kind) {
    case UNSTICK_ALLOCCONF_BOOL:
        value_read_bool(reader, entry, i);
        break;
    case UNSTICK_ALLOCCONF_MIB:
    case UNSTICK_ALLOCCONF_COUNT:
        value_read_whole(reader, entry, i);
        break;
    case UNSTICK_ALLOCCONF_FRACTION:
        value_read_fraction(reader, entry, i);
        break;
    case UNSTICK_ALLOCCONF_DIVISIONS:
        i = value_read_divisions(reader, entry, i);
        break;
    case UNSTICK_ALLOCCONF_NAME:
        value_read_backend(reader, entry, i);
        break;
    }
    return i;
}
