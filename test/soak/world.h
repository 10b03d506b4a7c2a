/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_SOAK_WORLD_H
#define TEST_SOAK_WORLD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <unstick/unstick.h>

#include "device/fault/fault.h"
#include "soak.h"

#define SOAK_DEVICE_BYTES (256 * SOAK_GRANULE)

/* A cache on a small device that can be made to fail. */
struct world {
    const struct soak_plan *plan;
    struct soak_report *report;
    struct unstick_context *ctx;
    struct usk_device *fault;
    struct unstick_device *dev;
    struct unstick_cache *cache;
    uint64_t seed;
    bool is_rough;
    atomic_bool is_lost;
    pthread_mutex_t fault_lock;
};

struct thread {
    struct world *world;
    uint64_t seed;
    pthread_t thread;
    uint8_t *buffer; /* of the longest component */
};

void world_count(atomic_uint_fast64_t *counter);
/* The first one to find something says it, and shows what there is; whoever finds it goes on and comes to his end. */
__attribute__((format(printf, 2, 3))) void world_fail(struct world *world, const char *format, ...);
bool world_is_stopped(const struct world *world);
/* The device was lost, or keeps what it was told to give back. */
bool world_has_poison(struct world *world);
/* Faults end a round's right to succeed, not a call's to be waited for. */
bool world_may_fail(const struct world *world, int status);
/* True, and noted, if it says that the device was lost. */
bool world_note_status(struct world *world, int status);
/* NULL: none. Counts what the ones before did. */
void world_set_faults(struct world *world, const struct usk_fault_script *script);
bool world_open(struct world *world);
void world_close(struct world *world);

/* --- worker.c --- */

void soak_model_use(struct thread *thread, struct soak_model *model, bool is_whole);
bool soak_model_drop(struct world *world, struct soak_model *model);
/* Takes a struct thread through a round. */
void *soak_thread_run(void *userdata);

#endif
