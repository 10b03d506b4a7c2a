/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library logs from any of its threads; Python's logging needs the GIL, which such a thread must never wait for.
 * So a line goes into a ring of its own context and is handed to `logging` by the next call that comes from Python.
 * A ring that is full loses the newest lines and says how many. The ring is the context's own, so that a forked child
 * never meets a lock that a thread of its parent held.
 */
#include "module.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define LOG_N_LINES 64
#define LOG_LINE_BYTES 512

struct py_log {
    pthread_mutex_t lock;
    unsigned int n_lines, n_lost;
    struct {
        enum unstick_log_level level;
        char text[LOG_LINE_BYTES];
    } lines[LOG_N_LINES];
};

struct py_log *py_log_new(void)
{
    struct py_log *log = calloc(1, sizeof(*log));

    if (log)
        pthread_mutex_init(&log->lock, NULL);
    return log;
}

void py_log_free(struct py_log *log)
{
    if (log)
        pthread_mutex_destroy(&log->lock);
    free(log);
}

void py_log_write(void *userdata, enum unstick_log_level level, const char *line)
{
    struct py_log *log = userdata;

    pthread_mutex_lock(&log->lock);
    if (log->n_lines < LOG_N_LINES) {
        log->lines[log->n_lines].level = level;
        PyOS_snprintf(log->lines[log->n_lines++].text, LOG_LINE_BYTES, "%s", line);
    } else {
        log->n_lost++;
    }
    pthread_mutex_unlock(&log->lock);
}

static int log_level_of_python(enum unstick_log_level level)
{
    switch (level) {
    case UNSTICK_LOG_ERROR:
        return 40;
    case UNSTICK_LOG_WARNING:
        return 30;
    case UNSTICK_LOG_INFO:
        return 20;
    case UNSTICK_LOG_DEBUG:
        return 10;
    }
    return 40;
}

/* A logger that raises does not turn into a failure of the call that happened to drain the ring. */
static void log_hand_over(int level, const char *text)
{
    PyObject *logging = PyImport_ImportModule("logging");
    PyObject *logger = logging ? PyObject_CallMethod(logging, "getLogger", "s", "unstick") : NULL;
    PyObject *line = logger ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace") : NULL;
    PyObject *done = line ? PyObject_CallMethod(logger, "log", "isO", level, "%s", line) : NULL;

    if (!done)
        PyErr_WriteUnraisable(logger);
    Py_XDECREF(done);
    Py_XDECREF(line);
    Py_XDECREF(logger);
    Py_XDECREF(logging);
}

void py_log_drain(struct py_log *log)
{
    unsigned int n_lines, n_lost;
    struct py_log *copy;

    if (!log || !__atomic_load_n(&log->n_lines, __ATOMIC_RELAXED))
        return;
    copy = malloc(sizeof(*copy));
    if (!copy)
        return;
    pthread_mutex_lock(&log->lock);
    n_lines = log->n_lines;
    n_lost = log->n_lost;
    memcpy(copy->lines, log->lines, n_lines * sizeof(*log->lines));
    log->n_lines = log->n_lost = 0;
    pthread_mutex_unlock(&log->lock);

    for (unsigned int i = 0; i < n_lines; i++)
        log_hand_over(log_level_of_python(copy->lines[i].level), copy->lines[i].text);
    if (n_lost) {
        PyOS_snprintf(copy->lines[0].text, LOG_LINE_BYTES, "%u more lines were lost", n_lost);
        log_hand_over(30, copy->lines[0].text);
    }
    free(copy);
}
