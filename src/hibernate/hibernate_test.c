/* SPDX-License-Identifier: Apache-2.0 */
/* Hibernation of a process that runs on the fake driver (test/fakecuda/target.c), by this one. */
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/cuda/fake_test.h"

#include "hibernate/call.h"
#include "hibernate/hibernate.h"

/* TARGET is a path, from the build. */

#define HELD (UINT64_C(8) << 20) /* by a target: 4 MiB and what the fake takes for a context */
#define NOBODYS (UINT64_C(64) << 20)

static struct {
    int pid, in, out;
} target;

static char folder[] = "/tmp/fakecuda-XXXXXX";

static void tell(const char *line)
{
    assert_int_equal(write(target.in, line, strlen(line)), (ssize_t)strlen(line));
    assert_int_equal(write(target.in, "\n", 1), 1);
}

static void hear(const char *expected)
{
    char line[64] = "";
    size_t length = 0;

    while (length + 1 < sizeof(line) && read(target.out, line + length, 1) == 1 && line[length] != '\n')
        length++;
    line[length] = '\0';
    assert_string_equal(line, expected);
}

static void target_end(int number)
{
    kill(target.pid, number);
    waitpid(target.pid, NULL, 0);
    close(target.in);
    close(target.out);
    target.pid = 0;
}

static int setup(void **state)
{
    int in[2], out[2];

    (void)state;
    fake.reset();
    memset(&error, 0, sizeof(error));
    if (pipe(in) || pipe(out))
        return -1;
    target.pid = fork();
    if (!target.pid) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        closefrom(3);
        execl(TARGET, TARGET, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    target.in = in[1];
    target.out = out[0];
    hear("ready");
    return 0;
}

static int clean(void **state)
{
    (void)state;
    unsetenv("FAKE_NVML_FAILS");
    unsetenv("FAKE_NVML_SCALE");
    fake.set_hook(NULL, NULL);
    fake.set("NO_ANSWER=0");
    if (target.pid)
        target_end(SIGKILL);
    return 0;
}

static struct unstick_hibernation report_new(void)
{
    return (struct unstick_hibernation){ .size = sizeof(struct unstick_hibernation) };
}

static void check_state(enum unstick_hibernate_state expected)
{
    enum unstick_hibernate_state state = UNSTICK_HIBERNATE_UNKNOWN;

    OK(unstick_hibernate_state(target.pid, &state, &error));
    assert_string_equal(unstick_hibernate_state_name(state), unstick_hibernate_state_name(expected));
}

static void check_contents(void)
{
    tell("check");
    hear("good");
}

static void test_round_trip(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    check_state(UNSTICK_HIBERNATE_RUNNING);
    OK(unstick_hibernate(target.pid, 5000, &report, &error));
    check_state(UNSTICK_HIBERNATE_HIBERNATED);
    assert_int_equal(report.pid, target.pid);
    assert_int_equal(report.state, UNSTICK_HIBERNATE_HIBERNATED);
    assert_int_equal(report.sources, UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_PROCESSES);
    assert_int_equal(report.process_before_bytes, HELD);
    assert_int_equal(report.process_after_bytes, 0);
    assert_int_equal(report.device_before_bytes, HELD + NOBODYS);
    assert_int_equal(report.device_after_bytes, NOBODYS);
    assert_true(report.lock_ns && report.copy_ns && report.total_ns >= report.lock_ns + report.copy_ns);
    FAILS(UNSTICK_WRONG_STATE, unstick_hibernate(target.pid, 5000, &report, &error));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_HIBERNATED);

    /* Its call waits; the answer comes when it is awake. */
    tell("check");
    OK(unstick_wake(target.pid, 5000, &report, &error));
    hear("good");
    check_state(UNSTICK_HIBERNATE_RUNNING);
    assert_int_equal(report.process_before_bytes, 0);
    assert_int_equal(report.process_after_bytes, HELD);
    assert_int_equal(report.sources, UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_PROCESSES);
    assert_int_equal(report.lock_ns, 0);
    FAILS(UNSTICK_WRONG_STATE, unstick_wake(target.pid, 5000, &report, &error));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_RUNNING);
    check_contents();
}

