/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Without memory: every allocation of opening a model fails once, each in its turn, ours and jansson's. The call must
 * say so and leave nothing behind, which the address sanitizer watches. (jansson takes some of its own failures for
 * faults of the text; refused is refused.) Linked with --wrap for malloc and its kin.
 */
#include "model/test_files.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/estimate.h>
#include <unstick/model.h>

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *pointer, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *pointer, size_t bytes);
char *__wrap_strdup(const char *text);

static unsigned int n_until_failure; /* 0: none fails */
static bool is_jansson;              /* whose allocation failed */

static bool fails(void)
{
    if (!n_until_failure || --n_until_failure)
        return false;
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails() ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *pointer, size_t bytes)
{
    return fails() ? NULL : __real_realloc(pointer, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

static void *jansson_malloc(size_t bytes)
{
    void *pointer = __wrap_malloc(bytes);

    is_jansson |= !pointer;
    return pointer;
}

#define TENSOR(_name) "{\"" _name "\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[0,4]}}"

static void every_allocation_may_fail(void **state)
{
    char *folder = test_files_new();
    unsigned int n = 0, n_refused = 0;
    bool is_over = false;

    (void)state;
    test_files_write_text(folder, "model_index.json", "{\"unet\":[\"diffusers\",\"X\"],\"vae\":[\"diffusers\",\"Y\"]}");
    test_files_write_tensors(folder, "unet/m-1.safetensors", TENSOR("a"), 4);
    test_files_write_tensors(folder, "unet/m-2.safetensors", TENSOR("b"), 4);
    test_files_write_text(folder, "unet/model.safetensors.index.json",
                          "{\"metadata\":{\"x\":[1,\"y\"]},"
                          "\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    test_files_write_tensors(folder, "vae/model.safetensors",
                             "{\"__metadata__\":{\"format\":\"pt\"},"
                             "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
                             4);
    json_set_alloc_funcs(jansson_malloc, free);
    while (!is_over) {
        struct unstick_model *model = NULL;
        struct unstick_error error = { 0 };
        int r;

        n_until_failure = ++n;
        is_jansson = false;
        r = unstick_model_open(folder, &model, &error);
        is_over = n_until_failure;
        n_until_failure = 0;
        if (r < 0) {
            if (r != UNSTICK_OUT_OF_HOST_MEMORY && !(is_jansson && r == UNSTICK_BAD_FORMAT))
                fail_msg("allocation %u: %s: %s", n, unstick_status_name(r), error.text);
            assert_null(model);
            assert_true(strlen(error.text) > 0);
            n_refused++;
        }
        unstick_model_close(model);
    }
    /* A region's extents are given back by a realloc whose failure changes nothing: once per component. */
    assert_int_equal(n - 1 - n_refused, 2);
    assert_true(n_refused > 100);
    test_files_free(folder);
}

/* Runs `call` until no allocation of it fails any more; *ret_n_refused counts the runs that failed. */
static unsigned int fail_each(int (*call)(const void *userdata, struct unstick_error *error), const void *userdata,
                              unsigned int *ret_n_refused)
{
    unsigned int n = 0;
    bool is_over = false;

    *ret_n_refused = 0;
    json_set_alloc_funcs(jansson_malloc, free);
    while (!is_over) {
        struct unstick_error error = { 0 };
        int r;

        n_until_failure = ++n;
        is_jansson = false;
        r = call(userdata, &error);
        is_over = n_until_failure;
        n_until_failure = 0;
        if (r < 0) {
            if (r != UNSTICK_OUT_OF_HOST_MEMORY && !(is_jansson && r == UNSTICK_BAD_FORMAT))
                fail_msg("allocation %u: %s: %s", n, unstick_status_name(r), error.text);
            assert_true(strlen(error.text) > 0);
            ++*ret_n_refused;
        }
    }
    return n - 1;
}

static int call_estimate(const void *folder, struct unstick_error *error)
{
    struct unstick_estimate *estimate = NULL;
    int r = unstick_estimate_new(folder, NULL, &estimate, error);

    assert_true((r < 0) == !estimate);
    /* Nothing of the configuration may get lost on the way: `a` is left out. But jansson 2.14 drops a character of a
     * string, and says nothing, if its buffer for the string cannot grow. */
    if (estimate && !is_jansson) {
        assert_string_equal(estimate->components[0].class_name, "X");
        assert_int_equal(estimate->components[0].n_linears, 0);
    }
    unstick_estimate_free(estimate);
    return r;
}

static void an_estimate_may_fail(void **state)
{
    char *folder = test_files_new();
    unsigned int n, n_refused;

    (void)state;
    test_files_write_tensors(folder, "model.safetensors",
                             "{\"a.weight\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[0,4]}}", 4);
    test_files_write_text(folder, "config.json",
                          "{\"_class_name\": \"X\", \"quantization_config\": {\"quant_method\": \"bitsandbytes\", "
                          "\"llm_int8_skip_modules\": [\"a\", \"b\"]}}");
    n = fail_each(call_estimate, folder, &n_refused);
    /* The extents again, and that string. */
    assert_in_range(n - n_refused, 1, 2);
    assert_true(n_refused > 50);
    test_files_free(folder);
}

static int call_peaks(const void *text, struct unstick_error *error)
{
    struct unstick_peaks *peaks = NULL, *others = NULL;
    const char *written;
    size_t length;
    int r;

    r = unstick_peaks_parse(NULL, 0, &peaks, error);
    if (r >= 0)
        r = unstick_peaks_add(peaks, "a", "0123456789abcdef", 1, error);
    if (r >= 0)
        r = unstick_peaks_parse(text, strlen(text), &others, error);
    if (r >= 0)
        r = unstick_peaks_merge(peaks, others, error);
    if (r >= 0)
        r = unstick_peaks_text(peaks, &written, &length, error);
    unstick_peaks_free(peaks);
    unstick_peaks_free(others);
    return r;
}

static void peaks_may_fail(void **state)
{
    unsigned int n, n_refused;

    (void)state;
    n = fail_each(call_peaks,
                  "{\"version\":1,\"peaks\":{\"b\":{\"bytes\":1,\"last_bytes\":1,\"runs\":1}}}", &n_refused);
    assert_int_equal(n, n_refused);
    assert_true(n_refused > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(an_estimate_may_fail),
        cmocka_unit_test(peaks_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
