/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model: a region has contents, an image of them, or none. Which of the two is known whenever no task that changes
 * it is under way; after one that was stopped half way (a discard, a restore of nothing) each granule may be either.
 * Whatever fails, a granule that can be read holds the image, or zeros where it had nothing.
 *
 * Granules are as short as the device allows, so that a run with a hundred operations takes milliseconds.
 */
#include "script.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <unstick/unstick.h>

#include "device/fault/fault.h"
#include "device/host/host.h"
#include "region/context.h"
#include "region/device.h"
#include "region/region.h"

#define N_REGIONS 3
#define N_TASKS 6
#define N_LEASES 3
#define MAX_GRANULES 5
#define MAX_STEPS 40000
#define GRANULE_BYTES (UINT64_C(64) << 10)

struct script_counts script_counts;

enum contents {
    CONTENTS_NONE,
    CONTENTS_IMAGE,
    CONTENTS_EITHER, /* granule by granule: the image, zeros or nothing */
    CONTENTS_UNKNOWN, /* a write was refused half way */
};

struct region {
    struct unstick_region *region; /* NULL: none */
    uint64_t bytes;
    enum contents contents;
    unsigned int n_changing;       /* tasks under way that change it */
    bool is_revoked;
    struct unstick_layout layout;
    struct unstick_extent extents[2];
    const char *paths[1];
    uint8_t *image, *file;
};

enum verb { VERB_LOAD, VERB_RESTORE, VERB_EVICT, VERB_BACKUP, VERB_DISCARD, VERB_REVOKE, N_VERBS };

struct task {
    struct unstick_task *task; /* NULL: free */
    struct region *region;
    enum verb verb;
    uint64_t number; /* in order of submission */
};

struct script {
    const uint8_t *data;
    size_t n_data;
    uint64_t state;
    struct unstick_context *ctx;
    struct usk_device *fault;
    struct unstick_device *dev;
    struct region regions[N_REGIONS];
    struct task tasks[N_TASKS];
    uint64_t n_submitted;
    struct unstick_lease *leases[N_LEASES];
    bool has_faults;
    const char *broken;
};

static char file_path[64];

