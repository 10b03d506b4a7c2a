/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A layout is checked once, when the backing is made, and cut up then: at the borders of granules and of
 * pieces of files. What is left are parts that lie in one granule and in one registration, in the order of
 * the region. A granule is a stretch of that array, and so are the pieces that it needs, so nothing that is
 * done per granule looks at the rest of the model; the pieces after its own are those that its followers
 * need.
 *
 * What the array says does not change any more, so reading a granule needs no lock and may be done by any
 * thread.
 */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"
#include "store/file.h"
#include "store/store_private.h"

/* Pieces that are registered or about to be at a time: one is, the others bring their pages into memory meanwhile. */
#define BACKING_AT_ONCE 4

/* A stretch of a granule, in one piece of one file. */
struct backing_part {
    struct usk_pin_file *file;
    uint64_t file_offset;
    uint64_t offset; /* from the start of the granule */
    uint64_t bytes;
};

struct backing_granule {
    size_t first_part, n_parts;
    size_t first_use, n_uses; /* in uses; consecutive granules may share one */
    uint64_t covered_bytes;   /* by its parts; the rest is gaps */
};

struct usk_backing {
    struct usk_pin_file_set set; /* first: alive until the last job */
    struct usk_backing *next;
    uint64_t granule_bytes;
    struct backing_granule *granules;
    uint32_t n_granules; /* up to the last extent; all that follow are gaps */
    struct backing_part *parts;
    struct usk_pin_file_piece **uses;
    size_t n_uses;
    struct usk_run *runs; /* of the granule that was asked for last */
    bool is_freed;
};

static int layout_complain(struct unstick_error *error, size_t i, const char *what)
{
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "layout", "extent %zu %s", i, what);
}

/* What can be said without opening a file. */
static int layout_check(const struct unstick_layout *layout, struct unstick_error *error)
{
    uint64_t end = 0, extent_end;

    if (!layout->bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "layout", "a layout of 0 bytes");
    for (size_t i = 0; i < layout->n_extents; i++) {
        const struct unstick_extent *extent = &layout->extents[i];

        if (extent->file >= layout->n_paths)
            return layout_complain(error, i, "names a file that is not in the list");
        if (!extent->bytes)
            return layout_complain(error, i, "is empty");
        if (extent->region_offset < end)
            return layout_complain(error, i, "overlaps the one before it, or is out of order");
        if (!usk_add(extent->region_offset, extent->bytes, &extent_end) || extent_end > layout->bytes)
            return layout_complain(error, i, "ends beyond the region");
        if (!usk_add(extent->file_offset, extent->bytes, &end))
            return layout_complain(error, i, "ends beyond any file");
        end = extent_end;
    }
    return UNSTICK_OK;
}

static int backing_open_files(struct usk_backing *backing, const struct unstick_layout *layout,
                              struct unstick_error *error)
{
    for (size_t i = 0; i < layout->n_extents; i++) {
        const struct unstick_extent *extent = &layout->extents[i];
        struct usk_pin_file *file = &backing->set.files[extent->file];
        int r = usk_pin_file_open(file, error);

        if (r < 0)
            return r;
        if (extent->file_offset + extent->bytes > file->id.bytes)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "layout",
                                 "%s has %llu bytes, its tensors need %llu: it is truncated or still being written",
                                 file->path, (unsigned long long)file->id.bytes,
                                 (unsigned long long)(extent->file_offset + extent->bytes));
    }
    return UNSTICK_OK;
}

/* The first part of an extent from `done` bytes on: up to the next border of a granule or of a piece. */
static uint64_t extent_cut(const struct unstick_extent *extent, uint64_t done, uint64_t granule_bytes,
                           uint64_t piece_bytes)
{
    uint64_t bytes = extent->bytes - done;

    bytes = usk_min(bytes, granule_bytes - (extent->region_offset + done) % granule_bytes);
    return usk_min(bytes, piece_bytes - (extent->file_offset + done) % piece_bytes);
}

/* Cuts the layout up. Without arrays, only counts. */
static size_t backing_cut(struct usk_backing *backing, const struct unstick_layout *layout)
{
    size_t n_parts = 0;

    for (size_t i = 0; i < layout->n_extents; i++) {
        const struct unstick_extent *extent = &layout->extents[i];
        uint64_t done = 0;

        while (done < extent->bytes) {
            uint64_t bytes = extent_cut(extent, done, backing->granule_bytes, backing->set.store->piece_bytes);
            uint64_t region_offset = extent->region_offset + done;

            if (backing->parts) {
                struct backing_granule *granule = &backing->granules[region_offset / backing->granule_bytes];
                struct usk_pin_file *file = &backing->set.files[extent->file];
                struct usk_pin_file_piece *piece = usk_pin_file_use(file, extent->file_offset + done, bytes);

                backing->parts[n_parts] = (struct backing_part){
                    .file = file,
                    .file_offset = extent->file_offset + done,
                    .offset = region_offset % backing->granule_bytes,
                    .bytes = bytes,
                };
                if (!backing->n_uses || backing->uses[backing->n_uses - 1] != piece)
                    backing->uses[backing->n_uses++] = piece;
                if (!granule->n_parts++) {
                    granule->first_part = n_parts;
                    granule->first_use = backing->n_uses - 1;
                }
                granule->n_uses = backing->n_uses - granule->first_use;
            }
            n_parts++;
            done += bytes;
        }
    }
    return n_parts;
}

