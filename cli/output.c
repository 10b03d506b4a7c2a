/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes to stdout and stderr. stdout carries the result and nothing else: a table, or with --json exactly
 * one object. Failures and progress go to stderr. The failure of a run is kept, so that it can be part of the
 * object that a verb prints with the results it has got so far, and is printed alone if the verb prints none.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/text.h"
#include "cli.h"

static struct {
    const char *verb;
    bool is_json;
    bool has_printed; /* the JSON object is out */
    bool has_failed;
    bool is_usage;     /* the failure is one of usage, for which there is no status */
    bool has_progress; /* a progress line stands on the terminal */
    struct unstick_error error;
} output;

bool cli_is_json(void)
{
    return output.is_json;
}

void cli_json_enable(void)
{
    output.is_json = true;
}

void cli_verb_set(const char *verb)
{
    output.verb = verb;
}

const char *cli_verb(void)
{
    return output.verb;
}

bool cli_has_failed(void)
{
    return output.has_failed;
}

int cli_fail(const struct unstick_error *error)
{
    if (output.has_failed)
        return CLI_EXIT_FAILED;
    output.has_failed = true;
    output.error = *error;
    if (!output.error.text[0])
        snprintf(output.error.text, sizeof(output.error.text), "%s", unstick_status_text(error->status));
    /* A name may hold line ends, or what a terminal obeys. */
    for (char *at = output.error.text; *at; at++) {
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    }
    cli_progress_end();
    fprintf(stderr, "unstick%s%s: %s\n", output.verb ? " " : "", output.verb ? output.verb : "",
            output.error.text);
    return CLI_EXIT_FAILED;
}

int cli_fail_text(int status, const char *format, ...)
{
    struct unstick_error error = { .status = status };
    va_list args;

    va_start(args, format);
    vsnprintf(error.text, sizeof(error.text), format, args);
    va_end(args);
    return cli_fail(&error);
}

int cli_fail_usage(const char *format, ...)
{
    struct unstick_error error = { .status = UNSTICK_INVALID_ARGUMENT };
    va_list args;

    va_start(args, format);
    vsnprintf(error.text, sizeof(error.text), format, args);
    va_end(args);
    if (!output.has_failed)
        output.is_usage = true;
    cli_fail(&error);
    return CLI_EXIT_USAGE;
}

int cli_error_interrupted(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_CANCELED, 0, output.verb,
                         "interrupted; what was on the device is released");
}

json_t *cli_json_text(const char *text)
{
    json_t *string = json_string(text);
    USK_CLEANUP(usk_freep) char *plain = string ? NULL : strdup(text);

    if (string || !plain)
        return string;
    for (char *at = plain; *at;) {
        size_t length = usk_text_utf8_length(at);

        if (!length)
            *at = '?';
        at += length ? length : 1;
    }
    return json_string(plain);
}

static json_t *output_error(void)
{
    const struct unstick_error *error = &output.error;
    json_t *object = json_object();

    json_object_set_new(object, "status",
                        json_string(output.is_usage ? "USAGE" : unstick_status_name(error->status)));
    json_object_set_new(object, "text", cli_json_text(error->text));
    json_object_set_new(object, "operation", json_string(error->operation));
    json_object_set_new(object, "native", json_integer(error->native));
    json_object_set_new(object, "required_bytes", json_integer((json_int_t)error->required_bytes));
    json_object_set_new(object, "available_bytes", json_integer((json_int_t)error->available_bytes));
    return object;
}

void cli_json_print(json_t *root)
{
    if (!root) {
        cli_fail_text(UNSTICK_OUT_OF_HOST_MEMORY, "out of host memory while the result was put together");
        return;
    }
    if (output.has_failed)
        json_object_set_new(root, "error", output_error());
    cli_progress_end();
    output.has_printed = true;
    /* Objects keep the order of insertion; nine digits hold a nanosecond in a second. A short write is seen
     * at the end. */
    if (json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0)
        putchar('\n');
    json_decref(root);
}

int cli_output_finish(int exit_code)
{
    int native = 0;

    if (output.is_json && output.has_failed && !output.has_printed)
        cli_json_print(json_object());
    if (ferror(stdout))
        native = EIO;
    if (fflush(stdout))
        native = errno;
    /* Some file systems say only at close that there was no room. */
    if (close(STDOUT_FILENO) < 0 && errno != EBADF && !native)
        native = errno;
    if (!native)
        return exit_code;
    fprintf(stderr, "unstick%s%s: cannot write to standard output: %s\n", output.verb ? " " : "",
            output.verb ? output.verb : "", strerror(native));
    return exit_code ? exit_code : CLI_EXIT_FAILED;
}

void cli_progress(const char *format, ...)
{
    va_list args;

    if (!isatty(STDERR_FILENO))
        return;
    fputs("\r\033[K", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fflush(stderr);
    output.has_progress = true;
}

void cli_progress_end(void)
{
    if (!output.has_progress)
        return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    output.has_progress = false;
}

void cli_table_head(const struct cli_column *columns, size_t n_columns)
{
    const char *cells[16];

    for (size_t i = 0; i < n_columns; i++)
        cells[i] = columns[i].name;
    cli_table_row(columns, n_columns, cells);
}

void cli_table_row(const struct cli_column *columns, size_t n_columns, const char *const *cells)
{
    cli_progress_end();
    for (size_t i = 0; i < n_columns; i++)
        printf("%s%*s", i ? "  " : "", columns[i].width, cells[i]);
    putchar('\n');
    fflush(stdout);
}
