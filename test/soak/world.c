/* SPDX-License-Identifier: Apache-2.0 */
/* A small device behind the fault device, a cache on it, and what is found wrong with them. */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>

#include "device/host/host.h"
#include "region/context.h"
#include "region/device.h"

void world_count(atomic_uint_fast64_t *counter)
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
__attribute__((format(printf, 2, 3))) void world_fail(struct world *world, const char *format, ...)
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

bool world_is_stopped(const struct world *world)
{
    return atomic_load(world->plan->is_stopped) || atomic_load(&world->report->has_failed);
}

bool world_has_poison(struct world *world)
{
    /* Not asked of the driver: it would count as a call, and fail. */
    return atomic_load(&world->dev->is_lost) || atomic_load(&world->dev->accounts[USK_ACCOUNT_POISONED]);
}

/* Faults end a round's right to succeed, not a call's to be waited for. */
bool world_may_fail(const struct world *world, int status)
{
    return world->is_rough || status == UNSTICK_CANCELED;
}

bool world_note_status(struct world *world, int status)
{
    if (status != UNSTICK_DEVICE_LOST)
        return false;
    atomic_store(&world->is_lost, true);
    return true;
}

void world_set_faults(struct world *world, const struct usk_fault_script *script)
{
    pthread_mutex_lock(&world->fault_lock);
    /* A lost device fails every call: that is one fault. */
    if (usk_fault_n_failed(world->fault))
        world_count(&world->report->n_faults);
    usk_fault_set(world->fault, script);
    pthread_mutex_unlock(&world->fault_lock);
}

bool world_open(struct world *world)
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
    r = unstick_context_new(&context_options, &world->ctx, &error);
    if (r == UNSTICK_OK)
        r = usk_host_open(SOAK_DEVICE_BYTES, world->ctx->event_fd, &log, &inner, &error);
    if (r == UNSTICK_OK)
        r = usk_fault_open(inner, &world->fault, &error);
    if (r == UNSTICK_OK)
        r = usk_device_adopt(world->ctx, world->fault, &device_options, &world->dev, &error);
    if (r == UNSTICK_OK)
        r = unstick_cache_open(world->dev, &cache_options, &world->cache, &error);
    if (r == UNSTICK_OK && soak_random(&world->seed, 2))
        r = unstick_context_start_driver(world->ctx, &error);
    if (r < 0)
        world_fail(world, "cannot open: %s", error.text);
    else
        world_count(&world->report->n_worlds);
    return r == UNSTICK_OK;
}

void world_close(struct world *world)
{
    struct unstick_error error = { 0 };

    world_set_faults(world, NULL);
    if (unstick_cache_close(world->cache, &error) < 0)
        world_fail(world, "cannot close: %s", error.text);
    world->cache = NULL;
    unstick_context_free(world->ctx);
    for (size_t i = 0; i < SOAK_MODELS; i++) {
        for (size_t k = 0; k < SOAK_COMPONENTS; k++)
            world->plan->models[i].components[k].is_loaded = false;
    }
}
