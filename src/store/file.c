/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is registered of a file stays exactly as it was mapped until it is unregistered, and what identifies
 * the file was noted before the first byte was read. The descriptor stays open: a file that is replaced or
 * unlinked by name keeps its contents for us, so only a change in place has to be noticed.
 *
 * A piece is checked and brought into memory page by page before the device sees it: what is wrong with a
 * file (truncated, unreadable sectors) shows there as an error with a name, and not as a failure of the
 * driver. The part of a piece that the layout does not need is left out: a small component of a large file
 * pins little.
 *
 * Each set has mappings of its own: the device knows registrations by address, so two sets may register the
 * same file, and share its pages all the same.
 *
 * Pieces are registered side by side by as many jobs as threads are free; as with blocks (block.c), a job is
 * queued again only when the pool has let go of it. The set ends by one job of its own, which the last busy
 * job submits.
 */
#include "store/file.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"
#include "store/store_private.h"

static void set_lock(struct usk_pin_file_set *set)
{
    pthread_mutex_lock(&set->store->lock);
}

static void set_unlock(struct usk_pin_file_set *set)
{
    pthread_mutex_unlock(&set->store->lock);
}

static void *piece_address(const struct usk_pin_file_piece *piece)
{
    return piece->file->map + piece->start;
}

static uint64_t piece_bytes(const struct usk_pin_file_piece *piece)
{
    return piece->end - piece->start;
}

/* Under the lock, for a piece whose jobs are over: the next thing that happens to it is its enter job. */
static void piece_begin(struct usk_pin_file_piece *piece)
{
    usk_job_reset(&piece->enter.job);
    usk_job_reset(&piece->leave.job);
    piece->is_wanted = true;
    piece->state = USK_FILE_PIECE_ENTERING;
    piece->file->set->n_busy++;
}

static bool piece_is_idle(struct usk_pin_file_piece *piece)
{
    return usk_job_is_over(&piece->enter.job) && usk_job_is_over(&piece->leave.job);
}

/* Under the lock: begins a piece that is not registered, if all are to be and none is under way. NULL: none. */
static struct usk_pin_file_piece *set_pin_next(struct usk_pin_file_set *set)
{
    if (!set->is_pinning || set->is_freed || set->n_busy || !atomic_load(&set->is_direct))
        return NULL;
    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++) {
            struct usk_pin_file_piece *piece = &set->files[i].pieces[k];

            if (piece->state == USK_FILE_PIECE_OUT && piece->end > piece->start && piece_is_idle(piece)) {
                piece_begin(piece);
                return piece;
            }
        }
    }
    set->is_pinning = false;
    return NULL;
}

void usk_pin_file_set_pin(struct usk_pin_file_set *set)
{
    struct usk_pin_file_piece *piece;

    set_lock(set);
    set->is_pinning = true;
    piece = set_pin_next(set);
    set_unlock(set);
    if (piece)
        usk_store_submit(set->store, &piece->enter.job);
}

/* Notes how a job ended; the last one of a set that was freed ends the set. */
static void piece_end(struct usk_pin_file_piece *piece, enum usk_pin_file_piece_state state,
                      const struct unstick_error *error)
{
    struct usk_pin_file_set *set = piece->file->set;
    struct usk_pin_file_piece *next;
    bool is_last;

    set_lock(set);
    if (error)
        piece->error = *error;
    piece->state = state;
    is_last = !--set->n_busy && set->is_freed;
    next = set_pin_next(set);
    set_unlock(set);
    if (next)
        usk_store_submit(set->store, &next->enter.job);
    if (is_last)
        usk_store_submit(set->store, &set->release);
}

static int piece_unregister(struct usk_pin_file_piece *piece, struct unstick_error *error)
{
    struct usk_pin_file_set *set = piece->file->set;
    int r = usk_store_unregister(set->store, piece_address(piece), piece_bytes(piece), error);

    if (r < 0)
        return r;
    set_lock(set);
    usk_store_uncharge(set->store, USK_BUDGET_FILE, piece->charged_bytes);
    piece->charged_bytes = 0;
    set_unlock(set);
    return UNSTICK_OK;
}

static void piece_leave(struct usk_pin_file_piece *piece)
{
    /* What could not be unregistered still is registered: usable, and tried again at the next occasion. */
    piece_end(piece, piece_unregister(piece, NULL) < 0 ? USK_FILE_PIECE_IN : USK_FILE_PIECE_OUT, NULL);
}

/* The file was fine a moment ago: if it changed meanwhile, that is the better explanation. */
static int file_explain(const struct usk_pin_file *file, int status, struct unstick_error *error)
{
    struct unstick_error changed;

    if (usk_pin_file_check(file, &changed) != UNSTICK_BACKUP_CHANGED)
        return status;
    if (error)
        *error = changed;
    return UNSTICK_BACKUP_CHANGED;
}

