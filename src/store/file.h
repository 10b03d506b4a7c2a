/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_STORE_FILE_H
#define USK_STORE_FILE_H

#include "base/os.h"
#include "base/worker.h"
#include "store/store.h"

struct usk_pin_file;

enum usk_pin_file_piece_state {
    USK_FILE_PIECE_OUT,      /* not registered */
    USK_FILE_PIECE_ENTERING, /* a job brings it in and registers it */
    USK_FILE_PIECE_IN,       /* registered */
    USK_FILE_PIECE_LEAVING,  /* a job unregisters it */
    USK_FILE_PIECE_FAILED,   /* not registered; error says why */
};

struct usk_pin_file_job {
    struct usk_job job; /* first */
    struct usk_pin_file_piece *piece;
};

/* The store's piece_bytes of a file, and the part of them that the layout needs, which is what gets
 * registered. */
struct usk_pin_file_piece {
    struct usk_pin_file *file;
    uint64_t start, end; /* from the start of the file, in whole pages; empty if nothing of it is needed */
    uint32_t n_holds;    /* the baton's holder's */

    /* Under the store's lock. */
    enum usk_pin_file_piece_state state;
    bool is_wanted;
    uint64_t charged_bytes; /* > 0: registered */
    struct unstick_error error;

    struct usk_pin_file_job enter, leave;
};

struct usk_pin_file {
    struct usk_pin_file_set *set;
    char *path;
    int fd;                 /* -1: not opened */
    struct usk_file_id id;
    char *map;              /* the whole file; NULL: not mapped */
    uint64_t map_bytes;
    bool is_leaked;         /* the device would not let go: the mapping stays */
    struct usk_pin_file_piece *pieces;
    size_t n_pieces;
};

/* The files of one backing, which end together. */
struct usk_pin_file_set {
    struct usk_store *store;
    atomic_bool is_direct;
    struct usk_pin_file *files;
    size_t n_files;

    /* Under the store's lock. */
    unsigned int n_busy;    /* jobs of pieces that have not run to their end */
    bool is_freed, is_released;
    bool is_pinning;        /* all pieces are to be registered */

    struct usk_job release; /* to the set by container */
};

/* The files are not opened yet. The set stays at its address until it is gone. */
int usk_pin_file_set_init(struct usk_pin_file_set *set, struct usk_store *store, const char *const *paths,
                          size_t n_paths, struct unstick_error *error);
/* [blocks] Opens, identifies and, where it may help, maps a file; nothing to do if it is open. */
int usk_pin_file_open(struct usk_pin_file *file, struct unstick_error *error);
/* Counts a stretch that lies in one piece among what that piece registers. The file is open. */
struct usk_pin_file_piece *usk_pin_file_use(struct usk_pin_file *file, uint64_t offset, uint64_t bytes);

/* Sees to it that the piece is registered, or becomes so: OK or PENDING; UNSUPPORTED if the set is not
 * direct. */
int usk_pin_file_piece_want(struct usk_pin_file_piece *piece, struct unstick_error *error);
/* The same for who wants it already, only that a failure stays. */
int usk_pin_file_piece_poll(struct usk_pin_file_piece *piece, struct unstick_error *error);
/* True if nothing was begun for it yet and n jobs of the set are under way. */
bool usk_pin_file_piece_is_behind(struct usk_pin_file_piece *piece, unsigned int n);
/* The same for who guesses that it will be wanted; not while n jobs of the set are under way. */
void usk_pin_file_piece_want_ahead(struct usk_pin_file_piece *piece, unsigned int n);

/* Registers all pieces that are not, one after the other, each begun by the job of the one before. */
void usk_pin_file_set_pin(struct usk_pin_file_set *set);
/* Unregisters what nobody holds. */
void usk_pin_file_set_unpin(struct usk_pin_file_set *set);

/* [any] UNSTICK_BACKUP_CHANGED if the file is not what it was when it was opened. */
int usk_pin_file_check(const struct usk_pin_file *file, struct unstick_error *error);
/* [any] [blocks] Reads a stretch; too short a file is BACKUP_CHANGED, or BAD_FORMAT if it always was. */
int usk_pin_file_read(const struct usk_pin_file *file, uint64_t offset, void *buffer, uint64_t bytes,
                  struct unstick_error *error);

/* Unregisters, unmaps and closes everything by a job, when the other jobs are over. */
void usk_pin_file_set_free(struct usk_pin_file_set *set);
/* True once that has happened and no job is left: usk_pin_file_set_fini() does not block any more. */
bool usk_pin_file_set_is_gone(struct usk_pin_file_set *set);
/* [blocks] Waits for the jobs that are queued or run now. */
void usk_pin_file_set_wait(struct usk_pin_file_set *set);
/* [blocks] No job can run any more: gives back what is left, also the set's own memory. */
void usk_pin_file_set_fini(struct usk_pin_file_set *set);

/* Bytes that are charged. Under the lock. */
uint64_t usk_pin_file_set_count(const struct usk_pin_file_set *set);

#endif
