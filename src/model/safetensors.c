/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of a safetensors file, as strict as the format.
 *
 *     8 bytes   length of the header, little endian
 *     header    a JSON object: "__metadata__" (string to string) and one entry per tensor, white space behind it
 *     data      every byte of it belongs to exactly one tensor
 *
 * What leaves this file is what everybody above relies on without looking again: each tensor's bytes follow from its
 * shape and type without overflow, and the tensors lie one behind the other, without a gap, from the first byte of the
 * data section to the last byte of the file. A file that is cut off, padded or overlapping can thus not be mistaken
 * for a good one, and no offset points outside of it.
 *
 * The header is read with pread(), never mapped: a mapping of a file that another process truncates is a SIGBUS.
 * The tensors' entries may come in any order; they are sorted by name to find duplicates, then by offset.
 */
#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/text.h"
#include "model/file.h"
#include "model/json.h"

#define SAFETENSORS_PREFIX_BYTES 8

/* Longer than any entry with USK_SAFETENSORS_DIMENSIONS_MAX numbers; white space may pad it. */
#define SAFETENSORS_ENTRY_BYTES_MAX 16384

static int tensor_refuse(const char *path, const char *name, const char *what, struct unstick_error *error)
{
    char quote[USK_JSON_QUOTE_MAX];

    return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors", "%s: tensor \"%s\": %s", path,
                         usk_json_quote(quote, name), what);
}

static int safetensors_no_memory(const char *path, struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "safetensors", "%s: no memory for its header", path);
}

void usk_tensor_fini(struct unstick_tensor *tensor)
{
    /* The name lies behind the shape, see tensor_new_strings(). */
    free((void *)tensor->shape);
    *tensor = (struct unstick_tensor){ 0 };
}

void usk_safetensors_free(struct usk_safetensors *safetensors)
{
    for (size_t i = 0; i < safetensors->n_tensors; i++)
        usk_tensor_fini(&safetensors->tensors[i]);
    free(safetensors->tensors);
    free(safetensors);
}

struct unstick_tensor *usk_safetensors_take(struct usk_safetensors *safetensors, size_t *ret_n_tensors)
{
    *ret_n_tensors = safetensors->n_tensors;
    safetensors->n_tensors = 0;
    return USK_STEAL(safetensors->tensors);
}

/* bitsandbytes keeps notes about its quantization as tensors; its layers read them while loading and drop them. */
static bool tensor_is_metadata(const char *name)
{
    return !strcmp(name, "weight_format") || usk_text_ends(name, ".weight_format") ||
           strstr(name, ".quant_state.") || strstr(name, "quant_state.bitsandbytes__");
}

static bool json_to_u64(const json_t *value, uint64_t *ret_value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *ret_value = (uint64_t)json_integer_value(value);
    return true;
}

/* One allocation per tensor, and there may be a hundred thousand: shape, then name. */
static bool tensor_new_strings(struct unstick_tensor *tensor, const char *name, const json_t *shape)
{
    size_t n = json_array_size(shape), length = strlen(name) + 1;
    uint64_t *block = malloc(n * sizeof(uint64_t) + length);

    if (!block)
        return false;
    for (size_t i = 0; i < n; i++)
        block[i] = (uint64_t)json_integer_value(json_array_get(shape, i));
    tensor->n_dims = (unsigned int)n;
    tensor->shape = block;
    tensor->name = memcpy(block + n, name, length);
    return true;
}

/* Reads the shape and the type, and computes how many bytes they make. */
static int tensor_read_bytes(const char *path, const char *name, const json_t *dtype, const json_t *shape,
                             struct unstick_tensor *tensor, struct unstick_error *error)
{
    uint64_t dimension, bits;
    char text[128], quote[USK_JSON_QUOTE_MAX];
    const json_t *value;
    bool fits = true;
    size_t i;

    if (!json_is_string(dtype))
        return tensor_refuse(path, name, "dtype must be a string", error);
    bits = usk_dtype_bits(json_string_value(dtype), &tensor->dtype);
    if (!bits) {
        snprintf(text, sizeof(text), "unknown dtype \"%s\"", usk_json_quote(quote, json_string_value(dtype)));
        return tensor_refuse(path, name, text, error);
    }
    if (!json_is_array(shape) || json_array_size(shape) > USK_SAFETENSORS_DIMENSIONS_MAX)
        return tensor_refuse(path, name, "shape must be a list of at most 64 sizes", error);
    json_array_foreach((json_t *)shape, i, value) {
        if (!json_to_u64(value, &dimension))
            return tensor_refuse(path, name, "shape must hold integers that are not negative", error);
        fits = fits && usk_mul(bits, dimension, &bits);
    }
    if (!fits)
        return tensor_refuse(path, name, "its shape overflows 64 bits", error);
    if (bits % 8)
        return tensor_refuse(path, name, "its elements do not fill whole bytes", error);
    tensor->bytes = bits / 8;
    return UNSTICK_OK;
}