static void test_time_out(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    tell("hold");
    hear("held");
    FAILS(UNSTICK_TIMED_OUT, unstick_hibernate(target.pid, 30, &report, &error));
    assert_non_null(strstr(error.text, "runs on as before"));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_RUNNING);
    check_state(UNSTICK_HIBERNATE_RUNNING);
    tell("let go");
    hear("let go");
    /* No limit. */
    OK(unstick_hibernate(target.pid, 0, NULL, NULL));
    OK(unstick_wake(target.pid, 0, NULL, NULL));
    check_contents();
}

/* Whoever locked it is gone. */
static void test_left_locked(void **state)
{
    const struct usk_cuda_driver *driver;

    (void)state;
    OK(usk_cuda_checkpoint_driver(&driver, &error));
    assert_int_equal(usk_cuda_checkpoint(driver, USK_CUDA_CHECKPOINT_LOCK, target.pid, 1000, NULL), USK_CU_SUCCESS);
    check_state(UNSTICK_HIBERNATE_LOCKED);
    FAILS(UNSTICK_WRONG_STATE, unstick_hibernate(target.pid, 1000, NULL, &error));
    OK(unstick_wake(target.pid, 1000, NULL, &error));
    check_state(UNSTICK_HIBERNATE_RUNNING);
    check_contents();
}

static void test_save_fails(void **state)
{
    static const int codes[][2] = { { USK_CU_UNKNOWN, UNSTICK_DRIVER },
                                    { USK_CU_NOT_SUPPORTED, UNSTICK_UNSUPPORTED },
                                    { USK_CU_ILLEGAL_STATE, UNSTICK_WRONG_STATE },
                                    { USK_CU_OUT_OF_MEMORY, UNSTICK_OUT_OF_HOST_MEMORY } };
    struct unstick_hibernation report = report_new();

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        fail_nothing();
        fail_at("cuCheckpointProcessCheckpoint", 1, codes[i][0]);
        FAILS(codes[i][1], unstick_hibernate(target.pid, 1000, &report, &error));
        assert_int_equal(error.native, codes[i][0]);
        assert_non_null(strstr(error.text, "runs on as before"));
        assert_int_equal(report.state, UNSTICK_HIBERNATE_RUNNING);
        check_state(UNSTICK_HIBERNATE_RUNNING);
    }
    check_contents();
}

/* The driver gives such a process up. */
static void test_managed_memory(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    tell("set MANAGED=1");
    hear("set");
    FAILS(UNSTICK_DRIVER, unstick_hibernate(target.pid, 1000, &report, &error));
    assert_non_null(strstr(error.text, "end it"));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_FAILED);
    check_state(UNSTICK_HIBERNATE_FAILED);
    FAILS(UNSTICK_WRONG_STATE, unstick_hibernate(target.pid, 1000, NULL, &error));
    FAILS(UNSTICK_WRONG_STATE, unstick_wake(target.pid, 1000, NULL, &error));
}

static void test_no_room_to_wake(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    OK(unstick_hibernate(target.pid, 1000, NULL, &error));
    tell("set STEAL=250MiB");
    hear("set");
    FAILS(UNSTICK_OUT_OF_DEVICE_MEMORY, unstick_wake(target.pid, 1000, &report, &error));
    assert_non_null(strstr(error.text, "stays hibernated"));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_HIBERNATED);
    tell("set STEAL=0");
    hear("set");
    OK(unstick_wake(target.pid, 1000, &report, &error));
    check_contents();
}

static void test_no_room_to_save(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    setenv("FAKE_NVML_SCALE", "100000000", 1);
    FAILS(UNSTICK_OUT_OF_HOST_MEMORY, unstick_hibernate(target.pid, 1000, &report, &error));
    assert_int_equal(error.required_bytes, HELD * 100000000);
    assert_true(error.available_bytes && error.available_bytes < error.required_bytes);
    assert_int_equal(report.state, UNSTICK_HIBERNATE_RUNNING);
    check_state(UNSTICK_HIBERNATE_RUNNING);
}

static void check_both(int expected, int pid)
{
    enum unstick_hibernate_state state = UNSTICK_HIBERNATE_MOVING;
    struct unstick_hibernation report = report_new();

    FAILS(expected, unstick_hibernate(pid, 1000, &report, &error));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_UNKNOWN);
    assert_int_equal(report.pid, pid);
    FAILS(expected, unstick_wake(pid, 1000, &report, &error));
    FAILS(expected, unstick_hibernate_state(pid, &state, &error));
    assert_int_equal(state, UNSTICK_HIBERNATE_MOVING);
}

