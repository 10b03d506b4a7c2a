/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Advice on a whole workload (S25). Nothing runs: the requests are played through the policy on the described device,
 * with the bytes that the models' files have, loaded and restored from those files. So the advice is what the cache
 * would do, request by request, and the order it proposes is measured by the same play, not by a rule of thumb.
 *
 * Each model has to come in once. Asking for everything of one model before the next one reaches that bound, so that is
 * the order for one run. Where the workload runs again and again, the way back is cheaper than starting over: what
 * came in last is still there.
 */
#include "workflow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/model.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/math.h"
#include "base/size.h"
#include "cli.h"
#include "policy/attribution.h"
#include "workload.h"

#define WORKFLOW_LINK_BYTES_PER_S 52e9 /* PCIe Gen5 x16, as the policy assumes */
#define WORKFLOW_SETS_MAX 64
#define WORKFLOW_EXACT_MODELS 16 /* up to here every set of models is looked at */

struct workflow {
    struct workload workload;
    struct unstick_model **models;
    struct unstick_snapshot_entry *entries;
    struct unstick_snapshot_component **components; /* one array per model */
    struct unstick_victim *victims;
    size_t n_components;
    struct unstick_rival rival;
    uint64_t *bytes; /* per model */
    size_t *order;   /* models as they are first asked for; ends with SIZE_MAX */
    struct unstick_snapshot snapshot;
    struct unstick_reading reading;
    uint64_t room_bytes; /* for models: what is free, less working memory, at most the limit */
    uint64_t working_bytes;
};

/* A request for another model than the one before. */
struct switching {
    size_t request, model;
    enum unstick_verdict verdict;
    uint64_t moved_bytes, evict_bytes;
};

struct play {
    struct switching *switches; /* NULL: only counted */
    size_t n_switches;
    uint64_t moved_bytes;
    int status;
    char reason[448];
};

/* --- opening --- */

static void workflow_fini(struct workflow *workflow)
{
    for (size_t i = 0; i < workflow->workload.n_models; i++) {
        if (workflow->models)
            unstick_model_close(workflow->models[i]);
        if (workflow->components)
            free(workflow->components[i]);
    }
    free(workflow->models);
    free(workflow->components);
    free(workflow->entries);
    free(workflow->victims);
    free(workflow->rival.lru_bytes);
    free(workflow->bytes);
    free(workflow->order);
    workload_fini(&workflow->workload);
}

static int workflow_no_memory(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "malloc", "out of host memory for the workload");
}

static int workflow_open_model(struct workflow *workflow, size_t index, struct unstick_error *error)
{
    const struct workload_model *model = &workflow->workload.models[index];
    struct unstick_snapshot_entry *entry = &workflow->entries[index];
    const struct unstick_component *parts;
    size_t n;
    int r = unstick_model_open(model->path, &workflow->models[index], error);

    if (r < 0)
        return r;
    n = unstick_model_components(workflow->models[index], &parts);
    workflow->components[index] = calloc(n + !n, sizeof(**workflow->components));
    if (!workflow->components[index])
        return workflow_no_memory(error);
    for (size_t i = 0; i < n; i++) {
        workflow->components[index][i] = (struct unstick_snapshot_component){ .name = parts[i].name,
                                                                               .bytes = parts[i].layout.bytes,
                                                                               .tier = UNSTICK_TIER_FILE };
        workflow->bytes[index] += parts[i].layout.bytes;
    }
    *entry = (struct unstick_snapshot_entry){ .key = model->key,
                                              .components = workflow->components[index],
                                              .n_components = n };
    workflow->n_components += n;
    return UNSTICK_OK;
}

/* The models in the order in which they are first asked for. */
static void workflow_group(struct workflow *workflow)
{
    const struct workload *workload = &workflow->workload;
    size_t n = 0;

    for (size_t i = 0; i < workload->n_requests; i++) {
        bool is_first = true;

        for (size_t j = 0; j < n && is_first; j++)
            is_first = workflow->order[j] != workload->requests[i];
        if (is_first)
            workflow->order[n++] = workload->requests[i];
    }
    workflow->order[n] = SIZE_MAX;
}

