/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device memory. A handle is a range of the device's file, and addresses are addresses of this process: a mapping of
 * the caller shows the range with the rights that were asked for and no others, so that a test can look into device
 * memory, and faults where a kernel would. The fake itself never goes through them: it has its own view of every handle
 * (alias) and looks addresses up in its tables, as a GPU does in its own, so a copy to memory that is gone fails as the
 * driver fails it.
 *
 * The rules are those measured on driver 580: offset 0 and the whole handle, over reserved and unmapped addresses;
 * unmapping and access go by whole mappings; memory is free when neither a hold nor a mapping is left.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake.h"

#define MEMORY_FILE_BYTES (UINT64_C(1) << 52)
#define MEMORY_MAX_ADDRESSES (UINT64_C(1) << 46)

static bool is_granular(uint64_t bytes)
{
    return bytes % FAKE_GRANULARITY_BYTES == 0;
}

static uint64_t memory_lagging_bytes(struct fake_device *device)
{
    uint64_t now_ns = fake_now_ns(), bytes = 0;
    size_t n = 0;

    for (size_t i = 0; i < device->n_lags; i++) {
        if (device->lags[i].until_ns <= now_ns)
            continue;
        bytes += device->lags[i].bytes;
        device->lags[n++] = device->lags[i];
    }
    device->n_lags = n;
    return bytes;
}

uint64_t fake_memory_free_bytes(struct fake_device *device)
{
    uint64_t used = device->used_bytes + device->stolen_bytes + memory_lagging_bytes(device);

    return used < device->total_bytes ? device->total_bytes - used : 0;
}

bool fake_memory_take(struct fake_device *device, uint64_t bytes)
{
    if (bytes > fake_memory_free_bytes(device))
        return false;
    device->used_bytes += bytes;
    return true;
}

void fake_memory_give(struct fake_device *device, uint64_t bytes)
{
    device->used_bytes -= bytes;
    if (fake.settings.free_lag_ms) {
        device->lags = realloc(device->lags, (device->n_lags + 1) * sizeof(*device->lags));
        if (!device->lags)
            abort();
        device->lags[device->n_lags++] = (struct fake_lag){
            .bytes = bytes, .until_ns = fake_now_ns() + fake.settings.free_lag_ms * UINT64_C(1000000)};
    }
}

static CUresult handle_new(struct fake_device *device, uint64_t bytes, struct fake_handle **ret_handle)
{
    struct fake_handle *handle;
    void *alias;

    if (device->fd <= 0) {
        device->fd = memfd_create("fakecuda", MFD_CLOEXEC);
        if (device->fd <= 0 || ftruncate(device->fd, (off_t)MEMORY_FILE_BYTES) < 0)
            return CUDA_ERROR_UNKNOWN;
    }
    if (!fake_memory_take(device, bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (fallocate(device->fd, 0, (off_t)device->next_offset, (off_t)bytes) < 0)
        goto fail_take;
    alias = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device->fd, (off_t)device->next_offset);
    if (alias == MAP_FAILED)
        goto fail_backed;
    madvise(alias, bytes, MADV_DONTFORK);
    if (fake.settings.is_dirty)
        memset(alias, 0xa5, bytes);
    handle = fake_allocate(sizeof(*handle));
    *handle = (struct fake_handle){.id = fake_new_id(), .bytes = bytes, .offset = device->next_offset,
                                   .device = device, .alias = alias};
    device->next_offset += bytes;
    fake_map_put(&fake.handles, handle->id, handle);
    *ret_handle = handle;
    return 0;

fail_backed:
    fallocate(device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)device->next_offset, (off_t)bytes);
fail_take:
    fake_memory_give(device, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
}

/* The memory goes when nobody holds it and nothing is mapped to it. */
static void handle_collect(struct fake_handle *handle)
{
    if (handle->n_holds || handle->n_mappings)
        return;
    munmap(handle->alias, handle->bytes);
    fallocate(handle->device->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)handle->offset,
              (off_t)handle->bytes);
    fake_memory_give(handle->device, handle->bytes);
    fake_map_remove(&fake.handles, handle->id);
    free(handle);
}

