/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The call blocks, so it runs on a thread, and this one shows what it is at and listens for signals. An interruption is
 * passed on and then waited for: a process that is killed half-way through such a call leaves the other one locked. A
 * second signal ends the command all the same, and `unstick wake` mends that.
 */
#include "hibernation.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/os.h"
#include "base/size.h"
#include "cli.h"
#include "hibernate/hibernate.h"
#include "monitor/monitor.h"

#define HIBERNATION_TIMEOUT_MS 30000
#define HIBERNATION_LOOK_MS 200

struct hibernation {
    struct usk_hibernate_run run;
    struct unstick_hibernation report;
    struct unstick_error error;
    int status;
    int done_fd;
};

static void *hibernation_run(void *userdata)
{
    struct hibernation *hibernation = userdata;

    hibernation->status = usk_hibernate_run(&hibernation->run, &hibernation->report, &hibernation->error);
    usk_os_event_signal(hibernation->done_fd);
    return NULL;
}

static void hibernation_show(const struct hibernation *hibernation, struct usk_nvml *nvml, uint64_t started_ns)
{
    static const char *const doing[][2] = {
        [USK_HIBERNATE_ASK] = { "asking", "asking" },
        [USK_HIBERNATE_LOCK] = { "waiting for what it has submitted", "locking" },
        [USK_HIBERNATE_COPY] = { "saving", "restoring" },
        [USK_HIBERNATE_UNLOCK] = { "unlocking", "unlocking" },
    };
    double seconds = (double)(usk_clock_now_ns() - started_ns) / (double)USK_NS_PER_S;
    const char *what = doing[atomic_load(&hibernation->run.phase)][hibernation->run.is_wake];
    struct usk_nvml_use use;
    char used[USK_SIZE_TEXT_MAX];

    if (nvml && usk_nvml_use(nvml, hibernation->run.pid, &use, NULL) == UNSTICK_OK)
        cli_progress("%s process %d, %.1f s; %s in use on the GPUs", what, hibernation->run.pid, seconds,
                     usk_size_format(used, use.used_bytes));
    else
        cli_progress("%s process %d, %.1f s", what, hibernation->run.pid, seconds);
}

static int hibernation_wait(struct hibernation *hibernation)
{
    struct pollfd fds[] = { { .fd = hibernation->done_fd, .events = POLLIN },
                            { .fd = cli_interrupt_fd(), .events = POLLIN } };
    bool is_shown = isatty(STDERR_FILENO);
    uint64_t started_ns = usk_clock_now_ns();
    struct usk_nvml *nvml = NULL;
    pthread_t thread;
    int r;

    r = usk_os_thread_new(&thread, hibernation_run, hibernation, "unstick-run", &hibernation->error);
    if (r < 0)
        return r;
    if (is_shown && usk_nvml_open(NULL, &nvml, NULL) < 0)
        nvml = NULL;
    while (!usk_os_event_wait(hibernation->done_fd, 0)) {
        if (cli_is_interrupted())
            atomic_store(&hibernation->run.is_canceled, true);
        poll(fds, cli_is_interrupted() ? 1 : 2, is_shown ? HIBERNATION_LOOK_MS : -1);
        if (is_shown)
            hibernation_show(hibernation, nvml, started_ns);
    }
    pthread_join(thread, NULL);
    usk_nvml_close(nvml);
    cli_progress_end();
    return hibernation->status;
}

/* What went or came; UINT64_MAX: unknown. The process's own figure, else that of the whole machine. */
static uint64_t hibernation_moved_bytes(const struct unstick_hibernation *report, bool is_wake)
{
    bool is_own = report->sources & UNSTICK_SOURCE_PROCESSES;
    uint64_t before = is_own ? report->process_before_bytes : report->device_before_bytes;
    uint64_t after = is_own ? report->process_after_bytes : report->device_after_bytes;
    uint64_t more = is_wake ? after : before, less = is_wake ? before : after;

    if (!(report->sources & (UNSTICK_SOURCE_PROCESSES | UNSTICK_SOURCE_DRIVER)))
        return UINT64_MAX;
    return more > less ? more - less : 0;
}

static json_t *json_bytes(bool is_known, uint64_t bytes)
{
    return is_known ? json_integer((json_int_t)bytes) : json_null();
}

static void hibernation_print_json(const struct unstick_hibernation *report, bool is_wake)
{
    bool has_device = report->sources & UNSTICK_SOURCE_DRIVER, has_process = report->sources & UNSTICK_SOURCE_PROCESSES;
    uint64_t moved_bytes = hibernation_moved_bytes(report, is_wake);

    cli_json_print(json_pack("{s:i,s:s,s:o,s:o,s:o,s:o,s:o,s:f,s:f,s:f}", "pid", report->pid, "state",
                             unstick_hibernate_state_name(report->state), is_wake ? "taken_bytes" : "freed_bytes",
                             json_bytes(moved_bytes != UINT64_MAX, moved_bytes), "process_before_bytes",
                             json_bytes(has_process, report->process_before_bytes), "process_after_bytes",
                             json_bytes(has_process, report->process_after_bytes), "device_before_bytes",
                             json_bytes(has_device, report->device_before_bytes), "device_after_bytes",
                             json_bytes(has_device, report->device_after_bytes), "lock_ms",
                             (double)report->lock_ns / (double)USK_NS_PER_MS, "copy_ms",
                             (double)report->copy_ns / (double)USK_NS_PER_MS, "total_ms",
                             (double)report->total_ns / (double)USK_NS_PER_MS));
}

