/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registering makes nothing faster here, as the device's memory is the host's. It is kept account of so that what a
 * driver refuses is refused here too: registering twice, a copy across a border, giving memory back under a copy.
 *
 * The lock guards the table only. Memory is asked for and given back outside of it.
 */
#include "device/host/pins.h"

#include <inttypes.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"

static int pins_invalid(struct unstick_error *error, const char *operation, const char *what, const void *address,
                        uint64_t bytes)
{
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, operation, "%s (%" PRIu64 " bytes at %p)", what, bytes,
                         address);
}

void usk_host_pins_init(struct usk_host_pins *pins)
{
    *pins = (struct usk_host_pins){ 0 };
    pthread_mutex_init(&pins->lock, NULL);
}

void usk_host_pins_fini(struct usk_host_pins *pins)
{
    for (size_t i = 0; i < pins->ranges.n; i++) {
        if (pins->ranges.items[i].tag == USK_HOST_PIN_ALLOCATED)
            usk_os_unmap((void *)(uintptr_t)pins->ranges.items[i].start, pins->ranges.items[i].bytes, NULL);
    }
    usk_ranges_fini(&pins->ranges);
    pthread_mutex_destroy(&pins->lock);
}

static int pins_insert(struct usk_host_pins *pins, const char *operation, void *address, uint64_t bytes,
                       enum usk_host_pin pin, struct unstick_error *error)
{
    bool has_room, is_free;

    pthread_mutex_lock(&pins->lock);
    is_free = !usk_ranges_overlaps(&pins->ranges, (uintptr_t)address, bytes);
    has_room = usk_ranges_grow(&pins->ranges);
    if (is_free && has_room)
        usk_ranges_insert(&pins->ranges, (uintptr_t)address, bytes, pin);
    pthread_mutex_unlock(&pins->lock);
    if (!is_free)
        return pins_invalid(error, operation, "part of the range is registered already", address, bytes);
    if (!has_room)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, operation,
                             "no memory for the tables of the host device");
    return UNSTICK_OK;
}

/* Takes the one that starts there out of the table; bytes 0: of any length. Returns its length, 0 if there is none. */
static uint64_t pins_take(struct usk_host_pins *pins, const void *address, uint64_t bytes, enum usk_host_pin pin)
{
    uint64_t found_bytes = 0;
    struct usk_range *range;
    size_t i;

    pthread_mutex_lock(&pins->lock);
    i = usk_ranges_find(&pins->ranges, (uintptr_t)address);
    range = i < pins->ranges.n ? &pins->ranges.items[i] : NULL;
    if (range && range->start == (uintptr_t)address && range->tag == pin && (!bytes || bytes == range->bytes)) {
        found_bytes = range->bytes;
        usk_ranges_remove(&pins->ranges, i, 1);
    }
    pthread_mutex_unlock(&pins->lock);
    return found_bytes;
}

int usk_host_pins_register(struct usk_host_pins *pins, void *address, uint64_t bytes, unsigned int flags,
                           struct unstick_error *error)
{
    uint64_t page_bytes = usk_os_page_bytes(), start = (uintptr_t)address & ~(page_bytes - 1), end;
    struct unstick_error cause;
    int r;

    if (!address || !bytes || !usk_add((uintptr_t)address, bytes, &end) || !usk_align_up(end, page_bytes, &end))
        return pins_invalid(error, "register_host", "this is no range", address, bytes);
    if (flags & USK_REGISTER_READ_ONLY)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "register_host",
                             "the host device does not register read-only files: read them through a buffer");
    r = pins_insert(pins, "register_host", address, bytes, USK_HOST_PIN_REGISTERED, error);
    if (r < 0)
        return r;
    /* Brings the pages in without changing them, and finds out that there are none. */
    r = usk_os_file_populate((void *)(uintptr_t)start, end - start, &cause);
    if (r < 0) {
        pins_take(pins, address, bytes, USK_HOST_PIN_REGISTERED);
        return usk_error_set(error, UNSTICK_UNSUPPORTED, cause.native, "register_host",
                             "cannot register %" PRIu64 " bytes at %p: %s", bytes, address, cause.text);
    }
    return UNSTICK_OK;
}

int usk_host_pins_unregister(struct usk_host_pins *pins, struct usk_host_lanes *lanes, void *address, uint64_t bytes,
                             struct unstick_error *error)
{
    if (usk_host_lanes_use(lanes, address, bytes))
        return pins_invalid(error, "unregister_host", "a copy still uses the range: wait for it first", address, bytes);
    if (!bytes || !pins_take(pins, address, bytes, USK_HOST_PIN_REGISTERED))
        return pins_invalid(error, "unregister_host", "this range was not registered as one", address, bytes);
    return UNSTICK_OK;
}

int usk_host_pins_alloc(struct usk_host_pins *pins, uint64_t bytes, void **ret_address, struct unstick_error *error)
{
    void *address;
    int r;

    if (!bytes || !usk_align_up(bytes, usk_os_page_bytes(), &bytes))
        return pins_invalid(error, "host_alloc", "this is no size", NULL, bytes);
    r = usk_os_map_anonymous(bytes, &address, error);
    if (r < 0)
        return r;
    r = usk_os_populate(address, bytes, error);
    if (r == UNSTICK_OK)
        r = pins_insert(pins, "host_alloc", address, bytes, USK_HOST_PIN_ALLOCATED, error);
    if (r < 0) {
        usk_os_unmap(address, bytes, NULL);
        return r;
    }
    *ret_address = address;
    return UNSTICK_OK;
}

int usk_host_pins_free(struct usk_host_pins *pins, struct usk_host_lanes *lanes, void *address,
                       struct unstick_error *error)
{
    uint64_t bytes;

    if (usk_host_lanes_use(lanes, address, 1))
        return pins_invalid(error, "host_free", "a copy still uses the memory: wait for it first", address, 1);
    bytes = pins_take(pins, address, 0, USK_HOST_PIN_ALLOCATED);
    if (!bytes)
        return pins_invalid(error, "host_free", "this is not the start of memory from host_alloc", address, 0);
    return usk_os_unmap(address, bytes, error);
}

int usk_host_pins_check(struct usk_host_pins *pins, const char *operation, const void *address, uint64_t bytes,
                        struct unstick_error *error)
{
    uint64_t start = (uintptr_t)address, end;
    const struct usk_range *range;
    bool is_crossed;
    size_t i;

    if (!address || !usk_add(start, bytes, &end))
        return pins_invalid(error, operation, "this is no host memory", address, bytes);
    pthread_mutex_lock(&pins->lock);
    i = usk_ranges_find(&pins->ranges, start);
    range = i < pins->ranges.n ? &pins->ranges.items[i] : NULL;
    is_crossed = range && range->start < end && (range->start > start || range->start + range->bytes < end);
    pthread_mutex_unlock(&pins->lock);
    if (is_crossed)
        return pins_invalid(error, operation, "the host memory crosses the border of a registration", address, bytes);
    return UNSTICK_OK;
}
