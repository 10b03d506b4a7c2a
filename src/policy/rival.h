/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_RIVAL_H
#define USK_POLICY_RIVAL_H

#include <stddef.h>

#include <unstick/policy.h>

/*
 * Seconds by which the guess may still be wrong before it has cost too much. Below 0: LRU's choice is to be followed.
 * The snapshot has a rival.
 */
double usk_rival_lead(const struct unstick_snapshot *snapshot);

/* Seconds that it costs to bring back what LRU would still have once these have left. */
double usk_rival_stake(const struct unstick_snapshot *snapshot, const struct unstick_victim *victims, size_t n_victims);

#endif
