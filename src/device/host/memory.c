/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical memory is ranges of one memfd. A range is backed (fallocate) from create until the creator's hold and the
 * last mapping are gone, and punched out then: so the blocks of the file are exactly used_bytes, and a shortage is an
 * error of create and never a SIGBUS.
 *
 * A GPU does not get fragmented: its handles need not lie together. A handle here is one range, so that one mmap maps
 * it; where no gap is long enough for a new one, it is put behind the end of the file, which grows but is sparse.
 * What bounds the device is the sum of the ranges, not the length of the file.
 *
 * Every function checks everything first, makes room in the tables next, asks the system then, and changes the tables
 * last: a failure changes nothing. The tables are the baton's; only used_bytes is read by other threads.
 */
#include "device/host/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"

/* What create leaves to the rest of the machine: beyond it the kernel would not refuse, but look for a process to
 * kill. It is asked for again after each quarter of what was there. */
#define MEMORY_RESERVE_BYTES (UINT64_C(64) << 20)
#define MEMORY_CREDIT_PART 4

struct handle {
    uint64_t offset, bytes;
    uint32_t n_mappings;
    bool is_held; /* by its creator */
};

static void *memory_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

static int memory_invalid(struct unstick_error *error, const char *operation, const char *what, uint64_t address,
                          uint64_t bytes)
{
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, operation, "%s (%" PRIu64 " bytes at 0x%" PRIx64 ")", what,
                         bytes, address);
}

static int memory_no_room(struct unstick_error *error, const char *operation)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, operation,
                         "no memory for the tables of the host device");
}

static bool memory_is_aligned(const struct usk_host_memory *memory, uint64_t address, uint64_t bytes)
{
    uint64_t end;

    return bytes && !((address | bytes) & (memory->granularity_bytes - 1)) && usk_add(address, bytes, &end);
}

int usk_host_memory_init(struct usk_host_memory *memory, uint64_t bytes, uint64_t granularity_bytes,
                         struct unstick_error *error)
{
    static atomic_uint n_devices;
    int r;

    *memory = (struct usk_host_memory){ .granularity_bytes = granularity_bytes, .total_bytes = bytes };
    usk_slots_init(&memory->handles, sizeof(struct handle));
    snprintf(memory->name, sizeof(memory->name), "unstick-host-%d-%u", usk_os_pid(), atomic_fetch_add(&n_devices, 1));
    r = usk_os_shm_new(memory->name, bytes, &memory->fd, error);
    return r < 0 ? r : UNSTICK_OK;
}

void usk_host_memory_fini(struct usk_host_memory *memory)
{
    /* Mappings lie inside reservations, and the file goes with its last mapping and descriptor. */
    for (size_t i = 0; i < memory->reservations.n; i++)
        usk_os_unmap(memory_pointer(memory->reservations.items[i].start), memory->reservations.items[i].bytes, NULL);
    usk_os_close(memory->fd);
    usk_ranges_fini(&memory->mappings);
    usk_ranges_fini(&memory->reservations);
    usk_ranges_fini(&memory->used);
    usk_slots_fini(&memory->handles);
}

int usk_host_memory_reserve(struct usk_host_memory *memory, uint64_t bytes, uint64_t align_bytes,
                            uint64_t *ret_address, struct unstick_error *error)
{
    void *address;
    int r;

    if (!memory_is_aligned(memory, 0, bytes) || !usk_is_power_of_two(align_bytes) ||
        align_bytes < memory->granularity_bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "reserve",
                             "cannot reserve %" PRIu64 " bytes aligned to %" PRIu64 ": both are multiples of %" PRIu64
                             ", and the alignment is a power of two",
                             bytes, align_bytes, memory->granularity_bytes);
    if (!usk_ranges_grow(&memory->reservations))
        return memory_no_room(error, "reserve");
    r = usk_os_reserve(bytes, align_bytes, &address, error);
    if (r < 0)
        return r;
    usk_ranges_insert(&memory->reservations, (uintptr_t)address, bytes, 0);
    *ret_address = (uintptr_t)address;
    return UNSTICK_OK;
}

