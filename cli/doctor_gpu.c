/* SPDX-License-Identifier: Apache-2.0 */
/* The part of `unstick doctor` that looks at GPUs: device files, the driver, its management library. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device/device.h"
#include "doctor.h"

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
                   "%zu of %zu cannot be opened, such as %s: %s", n_bad, found.gl_pathc, bad, strerror(EACCES));
    else
        doctor_add(doctor, DOCTOR_OK, "device files", NULL, "%zu, accessible", found.gl_pathc);
    if (access("/dev/nvidiactl", F_OK) == 0 && access("/dev/nvidia-uvm", F_OK) < 0)
        doctor_add(doctor, DOCTOR_FAIL, "device files", "run nvidia-modprobe -u -c 0, or give the container that device",
                   "/dev/nvidia-uvm is missing: CUDA cannot start");
    globfree(&found);
}

static bool gpu_count(struct doctor *doctor)
{
    struct unstick_error error = { 0 };
    unsigned int n = 0;
    int r = usk_cuda_count(&n, &error);

    if (r < 0)
        doctor_add(doctor, DOCTOR_FAIL, "gpus", "see the checks above; a reboot or a newer driver may be needed", "%s",
                   error.text);
    else if (!n)
        doctor_add(doctor, DOCTOR_OK, "gpus", NULL,
                   "none; `--device auto` is a host device, which does the same in the machine's memory");
    else
        doctor_add(doctor, DOCTOR_OK, "gpus", NULL, "%u", n);
    return n > 0;
}

static void gpu_check_visibility(struct doctor *doctor)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");

    if (visible)
        doctor_add(doctor, *visible ? DOCTOR_OK : DOCTOR_WARN, "visibility",
                   *visible ? NULL : "unset CUDA_VISIBLE_DEVICES: while it is empty no GPU is seen",
                   "CUDA_VISIBLE_DEVICES=%.200s; cuda:0 is the first of them", visible);
}

static void gpu_check_nvml(struct doctor *doctor)
{
    struct unstick_error error = { 0 };
    struct usk_nvml *nvml;
    char version[96] = "";

    if (usk_nvml_open(NULL, &nvml, &error) < 0) {
        doctor_add(doctor, doctor->has_gpu ? DOCTOR_WARN : DOCTOR_OK, "nvml",
                   doctor->has_gpu ? "give the container the driver's utility capability, to see who holds memory" : NULL,
                   "%s", error.text);
        return;
    }
    if (usk_nvml_driver_version(nvml, version, sizeof(version), &error) < 0)
        doctor_add(doctor, DOCTOR_WARN, "nvml", NULL, "%s", error.text);
    else
        doctor_add(doctor, DOCTOR_OK, "nvml", NULL, "driver %s", version);
    usk_nvml_close(nvml);
}

void doctor_check_gpus(struct doctor *doctor)
{
    gpu_check_files(doctor);
    gpu_check_visibility(doctor);
    doctor->has_gpu = gpu_count(doctor);
    gpu_check_nvml(doctor);
}