static void hibernation_print(const struct unstick_hibernation *report, bool is_wake)
{
    char before[USK_SIZE_TEXT_MAX], after[USK_SIZE_TEXT_MAX];

    printf("process %d: %s, in %.2f s (", report->pid, unstick_hibernate_state_name(report->state),
           (double)report->total_ns / (double)USK_NS_PER_S);
    if (!is_wake)
        printf("%.2f s for what it had submitted, ", (double)report->lock_ns / (double)USK_NS_PER_S);
    printf("%.2f s to %s)\n", (double)report->copy_ns / (double)USK_NS_PER_S, is_wake ? "restore" : "save");
    if (report->sources & UNSTICK_SOURCE_PROCESSES)
        printf("  it holds on the GPUs     %s -> %s\n", usk_size_format(before, report->process_before_bytes),
               usk_size_format(after, report->process_after_bytes));
    if (report->sources & UNSTICK_SOURCE_DRIVER)
        printf("  in use on all GPUs       %s -> %s\n", usk_size_format(before, report->device_before_bytes),
               usk_size_format(after, report->device_after_bytes));
    else
        printf("  what that did to the GPUs' memory is not known: there is no NVML here\n");
}

static int hibernation_print_state(int pid)
{
    enum unstick_hibernate_state state;
    struct unstick_error error;

    if (unstick_hibernate_state(pid, &state, &error) < 0)
        return cli_fail(&error);
    if (cli_is_json())
        cli_json_print(json_pack("{s:i,s:s}", "pid", pid, "state", unstick_hibernate_state_name(state)));
    else
        printf("process %d: %s\n", pid, unstick_hibernate_state_name(state));
    return CLI_EXIT_OK;
}

static int hibernation_do(int pid, uint64_t timeout_ms, bool is_wake)
{
    struct hibernation hibernation = {
        .run = { .pid = pid, .is_wake = is_wake, .timeout_ms = (uint32_t)timeout_ms },
        .report = { .size = sizeof(hibernation.report), .pid = pid },
    };
    int exit_code = CLI_EXIT_OK;

    if (usk_os_event_new(&hibernation.done_fd, &hibernation.error) < 0)
        return cli_fail(&hibernation.error);
    if (hibernation_wait(&hibernation) < 0)
        exit_code = cli_fail(&hibernation.error);
    if (cli_is_json())
        hibernation_print_json(&hibernation.report, is_wake);
    else if (exit_code == CLI_EXIT_OK)
        hibernation_print(&hibernation.report, is_wake);
    usk_os_close(hibernation.done_fd);
    return exit_code;
}

static bool hibernation_read_pid(const char *text, int *ret_pid)
{
    char *end;
    long pid = strtol(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || pid <= 0 || pid > INT32_MAX) {
        cli_fail_usage("'%s' is no number of a process", text);
        return false;
    }
    *ret_pid = (int)pid;
    return true;
}

int hibernation_command(int argc, char **argv, bool is_wake)
{
    uint64_t timeout_ms = HIBERNATION_TIMEOUT_MS;
    bool is_state = false;
    const struct cli_option options[] = {
        { "state", NULL, "only say which state it is in", CLI_FLAG, &is_state, NULL, 0, 0 },
        { "timeout", "MS",
          is_wake ? "how long to wait for the driver to answer (default\n30000; 0: as long as it takes)"
                  : "how long to wait for the work that it has submitted\n(default 30000; 0: as long as it takes)",
          CLI_COUNT, &timeout_ms, NULL, 0, UINT32_MAX },
    };
    const struct cli_usage usage = {
        .verb = is_wake ? "wake" : "hibernate",
        .operands = "PID",
        .about = is_wake ? "Gives a hibernated process back what it held on the GPUs, at the same addresses, and\n"
                           "lets it go on."
                         : "Has the driver move everything that a process of yours holds on the GPUs into host\n"
                           "memory, its CUDA context included. The process lives on, and sleeps when it calls\n"
                           "CUDA, until `unstick wake PID`. Driver 570 or newer.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .min_operands = 1,
        .max_operands = 1,
    };
    int operand, exit_code, pid;

    if (!cli_parse(&usage, argc, argv, &operand, &exit_code))
        return exit_code;
    if (!hibernation_read_pid(argv[operand], &pid))
        return CLI_EXIT_USAGE;
    return is_state ? hibernation_print_state(pid) : hibernation_do(pid, timeout_ms, is_wake);
}
