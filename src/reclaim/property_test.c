/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What holds for every host, options and course of events: a run ends, sleeps no longer than it may, touches nothing
 * process-wide while something is leased, stops at the first measurement that meets the target, adds up, and does the
 * same again when the same happens again. Seeded; `reclaim-property-test N [SEED]` runs N cases.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reclaim/reclaim.h"
#include "reclaim/test_host.h"

#define MIB (UINT64_C(1) << 20)
#define N_CASES 20000

struct random {
    uint64_t state;
};

/* splitmix64 */
static uint64_t random_next(struct random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t random_below(struct random *random, uint64_t n)
{
    return random_next(random) % n;
}

static bool random_chance(struct random *random, unsigned int percent)
{
    return random_below(random, 100) < percent;
}

static void host_make(struct random *random, struct test_host *host)
{
    uint64_t *parts[] = { &host->referenced_bytes, &host->cyclic_bytes,    &host->hooked_bytes,
                          &host->streamed_bytes,   &host->ipc_bytes,       &host->workspace_bytes,
                          &host->pinned_bytes,     &host->cached_bytes,    &host->resident_bytes,
                          &host->others_bytes };

    test_host_init(host);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (random_chance(random, 40))
            *parts[i] = random_below(random, 2300) * MIB;
    }
    if (random_chance(random, 30))
        host->sources &= ~(unsigned int)UNSTICK_SOURCE_PROCESSES;
    if (random_chance(random, 20))
        host->sources &= ~(unsigned int)UNSTICK_SOURCE_TORCH;
    if (random_chance(random, 20))
        host->sources &= ~(unsigned int)UNSTICK_SOURCE_ACCOUNTS;
    host->limit_bytes = random_chance(random, 20) ? random_below(random, 24000) * MIB : 0;
    host->action_ms = random_chance(random, 50) ? 0 : random_below(random, 400);
    host->is_clock_frozen = random_chance(random, 5);
    host->report.n_leased = random_chance(random, 20);
    host->report.is_cache_empty = random_chance(random, 50);
    host->report.pending = (unsigned int)random_below(random, 8) & (random_chance(random, 50) ? 0 : ~0u);
    if (random_chance(random, 10)) {
        host->fails = (unsigned int)random_next(random) & ~UNSTICK_ACTION_BIT(UNSTICK_ACTION_MEASURE);
        host->fails_with = random_chance(random, 50) ? UNSTICK_UNSUPPORTED : UNSTICK_DRIVER;
    }
    for (uint64_t n = random_below(random, 8); n > 0; n--) {
        enum test_event_kind kind = (enum test_event_kind)random_below(random, TEST_LOSE + 1);
        int64_t bytes = (int64_t)(random_below(random, 4000) * MIB);

        /* Most runs are neither canceled nor cut short. */
        if (kind >= TEST_CANCEL && random_chance(random, 80))
            kind = TEST_RELEASE;
        if (kind == TEST_OTHERS && random_chance(random, 50))
            bytes = -bytes;
        else if (kind == TEST_LEASES || kind == TEST_PENDING || kind == TEST_CACHE)
            bytes = (int64_t)random_below(random, kind == TEST_PENDING ? 8 : 2);
        test_host_at(host, random_below(random, 16000), kind, bytes);
    }
    /* Leases end, so that a wait for them does. */
    test_host_at(host, 20000, TEST_LEASES, 0);
}

static void options_make(struct random *random, struct unstick_reclaim_options *options)
{
    *options = (struct unstick_reclaim_options) {
        .size = sizeof(*options),
        .target_bytes = random_chance(random, 10) ? 0 : random_below(random, 25000) * MIB,
        .strategy = random_chance(random, 50) ? UNSTICK_RECLAIM_SEED : UNSTICK_RECLAIM_DEFAULT,
        .flags = (unsigned int)random_below(random, 16),
        .cannot = random_chance(random, 20) ? (unsigned int)random_next(random) & 0x3f8u : 0,
        .what = "property",
    };
    if (random_chance(random, 30)) {
        options->gap_ms = (uint32_t)random_below(random, 2000);
        options->chunk_ms = 50 + (uint32_t)random_below(random, 2000);
        options->patience_ms = (uint32_t)random_below(random, 8000);
        options->safety_ms = (uint32_t)random_below(random, 8000);
        options->lease_ms = (uint32_t)random_below(random, 20000);
    }
    if (random_chance(random, 10))
        options->gap_ms = UNSTICK_RECLAIM_NO_WAIT;
    if (random_chance(random, 10))
        options->patience_ms = UNSTICK_RECLAIM_NO_WAIT;
    if (random_chance(random, 10))
        options->safety_ms = UNSTICK_RECLAIM_NO_WAIT;
}

