/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, reading and closing a device. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "region/region.h"

static int open_host(struct unstick_context *ctx, uint64_t bytes, struct usk_device **ret_driver,
                     struct unstick_error *error)
{
    if (!bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_open",
                             "a host device needs a size above 0, such as host:2GiB");
    return usk_host_open(bytes, ctx->event_fd, &ctx->log, ret_driver, error);
}

static int open_auto(struct unstick_context *ctx, struct usk_device **ret_driver, struct unstick_error *error)
{
    struct usk_os_memory memory;
    unsigned int n_gpus = 0;
    uint64_t available;
    int r;

    if (usk_cuda_count(&n_gpus, NULL) == UNSTICK_OK && n_gpus)
        return usk_cuda_open("0", ctx->event_fd, &ctx->log, ret_driver, error);
    r = usk_os_memory(&memory, error);
    if (r < 0)
        return r;
    available = memory.available_bytes;
    if (memory.cgroup_limit_bytes != UINT64_MAX)
        available = usk_min(available, memory.cgroup_limit_bytes -
                                           usk_min(memory.cgroup_used_bytes, memory.cgroup_limit_bytes));
    usk_log_write(&ctx->log, UNSTICK_LOG_INFO, "no GPU found: a host device of half of the available memory stands in");
    return open_host(ctx, available / 2, ret_driver, error);
}

static int open_driver(struct unstick_context *ctx, const char *spec, struct usk_device **ret_driver,
                       struct unstick_error *error)
{
    uint64_t bytes;

    if (!strcmp(spec, "auto"))
        return open_auto(ctx, ret_driver, error);
    if (!strncmp(spec, "cuda:", 5) && spec[5])
        return usk_cuda_open(spec + 5, ctx->event_fd, &ctx->log, ret_driver, error);
    if (!strncmp(spec, "host:", 5)) {
        if (!usk_size_parse(spec + 5, &bytes))
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_open",
                                 "\"%s\" is not a size; write host:2GiB or host:2147483648", spec + 5);
        return open_host(ctx, bytes, ret_driver, error);
    }
    return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "unstick_device_open",
                         "no such device; use auto, cuda:N, cuda:GPU-<uuid> or host:SIZE");
}

static int open_check_granule(const struct usk_device_caps *caps, uint64_t granule_bytes, struct unstick_error *error)
{
    if (granule_bytes && granule_bytes % caps->granularity_bytes == 0)
        return UNSTICK_OK;
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_open",
                         "a granule of %llu bytes is not a multiple of the device's granularity of %llu",
                         (unsigned long long)granule_bytes, (unsigned long long)caps->granularity_bytes);
}

int usk_device_adopt(struct unstick_context *ctx, struct usk_device *driver,
                     const struct unstick_device_options *options, struct unstick_device **ret_dev,
                     struct unstick_error *error)
{
    struct unstick_device *dev;
    int r;

    dev = calloc(1, sizeof(*dev));
    if (!dev) {
        r = usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to describe a device");
        goto fail_driver;
    }
    dev->ctx = ctx;
    dev->driver = driver;
    dev->granule_bytes =
        options && options->granule_bytes ? options->granule_bytes : driver->caps.default_granule_bytes;
    dev->limit_bytes = driver->caps.total_bytes;
    if (options && options->limit_bytes)
        dev->limit_bytes = usk_min(options->limit_bytes, dev->limit_bytes);
    r = open_check_granule(&driver->caps, dev->granule_bytes, error);
    if (r < 0)
        goto fail_device;
    dev->hash_slots = calloc(usk_max(driver->caps.n_hash_slots / 64, 1), sizeof(*dev->hash_slots));
    if (!dev->hash_slots) {
        r = usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no host memory to describe a device");
        goto fail_device;
    }
    r = usk_store_new(driver, ctx->pool, &ctx->budget, dev->granule_bytes, &dev->store, error);
    if (r < 0)
        goto fail_device;
    r = usk_sentinel_open(dev, error);
    if (r < 0)
        goto fail_store;

