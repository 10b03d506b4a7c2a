/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the user is told, in one text: what was asked for, what there was, what was tried and what each gave, who holds
 * the rest, what to do. Only what can help is suggested: each suggestion has a figure or a flag behind it, and none is
 * made when the target is met.
 */
#include "base/size.h"
#include "base/text.h"
#include "policy/attribution.h"
#include "reclaim/reclaim.h"

/* Less than this is not worth a line of advice. */
#define RESULT_WORTH_BYTES (UINT64_C(64) << 20)

struct result_advice {
    enum unstick_reclaim_suggestion suggestion;
    const char *text;
};

/* In the order in which they are worth trying. */
static const struct result_advice advices[] = {
    { UNSTICK_SUGGEST_EVICT, "evict other models or raise the limit: the library's own limit is what binds" },
    { UNSTICK_SUGGEST_END_LEASES, "end what is in use, and ask again" },
    { UNSTICK_SUGGEST_DROP_REFERENCES, "find out who still holds tensors and drop them" },
    { UNSTICK_SUGGEST_OTHER_PROCESS, "unload or end the other process" },
    { UNSTICK_SUGGEST_EXPANDABLE, "set expandable_segments:True before the next start, so that survivors pin nothing" },
    { UNSTICK_SUGGEST_REVOKE, "revoke: the memory goes back while references live on" },
    { UNSTICK_SUGGEST_HIBERNATE, "hibernate the whole process" },
};

static unsigned int result_suggest(const struct unstick_reclaim *machine)
{
    const struct usk_reclaim_sight *sight = &machine->sight;
    bool is_resident_known = sight->sources & UNSTICK_SOURCE_ACCOUNTS;
    unsigned int suggestions = 0;

    if (sight->room_bytes < machine->options.target_bytes)
        return UNSTICK_SUGGEST_EVICT;
    if (machine->has_leased_skips && machine->n_leased)
        suggestions |= UNSTICK_SUGGEST_END_LEASES;
    if (sight->torch_active_bytes >= RESULT_WORTH_BYTES)
        suggestions |= UNSTICK_SUGGEST_DROP_REFERENCES;
    if (sight->others_bytes >= RESULT_WORTH_BYTES)
        suggestions |= UNSTICK_SUGGEST_OTHER_PROCESS;
    if (sight->torch_pinned_bytes >= RESULT_WORTH_BYTES)
        suggestions |= UNSTICK_SUGGEST_EXPANDABLE;
    if ((machine->options.flags & UNSTICK_RECLAIM_CAN_REVOKE) && (!is_resident_known || sight->resident_bytes))
        suggestions |= UNSTICK_SUGGEST_REVOKE;
    if (machine->options.flags & UNSTICK_RECLAIM_CAN_HIBERNATE)
        suggestions |= UNSTICK_SUGGEST_HIBERNATE;
    return suggestions;
}

static uint64_t result_magnitude(int64_t bytes)
{
    return bytes < 0 ? 0 - (uint64_t)bytes : (uint64_t)bytes;
}

static bool result_is_wait(const struct unstick_reclaim_step *step)
{
    return step->phase >= UNSTICK_PHASE_PATIENCE && step->phase <= UNSTICK_PHASE_LEASE;
}

/* What a step gave, in words that also do for several that gave the same nothing. */
static const char *result_outcome(const struct unstick_reclaim_step *step)
{
    if (step->status < 0)
        return NULL;
    if (!step->performed && step->skipped)
        return "skipped";
    return step->freed_bytes || result_is_wait(step) ? NULL : "gave nothing";
}

static void result_say_step(const struct unstick_reclaim_step *step, struct usk_text *text)
{
    char bytes[USK_SIZE_TEXT_MAX];

    if (step->status < 0)
        usk_text_add(text, "failed (%s)", unstick_status_text(step->status));
    else if (!step->freed_bytes)
        usk_text_add(text, "gave nothing");
    else
        usk_text_add(text, "%s %s", step->freed_bytes < 0 ? "took" : "gave",
                     usk_size_format(bytes, result_magnitude(step->freed_bytes)));
    if (result_is_wait(step))
        usk_text_add(text, " in %llu.%llu s", (unsigned long long)step->ms / 1000,
                     (unsigned long long)step->ms % 1000 / 100);
}