static int workflow_init(struct workflow *workflow, const char *path, struct unstick_error *error)
{
    size_t n;
    int r = workload_read(path, &workflow->workload, error);

    if (r < 0)
        return r;
    n = workflow->workload.n_models;
    workflow->models = calloc(n + 1, sizeof(*workflow->models));
    workflow->entries = calloc(n + 1, sizeof(*workflow->entries));
    workflow->components = calloc(n + 1, sizeof(*workflow->components));
    workflow->bytes = calloc(n + 1, sizeof(*workflow->bytes));
    workflow->order = calloc(n + 1, sizeof(*workflow->order));
    if (!workflow->models || !workflow->entries || !workflow->components || !workflow->bytes || !workflow->order)
        return workflow_no_memory(error);
    for (size_t i = 0; i < n; i++) {
        r = workflow_open_model(workflow, i, error);
        if (r < 0)
            return r;
    }
    workflow->victims = calloc(workflow->n_components + 1, sizeof(*workflow->victims));
    workflow->rival.lru_bytes = calloc(workflow->n_components + 1, sizeof(*workflow->rival.lru_bytes));
    if (!workflow->victims || !workflow->rival.lru_bytes)
        return workflow_no_memory(error);
    workflow_group(workflow);
    return UNSTICK_OK;
}

/* --- playing --- */

static void workflow_reset(struct workflow *workflow, const struct unstick_snapshot *empty)
{
    for (size_t i = 0; i < workflow->workload.n_models; i++) {
        workflow->entries[i].reuse = (struct unstick_reuse){ 0 };
        workflow->entries[i].last_used_ns = 0;
        for (size_t j = 0; j < workflow->entries[i].n_components; j++)
            workflow->components[i][j].resident_bytes = 0;
    }
    workflow->reading = *empty->reading;
    workflow->snapshot = *empty;
    workflow->snapshot.reading = &workflow->reading;
    workflow->snapshot.entries = workflow->entries;
    workflow->snapshot.n_entries = workflow->workload.n_models;
    workflow->rival = (struct unstick_rival){ .lru_bytes = workflow->rival.lru_bytes };
    memset(workflow->rival.lru_bytes, 0, workflow->n_components * sizeof(*workflow->rival.lru_bytes));
    workflow->snapshot.rival = &workflow->rival;
}

static void workflow_apply(struct workflow *workflow, size_t model, const struct unstick_plan *plan)
{
    for (size_t i = 0; i < plan->n_victims; i++)
        workflow->components[plan->victims[i].entry][plan->victims[i].component].resident_bytes -=
            plan->victims[i].bytes;
    for (size_t j = 0; j < workflow->entries[model].n_components; j++)
        workflow->components[model][j].resident_bytes = workflow->components[model][j].bytes;
    workflow->reading.free_bytes += plan->evict_bytes + plan->reclaim_bytes;
    workflow->reading.free_bytes -= plan->missing_bytes;
    workflow->reading.torch_reserved_bytes -= plan->reclaim_bytes;
    workflow->reading.resident_bytes += plan->missing_bytes - plan->evict_bytes;
}

