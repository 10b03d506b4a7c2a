/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_SUGGEST_H
#define USK_POLICY_SUGGEST_H

#include <stdint.h>

#include <unstick/policy.h>

struct usk_ledger;

/* Fills in plan->suggestions; everything else in the plan is decided. */
void usk_suggest(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                 const struct unstick_demand *demand, struct unstick_plan *plan);

#endif
