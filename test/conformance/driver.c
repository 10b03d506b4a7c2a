/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What we rely on in the driver itself, asked of it directly: our own code is not between. Run on a GPU it tells
 * whether the ground still is where it was; run on test/fakecuda it tells whether the stand-in stands in.
 *
 * A line per fact. "ok" and "FAILED" are of facts that src/device/cuda is built on; "seen" is of behaviour that it
 * does not depend on, printed to be known; with --strict some of it has to be refused. Needs a driver, libc and nothing
 * else; exits 0, 1, or 77 without a driver.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

#include "base/clock.h"

#define EXIT_SKIP 77
#define LOCATION_TYPE_HOST_NUMA 3 /* CUDA 12.2 */
#define HOST_HANDLE_RUNS 20

struct driver_calls cu;

struct usk_cu_mem_prop prop = { .type = USK_CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = { .type = USK_CU_MEM_LOCATION_TYPE_DEVICE } };
struct usk_cu_mem_access read_write = { .location = { .type = USK_CU_MEM_LOCATION_TYPE_DEVICE },
                                        .flags = USK_CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
static struct usk_cu_mem_access read_only = { .location = { .type = USK_CU_MEM_LOCATION_TYPE_DEVICE },
                                              .flags = USK_CU_MEM_ACCESS_FLAGS_PROT_READ };
uint64_t unit;
static unsigned int n_failed;
static bool is_strict; /* the stand-in refuses more than a driver does */

const char *driver_name_of(usk_cu_result result)
{
    const char *name;

    return cu.cuGetErrorName(result, &name) == USK_CU_SUCCESS ? name : "an unknown result";
}

static void say(const char *verdict, const char *detail, const char *format, va_list args)
{
    printf("%-7s", verdict);
    vprintf(format, args);
    printf("%s%s\n", *detail ? ": " : "", detail);
    fflush(stdout);
}

void fact(bool holds, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(holds ? "ok" : "FAILED", "", format, args);
    va_end(args);
    n_failed += !holds;
}

void fact_result(usk_cu_result result, usk_cu_result expected, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(result == expected ? "ok" : "FAILED", driver_name_of(result), format, args);
    va_end(args);
    n_failed += result != expected;
}

__attribute__((format(printf, 2, 3))) static void fact_refused(usk_cu_result result, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(result != USK_CU_SUCCESS ? "ok" : "FAILED", driver_name_of(result), format, args);
    va_end(args);
    n_failed += result == USK_CU_SUCCESS;
}

void seen(usk_cu_result result, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say("seen", driver_name_of(result), format, args);
    va_end(args);
}

void must(usk_cu_result result, const char *call)
{
    if (result != USK_CU_SUCCESS) {
        printf("FAILED %s: %s\n", call, driver_name_of(result));
        exit(EXIT_FAILURE);
    }
}

static usk_cu_get_proc_address_v1 *get_proc_v1;
static usk_cu_get_proc_address_v2 *get_proc_v2;

static void *symbol_find(const char *name, int version)
{
    int status;
    void *symbol = NULL;

    if (get_proc_v2 ? get_proc_v2(name, &symbol, version, 0, &status) : get_proc_v1(name, &symbol, version, 0))
        symbol = NULL;
    return symbol;
}

static bool driver_load(void)
{
    void *library = dlopen(USK_CUDA_LIBRARY, RTLD_NOW), *symbol;

    if (!library)
        return false;
    symbol = dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V2);
    memcpy(&get_proc_v2, &symbol, sizeof(symbol));
    symbol = dlsym(library, USK_CUDA_GET_PROC_ADDRESS_V1);
    memcpy(&get_proc_v1, &symbol, sizeof(symbol));
    if (!get_proc_v1 && !get_proc_v2)
        return false;
#define LOAD(_name, _version, _need, _parameters)                                                            \
    symbol = symbol_find(#_name, _version);                                                                  \
    memcpy(&cu._name, &symbol, sizeof(symbol));
    USK_CUDA_SYMBOLS(LOAD)
    LOAD(cuStreamBeginCapture, 10010, , )
    LOAD(cuStreamEndCapture, 10000, , )
    LOAD(cuGraphDestroy, 10000, , )
#undef LOAD
    return cu.cuInit;
}

usk_cu_ptr driver_reserve(uint64_t bytes)
{
    usk_cu_ptr address;

    MUST(cu.cuMemAddressReserve(&address, bytes, 0, 0, 0));
    return address;
}

usk_cu_handle driver_create(uint64_t bytes)
{
    usk_cu_handle handle;

    MUST(cu.cuMemCreate(&handle, bytes, &prop, 0));
    return handle;
}

void driver_map(usk_cu_ptr address, uint64_t bytes, usk_cu_handle handle)
{
    MUST(cu.cuMemMap(address, bytes, 0, handle, 0));
    MUST(cu.cuMemSetAccess(address, bytes, &read_write, 1));
}

static usk_cu_result set_bytes(usk_cu_ptr address, unsigned char value, uint64_t bytes)
{
    usk_cu_result result = cu.cuMemsetD8Async(address, value, bytes, USK_CU_STREAM_LEGACY);

    return result ? result : cu.cuStreamSynchronize(USK_CU_STREAM_LEGACY);
}

static usk_cu_result copy_up(usk_cu_ptr address, const void *host, uint64_t bytes)
{
    usk_cu_result result = cu.cuMemcpyHtoDAsync(address, host, bytes, USK_CU_STREAM_LEGACY);

    return result ? result : cu.cuStreamSynchronize(USK_CU_STREAM_LEGACY);
}

static usk_cu_result copy_down(void *host, usk_cu_ptr address, uint64_t bytes)
{
    usk_cu_result result = cu.cuMemcpyDtoHAsync(host, address, bytes, USK_CU_STREAM_LEGACY);

    return result ? result : cu.cuStreamSynchronize(USK_CU_STREAM_LEGACY);
}

static uint64_t free_bytes(void)
{
    size_t free_now, total;

    MUST(cu.cuMemGetInfo(&free_now, &total));
    return free_now;
}

static void check_addresses(void)
{
    usk_cu_ptr address;
    usk_cu_result result;

    result = cu.cuMemAddressReserve(&address, UINT64_C(16) << 40, 0, 0, 0);
    seen(result, "16 TiB of addresses reserved"); /* a small machine, or a sanitizer, may not have them */
    if (result == USK_CU_SUCCESS)
        MUST(cu.cuMemAddressFree(address, UINT64_C(16) << 40));
    result = cu.cuMemAddressReserve(&address, unit, UINT64_C(1) << 30, 0, 0);
    fact(result == USK_CU_SUCCESS && address % (UINT64_C(1) << 30) == 0, "addresses can be aligned to 1 GiB");
    MUST(cu.cuMemAddressFree(address, unit));

    address = driver_reserve(4 * unit);
    seen(cu.cuMemAddressFree(address, unit), "a part of a reservation given back");
    seen(cu.cuMemAddressFree(address, 4 * unit), "the whole of it after that");
}

/* Driver 580 takes it. We never ask for it; the stand-in refuses, so that a test of ours that does is found out. */
static void check_mapping_beyond(usk_cu_ptr address, uint64_t bytes, usk_cu_handle handle)
{
    usk_cu_result result = cu.cuMemMap(address, bytes, 0, handle, 0);

    if (is_strict)
        fact_refused(result, "a mapping lies inside a reservation");
    else
        seen(result, "a mapping over the end of a reservation%s", result ? "" : " (permissive)");
    if (result == USK_CU_SUCCESS)
        MUST(cu.cuMemUnmap(address, bytes));
}

static void check_mappings(void)
{
    usk_cu_ptr address = driver_reserve(64 * MIB + 8 * unit);
    usk_cu_handle big = driver_create(64 * MIB), two = driver_create(2 * unit);
    usk_cu_handle one = driver_create(unit), other = driver_create(unit);

    fact_refused(cu.cuMemMap(address, unit, 0, big, 0), "a handle of 64 MiB is not mapped with one of %llu MiB",
                 (unsigned long long)(unit / MIB));
    fact_refused(cu.cuMemMap(address, unit, unit, two, 0), "a handle is not mapped from an offset");
    fact_refused(cu.cuMemMap(address + unit / 2, unit, 0, one, 0), "a mapping starts at a multiple of the granularity");
    check_mapping_beyond(address + 64 * MIB + 7 * unit, 2 * unit, two);

    driver_map(address, 2 * unit, two);
    fact_refused(cu.cuMemMap(address + unit, unit, 0, one, 0), "nothing is mapped over a mapping");
    fact_result(cu.cuMemUnmap(address, unit), USK_CU_INVALID_VALUE, "half a mapping is not unmapped");
    fact_result(set_bytes(address, 1, 2 * unit), USK_CU_SUCCESS, "it is still whole after that");

    driver_map(address + 2 * unit, unit, one);
    driver_map(address + 3 * unit, unit, one);
    fact_result(set_bytes(address + unit, 7, 2 * unit), USK_CU_SUCCESS, "a fill crosses mappings");
    fact_result(cu.cuMemcpyDtoDAsync(address, address + 2 * unit, 2 * unit, USK_CU_STREAM_LEGACY), USK_CU_SUCCESS,
                "a device copy crosses mappings");
    MUST(cu.cuStreamSynchronize(USK_CU_STREAM_LEGACY));
    fact_result(cu.cuMemUnmap(address, 4 * unit), USK_CU_SUCCESS, "one unmap takes several whole mappings");

    driver_map(address, unit, one);
    driver_map(address + 2 * unit, unit, other);
    seen(cu.cuMemUnmap(address, 3 * unit), "an unmap over two mappings with a gap between them");
    /* Whatever that did: both are gone after these. */
    cu.cuMemUnmap(address, unit);
    cu.cuMemUnmap(address + 2 * unit, unit);

    MUST(cu.cuMemMap(address, unit, 0, one, 0));
    MUST(cu.cuMemMap(address + unit, unit, 0, other, 0));
    seen(set_bytes(address, 1, unit), "a fill of what is mapped without access");
    fact_result(cu.cuMemSetAccess(address, 2 * unit, &read_write, 1), USK_CU_SUCCESS,
                "access is set for several mappings at once");
    seen(cu.cuMemAddressFree(address, 64 * MIB + 8 * unit), "a reservation given back with mappings in it");
    MUST(cu.cuMemUnmap(address, 2 * unit));
    MUST(cu.cuMemAddressFree(address, 64 * MIB + 8 * unit));
    MUST(cu.cuMemRelease(other));
    MUST(cu.cuMemRelease(one));
    MUST(cu.cuMemRelease(two));
    MUST(cu.cuMemRelease(big));
}

/* What the sentinel and the errors of copies rest on. */
static void check_access(void)
{
    usk_cu_ptr address = driver_reserve(4 * unit);
    usk_cu_handle handle = driver_create(unit);
    unsigned char byte = 0;

    driver_map(address, unit, handle);
    MUST(cu.cuMemMap(address + unit, unit, 0, handle, 0));
    MUST(cu.cuMemSetAccess(address + unit, unit, &read_only, 1));
    MUST(set_bytes(address, 0xff, unit));
    fact(copy_down(&byte, address + unit + 5, 1) == USK_CU_SUCCESS && byte == 0xff,
         "one handle is mapped twice, with two kinds of access");
    fact_result(set_bytes(address + unit, 1, 16), USK_CU_INVALID_VALUE, "a fill of read-only memory is refused");
    fact_result(copy_up(address + unit, &byte, 1), USK_CU_INVALID_VALUE, "a copy to read-only memory is refused");
    fact_result(set_bytes(address + 2 * unit, 1, 16), USK_CU_INVALID_VALUE, "a fill of unmapped memory is refused");
    fact_result(copy_up(address + 2 * unit, &byte, 1), USK_CU_INVALID_VALUE, "a copy to unmapped memory is refused");
    fact_result(copy_down(&byte, address + 2 * unit, 1), USK_CU_INVALID_VALUE,
                "a copy from unmapped memory is refused");
    fact_result(set_bytes(address, 0xff, unit), USK_CU_SUCCESS, "the context survives all that");
    seen(copy_up(address + 2 * unit - 4, "12345678", 8), "a copy that runs over the end of the last mapping");
    fact_result(set_bytes(address, 0xff, unit), USK_CU_SUCCESS, "the context survives that too");

    MUST(cu.cuMemRelease(handle));
    byte = 0;
    fact(copy_down(&byte, address, 1) == USK_CU_SUCCESS && byte == 0xff, "a mapping outlives the hold on its handle");
    MUST(cu.cuMemUnmap(address, 2 * unit));

    handle = driver_create(unit);
    for (uint64_t i = 0; i < 4; i++)
        MUST(cu.cuMemMap(address + i * unit, unit, 0, handle, 0));
    fact_result(cu.cuMemSetAccess(address, 4 * unit, &read_write, 1), USK_CU_SUCCESS,
                "access is set for several mappings of one handle at once");
    fact_result(set_bytes(address, 7, 4 * unit), USK_CU_SUCCESS, "a fill crosses several mappings of one handle");
    MUST(cu.cuMemUnmap(address, 4 * unit));
    MUST(cu.cuMemRelease(handle));
    MUST(cu.cuMemAddressFree(address, 4 * unit));
}

static void check_free_memory(void)
{
    uint64_t bytes = 64 * MIB, before, held, after, start_ns, end_ns;
    usk_cu_handle handle;
    size_t free_now, total;

    /* The first one may grow tables of the driver. */
    handle = driver_create(bytes);
    MUST(cu.cuMemRelease(handle));
    before = free_bytes();
    handle = driver_create(bytes);
    held = free_bytes();
    MUST(cu.cuMemRelease(handle));
    start_ns = usk_clock_now_ns();
    after = free_bytes();
    end_ns = usk_clock_now_ns();
    fact(before - held == bytes, "a handle of 64 MiB takes %lld bytes", (long long)(before - held));
    fact(after == before, "they are free at once after release (read in %.1f us)", (double)(end_ns - start_ns) / 1e3);
    MUST(cu.cuMemGetInfo(&free_now, &total));
    fact_result(cu.cuMemCreate(&handle, (total / unit + 1) * unit, &prop, 0), USK_CU_OUT_OF_MEMORY,
                "more than there is cannot be created");
    fact_refused(cu.cuMemCreate(&handle, unit / 2, &prop, 0), "half the granularity cannot be created");
}

/* Whether host memory can lie under device addresses: where only mistakes are read and written it would do. */
static void check_host_handles(void)
{
    const struct usk_cu_mem_prop host = { .type = USK_CU_MEM_ALLOCATION_TYPE_PINNED,
                                          .location = { .type = LOCATION_TYPE_HOST_NUMA } };
    static const char *const calls[3] = { "mapping", "giving access", "unmapping" };
    uint64_t bytes = 64 * MIB, before = free_bytes(), took_ns[3] = { 0 }, start_ns;
    usk_cu_result result = USK_CU_SUCCESS;
    usk_cu_ptr address = driver_reserve(bytes);
    unsigned char back[16] = { 0 };
    usk_cu_handle handle;

    result = cu.cuMemCreate(&handle, bytes, &host, 0);
    seen(result, "64 MiB of host memory as a handle, %lld bytes of the device", (long long)(before - free_bytes()));
    for (int i = 0; i < HOST_HANDLE_RUNS && result == USK_CU_SUCCESS; i++) {
        start_ns = usk_clock_now_ns();
        result = cu.cuMemMap(address, bytes, 0, handle, 0);
        took_ns[0] += usk_clock_now_ns() - start_ns;
        if (result != USK_CU_SUCCESS) {
            seen(result, "host memory mapped at device addresses");
            break;
        }
        start_ns = usk_clock_now_ns();
        result = cu.cuMemSetAccess(address, bytes, &read_write, 1);
        took_ns[1] += usk_clock_now_ns() - start_ns;
        if (i == 0)
            seen(result, "access of the device to it, %lld bytes of the device", (long long)(before - free_bytes()));
        if (i == 0 && result == USK_CU_SUCCESS) {
            MUST(cu.cuMemsetD8Async(address, 0xFF, bytes, USK_CU_STREAM_LEGACY));
            MUST(cu.cuMemcpyDtoHAsync(back, address + bytes - sizeof(back), sizeof(back), USK_CU_STREAM_LEGACY));
            seen(cu.cuStreamSynchronize(USK_CU_STREAM_LEGACY), "filled by the device; its last byte is %#x", back[15]);
        }
        start_ns = usk_clock_now_ns();
        MUST(cu.cuMemUnmap(address, bytes));
        took_ns[2] += usk_clock_now_ns() - start_ns;
    }
    if (result == USK_CU_SUCCESS) {
        for (int i = 0; i < 3; i++)
            printf("seen   %s of it takes %.1f us\n", calls[i], (double)took_ns[i] / 1e3 / HOST_HANDLE_RUNS);
        MUST(cu.cuMemRelease(handle));
    }
    MUST(cu.cuMemAddressFree(address, bytes));
}

void *driver_map_host(uint64_t bytes, int protection, int flags, int fd)
{
    void *memory = mmap(NULL, bytes, protection, flags, fd, 0);

    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    return memory;
}

static void check_registration(void)
{
    usk_cu_ptr address = driver_reserve(2 * unit);
    usk_cu_handle handle = driver_create(2 * unit);
    unsigned char *host = driver_map_host(4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    unsigned char *page = driver_map_host(64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);

    driver_map(address, 2 * unit, handle);
    MUST(cu.cuMemHostRegister(host, MIB, 0));
    MUST(cu.cuMemHostRegister(host + MIB, MIB, 0));
    fact_result(cu.cuMemHostRegister(host, MIB, 0), USK_CU_HOST_MEMORY_ALREADY_REGISTERED,
                "what is registered is not registered again");
    fact_refused(cu.cuMemHostRegister(host + MIB + MIB / 2, MIB, 0), "nor is what overlaps it");
    fact_result(copy_up(address, host, 2 * MIB), USK_CU_INVALID_VALUE,
                "a copy up does not cross the border of two registrations");
    fact_result(copy_up(address, host + MIB - 1, 2), USK_CU_INVALID_VALUE, "not by one byte either");
    fact_result(copy_down(host + MIB - 16, address, 32), USK_CU_INVALID_VALUE, "nor does a copy down");
    fact_result(copy_up(address, host + 3, MIB - 3), USK_CU_SUCCESS, "up to the border it is fine");
    seen(copy_up(address, host + 2 * MIB - 16, 32), "a copy from registered into unregistered memory");
    seen(copy_up(address, host + MIB, 2 * MIB), "a longer one");
    seen(cu.cuMemHostUnregister(host + 4096), "unregistering from the middle");
    fact_refused(cu.cuMemHostUnregister(host + 3 * MIB), "what is not registered is not unregistered");
    MUST(cu.cuMemHostUnregister(host + MIB));
    if (cu.cuMemHostUnregister(host) != USK_CU_SUCCESS)
        printf("seen   unregistering from the middle took all of it\n");

    seen(cu.cuMemHostRegister(page + 100, 1000, 0), "registering a part of a page");
    cu.cuMemHostUnregister(page + 100);
    fact_result(cu.cuMemHostRegister(host, 4 * MIB, 0), USK_CU_SUCCESS, "untouched memory can be registered");
    MUST(cu.cuMemHostUnregister(host));

    MUST(cu.cuMemUnmap(address, 2 * unit));
    MUST(cu.cuMemRelease(handle));
    MUST(cu.cuMemAddressFree(address, 2 * unit));
    munmap(page, 64 * 1024);
    munmap(host, 4 * MIB);
}

static void check_files(usk_cu_device device)
{
    char path[] = "/tmp/unstick-driver-XXXXXX";
    unsigned char *contents = malloc(MIB), *seen_bytes = malloc(MIB);
    usk_cu_ptr address = driver_reserve(unit);
    usk_cu_handle handle = driver_create(unit);
    int fd = mkstemp(path), memfd = memfd_create("unstick-driver", MFD_CLOEXEC), can_read_only = 0;
    usk_cu_result result;
    void *mapped;

    if (fd < 0 || unlink(path) < 0 || memfd < 0 || ftruncate(memfd, (off_t)MIB) < 0 || !contents || !seen_bytes) {
        perror("files");
        exit(EXIT_FAILURE);
    }
    for (uint64_t i = 0; i < MIB; i++)
        contents[i] = (unsigned char)(i * 7 + i / 256);
    if (write(fd, contents, MIB) != (ssize_t)MIB) {
        perror("write");
        exit(EXIT_FAILURE);
    }
    driver_map(address, unit, handle);

    MUST(cu.cuDeviceGetAttribute(&can_read_only, USK_CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, device));
    mapped = driver_map_host(MIB, PROT_READ, MAP_SHARED, fd);
    result = cu.cuMemHostRegister(mapped, MIB, USK_CU_MEMHOSTREGISTER_READ_ONLY);
    if (can_read_only) {
        fact_result(result, USK_CU_SUCCESS, "a file mapped read-only can be registered");
        fact(copy_up(address, mapped, MIB) == USK_CU_SUCCESS && copy_down(seen_bytes, address, MIB) == USK_CU_SUCCESS &&
                 !memcmp(seen_bytes, contents, MIB),
             "copies from it bring the file's bytes");
        MUST(cu.cuMemHostUnregister(mapped));
    } else {
        fact_refused(result, "a file mapped read-only cannot be registered, as the attribute says");
    }
    seen(cu.cuMemHostRegister(mapped, MIB, 0), "a file mapped read-only, registered for writing");
    cu.cuMemHostUnregister(mapped);
    munmap(mapped, MIB);
    mapped = driver_map_host(MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
    seen(cu.cuMemHostRegister(mapped, MIB, 0), "a file mapped for writing");
    cu.cuMemHostUnregister(mapped);
    munmap(mapped, MIB);
    mapped = driver_map_host(MIB, PROT_READ | PROT_WRITE, MAP_SHARED, memfd);
    seen(cu.cuMemHostRegister(mapped, MIB, 0), "a memfd mapped for writing");
    cu.cuMemHostUnregister(mapped);
    munmap(mapped, MIB);

    MUST(cu.cuMemUnmap(address, unit));
    MUST(cu.cuMemRelease(handle));
    MUST(cu.cuMemAddressFree(address, unit));
    close(memfd);
    close(fd);
    free(seen_bytes);
    free(contents);
}

int main(int argc, char **argv)
{
    int version = 0, n_devices = 0;
    usk_cu_context context;
    usk_cu_device device;
    size_t bytes;
    char name[128];

    is_strict = argc > 1 && !strcmp(argv[1], "--strict");
    if (!driver_load() || cu.cuInit(0) || cu.cuDeviceGetCount(&n_devices) || !n_devices) {
        printf("skipped: no CUDA driver or no device\n");
        return EXIT_SKIP;
    }
    MUST(cu.cuDriverGetVersion(&version));
    MUST(cu.cuDeviceGet(&device, 0));
    MUST(cu.cuDeviceGetName(name, sizeof(name), device));
    MUST(cu.cuDevicePrimaryCtxRetain(&context, device));
    MUST(cu.cuCtxPushCurrent(context));
    prop.location.id = read_write.location.id = read_only.location.id = device;
    MUST(cu.cuMemGetAllocationGranularity(&bytes, &prop, USK_CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    unit = bytes;
    printf("%s, CUDA %d.%d, granularity %llu KiB\n", name, version / 1000, version % 1000 / 10,
           (unsigned long long)(unit / 1024));

    check_addresses();
    check_mappings();
    check_access();
    check_free_memory();
    check_host_handles();
    check_registration();
    check_files(device);
    check_fences();
    check_captures();

    MUST(cu.cuCtxPopCurrent(&context));
    MUST(cu.cuDevicePrimaryCtxRelease(device));
    printf("%u facts do not hold\n", n_failed);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
