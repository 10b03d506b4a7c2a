/* SPDX-License-Identifier: Apache-2.0 */
/**
 * The cache: models under their keys on one device, and the way of a request from "I need this model now" to a lease.
 *
 *     decide -> reclaim -> evict -> load or restore -> lease -> back up, behind the lease
 *
 * A request is an object that the host drives. It never blocks, never sleeps and never calls the host: what the host
 * has to do (load a model with its own libraries, empty torch's cache, poll a descriptor) comes back as an action.
 *
 *     unstick_cache_request(cache, key, &demand, &request, &error);
 *     while (unstick_request_next(request, &report, 0, &action) == UNSTICK_PENDING)
 *         ... perform action, fill report ...
 *     lease = unstick_request_take_lease(request);
 *     unstick_request_free(request);
 *
 * An entry is a model under one key: components, each of them a region, which the cache made (from a layout) or the
 * host handed over. Nothing of an entry in use moves: a lease names the components it uses, and only those.
 *
 * Who waits for memory waits in order of arrival, for as long as it takes unless the demand says otherwise. Who holds
 * a lease of the same cache never waits for memory: two that did could wait for each other.
 *
 * Threads: a cache may be used from any thread. A request belongs to one thread at a time (cancel: any); so does a
 * lease. No lock is held over a driver call or a step. Fork: in a forked child every call returns UNSTICK_FORKED.
 */
#ifndef UNSTICK_CACHE_H
#define UNSTICK_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/device.h>
#include <unstick/export.h>
#include <unstick/key.h>
#include <unstick/metrics.h>
#include <unstick/policy.h>
#include <unstick/reading.h>
#include <unstick/reclaim.h>
#include <unstick/region.h>
#include <unstick/status.h>
#include <unstick/task.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_cache;
struct unstick_request;
struct unstick_cache_lease;

/** An idle time: what is idle stays on the device until something else needs the room. */
#define UNSTICK_IDLE_NEVER UINT64_MAX
/** unstick_cache_demand.max_wait_ms: never wait for memory. */
#define UNSTICK_CACHE_NO_WAIT UINT64_MAX

/** Switches of unstick_cache_options.flags. */
enum unstick_cache_flags {
    UNSTICK_CACHE_HAS_FIGURES = 1u << 0, /**< the host knows more of the device (torch): UNSTICK_DO_MEASURE asks it */
    UNSTICK_CACHE_NO_BACKUP = 1u << 1,   /**< regions handed over are not backed up in the background */
};

/** Options of a cache; zero-initialize and set `size` to sizeof. NULL means the defaults. */
struct unstick_cache_options {
    size_t size;                     /**< sizeof(struct unstick_cache_options) */
    unsigned int flags;              /**< enum unstick_cache_flags, or-ed */
    enum unstick_policy_kind policy; /**< how victims are chosen */
    enum unstick_tier tier;          /**< where backups go */
    bool has_idle;                   /**< idle_ms counts; else UNSTICK_IDLE_NEVER */
    uint64_t idle_ms;                /**< entries leave so long after their last use; 0: at once */
    enum unstick_reclaim_strategy strategy; /**< how memory is reclaimed that is no entry's */
    unsigned int cannot;             /**< UNSTICK_ACTION_BIT of actions that the host cannot perform */
    unsigned int reclaim_flags;      /**< enum unstick_reclaim_flags, or-ed */
    uint32_t chunk_ms;               /**< longest single wait that is asked for; 0: 500 */
};

/**
 * Makes a cache over a device. @param options may be NULL. @param ret_cache written on success; release with
 * unstick_cache_close(), before the device. @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT or
 * UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_cache_open(struct unstick_device *dev, const struct unstick_cache_options *options,
                                      struct unstick_cache **ret_cache, struct unstick_error *error);

/**
 * Drops every entry and frees the cache; ends what was canceled, and blocks for it. NULL is allowed.
 * @return UNSTICK_OK, or UNSTICK_BUSY (nothing changed) while a request or a lease is left.
 */
UNSTICK_EXPORT int unstick_cache_close(struct unstick_cache *cache, struct unstick_error *error);

