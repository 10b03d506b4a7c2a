/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reason of a plan, in words, and the names of its enumerations. Words are made from the plan's own figures, after
 * everything is decided: they can be wrong about nothing that the plan is right about.
 */
#include "policy/explain.h"

#include "base/size.h"
#include "base/text.h"

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

static void explain_size(struct usk_text *text, const char *before, uint64_t bytes, const char *behind)
{
    char size[USK_SIZE_TEXT_MAX];

    usk_text_add(text, "%s%s%s", before, usk_size_format(size, bytes), behind);
}

static void explain_need(struct usk_text *text, const struct unstick_demand *demand, const struct unstick_plan *plan)
{
    explain_size(text, " needs ", plan->required_bytes, "");
    if (plan->basis > UNSTICK_BASIS_RULES)
        usk_text_add(text, " (%s)", unstick_basis_name(plan->basis));
    if (demand->working_bytes)
        explain_size(text, ", of which ", demand->working_bytes, " to work in");
    usk_text_add(text, "; ");
}

static void explain_victims(struct usk_text *text, const struct unstick_snapshot *snapshot,
                            const struct unstick_plan *plan)
{
    for (size_t i = 0; i < plan->n_victims && i < 3; i++) {
        const struct unstick_victim *victim = &plan->victims[i];
        const struct unstick_snapshot_entry *entry = &snapshot->entries[victim->entry];

        usk_text_add(text, "%s%.48s/%.24s ", i ? ", " : "", entry->key, entry->components[victim->component].name);
        explain_size(text, "", victim->bytes, victim->is_discard ? " for good" : "");
    }
    if (plan->n_victims > 3)
        usk_text_add(text, " and %zu more", plan->n_victims - 3);
}

static void explain_evict(struct usk_text *text, const struct usk_ledger *ledger,
                          const struct unstick_snapshot *snapshot, const struct unstick_plan *plan)
{
    if (ledger->stale_entry != UNSTICK_NO_ENTRY)
        usk_text_add(text, "it is there with other settings, which leaves; ");
    explain_size(text, "", plan->free_bytes, " are free, so ");
    if (plan->reclaim_bytes)
        explain_size(text, "torch's cache gives back ", plan->reclaim_bytes, " and ");
    explain_size(text, "", plan->evict_bytes, " leave: ");
    explain_victims(text, snapshot, plan);
}

/* Who holds what is missing. */
static void explain_holders(struct usk_text *text, const struct usk_ledger *ledger, const struct unstick_plan *plan)
{
    explain_size(text, "at most ", plan->available_bytes, " can be had (");
    explain_size(text, "", plan->free_bytes, " free");
    if (ledger->cached_bytes)
        explain_size(text, ", ", (uint64_t)ledger->cached_bytes, " in torch's cache");
    if (plan->evictable_bytes)
        explain_size(text, ", ", plan->evictable_bytes, " evictable");
    usk_text_add(text, ")");
    if (plan->leased_bytes)
        explain_size(text, ", ", plan->leased_bytes, " are in use by models of this process");
    if (plan->maybe_bytes)
        explain_size(text, ", ", plan->maybe_bytes, " are live in torch");
    if (plan->held_by_others_bytes)
        explain_size(text, ", ", plan->held_by_others_bytes, " are held by others");
}

static void explain_wait(struct usk_text *text, const struct usk_ledger *ledger, const struct unstick_plan *plan)
{
    switch (plan->wait) {
    case UNSTICK_WAIT_LOADING:
        usk_text_add(text, " is being loaded already: wait for that");
        break;
    case UNSTICK_WAIT_TURN:
        usk_text_add(text, " waits its turn: others asked for memory earlier");
        break;
    case UNSTICK_WAIT_RECLAIM:
        explain_size(text, " waits for ", (uint64_t)ledger->pending_bytes, " that are on their way back: ");
        explain_holders(text, ledger, plan);
        break;
    default:
        explain_size(text, " waits for models in use to end: ", plan->required_bytes, " are needed, ");
        explain_holders(text, ledger, plan);
        break;
    }
}

void usk_explain(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                 const struct unstick_demand *demand, struct unstick_plan *plan)
{
    struct usk_text text;

    usk_text_init(&text, plan->reason, sizeof(plan->reason));
    usk_text_add(&text, "%.160s", demand->key);
    switch (plan->verdict) {
    case UNSTICK_VERDICT_HIT:
        explain_size(&text, " is on the device (", (uint64_t)ledger->own_bytes, "): nothing is touched");
        break;
    case UNSTICK_VERDICT_FITS:
        explain_need(&text, demand, plan);
        explain_size(&text, "", plan->free_bytes, " are free");
        if (plan->free_bytes < plan->required_bytes)
            usk_text_add(&text, ", and torch's own cache is there to work in");
        usk_text_add(&text, ": nothing is touched");
        break;
    case UNSTICK_VERDICT_RECLAIM:
        explain_need(&text, demand, plan);
        explain_size(&text, "", plan->free_bytes, " are free, and torch's cache gives back ");
        explain_size(&text, "", plan->reclaim_bytes, ": empty it first");
        break;
    case UNSTICK_VERDICT_EVICT:
        explain_need(&text, demand, plan);
        explain_evict(&text, ledger, snapshot, plan);
        break;
    case UNSTICK_VERDICT_WAIT:
        explain_wait(&text, ledger, plan);
        break;
    default:
        if (ledger->is_stale_blocked) {
            usk_text_add(&text, " is there with other settings, and in use or pinned: it cannot be replaced now");
            break;
        }
        explain_need(&text, demand, plan);
        explain_holders(&text, ledger, plan);
        explain_size(&text, "; ", plan->short_bytes, " are missing");
        if (plan->required_bytes > snapshot->reading->total_bytes)
            explain_size(&text, "; the whole device has ", snapshot->reading->total_bytes, "");
        if (plan->was_forced)
            usk_text_add(&text, "; tried all the same, because allow_low_memory is set");
        break;
    }
}
