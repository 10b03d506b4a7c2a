/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

const char *const world_keys[WORLD_MODELS] = { "flux-dev_8-bit", "flux-dev_4-bit", "flux-schnell_8-bit", "sd3_none" };
const char *const world_names[WORLD_COMPONENTS] = { "encoder", "transformer" };

static const unsigned int world_granules[WORLD_COMPONENTS] = { ENCODER_GRANULES, TRANSFORMER_GRANULES };

void world_open(struct world *world, const struct world_options *options)
{
    struct world_options some = options ? *options : (struct world_options){ 0 };
    struct fixture_options fixture_options = { .host_bytes = some.host_bytes };
    struct unstick_error error = { 0 };

    memset(world, 0, sizeof(*world));
    /* The sentinel takes one. */
    fixture_options.limit_bytes =
        ((some.room_granules ? some.room_granules : 2 * MODEL_GRANULES) + 1) * GRANULE;
    fixture_open(&world->fixture, &fixture_options);
    world->figures.size = sizeof(world->figures);
    if (unstick_cache_open(world->fixture.dev, some.cache.size ? &some.cache : NULL, &world->cache, &error) < 0)
        fail_msg("%s", error.text);
}

void world_close(struct world *world)
{
    struct unstick_error error = { 0 };
    struct unstick_device_info info = { .size = sizeof(info) };

    if (unstick_cache_close(world->cache, &error) < 0)
        fail_msg("%s", error.text);
    unstick_context_step(world->fixture.ctx, 0);
    /* A device that was lost, or keeps what it was told to give back, has it to the end. */
    unstick_device_info(world->fixture.dev, &info, NULL);
    if (!info.is_lost && !info.poisoned_bytes)
        assert_int_equal(info.resident_bytes + info.spare_bytes, 0);
    usk_fault_set(world->fixture.fault, NULL);
    for (size_t i = 0; i < WORLD_MODELS; i++) {
        for (size_t k = 0; world->has_files[i] && k < WORLD_COMPONENTS; k++)
            fixture_file_close(&world->files[i][k]);
    }
    fixture_close(&world->fixture);
}

void world_write(struct world *world, size_t index)
{
    if (world->has_files[index])
        return;
    for (size_t k = 0; k < WORLD_COMPONENTS; k++) {
        fixture_file_open(&world->fixture, &world->files[index][k], world_granules[k] * GRANULE - 4321,
                          10 * index + k + 1);
        world->layouts[index][k] = (struct unstick_cache_component){ .size = sizeof(world->layouts[index][k]),
                                                                     .name = world_names[k],
                                                                     .layout = &world->files[index][k].layout };
    }
    world->has_files[index] = true;
}

struct unstick_cache_demand world_demand(struct world *world, size_t index)
{
    world_write(world, index);
    return (struct unstick_cache_demand){ .size = sizeof(struct unstick_cache_demand),
                                          .layouts = world->layouts[index],
                                          .n_layouts = WORLD_COMPONENTS,
                                          .max_wait_ms = UNSTICK_CACHE_NO_WAIT };
}

/* As a host does that has its own loader: regions of its own, filled by hand. */
static void host_load(struct world *world, struct unstick_request *request,
                      const struct unstick_request_action *action)
{
    world_write(world, world->load_model);
    for (size_t k = 0; k < WORLD_COMPONENTS; k++) {
        const struct fixture_file *file = &world->files[world->load_model][k];
        struct unstick_cache_component component = { .size = sizeof(component), .name = world_names[k] };
        struct unstick_region *region = NULL;
        bool is_wanted = !action->components;

        for (size_t i = 0; i < action->n_components; i++)
            is_wanted |= !strcmp(action->components[i], world_names[k]);
        if (!is_wanted)
            continue;
        component.layout = world->load_registers_layouts ? &file->layout : NULL;
        component.can_reload = true;
        if (!component.layout) {
            assert_int_equal(unstick_region_new(world->fixture.dev, world_names[k], file->layout.bytes, NULL, &region,
                                                NULL), UNSTICK_OK);
            assert_int_equal(fixture_run(region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
            assert_int_equal(unstick_region_write(region, 0, file->image, file->layout.bytes, NULL), UNSTICK_OK);
            component.region = region;
        }
        assert_int_equal(unstick_request_add(request, &component, NULL), UNSTICK_OK);
        unstick_region_unref(region);
    }
}

struct unstick_cache_demand world_host_demand(void)
{
    return (struct unstick_cache_demand){ .size = sizeof(struct unstick_cache_demand),
                                          .required_bytes = GRANULE * MODEL_GRANULES,
                                          .basis = UNSTICK_BASIS_RULES,
                                          .max_wait_ms = UNSTICK_CACHE_NO_WAIT };
}

void world_perform(struct world *world, struct unstick_request *request, const struct unstick_request_action *action,
                   struct unstick_request_report *report)
{
    *report = (struct unstick_request_report){ .size = sizeof(*report) };
    switch (action->kind) {
    case UNSTICK_DO_WAIT: {
        struct pollfd fd = { .fd = action->fd, .events = POLLIN };

        world->n_waits++;
        poll(&fd, 1, action->timeout_ms);
        break;
    }
    case UNSTICK_DO_MEASURE:
        world->n_measures++;
        report->figures = &world->figures;
        break;
    case UNSTICK_DO_RECLAIM:
        world->n_reclaims++;
        if (action->reclaim.kind == UNSTICK_ACTION_EMPTY_CACHE) {
            uint64_t bytes = world->empty_cache_bytes;

            world->figures.torch_reserved_bytes -= bytes;
            world->empty_cache_bytes = 0;
        } else {
            report->status = UNSTICK_UNSUPPORTED;
        }
        break;
    case UNSTICK_DO_LOAD:
        world->n_loads++;
        report->status = world->load_status;
        if (world->load_status == UNSTICK_OK || world->load_status == UNSTICK_IO)
            host_load(world, request, action);
        break;
    case UNSTICK_DO_NOTHING:
        break;
    }
}

static int world_next(struct world *world, struct unstick_request *request, struct unstick_request_report *report,
                      struct unstick_request_action *action)
{
    int r;

    action->size = sizeof(*action);
    r = unstick_request_next(request, report, 0, action);
    assert_true(usk_device_is_valid(world->fixture.dev));
    return r;
}

int world_drive(struct world *world, struct unstick_request *request)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    int r;

    while ((r = world_next(world, request, &report, &action)) == UNSTICK_PENDING)
        world_perform(world, request, &action, &report);
    return r;
}

int world_drive_until_waiting(struct world *world, struct unstick_request *request)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_cache_event events[UNSTICK_CACHE_EVENTS_MAX];
    uint64_t since = world_last_event(world);
    size_t n;
    int r;

    while ((r = world_next(world, request, &report, &action)) == UNSTICK_PENDING) {
        unstick_cache_events(world->cache, since, events, UNSTICK_CACHE_EVENTS_MAX, &n);
        for (size_t i = 0; i < n; i++) {
            if (events[i].kind == UNSTICK_EVENT_WAIT)
                return r;
        }
        world_perform(world, request, &action, &report);
    }
    return r;
}

