/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Regions: the memory of one component of a model on one device. A region is a reserved range of device addresses,
 * backed granule by granule. Its addresses never change while it lives; where its bytes are does.
 *
 * Under every granule that is not resident lies the sentinel, memory filled with 0xFF that all regions share: a stray
 * kernel reads NaN (-1 as an integer) instead of losing the CUDA context, and a stray write is reported when a region
 * returns.
 */
#ifndef UNSTICK_REGION_H
#define UNSTICK_REGION_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/device.h>
#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

struct unstick_region;
struct unstick_lease;

/** Where a region's bytes are, as a whole. */
enum unstick_region_state {
    UNSTICK_REGION_EMPTY = 0,    /**< no contents: new, or discarded */
    UNSTICK_REGION_RESIDENT = 1, /**< all on the device */
    UNSTICK_REGION_EVICTED = 2,  /**< all in the store */
    UNSTICK_REGION_PARTIAL = 3,  /**< some on the device, some in the store; all contents are valid */
    UNSTICK_REGION_REVOKED = 4,  /**< contents and access are gone for good; the addresses stay */
    UNSTICK_REGION_POISONED = 5, /**< a granule is in an unknown state; release the region */
};

/** Options of a region; zero-initialize and set `size` to sizeof. */
struct unstick_region_options {
    size_t size;            /**< sizeof(struct unstick_region_options) */
    uint64_t reserve_bytes; /**< addresses to reserve, at least `bytes`, so that the region can grow; 0: `bytes` */
};

/** What a region holds. */
struct unstick_region_info {
    size_t size;             /**< sizeof(struct unstick_region_info), set by the caller */
    enum unstick_region_state state; /**< where the bytes are, as a whole */
    uint64_t address;        /**< first device address */
    uint64_t bytes;          /**< size */
    uint64_t reserve_bytes;  /**< size of the address range */
    uint64_t used_bytes;     /**< handed out by unstick_region_alloc() or laid out by a load */
    uint64_t granule_bytes;  /**< unit of residency; the last granule may be shorter */
    uint32_t n_granules;     /**< granules that cover `bytes` */
    uint32_t n_resident;     /**< granules on the device */
    uint32_t n_evicted;      /**< granules in the store only */
    uint32_t n_poisoned;     /**< granules in an unknown state */
    uint32_t n_bare;         /**< evicted granules without a sentinel: the driver refused to map it */
    uint32_t n_dead;         /**< granules that unstick_region_keep() gave up */
    uint64_t resident_bytes; /**< bytes on the device */
    uint64_t pinned_bytes;   /**< backup in registered host memory */
    uint64_t pageable_bytes; /**< backup in pageable host memory */
    uint64_t file_bytes;     /**< backup in the model's own files */
    uint64_t dead_bytes;     /**< what the dead granules took, and will not take again */
    uint32_t n_leases;       /**< leases that have not ended */
};

/** A range of bytes of a region. */
struct unstick_span {
    uint64_t offset; /**< the first byte */
    uint64_t bytes;  /**< the length */
};

/**
 * Reserves addresses for a region; it has no contents and takes no device memory until it is loaded or restored.
 * @param name for reports; copied. @param bytes > 0. @param ret_region written on success; release with
 * unstick_region_unref(). @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT, UNSTICK_OUT_OF_DEVICE_MEMORY (the sentinel),
 * UNSTICK_OUT_OF_HOST_MEMORY, or a failure of the driver.
 */
UNSTICK_EXPORT int unstick_region_new(struct unstick_device *dev, const char *name, uint64_t bytes,
                                      const struct unstick_region_options *options, struct unstick_region **ret_region,
                                      struct unstick_error *error);

/** One more reference: for every tensor that lies in the region, so that its addresses outlive it. Returns region. */
UNSTICK_EXPORT struct unstick_region *unstick_region_ref(struct unstick_region *region);

