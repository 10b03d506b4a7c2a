/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process: a cache on a small host device behind the fault device, and threads that use it. Rounds are calm or
 * rough. In a calm one no call may fail. In a rough one the device fails at random and a call may fail with it, but
 * contents never differ from what they must be, in any round; and once the faults end every model is there again.
 *
 * Loading a model that only this process has, although the cache should have it, is a loss and ends the run.
 */
#include <dirent.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unstick/unstick.h>

#include "base/os.h"
#include "device/fault/fault.h"
#include "device/host/host.h"
#include "region/context.h"
#include "region/device.h"
#include "soak.h"

#define DEVICE_BYTES (256 * SOAK_GRANULE)
#define N_OPS_PER_ROUND 60
#define N_ROUNDS_PER_REST 2
#define N_ROUNDS_PER_WORLD 400
#define MAX_TRIES 1000
#define MAX_CALM_TRIES 5
/* Long ago, on the scale of a round: a request that takes longer hangs. The conductor watches too. */
#define SETTLE_MS 30000

struct world {
    const struct soak_plan *plan;
    struct soak_report *report;
    struct unstick_context *ctx;
    struct usk_device *fault;
    struct unstick_device *dev;
    struct unstick_cache *cache;
    uint64_t seed;
    bool is_rough;
    atomic_bool has_leftovers; /* the device was made to keep what it was told to give back */
    atomic_bool is_lost;
    pthread_mutex_t fault_lock;
};

struct thread {
    struct world *world;
    uint64_t seed;
    pthread_t thread;
    uint8_t *buffer; /* of the longest component */
};

/* --- what is wrong, and what is counted --- */

static void count(atomic_uint_fast64_t *counter)
{
    atomic_fetch_add(counter, 1);
}

/* What there is, for whoever has to understand a failure. */
static void world_show(struct world *world)
{
    struct unstick_cache_entry_info infos[SOAK_MODELS];
    static struct unstick_cache_event events[UNSTICK_CACHE_EVENTS_MAX];
    struct unstick_device_info info = { .size = sizeof(info) };
    size_t n = 0;

    unstick_device_info(world->dev, &info, NULL);
    fprintf(stderr, "soak: limit %llu resident %llu sentinel %llu spare %llu poisoned %llu used %llu\n",
            (unsigned long long)info.limit_bytes, (unsigned long long)info.resident_bytes,
            (unsigned long long)info.sentinel_bytes, (unsigned long long)info.spare_bytes,
            (unsigned long long)info.poisoned_bytes, (unsigned long long)info.used_bytes);
    unstick_cache_entries(world->cache, infos, SOAK_MODELS, &n);
    for (size_t i = 0; i < n && i < SOAK_MODELS; i++)
        fprintf(stderr, "soak: %s is %s, %u leases, %llu of %llu resident\n", infos[i].key,
                unstick_entry_state_name(infos[i].state), infos[i].n_leases,
                (unsigned long long)infos[i].resident_bytes, (unsigned long long)infos[i].bytes);
    unstick_cache_events(world->cache, 0, events, UNSTICK_CACHE_EVENTS_MAX, &n);
    for (size_t i = n > 24 ? n - 24 : 0; i < n; i++)
        fprintf(stderr, "soak: %llu %s %s %s %s: %d, %llu bytes\n", (unsigned long long)events[i].sequence,
                unstick_cache_event_name(events[i].kind), events[i].key, events[i].component, events[i].detail,
                events[i].status, (unsigned long long)events[i].bytes);
}

/* The first one to find something says it; whoever finds it goes on and comes to his end. */
__attribute__((format(printf, 2, 3))) static void fail(struct world *world, const char *format, ...)
{
    va_list args;

    if (atomic_exchange(&world->report->has_failed, true))
        return;
    va_start(args, format);
    vsnprintf(world->report->failure, sizeof(world->report->failure), format, args);
    va_end(args);
    if (world->cache)
        world_show(world);
}

static bool is_stopped(const struct world *world)
{
    return atomic_load(world->plan->is_stopped) || atomic_load(&world->report->has_failed);
}

static bool has_poison(struct world *world)
{
    struct unstick_device_info info = { .size = sizeof(info) };

    return unstick_device_info(world->dev, &info, NULL) < 0 || info.is_lost || info.poisoned_bytes;
}

