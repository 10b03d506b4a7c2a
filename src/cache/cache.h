/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_CACHE_CACHE_H
#define USK_CACHE_CACHE_H

#include <pthread.h>
#include <stdbool.h>

#include <unstick/cache.h>
#include <unstick/monitor.h>

#include "base/error.h"

/*
 * What is marked lock is guarded by the cache's lock. It may be held over short calls that take the context's lock
 * (reading what a region holds, beginning a lease, canceling a task), never over a driver call or a step, and the
 * context's lock is never held while it is taken.
 */

/* usk_component.future_bytes: nothing is under way. */
#define USK_NO_FUTURE UINT64_MAX

/* A task of the cache's own, behind everybody's back. */
enum usk_chore {
    USK_CHORE_NONE,
    USK_CHORE_EVICT,  /* was idle for too long */
    USK_CHORE_BACKUP, /* was handed over without one */
};

struct usk_component {
    char *name;
    struct unstick_layout *layout; /* a copy in one piece; NULL: only the host can load it */
    bool is_owned;                 /* the region was made here */
    bool can_reload;
    uint64_t bytes;                /* on the device, when all of it is there */
    struct unstick_region *region; /* lock; NULL: not made yet, or given up */
    uint32_t n_leases;             /* lock */
    struct unstick_request *adder; /* lock: a load that is not over yet: if it fails, this goes with it */
    struct unstick_request *mover; /* lock: moves it now */
    uint64_t future_bytes;         /* lock: what will be resident when what is under way has ended */
    enum usk_chore chore;          /* lock */
    struct unstick_task *task;     /* lock: the chore's; NULL while it is being submitted */
    bool has_no_backup;            /* lock: handed over, a backup is due */
    bool was_offered;              /* came with a demand, not from a load of the host */
    struct usk_component *next_gone; /* taken out, to be freed without the lock */
    uint64_t lru_bytes;            /* lock: what would be resident if LRU had chosen the victims; unstick_rival */
    uint64_t last_used_ns;         /* lock, as all that follow */
    uint64_t load_ns, restore_ns, evict_ns;
};

struct usk_entry {
    char *key;
    char fingerprint[UNSTICK_FINGERPRINT_MAX]; /* lock */
    struct usk_component **components;         /* lock */
    size_t n_components;
    struct unstick_request *loader; /* lock: the one that brings it */
    uint64_t claim_bytes;           /* lock: what the loader takes beside its components */
    unsigned int n_users;           /* lock: requests, leases and chores that refer to it */
    uint32_t n_leases;              /* lock */
    bool is_pinned, has_failed;     /* lock */
    bool is_idle_over;              /* lock: it was told to leave since its last use */
    uint64_t idle_ms, last_used_ns; /* lock */
    uint64_t load_ns, restore_ns, evict_ns, n_hits, n_loads, n_restores, n_evictions; /* lock */
    struct unstick_reuse reuse;     /* lock */
};

struct unstick_cache {
    struct unstick_device *dev;
    struct unstick_context *ctx;
    struct unstick_cache_options options;
    uint64_t granularity_bytes, granule_bytes;
    bool can_register_file; /* else loads leave their backup in host memory */
    pthread_mutex_t lock;
    struct usk_entry **entries;  /* lock: in order of their first request */
    size_t n_entries;
    unsigned int n_ending;       /* lock: taken out of entries, and not freed yet */
    struct unstick_request *requests;   /* lock: all that were not freed */
    struct unstick_cache_lease *leases; /* lock */
    struct unstick_monitor *monitor;    /* who took it */
    bool is_monitor_taken;       /* lock */
    uint64_t generation;         /* lock: counts what a waiting request should look at again */
    uint64_t next_ticket;        /* lock */
    uint64_t turn;               /* lock */
    struct usk_entry *last_entry; /* lock: of the last request */
    struct unstick_rival rival;  /* lock: its figures stand at the components */
    uint64_t rates[4];           /* lock: bytes/s, measured; see unstick_snapshot.rates */
    struct unstick_cache_event *events; /* lock: a ring */
    uint64_t n_events;           /* lock */
    struct unstick_metrics_counts counts;                /* lock */
    struct unstick_histogram timings[UNSTICK_N_TIMINGS]; /* lock */
};

