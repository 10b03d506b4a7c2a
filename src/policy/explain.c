/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reason of a plan, in words, and the names of its enumerations. Words are made from the plan's own figures, after
 * everything is decided: they can be wrong about nothing that the plan is right about.
 */
#include "policy/explain.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/size.h"

const char *unstick_verdict_name(enum unstick_verdict verdict)
{
    static const char *const names[] = { "hit", "fits", "reclaim", "evict", "wait", "forced", "refused" };

    return (unsigned int)verdict < sizeof(names) / sizeof(names[0]) ? names[verdict] : "unknown";
}

const char *unstick_wait_name(enum unstick_wait wait)
{
    static const char *const names[] = { "none", "leases", "reclaim", "loading", "turn" };

    return (unsigned int)wait < sizeof(names) / sizeof(names[0]) ? names[wait] : "unknown";
}

const char *unstick_suggestion_name(enum unstick_suggestion_action action)
{
    static const char *const names[] = { "smaller", "larger", "wait", "collect", "others", "force", "restart" };

    return (unsigned int)action < sizeof(names) / sizeof(names[0]) ? names[action] : "unknown";
}

/* A sentence that grows and is cut where the room ends. */
struct explain {
    char *text;
    size_t size, length;
};

static __attribute__((format(printf, 2, 3))) void explain_add(struct explain *explain, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(explain->text + explain->length, explain->size - explain->length, format, args);
    va_end(args);
    if (n > 0)
        explain->length += (size_t)n;
    if (explain->length >= explain->size)
        explain->length = explain->size - 1;
}

static void explain_size(struct explain *explain, const char *before, uint64_t bytes, const char *behind)
{
    char size[USK_SIZE_TEXT_MAX];

    explain_add(explain, "%s%s%s", before, usk_size_format(size, bytes), behind);
}

static void explain_need(struct explain *explain, const struct unstick_demand *demand, const struct unstick_plan *plan)
{
    explain_size(explain, " needs ", plan->required_bytes, "");
    if (plan->basis > UNSTICK_BASIS_RULES)
        explain_add(explain, " (%s)", unstick_basis_name(plan->basis));
    if (demand->working_bytes)
        explain_size(explain, ", of which ", demand->working_bytes, " to work in");
    explain_add(explain, "; ");
}

static void explain_victims(struct explain *explain, const struct unstick_snapshot *snapshot,
                            const struct unstick_plan *plan)
{
    for (size_t i = 0; i < plan->n_victims && i < 3; i++) {
        const struct unstick_victim *victim = &plan->victims[i];
        const struct unstick_snapshot_entry *entry = &snapshot->entries[victim->entry];

        explain_add(explain, "%s%.48s/%.24s ", i ? ", " : "", entry->key, entry->components[victim->component].name);
        explain_size(explain, "", victim->bytes, victim->is_discard ? " for good" : "");
    }
    if (plan->n_victims > 3)
        explain_add(explain, " and %zu more", plan->n_victims - 3);
}

static void explain_evict(struct explain *explain, const struct usk_ledger *ledger,
                          const struct unstick_snapshot *snapshot, const struct unstick_plan *plan)
{
    if (ledger->stale_entry != UNSTICK_NO_ENTRY)
        explain_add(explain, "it is there with other settings, which leaves; ");
    explain_size(explain, "", plan->free_bytes, " are free, so ");
    if (plan->reclaim_bytes)
        explain_size(explain, "torch's cache gives back ", plan->reclaim_bytes, " and ");
    explain_size(explain, "", plan->evict_bytes, " leave: ");
    explain_victims(explain, snapshot, plan);
}

/* Who holds what is missing. */
static void explain_holders(struct explain *explain, const struct usk_ledger *ledger, const struct unstick_plan *plan)
{
    explain_size(explain, "at most ", plan->available_bytes, " can be had (");
    explain_size(explain, "", plan->free_bytes, " free");
    if (ledger->cached_bytes)
        explain_size(explain, ", ", (uint64_t)ledger->cached_bytes, " in torch's cache");
    if (plan->evictable_bytes)
        explain_size(explain, ", ", plan->evictable_bytes, " evictable");
    explain_add(explain, ")");
    if (plan->leased_bytes)
        explain_size(explain, ", ", plan->leased_bytes, " are in use by models of this process");
    if (plan->maybe_bytes)
        explain_size(explain, ", ", plan->maybe_bytes, " are live in torch");
    if (plan->held_by_others_bytes)
        explain_size(explain, ", ", plan->held_by_others_bytes, " are held by others");
}

static void explain_wait(struct explain *explain, const struct usk_ledger *ledger, const struct unstick_plan *plan)
{
    switch (plan->wait) {
    case UNSTICK_WAIT_LOADING:
        explain_add(explain, " is being loaded already: wait for that");
        break;
    case UNSTICK_WAIT_TURN:
        explain_add(explain, " waits its turn: others asked for memory earlier");
        break;
    case UNSTICK_WAIT_RECLAIM:
        explain_size(explain, " waits for ", (uint64_t)ledger->pending_bytes, " that are on their way back: ");
        explain_holders(explain, ledger, plan);
        break;
    default:
        explain_size(explain, " waits for models in use to end: ", plan->required_bytes, " are needed, ");
        explain_holders(explain, ledger, plan);
        break;
    }
}

void usk_explain(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                 const struct unstick_demand *demand, struct unstick_plan *plan)
{
    struct explain explain = { .text = plan->reason, .size = sizeof(plan->reason) };

    explain_add(&explain, "%.160s", demand->key);
    switch (plan->verdict) {
    case UNSTICK_VERDICT_HIT:
        explain_size(&explain, " is on the device (", (uint64_t)ledger->own_bytes, "): nothing is touched");
        break;
    case UNSTICK_VERDICT_FITS:
        explain_need(&explain, demand, plan);
        explain_size(&explain, "", plan->free_bytes, " are free");
        if (plan->free_bytes < plan->required_bytes)
            explain_add(&explain, ", and torch's own cache is there to work in");
        explain_add(&explain, ": nothing is touched");
        break;
    case UNSTICK_VERDICT_RECLAIM:
        explain_need(&explain, demand, plan);
        explain_size(&explain, "", plan->free_bytes, " are free, and torch's cache gives back ");
        explain_size(&explain, "", plan->reclaim_bytes, ": empty it first");
        break;
    case UNSTICK_VERDICT_EVICT:
        explain_need(&explain, demand, plan);
        explain_evict(&explain, ledger, snapshot, plan);
        break;
    case UNSTICK_VERDICT_WAIT:
        explain_wait(&explain, ledger, plan);
        break;
    default:
        if (ledger->is_stale_blocked) {
            explain_add(&explain, " is there with other settings, and in use or pinned: it cannot be replaced now");
            break;
        }
        explain_need(&explain, demand, plan);
        explain_holders(&explain, ledger, plan);
        explain_size(&explain, "; ", plan->short_bytes, " are missing");
        if (plan->required_bytes > snapshot->reading->total_bytes)
            explain_size(&explain, "; the whole device has ", snapshot->reading->total_bytes, "");
        if (plan->was_forced)
            explain_add(&explain, "; tried all the same, because allow_low_memory is set");
        break;
    }
}
