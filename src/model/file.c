/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a model, as far as they are read: headers and small JSON texts. What a file is gets decided on the opened
 * descriptor; a name may lead to something else a moment later.
 */
#include "model/file.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/os.h"

int usk_model_file_open(const char *path, int *ret_fd, uint64_t *ret_bytes, struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = -1;
    struct usk_file_id id;
    int r;

    r = usk_os_file_open(path, &fd, error);
    if (r < 0)
        return r;
    r = usk_os_file_id(fd, &id, error);
    if (r < 0)
        return r;
    *ret_bytes = id.bytes;
    *ret_fd = fd;
    fd = -1;
    return UNSTICK_OK;
}

int usk_model_file_read(const char *path, uint64_t max_bytes, char **ret_text, size_t *ret_length,
                        struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = -1;
    USK_CLEANUP(usk_freep) char *text = NULL;
    uint64_t bytes;
    int r;

    r = usk_model_file_open(path, &fd, &bytes, error);
    if (r < 0)
        return r;
    if (bytes > max_bytes)
        return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "read", "%s: it has %llu bytes, at most %llu belong there",
                             path, (unsigned long long)bytes, (unsigned long long)max_bytes);
    text = malloc(bytes + 1);
    if (!text)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "read", "%s: no memory to read it", path);
    r = usk_os_file_read(fd, path, 0, text, bytes, error);
    if (r < 0)
        return r;
    text[bytes] = '\0';
    *ret_length = bytes;
    *ret_text = USK_STEAL(text);
    return UNSTICK_OK;
}

char *usk_model_path_join(const char *folder, const char *name)
{
    size_t length = strlen(folder), n = strlen(name) + 1;
    char *path = malloc(length + 1 + n);

    if (!path)
        return NULL;
    memcpy(path, folder, length);
    while (length > 1 && path[length - 1] == '/')
        length--;
    if (!length || path[length - 1] != '/')
        path[length++] = '/';
    memcpy(path + length, name, n);
    return path;
}
