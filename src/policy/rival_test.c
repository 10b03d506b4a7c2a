/* SPDX-License-Identifier: Apache-2.0 */
/* The account of what LRU would have cost, and that no sequence of requests costs much more than it would cost LRU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <unstick/policy.h>
#include <unstick/status.h>

#define GIB (UINT64_C(1) << 30)
#define N 6
#define PARTS 2
#define RATE 1000000000

/* A device with models that all are known; each can come back at RATE bytes/s, or an eighth of it. */
struct room {
    uint64_t capacity_bytes, now;
    struct unstick_reading reading;
    struct unstick_snapshot_component components[N][PARTS];
    struct unstick_snapshot_entry entries[N];
    struct unstick_snapshot snapshot;
    uint64_t lru_bytes[N * PARTS];
    struct unstick_rival rival;
    struct unstick_victim victims[N * PARTS];
    struct unstick_plan plan;
    size_t last;
    double stall_s, largest_s;
};

static const char *const keys[N] = { "a_none", "b_none", "c_none", "d_none", "e_none", "f_none" };

static void room_init(struct room *room, uint64_t capacity_bytes)
{
    *room = (struct room){ .capacity_bytes = capacity_bytes,
                           .reading = { .size = sizeof(room->reading), .sources = UNSTICK_SOURCE_DRIVER },
                           .snapshot = { .size = sizeof(room->snapshot), .n_entries = N, .granule_bytes = 1 << 21 },
                           .last = N };
    for (size_t i = 0; i < N; i++) {
        room->entries[i] = (struct unstick_snapshot_entry){ .key = keys[i],
                                                            .components = room->components[i],
                                                            .n_components = PARTS };
        for (size_t j = 0; j < PARTS; j++)
            room->components[i][j] = (struct unstick_snapshot_component){ .name = j ? "vae" : "transformer",
                                                                          .bytes = (j ? 1 : 3) * GIB,
                                                                          .tier = UNSTICK_TIER_PINNED };
    }
    for (size_t tier = 0; tier < 4; tier++)
        room->snapshot.rates[tier] = tier == UNSTICK_TIER_PAGEABLE ? RATE / 8 : RATE;
    room->snapshot.reading = &room->reading;
    room->snapshot.entries = room->entries;
    room->snapshot.rival = &room->rival;
    room->rival.lru_bytes = room->lru_bytes;
}

static uint64_t room_resident(const struct room *room)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < N * PARTS; i++)
        bytes += room->components[i / PARTS][i % PARTS].resident_bytes;
    return bytes;
}

static void room_ask(struct room *room, size_t model)
{
    struct unstick_demand demand = { .size = sizeof(demand), .key = keys[model] };
    double seconds = 0;

    room->reading.total_bytes = room->capacity_bytes;
    room->reading.free_bytes = room->capacity_bytes - room_resident(room);
    room->plan = (struct unstick_plan){ .size = sizeof(room->plan),
                                        .victims = room->victims,
                                        .max_victims = N * PARTS };
    room->snapshot.turn += model != room->last;
    room->last = model;
    assert_int_equal(unstick_decide(&room->snapshot, &demand, &room->plan), UNSTICK_OK);
    assert_true(room->plan.verdict <= UNSTICK_VERDICT_EVICT);
    unstick_rival_note(&room->snapshot, &demand, &room->plan);
    for (size_t i = 0; i < room->plan.n_victims; i++)
        room->components[room->victims[i].entry][room->victims[i].component].resident_bytes -= room->victims[i].bytes;
    for (size_t j = 0; j < PARTS; j++) {
        struct unstick_snapshot_component *component = &room->components[model][j];
        double rate = (double)room->snapshot.rates[component->tier];

        room->stall_s += (double)(component->bytes - component->resident_bytes) / rate;
        seconds += (double)component->bytes / rate;
        component->resident_bytes = component->bytes;
    }
    room->largest_s = seconds > room->largest_s ? seconds : room->largest_s;
    room->entries[model].last_used_ns = ++room->now;
    unstick_reuse_note(&room->entries[model].reuse, room->snapshot.turn);
    assert_true(room_resident(room) <= room->capacity_bytes);
}