/* Faults end a round's right to succeed, not a call's to be waited for. */
static bool may_fail(const struct world *world, int status)
{
    return world->is_rough || status == UNSTICK_CANCELED;
}

/* --- faults --- */

static void fault_set(struct world *world, const struct usk_fault_script *script)
{
    pthread_mutex_lock(&world->fault_lock);
    /* A lost device fails every call: that is one fault. */
    if (usk_fault_n_failed(world->fault))
        count(&world->report->n_faults);
    usk_fault_set(world->fault, script);
    pthread_mutex_unlock(&world->fault_lock);
}

static void fault_arm(struct thread *thread)
{
    /* What these leave behind is poisoned, and ends the world: seldom. */
    const uint64_t endings = UINT64_C(1) << USK_FAULT_UNMAP | UINT64_C(1) << USK_FAULT_RELEASE |
                             UINT64_C(1) << USK_FAULT_UNRESERVE | UINT64_C(1) << USK_FAULT_UNREGISTER;
    struct usk_fault_script script = { .fail_at = 1 + soak_random(&thread->seed, 40) };

    switch (soak_random(&thread->seed, 8)) {
    case 0:
        script.op_mask = UINT64_C(1) << soak_random(&thread->seed, USK_N_FAULT_OPS);
        script.fail_at = 1 + soak_random(&thread->seed, 6);
        break;
    case 1:
        script.busy_maps = (uint32_t)soak_random(&thread->seed, 6);
        script.pending_polls = (uint32_t)soak_random(&thread->seed, 4);
        break;
    case 2:
        script.steal_bytes = soak_random(&thread->seed, DEVICE_BYTES);
        break;
    case 3:
        script.status = UNSTICK_OUT_OF_DEVICE_MEMORY;
        break;
    default:
        break;
    }
    if (soak_random(&thread->seed, 64)) {
        script.op_mask = script.op_mask ? script.op_mask : (UINT64_C(1) << USK_N_FAULT_OPS) - 1;
        script.op_mask &= ~endings;
    } else {
        atomic_store(&thread->world->has_leftovers, true);
    }
    if (!soak_random(&thread->seed, 2000))
        script.lose_at = script.fail_at;
    fault_set(thread->world, &script);
}

/* --- contents --- */

static bool note_status(struct world *world, int status)
{
    if (status != UNSTICK_DEVICE_LOST)
        return false;
    atomic_store(&world->is_lost, true);
    return true;
}

/* Under the model's lock. A read may fail with the device, and is tried again; what it reads may not differ. */
static void component_compare(struct thread *thread, const struct soak_model *model, size_t k,
                              struct unstick_region *region)
{
    struct world *world = thread->world;
    const struct soak_component *component = &model->components[k];
    struct unstick_error error = { 0 };
    int r = UNSTICK_BUSY;

    for (unsigned int i = 0; i < MAX_TRIES && r != UNSTICK_OK; i++) {
        r = unstick_region_read(region, 0, thread->buffer, component->layout.bytes, &error);
        if (note_status(world, r) || r == UNSTICK_POISONED)
            return;
        if (r < 0 && !may_fail(world, r))
            break;
        if (r < 0)
            fault_set(world, NULL);
    }
    if (r < 0) {
        struct unstick_region_info info = { .size = sizeof(info) };

        unstick_region_info(region, &info);
        fail(world, "%s/%s: cannot be read, in state %d with %u resident, %u evicted, %u poisoned, %u bare: %s: %s",
             model->key, soak_names[k], (int)info.state, info.n_resident, info.n_evicted, info.n_poisoned, info.n_bare,
             unstick_status_name(r), error.text);
        return;
    }
    for (uint64_t i = 0; i < component->layout.bytes; i++) {
        /* On a lost device the last backup is what is left, and it may be older. */
        if (thread->buffer[i] != component->image[i] && !has_poison(world)) {
            fail(world, "%s/%s: byte %llu is %u and must be %u", model->key, soak_names[k], (unsigned long long)i,
                 thread->buffer[i], component->image[i]);
            return;
        }
    }
    count(&world->report->n_compared);
    atomic_fetch_add(&world->report->compared_bytes, component->layout.bytes);
}

