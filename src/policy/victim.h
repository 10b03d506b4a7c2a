/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_VICTIM_H
#define USK_POLICY_VICTIM_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/policy.h>

#include "policy/ledger.h"

/* Components that may leave, in an array of the caller; what was taken stands at its front, in order. */
struct usk_victims {
    const struct unstick_snapshot *snapshot;
    struct unstick_victim *items;
    size_t n_items, n_taken;
    uint64_t pinned_bytes, pageable_bytes; /* host memory that is left for new backups */
    int64_t evictable_bytes;
    bool is_following; /* LRU's choice, not that of cost */
    double seconds[4]; /* per GiB: back from each tier; AUTO: out to the host */
};

/* Bytes/s back from a tier; AUTO: out to the host. */
uint64_t usk_victims_rate(const struct unstick_snapshot *snapshot, enum unstick_tier tier);

/*
 * Collects what may leave into `items`, which is long enough, and counts how much that is. Where LRU is followed
 * (rival.h), the snapshot has a rival, and its policy is that of cost.
 */
void usk_victims_init(struct usk_victims *victims, const struct unstick_snapshot *snapshot,
                      const struct unstick_demand *demand, const struct usk_ledger *ledger,
                      bool is_following, struct unstick_victim *items);

/* Takes at least `bytes` (not more than evictable_bytes), in the order of the policy; all of the stale entry first. */
void usk_victims_take(struct usk_victims *victims, int64_t bytes);

/* Time that bringing back what was taken will cost, and that copying out what has no backup takes. */
void usk_victims_cost(const struct usk_victims *victims, uint64_t *ret_stall_ns, uint64_t *ret_copy_ns);

#endif
