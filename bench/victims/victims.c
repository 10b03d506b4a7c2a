/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How well victims are chosen: `bench-victims [--all] [--requests N]`.
 *
 * Runs unstick_decide() over made-up traces in a simulated device: what a plan evicts leaves, what is missing is
 * restored at the speed of its tier. Three policies of the library are compared with each other and with one that
 * knows the future. The figures are simulated seconds, not measured ones, so they are the same on every machine; only
 * the time that a decision takes is measured.
 *
 * A share of the models is backed by pageable memory, which comes back eight times slower; with a share of 0 only the
 * guess who is asked for next makes a difference.
 *
 * The policy by cost is played with the account of what LRU would have paid (unstick_rival), as the cache keeps it, and
 * without: "guess alone".
 *
 * Even seeds were looked at while the policy was tuned, odd ones were not; the table has the odd ones only, --all adds
 * the even ones for comparison.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <unstick/policy.h>
#include <unstick/status.h>

#include "traces.h"

#define GIB (UINT64_C(1) << 30)
#define MODELS_MAX 10
#define COMPONENTS 3
#define REQUESTS_MAX 600
#define SEEDS 40

enum player { PLAYER_COST, PLAYER_GUESS, PLAYER_LRU, PLAYER_CLEAR, PLAYER_OFFLINE, PLAYERS };

static size_t n_requests = REQUESTS_MAX;

static const char *const player_names[] = { "cost", "guess alone", "LRU", "clear-everything", "offline" };

/* Tenths of a GiB: transformer, text encoder, VAE; of FLUX, SDXL, SD3, PixArt and language models as they are used. */
static const unsigned int shapes[][COMPONENTS] = {
    { 111, 55, 2 }, { 57, 39, 2 }, { 222, 89, 2 }, { 48, 15, 2 },
    { 39, 92, 2 },  { 12, 89, 1 }, { 150, 0, 0 },  { 75, 0, 0 },
};

struct tally {
    double stall_s;
    uint64_t moved_bytes;
};

/* One simulated device with its models. */
struct world {
    size_t n_models;
    uint64_t capacity_bytes;
    struct unstick_reading reading;
    struct unstick_snapshot_component components[MODELS_MAX][COMPONENTS];
    struct unstick_snapshot_entry entries[MODELS_MAX];
    struct unstick_snapshot snapshot;
    char keys[MODELS_MAX][16];
    size_t requests[REQUESTS_MAX];
    uint64_t lru_bytes[MODELS_MAX * COMPONENTS];
    struct unstick_rival rival;
};

static const uint64_t rates[4] = {
    [UNSTICK_TIER_AUTO] = UINT64_C(50000000000),
    [UNSTICK_TIER_PINNED] = UINT64_C(52000000000),
    [UNSTICK_TIER_PAGEABLE] = UINT64_C(6500000000),
    [UNSTICK_TIER_FILE] = UINT64_C(52000000000),
};

static void world_make(struct world *world, enum trace_kind kind, uint64_t seed, double slow_share)
{
    uint64_t state = seed * 1000 + (uint64_t)kind, total = 0, largest = 0;

    memset(world, 0, sizeof(*world));
    world->n_models = 4 + trace_random(&state) % (MODELS_MAX - 3);
    for (size_t i = 0; i < world->n_models; i++) {
        const unsigned int *shape = shapes[trace_random(&state) % (sizeof(shapes) / sizeof(shapes[0]))];
        enum unstick_tier tier = trace_uniform(&state) < slow_share ? UNSTICK_TIER_PAGEABLE : UNSTICK_TIER_PINNED;
        uint64_t bytes = 0;

        snprintf(world->keys[i], sizeof(world->keys[i]), "m%zu_none", i);
        world->entries[i] = (struct unstick_snapshot_entry){ .key = world->keys[i],
                                                             .components = world->components[i],
                                                             .n_components = COMPONENTS };
        for (size_t j = 0; j < COMPONENTS; j++) {
            world->components[i][j] = (struct unstick_snapshot_component){ .name = "part",
                                                                           .bytes = shape[j] * GIB / 10,
                                                                           .tier = tier };
            bytes += shape[j] * GIB / 10;
        }
        total += bytes;
        largest = bytes > largest ? bytes : largest;
    }
    world->capacity_bytes = (uint64_t)((0.35 + 0.5 * trace_uniform(&state)) * (double)total);
    if (world->capacity_bytes < largest)
        world->capacity_bytes = largest;
    trace_make(kind, &state, world->n_models, world->requests, n_requests);
    world->reading = (struct unstick_reading){ .size = sizeof(world->reading), .sources = UNSTICK_SOURCE_DRIVER };
    world->snapshot = (struct unstick_snapshot){ .size = sizeof(world->snapshot),
                                                 .reading = &world->reading,
                                                 .entries = world->entries,
                                                 .n_entries = world->n_models,
                                                 .rival = &world->rival };
    world->rival.lru_bytes = world->lru_bytes;
    memcpy(world->snapshot.rates, rates, sizeof(rates));
}

