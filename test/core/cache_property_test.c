/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random scripts of requests, leases, cancels, evictions and drops against a small model: what is leased, by whom, and
 * what is pinned. One thread, many holders, so that every interleaving of requests is a script, and a seed repeats it.
 */
#include <stdlib.h>
#include <string.h>

#include "world.h"

#include "cache/request.h"

#define N_SEEDS 60
#define N_OPS 80
#define N_REQUESTS 4
#define N_LEASES 5
#define MAX_ROUNDS 200000

struct script_request {
    struct unstick_request *request; /* NULL: free */
    size_t index;
    uint64_t holder;
    uint32_t wanted; /* a bit per component */
    bool is_eviction, has_lease, must_be_there;
};

struct script_lease {
    struct unstick_cache_lease *lease; /* NULL: free */
    size_t index;
    uint64_t holder;
    uint32_t wanted;
};

struct script {
    struct world world;
    uint64_t seed;
    struct script_request requests[N_REQUESTS];
    struct script_lease leases[N_LEASES];
    bool is_pinned[WORLD_MODELS];
    uint64_t pinned_bytes[WORLD_MODELS]; /* resident when it was pinned */
    unsigned int n_ok, n_refused, n_waited;
};

static uint64_t script_random(struct script *script, uint64_t below)
{
    script->seed ^= script->seed << 13;
    script->seed ^= script->seed >> 7;
    script->seed ^= script->seed << 17;
    return (script->seed >> 11) % below;
}

static bool script_is_holding(const struct script *script, uint64_t holder)
{
    for (size_t i = 0; i < N_LEASES; i++) {
        if (script->leases[i].lease && script->leases[i].holder == holder)
            return true;
    }
    return false;
}

/* --- the invariants --- */

static void check_leases(struct script *script)
{
    uint32_t n_leases[WORLD_MODELS] = { 0 };

    for (size_t i = 0; i < N_LEASES; i++) {
        struct script_lease *lease = &script->leases[i];

        if (!lease->lease)
            continue;
        n_leases[lease->index]++;
        for (size_t k = 0; k < WORLD_COMPONENTS; k++) {
            struct unstick_region *region = unstick_cache_lease_region(lease->lease, world_names[k]);
            const struct fixture_file *file = &script->world.files[lease->index][k];
            uint64_t offset;
            uint8_t bytes[32];

            assert_int_equal(region != NULL, (lease->wanted >> k) & 1);
            if (!region)
                continue;
            assert_int_equal(fixture_info(region).state, UNSTICK_REGION_RESIDENT);
            offset = script_random(script, file->layout.bytes - sizeof(bytes));
            assert_int_equal(unstick_region_read(region, offset, bytes, sizeof(bytes), NULL), UNSTICK_OK);
            assert_memory_equal(bytes, file->image + offset, sizeof(bytes));
        }
    }
    for (size_t i = 0; i < WORLD_MODELS; i++)
        assert_int_equal(world_entry(&script->world, i).n_leases, n_leases[i]);
}

static void check(struct script *script)
{
    struct unstick_device_info info = fixture_device_info(&script->world.fixture);

    assert_true(usk_device_is_valid(script->world.fixture.dev));
    assert_true(info.resident_bytes + info.sentinel_bytes + info.spare_bytes <= info.limit_bytes);
    check_leases(script);
    for (size_t i = 0; i < WORLD_MODELS; i++) {
        if (script->is_pinned[i])
            assert_true(world_entry(&script->world, i).resident_bytes >= script->pinned_bytes[i]);
    }
    for (size_t i = 0; i < N_REQUESTS; i++) {
        const struct unstick_request *request = script->requests[i].request;

        /* Nobody waits for memory and holds a lease. */
        if (request && request->is_waiting && request->phase == USK_REQUEST_WAIT &&
            request->seen_generation == request->cache->generation &&
            (request->wait == UNSTICK_WAIT_LEASES || request->wait == UNSTICK_WAIT_TURN))
            assert_false(script_is_holding(script, request->holder));
    }
}

