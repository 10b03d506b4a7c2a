/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Reclaim: getting back device memory that this process holds but does not need, step by step, each step measured.
 *
 * A machine decides and the host acts: it asks for an action, performs it, says what came of it, asks for the next.
 * The machine never calls the host, never sleeps, reads no clock and takes no memory after unstick_reclaim_new(), so
 * it runs the same under a generator, asyncio, an event loop or a plain loop:
 *
 *     unstick_reclaim_new(&options, &machine, &error);
 *     while (unstick_reclaim_next(machine, reading, report, now_ns, &action) == UNSTICK_PENDING)
 *         ... perform action; after UNSTICK_ACTION_MEASURE take a reading ...
 *     unstick_reclaim_result(machine, &result);
 *
 * Two strategies. UNSTICK_RECLAIM_DEFAULT does only what attribution (reading.h) says can still yield, and waits only
 * while something is to come. UNSTICK_RECLAIM_SEED runs a fixed table in order: seven rounds, 300 ms apart; up to 5 s
 * of patience from the end of the last round; up to 7 s more if the cache is empty; then the last resort. Either stops
 * at the first measurement that shows the target met.
 *
 * Threads: one thread at a time per machine; unstick_reclaim_cancel() from any.
 */
#ifndef UNSTICK_RECLAIM_H
#define UNSTICK_RECLAIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/reading.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_reclaim;

/** Which steps are run. */
enum unstick_reclaim_strategy {
    UNSTICK_RECLAIM_DEFAULT = 0, /**< only what can still yield; no wait when nothing is to come */
    UNSTICK_RECLAIM_SEED = 1,    /**< the whole table, in order */
};

/** What the host is asked to do. */
enum unstick_action_kind {
    UNSTICK_ACTION_DONE = 0,         /**< nothing: it is over */
    UNSTICK_ACTION_MEASURE,          /**< take a reading and hand it to the next call */
    UNSTICK_ACTION_SLEEP,            /**< let action.sleep_ms pass, in whatever way does not block the host */
    UNSTICK_ACTION_EMPTY_CACHE,      /**< torch.cuda.empty_cache(); process-wide */
    UNSTICK_ACTION_COLLECT,          /**< gc.collect(), from a frame that holds nothing itself; process-wide */
    UNSTICK_ACTION_SYNCHRONIZE,      /**< torch.cuda.synchronize(); process-wide */
    UNSTICK_ACTION_IPC_COLLECT,      /**< torch.cuda.ipc_collect(); process-wide */
    UNSTICK_ACTION_RESET_STATS,      /**< reset the statistics named in action.stats; process-wide */
    UNSTICK_ACTION_CLEAR_WORKSPACES, /**< torch._C._cuda_clearCublasWorkspaces(); process-wide */
    UNSTICK_ACTION_DETACH_HOOKS,     /**< take hooks and device maps off what is being unloaded; not process-wide */
};

/** The bit of an action in unstick_reclaim_options.cannot. */
#define UNSTICK_ACTION_BIT(_kind) (1u << (unsigned int)(_kind))

/** What UNSTICK_ACTION_RESET_STATS resets; bits of unstick_reclaim_action.stats. */
enum unstick_reclaim_stats {
    UNSTICK_STATS_ACCUMULATED = 1u << 0, /**< reset_accumulated_memory_stats() */
    UNSTICK_STATS_PEAK = 1u << 1,        /**< reset_peak_memory_stats(); the reset_max_memory_* are its old names */
};

/** What may still give memory back without being asked; bits of unstick_reclaim_report.pending. */
enum unstick_reclaim_cause {
    UNSTICK_CAUSE_PROCESS = 1u << 0,    /**< another process is ending or unloading (also seen from readings) */
    UNSTICK_CAUSE_COLLECTION = 1u << 1, /**< a collection or a finalizer runs elsewhere in this process */
    UNSTICK_CAUSE_LEASE = 1u << 2,      /**< a lease on this device will end, and not by whoever waits here */
};

/** Which part of the run an action or step belongs to. */
enum unstick_reclaim_phase {
    UNSTICK_PHASE_START = 0,   /**< the first measurement */
    UNSTICK_PHASE_ROUND,       /**< a round */
    UNSTICK_PHASE_PATIENCE,    /**< the cache-level wait */
    UNSTICK_PHASE_SAFETY,      /**< the safety-level wait */
    UNSTICK_PHASE_LEASE,       /**< waiting for leases */
    UNSTICK_PHASE_LAST_RESORT, /**< the last resort */
    UNSTICK_PHASE_END,         /**< over */
};

