/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting for several tasks at once, as a host with a loop of its own does it: step, look, sleep on the
 * context's descriptor. A signal is one more descriptor, so that it is answered at once, however long the
 * next copy takes.
 */
#include "batch.h"

#include <poll.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "cli.h"

#define BATCH_PROGRESS_NS (100 * USK_NS_PER_MS)

static void batch_sleep(const struct batch *batch)
{
    struct pollfd fds[] = { { .fd = unstick_context_fd(batch->ctx), .events = POLLIN },
                            { .fd = cli_interrupt_fd(), .events = POLLIN } };
    int timeout_ms = unstick_context_timeout_ms(batch->ctx);

    /* Once it is readable the interruption stays so: then only the context is waited for. */
    poll(fds, cli_is_interrupted() ? 1 : 2, timeout_ms);
}

static void batch_show_progress(const struct batch *batch, const char *what, uint64_t *next_ns)
{
    char done[USK_SIZE_TEXT_MAX], total[USK_SIZE_TEXT_MAX];
    uint64_t done_bytes = 0, total_bytes = 0, now_ns = usk_clock_now_ns();

    if (now_ns < *next_ns)
        return;
    *next_ns = now_ns + BATCH_PROGRESS_NS;
    for (size_t i = 0; i < batch->n_tasks; i++) {
        struct unstick_task_result result = { .size = sizeof(result) };

        unstick_task_result(batch->tasks[i], &result);
        done_bytes += result.done_bytes;
        total_bytes += result.total_bytes;
    }
    cli_progress("%s: %s of %s", what, usk_size_format(done, done_bytes),
                 usk_size_format(total, total_bytes));
}

/* How many have not ended; notes the first failure, one of a task's own before that of a cancelled one. */
static size_t batch_look(const struct batch *batch, int *status, struct unstick_error *error)
{
    size_t n_pending = 0;

    for (size_t i = 0; i < batch->n_tasks; i++) {
        struct unstick_task_result result = { .size = sizeof(result) };
        int r = unstick_task_result(batch->tasks[i], &result);

        n_pending += r == UNSTICK_PENDING;
        if (r < 0 && (*status == UNSTICK_OK || (*status == UNSTICK_CANCELED && r != UNSTICK_CANCELED))) {
            *status = r;
            *error = result.error;
        }
    }
    return n_pending;
}

int batch_wait(struct batch *batch, const char *what, struct unstick_error *error)
{
    uint64_t next_ns = usk_clock_now_ns() + BATCH_PROGRESS_NS;
    bool is_canceled = false;
    int r = UNSTICK_OK, step;

    for (;;) {
        step = unstick_context_step(batch->ctx, 0);
        if (!batch_look(batch, &r, error))
            break;
        if (step < 0)
            return usk_error_set(error, step, 0, "unstick_context_step", "%s", unstick_status_text(step));
        if (!is_canceled && (r < 0 || cli_is_interrupted())) {
            batch_cancel(batch);
            is_canceled = true;
            continue;
        }
        batch_show_progress(batch, what, &next_ns);
        batch_sleep(batch);
    }
    return cli_is_interrupted() ? cli_error_interrupted(error) : r;
}

void batch_cancel(struct batch *batch)
{
    for (size_t i = 0; i < batch->n_tasks; i++)
        unstick_task_cancel(batch->tasks[i]);
}

void batch_clear(struct batch *batch)
{
    for (size_t i = 0; i < batch->n_tasks; i++)
        batch->tasks[i] = unstick_task_free(batch->tasks[i]);
    batch->n_tasks = 0;
}
