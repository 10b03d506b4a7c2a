/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line. What holds for every verb is kept here and in output.c:
 *
 *   - the exit code is 0 (done), 1 (failed), 2 (wrong usage), or 128 + the signal that ended the run;
 *   - a failure is one line on stderr, and with --json also the member "error" of the one object on stdout;
 *   - a run whose stdout did not take everything has failed, whatever the verb says.
 *
 * SIGINT and SIGTERM only set a flag and wake whoever polls: the verb unwinds on its normal path, so that
 * files and device memory are given back by the same code as always. The handler resets itself, so a second
 * signal kills.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv);
} verbs[] = {
    { "allocconf", "check, write and explain the settings of torch's CUDA allocator", cmd_allocconf },
    { "bench", "measure this machine, beside plain driver copies in the same run", cmd_bench },
    { "demo", "show the main job on made models, with or without a GPU", cmd_demo },
    { "doctor", "say what this machine can do and what to change", cmd_doctor },
    { "estimate", "say what a model will take on a device, from its files", cmd_estimate },
    { "hibernate", "move all that a process holds on the GPUs into host memory", cmd_hibernate },
    { "plan", "say what would happen if a model were asked for now, and why", cmd_plan },
    { "replay", "run a sequence of model requests on a device, timed and verified", cmd_replay },
    { "synth", "write a FLUX-shaped checkpoint with made-up weights", cmd_synth },
    { "version", "print the version", cmd_version },
    { "wake", "give a hibernated process back what it held", cmd_wake },
};

#define N_VERBS (sizeof(verbs) / sizeof(verbs[0]))

static volatile sig_atomic_t interrupt_signal;
static int interrupt_pipe[2] = { -1, -1 };

static void interrupt_handle(int number)
{
    int saved = errno;

    interrupt_signal = number;
    if (write(interrupt_pipe[1], "", 1) < 0) {
        /* The pipe is full: it is readable already. */
    }
    errno = saved;
}

bool cli_is_interrupted(void)
{
    return interrupt_signal != 0;
}

int cli_interrupt_fd(void)
{
    return interrupt_pipe[0];
}

static bool interrupt_init(void)
{
    struct sigaction action = { .sa_handler = interrupt_handle, .sa_flags = (int)SA_RESETHAND };
    struct sigaction old;

    if (pipe2(interrupt_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
        return false;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < 2; i++) {
        int number = i ? SIGTERM : SIGINT;

        /* A shell starts background jobs with SIGINT ignored; that is the user's word. */
        if (sigaction(number, NULL, &old) < 0 ||
            (old.sa_handler != SIG_IGN && sigaction(number, &action, NULL) < 0))
            return false;
    }
    /* A reader that went away is a failed write here, not a silent death. */
    action.sa_handler = SIG_IGN;
    action.sa_flags = 0;
    return sigaction(SIGPIPE, &action, NULL) == 0;
}

static void main_print_help(FILE *out)
{
    fprintf(out, "Usage: unstick VERB [options]\n\n"
                 "GPU memory that lets go: evicts a model's memory from the device and brings it back "
                 "bit-identical.\n\n"
                 "Verbs:\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(out, "\nunstick VERB --help says more about one. Every verb takes --json.\n"
                 "Exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted.\n");
}

static int main_help(int argc, char **argv)
{
    char help[] = "--help";

    if (argc < 2) {
        main_print_help(stdout);
        return CLI_EXIT_OK;
    }
    for (size_t i = 0; i < N_VERBS; i++) {
        if (!strcmp(argv[1], verbs[i].name)) {
            char *help_argv[] = { argv[1], help, NULL };

            cli_verb_set(verbs[i].name);
            return verbs[i].run(2, help_argv);
        }
    }
    return cli_fail_usage("there is no verb '%s'; `unstick help` lists them", argv[1]);
}

static int main_dispatch(int argc, char **argv)
{
    if (argc < 2) {
        main_print_help(stderr);
        return CLI_EXIT_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return main_help(argc - 1, argv + 1);
    if (!strcmp(argv[1], "--version"))
        return cmd_version(1, argv + 1);
    for (size_t i = 0; i < N_VERBS; i++) {
        if (!strcmp(argv[1], verbs[i].name)) {
            cli_verb_set(verbs[i].name);
            return verbs[i].run(argc - 1, argv + 1);
        }
    }
    return cli_fail_usage("there is no %s '%s'; `unstick --help` lists the verbs",
                          argv[1][0] == '-' ? "option" : "verb", argv[1]);
}

int main(int argc, char **argv)
{
    int exit_code;

    if (!interrupt_init()) {
        fprintf(stderr, "unstick: cannot set up signals: %s\n", strerror(errno));
        return CLI_EXIT_FAILED;
    }
    /* A limit on file sizes is a failed write, to be cleaned up after. */
    signal(SIGXFSZ, SIG_IGN);
    /* Known before the options are read, so that a usage error is reported in JSON too. */
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--json"))
            cli_json_enable();
    }
    exit_code = main_dispatch(argc, argv);
    cli_progress_end();
    exit_code = cli_output_finish(exit_code);
    return interrupt_signal ? 128 + interrupt_signal : exit_code;
}