static int piece_register(struct usk_pin_file_piece *piece, struct unstick_error *error)
{
    struct usk_pin_file_set *set = piece->file->set;
    struct usk_device *dev = set->store->dev;
    struct unstick_error why;
    int r;

    r = usk_pin_file_check(piece->file, error);
    if (r < 0)
        return r;
    r = usk_os_file_populate(piece_address(piece), piece_bytes(piece), &why);
    if (r < 0) {
        usk_error_set(error, r, why.native, why.operation, "%s: %s", piece->file->path, why.text);
        return file_explain(piece->file, r, error);
    }
    r = dev->ops->register_host(dev, piece_address(piece), piece_bytes(piece), USK_REGISTER_READ_ONLY, &why);
    if (usk_store_is_refusal(r)) {
        atomic_store(&set->is_direct, false);
        usk_store_log_refusal(set->store, piece->file->path, &why);
        return usk_error_set(error, UNSTICK_UNSUPPORTED, why.native, why.operation,
                             "%s cannot be copied from directly: %s", piece->file->path, why.text);
    }
    if (r < 0)
        return usk_error_set(error, r, why.native, why.operation, "%s: %s", piece->file->path, why.text);
    set_lock(set);
    (void)usk_store_charge(set->store, USK_BUDGET_FILE, piece_bytes(piece), NULL); /* not limited */
    piece->charged_bytes = piece_bytes(piece);
    set_unlock(set);
    return UNSTICK_OK;
}

static bool piece_is_wanted(struct usk_pin_file_piece *piece)
{
    struct usk_pin_file_set *set = piece->file->set;
    bool is_wanted;

    set_lock(set);
    is_wanted = piece->is_wanted;
    if (!is_wanted)
        piece->state = USK_FILE_PIECE_LEAVING;
    set_unlock(set);
    return is_wanted;
}

static void piece_run_enter(struct usk_job *job)
{
    struct usk_pin_file_piece *piece = ((struct usk_pin_file_job *)job)->piece;
    struct unstick_error error;

    if (!piece_is_wanted(piece)) {
        piece_end(piece, USK_FILE_PIECE_OUT, NULL);
        return;
    }
    if (piece_register(piece, &error) < 0)
        piece_end(piece, USK_FILE_PIECE_FAILED, &error);
    else if (!piece_is_wanted(piece))
        piece_leave(piece);
    else
        piece_end(piece, USK_FILE_PIECE_IN, NULL);
}

static void piece_run_leave(struct usk_job *job)
{
    piece_leave(((struct usk_pin_file_job *)job)->piece);
}

int usk_pin_file_piece_want(struct usk_pin_file_piece *piece, struct unstick_error *error)
{
    struct usk_pin_file_set *set = piece->file->set;
    bool is_begun = false, is_direct = atomic_load(&set->is_direct);
    int r = UNSTICK_PENDING;

    set_lock(set);
    piece->is_wanted = true;
    switch (piece->state) {
    case USK_FILE_PIECE_IN:
        r = UNSTICK_OK;
        break;
    case USK_FILE_PIECE_ENTERING:
    case USK_FILE_PIECE_LEAVING:
        break;
    case USK_FILE_PIECE_OUT:
    case USK_FILE_PIECE_FAILED:
        if (!is_direct) {
            r = UNSTICK_UNSUPPORTED;
        } else if (piece_is_idle(piece)) {
            piece_begin(piece);
            is_begun = true;
        } else {
            piece->state = USK_FILE_PIECE_OUT;
        }
        break;
    }
    set_unlock(set);

    if (is_begun)
        usk_store_submit(set->store, &piece->enter.job);
    if (r < 0)
        return usk_error_set(error, r, 0, "backing", "%s cannot be copied from directly", piece->file->path);
    return r;
}

int usk_pin_file_piece_poll(struct usk_pin_file_piece *piece, struct unstick_error *error)
{
    struct usk_pin_file_set *set = piece->file->set;
    enum usk_pin_file_piece_state state;
    struct unstick_error why;

    set_lock(set);
    state = piece->state;
    why = piece->error;
    set_unlock(set);
    if (state == USK_FILE_PIECE_FAILED) {
        if (error)
            *error = why;
        return why.status;
    }
    return usk_pin_file_piece_want(piece, error);
}

bool usk_pin_file_piece_is_behind(struct usk_pin_file_piece *piece, unsigned int n)
{
    struct usk_pin_file_set *set = piece->file->set;
    bool is_behind;

    set_lock(set);
    is_behind = piece->state == USK_FILE_PIECE_OUT && set->n_busy >= n;
    set_unlock(set);
    return is_behind;
}

