/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Policy: from a snapshot of a device and a demand for a model, a plan. What would have to leave, what would have to be
 * waited for, why, and what else could be done.
 *
 * Everything here is pure: no clock, no memory, no driver, no lock; any thread; the same input gives the same plan.
 * All arrays belong to the caller. A plan is a proposal: it changes nothing, and it is as old as its snapshot. Whoever
 * carries it out takes a fresh reading afterwards and decides again if something was not as the plan had it.
 *
 * The arithmetic, in bytes (a missing source counts as 0):
 *
 *     held      = resident + sentinel + spare + poisoned                         our accounts
 *     room      = limit - held (no limit: without end)                           what our accounts may still take
 *     cached    = torch reserved - active - inactive_split                       what empty_cache() really gives back
 *     evictable = resident bytes of what is neither leased, pinned, loading nor demanded
 *
 * A demand for W bytes of weights that are not there yet, and M of working memory, fits when
 *
 *     W     <= min(free, room) + spare + evictable, with `cached` in `free` once it was reclaimed, and
 *     W + M <= free + cached + spare + evictable
 *
 * Working memory is torch's, not ours: it does not count against the limit, and torch serves it from its own cache.
 */
#ifndef UNSTICK_POLICY_H
#define UNSTICK_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/estimate.h>
#include <unstick/export.h>
#include <unstick/key.h>
#include <unstick/reading.h>
#include <unstick/task.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Below this much available, with nothing left to reclaim, only a restart (or hibernation) helps: 6 GiB. */
#define UNSTICK_VIABLE_BYTES (UINT64_C(6) << 30)
/** From this much available on, 8-bit is offered instead of 4-bit, if its exact estimate fits: 10 GiB. */
#define UNSTICK_OFFER_8BIT_BYTES (UINT64_C(10) << 30)
/** From this much available on, full precision is offered instead of either, if its exact estimate fits: 20 GiB. */
#define UNSTICK_OFFER_NONE_BYTES (UINT64_C(20) << 30)
/** What a 4-bit FLUX is taken for while nothing is known of it: 8 GiB. */
#define UNSTICK_GUESS_4BIT_BYTES (UINT64_C(8) << 30)
/** What an 8-bit FLUX is taken for while nothing is known of it: 12 GiB. */
#define UNSTICK_GUESS_8BIT_BYTES (UINT64_C(12) << 30)
/** What a full-precision FLUX is taken for while nothing is known of it: 20 GiB. */
#define UNSTICK_GUESS_NONE_BYTES (UINT64_C(20) << 30)

/** No figure of a snapshot or demand may be larger: 256 TiB. Sums then cannot overflow. */
#define UNSTICK_POLICY_BYTES_MAX (UINT64_C(1) << 48)
/** Most components that the entries of a snapshot may have together. */
#define UNSTICK_POLICY_COMPONENTS_MAX 8192
/** Wait as long as it takes (unstick_demand.max_wait_ms). */
#define UNSTICK_WAIT_FOREVER UINT64_MAX
/** No entry (unstick_plan.entry, unstick_plan.stale_entry). */
#define UNSTICK_NO_ENTRY SIZE_MAX

/** How victims are chosen. */
enum unstick_policy_kind {
    UNSTICK_POLICY_COST = 0,         /**< least (restore time x chance of reuse) per byte first, in granules */
    UNSTICK_POLICY_LRU = 1,          /**< used longest ago first, in granules; for comparison */
    UNSTICK_POLICY_CLEAR_EVERYTHING = 2, /**< everything that may go, whole: what the seed does */
};

/**
 * How an entry was used so far; zero-initialize. Time is counted in turns: a turn passes with every request for another
 * key than the request before. So a batch of one model is one turn, however long it takes, and idle hours are none.
 */
struct unstick_reuse {
    uint64_t n_uses;       /**< turns in which it was used */
    uint64_t last_turn;    /**< the turn of its last use */
    uint64_t n_in_turn;    /**< requests for it in that turn */
    double mean_turns;     /**< moving mean of the turns between uses; 0 until it was used in two turns */
    double deviation_turns; /**< moving mean of the distance from that mean */
};

/** Notes a request in turn `turn` (not before reuse->last_turn). Any number of requests in one turn are one use. */
UNSTICK_EXPORT void unstick_reuse_note(struct unstick_reuse *reuse, uint64_t turn);

