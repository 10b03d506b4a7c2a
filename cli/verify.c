/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Verification shares nothing with what it checks but unstick_region_read(): the files are read with pread,
 * tensor by tensor as the headers place them, not by the layout that the load was given. Read, not mapped:
 * neither a truncated file (SIGBUS) nor a large one (resident pages that would be counted as ours) is a
 * problem.
 */
#include "verify.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "cli.h"

#define VERIFY_CHUNK_BYTES (UINT64_C(8) << 20)

struct verifier {
    const char *key;
    const struct unstick_component *component;
    struct unstick_region *region;
    unsigned char *from_file, *from_region;
    int *fds; /* one per file, -1: not open */
};

static int verifier_fini(struct verifier *verifier, int r)
{
    for (size_t i = 0; verifier->fds && i < verifier->component->layout.n_paths; i++)
        usk_closep(&verifier->fds[i]);
    free(verifier->fds);
    free(verifier->from_file);
    free(verifier->from_region);
    return r;
}

static int verifier_init(struct verifier *verifier, struct unstick_error *error)
{
    const struct unstick_layout *layout = &verifier->component->layout;

    verifier->from_file = malloc(VERIFY_CHUNK_BYTES);
    verifier->from_region = malloc(VERIFY_CHUNK_BYTES);
    verifier->fds = malloc(usk_max(layout->n_paths, 1) * sizeof(*verifier->fds));
    for (size_t i = 0; verifier->fds && i < layout->n_paths; i++)
        verifier->fds[i] = -1;
    if (!verifier->from_file || !verifier->from_region || !verifier->fds)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc",
                             "out of host memory to verify with");
    return UNSTICK_OK;
}

static int verifier_check_tensor(struct verifier *verifier, const struct unstick_tensor *tensor,
                                 struct unstick_error *error)
{
    const char *path = verifier->component->layout.paths[tensor->file];
    int *fd = &verifier->fds[tensor->file];
    uint64_t chunk, differs;
    int r;

    if (*fd < 0) {
        r = usk_os_file_open(path, fd, error);
        if (r < 0)
            return r;
    }
    for (uint64_t at = 0; at < tensor->bytes; at += chunk) {
        if (cli_is_interrupted())
            return cli_error_interrupted(error);
        chunk = usk_min(tensor->bytes - at, VERIFY_CHUNK_BYTES);
        r = usk_os_file_read(*fd, path, tensor->file_offset + at, verifier->from_file, chunk, error);
        if (r == UNSTICK_OK)
            r = unstick_region_read(verifier->region, tensor->region_offset + at, verifier->from_region,
                                    chunk, error);
        if (r < 0)
            return r;
        if (memcmp(verifier->from_file, verifier->from_region, chunk)) {
            for (differs = 0; verifier->from_file[differs] == verifier->from_region[differs];)
                differs++;
            return usk_error_set(error, UNSTICK_MISMATCH, 0, "verify",
                                 "%s: %s: tensor %s differs from %s at byte %llu of %llu", verifier->key,
                                 verifier->component->name, tensor->name, path,
                                 (unsigned long long)(at + differs), (unsigned long long)tensor->bytes);
        }
    }
    return UNSTICK_OK;
}

int verify_component(const char *key, const struct unstick_component *component,
                     struct unstick_region *region, struct unstick_error *error)
{
    struct verifier verifier = { .key = key, .component = component, .region = region };
    int r;

    r = verifier_init(&verifier, error);
    for (size_t i = 0; r == UNSTICK_OK && i < component->n_tensors; i++) {
        if (!component->tensors[i].is_metadata)
            r = verifier_check_tensor(&verifier, &component->tensors[i], error);
    }
    return verifier_fini(&verifier, r);
}

static int warm_file(const char *path, unsigned char *buffer, struct unstick_error *error)
{
    USK_CLEANUP(usk_closep) int fd = -1;
    int r;

    r = usk_os_file_open(path, &fd, error);
    if (r < 0)
        return r;
    while (read(fd, buffer, VERIFY_CHUNK_BYTES) > 0) {
        if (cli_is_interrupted())
            return cli_error_interrupted(error);
    }
    /* The load that follows says better what is wrong with a file that cannot be read. */
    return UNSTICK_OK;
}

int verify_warm(const struct unstick_component *component, struct unstick_error *error)
{
    USK_CLEANUP(usk_freep) unsigned char *buffer = malloc(VERIFY_CHUNK_BYTES);
    int r = UNSTICK_OK;

    if (!buffer)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc",
                             "out of host memory to read files with");
    for (size_t i = 0; r == UNSTICK_OK && i < component->layout.n_paths; i++)
        r = warm_file(component->layout.paths[i], buffer, error);
    return r;
}
