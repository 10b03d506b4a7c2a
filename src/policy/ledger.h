/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_LEDGER_H
#define USK_POLICY_LEDGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/policy.h>

/*
 * The figures of a decision, once each, signed: what a limit was lowered under is a negative room, not a huge one.
 * Inputs are bounded (UNSTICK_POLICY_BYTES_MAX, UNSTICK_POLICY_COMPONENTS_MAX), so no sum overflows.
 */
struct usk_ledger {
    int64_t free_bytes;    /* the driver's */
    int64_t cached_bytes;  /* what torch really gives back */
    int64_t spare_bytes;
    int64_t room_bytes;    /* under the limit; USK_LEDGER_UNLIMITED without one; may be negative */
    int64_t pending_bytes;
    int64_t own_bytes;     /* of the demand, resident already */
    int64_t missing_bytes; /* weights to come */
    int64_t working_bytes;
    int64_t leased_bytes;  /* not evictable now, but later */
    int64_t stale_bytes;   /* resident of the stale entry */
    int64_t evictable_bytes; /* set once the victims are known */
    size_t entry, stale_entry;
    enum unstick_basis basis; /* of own + missing */
    bool is_stale_blocked; /* the stale entry is leased, pinned or loading */
};

#define USK_LEDGER_UNLIMITED (INT64_C(1) << 62)

/* Adds up. A line of English on what is wrong with the input, or NULL. */
const char *usk_ledger_init(struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                            const struct unstick_demand *demand);

/* Why a component cannot leave for this demand. */
enum usk_ledger_hold {
    USK_LEDGER_FREE,     /* it can */
    USK_LEDGER_DEMANDED, /* it is part of what is wanted */
    USK_LEDGER_PINNED,
    USK_LEDGER_LEASED, /* or loading: it can later */
};

/* Whether the demand asks for a component of this name; all of them if it names none. */
bool usk_ledger_is_wanted(const struct unstick_demand *demand, const char *name);

/* Asked for every component, twice: inline, it is a fifth of a decision less. */
static inline enum usk_ledger_hold usk_ledger_hold(const struct usk_ledger *ledger,
                                                   const struct unstick_snapshot_entry *entry,
                                                   const struct unstick_demand *demand, size_t index, size_t component)
{
    if (index == ledger->entry && usk_ledger_is_wanted(demand, entry->components[component].name))
        return USK_LEDGER_DEMANDED;
    if (entry->is_pinned)
        return USK_LEDGER_PINNED;
    if (entry->n_leases || entry->is_loading || entry->components[component].n_leases)
        return USK_LEDGER_LEASED;
    return USK_LEDGER_FREE;
}

/* How much has to leave so that weights and working memory fit beside what is free and what torch gives back. */
int64_t usk_ledger_shortage(const struct usk_ledger *ledger, int64_t missing_bytes, int64_t working_bytes);

/* What a demand with this much working memory could have if `evictable_bytes` left, own bytes not counted. */
int64_t usk_ledger_available(const struct usk_ledger *ledger, int64_t working_bytes, int64_t evictable_bytes);

/* Bytes that torch's cache has to give back when `gone_bytes` leave: the weights cannot use it, working memory can. */
int64_t usk_ledger_reclaim(const struct usk_ledger *ledger, int64_t gone_bytes);

/* In use and not accounted for by us, torch or the context. */
uint64_t usk_ledger_others(const struct unstick_reading *reading);

#endif