/* Both pay the same until they differ; the shadow is what LRU would have. */
static void test_shadow_is_lru(void **state)
{
    struct room room, lru;

    (void)state;
    room_init(&room, 10 * GIB);
    room_init(&lru, 10 * GIB);
    lru.snapshot.policy = UNSTICK_POLICY_LRU;
    for (size_t i = 0; i < 300; i++) {
        size_t model = i % 11 ? i % 4 : 4 + i % 2;

        room_ask(&room, model);
        room_ask(&lru, model);
        assert_true(room.rival.paid_s > room.stall_s - 1e-6 && room.rival.paid_s < room.stall_s + 1e-6);
        assert_true(room.rival.lru_s > lru.stall_s - 1e-6 && room.rival.lru_s < lru.stall_s + 1e-6);
        for (size_t k = 0; k < N * PARTS; k++) {
            assert_int_equal(room.lru_bytes[k], lru.components[k / PARTS][k % PARTS].resident_bytes);
            assert_int_equal(lru.lru_bytes[k], room.lru_bytes[k]);
        }
    }
    assert_true(room.stall_s < lru.stall_s);
    assert_int_equal(room.rival.room_bytes, 10 * GIB);
}

/* Behind: what only we have leaves first, then what was used longest ago. */
static void test_follows_lru(void **state)
{
    struct room room;

    (void)state;
    room_init(&room, 12 * GIB);
    for (size_t i = 0; i < 3; i++)
        room_ask(&room, i);
    /* Had we lost, and did LRU lack the last one: */
    room.rival.paid_s = 2 * room.rival.lru_s;
    room.lru_bytes[2 * PARTS] = room.lru_bytes[2 * PARTS + 1] = 0;
    room_ask(&room, 3);
    assert_int_equal(room.plan.verdict, UNSTICK_VERDICT_EVICT);
    assert_int_equal(room.victims[0].entry, 2);
    assert_int_equal(room.plan.evict_bytes, 4 * GIB);
    room.lru_bytes[0] = GIB;
    room_ask(&room, 4);
    /* Of the first one LRU has a part only. */
    assert_int_equal(room.victims[0].entry, 0);
    assert_int_equal(room.victims[0].component, 0);
    assert_int_equal(room.victims[1].component, 1);
}

/* A choice that may cost more than is left to lose is LRU's, before it is made. */
static void test_looks_ahead(void **state)
{
    struct room room;
    size_t by_cost;

    (void)state;
    room_init(&room, 12 * GIB);
    for (size_t i = 0; i < 9; i++)
        room_ask(&room, i % 3);
    room.rival.lru_s = room.rival.paid_s = 1000;
    for (size_t i = 0; i < 3; i++)
        room.components[i][0].tier = room.components[i][1].tier = i ? UNSTICK_TIER_PINNED : UNSTICK_TIER_PAGEABLE;
    room_ask(&room, 3);
    by_cost = room.victims[0].entry;
    assert_int_not_equal(by_cost, 0);
    room_init(&room, 12 * GIB);
    for (size_t i = 0; i < 9; i++)
        room_ask(&room, i % 3);
    for (size_t i = 0; i < 3; i++)
        room.components[i][0].tier = room.components[i][1].tier = i ? UNSTICK_TIER_PINNED : UNSTICK_TIER_PAGEABLE;
    room_ask(&room, 3);
    assert_int_equal(room.victims[0].entry, 0);
}

static void test_what_is_not_noted(void **state)
{
    struct room room;
    struct unstick_demand demand = { .size = sizeof(demand), .key = "a_none" };
    struct unstick_plan plan = { .size = sizeof(plan), .entry = 0, .verdict = UNSTICK_VERDICT_WAIT };

    (void)state;
    room_init(&room, 12 * GIB);
    unstick_rival_note(&room.snapshot, &demand, &plan);
    plan.verdict = UNSTICK_VERDICT_REFUSED;
    unstick_rival_note(&room.snapshot, &demand, &plan);
    assert_int_equal(room.rival.n_notes, 0);
    room.rival.lru_bytes = NULL;
    plan.verdict = UNSTICK_VERDICT_EVICT;
    unstick_rival_note(&room.snapshot, &demand, &plan);
    room.snapshot.rival = NULL;
    unstick_rival_note(&room.snapshot, &demand, &plan);
    assert_int_equal(room.rival.n_notes, 0);
    /* Without a rival nothing is compared: cost alone. */
    for (size_t i = 0; i < 3; i++)
        room_ask(&room, i);
    room_ask(&room, 5);
    assert_int_equal(room.rival.n_notes, 0);
}

