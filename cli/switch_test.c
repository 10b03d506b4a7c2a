/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "switch.h"

#define MAX_MODELS 5
#define MAX_REGIONS 3

struct world {
    struct switch_region regions[MAX_MODELS][MAX_REGIONS];
    struct switch_model models[MAX_MODELS];
    struct switch_step steps[MAX_MODELS * MAX_REGIONS];
    size_t n_models;
};

/* A model with three regions, used at `last_used`. */
static void world_add(struct world *world, uint64_t last_used, uint64_t total,
                      const uint64_t resident[MAX_REGIONS])
{
    struct switch_model *model = &world->models[world->n_models];

    *model = (struct switch_model){ world->regions[world->n_models], MAX_REGIONS, last_used };
    for (size_t i = 0; i < MAX_REGIONS; i++)
        model->regions[i] = (struct switch_region){ total, resident[i] };
    world->n_models++;
}

static struct switch_plan world_decide(struct world *world, size_t wanted, uint64_t free_bytes,
                                       uint64_t capacity_bytes)
{
    struct switch_plan plan;

    switch_decide(world->models, world->n_models, wanted, free_bytes, capacity_bytes, world->steps, &plan);
    return plan;
}

static const uint64_t all[] = { 10, 10, 10 }, some[] = { 10, 4, 0 }, none[] = { 0, 0, 0 };

static void test_hit(void **unused)
{
    struct world world = { 0 };
    struct switch_plan plan;

    (void)unused;
    world_add(&world, 1, 10, all);
    world_add(&world, 2, 10, all);
    plan = world_decide(&world, 0, 0, 60);
    assert_int_equal(plan.verdict, SWITCH_FITS);
    assert_int_equal(plan.incoming_bytes, 0);
    assert_int_equal(plan.n_steps, 0);
    /* What is resident is a hit even on a device that has become too small for it. */
    assert_int_equal(world_decide(&world, 0, 0, 5).verdict, SWITCH_FITS);
}

static void test_free_memory_first(void **unused)
{
    struct world world = { 0 };
    struct switch_plan plan;

    (void)unused;
    world_add(&world, 1, 10, all);
    world_add(&world, 2, 10, some);
    plan = world_decide(&world, 1, 16, 60);
    assert_int_equal(plan.incoming_bytes, 16);
    assert_int_equal(plan.n_steps, 0);
    plan = world_decide(&world, 1, 15, 60);
    assert_int_equal(plan.n_steps, 1);
    assert_int_equal(plan.steps[0].bytes, 1);
}

static void test_last_regions_of_oldest(void **unused)
{
    struct world world = { 0 };
    struct switch_plan plan;

    (void)unused;
    world_add(&world, 7, 10, all);
    world_add(&world, 3, 10, some);
    world_add(&world, 9, 10, none);
    plan = world_decide(&world, 2, 3, 60);
    assert_int_equal(plan.verdict, SWITCH_FITS);
    /* 27 have to go: 4 and 10 of the model used at 3, then 10 and 3 of the one used at 7. */
    assert_int_equal(plan.n_steps, 4);
    assert_memory_equal(plan.steps,
                        ((struct switch_step[]){ { 1, 1, 4 }, { 1, 0, 10 }, { 0, 2, 10 }, { 0, 1, 3 } }),
                        4 * sizeof(struct switch_step));
}

static void test_too_large(void **unused)
{
    struct world world = { 0 };
    struct switch_plan plan;

    (void)unused;
    world_add(&world, 1, 10, none);
    plan = world_decide(&world, 0, 29, 29);
    assert_int_equal(plan.verdict, SWITCH_TOO_LARGE);
    assert_int_equal(plan.required_bytes, 30);
    assert_int_equal(plan.available_bytes, 29);
    assert_int_equal(plan.n_steps, 0);
}

static void test_taken_by_others(void **unused)
{
    struct world world = { 0 };
    struct switch_plan plan;

    (void)unused;
    world_add(&world, 1, 10, some);
    world_add(&world, 2, 10, none);
    plan = world_decide(&world, 1, 15, 60);
    assert_int_equal(plan.verdict, SWITCH_TAKEN);
    assert_int_equal(plan.available_bytes, 29);
    assert_int_equal(plan.n_steps, 0);
    assert_int_equal(world_decide(&world, 1, 16, 60).verdict, SWITCH_FITS);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Any world: what is freed covers the shortfall, no step is idle or takes more than there is, and without the
 * last step it would not do. */
static void test_any(void **unused)
{
    uint32_t state = 1;

    (void)unused;
    for (unsigned int run = 0; run < 20000; run++) {
        struct world world = { 0 };
        uint64_t free_bytes = next_random(&state) % 60, freed = 0;
        struct switch_plan plan;
        size_t wanted;

        for (size_t i = 0; i < MAX_MODELS; i++) {
            uint64_t resident[MAX_REGIONS];

            for (size_t k = 0; k < MAX_REGIONS; k++)
                resident[k] = next_random(&state) % 21;
            world_add(&world, (i * 3 + run) % MAX_MODELS, 20, resident);
        }
        wanted = next_random(&state) % MAX_MODELS;
        plan = world_decide(&world, wanted, free_bytes, 1000);
        if (plan.verdict != SWITCH_FITS) {
            assert_int_equal(plan.verdict, SWITCH_TAKEN);
            assert_true(plan.required_bytes > plan.available_bytes);
            continue;
        }
        for (size_t i = 0; i < plan.n_steps; i++) {
            const struct switch_step *step = &plan.steps[i];

            assert_int_not_equal(step->model, wanted);
            assert_in_range(step->bytes, 1, world.regions[step->model][step->region].resident_bytes);
            assert_true(free_bytes + freed < plan.incoming_bytes);
            freed += step->bytes;
        }
        assert_true(free_bytes + freed >= plan.incoming_bytes);
        assert_true(!freed || free_bytes + freed == plan.incoming_bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hit),
        cmocka_unit_test(test_free_memory_first),
        cmocka_unit_test(test_last_regions_of_oldest),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_taken_by_others),
        cmocka_unit_test(test_any),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
