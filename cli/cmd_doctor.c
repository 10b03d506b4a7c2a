/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick doctor`: what this machine can do, and what to change. It only looks: no CUDA context is created,
 * nothing is allocated, so it can run beside a full GPU. A thing that is missing is not a failure; a thing
 * that is there and does not work is.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/math.h"
#include "base/os.h"
#include "base/size.h"
#include "cli.h"
#include "doctor.h"

static const char *const level_names[] = { "ok", "warn", "fail" };

void doctor_add(struct doctor *doctor, enum doctor_level level, const char *name, const char *advice,
                const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    doctor->has_failed |= level == DOCTOR_FAIL;
    if (doctor->checks) {
        json_array_append_new(doctor->checks, json_pack("{s:s, s:s, s:o, s:o}", "check", name, "level",
                                                        level_names[level], "text", cli_json_text(text), "advice",
                                                        advice ? cli_json_text(advice) : json_null()));
        return;
    }
    printf("%-4s  %-16s %s\n", level_names[level], name, text);
    if (advice)
        printf("%24s-> %s\n", "", advice);
}

static void doctor_check_system(struct doctor *doctor)
{
    const struct usk_system *system = &doctor->system;

    doctor_add(doctor, DOCTOR_OK, "system", NULL, "%s, kernel %s, %s%s%s", system->os, system->kernel,
               system->machine, system->is_container ? ", in a container" : "",
               system->is_wsl ? ", WSL2" : "");
    if (system->is_wsl)
        doctor_add(doctor, DOCTOR_WARN, "wsl",
                   "in the NVIDIA control panel prefer no system memory fallback, or run Linux itself",
                   "the Windows driver moves GPU memory to system memory on its own, and does not tell which process "
                   "holds it");
    doctor_add(doctor, DOCTOR_OK, "processors", NULL, "%u usable", system->n_cpus);
}

static void doctor_check_memory(struct doctor *doctor)
{
    char total[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX], limit[USK_SIZE_TEXT_MAX],
        used[USK_SIZE_TEXT_MAX];
    struct usk_os_memory memory;
    struct unstick_error error;

    if (usk_os_memory(&memory, &error) < 0) {
        doctor_add(doctor, DOCTOR_FAIL, "memory", "mount /proc", "%s", error.text);
        return;
    }
    doctor_add(doctor, DOCTOR_OK, "memory", NULL, "%s, %s available",
               usk_size_format(total, memory.total_bytes),
               usk_size_format(available, memory.available_bytes));
    if (memory.cgroup_limit_bytes < memory.total_bytes) {
        bool is_tight = memory.cgroup_limit_bytes -
                            usk_min(memory.cgroup_limit_bytes, memory.cgroup_used_bytes) <
                        memory.available_bytes / 2;

        doctor_add(doctor, is_tight ? DOCTOR_WARN : DOCTOR_OK, "cgroup",
                   is_tight
                       ? "raise memory.max (docker run --memory=...): backups in host memory count against it"
                       : NULL,
                   "version 2, limited to %s, %s in use", usk_size_format(limit, memory.cgroup_limit_bytes),
                   usk_size_format(used, memory.cgroup_used_bytes));
    } else {
        bool has_v2 = doctor->system.has_cgroup_v2;

        /* Backups up to a limit that is not seen end with the kernel killing the process. */
        doctor_add(doctor, has_v2 || !doctor->system.is_container ? DOCTOR_OK : DOCTOR_WARN, "cgroup",
                   has_v2 ? NULL : "boot with systemd.unified_cgroup_hierarchy=1, or give a limit (--host-memory)",
                   "%s", has_v2 ? "version 2, no memory limit"
                                : "no version 2 hierarchy; limits of version 1 are not seen");
    }
}

static void doctor_check_limits(struct doctor *doctor)
{
    const struct usk_system *system = &doctor->system;
    char bytes[USK_SIZE_TEXT_MAX];

    if (!system->huge_pages[0])
        doctor_add(
            doctor, DOCTOR_WARN, "huge pages", NULL,
            "the kernel has no transparent huge pages: pinning host memory takes several times as long");
    else if (!strcmp(system->huge_pages, "never"))
        doctor_add(doctor, DOCTOR_WARN, "huge pages",
                   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled (as root)",
                   "transparent huge pages are off: pinning host memory takes several times as long");
    else
        doctor_add(doctor, DOCTOR_OK, "huge pages", NULL, "transparent, %s", system->huge_pages);
    if (system->memlock_bytes == UINT64_MAX)
        doctor_add(doctor, DOCTOR_OK, "memlock", NULL, "no limit");
    else
        doctor_add(doctor, DOCTOR_OK, "memlock", NULL,
                   "limit %s; memory pinned by the CUDA driver does not count",
                   usk_size_format(bytes, system->memlock_bytes));
}

int cmd_doctor(int argc, char **argv)
{
    static const struct cli_usage usage = {
        .verb = "doctor",
        .about = "Says what this machine can do and what to change: system, memory and its limits, the "
                 "NVIDIA driver and\n"
                 "its devices, torch's allocator settings. Creates no CUDA context and changes nothing. "
                 "Fails (1) if\n"
                 "something that is there does not work; a machine without a GPU is fine.",
    };
    struct doctor doctor = { 0 };
    struct unstick_error error;
    int operand, exit_code, r;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    r = usk_system_read("", &doctor.system, &error);
    if (r < 0)
        return cli_fail(&error);
    if (cli_is_json())
        doctor.checks = json_array();
    doctor_check_system(&doctor);
    doctor_check_memory(&doctor);
    doctor_check_limits(&doctor);
    doctor_check_gpus(&doctor);
    doctor_check_torch(&doctor);
    if (doctor.has_failed)
        cli_fail_text(UNSTICK_UNSUPPORTED, "something does not work; see the checks marked fail");
    if (doctor.checks)
        cli_json_print(json_pack("{s:o}", "checks", doctor.checks));
    return doctor.has_failed ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}