/* Sums up what the parts of each granule cover, and finds the most parts that one has. */
static size_t backing_survey(struct usk_backing *backing)
{
    size_t n_parts_max = 0;

    for (uint32_t i = 0; i < backing->n_granules; i++) {
        struct backing_granule *granule = &backing->granules[i];

        for (size_t k = 0; k < granule->n_parts; k++)
            granule->covered_bytes += backing->parts[granule->first_part + k].bytes;
        n_parts_max = granule->n_parts > n_parts_max ? granule->n_parts : n_parts_max;
    }
    return n_parts_max;
}

static int backing_lay_out(struct usk_backing *backing, const struct unstick_layout *layout,
                           struct unstick_error *error)
{
    const struct unstick_extent *last = layout->n_extents ? &layout->extents[layout->n_extents - 1] : NULL;
    uint64_t n_granules = last ? usk_div_up(last->region_offset + last->bytes, backing->granule_bytes) : 0;
    size_t n_parts = backing_cut(backing, layout), n_parts_max;

    if (n_granules > UINT32_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "layout", "%llu granules are too many",
                             (unsigned long long)n_granules);
    backing->granules = calloc(usk_max(n_granules, 1), sizeof(backing->granules[0]));
    backing->parts = calloc(usk_max(n_parts, 1), sizeof(backing->parts[0]));
    backing->uses = calloc(usk_max(n_parts, 1), sizeof(backing->uses[0]));
    if (!backing->granules || !backing->parts || !backing->uses)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a layout of %zu parts",
                             n_parts);
    backing->n_granules = (uint32_t)n_granules;
    backing_cut(backing, layout);
    n_parts_max = backing_survey(backing);
    backing->runs = calloc(usk_max(n_parts_max, 1), sizeof(backing->runs[0]));
    if (!backing->runs)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for %zu runs", n_parts_max);
    return UNSTICK_OK;
}

/* No job runs or can run. */
static void backing_destroy(struct usk_backing *backing)
{
    usk_pin_file_set_fini(&backing->set);
    free(backing->runs);
    free(backing->uses);
    free(backing->parts);
    free(backing->granules);
    free(backing);
}

int usk_backing_new(struct usk_store *store, const struct unstick_layout *layout, uint64_t granule_bytes,
                    struct usk_backing **ret_backing, struct unstick_error *error)
{
    struct usk_backing *backing;
    int r;

    usk_store_reap(store);
    if (!granule_bytes)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "backing", "a granule of 0 bytes");
    r = layout_check(layout, error);
    if (r < 0)
        return r;
    backing = calloc(1, sizeof(*backing));
    if (!backing)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for a backing");
    backing->granule_bytes = granule_bytes;
    r = usk_pin_file_set_init(&backing->set, store, layout->paths, layout->n_paths, error);
    if (r >= 0)
        r = backing_open_files(backing, layout, error);
    if (r >= 0)
        r = backing_lay_out(backing, layout, error);
    if (r < 0) {
        backing_destroy(backing);
        return r;
    }
    backing->next = store->backings;
    store->backings = backing;
    *ret_backing = backing;
    return UNSTICK_OK;
}

bool usk_backing_is_direct(const struct usk_backing *backing)
{
    return atomic_load(&backing->set.is_direct);
}

/* NULL: the granule is one gap. */
static const struct backing_granule *backing_granule(const struct usk_backing *backing, uint32_t index)
{
    if (index >= backing->n_granules || !backing->granules[index].n_parts)
        return NULL;
    return &backing->granules[index];
}

static void backing_look_ahead(struct usk_backing *backing, const struct backing_granule *granule)
{
    size_t first = granule->first_use + granule->n_uses;

    for (size_t i = first; i < backing->n_uses && i - first < BACKING_AT_ONCE - 1; i++)
        usk_pin_file_piece_want_ahead(backing->uses[i], BACKING_AT_ONCE);
}

int usk_backing_get(struct usk_backing *backing, uint32_t index, struct unstick_error *error)
{
    const struct backing_granule *granule = backing_granule(backing, index);
    bool is_pending = false;

    if (!granule)
        return UNSTICK_OK;
    for (size_t i = 0; i < granule->n_uses; i++) {
        struct usk_pin_file_piece *piece = backing->uses[granule->first_use + i];
        int r = usk_pin_file_piece_want(piece, error);

        if (r < 0) {
            while (i--)
                backing->uses[granule->first_use + i]->n_holds--;
            return r;
        }
        piece->n_holds++;
        is_pending = is_pending || r == UNSTICK_PENDING;
    }
    backing_look_ahead(backing, granule);
    return is_pending ? UNSTICK_PENDING : UNSTICK_OK;
}

