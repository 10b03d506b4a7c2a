/* SPDX-License-Identifier: Apache-2.0 */
/* Headers, good and bad. A bad one must be refused with a message that names the file and says what is wrong. */
#include "model/test_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "model/safetensors.h"

static char *folder;

static int files_set_up(void **state)
{
    (void)state;
    folder = test_files_new();
    return 0;
}

static int files_tear_down(void **state)
{
    (void)state;
    test_files_free(folder);
    return 0;
}

/* Parses from a buffer of exactly the header's length, so that reading past it is seen. */
static int parse(const char *text, size_t length, uint64_t data_bytes, struct usk_safetensors **ret,
                 struct unstick_error *error)
{
    char *copy = malloc(length + !length);
    int r;

    assert_non_null(copy);
    memcpy(copy, text, length);
    r = usk_safetensors_parse(copy, length, data_bytes, "m.safetensors", ret, error);
    free(copy);
    return r;
}

static void assert_refused(const char *text, size_t length, uint64_t data_bytes, const char *message)
{
    struct usk_safetensors *safetensors = NULL;
    struct unstick_error error = { 0 };
    int r = parse(text, length, data_bytes, &safetensors, &error);

    if (r >= 0)
        fail_msg("accepted: %.200s", text);
    assert_int_equal(r, UNSTICK_BAD_FORMAT);
    assert_int_equal(error.status, UNSTICK_BAD_FORMAT);
    assert_null(safetensors);
    if (!strstr(error.text, message))
        fail_msg("\"%s\" instead of \"%s\" for %.200s", error.text, message, text);
    assert_ptr_equal(strstr(error.text, "m.safetensors: "), error.text);
    assert_null(strchr(error.text, '\n'));
    assert_int_equal(parse(text, length, data_bytes, &safetensors, NULL), UNSTICK_BAD_FORMAT);
}

static void assert_accepted(const char *text, uint64_t data_bytes, size_t n_tensors)
{
    struct usk_safetensors *safetensors = NULL;
    struct unstick_error error = { 0 };
    int r = parse(text, strlen(text), data_bytes, &safetensors, &error);

    if (r < 0)
        fail_msg("%s for %.200s", error.text, text);
    assert_int_equal(safetensors->n_tensors, n_tensors);
    usk_safetensors_free(safetensors);
}

/* An entry of `bytes` bytes of U8 at `begin`. */
#define ENTRY(_name, _begin, _end, _shape) \
    "\"" _name "\":{\"dtype\":\"U8\",\"shape\":[" _shape "],\"data_offsets\":[" _begin "," _end "]}"
#define TENSOR(_fields) "{\"a\":{" _fields "}}"

