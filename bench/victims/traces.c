/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The traces. All randomness comes from one 64-bit state, so that a seed is a trace, on every machine.
 */
#include "traces.h"

#include <math.h>

#define TRACE_MAX_MODELS 16

const char *trace_name(enum trace_kind kind)
{
    static const char *const names[] = { "round robin", "Zipf", "bursts", "batch of one", "two tenants" };

    return names[kind];
}

uint64_t trace_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

double trace_uniform(uint64_t *state)
{
    return (double)(trace_random(state) >> 11) / 9007199254740992.0;
}

/* The i-th of n is asked for 1 / (i + 1)^s as often as the first. */
static size_t trace_zipf(uint64_t *state, size_t n, double s)
{
    double sum = 0, at;

    for (size_t i = 0; i < n; i++)
        sum += pow((double)(i + 1), -s);
    at = trace_uniform(state) * sum;
    for (size_t i = 0; i < n; i++) {
        at -= pow((double)(i + 1), -s);
        if (at < 0)
            return i;
    }
    return n - 1;
}

static void trace_round_robin(uint64_t *state, size_t n_models, size_t *requests, size_t n)
{
    size_t images = 1 + trace_random(state) % 4;

    for (size_t i = 0; i < n; i++)
        requests[i] = i / images % n_models;
}

static void trace_bursts(uint64_t *state, size_t n_models, size_t *requests, size_t n)
{
    size_t i = 0;

    while (i < n) {
        size_t model = trace_zipf(state, n_models, 0.8), length = 1 + trace_random(state) % 12;

        for (; length && i < n; length--)
            requests[i++] = trace_uniform(state) < 0.15 ? trace_zipf(state, n_models, 0.8) : model;
    }
}

static void trace_batch(uint64_t *state, size_t n_models, size_t *requests, size_t n)
{
    size_t i = 0;

    while (i < n) {
        size_t model = trace_random(state) % n_models, length = 20 + trace_random(state) % 60;

        for (; length && i < n; length--)
            requests[i++] = trace_uniform(state) < 0.1 ? trace_random(state) % n_models : model;
    }
}

/* One goes round through the first half, the other has favourites among the rest; who is next is chance. */
static void trace_tenants(uint64_t *state, size_t n_models, size_t *requests, size_t n)
{
    size_t half = n_models / 2, at = 0;
    double share = 0.3 + 0.4 * trace_uniform(state);

    for (size_t i = 0; i < n; i++) {
        if (trace_uniform(state) < share)
            requests[i] = at++ % half;
        else
            requests[i] = half + trace_zipf(state, n_models - half, 1);
    }
}

void trace_make(enum trace_kind kind, uint64_t *state, size_t n_models, size_t *requests, size_t n)
{
    switch (kind) {
    case TRACE_ROUND_ROBIN:
        trace_round_robin(state, n_models, requests, n);
        break;
    case TRACE_BURSTS:
        trace_bursts(state, n_models, requests, n);
        break;
    case TRACE_BATCH:
        trace_batch(state, n_models, requests, n);
        break;
    case TRACE_TENANTS:
        trace_tenants(state, n_models, requests, n);
        break;
    default: {
        double s = 0.7 + 0.6 * trace_uniform(state);

        for (size_t i = 0; i < n; i++)
            requests[i] = trace_zipf(state, n_models, s);
        break;
    }
    }
}
