/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON from strangers, in bounded memory.
 *
 * jansson decides what is JSON, but a whole header is never given to it at once: its tree takes some forty times the
 * text in the worst case ("[],[],[],..."), so 100 MB of header would take 4 GB, and it follows nesting by recursion to
 * a depth of 2048. So the outer objects are walked here, and jansson gets one key or one value at a time, after a scan
 * that found where it ends and that neither its length nor its depth is out of bounds. The scan only matches quotes and
 * brackets; it need not be right about anything else, because jansson parses exactly the bytes that the scan cut out
 * and the walk goes on behind them: a wrong cut is a syntax error, never a different reading.
 *
 * Duplicate keys are refused by jansson inside a value and by usk_json_take_map(); in an object that the caller walks
 * it is up to the caller, who has all keys in a sorted array anyway.
 */
#include "model/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"

static int json_refuse(const struct usk_json *json, size_t at, const char *what, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "json", "%s: broken JSON at byte %llu: %s", json->path,
                         (unsigned long long)(json->file_offset + at), what);
}

static int json_no_memory(const struct usk_json *json, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "json", "%s: no memory to read it", json->path);
}

static bool json_is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void json_skip_space(struct usk_json *json)
{
    while (json->at < json->length && json_is_space(json->text[json->at]))
        json->at++;
}

/* The next byte that is no white space; NUL, which is nowhere valid, at the end. */
static char json_peek(struct usk_json *json)
{
    json_skip_space(json);
    return json->at < json->length ? json->text[json->at] : '\0';
}

int usk_json_enter(struct usk_json *json, const char *what, struct unstick_error *error)
{
    char expected[96];

    if (json_peek(json) != '{') {
        snprintf(expected, sizeof(expected), "%s must be an object", what);
        return json_refuse(json, json->at, expected, error);
    }
    json->at++;
    return UNSTICK_OK;
}

/* Finds the end of the string that begins at `at`; false if there is none. */
static bool json_scan_string(const struct usk_json *json, size_t at, size_t *ret_end)
{
    for (at++; at < json->length; at++) {
        if (json->text[at] == '"') {
            *ret_end = at + 1;
            return true;
        }
        if (json->text[at] == '\\')
            at++;
    }
    return false;
}

static bool json_is_delimiter(char c)
{
    return json_is_space(c) || c == ',' || c == ':' || c == ']' || c == '}';
}

/* Finds the end of the value that begins here, a byte that is no white space. */
static int json_scan(const struct usk_json *json, size_t max_bytes, size_t *ret_end, struct unstick_error *error)
{
    size_t at = json->at, depth = 0;

    do {
        char c = at < json->length ? json->text[at] : '\0';

        if (at - json->at > max_bytes)
            return json_refuse(json, json->at, "a value is far longer than any that belongs here", error);
        if (at >= json->length)
            return json_refuse(json, at, "the text ends in the middle", error);
        if (c == '"') {
            if (!json_scan_string(json, at, &at))
                return json_refuse(json, at, "a string has no end", error);
            continue;
        }
        if (c == '{' || c == '[') {
            if (++depth > USK_JSON_DEPTH_MAX)
                return json_refuse(json, at, "nested too deep", error);
        } else if ((c == '}' || c == ']') && depth) {
            depth--;
        } else if (!depth) {
            while (at < json->length && !json_is_delimiter(json->text[at]))
                at++;
            break;
        }
        at++;
    } while (depth);

    if (at - json->at > max_bytes)
        return json_refuse(json, json->at, "a value is far longer than any that belongs here", error);
    *ret_end = at;
    return UNSTICK_OK;
}

int usk_json_take(struct usk_json *json, size_t max_bytes, json_t **ret_value, struct unstick_error *error)
{
    json_error_t reason;
    json_t *value;
    size_t end = 0;
    int r;

    json_skip_space(json);
    r = json_scan(json, max_bytes, &end, error);
    if (r < 0)
        return r;
    value = json_loadb(json->text + json->at, end - json->at, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &reason);
    if (!value) {
        char quote[USK_JSON_QUOTE_MAX];

        /* jansson has a word for every fault of the text; where it has none, it had no memory. */
        if (!reason.text[0] || json_error_code(&reason) == json_error_out_of_memory)
            return json_no_memory(json, error);
        return json_refuse(json, json->at + (size_t)(reason.position > 0 ? reason.position - 1 : 0),
                           usk_json_quote(quote, reason.text), error);
    }
    json->at = end;
    *ret_value = value;
    return UNSTICK_OK;
}

static int json_take_string(struct usk_json *json, const char *what, json_t **ret_string, struct unstick_error *error)
{
    char expected[96];

    if (json_peek(json) != '"') {
        snprintf(expected, sizeof(expected), "%s must be a string", what);
        return json_refuse(json, json->at, expected, error);
    }
    return usk_json_take(json, json->length, ret_string, error);
}