static int tensor_read(const char *path, const char *name, const json_t *entry, uint64_t data_bytes,
                       struct unstick_tensor *ret_tensor, struct unstick_error *error)
{
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    const json_t *dtype = json_object_get(entry, "dtype");
    struct unstick_tensor tensor = { 0 };
    uint64_t begin, end;
    char text[160];
    int r;

    if (!json_is_object(entry) || json_object_size(entry) != 3 || !dtype || !shape || !offsets)
        return tensor_refuse(path, name, "must have dtype, shape and data_offsets, and nothing else", error);
    r = tensor_read_bytes(path, name, dtype, shape, &tensor, error);
    if (r < 0)
        return r;
    if (json_array_size(offsets) != 2 || !json_to_u64(json_array_get(offsets, 0), &begin) ||
        !json_to_u64(json_array_get(offsets, 1), &end))
        return tensor_refuse(path, name, "data_offsets must be two integers that are not negative", error);
    if (begin > end)
        return tensor_refuse(path, name, "data_offsets end before they begin", error);
    if (end > data_bytes) {
        snprintf(text, sizeof(text), "it ends at byte %llu of the data, the file has %llu: download it again",
                 (unsigned long long)end, (unsigned long long)data_bytes);
        return tensor_refuse(path, name, text, error);
    }
    if (end - begin != tensor.bytes) {
        snprintf(text, sizeof(text), "its shape makes %llu bytes, its data_offsets %llu",
                 (unsigned long long)tensor.bytes, (unsigned long long)(end - begin));
        return tensor_refuse(path, name, text, error);
    }
    if (!tensor_new_strings(&tensor, name, shape))
        return safetensors_no_memory(path, error);
    /* Of the data section as yet. */
    tensor.file_offset = begin;
    tensor.is_metadata = tensor_is_metadata(name);
    *ret_tensor = tensor;
    return UNSTICK_OK;
}

static int tensor_compare_names(const void *a, const void *b)
{
    return strcmp(((const struct unstick_tensor *)a)->name, ((const struct unstick_tensor *)b)->name);
}

/* Empty tensors come before what begins where they lie; the name makes the order a total one. */
static int tensor_compare_offsets(const void *a, const void *b)
{
    const struct unstick_tensor *x = a, *y = b;

    if (x->file_offset != y->file_offset)
        return x->file_offset < y->file_offset ? -1 : 1;
    if (!x->bytes != !y->bytes)
        return x->bytes ? 1 : -1;
    return strcmp(x->name, y->name);
}

/* Sorts the tensors by offset, and checks that each byte of the data belongs to exactly one of them. */
static int safetensors_order(struct usk_safetensors *safetensors, const char *path, struct unstick_error *error)
{
    struct unstick_tensor *tensors = safetensors->tensors;
    size_t n = safetensors->n_tensors;
    char quote[USK_JSON_QUOTE_MAX];
    uint64_t end = 0;

    if (n)
        qsort(tensors, n, sizeof(*tensors), tensor_compare_names);
    for (size_t i = 1; i < n; i++) {
        if (!strcmp(tensors[i - 1].name, tensors[i].name))
            return tensor_refuse(path, tensors[i].name, "is in the header twice", error);
    }
    if (n)
        qsort(tensors, n, sizeof(*tensors), tensor_compare_offsets);
    for (size_t i = 0; i < n; i++) {
        if (tensors[i].file_offset != end)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                                 "%s: tensor \"%s\": begins at byte %llu of the data, but what lies before it ends "
                                 "at %llu: %s",
                                 path, usk_json_quote(quote, tensors[i].name),
                                 (unsigned long long)tensors[i].file_offset, (unsigned long long)end,
                                 tensors[i].file_offset < end ? "they overlap" : "there is a gap");
        end += tensors[i].bytes;
        tensors[i].file_offset += safetensors->data_offset;
    }
    if (end != safetensors->data_bytes)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: its tensors end at byte %llu of the data, but the file has %llu: download it again",
                             path, (unsigned long long)end, (unsigned long long)safetensors->data_bytes);
    return UNSTICK_OK;
}

/* Room for one more tensor. */
static bool safetensors_grow(struct usk_safetensors *safetensors, size_t *capacity)
{
    size_t wanted = *capacity * 2 + 64;
    struct unstick_tensor *grown;

    if (safetensors->n_tensors < *capacity)
        return true;
    grown = realloc(safetensors->tensors, wanted * sizeof(*grown));
    if (!grown)
        return false;
    safetensors->tensors = grown;
    *capacity = wanted;
    return true;
}

static int safetensors_read_entries(struct usk_safetensors *safetensors, struct usk_json *json,
                                    struct unstick_error *error)
{
    size_t capacity = 0, n_seen = 0, n_notes = 0;
    int r;