int world_use(struct world *world, size_t index, const struct unstick_cache_demand *demand,
              struct unstick_cache_lease **ret_lease, struct unstick_request_result *ret_result)
{
    struct unstick_cache_demand all = world_demand(world, index);
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_error error = { 0 };
    struct unstick_request *request;
    int r = unstick_cache_request(world->cache, world_keys[index], demand ? demand : &all, &request, &error);

    if (r < 0)
        fail_msg("%s", error.text);
    r = world_drive(world, request);
    assert_int_equal(unstick_request_result(request, &result), r);
    if (ret_result)
        *ret_result = result;
    if (r == UNSTICK_OK && ret_lease)
        *ret_lease = unstick_request_take_lease(request);
    unstick_request_free(request);
    return r;
}

struct unstick_request_result world_visit(struct world *world, size_t index)
{
    struct unstick_request_result result = { .size = sizeof(result) };
    struct unstick_cache_lease *lease = NULL;

    if (world_use(world, index, NULL, &lease, &result) != UNSTICK_OK)
        fail_msg("%s: %s", world_keys[index], result.error.text);
    for (size_t k = 0; k < WORLD_COMPONENTS; k++)
        world_check_contents(world, lease, index, k);
    assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    return result;
}

struct unstick_cache_entry_info world_entry(struct world *world, size_t index)
{
    struct unstick_cache_entry_info infos[WORLD_MODELS + 4];
    size_t n;

    assert_int_equal(unstick_cache_entries(world->cache, infos, WORLD_MODELS + 4, &n), UNSTICK_OK);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(infos[i].key, world_keys[index]))
            return infos[i];
    }
    return (struct unstick_cache_entry_info){ .state = UNSTICK_ENTRY_ABSENT };
}

enum unstick_entry_state world_state(struct world *world, size_t index)
{
    return world_entry(world, index).state;
}

void world_check_contents(struct world *world, struct unstick_cache_lease *lease, size_t index, size_t component)
{
    const struct fixture_file *file = &world->files[index][component];
    struct unstick_region *region = unstick_cache_lease_region(lease, world_names[component]);

    assert_non_null(region);
    fixture_assert_contents(region, file->image, file->layout.bytes);
}

void world_settle(struct world *world)
{
    while (unstick_cache_step(world->cache, 0) == UNSTICK_PENDING) {
        struct pollfd fd = { .fd = unstick_context_fd(world->fixture.ctx), .events = POLLIN };

        assert_true(usk_device_is_valid(world->fixture.dev));
        poll(&fd, 1, 1);
    }
}

size_t world_count_events(struct world *world, enum unstick_cache_event_kind kind, uint64_t since)
{
    static struct unstick_cache_event events[UNSTICK_CACHE_EVENTS_MAX];
    size_t n, n_found = 0;

    assert_int_equal(unstick_cache_events(world->cache, since, events, UNSTICK_CACHE_EVENTS_MAX, &n), UNSTICK_OK);
    for (size_t i = 0; i < n; i++)
        n_found += events[i].kind == kind;
    return n_found;
}

uint64_t world_last_event(struct world *world)
{
    static struct unstick_cache_event events[UNSTICK_CACHE_EVENTS_MAX];
    size_t n;

    assert_int_equal(unstick_cache_events(world->cache, 0, events, UNSTICK_CACHE_EVENTS_MAX, &n), UNSTICK_OK);
    return n ? events[n - 1].sequence : 0;
}