/* --- what a script does --- */

static void script_begin(struct script *script)
{
    struct script_request *at = &script->requests[script_random(script, N_REQUESTS)];
    struct unstick_cache_demand demand;
    const char *names[WORLD_COMPONENTS];

    if (at->request)
        return;
    *at = (struct script_request){ .index = script_random(script, WORLD_MODELS),
                                   .holder = 1 + script_random(script, 3),
                                   .wanted = (1u << WORLD_COMPONENTS) - 1 };
    demand = world_demand(&script->world, at->index);
    demand.holder = at->holder;
    if (script_random(script, 3))
        demand.max_wait_ms = 0;
    if (script_random(script, 3) == 0) {
        size_t k = script_random(script, WORLD_COMPONENTS);

        at->wanted = 1u << k;
        names[0] = world_names[k];
        demand.components = names;
        demand.n_components = 1;
    }
    if (script_random(script, 5) == 0)
        demand.flags = script_random(script, 2) ? UNSTICK_DEMAND_PREFETCH : UNSTICK_DEMAND_PRELOAD;
    if (script_random(script, 8) == 0)
        demand.fingerprint = "other settings";
    /* Contents are compared with the files whatever the settings are called. */
    assert_int_equal(unstick_cache_request(script->world.cache, world_keys[at->index], &demand, &at->request, NULL),
                     UNSTICK_OK);
    at->has_lease = !demand.flags;
}

static void script_evict(struct script *script)
{
    struct script_request *at = &script->requests[script_random(script, N_REQUESTS)];
    size_t index = script_random(script, WORLD_MODELS);

    if (at->request || script->is_pinned[index])
        return;
    *at = (struct script_request){ .index = index, .holder = 0, .is_eviction = true };
    if (unstick_cache_evict(script->world.cache, world_keys[index], &at->request, NULL) != UNSTICK_OK)
        at->request = NULL;
}

static struct script_lease *script_free_lease(struct script *script)
{
    for (size_t i = 0; i < N_LEASES; i++) {
        if (!script->leases[i].lease)
            return &script->leases[i];
    }
    return NULL;
}

static void script_finish(struct script *script, struct script_request *at, int status)
{
    struct unstick_request_result result = { .size = sizeof(result) };
    struct script_lease *slot = script_free_lease(script);
    struct unstick_cache_lease *lease;

    assert_int_equal(unstick_request_result(at->request, &result), status);
    switch (status) {
    case UNSTICK_OK:
        script->n_ok++;
        break;
    case UNSTICK_OUT_OF_DEVICE_MEMORY:
        script->n_refused++;
        if (result.required_bytes <= result.available_bytes)
            fail_msg("verdict %s: %s (%s)", unstick_verdict_name(result.verdict), result.text, result.reason);
        assert_true(result.text[0]);
        break;
    case UNSTICK_CANCELED:
    case UNSTICK_BUSY:
        break;
    default:
        fail_msg("%s", result.error.text);
    }
    lease = unstick_request_take_lease(at->request);
    assert_int_equal(lease != NULL, status == UNSTICK_OK && at->has_lease);
    if (lease && slot)
        *slot = (struct script_lease){ lease, at->index, at->holder, at->wanted };
    else
        assert_int_equal(unstick_cache_lease_end(lease, NULL), UNSTICK_OK);
    at->request = unstick_request_free(at->request);
}

static void script_step(struct script *script, struct script_request *at)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    int r = unstick_request_next(at->request, NULL, 0, &action);

    if (r != UNSTICK_PENDING)
        script_finish(script, at, r);
    else if (action.kind == UNSTICK_DO_WAIT)
        script->n_waited++;
    else
        world_perform(&script->world, at->request, &action, &report);
}

static void script_steps(struct script *script)
{
    struct script_request *at = &script->requests[script_random(script, N_REQUESTS)];

    for (uint64_t n = script_random(script, 60); n && at->request; n--)
        script_step(script, at);
}

