/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store_fixture.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/math.h"
#include "base/os.h"

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)
#define PENDING(_call) assert_int_equal((_call), UNSTICK_PENDING)
/* Begun now or before, and perhaps done already: jobs run beside the test. */
#define BEGUN(_call) assert_in_range((_call), UNSTICK_OK, UNSTICK_PENDING)

static struct usk_arena *arena_make(struct fixture *f, uint64_t bytes, enum unstick_tier tier)
{
    struct usk_arena *arena = NULL;

    OK(usk_arena_new(f->store, GRANULE, bytes, tier, &arena, &f->error));
    return arena;
}

static uint64_t reserved(struct fixture *f)
{
    return atomic_load(&f->budget.reserved_bytes);
}

static void test_takes_exactly_what_is_needed(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes = 9 * GRANULE + GRANULE / 2 + 100, page_bytes = usk_os_page_bytes(), exact_bytes;
    struct usk_arena *arena = arena_make(f, bytes, UNSTICK_TIER_PINNED);

    assert_int_equal(reserved(f), 0);
    for (uint32_t i = 0; i < 10; i++)
        assert_true(usk_arena_get(arena, i, &f->error) >= 0);
    for (uint32_t i = 0; i < 10; i++) {
        uint64_t part_bytes = usk_min(GRANULE, bytes - i * GRANULE);
        char *data;

        OK(arena_wait(f, arena, i));
        assert_int_equal(usk_arena_tier(arena, i), UNSTICK_TIER_PINNED);
        data = usk_arena_data(arena, i);
        memset(data, (int)i + 1, part_bytes);
        assert_true(recorder_covers(&f->recorder, data, part_bytes));
    }
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(*(char *)usk_arena_data(arena, i), i + 1);

    usk_align_up(bytes, page_bytes, &exact_bytes);
    assert_int_equal(f->budget.pinned_bytes, exact_bytes);
    assert_int_equal(recorder_pinned(&f->recorder), exact_bytes);
    assert_int_equal(f->recorder.n_registered, 3);
    /* Whole pieces go when their last granule is put, in any order. */
    for (uint32_t i = 10; i-- > 0;) {
        usk_arena_put(arena, i);
        fixture_settle(f);
        assert_int_equal(f->budget.pinned_bytes,
                         i == 9 ? exact_bytes : i > 4 ? 2 * PIECE : i > 0 ? PIECE : 0);
    }
    usk_arena_free(arena);
}

static void test_smallest(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, 1, UNSTICK_TIER_PINNED);

    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    assert_int_equal(f->budget.pinned_bytes, usk_os_page_bytes());
    /* Another hold of what is there costs nothing. */
    OK(usk_arena_get(arena, 0, &f->error));
    usk_arena_put(arena, 0);
    fixture_settle(f);
    OK(usk_arena_poll(arena, 0, &f->error));
    usk_arena_put(arena, 0);
    /* One too many is no harm. */
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
    usk_arena_free(NULL);
}