/* One request. */
static void play_step(struct play *play, struct workflow *workflow, size_t request, size_t model, bool is_switch)
{
    struct unstick_plan plan = { .size = sizeof(plan),
                                 .victims = workflow->victims,
                                 .max_victims = workflow->n_components };
    struct unstick_demand demand = { .size = sizeof(demand),
                                     .key = workflow->entries[model].key,
                                     .working_bytes = workflow->working_bytes };

    workflow->snapshot.turn += is_switch;
    unstick_reuse_note(&workflow->entries[model].reuse, workflow->snapshot.turn);
    workflow->entries[model].last_used_ns = ++workflow->reading.taken_ns;
    if (!is_switch)
        return;
    play->status = unstick_decide(&workflow->snapshot, &demand, &plan);
    if (play->status < 0) {
        memcpy(play->reason, plan.reason, sizeof(play->reason));
        return;
    }
    unstick_rival_note(&workflow->snapshot, &demand, &plan);
    /* What does not fit is said, and the rest goes on without it. */
    if (plan.verdict == UNSTICK_VERDICT_REFUSED)
        plan.missing_bytes = 0;
    else
        workflow_apply(workflow, model, &plan);
    if (play->switches)
        play->switches[play->n_switches] = (struct switching){ .request = request,
                                                               .model = model,
                                                               .verdict = plan.verdict,
                                                               .moved_bytes = plan.missing_bytes,
                                                               .evict_bytes = plan.evict_bytes };
    play->n_switches++;
    play->moved_bytes += plan.missing_bytes;
}

static void play_requests(struct play *play, struct workflow *workflow)
{
    const struct workload *workload = &workflow->workload;

    for (size_t i = 0; i < workload->n_requests && play->status == UNSTICK_OK; i++)
        play_step(play, workflow, i, workload->requests[i], !i || workload->requests[i] != workload->requests[i - 1]);
}

/* The grouped order, forwards or backwards: repeats of one model move nothing, so each is played once. */
static void play_order(struct play *play, struct workflow *workflow, bool is_backwards)
{
    size_t n = 0;

    while (workflow->order[n] != SIZE_MAX)
        n++;
    for (size_t i = 0; i < n && play->status == UNSTICK_OK; i++)
        play_step(play, workflow, i, workflow->order[is_backwards ? n - 1 - i : i], true);
}

/* --- which fit together --- */

struct sets {
    uint64_t items[WORKFLOW_SETS_MAX]; /* bits: models */
    size_t n_items;
    bool is_cut;
};

static void sets_find(struct sets *sets, const struct workflow *workflow)
{
    size_t n = workflow->workload.n_models;
    uint64_t room = workflow->room_bytes;

    if (n > WORKFLOW_EXACT_MODELS) {
        sets->is_cut = true;
        n = WORKFLOW_EXACT_MODELS;
    }
    for (uint64_t set = (UINT64_C(1) << n) - 1; set; set--) {
        uint64_t bytes = 0;
        bool is_largest = true;

        for (size_t i = 0; i < n; i++)
            bytes += set >> i & 1 ? workflow->bytes[i] : 0;
        if (bytes > room)
            continue;
        /* With one more it would not fit. */
        for (size_t i = 0; i < n && is_largest; i++)
            is_largest = set >> i & 1 || workflow->bytes[i] > room - bytes;
        if (!is_largest)
            continue;
        if (sets->n_items == WORKFLOW_SETS_MAX) {
            sets->is_cut = true;
            break;
        }
        sets->items[sets->n_items++] = set;
    }
}

/* --- saying it --- */

struct advice {
    struct sets together;
    struct play as_asked, grouped, again, back;
};

static double seconds_of(uint64_t bytes)
{
    return (double)bytes / WORKFLOW_LINK_BYTES_PER_S;
}

static json_t *advice_json_order(const struct workflow *workflow, bool is_backwards)
{
    json_t *order = json_array();

    for (size_t i = 0; workflow->order[i] != SIZE_MAX; i++) {
        json_t *key = json_string(workflow->workload.models[workflow->order[i]].key);

        if (is_backwards)
            json_array_insert_new(order, 0, key);
        else
            json_array_append_new(order, key);
    }
    return order;
}

/* What is too large as a whole may still run, its components leased one after the other. */
static uint64_t workflow_largest(const struct workflow *workflow, size_t model)
{
    uint64_t largest = 0;

    for (size_t i = 0; i < workflow->entries[model].n_components; i++)
        largest = usk_max(largest, workflow->components[model][i].bytes);
    return largest;
}