void usk_pin_file_piece_want_ahead(struct usk_pin_file_piece *piece, unsigned int n)
{
    struct usk_pin_file_set *set = piece->file->set;
    bool is_to_begin;

    set_lock(set);
    /* One that failed is for its own get to try again. */
    is_to_begin = piece->state == USK_FILE_PIECE_OUT && set->n_busy < n;
    set_unlock(set);
    if (is_to_begin)
        (void)usk_pin_file_piece_want(piece, NULL);
}

static void piece_unpin(struct usk_pin_file_piece *piece)
{
    struct usk_pin_file_set *set = piece->file->set;
    bool is_leaving = false;

    if (piece->n_holds)
        return;
    set_lock(set);
    piece->is_wanted = false;
    if (piece->state == USK_FILE_PIECE_IN) {
        /* A leave that failed left the piece in: its job may not be over yet, then the next occasion has
         * to do. */
        is_leaving = usk_job_is_over(&piece->leave.job);
        if (is_leaving) {
            usk_job_reset(&piece->leave.job);
            piece->state = USK_FILE_PIECE_LEAVING;
            set->n_busy++;
        }
    }
    set_unlock(set);
    if (is_leaving)
        usk_store_submit(set->store, &piece->leave.job);
}

void usk_pin_file_set_unpin(struct usk_pin_file_set *set)
{
    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++)
            piece_unpin(&set->files[i].pieces[k]);
    }
}

int usk_pin_file_check(const struct usk_pin_file *file, struct unstick_error *error)
{
    struct usk_file_id now;
    int r;

    r = usk_os_file_id(file->fd, &now, error);
    if (r < 0)
        return r;
    if (now.bytes != file->id.bytes)
        return usk_error_set(error, UNSTICK_BACKUP_CHANGED, 0, "fstat",
                             "%s had %llu bytes when it was opened and has %llu now: it was overwritten in place",
                             file->path, (unsigned long long)file->id.bytes, (unsigned long long)now.bytes);
    if (now.modified_ns != file->id.modified_ns)
        return usk_error_set(error, UNSTICK_BACKUP_CHANGED, 0, "fstat",
                             "%s was written to after it was opened: load the model again", file->path);
    return UNSTICK_OK;
}

int usk_pin_file_read(const struct usk_pin_file *file, uint64_t offset, void *buffer, uint64_t bytes,
                  struct unstick_error *error)
{
    int r = usk_os_file_read(file->fd, file->path, offset, buffer, bytes, error);

    return r < 0 ? file_explain(file, r, error) : UNSTICK_OK;
}

static void file_map(struct usk_pin_file *file)
{
    struct usk_store *store = file->set->store;
    struct unstick_error error;
    void *address;

    file->map_bytes = usk_div_up(file->id.bytes, usk_os_page_bytes()) * usk_os_page_bytes();
    if (usk_os_file_map(file->fd, 0, file->map_bytes, &address, &error) >= 0) {
        file->map = address;
        return;
    }
    atomic_store(&file->set->is_direct, false);
    usk_store_log_refusal(store, file->path, &error);
}

static void file_init_pieces(struct usk_pin_file *file)
{
    for (size_t i = 0; i < file->n_pieces; i++) {
        struct usk_pin_file_piece *piece = &file->pieces[i];

        piece->file = file;
        piece->enter.piece = piece;
        piece->enter.job.run = piece_run_enter;
        piece->leave.piece = piece;
        piece->leave.job.run = piece_run_leave;
    }
}

int usk_pin_file_open(struct usk_pin_file *file, struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = -1;
    int r;

    if (file->fd >= 0)
        return UNSTICK_OK;
    r = usk_os_file_open(file->path, &fd, error);
    if (r < 0)
        return r;
    r = usk_os_file_id(fd, &file->id, error);
    if (r < 0)
        return r;
    file->n_pieces = (size_t)usk_div_up(file->id.bytes, file->set->store->piece_bytes);
    file->pieces = calloc(usk_max(file->n_pieces, 1), sizeof(file->pieces[0]));
    if (!file->pieces) {
        file->n_pieces = 0;
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for the pieces of %s",
                             file->path);
    }
    file_init_pieces(file);
    file->fd = fd;
    fd = -1;
    if (atomic_load(&file->set->is_direct) && file->id.bytes)
        file_map(file);
    return UNSTICK_OK;
}

struct usk_pin_file_piece *usk_pin_file_use(struct usk_pin_file *file, uint64_t offset, uint64_t bytes)
{
    struct usk_pin_file_piece *piece = &file->pieces[offset / file->set->store->piece_bytes];
    uint64_t page_bytes = usk_os_page_bytes(), start = offset - offset % page_bytes;
    uint64_t end = usk_div_up(offset + bytes, page_bytes) * page_bytes;

