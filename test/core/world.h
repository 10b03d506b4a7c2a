/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CORE_WORLD_H
#define TEST_CORE_WORLD_H

#include "fixture.h"

/*
 * A cache over the fixture's device, with a few models of two components in files, and a host that does what requests
 * ask for. Names of components: "encoder", "transformer".
 */
#define WORLD_MODELS 4
#define WORLD_COMPONENTS 2
#define ENCODER_GRANULES 2
#define TRANSFORMER_GRANULES 6
#define MODEL_GRANULES (ENCODER_GRANULES + TRANSFORMER_GRANULES)

extern const char *const world_keys[WORLD_MODELS];
extern const char *const world_names[WORLD_COMPONENTS];

struct world {
    struct fixture fixture;
    struct unstick_cache *cache;
    struct fixture_file files[WORLD_MODELS][WORLD_COMPONENTS];
    struct unstick_cache_component layouts[WORLD_MODELS][WORLD_COMPONENTS];
    bool has_files[WORLD_MODELS];       /* written at first use */
    /* The host. */
    struct unstick_reading figures;     /* what it adds when it is asked to measure */
    uint64_t empty_cache_bytes;         /* what EMPTY_CACHE takes off figures.torch_reserved_bytes */
    int load_status;                    /* of LOAD; UNSTICK_OK: it loads the files into regions of its own */
    bool load_registers_layouts;        /* LOAD gives the cache layouts instead */
    size_t load_model;                  /* which model it loads */
    unsigned int n_loads, n_reclaims, n_measures, n_waits;
};

struct world_options {
    uint64_t room_granules;             /* the device's limit without the sentinel; 0: room for two models */
    uint64_t host_bytes;
    struct unstick_cache_options cache; /* size 0: defaults */
};

void world_open(struct world *world, const struct world_options *options);
/* Closes the cache and checks that nothing of it is left. */
void world_close(struct world *world);

/* Writes the files of model `index`, if they are not there yet. */
void world_write(struct world *world, size_t index);
/* All of model `index`, loaded from its files by the cache; never waits. */
struct unstick_cache_demand world_demand(struct world *world, size_t index);
/* The same, loaded by the host. */
struct unstick_cache_demand world_host_demand(void);

/* Performs one action of a request. */
void world_perform(struct world *world, struct unstick_request *request, const struct unstick_request_action *action,
                   struct unstick_request_report *report);
/* Drives a request to its end, checking every invariant after each step: its status. */
int world_drive(struct world *world, struct unstick_request *request);
/* Drives until the request waits for something that does not come by itself, or ends: its status. */
int world_drive_until_waiting(struct world *world, struct unstick_request *request);
/* Requests, drives, frees: the status. With a lease if ret_lease is not NULL. `ret_result` may be NULL; its pointers
 * are gone. */
int world_use(struct world *world, size_t index, const struct unstick_cache_demand *demand,
              struct unstick_cache_lease **ret_lease, struct unstick_request_result *ret_result);
/* Uses a model and ends the lease: fails the test if it does not work. */
struct unstick_request_result world_visit(struct world *world, size_t index);

struct unstick_cache_entry_info world_entry(struct world *world, size_t index);
enum unstick_entry_state world_state(struct world *world, size_t index);
void world_check_contents(struct world *world, struct unstick_cache_lease *lease, size_t index, size_t component);
/* Steps the cache until it has nothing under way. */
void world_settle(struct world *world);
/* How many events of a kind there were since `since`. */
size_t world_count_events(struct world *world, enum unstick_cache_event_kind kind, uint64_t since);
uint64_t world_last_event(struct world *world);

#endif
