/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a thread does to the models: it asks for them, compares them byte by byte, writes to them, sends them away and
 * forgets them, under faults. In a calm round no call may fail. In a rough one the device fails at random and a call
 * may fail with it, but contents never differ from what they must be.
 *
 * Loading a model that only this process has, although the cache should have it, is a loss and ends the run.
 */
#include <string.h>

#include "world.h"

#define N_OPS_PER_ROUND 60
#define MAX_TRIES 1000
#define MAX_CALM_TRIES 5

/* --- faults --- */

static void fault_arm(struct thread *thread)
{
    /* What these leave behind is poisoned, and ends the world: seldom. Host memory that is not unregistered is kept for
     * the life of the process, as it has to be, and would look like a leak: never. */
    const uint64_t endings = UINT64_C(1) << USK_FAULT_UNMAP | UINT64_C(1) << USK_FAULT_RELEASE |
                             UINT64_C(1) << USK_FAULT_UNRESERVE;
    const uint64_t never = UINT64_C(1) << USK_FAULT_UNREGISTER, all = (UINT64_C(1) << USK_N_FAULT_OPS) - 1;
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
        script.steal_bytes = soak_random(&thread->seed, SOAK_DEVICE_BYTES);
        break;
    case 3:
        script.status = UNSTICK_OUT_OF_DEVICE_MEMORY;
        break;
    default:
        break;
    }
    script.op_mask = (script.op_mask ? script.op_mask : all) & ~never;
    if (soak_random(&thread->seed, 64))
        script.op_mask &= ~endings;
    if (!script.op_mask)
        script.op_mask = all & ~never & ~endings;
    if (!soak_random(&thread->seed, 2000))
        script.lose_at = script.fail_at;
    world_set_faults(thread->world, &script);
}

/* --- contents --- */

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
        if (world_note_status(world, r) || r == UNSTICK_POISONED)
            return;
        if (r < 0 && !world_may_fail(world, r))
            break;
        if (r < 0)
            world_set_faults(world, NULL);
    }
    if (r < 0) {
        struct unstick_region_info info = { .size = sizeof(info) };

        unstick_region_info(region, &info);
        world_fail(world,
                   "%s/%s: cannot be read, in state %d with %u resident, %u evicted, %u poisoned, %u bare: %s: %s",
             model->key, soak_names[k], (int)info.state, info.n_resident, info.n_evicted, info.n_poisoned, info.n_bare,
             unstick_status_name(r), error.text);
        return;
    }
    for (uint64_t i = 0; i < component->layout.bytes; i++) {
        /* On a lost device the last backup is what is left, and it may be older. */
        if (thread->buffer[i] != component->image[i] && !world_has_poison(world)) {
            world_fail(world, "%s/%s: byte %llu is %u and must be %u", model->key, soak_names[k], (unsigned long long)i,
                 thread->buffer[i], component->image[i]);
            return;
        }
    }
    world_count(&world->report->n_compared);
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
        if (world_note_status(world, r) || r == UNSTICK_POISONED)
            return;
        if (r < 0 && !world_may_fail(world, r))
            break;
        if (r < 0)
            world_set_faults(world, NULL);
    }
    if (r < 0)
        world_fail(world, "%s/%s: cannot be written: %s", model->key, soak_names[k], error.text);
    world_count(&world->report->n_writes);
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

    if (made->is_loaded && !atomic_load(&thread->world->is_lost) && !world_has_poison(thread->world)) {
        world_fail(thread->world, "%s/%s is to be loaded again: the cache has lost it", model->key, soak_names[k]);
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
    world_count(&report->n_requests);
    if (result->status == UNSTICK_CANCELED) {
        world_count(&report->n_canceled);
    } else if (result->status < 0) {
        world_count(result->status == UNSTICK_OUT_OF_DEVICE_MEMORY ? &report->n_refused : &report->n_failed);
    } else if (result->outcome == UNSTICK_OUTCOME_HIT) {
        world_count(&report->n_hits);
    } else {
        world_count(&report->n_switches);
        world_count(result->outcome == UNSTICK_OUTCOME_LOAD ? &report->n_loads : &report->n_restores);
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
        world_fail(world, "%s: no request: %s", model->key, error.text);
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
    world_note_status(world, r);
    if (r < 0 && !world_may_fail(world, r) && is_last)
        world_fail(world, "%s: %s: %s", model->key, unstick_status_name(r),
                   result.text ? result.text : result.error.text);
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
void soak_model_use(struct thread *thread, struct soak_model *model, bool is_whole)
{
    struct world *world = thread->world;
    int r = UNSTICK_BUSY;

    for (unsigned int i = 1; r < 0 && i <= MAX_CALM_TRIES; i++) {
        r = model_use_once(thread, model, is_whole, i == MAX_CALM_TRIES);
        if (world->is_rough || world_is_stopped(world) || r == UNSTICK_CANCELED || atomic_load(&world->is_lost))
            return;
        if (r < 0)
            world_count(&world->report->n_retried);
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
    world_note_status(world, r);
    if (r < 0 && !world_may_fail(world, r))
        world_fail(world, "%s: evict: %s: %s", model->key, unstick_status_name(r), result.error.text);
    unstick_request_free(request);
    world_count(&world->report->n_evictions);
}

bool soak_model_drop(struct world *world, struct soak_model *model)
{
    bool is_dropped;

    pthread_rwlock_wrlock(&model->lock);
    is_dropped = unstick_cache_drop(world->cache, model->key, NULL) == UNSTICK_OK;
    for (size_t k = 0; is_dropped && k < SOAK_COMPONENTS; k++)
        model->components[k].is_loaded = false;
    pthread_rwlock_unlock(&model->lock);
    if (is_dropped)
        world_count(&world->report->n_drops);
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
        soak_model_drop(world, model);
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
        soak_model_use(thread, model, false);
        break;
    }
}

void *soak_thread_run(void *userdata)
{
    struct thread *thread = userdata;
    struct world *world = thread->world;

    for (unsigned int i = 0; i < N_OPS_PER_ROUND && !world_is_stopped(world) && !atomic_load(&world->is_lost); i++) {
        thread_op(thread);
        world_count(&world->report->n_beats);
    }
    return NULL;
}
