/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of calls. Memory (memory.c), lanes (lanes.c) and registrations (pins.c) each keep their own invariants and
 * know nothing of this file; here a call is checked against all of them before any of them is changed.
 *
 * Granularity: 64 KiB is the largest base page that Linux uses (arm64, powerpc), so a device behaves the same on every
 * machine, and it is small enough for tests with many granules of a model of a few MiB. Granule: 4 MiB is where the
 * fixed cost of a granule (fallocate, mmap, punch: some 10 us) is lost in the time of its copy (some 500 us).
 */
#include "device/host/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "device/host/lanes.h"
#include "device/host/memory.h"
#include "device/host/pins.h"

#define HOST_GRANULARITY_BYTES (UINT64_C(64) << 10)
#define HOST_GRANULE_BYTES (UINT64_C(4) << 20)
#define HOST_N_HASH_SLOTS 4096

struct host {
    struct usk_device dev;
    struct usk_host_memory memory;
    struct usk_host_lanes lanes;
    struct usk_host_pins pins;
    uint64_t results[HOST_N_HASH_SLOTS];
};

static struct host *host_from(struct usk_device *dev)
{
    return (struct host *)dev;
}

static void host_close(struct usk_device *dev)
{
    struct host *host = host_from(dev);

    usk_host_lanes_fini(&host->lanes);
    usk_host_pins_fini(&host->pins);
    usk_host_memory_fini(&host->memory);
    free(host);
}

static int host_memory_info(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                            struct unstick_error *error)
{
    struct host *host = host_from(dev);

    (void)error;
    *ret_free_bytes = host->memory.total_bytes - atomic_load(&host->memory.used_bytes);
    *ret_total_bytes = host->memory.total_bytes;
    return UNSTICK_OK;
}

static int host_reserve(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                        struct unstick_error *error)
{
    return usk_host_memory_reserve(&host_from(dev)->memory, bytes, align_bytes, ret_address, error);
}

static int host_unreserve(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    return usk_host_memory_unreserve(&host_from(dev)->memory, address, bytes, error);
}

static int host_create(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error)
{
    return usk_host_memory_create(&host_from(dev)->memory, bytes, ret_handle, error);
}

static int host_release(struct usk_device *dev, uint64_t handle, struct unstick_error *error)
{
    return usk_host_memory_release(&host_from(dev)->memory, handle, error);
}

static int host_map(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                    struct unstick_error *error)
{
    return usk_host_memory_map(&host_from(dev)->memory, address, bytes, handle, error);
}

static int host_map_repeated(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                             uint64_t piece_bytes, struct unstick_error *error)
{
    struct host *host = host_from(dev);

    if (!piece_bytes || bytes % piece_bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "map",
                             "%" PRIu64 " bytes are no multiple of a handle of %" PRIu64, bytes, piece_bytes);
    for (uint64_t offset = 0; offset < bytes; offset += piece_bytes) {
        int r = usk_host_memory_map(&host->memory, address + offset, piece_bytes, handle, error);

        if (r < 0) {
            if (offset)
                usk_host_memory_unmap(&host->memory, &host->lanes, &dev->log, address, offset, NULL);
            return r;
        }
    }
    return UNSTICK_OK;
}

static int host_unmap(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    struct host *host = host_from(dev);

    return usk_host_memory_unmap(&host->memory, &host->lanes, &dev->log, address, bytes, error);
}

static bool lane_is_valid(enum usk_lane lane)
{
    return (unsigned int)lane < USK_N_LANES;
}

static int lane_check(const char *operation, enum usk_lane lane, struct unstick_error *error)
{
    if (!lane_is_valid(lane))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, operation, "there is no lane %d", (int)lane);
    return UNSTICK_OK;
}

/* Both sides of a copy between host and device memory. */
static int host_check_copy(struct host *host, const char *operation, enum usk_lane lane, uint64_t address,
                           const void *memory, uint64_t bytes, struct unstick_error *error)
{
    int r;

    r = lane_check(operation, lane, error);
    if (r == UNSTICK_OK)
        r = usk_host_memory_check(&host->memory, operation, address, bytes, error);
    if (r == UNSTICK_OK)
        r = usk_host_pins_check(&host->pins, operation, memory, bytes, error);
    return r;
}