/**
 * What "least recently used" would have cost so far, beside what was paid: an account of the caller's that
 * UNSTICK_POLICY_COST looks at (unstick_snapshot.rival). While LRU would have been cheaper, LRU's choice is followed;
 * so no sequence of requests costs much more than it would cost LRU. Zero-initialize; lru_bytes is the caller's array.
 */
struct unstick_rival {
    uint64_t *lru_bytes; /**< of each component of the snapshot, entry by entry: what would be on the device if LRU had
                              chosen every victim; 0 for what is new, or was evicted for another reason than a plan */
    uint64_t room_bytes; /**< what models could take at the last decision; unstick_rival_note() keeps it */
    uint64_t n_notes;    /**< requests noted */
    double paid_s;       /**< seconds that bringing in took */
    double lru_s;        /**< seconds that it would have taken */
};

/** One component of an entry: a region. */
struct unstick_snapshot_component {
    const char *name;        /**< "transformer", "text_encoder_2", ... */
    uint64_t bytes;          /**< what it takes on the device when all of it is there, granules rounded up */
    uint64_t resident_bytes; /**< of which are there now */
    uint64_t unbacked_bytes; /**< of which have no valid backup: an eviction has to copy them out first */
    enum unstick_tier tier;  /**< where its backup is; AUTO: there is none yet */
    uint32_t n_leases;       /**< leases on this component alone; one that is leased is never a victim */
};

/** One entry of the cache: a model under its key on this device. */
struct unstick_snapshot_entry {
    const char *key;         /**< `{model_id}_{quantization}`; no two entries of a snapshot have the same */
    const char *fingerprint; /**< of its load settings; NULL or "": none */
    const struct unstick_snapshot_component *components; /**< in order of use */
    size_t n_components;     /**< length of components */
    uint32_t n_leases;       /**< leases on the whole entry; with any, none of its components is a victim */
    bool is_pinned;          /**< never a victim, whatever is asked for */
    bool is_loading;         /**< another caller loads or restores it now: no victim, but evictable later */
    bool can_reload;         /**< its contents may be given up when no host memory is left: it can be loaded again */
    uint64_t reload_ns;      /**< what loading it anew takes; used only where contents are given up */
    uint64_t last_used_ns;   /**< for UNSTICK_POLICY_LRU, ties and texts; on the clock of unstick_reading.taken_ns */
    struct unstick_reuse reuse; /**< for UNSTICK_POLICY_COST */
};

/** A device and its cache at one moment; zero-initialize and set `size` to sizeof. */
struct unstick_snapshot {
    size_t size;                    /**< sizeof(struct unstick_snapshot) */
    const struct unstick_reading *reading; /**< needs UNSTICK_SOURCE_DRIVER; other sources as far as there are any */
    const struct unstick_snapshot_entry *entries; /**< every entry that has something on the device, or in the store */
    size_t n_entries;               /**< length of entries */
    uint64_t limit_bytes;           /**< most that our accounts may hold; 0: as the reading says */
    uint64_t granule_bytes;         /**< unit of eviction; 0: 64 MiB */
    enum unstick_policy_kind policy; /**< how victims are chosen */
    uint64_t rates[4];              /**< bytes/s back from the tier of that index; AUTO: out to the host; 0:
                                         as measured on a PCIe Gen5 x16 link */
    uint64_t turn;                  /**< turns so far; see unstick_reuse */
    uint64_t first_ticket;          /**< the least ticket that waits for memory of this device; 0: nobody waits */
    uint64_t pending_bytes;         /**< on their way back without our doing: evictions under way, a
                                         collection that is due, a process that shrinks; neither in
                                         free_bytes nor in any entry's resident_bytes */
    uint64_t host_pinned_bytes;     /**< host memory that new pinned backups may take */
    uint64_t host_pageable_bytes;   /**< host memory that new pageable backups may take; of the same budget */
    struct unstick_rival *rival;    /**< for UNSTICK_POLICY_COST; NULL: the guess is not compared with anything */
};

/** Another quantization of the demanded model. */
struct unstick_alternative {
    enum unstick_quantization quantization; /**< which */
    uint64_t required_bytes;  /**< weights on the device */
    enum unstick_basis basis; /**< where the figure comes from; FILES and RULES count as exact */
};

