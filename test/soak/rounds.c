/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process: rounds of several threads, calm or rough; behind a rough one every model is there again. At rest, with
 * everything forgotten, nothing may be left, and what the process takes is written down. A world in which the device
 * was lost or keeps what it was told to give back makes room for the next.
 */
#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "world.h"

#define N_ROUNDS_PER_REST 2
#define N_ROUNDS_PER_WORLD 400
/* Long ago, on the scale of a round: what takes longer hangs. The conductor watches too. */
#define SETTLE_MS 30000

static void world_settle(struct world *world)
{
    for (unsigned int ms = 0; unstick_cache_step(world->cache, 0) == UNSTICK_PENDING; ms++) {
        if (ms >= SETTLE_MS) {
            world_fail(world, "the cache does not come to rest");
            return;
        }
        usk_os_event_wait(unstick_context_fd(world->ctx), 1);
    }
}

/* Everything is there, whatever happened. */
static void world_visit_all(struct world *world, struct thread *thread)
{
    world->is_rough = false;
    world_set_faults(world, NULL);
    world_settle(world);
    for (size_t i = 0; i < SOAK_MODELS && !world_is_stopped(world); i++) {
        if (world_has_poison(world))
            return;
        unstick_cache_set_idle(world->cache, world->plan->models[i].key, UNSTICK_IDLE_NEVER, NULL);
        soak_model_use(thread, &world->plan->models[i], true);
        world_count(&world->report->n_beats);
    }
}

static unsigned int count_entries(const char *path)
{
    DIR *directory = opendir(path);
    unsigned int n = 0;

    while (directory && readdir(directory))
        n++;
    if (directory)
        closedir(directory);
    return n;
}

static uint64_t count_maps(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    uint64_t n = 0;
    int c;

    while (file && (c = getc(file)) != EOF)
        n += c == '\n';
    if (file)
        fclose(file);
    return n;
}

static uint64_t read_rss(void)
{
    unsigned long long size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");

    if (file && fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Files are closed by a thread of the library, a moment after the last byte of them was given back. */
static unsigned int count_descriptors(unsigned int usual)
{
    unsigned int n = count_entries("/proc/self/fd");

    for (unsigned int ms = 0; usual && n > usual && ms < SETTLE_MS / 10; ms++) {
        usk_os_pause_us(1000);
        n = count_entries("/proc/self/fd");
    }
    return n;
}

static bool store_is_empty(struct world *world)
{
    struct unstick_context_info info = { .size = sizeof(info) };

    unstick_context_step(world->ctx, 0);
    return unstick_context_info(world->ctx, &info) == UNSTICK_OK && !info.host_pinned_bytes &&
           !info.host_pageable_bytes && !info.host_file_bytes;
}

/* Everything is forgotten; then nothing may be left, and what the process takes is written down. */
static void world_rest(struct world *world)
{
    struct soak_report *report = world->report;
    struct unstick_device_info info = { .size = sizeof(info) };
    unsigned int ms = 0;

    world_settle(world);
    for (size_t i = 0; i < SOAK_MODELS; i++)
        soak_model_drop(world, &world->plan->models[i]);
    world_settle(world);
    for (; !store_is_empty(world) && ms < SETTLE_MS; ms++) {
        usk_os_pause_us(1000);
        world_count(&report->n_beats);
    }
    unstick_device_info(world->dev, &info, NULL);
    if (ms >= SETTLE_MS || info.resident_bytes || info.spare_bytes) {
        struct unstick_context_info host = { .size = sizeof(host) };

        unstick_context_info(world->ctx, &host);
        world_fail(world,
                   "at rest %llu bytes are left on the device, in the store %llu pinned, %llu pageable, %llu of files",
             (unsigned long long)(info.resident_bytes + info.spare_bytes), (unsigned long long)host.host_pinned_bytes,
             (unsigned long long)host.host_pageable_bytes, (unsigned long long)host.host_file_bytes);
        return;
    }
    /* What the allocator keeps for later is not what the library holds. */
    malloc_trim(0);
    atomic_store(&report->heap_bytes, mallinfo2().uordblks);
    atomic_store(&report->n_fds, count_descriptors((unsigned int)atomic_load(&report->n_fds)));
    atomic_store(&report->n_maps, count_maps());
    atomic_store(&report->rss_bytes, read_rss());
    world_count(&report->n_rests);
}

static void world_round(struct world *world, struct thread *threads)
{
    world->is_rough = soak_random(&world->seed, 3) != 0;
    for (size_t i = 0; i < SOAK_THREADS; i++) {
        if (pthread_create(&threads[i].thread, NULL, soak_thread_run, &threads[i]) != 0) {
            world_fail(world, "no thread");
            return;
        }
    }
    for (size_t i = 0; i < SOAK_THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    if (world->is_rough || soak_random(&world->seed, 4) == 0)
        world_visit_all(world, &threads[0]);
    world_count(&world->report->n_rounds);
}

void soak_work(const struct soak_plan *plan)
{
    struct world world = { .plan = plan, .report = plan->report, .seed = plan->seed };
    struct thread threads[SOAK_THREADS];
    uint64_t bytes = SOAK_MODEL_GRANULES * SOAK_GRANULE;

    mallopt(M_ARENA_MAX, 2);
    pthread_mutex_init(&world.fault_lock, NULL);
    for (size_t i = 0; i < SOAK_THREADS; i++) {
        threads[i] = (struct thread){ .world = &world, .seed = plan->seed * 31 + i + 1, .buffer = malloc(bytes) };
        if (threads[i].buffer)
            memset(threads[i].buffer, 1, bytes); /* a page that is touched for the first time in an hour is no leak */
        else
            world_fail(&world, "no memory");
    }
    while (!world_is_stopped(&world) && world_open(&world)) {
        for (unsigned int i = 1; i <= N_ROUNDS_PER_WORLD && !world_is_stopped(&world); i++) {
            world_round(&world, threads);
            if (world_has_poison(&world)) {
                world_count(atomic_load(&world.is_lost) ? &plan->report->n_losses : &plan->report->n_poisoned);
                break;
            }
            if (i % N_ROUNDS_PER_REST == 0 && !world_is_stopped(&world))
                world_rest(&world);
        }
        world_close(&world);
    }
    for (size_t i = 0; i < SOAK_THREADS; i++)
        free(threads[i].buffer);
    pthread_mutex_destroy(&world.fault_lock);
    atomic_store(&plan->report->is_over, true);
}
