/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state directory. A reader sees the file as one writer left it: it is replaced by rename(), complete and on disk.
 * Writers queue on a lock file of its own, because the file itself is another one after every write. A file that cannot
 * be read is evidence and perhaps the only copy: it is moved aside, to a name that is free, and never overwritten.
 *
 * Where others may write in the directory nothing is written: what they put there under our names, links above all,
 * would be followed with our rights.
 */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "model/file.h"

#define STATE_BYTES_MAX (UINT64_C(1) << 22)
#define STATE_ASIDE_MAX 1000

USK_DEFINE_CLEANUP(struct unstick_peaks *, unstick_peaks_free)

static int state_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc", "no memory for the learned peaks");
}

/* The folder, or NULL if the environment names no place: relative paths do not count, as the specification wants it. */
static char *state_folder(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *folder = NULL;
    int r = -1;

    if (state && state[0] == '/')
        r = asprintf(&folder, "%s/unstick", state);
    else if (home && home[0] == '/')
        r = asprintf(&folder, "%s/.local/state/unstick", home);
    return r < 0 ? NULL : folder;
}

static int state_make_folder(char *folder, struct unstick_error *error)
{
    for (char *at = strchr(folder + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        if (mkdir(folder, 0700) < 0 && errno != EEXIST)
            return usk_error_errno(error, errno, "mkdir", "cannot create %s for the learned peaks", folder);
        *at = '/';
    }
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        return usk_error_errno(error, errno, "mkdir", "cannot create %s for the learned peaks", folder);
    return UNSTICK_OK;
}

static int state_check_folder(const char *folder, struct unstick_error *error)
{
    struct stat st;

    if (stat(folder, &st) < 0)
        return usk_error_errno(error, errno, "stat", "cannot look at %s", folder);
    if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return usk_error_set(error, UNSTICK_IO, EPERM, "stat",
                             "%s belongs to another user or others may write there (owner %u, mode %o): nothing is "
                             "written; have it be yours alone, or point XDG_STATE_HOME elsewhere",
                             folder, (unsigned int)st.st_uid, (unsigned int)st.st_mode & 07777);
    return UNSTICK_OK;
}

static int state_lock(const char *folder, int *ret_fd, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *path = usk_model_path_join(folder, "peaks.lock");
    int fd, r;

    if (!path)
        return state_no_memory(error);
    r = state_check_folder(folder, error);
    if (r < 0)
        return r;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    if (fd < 0)
        return usk_error_errno(error, errno, "open", "cannot open %s", path);
    do {
        r = flock(fd, LOCK_EX);
    } while (r < 0 && errno == EINTR);
    if (r < 0) {
        r = usk_error_errno(error, errno, "flock", "cannot lock %s", path);
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return UNSTICK_OK;
}

/* No file is none known. */
static int state_parse(const char *path, struct unstick_peaks **ret_peaks, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *text = NULL;
    size_t length = 0;

    if (access(path, F_OK) == 0) {
        int r = usk_model_file_read(path, STATE_BYTES_MAX, &text, &length, error);

        if (r < 0)
            return r;
        /* A file that was cut off to nothing has lost what it held. */
        if (!length)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "peaks", "%s is empty", path);
    }
    return unstick_peaks_parse(text, length, ret_peaks, error);
}

/* Gives the damaged file a name that is free. link() never replaces, and a crash in between leaves both names. */
static int state_set_aside(const char *path, const struct unstick_error *reason, struct unstick_error *error)
{
    size_t size = strlen(path) + 32;
    USK_CLEANUP(usk_freep) char *aside = malloc(size);

    if (!aside)
        return state_no_memory(error);
    for (int i = 1; i <= STATE_ASIDE_MAX; i++) {
        snprintf(aside, size, "%s.damaged-%d", path, i);
        if (link(path, aside) == 0 && unlink(path) == 0)
            return usk_error_set(error, UNSTICK_BAD_FORMAT, 0, "peaks",
                                 "%s was damaged and is kept as %s (%.120s): run again", path, aside, reason->text);
        if (errno != EEXIST)
            break;
    }
    return usk_error_set(error, UNSTICK_BAD_FORMAT, errno, "peaks", "%s is damaged and cannot be moved away: %.200s",
                         path, reason->text);
}

/* Reads under the lock; what is damaged is moved aside. */
static int state_load(const char *path, struct unstick_peaks **ret_peaks, struct unstick_error *error)
{
    struct unstick_error reason = { 0 };
    int r = state_parse(path, ret_peaks, &reason);

    if (r == UNSTICK_BAD_FORMAT)
        return state_set_aside(path, &reason, error);
    if (r < 0)
        *error = reason;
    return r;
}

int cli_state_read_peaks(struct unstick_peaks **ret_peaks, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *folder = state_folder();
    USK_CLEANUP(usk_freep) char *path = folder ? usk_model_path_join(folder, "peaks.json") : NULL;
    USK_CLEANUP(usk_closep) int lock = -1;
    struct unstick_error reason;
    int r;

    if (!path)
        return unstick_peaks_parse(NULL, 0, ret_peaks, error);
    r = state_parse(path, ret_peaks, &reason);
    if (r != UNSTICK_BAD_FORMAT) {
        if (r < 0)
            *error = reason;
        return r;
    }
    /* Again, where nobody can be about to repair it. */
    if (state_lock(folder, &lock, error) < 0) {
        *error = reason;
        return reason.status;
    }
    return state_load(path, ret_peaks, error);
}

/* Under the lock: one name is enough, and what a writer that was killed left under it goes here. */
static int state_write(const char *path, const char *text, size_t length, struct unstick_error *error)
{
    size_t size = strlen(path) + 8;
    USK_CLEANUP(usk_freep) char *made = malloc(size);
    const char *operation = "open";
    int fd, native = 0;

    if (!made)
        return state_no_memory(error);
    snprintf(made, size, "%s.new", path);
    unlink(made);
    fd = open(made, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return usk_error_errno(error, errno, operation, "cannot write beside %s", path);
    for (size_t at = 0; at < length && !native;) {
        ssize_t n = write(fd, text + at, length - at);

        if (n >= 0)
            at += (size_t)n;
        else if (errno != EINTR)
            native = errno, operation = "write";
    }
    if (!native && fsync(fd) < 0)
        native = errno, operation = "fsync";
    if (close(fd) < 0 && !native)
        native = errno, operation = "close";
    if (!native && rename(made, path) < 0)
        native = errno, operation = "rename";
    if (!native)
        return UNSTICK_OK;
    unlink(made);
    return usk_error_errno(error, native, operation, "cannot write %s", path);
}

int cli_state_add_peak(const char *key, const char *fingerprint, uint64_t bytes, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *folder = state_folder();
    USK_CLEANUP(usk_freep) char *path = folder ? usk_model_path_join(folder, "peaks.json") : NULL;
    USK_CLEANUP(unstick_peaks_freep) struct unstick_peaks *peaks = NULL;
    USK_CLEANUP(usk_closep) int lock = -1;
    const char *text;
    size_t length;
    int r;

    if (!path)
        return usk_error_set(error, UNSTICK_NOT_FOUND, 0, "peaks",
                             "no place for learned peaks: neither XDG_STATE_HOME nor HOME is an absolute path");
    r = state_make_folder(folder, error);
    if (r >= 0)
        r = state_lock(folder, &lock, error);
    if (r >= 0)
        r = state_load(path, &peaks, error);
    if (r >= 0)
        r = unstick_peaks_add(peaks, key, fingerprint, bytes, error);
    if (r >= 0)
        r = unstick_peaks_text(peaks, &text, &length, error);
    return r < 0 ? r : state_write(path, text, length, error);
}
