/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A safetensors file from anywhere. The first byte of the input says how the rest becomes a file: odd, and it is the
 * header, with its right length before it and some bytes of tensors behind it, so that the fuzzer gets past the first
 * check; even, and it is the file as it is. What the reader accepts must keep its own promises.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <unstick/model.h>

#define N_TENSOR_BYTES 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char folder[] = "/tmp/unstick-fuzz-XXXXXX";
static char path[sizeof(folder) + sizeof("/model.safetensors")];

static void remove_files(void)
{
    unlink(path);
    rmdir(folder);
}

static uint64_t file_write(const uint8_t *data, size_t n, int has_length)
{
    static const uint8_t tensors[N_TENSOR_BYTES];
    uint64_t header_bytes = n;
    FILE *file = fopen(path, "w");
    long bytes;

    if (!file || (has_length && fwrite(&header_bytes, sizeof(header_bytes), 1, file) != 1) ||
        fwrite(data, 1, n, file) != n || (has_length && fwrite(tensors, sizeof(tensors), 1, file) != 1))
        abort();
    bytes = ftell(file);
    if (bytes < 0 || fclose(file) != 0)
        abort();
    return (uint64_t)bytes;
}

static void require(int is_true)
{
    if (!is_true)
        abort();
}

static void component_check(const struct unstick_component *component, uint64_t file_bytes)
{
    const struct unstick_layout *layout = &component->layout;
    uint64_t end = 0;

    for (size_t i = 0; i < layout->n_extents; i++) {
        const struct unstick_extent *extent = &layout->extents[i];

        require(extent->bytes > 0 && extent->file < layout->n_paths);
        require(extent->region_offset >= end && extent->region_offset <= layout->bytes);
        require(extent->bytes <= layout->bytes - extent->region_offset);
        require(extent->file_offset <= file_bytes && extent->bytes <= file_bytes - extent->file_offset);
        end = extent->region_offset + extent->bytes;
    }
    for (size_t i = 0; i < component->n_tensors; i++) {
        const struct unstick_tensor *tensor = &component->tensors[i];

        require(tensor->file_offset <= file_bytes && tensor->bytes <= file_bytes - tensor->file_offset);
        require(tensor->is_metadata || (tensor->region_offset % 512 == 0 && tensor->region_offset <= layout->bytes &&
                                        tensor->bytes <= layout->bytes - tensor->region_offset));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const struct unstick_component *components;
    struct unstick_error error = { .text = "" };
    struct unstick_model *model;
    uint64_t file_bytes;

    if (!path[0]) {
        if (!mkdtemp(folder) || atexit(remove_files))
            abort();
        snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    }
    if (n == 0)
        return 0;
    file_bytes = file_write(data + 1, n - 1, data[0] & 1);
    if (unstick_model_open(path, &model, &error) < 0) {
        require(error.status < 0 && error.text[0]);
        return 0;
    }
    for (size_t i = 0, n_components = unstick_model_components(model, &components); i < n_components; i++)
        component_check(&components[i], file_bytes);
    unstick_model_close(model);
    return 0;
}
