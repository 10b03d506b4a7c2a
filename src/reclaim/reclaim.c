/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine. What it keeps:
 *
 *   Every change between two readings belongs to exactly one step, so that the effects of all steps add up to the
 *   change of the whole run, and nothing is counted twice or lost in a gap.
 *   It always ends: rounds are walked once (DEFAULT: once more after each of at most two waits), and a wait ends by the
 *   clock or by the sleep that it asked for, whichever is first, so that a clock that stands still cannot keep it.
 *   The only wait without an end of its own is the one for leases, and that one can be limited and canceled.
 *   A process-wide action is never handed out while something is leased: that is looked at before each action, not
 *   once per round, because leases begin meanwhile.
 *
 * Each call takes in what came of the action before, then walks on until there is another one to hand out.
 */
#include "reclaim/reclaim.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/math.h"
#include "policy/attribution.h"

#define NS_PER_MS UINT64_C(1000000)
#define DEFAULT_GAP_MS 300
#define DEFAULT_CHUNK_MS 500
#define DEFAULT_PATIENCE_MS 5000
#define DEFAULT_SAFETY_MS 7000

static uint32_t option_ms(uint32_t ms, uint32_t if_zero)
{
    if (ms == UNSTICK_RECLAIM_NO_WAIT)
        return 0;
    return ms ? ms : if_zero;
}

int usk_reclaim_init(struct unstick_reclaim *machine, const struct unstick_reclaim_options *options,
                     struct unstick_error *error)
{
    if (!options || options->size < sizeof(*options))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_reclaim_new", "options->size is not set");
    if (options->strategy != UNSTICK_RECLAIM_DEFAULT && options->strategy != UNSTICK_RECLAIM_SEED)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_reclaim_new", "there is no strategy %d",
                             (int)options->strategy);
    if (options->chunk_ms == UNSTICK_RECLAIM_NO_WAIT)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "unstick_reclaim_new",
                             "chunk_ms is the length of a sleep and cannot be none");

    *machine = (struct unstick_reclaim) { .options = *options };
    atomic_init(&machine->is_canceled, false);
    snprintf(machine->what, sizeof(machine->what), "%s", options->what ? options->what : "");
    machine->options.what = NULL;
    machine->options.gap_ms = option_ms(options->gap_ms, DEFAULT_GAP_MS);
    machine->options.chunk_ms = option_ms(options->chunk_ms, DEFAULT_CHUNK_MS);
    machine->options.patience_ms = option_ms(options->patience_ms, DEFAULT_PATIENCE_MS);
    machine->options.safety_ms = option_ms(options->safety_ms, DEFAULT_SAFETY_MS);
    return UNSTICK_OK;
}

int unstick_reclaim_new(const struct unstick_reclaim_options *options, struct unstick_reclaim **ret_machine,
                        struct unstick_error *error)
{
    struct unstick_reclaim *machine = malloc(sizeof(*machine));
    int r;

    if (!machine)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "no memory for a reclaim machine");
    r = usk_reclaim_init(machine, options, error);
    if (r < 0) {
        free(machine);
        return r;
    }
    *ret_machine = machine;
    return UNSTICK_OK;
}

struct unstick_reclaim *unstick_reclaim_free(struct unstick_reclaim *machine)
{
    free(machine);
    return NULL;
}

void unstick_reclaim_cancel(struct unstick_reclaim *machine)
{
    if (machine)
        atomic_store(&machine->is_canceled, true);
}

/* --- steps --- */

static bool reclaim_is_met(const struct unstick_reclaim *machine)
{
    return machine->options.target_bytes && machine->sight.available_bytes >= machine->options.target_bytes;
}

static void reclaim_finish(struct unstick_reclaim *machine, enum unstick_reclaim_stop stop, int status)
{
    machine->phase = UNSTICK_PHASE_END;
    machine->stop = stop;
    machine->status = status;
}

static struct unstick_reclaim_step *reclaim_step(struct unstick_reclaim *machine)
{
    return machine->n_steps ? &machine->steps[machine->n_steps - 1] : NULL;
}