    for (;;) {
        USK_CLEANUP(json_decrefp) json_t *key = NULL;
        USK_CLEANUP(json_decrefp) json_t *entry = NULL;
        const char *name;

        r = usk_json_next(json, &n_seen, &key, error);
        if (r < 0 || !key)
            return r;
        name = json_string_value(key);
        if (!strcmp(name, "__metadata__")) {
            USK_CLEANUP(usk_json_map_fini) struct usk_json_map notes = { 0 };

            if (n_notes++)
                return tensor_refuse(json->path, name, "is in the header twice", error);
            r = usk_json_take_map(json, "__metadata__", &notes, error);
            if (r < 0)
                return r;
            continue;
        }
        r = usk_json_take(json, SAFETENSORS_ENTRY_BYTES_MAX, &entry, error);
        if (r < 0)
            return r;
        if (!safetensors_grow(safetensors, &capacity))
            return safetensors_no_memory(json->path, error);
        r = tensor_read(json->path, name, entry, safetensors->data_bytes,
                        &safetensors->tensors[safetensors->n_tensors], error);
        if (r < 0)
            return r;
        safetensors->n_tensors++;
    }
}

int usk_safetensors_parse(const char *text, size_t length, uint64_t data_bytes, const char *path,
                          struct usk_safetensors **ret_safetensors, struct unstick_error *error)
{
    USK_CLEANUP(usk_safetensors_freep) struct usk_safetensors *safetensors = calloc(1, sizeof(*safetensors));
    struct usk_json json = {
        .text = text,
        .length = length,
        .path = path,
        .file_offset = SAFETENSORS_PREFIX_BYTES,
    };
    int r;

    if (!safetensors)
        return safetensors_no_memory(path, error);
    safetensors->data_offset = SAFETENSORS_PREFIX_BYTES + (uint64_t)length;
    safetensors->data_bytes = data_bytes;
    if (!length || text[0] != '{')
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: its header does not begin with '{': it is not a safetensors file", path);
    r = usk_json_enter(&json, "the header", error);
    if (r >= 0)
        r = safetensors_read_entries(safetensors, &json, error);
    if (r >= 0)
        r = usk_json_end(&json, error);
    if (r >= 0)
        r = safetensors_order(safetensors, path, error);
    if (r < 0)
        return r;
    *ret_safetensors = USK_STEAL(safetensors);
    return UNSTICK_OK;
}

/* The length that the first bytes of a file give its header; checked against the file and the format. */
static int safetensors_read_prefix(int fd, const char *path, uint64_t file_bytes, uint64_t *ret_length,
                                   struct unstick_error *error)
{
    unsigned char prefix[SAFETENSORS_PREFIX_BYTES + 1];
    uint64_t length = 0;
    int r;

    if (file_bytes < SAFETENSORS_PREFIX_BYTES + 2)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: it has %llu bytes, too short for a safetensors file: download it again", path,
                             (unsigned long long)file_bytes);
    r = usk_os_file_read(fd, path, 0, prefix, sizeof(prefix), error);
    if (r < 0)
        return r;
    for (int i = SAFETENSORS_PREFIX_BYTES - 1; i >= 0; i--)
        length = length << 8 | prefix[i];
    if (!memcmp(prefix, "version ", SAFETENSORS_PREFIX_BYTES))
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: it is a Git LFS pointer, not the weights: run `git lfs pull`", path);
    /* The one place that tells a file of another kind from a broken one, before 100 MB are read. */
    if (prefix[SAFETENSORS_PREFIX_BYTES] != '{')
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: its header does not begin with '{': it is not a safetensors file", path);
    if (length > USK_SAFETENSORS_HEADER_BYTES_MAX)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: its header claims %llu bytes, the format allows %llu: it is damaged or not a "
                             "safetensors file",
                             path, (unsigned long long)length, (unsigned long long)USK_SAFETENSORS_HEADER_BYTES_MAX);
    if (length > file_bytes - SAFETENSORS_PREFIX_BYTES)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "safetensors",
                             "%s: the file is truncated: its header claims %llu bytes, the file has %llu in all: "
                             "download it again",
                             path, (unsigned long long)length, (unsigned long long)file_bytes);
    *ret_length = length;
    return UNSTICK_OK;
}

int usk_safetensors_open(const char *path, struct usk_safetensors **ret_safetensors, struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = -1;
    USK_CLEANUP(usk_freep) char *text = NULL;
    uint64_t file_bytes, length = 0;
    int r;

    r = usk_model_file_open(path, &fd, &file_bytes, error);
    if (r < 0)
        return r;
    r = safetensors_read_prefix(fd, path, file_bytes, &length, error);
    if (r < 0)
        return r;
    text = malloc(length + 1);
    if (!text)
        return safetensors_no_memory(path, error);
    r = usk_os_file_read(fd, path, SAFETENSORS_PREFIX_BYTES, text, length, error);
    if (r < 0)
        return r;
    return usk_safetensors_parse(text, length, file_bytes - SAFETENSORS_PREFIX_BYTES - length, path, ret_safetensors,
                                 error);
}
