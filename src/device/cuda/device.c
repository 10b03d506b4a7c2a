/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A CUDA device beside whatever else the process does with it: the primary context, which the host program's CUDA
 * runtime uses too, is retained and not made. The parts of a device keep their own invariants; here they are put
 * together in order, and taken apart in reverse.
 *
 * Closing waits for our own work; the driver may make it wait for the host program's kernels too when memory is freed.
 * When the device is lost nothing is waited for, no more calls are made on the dead context, and what it
 * held goes with the last hold on it.
 */
#include "device/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/math.h"
#include "device/cuda/fences.h"
#include "device/cuda/gate.h"
#include "device/cuda/hash.h"
#include "device/cuda/info.h"
#include "device/cuda/lanes.h"
#include "device/cuda/pins.h"
#include "device/cuda/vmm.h"

/* From 64 MiB on, mapping costs less than 1 ms per GiB, and a changed byte still moves little (docs: granules). */
#define CUDA_GRANULE_BYTES (UINT64_C(64) << 20)

struct cuda {
    struct usk_device dev;
    struct usk_cuda_core core;
    struct usk_cuda_tickets tickets;
    struct usk_cuda_lanes lanes;
    struct usk_cuda_fences fences;
    struct usk_cuda_hash hash;
};

static struct cuda *cuda_from(struct usk_device *dev)
{
    return (struct cuda *)dev;
}

static void cuda_close(struct usk_device *dev);

static int cuda_memory_info(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                            struct unstick_error *error)
{
    uint64_t free_bytes, total_bytes;
    int r;

    r = usk_cuda_vmm_info(&cuda_from(dev)->core, &free_bytes, &total_bytes, error);
    if (r < 0)
        return r;
    /* The context's word on the total may be a little less than the device's: that is in use, too. */
    *ret_free_bytes = usk_min(free_bytes, dev->caps.total_bytes);
    *ret_total_bytes = dev->caps.total_bytes;
    return UNSTICK_OK;
}

static int cuda_reserve(struct usk_device *dev, uint64_t bytes, uint64_t align_bytes, uint64_t *ret_address,
                        struct unstick_error *error)
{
    return usk_cuda_vmm_reserve(&cuda_from(dev)->core, bytes, align_bytes, ret_address, error);
}

static int cuda_unreserve(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    return usk_cuda_vmm_unreserve(&cuda_from(dev)->core, address, bytes, error);
}

static int cuda_create(struct usk_device *dev, uint64_t bytes, uint64_t *ret_handle, struct unstick_error *error)
{
    return usk_cuda_vmm_create(&cuda_from(dev)->core, bytes, ret_handle, error);
}

static int cuda_release(struct usk_device *dev, uint64_t handle, struct unstick_error *error)
{
    return usk_cuda_vmm_release(&cuda_from(dev)->core, handle, error);
}

static int cuda_map(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                    struct unstick_error *error)
{
    return usk_cuda_vmm_map(&cuda_from(dev)->core, address, bytes, handle, error);
}

static int cuda_map_repeated(struct usk_device *dev, uint64_t address, uint64_t bytes, uint64_t handle,
                             uint64_t piece_bytes, struct unstick_error *error)
{
    return usk_cuda_vmm_map_repeated(&cuda_from(dev)->core, address, bytes, handle, piece_bytes, error);
}

static int cuda_unmap(struct usk_device *dev, uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    return usk_cuda_vmm_unmap(&cuda_from(dev)->core, address, bytes, error);
}

static int cuda_copy_up(struct usk_device *dev, enum usk_lane lane, uint64_t address, const void *host, uint64_t bytes,
                        struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_copy_up(&cuda->lanes, &cuda->core, lane, address, host, bytes, error);
}

static int cuda_copy_down(struct usk_device *dev, enum usk_lane lane, void *host, uint64_t address, uint64_t bytes,
                          struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_copy_down(&cuda->lanes, &cuda->core, lane, host, address, bytes, error);
}