static json_t *advice_json_models(const struct workflow *workflow)
{
    json_t *models = json_array();

    for (size_t i = 0; i < workflow->workload.n_models; i++)
        json_array_append_new(
            models,
            json_pack("{s:s,s:I,s:b,s:b,s:f}", "key", workflow->workload.models[i].key, "bytes",
                      (json_int_t)workflow->bytes[i], "fits", workflow->bytes[i] <= workflow->room_bytes,
                      "fits_by_component", workflow_largest(workflow, i) <= workflow->room_bytes, "load_seconds",
                      seconds_of(workflow->bytes[i])));
    return models;
}

static json_t *advice_json_together(const struct workflow *workflow, const struct sets *sets)
{
    json_t *together = json_array();

    for (size_t i = 0; i < sets->n_items; i++) {
        json_t *set = json_array();

        for (size_t j = 0; j < WORKFLOW_EXACT_MODELS; j++) {
            if (sets->items[i] >> j & 1)
                json_array_append_new(set, json_string(workflow->workload.models[j].key));
        }
        json_array_append_new(together, set);
    }
    return together;
}

static json_t *advice_json_switches(const struct workflow *workflow, const struct play *play)
{
    json_t *switches = json_array();

    for (size_t i = 0; i < play->n_switches; i++) {
        const struct switching *step = &play->switches[i];

        json_array_append_new(switches,
                              json_pack("{s:I,s:s,s:s,s:I,s:I,s:f}", "request", (json_int_t)step->request, "key",
                                        workflow->workload.models[step->model].key, "verdict",
                                        unstick_verdict_name(step->verdict), "moved_bytes",
                                        (json_int_t)step->moved_bytes, "evict_bytes", (json_int_t)step->evict_bytes,
                                        "seconds", seconds_of(step->moved_bytes)));
    }
    return switches;
}

static bool advice_is_back_better(const struct advice *advice)
{
    return advice->back.moved_bytes < advice->again.moved_bytes;
}

static void advice_print_json(const struct workflow *workflow, const struct advice *advice)
{
    bool is_back = advice_is_back_better(advice);

    cli_json_print(json_pack(
        "{s:I,s:o,s:o,s:b,s:o,s:I,s:f,s:o,s:I,s:f,s:o,s:I}", "room_bytes", (json_int_t)workflow->room_bytes, "models",
        advice_json_models(workflow), "together", advice_json_together(workflow, &advice->together), "is_together_cut",
        advice->together.is_cut, "switches", advice_json_switches(workflow, &advice->as_asked), "moved_bytes",
        (json_int_t)advice->as_asked.moved_bytes, "moved_seconds", seconds_of(advice->as_asked.moved_bytes), "order",
        advice_json_order(workflow, false), "order_moved_bytes", (json_int_t)advice->grouped.moved_bytes,
        "order_moved_seconds", seconds_of(advice->grouped.moved_bytes), "next_order",
        advice_json_order(workflow, is_back), "next_order_moved_bytes",
        (json_int_t)(is_back ? advice->back.moved_bytes : advice->again.moved_bytes)));
}

static void advice_print_order(const struct workflow *workflow, const char *what, bool is_backwards, uint64_t bytes)
{
    char size[USK_SIZE_TEXT_MAX];
    size_t n = 0;

    while (workflow->order[n] != SIZE_MAX)
        n++;
    printf("%s moves %s:", what, usk_size_format(size, bytes));
    for (size_t i = 0; i < n; i++)
        printf("%s%s", i ? ", then " : " ",
               workflow->workload.models[workflow->order[is_backwards ? n - 1 - i : i]].key);
    printf("\n");
}