static void test_refuses_what_makes_no_sense(void **state)
{
    struct fixture *f = *state;
    struct usk_store *store = f->store, *other;
    struct usk_arena *arena;
    const struct {
        uint64_t granule_bytes, bytes;
        enum unstick_tier tier;
    } cases[] = {
        { GRANULE, GRANULE, UNSTICK_TIER_AUTO },
        { GRANULE, GRANULE, UNSTICK_TIER_FILE },
        { GRANULE, 0, UNSTICK_TIER_PINNED },
        { GRANULE, UINT64_MAX, UNSTICK_TIER_PINNED },
        { 0, GRANULE, UNSTICK_TIER_PINNED },
        { GRANULE + 1, GRANULE, UNSTICK_TIER_PINNED },
        { 4096, UINT64_C(1) << 50, UNSTICK_TIER_PINNED },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(
            usk_arena_new(store, cases[i].granule_bytes, cases[i].bytes, cases[i].tier, &arena, &f->error),
            UNSTICK_INVALID_ARGUMENT);
    arena = arena_make(f, GRANULE, UNSTICK_TIER_PINNED);
    assert_int_equal(usk_arena_get(arena, 1, &f->error), UNSTICK_INVALID_ARGUMENT);
    usk_arena_free(arena);
    assert_int_equal(usk_store_new(&f->recorder.dev, f->pool, &f->budget, 0, &other, &f->error),
                     UNSTICK_INVALID_ARGUMENT);
    assert_int_equal(usk_store_new(&f->recorder.dev, f->pool, &f->budget, 100, &other, &f->error),
                     UNSTICK_INVALID_ARGUMENT);
    usk_store_free(NULL);
}

/* A piece that is large enough for several threads, and one with a tail that no slice boundary fits. */
static void test_slices(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes = 41 * GRANULE + 4096;
    struct usk_arena *arena;

    f->store->piece_bytes = 64 * GRANULE;
    arena = arena_make(f, bytes, UNSTICK_TIER_PINNED);
    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    assert_int_equal(f->budget.pinned_bytes, bytes);
    memset(usk_arena_data(arena, 0), 1, bytes);
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
}

static void test_budget_refuses_and_recovers(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *a = arena_make(f, 2 * PIECE, UNSTICK_TIER_PINNED);
    struct usk_arena *b = arena_make(f, PIECE, UNSTICK_TIER_PAGEABLE);

    f->budget.limit_bytes = 2 * PIECE + GRANULE;
    PENDING(usk_arena_get(a, 0, &f->error));
    PENDING(usk_arena_get(a, 4, &f->error));
    OK(arena_wait(f, a, 0));
    OK(arena_wait(f, a, 4));
    assert_int_equal(usk_arena_get(b, 0, &f->error), UNSTICK_HOST_BUDGET);
    assert_int_equal(f->error.required_bytes, PIECE);
    assert_int_equal(f->error.available_bytes, GRANULE);
    assert_non_null(strstr(f->error.text, "raise --host-memory"));
    assert_int_equal(reserved(f), 2 * PIECE);

    /* What is leaving is worth waiting for: no refusal, though the bytes are still taken. */
    gate_close(f);
    usk_arena_put(a, 4);
    assert_int_equal(reserved(f), 2 * PIECE);
    PENDING(usk_arena_get(b, 0, &f->error));
    PENDING(usk_arena_poll(b, 0, &f->error));
    gate_open(f, &f->gates[0]);
    OK(arena_wait(f, b, 0));
    assert_int_equal(f->budget.pinned_bytes, PIECE);
    assert_int_equal(f->budget.pageable_bytes, PIECE);

    /* Nothing is left for the second of two that wait; it learns so. */
    gate_close(f);
    usk_arena_put(b, 0);
    PENDING(usk_arena_get(b, 0, &f->error));
    PENDING(usk_arena_get(a, 4, &f->error));
    gate_open(f, &f->gates[0]);
    fixture_settle(f);
    PENDING(usk_arena_poll(b, 0, &f->error));
    assert_int_equal(usk_arena_poll(a, 4, &f->error), UNSTICK_HOST_BUDGET);
    OK(arena_wait(f, b, 0));
    /* The hold stayed. */
    usk_arena_put(b, 0);
    fixture_settle(f);
    OK(arena_wait(f, a, 4));
    usk_arena_put(a, 4);
    usk_arena_put(a, 0);
    usk_arena_free(a);
    usk_arena_free(b);
}

static void test_guesses_ahead(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, 6 * PIECE, UNSTICK_TIER_PINNED);

    /* A single granule is no pattern. */
    BEGUN(usk_arena_get(arena, 8, &f->error));
    assert_int_equal(reserved(f), PIECE);
    /* Upwards. */
    BEGUN(usk_arena_get(arena, 9, &f->error));
    assert_int_equal(reserved(f), 3 * PIECE);
    fixture_settle(f);
    assert_int_equal(f->recorder.n_registered, 3);
    OK(usk_arena_get(arena, 12, &f->error));
    usk_arena_put(arena, 12);
    fixture_settle(f);
    assert_int_equal(reserved(f), 2 * PIECE);
    usk_arena_trim(arena);
    fixture_settle(f);
    assert_int_equal(reserved(f), PIECE);
    /* Downwards, and not below the first. */
    OK(usk_arena_get(arena, 8, &f->error));
    BEGUN(usk_arena_get(arena, 7, &f->error));
    assert_int_equal(reserved(f), 3 * PIECE);
    /* Not beyond the last. */
    BEGUN(usk_arena_get(arena, 22, &f->error));
    BEGUN(usk_arena_get(arena, 23, &f->error));
    assert_int_equal(reserved(f), 4 * PIECE);
    for (uint32_t i = 0; i < 2; i++) {
        usk_arena_put(arena, 8 + i);
        usk_arena_put(arena, 22 + i);
    }
    usk_arena_put(arena, 8);
    fixture_settle(f);
    assert_int_equal(reserved(f), 2 * PIECE);
    /* The guess goes with the last hold. */
    usk_arena_put(arena, 7);
    fixture_settle(f);
    assert_int_equal(reserved(f), 0);
    usk_arena_free(arena);
}

