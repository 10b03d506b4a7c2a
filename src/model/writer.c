/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The safetensors writer. A file that is there is complete: whatever fails, it is removed again. Its bytes
 * are those that the reference serializer makes of the same tensors, so that what is tested on our files
 * holds for real ones:
 *
 *   - tensors by dtype, highest rank first, then by name; so 4-byte data comes before 2-byte data before
 * bytes, and every tensor is aligned to its element without any padding;
 *   - JSON without blanks, "__metadata__" first, padded with blanks until the data starts at a multiple of 8.
 *
 * The space is allocated before the first byte is made: a full file system is found in milliseconds, not
 * after minutes of writing. Contents are made in chunks of a few MiB, packed over tensors: a quantized
 * checkpoint has thousands of tensors of some 100 bytes, which would otherwise be a system call each.
 */
#include "model/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"

#define WRITER_CHUNK_BYTES (UINT64_C(4) << 20)
#define WRITER_ALIGN 8

static const struct {
    const char *name;
    uint64_t bytes;
} dtypes[] = {
    [USK_WRITER_U8] = { "U8", 1 },
    [USK_WRITER_I8] = { "I8", 1 },
    [USK_WRITER_BF16] = { "BF16", 2 },
    [USK_WRITER_F32] = { "F32", 4 },
};

const char *usk_writer_dtype_name(enum usk_writer_dtype dtype)
{
    return dtypes[dtype].name;
}

bool usk_writer_tensor_bytes(enum usk_writer_dtype dtype, unsigned int n_dims, const uint64_t *shape,
                             uint64_t *ret_bytes)
{
    uint64_t bytes = dtypes[dtype].bytes;

    for (unsigned int i = 0; i < n_dims; i++) {
        if (!usk_mul(bytes, shape[i], &bytes))
            return false;
    }
    *ret_bytes = bytes;
    return true;
}

static int tensor_compare(const void *left, const void *right)
{
    const struct usk_writer_tensor *a = *(const struct usk_writer_tensor *const *)left;
    const struct usk_writer_tensor *b = *(const struct usk_writer_tensor *const *)right;

    if (a->dtype != b->dtype)
        return a->dtype > b->dtype ? -1 : 1;
    return strcmp(a->name, b->name);
}

void usk_writer_sort(const struct usk_writer_tensor **tensors, size_t n_tensors)
{
    if (n_tensors)
        qsort(tensors, n_tensors, sizeof(struct usk_writer_tensor *), tensor_compare);
}

static json_t *tensor_describe(const struct usk_writer_tensor *tensor, uint64_t offset)
{
    json_t *shape = json_array();
    uint64_t end = offset + tensor->bytes;

    for (unsigned int i = 0; i < tensor->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)tensor->shape[i]));
    return json_pack("{s:s,s:o,s:[I,I]}", "dtype", dtypes[tensor->dtype].name, "shape", shape, "data_offsets",
                     (json_int_t)offset, (json_int_t)end);
}

int usk_writer_head(const struct usk_writer_tensor *const *tensors, size_t n_tensors, char **ret_head,
                    uint64_t *ret_head_bytes, struct unstick_error *error)
{
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    USK_CLEANUP(usk_freep) char *text = NULL;
    USK_CLEANUP(usk_freep) char *head = NULL;
    uint64_t offset = 0, text_bytes, head_bytes;

    for (size_t i = 0; i < n_tensors; i++) {
        if (json_object_set_new(root, tensors[i]->name, tensor_describe(tensors[i], offset)) < 0) {
            json_decref(root);
            return usk_error_set(
                error, UNSTICK_INVALID_ARGUMENT, 0, "json",
                "tensor %zu of %zu cannot be described: its name is not UTF-8, or memory is short", i,
                n_tensors);
        }
        offset += tensors[i]->bytes;
    }
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    if (!text)
        goto fail_memory;
    text_bytes = strlen(text);
    usk_align_up(text_bytes, WRITER_ALIGN, &head_bytes);
    head_bytes += sizeof(uint64_t);
    head = malloc(head_bytes);
    if (!head)
        goto fail_memory;
    memset(head, ' ', head_bytes);
    for (size_t i = 0; i < sizeof(uint64_t); i++)
        head[i] = (char)((head_bytes - sizeof(uint64_t)) >> (8 * i));
    memcpy(head + sizeof(uint64_t), text, text_bytes);
    *ret_head = USK_STEAL(head);
    *ret_head_bytes = head_bytes;
    return UNSTICK_OK;

fail_memory:
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc",
                         "out of host memory for the header of %zu tensors", n_tensors);
}

/* A file that is being written. */
struct output {
    int fd;
    const char *path;
    const struct usk_writer_options *options;
    uint64_t offset; /* of the first byte in the buffer */
    uint64_t buffered_bytes;
    unsigned char *buffer; /* WRITER_CHUNK_BYTES */
    struct unstick_error *error;
};