static void advice_print(const struct workflow *workflow, const struct advice *advice)
{
    static const struct cli_column columns[] = {
        { "request", 7 }, { "switch to", -40 }, { "verdict", -8 }, { "moves", 10 }, { "evicts", 10 }, { "seconds", 8 },
    };
    char size[USK_SIZE_TEXT_MAX];

    printf("room for models: %s\n", usk_size_format(size, workflow->room_bytes));
    for (size_t i = 0; i < workflow->workload.n_models; i++) {
        uint64_t largest = workflow_largest(workflow, i);

        if (workflow->bytes[i] <= workflow->room_bytes)
            continue;
        printf("does not fit: %s (%s)", workflow->workload.models[i].key, usk_size_format(size, workflow->bytes[i]));
        if (largest <= workflow->room_bytes)
            printf("; its components do, one at a time (the largest is %s)", usk_size_format(size, largest));
        printf("\n");
    }
    for (size_t i = 0; i < advice->together.n_items; i++) {
        const char *separator = "fit together: ";

        for (size_t j = 0; j < WORKFLOW_EXACT_MODELS; j++) {
            if (advice->together.items[i] >> j & 1) {
                printf("%s%s", separator, workflow->workload.models[j].key);
                separator = ", ";
            }
        }
        printf("\n");
    }
    cli_table_head(columns, 6);
    for (size_t i = 0; i < advice->as_asked.n_switches; i++) {
        const struct switching *step = &advice->as_asked.switches[i];
        char request[24], moved[USK_SIZE_TEXT_MAX], evicted[USK_SIZE_TEXT_MAX], seconds[24];
        const char *cells[] = { request, workflow->workload.models[step->model].key,
                                unstick_verdict_name(step->verdict), moved, evicted, seconds };

        snprintf(request, sizeof(request), "%zu", step->request + 1);
        snprintf(seconds, sizeof(seconds), "%.3f", seconds_of(step->moved_bytes));
        usk_size_format(moved, step->moved_bytes);
        usk_size_format(evicted, step->evict_bytes);
        cli_table_row(columns, 6, cells);
    }
    printf("as asked, %zu switches move %s\n", advice->as_asked.n_switches,
           usk_size_format(size, advice->as_asked.moved_bytes));
    advice_print_order(workflow, "the order with the fewest", false, advice->grouped.moved_bytes);
    if (advice_is_back_better(advice))
        advice_print_order(workflow, "if it runs again, the way back", true, advice->back.moved_bytes);
}

/* Plays what was asked, what is proposed, and what comes after that. */
static void advice_make(struct advice *advice, struct workflow *workflow, const struct unstick_snapshot *empty)
{
    struct play before = { 0 };

    workflow_reset(workflow, empty);
    play_requests(&advice->as_asked, workflow);
    workflow_reset(workflow, empty);
    play_order(&advice->grouped, workflow, false);
    play_order(&advice->again, workflow, false);
    workflow_reset(workflow, empty);
    play_order(&before, workflow, false);
    play_order(&advice->back, workflow, true);
    sets_find(&advice->together, workflow);
}

static uint64_t workflow_room(const struct unstick_snapshot *snapshot, uint64_t working_bytes)
{
    uint64_t room = snapshot->reading->free_bytes + usk_reading_torch_cached(snapshot->reading);

    room -= usk_min(room, working_bytes);
    return snapshot->reading->limit_bytes ? usk_min(room, snapshot->reading->limit_bytes) : room;
}

int workflow_advise(const char *path, const struct unstick_snapshot *snapshot, uint64_t working_bytes)
{
    USK_CLEANUP(workflow_fini) struct workflow workflow = { .working_bytes = working_bytes };
    static struct advice advice;
    struct unstick_error error;

    if (workflow_init(&workflow, path, &error) < 0)
        return cli_fail(&error);
    workflow.room_bytes = workflow_room(snapshot, working_bytes);
    advice.as_asked.switches = calloc(workflow.workload.n_requests + 1, sizeof(*advice.as_asked.switches));
    if (!advice.as_asked.switches) {
        workflow_no_memory(&error);
        return cli_fail(&error);
    }
    advice_make(&advice, &workflow, snapshot);
    if (advice.as_asked.status < 0) {
        free(advice.as_asked.switches);
        return cli_fail_text(advice.as_asked.status, "%s", advice.as_asked.reason);
    }
    if (cli_is_json())
        advice_print_json(&workflow, &advice);
    else
        advice_print(&workflow, &advice);
    free(advice.as_asked.switches);
    return CLI_EXIT_OK;
}