/** What is asked for; zero-initialize and set `size` to sizeof. */
struct unstick_demand {
    size_t size;                   /**< sizeof(struct unstick_demand) */
    const char *key;               /**< `{model_id}_{quantization}` */
    const char *fingerprint;       /**< of the load settings; NULL or "": none. Not the entry's: not cached */
    enum unstick_quantization quantization; /**< the key's, for suggestions */
    const char *const *components; /**< names of the components that are wanted together; others may go */
    size_t n_components;           /**< length of components; 0: all */
    uint64_t required_bytes;       /**< weights on the device; a known entry's components count instead; 0: guessed
                                        from quantization */
    enum unstick_basis basis;      /**< where required_bytes comes from */
    uint64_t working_bytes;        /**< activations, VAE decode, ...: kept free beside the weights */
    bool allow_low_memory;         /**< load even if memory is short; counts by its value */
    bool caller_holds_lease;       /**< on the same device: never waits, or two could wait for each other */
    uint64_t max_wait_ms;          /**< 0: never wait; UNSTICK_WAIT_FOREVER: as long as it takes */
    uint64_t waited_ms;            /**< of which have passed */
    uint64_t ticket;               /**< order of arrival, from 1; 0: does not queue */
    const struct unstick_alternative *alternatives; /**< other quantizations; those that are missing are guessed */
    size_t n_alternatives;         /**< length of alternatives */
};

/** What becomes of a demand. */
enum unstick_verdict {
    UNSTICK_VERDICT_HIT = 0,     /**< all of it is on the device: nothing is touched */
    UNSTICK_VERDICT_FITS = 1,    /**< what is free suffices: nothing is touched */
    UNSTICK_VERDICT_RECLAIM = 2, /**< perform `actions` first; then it fits */
    UNSTICK_VERDICT_EVICT = 3,   /**< perform `actions` if any, evict `victims`; then it fits */
    UNSTICK_VERDICT_WAIT = 4,    /**< touch nothing, wait for `wait`, decide again */
    UNSTICK_VERDICT_FORCED = 5,  /**< does not fit; reclaim and evict what there is, and try all the same */
    UNSTICK_VERDICT_REFUSED = 6, /**< does not fit: touch nothing */
};

/** "hit", "fits", "reclaim", "evict", "wait", "forced" or "refused"; "unknown" for a value that is none. Static. */
UNSTICK_EXPORT const char *unstick_verdict_name(enum unstick_verdict verdict);

/** What a plan waits for. */
enum unstick_wait {
    UNSTICK_WAIT_NONE = 0,    /**< nothing */
    UNSTICK_WAIT_LEASES = 1,  /**< leases of ours that end, and loads that become evictable */
    UNSTICK_WAIT_RECLAIM = 2, /**< pending_bytes that arrive */
    UNSTICK_WAIT_LOADING = 3, /**< the same key, which somebody loads already */
    UNSTICK_WAIT_TURN = 4,    /**< demands that came earlier and wait themselves */
};

/** "none", "leases", "reclaim", "loading" or "turn"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_wait_name(enum unstick_wait wait);

/** What to have the host do before anything is evicted; bits of unstick_plan.actions. */
enum unstick_plan_action {
    UNSTICK_PLAN_CLEAR_WORKSPACES = 1u << 0, /**< cuBLAS workspaces pin segments: first */
    UNSTICK_PLAN_EMPTY_CACHE = 1u << 1,      /**< torch.cuda.empty_cache() */
    UNSTICK_PLAN_COLLECT = 1u << 2,          /**< gc.collect(): may free what only cycles hold; never counted on */
};

/** One thing that leaves: the last granules of one component. */
struct unstick_victim {
    size_t entry;            /**< index into unstick_snapshot.entries */
    size_t component;        /**< index into its components */
    uint64_t bytes;          /**< how much, whole granules; less than resident_bytes: the last ones */
    uint64_t n_granules;     /**< the same in granules, the last of which may be shorter */
    enum unstick_tier tier;  /**< where the contents will be; AUTO: given up (is_discard) */
    bool is_discard;         /**< contents are given up: changed load settings, or no host memory left and can_reload */
    double score;            /**< seconds of expected stall per GiB, or a rank while LRU is followed; victims come in
                                  ascending order */
};

/** What else could be done. */
enum unstick_suggestion_action {
    UNSTICK_SUGGEST_SMALLER = 0,   /**< take a smaller quantization, which fits */
    UNSTICK_SUGGEST_LARGER = 1,    /**< take a larger quantization, of better quality, which fits */
    UNSTICK_SUGGEST_WAIT = 2,      /**< let it wait: leases of this process hold what is missing */
    UNSTICK_SUGGEST_COLLECT = 3,   /**< find who still holds tensors in this process */
    UNSTICK_SUGGEST_OTHERS = 4,    /**< close, or hibernate, other programs on the device */
    UNSTICK_SUGGEST_FORCE = 5,     /**< allow_low_memory, at one's own risk */
    UNSTICK_SUGGEST_RESTART = 6,   /**< restart, or hibernate: nothing is left to reclaim */
};

