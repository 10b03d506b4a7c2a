/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store_fixture.h"

#include <string.h>

#include "base/os.h"

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)
#define PENDING(_call) assert_int_equal((_call), UNSTICK_PENDING)

static void test_makes_up_to_four(void **state)
{
    struct fixture *f = *state;
    void *buffers[4], *fifth;

    for (unsigned int i = 0; i < 4; i++) {
        OK(ring_wait(f, &buffers[i]));
        memset(buffers[i], (int)i, GRANULE);
        assert_true(recorder_covers(&f->recorder, buffers[i], GRANULE));
        assert_int_equal(f->budget.ring_bytes, (i + 1) * GRANULE);
    }
    PENDING(usk_ring_get(f->store, &fifth, &f->error));
    fixture_settle(f);
    PENDING(usk_ring_get(f->store, &fifth, &f->error));
    usk_ring_put(f->store, buffers[2]);
    OK(usk_ring_get(f->store, &fifth, &f->error));
    assert_ptr_equal(fifth, buffers[2]);
    assert_int_equal(*(char *)buffers[3], 3);
    for (unsigned int i = 0; i < 4; i++)
        usk_ring_put(f->store, buffers[i]);
    /* What is no buffer, and what is not taken, is no harm. */
    usk_ring_put(f->store, NULL);
    usk_ring_put(f->store, buffers[0]);
    assert_int_equal(f->recorder.n_registered, 4);
}

static void test_one_at_a_time(void **state)
{
    struct fixture *f = *state;
    void *buffer;

    gate_close(f);
    for (unsigned int i = 0; i < 5; i++)
        PENDING(usk_ring_get(f->store, &buffer, &f->error));
    assert_int_equal(f->budget.ring_bytes, GRANULE);
    gate_open(f, &f->gates[0]);
    OK(ring_wait(f, &buffer));
    usk_ring_put(f->store, buffer);
    OK(usk_ring_get(f->store, &buffer, &f->error));
    assert_int_equal(f->budget.ring_bytes, GRANULE);
    usk_ring_put(f->store, buffer);
}

static void test_trim_keeps_what_is_taken(void **state)
{
    struct fixture *f = *state;
    void *a, *b;

    OK(ring_wait(f, &a));
    OK(ring_wait(f, &b));
    usk_ring_put(f->store, a);
    usk_ring_trim(f->store);
    fixture_settle(f);
    assert_int_equal(f->budget.ring_bytes, GRANULE);
    memset(b, 1, GRANULE);
    OK(ring_wait(f, &a));
    usk_ring_put(f->store, a);
    usk_ring_put(f->store, b);
    usk_ring_trim(f->store);
    fixture_settle(f);
    assert_int_equal(f->budget.reserved_bytes, 0);
}

static void test_refused_is_pageable(void **state)
{
    struct fixture *f = *state;
    void *buffer;

    f->recorder.register_fails_at = 1;
    OK(ring_wait(f, &buffer));
    assert_int_equal(f->budget.ring_bytes, GRANULE);
    assert_int_equal(f->recorder.n_lines, 1);
    usk_ring_put(f->store, buffer);
}

static void test_first_one_fails(void **state)
{
    struct fixture *f = *state;
    void *buffer;

    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    assert_int_equal(ring_wait(f, &buffer), UNSTICK_DRIVER);
    assert_string_equal(f->error.text, "told to fail");
    f->recorder.register_fails_at = 0;
    fixture_settle(f);
    OK(ring_wait(f, &buffer));
    usk_ring_put(f->store, buffer);
}

/* Who could wait for a buffer that is in use does not fail for want of another one. */
static void test_second_one_fails(void **state)
{
    struct fixture *f = *state;
    void *a, *b;

    OK(ring_wait(f, &a));
    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    assert_int_equal(ring_wait(f, &b), UNSTICK_PENDING);
    f->recorder.register_fails_at = 0;
    assert_int_equal(ring_wait(f, &b), UNSTICK_PENDING);
    assert_int_equal(f->recorder.n_registered, 1);
    usk_ring_put(f->store, a);
    OK(usk_ring_get(f->store, &b, &f->error));
    usk_ring_put(f->store, b);
}