static void test_guesses_yield(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *a = arena_make(f, 3 * PIECE, UNSTICK_TIER_PINNED);
    struct usk_arena *b = arena_make(f, PIECE, UNSTICK_TIER_PINNED);

    f->budget.limit_bytes = 3 * PIECE;
    PENDING(usk_arena_get(a, 0, &f->error));
    BEGUN(usk_arena_get(a, 1, &f->error));
    assert_int_equal(reserved(f), 3 * PIECE);
    PENDING(usk_arena_get(b, 0, &f->error));
    OK(arena_wait(f, b, 0));
    OK(arena_wait(f, a, 0));
    fixture_settle(f);
    assert_int_equal(reserved(f), 2 * PIECE);
    /* And does not push out what is held. */
    OK(usk_arena_get(a, 2, &f->error));
    fixture_settle(f);
    assert_int_equal(reserved(f), 3 * PIECE);
    for (uint32_t i = 0; i < 3; i++)
        usk_arena_put(a, i);
    usk_arena_put(b, 0);
    usk_arena_free(a);
    usk_arena_free(b);
}

static void refused(struct fixture *f, int status)
{
    struct usk_arena *arena = arena_make(f, 3 * PIECE, UNSTICK_TIER_PINNED);

    f->recorder.register_fails_at = 2;
    f->recorder.register_status = status;
    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    PENDING(usk_arena_get(arena, 4, &f->error));
    OK(arena_wait(f, arena, 4));
    PENDING(usk_arena_get(arena, 8, &f->error));
    OK(arena_wait(f, arena, 8));
    assert_int_equal(usk_arena_tier(arena, 0), UNSTICK_TIER_PINNED);
    assert_int_equal(usk_arena_tier(arena, 4), UNSTICK_TIER_PAGEABLE);
    assert_int_equal(usk_arena_tier(arena, 8), UNSTICK_TIER_PAGEABLE);
    assert_int_equal(f->budget.pinned_bytes, PIECE);
    assert_int_equal(f->budget.pageable_bytes, 2 * PIECE);
    assert_int_equal(f->recorder.n_lines, 1);
    memset(usk_arena_data(arena, 8), 1, GRANULE);
    for (uint32_t i = 0; i < 3; i++)
        usk_arena_put(arena, 4 * i);
    usk_arena_free(arena);
}

static void test_refused_is_pageable(void **state)
{
    refused(*state, UNSTICK_UNSUPPORTED);
}

static void test_refused_for_memory_is_pageable(void **state)
{
    refused(*state, UNSTICK_OUT_OF_HOST_MEMORY);
}

static void test_pageable_is_never_registered(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, PIECE, UNSTICK_TIER_PAGEABLE), *other;

    f->recorder.dev.caps.can_register = false;
    other = arena_make(f, PIECE, UNSTICK_TIER_PINNED);
    PENDING(usk_arena_get(arena, 0, &f->error));
    PENDING(usk_arena_get(other, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    OK(arena_wait(f, other, 0));
    assert_int_equal(usk_arena_tier(arena, 0), UNSTICK_TIER_PAGEABLE);
    assert_int_equal(usk_arena_tier(other, 0), UNSTICK_TIER_PAGEABLE);
    assert_int_equal(f->budget.pageable_bytes, 2 * PIECE);
    assert_int_equal(f->recorder.n_registered, 0);
    usk_arena_put(arena, 0);
    usk_arena_put(other, 0);
    usk_arena_free(arena);
    usk_arena_free(other);
}

static void test_failure_is_for_all_holders_until_the_next_get(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, PIECE, UNSTICK_TIER_PINNED);

    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    PENDING(usk_arena_get(arena, 0, &f->error));
    PENDING(usk_arena_get(arena, 3, &f->error));
    assert_int_equal(arena_wait(f, arena, 0), UNSTICK_DRIVER);
    assert_string_equal(f->error.text, "told to fail");
    f->error.status = 0;
    assert_int_equal(usk_arena_poll(arena, 3, &f->error), UNSTICK_DRIVER);
    assert_int_equal(f->error.status, UNSTICK_DRIVER);
    assert_int_equal(reserved(f), 0);

    fixture_settle(f);
    f->recorder.register_fails_at = 0;
    PENDING(usk_arena_get(arena, 1, NULL));
    OK(arena_wait(f, arena, 3));
    usk_arena_put(arena, 1);
    usk_arena_put(arena, 0);
    fixture_settle(f);
    assert_int_equal(reserved(f), PIECE);
    usk_arena_put(arena, 3);

    /* The next holder does not meet the failure of the last one. */
    fixture_settle(f);
    f->recorder.register_fails_at = 1;
    PENDING(usk_arena_get(arena, 0, &f->error));
    assert_int_equal(arena_wait(f, arena, 0), UNSTICK_DRIVER);
    usk_arena_put(arena, 0);
    f->recorder.register_fails_at = 0;
    fixture_settle(f);
    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
}

