/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host memory that the device knows: registered, or allocated by the driver. What may be registered depends on what is
 * mapped there, so the system is asked (/proc/self/maps): pages must be there; shared file mappings only read-only, and
 * read-only ones only with the flag and on a device that can. Memory files count as anonymous memory, as measured.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static struct fake_registration *host_find_overlap(uint64_t address, uint64_t bytes)
{
    struct fake_registration *last = fake_map_floor(&fake.registrations, address + bytes - 1);

    return last && last->address + last->bytes > address ? last : NULL;
}

CUresult fake_host_use(const void *address, uint64_t bytes, bool is_written,
                       struct fake_registration **ret_registration)
{
    uint64_t start = (uint64_t)(uintptr_t)address;
    struct fake_registration *found = host_find_overlap(start, bytes);

    if (start + bytes < start || fake_memory_is_device(start))
        return CUDA_ERROR_INVALID_VALUE;
    if (found) {
        if (start < found->address || start + bytes > found->address + found->bytes)
            return CUDA_ERROR_INVALID_VALUE;
        if (is_written && found->flags & CU_MEMHOSTREGISTER_READ_ONLY)
            return CUDA_ERROR_INVALID_VALUE;
    }
    if (found)
        found->n_in_use++;
    *ret_registration = found;
    return 0;
}

static void host_collect(struct fake_registration *registration)
{
    if (registration->is_gone && !registration->n_in_use)
        free(registration);
}

void fake_host_unuse(struct fake_registration *registration)
{
    registration->n_in_use--;
    host_collect(registration);
}

static void host_end(struct fake_registration *registration)
{
    fake.misuse.unregistered_in_use += registration->n_in_use > 0;
    fake_map_remove(&fake.registrations, registration->address);
    if (registration->is_allocation)
        munmap((void *)(uintptr_t)registration->address, registration->bytes);
    registration->is_gone = true;
    host_collect(registration);
}

static void host_new(uint64_t address, uint64_t bytes, unsigned int flags, bool is_allocation)
{
    struct fake_registration *registration = fake_allocate(sizeof(*registration));

    *registration = (struct fake_registration){.address = address, .bytes = bytes, .flags = flags,
                                               .is_allocation = is_allocation, .context = fake_current()};
    fake_map_put(&fake.registrations, address, registration);
}

/* One line of /proc/self/maps that overlaps the range. */
static CUresult host_check_mapping(const char *rights, const char *path, unsigned int flags)
{
    bool is_file = path[0] == '/' && strncmp(path, "/memfd:", 7) != 0 && strncmp(path, "/dev/", 5) != 0;

    if (rights[0] != 'r')
        return CUDA_ERROR_INVALID_VALUE;
    if (rights[1] == 'w')
        return is_file && rights[3] == 's' ? CUDA_ERROR_INVALID_VALUE : 0;
    return flags & CU_MEMHOSTREGISTER_READ_ONLY ? 0 : CUDA_ERROR_INVALID_VALUE;
}

static CUresult host_check_mappings(uint64_t address, uint64_t bytes, unsigned int flags)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    uint64_t next = address;
    char *line = NULL;
    size_t size = 0;
    CUresult result = maps ? 0 : CUDA_ERROR_UNKNOWN;

    while (!result && next < address + bytes && getline(&line, &size, maps) > 0) {
        unsigned long long first, last;
        char rights[5];
        int path_at = 0;

        if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %n", &first, &last, rights, &path_at) < 3 || last <= next)
            continue;
        if (first > next)
            break;
        result = host_check_mapping(rights, line + path_at, flags);
        next = last;
    }
    free(line);
    if (maps)
        fclose(maps);
    return !result && next < address + bytes ? CUDA_ERROR_INVALID_VALUE : result;
}

CUresult cuMemHostRegister_v2(void *address, size_t bytes, unsigned int flags)
{
    uint64_t start = (uint64_t)(uintptr_t)address, page = start & ~UINT64_C(4095);
    CUresult result;

    FAKE_ENTER(cuMemHostRegister_v2);
    if (!address || !bytes || start + bytes < start || flags > 15 || bytes >= FAKE_MAX_REGISTRATION_BYTES ||
        fake_memory_is_device(start))
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (host_find_overlap(start, bytes))
        return fake_leave(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    if (flags & CU_MEMHOSTREGISTER_IOMEMORY ||
        (flags & CU_MEMHOSTREGISTER_READ_ONLY && fake.settings.has_no_read_only_register))
        return fake_leave(CUDA_ERROR_NOT_SUPPORTED);
    result = host_check_mappings(start, bytes, flags);
    if (result)
        return fake_leave(result);
    /* Pinning brings the pages in; pages beyond the end of a file cannot be. */
    if (madvise((void *)(uintptr_t)page, start + bytes - page, MADV_POPULATE_READ) < 0 && errno == EFAULT)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    host_new(start, bytes, flags, false);
    return fake_leave(0);
}

CUresult cuMemHostUnregister(void *address)
{
    struct fake_registration *found;

    FAKE_ENTER(cuMemHostUnregister);
    found = fake_map_find(&fake.registrations, (uint64_t)(uintptr_t)address);
    if (!found || found->is_allocation)
        return fake_leave(address ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : CUDA_ERROR_INVALID_VALUE);
    host_end(found);
    return fake_leave(0);
}

CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned int flags)
{
    void *mapped;

    FAKE_ENTER(cuMemHostAlloc);
    if (!address || !bytes || flags > 7)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (bytes > SIZE_MAX - 4095)
        return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
    bytes = (bytes + 4095) & ~(size_t)4095;
    mapped = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
    host_new((uint64_t)(uintptr_t)mapped, bytes, CU_MEMHOSTREGISTER_PORTABLE, true);
    *address = mapped;
    return fake_leave(0);
}

/* Waits for all work, as the driver does. */
CUresult cuMemFreeHost(void *address)
{
    struct fake_registration *found;

    FAKE_ENTER(cuMemFreeHost);
    fake_context_drain(fake_current());
    found = fake_map_find(&fake.registrations, (uint64_t)(uintptr_t)address);
    if (!found || !found->is_allocation)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    host_end(found);
    return fake_leave(0);
}

void fake_host_end_context(struct fake_context *context)
{
    for (size_t i = fake.registrations.n; i-- > 0;) {
        struct fake_registration *registration = fake.registrations.values[i];

        if (registration->context != context)
            continue;
        fake.n_left_behind++;
        host_end(registration);
    }
}
