/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_RECLAIM_RECLAIM_H
#define USK_RECLAIM_RECLAIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/reclaim.h>

#include "reclaim/table.h"

/* SEED: seven rounds, two waits, a last resort of six. DEFAULT: five rounds three times, three waits. */
#define USK_RECLAIM_STEPS_MAX 24

/* What is remembered of a reading: all that effects and decisions are computed from. */
struct usk_reclaim_sight {
    unsigned int sources;
    uint64_t available_bytes, free_bytes;
    uint64_t room_bytes; /* what our own limit leaves: no step of reclaim adds to it */
    uint64_t ours_bytes, resident_bytes;
    uint64_t torch_allocated_bytes, torch_active_bytes, torch_reserved_bytes, torch_cached_bytes, torch_pinned_bytes;
    uint64_t others_bytes;
    bool are_others_known;
};

/* Where a machine is between two actions of a table. */
enum usk_reclaim_stage {
    USK_STAGE_PICK,       /* between two rounds */
    USK_STAGE_GAP,        /* letting what the round before started come to its end */
    USK_STAGE_GAP_SEEN,   /* measuring after it */
    USK_STAGE_ACT,        /* handing out the round's actions */
    USK_STAGE_SEEN,       /* measuring after them */
};

/* The machine, as unstick_reclaim_new() makes it; for embedding, usk_reclaim_init() it. Holds nothing to give back. */
struct unstick_reclaim {
    struct unstick_reclaim_options options; /* with the defaults filled in: a time of 0 is none */
    char what[96];
    atomic_bool is_canceled;

    /* Where it is. */
    enum unstick_reclaim_phase phase;
    enum usk_reclaim_stage stage;
    const struct usk_reclaim_table *table;
    size_t next_round, next_entry;
    struct unstick_reclaim_action last; /* what was handed out; what comes in next is about this */
    bool has_acted;                     /* an action of the round under way was performed */
    bool is_gap_due;                    /* something was done that may have an effect later */
    unsigned int waits_done;            /* 1 << phase */
    unsigned int n_passes;              /* DEFAULT: through the rounds */

    /* Time. */
    bool has_started;
    uint64_t started_ns, now_ns;
    uint64_t rounds_ended_ns;
    uint64_t step_started_ns;
    uint64_t wait_from_ns, wait_ms, wait_slept_ms; /* of the wait or gap under way; wait_ms 0: no limit */
    uint64_t slept_ms;

    /* What is known. */
    bool has_sight;
    struct usk_reclaim_sight first, sight;
    struct unstick_attribution attribution; /* of the last reading */
    uint32_t n_leased;
    bool is_cache_empty;
    unsigned int pending;
    bool are_others_shrinking; /* in the rounds, then between the last two readings */
    bool has_leased_skips;     /* something was left out for a lease */
    unsigned int tried;        /* DEFAULT: 1 << round; and what was to be had behind it */
    struct usk_reclaim_sight tried_sight[USK_N_DEFAULT_ROUNDS];

    /* What came of it. */
    struct unstick_reclaim_step steps[USK_RECLAIM_STEPS_MAX];
    size_t n_steps;
    enum unstick_reclaim_stop stop;
    int status;
};

/* As unstick_reclaim_new(), in the caller's memory. */
int usk_reclaim_init(struct unstick_reclaim *machine, const struct unstick_reclaim_options *options,
                     struct unstick_error *error);

/* --- sight.c --- */

void usk_reclaim_sight_read(struct usk_reclaim_sight *sight, const struct unstick_reading *reading);
/* Splits the change between two sights into what this process and what others gave back; their sum is the change of
 * free memory. False if no source tells them apart: then all of it counts as own. */
bool usk_reclaim_sight_compare(const struct usk_reclaim_sight *before, const struct usk_reclaim_sight *after,
                               int64_t *ret_freed_bytes, int64_t *ret_others_bytes);
/* True if this round of the default table may still give something. */
bool usk_reclaim_sight_can_yield(const struct usk_reclaim_sight *sight, enum usk_reclaim_default_round round,
                                 unsigned int flags);

/* True if what torch holds, and how, is the same in both, or unknown in both. */
bool usk_reclaim_sight_has_same_torch(const struct usk_reclaim_sight *a, const struct usk_reclaim_sight *b);

/* A change of others' use that is worth waiting for, or naming. */
#define USK_RECLAIM_NOISE_BYTES (INT64_C(1) << 20)

#endif
