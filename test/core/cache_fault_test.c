/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault loop over requests: every call to the device that a request makes fails, at each position, once and for
 * ever, and the device is lost at each position. Whatever becomes of the request, no mark stays, the accounts add up,
 * contents are whole, and the next request works.
 */
#include "world.h"

enum mode { FAIL_ONCE, FAIL_FOR_EVER, LOSE, N_MODES };

struct act {
    const char *name;
    void (*prepare)(struct world *world);
    int (*act)(struct world *world);
};

static void prepare_nothing(struct world *world)
{
    (void)world;
}

static void prepare_other(struct world *world)
{
    world_visit(world, 0);
}

static void prepare_both(struct world *world)
{
    world_visit(world, 1);
    world_visit(world, 0);
}

static int act_use(struct world *world)
{
    struct unstick_cache_lease *lease = NULL;
    int r = world_use(world, 1, NULL, &lease, NULL);

    while (unstick_cache_lease_end(lease, NULL) < 0)
        continue;
    return r;
}

static int act_use_stale(struct world *world)
{
    struct unstick_cache_demand demand = world_demand(world, 1);

    demand.fingerprint = "0123456789abcdef";
    return world_use(world, 1, &demand, NULL, NULL);
}

static int act_use_component(struct world *world)
{
    struct unstick_cache_demand demand = world_demand(world, 1);

    demand.components = &world_names[1];
    demand.n_components = 1;
    return world_use(world, 1, &demand, NULL, NULL);
}

static int act_evict(struct world *world)
{
    struct unstick_request *request;
    int r;

    assert_int_equal(unstick_cache_evict(world->cache, world_keys[0], &request, NULL), UNSTICK_OK);
    r = world_drive(world, request);
    unstick_request_free(request);
    return r;
}

static const struct act acts[] = {
    { "load", prepare_nothing, act_use },
    { "load behind an eviction", prepare_other, act_use },
    { "restore behind an eviction", prepare_both, act_use },
    { "a component", prepare_both, act_use_component },
    { "with other settings", prepare_both, act_use_stale },
    { "evict", prepare_other, act_evict },
};

static void check_entries(struct world *world)
{
    struct unstick_cache_entry_info infos[WORLD_MODELS];
    size_t n;

    unstick_cache_entries(world->cache, infos, WORLD_MODELS, &n);
    for (size_t i = 0; i < n; i++) {
        assert_int_not_equal(infos[i].state, UNSTICK_ENTRY_LOADING);
        assert_int_equal(infos[i].n_leases, 0);
    }
}

static bool has_poison(struct world *world)
{
    return atomic_load(&world->fixture.dev->accounts[USK_ACCOUNT_POISONED]);
}

/* One position; true if the fault was reached. */
static bool run_once(const struct act *act, enum mode mode, uint64_t n)
{
    struct world_options options = { .room_granules = MODEL_GRANULES + 3 };
    struct usk_fault_script script = { .fail_at = mode == LOSE ? 0 : n, .lose_at = mode == LOSE ? n : 0,
                                       .is_for_ever = mode == FAIL_FOR_EVER };
    struct world world;
    uint64_t n_failed;
    int r;

    world_open(&world, &options);
    act->prepare(&world);
    usk_fault_set(world.fixture.fault, &script);
    r = act->act(&world);
    n_failed = usk_fault_n_failed(world.fixture.fault);
    assert_true(r == UNSTICK_OK || n_failed);
    check_entries(&world);
    if (!atomic_load(&world.fixture.dev->is_lost)) {
        usk_fault_set(world.fixture.fault, NULL);
        assert_true(usk_device_is_valid(world.fixture.dev));
        if (!has_poison(&world)) {
            world_visit(&world, 0);
            world_visit(&world, 1);
            world_visit(&world, 0);
        }
    } else {
        assert_true(mode != FAIL_ONCE);
        assert_int_equal(world_use(&world, 2, NULL, NULL, NULL), UNSTICK_DEVICE_LOST);
    }
    world_close(&world);
    return n_failed;
}

static void test_every_position(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        for (enum mode mode = 0; mode < N_MODES; mode++) {
            uint64_t n = 1;

            while (run_once(&acts[i], mode, n))
                n++;
            print_message("%s, mode %d: %llu positions\n", acts[i].name, (int)mode, (unsigned long long)n - 1);
            assert_true(n > 1);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_position),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