static const struct {
    const char *text;
    uint64_t data_bytes;
    const char *message;
} bad_headers[] = {
    /* not JSON, or not only */
    { "", 0, "not a safetensors file" },
    { " {}", 0, "not a safetensors file" },
    { "[]", 0, "not a safetensors file" },
    { "{", 0, "a key must be a string" },
    { "{}{", 0, "byte 10: something follows" },
    { "{} x", 0, "something follows" },
    { "{\"a\"", 0, "expected ':'" },
    { "{\"a\":", 0, "ends in the middle" },
    { "{\"a", 0, "no end" },
    { "{\"a\\", 0, "no end" },
    { "{a:1}", 0, "a key must be a string" },
    { "{1:1}", 0, "a key must be a string" },
    { "{\"a\":}", 0, "broken JSON" },
    { "{" ENTRY("a", "0", "1", "1") " " ENTRY("b", "1", "2", "1") "}", 2, "expected ','" },
    { "{" ENTRY("a", "0", "1", "1") ",}", 1, "a key must be a string" },
    { "{," ENTRY("a", "0", "1", "1") "}", 1, "a key must be a string" },
    { "{" ENTRY("a", "0", "1", "1"), 1, "expected ','" },
    { "{\"a\":{\"dtype\":\"U8\",\"shape\":[1},\"data_offsets\":[0,1]]}", 1, "broken JSON" },
    { "{\"a\":tru}", 0, "broken JSON" },
    { "{\"a\xff\":1}", 0, "broken JSON" },
    { "{\"a\\u0000b\":1}", 0, "broken JSON" },
    { "{\"a\\ud800\":1}", 0, "broken JSON" },
    /* entries of another shape */
    { "{\"a\":1}", 0, "tensor \"a\": must have dtype, shape and data_offsets" },
    { "{\"a\":[]}", 0, "must have dtype" },
    { "{\"a\":null}", 0, "must have dtype" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1]"), 1, "must have dtype" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"offsets\":[0,1]"), 1, "must have dtype" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0"), 1, "and nothing else" },
    { TENSOR("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "duplicate" },
    { TENSOR("\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype must be a string" },
    { TENSOR("\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "unknown dtype \"u8\"" },
    { TENSOR("\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "unknown dtype \"\"" },
    { TENSOR("\"dtype\":\"F\\u001b[2J\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "unknown dtype \"F?[2J\"" },
    /* numbers */
    { TENSOR("\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]"), 1, "shape must be a list" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]"), 1, "shape must hold integers" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]"), 1, "shape must hold integers" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1e0],\"data_offsets\":[0,1]"), 1, "shape must hold integers" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[\"1\"],\"data_offsets\":[0,1]"), 1, "shape must hold integers" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]"), 1, "shape must hold integers" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[01],\"data_offsets\":[0,1]"), 1, "broken JSON" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,1]"), 1, "broken JSON" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0.0,1]"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1.5]"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]"), 1, "data_offsets must be two" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,-1]"), 1, "data_offsets must be two" },
    /* shape against bytes */
    { TENSOR("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7]"), 7,
      "its shape makes 8 bytes, its data_offsets 7" },
    { TENSOR("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]"), 0, "its shape makes 4 bytes" },
    { TENSOR("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]"), 4, "its shape makes 0 bytes" },
    { TENSOR("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, "whole bytes" },
    { TENSOR("\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]"), 2, "whole bytes" },
    { TENSOR("\"dtype\":\"F6_E3M2\",\"shape\":[],\"data_offsets\":[0,1]"), 1, "whole bytes" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, "overflows" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]"), 0, "overflows" },
    { TENSOR("\"dtype\":\"I64\",\"shape\":[288230376151711744],\"data_offsets\":[0,0]"), 0, "overflows" },
    { TENSOR("\"dtype\":\"U8\",\"shape\":[9223372036854775807,2,0],\"data_offsets\":[0,0]"), 0, "overflows" },
    /* offsets against each other and the file */
    { TENSOR("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]"), 1, "end before they begin" },
    { "{" ENTRY("a", "0", "4", "4") "}", 3, "ends at byte 4 of the data, the file has 3: download it again" },
    { "{" ENTRY("a", "0", "9223372036854775807", "9223372036854775807") "}", 3, "overflows" },
    { "{" ENTRY("a", "0", "4", "4") "}", 5, "tensors end at byte 4 of the data, but the file has 5" },
    { "{}", 1, "tensors end at byte 0 of the data, but the file has 1" },
    { "{" ENTRY("a", "1", "4", "3") "}", 4, "tensor \"a\": begins at byte 1 of the data, but what lies before it ends "
                                            "at 0: there is a gap" },
    { "{" ENTRY("a", "0", "2", "2") "," ENTRY("b", "3", "4", "1") "}", 4, "tensor \"b\": begins at byte 3" },
    { "{" ENTRY("b", "1", "4", "3") "," ENTRY("a", "0", "2", "2") "}", 4, "they overlap" },
    { "{" ENTRY("a", "0", "4", "4") "," ENTRY("b", "0", "4", "4") "}", 4, "they overlap" },
    { "{" ENTRY("a", "0", "4", "4") "," ENTRY("b", "1", "2", "1") "}", 4, "they overlap" },
    { "{" ENTRY("a", "0", "4", "4") "," ENTRY("b", "2", "2", "0") "}", 4, "they overlap" },
    { "{" ENTRY("a", "0", "2", "2") "," ENTRY("a", "2", "4", "2") "}", 4, "tensor \"a\": is in the header twice" },
    { "{" ENTRY("a", "0", "2", "2") "," ENTRY("\\u0061", "2", "4", "2") "}", 4, "is in the header twice" },
    /* notes */
    { "{\"__metadata__\":null}", 0, "__metadata__ must be an object" },
    { "{\"__metadata__\":[]}", 0, "__metadata__ must be an object" },
    { "{\"__metadata__\":{\"a\":1}}", 0, "a value in it must be a string" },
    { "{\"__metadata__\":{\"a\":{}}}", 0, "a value in it must be a string" },
    { "{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", 0, "__metadata__ has the key \"a\" twice" },
    { "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "is in the header twice" },
    { "{\"__metadata__\":{\"a\":\"b\"", 0, "expected ','" },
    { "{\"__metadata__\":{\"a\":\"b}}", 0, "no end" },
};

static void bad_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_headers) / sizeof(bad_headers[0]); i++)
        assert_refused(bad_headers[i].text, strlen(bad_headers[i].text), bad_headers[i].data_bytes,
                       bad_headers[i].message);
    /* NUL is in no JSON text. */
    assert_refused("{\0}", 3, 0, "a key must be a string");
    assert_refused("{\"a\0b\":1}", 9, 0, "broken JSON");
}