static struct fake_handle *handle_find(CUmemGenericAllocationHandle id)
{
    struct fake_handle *handle = fake_map_find(&fake.handles, id);

    if (handle && handle->n_holds)
        return handle;
    fake.misuse.stale_handles++;
    return NULL;
}

static struct fake_reservation *reservation_find(uint64_t address, uint64_t bytes)
{
    struct fake_reservation *reservation = fake_map_floor(&fake.reservations, address);

    if (!reservation || bytes > reservation->bytes || address - reservation->address > reservation->bytes - bytes)
        return NULL;
    return reservation;
}

static CUresult reservation_new(uint64_t bytes, uint64_t alignment, struct fake_reservation **ret_reservation)
{
    struct fake_reservation *reservation;
    uint64_t start, address, end;
    void *mapped;

    if (bytes > MEMORY_MAX_ADDRESSES || alignment > MEMORY_MAX_ADDRESSES)
        return CUDA_ERROR_OUT_OF_MEMORY;
    mapped = mmap(NULL, bytes + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    start = (uint64_t)(uintptr_t)mapped;
    end = start + bytes + alignment;
    address = (start + alignment - 1) & ~(alignment - 1);
    if (address > start)
        munmap(mapped, address - start);
    if (end > address + bytes)
        munmap((void *)(uintptr_t)(address + bytes), end - (address + bytes));
    reservation = fake_allocate(sizeof(*reservation));
    *reservation = (struct fake_reservation){.address = address, .bytes = bytes};
    fake_map_put(&fake.reservations, address, reservation);
    *ret_reservation = reservation;
    return 0;
}

static void reservation_free(struct fake_reservation *reservation)
{
    munmap((void *)(uintptr_t)reservation->address, reservation->bytes);
    fake_map_remove(&fake.reservations, reservation->address);
    free(reservation);
}

static bool mapping_is_any(uint64_t address, uint64_t bytes)
{
    const struct fake_mapping *last = fake_map_floor(&fake.mappings, address + bytes - 1);

    return last && last->address + last->bytes > address;
}

/* Whole mappings, one behind the other, and nothing else: the place of the first, and how many. */
static bool mapping_find_whole(uint64_t address, uint64_t bytes, size_t *ret_place, size_t *ret_n)
{
    size_t place = fake_map_place(&fake.mappings, address), n = 0;
    uint64_t next = address;

    while (next < address + bytes) {
        const struct fake_mapping *mapping;

        if (place + n == fake.mappings.n)
            return false;
        mapping = fake.mappings.values[place + n];
        if (mapping->address != next)
            return false;
        next += mapping->bytes;
        n++;
    }
    *ret_place = place;
    *ret_n = n;
    return n && next == address + bytes;
}

static bool mapping_new(uint64_t address, struct fake_handle *handle)
{
    struct fake_mapping *mapping;
    void *at = (void *)(uintptr_t)address;

    if (mmap(at, handle->bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, handle->device->fd, (off_t)handle->offset) != at)
        return false;
    madvise(at, handle->bytes, MADV_DONTFORK);
    mapping = fake_allocate(sizeof(*mapping));
    *mapping = (struct fake_mapping){.address = address, .bytes = handle->bytes, .handle = handle,
                                     .n_not_ready = fake.settings.not_ready};
    handle->n_mappings++;
    fake_map_put(&fake.mappings, address, mapping);
    return true;
}

static void mapping_collect(struct fake_mapping *mapping)
{
    if (!mapping->is_gone || mapping->n_in_use)
        return;
    mapping->handle->n_mappings--;
    handle_collect(mapping->handle);
    free(mapping);
}

/* Work that runs on it loses it: what is copied then is undefined on a GPU, and an error here. */
static void mapping_free(struct fake_mapping *mapping)
{
    void *at = (void *)(uintptr_t)mapping->address;

    if (mmap(at, mapping->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != at)
        abort();
    fake_map_remove(&fake.mappings, mapping->address);
    mapping->is_gone = true;
    mapping_collect(mapping);
}

static bool mapping_protect(struct fake_mapping *mapping)
{
    static const int protections[] = {PROT_NONE, PROT_READ, PROT_NONE, PROT_READ | PROT_WRITE};
    int access = mapping->access[mapping->handle->device->ordinal];

    return mprotect((void *)(uintptr_t)mapping->address, mapping->bytes, protections[access]) == 0;
}

bool fake_memory_is_device(uint64_t address)
{
    return reservation_find(address, 1) != NULL;
}

bool fake_memory_is_accessible(const struct fake_device *device, uint64_t address, uint64_t bytes, int access)
{
    uint64_t next = address;

    if (address + bytes < address)
        return false;
    while (next < address + bytes) {
        const struct fake_mapping *mapping = fake_map_floor(&fake.mappings, next);

        if (!mapping || mapping->address + mapping->bytes <= next)
            return false;
        if ((mapping->access[device->ordinal] & access) != access)
            return false;
        next = mapping->address + mapping->bytes;
    }
    return true;
}

bool fake_memory_visit(struct fake_context *context, uint64_t address, uint64_t bytes, int access,
                       fake_piece_fn *visit, void *userdata)
{
    struct fake_mapping **pinned;
    size_t n = 0, n_max = (size_t)(bytes / FAKE_GRANULARITY_BYTES) + 2;
    uint64_t next = address, end = address + bytes;
    bool is_whole = true;

    if (!fake_memory_is_accessible(context->device, address, bytes, access))
        return false;
    pinned = fake_allocate(n_max * sizeof(struct fake_mapping *));
    while (next < end) {
        struct fake_mapping *mapping = fake_map_floor(&fake.mappings, next);

        mapping->n_in_use++;
        pinned[n++] = mapping;
        next = mapping->address + mapping->bytes;
    }
    fake_unlock();
    /* Address, size and handle of a pinned mapping do not change any more. */
    for (size_t i = 0; i < n; i++) {
        uint64_t first = pinned[i]->address > address ? pinned[i]->address : address;
        uint64_t last = pinned[i]->address + pinned[i]->bytes < end ? pinned[i]->address + pinned[i]->bytes : end;

        visit(userdata, pinned[i]->handle->alias + (first - pinned[i]->address), first - address, last - first);
    }
    fake_lock();
    for (size_t i = 0; i < n; i++) {
        is_whole &= !pinned[i]->is_gone;
        pinned[i]->n_in_use--;
        mapping_collect(pinned[i]);
    }
    free(pinned);
    return is_whole;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    struct fake_device *device;

    FAKE_ENTER(cuMemGetInfo_v2);
    device = fake_current()->device;
    if (!free_bytes || !total_bytes)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *free_bytes = fake_memory_free_bytes(device);
    *total_bytes = device->total_bytes;
    return fake_leave(0);
}

static CUresult memory_check_prop(const CUmemAllocationProp *prop)
{
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED || prop->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return CUDA_ERROR_INVALID_VALUE;
    if (prop->requestedHandleTypes & ~CU_MEM_HANDLE_TYPE_POSIX_FD)
        return CUDA_ERROR_NOT_SUPPORTED;
    return fake_device_find(prop->location.id) ? 0 : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *prop, int option)
{
    CUresult result;

    FAKE_ENTER(cuMemGetAllocationGranularity);
    result = memory_check_prop(prop);
    if (!result && (!bytes || option < CU_MEM_GRANULARITY_MINIMUM || option > CU_MEM_GRANULARITY_RECOMMENDED))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        *bytes = FAKE_GRANULARITY_BYTES;
    return fake_leave(result);
}

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t alignment, CUdeviceptr wish,
                             unsigned long long flags)
{
    struct fake_reservation *reservation;
    CUresult result;

    FAKE_ENTER(cuMemAddressReserve);
    (void)wish; /* a wish: the driver may give another range */
    if (!address || !bytes || !is_granular(bytes) || flags || (alignment & (alignment - 1)))
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (alignment < FAKE_GRANULARITY_BYTES)
        alignment = FAKE_GRANULARITY_BYTES;
    result = reservation_new(bytes, alignment, &reservation);
    if (!result)
        *address = reservation->address;
    return fake_leave(result);
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    struct fake_reservation *reservation;

    FAKE_ENTER(cuMemAddressFree);
    reservation = fake_map_find(&fake.reservations, address);
    if (!reservation || reservation->allocated_in || reservation->bytes != bytes || mapping_is_any(address, bytes))
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    reservation_free(reservation);
    return fake_leave(0);
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    struct fake_handle *made;
    CUresult result;

    FAKE_ENTER(cuMemCreate);
    result = memory_check_prop(prop);
    if (!result && (!handle || !bytes || !is_granular(bytes) || flags))
        result = CUDA_ERROR_INVALID_VALUE;
    if (!result)
        result = handle_new(&fake.devices[prop->location.id], bytes, &made);
    if (!result) {
        made->n_holds = 1;
        *handle = made->id;
    }
    return fake_leave(result);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    struct fake_handle *found;

    FAKE_ENTER(cuMemRelease);
    found = handle_find(handle);
    if (!found)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    found->n_holds--;
    handle_collect(found);
    return fake_leave(0);
}

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *address)
{
    struct fake_mapping *mapping;

    FAKE_ENTER(cuMemRetainAllocationHandle);
    mapping = fake_map_floor(&fake.mappings, (uint64_t)(uintptr_t)address);
    if (!handle || !mapping || mapping->address + mapping->bytes <= (uint64_t)(uintptr_t)address ||
        reservation_find(mapping->address, 1)->allocated_in)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    mapping->handle->n_holds++;
    *handle = mapping->handle->id;
    return fake_leave(0);
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    struct fake_handle *found;
    const struct fake_reservation *reservation;

    FAKE_ENTER(cuMemMap);
    found = handle_find(handle);
    if (!found || !bytes || !is_granular(bytes) || !is_granular(offset) || !is_granular(address) || flags)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (bytes > found->bytes || offset > found->bytes - bytes)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (offset || bytes != found->bytes)
        return fake_leave(CUDA_ERROR_NOT_SUPPORTED);
    reservation = reservation_find(address, bytes);
    if (!reservation || reservation->allocated_in || mapping_is_any(address, bytes))
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    return fake_leave(mapping_new(address, found) ? 0 : CUDA_ERROR_OUT_OF_MEMORY);
}