static struct unstick_reclaim_step *reclaim_step_begin(struct unstick_reclaim *machine, const char *name,
                                                       unsigned int round)
{
    struct unstick_reclaim_step *step = &machine->steps[machine->n_steps++];

    *step = (struct unstick_reclaim_step) {
        .name = name,
        .phase = machine->phase,
        .round = round,
        .is_attributed = true,
    };
    machine->step_started_ns = machine->now_ns;
    return step;
}

/* --- sleeping --- */

static void reclaim_wait_begin(struct unstick_reclaim *machine, uint64_t from_ns, uint64_t ms)
{
    machine->wait_from_ns = from_ns;
    machine->wait_ms = ms;
    machine->wait_slept_ms = 0;
}

/* Hands out the next chunk of the wait under way; false if its time is over. */
static bool reclaim_sleep(struct unstick_reclaim *machine, struct unstick_reclaim_action *action)
{
    uint64_t gone_ns = machine->now_ns > machine->wait_from_ns ? machine->now_ns - machine->wait_from_ns : 0;
    uint64_t gone_ms = usk_max(gone_ns / NS_PER_MS, machine->wait_slept_ms);
    uint64_t left_ms = machine->options.chunk_ms;

    if (machine->wait_ms) {
        if (gone_ms >= machine->wait_ms)
            return false;
        left_ms = usk_min(left_ms, machine->wait_ms - gone_ms);
    }
    action->kind = UNSTICK_ACTION_SLEEP;
    action->sleep_ms = (uint32_t)left_ms;
    return true;
}

/* --- walking a table --- */

static bool reclaim_is_held_back(const struct unstick_reclaim *machine, enum unstick_action_kind kind)
{
    return machine->n_leased && usk_reclaim_is_process_wide(kind);
}

static bool reclaim_can(const struct unstick_reclaim *machine, enum unstick_action_kind kind)
{
    return !(machine->options.cannot & UNSTICK_ACTION_BIT(kind));
}

/* Whether a round is part of this run at all. */
static bool reclaim_is_chosen(const struct unstick_reclaim *machine, const struct usk_reclaim_round *round)
{
    if (machine->phase == UNSTICK_PHASE_LAST_RESORT)
        return !(round->core & UNSTICK_ACTION_BIT(UNSTICK_ACTION_RESET_STATS)) ||
               (machine->options.flags & UNSTICK_RECLAIM_RESET_STATS);
    if (machine->options.strategy == UNSTICK_RECLAIM_SEED)
        return true;
    if (!(round->core & ~machine->options.cannot) ||
        !usk_reclaim_sight_can_yield(&machine->sight, (enum usk_reclaim_default_round)machine->next_round,
                                     machine->options.flags))
        return false;
    /* Again only if there is something else to be had than the last time. */
    return !(machine->tried & (1u << machine->next_round)) ||
           !usk_reclaim_sight_has_same_torch(&machine->tried_sight[machine->next_round], &machine->sight);
}

/* Whether anything of it can be done now. */
static bool reclaim_is_doable(const struct unstick_reclaim *machine, const struct usk_reclaim_round *round)
{
    for (size_t i = 0; i < round->n_entries; i++) {
        enum unstick_action_kind kind = round->entries[i].kind;

        if (reclaim_can(machine, kind) && !reclaim_is_held_back(machine, kind))
            return true;
    }
    return false;
}

/* Notes what is left out; true if it is. */
static bool reclaim_skip(struct unstick_reclaim *machine, enum unstick_action_kind kind)
{
    struct unstick_reclaim_step *step = reclaim_step(machine);
    bool is_held_back = reclaim_is_held_back(machine, kind);

    if (reclaim_can(machine, kind) && !is_held_back)
        return false;
    machine->has_leased_skips |= is_held_back && reclaim_can(machine, kind);
    if (step)
        step->skipped |= UNSTICK_ACTION_BIT(kind);
    return true;
}

