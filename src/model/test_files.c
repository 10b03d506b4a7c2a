/* SPDX-License-Identifier: Apache-2.0 */
/* Folders and files for the tests of the reader. What goes wrong here ends the test. */
#include "model/test_files.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *test_files_new(void)
{
    char *folder = strdup("/tmp/unstick-model-XXXXXX");

    assert_non_null(folder);
    assert_non_null(mkdtemp(folder));
    return folder;
}

static int entry_remove(const char *path, const struct stat *st, int type, struct FTW *place)
{
    (void)st;
    (void)type;
    (void)place;
    return remove(path);
}

void test_files_free(char *folder)
{
    assert_int_equal(nftw(folder, entry_remove, 8, FTW_DEPTH | FTW_PHYS), 0);
    free(folder);
}

const char *test_files_path(const char *folder, const char *name)
{
    static char paths[4][512];
    static unsigned int turn;
    char *path = paths[turn++ % 4];

    assert_in_range(snprintf(path, sizeof(paths[0]), "%s/%s", folder, name), 1, sizeof(paths[0]) - 1);
    return path;
}

void test_files_mkdir(const char *folder, const char *name)
{
    assert_int_equal(mkdir(test_files_path(folder, name), 0700), 0);
}

static FILE *file_create(const char *folder, const char *name)
{
    const char *path = test_files_path(folder, name), *slash = strrchr(name, '/');
    char parent[512];
    FILE *file;

    if (slash) {
        snprintf(parent, sizeof(parent), "%s/%.*s", folder, (int)(slash - name), name);
        mkdir(parent, 0700);
    }
    file = fopen(path, "wb");
    assert_non_null(file);
    return file;
}

void test_files_write(const char *folder, const char *name, const void *data, size_t length)
{
    FILE *file = file_create(folder, name);

    assert_int_equal(fwrite(data, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

void test_files_write_text(const char *folder, const char *name, const char *text)
{
    test_files_write(folder, name, text, strlen(text));
}

void test_files_write_tensors(const char *folder, const char *name, const char *header, uint64_t data_bytes)
{
    FILE *file = file_create(folder, name);
    uint64_t length = strlen(header);
    unsigned char prefix[8];

    for (int i = 0; i < 8; i++)
        prefix[i] = (unsigned char)(length >> (8 * i));
    assert_int_equal(fwrite(prefix, 1, sizeof(prefix), file), sizeof(prefix));
    assert_int_equal(fwrite(header, 1, length, file), length);
    assert_int_equal(fflush(file), 0);
    assert_int_equal(ftruncate(fileno(file), (off_t)(sizeof(prefix) + length + data_bytes)), 0);
    assert_int_equal(fclose(file), 0);
}