static void good_headers_are_accepted(void **state)
{
    (void)state;
    assert_accepted("{}", 0, 0);
    assert_accepted("{}   ", 0, 0);
    assert_accepted("{\n}\n", 0, 0);
    assert_accepted("{\"__metadata__\":{}}", 0, 0);
    assert_accepted("{\"__metadata__\":{\"format\":\"pt\",\"\":\"\",\"e\\u00e9\\\"\":\"}{\"}}    ", 0, 0);
    assert_accepted("{" ENTRY("a", "0", "1", "") "}", 1, 1); /* a scalar */
    assert_accepted("{" ENTRY("", "0", "1", "1") "}", 1, 1); /* a name of no length */
    assert_accepted("{" ENTRY("\xc3\xa9\xf0\x9f\x98\x80 \\\" \\n", "0", "1", "1") "}", 1, 1);
    assert_accepted("{" ENTRY("b", "1", "2", "1") "," ENTRY("a", "0", "1", "1") "}", 2, 2); /* in any order */
    assert_accepted("{" ENTRY("a", "0", "0", "0") "}", 0, 1);
    assert_accepted("{" ENTRY("a", "0", "0", "5,0,7") "," ENTRY("b", "0", "2", "2") ","
                    ENTRY("c", "2", "2", "0") "}", 2, 3);
    assert_accepted("{ \"a\" : { \"data_offsets\" : [ 0 , 1 ] , \"shape\" : [ 1 ] , \"dtype\" : \"U8\" } }", 1, 1);
    assert_accepted(TENSOR("\"dtype\":\"U8\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]"), 0, 1);
}

static const struct {
    const char *name;
    unsigned int bytes_of_four; /* elements */
} types[] = {
    { "F4", 2 },          { "F6_E2M3", 3 },     { "F6_E3M2", 3 },     { "BOOL", 4 }, { "U8", 4 },   { "I8", 4 },
    { "F8_E5M2", 4 },     { "F8_E4M3", 4 },     { "F8_E8M0", 4 },     { "I16", 8 },  { "U16", 8 },  { "F16", 8 },
    { "F8_E4M3FNUZ", 4 }, { "F8_E5M2FNUZ", 4 }, { "BF16", 8 },        { "I32", 16 }, { "U32", 16 }, { "F32", 16 },
    { "C64", 32 },        { "F64", 32 },        { "I64", 32 },        { "U64", 32 },
};

