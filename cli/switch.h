/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SWITCH_H
#define CLI_SWITCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is on the device, as the decision sees it. Bytes are those of the device's granules. */
struct switch_region {
    uint64_t total_bytes; /* when all of it is resident */
    uint64_t resident_bytes;
};

struct switch_model {
    struct switch_region *regions; /* in order of use */
    size_t n_regions;
    uint64_t last_used; /* number of the request that asked for it last; no two have the same */
};

struct switch_step {
    size_t model, region;
    uint64_t bytes; /* evict at least this much, last granules first */
};

enum switch_verdict {
    SWITCH_FITS,      /* do the steps, if any */
    SWITCH_TOO_LARGE, /* larger than what the device may ever hold */
    SWITCH_TAKEN,     /* others hold so much that evicting everything would not do */
};

struct switch_plan {
    enum switch_verdict verdict;
    uint64_t incoming_bytes;   /* what must arrive */
    uint64_t required_bytes;   /* all of the model */
    uint64_t available_bytes;  /* room for the model, with everything else evicted */
    struct switch_step *steps; /* in the order to do them; the caller's array */
    size_t n_steps;
};

/*
 * Decides what leaves so that the model `wanted` can be resident: as little as possible, from the model used
 * longest ago, its last regions first. free_bytes: what can be taken from the device now. capacity_bytes:
 * what there would be with nothing of ours on it. `steps` has room for one step per region of all models.
 */
void switch_decide(const struct switch_model *models, size_t n_models, size_t wanted, uint64_t free_bytes,
                   uint64_t capacity_bytes, struct switch_step *steps, struct switch_plan *ret_plan);

#endif