/**
 * Does what is due without a request: entries that have been idle long enough leave, backups end. Never blocks. Every
 * unstick_request_next() does the same. @param now_ns a monotonic clock; 0: the library's own. @return UNSTICK_OK if
 * nothing is under way, UNSTICK_PENDING if something is, UNSTICK_FORKED.
 */
UNSTICK_EXPORT int unstick_cache_step(struct unstick_cache *cache, uint64_t now_ns);

/** Milliseconds after which unstick_cache_step() is due even if the context's fd stays silent; -1: no need. */
UNSTICK_EXPORT int unstick_cache_timeout_ms(struct unstick_cache *cache, uint64_t now_ns);

/* --- requests --- */

/** One component as it is given to the cache; zero-initialize and set `size` to sizeof. Copied, the layout too. */
struct unstick_cache_component {
    size_t size;                         /**< sizeof(struct unstick_cache_component) */
    const char *name;                    /**< "transformer", "text_encoder_2", ...; once per entry */
    struct unstick_region *region;       /**< handed over: the cache takes a reference of its own; NULL: it makes one */
    const struct unstick_layout *layout; /**< how the cache loads it; NULL with a region: only the host can */
    bool can_reload;                     /**< the host can load it again (UNSTICK_DO_LOAD): its contents may be given up
                                              when host memory runs short; with a layout always */
};

/** Switches of unstick_cache_demand.flags. */
enum unstick_cache_demand_flags {
    UNSTICK_DEMAND_PRELOAD = 1u << 0,  /**< no lease at the end: it is only to be there */
    UNSTICK_DEMAND_PREFETCH = 1u << 1, /**< the same, and only if nothing has to leave and nothing to be waited for;
                                            else it ends with UNSTICK_OK and verdict REFUSED, with nothing touched */
    UNSTICK_DEMAND_VERIFY = 1u << 2,   /**< hash what arrives and compare it with its backup */
    UNSTICK_DEMAND_SEED = 1u << 3,     /**< reclaims and waits as UNSTICK_RECLAIM_SEED, whatever the cache's strategy */
};

/** What is asked for; zero-initialize and set `size` to sizeof. Copied; nothing is kept by address. */
struct unstick_cache_demand {
    size_t size;                   /**< sizeof(struct unstick_cache_demand) */
    unsigned int flags;            /**< enum unstick_cache_demand_flags, or-ed */
    const char *fingerprint;       /**< of the load settings; NULL or "": none. Changed settings make the entry stale:
                                        it is dropped and loaded anew */
    enum unstick_quantization quantization; /**< the key's, for suggestions */
    const char *const *components; /**< names of what is wanted now; others of the same entry may go */
    size_t n_components;           /**< length of components; 0: all */
    const struct unstick_cache_component *layouts; /**< components that the cache can load by itself */
    size_t n_layouts;              /**< length of layouts */
    uint64_t required_bytes;       /**< weights on the device, where neither entry nor layouts say it; 0: guessed */
    enum unstick_basis basis;      /**< where required_bytes comes from */
    uint64_t working_bytes;        /**< activations, VAE decode, ...: to be free beside the weights */
    uint64_t limit_bytes;          /**< room is made as if the device's limit were this one; 0, or more: the device's */
    uint64_t host_limit_bytes;     /**< what leaves for it is backed up as if the budget were this one; 0, or more: the
                                        context's */
    bool allow_low_memory;         /**< try even if memory is short; counts by its value */
    uint64_t max_wait_ms;          /**< longest wait for memory; 0: no limit; UNSTICK_CACHE_NO_WAIT: none */
    uint64_t holder;               /**< who asks, where that is not the calling thread (coroutines); 0: the thread */
    const struct unstick_alternative *alternatives; /**< other quantizations, for suggestions */
    size_t n_alternatives;         /**< length of alternatives */
};