static void script_end_lease(struct script *script)
{
    struct script_lease *at = &script->leases[script_random(script, N_LEASES)];

    assert_int_equal(unstick_cache_lease_end(at->lease, NULL), UNSTICK_OK);
    at->lease = NULL;
}

static void script_pin(struct script *script)
{
    size_t index = script_random(script, WORLD_MODELS);

    for (size_t i = 0; i < N_REQUESTS; i++) {
        /* Whatever is under way for it may still take something back. */
        if (script->requests[i].request)
            return;
    }
    world_settle(&script->world);
    script->is_pinned[index] = unstick_cache_pin(script->world.cache, world_keys[index], !script->is_pinned[index],
                                                 NULL) == UNSTICK_OK && !script->is_pinned[index];
    script->pinned_bytes[index] = world_entry(&script->world, index).resident_bytes;
}

static void script_op(struct script *script)
{
    struct script_request *at = &script->requests[script_random(script, N_REQUESTS)];
    size_t index = script_random(script, WORLD_MODELS);

    switch (script_random(script, 16)) {
    case 0: case 1: case 2:
        script_begin(script);
        break;
    case 3:
        script_evict(script);
        break;
    case 4: case 5:
        script_end_lease(script);
        break;
    case 6:
        if (at->request)
            unstick_request_cancel(at->request);
        break;
    case 7:
        if (at->request && script_random(script, 3) == 0)
            at->request = unstick_request_free(at->request);
        break;
    case 8:
        if (!script->is_pinned[index])
            unstick_cache_drop(script->world.cache, world_keys[index], NULL);
        break;
    case 9:
        unstick_cache_set_idle(script->world.cache, world_keys[index],
                               script_random(script, 2) ? 0 : UNSTICK_IDLE_NEVER, NULL);
        break;
    case 10:
        unstick_cache_step(script->world.cache, 0);
        break;
    case 11:
        script_pin(script);
        break;
    default:
        script_steps(script);
        break;
    }
}

/* Whoever waits gets there once nobody holds anything: there is no deadlock. */
static void script_close(struct script *script)
{
    unsigned int n_rounds = 0;
    bool is_busy = true;

    for (size_t i = 0; i < WORLD_MODELS; i++) {
        unstick_cache_pin(script->world.cache, world_keys[i], false, NULL);
        script->is_pinned[i] = false;
    }
    while (is_busy) {
        is_busy = false;
        for (size_t i = 0; i < N_REQUESTS; i++) {
            if (script->requests[i].request) {
                is_busy = true;
                script_step(script, &script->requests[i]);
            }
        }
        for (size_t i = 0; i < N_LEASES; i++) {
            unstick_cache_lease_end(script->leases[i].lease, NULL);
            script->leases[i].lease = NULL;
        }
        assert_true(++n_rounds < MAX_ROUNDS);
    }
    check(script);
    world_settle(&script->world);
    for (size_t i = 0; i < WORLD_MODELS; i++)
        assert_int_not_equal(world_state(&script->world, i), UNSTICK_ENTRY_LOADING);
    for (size_t i = 0; i < WORLD_MODELS; i++)
        world_visit(&script->world, i);
    world_close(&script->world);
}

static void test_scripts(void **state)
{
    unsigned int n_ok = 0, n_refused = 0, n_waited = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        struct world_options options = { .room_granules = (seed % 3 + 1) * MODEL_GRANULES - 2 + seed % 5 };
        static struct script script;

        memset(&script, 0, sizeof(script));
        if (options.room_granules <= MODEL_GRANULES)
            options.room_granules = MODEL_GRANULES + 1;
        script.seed = seed * UINT64_C(0x9e3779b97f4a7c15);
        world_open(&script.world, &options);
        for (int i = 0; i < N_OPS; i++) {
            script_op(&script);
            check(&script);
        }
        script_close(&script);
        n_ok += script.n_ok;
        n_refused += script.n_refused;
        n_waited += script.n_waited;
    }
    print_message("%u met, %u refused, %u waits\n", n_ok, n_refused, n_waited);
    assert_true(n_ok > 100 && n_refused > 10 && n_waited > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripts),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