/**
 * Drops a reference; the last one releases the memory and then the addresses, when what was launched on the region has
 * passed: the streams of ended leases, or all work on the device if it was never leased. Blocks until then; while that
 * cannot be asked, as a stream is being captured, it is left to a later step. NULL is allowed; returns NULL.
 */
UNSTICK_EXPORT struct unstick_region *unstick_region_unref(struct unstick_region *region);

/**
 * Hands out the next `bytes` of the region, aligned to 512. The address is valid at once, the memory behind it when
 * the region is resident. @param ret_address a device address; for a host device a pointer of this process.
 * @return UNSTICK_OK, UNSTICK_OUT_OF_DEVICE_MEMORY if the region is full, UNSTICK_REVOKED.
 */
UNSTICK_EXPORT int unstick_region_alloc(struct unstick_region *region, uint64_t bytes, void **ret_address,
                                        struct unstick_error *error);

/** Reads what the region holds; no driver call. @return UNSTICK_OK or UNSTICK_INVALID_ARGUMENT. */
UNSTICK_EXPORT int unstick_region_info(struct unstick_region *region, struct unstick_region_info *info);

/**
 * Copies contents to host memory from wherever they are: the device, or the backup (also after the device was lost).
 * Blocks. @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT (beyond the region), UNSTICK_NO_CONTENTS, UNSTICK_BUSY (a task
 * holds the region), UNSTICK_DEVICE_LOST (the bytes were on the device only).
 */
UNSTICK_EXPORT int unstick_region_read(struct unstick_region *region, uint64_t offset, void *buffer, size_t bytes,
                                       struct unstick_error *error);

/**
 * Copies host memory into a resident region. Blocks. @return as unstick_region_read(), or UNSTICK_NOT_RESIDENT.
 */
UNSTICK_EXPORT int unstick_region_write(struct unstick_region *region, uint64_t offset, const void *buffer,
                                        size_t bytes, struct unstick_error *error);

/**
 * Says which bytes of the region anybody still refers to. Granules with none of them are dead: their memory and their
 * backup are given back now, they count neither as resident nor as missing, and do not come back before a discard. For
 * a host whose tensors die one by one, all of them in one call. Blocks until what was launched on the region passed.
 * @param spans in any order; they may overlap. @param ret_bytes device memory that went; may be NULL. @return
 * UNSTICK_OK; UNSTICK_INVALID_ARGUMENT (beyond the region); UNSTICK_BUSY while the region is leased, a task works on
 * it, or a stream is being captured (nothing has changed, try again later); or a failure of the driver: what it did
 * not let go of stays.
 */
UNSTICK_EXPORT int unstick_region_keep(struct unstick_region *region, const struct unstick_span *spans, size_t n_spans,
                                       uint64_t *ret_bytes, struct unstick_error *error);

/** Flags of unstick_lease_begin(). */
enum unstick_lease_flags {
    UNSTICK_LEASE_CANCEL_EVICTION = 1u << 0, /**< an eviction that is under way is cancelled instead of awaited */
};

/**
 * Takes a resident region into use: while the lease lives no task moves it. @return UNSTICK_OK; UNSTICK_BUSY while a
 * task holds the region (wait for the task and try again; with UNSTICK_LEASE_CANCEL_EVICTION its eviction is told to
 * stop); UNSTICK_NOT_RESIDENT (restore it first); UNSTICK_REVOKED.
 */
UNSTICK_EXPORT int unstick_lease_begin(struct unstick_region *region, unsigned int flags,
                                       struct unstick_lease **ret_lease, struct unstick_error *error);

/** Names a stream (CUstream or cudaStream_t; NULL is the default stream) that the region is used on; any number. */
UNSTICK_EXPORT int unstick_lease_use_stream(struct unstick_lease *lease, void *stream, struct unstick_error *error);

/**
 * Ends the use: records an event on every stream that was named, which an eviction waits for, and frees the lease.
 * NULL is allowed. @return UNSTICK_OK; UNSTICK_BUSY if a stream is being captured (the lease lives on).
 */
UNSTICK_EXPORT int unstick_lease_end(struct unstick_lease *lease, struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
