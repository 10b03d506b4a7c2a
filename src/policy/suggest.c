/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What else could be done. The thresholds are the seed's, and public constants; what they are not is a promise: a
 * quantization is offered only when its own figure fits, by the same arithmetic that decides a demand. So 8-bit is not
 * offered at 10 GiB while it is thought to take 12.
 *
 * Offers go two ways. Memory is short: what fits, smaller first, and marked where the figure is a guess. Memory is
 * ample: the larger mode, for its quality, and only if its figure is exact; nobody is talked into a guess.
 *
 * With more free memory an offer never disappears as long as the demand stays as short, or as ample, as it was.
 */
#include "policy/suggest.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/math.h"
#include "base/size.h"
#include "policy/ledger.h"

/* Below this, what others hold is what any desktop holds; nobody can do anything about it. */
#define SUGGEST_NOTABLE_BYTES (UINT64_C(64) << 20)

struct suggest {
    const struct usk_ledger *ledger;
    const struct unstick_snapshot *snapshot;
    const struct unstick_demand *demand;
    struct unstick_plan *plan;
    uint64_t available_bytes; /* to another quantization, which takes this one's place */
};

/* More bits an element, more quality. */
static int quantization_rank(enum unstick_quantization quantization)
{
    switch (quantization) {
    case UNSTICK_QUANTIZATION_4BIT:
    case UNSTICK_QUANTIZATION_4BIT_DQ:
        return 0;
    case UNSTICK_QUANTIZATION_8BIT:
    case UNSTICK_QUANTIZATION_FP8:
        return 1;
    case UNSTICK_QUANTIZATION_NONE:
        return 2;
    default:
        return 3;
    }
}

static __attribute__((format(printf, 5, 6))) void suggest_add(struct suggest *suggest,
                                                              enum unstick_suggestion_action action,
                                                              enum unstick_quantization quantization,
                                                              uint64_t bytes, const char *format, ...)
{
    struct unstick_suggestion *suggestion;
    va_list args;

    if (suggest->plan->n_suggestions == UNSTICK_SUGGESTIONS_MAX)
        return;
    suggestion = &suggest->plan->suggestions[suggest->plan->n_suggestions++];
    suggestion->action = action;
    suggestion->quantization = quantization;
    suggestion->bytes = bytes;
    va_start(args, format);
    vsnprintf(suggestion->text, sizeof(suggestion->text), format, args);
    va_end(args);
}

static const struct unstick_alternative *demand_alternative(const struct unstick_demand *demand,
                                                            enum unstick_quantization quantization)
{
    for (size_t i = 0; i < demand->n_alternatives; i++) {
        if (demand->alternatives[i].quantization == quantization)
            return &demand->alternatives[i];
    }
    return NULL;
}

/*
 * The figure of another quantization: what the caller knows, or the seed's guess. Where the demand itself turned out
 * larger than the seed's guess for it (text encoders, other models), the guess grows in proportion.
 */
static struct unstick_alternative suggest_figure(const struct suggest *suggest, enum unstick_quantization quantization)
{
    const struct unstick_alternative *known = demand_alternative(suggest->demand, quantization);
    uint64_t own = (uint64_t)(suggest->ledger->own_bytes + suggest->ledger->missing_bytes);
    uint64_t own_guess = unstick_estimate_guess(suggest->demand->quantization).bytes;
    double scale = own > own_guess ? (double)own / (double)own_guess : 1;

    if (known)
        return *known;
    return (struct unstick_alternative){
        .quantization = quantization,
        .required_bytes = (uint64_t)((double)unstick_estimate_guess(quantization).bytes * scale),
        .basis = UNSTICK_BASIS_GUESS,
    };
}

static bool suggest_fits(const struct suggest *suggest, uint64_t weights_bytes)
{
    return weights_bytes <= UNSTICK_POLICY_BYTES_MAX &&
           weights_bytes + suggest->demand->working_bytes <= suggest->available_bytes;
}