/* Under the model's lock, for writing. A write that failed may have been done in part: it is done again. */
static void component_change(struct thread *thread, struct soak_model *model, size_t k, struct unstick_region *region)
{
    struct world *world = thread->world;
    struct soak_component *component = &model->components[k];
    uint64_t length = 1 + soak_random(&thread->seed, 2 * SOAK_GRANULE);
    uint64_t offset = soak_random(&thread->seed, component->layout.bytes - length);
    struct unstick_error error = { 0 };
    int r = UNSTICK_BUSY;

    soak_fill(component->image + offset, length, thread->seed);
    for (unsigned int i = 0; i < MAX_TRIES && r != UNSTICK_OK; i++) {
        r = unstick_region_write(region, offset, component->image + offset, length, &error);
        if (note_status(world, r) || r == UNSTICK_POISONED)
            return;
        if (r < 0 && !may_fail(world, r))
            break;
        if (r < 0)
            fault_set(world, NULL);
    }
    if (r < 0)
        fail(world, "%s/%s: cannot be written: %s", model->key, soak_names[k], error.text);
    count(&world->report->n_writes);
}

static void lease_use(struct thread *thread, struct unstick_cache_lease *lease, struct soak_model *model)
{
    bool is_change = !model->has_file && soak_random(&thread->seed, 3) == 0;

    if (is_change)
        pthread_rwlock_wrlock(&model->lock);
    else
        pthread_rwlock_rdlock(&model->lock);
    for (size_t k = 0; k < SOAK_COMPONENTS; k++) {
        struct unstick_region *region = unstick_cache_lease_region(lease, soak_names[k]);

        if (!region)
            continue;
        component_compare(thread, model, k, region);
        if (is_change) {
            component_change(thread, model, k, region);
            component_compare(thread, model, k, region);
        }
    }
    pthread_rwlock_unlock(&model->lock);
}

/* --- the host of a request --- */

static int region_run(struct unstick_region *region, struct unstick_error *error)
{
    struct unstick_task *task;
    int r = unstick_region_restore(region, NULL, &task, error);

    if (r == UNSTICK_OK) {
        r = unstick_task_wait(task, error);
        unstick_task_free(task);
    }
    return r;
}

static int host_load_one(struct thread *thread, struct unstick_request *request, struct soak_model *model, size_t k,
                         struct unstick_error *error)
{
    struct soak_component *made = &model->components[k];
    struct unstick_cache_component component = { .size = sizeof(component), .name = soak_names[k] };
    struct unstick_region *region = NULL;
    int r;

    if (made->is_loaded && !atomic_load(&thread->world->is_lost) && !has_poison(thread->world)) {
        fail(thread->world, "%s/%s is to be loaded again: the cache has lost it", model->key, soak_names[k]);
        return UNSTICK_IO;
    }
    r = unstick_region_new(thread->world->dev, soak_names[k], made->layout.bytes, NULL, &region, error);
    if (r == UNSTICK_OK)
        r = region_run(region, error);
    if (r == UNSTICK_OK)
        r = unstick_region_write(region, 0, made->image, made->layout.bytes, error);
    component.region = region;
    if (r == UNSTICK_OK)
        r = unstick_request_add(request, &component, error);
    unstick_region_unref(region);
    return r;
}

static int host_load(struct thread *thread, struct unstick_request *request, struct soak_model *model,
                     const struct unstick_request_action *action, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    pthread_rwlock_rdlock(&model->lock);
    for (size_t k = 0; r == UNSTICK_OK && k < SOAK_COMPONENTS; k++) {
        bool is_wanted = !action->components;

        for (size_t i = 0; i < action->n_components; i++)
            is_wanted |= !strcmp(action->components[i], soak_names[k]);
        if (is_wanted)
            r = host_load_one(thread, request, model, k, error);
    }
    pthread_rwlock_unlock(&model->lock);
    return r;
}

static int request_drive(struct thread *thread, struct unstick_request *request, struct soak_model *model)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_error error;
    int r;

    while ((r = unstick_request_wait(request, &report, &action)) == UNSTICK_PENDING) {
        report.status = UNSTICK_OK;
        report.error = NULL;
        if (action.kind == UNSTICK_DO_LOAD) {
            report.status = host_load(thread, request, model, &action, &error);
            report.error = report.status < 0 ? &error : NULL;
        } else if (action.kind != UNSTICK_DO_WAIT) {
            report.status = UNSTICK_UNSUPPORTED;
        }
    }
    return r;
}

