/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>

#include "monitor/monitor.h"

#define DOCTOR_GPUS_MAX 16

/* What the checks of `unstick doctor` share. */
enum doctor_level {
    DOCTOR_OK,
    DOCTOR_WARN, /* it works, and could be better */
    DOCTOR_FAIL, /* something that is there does not work */
};

struct doctor {
    struct usk_system system;
    json_t *checks; /* NULL: lines are printed */
    bool has_failed;
    bool has_gpu;
    char uuids[DOCTOR_GPUS_MAX][64]; /* of the GPUs that could be looked at; empty: not this one */
};

/* Reports one check. advice: what to change; NULL if nothing. */
void doctor_add(struct doctor *doctor, enum doctor_level level, const char *name, const char *advice,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

/* doctor_gpu.c: the driver, its devices and their files. Creates no CUDA context. */
void doctor_check_gpus(struct doctor *doctor);

/* doctor_torch.c: the allocator settings in the environment. After the GPUs. */
void doctor_check_torch(struct doctor *doctor);

#endif