/* A hit without a decision: the shadow may have missed, and makes room as it was then. */
static void test_hit_without_a_decision(void **state)
{
    struct room room;
    struct unstick_demand demand = { .size = sizeof(demand), .key = "a_none" };
    struct unstick_plan plan = { .size = sizeof(plan), .entry = 0, .stale_entry = UNSTICK_NO_ENTRY };

    (void)state;
    room_init(&room, 12 * GIB);
    for (size_t i = 0; i < 3; i++)
        room_ask(&room, i);
    unstick_rival_note(&room.snapshot, &demand, &plan);
    assert_true(room.rival.lru_s == room.rival.paid_s);
    room.lru_bytes[0] = 0;
    room.lru_bytes[3 * PARTS] = 3 * GIB;
    room.entries[3].last_used_ns = 1;
    room.snapshot.reading = NULL;
    unstick_rival_note(&room.snapshot, &demand, &plan);
    assert_true(room.rival.lru_s > room.rival.paid_s);
    assert_int_equal(room.lru_bytes[0], 3 * GIB);
    assert_int_equal(room.lru_bytes[3 * PARTS], 0);
    assert_int_equal(room.rival.room_bytes, 12 * GIB);
}

/* A model that nobody knows yet costs both the same, and takes its room in the shadow before it is there. */
static void test_unknown_model(void **state)
{
    struct room room;
    struct unstick_demand demand = { .size = sizeof(demand), .key = "x_none", .required_bytes = 6 * GIB };
    double paid_s;

    (void)state;
    room_init(&room, 12 * GIB);
    for (size_t i = 0; i < 3; i++)
        room_ask(&room, i);
    paid_s = room.rival.paid_s;
    room.reading.free_bytes = 0;
    room.plan = (struct unstick_plan){ .size = sizeof(room.plan), .victims = room.victims, .max_victims = N * PARTS };
    assert_int_equal(unstick_decide(&room.snapshot, &demand, &room.plan), UNSTICK_OK);
    unstick_rival_note(&room.snapshot, &demand, &room.plan);
    assert_true(room.rival.paid_s > paid_s);
    assert_true(room.rival.paid_s == room.rival.lru_s);
    assert_int_equal(room.lru_bytes[0] + room.lru_bytes[1], 0);
    assert_int_equal(room.lru_bytes[2] + room.lru_bytes[3], 2 * GIB);
    assert_int_equal(room.lru_bytes[4] + room.lru_bytes[5], 4 * GIB);
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/*
 * Whatever is asked for: at most 5 % above LRU, and one model. Among the traces are such as are made against the guess:
 * whoever just left is asked for again.
 */
static void test_never_much_worse_than_lru(void **state)
{
    double gained_s = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct room room, lru;
        uint64_t random = seed, capacity_bytes = (6 + next_random(&random) % 14) * GIB;

        room_init(&room, capacity_bytes);
        room_init(&lru, capacity_bytes);
        lru.snapshot.policy = UNSTICK_POLICY_LRU;
        for (size_t i = 0; i < N; i++) {
            enum unstick_tier tier = next_random(&random) % 3 ? UNSTICK_TIER_PINNED : UNSTICK_TIER_PAGEABLE;

            for (size_t j = 0; j < PARTS; j++)
                room.components[i][j].tier = lru.components[i][j].tier = tier;
        }
        for (size_t i = 0; i < 400; i++) {
            size_t model = next_random(&random) % N;
            bool is_spiteful = seed % 3 == 0 && next_random(&random) % 3;

            if (is_spiteful && room.plan.n_victims)
                model = room.victims[0].entry;
            else if (seed % 3 == 1)
                model = i % 4;
            room_ask(&room, model);
            room_ask(&lru, model);
            if (room.stall_s > 1.05 * lru.stall_s + lru.largest_s)
                fail_msg("seed %d, request %zu: %.1f s, LRU %.1f s", (int)seed, i, room.stall_s, lru.stall_s);
        }
        gained_s += lru.stall_s - room.stall_s;
    }
    /* A bound that is kept by always doing as LRU does would be no achievement. */
    assert_true(gained_s > 0);
}

/* What was gained long ago is not there to be lost now. */
static void test_old_gains_fade(void **state)
{
    struct room room;

    (void)state;
    room_init(&room, 12 * GIB);
    room.rival.lru_s = 1000;
    for (size_t i = 0; i < 2048; i++)
        room_ask(&room, 0);
    assert_true(room.rival.lru_s < 260);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shadow_is_lru),
        cmocka_unit_test(test_follows_lru),
        cmocka_unit_test(test_looks_ahead),
        cmocka_unit_test(test_what_is_not_noted),
        cmocka_unit_test(test_hit_without_a_decision),
        cmocka_unit_test(test_unknown_model),
        cmocka_unit_test(test_never_much_worse_than_lru),
        cmocka_unit_test(test_old_gains_fade),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
