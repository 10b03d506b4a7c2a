/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_HOST_PINS_H
#define USK_DEVICE_HOST_PINS_H

#include <pthread.h>

#include "device/host/lanes.h"
#include "device/host/ranges.h"

/* The host memory that the device was told of. [any] */
struct usk_host_pins {
    pthread_mutex_t lock;
    struct usk_ranges ranges; /* tag: enum usk_host_pin */
};

enum usk_host_pin {
    USK_HOST_PIN_REGISTERED,
    USK_HOST_PIN_ALLOCATED,
};

void usk_host_pins_init(struct usk_host_pins *pins);
/* Also gives back what was allocated and forgotten. */
void usk_host_pins_fini(struct usk_host_pins *pins);

int usk_host_pins_register(struct usk_host_pins *pins, void *address, uint64_t bytes, unsigned int flags,
                           struct unstick_error *error);
int usk_host_pins_unregister(struct usk_host_pins *pins, struct usk_host_lanes *lanes, void *address, uint64_t bytes,
                             struct unstick_error *error);
int usk_host_pins_alloc(struct usk_host_pins *pins, uint64_t bytes, void **ret_address, struct unstick_error *error);
int usk_host_pins_free(struct usk_host_pins *pins, struct usk_host_lanes *lanes, void *address,
                       struct unstick_error *error);

/* UNSTICK_OK if no border of a registration lies inside the range. */
int usk_host_pins_check(struct usk_host_pins *pins, const char *operation, const void *address, uint64_t bytes,
                        struct unstick_error *error);

#endif
