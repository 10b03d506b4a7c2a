/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `soak [--minutes N | --seconds N] [--seed N]`: two processes at work under random faults for so long.
 * This one only watches: that both go on living, that nothing they hold grows, and that nothing of them is left behind.
 * What came of it is printed as JSON; exit 0 if all of it is well.
 *
 * Memory is looked at where it must be the same each time: at rest, with nothing on the device and nothing stored. The
 * line through those points begins after the first quarter, when pools and arenas have found their size.
 */
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <unstick/unstick.h>

#include "base/clock.h"
#include "base/os.h"
#include "soak.h"

#define TICK_US 200000
#define SILENCE_S 90
#define MAX_POINTS 40000
#define SLOPE_MAX_BYTES_PER_HOUR 1e6
/* What a line through few points of a short run may say without meaning anything, and when it says nothing at all. */
#define GROWTH_MIN_BYTES (512 << 10)
#define FLAT_MIN_SECONDS 120

struct worker {
    struct soak_report *report;
    pid_t pid;
    int status;
    uint64_t seen_beats, seen_rests, peak_rss_bytes, first_fds, last_fds, n_silent_ticks;
    struct soak_point *rss, *heap, *maps;
    size_t n_points;
};

struct soak {
    struct soak_model models[SOAK_MODELS];
    struct worker workers[SOAK_WORKERS];
    atomic_bool *is_stopped;
    uint64_t seconds, seed, started_ns;
    char folder[128];
    char failure[1024];
};

static volatile sig_atomic_t is_interrupted;

static void soak_interrupt(int number)
{
    (void)number;
    is_interrupted = 1;
}

static double soak_seconds(const struct soak *soak)
{
    return (double)(usk_clock_now_ns() - soak->started_ns) / 1e9;
}

__attribute__((format(printf, 2, 3))) static void soak_fail(struct soak *soak, const char *format, ...)
{
    va_list args;

    atomic_store(soak->is_stopped, true);
    if (soak->failure[0])
        return;
    va_start(args, format);
    vsnprintf(soak->failure, sizeof(soak->failure), format, args);
    va_end(args);
}

static void *soak_share(size_t bytes)
{
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return address == MAP_FAILED ? NULL : address;
}

/* --- workers --- */

static bool worker_start(struct soak *soak, size_t index)
{
    struct worker *worker = &soak->workers[index];
    struct soak_plan plan = { .seed = soak->seed * 1000003 + index + 1,
                              .is_stopped = soak->is_stopped,
                              .models = soak->models };

    worker->report = soak_share(sizeof(*worker->report));
    worker->rss = calloc(MAX_POINTS, sizeof(*worker->rss));
    worker->heap = calloc(MAX_POINTS, sizeof(*worker->heap));
    worker->maps = calloc(MAX_POINTS, sizeof(*worker->maps));
    if (!worker->report || !worker->rss || !worker->heap || !worker->maps)
        return false;
    plan.report = worker->report;
    worker->pid = fork();
    if (worker->pid == 0) {
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        soak_work(&plan);
        _exit(atomic_load(&worker->report->has_failed));
    }
    return worker->pid > 0;
}

/* Where every thread of a worker that says nothing any more sleeps. */
static void worker_show(const struct worker *worker)
{
    static const char *const files[] = { "comm", "wchan", "syscall" };
    char path[320], line[256];
    struct dirent *entry;
    DIR *tasks;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)worker->pid);
    tasks = opendir(path);
    while (tasks && (entry = readdir(tasks))) {
        for (size_t i = 0; entry->d_name[0] != '.' && i < 3; i++) {
            FILE *file;

            snprintf(path, sizeof(path), "/proc/%d/task/%.20s/%s", (int)worker->pid, entry->d_name, files[i]);
            file = fopen(path, "r");
            if (file && fgets(line, sizeof(line), file))
                fprintf(stderr, "soak: thread %s %s: %s\n", entry->d_name, files[i], line);
            if (file)
                fclose(file);
        }
    }
    if (tasks)
        closedir(tasks);
}

