/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model/writer.h"

static char folder[64], path[96];

static int folder_setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/unstick-writer-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    return 0;
}

static int folder_teardown(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static void fill_index(void *userdata, const struct usk_writer_tensor *tensor, uint64_t offset, void *buffer,
                       size_t bytes)
{
    (void)userdata;
    for (size_t i = 0; i < bytes; i++)
        ((unsigned char *)buffer)[i] = (unsigned char)((unsigned char)tensor->name[0] + (offset + i) % 251);
}

struct watch {
    unsigned int calls, stop_at; /* 0: never */
    uint64_t bytes;
};

static bool watch_progress(void *userdata, uint64_t bytes)
{
    struct watch *watch = userdata;

    watch->bytes += bytes;
    return ++watch->calls != watch->stop_at;
}

static const struct usk_writer_tensor tiny[] = {
    { "b", USK_WRITER_U8, 1, { 3 }, 3 },        { "a\"b", USK_WRITER_U8, 0, { 0 }, 1 },
    { "z", USK_WRITER_F32, 2, { 2, 1 }, 8 },    { "c", USK_WRITER_BF16, 1, { 2 }, 4 },
    { "empty", USK_WRITER_I8, 2, { 0, 5 }, 0 },
};

#define N_TINY (sizeof(tiny) / sizeof(tiny[0]))

/* What safetensors 0.8.0 writes in front of the same tensors. */
static const char tiny_json[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                "\"z\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                                "\"c\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[8,12]},"
                                "\"empty\":{\"dtype\":\"I8\",\"shape\":[0,5],\"data_offsets\":[12,12]},"
                                "\"a\\\"b\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[12,13]},"
                                "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[13,16]}}";

static void tiny_point(const struct usk_writer_tensor **ret_tensors)
{
    for (size_t i = 0; i < N_TINY; i++)
        ret_tensors[i] = &tiny[i];
}

static void test_file_is_that_of_the_reference(void **state)
{
    const struct usk_writer_tensor *tensors[N_TINY];
    struct usk_writer_options options = { .fill = fill_index };
    static const unsigned char data[16] = { 'z',     'z' + 1, 'z' + 2, 'z' + 3, 'z' + 4, 'z' + 5,
                                            'z' + 6, 'z' + 7, 'c',     'c' + 1, 'c' + 2, 'c' + 3,
                                            'a',     'b',     'b' + 1, 'b' + 2 };
    struct unstick_error error;
    unsigned char bytes[1024];
    uint64_t file_bytes, length = 0;
    FILE *file;

    (void)state;
    tiny_point(tensors);
    assert_int_equal(usk_writer_write(path, tensors, N_TINY, &options, &file_bytes, &error), UNSTICK_OK);
    file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof(bytes), file), file_bytes);
    fclose(file);
    for (size_t i = 0; i < 8; i++)
        length |= (uint64_t)bytes[i] << (8 * i);
    assert_int_equal(length % 8, 0);
    assert_in_range(length, strlen(tiny_json), strlen(tiny_json) + 7);
    assert_memory_equal(bytes + 8, tiny_json, strlen(tiny_json));
    for (size_t i = strlen(tiny_json); i < length; i++)
        assert_int_equal(bytes[8 + i], ' ');
    assert_int_equal(file_bytes, 8 + length + sizeof(data));
    assert_memory_equal(bytes + 8 + length, data, sizeof(data));
}

/* Larger than a chunk, so that contents are cut; the cut falls into the second tensor, at an odd place. */
static const struct usk_writer_tensor large[] = {
    { "a", USK_WRITER_U8, 1, { (4 << 20) - 3 }, (4 << 20) - 3 },
    { "b", USK_WRITER_U8, 1, { 9 << 20 }, 9 << 20 },
};

static void test_contents_are_packed_over_chunks(void **state)
{
    const struct usk_writer_tensor *tensors[] = { &large[1], &large[0] };
    uint64_t contents = large[0].bytes + large[1].bytes, file_bytes;
    struct watch watch = { 0 };
    struct usk_writer_options options = { .fill = fill_index,
                                          .progress = watch_progress,
                                          .userdata = &watch };
    struct unstick_error error;
    unsigned char *bytes = malloc(contents), *made = malloc(contents);
    int fd;

    (void)state;
    assert_int_equal(usk_writer_write(path, tensors, 2, &options, &file_bytes, &error), UNSTICK_OK);
    assert_int_equal(watch.bytes, contents);
    fd = open(path, O_RDONLY);
    assert_int_equal(pread(fd, bytes, contents, (off_t)(file_bytes - contents)), contents);
    close(fd);
    fill_index(NULL, &large[0], 0, made, large[0].bytes);
    fill_index(NULL, &large[1], 0, made + large[0].bytes, large[1].bytes);
    assert_memory_equal(bytes, made, contents);
    free(bytes);
    free(made);
}