static uint64_t most_ms(const struct unstick_reclaim_options *options, const struct test_host *host)
{
    uint64_t gap = options->gap_ms == UNSTICK_RECLAIM_NO_WAIT ? 0 : options->gap_ms ? options->gap_ms : 300;
    uint64_t patience =
        options->patience_ms == UNSTICK_RECLAIM_NO_WAIT ? 0 : options->patience_ms ? options->patience_ms : 5000;
    uint64_t safety =
        options->safety_ms == UNSTICK_RECLAIM_NO_WAIT ? 0 : options->safety_ms ? options->safety_ms : 7000;

    if (options->strategy == UNSTICK_RECLAIM_SEED)
        return 6 * gap + patience + safety;
    /* A clock that stands still never comes to the end of leases: the host has to bound that one. */
    return patience + safety + (options->lease_ms ? options->lease_ms : host->is_clock_frozen ? UINT32_MAX : 23000);
}

#define CHECK(_claim)                                                                                        \
    do {                                                                                                     \
        if (!(_claim)) {                                                                                     \
            printf("seed %" PRIu64 ": does not hold: %s\n", seed, #_claim);                                  \
            return false;                                                                                    \
        }                                                                                                    \
    } while (0)

/* Runs a host step by step beside what the machine is told. */
static bool case_run(uint64_t seed, struct test_host *host, const struct unstick_reclaim_options *options,
                     struct unstick_reclaim *machine)
{
    struct unstick_reclaim_result result = { .size = sizeof(result) };
    int64_t change;

    CHECK(usk_reclaim_init(machine, options, NULL) == UNSTICK_OK);
    CHECK(test_host_run(host, machine));
    CHECK(unstick_reclaim_result(machine, &result) == UNSTICK_OK);
    CHECK(result.stop != UNSTICK_STOP_NOT_YET && result.status != UNSTICK_PENDING);
    CHECK((result.stop == UNSTICK_STOP_MET) == (result.status == UNSTICK_OK && options->target_bytes));
    CHECK(result.stop != UNSTICK_STOP_MET || result.after_bytes >= options->target_bytes);
    CHECK(!result.is_met || !result.suggestions);
    CHECK(result.n_steps <= USK_RECLAIM_STEPS_MAX);
    CHECK(memchr(result.text, 0, sizeof(result.text)));

    CHECK(host->slept_ms == result.waited_ms);
    CHECK(host->slept_ms <= most_ms(options, host));
    for (size_t i = 0; i < host->n_trace; i++)
        CHECK(!host->trace_leased[i] || !usk_reclaim_is_process_wide(host->trace[i].kind));

    /* Every change between the first and the last measurement belongs to a step. */
    if (host->n_readings) {
        change = (int64_t)host->last_free_bytes - (int64_t)host->first_free_bytes;
        CHECK(result.freed_bytes + result.others_bytes == change);
    }
    /* It stopped at the first measurement that met the target: there is no earlier one. */
    CHECK(!options->target_bytes || host->n_enough == (result.stop == UNSTICK_STOP_MET));
    for (size_t i = 0; i < result.n_steps; i++)
        CHECK(!(result.steps[i].performed & result.steps[i].skipped) || result.steps[i].round == 7);
    return true;
}

static bool case_check(uint64_t seed)
{
    static struct test_host host, again;
    struct unstick_reclaim_options options;
    struct unstick_reclaim machine, other;
    struct random random = { .state = seed };

    host_make(&random, &host);
    options_make(&random, &options);
    if (host.is_clock_frozen && !options.lease_ms)
        options.lease_ms = 10000;
    host.target_bytes = options.target_bytes;
    again = host;
    if (!case_run(seed, &host, &options, &machine) || !case_run(seed, &again, &options, &other))
        return false;
    CHECK(host.n_trace == again.n_trace);
    for (size_t i = 0; i < host.n_trace; i++) {
        CHECK(host.trace[i].kind == again.trace[i].kind && host.trace[i].sleep_ms == again.trace[i].sleep_ms);
        CHECK(host.trace[i].phase == again.trace[i].phase && host.trace[i].step == again.trace[i].step);
    }
    return true;
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : N_CASES;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;

    for (uint64_t seed = first; seed < first + n; seed++) {
        if (!case_check(seed))
            return EXIT_FAILURE;
    }
    printf("%" PRIu64 " cases hold\n", n);
    return EXIT_SUCCESS;
}
