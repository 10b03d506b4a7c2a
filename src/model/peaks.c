/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Learned peaks: what earlier runs really took, as text to and from the caller.
 *
 *     {"version": 1, "peaks": {"<key>": {"bytes": N, "last_bytes": N, "runs": N, "fingerprint": "..."}}}
 *
 * The text is read completely or not at all: a file that was damaged must not become a shorter one at the next write.
 * So whatever is not understood is a failure, and the caller keeps the file aside. Members that a later version may add
 * are kept and written back, because two versions may share one file.
 *
 * The tree of jansson is the store: there are as many entries as somebody has models, and each is looked up once a
 * load.
 */
#include <unstick/estimate.h>

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"
#include "base/text.h"
#include "model/json.h"

#define PEAKS_VERSION 1

/* Of the whole text: some ten thousand keys. */
#define PEAKS_BYTES_MAX (UINT64_C(1) << 22)

struct unstick_peaks {
    json_t *root;  /* the object of the file */
    json_t *peaks; /* in it */
    char *text;    /* of the last unstick_peaks_text() */
};

static const char *const peak_numbers[] = { "bytes", "last_bytes", "runs" };

struct unstick_peaks *unstick_peaks_free(struct unstick_peaks *peaks)
{
    if (peaks) {
        json_decref(peaks->root);
        free(peaks->text);
        free(peaks);
    }
    return NULL;
}

static int peaks_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "peaks", "no memory for the learned peaks");
}

static int peaks_refuse(const char *what, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "peaks", "not a record of learned peaks: %s", what);
}

static bool text_is_fingerprint(const char *text)
{
    size_t n = strspn(text, "0123456789abcdef");

    return n == UNSTICK_FINGERPRINT_MAX - 1 && !text[n];
}

/* As jansson checks it, which cannot say whether a text or the memory was at fault. */
static bool text_is_utf8(const char *text)
{
    size_t length = 1;

    for (; *text && length; text += length)
        length = usk_text_utf8_length(text);
    return length;
}

static int peaks_check_entry(const char *key, const json_t *entry, struct unstick_error *error)
{
    char quote[USK_JSON_QUOTE_MAX], what[USK_JSON_QUOTE_MAX + 64];
    const json_t *fingerprint = json_object_get(entry, "fingerprint");
    bool is_good = json_is_object(entry) && key[0] &&
                   (!fingerprint ||
                    (json_is_string(fingerprint) && text_is_fingerprint(json_string_value(fingerprint))));

    for (size_t i = 0; i < sizeof(peak_numbers) / sizeof(peak_numbers[0]) && is_good; i++) {
        const json_t *number = json_object_get(entry, peak_numbers[i]);

        is_good = json_is_integer(number) && json_integer_value(number) > 0;
    }
    if (is_good)
        return UNSTICK_OK;
    snprintf(what, sizeof(what), "\"%s\" is no measurement", usk_json_quote(quote, key));
    return peaks_refuse(what, error);
}

static int peaks_new(struct unstick_peaks **ret_peaks, json_t *root, struct unstick_error *error)
{
    struct unstick_peaks *peaks = root ? calloc(1, sizeof(*peaks)) : NULL;

    if (!peaks)
        return peaks_no_memory(error);
    peaks->root = json_incref(root);
    peaks->peaks = json_object_get(root, "peaks");
    *ret_peaks = peaks;
    return UNSTICK_OK;
}

int unstick_peaks_parse(const char *text, size_t length, struct unstick_peaks **ret_peaks, struct unstick_error *error)
{
    USK_CLEANUP(json_decrefp) json_t *root = NULL;
    struct usk_json json = { .text = text, .length = length, .path = "learned peaks" };
    const char *key;
    json_t *entry;
    int r;

    if (!length) {
        root = json_pack("{s:i,s:{}}", "version", PEAKS_VERSION, "peaks");
        return peaks_new(ret_peaks, root, error);
    }
    r = usk_json_take_all(&json, PEAKS_BYTES_MAX, &root, error);
    if (r < 0)
        return r;
    if (json_integer_value(json_object_get(root, "version")) != PEAKS_VERSION)
        return peaks_refuse("its version is not 1", error);
    if (!json_is_object(json_object_get(root, "peaks")))
        return peaks_refuse("it has no peaks", error);
    json_object_foreach(json_object_get(root, "peaks"), key, entry) {
        r = peaks_check_entry(key, entry, error);
        if (r < 0)
            return r;
    }
    return peaks_new(ret_peaks, root, error);
}