static int cuda_copy_across(struct usk_device *dev, enum usk_lane lane, uint64_t to, uint64_t from, uint64_t bytes,
                            struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_copy_across(&cuda->lanes, &cuda->core, lane, to, from, bytes, error);
}

static int cuda_fill(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint8_t value, uint64_t bytes,
                     struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_fill(&cuda->lanes, &cuda->core, lane, address, value, bytes, error);
}

static int cuda_hash(struct usk_device *dev, enum usk_lane lane, uint64_t address, uint64_t piece_bytes, uint32_t n,
                     uint32_t slot, struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);
    int r;

    r = usk_cuda_lane_check(lane, "hash", error);
    return r < 0 ? r : usk_cuda_hash_submit(&cuda->hash, &cuda->core, cuda->lanes.streams[lane], address, piece_bytes,
                                            n, slot, error);
}

static int cuda_order(struct usk_device *dev, enum usk_lane lane, enum usk_lane after, struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_order(&cuda->lanes, &cuda->core, lane, after, error);
}

static int cuda_mark(struct usk_device *dev, enum usk_lane lane, uint64_t *ret_ticket, struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_lanes_mark(&cuda->lanes, &cuda->core, &cuda->tickets, lane, ret_ticket, error);
}

static int cuda_fence_stream(struct usk_device *dev, void *stream, uint64_t *ret_ticket, struct unstick_error *error)
{
    return usk_cuda_fences_stream(&cuda_from(dev)->fences, stream, ret_ticket, error);
}

static int cuda_fence_device(struct usk_device *dev, uint64_t *ret_ticket, struct unstick_error *error)
{
    return usk_cuda_fences_device(&cuda_from(dev)->fences, ret_ticket, error);
}

static int cuda_poll(struct usk_device *dev, uint64_t ticket, struct unstick_error *error)
{
    struct cuda *cuda = cuda_from(dev);

    return usk_cuda_tickets_poll(&cuda->tickets, &cuda->core, ticket, error);
}

static void cuda_drop(struct usk_device *dev, uint64_t ticket)
{
    usk_cuda_tickets_drop(&cuda_from(dev)->tickets, ticket);
}

static bool cuda_begin_burst(struct usk_device *dev)
{
    return usk_cuda_gate_begin_burst(dev->event_fd);
}

static void cuda_end_burst(struct usk_device *dev)
{
    (void)dev;
    usk_cuda_gate_end_burst();
}

static void cuda_begin_paging(struct usk_device *dev)
{
    (void)dev;
    usk_cuda_gate_begin_paging();
}

static void cuda_end_paging(struct usk_device *dev)
{
    (void)dev;
    usk_cuda_gate_end_paging();
}

static int cuda_register(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                         struct unstick_error *error)
{
    bool is_read_only = flags & USK_REGISTER_READ_ONLY;

    if (!dev->caps.can_register || (is_read_only && !dev->caps.can_register_file))
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "register_host", "%s cannot register %s", dev->caps.name,
                             is_read_only ? "read-only mappings" : "host memory");
    return usk_cuda_pins_register(&cuda_from(dev)->core, address, bytes, is_read_only, error);
}

static int cuda_unregister(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error)
{
    (void)bytes;
    return usk_cuda_pins_unregister(&cuda_from(dev)->core, address, error);
}

static int cuda_host_alloc(struct usk_device *dev, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    return usk_cuda_pins_alloc(&cuda_from(dev)->core, bytes, ret_address, error);
}

static int cuda_host_free(struct usk_device *dev, void *address, struct unstick_error *error)
{
    return usk_cuda_pins_free(&cuda_from(dev)->core, address, error);
}