static CUresult memory_find_mappings(CUdeviceptr address, size_t bytes, size_t *ret_place, size_t *ret_n)
{
    const struct fake_reservation *reservation = reservation_find(address, bytes);

    if (!bytes || !reservation || reservation->allocated_in || !mapping_find_whole(address, bytes, ret_place, ret_n))
        return CUDA_ERROR_INVALID_VALUE;
    return 0;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    size_t place, n;
    CUresult result;

    FAKE_ENTER(cuMemUnmap);
    result = memory_find_mappings(address, bytes, &place, &n);
    while (!result && n--)
        mapping_free(fake.mappings.values[place]);
    return fake_leave(result);
}

static CUresult memory_set_access(size_t place, size_t n, const CUmemAccessDesc *access)
{
    for (size_t i = 0; i < n; i++) {
        struct fake_mapping *mapping = fake.mappings.values[place + i];

        mapping->access[access->location.id] = (unsigned char)access->flags;
        if (!mapping_protect(mapping))
            return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return 0;
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t n_access)
{
    size_t place, n;
    CUresult result;

    FAKE_ENTER(cuMemSetAccess);
    result = memory_find_mappings(address, bytes, &place, &n);
    if (!result && (!access || !n_access))
        result = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; !result && i < n_access; i++) {
        if (access[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || access[i].flags < 0 || access[i].flags == 2 ||
            access[i].flags > CU_MEM_ACCESS_READWRITE)
            result = CUDA_ERROR_INVALID_VALUE;
        else if (!fake_device_find(access[i].location.id))
            result = CUDA_ERROR_INVALID_DEVICE;
    }
    for (size_t i = 0; (!result || result == CUDA_ERROR_NOT_READY) && i < n; i++) {
        struct fake_mapping *mapping = fake.mappings.values[place + i];

        /* Time passes for all of them. */
        if (mapping->n_not_ready) {
            mapping->n_not_ready--;
            result = CUDA_ERROR_NOT_READY;
        }
    }
    for (size_t i = 0; !result && i < n_access; i++)
        result = memory_set_access(place, n, &access[i]);
    return fake_leave(result);
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    const struct fake_mapping *mapping;

    FAKE_ENTER(cuMemGetAccess);
    mapping = fake_map_floor(&fake.mappings, address);
    if (!flags || !location || !fake_device_find(location->id) || !mapping ||
        mapping->address + mapping->bytes <= address)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *flags = mapping->access[location->id];
    return fake_leave(0);
}

/* The other kind of device memory: addresses, memory and mapping in one. */
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    struct fake_context *context;
    struct fake_reservation *reservation;
    struct fake_handle *handle;
    CUmemAccessDesc access = {.flags = CU_MEM_ACCESS_READWRITE};
    CUresult result;

    FAKE_ENTER(cuMemAlloc_v2);
    context = fake_current();
    if (!address || !bytes || bytes > MEMORY_MAX_ADDRESSES)
        return fake_leave(bytes && address ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE);
    bytes = (bytes + FAKE_GRANULARITY_BYTES - 1) & ~(FAKE_GRANULARITY_BYTES - 1);
    result = reservation_new(bytes, FAKE_GRANULARITY_BYTES, &reservation);
    if (result)
        return fake_leave(result);
    reservation->allocated_in = context;
    result = handle_new(context->device, bytes, &handle);
    if (result) {
        reservation_free(reservation);
        return fake_leave(result);
    }
    access.location.id = context->device->ordinal;
    if (!mapping_new(reservation->address, handle)) {
        handle_collect(handle);
        reservation_free(reservation);
        return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    result = memory_set_access(fake_map_place(&fake.mappings, reservation->address), 1, &access);
    if (result) {
        mapping_free(fake_map_find(&fake.mappings, reservation->address));
        reservation_free(reservation);
        return fake_leave(result);
    }
    *address = reservation->address;
    return fake_leave(0);
}

static void allocation_free(struct fake_reservation *reservation)
{
    mapping_free(fake_map_find(&fake.mappings, reservation->address));
    reservation_free(reservation);
}

/* Waits for all work, as the driver does. */
CUresult cuMemFree_v2(CUdeviceptr address)
{
    struct fake_reservation *reservation;

    FAKE_ENTER(cuMemFree_v2);
    if (!address)
        return fake_leave(0);
    fake_context_drain(fake_current());
    reservation = fake_map_find(&fake.reservations, address);
    if (!reservation || !reservation->allocated_in)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    allocation_free(reservation);
    return fake_leave(0);
}

void fake_memory_end_context(struct fake_context *context)
{
    for (size_t i = fake.reservations.n; i-- > 0;) {
        struct fake_reservation *reservation = fake.reservations.values[i];

        if (reservation->allocated_in != context)
            continue;
        fake.n_left_behind++;
        allocation_free(reservation);
    }
}
