/* SPDX-License-Identifier: Apache-2.0 */
/* Contents that are known: a seed gives a component's bytes, and its file holds them in runs with gaps between. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "soak.h"

const char *const soak_names[SOAK_COMPONENTS] = { "encoder", "transformer" };

static const unsigned int model_granules[SOAK_COMPONENTS] = { 3, 7 };
static const char *const model_keys[SOAK_MODELS] = { "file-a_none", "file-b_none", "file-c_none", "made-a_none",
                                                     "made-b_none" };

uint64_t soak_random(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (*seed >> 11) % below;
}

void soak_fill(uint8_t *bytes, uint64_t n, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (uint64_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(soak_random(&state, UINT64_C(1) << 32) >> 12);
}

static bool component_write(struct soak_component *component)
{
    uint64_t stride = component->layout.bytes / 4, file_offset = 100;
    FILE *file = fopen(component->path, "w");
    bool is_written = file != NULL;

    for (size_t i = 0; is_written && i < 4; i++) {
        uint64_t length = stride - 1 - i * 100, offset = i * stride;

        component->extents[i] = (struct unstick_extent){ 0, file_offset, offset, length };
        is_written = fseek(file, (long)file_offset, SEEK_SET) == 0 &&
                     fwrite(component->image + offset, 1, length, file) == length;
        /* What no run covers is zero in the region. */
        memset(component->image + offset + length, 0, (i == 3 ? component->layout.bytes : offset + stride) -
                                                          offset - length);
        file_offset += length + 37;
    }
    if (file && fclose(file) != 0)
        is_written = false;
    component->paths[0] = component->path;
    component->layout.paths = component->paths;
    component->layout.n_paths = 1;
    component->layout.extents = component->extents;
    component->layout.n_extents = 4;
    return is_written;
}

bool soak_models_write(const char *folder, struct soak_model *models)
{
    for (size_t i = 0; i < SOAK_MODELS; i++) {
        models[i].key = model_keys[i];
        models[i].has_file = i < SOAK_FILE_MODELS;
        errno = pthread_rwlock_init(&models[i].lock, NULL);
        if (errno)
            return false;
        for (size_t k = 0; k < SOAK_COMPONENTS; k++) {
            struct soak_component *component = &models[i].components[k];

            component->layout.bytes = model_granules[k] * SOAK_GRANULE - 4321;
            snprintf(component->path, sizeof(component->path), "%s/%zu-%zu.bin", folder, i, k);
            component->image = malloc(component->layout.bytes);
            if (!component->image)
                return false;
            soak_fill(component->image, component->layout.bytes, 10 * i + k + 1);
            if (models[i].has_file && !component_write(component))
                return false;
        }
    }
    return true;
}

void soak_models_remove(const char *folder, struct soak_model *models)
{
    for (size_t i = 0; i < SOAK_MODELS; i++) {
        for (size_t k = 0; k < SOAK_COMPONENTS; k++) {
            unlink(models[i].components[k].path);
            free(models[i].components[k].image);
        }
        if (models[i].key)
            pthread_rwlock_destroy(&models[i].lock);
    }
    rmdir(folder);
}