static uint64_t script_next(struct script *script)
{
    uint64_t z;

    if (script->n_data) {
        script->n_data--;
        script->state = (script->state ^ *script->data) * UINT64_C(0x100000001b3);
        return *script->data++;
    }
    z = script->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t script_pick(struct script *script, uint64_t n)
{
    return script_next(script) % n;
}

static bool script_require(struct script *script, bool is_true, const char *property)
{
    if (!is_true && !script->broken)
        script->broken = property;
    return is_true;
}

static bool script_is_over(struct script *script)
{
    /* Not asked of the driver: it would count as a call, and fail. */
    return script->broken || atomic_load(&script->dev->is_lost);
}

/* What may become of a call while the device is made to fail, or was left in a state by that. */
static bool script_may_fail(const struct script *script, int status)
{
    return script->has_faults || status == UNSTICK_OUT_OF_DEVICE_MEMORY || status == UNSTICK_HOST_BUDGET;
}

/* --- regions --- */

static void script_fill(uint8_t *bytes, uint64_t n, uint64_t seed)
{
    for (uint64_t i = 0; i < n; i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static void region_open(struct script *script, size_t index)
{
    struct region *region = &script->regions[index];
    struct unstick_error error = { 0 };
    uint64_t offset = index * MAX_GRANULES * GRANULE_BYTES;
    int r;

    if (region->region)
        return;
    region->bytes = (2 + index) * GRANULE_BYTES - (index == 1 ? 100 : 0);
    region->contents = CONTENTS_NONE;
    region->n_changing = 0;
    region->is_revoked = false;
    /* Two runs of the file, from odd places, with a gap between. */
    region->extents[0] = (struct unstick_extent){ 0, offset + 7, 0, GRANULE_BYTES + 33 };
    region->extents[1] = (struct unstick_extent){ 0, offset + GRANULE_BYTES + 90, GRANULE_BYTES + 512,
                                                  region->bytes - GRANULE_BYTES - 512 };
    region->paths[0] = file_path;
    region->layout = (struct unstick_layout){ region->paths, 1, region->extents, 2, region->bytes };
    r = unstick_region_new(script->dev, "r", region->bytes, NULL, &region->region, &error);
    if (r < 0)
        region->region = NULL;
    script_require(script, r == UNSTICK_OK || script_may_fail(script, r), "a region cannot be made");
}

/* The bytes of a granule, as far as the model knows. */
static void region_check_bytes(struct script *script, const struct region *region, uint64_t offset,
                               const uint8_t *bytes, uint64_t n)
{
    bool is_image = memcmp(bytes, region->image + offset, n) == 0, is_zero = true;

    if (region->contents == CONTENTS_UNKNOWN)
        return;
    for (uint64_t i = 0; i < n; i++)
        is_zero &= !bytes[i];
    script_counts.n_reads++;
    if (region->contents == CONTENTS_IMAGE && !region->n_changing)
        script_require(script, is_image, "contents differ from what was written");
    else if (region->contents == CONTENTS_NONE && !region->n_changing)
        script_require(script, is_zero, "a region without contents holds something");
    else
        script_require(script, is_image || is_zero || memcmp(bytes, region->file + offset, n) == 0,
                       "contents are neither the old ones nor none");
}

static void region_read(struct script *script, struct region *region, uint64_t offset, uint64_t n)
{
    static uint8_t bytes[GRANULE_BYTES];
    struct unstick_region_info info = { .size = sizeof(info) };
    int r;

    n = n < sizeof(bytes) ? n : sizeof(bytes);
    r = unstick_region_read(region->region, offset, bytes, n, NULL);
    unstick_region_info(region->region, &info);
    if (r == UNSTICK_OK && !info.n_poisoned)
        region_check_bytes(script, region, offset, bytes, n);
    else if (r == UNSTICK_NO_CONTENTS)
        script_require(script, region->contents != CONTENTS_IMAGE || region->n_changing || info.n_poisoned,
                       "contents are gone");
    else if (r != UNSTICK_BUSY && r < 0 && !info.n_poisoned)
        script_require(script, script_may_fail(script, r), "contents cannot be read");
}

static void script_read(struct script *script)
{
    struct region *region = &script->regions[script_pick(script, N_REGIONS)];
    uint64_t offset = script_pick(script, MAX_GRANULES) * GRANULE_BYTES + script_pick(script, 200) * 320;

    if (region->region && offset + 64 <= region->bytes)
        region_read(script, region, offset, 64);
}

static void script_write(struct script *script)
{
    struct region *region = &script->regions[script_pick(script, N_REGIONS)];
    struct unstick_region_info info = { .size = sizeof(info) };
    uint64_t n = 1 + script_pick(script, 3) * 30000, offset = script_pick(script, 256) * 1000;
    int r;

    if (!region->region || offset + n > region->bytes || region->n_changing || region->contents != CONTENTS_IMAGE)
        return;
    unstick_region_info(region->region, &info);
    if (info.state != UNSTICK_REGION_RESIDENT)
        return;
    script_fill(region->image + offset, n, script->state);
    for (int i = 0; i < 3; i++) {
        r = unstick_region_write(region->region, offset, region->image + offset, n, NULL);
        if (r == UNSTICK_OK || r == UNSTICK_DEVICE_LOST)
            return;
        if (!script_require(script, r == UNSTICK_BUSY || script_may_fail(script, r), "cannot be written"))
            return;
        usk_fault_set(script->fault, NULL);
    }
    region->contents = CONTENTS_UNKNOWN;
}

/* --- tasks --- */

static bool verb_changes(enum verb verb)
{
    return verb == VERB_LOAD || verb == VERB_DISCARD || verb == VERB_REVOKE || verb == VERB_RESTORE;
}

static void script_submit(struct script *script)
{
    static int (*const verbs[N_VERBS])(struct unstick_region *, const struct unstick_task_options *,
                                       struct unstick_task **, struct unstick_error *) = {
        [VERB_RESTORE] = unstick_region_restore, [VERB_EVICT] = unstick_region_evict,
        [VERB_BACKUP] = unstick_region_backup,   [VERB_DISCARD] = unstick_region_discard,
        [VERB_REVOKE] = unstick_region_revoke,
    };
    struct task *task = &script->tasks[script_pick(script, N_TASKS)];
    struct region *region = &script->regions[script_pick(script, N_REGIONS)];
    struct unstick_task_options options = { .size = sizeof(options) };
    struct unstick_task *source = NULL;
    uint64_t choice = script_pick(script, 16);
    int r;

    if (task->task || !region->region)
        return;
    task->verb = choice < 4 ? VERB_LOAD : choice < 8 ? VERB_RESTORE : choice < 12 ? VERB_EVICT
               : choice < 14 ? VERB_BACKUP : choice == 14 ? VERB_DISCARD : VERB_RESTORE;
    if (choice == 15 && script_pick(script, 8) == 0)
        task->verb = VERB_REVOKE;
    options.tier = (enum unstick_tier)script_pick(script, 4);
    if (task->verb != VERB_LOAD && options.tier == UNSTICK_TIER_FILE)
        options.tier = UNSTICK_TIER_AUTO;
    options.fence = (enum unstick_fence)script_pick(script, 3);
    options.flags = script_pick(script, 4) == 0 ? UNSTICK_TASK_VERIFY | UNSTICK_TASK_HAND_OVER : 0;
    if (script_pick(script, 4) == 0)
        options.max_bytes = (1 + script_pick(script, 3)) * GRANULE_BYTES;
    if (task->verb == VERB_LOAD || task->verb == VERB_RESTORE) {
        const struct task *other = &script->tasks[script_pick(script, N_TASKS)];

        source = other->verb == VERB_EVICT && other->region != region ? other->task : NULL;
        options.sources = &source;
        options.n_sources = source != NULL;
    }
    if (task->verb == VERB_LOAD)
        r = unstick_region_load(region->region, &region->layout, &options, &task->task, NULL);
    else
        r = verbs[task->verb](region->region, &options, &task->task, NULL);
    if (r < 0) {
        task->task = NULL;
        script_require(script, script_may_fail(script, r) || r == UNSTICK_REVOKED || r == UNSTICK_BUSY ||
                                   r == UNSTICK_INVALID_ARGUMENT, "a task is refused");
        return;
    }
    task->region = region;
    task->number = script->n_submitted++;
    region->n_changing += verb_changes(task->verb);
    script_counts.n_tasks++;
}

/* The end of a task in the model. */
static void task_settle(struct script *script, struct task *task, int status)
{
    struct region *region = task->region;
    struct unstick_task_result result = { .size = sizeof(result) };
    struct unstick_region_info info = { .size = sizeof(info) };

    unstick_task_result(task->task, &result);
    unstick_region_info(region->region, &info);
    script_counts.n_ended_well += status == UNSTICK_OK;
    script_counts.n_canceled += status == UNSTICK_CANCELED;
    script_counts.n_failed += status < 0 && status != UNSTICK_CANCELED;
    region->n_changing -= verb_changes(task->verb);
    switch (task->verb) {
    case VERB_LOAD:
        if (status == UNSTICK_OK) {
            memcpy(region->image, region->file, region->bytes);
            region->contents = CONTENTS_IMAGE;
        }
        break;
    case VERB_RESTORE:
        /* Nothing comes back as zeros, in part if it was stopped. */
        if (region->contents == CONTENTS_NONE && result.done_bytes) {
            memset(region->image, 0, region->bytes);
            region->contents = info.state == UNSTICK_REGION_RESIDENT ? CONTENTS_IMAGE : CONTENTS_EITHER;
        }
        break;
    case VERB_DISCARD:
    case VERB_REVOKE:
        if (status == UNSTICK_OK)
            region->contents = CONTENTS_NONE;
        else if (region->contents == CONTENTS_IMAGE)
            region->contents = CONTENTS_EITHER;
        region->is_revoked |= task->verb == VERB_REVOKE;
        break;
    case VERB_EVICT:
    case VERB_BACKUP:
    default:
        break;
    }
    script_require(script, status == UNSTICK_OK || status == UNSTICK_CANCELED || status == UNSTICK_BUSY ||
                               status == UNSTICK_REVOKED || status == UNSTICK_NO_CONTENTS ||
                               script_may_fail(script, status), "a task fails without a reason");
    task->task = unstick_task_free(task->task);
}

/* The one that was submitted first, of those that have ended. */
static struct task *script_ended_task(struct script *script)
{
    struct task *first = NULL;

    for (size_t i = 0; i < N_TASKS; i++) {
        struct task *task = &script->tasks[i];
        struct unstick_task_result result = { .size = sizeof(result) };

        if (task->task && (!first || task->number < first->number) &&
            unstick_task_result(task->task, &result) != UNSTICK_PENDING)
            first = task;
    }
    return first;
}

/* Those of one region end in order of submission. */
static void script_settle_tasks(struct script *script)
{
    struct task *task;

    while ((task = script_ended_task(script))) {
        struct unstick_task_result result = { .size = sizeof(result) };

        task_settle(script, task, unstick_task_result(task->task, &result));
    }
}

static void script_step(struct script *script, uint64_t n)
{
    while (n-- && unstick_context_step(script->ctx, 0) == UNSTICK_PENDING) {
        script_settle_tasks(script);
        if (!script_require(script, usk_device_is_valid(script->dev), "the device is not valid after a step"))
            return;
    }
    script_settle_tasks(script);
}

/* --- leases, faults --- */

static void script_lease(struct script *script)
{
    size_t at = script_pick(script, N_LEASES);
    struct region *region = &script->regions[script_pick(script, N_REGIONS)];

    if (script->leases[at]) {
        if (unstick_lease_end(script->leases[at], NULL) == UNSTICK_OK)
            script->leases[at] = NULL;
    } else if (region->region) {
        struct unstick_region_info info = { .size = sizeof(info) };

        if (unstick_lease_begin(region->region, script_pick(script, 2) ? UNSTICK_LEASE_CANCEL_EVICTION : 0,
                                &script->leases[at], NULL) < 0) {
            script->leases[at] = NULL;
            return;
        }
        unstick_region_info(region->region, &info);
        script_require(script, info.state == UNSTICK_REGION_RESIDENT && !info.n_bare, "leased, and not there");
        unstick_lease_use_stream(script->leases[at], NULL, NULL);
    }
}

static void script_set_faults(struct script *script)
{
    struct usk_fault_script faults = { .fail_at = 1 + script_pick(script, 12) };

    script_counts.n_faults += usk_fault_n_failed(script->fault) != 0;
    switch (script_pick(script, 8)) {
    case 0:
        usk_fault_set(script->fault, NULL);
        return;
    case 1:
        faults.busy_maps = (uint32_t)script_pick(script, 8);
        break;
    case 2:
        faults.pending_polls = (uint32_t)script_pick(script, 5);
        break;
    case 3:
        faults.op_mask = UINT64_C(1) << script_pick(script, USK_N_FAULT_OPS);
        faults.fail_at = 1 + script_pick(script, 4);
        faults.count_polls = true;
        break;
    case 4:
        faults.is_for_ever = script_pick(script, 4) == 0;
        break;
    case 5:
        if (script_pick(script, 4) == 0)
            faults.lose_at = faults.fail_at;
        break;
    default:
        break;
    }
    script->has_faults = true;
    usk_fault_set(script->fault, &faults);
}

static void script_op(struct script *script)
{
    struct task *task = &script->tasks[script_pick(script, N_TASKS)];
    size_t index = script_pick(script, N_REGIONS);

    switch (script_pick(script, 16)) {
    case 0: case 1: case 2: case 3:
        script_submit(script);
        break;
    case 4:
        if (task->task)
            unstick_task_cancel(task->task);
        break;
    case 5:
        script_lease(script);
        break;
    case 6:
        script_set_faults(script);
        break;
    case 7: case 8:
        script_write(script);
        break;
    case 9: case 10:
        script_read(script);
        break;
    case 11:
        region_open(script, index);
        break;
    default:
        script_step(script, script_pick(script, 64));
        break;
    }
}

/* --- the end --- */

static bool script_has_tasks(const struct script *script)
{
    for (size_t i = 0; i < N_TASKS; i++) {
        if (script->tasks[i].task)
            return true;
    }
    return false;
}

/* Without faults, and with nobody in the way, everything ends; and what is whole can be moved and read. */
static void script_finish(struct script *script)
{
    uint64_t n_steps = 0;

    script_counts.n_faults += usk_fault_n_failed(script->fault) != 0;
    usk_fault_set(script->fault, NULL);
    for (size_t i = 0; i < N_LEASES; i++) {
        if (script->leases[i])
            unstick_lease_end(script->leases[i], NULL);
        script->leases[i] = NULL;
    }
    while (script_has_tasks(script) && !script->broken) {
        script_step(script, 1);
        if (n_steps > 1000)
            usleep(50);
        script_require(script, ++n_steps < MAX_STEPS, "a task does not end");
    }
    for (size_t i = 0; i < N_REGIONS && !script_is_over(script); i++) {
        struct region *region = &script->regions[i];
        struct unstick_region_info info = { .size = sizeof(info) };

        if (!region->region)
            continue;
        unstick_region_info(region->region, &info);
        script_counts.n_poisoned += info.n_poisoned != 0;
        for (uint64_t offset = 0; offset < region->bytes; offset += GRANULE_BYTES)
            region_read(script, region, offset, region->bytes - offset);
    }
    script_counts.n_lost += script_is_over(script) && !script->broken;
}

static bool script_open(struct script *script)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options), .n_threads = 1 };
    struct unstick_device_options device_options = { .size = sizeof(device_options) };
    struct usk_log log = { 0 };
    struct usk_device *inner;
    uint8_t *file;

    context_options.host_bytes = (6 + script_pick(script, 16)) * GRANULE_BYTES;
    device_options.granule_bytes = GRANULE_BYTES;
    device_options.limit_bytes = (5 + script_pick(script, 9)) * GRANULE_BYTES;
    if (unstick_context_new(&context_options, &script->ctx, NULL) < 0 ||
        usk_host_open(64 * GRANULE_BYTES, script->ctx->event_fd, &log, &inner, NULL) < 0 ||
        usk_fault_open(inner, &script->fault, NULL) < 0 ||
        usk_device_adopt(script->ctx, script->fault, &device_options, &script->dev, NULL) < 0)
        return false;
    file = malloc(N_REGIONS * MAX_GRANULES * GRANULE_BYTES);
    if (!file)
        return false;
    script_fill(file, N_REGIONS * MAX_GRANULES * GRANULE_BYTES, 1);
    for (size_t i = 0; i < N_REGIONS; i++) {
        struct region *region = &script->regions[i];

        region->image = calloc(MAX_GRANULES, GRANULE_BYTES);
        region->file = calloc(MAX_GRANULES, GRANULE_BYTES);
        if (!region->image || !region->file)
            abort();
        region_open(script, i);
        for (size_t k = 0; k < 2 && region->region; k++)
            memcpy(region->file + region->extents[k].region_offset, file + region->extents[k].file_offset,
                   region->extents[k].bytes);
    }
    free(file);
    return true;
}

