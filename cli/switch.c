/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The decision of a switch, pure: figures in, steps out. Only the last step asks for less than all that a
 * region has, so rounding up to granules, which the eviction does, costs one granule at most. What leaves
 * first is the end of a model: its next use needs that last, so its restore can overlap with that use.
 */
#include "switch.h"

#include "base/math.h"

/* The model used longest ago that still has something on the device and is not the wanted one; n_models if
 * none. */
static size_t victim_pick(const struct switch_model *models, size_t n_models, size_t wanted,
                          uint64_t used_after)
{
    size_t best = n_models;

    for (size_t i = 0; i < n_models; i++) {
        if (i == wanted || models[i].last_used < used_after)
            continue;
        if (best == n_models || models[i].last_used < models[best].last_used)
            best = i;
    }
    return best;
}

static void model_count(const struct switch_model *model, uint64_t *ret_total_bytes,
                        uint64_t *ret_resident_bytes)
{
    *ret_total_bytes = 0;
    *ret_resident_bytes = 0;
    for (size_t i = 0; i < model->n_regions; i++) {
        *ret_total_bytes += model->regions[i].total_bytes;
        *ret_resident_bytes += model->regions[i].resident_bytes;
    }
}

/* Takes up to `bytes` from one model, last regions first; returns how much it gives at least. */
static uint64_t model_take(const struct switch_model *model, size_t index, uint64_t bytes,
                           struct switch_plan *plan)
{
    uint64_t taken = 0;

    for (size_t i = model->n_regions; i-- && taken < bytes;) {
        const struct switch_region *region = &model->regions[i];
        uint64_t want = usk_min(bytes - taken, region->resident_bytes);

        if (!want)
            continue;
        plan->steps[plan->n_steps++] = (struct switch_step){ .model = index, .region = i, .bytes = want };
        taken += want;
    }
    return taken;
}

void switch_decide(const struct switch_model *models, size_t n_models, size_t wanted, uint64_t free_bytes,
                   uint64_t capacity_bytes, struct switch_step *steps, struct switch_plan *ret_plan)
{
    struct switch_plan plan = { .verdict = SWITCH_FITS, .steps = steps };
    uint64_t total, resident, elsewhere = 0, shortfall, used_after = 0;

    for (size_t i = 0; i < n_models; i++) {
        model_count(&models[i], &total, &resident);
        if (i != wanted)
            elsewhere += resident;
    }
    model_count(&models[wanted], &plan.required_bytes, &resident);
    plan.incoming_bytes = plan.required_bytes - resident;
    plan.available_bytes = resident + elsewhere + free_bytes;
    if (plan.incoming_bytes && plan.required_bytes > capacity_bytes) {
        plan.verdict = SWITCH_TOO_LARGE;
        plan.available_bytes = capacity_bytes;
    } else if (plan.required_bytes > plan.available_bytes) {
        plan.verdict = SWITCH_TAKEN;
    } else {
        shortfall = plan.incoming_bytes - usk_min(plan.incoming_bytes, free_bytes);
        while (shortfall) {
            size_t victim = victim_pick(models, n_models, wanted, used_after);

            if (victim == n_models)
                break;
            shortfall -= usk_min(shortfall, model_take(&models[victim], victim, shortfall, &plan));
            used_after = models[victim].last_used + 1;
        }
    }
    *ret_plan = plan;
}