/* --- what a thread does --- */

static void model_demand(struct thread *thread, struct soak_model *model, struct unstick_cache_component *layouts,
                         struct unstick_cache_demand *demand)
{
    *demand = (struct unstick_cache_demand){ .size = sizeof(*demand) };
    if (model->has_file) {
        for (size_t k = 0; k < SOAK_COMPONENTS; k++)
            layouts[k] = (struct unstick_cache_component){ .size = sizeof(layouts[k]),
                                                           .name = soak_names[k],
                                                           .layout = &model->components[k].layout };
        demand->layouts = layouts;
        demand->n_layouts = SOAK_COMPONENTS;
    } else {
        demand->required_bytes = SOAK_MODEL_GRANULES * SOAK_GRANULE;
    }
    if (soak_random(&thread->seed, 4) == 0) {
        demand->components = &soak_names[soak_random(&thread->seed, SOAK_COMPONENTS)];
        demand->n_components = 1;
    }
    if (soak_random(&thread->seed, 2))
        demand->flags |= UNSTICK_DEMAND_VERIFY;
}

static void request_count(struct thread *thread, const struct unstick_request_result *result)
{
    struct soak_report *report = thread->world->report;

    atomic_fetch_add(&report->n_evictions, result->n_evictions);
    count(&report->n_requests);
    if (result->status == UNSTICK_CANCELED) {
        count(&report->n_canceled);
    } else if (result->status < 0) {
        count(result->status == UNSTICK_OUT_OF_DEVICE_MEMORY ? &report->n_refused : &report->n_failed);
    } else if (result->outcome == UNSTICK_OUTCOME_HIT) {
        count(&report->n_hits);
    } else {
        count(&report->n_switches);
        count(result->outcome == UNSTICK_OUTCOME_LOAD ? &report->n_loads : &report->n_restores);
    }
}

/* Under a lease: nothing forgets it meanwhile. */
static void model_note_loaded(struct soak_model *model, struct unstick_cache_lease *lease)
{
    pthread_rwlock_wrlock(&model->lock);
    for (size_t k = 0; k < SOAK_COMPONENTS; k++)
        model->components[k].is_loaded |= unstick_cache_lease_region(lease, soak_names[k]) != NULL;
    pthread_rwlock_unlock(&model->lock);
}

static int model_use_once(struct thread *thread, struct soak_model *model, bool is_whole, bool is_last)
{
    struct world *world = thread->world;
    struct unstick_cache_component layouts[SOAK_COMPONENTS];
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_cache_demand demand;
    struct unstick_cache_lease *lease;
    struct unstick_request *request;
    struct unstick_error error = { 0 };
    int r;

    model_demand(thread, model, layouts, &demand);
    if (is_whole)
        demand.n_components = 0;
    else if (soak_random(&thread->seed, 12) == 0)
        demand.flags |= UNSTICK_DEMAND_PREFETCH;
    r = unstick_cache_request(world->cache, model->key, &demand, &request, &error);
    if (r < 0) {
        fail(world, "%s: no request: %s", model->key, error.text);
        return r;
    }
    if (!is_whole && model->has_file && soak_random(&thread->seed, 16) == 0) {
        for (uint64_t i = soak_random(&thread->seed, 8); i; i--)
            unstick_request_next(request, NULL, 0, &action);
        unstick_request_cancel(request);
    }
    r = request_drive(thread, request, model);
    unstick_request_result(request, &result);
    request_count(thread, &result);
    note_status(world, r);
    if (r < 0 && !may_fail(world, r) && is_last)
        fail(world, "%s: %s: %s", model->key, unstick_status_name(r), result.text ? result.text : result.error.text);
    lease = unstick_request_take_lease(request);
    unstick_request_free(request);
    if (lease) {
        model_note_loaded(model, lease);
        lease_use(thread, lease, model);
        unstick_cache_lease_end(lease, NULL);
    }
    return r;
}

/* A load of the host's own is not tried again by the cache, and what it was promised another may have taken first. */
static void model_use(struct thread *thread, struct soak_model *model, bool is_whole)
{
    struct world *world = thread->world;
    int r = UNSTICK_BUSY;

    for (unsigned int i = 1; r < 0 && i <= MAX_CALM_TRIES; i++) {
        r = model_use_once(thread, model, is_whole, i == MAX_CALM_TRIES);
        if (world->is_rough || is_stopped(world) || r == UNSTICK_CANCELED || atomic_load(&world->is_lost))
            return;
        if (r < 0)
            count(&world->report->n_retried);
    }
}