static int host_copy_up(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *memory,
                        uint64_t bytes, struct unstick_error *error)
{
    struct usk_host_work work = {
        .verb = USK_HOST_COPY, .to = (void *)(uintptr_t)address, .from = memory, .bytes = bytes, .is_to_device = true
    };
    struct host *host = host_from(dev);
    int r;

    r = host_check_copy(host, "copy_up", lane, address, memory, bytes, error);
    return r < 0 ? r : usk_host_lanes_submit(&host->lanes, lane, &work, error);
}

static int host_copy_down(struct usk_device *dev, enum usk_lane lane, void *memory, uint64_t address, uint64_t bytes,
                          struct unstick_error *error)
{
    struct usk_host_work work = {
        .verb = USK_HOST_COPY, .to = memory, .from = (const void *)(uintptr_t)address, .bytes = bytes
    };
    struct host *host = host_from(dev);
    int r;

    r = host_check_copy(host, "copy_down", lane, address, memory, bytes, error);
    return r < 0 ? r : usk_host_lanes_submit(&host->lanes, lane, &work, error);
}

static int host_copy_across(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                            struct unstick_error *error)
{
    struct usk_host_work work = {
        .verb = USK_HOST_COPY,
        .to = (void *)(uintptr_t)to,
        .from = (const void *)(uintptr_t)from,
        .bytes = bytes,
        .is_to_device = true,
    };
    struct host *host = host_from(dev);
    int r;

    r = lane_check("copy_across", lane, error);
    if (r == UNSTICK_OK)
        r = usk_host_memory_check(&host->memory, "copy_across", to, bytes, error);
    if (r == UNSTICK_OK)
        r = usk_host_memory_check(&host->memory, "copy_across", from, bytes, error);
    if (r < 0)
        return r;
    if (to < from + bytes && from < to + bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "copy_across", "the two ranges overlap");
    return usk_host_lanes_submit(&host->lanes, lane, &work, error);
}

static int host_fill(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                     struct unstick_error *error)
{
    struct usk_host_work work = {
        .verb = USK_HOST_FILL, .to = (void *)(uintptr_t)address, .value = value, .bytes = bytes
    };
    struct host *host = host_from(dev);
    int r;

    r = lane_check("fill", lane, error);
    if (r == UNSTICK_OK)
        r = usk_host_memory_check(&host->memory, "fill", address, bytes, error);
    return r < 0 ? r : usk_host_lanes_submit(&host->lanes, lane, &work, error);
}

static int host_hash(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                     uint32_t slot, struct unstick_error *error)
{
    struct usk_host_work work = {
        .verb = USK_HOST_HASH, .from = (const void *)(uintptr_t)address, .bytes = piece_bytes, .n = n
    };
    struct host *host = host_from(dev);
    uint64_t bytes;
    int r;

    if (!n || n > HOST_N_HASH_SLOTS || slot > HOST_N_HASH_SLOTS - n || !piece_bytes || (address | piece_bytes) & 15 ||
        !usk_mul(piece_bytes, n, &bytes))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "hash",
                             "cannot hash %u pieces of %llu bytes into slot %u of %u: pieces and addresses are "
                             "multiples of 16, and all results have a slot",
                             n, (unsigned long long)piece_bytes, slot, HOST_N_HASH_SLOTS);
    r = lane_check("hash", lane, error);
    if (r == UNSTICK_OK)
        r = usk_host_memory_check(&host->memory, "hash", address, bytes, error);
    if (r < 0)
        return r;
    work.results = &host->results[slot];
    return usk_host_lanes_submit(&host->lanes, lane, &work, error);
}

static int host_order(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error)
{
    int r;

    r = lane_check("order", lane, error);
    if (r == UNSTICK_OK)
        r = lane_check("order", after, error);
    return r < 0 ? r : usk_host_lanes_order(&host_from(dev)->lanes, lane, after, error);
}

static int host_mark(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error)
{
    int r;

    r = lane_check("mark", lane, error);
    return r < 0 ? r : usk_host_lanes_mark(&host_from(dev)->lanes, 1u << lane, ret_ticket, error);
}

static int host_fence_stream(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error)
{
    /* A host program has no streams here: what it does to this memory it does itself, and is done with. */
    (void)stream;
    return usk_host_lanes_mark(&host_from(dev)->lanes, 0, ret_ticket, error);
}

static int host_fence_device(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error)
{
    return usk_host_lanes_mark(&host_from(dev)->lanes, (1u << USK_N_LANES) - 1, ret_ticket, error);
}