/** What the host has to do next. */
enum unstick_request_action_kind {
    UNSTICK_DO_NOTHING = 0, /**< it is over: unstick_request_next() did not return UNSTICK_PENDING */
    UNSTICK_DO_WAIT,        /**< let timeout_ms pass, or less if fd becomes readable; then come again */
    UNSTICK_DO_MEASURE,     /**< put what only the host knows into report.figures (UNSTICK_CACHE_HAS_FIGURES) */
    UNSTICK_DO_RECLAIM,     /**< perform action.reclaim; report.status says how it went */
    UNSTICK_DO_LOAD,        /**< load the components and register them with unstick_request_add(); then come again */
};

/** What to do next; the caller sets size. */
struct unstick_request_action {
    size_t size;                           /**< sizeof(struct unstick_request_action), set by the caller */
    enum unstick_request_action_kind kind; /**< what */
    int fd;                                /**< WAIT: the context's descriptor, or -1: time only has to pass */
    int timeout_ms;                        /**< WAIT: at most so long */
    struct unstick_reclaim_action reclaim; /**< RECLAIM */
    const char *const *components;         /**< LOAD: names of what is missing; the request's; NULL: all of the model */
    size_t n_components;                   /**< LOAD: length of components */
    uint64_t bytes;                        /**< LOAD: room that was made for it */
};

/** What came of an action; zero-initialize and set `size` to sizeof. NULL: it was done. */
struct unstick_request_report {
    size_t size;                           /**< sizeof(struct unstick_request_report) */
    int status;                            /**< of the action; < 0 after LOAD: the load failed, nothing of it stays;
                                                UNSTICK_UNSUPPORTED after RECLAIM: not performed */
    const struct unstick_error *error;     /**< LOAD: why it failed; may be NULL */
    const struct unstick_reading *figures; /**< MEASURE: torch_ figures and context_bytes, with their bits in sources */
    uint64_t n_collected;                  /**< RECLAIM: objects that a collection found */
    unsigned int pending;                  /**< enum unstick_reclaim_cause: what may still give memory back */
};

/** What became of a request. */
enum unstick_request_outcome {
    UNSTICK_OUTCOME_HIT = 0, /**< everything was on the device */
    UNSTICK_OUTCOME_RESTORE, /**< something came back from the store */
    UNSTICK_OUTCOME_LOAD,    /**< something was loaded */
};

/** What left for a request, per entry. */
struct unstick_request_eviction {
    const char *key;       /**< of the entry; the request's */
    uint64_t bytes;        /**< what left the device */
    uint64_t copied_bytes; /**< what had to be copied first: it had changed, or had no backup */
    uint64_t ns;           /**< from the first start to the last end */
};

/** How a request went so far; the caller sets size. */
struct unstick_request_result {
    size_t size;                  /**< sizeof(struct unstick_request_result), set by the caller */
    int status;                   /**< UNSTICK_PENDING until it ends */
    struct unstick_error error;   /**< why it failed */
    enum unstick_verdict verdict; /**< what was decided last; FORCED: by allow_low_memory */
    enum unstick_request_outcome outcome; /**< what became of it */
    uint64_t total_bytes;         /**< to be moved to the device by the cache */
    uint64_t bytes;               /**< of which were moved so far */
    uint64_t load_ns;             /**< loading, by the cache or by the host */
    uint64_t restore_ns;          /**< from the first restore's start to the last one's end */
    uint64_t evict_ns;            /**< likewise */
    uint64_t reclaim_ns;          /**< reclaiming, its waits included */
    uint64_t wait_ns;             /**< waiting for memory, or for another loader of the key */
    uint64_t total_ns;            /**< from the first call to the end */
    uint64_t required_bytes;      /**< what was asked for, working memory included */
    uint64_t available_bytes;     /**< what could be had at the last decision */
    uint64_t held_by_us_bytes;    /**< of the rest: in use by leases and loads of this cache */
    uint64_t held_by_others_bytes; /**< of the rest: not this process's, or unexplained */
    const struct unstick_request_eviction *evictions; /**< in order; the request's */
    size_t n_evictions;           /**< length of evictions */
    const struct unstick_reclaim_step *steps; /**< what was tried to reclaim and what each step gave; the request's */
    size_t n_steps;               /**< length of steps */
    const struct unstick_suggestion *suggestions; /**< what else could be done; the request's */
    size_t n_suggestions;         /**< length of suggestions */
    const char *reason;           /**< why the last decision was made, in one line; the request's */
    const char *text;             /**< a failure in full: asked, there, held by whom, tried, to do; else "" */
};

