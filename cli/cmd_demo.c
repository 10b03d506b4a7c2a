/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick demo`: the main job on made models, anywhere. It looks at what there is (device, host memory,
 * disk) and makes two models that fit, a device limit with room for one of them, and a workload; the rest is
 * what replay does.
 *
 * Its files live in one folder that is locked while the demo runs. The folder goes on every way out; if the
 * process is killed, the lock goes with it, and the next demo removes what is not locked.
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
#include <unistd.h>

#include <unstick/context.h>
#include <unstick/device.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "cli.h"
#include "model/flux.h"
#include "report.h"

#define DEMO_PREFIX "unstick-demo-"
#define DEMO_KEPT_PREFIX "unstick-kept-"
#define DEMO_MAX_BYTES UINT64_C(1000000000)
#define DEMO_SPARE_BYTES (UINT64_C(256) << 20) /* left to the rest of the machine */
#define DEMO_TAIL_BYTES (UINT64_C(2) << 20)    /* a region's last granule is rounded to this at most */
#define DEMO_TENSOR_BYTES 512                  /* and a tensor's place to this */
#define DEMO_N_MODELS 2

static const struct {
    const char *quantization;
    enum usk_flux_quant quant;
} demo_models[DEMO_N_MODELS] = { { "8-bit", USK_FLUX_INT8 }, { "4-bit", USK_FLUX_NF4 } };

struct demo {
    const char *parent; /* where the folder is made */
    char folder[512];   /* empty: not made */
    int lock_fd;
    bool is_full, is_kept;
    struct unstick_device_info device;
    uint64_t host_bytes;      /* budget for backups */
    uint64_t available_bytes; /* of the machine's memory */
    uint64_t disk_bytes;
    uint64_t scale;
    uint64_t model_bytes[DEMO_N_MODELS]; /* in regions */
    uint64_t total_bytes;                /* of both, on disk too */
};

/* --- the folder --- */

static int entry_remove(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    remove(path); /* what cannot be removed shows when its folder cannot */
    return 0;
}

static void folder_remove(const char *path)
{
    nftw(path, entry_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* Removes the folders of demos that were killed. */
static void folder_sweep(const char *parent)
{
    DIR *entries = opendir(parent);
    struct dirent *entry;
    struct stat status;

    while (entries && (entry = readdir(entries))) {
        int fd;

        if (strncmp(entry->d_name, DEMO_PREFIX, strlen(DEMO_PREFIX)))
            continue;
        fd = openat(dirfd(entries), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &status) == 0 && status.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0) {
            char path[1024];

            snprintf(path, sizeof(path), "%s/%s", parent, entry->d_name);
            folder_remove(path);
        }
        close(fd);
    }
    if (entries)
        closedir(entries);
}

static int demo_make_folder(struct demo *demo, struct unstick_error *error)
{
    int n;

    folder_sweep(demo->parent);
    n = snprintf(demo->folder, sizeof(demo->folder), "%s/%sXXXXXX", demo->parent,
                 demo->is_kept ? DEMO_KEPT_PREFIX : DEMO_PREFIX);
    if (n >= (int)sizeof(demo->folder) || !mkdtemp(demo->folder)) {
        int native = n >= (int)sizeof(demo->folder) ? ENAMETOOLONG : errno;

        demo->folder[0] = 0;
        return usk_error_errno(error, native, "mkdtemp",
                               "cannot make a folder in %.200s; choose another one with --dir", demo->parent);
    }
    demo->lock_fd = open(demo->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (demo->lock_fd < 0 || flock(demo->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return usk_error_errno(error, errno, "flock", "cannot lock %s", demo->folder);
    return UNSTICK_OK;
}

static void demo_end(struct demo *demo)
{
    if (demo->folder[0] && !demo->is_kept)
        folder_remove(demo->folder);
    if (demo->lock_fd >= 0)
        close(demo->lock_fd);
}

/* --- what fits --- */

/* Opens the device for a moment to see what it has. */
static int demo_look(struct demo *demo, const char *spec, struct unstick_error *error)
{
    struct unstick_context_options options = { .size = sizeof(options) };
    struct unstick_context_info context = { .size = sizeof(context) };
    struct unstick_context *ctx = NULL;
    struct unstick_device *dev = NULL;
    struct usk_os_memory memory;
    struct statvfs disk;
    int r;

    demo->device.size = sizeof(demo->device);
    r = unstick_context_new(&options, &ctx, error);
    if (r == UNSTICK_OK)
        r = unstick_device_open(ctx, spec, NULL, &dev, error);
    if (r == UNSTICK_OK)
        r = unstick_device_info(dev, &demo->device, error);
    if (r == UNSTICK_OK)
        r = unstick_context_info(ctx, &context);
    unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    if (r == UNSTICK_OK)
        r = usk_os_memory(&memory, error);
    if (r < 0)
        return r;
    demo->host_bytes = context.host_limit_bytes;
    demo->available_bytes = memory.available_bytes;
    if (memory.cgroup_limit_bytes != UINT64_MAX)
        demo->available_bytes = usk_min(demo->available_bytes,
                                        memory.cgroup_limit_bytes -
                                            usk_min(memory.cgroup_limit_bytes, memory.cgroup_used_bytes));
    if (statvfs(demo->parent, &disk) < 0)
        return usk_error_errno(error, errno, "statvfs", "cannot look at %s; choose another folder with --dir",
                               demo->parent);
    demo->disk_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    return UNSTICK_OK;
}

/* What both models take at a scale. */
static int demo_measure(struct demo *demo, uint64_t scale, struct unstick_error *error)
{
    struct usk_flux_shape shape;

    demo->scale = scale;
    demo->total_bytes = 0;
    usk_flux_shape_scaled(USK_FLUX_DEV, scale, &shape);
    for (size_t i = 0; i < DEMO_N_MODELS; i++) {
        struct usk_flux_inventory *inventory;
        int r = usk_flux_inventory_new(&shape, demo_models[i].quant, &inventory, error);

        if (r < 0)
            return r;
        demo->model_bytes[i] = 0;
        for (size_t k = 0; k < USK_FLUX_N_PARTS; k++)
            demo->model_bytes[i] += inventory->parts[k].device_bytes +
                                    inventory->parts[k].n_tensors * DEMO_TENSOR_BYTES + DEMO_TAIL_BYTES;
        demo->total_bytes += demo->model_bytes[i];
        usk_flux_inventory_free(inventory);
    }
    return UNSTICK_OK;
}

/* What is too small for the models as measured; NULL: they fit. */
static const char *demo_find_shortage(const struct demo *demo, uint64_t *ret_required,
                                      uint64_t *ret_available)
{
    uint64_t device_bytes = demo->device.total_bytes -
                            usk_min(demo->device.total_bytes, demo->device.used_bytes);
    uint64_t memory_bytes = demo->total_bytes + DEMO_SPARE_BYTES;

    *ret_required = demo->model_bytes[0];
    *ret_available = device_bytes;
    if (*ret_required > *ret_available)
        return "the device";
    /* Half of the disk that is left, and a host device's memory is the machine's. */
    *ret_required = demo->is_full ? demo->total_bytes : demo->total_bytes * 2;
    *ret_available = demo->disk_bytes;
    if (*ret_required > *ret_available)
        return "the disk";
    if (!strcmp(demo->device.kind, "host"))
        memory_bytes += demo->model_bytes[0];
    *ret_required = memory_bytes;
    *ret_available = demo->available_bytes;
    if (*ret_required > *ret_available)
        return "the machine's memory";
    *ret_required = demo->total_bytes;
    *ret_available = demo->host_bytes;
    return *ret_required > *ret_available ? "the budget for backups in host memory" : NULL;
}

/* The largest models that fit. */
static int demo_pick_scale(struct demo *demo, struct unstick_error *error)
{
    char required[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX];
    uint64_t required_bytes, available_bytes;
    const char *shortage;
    int r;

    for (uint64_t scale = demo->is_full ? 1 : 24;; scale += scale / 4) {
        r = demo_measure(demo, scale, error);
        if (r < 0)
            return r;
        shortage = demo_find_shortage(demo, &required_bytes, &available_bytes);
        if (!shortage && (demo->is_full || demo->total_bytes <= DEMO_MAX_BYTES))
            return UNSTICK_OK;
        if (demo->is_full || scale + scale / 4 > USK_FLUX_SCALE_MAX)
            break;
    }
    r = usk_error_set(error, demo->is_full ? UNSTICK_NO_SPACE : UNSTICK_OUT_OF_HOST_MEMORY, 0, "demo",
                      "%s is too small for the demo's models: %s needed, %s there%s", shortage,
                      usk_size_format(required, required_bytes), usk_size_format(available, available_bytes),
                      demo->is_full ? "; leave --full out" : "; free some, or name another with --device or --dir");
    usk_error_shortage(error, required_bytes, available_bytes);
    return r;
}

/* --- the models --- */

static bool demo_show_progress(void *userdata, const struct usk_flux_progress *progress)
{
    char done[USK_SIZE_TEXT_MAX], total[USK_SIZE_TEXT_MAX];

    cli_progress("writing the %s model: %s of %s", (const char *)userdata,
                 usk_size_format(done, progress->done_bytes), usk_size_format(total, progress->total_bytes));
    return !cli_is_interrupted();
}

static int demo_write_models(struct demo *demo, struct workload *workload, struct unstick_error *error)
{
    int r = UNSTICK_OK;

    for (size_t i = 0; r == UNSTICK_OK && i < DEMO_N_MODELS; i++) {
        /* The writer's progress has a userdata that is not const. */
        USK_CLEANUP(usk_freep) char *quantization = strdup(demo_models[i].quantization);
        struct usk_flux_options options = { .variant = USK_FLUX_DEV,
                                            .quant = demo_models[i].quant,
                                            .scale = demo->scale,
                                            .seed = i + 1,
                                            .progress = demo_show_progress,
                                            .userdata = quantization };
        struct usk_flux_report report;
        char path[600];

        if (!quantization)
            return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "strdup", "out of host memory");
        snprintf(path, sizeof(path), "%s/flux-dev_%s", demo->folder, quantization);
        r = usk_flux_write(path, &options, &report, error);
        if (r == UNSTICK_OK)
            r = workload_add_model(workload, "flux-dev", quantization, path, error);
    }
    cli_progress_end();
    return r;
}

static int demo_prepare(struct demo *demo, const char *spec, struct workload *workload,
                        struct unstick_error *error)
{
    static const char *const requests[] = { "flux-dev_8-bit", "flux-dev_4-bit", "flux-dev_8-bit",
                                            "flux-dev_4-bit", "flux-dev_8-bit" };
    int r;

    r = demo_look(demo, spec, error);
    if (r == UNSTICK_OK)
        r = demo_pick_scale(demo, error);
    if (r == UNSTICK_OK)
        r = demo_make_folder(demo, error);
    if (r == UNSTICK_OK)
        r = demo_write_models(demo, workload, error);
    for (size_t i = 0; r == UNSTICK_OK && i < sizeof(requests) / sizeof(requests[0]); i++)
        r = workload_add_request(workload, requests[i], error);
    return r;
}

static void demo_introduce(const struct demo *demo, uint64_t limit_bytes)
{
    char large[USK_SIZE_TEXT_MAX], small[USK_SIZE_TEXT_MAX], limit[USK_SIZE_TEXT_MAX];

    printf("A FLUX-shaped model in 8-bit (%s) and in 4-bit (%s) on %s, with room for one of them (%s).\n",
           usk_size_format(large, demo->model_bytes[0]), usk_size_format(small, demo->model_bytes[1]),
           demo->device.name, usk_size_format(limit, limit_bytes));
    if (demo->is_kept)
        printf("The models stay in %s.\n", demo->folder);
    printf("\n");
    fflush(stdout);
}

int cmd_demo(int argc, char **argv)
{
    USK_CLEANUP(workload_finip) struct workload workload = { 0 };
    const char *device = "auto", *temporary = getenv("TMPDIR");
    struct demo demo = { .parent = temporary && *temporary ? temporary : "/tmp", .lock_fd = -1 };
    const struct cli_option table[] = {
        { "full", NULL, "models of full size: about 30 GB of disk, 19 GB on the device", CLI_FLAG,
          &demo.is_full, NULL, 0, 0 },
        { "keep", NULL, "keep the models that were made", CLI_FLAG, &demo.is_kept, NULL, 0, 0 },
        { "dir", "DIR", "where they are made; by default $TMPDIR or /tmp", CLI_TEXT, &demo.parent, NULL, 0,
          0 },
        { "device", "DEVICE", "as for replay", CLI_TEXT, &device, NULL, 0, 0 },
    };
    const struct cli_usage usage = {
        .verb = "demo",
        .about =
            "Shows the main job on made models, on a GPU or without one: an 8-bit and a 4-bit FLUX-shaped\n"
            "checkpoint, a device with room for one of them, and requests for 8-bit, 4-bit, 8-bit, 4-bit, "
            "8-bit.\n"
            "Each switch is timed and every byte verified; the models are removed at the end. They take at "
            "most\n"
            "1 GB, less where device, memory or disk are short.",
        .options = table,
        .n_options = sizeof(table) / sizeof(table[0]),
    };
    struct session_options options = { .is_verifying = true };
    struct unstick_error error;
    int operand, exit_code, r;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    options.device = device;
    r = demo_prepare(&demo, device, &workload, &error);
    if (r == UNSTICK_OK) {
        options.limit_bytes = demo.model_bytes[0] + demo.device.sentinel_bytes;
        if (!cli_is_json())
            demo_introduce(&demo, options.limit_bytes);
        exit_code = report_run(&options, &workload);
    } else {
        exit_code = cli_fail(&error);
    }
    demo_end(&demo);
    return exit_code;
}
