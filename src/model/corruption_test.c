/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random headers against what they were made from, and the same headers with one byte changed: such a file is refused,
 * or it is another good file. Never does a tensor leave the data section. The seed is fixed, so that a failure is the
 * same one tomorrow.
 */
#include "model/test_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"

#define TENSORS_MAX 12
#define TEXT_MAX 8192

struct made_tensor {
    char name[64];
    const char *dtype;
    unsigned int n_dims;
    uint64_t shape[4];
    uint64_t begin, bytes;
};

struct made_file {
    struct made_tensor tensors[TENSORS_MAX]; /* in the order of their offsets */
    size_t n_tensors;
    uint64_t data_bytes;
    char text[TEXT_MAX];
    size_t length;
};

/* xorshift64* */
static uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static uint64_t random_below(uint64_t *state, uint64_t n)
{
    return (random_next(state) >> 32) % n;
}

static const struct {
    const char *name;
    unsigned int bits;
} dtypes[] = { { "U8", 8 },   { "BF16", 16 },  { "F32", 32 },   { "C64", 64 },
               { "BOOL", 8 }, { "F4", 4 }, { "I64", 64 }, { "F8_E8M0", 8 } };

static void made_tensor_init(struct made_tensor *tensor, size_t i, uint64_t begin, uint64_t *random)
{
    size_t type = random_below(random, sizeof(dtypes) / sizeof(dtypes[0]));
    uint64_t n = 1;

    *tensor = (struct made_tensor){ .dtype = dtypes[type].name, .begin = begin };
    snprintf(tensor->name, sizeof(tensor->name), "b.%zu.%s%llu", i, random_below(random, 2) ? "weight" : "\xc3\xa9",
             (unsigned long long)random_below(random, 1000));
    tensor->n_dims = (unsigned int)random_below(random, 5);
    for (unsigned int d = 0; d < tensor->n_dims; d++) {
        tensor->shape[d] = random_below(random, 9);
        n *= tensor->shape[d];
    }
    /* Elements of half a byte come in pairs. */
    if (n * dtypes[type].bits % 8) {
        tensor->n_dims = 1;
        tensor->shape[0] = n = 2 * n;
    }
    tensor->bytes = n * dtypes[type].bits / 8;
}

static void made_file_init(struct made_file *file, uint64_t *random)
{
    size_t order[TENSORS_MAX], at = 0;

    file->n_tensors = random_below(random, TENSORS_MAX + 1);
    file->data_bytes = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        made_tensor_init(&file->tensors[i], i, file->data_bytes, random);
        file->data_bytes += file->tensors[i].bytes;
        order[i] = i;
    }
    for (size_t i = file->n_tensors; i > 1; i--) {
        size_t j = random_below(random, i), kept = order[i - 1];

        order[i - 1] = order[j];
        order[j] = kept;
    }

#define PUT(...) (at += (size_t)snprintf(file->text + at, TEXT_MAX - at, __VA_ARGS__))
    PUT("{");
    if (random_below(random, 2))
        PUT("\"__metadata__\":{\"format\":\"pt\"}%s", file->n_tensors ? "," : "");
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct made_tensor *tensor = &file->tensors[order[i]];

        PUT("%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", tensor->name, tensor->dtype);
        for (unsigned int d = 0; d < tensor->n_dims; d++)
            PUT("%s%llu", d ? ", " : "", (unsigned long long)tensor->shape[d]);
        PUT("],\"data_offsets\":[%llu,%llu]}", (unsigned long long)tensor->begin,
            (unsigned long long)(tensor->begin + tensor->bytes));
    }
    PUT("}%*s", (int)random_below(random, 8), "");
#undef PUT
    assert_in_range(at, 2, TEXT_MAX - 1);
    file->length = at;
}

static const struct unstick_tensor *find(const struct usk_safetensors *safetensors, const char *name)
{
    for (size_t i = 0; i < safetensors->n_tensors; i++) {
        if (!strcmp(safetensors->tensors[i].name, name))
            return &safetensors->tensors[i];
    }
    return NULL;
}