/**
 * Asks for a model. @param key `{model_id}_{quantization}`. @param demand may be NULL: all of it, whatever it takes.
 * @param ret_request written on success; drive it with unstick_request_next() and unstick_request_free() it.
 * @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT or UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_cache_request(struct unstick_cache *cache, const char *key,
                                         const struct unstick_cache_demand *demand,
                                         struct unstick_request **ret_request, struct unstick_error *error);

/**
 * Has an entry leave the device; its contents stay. A request like any other, without a lease at its end. It waits for
 * leases, unless its caller holds one. @return UNSTICK_OK, UNSTICK_NOT_FOUND, or as unstick_cache_request().
 */
UNSTICK_EXPORT int unstick_cache_evict(struct unstick_cache *cache, const char *key,
                                       struct unstick_request **ret_request, struct unstick_error *error);

/**
 * Says how the action before went and gets the next; also steps the context. Never blocks. @param report may be NULL.
 * @param now_ns a monotonic clock; 0: the library's own. @return UNSTICK_PENDING: perform ret_action. UNSTICK_OK: it is
 * over, and there is a lease to take unless none was asked for. A failure: it is over, nothing that it took is left;
 * unstick_request_result() says more. Later calls return the same.
 */
UNSTICK_EXPORT int unstick_request_next(struct unstick_request *request, const struct unstick_request_report *report,
                                        uint64_t now_ns, struct unstick_request_action *ret_action);

/** Like unstick_request_next(), but performs UNSTICK_DO_WAIT itself: blocks. */
UNSTICK_EXPORT int unstick_request_wait(struct unstick_request *request, const struct unstick_request_report *report,
                                        struct unstick_request_action *ret_action);

/**
 * Registers a component, between UNSTICK_DO_LOAD and the next call of unstick_request_next(). @return UNSTICK_OK;
 * UNSTICK_INVALID_ARGUMENT (no load is asked for, the name is taken, neither region nor layout, a region of another
 * device); UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_request_add(struct unstick_request *request,
                                       const struct unstick_cache_component *component, struct unstick_error *error);

/** Asks a request to end early, with UNSTICK_CANCELED, or with UNSTICK_OK if that came first. Any thread. */
UNSTICK_EXPORT void unstick_request_cancel(struct unstick_request *request);

/** Reads how far a request is, or how it ended. @return its status, or UNSTICK_INVALID_ARGUMENT. */
UNSTICK_EXPORT int unstick_request_result(struct unstick_request *request, struct unstick_request_result *result);

/** Takes the lease of a request that ended well; end it with unstick_cache_lease_end(). NULL if there is none. */
UNSTICK_EXPORT struct unstick_cache_lease *unstick_request_take_lease(struct unstick_request *request);

/**
 * Frees a request. One that has not ended is canceled and brought to its end by whoever steps the cache next; a lease
 * that was not taken ends. NULL is allowed; returns NULL.
 */
UNSTICK_EXPORT struct unstick_request *unstick_request_free(struct unstick_request *request);

/* --- leases --- */

/** Names a stream that the leased components are used on; see unstick_lease_use_stream(). */
UNSTICK_EXPORT int unstick_cache_lease_use_stream(struct unstick_cache_lease *lease, void *stream,
                                                  struct unstick_error *error);

/** The region of a leased component; the lease keeps it. NULL if the lease has none of that name. */
UNSTICK_EXPORT struct unstick_region *unstick_cache_lease_region(struct unstick_cache_lease *lease, const char *name);

/**
 * Ends the use and frees the lease. NULL is allowed. @return UNSTICK_OK; UNSTICK_BUSY if a stream is being captured
 * (the lease lives on).
 */
