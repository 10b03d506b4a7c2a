/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Options: every verb describes its own in a table, and the help text, the parsing and the error messages are
 * made from it, so that they cannot say different things. A value is checked completely here; a verb sees
 * good values only.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "cli.h"

#define OPTIONS_MAX 24
#define OPTION_HELP 'h'
#define OPTION_JSON 'j'
#define OPTION_FIRST 256 /* getopt_long's code of the table's first option */

/* Prints `text` behind an indentation, line by line. */
static void help_print_lines(const char *text, int indent)
{
    for (;;) {
        size_t length = strcspn(text, "\n");

        printf("%.*s\n", (int)length, text);
        if (!text[length])
            return;
        text += length + 1;
        printf("%*s", indent, "");
    }
}

static void help_print(const struct cli_usage *usage)
{
    char left[64];

    printf("Usage: unstick %s [options]%s%s\n\n%s\n\nOptions:\n", usage->verb, usage->operands ? " " : "",
           usage->operands ? usage->operands : "", usage->about);
    for (size_t i = 0; i < usage->n_options; i++) {
        const struct cli_option *option = &usage->options[i];

        snprintf(left, sizeof(left), "--%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
        printf("  %-24s ", left);
        help_print_lines(option->help, 27);
    }
    printf("  %-24s print one JSON object\n", "--json");
    printf("  %-24s print this\n", "--help");
}

static bool option_read_count(const char *text, uint64_t *ret_value)
{
    char *end;

    /* strtoull takes signs and leading blanks; a count has neither. */
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *ret_value = strtoull(text, &end, 10);
    return !errno && !*end;
}

static bool option_check_bounds(const struct cli_option *option, const char *text, uint64_t value)
{
    char low[USK_SIZE_TEXT_MAX], high[USK_SIZE_TEXT_MAX];

    if (value >= option->min && (!option->max || value <= option->max))
        return true;
    if (option->kind == CLI_SIZE) {
        usk_size_format(low, option->min);
        usk_size_format(high, option->max);
    } else {
        snprintf(low, sizeof(low), "%llu", (unsigned long long)option->min);
        snprintf(high, sizeof(high), "%llu", (unsigned long long)option->max);
    }
    if (option->max)
        cli_fail_usage("--%s %s: takes %s to %s", option->name, text, low, high);
    else
        cli_fail_usage("--%s %s: takes at least %s", option->name, text, low);
    return false;
}

/* Lists the choices of an option: "pinned, pageable or file". */
static const char *option_list_choices(const struct cli_option *option, char *text, size_t size)
{
    size_t length = 0;

    text[0] = 0;
    for (size_t i = 0; option->choices[i] && length < size; i++) {
        const char *separator = !i ? "" : option->choices[i + 1] ? ", " : " or ";

        length += (size_t)snprintf(text + length, size - length, "%s%s", separator, option->choices[i]);
    }
    return text;
}

static bool option_read_choice(const struct cli_option *option, const char *text)
{
    char list[160];

    for (unsigned int i = 0; option->choices[i]; i++) {
        if (!strcmp(option->choices[i], text)) {
            *(unsigned int *)option->ret = i;
            return true;
        }
    }
    cli_fail_usage("--%s '%s': takes %s", option->name, text,
                   option_list_choices(option, list, sizeof(list)));
    return false;
}

static bool option_read(const struct cli_option *option, const char *text)
{
    uint64_t value;

    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)option->ret = true;
        return true;
    case CLI_TEXT:
        if (!*text) {
            cli_fail_usage("--%s takes a value that is not empty", option->name);
            return false;
        }
        *(const char **)option->ret = text;
        return true;
    case CLI_CHOICE:
        return option_read_choice(option, text);
    case CLI_LIST: {
        struct cli_list *list = option->ret;

        if (list->n_items == CLI_LIST_MAX) {
            cli_fail_usage("--%s: more than %d times", option->name, CLI_LIST_MAX);
            return false;
        }
        list->items[list->n_items++] = text;
        return true;
    }
    case CLI_SIZE:
        if (!usk_size_parse(text, &value)) {
            cli_fail_usage("--%s '%s': not a size; bytes or units, such as 1536, 64MiB or 2GiB", option->name,
                           text);
            return false;
        }
        break;
    default:
        if (!option_read_count(text, &value)) {
            cli_fail_usage("--%s '%s': not a whole number", option->name, text);
            return false;
        }
        break;
    }
    if (!option_check_bounds(option, text, value))
        return false;
    *(uint64_t *)option->ret = value;
    return true;
}

static bool operands_check(const struct cli_usage *usage, int n, char **operands)
{
    if (n < usage->min_operands)
        cli_fail_usage("%s is missing; see `unstick %s --help`", usage->operands, usage->verb);
    else if (n > usage->max_operands)
        cli_fail_usage("'%s' is one argument too many; see `unstick %s --help`",
                       operands[usage->max_operands], usage->verb);
    return n >= usage->min_operands && n <= usage->max_operands;
}

bool cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operand, int *ret_exit)
{
    struct option longs[OPTIONS_MAX + 3] = { { 0 } };
    size_t n = usage->n_options < OPTIONS_MAX ? usage->n_options : OPTIONS_MAX;
    int code;

    for (size_t i = 0; i < n; i++) {
        longs[i].name = usage->options[i].name;
        longs[i].has_arg = usage->options[i].kind == CLI_FLAG ? no_argument : required_argument;
        longs[i].val = OPTION_FIRST + (int)i;
    }
    longs[n] = (struct option){ "json", no_argument, NULL, OPTION_JSON };
    longs[n + 1] = (struct option){ "help", no_argument, NULL, OPTION_HELP };

    *ret_exit = CLI_EXIT_USAGE;
    optind = 0;
    opterr = 0;
    while ((code = getopt_long(argc, argv, ":h", longs, NULL)) != -1) {
        if (code == OPTION_HELP) {
            help_print(usage);
            *ret_exit = CLI_EXIT_OK;
            return false;
        }
        if (code == OPTION_JSON) {
            cli_json_enable();
        } else if (code == ':') {
            cli_fail_usage("%s takes a value; see `unstick %s --help`", argv[optind - 1], usage->verb);
            return false;
        } else if (code < OPTION_FIRST) {
            cli_fail_usage("%s: no such option, or not with that value; see `unstick %s --help`",
                           argv[optind - 1], usage->verb);
            return false;
        } else if (!option_read(&usage->options[code - OPTION_FIRST], optarg)) {
            return false;
        }
    }
    if (!operands_check(usage, argc - optind, argv + optind))
        return false;
    *ret_operand = optind;
    return true;
}