/* "standard gave 1.2 GiB; python-gc, combined gave nothing; ...": neighbours with the same outcome share it. */
static void result_say_steps(const struct unstick_reclaim_step *steps, size_t n_steps, struct usk_text *text)
{
    for (size_t i = 0; i < n_steps; i++) {
        const char *outcome = result_outcome(&steps[i]);
        bool is_first = i == 0 || !outcome || result_outcome(&steps[i - 1]) != outcome;
        bool is_last = i + 1 == n_steps || !outcome || result_outcome(&steps[i + 1]) != outcome;

        usk_text_add(text, "%s%s", i == 0 ? ". Tried: " : is_first ? "; " : ", ", steps[i].name);
        if (!is_last)
            continue;
        usk_text_add(text, " ");
        if (outcome)
            usk_text_add(text, "%s", outcome);
        else
            result_say_step(&steps[i], text);
    }
}

static void result_say_others(int64_t others_bytes, struct usk_text *text)
{
    char bytes[USK_SIZE_TEXT_MAX];

    if (others_bytes >= USK_RECLAIM_NOISE_BYTES || others_bytes <= -USK_RECLAIM_NOISE_BYTES)
        usk_text_add(text, "; other processes %s %s meanwhile", others_bytes < 0 ? "took" : "gave back",
                     usk_size_format(bytes, result_magnitude(others_bytes)));
}

static void result_say_end(const struct unstick_reclaim *machine, const struct unstick_reclaim_result *result,
                           struct usk_text *text)
{
    char after[USK_SIZE_TEXT_MAX], missing[USK_SIZE_TEXT_MAX];
    const char *separator = ". What to do: ";

    if (result->stop == UNSTICK_STOP_FAILED)
        usk_text_add(text, ". The device could not be read: %s", unstick_status_text(result->status));
    else if (result->stop == UNSTICK_STOP_CANCELED)
        usk_text_add(text, ". Canceled");
    usk_text_add(text, ". %s available now", usk_size_format(after, result->after_bytes));
    if (result->is_met || !machine->has_sight)
        return;
    usk_text_add(text, ", %s short. %s", usk_size_format(missing, result->target_bytes - result->after_bytes),
                 machine->attribution.text);
    if (result->stop == UNSTICK_STOP_NOT_YET)
        return;
    for (size_t i = 0; i < sizeof(advices) / sizeof(advices[0]); i++) {
        if (result->suggestions & advices[i].suggestion) {
            usk_text_add(text, "%s%s", separator, advices[i].text);
            separator = "; ";
        }
    }
    if (!result->suggestions)
        usk_text_add(text, "%sask for less, or restart", separator);
}

static void result_say(const struct unstick_reclaim *machine, const struct unstick_reclaim_result *result,
                       struct usk_text *text)
{
    char asked[USK_SIZE_TEXT_MAX], before[USK_SIZE_TEXT_MAX];

    if (machine->what[0])
        usk_text_add(text, "%s: ", machine->what);
    usk_text_add(text, "%s asked for, %s available",
                 result->target_bytes ? usk_size_format(asked, result->target_bytes) : "as much as there is",
                 usk_size_format(before, result->before_bytes));
    result_say_steps(result->steps, result->n_steps, text);
    result_say_others(result->others_bytes, text);
    result_say_end(machine, result, text);
}

int unstick_reclaim_result(const struct unstick_reclaim *machine, struct unstick_reclaim_result *result)
{
    struct unstick_reclaim_result filled = { .size = sizeof(filled) };
    struct usk_text text;

    if (!machine || !result || result->size < sizeof(*result))
        return UNSTICK_INVALID_ARGUMENT;
    filled.size = result->size;
    filled.stop = machine->stop;
    filled.status = machine->phase == UNSTICK_PHASE_END ? machine->status : UNSTICK_PENDING;
    filled.target_bytes = machine->options.target_bytes;
    filled.before_bytes = machine->first.available_bytes;
    filled.after_bytes = machine->sight.available_bytes;
    filled.is_met = machine->has_sight && filled.after_bytes >= filled.target_bytes;
    filled.waited_ms = machine->slept_ms;
    filled.ms = (machine->now_ns - machine->started_ns) / 1000000;
    filled.steps = machine->steps;
    filled.n_steps = machine->n_steps;
    for (size_t i = 0; i < machine->n_steps; i++) {
        filled.freed_bytes = usk_bytes_sum_signed(filled.freed_bytes, machine->steps[i].freed_bytes);
        filled.others_bytes = usk_bytes_sum_signed(filled.others_bytes, machine->steps[i].others_bytes);
    }
    if (!filled.is_met && machine->has_sight)
        filled.suggestions = result_suggest(machine);
    usk_text_init(&text, filled.text, sizeof(filled.text));
    result_say(machine, &filled, &text);
    *result = filled;
    return UNSTICK_OK;
}