UNSTICK_EXPORT int unstick_cache_lease_end(struct unstick_cache_lease *lease, struct unstick_error *error);

/* --- entries --- */

/** What an entry is. */
enum unstick_entry_state {
    UNSTICK_ENTRY_ABSENT = 0, /**< nothing of it is there */
    UNSTICK_ENTRY_LOADING,    /**< a request brings it */
    UNSTICK_ENTRY_RESIDENT,   /**< all on the device */
    UNSTICK_ENTRY_PARTIAL,    /**< some on the device, the rest in the store */
    UNSTICK_ENTRY_EVICTED,    /**< nothing on the device, all in the store */
    UNSTICK_ENTRY_FAILED,     /**< the last load failed; nothing of it is there */
};

/** "absent", "loading", ..., "failed"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_entry_state_name(enum unstick_entry_state state);

/** One entry. */
struct unstick_cache_entry_info {
    char key[UNSTICK_KEY_MAX];                 /**< its key, cut if longer */
    char fingerprint[UNSTICK_FINGERPRINT_MAX]; /**< of its load settings, or empty */
    enum unstick_entry_state state;            /**< what it is */
    uint32_t n_leases;                         /**< leases that have not ended */
    uint32_t n_components;                     /**< components */
    bool is_pinned;                            /**< never a victim */
    uint64_t idle_ms;                          /**< its idle time */
    uint64_t bytes;                            /**< what all of it takes on the device */
    uint64_t resident_bytes;                   /**< on the device now */
    uint64_t pinned_bytes;                     /**< backup in registered host memory */
    uint64_t pageable_bytes;                   /**< backup in pageable host memory */
    uint64_t file_bytes;                       /**< backup in the model's own files */
    uint64_t last_used_ns;                     /**< last lease begun or ended */
    uint64_t n_hits, n_loads, n_restores, n_evictions; /**< so far */
    uint64_t load_ns, restore_ns, evict_ns;    /**< what the last one took; 0: there was none */
};

/** One component of an entry. */
struct unstick_cache_component_info {
    char name[64];            /**< its name, cut if longer */
    uint64_t bytes;           /**< what all of it takes on the device */
    uint64_t resident_bytes;  /**< on the device now */
    uint64_t pinned_bytes;    /**< backup in registered host memory */
    uint64_t pageable_bytes;  /**< backup in pageable host memory */
    uint64_t file_bytes;      /**< backup in the model's own files */
    uint32_t n_leases;        /**< leases that use it */
    uint64_t last_used_ns;    /**< last lease begun or ended */
    uint64_t load_ns, restore_ns, evict_ns; /**< what the last one took; 0: there was none */
};

/**
 * Lists the entries, in order of their first request. @param infos may be NULL if max is 0. @param ret_n how many there
 * are, also if that is more than max. @return UNSTICK_OK or UNSTICK_FORKED.
 */
UNSTICK_EXPORT int unstick_cache_entries(struct unstick_cache *cache, struct unstick_cache_entry_info *infos,
                                         size_t max, size_t *ret_n);

/** Lists the components of an entry, likewise. @return UNSTICK_OK, UNSTICK_NOT_FOUND or UNSTICK_FORKED. */
UNSTICK_EXPORT int unstick_cache_components(struct unstick_cache *cache, const char *key,
                                            struct unstick_cache_component_info *infos, size_t max, size_t *ret_n);

/** Makes an entry one that never leaves to make room, or one that may. @return UNSTICK_OK or UNSTICK_NOT_FOUND. */
UNSTICK_EXPORT int unstick_cache_pin(struct unstick_cache *cache, const char *key, bool is_pinned,
                                     struct unstick_error *error);

/** Sets how long an entry may be idle: 0: it leaves at once; UNSTICK_IDLE_NEVER. @return as unstick_cache_pin(). */
UNSTICK_EXPORT int unstick_cache_set_idle(struct unstick_cache *cache, const char *key, uint64_t idle_ms,
                                          struct unstick_error *error);

