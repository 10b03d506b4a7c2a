/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_SOAK_SOAK_H
#define TEST_SOAK_SOAK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/cache.h>

/*
 * Models with contents that are known. The first ones lie in files, which both workers read; the others exist only in
 * the worker that made them, are written to while they are leased, and are lost for good if the library loses them.
 */
#define SOAK_GRANULE (UINT64_C(64) << 10)
#define SOAK_FILE_MODELS 3
#define SOAK_MODELS 5
#define SOAK_COMPONENTS 2
#define SOAK_MODEL_GRANULES 10
#define SOAK_THREADS 2
#define SOAK_WORKERS 2

struct soak_component {
    struct unstick_layout layout;
    struct unstick_extent extents[4];
    const char *paths[1];
    char path[160];
    uint8_t *image; /* what it must hold: layout.bytes */
    bool is_loaded; /* the cache has it: loading it again would hide a loss */
};

struct soak_model {
    const char *key;
    bool has_file;
    pthread_rwlock_t lock; /* image and is_loaded */
    struct soak_component components[SOAK_COMPONENTS];
};

extern const char *const soak_names[SOAK_COMPONENTS];

/* Writes the files into the folder; false: errno says why. The images are the caller's until soak_models_remove(). */
bool soak_models_write(const char *folder, struct soak_model *models);
void soak_models_remove(const char *folder, struct soak_model *models);
void soak_fill(uint8_t *bytes, uint64_t n, uint64_t seed);
uint64_t soak_random(uint64_t *seed, uint64_t below);

/* What a worker tells the conductor, in memory that both see. */
struct soak_report {
    atomic_uint_fast64_t n_beats; /* goes up as long as there is life */
    atomic_uint_fast64_t n_requests, n_switches, n_loads, n_restores, n_hits, n_refused, n_canceled, n_failed;
    atomic_uint_fast64_t n_evictions, n_writes, n_drops;
    atomic_uint_fast64_t n_retried; /* without a fault: another thread was faster, and the next try worked */
    atomic_uint_fast64_t n_compared, compared_bytes; /* contents of a component, with what they must be */
    atomic_uint_fast64_t n_faults, n_losses, n_poisoned, n_rounds, n_worlds;
    /* At rest: nothing on the device, nothing in the store. */
    atomic_uint_fast64_t n_rests, rss_bytes, heap_bytes, n_fds, n_maps;
    atomic_bool has_failed, is_over;
    char failure[512];
};

struct soak_plan {
    uint64_t seed;
    const atomic_bool *is_stopped;
    struct soak_model *models;
    struct soak_report *report;
};

/* Works until it is stopped, or something is wrong; for a process of its own. */
void soak_work(const struct soak_plan *plan);

/* A line through points, by least squares; units of y per unit of x. */
struct soak_point {
    double x, y;
};
double soak_slope(const struct soak_point *points, size_t n);

#endif