static void test_a_guess_that_failed_is_tried_again(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, 2 * PIECE, UNSTICK_TIER_PINNED);

    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    OK(usk_arena_get(arena, 1, &f->error));
    fixture_settle(f);
    OK(usk_arena_get(arena, 2, &f->error));
    assert_int_equal(reserved(f), PIECE);
    f->recorder.register_fails_at = 0;
    PENDING(usk_arena_get(arena, 4, &f->error));
    OK(arena_wait(f, arena, 4));
    for (uint32_t i = 0; i < 3; i++)
        usk_arena_put(arena, i);
    usk_arena_put(arena, 4);
    usk_arena_free(arena);
}

static void test_machine_is_short(void **state)
{
    struct fixture *f = *state;
    struct usk_os_memory memory;
    struct usk_arena *arena;

    OK(usk_os_memory(&memory, &f->error));
    f->budget.limit_bytes = UINT64_MAX;
    f->store->piece_bytes = UINT64_C(1) << 62;
    OK(usk_arena_new(f->store, GRANULE, memory.total_bytes, UNSTICK_TIER_PINNED, &arena, &f->error));
    PENDING(usk_arena_get(arena, 0, &f->error));
    assert_int_equal(arena_wait(f, arena, 0), UNSTICK_OUT_OF_HOST_MEMORY);
    assert_true(f->error.required_bytes > f->error.available_bytes);
    assert_int_equal(reserved(f), 0);
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
}

/* The memory turns out not to be there when it is touched: stands in for a page that cannot be had. */
static void test_touching_fails(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, PIECE, UNSTICK_TIER_PINNED);
    FILE *empty = tmpfile();
    void *data;

    gate_close(f);
    PENDING(usk_arena_get(arena, 0, &f->error));
    gate_submit(f, &f->gates[1]);
    gate_open(f, &f->gates[0]);
    gate_wait(&f->gates[1]);
    /* It is mapped, and its slice stands behind the second gate. */
    data = usk_arena_data(arena, 0);
    assert_ptr_equal(data, mmap(data, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fileno(empty), 0));
    gate_open(f, &f->gates[1]);
    assert_true(arena_wait(f, arena, 0) < 0);
    assert_string_equal(f->error.operation, "madvise");
    assert_int_equal(reserved(f), 0);
    assert_int_equal(f->recorder.n_registered, 0);
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
    fclose(empty);
}