static void suggest_smaller(struct suggest *suggest)
{
    uint64_t own = (uint64_t)(suggest->ledger->own_bytes + suggest->ledger->missing_bytes), last = 0;
    bool is_offered[UNSTICK_QUANTIZATIONS] = { false };
    char size[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX];

    for (;;) {
        struct unstick_alternative best = { .required_bytes = UINT64_MAX };

        for (unsigned int q = 0; q < UNSTICK_QUANTIZATIONS; q++) {
            struct unstick_alternative figure = suggest_figure(suggest, (enum unstick_quantization)q);
            bool is_known = demand_alternative(suggest->demand, (enum unstick_quantization)q);

            /* Only the seed's three modes are guessed. */
            if (q == (unsigned int)suggest->demand->quantization || is_offered[q] ||
                (!is_known && q > UNSTICK_QUANTIZATION_4BIT))
                continue;
            if (figure.required_bytes < own && figure.required_bytes >= last &&
                figure.required_bytes < best.required_bytes && suggest_fits(suggest, figure.required_bytes))
                best = figure;
        }
        if (best.required_bytes == UINT64_MAX)
            return;
        is_offered[best.quantization] = true;
        last = best.required_bytes;
        suggest_add(suggest, UNSTICK_SUGGEST_SMALLER, best.quantization, best.required_bytes,
                    "use %s: it needs %s (%s), and %s are available", unstick_quantization_name(best.quantization),
                    usk_size_format(size, best.required_bytes + suggest->demand->working_bytes),
                    unstick_basis_name(best.basis), usk_size_format(available, suggest->available_bytes));
    }
}

static void suggest_larger(struct suggest *suggest)
{
    static const struct {
        enum unstick_quantization quantization;
        uint64_t from_bytes;
    } offers[] = {
        { UNSTICK_QUANTIZATION_NONE, UNSTICK_OFFER_NONE_BYTES },
        { UNSTICK_QUANTIZATION_8BIT, UNSTICK_OFFER_8BIT_BYTES },
    };
    char size[USK_SIZE_TEXT_MAX], available[USK_SIZE_TEXT_MAX];

    for (size_t i = 0; i < sizeof(offers) / sizeof(offers[0]); i++) {
        const struct unstick_alternative *known =
            demand_alternative(suggest->demand, offers[i].quantization);

        if (!known || known->basis > UNSTICK_BASIS_RULES || suggest->available_bytes < offers[i].from_bytes ||
            quantization_rank(offers[i].quantization) <= quantization_rank(suggest->demand->quantization) ||
            !suggest_fits(suggest, known->required_bytes))
            continue;
        suggest_add(suggest, UNSTICK_SUGGEST_LARGER, offers[i].quantization, known->required_bytes,
                    "%s fits too, with better quality: it needs %s, and %s are available",
                    offers[i].quantization == UNSTICK_QUANTIZATION_NONE
                        ? "full precision"
                        : unstick_quantization_name(offers[i].quantization),
                    usk_size_format(size, known->required_bytes + suggest->demand->working_bytes),
                    usk_size_format(available, suggest->available_bytes));
    }
}

static bool suggest_is_hopeless(const struct suggest *suggest)
{
    const struct unstick_plan *plan = suggest->plan;
    uint64_t limit = suggest->snapshot->limit_bytes;
    uint64_t weights = plan->required_bytes - suggest->demand->working_bytes;

    return (plan->basis <= UNSTICK_BASIS_RULES || plan->basis == UNSTICK_BASIS_LEARNED) &&
           (plan->required_bytes > suggest->snapshot->reading->total_bytes || (limit && weights > limit));
}

static bool suggest_has_nothing_left(const struct suggest *suggest)
{
    const struct usk_ledger *ledger = suggest->ledger;

    return !ledger->cached_bytes && !ledger->evictable_bytes && !ledger->leased_bytes && !ledger->own_bytes &&
           !ledger->pending_bytes;
}

