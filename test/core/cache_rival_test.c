/* SPDX-License-Identifier: Apache-2.0 */
/* The account of what LRU had paid, as the cache keeps it. */
#include "world.h"

#include "cache/cache.h"

static uint64_t shadow_bytes(struct world *world)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < world->cache->n_entries; i++) {
        for (size_t k = 0; k < world->cache->entries[i]->n_components; k++)
            bytes += world->cache->entries[i]->components[k]->lru_bytes;
    }
    return bytes;
}

/* What LRU had paid is noted once per request, whatever way the request goes. */
static void test_accounts_for_lru(void **state)
{
    struct world_options options = { .room_granules = 2 * MODEL_GRANULES };
    const struct unstick_rival *rival;
    struct unstick_request *request;
    uint64_t model_bytes, n_notes;
    struct world world;
    double paid_s, lru_s;

    (void)state;
    world_open(&world, &options);
    rival = &world.cache->rival;
    world_visit(&world, 0);
    world_visit(&world, 1);
    model_bytes = world_entry(&world, 0).bytes;
    assert_int_equal(rival->n_notes, 2);
    assert_int_equal(shadow_bytes(&world), 2 * model_bytes);
    assert_true(rival->paid_s > 0 && rival->paid_s == rival->lru_s);
    /* A hit in both is none of its business. */
    world_visit(&world, 0);
    assert_int_equal(rival->n_notes, 2);
    world_visit(&world, 2);
    assert_int_equal(rival->n_notes, 3);
    assert_in_range(shadow_bytes(&world), model_bytes, 2 * model_bytes);
    assert_int_equal(usk_entry_find(world.cache, world_keys[1])->components[0]->lru_bytes, 0);
    /* A hit that LRU would not have had. */
    for (size_t k = 0; k < WORLD_COMPONENTS; k++)
        usk_entry_find(world.cache, world_keys[2])->components[k]->lru_bytes = 0;
    n_notes = rival->n_notes;
    paid_s = rival->paid_s;
    lru_s = rival->lru_s;
    assert_int_equal(world_visit(&world, 2).outcome, UNSTICK_OUTCOME_HIT);
    assert_int_equal(rival->n_notes, n_notes + 1);
    assert_true(rival->paid_s == paid_s && rival->lru_s > lru_s);
    assert_in_range(shadow_bytes(&world), model_bytes, 2 * model_bytes);
    /* What leaves by order leaves LRU's shadow too. */
    assert_int_equal(unstick_cache_evict(world.cache, world_keys[2], &request, NULL), UNSTICK_OK);
    assert_int_equal(world_drive(&world, request), UNSTICK_OK);
    unstick_request_free(request);
    assert_int_equal(usk_entry_find(world.cache, world_keys[2])->components[1]->lru_bytes, 0);
    assert_int_equal(unstick_cache_set_idle(world.cache, world_keys[0], 0, NULL), UNSTICK_OK);
    world_settle(&world);
    assert_int_equal(usk_entry_find(world.cache, world_keys[0])->components[1]->lru_bytes, 0);
    world_close(&world);
}

/* The other policies are compared with nothing. */
static void test_lru_has_no_rival(void **state)
{
    struct world_options options = { .cache = { .size = sizeof(struct unstick_cache_options),
                                                .policy = UNSTICK_POLICY_LRU } };
    struct world world;

    (void)state;
    world_open(&world, &options);
    world_visit(&world, 0);
    world_visit(&world, 1);
    world_visit(&world, 2);
    assert_int_equal(world.cache->rival.n_notes, 0);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accounts_for_lru),
        cmocka_unit_test(test_lru_has_no_rival),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