static void test_stops_at_every_report_and_leaves_nothing(void **state)
{
    const struct usk_writer_tensor *tensors[] = { &large[0], &large[1] };
    struct watch watch;
    struct usk_writer_options options = { .fill = fill_index,
                                          .progress = watch_progress,
                                          .userdata = &watch };
    struct unstick_error error;
    unsigned int stop_at = 0;
    uint64_t file_bytes = 0;
    int status;

    (void)state;
    do {
        watch = (struct watch){ .stop_at = ++stop_at };
        status = usk_writer_write(path, tensors, 2, &options, &file_bytes, &error);
        if (status) {
            assert_int_equal(status, UNSTICK_CANCELED);
            assert_int_equal(access(path, F_OK), -1);
            assert_int_equal(file_bytes, 0);
        }
    } while (status);
    assert_in_range(stop_at, 4, 10);
}

static void test_sparse_takes_no_disk(void **state)
{
    const struct usk_writer_tensor *tensors[] = { &large[0], &large[1] };
    struct watch watch = { 0 };
    struct usk_writer_options options = { .is_sparse = true, .progress = watch_progress, .userdata = &watch };
    struct unstick_error error;
    struct stat info;
    uint64_t file_bytes;

    (void)state;
    assert_int_equal(usk_writer_write(path, tensors, 2, &options, &file_bytes, &error), UNSTICK_OK);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, file_bytes);
    assert_in_range(info.st_blocks * 512, 0, 64 << 10);
    assert_int_equal(watch.bytes, large[0].bytes + large[1].bytes);
}

/* The bound of a process on its files: to the writer, the disk is full. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_full_disk_is_said_and_leaves_nothing(void **state)
{
    const struct usk_writer_tensor *tensors[] = { &large[0], &large[1] };
    struct usk_writer_options options = { .fill = fill_index };
    struct unstick_error error;
    uint64_t file_bytes;

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    for (unsigned int sparse = 0; sparse < 2; sparse++) {
        options.is_sparse = sparse;
        limit_files(1 << 20);
        assert_int_equal(usk_writer_write(path, tensors, 2, &options, &file_bytes, &error), UNSTICK_NO_SPACE);
        limit_files(RLIM_INFINITY);
        assert_int_equal(error.native, EFBIG);
        assert_non_null(strstr(error.text, path));
        assert_int_equal(access(path, F_OK), -1);
    }
    limit_files(3);
    assert_int_equal(usk_writer_write_text(path, "12345", &error), UNSTICK_NO_SPACE);
    limit_files(RLIM_INFINITY);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_refuses_what_cannot_be_written(void **state)
{
    const struct usk_writer_tensor not_text = { "\xff", USK_WRITER_U8, 0, { 0 }, 1 };
    const struct usk_writer_tensor *tensors[] = { &not_text };
    struct usk_writer_options options = { .fill = fill_index };
    struct unstick_error error;
    uint64_t file_bytes;

    (void)state;
    assert_int_equal(usk_writer_write(path, tensors, 1, &options, &file_bytes, &error),
                     UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(access(path, F_OK), -1);
    tensors[0] = &tiny[0];
    assert_int_equal(usk_writer_write("/nowhere/at/all", tensors, 1, &options, &file_bytes, &error),
                     UNSTICK_NOT_FOUND);
    assert_int_equal(usk_writer_write_text("/nowhere/at/all", "", &error), UNSTICK_NOT_FOUND);
    /* What is there already is not ours to replace or to remove. */
    assert_int_equal(usk_writer_write_text(path, "kept", &error), UNSTICK_OK);
    assert_int_equal(usk_writer_write(path, tensors, 1, &options, &file_bytes, &error), UNSTICK_IO);
    assert_int_equal(error.native, EEXIST);
    assert_int_equal(access(path, F_OK), 0);
}

static void test_tensor_bytes_do_not_overflow(void **state)
{
    const uint64_t shape[] = { 3, 5 }, huge[] = { UINT64_C(1) << 32, UINT64_C(1) << 31 };
    uint64_t bytes;

    (void)state;
    assert_true(usk_writer_tensor_bytes(USK_WRITER_BF16, 2, shape, &bytes));
    assert_int_equal(bytes, 30);
    assert_true(usk_writer_tensor_bytes(USK_WRITER_F32, 0, NULL, &bytes));
    assert_int_equal(bytes, 4);
    assert_false(usk_writer_tensor_bytes(USK_WRITER_BF16, 2, huge, &bytes));
    assert_string_equal(usk_writer_dtype_name(USK_WRITER_BF16), "BF16");
}

#define TEST(_name) cmocka_unit_test_setup_teardown(_name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_file_is_that_of_the_reference),
        TEST(test_contents_are_packed_over_chunks),
        TEST(test_stops_at_every_report_and_leaves_nothing),
        TEST(test_sparse_takes_no_disk),
        TEST(test_full_disk_is_said_and_leaves_nothing),
        TEST(test_refuses_what_cannot_be_written),
        cmocka_unit_test(test_tensor_bytes_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