    piece->start = piece->end ? usk_min(piece->start, start) : start;
    piece->end = usk_max(piece->end, end);
    return piece;
}

/* Unregisters, unmaps and closes; no other job of the set runs. */
static void set_release(struct usk_pin_file_set *set)
{
    struct usk_store *store = set->store;

    for (size_t i = 0; i < set->n_files; i++) {
        struct usk_pin_file *file = &set->files[i];

        for (size_t k = 0; k < file->n_pieces; k++) {
            struct usk_pin_file_piece *piece = &file->pieces[k];
            struct unstick_error error;

            if (!piece->charged_bytes || piece_unregister(piece, &error) >= 0)
                continue;
            file->is_leaked = true;
            usk_store_log_leak(store, piece->charged_bytes, &error);
            set_lock(set);
            usk_store_leak(store, USK_BUDGET_FILE, piece->charged_bytes);
            piece->charged_bytes = 0;
            set_unlock(set);
        }
        if (file->map && !file->is_leaked)
            (void)usk_os_unmap(file->map, file->map_bytes, NULL);
        if (file->fd >= 0)
            usk_os_close(file->fd);
        file->map = NULL;
        file->fd = -1;
    }
    set_lock(set);
    set->is_released = true;
    set_unlock(set);
}

static void set_run_release(struct usk_job *job)
{
    set_release((struct usk_pin_file_set *)((char *)job - offsetof(struct usk_pin_file_set, release)));
}

int usk_pin_file_set_init(struct usk_pin_file_set *set, struct usk_store *store, const char *const *paths,
                          size_t n_paths, struct unstick_error *error)
{
    set->store = store;
    set->release.run = set_run_release;
    atomic_init(&set->is_direct, store->dev->caps.can_register_file);
    set->files = calloc(usk_max(n_paths, 1), sizeof(set->files[0]));
    if (!set->files)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc", "no memory for %zu files", n_paths);
    for (; set->n_files < n_paths; set->n_files++) {
        struct usk_pin_file *file = &set->files[set->n_files];

        file->set = set;
        file->fd = -1;
        file->path = strdup(paths[set->n_files]);
        if (!file->path)
            return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "strdup", "no memory for %zu files", n_paths);
    }
    return UNSTICK_OK;
}

void usk_pin_file_set_free(struct usk_pin_file_set *set)
{
    bool is_last;

    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++)
            set->files[i].pieces[k].n_holds = 0;
    }
    set_lock(set);
    set->is_freed = true;
    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++)
            set->files[i].pieces[k].is_wanted = false;
    }
    is_last = !set->n_busy;
    set_unlock(set);
    if (is_last)
        usk_store_submit(set->store, &set->release);
}

/* Calls visit for every job of the set; stops with false at the first that does not please. */
static bool set_each_job(struct usk_pin_file_set *set, bool (*visit)(struct usk_pin_file_set *set, struct usk_job *job))
{
    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++) {
            struct usk_pin_file_piece *piece = &set->files[i].pieces[k];

            if (!visit(set, &piece->enter.job) || !visit(set, &piece->leave.job))
                return false;
        }
    }
    return visit(set, &set->release);
}

static bool set_job_is_over(struct usk_pin_file_set *set, struct usk_job *job)
{
    (void)set;
    return usk_job_is_over(job);
}

static bool set_job_wait(struct usk_pin_file_set *set, struct usk_job *job)
{
    /* As in block.c: the pool may be gone when its jobs are over. */
    if (!usk_job_is_over(job))
        usk_pool_wait(set->store->pool, job);
    return true;
}

bool usk_pin_file_set_is_gone(struct usk_pin_file_set *set)
{
    bool is_released;

    set_lock(set);
    is_released = set->is_released;
    set_unlock(set);
    return is_released && set_each_job(set, set_job_is_over);
}

void usk_pin_file_set_wait(struct usk_pin_file_set *set)
{
    set_each_job(set, set_job_wait);
}

void usk_pin_file_set_fini(struct usk_pin_file_set *set)
{
    if (!set->is_released)
        set_release(set);
    for (size_t i = 0; i < set->n_files; i++) {
        free(set->files[i].pieces);
        free(set->files[i].path);
    }
    free(set->files);
}

uint64_t usk_pin_file_set_count(const struct usk_pin_file_set *set)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < set->n_files; i++) {
        for (size_t k = 0; k < set->files[i].n_pieces; k++)
            bytes += set->files[i].pieces[k].charged_bytes;
    }
    return bytes;
}