static void suggest_when_short(struct suggest *suggest)
{
    const struct unstick_plan *plan = suggest->plan;
    const uint64_t required = plan->required_bytes, available = plan->available_bytes;
    char size[USK_SIZE_TEXT_MAX], others[USK_SIZE_TEXT_MAX];

    if (plan->verdict == UNSTICK_VERDICT_REFUSED && plan->leased_bytes >= SUGGEST_NOTABLE_BYTES &&
        available + plan->leased_bytes >= required)
        suggest_add(suggest, UNSTICK_SUGGEST_WAIT, suggest->demand->quantization, plan->leased_bytes,
                    "let it wait: models in use in this process hold %s",
                    usk_size_format(size, plan->leased_bytes));
    /* Refused because the key is in use with other settings: memory is not what is missing. */
    if (!plan->short_bytes)
        return;
    if (plan->maybe_bytes >= SUGGEST_NOTABLE_BYTES && available + plan->maybe_bytes >= required)
        suggest_add(suggest, UNSTICK_SUGGEST_COLLECT, suggest->demand->quantization, plan->maybe_bytes,
                    "find out who still references tensors in this process: %s are live in torch",
                    usk_size_format(size, plan->maybe_bytes));
    if (plan->held_by_others_bytes >= SUGGEST_NOTABLE_BYTES && available + plan->held_by_others_bytes >= required)
        suggest_add(suggest, UNSTICK_SUGGEST_OTHERS, suggest->demand->quantization, plan->held_by_others_bytes,
                    "close other programs on this device, or hibernate them: they hold %s",
                    usk_size_format(size, plan->held_by_others_bytes));
    if (suggest->available_bytes < UNSTICK_VIABLE_BYTES && suggest_has_nothing_left(suggest) &&
        suggest->snapshot->reading->total_bytes >= UNSTICK_VIABLE_BYTES)
        suggest_add(suggest, UNSTICK_SUGGEST_RESTART, suggest->demand->quantization, 0,
                    "restart %s, or hibernate it: %s are available, less than the viable %s, and nothing is left to "
                    "reclaim",
                    plan->held_by_others_bytes > plan->maybe_bytes ? "the process that holds the rest"
                                                                   : "the workflow's process",
                    usk_size_format(size, suggest->available_bytes), usk_size_format(others, UNSTICK_VIABLE_BYTES));
    if (plan->verdict == UNSTICK_VERDICT_REFUSED && !suggest->demand->allow_low_memory &&
        !suggest->ledger->is_stale_blocked && !suggest_is_hopeless(suggest))
        suggest_add(suggest, UNSTICK_SUGGEST_FORCE, suggest->demand->quantization, plan->short_bytes,
                    "set 'allow_low_memory': true in the system constraints to load all the same; %s are missing, so "
                    "expect an out-of-memory error",
                    usk_size_format(size, plan->short_bytes));
}

/* What of the demand itself would make room for another quantization. */
static int64_t suggest_own_evictable(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot)
{
    const struct unstick_snapshot_entry *entry;
    int64_t bytes = 0;

    if (ledger->entry == UNSTICK_NO_ENTRY)
        return 0;
    entry = &snapshot->entries[ledger->entry];
    if (entry->is_pinned || entry->is_loading || entry->n_leases)
        return 0;
    for (size_t i = 0; i < entry->n_components; i++) {
        const struct unstick_snapshot_component *component = &entry->components[i];

        if (!component->n_leases && ((component->tier != UNSTICK_TIER_AUTO && !component->unbacked_bytes) ||
                                     entry->can_reload))
            bytes += (int64_t)component->resident_bytes;
    }
    return bytes < ledger->own_bytes ? bytes : ledger->own_bytes;
}

void usk_suggest(const struct usk_ledger *ledger, const struct unstick_snapshot *snapshot,
                 const struct unstick_demand *demand, struct unstick_plan *plan)
{
    struct suggest suggest = { .ledger = ledger, .snapshot = snapshot, .demand = demand, .plan = plan };

    plan->n_suggestions = 0;
    suggest.available_bytes = (uint64_t)usk_ledger_available(
        ledger, (int64_t)demand->working_bytes,
        ledger->evictable_bytes + suggest_own_evictable(ledger, snapshot));
    switch (plan->verdict) {
    case UNSTICK_VERDICT_FORCED:
    case UNSTICK_VERDICT_REFUSED:
        suggest_smaller(&suggest);
        suggest_when_short(&suggest);
        break;
    case UNSTICK_VERDICT_WAIT:
        if (plan->wait == UNSTICK_WAIT_LEASES || plan->wait == UNSTICK_WAIT_RECLAIM)
            suggest_smaller(&suggest);
        break;
    default:
        suggest_larger(&suggest);
        break;
    }
}
