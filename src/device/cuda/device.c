/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing a GPU. The primary context is used, so that what the host program allocates and what we map are
 * in one address space; it is current only inside our calls. A sticky failure of the driver is remembered: from then on
 * every call ends at once, and closing waits for nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "device/cuda/cuda.h"
#include "device/cuda/hash_ptx.h"

#define CUDA_GRANULE_BYTES (UINT64_C(64) << 20)

int usk_cuda_enter(struct usk_cuda *cuda, struct usk_cuda_scope *scope, struct unstick_error *error)
{
    usk_cu_result result;

    if (atomic_load(&cuda->is_lost))
        return usk_error_set(error, UNSTICK_DEVICE_LOST, 0, "cuda",
                             "the GPU was lost by an earlier failure; restart the process to use it again");
    result = cuda->driver->cuCtxPushCurrent(cuda->context);
    if (result)
        return usk_cuda_check(cuda, result, "cuCtxPushCurrent", UNSTICK_OUT_OF_HOST_MEMORY, error);
    scope->driver = cuda->driver;
    scope->is_pushed = true;
    scope->mode = USK_CU_STREAM_CAPTURE_MODE_RELAXED;
    cuda->driver->cuThreadExchangeStreamCaptureMode(&scope->mode);
    return UNSTICK_OK;
}

void usk_cuda_leave(struct usk_cuda_scope *scope)
{
    usk_cu_context context;

    if (!scope->is_pushed)
        return;
    scope->driver->cuThreadExchangeStreamCaptureMode(&scope->mode);
    scope->driver->cuCtxPopCurrent(&context);
}

int usk_cuda_check(struct usk_cuda *cuda, usk_cu_result result, const char *call, int memory_status,
                   struct unstick_error *error)
{
    if (!result)
        return UNSTICK_OK;
    if (usk_cuda_is_sticky(result))
        atomic_store(&cuda->is_lost, true);
    return usk_cuda_fail(cuda->driver, result, call, memory_status, error);
}

int usk_cuda_memory_info(struct usk_device *dev, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes,
                         struct unstick_error *error)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    size_t free_bytes, total_bytes;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    if (r < 0)
        return r;
    r = usk_cuda_check(cuda, cuda->driver->cuMemGetInfo(&free_bytes, &total_bytes), "cuMemGetInfo", UNSTICK_DRIVER,
                       error);
    if (r < 0)
        return r;
    *ret_free_bytes = free_bytes;
    *ret_total_bytes = total_bytes;
    return UNSTICK_OK;
}

static void device_close(struct usk_device *dev)
{
    struct usk_cuda *cuda = usk_cuda_of(dev);
    const struct usk_cuda_driver *driver = cuda->driver;
    usk_cu_context context;

    if (!driver->cuCtxPushCurrent(cuda->context)) {
        for (enum usk_lane lane = 0; lane < USK_N_LANES; lane++) {
            if (cuda->lanes[lane] && !atomic_load(&cuda->is_lost))
                driver->cuStreamSynchronize(cuda->lanes[lane]);
            if (cuda->notify[lane] && !atomic_load(&cuda->is_lost))
                driver->cuStreamSynchronize(cuda->notify[lane]);
        }
        usk_cuda_destroy_events(cuda);
        for (enum usk_lane lane = 0; lane < USK_N_LANES; lane++) {
            if (cuda->lanes[lane])
                driver->cuStreamDestroy(cuda->lanes[lane]);
            if (cuda->notify[lane])
                driver->cuStreamDestroy(cuda->notify[lane]);
        }
        if (cuda->pinned_results)
            driver->cuMemFreeHost(cuda->pinned_results);
        if (cuda->results)
            driver->cuMemFree(cuda->results);
        if (cuda->module)
            driver->cuModuleUnload(cuda->module);
        driver->cuCtxPopCurrent(&context);
    }
    driver->cuDevicePrimaryCtxRelease(cuda->ordinal);
    pthread_mutex_destroy(&cuda->lock);
    free(cuda);
}

