/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BENCH_VICTIMS_TRACES_H
#define BENCH_VICTIMS_TRACES_H

#include <stddef.h>
#include <stdint.h>

/* Made-up requests for models: who asks for what, one after the other. */
enum trace_kind {
    TRACE_ROUND_ROBIN, /* a workflow of a few models, again and again */
    TRACE_ZIPF,        /* independent users, a few favourites */
    TRACE_BURSTS,      /* one model for a while, then another */
    TRACE_BATCH,       /* long batches of one model, with short visits */
    TRACE_TENANTS,     /* two programs, each with a habit of its own */
    TRACE_KINDS,
};

const char *trace_name(enum trace_kind kind);

uint64_t trace_random(uint64_t *state);
/* 0 <= x < 1 */
double trace_uniform(uint64_t *state);

/* Fills in `n` requests, indices below n_models. */
void trace_make(enum trace_kind kind, uint64_t *state, size_t n_models, size_t *requests, size_t n);

#endif
