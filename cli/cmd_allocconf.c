/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `unstick allocconf`: checks, writes and explains the settings of torch's CUDA allocator. What is known about them is
 * in src/policy/allocconf*.c; here stand the words around it. `emit` prints what a shell can evaluate, with the reasons
 * as comments.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/allocconf.h>

#include "base/size.h"
#include "cli.h"
#include "device/cuda/cuda.h"

struct allocconf {
    const char *version, *profile;
    bool is_auto;
    uint64_t device_bytes;
    unsigned int torch;
};

/* --- the pieces of a report --- */

static json_t *notes_pack(const struct unstick_allocconf_note *notes, size_t n)
{
    json_t *array = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, json_string(notes[i].text));
    return array;
}

static json_t *conf_pack(const struct unstick_allocconf *conf, const char *variable)
{
    json_t *entries = json_array();

    for (size_t i = 0; i < conf->n_entries; i++) {
        const struct unstick_allocconf_entry *entry = &conf->entries[i];

        json_array_append_new(entries, json_pack("{s:s,s:s,s:s,s:I,s:b}", "key", entry->name, "value", entry->value,
                                                 "effect", entry->key->effect, "offset", (json_int_t)entry->offset,
                                                 "is_overridden", entry->is_overridden != 0));
    }
    return json_pack("{s:b,s:s,s:o,s:o,s:o}", "valid", conf->n_errors == 0, "variable", variable, "entries", entries,
                     "errors", notes_pack(conf->errors, conf->n_errors), "warnings",
                     notes_pack(conf->warnings, conf->n_warnings));
}

static void conf_set_torch(json_t *root, const struct allocconf *allocconf)
{
    char text[32];

    snprintf(text, sizeof(text), "%u.%u", allocconf->torch / 1000, allocconf->torch % 1000);
    json_object_set_new(root, "torch", json_string(text));
}

static void conf_read(struct unstick_allocconf *conf, const struct allocconf *allocconf, const char *text)
{
    const char *disabled = getenv("PYTORCH_NO_CUDA_MEMORY_CACHING");
    struct unstick_allocconf_input input = {
        .size = sizeof(input),
        .text = text,
        .torch = allocconf->torch,
        /* Up to 2.6 torch asks whether it is set, later ones whether it is 1. */
        .is_caching_disabled = disabled && (allocconf->torch < UNSTICK_TORCH(2u, 7u) || !strcmp(disabled, "1")),
    };

    conf->size = sizeof(*conf);
    /* Its result is in conf->n_errors: the arguments are good. */
    (void)unstick_allocconf_parse(&input, conf);
}

/* --- check --- */

static void check_print(const struct unstick_allocconf *conf, const char *variable)
{
    static const struct cli_column columns[] = { { "key", -34 }, { "value", -24 }, { "what it does", 0 } };

    printf("%s, as torch %u.%u reads it:\n", variable, conf->torch / 1000, conf->torch % 1000);
    if (conf->n_entries)
        cli_table_head(columns, 3);
    for (size_t i = 0; i < conf->n_entries; i++) {
        const struct unstick_allocconf_entry *entry = &conf->entries[i];
        const char *cells[] = { entry->name, entry->value,
                                entry->is_overridden ? "nothing: it is given again" : entry->key->effect };

        cli_table_row(columns, 3, cells);
    }
    for (size_t i = 0; i < conf->n_warnings; i++)
        printf("warning: %s\n", conf->warnings[i].text);
    /* The first is the failure itself. */
    for (size_t i = 1; i < conf->n_errors; i++)
        printf("error: %s\n", conf->errors[i].text);
    if (!conf->n_errors)
        printf("valid\n");
}

static int allocconf_check(const struct allocconf *allocconf, const char *text)
{
    struct unstick_allocconf_environment environment = {
        .size = sizeof(environment),
        .cuda = getenv("PYTORCH_CUDA_ALLOC_CONF"),
        .hip = getenv("PYTORCH_HIP_ALLOC_CONF"),
        .generic = getenv("PYTORCH_ALLOC_CONF"),
    };
    const char *variable = unstick_allocconf_variable_at(allocconf->torch, 0);
    static struct unstick_allocconf conf;

    if (!text) {
        variable = unstick_allocconf_variable_found(allocconf->torch, &environment, &text);
        if (!variable)
            return cli_fail_usage("check takes a STRING: torch %u.%u reads no variable that is set here",
                                  allocconf->torch / 1000, allocconf->torch % 1000);
    }
    conf_read(&conf, allocconf, text);
    if (conf.n_errors)
        cli_fail_text(UNSTICK_BAD_FORMAT, "%s", conf.errors[0].text);
    if (cli_is_json()) {
        json_t *root = conf_pack(&conf, variable);

        conf_set_torch(root, allocconf);
        cli_json_print(root);
    } else {
        check_print(&conf, variable);
    }
    return conf.n_errors ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}