/**
 * Gives an entry one more component, which the host holds already: tensors that came to a model later. Who leases the
 * entry from now on leases it, too. @return UNSTICK_OK; UNSTICK_NOT_FOUND; UNSTICK_BUSY (a request brings the entry);
 * UNSTICK_INVALID_ARGUMENT (the name is taken, neither region nor layout, a region of another device);
 * UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_cache_add(struct unstick_cache *cache, const char *key,
                                     const struct unstick_cache_component *component, struct unstick_error *error);

/**
 * Takes a component out of an entry, and drops the cache's reference to its region: the host has let it go.
 * @return UNSTICK_OK, UNSTICK_NOT_FOUND, or UNSTICK_BUSY (a lease, a request or a task still has to do with it).
 */
UNSTICK_EXPORT int unstick_cache_remove(struct unstick_cache *cache, const char *key, const char *name,
                                        struct unstick_error *error);

/**
 * Forgets an entry: regions that the cache made end, of regions that were handed over it drops its reference.
 * @return UNSTICK_OK, UNSTICK_NOT_FOUND, or UNSTICK_BUSY (a lease, a request or a task still has to do with it).
 */
UNSTICK_EXPORT int unstick_cache_drop(struct unstick_cache *cache, const char *key, struct unstick_error *error);

/* --- for observers --- */

/** What happened. */
enum unstick_cache_event_kind {
    UNSTICK_EVENT_HIT = 0, /**< a request found everything there */
    UNSTICK_EVENT_LOAD,    /**< a component was loaded, or (no component) the host loaded */
    UNSTICK_EVENT_EVICT,   /**< a component left; bytes: of the device */
    UNSTICK_EVENT_DISCARD, /**< a component left and its contents were given up */
    UNSTICK_EVENT_RESTORE, /**< a component came back */
    UNSTICK_EVENT_BACKUP,  /**< a component was backed up behind its use */
    UNSTICK_EVENT_WAIT,    /**< a request waited; detail: for what */
    UNSTICK_EVENT_RECLAIM, /**< a step of reclaim; detail: which; bytes: what it gave */
    UNSTICK_EVENT_LEASE,   /**< a lease began */
    UNSTICK_EVENT_END,     /**< a lease ended */
    UNSTICK_EVENT_REFUSED, /**< a request was refused; bytes: what was short */
    UNSTICK_EVENT_FAILED,  /**< a request or a task of the cache's own failed; status: how */
    UNSTICK_EVENT_DROP,    /**< an entry was forgotten */
};

/** "hit", "load", ...; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_cache_event_name(enum unstick_cache_event_kind kind);

/** One thing that happened. */
struct unstick_cache_event {
    uint64_t sequence;                  /**< counted from 1 */
    uint64_t at_ns;                     /**< when, on the clock that the requests were given */
    enum unstick_cache_event_kind kind; /**< what */
    int status;                         /**< UNSTICK_OK, or how it failed */
    uint64_t bytes;                     /**< moved, freed, or short */
    uint64_t copied_bytes;              /**< EVICT: copied first */
    uint64_t ns;                        /**< how long it took */
    char key[UNSTICK_KEY_MAX];          /**< of the entry, cut if longer */
    char component[64];                 /**< of which component; empty: of the entry */
    char detail[32];                    /**< see the kinds */
};

/** How many events are kept; older ones are overwritten. */
#define UNSTICK_CACHE_EVENTS_MAX 256

/**
 * Reads what happened after event number `since` (0: everything that is kept), oldest first. A gap in `sequence` says
 * that events were overwritten. @param ret_n how many were written. @return UNSTICK_OK or UNSTICK_FORKED.
 */
UNSTICK_EXPORT int unstick_cache_events(struct unstick_cache *cache, uint64_t since,
                                        struct unstick_cache_event *events, size_t max, size_t *ret_n);

/** Sums since the cache was opened, in the form that metrics.h writes. @param timings UNSTICK_N_TIMINGS of them. */
UNSTICK_EXPORT int unstick_cache_counts(struct unstick_cache *cache, struct unstick_metrics_counts *counts,
                                        struct unstick_histogram *timings);

#ifdef __cplusplus
}
#endif

#endif
