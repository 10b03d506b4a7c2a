/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads from a file, and restores from it where it is the backup. The file has no name: it is unlinked as
 * soon as it is made and reached through /proc, so that nothing is left however the run ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <unstick/model.h>
#include <unstick/region.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "bench.h"
#include "cli.h"

#define LOAD_CHUNK_BYTES (UINT64_C(8) << 20)
#define LOAD_PAUSE_US    1000
#define LOAD_SETTLE_NS   UINT64_C(5000000000)

struct bench_load {
    int fd;
    char path[48]; /* through /proc */
    const char *paths[1];
    struct unstick_extent extent;
    struct unstick_layout layout;
    enum unstick_tier tier;
    struct unstick_region *region;
    struct bench_buffer buffer;
    struct usk_arena *arena;
    unsigned char *chunk;
    bool is_warm; /* the page cache has all of the file */
};

/* --- the file --- */

/* Contents that no layer can compress or share. */
static void chunk_fill(unsigned char *chunk, uint64_t seed)
{
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (uint64_t at = 0; at < LOAD_CHUNK_BYTES; at += sizeof(state)) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(chunk + at, &state, sizeof(state));
    }
}

static int file_write(struct bench *bench, struct bench_load *state, struct unstick_error *error)
{
    char size[USK_SIZE_TEXT_MAX];

    for (uint64_t at = 0; at < bench->bytes;) {
        uint64_t n = usk_min(bench->bytes - at, LOAD_CHUNK_BYTES);
        ssize_t written;

        if (cli_is_interrupted())
            return cli_error_interrupted(error);
        cli_progress("writing a file to load from");
        chunk_fill(state->chunk, at);
        written = pwrite(state->fd, state->chunk, n, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return usk_error_errno(error, written ? errno : ENOSPC, "write",
                                   "cannot write a file of %s in %s; choose another folder with --dir",
                                   usk_size_format(size, bench->bytes), bench->folder);
        at += (uint64_t)written;
    }
    if (fdatasync(state->fd) < 0)
        return usk_error_errno(error, errno, "fdatasync", "cannot write a file of %s in %s",
                               usk_size_format(size, bench->bytes), bench->folder);
    return UNSTICK_OK;
}

static int file_new(struct bench *bench, struct bench_load *state, struct unstick_error *error)
{
    char name[512];

    state->chunk = malloc(LOAD_CHUNK_BYTES);
    if (!state->chunk)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc",
                             "out of host memory to write a file");
    snprintf(name, sizeof(name), "%s/unstick-bench-XXXXXX", bench->folder);
    state->fd = mkostemp(name, O_CLOEXEC);
    if (state->fd < 0)
        return usk_error_errno(error, errno, "mkstemp", "cannot make a file in %s", bench->folder);
    unlink(name);
    snprintf(state->path, sizeof(state->path), "/proc/self/fd/%d", state->fd);
    state->paths[0] = state->path;
    state->extent = (struct unstick_extent){ .bytes = bench->bytes };
    state->layout = (struct unstick_layout){
        .paths = state->paths, .n_paths = 1, .extents = &state->extent, .n_extents = 1, .bytes = bench->bytes
    };
    return file_write(bench, state, error);
}

/* Takes the file out of the page cache. UNSTICK_UNSUPPORTED where it will not go (tmpfs, or the pages are
 * held). */
static int file_cool(struct bench *bench, struct bench_load *state, struct unstick_error *error)
{
    uint64_t n_pages = usk_div_up(bench->bytes, usk_os_page_bytes()), n_resident = 0;
    unsigned char *pages;
    void *memory;

    state->is_warm = false;
    posix_fadvise(state->fd, 0, 0, POSIX_FADV_DONTNEED);
    memory = mmap(NULL, bench->bytes, PROT_READ, MAP_SHARED, state->fd, 0);
    if (memory == MAP_FAILED)
        return usk_error_errno(error, errno, "mmap", "cannot map a file in %s", bench->folder);
    pages = malloc(n_pages);
    if (pages && mincore(memory, bench->bytes, pages) == 0) {
        for (uint64_t i = 0; i < n_pages; i++)
            n_resident += pages[i] & 1;
    }
    munmap(memory, bench->bytes);
    free(pages);
    if (n_resident > n_pages / 20)
        return usk_error_set(error, UNSTICK_UNSUPPORTED, 0, "posix_fadvise",
                             "the page cache keeps files of %s; choose another folder with --dir",
                             bench->folder);
    return UNSTICK_OK;
}

static int file_read(struct bench *bench, struct bench_load *state, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    if (state->is_warm)
        return UNSTICK_OK;
    for (uint64_t at = 0, n; r == UNSTICK_OK && at < bench->bytes; at += n) {
        n = usk_min(bench->bytes - at, LOAD_CHUNK_BYTES);
        r = usk_os_file_read(state->fd, "the bench's file", at, state->chunk, n, error);
    }
    state->is_warm = r == UNSTICK_OK;
    return r;
}

/* --- ours --- */

static int load_discard(struct bench_load *state, struct unstick_error *error)
{
    struct unstick_task *task;
    int r = unstick_region_discard(state->region, NULL, &task, error);

    return r < 0 ? r : bench_task_wait(task, error);
}