static const struct usk_device_ops cuda_ops = {
    .close = device_close,
    .memory_info = usk_cuda_memory_info,
    .reserve = usk_cuda_reserve,
    .unreserve = usk_cuda_unreserve,
    .create = usk_cuda_create,
    .release = usk_cuda_release,
    .map = usk_cuda_map,
    .unmap = usk_cuda_unmap,
    .copy_up = usk_cuda_copy_up,
    .copy_down = usk_cuda_copy_down,
    .copy_across = usk_cuda_copy_across,
    .fill = usk_cuda_fill,
    .hash = usk_cuda_hash,
    .order = usk_cuda_order,
    .mark = usk_cuda_mark,
    .fence_stream = usk_cuda_fence_stream,
    .fence_device = usk_cuda_fence_device,
    .poll = usk_cuda_poll,
    .drop = usk_cuda_drop,
    .register_host = usk_cuda_register_host,
    .unregister_host = usk_cuda_unregister_host,
    .host_alloc = usk_cuda_host_alloc,
    .host_free = usk_cuda_host_free,
};

static int device_attribute(struct usk_cuda *cuda, int attribute)
{
    int value = 0;

    return cuda->driver->cuDeviceGetAttribute(&value, attribute, cuda->ordinal) ? 0 : value;
}

static int device_read_caps(struct usk_cuda *cuda, struct unstick_error *error)
{
    struct usk_device_caps *caps = &cuda->device.caps;
    const struct usk_cuda_driver *driver = cuda->driver;
    struct usk_cu_mem_prop prop = {
        .type = USK_CU_MEM_ALLOCATION_TYPE_PINNED,
        .location = { USK_CU_MEM_LOCATION_TYPE_DEVICE, cuda->ordinal },
    };
    struct usk_cu_uuid uuid = { 0 };
    size_t bytes;
    int r;

    snprintf(caps->kind, sizeof(caps->kind), "cuda");
    driver->cuDeviceGetName(caps->name, sizeof(caps->name), cuda->ordinal);
    if (!driver->cuDeviceGetUuid(&uuid, cuda->ordinal)) {
        size_t length = (size_t)snprintf(caps->uuid, sizeof(caps->uuid), "GPU");

        for (int i = 0; i < 16; i++)
            length += (size_t)snprintf(caps->uuid + length, sizeof(caps->uuid) - length, "%s%02x",
                                       i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", uuid.bytes[i]);
    }
    if (!device_attribute(cuda, USK_CU_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED))
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "cuDeviceGetAttribute",
                             "%s has no virtual memory management", caps->name);
    r = usk_cuda_check(cuda, driver->cuDeviceTotalMem(&bytes, cuda->ordinal), "cuDeviceTotalMem", UNSTICK_DRIVER, error);
    if (r < 0)
        return r;
    caps->total_bytes = bytes;
    r = usk_cuda_check(cuda,
                       driver->cuMemGetAllocationGranularity(&bytes, &prop, USK_CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                       "cuMemGetAllocationGranularity", UNSTICK_DRIVER, error);
    if (r < 0)
        return r;
    caps->granularity_bytes = bytes;
    caps->default_granule_bytes = CUDA_GRANULE_BYTES;
    caps->n_hash_slots = USK_CUDA_N_HASH_SLOTS;
    caps->numa_node = -1;
    caps->driver_version = driver->version;
    caps->has_real_vram = !device_attribute(cuda, USK_CU_ATTRIBUTE_INTEGRATED);
    caps->can_register = true;
    caps->can_register_file = device_attribute(cuda, USK_CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED);
    caps->can_checkpoint = driver->cuCheckpointProcessLock;
    return UNSTICK_OK;
}

/* Without the kernel everything works, only that evictions copy everything. */
static void device_load_hash(struct usk_cuda *cuda)
{
    const struct usk_cuda_driver *driver = cuda->driver;
    usk_cu_result result = driver->cuModuleLoadData(&cuda->module, hash_ptx);

    if (!result)
        result = driver->cuModuleGetFunction(&cuda->hash, cuda->module, USK_CUDA_HASH_KERNEL);
    cuda->device.caps.can_hash = !result;
    if (result)
        usk_log_write(&cuda->device.log, UNSTICK_LOG_WARNING,
                      "the driver does not load the hash kernel (%d): evictions will copy everything", result);
}

static int device_setup(struct usk_cuda *cuda, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver = cuda->driver;
    void *pinned;
    USK_CUDA_SCOPE(scope);
    int r = usk_cuda_enter(cuda, &scope, error);

    for (enum usk_lane lane = 0; lane < USK_N_LANES && r == UNSTICK_OK; lane++) {
        r = usk_cuda_check(cuda, driver->cuStreamCreate(&cuda->lanes[lane], USK_CU_STREAM_NON_BLOCKING),
                           "cuStreamCreate", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
        if (r == UNSTICK_OK)
            r = usk_cuda_check(cuda, driver->cuStreamCreate(&cuda->notify[lane], USK_CU_STREAM_NON_BLOCKING),
                               "cuStreamCreate", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    }
    if (r == UNSTICK_OK)
        r = usk_cuda_check(cuda, driver->cuMemAlloc(&cuda->results, USK_CUDA_N_HASH_SLOTS * sizeof(uint64_t)),
                           "cuMemAlloc", UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r == UNSTICK_OK)
        r = usk_cuda_check(cuda,
                           driver->cuMemHostAlloc(&pinned, USK_CUDA_N_HASH_SLOTS * sizeof(uint64_t),
                                                  USK_CU_MEMHOSTALLOC_PORTABLE),
                           "cuMemHostAlloc", UNSTICK_OUT_OF_HOST_MEMORY, error);
    if (r == UNSTICK_OK) {
        cuda->pinned_results = pinned;
        cuda->device.hash_results = cuda->pinned_results;
        device_load_hash(cuda);
    }
    return r;
}

/* Finds a device by number or by UUID. */
static int device_find(const struct usk_cuda_driver *driver, const char *which, usk_cu_device *ret_ordinal,
                       struct unstick_error *error)
{
    char *end;
    unsigned long number = strtoul(which, &end, 10);
    int n = 0;

    driver->cuDeviceGetCount(&n);
    if (end != which && !*end && number < (unsigned long)n && !driver->cuDeviceGet(ret_ordinal, (int)number))
        return UNSTICK_OK;
    for (int i = 0; i < n; i++) {
        struct usk_cuda probe = { .driver = driver };

        if (!driver->cuDeviceGet(&probe.ordinal, i) && device_read_caps(&probe, NULL) == UNSTICK_OK &&
            strlen(which) > 8 && !strncmp(strchr(which, '-') ? strchr(which, '-') : which, probe.device.caps.uuid + 3,
                                          strlen(which) - 3)) {
            *ret_ordinal = probe.ordinal;
            return UNSTICK_OK;
        }
    }
    return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "cuDeviceGet", "no GPU \"%s\": the driver shows %d", which, n);
}

int usk_cuda_open(const char *which, int event_fd, const struct usk_log *log, struct usk_device **ret_dev,
                  struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    struct usk_cuda *cuda;
    usk_cu_device ordinal;
    int r;

    r = usk_cuda_driver_get(&driver, error);
    if (r < 0)
        return r;
    r = device_find(driver, which, &ordinal, error);
    if (r < 0)
        return r;
    cuda = calloc(1, sizeof(*cuda));
    if (!cuda)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to describe a GPU");
    cuda->device.ops = &cuda_ops;
    cuda->device.event_fd = event_fd;
    cuda->notify_fd = event_fd;
    if (log)
        cuda->device.log = *log;
    cuda->driver = driver;
    cuda->ordinal = ordinal;
    cuda->first_free = UINT32_MAX;
    pthread_mutex_init(&cuda->lock, NULL);
    r = usk_cuda_check(cuda, driver->cuDevicePrimaryCtxRetain(&cuda->context, ordinal), "cuDevicePrimaryCtxRetain",
                       UNSTICK_OUT_OF_DEVICE_MEMORY, error);
    if (r < 0) {
        pthread_mutex_destroy(&cuda->lock);
        free(cuda);
        return r;
    }
    r = device_read_caps(cuda, error);
    if (r == UNSTICK_OK)
        r = device_setup(cuda, error);
    if (r < 0) {
        device_close(&cuda->device);
        return r;
    }
    *ret_dev = &cuda->device;
    return UNSTICK_OK;
}

int usk_cuda_count(unsigned int *ret_n, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    usk_cu_result result;
    int n = 0, r = usk_cuda_driver_get(&driver, error);

    *ret_n = 0;
    if (r == UNSTICK_NO_DEVICE)
        return UNSTICK_OK;
    if (r < 0)
        return r;
    result = driver->cuDeviceGetCount(&n);
    if (result)
        return usk_cuda_fail(driver, result, "cuDeviceGetCount", UNSTICK_OUT_OF_HOST_MEMORY, error);
    *ret_n = (unsigned int)n;
    return UNSTICK_OK;
}
