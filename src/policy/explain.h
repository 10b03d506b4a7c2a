/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_EXPLAIN_H
#define USK_POLICY_EXPLAIN_H

#include <unstick/policy.h>

#include "policy/ledger.h"

/* Writes plan->reason from what the plan says; everything else in it is decided. */
void usk_explain(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                 const struct unstick_demand *demand, struct unstick_plan *plan);

#endif