int usk_host_memory_unreserve(struct usk_host_memory *memory, uint64_t address, uint64_t bytes,
                              struct unstick_error *error)
{
    struct usk_range *range = usk_ranges_exact(&memory->reservations, address, bytes);
    int r;

    if (!range)
        return memory_invalid(error, "unreserve", "this range was not reserved as one", address, bytes);
    if (usk_ranges_overlaps(&memory->mappings, address, bytes))
        return memory_invalid(error, "unreserve", "something is still mapped in the range: unmap it first", address,
                              bytes);
    r = usk_os_unmap(memory_pointer(address), bytes, error);
    if (r < 0)
        return r;
    usk_ranges_remove(&memory->reservations, (size_t)(range - memory->reservations.items), 1);
    return UNSTICK_OK;
}

/* Where in the file a new range goes: into the first gap that holds it, else behind the last one. */
static uint64_t memory_find_gap(struct usk_host_memory *memory, uint64_t bytes)
{
    const struct usk_ranges *used = &memory->used;
    uint64_t end = 0;

    if (memory->n_packed)
        end = used->items[memory->n_packed - 1].start + used->items[memory->n_packed - 1].bytes;
    for (size_t i = memory->n_packed; i < used->n && used->items[i].start - end < bytes; i++) {
        if (used->items[i].start == end && i == memory->n_packed)
            memory->n_packed++;
        end = used->items[i].start + used->items[i].bytes;
    }
    return end;
}

/* Does the machine have that much? */
static int memory_ask_machine(struct usk_host_memory *memory, uint64_t bytes, struct unstick_error *error)
{
    char asked_text[USK_SIZE_TEXT_MAX], has_text[USK_SIZE_TEXT_MAX];
    struct usk_os_memory machine;
    uint64_t available, needed;
    int r;

    if (bytes <= memory->credit_bytes)
        return UNSTICK_OK;
    /* Where it cannot be asked, the backing alone has to find out. */
    r = usk_os_memory(&machine, NULL);
    if (r < 0) {
        memory->credit_bytes = bytes;
        return UNSTICK_OK;
    }
    available = machine.available_bytes;
    if (machine.cgroup_limit_bytes != UINT64_MAX)
        available = usk_min(available, machine.cgroup_limit_bytes - usk_min(machine.cgroup_limit_bytes,
                                                                            machine.cgroup_used_bytes));
    if (!usk_add(bytes, MEMORY_RESERVE_BYTES, &needed) || needed > available) {
        r = usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "create",
                          "the machine is short of memory: asked for %s of a host device, %s is available and 64 MiB "
                          "stay free; close other programs or use a smaller host device",
                          usk_size_format(asked_text, bytes), usk_size_format(has_text, available));
        usk_error_shortage(error, bytes, available - usk_min(available, MEMORY_RESERVE_BYTES));
        return r;
    }
    memory->credit_bytes = usk_max(bytes, (available - MEMORY_RESERVE_BYTES) / MEMORY_CREDIT_PART);
    return UNSTICK_OK;
}

static int memory_out_of_device_memory(const struct usk_host_memory *memory, uint64_t bytes, uint64_t free_bytes,
                                       struct unstick_error *error)
{
    char asked_text[USK_SIZE_TEXT_MAX], free_text[USK_SIZE_TEXT_MAX], total_text[USK_SIZE_TEXT_MAX];
    int r;

    r = usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, 0, "create",
                      "the host device is full: asked for %s, %s of %s is free; evict something or open a larger one",
                      usk_size_format(asked_text, bytes), usk_size_format(free_text, free_bytes),
                      usk_size_format(total_text, memory->total_bytes));
    usk_error_shortage(error, bytes, free_bytes);
    return r;
}