int usk_json_next(struct usk_json *json, size_t *n_seen, json_t **ret_key, struct unstick_error *error)
{
    USK_CLEANUP(json_decrefp) json_t *key = NULL;
    int r;

    if (json_peek(json) == '}') {
        json->at++;
        *ret_key = NULL;
        return UNSTICK_OK;
    }
    if (*n_seen) {
        if (json_peek(json) != ',')
            return json_refuse(json, json->at, "expected ',' or '}' after a value", error);
        json->at++;
    }
    r = json_take_string(json, "a key", &key, error);
    if (r < 0)
        return r;
    if (json_peek(json) != ':')
        return json_refuse(json, json->at, "expected ':' after a key", error);
    json->at++;
    (*n_seen)++;
    *ret_key = USK_STEAL(key);
    return UNSTICK_OK;
}

static int json_compare_pairs(const void *a, const void *b)
{
    return strcmp(((const struct usk_json_pair *)a)->key, ((const struct usk_json_pair *)b)->key);
}

void usk_json_map_fini(struct usk_json_map *map)
{
    free(map->strings);
    free(map->pairs);
    *map = (struct usk_json_map){ 0 };
}

/* What jansson made of a string is never longer than its text with the quotes, so the strings always have room. */
static const char *json_map_keep(struct usk_json_map *map, size_t *at, const json_t *string)
{
    size_t bytes = json_string_length(string) + 1;
    char *kept = memcpy(map->strings + *at, json_string_value(string), bytes);

    *at += bytes;
    return kept;
}

int usk_json_take_map(struct usk_json *json, const char *what, struct usk_json_map *ret_map,
                      struct unstick_error *error)
{
    USK_CLEANUP(usk_json_map_fini) struct usk_json_map map = { 0 };
    char text[USK_JSON_QUOTE_MAX + 64], quote[USK_JSON_QUOTE_MAX];
    size_t capacity = 0, n_seen = 0, used = 0;
    int r;

    r = usk_json_enter(json, what, error);
    if (r < 0)
        return r;
    map.strings = malloc(json->length - json->at + 1);
    if (!map.strings)
        return json_no_memory(json, error);
    for (;;) {
        USK_CLEANUP(json_decrefp) json_t *key = NULL;
        USK_CLEANUP(json_decrefp) json_t *value = NULL;

        r = usk_json_next(json, &n_seen, &key, error);
        if (r < 0)
            return r;
        if (!key)
            break;
        r = json_take_string(json, "a value in it", &value, error);
        if (r < 0)
            return r;
        if (map.n_pairs == capacity) {
            struct usk_json_pair *grown = realloc(map.pairs, (capacity * 2 + 16) * sizeof(*grown));

            if (!grown)
                return json_no_memory(json, error);
            map.pairs = grown;
            capacity = capacity * 2 + 16;
        }
        map.pairs[map.n_pairs].key = json_map_keep(&map, &used, key);
        map.pairs[map.n_pairs++].value = json_map_keep(&map, &used, value);
    }
    if (map.n_pairs)
        qsort(map.pairs, map.n_pairs, sizeof(*map.pairs), json_compare_pairs);
    for (size_t i = 1; i < map.n_pairs; i++) {
        if (!strcmp(map.pairs[i - 1].key, map.pairs[i].key)) {
            snprintf(text, sizeof(text), "%s has the key \"%s\" twice", what, usk_json_quote(quote, map.pairs[i].key));
            return json_refuse(json, json->at, text, error);
        }
    }
    *ret_map = map;
    map = (struct usk_json_map){ 0 };
    return UNSTICK_OK;
}

int usk_json_end(struct usk_json *json, struct unstick_error *error)
{
    json_skip_space(json);
    return json->at == json->length ? UNSTICK_OK
                                    : json_refuse(json, json->at, "something follows after the end", error);
}

int usk_json_take_all(struct usk_json *json, size_t max_bytes, json_t **ret_value, struct unstick_error *error)
{
    json_t *value;
    int r = usk_json_take(json, max_bytes, &value, error);

    if (r < 0)
        return r;
    r = usk_json_end(json, error);
    if (r < 0) {
        json_decref(value);
        return r;
    }
    *ret_value = value;
    return UNSTICK_OK;
}

const char *usk_json_quote(char out[USK_JSON_QUOTE_MAX], const char *name)
{
    size_t length = strlen(name), n = length < USK_JSON_QUOTE_MAX ? length : USK_JSON_QUOTE_MAX - 4;

    /* Not in the middle of a UTF-8 sequence. */
    while (n < length && n && ((unsigned char)name[n] & 0xc0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name[i];
        bool is_c1 = i && c >= 0x80 && c < 0xa0 && (unsigned char)name[i - 1] == 0xc2;

        out[i] = c < 0x20 || c == 0x7f || is_c1 ? '?' : name[i];
    }
    if (n < length)
        memcpy(out + n, "...", sizeof("..."));
    else
        out[n] = '\0';
    return out;
}