static const struct usk_device_ops cuda_ops = {
    .close = cuda_close,
    .memory_info = cuda_memory_info,
    .reserve = cuda_reserve,
    .unreserve = cuda_unreserve,
    .create = cuda_create,
    .release = cuda_release,
    .map = cuda_map,
    .map_repeated = cuda_map_repeated,
    .unmap = cuda_unmap,
    .copy_up = cuda_copy_up,
    .copy_down = cuda_copy_down,
    .copy_across = cuda_copy_across,
    .fill = cuda_fill,
    .hash = cuda_hash,
    .order = cuda_order,
    .mark = cuda_mark,
    .fence_stream = cuda_fence_stream,
    .fence_device = cuda_fence_device,
    .poll = cuda_poll,
    .drop = cuda_drop,
    .begin_burst = cuda_begin_burst,
    .end_burst = cuda_end_burst,
    .begin_paging = cuda_begin_paging,
    .end_paging = cuda_end_paging,
    .register_host = cuda_register,
    .unregister_host = cuda_unregister,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
};

/* What is known before there is a context. */
static int cuda_describe(struct cuda *cuda, struct usk_cuda_device_info *ret_info, struct unstick_error *error)
{
    struct usk_device_caps *caps = &cuda->dev.caps;
    struct usk_cuda_core *core = &cuda->core;
    struct usk_cuda_device_info info;
    int r;

    r = usk_cuda_info_read(core->driver, core->device, &info, error);
    if (r < 0)
        return r;
    if (!info.can_map)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "cuDeviceGetAttribute",
                             "%s has no virtual memory management (cuMemMap): its memory cannot leave under a "
                             "model; vGPUs and some virtual machines switch it off",
                             info.name);
    r = usk_cuda_vmm_granularity(core, &caps->granularity_bytes, error);
    if (r < 0)
        return r;
    if (!usk_is_power_of_two(caps->granularity_bytes))
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "cuMemGetAllocationGranularity",
                             "%s divides its memory into pieces of %llu bytes, which is no power of two", info.name,
                             (unsigned long long)caps->granularity_bytes);
    snprintf(caps->kind, sizeof(caps->kind), "cuda");
    snprintf(caps->name, sizeof(caps->name), "%s", info.name);
    snprintf(caps->uuid, sizeof(caps->uuid), "%s", info.uuid);
    caps->total_bytes = info.total_bytes;
    caps->default_granule_bytes = usk_max(CUDA_GRANULE_BYTES, caps->granularity_bytes);
    /* The driver's handle of a device is its index. */
    caps->index = core->device;
    caps->n_hash_slots = USK_CUDA_N_HASH_SLOTS;
    caps->numa_node = info.numa_node;
    caps->driver_version = core->driver->version;
    caps->has_real_vram = !info.is_integrated;
    caps->can_register = info.can_register;
    caps->can_register_file = info.can_register_file;
    caps->can_checkpoint = core->driver->cuCheckpointProcessLock;
    *ret_info = info;
    return UNSTICK_OK;
}

/* A device without the kernel works: evictions copy all. */
static int cuda_init_hash(struct cuda *cuda, unsigned int n_multiprocessors, struct unstick_error *error)
{
    struct usk_device *dev = &cuda->dev;
    struct unstick_error why = { 0 };
    int r;

    r = usk_cuda_hash_init(&cuda->hash, &cuda->core, n_multiprocessors, cuda->lanes.streams[USK_LANE_HASH], &why);
    if (r == UNSTICK_UNSUPPORTED) {
        usk_log_write(&dev->log, UNSTICK_LOG_WARNING, "%s: no hash kernel, evictions will copy everything: %s",
                      dev->caps.name, why.text);
        return UNSTICK_OK;
    }
    if (r < 0) {
        if (error)
            *error = why;
        return r;
    }
    dev->caps.can_hash = true;
    dev->hash_results = cuda->hash.results;
    return UNSTICK_OK;
}

