/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can be tried, as data: the machine only walks these tables. The seven rounds and the last resort are fixed, also
 * where measurements say that a step gives nothing; what was learned since is the default table, cheapest first.
 */
#include "reclaim/table.h"

#define EMPTY { UNSTICK_ACTION_EMPTY_CACHE, 0 }
#define COLLECT { UNSTICK_ACTION_COLLECT, 0 }
#define SYNCHRONIZE { UNSTICK_ACTION_SYNCHRONIZE, 0 }
#define IPC { UNSTICK_ACTION_IPC_COLLECT, 0 }
#define WORKSPACES { UNSTICK_ACTION_CLEAR_WORKSPACES, 0 }
#define DETACH { UNSTICK_ACTION_DETACH_HOOKS, 0 }
#define RESET(_stats) { UNSTICK_ACTION_RESET_STATS, (_stats) }
#define BIT(_kind) UNSTICK_ACTION_BIT(UNSTICK_ACTION_##_kind)

static const struct usk_reclaim_round seed_rounds[] = {
    { "standard", 1, BIT(EMPTY_CACHE), 1, { EMPTY } },
    { "python-gc", 2, BIT(COLLECT), 1, { COLLECT } },
    /* Collected first: an emptied cache only fills again with what the collection frees. */
    { "combined", 3, BIT(COLLECT) | BIT(EMPTY_CACHE), 2, { COLLECT, EMPTY } },
    { "synchronized", 4, BIT(SYNCHRONIZE), 3, { SYNCHRONIZE, COLLECT, EMPTY } },
    { "ipc-collection", 5, BIT(IPC_COLLECT), 1, { IPC } },
    { "statistics-reset", 6, BIT(RESET_STATS), 1, { RESET(UNSTICK_STATS_ACCUMULATED | UNSTICK_STATS_PEAK) } },
    /* Rounds 1 to 5 in one, three times: what a first pass frees may hold what a second one finds. */
    { "nuclear",
      7,
      BIT(COLLECT) | BIT(EMPTY_CACHE),
      12,
      { SYNCHRONIZE, COLLECT, EMPTY, IPC, SYNCHRONIZE, COLLECT, EMPTY, IPC, SYNCHRONIZE, COLLECT, EMPTY, IPC } },
};

/* reset_max_memory_* have been other names of reset_peak_memory_stats() since torch 1.4. */
static const struct usk_reclaim_round last_resort[] = {
    { "empty_cache", 0, BIT(EMPTY_CACHE), 1, { EMPTY } },
    { "ipc_collect", 0, BIT(IPC_COLLECT), 1, { IPC } },
    { "synchronize", 0, BIT(SYNCHRONIZE), 1, { SYNCHRONIZE } },
    { "reset_accumulated_memory_stats", 0, BIT(RESET_STATS), 1, { RESET(UNSTICK_STATS_ACCUMULATED) } },
    { "reset_max_memory_allocated", 0, BIT(RESET_STATS), 1, { RESET(UNSTICK_STATS_PEAK) } },
    { "reset_max_memory_cached", 0, BIT(RESET_STATS), 1, { RESET(UNSTICK_STATS_PEAK) } },
};

static const struct usk_reclaim_round default_rounds[] = {
    [USK_DEFAULT_STANDARD] = { "standard", 1, BIT(EMPTY_CACHE), 1, { EMPTY } },
    [USK_DEFAULT_SYNCHRONIZED] = { "synchronized", 2, BIT(SYNCHRONIZE), 2, { SYNCHRONIZE, EMPTY } },
    /* Hooks leave bound methods behind that make cycles: off first, then one collection finds them all. */
    [USK_DEFAULT_COLLECTED] = { "collected", 3, BIT(COLLECT) | BIT(DETACH_HOOKS), 3, { DETACH, COLLECT, EMPTY } },
    [USK_DEFAULT_IPC] = { "ipc-collection", 4, BIT(IPC_COLLECT), 2, { IPC, EMPTY } },
    /* A cuBLAS workspace of 32 MiB was seen to pin a segment of 5.4 GiB. */
    [USK_DEFAULT_WORKSPACES] = { "workspaces", 5, BIT(CLEAR_WORKSPACES), 2, { WORKSPACES, EMPTY } },
};

#define TABLE(_rounds) { (_rounds), sizeof(_rounds) / sizeof((_rounds)[0]) }

const struct usk_reclaim_table usk_reclaim_seed_rounds = TABLE(seed_rounds);
const struct usk_reclaim_table usk_reclaim_default_rounds = TABLE(default_rounds);
const struct usk_reclaim_table usk_reclaim_last_resort = TABLE(last_resort);

bool usk_reclaim_is_process_wide(enum unstick_action_kind kind)
{
    switch (kind) {
    case UNSTICK_ACTION_EMPTY_CACHE:
    case UNSTICK_ACTION_COLLECT:
    case UNSTICK_ACTION_SYNCHRONIZE:
    case UNSTICK_ACTION_IPC_COLLECT:
    case UNSTICK_ACTION_RESET_STATS:
    case UNSTICK_ACTION_CLEAR_WORKSPACES:
        return true;
    case UNSTICK_ACTION_DONE:
    case UNSTICK_ACTION_MEASURE:
    case UNSTICK_ACTION_SLEEP:
    case UNSTICK_ACTION_DETACH_HOOKS:
        return false;
    }
    return true;
}

const char *unstick_action_name(enum unstick_action_kind kind)
{
    static const char *const names[] = {
        [UNSTICK_ACTION_DONE] = "done",
        [UNSTICK_ACTION_MEASURE] = "measure",
        [UNSTICK_ACTION_SLEEP] = "sleep",
        [UNSTICK_ACTION_EMPTY_CACHE] = "empty_cache",
        [UNSTICK_ACTION_COLLECT] = "collect",
        [UNSTICK_ACTION_SYNCHRONIZE] = "synchronize",
        [UNSTICK_ACTION_IPC_COLLECT] = "ipc_collect",
        [UNSTICK_ACTION_RESET_STATS] = "reset_stats",
        [UNSTICK_ACTION_CLEAR_WORKSPACES] = "clear_workspaces",
        [UNSTICK_ACTION_DETACH_HOOKS] = "detach_hooks",
    };

    return (unsigned int)kind < sizeof(names) / sizeof(names[0]) ? names[kind] : "unknown";
}
