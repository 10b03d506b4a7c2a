/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory is there in full or not at all. It is made as DIR.partial-<pid> beside its final place (the
 * same file system, so that one rename ends it), and removed when anything fails. What a killed run left is
 * removed by the next one for the same DIR: a live run holds a lock on its directory, and the system drops
 * locks with their owner, in whatever process or container namespace that was; a process id alone would not
 * tell.
 *
 * DIR itself may be missing or an empty directory, which the rename replaces. Anything else, and what a
 * rename could not replace, is refused at the start, before gigabytes are written; and again by the rename,
 * should something have appeared meanwhile.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/os.h"
#include "base/size.h"
#include "model/flux.h"

#define STAGE_INFIX ".partial-"
#define STAGE_OPEN_FILES 16

struct usk_flux_stage {
    char *path;   /* DIR.partial-<pid> */
    char *target; /* DIR */
    int lock_fd;  /* holds the lock on path */
};

static struct usk_flux_stage *stage_free(struct usk_flux_stage *stage)
{
    if (!stage)
        return NULL;
    usk_closep(&stage->lock_fd);
    free(stage->path);
    free(stage->target);
    free(stage);
    return NULL;
}

USK_DEFINE_CLEANUP(struct usk_flux_stage *, stage_free)

static void dir_closep(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

static int entry_remove(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    remove(path);
    return 0;
}

/* What cannot be removed stays, and the next run tries again. */
static void tree_remove(const char *path)
{
    nftw(path, entry_remove, STAGE_OPEN_FILES, FTW_DEPTH | FTW_PHYS);
}

static bool dir_is_empty(const char *path)
{
    USK_CLEANUP(dir_closep) DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            return false;
    }
    return dir;
}

/* True if what is mounted on it is not what its parent is on: a mount point is not renamed over. */
static bool dir_is_mounted(const char *path, const struct stat *info)
{
    USK_CLEANUP(usk_freep) char *parent = NULL;
    struct stat parent_info;

    if (asprintf(&parent, "%s/..", path) < 0) {
        parent = NULL;
        return false;
    }
    return stat(parent, &parent_info) == 0 && parent_info.st_dev != info->st_dev;
}

/* The path that the result gets: without slashes at the end, links followed if it is there. */
static int target_resolve(const char *dir, char **ret_target, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) char *target = strdup(dir);
    struct stat info;
    const char *name;
    size_t length;

    if (!target)
        goto fail_memory;
    for (length = strlen(target); length > 1 && target[length - 1] == '/'; length--)
        target[length - 1] = '\0';
    name = strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
    if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "synth",
                             "'%s' cannot be written as a whole: name a new directory", dir);
    if (stat(target, &info) == 0) {
        char *real;

        if (!S_ISDIR(info.st_mode))
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, ENOTDIR, "synth",
                                 "%s exists and is not a directory: name a new one", target);
        if (!dir_is_empty(target))
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, ENOTEMPTY, "synth",
                                 "%s is not empty (or not readable): remove it or name a new directory",
                                 target);
        if (dir_is_mounted(target, &info))
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, EBUSY, "synth",
                                 "%s is a mount point, which cannot be replaced: name a new directory in it",
                                 target);
        real = realpath(target, NULL);
        if (!real)
            goto fail_memory;
        free(target);
        target = real;
    } else if (lstat(target, &info) == 0) {
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, ENOENT, "synth",
                             "%s is a link to something that is not there: name a new directory", target);
    }
    *ret_target = USK_STEAL(target);
    return UNSTICK_OK;

fail_memory:
    return usk_error_errno(error, errno, "realpath", "cannot resolve %s", dir);
}

static int stage_lock(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool name_is_partial(const char *name, const char *base)
{
    size_t length = strlen(base), infix = strlen(STAGE_INFIX);

    return !strncmp(name, base, length) && !strncmp(name + length, STAGE_INFIX, infix) &&
           name[length + infix] &&
           strspn(name + length + infix, "0123456789") == strlen(name + length + infix);
}

/* Removes what killed runs for the same target left in the folder. */
static void stage_sweep(const char *folder, const char *base)
{
    USK_CLEANUP(dir_closep) DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        USK_CLEANUP(usk_freep) char *path = NULL;
        USK_CLEANUP(usk_closep) int fd = -1;

        if (!name_is_partial(entry->d_name, base))
            continue;
        if (asprintf(&path, "%s/%s", folder, entry->d_name) < 0) {
            path = NULL;
            continue;
        }
        fd = stage_lock(path);
        if (fd >= 0)
            tree_remove(path);
    }
}

static int space_check(const char *folder, const char *target, uint64_t required_bytes,
                       struct unstick_error *error)
{
    char required[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX];
    struct statvfs info;
    uint64_t available_bytes;

    if (!required_bytes || statvfs(folder, &info) < 0)
        return UNSTICK_OK;
    available_bytes = (uint64_t)info.f_bavail * info.f_frsize;
    if (available_bytes >= required_bytes)
        return UNSTICK_OK;
    usk_error_set(error, UNSTICK_NO_SPACE, ENOSPC, "statvfs",
                  "%s takes %s and its file system has %s free: make room, or choose a smaller model", target,
                  usk_size_format(required, required_bytes), usk_size_format(available, available_bytes));
    usk_error_shortage(error, required_bytes, available_bytes);
    return UNSTICK_NO_SPACE;
}

int usk_flux_stage_new(const char *dir, uint64_t required_bytes, struct usk_flux_stage **ret_stage,
                       struct unstick_error *error)
{
    USK_CLEANUP(stage_freep) struct usk_flux_stage *stage = calloc(1, sizeof(*stage));
    USK_CLEANUP(usk_freep) char *folder = NULL;
    const char *slash;
    int status;

    if (!stage)
        goto fail_memory;
    stage->lock_fd = -1;
    status = target_resolve(dir, &stage->target, error);
    if (status || !stage->target)
        return status;
    slash = strrchr(stage->target, '/');
    folder = !slash                   ? strdup(".")
             : slash == stage->target ? strdup("/")
                                      : strndup(stage->target, (size_t)(slash - stage->target));
    if (!folder || asprintf(&stage->path, "%s" STAGE_INFIX "%d", stage->target, usk_os_pid()) < 0 || !stage->path)
        goto fail_memory;
    stage_sweep(folder, slash ? slash + 1 : stage->target);
    status = space_check(folder, stage->target, required_bytes, error);
    if (status)
        return status;
    if (mkdir(stage->path, 0777) < 0)
        return usk_error_errno(error, errno, "mkdir", "cannot create a directory in %s", folder);
    /* Not every file system has locks; without one a sweep does not get it either, and leaves this alone. */
    stage->lock_fd = stage_lock(stage->path);
    *ret_stage = USK_STEAL(stage);
    return UNSTICK_OK;

fail_memory:
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, ENOMEM, "malloc", "out of host memory for %s",
                         dir);
}

const char *usk_flux_stage_path(const struct usk_flux_stage *stage)
{
    return stage->path;
}

int usk_flux_stage_commit(struct usk_flux_stage *stage, struct unstick_error *error)
{
    int status;

    if (rename(stage->path, stage->target) == 0) {
        stage_free(stage);
        return UNSTICK_OK;
    }
    status = usk_error_errno(error, errno, "rename", "cannot give the finished directory its name %s",
                             stage->target);
    usk_flux_stage_discard(stage);
    return status;
}

struct usk_flux_stage *usk_flux_stage_discard(struct usk_flux_stage *stage)
{
    if (stage)
        tree_remove(stage->path);
    return stage_free(stage);
}