/** "smaller", "larger", "wait", "collect", "others", "force" or "restart"; "unknown" for none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_suggestion_name(enum unstick_suggestion_action action);

/** One suggestion. */
struct unstick_suggestion {
    enum unstick_suggestion_action action;  /**< what */
    enum unstick_quantization quantization; /**< SMALLER, LARGER: which */
    uint64_t bytes;                         /**< SMALLER, LARGER: what it needs; else what it is about; 0: unknown */
    char text[192];                         /**< the same in one line of English */
};

/** Most suggestions in a plan. */
#define UNSTICK_SUGGESTIONS_MAX 10

/** A plan. The caller sets size, victims and max_victims; the rest is written. */
struct unstick_plan {
    size_t size;                    /**< sizeof(struct unstick_plan), set by the caller */
    struct unstick_victim *victims; /**< the caller's array; also scratch: what lies behind n_victims is undefined */
    size_t max_victims;             /**< its length, at least the number of all components in the snapshot */
    size_t n_victims;               /**< what leaves, in this order; empty but for EVICT and FORCED */
    enum unstick_verdict verdict;   /**< what becomes of the demand */
    enum unstick_wait wait;         /**< WAIT: what for */
    unsigned int actions;           /**< enum unstick_plan_action, or-ed; with REFUSED: worth a try */
    bool was_forced;                /**< allow_low_memory decided this: same as verdict FORCED */
    size_t entry;                   /**< the demanded entry; UNSTICK_NO_ENTRY: not there */
    size_t stale_entry;             /**< same key, other fingerprint: all of it is a victim; else
                                         UNSTICK_NO_ENTRY */
    enum unstick_basis basis;       /**< where required_bytes comes from; FILES for the components of a known entry */
    uint64_t required_bytes;        /**< weights and working memory, what is resident already included */
    uint64_t missing_bytes;         /**< weights that are not resident */
    uint64_t available_bytes;       /**< what this demand could have without waiting, what is resident already included;
                                         it fits if and only if this is >= required_bytes */
    uint64_t free_bytes;            /**< of which are there now, with nothing reclaimed and nothing evicted */
    uint64_t reclaim_bytes;         /**< how much `actions` must bring */
    uint64_t evict_bytes;           /**< the sum over victims */
    uint64_t evictable_bytes;       /**< what could be evicted */
    uint64_t leased_bytes;          /**< held by leases and loads of ours, not evictable now */
    uint64_t held_by_others_bytes;  /**< in use, and not ours, torch's or the context's: other processes, and
                                         what cannot be explained */
    uint64_t maybe_bytes;           /**< live in torch: a collection may free some of it; not in available_bytes */
    uint64_t short_bytes;           /**< FORCED, REFUSED: required less available */
    uint64_t move_ns;               /**< estimated time to copy out what has no backup and to bring in missing_bytes */
    uint64_t stall_ns;              /**< estimated time to bring the victims back, should they be asked for */
    size_t n_suggestions;           /**< length of suggestions in use */
    struct unstick_suggestion suggestions[UNSTICK_SUGGESTIONS_MAX]; /**< best first */
    char reason[448];               /**< why, in one line of English */
};

/**
 * Decides. The seed's three conditions come first: nothing leaves unless the key is not cached, AND what is available
 * without evicting is less than required, AND something is cached. @return UNSTICK_OK; UNSTICK_INVALID_ARGUMENT when a
 * size, a pointer or the driver's figures are missing, a figure is beyond UNSTICK_POLICY_BYTES_MAX, or max_victims is
 * too small; then only plan->reason is written.
 */
UNSTICK_EXPORT int unstick_decide(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                                  struct unstick_plan *plan);

/**
 * Notes in snapshot->rival that a plan is carried out; once per request, with the snapshot as the plan saw it. Nothing
 * is noted without a rival, or for a plan that touches nothing and brings nothing (WAIT, REFUSED). A hit that was seen
 * without a decision is noted with a plan of verdict HIT whose figures are 0, `entry` set.
 */
UNSTICK_EXPORT void unstick_rival_note(const struct unstick_snapshot *snapshot, const struct unstick_demand *demand,
                                       const struct unstick_plan *plan);

#ifdef __cplusplus
}
#endif

#endif
