/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_RECLAIM_TABLE_H
#define USK_RECLAIM_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include <unstick/reclaim.h>

struct usk_reclaim_entry {
    enum unstick_action_kind kind;
    unsigned int stats; /* UNSTICK_ACTION_RESET_STATS */
};

/* A few actions in a row that are measured together. */
struct usk_reclaim_round {
    const char *name;
    unsigned int number; /* 0: not a round */
    unsigned int core;   /* UNSTICK_ACTION_BIT: without any of these it makes no sense */
    size_t n_entries;
    struct usk_reclaim_entry entries[12];
};

struct usk_reclaim_table {
    const struct usk_reclaim_round *rounds;
    size_t n_rounds;
};

extern const struct usk_reclaim_table usk_reclaim_seed_rounds;
extern const struct usk_reclaim_table usk_reclaim_default_rounds;
extern const struct usk_reclaim_table usk_reclaim_last_resort;

/* Indexes into usk_reclaim_default_rounds. */
enum usk_reclaim_default_round {
    USK_DEFAULT_STANDARD,
    USK_DEFAULT_SYNCHRONIZED,
    USK_DEFAULT_COLLECTED,
    USK_DEFAULT_IPC,
    USK_DEFAULT_WORKSPACES,
    USK_N_DEFAULT_ROUNDS,
};

/* True for what touches everything in the process, what is leased included. */
bool usk_reclaim_is_process_wide(enum unstick_action_kind kind);

#endif
