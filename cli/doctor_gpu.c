/* SPDX-License-Identifier: Apache-2.0 */
/* The part of `unstick doctor` that looks at GPUs: device files, the driver, its management library. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/size.h"
#include "device/cuda/cuda.h"
#include "doctor.h"

/* CUcomputemode */
#define GPU_PROHIBITED 2
#define GPU_EXCLUSIVE 3

/* Device files that exist and cannot be used are the commonest reason for "no device" in containers. */
static void gpu_check_files(struct doctor *doctor)
{
    glob_t found = { 0 };
    size_t n_bad = 0;
    const char *bad = "";

    if (glob("/dev/nvidia*", GLOB_NOSORT, NULL, &found) != 0) {
        doctor_add(doctor, DOCTOR_OK, "device files", NULL, "none (/dev/nvidia*)");
        return;
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *path = found.gl_pathv[i];

        /* nvidia-caps is a folder, nvidia-modeset serves displays. */
        if (strstr(path, "caps") || strstr(path, "modeset") || access(path, R_OK | W_OK) == 0)
            continue;
        n_bad++;
        bad = path;
    }
    if (n_bad)
        doctor_add(doctor, DOCTOR_FAIL, "device files",
                   "give this user read and write access (group video or render, or the container's devices)",
                   "%zu of %zu cannot be opened, such as %s: %s", n_bad, found.gl_pathc, bad,
                   strerror(EACCES));
    else
        doctor_add(doctor, DOCTOR_OK, "device files", NULL, "%zu, accessible", found.gl_pathc);
    if (access("/dev/nvidiactl", F_OK) == 0 && access("/dev/nvidia-uvm", F_OK) < 0)
        doctor_add(doctor, DOCTOR_FAIL, "device files",
                   "run nvidia-modprobe -u -c 0, or give the container that device",
                   "/dev/nvidia-uvm is missing: CUDA cannot start");
    globfree(&found);
}

static void gpu_check_one(struct doctor *doctor, unsigned int ordinal)
{
    struct usk_cuda_device_info info;
    struct unstick_error error;
    char name[24], size[USK_SIZE_TEXT_MAX];

    snprintf(name, sizeof(name), "cuda:%u", ordinal);
    if (usk_cuda_device_info(ordinal, &info, &error) < 0) {
        doctor_add(doctor, DOCTOR_FAIL, name, "look into the kernel's log (dmesg) for Xid lines", "%s",
                   error.text);
        return;
    }
    doctor_add(doctor, DOCTOR_OK, name, NULL, "%s, %s, %s, compute capability %d.%d%s", info.name, info.uuid,
               usk_size_format(size, info.total_bytes), info.compute_major, info.compute_minor,
               info.is_integrated ? ", integrated" : "");
    if (ordinal < DOCTOR_GPUS_MAX)
        snprintf(doctor->uuids[ordinal], sizeof(doctor->uuids[ordinal]), "%s", info.uuid);
    if (!strncmp(info.uuid, "MIG-", 4))
        doctor_add(doctor, DOCTOR_OK, name, NULL,
                   "a MIG slice: its memory is its own, and a process sees one slice; name it by its UUID "
                   "(--device cuda:%s)",
                   info.uuid);
    if (info.is_integrated)
        doctor_add(doctor, DOCTOR_WARN, name, NULL,
                   "its memory is the machine's own: what is evicted into host memory frees nothing, files do");
    if (info.compute_mode == GPU_PROHIBITED)
        doctor_add(doctor, DOCTOR_FAIL, name, "nvidia-smi -c DEFAULT (as root)",
                   "its compute mode forbids CUDA");
    else if (info.compute_mode == GPU_EXCLUSIVE)
        doctor_add(doctor, DOCTOR_WARN, name, "nvidia-smi -c DEFAULT (as root), if processes are to share it",
                   "its compute mode lets one process in at a time");
    if (!info.can_map)
        doctor_add(doctor, DOCTOR_FAIL, name, "choose another GPU, or run without this virtualization",
                   "no virtual memory management: memory cannot leave under a live address");
    if (!info.can_register)
        doctor_add(doctor, DOCTOR_WARN, name, NULL,
                   "host memory cannot be pinned: copies go through a ring, at half speed");
    else if (!info.can_register_file)
        doctor_add(doctor, DOCTOR_WARN, name, NULL,
                   "files cannot be pinned: the file tier (--backup file) reads through a ring");
    else if (info.can_map)
        doctor_add(doctor, DOCTOR_OK, name, NULL,
                   "virtual memory management, pinned host memory and pinned files");
}

