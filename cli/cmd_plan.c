/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick plan`: what would happen if this model were asked for now, and why. It decides in a described world (see
 * described.c) and touches nothing; so every verdict, also a refusal, is a success of the command. With a workload it
 * advises on the whole of it (workflow.c).
 */
#include <stdio.h>
#include <string.h>

#include <unstick/estimate.h>
#include <unstick/policy.h>

#include "base/size.h"
#include "cli.h"
#include "described.h"
#include "state.h"
#include "workflow.h"
#include "workload.h"

struct plan {
    struct described_options described;
    const char *request, *path, *working, *workflow;
    char key[UNSTICK_KEY_MAX]; /* the request */
    uint64_t bytes, max_wait_ms;
    bool allow_low_memory;
    struct unstick_alternative alternatives[UNSTICK_QUANTIZATIONS];
    struct unstick_demand demand;
};

static json_t *plan_json_victims(const struct unstick_snapshot *snapshot, const struct unstick_plan *result)
{
    json_t *array = json_array();

    for (size_t i = 0; i < result->n_victims; i++) {
        const struct unstick_victim *victim = &result->victims[i];
        const struct unstick_snapshot_entry *entry = &snapshot->entries[victim->entry];

        json_array_append_new(array, json_pack("{s:o,s:s,s:I,s:b}", "key", cli_json_text(entry->key), "component",
                                               entry->components[victim->component].name, "bytes",
                                               (json_int_t)victim->bytes, "is_discard", victim->is_discard));
    }
    return array;
}

static json_t *plan_json_suggestions(const struct unstick_plan *result)
{
    json_t *array = json_array();

    for (size_t i = 0; i < result->n_suggestions; i++) {
        const struct unstick_suggestion *suggestion = &result->suggestions[i];
        json_t *object = json_pack("{s:s,s:o,s:I}", "action", unstick_suggestion_name(suggestion->action), "text",
                                   cli_json_text(suggestion->text), "bytes", (json_int_t)suggestion->bytes);

        if (suggestion->action == UNSTICK_SUGGEST_SMALLER || suggestion->action == UNSTICK_SUGGEST_LARGER)
            json_object_set_new(object, "quantization",
                                json_string(unstick_quantization_name(suggestion->quantization)));
        json_array_append_new(array, object);
    }
    return array;
}

static json_t *plan_json_actions(const struct unstick_plan *result)
{
    static const struct {
        unsigned int action;
        const char *name;
    } names[] = {
        { UNSTICK_PLAN_CLEAR_WORKSPACES, "clear_workspaces" },
        { UNSTICK_PLAN_COLLECT, "collect" },
        { UNSTICK_PLAN_EMPTY_CACHE, "empty_cache" },
    };
    json_t *array = json_array();

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (result->actions & names[i].action)
            json_array_append_new(array, json_string(names[i].name));
    }
    return array;
}

/* A size that was given is neither learned nor computed; a known entry has its own. */
static const char *plan_basis(const struct plan *plan, const struct unstick_plan *result)
{
    return plan->bytes && result->entry == UNSTICK_NO_ENTRY ? "given" : unstick_basis_name(result->basis);
}

static void plan_print_json(const struct plan *plan, const struct unstick_snapshot *snapshot,
                            const struct unstick_plan *result)
{
    json_t *root = json_pack(
        "{s:o,s:s,s:o,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:b,s:o,s:f,s:f,s:o,s:o}", "key",
        cli_json_text(plan->key), "verdict", unstick_verdict_name(result->verdict), "reason",
        cli_json_text(result->reason), "basis", plan_basis(plan, result), "required_bytes",
        (json_int_t)result->required_bytes, "available_bytes", (json_int_t)result->available_bytes, "free_bytes",
        (json_int_t)result->free_bytes, "missing_bytes", (json_int_t)result->missing_bytes, "reclaim_bytes",
        (json_int_t)result->reclaim_bytes, "evict_bytes", (json_int_t)result->evict_bytes, "leased_bytes",
        (json_int_t)result->leased_bytes, "held_by_others_bytes", (json_int_t)result->held_by_others_bytes,
        "short_bytes", (json_int_t)result->short_bytes, "wait", unstick_wait_name(result->wait), "was_forced",
        result->was_forced, "actions", plan_json_actions(result), "move_seconds", (double)result->move_ns / 1e9,
        "stall_seconds", (double)result->stall_ns / 1e9, "victims", plan_json_victims(snapshot, result), "suggestions",
        plan_json_suggestions(result));

    cli_json_print(root);
}

static void plan_print(const struct unstick_snapshot *snapshot, const struct unstick_plan *result)
{
    static const struct cli_column columns[] = { { "evict", -40 }, { "component", -16 }, { "bytes", 16 } };

    printf("%s: %s\n", unstick_verdict_name(result->verdict), result->reason);
    if (result->n_victims)
        cli_table_head(columns, 3);
    for (size_t i = 0; i < result->n_victims; i++) {
        const struct unstick_victim *victim = &result->victims[i];
        const struct unstick_snapshot_entry *entry = &snapshot->entries[victim->entry];
        char bytes[24];
        const char *cells[] = { entry->key, entry->components[victim->component].name, bytes };

        snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)victim->bytes);
        cli_table_row(columns, 3, cells);
    }
    for (size_t i = 0; i < result->n_suggestions; i++)
        printf("suggestion: %s\n", result->suggestions[i].text);
}

/* The figure that the device has to have room for. */
static uint64_t figure_required(const struct unstick_figure *figure)
{
    bool is_open = figure->basis != UNSTICK_BASIS_GENERIC || figure->high_bytes > UNSTICK_POLICY_BYTES_MAX;

    return is_open || figure->high_bytes < figure->region_bytes ? figure->region_bytes : figure->high_bytes;
}

static int plan_read_path(struct plan *plan, bool wants_working)
{
    struct unstick_estimate *estimate;
    struct unstick_error error;

    if (unstick_estimate_new(plan->path, NULL, &estimate, &error) < 0)
        return cli_fail(&error);
    plan->demand.required_bytes = figure_required(&estimate->total[plan->demand.quantization]);
    plan->demand.basis = estimate->total[plan->demand.quantization].basis;
    if (wants_working)
        plan->demand.working_bytes = estimate->working.bytes;
    /* What bitsandbytes makes of it; others would have to be there already. */
    for (unsigned int q = 0; q <= UNSTICK_QUANTIZATION_4BIT_DQ; q++)
        plan->alternatives[q] = (struct unstick_alternative){ .quantization = (enum unstick_quantization)q,
                                                              .required_bytes = figure_required(&estimate->total[q]),
                                                              .basis = estimate->total[q].basis };
    plan->demand.alternatives = plan->alternatives;
    plan->demand.n_alternatives = UNSTICK_QUANTIZATION_4BIT_DQ + 1;
    unstick_estimate_free(estimate);
    return CLI_EXIT_OK;
}

/* Neither a size nor files: what earlier runs took, else the guess that the policy makes. */
static int plan_read_peak(struct plan *plan)
{
    struct unstick_peaks *peaks = NULL;
    struct unstick_peak peak;
    struct unstick_error error;

    if (cli_state_read_peaks(&peaks, &error) < 0)
        return cli_fail(&error);
    if (unstick_peaks_find(peaks, plan->key, NULL, &peak) == UNSTICK_OK) {
        plan->demand.required_bytes = peak.bytes;
        plan->demand.basis = UNSTICK_BASIS_LEARNED;
    }
    unstick_peaks_free(peaks);
    return CLI_EXIT_OK;
}

static int plan_read_demand(struct plan *plan)
{
    bool wants_working = plan->working && !strcmp(plan->working, "auto");
    struct unstick_error error;

    plan->demand = (struct unstick_demand){ .size = sizeof(plan->demand),
                                            .key = plan->key,
                                            .required_bytes = plan->bytes,
                                            .allow_low_memory = plan->allow_low_memory,
                                            .max_wait_ms = plan->max_wait_ms };
    if (workload_spell(plan->request, plan->key, &plan->demand.quantization, &error) < 0)
        return cli_fail_usage("--request: %s", error.text);
    if (plan->path && plan->bytes)
        return cli_fail_usage("--bytes and --path both say how large the model is; give one");
    if (wants_working && !plan->path)
        return cli_fail_usage("--working auto needs --path: it is computed from the model's configuration");
    if (plan->working && !wants_working && !usk_size_parse(plan->working, &plan->demand.working_bytes))
        return cli_fail_usage("--working '%s': takes a size, or auto", plan->working);
    if (plan->path)
        return plan_read_path(plan, wants_working);
    return plan->bytes ? CLI_EXIT_OK : plan_read_peak(plan);
}

static int plan_decide(struct plan *plan, const struct unstick_snapshot *snapshot)
{
    struct unstick_victim victims[CLI_LIST_MAX];
    struct unstick_plan result = { .size = sizeof(result), .victims = victims, .max_victims = CLI_LIST_MAX };
    int exit_code = plan_read_demand(plan);

    if (exit_code)
        return exit_code;
    if (unstick_decide(snapshot, &plan->demand, &result) != UNSTICK_OK)
        return cli_fail_text(UNSTICK_INVALID_ARGUMENT, "%s", result.reason);
    if (cli_is_json())
        plan_print_json(plan, snapshot, &result);
    else
        plan_print(snapshot, &result);
    return CLI_EXIT_OK;
}

static int plan_advise(const struct plan *plan, const struct unstick_snapshot *snapshot)
{
    uint64_t working_bytes = 0;

    if (plan->path || plan->bytes || plan->described.cached.n_items || plan->allow_low_memory)
        return cli_fail_usage("--workflow describes its models itself: no --request, --bytes, --path, --cached or "
                              "--allow-low-memory beside it");
    if (plan->working && !usk_size_parse(plan->working, &working_bytes))
        return cli_fail_usage("--working '%s': takes a size here", plan->working);
    return workflow_advise(plan->workflow, snapshot, working_bytes);
}

int cmd_plan(int argc, char **argv)
{
    static struct described described;
    static struct plan plan = { .described = { .device = "auto" }, .max_wait_ms = UNSTICK_WAIT_FOREVER };
    const uint64_t most = UNSTICK_POLICY_BYTES_MAX;
    const struct cli_option options[] = {
        { "device", "DEVICE", "host:SIZE describes one; others are opened and read\n(default auto)", CLI_TEXT,
          &plan.described.device, NULL, 0, 0 },
        { "request", "KEY", "the model that is asked for: <id>_<quantization>", CLI_TEXT, &plan.request, NULL, 0, 0 },
        { "bytes", "SIZE", "what it takes; without this and --path: what was\nlearned, else a guess", CLI_SIZE,
          &plan.bytes, NULL, 1, most },
        { "path", "DIR", "its files, which say what it takes", CLI_TEXT, &plan.path, NULL, 0, 0 },
        { "working", "SIZE", "memory to keep free beside it, or auto: as its files say", CLI_TEXT, &plan.working, NULL,
          0, 0 },
        { "cached", "ITEM",
          "a model that is there: KEY=BYTES[:leased][:pinned]\n[:idle=SECONDS]; may be given many times", CLI_LIST,
          &plan.described.cached, NULL, 0, 0 },
        { "torch-reserved", "SIZE", "held by torch's allocator, live and free parts included", CLI_SIZE,
          &plan.described.torch_reserved_bytes, NULL, 0, most },
        { "torch-active", "SIZE", "of which are live", CLI_SIZE, &plan.described.torch_active_bytes, NULL, 0, most },
        { "torch-inactive-split", "SIZE", "of which are free beside something that is live", CLI_SIZE,
          &plan.described.torch_inactive_split_bytes, NULL, 0, most },
        { "used-by-others", "SIZE", "held by other programs", CLI_SIZE, &plan.described.used_by_others_bytes, NULL, 0,
          most },
        { "device-memory", "SIZE", "never hold more than this: a smaller card", CLI_SIZE,
          &plan.described.device_memory_bytes, NULL, 1, most },
        { "granule", "SIZE", "unit of eviction (default: the device's, 64 MiB)", CLI_SIZE,
          &plan.described.granule_bytes, NULL, 0, most },
        { "policy", "NAME", "cost (default), lru or clear-everything", CLI_CHOICE, &plan.described.policy,
          described_policies, 0, 0 },
        { "max-wait", "MS", "how long it may wait for models in use (default: as\nlong as it takes)", CLI_COUNT,
          &plan.max_wait_ms, NULL, 0, 0 },
        { "allow-low-memory", NULL, "load even if memory is short", CLI_FLAG, &plan.allow_low_memory, NULL, 0, 0 },
        { "workflow", "FILE",
          "instead of one request: which models of a workload fit\ntogether, what each switch costs, and the order\n"
          "that moves fewest bytes",
          CLI_TEXT, &plan.workflow, NULL, 0, 0 },
    };
    const struct cli_usage usage = {
        .verb = "plan",
        .about = "Says what would happen if a model were asked for now, and why. Nothing is touched;\n"
                 "every verdict is exit code 0.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
    };
    int operand, exit_code;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    if (!plan.request == !plan.workflow)
        return cli_fail_usage("takes --request KEY or --workflow FILE; see `unstick plan --help`");
    exit_code = described_init(&described, &plan.described);
    if (!exit_code)
        exit_code = plan.workflow ? plan_advise(&plan, &described.snapshot)
                                  : plan_decide(&plan, &described.snapshot);
    described_fini(&described);
    return exit_code;
}
