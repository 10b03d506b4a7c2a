/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_BATCH_H
#define CLI_BATCH_H

#include <stddef.h>

#include <unstick/context.h>
#include <unstick/task.h>

/* Tasks that were submitted together and end together. The array belongs to the caller. */
struct batch {
    struct unstick_context *ctx;
    struct unstick_task **tasks;
    size_t n_tasks;
};

/*
 * Steps until all tasks have ended, and shows how far they are; when one fails or a signal comes the others
 * are cancelled. The error is that of the first one that failed by itself, or UNSTICK_CANCELED after a
 * signal.
 */
int batch_wait(struct batch *batch, const char *what, struct unstick_error *error);
/* Asks all tasks to end early; wait for them still. */
void batch_cancel(struct batch *batch);
/* Frees the tasks, which have ended. */
void batch_clear(struct batch *batch);

#endif