int usk_backing_poll(struct usk_backing *backing, uint32_t index, struct unstick_error *error)
{
    const struct backing_granule *granule = backing_granule(backing, index);
    bool is_pending = false;

    if (!granule)
        return UNSTICK_OK;
    for (size_t i = 0; i < granule->n_uses; i++) {
        int r = usk_pin_file_piece_poll(backing->uses[granule->first_use + i], error);

        if (r < 0)
            return r;
        is_pending = is_pending || r == UNSTICK_PENDING;
    }
    return is_pending ? UNSTICK_PENDING : UNSTICK_OK;
}

bool usk_backing_is_behind(struct usk_backing *backing, uint32_t index)
{
    const struct backing_granule *granule = backing_granule(backing, index);

    for (size_t i = 0; granule && i < granule->n_uses; i++) {
        if (usk_pin_file_piece_is_behind(backing->uses[granule->first_use + i], BACKING_AT_ONCE))
            return true;
    }
    return false;
}

void usk_backing_pin(struct usk_backing *backing)
{
    usk_pin_file_set_pin(&backing->set);
}

void usk_backing_put(struct usk_backing *backing, uint32_t index)
{
    const struct backing_granule *granule = backing_granule(backing, index);

    for (size_t i = 0; granule && i < granule->n_uses; i++) {
        struct usk_pin_file_piece *piece = backing->uses[granule->first_use + i];

        if (piece->n_holds)
            piece->n_holds--;
    }
}

void usk_backing_unpin(struct usk_backing *backing)
{
    usk_pin_file_set_unpin(&backing->set);
}

size_t usk_backing_runs(struct usk_backing *backing, uint32_t index, const struct usk_run **ret_runs)
{
    const struct backing_granule *granule = backing_granule(backing, index);
    size_t n_runs = granule ? granule->n_parts : 0;

    for (size_t i = 0; i < n_runs; i++) {
        const struct backing_part *part = &backing->parts[granule->first_part + i];

        backing->runs[i] = (struct usk_run){
            .host = part->file->map + part->file_offset,
            .offset = part->offset,
            .bytes = part->bytes,
        };
    }
    *ret_runs = backing->runs;
    return n_runs;
}

bool usk_backing_has_gaps(const struct usk_backing *backing, uint32_t index, uint64_t bytes)
{
    return index >= backing->n_granules || backing->granules[index].covered_bytes < bytes;
}

int usk_backing_read(struct usk_backing *backing, uint32_t index, void *buffer, uint64_t bytes,
                     struct unstick_error *error)
{
    const struct backing_granule *granule = backing_granule(backing, index);
    uint64_t done = 0;
    char *to = buffer;

    for (size_t i = 0; granule && i < granule->n_parts; i++) {
        const struct backing_part *part = &backing->parts[granule->first_part + i];
        uint64_t part_bytes;
        int r;

        if (part->offset >= bytes)
            break;
        part_bytes = usk_min(part->bytes, bytes - part->offset);
        memset(to + done, 0, part->offset - done);
        r = usk_pin_file_read(part->file, part->file_offset, to + part->offset, part_bytes, error);
        if (r < 0)
            return r;
        done = part->offset + part_bytes;
    }
    memset(to + done, 0, bytes - done);
    return UNSTICK_OK;
}

int usk_backing_check(struct usk_backing *backing, struct unstick_error *error)
{
    for (size_t i = 0; i < backing->set.n_files; i++) {
        const struct usk_pin_file *file = &backing->set.files[i];
        int r = file->fd >= 0 ? usk_pin_file_check(file, error) : UNSTICK_OK;

        if (r < 0)
            return r;
    }
    return UNSTICK_OK;
}

void usk_backing_free(struct usk_backing *backing)
{
    struct usk_store *store;

    if (!backing)
        return;
    store = backing->set.store;
    backing->is_freed = true;
    usk_pin_file_set_free(&backing->set);
    usk_store_reap(store);
}

void usk_backing_reap(struct usk_store *store)
{
    struct usk_backing **link = &store->backings;

    while (*link) {
        struct usk_backing *backing = *link;

        if (backing->is_freed && usk_pin_file_set_is_gone(&backing->set)) {
            *link = backing->next;
            backing_destroy(backing);
        } else {
            link = &backing->next;
        }
    }
}

void usk_backing_wait(struct usk_store *store)
{
    for (struct usk_backing *backing = store->backings; backing; backing = backing->next)
        usk_pin_file_set_wait(&backing->set);
}

void usk_backing_destroy_all(struct usk_store *store)
{
    while (store->backings) {
        struct usk_backing *backing = store->backings;

        store->backings = backing->next;
        backing_destroy(backing);
    }
}

void usk_backing_count(struct usk_store *store, uint64_t bytes[USK_N_BUDGET_KINDS])
{
    for (struct usk_backing *backing = store->backings; backing; backing = backing->next)
        bytes[USK_BUDGET_FILE] += usk_pin_file_set_count(&backing->set);
}