static void test_put_while_it_is_made(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, 2 * PIECE, UNSTICK_TIER_PINNED);

    /* Before it is mapped. */
    gate_close(f);
    PENDING(usk_arena_get(arena, 0, &f->error));
    usk_arena_put(arena, 0);
    gate_open(f, &f->gates[0]);
    fixture_settle(f);
    assert_int_equal(reserved(f), 0);

    /* Between mapping and touching. */
    gate_close(f);
    PENDING(usk_arena_get(arena, 4, &f->error));
    gate_submit(f, &f->gates[1]);
    gate_open(f, &f->gates[0]);
    gate_wait(&f->gates[1]);
    assert_int_equal(reserved(f), PIECE);
    usk_arena_put(arena, 4);
    gate_open(f, &f->gates[1]);
    fixture_settle(f);
    assert_int_equal(reserved(f), 0);
    assert_int_equal(f->recorder.n_registered, 0);

    /* Wanted again in time: it is made once. */
    gate_close(f);
    PENDING(usk_arena_get(arena, 0, &f->error));
    usk_arena_put(arena, 0);
    assert_int_equal(f->budget.leaving_bytes, PIECE);
    PENDING(usk_arena_get(arena, 0, &f->error));
    assert_int_equal(f->budget.leaving_bytes, 0);
    gate_open(f, &f->gates[0]);
    OK(arena_wait(f, arena, 0));
    assert_int_equal(f->recorder.n_registered, 1);

    /* Wanted again too late: it leaves and comes back. */
    gate_close(f);
    usk_arena_put(arena, 0);
    PENDING(usk_arena_get(arena, 0, &f->error));
    PENDING(usk_arena_poll(arena, 0, &f->error));
    gate_open(f, &f->gates[0]);
    OK(arena_wait(f, arena, 0));
    assert_int_equal(f->recorder.n_registered, 2);
    assert_int_equal(f->recorder.n_unregistered, 1);
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
}

/* The device is at it when interest is lost. */
static void test_put_while_it_is_registered(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, PIECE, UNSTICK_TIER_PINNED);

    f->recorder.register_gate = &f->gates[0];
    f->gates[0].is_entered = f->gates[0].is_open = false;
    PENDING(usk_arena_get(arena, 0, &f->error));
    gate_wait(&f->gates[0]);
    usk_arena_put(arena, 0);
    gate_open(f, &f->gates[0]);
    fixture_settle(f);
    assert_int_equal(f->recorder.n_registered, 1);
    assert_int_equal(f->recorder.n_unregistered, 1);
    assert_int_equal(reserved(f), 0);
    usk_arena_free(arena);
}

static void test_free_while_jobs_run(void **state)
{
    struct fixture *f = *state;

    for (unsigned int i = 0; i < 8; i++) {
        struct usk_arena *arena = arena_make(f, 3 * PIECE, UNSTICK_TIER_PINNED);

        for (uint32_t k = 0; k < 8; k++)
            assert_true(usk_arena_get(arena, k, &f->error) >= 0);
        for (unsigned int turn = 0; turn < i; turn++)
            sched_yield();
        for (uint32_t k = 0; k < 8; k++)
            usk_arena_put(arena, k);
        usk_arena_free(arena);
        assert_true(usk_store_is_valid(f->store));
    }
    fixture_end(f, 0);
}

static void *pool_end(void *userdata)
{
    usk_pool_free(((struct fixture *)userdata)->pool);
    return NULL;
}

static void probe_run(struct usk_job *job)
{
    (void)job;
}

/* The pool is stopped while a piece waits to be made and another one to be given back. */
static void test_jobs_are_dropped(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *a = arena_make(f, PIECE, UNSTICK_TIER_PINNED);
    struct usk_arena *b = arena_make(f, PIECE, UNSTICK_TIER_PINNED);
    struct usk_arena *c = arena_make(f, 2 * PIECE, UNSTICK_TIER_PINNED);
    struct usk_job probe = { .run = probe_run };
    pthread_t thread;

    PENDING(usk_arena_get(a, 0, &f->error));
    OK(arena_wait(f, a, 0));
    gate_close(f);
    PENDING(usk_arena_get(c, 0, &f->error));
    gate_submit(f, &f->gates[1]);
    gate_open(f, &f->gates[0]);
    gate_wait(&f->gates[1]);
    usk_arena_put(a, 0);
    PENDING(usk_arena_get(b, 0, &f->error));
    usk_arena_put(b, 0);
    usk_arena_put(c, 0);
    usk_pool_submit(f->pool, &probe);
    usk_arena_free(a);
    usk_arena_free(b);
    usk_arena_free(c);
    assert_int_equal(pthread_create(&thread, NULL, pool_end, f), 0);
    while (atomic_load(&probe.state) != USK_JOB_DROPPED)
        sched_yield();
    pthread_mutex_lock(&f->gates[1].lock);
    f->gates[1].is_open = true;
    pthread_cond_broadcast(&f->gates[1].changed);
    pthread_mutex_unlock(&f->gates[1].lock);
    pthread_join(thread, NULL);
    f->pool = NULL;
    assert_int_equal(reserved(f), 3 * PIECE);
    fixture_end(f, 0);
}