static void test_who(void **state)
{
    char path[64];
    struct dirent *entry;
    int pid = target.pid, thread = 0;
    DIR *tasks;

    (void)state;
    check_both(UNSTICK_INVALID_ARGUMENT, 0);
    check_both(UNSTICK_INVALID_ARGUMENT, -1);
    check_both(UNSTICK_INVALID_ARGUMENT, getpid());

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    tasks = opendir(path);
    assert_non_null(tasks);
    while ((entry = readdir(tasks))) {
        if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != pid)
            thread = atoi(entry->d_name);
    }
    closedir(tasks);
    assert_true(thread > 0);
    check_both(UNSTICK_INVALID_ARGUMENT, thread);
    assert_non_null(strstr(error.text, "thread"));

    /* Dead and not buried, and buried. */
    kill(pid, SIGKILL);
    hear("");
    waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT);
    check_both(UNSTICK_NOT_FOUND, pid);
    target_end(SIGKILL);
    check_both(UNSTICK_NOT_FOUND, pid);
}

/* A process that does nothing, maybe of another user. */
static int idle_new(bool is_of_another)
{
    int ready[2], pid;
    char byte = 1;

    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (!pid) {
        if (is_of_another && (setgid(65534) || setuid(65534)))
            byte = 0;
        if (write(ready[1], &byte, 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    if (byte)
        return pid;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}

static void test_not_cuda(void **state)
{
    int pid = idle_new(false);

    (void)state;
    check_both(UNSTICK_UNSUPPORTED, pid);
    assert_non_null(strstr(error.text, "does not use CUDA"));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_another_user(void **state)
{
    int pid = idle_new(true), is_ours = pid > 0;
    struct stat info;

    (void)state;
    /* Who may not become another has another beside: the first of all processes. */
    if (!is_ours && (stat("/proc/1", &info) || info.st_uid == geteuid()))
        skip();
    check_both(UNSTICK_NOT_PERMITTED, is_ours ? pid : 1);
    assert_non_null(strstr(error.text, "belongs to user"));
    if (is_ours) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

static void test_driver_says_no(void **state)
{
    static const int codes[][2] = { { USK_CU_NOT_SUPPORTED, UNSTICK_UNSUPPORTED },
                                    { USK_CU_UNKNOWN, UNSTICK_DRIVER } };

    (void)state;
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
        fail_nothing();
        fail_always("cuCheckpointProcessGetState", codes[i][0]);
        check_both(codes[i][1], target.pid);
        assert_int_equal(error.native, codes[i][0]);
    }
    fail_nothing();
    fail_at("cuCheckpointProcessLock", 1, USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, unstick_hibernate(target.pid, 1000, NULL, &error));
    /* It has a second try. */
    OK(unstick_hibernate(target.pid, 1000, NULL, &error));
    fail_at("cuCheckpointProcessUnlock", 1, USK_CU_UNKNOWN);
    OK(unstick_wake(target.pid, 1000, NULL, &error));
    OK(unstick_hibernate(target.pid, 1000, NULL, &error));
    fail_always("cuCheckpointProcessUnlock", USK_CU_UNKNOWN);
    FAILS(UNSTICK_DRIVER, unstick_wake(target.pid, 1000, NULL, &error));
    assert_non_null(strstr(error.text, "left locked"));
    fail_nothing();
    OK(unstick_wake(target.pid, 1000, NULL, &error));
    check_contents();
}

/* Somebody else was quicker. Its lock is not ours to break. */
static void lock_before(void *userdata, const char *name)
{
    if (strcmp(name, "cuCheckpointProcessLock"))
        return;
    fake.set_hook(NULL, NULL);
    assert_int_equal(usk_cuda_checkpoint(userdata, USK_CUDA_CHECKPOINT_LOCK, target.pid, 1000, NULL), USK_CU_SUCCESS);
}

static void test_locked_meanwhile(void **state)
{
    const struct usk_cuda_driver *driver;
    struct unstick_hibernation report = report_new();

    (void)state;
    OK(usk_cuda_checkpoint_driver(&driver, &error));
    fake.set_hook(lock_before, (void *)(uintptr_t)driver);
    FAILS(UNSTICK_WRONG_STATE, unstick_hibernate(target.pid, 1000, &report, &error));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_LOCKED);
    assert_non_null(strstr(error.text, "somebody has locked it"));
    check_state(UNSTICK_HIBERNATE_LOCKED);
    OK(unstick_wake(target.pid, 1000, NULL, &error));
}

/* Kills the target when the run has come to a phase. */
struct killer {
    struct usk_hibernate_run *run;
    enum usk_hibernate_phase phase;
};

static void *killer_run(void *userdata)
{
    struct killer *killer = userdata;

    while (atomic_load(&killer->run->phase) != (int)killer->phase)
        sched_yield();
    kill(target.pid, SIGKILL);
    return NULL;
}

static void check_killed(struct usk_hibernate_run *run, enum usk_hibernate_phase phase)
{
    struct killer killer = { .run = run, .phase = phase };
    struct unstick_hibernation report = report_new();
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, killer_run, &killer), 0);
    FAILS(UNSTICK_NOT_FOUND, usk_hibernate_run(run, &report, &error));
    pthread_join(thread, NULL);
    assert_non_null(strstr(error.text, "ended meanwhile"));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_UNKNOWN);
}