static void model_evict(struct thread *thread, struct soak_model *model)
{
    struct world *world = thread->world;
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_request *request;
    int r = unstick_cache_evict(world->cache, model->key, &request, NULL);

    if (r < 0)
        return;
    r = request_drive(thread, request, model);
    unstick_request_result(request, &result);
    note_status(world, r);
    if (r < 0 && !may_fail(world, r))
        fail(world, "%s: evict: %s: %s", model->key, unstick_status_name(r), result.error.text);
    unstick_request_free(request);
    count(&world->report->n_evictions);
}

static bool model_drop(struct world *world, struct soak_model *model)
{
    bool is_dropped;

    pthread_rwlock_wrlock(&model->lock);
    is_dropped = unstick_cache_drop(world->cache, model->key, NULL) == UNSTICK_OK;
    for (size_t k = 0; is_dropped && k < SOAK_COMPONENTS; k++)
        model->components[k].is_loaded = false;
    pthread_rwlock_unlock(&model->lock);
    if (is_dropped)
        count(&world->report->n_drops);
    return is_dropped;
}

static void thread_op(struct thread *thread)
{
    struct world *world = thread->world;
    struct soak_model *model = &world->plan->models[soak_random(&thread->seed, SOAK_MODELS)];

    if (world->is_rough && soak_random(&thread->seed, 3) == 0)
        fault_arm(thread);
    switch (soak_random(&thread->seed, 20)) {
    case 0:
        model_drop(world, model);
        break;
    case 1:
    case 2:
        model_evict(thread, model);
        break;
    case 3:
        unstick_cache_set_idle(world->cache, model->key,
                               soak_random(&thread->seed, 2) ? 0 : UNSTICK_IDLE_NEVER, NULL);
        unstick_cache_step(world->cache, 0);
        break;
    default:
        model_use(thread, model, false);
        break;
    }
}

static void *thread_run(void *userdata)
{
    struct thread *thread = userdata;
    struct world *world = thread->world;

    for (unsigned int i = 0; i < N_OPS_PER_ROUND && !is_stopped(world) && !atomic_load(&world->is_lost); i++) {
        thread_op(thread);
        count(&world->report->n_beats);
    }
    return NULL;
}

/* --- rounds, rests, worlds --- */

static void world_settle(struct world *world)
{
    for (unsigned int ms = 0; unstick_cache_step(world->cache, 0) == UNSTICK_PENDING; ms++) {
        if (ms >= SETTLE_MS) {
            fail(world, "the cache does not come to rest");
            return;
        }
        usk_os_event_wait(unstick_context_fd(world->ctx), 1);
    }
}