static uint64_t world_resident(const struct world *world)
{
    uint64_t resident = 0;

    for (size_t i = 0; i < world->n_models; i++) {
        for (size_t j = 0; j < COMPONENTS; j++)
            resident += world->components[i][j].resident_bytes;
    }
    return resident;
}

static void world_evict_by_plan(struct world *world, size_t model)
{
    struct unstick_victim victims[MODELS_MAX * COMPONENTS];
    struct unstick_plan plan = { .size = sizeof(plan), .victims = victims, .max_victims = MODELS_MAX * COMPONENTS };
    struct unstick_demand demand = { .size = sizeof(demand), .key = world->keys[model] };

    if (unstick_decide(&world->snapshot, &demand, &plan) != UNSTICK_OK || plan.verdict == UNSTICK_VERDICT_REFUSED) {
        fprintf(stderr, "bench-victims: %s\n", plan.reason);
        exit(1);
    }
    unstick_rival_note(&world->snapshot, &demand, &plan);
    for (size_t i = 0; i < plan.n_victims; i++)
        world->components[victims[i].entry][victims[i].component].resident_bytes -= victims[i].bytes;
}

static size_t trace_next(const struct world *world, size_t model, size_t from)
{
    while (from < n_requests && world->requests[from] != model)
        from++;
    return from;
}

/* Knows the future: who is asked for last leaves first, weighed by what bringing it back costs where `by_cost`. */
static void world_evict_offline(struct world *world, size_t at, uint64_t bytes, bool by_cost)
{
    double scores[MODELS_MAX];

    for (size_t i = 0; i < world->n_models; i++) {
        size_t next = trace_next(world, i, at + 1);

        scores[i] = next == n_requests ? 0 : 1 / (double)(next - at);
        if (by_cost)
            scores[i] /= (double)rates[world->components[i][0].tier];
    }
    while (bytes) {
        size_t best = MODELS_MAX;

        for (size_t i = 0; i < world->n_models; i++) {
            uint64_t resident = 0;

            for (size_t j = 0; j < COMPONENTS; j++)
                resident += world->components[i][j].resident_bytes;
            if (i != world->requests[at] && resident && (best == MODELS_MAX || scores[i] < scores[best]))
                best = i;
        }
        for (size_t j = COMPONENTS; j-- && bytes;) {
            uint64_t *resident = &world->components[best][j].resident_bytes;
            uint64_t taken = *resident < bytes ? *resident : bytes;

            *resident -= taken;
            bytes -= taken;
        }
    }
}

static struct tally world_restore(struct world *world, size_t model)
{
    struct tally tally = { 0 };

    for (size_t j = 0; j < COMPONENTS; j++) {
        struct unstick_snapshot_component *component = &world->components[model][j];
        uint64_t missing = component->bytes - component->resident_bytes;

        component->resident_bytes = component->bytes;
        tally.moved_bytes += missing;
        tally.stall_s += (double)missing / (double)rates[component->tier];
    }
    return tally;
}

static struct tally world_run(enum trace_kind kind, uint64_t seed, double slow_share, enum player player, bool by_cost)
{
    static struct world world;
    struct tally total = { 0 };
    size_t previous = MODELS_MAX;