/* --- emit --- */

/* The memory of the first GPU, without a context; 0: there is none. */
static uint64_t device_find_bytes(void)
{
    struct usk_cuda_device_info device;
    struct usk_cuda_info info;
    struct unstick_error error;

    if (usk_cuda_info(&info, &error) < 0 || !info.n_devices || usk_cuda_device_info(0, &device, &error) < 0)
        return 0;
    return device.total_bytes;
}

static void emit_print_json(const struct allocconf *allocconf, const struct unstick_allocconf *conf,
                            const struct unstick_allocconf_profile *profile, const char *text, const char *reason)
{
    json_t *root = conf_pack(conf, unstick_allocconf_variable_at(allocconf->torch, 0));
    json_t *variables = json_object();

    for (size_t i = 0; unstick_allocconf_variable_at(allocconf->torch, i); i++)
        json_object_set_new(variables, unstick_allocconf_variable_at(allocconf->torch, i), json_string(text));
    json_object_set_new(root, "profile", json_string(profile->name));
    json_object_set_new(root, "text", json_string(text));
    json_object_set_new(root, "variables", variables);
    json_object_set_new(root, "reason", json_string(reason));
    json_object_set_new(root, "measured", json_string(profile->measured));
    conf_set_torch(root, allocconf);
    cli_json_print(root);
}

static void emit_print(const struct allocconf *allocconf, const struct unstick_allocconf *conf,
                       const struct unstick_allocconf_profile *profile, const char *text, const char *reason)
{
    printf("# %s: %s\n# measured: %s\n", profile->name, reason, profile->measured);
    for (size_t i = 0; i < conf->n_warnings; i++)
        printf("# warning: %s\n", conf->warnings[i].text);
    for (size_t i = 0; unstick_allocconf_variable_at(allocconf->torch, i); i++)
        printf("export %s='%s'\n", unstick_allocconf_variable_at(allocconf->torch, i), text);
}

static int allocconf_emit(struct allocconf *allocconf)
{
    const struct unstick_allocconf_profile *profile;
    struct unstick_allocconf_choice choice = { .size = sizeof(choice) };
    static struct unstick_allocconf conf;
    char text[UNSTICK_ALLOCCONF_TEXT_MAX], reason[512];
    struct unstick_error error;

    if (allocconf->is_auto) {
        if (!allocconf->device_bytes)
            allocconf->device_bytes = device_find_bytes();
        (void)unstick_allocconf_choose(allocconf->device_bytes, allocconf->torch, &choice);
        profile = choice.profile;
        snprintf(reason, sizeof(reason), "%s%s", allocconf->device_bytes ? "" : "no GPU was found: ", choice.reason);
    } else {
        profile = unstick_allocconf_profile_find(allocconf->profile ? allocconf->profile : "recommended");
        if (!profile)
            return cli_fail_usage("--profile '%s': takes recommended, seed (default), inference-optimized, "
                                  "memory-constrained or quantization-heavy",
                                  allocconf->profile);
        snprintf(reason, sizeof(reason), "%s", profile->intent);
    }
    conf_read(&conf, allocconf, profile->text);
    if (unstick_allocconf_emit(&conf, text, sizeof(text), &error))
        return cli_fail(&error);
    if (cli_is_json())
        emit_print_json(allocconf, &conf, profile, text, reason);
    else
        emit_print(allocconf, &conf, profile, text, reason);
    return CLI_EXIT_OK;
}

/* --- explain --- */

static void version_format(char *text, size_t size, unsigned int torch)
{
    snprintf(text, size, "%u.%u", torch / 1000, torch % 1000);
}

static json_t *key_pack(const struct unstick_allocconf_key *key)
{
    char since[16];

    version_format(since, sizeof(since), key->since);
    return json_pack("{s:s,s:s?,s:s,s:s,s:s,s:s,s:s,s:s?}", "key", key->name, "alias", key->alias, "type",
                     unstick_allocconf_kind_name(key->kind), "range", key->range, "default", key->default_value,
                     "since", since, "effect", key->effect, "advice", key->advice);
}

static json_t *profile_pack(const struct unstick_allocconf_profile *profile)
{
    return json_pack("{s:s,s:s?,s:s,s:s,s:s}", "profile", profile->name, "alias", profile->alias, "text",
                     profile->text, "intent", profile->intent, "measured", profile->measured);
}

static void key_print(const struct unstick_allocconf_key *key)
{
    char since[16];

    version_format(since, sizeof(since), key->since);
    printf("%s (%s): %s\n  takes    %s\n  default  %s\n  since    torch %s%s\n", key->name,
           unstick_allocconf_kind_name(key->kind), key->effect, key->range, key->default_value, since,
           key->since == UNSTICK_TORCH_OLDEST ? " or earlier" : "");
    if (key->alias)
        printf("  also     %s\n", key->alias);
    if (key->advice)
        printf("  advice   %s\n", key->advice);
}