static int memory_fill(struct usk_host_memory *memory, uint64_t offset, uint64_t bytes, struct unstick_error *error)
{
    struct unstick_error cause;
    int r = usk_os_shm_fill(memory->fd, offset, bytes, &cause);

    if (r < 0) {
        /* What was backed before the shortage goes back; if that is refused too, the next create takes it over. */
        usk_os_shm_punch(memory->fd, offset, bytes, NULL);
        memory->credit_bytes = 0;
        r = usk_error_set(error, UNSTICK_OUT_OF_DEVICE_MEMORY, cause.native, "create",
                          "the machine is short of memory for the host device: %s", cause.text);
        usk_error_shortage(error, bytes, 0);
    }
    return r;
}

int usk_host_memory_create(struct usk_host_memory *memory, uint64_t bytes, uint64_t *ret_handle,
                           struct unstick_error *error)
{
    uint64_t free_bytes = memory->total_bytes - atomic_load(&memory->used_bytes), offset, id;
    struct handle *handle;
    int r;

    if (!memory_is_aligned(memory, 0, bytes))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "create",
                             "the size of a handle is a multiple of %" PRIu64 " bytes; %" PRIu64 " is none",
                             memory->granularity_bytes, bytes);
    if (bytes > free_bytes)
        return memory_out_of_device_memory(memory, bytes, free_bytes, error);
    r = memory_ask_machine(memory, bytes, error);
    if (r < 0)
        return r;
    if (!usk_ranges_grow(&memory->used))
        return memory_no_room(error, "create");
    handle = usk_slots_new(&memory->handles, &id);
    if (!handle)
        return memory_no_room(error, "create");
    offset = memory_find_gap(memory, bytes);
    r = memory_fill(memory, offset, bytes, error);
    if (r < 0) {
        usk_slots_free(&memory->handles, id);
        return r;
    }
    *handle = (struct handle){ .offset = offset, .bytes = bytes, .is_held = true };
    usk_ranges_insert(&memory->used, offset, bytes, id);
    atomic_fetch_add(&memory->used_bytes, bytes);
    memory->credit_bytes -= bytes;
    *ret_handle = id;
    return UNSTICK_OK;
}

/* Nobody holds or maps it. On failure it stays used. */
static int handle_free(struct usk_host_memory *memory, uint64_t id, struct handle *handle, struct unstick_error *error)
{
    size_t index = usk_ranges_find(&memory->used, handle->offset);
    int r;

    r = usk_os_shm_punch(memory->fd, handle->offset, handle->bytes, error);
    if (r < 0)
        return r;
    usk_ranges_remove(&memory->used, index, 1);
    if (memory->n_packed > index)
        memory->n_packed = index;
    atomic_fetch_sub(&memory->used_bytes, handle->bytes);
    usk_slots_free(&memory->handles, id);
    return UNSTICK_OK;
}

int usk_host_memory_release(struct usk_host_memory *memory, uint64_t id, struct unstick_error *error)
{
    struct handle *handle = usk_slots_get(&memory->handles, id);

    if (!handle || !handle->is_held)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "release", "handle 0x%" PRIx64 " is not held", id);
    if (!handle->n_mappings)
        return handle_free(memory, id, handle, error);
    handle->is_held = false;
    return UNSTICK_OK;
}

int usk_host_memory_map(struct usk_host_memory *memory, uint64_t address, uint64_t bytes, uint64_t id,
                        struct unstick_error *error)
{
    struct handle *handle = usk_slots_get(&memory->handles, id);
    size_t i = usk_ranges_find(&memory->reservations, address);
    const struct usk_range *reservation;
    int r;