    world_make(&world, kind, seed, slow_share);
    world.snapshot.policy = player == PLAYER_LRU     ? UNSTICK_POLICY_LRU
                            : player == PLAYER_CLEAR ? UNSTICK_POLICY_CLEAR_EVERYTHING
                                                     : UNSTICK_POLICY_COST;
    if (player != PLAYER_COST)
        world.snapshot.rival = NULL;
    for (size_t i = 0; i < n_requests; i++) {
        size_t model = world.requests[i];
        struct tally moved;
        uint64_t missing = 0, free_bytes = world.capacity_bytes - world_resident(&world);

        if (model != previous)
            world.snapshot.turn++;
        previous = model;
        world.reading.total_bytes = world.capacity_bytes;
        world.reading.free_bytes = free_bytes;
        for (size_t j = 0; j < COMPONENTS; j++)
            missing += world.components[model][j].bytes - world.components[model][j].resident_bytes;
        if (player != PLAYER_OFFLINE)
            world_evict_by_plan(&world, model);
        else if (missing > free_bytes)
            world_evict_offline(&world, i, missing - free_bytes, by_cost);
        moved = world_restore(&world, model);
        if (world_resident(&world) > world.capacity_bytes) {
            fprintf(stderr, "bench-victims: more than the device has\n");
            exit(1);
        }
        total.stall_s += moved.stall_s;
        total.moved_bytes += moved.moved_bytes;
        world.entries[model].last_used_ns = i + 1;
        unstick_reuse_note(&world.entries[model].reuse, world.snapshot.turn);
    }
    return total;
}

static struct tally player_run(enum trace_kind kind, uint64_t seed, double slow_share, enum player player)
{
    struct tally tally = world_run(kind, seed, slow_share, player, true), other;

    if (player != PLAYER_OFFLINE)
        return tally;
    /* Weighing the future is a heuristic too where tiers differ: the better of both. */
    other = world_run(kind, seed, slow_share, player, false);
    return other.stall_s < tally.stall_s ? other : tally;
}

struct result {
    struct tally sums[PLAYERS];
    double worst[PLAYERS]; /* against LRU, the worst single trace */
};

static struct result kind_run(enum trace_kind kind, uint64_t parity, double slow_share)
{
    struct result result = { 0 };

    for (uint64_t seed = parity; seed < SEEDS; seed += 2) {
        double stalls[PLAYERS];

        for (size_t player = 0; player < PLAYERS; player++) {
            struct tally tally = player_run(kind, seed, slow_share, (enum player)player);

            stalls[player] = tally.stall_s;
            result.sums[player].stall_s += tally.stall_s;
            result.sums[player].moved_bytes += tally.moved_bytes;
        }
        for (size_t player = 0; player < PLAYERS; player++) {
            double ratio = stalls[PLAYER_LRU] > 0 ? stalls[player] / stalls[PLAYER_LRU] : 1;

            result.worst[player] = ratio > result.worst[player] ? ratio : result.worst[player];
        }
    }
    return result;
}

static void result_print(const char *name, const struct result *result)
{
    printf("| %s |", name);
    for (size_t player = 0; player < PLAYERS; player++)
        printf(" %.0f s, %.1f TB |", result->sums[player].stall_s, (double)result->sums[player].moved_bytes / 1e12);
    printf(" %.2f | %.3f | %.3f |\n", result->sums[PLAYER_COST].stall_s / result->sums[PLAYER_LRU].stall_s,
           result->worst[PLAYER_COST], result->worst[PLAYER_GUESS]);
}

static void seeds_run(uint64_t parity, double slow_share)
{
    struct result all = { 0 };

    printf("%s seeds, %.0f %% of the models pageable, %d traces of %zu requests per row: stall, bytes restored\n\n"
           "| trace |",
           parity ? "held-out" : "tuning", slow_share * 100, SEEDS / 2, n_requests);
    for (size_t player = 0; player < PLAYERS; player++)
        printf(" %s |", player_names[player]);
    printf(" cost / LRU | worst trace, cost | guess |\n|---|---|---|---|---|---|---|---|---|\n");
    for (int kind = 0; kind < TRACE_KINDS; kind++) {
        struct result result = kind_run((enum trace_kind)kind, parity, slow_share);

        result_print(trace_name((enum trace_kind)kind), &result);
        for (size_t player = 0; player < PLAYERS; player++) {
            all.sums[player].stall_s += result.sums[player].stall_s;
            all.sums[player].moved_bytes += result.sums[player].moved_bytes;
            if (result.worst[player] > all.worst[player])
                all.worst[player] = result.worst[player];
        }
    }
    result_print("all", &all);
    printf("\n");
}