static void every_type_has_its_size(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct usk_safetensors *safetensors = NULL;
        char text[160];

        snprintf(text, sizeof(text), TENSOR("\"dtype\":\"%s\",\"shape\":[2,2],\"data_offsets\":[0,%u]"), types[i].name,
                 types[i].bytes_of_four);
        assert_int_equal(parse(text, strlen(text), types[i].bytes_of_four, &safetensors, NULL), UNSTICK_OK);
        assert_string_equal(safetensors->tensors[0].dtype, types[i].name);
        assert_int_equal(safetensors->tensors[0].bytes, types[i].bytes_of_four);
        usk_safetensors_free(safetensors);
    }
}

static void tensors_come_in_the_order_of_their_offsets(void **state)
{
    static const char text[] = "{" ENTRY("c", "3", "9", "2,3") "," ENTRY("b", "0", "3", "3") ","
                               ENTRY("z", "3", "3", "0") "}";
    struct usk_safetensors *safetensors = NULL;
    const struct unstick_tensor *tensors;

    (void)state;
    assert_int_equal(parse(text, strlen(text), 9, &safetensors, NULL), UNSTICK_OK);
    assert_int_equal(safetensors->data_offset, 8 + strlen(text));
    tensors = safetensors->tensors;
    assert_string_equal(tensors[0].name, "b");
    assert_string_equal(tensors[1].name, "z");
    assert_string_equal(tensors[2].name, "c");
    assert_int_equal(tensors[0].file_offset, 8 + strlen(text));
    assert_int_equal(tensors[1].file_offset, 8 + strlen(text) + 3);
    assert_int_equal(tensors[2].file_offset, 8 + strlen(text) + 3);
    assert_int_equal(tensors[2].n_dims, 2);
    assert_int_equal(tensors[2].shape[0], 2);
    assert_int_equal(tensors[2].shape[1], 3);
    usk_safetensors_free(safetensors);
}