/** Switches of unstick_reclaim_options.flags. */
enum unstick_reclaim_flags {
    UNSTICK_RECLAIM_RESET_STATS = 1u << 0,   /**< the last resort may reset statistics (peaks are lost) */
    UNSTICK_RECLAIM_HAS_IPC = 1u << 1,       /**< tensors were shared with other processes: ipc_collect() can yield */
    UNSTICK_RECLAIM_CAN_REVOKE = 1u << 2,    /**< there are regions that may be revoked: it may be suggested */
    UNSTICK_RECLAIM_CAN_HIBERNATE = 1u << 3, /**< the driver can checkpoint whole processes: it may be suggested */
};

/** For a time in unstick_reclaim_options: none at all (0 means the default). */
#define UNSTICK_RECLAIM_NO_WAIT UINT32_MAX

/** Options of a machine; zero-initialize, set `size` to sizeof, set target_bytes. */
struct unstick_reclaim_options {
    size_t size;                            /**< sizeof(struct unstick_reclaim_options) */
    uint64_t target_bytes;                  /**< so much is wanted available on the device; 0: as much as there is */
    enum unstick_reclaim_strategy strategy; /**< which steps */
    unsigned int flags;                     /**< enum unstick_reclaim_flags, or-ed */
    unsigned int cannot;                    /**< UNSTICK_ACTION_BIT of actions that the host cannot do: left out */
    uint32_t gap_ms;                        /**< between rounds (SEED); 0: 300 */
    uint32_t chunk_ms;                      /**< longest single sleep while waiting; 0: 500 */
    uint32_t patience_ms;                   /**< cache-level wait, from the end of the last round; 0: 5000 */
    uint32_t safety_ms;                     /**< safety-level wait after it, if the cache is empty; 0: 7000 */
    uint32_t lease_ms;                      /**< longest wait for leases (DEFAULT); 0: no limit */
    const char *what;                       /**< for whom, such as a cache key; for the text; copied; may be NULL */
};

/**
 * What the host says beside the reading; zero-initialize, set `size` to sizeof. NULL: the action was done, and what was
 * said last about leases, cache and causes still holds.
 */
struct unstick_reclaim_report {
    size_t size;           /**< sizeof(struct unstick_reclaim_report) */
    int status;            /**< of the action before; UNSTICK_UNSUPPORTED: not performed; another failure: recorded */
    uint64_t n_collected;  /**< UNSTICK_ACTION_COLLECT: objects found, where it is known */
    uint32_t n_leased;     /**< entries on this device that are leased now: no process-wide action meanwhile */
    bool is_cache_empty;   /**< nothing of the host's cache is left on the device */
    unsigned int pending;  /**< enum unstick_reclaim_cause, or-ed: what may still yield */
};

/** What to do next. */
struct unstick_reclaim_action {
    size_t size;                      /**< sizeof(struct unstick_reclaim_action), set by the caller */
    enum unstick_action_kind kind;    /**< what */
    uint32_t sleep_ms;                /**< UNSTICK_ACTION_SLEEP: how long; at most chunk_ms or gap_ms */
    unsigned int stats;               /**< UNSTICK_ACTION_RESET_STATS: enum unstick_reclaim_stats, or-ed */
    enum unstick_reclaim_phase phase; /**< which part of the run it belongs to */
    unsigned int round;               /**< 1 to 7 in UNSTICK_PHASE_ROUND; else 0 */
    const char *step;                 /**< the name of its step, such as "standard"; static */
};

/** One step that was taken, and what it gave. */
struct unstick_reclaim_step {
    const char *name;                 /**< "standard", "python-gc", ..., "patience", "empty_cache"; static */
    enum unstick_reclaim_phase phase; /**< which part of the run */
    unsigned int round;               /**< 1 to 7 in UNSTICK_PHASE_ROUND; else 0 */
    int64_t freed_bytes;              /**< what this process gave back; negative: it took */
    int64_t others_bytes;             /**< what other processes gave back meanwhile; negative: they took */
    uint64_t ms;                      /**< how long it took, without the gap after it */
    uint64_t n_collected;             /**< objects that its collections found, as far as the host said */
    unsigned int performed;           /**< UNSTICK_ACTION_BIT of actions that were done */
    unsigned int skipped;             /**< UNSTICK_ACTION_BIT of actions left out: leases, or not supported */
    int status;                       /**< of the first action that failed; UNSTICK_OK if none */
    bool is_attributed;               /**< false: no source tells own from others' changes: all counts as own */
};