static void reclaim_table_enter(struct unstick_reclaim *machine, enum unstick_reclaim_phase phase,
                                const struct usk_reclaim_table *table)
{
    machine->phase = phase;
    machine->table = table;
    machine->stage = USK_STAGE_PICK;
    machine->next_round = 0;
    machine->is_gap_due = false;
    if (phase == UNSTICK_PHASE_ROUND) {
        machine->n_passes++;
        machine->rounds_ended_ns = machine->now_ns;
    }
}

static void reclaim_round_begin(struct unstick_reclaim *machine)
{
    const struct usk_reclaim_round *round = &machine->table->rounds[machine->next_round];

    reclaim_step_begin(machine, round->name, round->number);
    machine->stage = USK_STAGE_ACT;
    machine->next_entry = 0;
    machine->has_acted = false;
}

static void reclaim_round_end(struct unstick_reclaim *machine)
{
    if (machine->table == &usk_reclaim_default_rounds && machine->has_acted) {
        machine->tried |= 1u << machine->next_round;
        machine->tried_sight[machine->next_round] = machine->sight;
    }
    machine->next_round++;
    machine->stage = USK_STAGE_PICK;
    machine->is_gap_due |= machine->has_acted;
    machine->rounds_ended_ns = machine->now_ns;
}

/* True with an action; false when the table is through. */
static bool reclaim_table_walk(struct unstick_reclaim *machine, struct unstick_reclaim_action *action)
{
    while (machine->next_round < machine->table->n_rounds) {
        const struct usk_reclaim_round *round = &machine->table->rounds[machine->next_round];
        struct unstick_reclaim_step *step;

        switch (machine->stage) {
        case USK_STAGE_PICK:
            if (!reclaim_is_chosen(machine, round)) {
                machine->next_round++;
                break;
            }
            /* Nothing to let settle before what will not be done, behind the last round, or by default. */
            if (machine->is_gap_due && machine->options.gap_ms && machine->phase == UNSTICK_PHASE_ROUND &&
                machine->options.strategy == UNSTICK_RECLAIM_SEED && reclaim_is_doable(machine, round)) {
                reclaim_wait_begin(machine, machine->now_ns, machine->options.gap_ms);
                machine->stage = USK_STAGE_GAP;
                break;
            }
            reclaim_round_begin(machine);
            break;
        case USK_STAGE_GAP:
            if (reclaim_sleep(machine, action))
                return true;
            machine->stage = USK_STAGE_GAP_SEEN;
            action->kind = UNSTICK_ACTION_MEASURE;
            return true;
        case USK_STAGE_GAP_SEEN:
            machine->is_gap_due = false;
            reclaim_round_begin(machine);
            break;
        case USK_STAGE_ACT:
            if (machine->next_entry < round->n_entries) {
                const struct usk_reclaim_entry *entry = &round->entries[machine->next_entry++];

                if (reclaim_skip(machine, entry->kind))
                    break;
                machine->has_acted = true;
                step = reclaim_step(machine);
                if (step)
                    step->performed |= UNSTICK_ACTION_BIT(entry->kind);
                action->kind = entry->kind;
                action->stats = entry->stats;
                return true;
            }
            if (!machine->has_acted) {
                reclaim_round_end(machine);
                break;
            }
            machine->stage = USK_STAGE_SEEN;
            action->kind = UNSTICK_ACTION_MEASURE;
            return true;
        case USK_STAGE_SEEN:
        default:
            reclaim_round_end(machine);
            break;
        }
    }
    return false;
}

/* --- waiting --- */

static void reclaim_wait_enter(struct unstick_reclaim *machine, enum unstick_reclaim_phase phase, const char *name,
                               uint64_t from_ns, uint64_t ms)
{
    machine->phase = phase;
    machine->waits_done |= 1u << (unsigned int)phase;
    reclaim_step_begin(machine, name, 0);
    reclaim_wait_begin(machine, from_ns, ms);
}