static void test_killed_while_locked(void **state)
{
    struct usk_hibernate_run run = { .pid = target.pid };

    (void)state;
    tell("hold");
    hear("held");
    check_killed(&run, USK_HIBERNATE_LOCK);
}

/* The driver does not notice either. */
static void test_killed_while_saved(void **state)
{
    struct usk_hibernate_run run = { .pid = target.pid, .timeout_ms = 1000, .grace_ms = 10 };

    (void)state;
    fake.set("NO_ANSWER=4");
    check_killed(&run, USK_HIBERNATE_COPY);
}

static void test_killed_while_restored(void **state)
{
    struct usk_hibernate_run run = { .pid = target.pid, .is_wake = true, .timeout_ms = 1000, .grace_ms = 10 };

    (void)state;
    OK(unstick_hibernate(target.pid, 1000, NULL, &error));
    fake.set("NO_ANSWER=8");
    check_killed(&run, USK_HIBERNATE_COPY);
}

/* Where processes cannot be watched they are looked at. */
static void test_killed_unwatched(void **state)
{
    struct usk_target unwatched = { .pid = target.pid, .watch_fd = -1, .name = "it" };
    struct usk_hibernate_call what = { .call = USK_CUDA_CHECKPOINT_STATE, .grace_ms = 1 };
    const struct usk_cuda_driver *driver;
    usk_cu_result result;
    int native;

    (void)state;
    OK(usk_cuda_checkpoint_driver(&driver, &error));
    OK(usk_hibernate_call(driver, &unwatched, &what, &result, &native, &error));
    assert_int_equal(native, USK_CU_PROCESS_RUNNING);
    fake.set("NO_ANSWER=1");
    target_end(SIGKILL);
    FAILS(UNSTICK_NOT_FOUND, usk_hibernate_call(driver, &unwatched, &what, &result, &native, &error));
}

static void test_no_answer(void **state)
{
    struct unstick_hibernation report = report_new();

    (void)state;
    for (int bit = 1; bit <= 2; bit *= 2) {
        struct usk_hibernate_run run = { .pid = target.pid, .timeout_ms = 10, .grace_ms = 10 };

        fake.set(bit == 1 ? "NO_ANSWER=1" : "NO_ANSWER=2");
        FAILS(UNSTICK_TIMED_OUT, usk_hibernate_run(&run, &report, &error));
        assert_non_null(strstr(error.text, "did not answer"));
        assert_int_equal(report.state, UNSTICK_HIBERNATE_UNKNOWN);
        fake.set("NO_ANSWER=0");
    }
}

static void test_canceled(void **state)
{
    struct usk_hibernate_run run = { .pid = target.pid, .timeout_ms = 1000 };
    struct unstick_hibernation report = report_new();

    (void)state;
    atomic_store(&run.is_canceled, true);
    FAILS(UNSTICK_CANCELED, usk_hibernate_run(&run, &report, &error));
    assert_int_equal(report.state, UNSTICK_HIBERNATE_RUNNING);
    check_state(UNSTICK_HIBERNATE_RUNNING);
    check_contents();
}

static void fail_nvml_at_save(void *userdata, const char *name)
{
    if (!strcmp(name, "cuCheckpointProcessCheckpoint"))
        setenv("FAKE_NVML_FAILS", userdata, 1);
}