static void peak_read(const json_t *entry, struct unstick_peak *ret_peak)
{
    const char *fingerprint = json_string_value(json_object_get(entry, "fingerprint"));

    *ret_peak = (struct unstick_peak){
        .bytes = (uint64_t)json_integer_value(json_object_get(entry, "bytes")),
        .last_bytes = (uint64_t)json_integer_value(json_object_get(entry, "last_bytes")),
        .n_runs = (uint64_t)json_integer_value(json_object_get(entry, "runs")),
    };
    if (fingerprint)
        memcpy(ret_peak->fingerprint, fingerprint, sizeof(ret_peak->fingerprint));
}

int unstick_peaks_find(const struct unstick_peaks *peaks, const char *key, const char *fingerprint,
                       struct unstick_peak *ret_peak)
{
    const json_t *entry = json_object_get(peaks->peaks, key);
    struct unstick_peak peak;

    if (!entry)
        return UNSTICK_NOT_FOUND;
    peak_read(entry, &peak);
    if (fingerprint && strcmp(fingerprint, peak.fingerprint))
        return UNSTICK_NOT_FOUND;
    *ret_peak = peak;
    return UNSTICK_OK;
}

/* Writes what is known of a key, in one step: a failure leaves the old. */
static int peaks_set(struct unstick_peaks *peaks, const char *key, const struct unstick_peak *peak,
                     struct unstick_error *error)
{
    USK_CLEANUP(json_decrefp) json_t *entry = NULL;
    json_t *old = json_object_get(peaks->peaks, key);
    bool is_good;

    entry = old ? json_copy(old) : json_object();
    is_good = entry && !json_object_set_new(entry, "bytes", json_integer((json_int_t)peak->bytes)) &&
              !json_object_set_new(entry, "last_bytes", json_integer((json_int_t)peak->last_bytes)) &&
              !json_object_set_new(entry, "runs", json_integer((json_int_t)peak->n_runs));
    if (is_good && peak->fingerprint[0])
        is_good = !json_object_set_new(entry, "fingerprint", json_string(peak->fingerprint));
    else
        json_object_del(entry, "fingerprint");
    if (!is_good || json_object_set(peaks->peaks, key, entry))
        return peaks_no_memory(error);
    return UNSTICK_OK;
}

int unstick_peaks_add(struct unstick_peaks *peaks, const char *key, const char *fingerprint, uint64_t bytes,
                      struct unstick_error *error)
{
    struct unstick_peak peak = { 0 }, old;

    if (!key || !*key || !text_is_utf8(key))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "peaks",
                             "a key must be text in UTF-8, and not empty");
    if (!bytes || bytes > INT64_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "peaks", "%llu bytes is no peak",
                             (unsigned long long)bytes);
    if (fingerprint && *fingerprint && !text_is_fingerprint(fingerprint))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "peaks",
                             "a fingerprint has 16 hexadecimal digits: see unstick_key_fingerprint()");
    if (fingerprint)
        memcpy(peak.fingerprint, fingerprint, strlen(fingerprint) + 1);
    peak.bytes = peak.last_bytes = bytes;
    peak.n_runs = 1;
    if (unstick_peaks_find(peaks, key, peak.fingerprint, &old) == UNSTICK_OK) {
        peak.bytes = usk_max(bytes, old.bytes);
        peak.n_runs = usk_min(old.n_runs, INT64_MAX - 1) + 1;
    }
    return peaks_set(peaks, key, &peak, error);
}

int unstick_peaks_merge(struct unstick_peaks *peaks, const struct unstick_peaks *others, struct unstick_error *error)
{
    const char *key;
    json_t *entry;

    json_object_foreach(others->peaks, key, entry) {
        struct unstick_peak peak, old;
        int r;

        peak_read(entry, &peak);
        if (unstick_peaks_find(peaks, key, peak.fingerprint, &old) == UNSTICK_OK) {
            peak.bytes = usk_max(peak.bytes, old.bytes);
            peak.n_runs = usk_min(peak.n_runs + old.n_runs, INT64_MAX);
        }
        r = peaks_set(peaks, key, &peak, error);
        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

int unstick_peaks_text(struct unstick_peaks *peaks, const char **ret_text, size_t *ret_length,
                       struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *body = json_dumps(peaks->root, JSON_INDENT(2) | JSON_SORT_KEYS);
    size_t length = body ? strlen(body) : 0;
    char *text = body ? malloc(length + 2) : NULL;

    if (!text)
        return peaks_no_memory(error);
    memcpy(text, body, length);
    memcpy(text + length, "\n", 2);
    free(peaks->text);
    peaks->text = text;
    *ret_text = text;
    *ret_length = length + 1;
    return UNSTICK_OK;
}
