/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics with names from anywhere: every line is one of the format, whatever the names hold, and a buffer that is too
 * short is left with nothing in it. An input is names, separated by NUL.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/metrics.h>

#define MAX_NAMES 8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

/* name{label="value",...} number: quotes are closed, and no line is anything else. */
static void check_line(const char *line, const char *end)
{
    int is_quoted = 0;

    require(end > line);
    if (*line == '#')
        return;
    for (; line < end; line++) {
        if (*line == '\\' && is_quoted) {
            require(line + 1 < end && strchr("\\\"n", line[1]) != NULL);
            line++;
        } else if (*line == '"') {
            is_quoted = !is_quoted;
        }
    }
    require(!is_quoted && end[-1] >= '0' && end[-1] <= '9');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct unstick_reading reading = { .size = sizeof(reading), .sources = ~0u };
    struct unstick_metrics_device devices[MAX_NAMES];
    struct unstick_metrics_model models[MAX_NAMES];
    struct unstick_metrics metrics = { .size = sizeof(metrics), .devices = devices, .models = models };
    char *names = malloc(n + 1), *text;
    size_t n_names = 0, length, length_again;

    require(names != NULL);
    memcpy(names, data, n);
    names[n] = '\0';
    for (char *name = names; n_names < MAX_NAMES && name <= names + n; name += strlen(name) + 1, n_names++) {
        devices[n_names] = (struct unstick_metrics_device){ name, &reading };
        models[n_names] = (struct unstick_metrics_model){ name, name, name, n };
    }
    metrics.n_devices = metrics.n_models = n_names;
    require(unstick_metrics_write(&metrics, NULL, 0, &length) == UNSTICK_OK);
    text = malloc(length + 1);
    require(text != NULL);
    text[0] = 'x';
    require(unstick_metrics_write(&metrics, text, length, &length_again) == UNSTICK_OK);
    require(length == length_again && !text[0]);
    require(unstick_metrics_write(&metrics, text, length + 1, &length_again) == UNSTICK_OK);
    require(length == length_again && strlen(text) == length);
    for (const char *line = text; *line;) {
        const char *end = strchr(line, '\n');

        require(end != NULL);
        check_line(line, end);
        line = end + 1;
    }
    free(text);
    free(names);
    return 0;
}
