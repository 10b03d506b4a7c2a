/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Modules and kernels. PTX is not run: its text is looked at as far as a driver would refuse it (version, target, the
 * end of the text), the parameters of a kernel are copied as its declaration lays them out, and what the kernel does is
 * known by its name. So the launch is tested here, and the instructions on a GPU (test/conformance).
 *
 * A kernel does what kernels do: it reads and writes through the device's tables, and what is not there ends the
 * context.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "device/cuda/abi.h"

#include "fake.h"

#define FAKECUDA_EXPORT(_type, _name, _arguments)                                                            \
    __attribute__((visibility("default"))) _type fakecuda_##_name _arguments;
FAKECUDA_CONTROL_MAP(FAKECUDA_EXPORT)
#undef FAKECUDA_EXPORT

struct kernel_piece {
    uint64_t bytes, hash, value;
    unsigned char *gathered; /* where a piece lies in several mappings */
};

static void kernel_visit_hash(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    struct kernel_piece *job = userdata;

    if (bytes == job->bytes) {
        job->hash = usk_hash(piece, bytes);
        return;
    }
    if (!job->gathered)
        job->gathered = fake_allocate(job->bytes);
    memcpy(job->gathered + offset, piece, bytes);
}

static void kernel_visit_add(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    uint64_t sum;

    (void)offset;
    (void)bytes; /* eight aligned bytes are in one mapping */
    memcpy(&sum, piece, sizeof(sum));
    sum += ((struct kernel_piece *)userdata)->value;
    memcpy(piece, &sum, sizeof(sum));
}

/* Adds to eight bytes of device memory, or of host memory that the device knows. */
static bool kernel_add(struct fake_context *context, uint64_t address, uint64_t value)
{
    struct kernel_piece job = {.value = value};
    struct fake_registration *registration = NULL;
    void *host = (void *)(uintptr_t)address;

    if (fake_memory_is_device(address))
        return fake_memory_visit(context, address, sizeof(value), CU_MEM_ACCESS_READWRITE, kernel_visit_add, &job);
    if (fake_host_use(host, sizeof(value), true, &registration) || !registration)
        return false;
    kernel_visit_add(&job, host, 0, sizeof(value));
    fake_host_unuse(registration);
    return true;
}

/* Block y of the grid adds the hash of piece y to results[y]. */
static void kernel_run_hash(struct fake_context *context, const struct fake_work *work)
{
    uint64_t address = work->parameters[USK_CUDA_HASH_ADDRESS];
    uint64_t piece_bytes = work->parameters[USK_CUDA_HASH_PIECE_BYTES];
    uint64_t results = work->parameters[USK_CUDA_HASH_RESULTS];

    if (address % USK_HASH_LEAF_BYTES || results % sizeof(uint64_t)) {
        fake_context_fail(context, CUDA_ERROR_MISALIGNED_ADDRESS);
        return;
    }
    /* Leaves are shared by whole warps. */
    if (piece_bytes % USK_HASH_LEAF_BYTES) {
        fake_context_fail(context, CUDA_ERROR_LAUNCH_FAILED);
        return;
    }
    for (uint64_t y = 0; y < work->grid[1]; y++) {
        struct kernel_piece job = {.bytes = piece_bytes};
        bool is_read = fake_memory_visit(context, address + y * piece_bytes, piece_bytes, CU_MEM_ACCESS_READ,
                                         kernel_visit_hash, &job);

        if (job.gathered)
            job.hash = usk_hash(job.gathered, piece_bytes);
        free(job.gathered);
        if (!is_read || !kernel_add(context, results + y * sizeof(uint64_t), job.hash)) {
            fake_context_fail(context, CUDA_ERROR_ILLEGAL_ADDRESS);
            return;
        }
    }
}

static void kernel_visit_copy(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    memcpy((unsigned char *)((struct kernel_piece *)userdata)->gathered + offset, piece, bytes);
}

/* Copies n sums to pinned host memory. */
static void kernel_run_publish(struct fake_context *context, const struct fake_work *work)
{
    uint64_t bytes = work->parameters[USK_CUDA_PUBLISH_N] * sizeof(uint64_t);
    struct kernel_piece job = {.gathered = fake_allocate(bytes)};
    void *results = (void *)(uintptr_t)work->parameters[USK_CUDA_PUBLISH_RESULTS];
    struct fake_registration *registration = NULL;
    bool is_read = fake_memory_visit(context, work->parameters[USK_CUDA_PUBLISH_SUMS], bytes, CU_MEM_ACCESS_READ,
                                     kernel_visit_copy, &job);

    if (!is_read || fake_host_use(results, bytes, true, &registration) || !registration) {
        fake_context_fail(context, CUDA_ERROR_ILLEGAL_ADDRESS);
    } else {
        memcpy(results, job.gathered, bytes);
        fake_host_unuse(registration);
    }
    free(job.gathered);
}

