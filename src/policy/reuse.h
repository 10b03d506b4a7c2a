/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_REUSE_H
#define USK_POLICY_REUSE_H

#include <stdint.h>

#include <unstick/policy.h>

/* The chance, per turn, that an entry is asked for again soon: one over the turns until then; never 0, at most 1. */
double usk_reuse_chance(const struct unstick_reuse *reuse, uint64_t turn);

#endif