    if (!memory_is_aligned(memory, address, bytes))
        return memory_invalid(error, "map", "the range is not a multiple of the granularity", address, bytes);
    if (!handle || !handle->is_held)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "map", "handle 0x%" PRIx64 " is not held", id);
    if (bytes != handle->bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "map",
                             "a handle is mapped whole: it has %" PRIu64 " bytes, asked for %" PRIu64, handle->bytes,
                             bytes);
    reservation = i < memory->reservations.n ? &memory->reservations.items[i] : NULL;
    if (!reservation || reservation->start > address || reservation->start + reservation->bytes < address + bytes)
        return memory_invalid(error, "map", "the range is not inside a reservation", address, bytes);
    if (usk_ranges_overlaps(&memory->mappings, address, bytes))
        return memory_invalid(error, "map", "something is mapped there already", address, bytes);
    if (!usk_ranges_grow(&memory->mappings))
        return memory_no_room(error, "map");
    r = usk_os_map_shm(memory_pointer(address), bytes, memory->fd, handle->offset, true, error);
    if (r < 0)
        return r;
    usk_ranges_insert(&memory->mappings, address, bytes, id);
    handle->n_mappings++;
    return UNSTICK_OK;
}

int usk_host_memory_unmap(struct usk_host_memory *memory, struct usk_host_lanes *lanes, const struct usk_log *log,
                          uint64_t address, uint64_t bytes, struct unstick_error *error)
{
    size_t first = usk_ranges_find(&memory->mappings, address), n = 0;
    uint64_t end = address;
    int r;

    if (!memory_is_aligned(memory, address, bytes))
        return memory_invalid(error, "unmap", "the range is not a multiple of the granularity", address, bytes);
    while (end < address + bytes && first + n < memory->mappings.n && memory->mappings.items[first + n].start == end) {
        end += memory->mappings.items[first + n].bytes;
        n++;
    }
    if (end != address + bytes)
        return memory_invalid(error, "unmap", "the range does not cover whole mappings, one behind the other", address,
                              bytes);
    if (usk_host_lanes_use(lanes, memory_pointer(address), bytes))
        return memory_invalid(error, "unmap", "submitted work still uses the range: wait for it first", address, bytes);
    r = usk_os_unmap_to_reserve(memory_pointer(address), bytes, error);
    if (r < 0)
        return r;
    for (size_t i = first; i < first + n; i++) {
        uint64_t id = memory->mappings.items[i].tag;
        struct handle *handle = usk_slots_get(&memory->handles, id);
        struct unstick_error cause;

        /* The addresses are free in any case; memory that the system will not take back stays counted as used. */
        if (!--handle->n_mappings && !handle->is_held && handle_free(memory, id, handle, &cause) < 0)
            usk_log_write(log, UNSTICK_LOG_WARNING, "host device: %s", cause.text);
    }
    usk_ranges_remove(&memory->mappings, first, n);
    return UNSTICK_OK;
}

int usk_host_memory_check(const struct usk_host_memory *memory, const char *operation, uint64_t address,
                          uint64_t bytes, struct unstick_error *error)
{
    size_t i = usk_ranges_find(&memory->mappings, address);
    uint64_t end, at = address;

    if (!bytes || !usk_add(address, bytes, &end))
        return memory_invalid(error, operation, "this is no range", address, bytes);
    for (; at < end && i < memory->mappings.n && memory->mappings.items[i].start <= at; i++)
        at = memory->mappings.items[i].start + memory->mappings.items[i].bytes;
    if (at < end)
        return memory_invalid(error, operation, "the range is not mapped", address, bytes);
    return UNSTICK_OK;
}

int usk_host_memory_backed(const struct usk_host_memory *memory, uint64_t *ret_bytes, struct unstick_error *error)
{
    return usk_os_shm_backed(memory->fd, ret_bytes, error);
}

int usk_host_memory_mapped(const struct usk_host_memory *memory, uint64_t *ret_bytes, struct unstick_error *error)
{
    size_t length = strlen(memory->name);
    uint64_t start, end, bytes = 0;
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];

    if (!file)
        return usk_error_errno(error, errno, "fopen", "cannot read the mappings of this process");
    while (fgets(line, sizeof(line), file)) {
        const char *name = strstr(line, "/memfd:");

        /* The kernel adds " (deleted)": -1-1 is not -1-10. */
        if (name && !strncmp(name + 7, memory->name, length) && name[7 + length] == ' ' &&
            sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) == 2)
            bytes += end - start;
    }
    fclose(file);
    *ret_bytes = bytes;
    return UNSTICK_OK;
}