static void kernel_visit_read(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    (void)userdata;
    (void)piece;
    (void)offset;
    (void)bytes;
}

static void kernel_visit_write(void *userdata, unsigned char *piece, uint64_t offset, uint64_t bytes)
{
    (void)offset;
    memset(piece, (int)((struct kernel_piece *)userdata)->value, bytes);
}

/* Address, bytes, value; a value beyond a byte: reads. */
static void kernel_run_touch(struct fake_context *context, const struct fake_work *work)
{
    struct kernel_piece job = {.value = work->parameters[2]};
    bool is_write = job.value <= UINT8_MAX;

    if (!fake_memory_visit(context, work->parameters[0], work->parameters[1],
                           is_write ? CU_MEM_ACCESS_READWRITE : CU_MEM_ACCESS_READ,
                           is_write ? kernel_visit_write : kernel_visit_read, &job))
        fake_context_fail(context, CUDA_ERROR_ILLEGAL_ADDRESS);
}

static const struct fake_kernel kernel_hash = {
    USK_CUDA_HASH_KERNEL, USK_CUDA_HASH_N_PARAMETERS, {8, 8, 8}, kernel_run_hash};
static const struct fake_kernel kernel_publish = {
    USK_CUDA_PUBLISH_KERNEL, USK_CUDA_PUBLISH_N_PARAMETERS, {8, 8, 8}, kernel_run_publish};
static const struct fake_kernel kernel_touch = {"", 3, {8, 8, 8}, kernel_run_touch};

static int kernel_touch_submit(void *stream, uint64_t address, uint64_t bytes, uint64_t value)
{
    struct fake_stream *found;
    struct fake_work *work;
    CUresult result;

    fake_lock();
    found = fake_map_find(&fake.streams, (uint64_t)(uintptr_t)stream);
    if (!found && !stream && fake_current())
        found = fake_current()->null_stream;
    if (!found) {
        fake_unlock();
        return CUDA_ERROR_INVALID_HANDLE;
    }
    work = fake_work_new(FAKE_WORK_KERNEL);
    work->kernel = &kernel_touch;
    work->parameters[0] = address;
    work->parameters[1] = bytes;
    work->parameters[2] = value;
    result = fake_stream_submit(found, work);
    fake_unlock();
    return result;
}

int fakecuda_kernel_read(void *stream, uint64_t address, uint64_t bytes)
{
    return kernel_touch_submit(stream, address, bytes, UINT64_MAX);
}

int fakecuda_kernel_write(void *stream, uint64_t address, uint8_t value, uint64_t bytes)
{
    return kernel_touch_submit(stream, address, bytes, value);
}

void fake_module_destroy(struct fake_module *module)
{
    for (size_t i = fake.entries.n; i-- > 0;) {
        struct fake_entry *entry = fake.entries.values[i];

        if (entry->module != module)
            continue;
        fake_map_remove(&fake.entries, entry->id);
        free(entry);
    }
    fake_map_remove(&fake.modules, module->id);
    free(module->text);
    free(module);
}

/* What comes before the first directive: white space and comments. */
static const char *ptx_skip(const char *text)
{
    for (;;) {
        const char *before = text;

        text += strspn(text, " \t\r\n");
        if (strncmp(text, "//", 2) == 0)
            text += strcspn(text, "\n");
        if (text == before)
            return text;
    }
}

