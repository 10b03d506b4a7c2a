/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driving a request, as a host with a loop of its own does it: ask for the next action, perform it, sleep on the
 * descriptor. A signal is one more descriptor, so that it is answered at once, however long the next copy takes.
 */
#include "drive.h"

#include <poll.h>
#include <stdbool.h>

#include "base/clock.h"
#include "base/size.h"
#include "cli.h"

#define DRIVE_PROGRESS_NS (100 * USK_NS_PER_MS)

static void drive_sleep(const struct unstick_request_action *action)
{
    struct pollfd fds[] = { { .fd = action->fd, .events = POLLIN },
                            { .fd = cli_interrupt_fd(), .events = POLLIN } };

    /* Once it is readable the interruption stays so: then only the context is waited for. */
    poll(fds, cli_is_interrupted() ? 1 : 2, action->timeout_ms);
}

static void drive_show_progress(struct unstick_request *request, const char *what, uint64_t *next_ns)
{
    struct unstick_request_result result = { .size = sizeof(result) };
    char done[USK_SIZE_TEXT_MAX], total[USK_SIZE_TEXT_MAX];
    uint64_t now_ns = usk_clock_now_ns();

    if (now_ns < *next_ns)
        return;
    *next_ns = now_ns + DRIVE_PROGRESS_NS;
    unstick_request_result(request, &result);
    cli_progress("%s: %s of %s", what, usk_size_format(done, result.bytes),
                 usk_size_format(total, result.total_bytes));
}

int drive_request(struct unstick_request *request, const char *what,
                  struct unstick_error *error)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_request_result result = { .size = sizeof(result) };
    uint64_t next_ns = usk_clock_now_ns() + DRIVE_PROGRESS_NS;
    bool is_canceled = false;
    int r;

    while ((r = unstick_request_next(request, &report, 0, &action)) == UNSTICK_PENDING) {
        report.status = UNSTICK_OK;
        if (cli_is_interrupted() && !is_canceled) {
            unstick_request_cancel(request);
            is_canceled = true;
            continue;
        }
        drive_show_progress(request, what, &next_ns);
        if (action.kind == UNSTICK_DO_WAIT)
            drive_sleep(&action);
        else
            report.status = UNSTICK_UNSUPPORTED;
    }
    if (cli_is_interrupted())
        return cli_error_interrupted(error);
    if (r < 0) {
        unstick_request_result(request, &result);
        *error = result.error;
    }
    return r;
}
