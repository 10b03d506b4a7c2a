/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_TEST_SCENARIO_H
#define USK_POLICY_TEST_SCENARIO_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/policy.h>

/* Made-up snapshots and demands, and what must hold of every plan for them; for property_test.c and fuzz/decide.c. */
#define SCENARIO_MAX_ENTRIES 8
#define SCENARIO_MAX_COMPONENTS 4
#define SCENARIO_MAX_VICTIMS (SCENARIO_MAX_ENTRIES * SCENARIO_MAX_COMPONENTS)

struct scenario {
    const uint8_t *data; /* choices are read from here, then from a generator that it seeds */
    size_t n_data;
    uint64_t state;
    struct unstick_reading reading;
    struct unstick_snapshot snapshot;
    struct unstick_demand demand;
    struct unstick_snapshot_entry entries[SCENARIO_MAX_ENTRIES];
    struct unstick_snapshot_component components[SCENARIO_MAX_ENTRIES][SCENARIO_MAX_COMPONENTS];
    struct unstick_rival rival;
    uint64_t lru_bytes[SCENARIO_MAX_VICTIMS];
    struct unstick_alternative alternatives[3];
    const char *wanted[2];
};

void scenario_make(struct scenario *scenario, const uint8_t *data, size_t n_data, uint64_t seed);

/* Decides, several times, and checks. NULL, or the property that was broken. */
const char *scenario_check(struct scenario *scenario);

#endif