/* What may still give memory back by itself, leases apart. */
static bool reclaim_has_cause(const struct unstick_reclaim *machine)
{
    return (machine->pending & (UNSTICK_CAUSE_PROCESS | UNSTICK_CAUSE_COLLECTION)) || machine->are_others_shrinking;
}

static bool reclaim_should_wait_on(const struct unstick_reclaim *machine)
{
    const struct usk_reclaim_sight *sight = &machine->sight;

    if (machine->options.strategy == UNSTICK_RECLAIM_SEED)
        return true;
    if (machine->phase == UNSTICK_PHASE_LEASE)
        return machine->n_leased && (machine->pending & UNSTICK_CAUSE_LEASE);
    /* What came to lie in torch's cache meanwhile is enough: a round gets it, waiting does not. */
    if (machine->options.target_bytes && sight->torch_cached_bytes &&
        usk_bytes_sum(sight->available_bytes, sight->torch_cached_bytes) >= machine->options.target_bytes &&
        !machine->n_leased)
        return false;
    return reclaim_has_cause(machine);
}

/* True with an action; false when the wait is over. */
static bool reclaim_wait_walk(struct unstick_reclaim *machine, struct unstick_reclaim_action *action)
{
    if (machine->last.kind == UNSTICK_ACTION_SLEEP && machine->last.phase == machine->phase) {
        action->kind = UNSTICK_ACTION_MEASURE;
        return true;
    }
    return reclaim_should_wait_on(machine) && reclaim_sleep(machine, action);
}

/* --- from one phase to the next --- */

static void reclaim_give_up(struct unstick_reclaim *machine)
{
    bool is_leased = machine->has_leased_skips && machine->n_leased;
    int status = machine->options.target_bytes ? UNSTICK_OUT_OF_DEVICE_MEMORY : UNSTICK_OK;

    reclaim_finish(machine, is_leased ? UNSTICK_STOP_LEASED : UNSTICK_STOP_EXHAUSTED, status);
}

static void reclaim_seed_go_on(struct unstick_reclaim *machine)
{
    const struct unstick_reclaim_options *options = &machine->options;

    switch (machine->phase) {
    case UNSTICK_PHASE_START:
        reclaim_table_enter(machine, UNSTICK_PHASE_ROUND, &usk_reclaim_seed_rounds);
        return;
    case UNSTICK_PHASE_ROUND:
        if (options->patience_ms) {
            reclaim_wait_enter(machine, UNSTICK_PHASE_PATIENCE, "patience", machine->rounds_ended_ns,
                               options->patience_ms);
            return;
        }
        /* fallthrough */
    case UNSTICK_PHASE_PATIENCE:
        if (options->safety_ms && machine->is_cache_empty) {
            /* Both waits together are counted from the end of the last round. */
            reclaim_wait_enter(machine, UNSTICK_PHASE_SAFETY, "safety",
                               machine->rounds_ended_ns + options->patience_ms * NS_PER_MS, options->safety_ms);
            return;
        }
        /* fallthrough */
    case UNSTICK_PHASE_SAFETY:
        reclaim_table_enter(machine, UNSTICK_PHASE_LAST_RESORT, &usk_reclaim_last_resort);
        return;
    case UNSTICK_PHASE_LEASE:
    case UNSTICK_PHASE_LAST_RESORT:
    case UNSTICK_PHASE_END:
    default:
        reclaim_give_up(machine);
        return;
    }
}

static bool reclaim_has_waited(const struct unstick_reclaim *machine, enum unstick_reclaim_phase phase)
{
    return machine->waits_done & (1u << (unsigned int)phase);
}