static inline void usk_cache_lock(struct unstick_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
}

static inline void usk_cache_unlock(struct unstick_cache *cache)
{
    pthread_mutex_unlock(&cache->lock);
}

/* [lock] Something changed that a waiting request should look at. Wakes the context's descriptor. */
void usk_cache_touch(struct unstick_cache *cache);
/* [lock] What is taken out now holds memory until usk_cache_end(), which frees nothing but tells who waits for it. */
void usk_cache_begin_end(struct unstick_cache *cache);
void usk_cache_end(struct unstick_cache *cache);
/* [lock] Tells the device what it is to keep for those who have nothing of their own to wait for. */
void usk_cache_publish_claims(struct unstick_cache *cache);
/* Chores and orphans, without a step of the context. */
void usk_cache_tend(struct unstick_cache *cache, uint64_t now_ns);

/* --- entry.c --- */

/* [lock] NULL: there is none. */
struct usk_entry *usk_entry_find(struct unstick_cache *cache, const char *key);
/* [lock] Finds or makes; NULL: no host memory. */
struct usk_entry *usk_entry_get(struct unstick_cache *cache, const char *key);
void usk_entry_free(struct usk_entry *entry);
/* [lock] */
struct usk_component *usk_entry_component(struct usk_entry *entry, const char *name);
/* Checks what was given and copies it, with a reference of the region. */
int usk_component_new(struct unstick_cache *cache, const struct unstick_cache_component *given,
                      struct usk_component **ret_component, struct unstick_error *error);
/* Not under the lock: may end a region. */
void usk_component_free(struct usk_component *component);
/* [lock] The entry takes it; false: no host memory. */
bool usk_entry_add(struct usk_entry *entry, struct usk_component *component);
/* [lock] Takes one out; the caller frees it. */
void usk_entry_remove(struct usk_entry *entry, struct usk_component *component);
/* [lock] What the region holds; zeros without one. */
struct unstick_region_info usk_component_info(const struct usk_component *component);
/* [lock] All of it is on the device, and nothing takes it away. */
bool usk_component_is_there(const struct usk_component *component);
/* [lock] What is resident once what is under way has ended. */
uint64_t usk_component_future(const struct usk_component *component, uint64_t resident_bytes);

/* --- event.c: [lock] all --- */

struct unstick_cache_event *usk_event_add(struct unstick_cache *cache, enum unstick_cache_event_kind kind,
                                          const struct usk_entry *entry, const struct usk_component *component,
                                          uint64_t now_ns);
void usk_event_fail(struct unstick_cache *cache, const struct usk_entry *entry, const struct usk_component *component,
                    int status, uint64_t now_ns);
/* Notes a task that ended well: event, counts, costs of its component, and the speed of its tier. */
void usk_event_task(struct unstick_cache *cache, enum unstick_cache_event_kind kind, struct usk_entry *entry,
                    struct usk_component *component, const struct unstick_task_result *result, uint64_t now_ns);

/* --- lease.c --- */

/*
 * [lock] Begins a lease on components (an array of `n`), all or none. UNSTICK_BUSY or UNSTICK_NOT_RESIDENT: they are
 * not all there.
 */
int usk_cache_lease_begin(struct unstick_cache *cache, struct usk_entry *entry, struct usk_component *const *components,
                          size_t n, uint64_t holder, uint64_t now_ns, struct unstick_cache_lease **ret_lease,
                          struct unstick_error *error);
/* [lock] */
bool usk_cache_is_holding(struct unstick_cache *cache, uint64_t holder, const struct unstick_request *except);
uint64_t usk_holder_of_thread(void);

#endif