static int host_poll(struct usk_device *dev, uint64_t ticket, struct unstick_error *error)
{
    return usk_host_lanes_poll(&host_from(dev)->lanes, ticket, error);
}

static void host_drop(struct usk_device *dev, uint64_t ticket)
{
    usk_host_lanes_drop(&host_from(dev)->lanes, ticket);
}

static int host_register(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                         struct unstick_error *error)
{
    return usk_host_pins_register(&host_from(dev)->pins, address, bytes, flags, error);
}

static int host_unregister(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error)
{
    struct host *host = host_from(dev);

    return usk_host_pins_unregister(&host->pins, &host->lanes, address, bytes, error);
}

static int host_alloc(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    return usk_host_pins_alloc(&host_from(dev)->pins, bytes, ret_address, error);
}

static int host_free(struct usk_device *dev, void *address, struct unstick_error *error)
{
    struct host *host = host_from(dev);

    return usk_host_pins_free(&host->pins, &host->lanes, address, error);
}

static const struct usk_device_ops host_ops = {
    .close = host_close,
    .memory_info = host_memory_info,
    .reserve = host_reserve,
    .unreserve = host_unreserve,
    .create = host_create,
    .release = host_release,
    .map = host_map,
    .map_repeated = host_map_repeated,
    .unmap = host_unmap,
    .copy_up = host_copy_up,
    .copy_down = host_copy_down,
    .copy_across = host_copy_across,
    .fill = host_fill,
    .hash = host_hash,
    .order = host_order,
    .mark = host_mark,
    .fence_stream = host_fence_stream,
    .fence_device = host_fence_device,
    .poll = host_poll,
    .drop = host_drop,
    .register_host = host_register,
    .unregister_host = host_unregister,
    .host_alloc = host_alloc,
    .host_free = host_free,
};

int usk_host_open(uint64_t bytes, int event_fd, const struct usk_log *log, struct usk_device **ret_dev,
                  struct unstick_error *error)
{
    uint64_t granularity_bytes = usk_max(HOST_GRANULARITY_BYTES, usk_os_page_bytes());
    char asked_text[USK_SIZE_TEXT_MAX], least_text[USK_SIZE_TEXT_MAX];
    struct host *host;
    int r;

    if (bytes < granularity_bytes || bytes > INT64_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "usk_host_open",
                             "a host device of %s cannot be: it has at least %s, and less than 8 EiB",
                             usk_size_format(asked_text, bytes), usk_size_format(least_text, granularity_bytes));
    bytes &= ~(granularity_bytes - 1);
    host = calloc(1, sizeof(*host));
    if (!host)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a host device");
    r = usk_host_memory_init(&host->memory, bytes, granularity_bytes, error);
    if (r < 0)
        goto fail_memory;
    r = usk_host_lanes_init(&host->lanes, event_fd, error);
    if (r < 0)
        goto fail_lanes;
    usk_host_pins_init(&host->pins);

    host->dev.ops = &host_ops;
    host->dev.hash_results = host->results;
    host->dev.event_fd = event_fd;
    if (log)
        host->dev.log = *log;
    host->dev.caps = (struct usk_device_caps){
        .kind = "host",
        .total_bytes = bytes,
        .granularity_bytes = granularity_bytes,
        .default_granule_bytes = usk_max(HOST_GRANULE_BYTES, granularity_bytes),
        .n_hash_slots = HOST_N_HASH_SLOTS,
        .index = -1,
        .numa_node = -1,
        .can_hash = true,
        .can_register = true,
    };
    snprintf(host->dev.caps.name, sizeof(host->dev.caps.name), "host memory (%s)", usk_size_format(asked_text, bytes));
    *ret_dev = &host->dev;
    return UNSTICK_OK;

fail_lanes:
    usk_host_memory_fini(&host->memory);
fail_memory:
    free(host);
    return r;
}

int usk_host_backed_bytes(struct usk_device *dev, uint64_t *ret_bytes, struct unstick_error *error)
{
    return usk_host_memory_backed(&host_from(dev)->memory, ret_bytes, error);
}

int usk_host_mapped_bytes(struct usk_device *dev, uint64_t *ret_bytes, struct unstick_error *error)
{
    return usk_host_memory_mapped(&host_from(dev)->memory, ret_bytes, error);
}