static void notes_about_quantization_are_metadata(void **state)
{
    static const struct {
        const char *name;
        bool is_metadata;
    } names[] = {
        { "a.weight", false },
        { "a.weight.absmax", false },
        { "a.weight.quant_map", false },
        { "a.weight.nested_absmax", false },
        { "a.weight.nested_quant_map", false },
        { "a.SCB", false },
        { "a.weight_format", true },
        { "weight_format", true },
        { "a.weight_formats", false },
        { "my_weight_format", false },
        { "a.weight.quant_state.bitsandbytes__nf4", true },
        { "a.weight.quant_state.bitsandbytes__fp4", true },
        { "quant_state.bitsandbytes__nf4", true },
        { "a.quant_state", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct usk_safetensors *safetensors = NULL;
        char text[160];

        snprintf(text, sizeof(text), "{\"%s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", names[i].name);
        assert_int_equal(parse(text, strlen(text), 1, &safetensors, NULL), UNSTICK_OK);
        assert_int_equal(safetensors->tensors[0].is_metadata, names[i].is_metadata);
        usk_safetensors_free(safetensors);
    }
}

static void long_names_are_cut_in_messages(void **state)
{
    char text[4096];
    size_t n = (size_t)snprintf(text, sizeof(text), "{\"");

    (void)state;
    /* Of two bytes each, so that the cut may fall between them; what is left must be whole. */
    for (int i = 0; i < 500; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "\xc3\xa9");
    snprintf(text + n, sizeof(text) - n, "\":1}");
    assert_refused(text, strlen(text), 0, "\xc3\xa9...\": must have dtype");
    assert_refused("{\"a\\u001b[31m\\n\\u007f\\u009b\":1}", strlen("{\"a\\u001b[31m\\n\\u007f\\u009b\":1}"), 0,
                   "tensor \"a?[31m??\xc2?\": must");
}

static void nesting_and_length_are_bounded(void **state)
{
    size_t length = 3000000;
    char *text = malloc(length), shape[256];

    (void)state;
    assert_non_null(text);
    memset(text, '[', length);
    memcpy(text, "{\"a\":", 5);
    assert_refused(text, length, 0, "nested too deep");
    for (size_t i = 5; i + 5 <= length; i += 5)
        memcpy(text + i, "{\"a\":", 5);
    assert_refused(text, length, 0, "nested too deep");
    /* Wide instead of deep, which costs memory and not stack. */
    memset(text, '1', length);
    for (size_t i = 6; i < length; i += 2)
        text[i] = ',';
    memcpy(text, "{\"a\":[", 6);
    assert_refused(text, length, 0, "far longer");
    memset(text, ' ', length);
    memcpy(text, "{\"a\":\"", 6);
    assert_refused(text, length, 0, "no end");
    text[length - 1] = '"';
    assert_refused(text, length, 0, "far longer");
    memset(text, '1', length);
    memcpy(text, "{\"a\":", 5);
    assert_refused(text, length, 0, "far longer");

    /* A shape of 64 sizes is the longest, of 65 one too many. */
    for (int n = 64; n <= 65; n++) {
        size_t at = (size_t)snprintf(shape, sizeof(shape),
                                     "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1],\"shape\":[1");

        for (int i = 1; i < n; i++)
            at += (size_t)snprintf(shape + at, sizeof(shape) - at, ",1");
        snprintf(shape + at, sizeof(shape) - at, "]}}");
        if (n == 64)
            assert_accepted(shape, 1, 1);
        else
            assert_refused(shape, strlen(shape), 1, "at most 64 sizes");
    }
    free(text);
}

static void assert_file_refused(const char *name, int status, const char *message)
{
    struct usk_safetensors *safetensors = NULL;
    struct unstick_error error = { 0 };

    assert_int_equal(usk_safetensors_open(test_files_path(folder, name), &safetensors, &error), status);
    assert_null(safetensors);
    if (!strstr(error.text, message) || !strstr(error.text, name))
        fail_msg("\"%s\" instead of \"%s\"", error.text, message);
}

static void write_prefix(const char *name, uint64_t length, const char *text, uint64_t file_bytes)
{
    char bytes[64];

    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(unsigned char)(length >> (8 * i));
    memcpy(bytes + 8, text, strlen(text));
    test_files_write(folder, name, bytes, 8 + strlen(text));
    assert_int_equal(truncate(test_files_path(folder, name), (off_t)file_bytes), 0);
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    assert_file_refused("missing", UNSTICK_NOT_FOUND, "cannot open");
    test_files_mkdir(folder, "folder");
    assert_file_refused("folder", UNSTICK_BAD_FORMAT, "not a regular file");
    assert_int_equal(mkfifo(test_files_path(folder, "pipe"), 0600), 0);
    assert_file_refused("pipe", UNSTICK_BAD_FORMAT, "not a regular file");
    assert_int_equal(symlink("nowhere", test_files_path(folder, "dangling")), 0);
    assert_file_refused("dangling", UNSTICK_NOT_FOUND, "cannot open");

    write_prefix("empty", 0, "", 0);
    assert_file_refused("empty", UNSTICK_BAD_FORMAT, "0 bytes, too short");
    write_prefix("nine", 1, "{", 9);
    assert_file_refused("nine", UNSTICK_BAD_FORMAT, "9 bytes, too short");
    write_prefix("none", 0, "{}", 10);
    assert_file_refused("none", UNSTICK_BAD_FORMAT, "not a safetensors file");
    write_prefix("text", 2, "[]", 10);
    assert_file_refused("text", UNSTICK_BAD_FORMAT, "not a safetensors file");
    test_files_write_text(folder, "pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    assert_file_refused("pointer", UNSTICK_BAD_FORMAT, "Git LFS pointer");
    write_prefix("short", 100, "{}", 107);
    assert_file_refused("short", UNSTICK_BAD_FORMAT,
                        "truncated: its header claims 100 bytes, the file has 107 in all: download it again");
    write_prefix("huge", UINT64_MAX, "{}", 200);
    assert_file_refused("huge", UNSTICK_BAD_FORMAT, "claims 18446744073709551615 bytes");
    /* Big files that are all hole. */
    write_prefix("beyond", 100000001, "{}", UINT64_C(1) << 31);
    assert_file_refused("beyond", UNSTICK_BAD_FORMAT, "the format allows 100000000");
    write_prefix("limit", 100000000, "{}", 100000008);
    assert_file_refused("limit", UNSTICK_BAD_FORMAT, "something follows");
}

/* The tests may run as root, who may read everything. */
static void unreadable_files_are_refused(void **state)
{
    (void)state;
    write_prefix("locked", 2, "{}", 10);
    assert_int_equal(chmod(test_files_path(folder, "locked"), 0), 0);
    if (geteuid() == 0)
        skip();
    assert_file_refused("locked", UNSTICK_IO, "cannot open");
}

static void good_files_are_read(void **state)
{
    struct usk_safetensors *safetensors = NULL;
    struct unstick_tensor *taken;
    size_t n;

    (void)state;
    /* 1 TiB of data that nobody reads. */
    test_files_write_tensors(folder, "big", "{" ENTRY("a", "0", "1099511627776", "1024,1073741824") "}   ",
                             UINT64_C(1) << 40);
    assert_int_equal(symlink("big", test_files_path(folder, "link")), 0);
    assert_int_equal(usk_safetensors_open(test_files_path(folder, "link"), &safetensors, NULL), UNSTICK_OK);
    assert_int_equal(safetensors->n_tensors, 1);
    assert_int_equal(safetensors->data_bytes, UINT64_C(1) << 40);
    taken = usk_safetensors_take(safetensors, &n);
    usk_safetensors_free(safetensors);
    assert_int_equal(n, 1);
    assert_int_equal(taken->bytes, UINT64_C(1) << 40);
    assert_string_equal(taken->name, "a");
    usk_tensor_fini(taken);
    free(taken);
}

static void a_hundred_thousand_tensors_open_quickly(void **state)
{
    size_t n = 100000, at = 0, capacity = n * 128;
    struct usk_safetensors *safetensors = NULL;
    char *text = malloc(capacity);
    uint64_t begin_ns;

    (void)state;
    assert_non_null(text);
    text[at++] = '{';
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(text + at, capacity - at,
                               "\"model.layers.%zu.mlp.up_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[2,2],"
                               "\"data_offsets\":[%zu,%zu]},",
                               i, i * 8, i * 8 + 8);
    text[at - 1] = '}';
    begin_ns = usk_clock_now_ns();
    assert_int_equal(parse(text, at, n * 8, &safetensors, NULL), UNSTICK_OK);
    /* Meant to take 0.2 s; the bound finds what is quadratic, under sanitizers on a busy machine too. */
    assert_in_range(usk_clock_now_ns() - begin_ns, 0, 10 * USK_NS_PER_S);
    assert_int_equal(safetensors->n_tensors, n);
    usk_safetensors_free(safetensors);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(good_headers_are_accepted),
        cmocka_unit_test(every_type_has_its_size),
        cmocka_unit_test(tensors_come_in_the_order_of_their_offsets),
        cmocka_unit_test(notes_about_quantization_are_metadata),
        cmocka_unit_test(long_names_are_cut_in_messages),
        cmocka_unit_test(nesting_and_length_are_bounded),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(unreadable_files_are_refused),
        cmocka_unit_test(good_files_are_read),
        cmocka_unit_test(a_hundred_thousand_tensors_open_quickly),
    };

    return cmocka_run_group_tests(tests, files_set_up, files_tear_down);
}