/*
 * A decision over 100 entries of 4 components, with a long list of victims, chosen by cost or twice: LRU's after all.
 */
static void decide_time(bool is_twice)
{
    enum { N = 100, PARTS = 4, RUNS = 20000, BATCH = 20 };
    static struct unstick_snapshot_component components[N][PARTS];
    static struct unstick_snapshot_entry entries[N];
    static struct unstick_victim victims[N * PARTS];
    static char keys[N][32];
    static uint64_t lru_bytes[N * PARTS];
    static double batches[RUNS / BATCH];
    struct unstick_reading reading = { .size = sizeof(reading),
                                       .sources = UNSTICK_SOURCE_DRIVER,
                                       .total_bytes = 512 * GIB,
                                       .free_bytes = GIB };
    struct unstick_rival rival = { .lru_bytes = lru_bytes, .paid_s = 100, .lru_s = is_twice ? 96.2 : 100 };
    struct unstick_snapshot snapshot = { .size = sizeof(snapshot),
                                         .reading = &reading,
                                         .entries = entries,
                                         .n_entries = N,
                                         .turn = 1000,
                                         .rival = &rival };
    struct unstick_demand demand = { .size = sizeof(demand), .key = "wanted_none", .required_bytes = 40 * GIB };
    struct unstick_plan plan = { .size = sizeof(plan), .victims = victims, .max_victims = N * PARTS };
    uint64_t state = 1;
    size_t n = 0;

    for (size_t i = 0; i < N; i++) {
        snprintf(keys[i], sizeof(keys[i]), "organization/model-%zu_none", i);
        entries[i] = (struct unstick_snapshot_entry){ .key = keys[i],
                                                      .components = components[i],
                                                      .n_components = PARTS };
        for (uint64_t turn = trace_random(&state) % 50; turn < 1000; turn += 1 + trace_random(&state) % 50)
            unstick_reuse_note(&entries[i].reuse, turn);
        entries[i].last_used_ns = entries[i].reuse.last_turn * 1000000;
        for (size_t j = 0; j < PARTS; j++) {
            lru_bytes[i * PARTS + j] = trace_random(&state) % 2 * GIB;
            components[i][j] = (struct unstick_snapshot_component){ .name = "part",
                                                                    .bytes = GIB,
                                                                    .resident_bytes = GIB,
                                                                    .tier = UNSTICK_TIER_PINNED };
        }
    }
    for (size_t i = 0; i < RUNS / BATCH; i++) {
        struct timespec start, end;
        double ns;

        clock_gettime(CLOCK_MONOTONIC, &start);
        for (size_t j = 0; j < BATCH; j++) {
            demand.working_bytes = (i + j) % 7;
            if (unstick_decide(&snapshot, &demand, &plan) != UNSTICK_OK || plan.verdict != UNSTICK_VERDICT_EVICT)
                exit(1);
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        ns = ((double)(end.tv_sec - start.tv_sec) * 1e9 + (double)(end.tv_nsec - start.tv_nsec)) / BATCH;
        for (size_t k = n++; ; k--) {
            if (k && batches[k - 1] > ns) {
                batches[k] = batches[k - 1];
                continue;
            }
            batches[k] = ns;
            break;
        }
    }
    printf("decide over %d entries of %d components, %zu victims%s: median %.1f us, 99 %% below %.1f us\n", N, PARTS,
           plan.n_victims, is_twice ? " chosen twice" : "", batches[n / 2] / 1e3, batches[n * 99 / 100] / 1e3);
}

int main(int argc, char **argv)
{
    bool has_all = false;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--requests") && i + 1 < argc)
            n_requests = strtoul(argv[++i], NULL, 10);
        else if (!strcmp(argv[i], "--all"))
            has_all = true;
        else
            n_requests = 0;
    }
    if (!n_requests || n_requests > REQUESTS_MAX) {
        fprintf(stderr, "usage: bench-victims [--all] [--requests N]; N: at most %d, which is the default\n",
                REQUESTS_MAX);
        return 2;
    }
    seeds_run(1, 0.3);
    seeds_run(1, 0);
    if (has_all) {
        seeds_run(0, 0.3);
        seeds_run(0, 0);
    }
    decide_time(false);
    decide_time(true);
    return 0;
}