/* Everything is there, whatever happened. */
static void world_visit_all(struct world *world, struct thread *thread)
{
    world->is_rough = false;
    fault_set(world, NULL);
    world_settle(world);
    for (size_t i = 0; i < SOAK_MODELS && !is_stopped(world); i++) {
        if (has_poison(world))
            return;
        unstick_cache_set_idle(world->cache, world->plan->models[i].key, UNSTICK_IDLE_NEVER, NULL);
        model_use(thread, &world->plan->models[i], true);
        count(&world->report->n_beats);
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
        model_drop(world, &world->plan->models[i]);
    world_settle(world);
    for (; !store_is_empty(world) && ms < SETTLE_MS; ms++) {
        /* Registered memory that could not be given back stays counted: there is no use in waiting long for it. */
        if (ms > 1000 && atomic_load(&world->has_leftovers))
            ms = SETTLE_MS;
        usk_os_pause_us(1000);
        count(&report->n_beats);
    }
    unstick_device_info(world->dev, &info, NULL);
    if (ms >= SETTLE_MS && atomic_load(&world->has_leftovers))
        return;
    if (ms >= SETTLE_MS || info.resident_bytes || info.spare_bytes) {
        struct unstick_context_info host = { .size = sizeof(host) };

        unstick_context_info(world->ctx, &host);
        fail(world, "at rest %llu bytes are left on the device, in the store %llu pinned, %llu pageable, %llu of files",
             (unsigned long long)(info.resident_bytes + info.spare_bytes), (unsigned long long)host.host_pinned_bytes,
             (unsigned long long)host.host_pageable_bytes, (unsigned long long)host.host_file_bytes);
        return;
    }
    /* What the allocator keeps for later is not what the library holds. */
    malloc_trim(0);
    atomic_store(&report->heap_bytes, mallinfo2().uordblks);
    atomic_store(&report->n_fds, count_entries("/proc/self/fd"));
    atomic_store(&report->n_maps, count_maps());
    atomic_store(&report->rss_bytes, read_rss());
    count(&report->n_rests);
}

static void world_round(struct world *world, struct thread *threads)
{
    world->is_rough = soak_random(&world->seed, 3) != 0;
    for (size_t i = 0; i < SOAK_THREADS; i++) {
        if (pthread_create(&threads[i].thread, NULL, thread_run, &threads[i]) != 0) {
            fail(world, "no thread");
            return;
        }
    }
    for (size_t i = 0; i < SOAK_THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    if (world->is_rough || soak_random(&world->seed, 4) == 0)
        world_visit_all(world, &threads[0]);
    count(&world->report->n_rounds);
}

static bool world_open(struct world *world)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options),
                                                       .host_bytes = UINT64_C(64) << 20 };
    struct unstick_device_options device_options = { .size = sizeof(device_options), .granule_bytes = SOAK_GRANULE };
    struct unstick_cache_options cache_options = { .size = sizeof(cache_options), .cannot = ~0u };
    struct usk_log log = { 0 };
    struct usk_device *inner;
    struct unstick_error error = { 0 };
    int r;

    /* Room for one model, up to three, and for the sentinel. */
    device_options.limit_bytes =
        (SOAK_MODEL_GRANULES + 2 + soak_random(&world->seed, 2 * SOAK_MODEL_GRANULES)) * SOAK_GRANULE;
    cache_options.tier = (enum unstick_tier)soak_random(&world->seed, UNSTICK_TIER_FILE + 1);
    atomic_store(&world->is_lost, false);
    atomic_store(&world->has_leftovers, false);
    r = unstick_context_new(&context_options, &world->ctx, &error);
    if (r == UNSTICK_OK)
        r = usk_host_open(DEVICE_BYTES, world->ctx->event_fd, &log, &inner, &error);
    if (r == UNSTICK_OK)
        r = usk_fault_open(inner, &world->fault, &error);
    if (r == UNSTICK_OK)
        r = usk_device_adopt(world->ctx, world->fault, &device_options, &world->dev, &error);
    if (r == UNSTICK_OK)
        r = unstick_cache_open(world->dev, &cache_options, &world->cache, &error);
    if (r == UNSTICK_OK && soak_random(&world->seed, 2))
        r = unstick_context_start_driver(world->ctx, &error);
    if (r < 0)
        fail(world, "cannot open: %s", error.text);
    else
        count(&world->report->n_worlds);
    return r == UNSTICK_OK;
}

static void world_close(struct world *world)
{
    struct unstick_error error = { 0 };

    fault_set(world, NULL);
    if (unstick_cache_close(world->cache, &error) < 0)
        fail(world, "cannot close: %s", error.text);
    world->cache = NULL;
    unstick_context_free(world->ctx);
    for (size_t i = 0; i < SOAK_MODELS; i++) {
        for (size_t k = 0; k < SOAK_COMPONENTS; k++)
            world->plan->models[i].components[k].is_loaded = false;
    }
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
        if (!threads[i].buffer)
            fail(&world, "no memory");
    }
    while (!is_stopped(&world) && world_open(&world)) {
        for (unsigned int i = 1; i <= N_ROUNDS_PER_WORLD && !is_stopped(&world); i++) {
            world_round(&world, threads);
            if (has_poison(&world)) {
                count(atomic_load(&world.is_lost) ? &plan->report->n_losses : &plan->report->n_poisoned);
                break;
            }
            if (i % N_ROUNDS_PER_REST == 0 && !is_stopped(&world))
                world_rest(&world);
        }
        world_close(&world);
    }
    for (size_t i = 0; i < SOAK_THREADS; i++)
        free(threads[i].buffer);
    pthread_mutex_destroy(&world.fault_lock);
    atomic_store(&plan->report->is_over, true);
}