static void test_what_the_device_keeps_stays_mapped(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arena = arena_make(f, PIECE, UNSTICK_TIER_PINNED);
    unsigned char present;
    char *data;

    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    data = usk_arena_data(arena, 0);
    data[0] = 1;
    f->recorder.unregister_fails_at = 1;
    usk_arena_put(arena, 0);
    fixture_settle(f);
    assert_true(usk_store_is_valid(f->store));
    assert_int_equal(f->budget.pinned_bytes, PIECE);
    assert_int_equal(f->budget.leaked_bytes, PIECE);
    assert_int_equal(f->recorder.n_lines, 1);
    assert_non_null(strstr(f->recorder.last_line, "told to fail"));
    /* Its addresses are there, and can be written to; its pages have gone. */
    assert_int_equal(mincore(data, 4096, &present), 0);
    assert_int_equal(data[0], 0);
    data[0] = 1;

    /* The piece itself can be had again, elsewhere. */
    f->recorder.unregister_fails_at = 0;
    PENDING(usk_arena_get(arena, 0, &f->error));
    OK(arena_wait(f, arena, 0));
    assert_ptr_not_equal(usk_arena_data(arena, 0), data);
    usk_arena_put(arena, 0);
    usk_arena_free(arena);
    fixture_end(f, PIECE);
    munmap(data, PIECE);
}

/* Random gets and puts of two arenas that do not fit into the budget together, against a count of holds. */
static void test_random(void **state)
{
    struct fixture *f = *state;
    struct usk_arena *arenas[2];
    unsigned int holds[2][24] = { 0 }, n_refused = 0;
    uint32_t seed = 1;

    f->budget.limit_bytes = 8 * PIECE;
    for (unsigned int i = 0; i < 2; i++)
        arenas[i] = arena_make(f, 6 * PIECE, i ? UNSTICK_TIER_PAGEABLE : UNSTICK_TIER_PINNED);
    for (unsigned int n = 0; n < 2000; n++) {
        uint32_t which, index;

        seed = seed * 1664525 + 1013904223;
        which = seed >> 31;
        index = (seed >> 16) % 24;
        if (seed >> 12 & 1 && n % 500 < 400) {
            int r = usk_arena_get(arenas[which], index, &f->error);

            assert_true(r >= 0 || r == UNSTICK_HOST_BUDGET);
            n_refused += r < 0;
            holds[which][index] += r >= 0;
        } else if (holds[which][index]) {
            int r = usk_arena_poll(arenas[which], index, &f->error);

            assert_true(r >= 0 || r == UNSTICK_HOST_BUDGET);
            if (r == UNSTICK_OK)
                memset(usk_arena_data(arenas[which], index), 1, 64);
            usk_arena_put(arenas[which], index);
            holds[which][index]--;
        }
        assert_true(usk_store_is_valid(f->store));
    }
    assert_true(n_refused > 0);
    for (unsigned int i = 0; i < 48; i++) {
        while (holds[i / 24][i % 24]) {
            usk_arena_put(arenas[i / 24], i % 24);
            holds[i / 24][i % 24]--;
        }
    }
    usk_arena_free(arenas[0]);
    usk_arena_free(arenas[1]);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, fixture_setup, fixture_teardown)
#define TEST_ONE_THREAD(_name) \
    cmocka_unit_test_setup_teardown(test_##_name, fixture_setup_one_thread, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(takes_exactly_what_is_needed),
        TEST(smallest),
        TEST(refuses_what_makes_no_sense),
        TEST(slices),
        TEST_ONE_THREAD(budget_refuses_and_recovers),
        TEST(guesses_ahead),
        TEST_ONE_THREAD(guesses_yield),
        TEST(refused_is_pageable),
        TEST(refused_for_memory_is_pageable),
        TEST(pageable_is_never_registered),
        TEST(failure_is_for_all_holders_until_the_next_get),
        TEST(a_guess_that_failed_is_tried_again),
        TEST(machine_is_short),
        TEST_ONE_THREAD(touching_fails),
        TEST_ONE_THREAD(put_while_it_is_made),
        TEST(put_while_it_is_registered),
        TEST(free_while_jobs_run),
        TEST_ONE_THREAD(jobs_are_dropped),
        TEST(what_the_device_keeps_stays_mapped),
        TEST(random),
    };

    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