static int output_write(const struct output *output, const void *data, uint64_t bytes, uint64_t offset)
{
    const char *next = data;

    while (bytes) {
        ssize_t written = pwrite(output->fd, next, bytes, (off_t)offset);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return usk_error_errno(output->error, written ? errno : ENOSPC, "pwrite", "cannot write %s",
                                   output->path);
        next += written;
        offset += (uint64_t)written;
        bytes -= (uint64_t)written;
    }
    return UNSTICK_OK;
}

static int output_report(const struct output *output, uint64_t bytes)
{
    if (!output->options->progress || output->options->progress(output->options->userdata, bytes))
        return UNSTICK_OK;
    return usk_error_set(output->error, UNSTICK_CANCELED, 0, "write", "writing %s was interrupted",
                         output->path);
}

static int output_flush(struct output *output)
{
    uint64_t bytes = output->buffered_bytes;
    int status = output_write(output, output->buffer, bytes, output->offset);

    if (status)
        return status;
    output->offset += bytes;
    output->buffered_bytes = 0;
    return output_report(output, bytes);
}

static int output_fill(struct output *output, const struct usk_writer_tensor *tensor)
{
    uint64_t done = 0;

    while (done < tensor->bytes) {
        uint64_t bytes = usk_min(tensor->bytes - done, WRITER_CHUNK_BYTES - output->buffered_bytes);

        output->options->fill(output->options->userdata, tensor, done,
                              output->buffer + output->buffered_bytes, bytes);
        done += bytes;
        output->buffered_bytes += bytes;
        if (output->buffered_bytes == WRITER_CHUNK_BYTES) {
            int status = output_flush(output);

            if (status)
                return status;
        }
    }
    return UNSTICK_OK;
}

static int output_allocate(const struct output *output, uint64_t bytes)
{
    int native;

    if (output->options->is_sparse) {
        if (ftruncate(output->fd, (off_t)bytes) < 0)
            return usk_error_errno(output->error, errno, "ftruncate", "cannot make %s %llu bytes long",
                                   output->path, (unsigned long long)bytes);
        return UNSTICK_OK;
    }
    do {
        native = posix_fallocate(output->fd, 0, (off_t)bytes);
    } while (native == EINTR && output_report(output, 0) == UNSTICK_OK);
    /* A file system that cannot allocate ahead says so when it is written to. */
    if (!native || native == EOPNOTSUPP)
        return UNSTICK_OK;
    if (native == EINTR)
        return output_report(output, 0);
    return usk_error_errno(output->error, native, "posix_fallocate", "no room for %llu bytes of %s",
                           (unsigned long long)bytes, output->path);
}

static int output_run(struct output *output, const struct usk_writer_tensor *const *tensors, size_t n_tensors,
                      const char *head, uint64_t head_bytes, uint64_t file_bytes)
{
    int status = output_allocate(output, file_bytes);

    if (!status)
        status = output_write(output, head, head_bytes, 0);
    if (!status)
        status = output_report(output, 0);
    if (status)
        return status;
    if (output->options->is_sparse)
        return output_report(output, file_bytes - head_bytes);
    output->offset = head_bytes;
    for (size_t i = 0; i < n_tensors && !status; i++)
        status = output_fill(output, tensors[i]);
    return status ? status : output_flush(output);
}

/* Ends a file: what was delayed until close counts, and a failure removes it. */
static int output_close(const struct output *output, int status)
{
    if (close(output->fd) < 0 && !status)
        status = usk_error_errno(output->error, errno, "close", "cannot write %s", output->path);
    if (status)
        unlink(output->path);
    return status;
}

static int output_open(struct output *output)
{
    output->fd = open(output->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (output->fd < 0)
        return usk_error_errno(output->error, errno, "open", "cannot create %s", output->path);
    return UNSTICK_OK;
}

int usk_writer_write(const char *path, const struct usk_writer_tensor **tensors, size_t n_tensors,
                     const struct usk_writer_options *options, uint64_t *ret_file_bytes,
                     struct unstick_error *error)
{
    struct output output = { .path = path, .options = options, .error = error };
    USK_CLEANUP(usk_freep) char *head = NULL;
    USK_CLEANUP(usk_freep) unsigned char *buffer = NULL;
    uint64_t head_bytes, file_bytes;
    int status;

    usk_writer_sort(tensors, n_tensors);
    status = usk_writer_head(tensors, n_tensors, &head, &head_bytes, error);
    if (status)
        return status;
    file_bytes = head_bytes;
    for (size_t i = 0; i < n_tensors; i++)
        file_bytes += tensors[i]->bytes;
    output.buffer = buffer = malloc(WRITER_CHUNK_BYTES);
    if (!buffer)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc",
                             "out of host memory while writing %s", path);
    status = output_open(&output);
    if (status)
        return status;
    status = output_close(&output, output_run(&output, tensors, n_tensors, head, head_bytes, file_bytes));
    if (!status)
        *ret_file_bytes = file_bytes;
    return status;
}

int usk_writer_write_text(const char *path, const char *text, struct unstick_error *error)
{
    struct output output = { .path = path, .error = error };
    int status = output_open(&output);

    return status ? status : output_close(&output, output_write(&output, text, strlen(text), 0));
}