/** Why it stopped. */
enum unstick_reclaim_stop {
    UNSTICK_STOP_NOT_YET = 0, /**< it has not */
    UNSTICK_STOP_MET,         /**< the target is met */
    UNSTICK_STOP_EXHAUSTED,   /**< everything was tried (SEED), or nothing more can yield (DEFAULT) */
    UNSTICK_STOP_LEASED,      /**< what is left to do must wait for leases */
    UNSTICK_STOP_CANCELED,    /**< unstick_reclaim_cancel() */
    UNSTICK_STOP_FAILED,      /**< no reading could be had */
};

/** What may be done past the table; bits of unstick_reclaim_result.suggestions. */
enum unstick_reclaim_suggestion {
    UNSTICK_SUGGEST_REVOKE = 1u << 0,          /**< revoke regions: memory goes back while references live on */
    UNSTICK_SUGGEST_HIBERNATE = 1u << 1,       /**< checkpoint the whole process through the driver */
    UNSTICK_SUGGEST_DROP_REFERENCES = 1u << 2, /**< somebody in this process still holds tensors: find out who */
    UNSTICK_SUGGEST_OTHER_PROCESS = 1u << 3,   /**< ask or end the other process that holds most */
    UNSTICK_SUGGEST_EXPANDABLE = 1u << 4,      /**< set expandable_segments:True: survivors pin torch's segments */
    UNSTICK_SUGGEST_END_LEASES = 1u << 5,      /**< end what is in use: process-wide steps were skipped for it */
    UNSTICK_SUGGEST_EVICT = 1u << 6,           /**< evict regions, or raise the limit: it is our own limit that binds */
};

/** How a run went. */
struct unstick_reclaim_result {
    size_t size;                              /**< sizeof(struct unstick_reclaim_result), set by the caller */
    bool is_met;                              /**< at the last measurement the target was met */
    enum unstick_reclaim_stop stop;           /**< why it stopped */
    int status;                               /**< UNSTICK_OK, UNSTICK_OUT_OF_DEVICE_MEMORY, UNSTICK_CANCELED, ... */
    uint64_t target_bytes;                    /**< what was asked for */
    uint64_t before_bytes;                    /**< available at the first measurement */
    uint64_t after_bytes;                     /**< available at the last */
    int64_t freed_bytes;                      /**< sum over the steps: what this process gave back */
    int64_t others_bytes;                     /**< sum over the steps: what others gave back, or took if negative */
    uint64_t waited_ms;                       /**< slept, gaps included */
    uint64_t ms;                              /**< from the first call to the last */
    const struct unstick_reclaim_step *steps; /**< in order; owned by the machine */
    size_t n_steps;                           /**< length of steps */
    unsigned int suggestions;                 /**< enum unstick_reclaim_suggestion, or-ed; 0 if met */
    char text[1536];                          /**< for the user: what was asked, was there, was tried and gave, to do */
};

/**
 * Makes a machine. @param options not NULL. @param ret_machine written on success; unstick_reclaim_free() it.
 * @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT or UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_reclaim_new(const struct unstick_reclaim_options *options,
                                       struct unstick_reclaim **ret_machine, struct unstick_error *error);

/** Frees a machine, at any time. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_reclaim *unstick_reclaim_free(struct unstick_reclaim *machine);

/**
 * Says how the action before went and gets the next; the first action is always UNSTICK_ACTION_MEASURE.
 * @param reading looked at only after UNSTICK_ACTION_MEASURE, and needed then, with UNSTICK_SOURCE_DRIVER; else may be
 * NULL. Nothing of it is kept by address. @param report may be NULL. @param now_ns a monotonic clock.
 * @return UNSTICK_PENDING (do ret_action), UNSTICK_OK (it is over; the action is UNSTICK_ACTION_DONE, now and on every
 * later call), or UNSTICK_INVALID_ARGUMENT (nothing changed).
 */
UNSTICK_EXPORT int unstick_reclaim_next(struct unstick_reclaim *machine, const struct unstick_reading *reading,
                                        const struct unstick_reclaim_report *report, uint64_t now_ns,
                                        struct unstick_reclaim_action *ret_action);

/** Ends the run at the next call of unstick_reclaim_next(): at most one chunk later. Any thread. NULL is allowed. */
UNSTICK_EXPORT void unstick_reclaim_cancel(struct unstick_reclaim *machine);

/** How the run went so far. @return UNSTICK_OK or UNSTICK_INVALID_ARGUMENT. */
UNSTICK_EXPORT int unstick_reclaim_result(const struct unstick_reclaim *machine, struct unstick_reclaim_result *result);

/** The name of an action, such as "empty_cache"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_action_name(enum unstick_action_kind kind);

#ifdef __cplusplus
}
#endif

#endif