    usk_context_lock(ctx);
    dev->next = ctx->devices;
    ctx->devices = dev;
    usk_context_unlock(ctx);
    *ret_dev = dev;
    return UNSTICK_OK;

fail_store:
    usk_sentinel_close(dev);
    usk_store_free(dev->store);
fail_device:
    free(dev->hash_slots);
    free(dev);
fail_driver:
    usk_device_close(driver);
    return r;
}

int unstick_device_open(struct unstick_context *ctx, const char *spec, const struct unstick_device_options *options,
                        struct unstick_device **ret_dev, struct unstick_error *error)
{
    struct unstick_error why = { 0 };
    struct usk_device *driver;
    int r;

    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    if (!spec)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_open", "no device was named");
    r = open_driver(ctx, spec, &driver, &why);
    if (r < 0) {
        usk_error_set(error, r, why.native, why.operation, "%s: %s", spec, why.text);
        usk_error_shortage(error, why.required_bytes, why.available_bytes);
        return r;
    }
    return usk_device_adopt(ctx, driver, options, ret_dev, error);
}

static void device_unlink(struct unstick_device *dev)
{
    struct unstick_device **at = &dev->ctx->devices;

    while (*at != dev)
        at = &(*at)->next;
    *at = dev->next;
}

int unstick_device_close(struct unstick_device *dev, struct unstick_error *error)
{
    struct unstick_context *ctx;
    bool is_used;

    if (!dev)
        return UNSTICK_OK;
    ctx = dev->ctx;
    if (usk_context_is_forked(ctx))
        return usk_context_fail_forked(error);
    usk_region_reap_all(dev, false);
    usk_baton_take(ctx);
    usk_context_lock(ctx);
    is_used = dev->regions || dev->dead;
    if (!is_used)
        device_unlink(dev);
    usk_context_unlock(ctx);
    if (!is_used) {
        usk_physical_drain(dev, UINT32_MAX);
        usk_sentinel_close(dev);
    }
    usk_baton_give(ctx);
    if (is_used)
        return usk_error_set(error, UNSTICK_BUSY, 0, "unstick_device_close",
                             "the device still has regions; release them first");

    usk_store_free(dev->store);
    usk_device_close(dev->driver);
    free(dev->hash_slots);
    free(dev);
    return UNSTICK_OK;
}

int unstick_device_info(struct unstick_device *dev, struct unstick_device_info *info, struct unstick_error *error)
{
    const struct usk_device_caps *caps = &dev->driver->caps;
    struct unstick_device_info filled = { 0 };
    uint64_t free_bytes = 0, total_bytes = 0;
    int r;

    if (usk_context_is_forked(dev->ctx))
        return usk_context_fail_forked(error);
    if (info->size < sizeof(*info))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_device_info", "info->size is not set");
    r = dev->driver->ops->memory_info(dev->driver, &free_bytes, &total_bytes, error);

    filled.size = info->size;
    snprintf(filled.kind, sizeof(filled.kind), "%s", caps->kind);
    snprintf(filled.name, sizeof(filled.name), "%s", caps->name);
    snprintf(filled.uuid, sizeof(filled.uuid), "%s", caps->uuid);
    filled.index = caps->index;
    filled.total_bytes = caps->total_bytes;
    filled.used_bytes = total_bytes - free_bytes;
    filled.limit_bytes = dev->limit_bytes;
    filled.granule_bytes = dev->granule_bytes;
    filled.resident_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_RESIDENT]);
    filled.sentinel_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_SENTINEL]);
    filled.spare_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_SPARE]);
    filled.poisoned_bytes = atomic_load(&dev->accounts[USK_ACCOUNT_POISONED]);
    filled.can_hash = caps->can_hash;
    filled.can_register_file = caps->can_register_file;
    filled.is_lost = r == UNSTICK_DEVICE_LOST || atomic_load(&dev->is_lost);
    *info = filled;
    return r;
}