static void reclaim_default_go_on(struct unstick_reclaim *machine)
{
    const struct unstick_reclaim_options *options = &machine->options;

    /* Where our own limit is what binds, nothing that torch or others give back brings the target nearer. */
    if (machine->sight.room_bytes < options->target_bytes) {
        reclaim_give_up(machine);
        return;
    }
    if (machine->phase == UNSTICK_PHASE_PATIENCE && options->safety_ms && machine->is_cache_empty &&
        reclaim_should_wait_on(machine)) {
        reclaim_wait_enter(machine, UNSTICK_PHASE_SAFETY, "safety",
                           machine->rounds_ended_ns + options->patience_ms * NS_PER_MS, options->safety_ms);
        return;
    }
    /* At the start, and after a wait: what came of it may be taken now. */
    if (machine->phase != UNSTICK_PHASE_ROUND && !(machine->n_passes && machine->n_leased)) {
        reclaim_table_enter(machine, UNSTICK_PHASE_ROUND, &usk_reclaim_default_rounds);
        return;
    }
    if (machine->has_leased_skips && machine->n_leased && (machine->pending & UNSTICK_CAUSE_LEASE) &&
        options->lease_ms != UNSTICK_RECLAIM_NO_WAIT && !reclaim_has_waited(machine, UNSTICK_PHASE_LEASE)) {
        reclaim_wait_enter(machine, UNSTICK_PHASE_LEASE, "leases", machine->now_ns, options->lease_ms);
        return;
    }
    if (options->patience_ms && reclaim_has_cause(machine) && !reclaim_has_waited(machine, UNSTICK_PHASE_PATIENCE)) {
        reclaim_wait_enter(machine, UNSTICK_PHASE_PATIENCE, "patience", machine->rounds_ended_ns,
                           options->patience_ms);
        return;
    }
    reclaim_give_up(machine);
}

/* Walks on to the next action; none if the run is over. */
static void reclaim_walk(struct unstick_reclaim *machine, struct unstick_reclaim_action *action)
{
    while (machine->phase != UNSTICK_PHASE_END) {
        bool has_action = false;

        switch (machine->phase) {
        case UNSTICK_PHASE_START:
            if (!machine->has_sight) {
                action->kind = UNSTICK_ACTION_MEASURE;
                has_action = true;
            }
            break;
        case UNSTICK_PHASE_ROUND:
        case UNSTICK_PHASE_LAST_RESORT:
            has_action = reclaim_table_walk(machine, action);
            break;
        case UNSTICK_PHASE_PATIENCE:
        case UNSTICK_PHASE_SAFETY:
        case UNSTICK_PHASE_LEASE:
            has_action = reclaim_wait_walk(machine, action);
            break;
        case UNSTICK_PHASE_END:
            break;
        }
        if (has_action)
            return;
        if (machine->options.strategy == UNSTICK_RECLAIM_SEED)
            reclaim_seed_go_on(machine);
        else
            reclaim_default_go_on(machine);
    }
}

/* --- taking in what came of an action --- */

static void reclaim_take_report(struct unstick_reclaim *machine, const struct unstick_reclaim_report *report)
{
    enum unstick_action_kind kind = machine->last.kind;
    struct unstick_reclaim_step *step = reclaim_step(machine);

    machine->n_leased = report->n_leased;
    machine->is_cache_empty = report->is_cache_empty;
    machine->pending = report->pending;
    if (step && kind == UNSTICK_ACTION_COLLECT)
        step->n_collected = usk_bytes_sum(step->n_collected, report->n_collected);
    if (report->status >= 0 || !step || kind == UNSTICK_ACTION_MEASURE || kind == UNSTICK_ACTION_SLEEP ||
        kind == UNSTICK_ACTION_DONE)
        return;
    if (report->status == UNSTICK_UNSUPPORTED) {
        step->skipped |= UNSTICK_ACTION_BIT(kind);
        step->performed &= ~UNSTICK_ACTION_BIT(kind);
    } else if (!step->status) {
        step->status = report->status;
    }
}