static void gpu_check_driver(struct doctor *doctor)
{
    struct unstick_error error = { 0 };
    struct usk_cuda_info info;
    int r = usk_cuda_info(&info, &error);

    if (r == UNSTICK_NO_DEVICE) {
        doctor_add(doctor, DOCTOR_OK, "gpus", NULL,
                   "none (%s); `--device auto` is a host device, which does the same in the machine's memory",
                   error.text);
        return;
    }
    if (r < 0) {
        doctor_add(doctor, DOCTOR_FAIL, "driver", "install driver 470 or newer; after an update, reboot",
                   "%s", error.text);
        return;
    }
    /* CUDA 13.0 is 13000 in the driver's own numbers. */
    doctor_add(doctor, DOCTOR_OK, "driver", NULL, "for CUDA %d.%d%s%s", info.driver_version / 1000,
               info.driver_version % 1000 / 10, info.can_record_context ? ", fences without a thread" : "",
               info.can_checkpoint ? ", whole processes can be checkpointed" : "");
    if (!info.can_checkpoint)
        doctor_add(doctor, DOCTOR_OK, "hibernation", "install driver 570 or newer to hibernate whole processes",
                   "no checkpoints of processes: evict and revoke are what there is");
    doctor->has_gpu = info.n_devices > 0;
    if (!info.n_devices)
        doctor_add(doctor, DOCTOR_WARN, "gpus", "unset CUDA_VISIBLE_DEVICES, or give the container a GPU",
                   "the driver is there, and no GPU");
    for (unsigned int i = 0; i < info.n_devices; i++)
        gpu_check_one(doctor, i);
}

static void gpu_check_visibility(struct doctor *doctor)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");

    if (visible)
        doctor_add(doctor, *visible ? DOCTOR_OK : DOCTOR_WARN, "visibility",
                   *visible ? NULL : "unset CUDA_VISIBLE_DEVICES: while it is empty no GPU is seen",
                   "CUDA_VISIBLE_DEVICES=%.200s; cuda:0 is the first of them", visible);
}

/* What only NVML knows of one GPU. */
static void gpu_check_sharing(struct doctor *doctor, struct usk_nvml *nvml, unsigned int ordinal)
{
    enum usk_nvml_virtualization kind = USK_NVML_BARE;
    struct usk_holder holders[USK_HOLDERS_MAX];
    char name[24], names[200];
    size_t n = 0;

    snprintf(name, sizeof(name), "cuda:%u", ordinal);
    usk_nvml_virtualization(nvml, doctor->uuids[ordinal], &kind, NULL);
    if (kind == USK_NVML_VGPU)
        doctor_add(doctor, DOCTOR_WARN, name,
                   "if virtual memory management is missing, ask for a profile of the compute series with unified "
                   "memory (enable_uvm)",
                   "a virtual GPU: what other machines hold of it is not told");
    else if (kind == USK_NVML_PASSTHROUGH)
        doctor_add(doctor, DOCTOR_OK, name, NULL, "a whole GPU, passed through to this virtual machine");
    if (usk_nvml_holders(nvml, doctor->uuids[ordinal], holders, &n, NULL) == UNSTICK_OK && n)
        doctor_add(doctor, DOCTOR_OK, name, NULL, "in use by %s",
                   usk_holders_format(names, sizeof(names), holders, n, 3));
}

static void gpu_check_nvml(struct doctor *doctor)
{
    struct unstick_error error = { 0 };
    struct usk_nvml *nvml;
    char version[96] = "";

    if (usk_nvml_open(NULL, &nvml, &error) < 0) {
        doctor_add(doctor, doctor->has_gpu ? DOCTOR_WARN : DOCTOR_OK, "nvml",
                   doctor->has_gpu
                       ? "give the container the driver's utility capability, to see who holds memory"
                       : NULL,
                   "%s", error.text);
        return;
    }
    if (usk_nvml_driver_version(nvml, version, sizeof(version), &error) < 0)
        doctor_add(doctor, DOCTOR_WARN, "nvml", NULL, "%s", error.text);
    else
        doctor_add(doctor, DOCTOR_OK, "nvml", NULL, "driver %s", version);
    for (unsigned int i = 0; i < DOCTOR_GPUS_MAX; i++) {
        if (doctor->uuids[i][0])
            gpu_check_sharing(doctor, nvml, i);
    }
    if (doctor->has_gpu && doctor->system.is_container)
        doctor_add(doctor, DOCTOR_OK, "container", "run the container with --pid=host to see who holds memory",
                   "in a container: the driver's process numbers may be the host's");
    usk_nvml_close(nvml);
}

void doctor_check_gpus(struct doctor *doctor)
{
    gpu_check_files(doctor);
    gpu_check_visibility(doctor);
    gpu_check_driver(doctor);
    gpu_check_nvml(doctor);
}
