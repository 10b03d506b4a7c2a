/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/status.h>

/*
 * What the verbs of the command line share. A verb is one file, cmd_<verb>.c, with one function that takes
 * its own argc and argv (argv[0] is the verb) and returns an exit code. It parses with cli_parse(), reports
 * with cli_fail() and prints with cli_json_print() or to stdout; main.c does the rest: signals, the exit code
 * of an interruption, the error object of --json, and the check that stdout took everything.
 */

enum cli_exit {
    CLI_EXIT_OK = 0,
    CLI_EXIT_FAILED = 1,
    CLI_EXIT_USAGE = 2,
};

int cmd_allocconf(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_estimate(int argc, char **argv);
int cmd_hibernate(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_synth(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_wake(int argc, char **argv);

/* --- options (options.c) --- */

enum cli_option_kind {
    CLI_FLAG,   /* bool *: set to true */
    CLI_SIZE,   /* uint64_t *: bytes or units, as base/size.h reads them */
    CLI_COUNT,  /* uint64_t *: a whole number */
    CLI_TEXT,   /* const char **: points into argv */
    CLI_CHOICE, /* unsigned int *: index into choices */
    CLI_LIST,   /* struct cli_list *: may be given again and again; each points into argv */
};

#define CLI_LIST_MAX 256

struct cli_list {
    const char *items[CLI_LIST_MAX];
    size_t n_items;
};

/* One long option. The value that `ret` points to is the default; it is written when the option is given. */
struct cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* what the help calls its value; NULL for a flag */
    const char *help;     /* lines separated by \n */
    enum cli_option_kind kind;
    void *ret;
    const char *const *choices; /* CLI_CHOICE: ends with NULL */
    uint64_t min, max;          /* CLI_SIZE, CLI_COUNT: bounds; max 0: none */
};

struct cli_usage {
    const char *verb;
    const char *operands; /* such as "WORKLOAD.json"; NULL: none */
    const char *about;    /* what it does; lines separated by \n */
    const struct cli_option *options;
    size_t n_options;
    int min_operands, max_operands;
};

/* Reads the options of a verb; --help and --json are understood everywhere. Options may stand behind
 * operands. True: go on, argv[*ret_operand] is the first of argc - *ret_operand operands. False: return
 * *ret_exit (help was printed, or the usage error). */
bool cli_parse(const struct cli_usage *usage, int argc, char **argv, int *ret_operand, int *ret_exit);

/* --- output (output.c) --- */

/* True if --json was given: stdout carries one JSON object and nothing else. */
bool cli_is_json(void);
void cli_json_enable(void);

/* Reports a failure as one line on stderr and, with --json, in the object on stdout. Returns CLI_EXIT_FAILED,
 * so that a verb ends with `return cli_fail(&error)`. Only the first failure of a run is reported. */
int cli_fail(const struct unstick_error *error);
int cli_fail_text(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for wrong usage; returns CLI_EXIT_USAGE. */
int cli_fail_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool cli_has_failed(void);

/* A string of any bytes: paths, arguments and the environment need not be UTF-8, and a text may have been cut within a
 * character. What JSON cannot hold is '?', byte by byte. NULL when host memory is out. */
json_t *cli_json_text(const char *text);

/* Prints the verb's JSON object, with the failure in it if there was one, and drops the reference. Once per
 * run. */
void cli_json_print(json_t *root);

/* Prints the error object if a failure has not been printed yet, and makes sure that stdout took everything.
 * Returns the exit code to use. */
int cli_output_finish(int exit_code);

/* The verb that runs, for messages. */
void cli_verb_set(const char *verb);
const char *cli_verb(void);

/* One line of progress that replaces the one before, on a terminal's stderr only. */
void cli_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_progress_end(void);

/* A table that is printed row by row: widths are fixed by the caller, so that rows show as they happen. */
struct cli_column {
    const char *name;
    int width; /* right-aligned; negative: left-aligned; 0: the last column, as long as it gets */
};

void cli_table_head(const struct cli_column *columns, size_t n_columns);
/* n_columns strings. */
void cli_table_row(const struct cli_column *columns, size_t n_columns, const char *const *cells);

/* --- signals (main.c) --- */

/* Fills in UNSTICK_CANCELED, as everything returns that an interruption ends. */
int cli_error_interrupted(struct unstick_error *error);

/* True once SIGINT or SIGTERM came: the verb cleans up and returns, main exits with 130 or 143. A second
 * signal ends the process at once. */
bool cli_is_interrupted(void);
/* A descriptor that is readable from then on, to be polled beside others. */
int cli_interrupt_fd(void);

#endif