static void profile_print(const struct unstick_allocconf_profile *profile)
{
    printf("%s%s%s: %s\n  %s\n  measured: %s\n", profile->name, profile->alias ? ", or " : "",
           profile->alias ? profile->alias : "", profile->intent, profile->text, profile->measured);
}

static int explain_one(const char *name)
{
    const struct unstick_allocconf_key *key = unstick_allocconf_key_find(name);
    const struct unstick_allocconf_profile *profile = unstick_allocconf_profile_find(name);

    if (!key && !profile)
        return cli_fail_text(UNSTICK_NOT_FOUND, "'%.100s' is neither a key nor a profile; `unstick allocconf explain` "
                                                "lists them", name);
    if (cli_is_json())
        cli_json_print(key ? key_pack(key) : profile_pack(profile));
    else if (key)
        key_print(key);
    else
        profile_print(profile);
    return CLI_EXIT_OK;
}

static int explain_all(void)
{
    static const struct cli_column columns[] = {
        { "key", -34 }, { "type", -11 }, { "since", -6 }, { "takes", 0 }
    };
    json_t *keys = json_array(), *profiles = json_array();
    char since[16];

    if (!cli_is_json())
        cli_table_head(columns, 4);
    for (size_t i = 0; unstick_allocconf_key_at(i); i++) {
        const struct unstick_allocconf_key *key = unstick_allocconf_key_at(i);
        const char *cells[] = { key->name, unstick_allocconf_kind_name(key->kind), since, key->range };

        version_format(since, sizeof(since), key->since);
        if (cli_is_json())
            json_array_append_new(keys, key_pack(key));
        else
            cli_table_row(columns, 4, cells);
    }
    for (size_t i = 0; unstick_allocconf_profile_at(i); i++) {
        if (cli_is_json())
            json_array_append_new(profiles, profile_pack(unstick_allocconf_profile_at(i)));
        else
            profile_print(unstick_allocconf_profile_at(i));
    }
    if (cli_is_json()) {
        cli_json_print(json_pack("{s:o,s:o}", "keys", keys, "profiles", profiles));
    } else {
        json_decref(keys);
        json_decref(profiles);
    }
    return CLI_EXIT_OK;
}

int cmd_allocconf(int argc, char **argv)
{
    struct allocconf allocconf = { .torch = UNSTICK_TORCH_NEWEST };
    const struct cli_option options[] = {
        { "torch", "VERSION", "by the rules of this torch, from 2.1 on (default: the newest\nknown)", CLI_TEXT,
          &allocconf.version, NULL, 0, 0 },
        { "profile", "NAME",
          "emit: recommended (default), seed (also: default),\ninference-optimized, memory-constrained or "
          "quantization-heavy",
          CLI_TEXT, &allocconf.profile, NULL, 0, 0 },
        { "auto", NULL, "emit: choose by the size of the card", CLI_FLAG, &allocconf.is_auto, NULL, 0, 0 },
        { "device-memory", "SIZE", "emit --auto: the card's size (default: that of the first GPU)", CLI_SIZE,
          &allocconf.device_bytes, NULL, 1, 0 },
    };
    const struct cli_usage usage = {
        .verb = "allocconf",
        .operands = "check [STRING] | emit | explain [NAME]",
        .about = "Checks, writes and explains the settings of torch's CUDA allocator\n"
                 "(PYTORCH_CUDA_ALLOC_CONF, PYTORCH_ALLOC_CONF). Without STRING what is set here is\n"
                 "checked. NAME is a key or a profile.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .min_operands = 1,
        .max_operands = 2,
    };
    struct unstick_error error;
    int operand, exit_code;
    const char *action, *argument;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    if (allocconf.version && unstick_allocconf_torch(allocconf.version, &allocconf.torch, &error) < 0)
        return cli_fail_usage("--torch: %s", error.text);
    if (allocconf.profile && allocconf.is_auto)
        return cli_fail_usage("--profile and --auto: one or the other");
    action = argv[operand];
    argument = operand + 1 < argc ? argv[operand + 1] : NULL;
    if ((allocconf.profile || allocconf.is_auto) && strcmp(action, "emit") != 0)
        return cli_fail_usage("--%s belongs to emit", allocconf.profile ? "profile" : "auto");
    if (allocconf.device_bytes && !allocconf.is_auto)
        return cli_fail_usage("--device-memory belongs to emit --auto");
    if (!strcmp(action, "check"))
        return allocconf_check(&allocconf, argument);
    if (!strcmp(action, "emit") && argument)
        return cli_fail_usage("'%s' is one argument too many; see `unstick allocconf --help`", argument);
    if (!strcmp(action, "emit"))
        return allocconf_emit(&allocconf);
    if (!strcmp(action, "explain"))
        return argument ? explain_one(argument) : explain_all();
    return cli_fail_usage("'%s': takes check, emit or explain", action);
}