/* What the last load registered is given back in the background, where it holds up who registers meanwhile. */
static void load_settle(struct bench *bench)
{
    struct unstick_context_info info = { .size = sizeof(info) };
    uint64_t until_ns = usk_clock_now_ns() + LOAD_SETTLE_NS;

    do {
        usk_os_pause_us(LOAD_PAUSE_US);
        unstick_context_info(bench->ctx, &info);
    } while (info.host_file_bytes && usk_clock_now_ns() < until_ns);
    bench_settle(bench);
}

static int load_load(struct bench_load *state, double *ret_s, struct unstick_error *error)
{
    struct unstick_task_options options = { .size = sizeof(options), .tier = state->tier };
    uint64_t started_ns = usk_clock_now_ns();
    struct unstick_task *task;
    int r;

    r = unstick_region_load(state->region, &state->layout, &options, &task, error);
    if (r == UNSTICK_OK)
        r = bench_task_wait(task, error);
    *ret_s = bench_seconds_since(started_ns);
    return r;
}

static int load_warm(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_load *state = state_pointer;
    int r = load_discard(state, error);

    if (r == UNSTICK_OK)
        r = file_read(bench, state, error);
    load_settle(bench);
    return r < 0 ? r : load_load(state, ret_s, error);
}

static int load_cold(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_load *state = state_pointer;
    int r = load_discard(state, error);

    if (r == UNSTICK_OK)
        r = file_cool(bench, state, error);
    load_settle(bench);
    return r < 0 ? r : load_load(state, ret_s, error);
}

static int restore_file(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_load *state = state_pointer;
    struct unstick_task *task;
    uint64_t started_ns;
    int r;

    r = unstick_region_evict(state->region, NULL, &task, error);
    if (r == UNSTICK_OK)
        r = bench_task_wait(task, error);
    if (r < 0)
        return r;
    bench_settle(bench);
    started_ns = usk_clock_now_ns();
    r = unstick_region_restore(state->region, NULL, &task, error);
    if (r == UNSTICK_OK)
        r = bench_task_wait(task, error);
    *ret_s = bench_seconds_since(started_ns);
    return r;
}

/* --- references --- */

static int reference_up(struct bench *bench, void *state_pointer, double *ret_s, struct unstick_error *error)
{
    struct bench_load *state = state_pointer;

    return bench_bring(bench, &state->buffer, state->arena, ret_s, error);
}

static int reference_cold(struct bench *bench, void *state_pointer, double *ret_s,
                          struct unstick_error *error)
{
    struct bench_load *state = state_pointer;
    uint64_t started_ns;
    int r;

    /* A backup in the file holds its pages. */
    r = load_discard(state, error);
    if (r == UNSTICK_OK)
        r = file_cool(bench, state, error);
    started_ns = usk_clock_now_ns();
    if (r == UNSTICK_OK)
        r = file_read(bench, state, error);
    *ret_s = bench_seconds_since(started_ns);
    return r;
}

/* --- cases --- */

static int load_run_cases(struct bench *bench, struct bench_load *state, struct unstick_error *error)
{
    const char *up = bench->is_host ? "fallocate, map and memcpy" : "plain driver copy";
    const struct bench_case warm_pinned = { .name = "load-pinned",
                                            .what = "load from the page cache, backup pinned",
                                            .reference = up,
                                            .ours = load_warm,
                                            .theirs = reference_up };
    const struct bench_case warm_file = { .name = "load-file",
                                          .what = "load from the page cache, the file as backup",
                                          .reference = up,
                                          .ours = load_warm,
                                          .theirs = reference_up };
    const struct bench_case cold = { .name = "load-cold",
                                     .what = "load from the disk",
                                     .reference = "reading the file alone",
                                     .ours = load_cold,
                                     .theirs = reference_cold };
    const struct bench_case restore = { .name = "restore-file",
                                        .what = "restore with the file as backup",
                                        .reference = up,
                                        .ours = restore_file,
                                        .theirs = reference_up };
    double ignored_s;
    int r;

    state->tier = UNSTICK_TIER_PINNED;
    r = bench_case_run(bench, &warm_pinned, state, error);
    state->tier = UNSTICK_TIER_FILE;
    if (r == UNSTICK_OK)
        r = bench_case_run(bench, &warm_file, state, error);
    if (r == UNSTICK_OK)
        r = bench_case_run(bench, &cold, state, error);
    if (r == UNSTICK_OK && bench_is_wanted(bench, restore.name)) {
        r = load_warm(bench, state, &ignored_s, error);
        if (r == UNSTICK_OK)
            r = bench_case_run(bench, &restore, state, error);
    }
    return r;
}

int bench_load(struct bench *bench, struct unstick_error *error)
{
    static const char *const names[] = { "load-pinned", "load-file", "load-cold", "restore-file" };
    struct bench_load state = { .fd = -1 };
    bool is_wanted = false;
    int r;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        is_wanted |= bench_is_wanted(bench, names[i]);
    if (!is_wanted)
        return UNSTICK_OK;
    r = file_new(bench, &state, error);
    if (r == UNSTICK_OK)
        r = unstick_region_new(bench->dev, "bench", bench->bytes, NULL, &state.region, error);
    if (r == UNSTICK_OK)
        r = bench_buffer_new(bench, true, &state.buffer, error);
    if (r == UNSTICK_OK)
        r = bench_arena_new(bench, &state.arena, error);
    if (r == UNSTICK_OK)
        r = load_run_cases(bench, &state, error);
    bench_arena_free(bench, state.arena);
    bench_buffer_free(bench, &state.buffer);
    unstick_region_unref(state.region);
    usk_os_close(state.fd);
    free(state.chunk);
    return r;
}
