/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test's side: settings, from the environment or one by one, and what is alive. A setting that is misspelled ends
 * the program: a test that believes it has set something must not go on without it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "fake.h"

#define FAKECUDA_EXPORT(_type, _name, _arguments)                                                            \
    __attribute__((visibility("default"))) _type fakecuda_##_name _arguments;
FAKECUDA_CONTROL_MAP(FAKECUDA_EXPORT)
#undef FAKECUDA_EXPORT

static const char *const setting_names[] = {
    "DEVICES",   "MEMORY",   "DRIVER", "COMPUTE",               "FAIL",      "LOSE_AT",       "NOT_READY", "PENDING",
    "FREE_LAG_MS", "NO_VMM", "NO_READ_ONLY_REGISTER", "COPY_GBPS", "COPY_DELAY_MS", "STEAL",     "DIRTY",
    "PROCESSES", "MANAGED",  "NO_ANSWER",
};

static char *report_path;

uint64_t fake_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

uint64_t fake_new_id(void)
{
    return fake.next_id += 16;
}

/* A number, maybe with a unit of 2^10, 2^20 or 2^30 bytes. */
static bool setting_parse_number(const char *text, uint64_t *ret_number)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    char *end;
    uint64_t number = strtoull(text, &end, 10);

    if (end == text)
        return false;
    for (unsigned int i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i]) == 0) {
            *ret_number = number << (10 * i);
            return true;
        }
    }
    return false;
}

/* name:n[:code][:forever][,...] */
static bool setting_parse_failures(const char *text)
{
    char *copy = strdup(text), *rest = copy, *item;
    bool is_good = copy != NULL;

    while (is_good && (item = strsep(&rest, ","))) {
        char *name = strsep(&item, ":"), *at = strsep(&item, ":"), *word;
        uint64_t n = 0, code = 0;
        bool is_for_ever = false;

        is_good = at && setting_parse_number(at, &n) && n;
        while (is_good && (word = strsep(&item, ":"))) {
            if (strcmp(word, "forever") == 0)
                is_for_ever = true;
            else
                is_good = setting_parse_number(word, &code) && code && code < 1000;
        }
        if (is_good)
            fake_script_add(name, n, (CUresult)code, is_for_ever);
    }
    free(copy);
    return is_good;
}

static bool setting_set(const char *name, const char *value)
{
    struct fake_settings *settings = &fake.settings;
    uint64_t number = 0;

    if (strcmp(name, "FAIL") == 0)
        return setting_parse_failures(value);
    if (strcmp(name, "COPY_GBPS") == 0) {
        settings->copy_gbps = strtod(value, NULL);
        return true;
    }
    if (strcmp(name, "PROCESSES") == 0) {
        if (!*value || strlen(value) >= sizeof(settings->processes))
            return false;
        strcpy(settings->processes, value);
        return true;
    }
    if (!setting_parse_number(value, &number))
        return false;
    if (strcmp(name, "DEVICES") == 0 && number <= FAKE_MAX_DEVICES)
        settings->n_devices = (unsigned int)number;
    else if (strcmp(name, "MEMORY") == 0)
        settings->memory_bytes = number;
    else if (strcmp(name, "DRIVER") == 0 && number < 100000)
        settings->driver_version = (int)number;
    else if (strcmp(name, "COMPUTE") == 0 && number < 1000)
        settings->compute = (unsigned int)number;
    else if (strcmp(name, "LOSE_AT") == 0)
        settings->lose_at = number;
    else if (strcmp(name, "NOT_READY") == 0)
        settings->not_ready = number;
    else if (strcmp(name, "PENDING") == 0)
        settings->pending = number;
    else if (strcmp(name, "FREE_LAG_MS") == 0)
        settings->free_lag_ms = number;
    else if (strcmp(name, "COPY_DELAY_MS") == 0)
        settings->copy_delay_ms = number;
    else if (strcmp(name, "STEAL") == 0)
        settings->steal_bytes = number;
    else if (strcmp(name, "NO_VMM") == 0)
        settings->has_no_vmm = number;
    else if (strcmp(name, "NO_READ_ONLY_REGISTER") == 0)
        settings->has_no_read_only_register = number;
    else if (strcmp(name, "DIRTY") == 0)
        settings->is_dirty = number;
    else if (strcmp(name, "MANAGED") == 0)
        settings->has_managed_memory = number;
    else if (strcmp(name, "NO_ANSWER") == 0)
        settings->no_answer = number;
    else
        return false;
    return true;
}