static void file_remove(void)
{
    unlink(file_path);
}

/* One file for all runs: it is only read. */
static bool file_write(void)
{
    uint64_t bytes = N_REGIONS * MAX_GRANULES * GRANULE_BYTES;
    uint8_t *contents = malloc(bytes);
    bool is_written;
    int fd;

    snprintf(file_path, sizeof(file_path), "/tmp/unstick-script-XXXXXX");
    fd = mkstemp(file_path);
    if (fd < 0 || !contents || atexit(file_remove) != 0)
        abort();
    script_fill(contents, bytes, 1);
    is_written = write(fd, contents, bytes) == (ssize_t)bytes;
    close(fd);
    free(contents);
    return is_written;
}

const char *script_run(const uint8_t *data, size_t n, uint64_t seed, unsigned int n_ops)
{
    struct script script = { .data = data, .n_data = n, .state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1 };

    if (!file_path[0] && !file_write())
        return "cannot write a file";
    if (!script_open(&script))
        return "cannot open a device";
    for (unsigned int i = 0; i < n_ops && !script_is_over(&script); i++) {
        script_op(&script);
        script_require(&script, usk_device_is_valid(script.dev), "the device is not valid");
    }
    script_finish(&script);
    for (size_t i = 0; i < N_TASKS; i++)
        unstick_task_free(script.tasks[i].task);
    for (size_t i = 0; i < N_REGIONS; i++) {
        unstick_region_unref(script.regions[i].region);
        free(script.regions[i].image);
        free(script.regions[i].file);
    }
    unstick_context_free(script.ctx);
    return script.broken;
}