static void reclaim_take_reading(struct unstick_reclaim *machine, const struct unstick_reading *reading)
{
    struct unstick_reclaim_step *step = reclaim_step(machine);
    struct usk_reclaim_sight sight;
    int64_t freed_bytes, others_bytes;

    usk_reclaim_sight_read(&sight, reading);
    machine->attribution.size = sizeof(machine->attribution);
    unstick_attribute(reading, &machine->attribution);
    if (!machine->has_sight) {
        machine->has_sight = true;
        machine->first = machine->sight = sight;
        return;
    }
    if (step) {
        step->is_attributed &= usk_reclaim_sight_compare(&machine->sight, &sight, &freed_bytes, &others_bytes);
        step->freed_bytes = usk_bytes_sum_signed(step->freed_bytes, freed_bytes);
        step->others_bytes = usk_bytes_sum_signed(step->others_bytes, others_bytes);
        if (machine->phase == UNSTICK_PHASE_ROUND)
            machine->are_others_shrinking |= others_bytes >= USK_RECLAIM_NOISE_BYTES;
        else
            machine->are_others_shrinking = others_bytes >= USK_RECLAIM_NOISE_BYTES;
        if (machine->stage != USK_STAGE_GAP_SEEN || machine->phase != UNSTICK_PHASE_ROUND)
            step->ms = (machine->now_ns - machine->step_started_ns) / NS_PER_MS;
    }
    machine->sight = sight;
    if (machine->phase == UNSTICK_PHASE_ROUND && machine->stage == USK_STAGE_SEEN)
        machine->rounds_ended_ns = machine->now_ns;
    if (reclaim_is_met(machine))
        reclaim_finish(machine, UNSTICK_STOP_MET, UNSTICK_OK);
}

static bool reading_is_usable(const struct unstick_reading *reading)
{
    return reading && reading->size >= sizeof(*reading) && (reading->sources & UNSTICK_SOURCE_DRIVER) &&
           !((reading->sources & UNSTICK_SOURCE_PROCESSES) && reading->n_processes && !reading->processes);
}

int unstick_reclaim_next(struct unstick_reclaim *machine, const struct unstick_reading *reading,
                         const struct unstick_reclaim_report *report, uint64_t now_ns,
                         struct unstick_reclaim_action *ret_action)
{
    struct unstick_reclaim_action action = { .size = sizeof(action), .step = "" };
    bool is_measured;

    if (!machine || !ret_action || ret_action->size < sizeof(*ret_action) || (report && report->size < sizeof(*report)))
        return UNSTICK_INVALID_ARGUMENT;
    is_measured = machine->phase != UNSTICK_PHASE_END && machine->last.kind == UNSTICK_ACTION_MEASURE;
    /* A host that could not measure says so by a status; one that says nothing has made a mistake. */
    if (is_measured && !(report && report->status < 0) && !reading_is_usable(reading))
        return UNSTICK_INVALID_ARGUMENT;
    action.size = ret_action->size;

    if (machine->phase != UNSTICK_PHASE_END) {
        if (!machine->has_started)
            machine->started_ns = machine->now_ns = now_ns;
        machine->has_started = true;
        machine->now_ns = usk_max(machine->now_ns, now_ns);
        if (machine->last.kind == UNSTICK_ACTION_SLEEP) {
            machine->slept_ms += machine->last.sleep_ms;
            machine->wait_slept_ms += machine->last.sleep_ms;
        }
        if (report)
            reclaim_take_report(machine, report);
        if (is_measured && report && report->status < 0)
            reclaim_finish(machine, UNSTICK_STOP_FAILED, report->status);
        else if (is_measured)
            reclaim_take_reading(machine, reading);
        if (machine->phase == UNSTICK_PHASE_START && reclaim_is_met(machine))
            reclaim_finish(machine, UNSTICK_STOP_MET, UNSTICK_OK);
        if (machine->phase != UNSTICK_PHASE_END && atomic_load(&machine->is_canceled))
            reclaim_finish(machine, UNSTICK_STOP_CANCELED, UNSTICK_CANCELED);
        reclaim_walk(machine, &action);
    }
    action.phase = machine->phase;
    if (machine->phase != UNSTICK_PHASE_END && machine->n_steps) {
        action.step = reclaim_step(machine)->name;
        action.round = reclaim_step(machine)->round;
    }
    machine->last = action;
    *ret_action = action;
    return action.kind == UNSTICK_ACTION_DONE ? UNSTICK_OK : UNSTICK_PENDING;
}