/* Hibernation works without NVML, and what is not known is not claimed. */
static void test_no_readings(void **state)
{
    static const struct {
        const char *fails;
        unsigned int sources;
        bool is_late;
    } cases[] = {
        { "init", 0, false },   { "count", 0, false },  { "index", 0, false },
        { "memory", 0, false }, { "memory", 0, true },  { "compute", UNSTICK_SOURCE_DRIVER, false },
        { "amount", UNSTICK_SOURCE_DRIVER, false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_hibernation report = report_new();

        if (cases[i].is_late)
            fake.set_hook(fail_nvml_at_save, (void *)(uintptr_t)cases[i].fails);
        else
            setenv("FAKE_NVML_FAILS", cases[i].fails, 1);
        OK(unstick_hibernate(target.pid, 1000, &report, &error));
        fake.set_hook(NULL, NULL);
        assert_int_equal(report.sources, cases[i].sources);
        setenv("FAKE_NVML_FAILS", cases[i].fails, 1);
        OK(unstick_wake(target.pid, 1000, &report, &error));
        unsetenv("FAKE_NVML_FAILS");
    }
}

static void test_bad_report(void **state)
{
    struct unstick_hibernation report = { .size = sizeof(report) - 1 };

    (void)state;
    FAILS(UNSTICK_INVALID_ARGUMENT, unstick_hibernate(target.pid, 1000, &report, &error));
    FAILS(UNSTICK_INVALID_ARGUMENT, unstick_wake(target.pid, 1000, &report, &error));
    assert_string_equal(unstick_hibernate_state_name(UNSTICK_HIBERNATE_MOVING), "moving");
    assert_string_equal(unstick_hibernate_state_name((enum unstick_hibernate_state)77), "unknown");
}

/* The first call of the driver fails, then the second, ...: the process runs, or is hibernated, and loses nothing. */
static void test_every_call_fails(void **state)
{
    struct unstick_hibernation report = report_new();
    uint64_t n_failed;
    int r;

    (void)state;
    for (int is_wake = 0; is_wake < 2; is_wake++) {
        for (uint64_t n = 1;; n++) {
            struct usk_hibernate_run run = { .pid = target.pid, .timeout_ms = 1000, .is_wake = is_wake };

            if (is_wake)
                OK(unstick_hibernate(target.pid, 1000, NULL, &error));
            fail_nothing();
            fail_at("*", n, 0);
            r = usk_hibernate_run(&run, &report, &error);
            n_failed = fake.n_failed();
            fail_nothing();
            assert_true(n_failed || r == UNSTICK_OK);
            if (report.state != UNSTICK_HIBERNATE_UNKNOWN)
                check_state(report.state);
            r = unstick_wake(target.pid, 1000, &report, &error);
            assert_true(r == UNSTICK_OK || r == UNSTICK_WRONG_STATE);
            check_contents();
            if (!n_failed)
                break;
            assert_true(n < 20);
        }
    }
}

static int group_setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(folder) || setenv("FAKECUDA_PROCESSES", folder, 1))
        return -1;
    return fakecuda_load(&fake);
}

static int group_teardown(void **state)
{
    char path[sizeof(folder) + 300];
    DIR *dir = opendir(folder);
    struct dirent *entry;

    (void)state;
    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    closedir(dir);
    return rmdir(folder);
}

#define hibernate_test(_name) cmocka_unit_test_setup_teardown(_name, setup, clean)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        hibernate_test(test_round_trip),
        hibernate_test(test_time_out),
        hibernate_test(test_left_locked),
        hibernate_test(test_save_fails),
        hibernate_test(test_managed_memory),
        hibernate_test(test_no_room_to_wake),
        hibernate_test(test_no_room_to_save),
        hibernate_test(test_who),
        hibernate_test(test_not_cuda),
        hibernate_test(test_another_user),
        hibernate_test(test_driver_says_no),
        hibernate_test(test_locked_meanwhile),
        hibernate_test(test_killed_while_locked),
        hibernate_test(test_killed_while_saved),
        hibernate_test(test_killed_while_restored),
        hibernate_test(test_killed_unwatched),
        hibernate_test(test_no_answer),
        hibernate_test(test_canceled),
        hibernate_test(test_no_readings),
        hibernate_test(test_bad_report),
        hibernate_test(test_every_call_fails),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