static uint64_t worker_rss(const struct worker *worker)
{
    unsigned long long size = 0, resident = 0;
    char path[64];
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/statm", (int)worker->pid);
    file = fopen(path, "r");
    if (file && fscanf(file, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return resident * usk_os_page_bytes();
}

static void worker_sample(struct soak *soak, struct worker *worker)
{
    const struct soak_report *report = worker->report;
    uint64_t n_rests = atomic_load(&report->n_rests), rss_bytes = worker_rss(worker);
    double hours = soak_seconds(soak) / 3600;

    worker->peak_rss_bytes = rss_bytes > worker->peak_rss_bytes ? rss_bytes : worker->peak_rss_bytes;
    if (n_rests == worker->seen_rests || worker->n_points == MAX_POINTS)
        return;
    worker->seen_rests = n_rests;
    worker->rss[worker->n_points] = (struct soak_point){ hours, (double)atomic_load(&report->rss_bytes) };
    worker->heap[worker->n_points] = (struct soak_point){ hours, (double)atomic_load(&report->heap_bytes) };
    worker->maps[worker->n_points++] = (struct soak_point){ hours, (double)atomic_load(&report->n_maps) };
    worker->last_fds = atomic_load(&report->n_fds);
    worker->first_fds = worker->first_fds ? worker->first_fds : worker->last_fds;
}

static void worker_watch(struct soak *soak, struct worker *worker)
{
    uint64_t n_beats = atomic_load(&worker->report->n_beats);

    if (!worker->pid)
        return;
    worker_sample(soak, worker);
    worker->n_silent_ticks = n_beats == worker->seen_beats ? worker->n_silent_ticks + 1 : 0;
    worker->seen_beats = n_beats;
    if (worker->n_silent_ticks * TICK_US > SILENCE_S * UINT64_C(1000000)) {
        worker_show(worker);
        soak_fail(soak, "worker %d does nothing for %d s: a deadlock", (int)worker->pid, SILENCE_S);
        kill(worker->pid, SIGABRT);
    }
    if (waitpid(worker->pid, &worker->status, WNOHANG) != worker->pid)
        return;
    worker->pid = 0;
    if (atomic_load(&worker->report->has_failed))
        soak_fail(soak, "%s", worker->report->failure);
    else if (WIFSIGNALED(worker->status))
        soak_fail(soak, "a worker died of signal %d", WTERMSIG(worker->status));
    else if (!atomic_load(&worker->report->is_over))
        soak_fail(soak, "a worker ended early, with %d", WEXITSTATUS(worker->status));
}

static bool soak_is_at_work(const struct soak *soak)
{
    for (size_t i = 0; i < SOAK_WORKERS; i++) {
        if (soak->workers[i].pid > 0)
            return true;
    }
    return false;
}

static void soak_run(struct soak *soak)
{
    soak->started_ns = usk_clock_now_ns();
    for (size_t i = 0; i < SOAK_WORKERS; i++) {
        if (!worker_start(soak, i))
            soak_fail(soak, "cannot start a worker: %s", strerror(errno));
    }
    while (soak_is_at_work(soak)) {
        usk_os_pause_us(TICK_US);
        if (is_interrupted || soak_seconds(soak) >= (double)soak->seconds)
            atomic_store(soak->is_stopped, true);
        for (size_t i = 0; i < SOAK_WORKERS; i++)
            worker_watch(soak, &soak->workers[i]);
    }
}

/* --- what came of it --- */

static double worker_slope(const struct worker *worker, const struct soak_point *points)
{
    size_t first = worker->n_points / 4;

    return soak_slope(points + first, worker->n_points - first);
}

static bool worker_is_flat(const struct worker *worker)
{
    size_t first = worker->n_points / 4;
    double slope = worker_slope(worker, worker->rss), hours;

    if (worker->n_points < 8)
        return true;
    hours = worker->rss[worker->n_points - 1].x - worker->rss[first].x;
    return slope < SLOPE_MAX_BYTES_PER_HOUR || slope * hours < GROWTH_MIN_BYTES;
}

static json_int_t soak_sum(const struct soak *soak, size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < SOAK_WORKERS; i++) {
        if (soak->workers[i].report)
            sum += atomic_load((atomic_uint_fast64_t *)((char *)soak->workers[i].report + offset));
    }
    return (json_int_t)sum;
}

static json_t *worker_json(const struct worker *worker)
{
    size_t n = worker->n_points, first = n / 4;
    json_t *at_rest = json_array();

    /* Enough to draw it. */
    for (size_t i = 0; i < n; i += n / 200 + 1)
        json_array_append_new(at_rest, json_pack("[f,I,I,I]", worker->rss[i].x * 3600, (json_int_t)worker->rss[i].y,
                                                 (json_int_t)worker->heap[i].y, (json_int_t)worker->maps[i].y));
    return json_pack("{s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:I,s:I,s:b,s:o}", "n_rests", (json_int_t)n, "rss_first_bytes",
                     (json_int_t)(n ? worker->rss[first].y : 0), "rss_last_bytes",
                     (json_int_t)(n ? worker->rss[n - 1].y : 0), "rss_peak_bytes",
                     (json_int_t)worker->peak_rss_bytes, "rss_slope_bytes_per_hour", worker_slope(worker, worker->rss),
                     "heap_slope_bytes_per_hour", worker_slope(worker, worker->heap), "maps_slope_per_hour",
                     worker_slope(worker, worker->maps), "fds_first", (json_int_t)worker->first_fds, "fds_last",
                     (json_int_t)worker->last_fds, "is_flat", worker_is_flat(worker), "rest_s_rss_heap_maps", at_rest);
}

static json_t *soak_counts(const struct soak *soak)
{
    static const struct {
        const char *name;
        size_t offset;
    } counts[] = {
        { "n_requests", offsetof(struct soak_report, n_requests) },
        { "n_switches", offsetof(struct soak_report, n_switches) },
        { "n_loads", offsetof(struct soak_report, n_loads) },
        { "n_restores", offsetof(struct soak_report, n_restores) },
        { "n_hits", offsetof(struct soak_report, n_hits) },
        { "n_evictions", offsetof(struct soak_report, n_evictions) },
        { "n_refused", offsetof(struct soak_report, n_refused) },
        { "n_canceled", offsetof(struct soak_report, n_canceled) },
        { "n_failed", offsetof(struct soak_report, n_failed) },
        { "n_retried", offsetof(struct soak_report, n_retried) },
        { "n_writes", offsetof(struct soak_report, n_writes) },
        { "n_drops", offsetof(struct soak_report, n_drops) },
        { "n_faults", offsetof(struct soak_report, n_faults) },
        { "n_devices_lost", offsetof(struct soak_report, n_losses) },
        { "n_poisoned", offsetof(struct soak_report, n_poisoned) },
        { "n_compared", offsetof(struct soak_report, n_compared) },
        { "compared_bytes", offsetof(struct soak_report, compared_bytes) },
        { "n_rounds", offsetof(struct soak_report, n_rounds) },
        { "n_worlds", offsetof(struct soak_report, n_worlds) },
    };
    json_t *object = json_object();

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        json_object_set_new(object, counts[i].name, json_integer(soak_sum(soak, counts[i].offset)));
    return object;
}

static void soak_print(const struct soak *soak, double seconds)
{
    json_t *record = json_pack("{s:s,s:f,s:I,s:I,s:o,s:b,s:s}", "version", unstick_version(), "seconds", seconds,
                               "seed", (json_int_t)soak->seed, "n_processes", (json_int_t)SOAK_WORKERS, "counts",
                               soak_counts(soak), "is_well", !soak->failure[0], "failure", soak->failure);
    json_t *processes = json_array();

    for (size_t i = 0; i < SOAK_WORKERS; i++)
        json_array_append_new(processes, worker_json(&soak->workers[i]));
    json_object_set_new(record, "processes", processes);
    json_dumpf(record, stdout, JSON_INDENT(1));
    putchar('\n');
    json_decref(record);
}

static void soak_judge(struct soak *soak)
{
    for (size_t i = 0; i < SOAK_WORKERS; i++) {
        const struct worker *worker = &soak->workers[i];

        if (soak->seconds >= FLAT_MIN_SECONDS && !worker_is_flat(worker))
            soak_fail(soak, "memory of a process grows by %.0f bytes an hour", worker_slope(worker, worker->rss));
        if (worker->last_fds > worker->first_fds)
            soak_fail(soak, "a process had %llu descriptors and has %llu", (unsigned long long)worker->first_fds,
                      (unsigned long long)worker->last_fds);
    }
    if (!soak_sum(soak, offsetof(struct soak_report, n_switches)) ||
        !soak_sum(soak, offsetof(struct soak_report, n_faults)))
        soak_fail(soak, "nothing was switched, or nothing was made to fail");
}

static bool soak_parse(struct soak *soak, int argc, char **argv)
{
    const char *folder = getenv("TMPDIR");

    soak->seconds = 60;
    soak->seed = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--minutes"))
            soak->seconds = 60 * strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seconds"))
            soak->seconds = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--seed"))
            soak->seed = strtoull(argv[i + 1], NULL, 10);
        else
            return false;
    }
    snprintf(soak->folder, sizeof(soak->folder), "%.100s/unstick-soak-XXXXXX", folder ? folder : "/tmp");
    return argc % 2 == 1 && soak->seconds > 0;
}

int main(int argc, char **argv)
{
    static struct soak soak;
    struct sigaction action = { .sa_handler = soak_interrupt };
    double seconds;

    if (!soak_parse(&soak, argc, argv)) {
        fprintf(stderr, "usage: soak [--minutes N | --seconds N] [--seed N]\n");
        return 2;
    }
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    soak.is_stopped = soak_share(sizeof(*soak.is_stopped));
    if (!soak.is_stopped || !mkdtemp(soak.folder) || !soak_models_write(soak.folder, soak.models)) {
        fprintf(stderr, "soak: cannot prepare %s: %s\n", soak.folder, strerror(errno));
        return 1;
    }
    soak_run(&soak);
    seconds = soak_seconds(&soak);
    soak_models_remove(soak.folder, soak.models);
    soak_judge(&soak);
    soak_print(&soak, seconds);
    if (soak.failure[0])
        fprintf(stderr, "soak: %s\n", soak.failure);
    return soak.failure[0] != 0;
}