static void assert_same(const struct made_file *file, const struct usk_safetensors *safetensors)
{
    assert_int_equal(safetensors->n_tensors, file->n_tensors);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct made_tensor *made = &file->tensors[i];
        const struct unstick_tensor *read = find(safetensors, made->name);

        assert_non_null(read);
        assert_string_equal(read->dtype, made->dtype);
        assert_int_equal(read->n_dims, made->n_dims);
        if (made->n_dims)
            assert_memory_equal(read->shape, made->shape, made->n_dims * sizeof(made->shape[0]));
        assert_int_equal(read->bytes, made->bytes);
        assert_int_equal(read->file_offset, 8 + file->length + made->begin);
    }
}

/* What must be true of every file that is accepted. */
static void assert_sound(const struct usk_safetensors *safetensors, uint64_t data_bytes)
{
    uint64_t end = safetensors->data_offset;

    for (size_t i = 0; i < safetensors->n_tensors; i++) {
        assert_int_equal(safetensors->tensors[i].file_offset, end);
        end += safetensors->tensors[i].bytes;
    }
    assert_int_equal(end, safetensors->data_offset + data_bytes);
}

static void random_headers_survive_and_their_corruptions_are_caught(void **state)
{
    struct made_file *file = malloc(sizeof(*file));
    uint64_t random = UINT64_C(0x5eed0f1e5eed0f1e);
    unsigned int n_refused = 0, n_accepted = 0;

    (void)state;
    assert_non_null(file);
    for (int round = 0; round < 300; round++) {
        struct usk_safetensors *safetensors = NULL;
        struct unstick_error error;

        made_file_init(file, &random);
        if (usk_safetensors_parse(file->text, file->length, file->data_bytes, "m", &safetensors, &error) < 0)
            fail_msg("%s: %.*s", error.text, (int)file->length, file->text);
        assert_same(file, safetensors);
        assert_sound(safetensors, file->data_bytes);
        usk_safetensors_free(safetensors);

        for (int change = 0; change < 60; change++) {
            char *copy = malloc(file->length);
            size_t at = random_below(&random, file->length);

            assert_non_null(copy);
            memcpy(copy, file->text, file->length);
            /* Half of them a character that means something. */
            copy[at] = random_below(&random, 2) ? (char)random_next(&random)
                                                : "{}[]\",:0123456789\\ -"[random_below(&random, 20)];
            safetensors = NULL;
            if (usk_safetensors_parse(copy, file->length, file->data_bytes, "m", &safetensors, &error) < 0) {
                assert_int_equal(error.status, UNSTICK_BAD_FORMAT);
                assert_null(safetensors);
                n_refused++;
            } else {
                assert_sound(safetensors, file->data_bytes);
                usk_safetensors_free(safetensors);
                n_accepted++;
            }
            free(copy);
        }
    }
    free(file);
    /* Names and types of one size are what a changed byte can be good in. */
    assert_in_range(n_refused, 9000, 18000);
    assert_in_range(n_accepted, 1, 9000);
}

/* Cut off anywhere, a file is refused: in its header, and in its data. */
static void truncated_files_are_refused(void **state)
{
    struct made_file *file = malloc(sizeof(*file));
    uint64_t random = 1;

    (void)state;
    assert_non_null(file);
    do {
        made_file_init(file, &random);
    } while (!file->n_tensors || !file->data_bytes || file->text[file->length - 1] != '}');
    for (size_t length = 0; length < file->length; length++) {
        struct usk_safetensors *safetensors = NULL;
        char *copy = malloc(length + !length);

        assert_non_null(copy);
        memcpy(copy, file->text, length);
        assert_int_equal(usk_safetensors_parse(copy, length, file->data_bytes, "m", &safetensors, NULL),
                         UNSTICK_BAD_FORMAT);
        free(copy);
    }
    for (uint64_t bytes = 0; bytes < file->data_bytes; bytes++) {
        struct usk_safetensors *safetensors = NULL;

        assert_int_equal(usk_safetensors_parse(file->text, file->length, bytes, "m", &safetensors, NULL),
                         UNSTICK_BAD_FORMAT);
    }
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_headers_survive_and_their_corruptions_are_caught),
        cmocka_unit_test(truncated_files_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
