/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_DESCRIBED_H
#define CLI_DESCRIBED_H

#include <unstick/policy.h>
#include <unstick/status.h>

#include "cli.h"

/* A device with what is on it, as options describe it: nothing of it need exist. */
struct described_options {
    const char *device;
    uint64_t device_memory_bytes; /* limit; 0: none */
    uint64_t granule_bytes;       /* 0: the default */
    uint64_t torch_reserved_bytes, torch_active_bytes, torch_inactive_split_bytes;
    uint64_t used_by_others_bytes;
    unsigned int policy; /* enum unstick_policy_kind */
    struct cli_list cached; /* KEY=BYTES[:leased][:pinned][:idle=S] */
};

struct described {
    struct unstick_reading reading;
    struct unstick_snapshot snapshot;
    struct unstick_snapshot_entry entries[CLI_LIST_MAX];
    struct unstick_snapshot_component components[CLI_LIST_MAX];
    char *keys[CLI_LIST_MAX]; /* owned */
};


/* The names of enum unstick_policy_kind, for an option; ends with NULL. */
extern const char *const described_policies[];

/* Builds the snapshot. Other devices than host:SIZE are opened, and read. Release with described_fini(), even after a
 * failure; reports one itself and returns the exit code, else CLI_EXIT_OK. */
int described_init(struct described *described, const struct described_options *options);
void described_fini(struct described *described);

#endif
