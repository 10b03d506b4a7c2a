/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_BUDGET_H
#define USK_STORE_BUDGET_H

#include "base/os.h"
#include "store/store.h"

enum usk_budget_kind {
    USK_BUDGET_PINNED,
    USK_BUDGET_PAGEABLE,
    USK_BUDGET_RING,
    USK_BUDGET_FILE, /* counted, not limited */
    USK_N_BUDGET_KINDS,
};

/* The limit that a machine in this state gives; requested_bytes as for usk_budget_init(). */
uint64_t usk_budget_limit(const struct usk_os_memory *memory, uint64_t requested_bytes);

/* The counter of a kind. */
atomic_uint_least64_t *usk_budget_counter(struct usk_budget *budget, enum usk_budget_kind kind);

/* Takes bytes of the limit: UNSTICK_OK or UNSTICK_HOST_BUDGET. */
int usk_budget_reserve(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes,
                       struct unstick_error *error);
/* Gives them back. */
void usk_budget_return(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes);
/* Counts reserved bytes as another kind. */
void usk_budget_move(struct usk_budget *budget, enum usk_budget_kind from, enum usk_budget_kind to, uint64_t bytes);

/*
 * True if `bytes` of a kind would fit once what is leaving has left. Buffers of the ring leave as soon as they have
 * been used, for whatever else needs their room: who has one never waits for other host memory.
 */
bool usk_budget_will_fit(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes);

/* Whether the machine has that much memory now. Reads files: for pool threads. */
int usk_budget_check_machine(uint64_t bytes, struct unstick_error *error);

#endif