/* Who only tries has one made for the next time; what failed meanwhile is empty again, and nobody hears of it. */
static void test_try(void **state)
{
    struct fixture *f = *state;
    void *a, *b;

    assert_false(usk_ring_try(f->store, &a));
    fixture_settle(f);
    assert_true(usk_ring_try(f->store, &a));
    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    assert_false(usk_ring_try(f->store, &b));
    fixture_settle(f);
    assert_false(usk_ring_try(f->store, &b));
    f->recorder.register_fails_at = 0;
    fixture_settle(f);
    assert_false(usk_ring_try(f->store, &b));
    fixture_settle(f);
    assert_true(usk_ring_try(f->store, &b));
    usk_ring_put(f->store, a);
    usk_ring_put(f->store, b);
}

static void test_budget(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena;
    void *a, *b;

    f->budget.limit_bytes = GRANULE - 1;
    assert_int_equal(usk_ring_get(f->store, &a, &f->error), UNSTICK_HOST_BUDGET);
    assert_int_equal(f->error.required_bytes, GRANULE);
    f->budget.limit_bytes = PIECE;
    OK(ring_wait(f, &a));
    f->budget.limit_bytes = GRANULE;
    assert_int_equal(ring_wait(f, &b), UNSTICK_PENDING);
    usk_ring_put(f->store, a);

    /* An idle buffer yields to an arena. */
    f->budget.limit_bytes = PIECE;
    OK(usk_arena_new(f->store, GRANULE, PIECE, UNSTICK_TIER_PINNED, &arena, &f->error));
    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    assert_int_equal(f->budget.ring_bytes, 0);
    assert_int_equal(usk_ring_get(f->store, &a, &f->error), UNSTICK_HOST_BUDGET);
    usk_arena_put(arena, 0);
    OK(ring_wait(f, &a));
    usk_ring_put(f->store, a);
    usk_arena_free(arena);
}

static void test_device_keeps_a_buffer(void **state)
{
    struct fixture *f = *state;
    void *buffer;

    OK(ring_wait(f, &buffer));
    usk_ring_put(f->store, buffer);
    f->recorder.unregister_fails_at = 1;
    fixture_end(f, GRANULE);
    *(char *)buffer = 1;
    assert_int_equal(f->budget.ring_bytes, 0);
    assert_int_equal(f->budget.pinned_bytes, GRANULE);
    usk_os_unmap(buffer, GRANULE, NULL);
}

/* Nor is it waited for: it never comes back. */
static void test_kept_buffer_is_not_waited_for(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena;
    void *buffer;

    OK(ring_wait(f, &buffer));
    usk_ring_put(f->store, buffer);
    f->recorder.unregister_fails_at = 1;
    usk_ring_trim(f->store);
    fixture_settle(f);
    f->recorder.unregister_fails_at = 0;
    f->budget.limit_bytes = PIECE;
    OK(usk_arena_new(f->store, GRANULE, PIECE, UNSTICK_TIER_PINNED, &arena, &f->error));
    assert_int_equal(usk_arena_get(arena, 0, &f->error), UNSTICK_HOST_BUDGET);
    usk_arena_free(arena);
    fixture_end(f, GRANULE);
    usk_os_unmap(buffer, GRANULE, NULL);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, fixture_setup, fixture_teardown)
#define TEST_ONE_THREAD(_name) \
    cmocka_unit_test_setup_teardown(test_##_name, fixture_setup_one_thread, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(makes_up_to_four),
        TEST_ONE_THREAD(one_at_a_time),
        TEST(trim_keeps_what_is_taken),
        TEST(refused_is_pageable),
        TEST(first_one_fails),
        TEST(second_one_fails),
        TEST(try),
        TEST(budget),
        TEST(device_keeps_a_buffer),
        TEST(kept_buffer_is_not_waited_for),
    };

    return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