/* All that lives in the context. */
static int cuda_init(struct cuda *cuda, unsigned int n_multiprocessors, struct unstick_error *error)
{
    struct usk_cuda_core *core = &cuda->core;
    int event_fd = cuda->dev.event_fd;
    USK_CUDA_SCOPE(scope);
    int r;

    r = usk_cuda_enter(core, &scope, error);
    if (r < 0)
        return r;
    r = usk_cuda_lanes_init(&cuda->lanes, core, event_fd, error);
    if (r < 0)
        goto fail_lanes;
    core->probe = cuda->lanes.streams[USK_LANE_UP];
    usk_cuda_tickets_init(&cuda->tickets);
    r = usk_cuda_fences_init(&cuda->fences, core, &cuda->tickets, event_fd, error);
    if (r < 0)
        goto fail_fences;
    r = cuda_init_hash(cuda, n_multiprocessors, error);
    if (r < 0)
        goto fail_fences;
    return UNSTICK_OK;

fail_fences:
    core->probe = NULL;
    usk_cuda_fences_fini(&cuda->fences, usk_cuda_is_lost(core) ? NULL : core);
    usk_cuda_tickets_fini(&cuda->tickets, usk_cuda_is_lost(core) ? NULL : core);
fail_lanes:
    usk_cuda_lanes_fini(&cuda->lanes, usk_cuda_is_lost(core) ? NULL : core);
    return r;
}

static void cuda_fini(struct cuda *cuda)
{
    struct usk_cuda_core *core = &cuda->core, *alive = NULL;
    USK_CUDA_SCOPE(scope);

    if (usk_cuda_enter(core, &scope, NULL) == UNSTICK_OK) {
        usk_cuda_lanes_drain(&cuda->lanes, core, NULL);
        if (!usk_cuda_is_lost(core))
            alive = core;
    }
    core->probe = NULL;
    usk_cuda_hash_fini(&cuda->hash, alive);
    usk_cuda_fences_fini(&cuda->fences, alive);
    usk_cuda_tickets_fini(&cuda->tickets, alive);
    usk_cuda_lanes_fini(&cuda->lanes, alive);
}

static void cuda_close(struct usk_device *dev)
{
    struct cuda *cuda = cuda_from(dev);

    usk_cuda_fences_stop(&cuda->fences);
    cuda_fini(cuda);
    /* The gate is the process's: somebody else's registration may yet call for a burst that was to come. */
    usk_cuda_gate_forget(dev->event_fd);
    /* Not in a scope: the context may go with this. What is left in it goes with it. */
    cuda->core.driver->cuDevicePrimaryCtxRelease(cuda->core.device);
    free(cuda);
}

int usk_cuda_open_with(const struct usk_cuda_driver *driver, const char *which, int event_fd,
                       const struct usk_log *log, struct usk_device **ret_dev, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) struct cuda *cuda = calloc(1, sizeof(*cuda));
    struct usk_cuda_device_info info;
    struct usk_cuda_core *core;
    usk_cu_result result;
    int r;

    if (!cuda)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a device");
    core = &cuda->core;
    cuda->dev.ops = &cuda_ops;
    cuda->dev.event_fd = event_fd;
    core->driver = driver;
    core->event_fd = event_fd;
    if (log)
        core->log = cuda->dev.log = *log;
    r = usk_cuda_info_find(driver, which, &core->device, error);
    if (r == UNSTICK_OK)
        r = cuda_describe(cuda, &info, error);
    if (r < 0)
        return r;
    result = driver->cuDevicePrimaryCtxRetain(&core->context, core->device);
    if (result != USK_CU_SUCCESS)
        return usk_cuda_fail(core, error, result, "cuDevicePrimaryCtxRetain", "cannot use %s (%s)", info.name,
                             info.uuid);
    r = cuda_init(cuda, (unsigned int)info.n_multiprocessors, error);
    if (r < 0) {
        driver->cuDevicePrimaryCtxRelease(core->device);
        return r;
    }
    *ret_dev = &USK_STEAL(cuda)->dev;
    return UNSTICK_OK;
}

int usk_cuda_open(const char *which, int event_fd, const struct usk_log *log, struct usk_device **ret_dev,
                  struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    int r;

    r = usk_cuda_driver_get(&driver, error);
    return r < 0 ? r : usk_cuda_open_with(driver, which, event_fd, log, ret_dev, error);
}