/* Settings that the devices hold a copy of. */
static void setting_spread(const char *name)
{
    for (int i = 0; i < FAKE_MAX_DEVICES; i++) {
        struct fake_device *device = &fake.devices[i];

        if (strcmp(name, "MEMORY") == 0)
            device->total_bytes = fake.settings.memory_bytes;
        else if (strcmp(name, "STEAL") == 0)
            device->stolen_bytes = fake.settings.steal_bytes;
    }
}

void fake_settings_load(void)
{
    const char *report = getenv("FAKECUDA_REPORT");

    fake.settings = (struct fake_settings){
        .n_devices = 1, .memory_bytes = UINT64_C(256) << 20, .driver_version = 13000, .compute = 90};
    for (size_t i = 0; i < sizeof(setting_names) / sizeof(setting_names[0]); i++) {
        char variable[64];
        const char *value;

        snprintf(variable, sizeof(variable), "FAKECUDA_%s", setting_names[i]);
        value = getenv(variable);
        if (value && !setting_set(setting_names[i], value)) {
            fprintf(stderr, "fakecuda: %s=%s: no such setting\n", variable, value);
            abort();
        }
    }
    setting_spread("MEMORY");
    setting_spread("STEAL");
    if (report && !report_path)
        report_path = strdup(report);
}

/* The environment comes before everything that a test sets. */
static void control_lock(void)
{
    fake_start();
    fake_lock();
}

int fakecuda_set(const char *assignment)
{
    char name[64];
    const char *value = strchr(assignment, '=');
    bool is_done = false;

    if (!value || (size_t)(value - assignment) >= sizeof(name))
        return -1;
    memcpy(name, assignment, (size_t)(value - assignment));
    name[value - assignment] = '\0';
    control_lock();
    is_done = setting_set(name, value + 1);
    if (is_done)
        setting_spread(name);
    pthread_cond_broadcast(&fake.changed);
    fake_unlock();
    return is_done ? 0 : -1;
}

static void control_let_go(void)
{
    fake.hold = FAKE_HOLD_NONE;
    for (size_t i = 0; i < fake.streams.n; i++)
        ((struct fake_stream *)fake.streams.values[i])->hold = FAKE_HOLD_NONE;
}

void fakecuda_reset(void)
{
    control_lock();
    fake_script_reset();
    for (int i = 0; i < FAKE_MAX_DEVICES; i++) {
        struct fake_device *device = &fake.devices[i];

        device->lost = 0;
        if (device->primary)
            device->primary->sticky = 0;
        device->n_lags = 0;
    }
    control_let_go();
    memset(&fake.misuse, 0, sizeof(fake.misuse));
    fake.n_left_behind = 0;
    fake_settings_load();
    pthread_cond_broadcast(&fake.changed);
    fake_unlock();
}

void fakecuda_fail_at(const char *name, uint64_t n, int code, int is_for_ever)
{
    control_lock();
    if (name)
        fake_script_add(name, n, code, is_for_ever);
    else
        fake_script_clear();
    fake_unlock();
}

uint64_t fakecuda_n_failed(void)
{
    uint64_t n;

    control_lock();
    n = fake_script_n_failed();
    fake_unlock();
    return n;
}

uint64_t fakecuda_n_calls(const char *name)
{
    uint64_t n;

    control_lock();
    n = fake_script_n_calls(name);
    fake_unlock();
    return n;
}

void fakecuda_lose(int device, int code)
{
    control_lock();
    if (device >= 0 && device < FAKE_MAX_DEVICES)
        fake_device_lose(&fake.devices[device], code ? code : CUDA_ERROR_LAUNCH_FAILED);
    fake_unlock();
}

void fakecuda_steal(int device, uint64_t bytes)
{
    control_lock();
    if (device >= 0 && device < FAKE_MAX_DEVICES)
        fake.devices[device].stolen_bytes = bytes;
    fake_unlock();
}

uint64_t fakecuda_backed_bytes(int device)
{
    struct stat status = {0};

    control_lock();
    if (device >= 0 && device < FAKE_MAX_DEVICES && fake.devices[device].fd > 0)
        fstat(fake.devices[device].fd, &status);
    fake_unlock();
    return (uint64_t)status.st_blocks * 512;
}