static CUresult ptx_check(const char *text)
{
    unsigned int major, minor, target, driver = (unsigned int)fake.settings.driver_version;
    const char *line;

    if (sscanf(ptx_skip(text), ".version %u.%u", &major, &minor) != 2)
        return CUDA_ERROR_INVALID_PTX;
    /* CUDA 11.4 brought PTX 7.4, 12.0 8.0, and so on. */
    if (10 * major + minor > 10 * (driver / 1000 - 4) + driver % 1000 / 10)
        return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
    line = strstr(text, "\n.target");
    if (!line || sscanf(line, " .target sm_%u", &target) != 1 || !strstr(text, "\n.address_size 64"))
        return CUDA_ERROR_INVALID_PTX;
    return target > fake.settings.compute ? CUDA_ERROR_NO_BINARY_FOR_GPU : 0;
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    struct fake_module *made;
    CUresult result;

    FAKE_ENTER(cuModuleLoadData);
    if (!module || !image)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    /* Reads to the NUL as the driver does: under ASan a text without one is found. */
    result = ptx_check(image);
    if (result)
        return fake_leave(result);
    made = fake_allocate(sizeof(*made));
    *made = (struct fake_module){.id = fake_new_id(), .context = fake_current(), .text = strdup(image)};
    if (!made->text) {
        free(made);
        return fake_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fake_map_put(&fake.modules, made->id, made);
    *module = (CUmodule)(uintptr_t)made->id;
    return fake_leave(0);
}

CUresult cuModuleUnload(CUmodule module)
{
    struct fake_module *found;

    FAKE_ENTER(cuModuleUnload);
    found = fake_map_find(&fake.modules, (uint64_t)(uintptr_t)module);
    if (!found) {
        fake.misuse.stale_handles++;
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    fake_module_destroy(found);
    return fake_leave(0);
}

/* Finds ".entry name(" and reads the sizes of what it takes. */
static bool ptx_find_entry(const char *text, const char *name, struct fake_entry *entry)
{
    for (const char *at = strstr(text, ".entry"); at; at = strstr(at, ".entry")) {
        const char *end;
        size_t length;

        at += strlen(".entry");
        at += strspn(at, " \t\r\n");
        length = strcspn(at, " \t\r\n(");
        if (length != strlen(name) || strncmp(at, name, length) != 0)
            continue;
        at = strchr(at, '(');
        end = at ? strchr(at, ')') : NULL;
        while (end && (at = strstr(at, ".param")) && at < end) {
            unsigned int bits;

            at += strlen(".param");
            if (sscanf(at, " .%*1[ubsf]%u", &bits) != 1 || entry->n_parameters == FAKE_MAX_PARAMETERS)
                return false;
            entry->parameter_bytes[entry->n_parameters++] = bits / 8;
        }
        return end != NULL;
    }
    return false;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    struct fake_module *found;
    struct fake_entry *entry;

    FAKE_ENTER(cuModuleGetFunction);
    if (!function || !name)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    found = fake_map_find(&fake.modules, (uint64_t)(uintptr_t)module);
    if (!found) {
        fake.misuse.stale_handles++;
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    entry = fake_allocate(sizeof(*entry));
    if (!ptx_find_entry(found->text, name, entry)) {
        free(entry);
        return fake_leave(CUDA_ERROR_NOT_FOUND);
    }
    entry->id = fake_new_id();
    entry->module = found;
    entry->kernel = !strcmp(name, kernel_hash.name)      ? &kernel_hash
                    : !strcmp(name, kernel_publish.name) ? &kernel_publish
                                                         : NULL;
    fake_map_put(&fake.entries, entry->id, entry);
    *function = (CUfunction)(uintptr_t)entry->id;
    return fake_leave(0);
}

static CUresult launch_check(const struct fake_entry *entry, const uint64_t *grid, const uint64_t *block,
                             unsigned int shared_bytes, void **parameters, void **extra)
{
    uint64_t n_threads = block[0] * block[1] * block[2];

    if (!grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 || grid[0] > INT32_MAX || !n_threads)
        return CUDA_ERROR_INVALID_VALUE;
    if (n_threads > 1024 || shared_bytes > 48 << 10)
        return CUDA_ERROR_INVALID_VALUE;
    if (extra || (entry->n_parameters && !parameters))
        return CUDA_ERROR_INVALID_VALUE;
    if (!entry->kernel)
        return CUDA_ERROR_NOT_SUPPORTED; /* nothing but a GPU knows what it does */
    if (entry->n_parameters != entry->kernel->n_parameters ||
        memcmp(entry->parameter_bytes, entry->kernel->parameter_bytes, sizeof(entry->parameter_bytes)) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    return 0;
}

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,
                        unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,
                        CUstream stream, void **parameters, void **extra)
{
    uint64_t grid[3] = {grid_x, grid_y, grid_z}, block[3] = {block_x, block_y, block_z};
    struct fake_entry *entry;
    struct fake_stream *found;
    struct fake_work *work;
    CUresult result;

    FAKE_ENTER(cuLaunchKernel);
    entry = fake_map_find(&fake.entries, (uint64_t)(uintptr_t)function);
    found = fake_stream_find(stream);
    fake.misuse.stale_handles += !entry;
    if (!entry || !found)
        return fake_leave(CUDA_ERROR_INVALID_HANDLE);
    result = launch_check(entry, grid, block, shared_bytes, parameters, extra);
    if (result)
        return fake_leave(result);
    /* The kernel adds up by warps: with other blocks its sums would be wrong. */
    if (block_x % 32 || block_y != 1 || block_z != 1)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    work = fake_work_new(FAKE_WORK_KERNEL);
    work->kernel = entry->kernel;
    memcpy(work->grid, grid, sizeof(grid));
    for (unsigned int i = 0; i < entry->n_parameters; i++)
        memcpy(&work->parameters[i], parameters[i], entry->parameter_bytes[i]);
    return fake_leave(fake_stream_submit(found, work));
}
