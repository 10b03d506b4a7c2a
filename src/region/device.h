/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_REGION_DEVICE_H
#define USK_REGION_DEVICE_H

#include <stdatomic.h>
#include <stdbool.h>

#include <unstick/device.h>

#include "device/device.h"
#include "region/context.h"

/* What a physical granule is counted as. The sum of all accounts is what is held on the device. */
enum usk_account {
    USK_ACCOUNT_RESIDENT,
    USK_ACCOUNT_SENTINEL,
    USK_ACCOUNT_SPARE,
    USK_ACCOUNT_POISONED,
    USK_N_ACCOUNTS,
};

/* Physical memory. Slots of regions refer to it; it is counted in one account, however many refer to it. */
struct usk_physical {
    unsigned int n_refs;
    uint64_t handle;
    uint64_t bytes;
    enum usk_account account;
    struct usk_physical *next; /* in the spare list */
};

/* The memory under evicted ranges, filled with 0xFF. */
struct usk_sentinel {
    struct usk_physical *physical;
    uint64_t address; /* a mapping of its own, to fill and hash it */
    uint64_t hash;    /* of the untouched contents */
};

#define USK_SENTINEL_BYTE 0xff
/* What a sentinel takes at most, where a granule can be halved to it. */
#define USK_SENTINEL_BYTES (UINT64_C(64) << 20)

/*
 * A device in use: the driver's device, what is held on it, and what all its regions share. Two sentinels serve every
 * size: one that is repeated under a granule, and one of the driver's granularity, repeated under a shorter last one.
 */
struct unstick_device {
    struct unstick_context *ctx;
    struct usk_device *driver;
    struct usk_store *store;
    uint64_t limit_bytes;
    uint64_t granule_bytes;
    atomic_uint_least64_t accounts[USK_N_ACCOUNTS];
    struct usk_physical *spares;    /* baton */
    struct usk_sentinel sentinel;   /* a granule is covered by it, once or several times */
    struct usk_sentinel sliver;     /* of the granularity; unused if a granule is no longer than that */
    uint64_t *hash_slots;           /* baton: a bit per slot that is taken */
    uint64_t n_stray_writes;        /* baton: found so far */
    /* Promised to somebody: an arrival that can wait for what it evicts does not take it. */
    atomic_uint_least64_t claimed_bytes;
    atomic_bool is_lost;
    struct unstick_region *regions; /* lock */
    struct unstick_region *dead;    /* lock: without references, to be ended by a holder of the baton */
    struct unstick_device *next;    /* lock */
};

/* Takes an open driver's device into use, as unstick_device_open() does; it is closed on failure. For tests. */
int usk_device_adopt(struct unstick_context *ctx, struct usk_device *driver,
                     const struct unstick_device_options *options, struct unstick_device **ret_dev,
                     struct unstick_error *error);

/* What we hold on the device. */
uint64_t usk_device_held_bytes(struct unstick_device *dev);
/* What we may still take, as far as our own limit and the driver know. */
uint64_t usk_device_room_bytes(struct unstick_device *dev);

/* --- settle.c [baton] [blocks] --- */

/* Waits for everything submitted to our lanes. False: the driver does not say, and the device is given up as lost. */
bool usk_device_settle(struct unstick_device *dev);

/* --- physical.c [baton] --- */

/* Physical memory for contents: a spare one, else a new one. UNSTICK_OUT_OF_DEVICE_MEMORY at the limit too. */
int usk_physical_acquire(struct unstick_device *dev, uint64_t bytes, struct usk_physical **ret_physical,
                         struct unstick_error *error);
/* There is more, spares included, than what somebody was promised. */
bool usk_physical_is_at_hand(struct unstick_device *dev, uint64_t bytes);
/* A new one, counted in `account`. */
int usk_physical_new(struct unstick_device *dev, uint64_t bytes, enum usk_account account,
                     struct usk_physical **ret_physical, struct unstick_error *error);
struct usk_physical *usk_physical_ref(struct usk_physical *physical);
/* Drops a reference. The last one gives the memory back, or makes it a spare if to_spare and it has a granule's size;
 * memory that the driver does not take back is poisoned, and the status says so. */
int usk_physical_unref(struct unstick_device *dev, struct usk_physical *physical, bool to_spare,
                       struct unstick_error *error);
/* Counts it as lost: it may still be mapped, nobody knows. */
void usk_physical_poison(struct unstick_device *dev, struct usk_physical *physical);
/* Gives up to n spares back. True if some are left. */
bool usk_physical_drain(struct unstick_device *dev, unsigned int n);

/* --- sentinel.c [baton] --- */

/* Makes, fills and hashes both; waits for the device. */
int usk_sentinel_open(struct unstick_device *dev, struct unstick_error *error);
void usk_sentinel_close(struct unstick_device *dev);
/* Maps sentinels over a range with nothing mapped; all or nothing. UNSTICK_BUSY: try again. */
int usk_sentinel_map(struct unstick_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error);
/* Submits hashes of both to the hash lane, into two neighbouring slots. */
int usk_sentinel_hash(struct unstick_device *dev, uint32_t slot, struct unstick_error *error);
/* Once those are there: how many were written, and fills them anew (submitted to the hash lane). */
int usk_sentinel_check(struct unstick_device *dev, uint32_t slot, unsigned int *ret_n_written,
                       struct unstick_error *error);

/* --- slots.c [baton] --- */

/* Takes n neighbouring hash slots (n <= 64); false if there are none now. */
bool usk_slots_take(struct unstick_device *dev, uint32_t n, uint32_t *ret_slot);
void usk_slots_give(struct unstick_device *dev, uint32_t slot, uint32_t n);

#endif