void fakecuda_live(struct fakecuda_live *ret_live)
{
    struct fakecuda_live live = {0};

    control_lock();
    live.handles = fake.handles.n;
    live.mappings = fake.mappings.n;
    for (size_t i = 0; i < fake.reservations.n; i++) {
        if (((struct fake_reservation *)fake.reservations.values[i])->allocated_in)
            live.allocations++;
        else
            live.reservations++;
    }
    /* An allocation is one thing to the caller, and three in here. */
    live.handles -= live.allocations;
    live.mappings -= live.allocations;
    for (size_t i = 0; i < fake.registrations.n; i++) {
        const struct fake_registration *registration = fake.registrations.values[i];

        if (registration->is_allocation) {
            live.host_allocations++;
        } else {
            live.registrations++;
            live.registered_bytes += registration->bytes;
        }
    }
    for (int i = 0; i < FAKE_MAX_DEVICES; i++) {
        live.device_bytes += fake.devices[i].used_bytes;
        if (fake.devices[i].primary)
            live.retains += fake.devices[i].primary->n_retains;
    }
    for (size_t i = 0; i < fake.contexts.n; i++)
        live.contexts += !((struct fake_context *)fake.contexts.values[i])->is_primary;
    for (size_t i = 0; i < fake.streams.n; i++) {
        const struct fake_stream *stream = fake.streams.values[i];

        live.streams += stream->is_callers && !stream->is_destroyed;
    }
    live.events = fake.events.n;
    live.modules = fake.modules.n;
    live.host_functions = fake.n_host_functions;
    live.captures = fake.n_captures;
    live.left_behind = fake.n_left_behind;
    fake_unlock();
    *ret_live = live;
}

void fakecuda_misuse(struct fakecuda_misuse *ret_misuse)
{
    control_lock();
    *ret_misuse = fake.misuse;
    fake_unlock();
}

int fakecuda_hold(void *stream, int how)
{
    struct fake_stream *found = NULL;

    control_lock();
    if (!stream) {
        control_let_go();
        fake.hold = how;
    } else {
        found = fake_map_find(&fake.streams, (uint64_t)(uintptr_t)stream);
        if (found)
            found->hold = how;
    }
    pthread_cond_broadcast(&fake.changed);
    fake_unlock();
    return !stream || found ? 0 : -1;
}

/* Of any thread and with no context: the test plays somebody else. */
int fakecuda_capture_begin(void *stream, int mode)
{
    struct fake_stream *found;
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    control_lock();
    found = fake_map_find(&fake.streams, (uint64_t)(uintptr_t)stream);
    if (found)
        result = fake_capture_begin(found, mode);
    fake_unlock();
    return result;
}

int fakecuda_capture_end(void *stream)
{
    struct fake_stream *found;
    CUresult result = CUDA_ERROR_INVALID_HANDLE;

    control_lock();
    found = fake_map_find(&fake.streams, (uint64_t)(uintptr_t)stream);
    if (found)
        result = fake_capture_end(found);
    fake_unlock();
    return result;
}

unsigned int fakecuda_context_depth(void)
{
    return fake_self.n_contexts;
}

void fakecuda_set_hook(void (*hook)(void *userdata, const char *name), void *userdata)
{
    control_lock();
    fake_script_hook(hook, userdata);
    fake_unlock();
}

/* For whole programs: a test reads here what the program left behind. */
__attribute__((destructor)) static void report_write(void)
{
    struct fakecuda_live live;
    struct fakecuda_misuse misuse;
    FILE *file;

    if (!report_path || atomic_load(&fake.is_forked))
        return;
    fakecuda_live(&live);
    fakecuda_misuse(&misuse);
    file = fopen(report_path, "w");
    if (!file)
        return;
    fprintf(file, "{\"calls\": %llu, \"failed\": %llu", (unsigned long long)fakecuda_n_calls("*"),
            (unsigned long long)fakecuda_n_failed());
#define REPORT_LIVE(_name) fprintf(file, ", \"" #_name "\": %llu", (unsigned long long)live._name);
#define REPORT_MISUSE(_name) fprintf(file, ", \"" #_name "\": %llu", (unsigned long long)misuse._name);
    FAKECUDA_LIVE_MAP(REPORT_LIVE)
    FAKECUDA_MISUSE_MAP(REPORT_MISUSE)
#undef REPORT_LIVE
#undef REPORT_MISUSE
    fputs("}\n", file);
    fclose(file);
}
