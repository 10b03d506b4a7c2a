/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store_fixture.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"

static void gate_run(struct usk_job *job)
{
    struct gate *gate = (struct gate *)((char *)job - offsetof(struct gate, job));

    pthread_mutex_lock(&gate->lock);
    gate->is_entered = true;
    pthread_cond_broadcast(&gate->changed);
    while (!gate->is_open)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static struct recorder *recorder_of(struct usk_device *dev)
{
    return (struct recorder *)dev;
}

/* Counts down to the call that fails; stays there. */
static bool recorder_fails(unsigned int *countdown)
{
    if (*countdown > 1)
        (*countdown)--;
    else if (*countdown == 1)
        return true;
    return false;
}

static int recorder_register(struct usk_device *dev, void *address, uint64_t bytes, unsigned int flags,
                             struct unstick_error *error)
{
    struct recorder *recorder = recorder_of(dev);
    uint64_t page_bytes = usk_os_page_bytes();
    unsigned char *present = malloc(usk_div_up(bytes, page_bytes));
    bool fails, is_whole, overlaps = false;
    struct gate *gate;

    is_whole = (uintptr_t)address % page_bytes == 0 && bytes && bytes % page_bytes == 0 &&
               mincore(address, bytes, present) == 0;
    for (uint64_t i = 0; is_whole && i < bytes / page_bytes; i++)
        is_whole = present[i] & 1;
    free(present);

    pthread_mutex_lock(&recorder->lock);
    gate = recorder->register_gate;
    recorder->register_gate = NULL;
    pthread_mutex_unlock(&recorder->lock);
    if (gate)
        gate->job.run(&gate->job);

    pthread_mutex_lock(&recorder->lock);
    for (unsigned int i = 0; i < recorder->n_pins; i++)
        overlaps = overlaps || ((char *)address < recorder->pins[i].start + recorder->pins[i].bytes &&
                                recorder->pins[i].start < (char *)address + bytes);
    if (overlaps || !is_whole || (flags & ~(unsigned int)USK_REGISTER_READ_ONLY))
        recorder->n_violations++;
    fails = recorder_fails(&recorder->register_fails_at);
    if (!fails) {
        recorder->pins[recorder->n_pins].start = address;
        recorder->pins[recorder->n_pins].bytes = bytes;
        recorder->pins[recorder->n_pins].flags = flags;
        recorder->n_pins++;
        recorder->n_registered++;
    }
    pthread_mutex_unlock(&recorder->lock);
    if (fails)
        return usk_error_set(error, recorder->register_status, 1, "register_host", "told to fail");
    return UNSTICK_OK;
}

static int recorder_unregister(struct usk_device *dev, void *address, uint64_t bytes, struct unstick_error *error)
{
    struct recorder *recorder = recorder_of(dev);
    bool is_found = false, fails;

    pthread_mutex_lock(&recorder->lock);
    fails = recorder_fails(&recorder->unregister_fails_at);
    for (unsigned int i = 0; !fails && !is_found && i < recorder->n_pins; i++) {
        is_found = recorder->pins[i].start == address && recorder->pins[i].bytes == bytes;
        if (is_found)
            recorder->pins[i] = recorder->pins[--recorder->n_pins];
    }
    if (is_found)
        recorder->n_unregistered++;
    else if (!fails)
        recorder->n_violations++;
    pthread_mutex_unlock(&recorder->lock);
    if (fails)
        return usk_error_set(error, UNSTICK_DRIVER, 1, "unregister_host", "told to fail");
    return UNSTICK_OK;
}

static const struct usk_device_ops recorder_ops = {
    .register_host = recorder_register,
    .unregister_host = recorder_unregister,
};

static void recorder_log(void *userdata, enum unstick_log_level level, const char *line)
{
    struct recorder *recorder = userdata;

    (void)level;
    pthread_mutex_lock(&recorder->lock);
    recorder->n_lines++;
    snprintf(recorder->last_line, sizeof(recorder->last_line), "%s", line);
    pthread_mutex_unlock(&recorder->lock);
}

uint64_t recorder_pinned(struct recorder *recorder)
{
    uint64_t bytes = 0;

    pthread_mutex_lock(&recorder->lock);
    for (unsigned int i = 0; i < recorder->n_pins; i++)
        bytes += recorder->pins[i].bytes;
    pthread_mutex_unlock(&recorder->lock);
    return bytes;
}

bool recorder_covers(struct recorder *recorder, const void *start, uint64_t bytes)
{
    const char *from = start;
    bool covers = false;

    pthread_mutex_lock(&recorder->lock);
    for (unsigned int i = 0; i < recorder->n_pins; i++)
        covers = covers || (from >= recorder->pins[i].start &&
                            from + bytes <= recorder->pins[i].start + recorder->pins[i].bytes);
    pthread_mutex_unlock(&recorder->lock);
    return covers;
}

static int fixture_new(void **state, unsigned int n_threads)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->recorder.dev = (struct usk_device){
        .ops = &recorder_ops,
        .caps = { .granularity_bytes = 65536, .numa_node = 0, .can_register = true, .can_register_file = true },
        .event_fd = -1,
        .log = { .sink = recorder_log, .level = UNSTICK_LOG_DEBUG, .userdata = &f->recorder },
    };
    f->recorder.register_status = UNSTICK_UNSUPPORTED;
    pthread_mutex_init(&f->recorder.lock, NULL);
    for (unsigned int i = 0; i < 2; i++) {
        pthread_mutex_init(&f->gates[i].lock, NULL);
        pthread_cond_init(&f->gates[i].changed, NULL);
        f->gates[i].job.run = gate_run;
    }
    snprintf(f->directory, sizeof(f->directory), "/tmp/unstick-store-XXXXXX");
    *state = f;
    if (!mkdtemp(f->directory) || usk_budget_init(&f->budget, UINT64_C(64) << 20, &f->error) < 0 ||
        usk_pool_new(n_threads, -1, &f->pool, &f->error) < 0 ||
        usk_store_new(&f->recorder.dev, f->pool, &f->budget, GRANULE, &f->store, &f->error) < 0)
        return -1;
    f->store->piece_bytes = PIECE;
    return 0;
}

int fixture_setup(void **state)
{
    return fixture_new(state, 4);
}

int fixture_setup_one_thread(void **state)
{
    return fixture_new(state, 1);
}

void fixture_end(struct fixture *f, uint64_t leaked_bytes)
{
    usk_store_free(f->store);
    f->store = NULL;
    assert_int_equal(f->recorder.n_violations, 0);
    assert_int_equal(recorder_pinned(&f->recorder), leaked_bytes);
    assert_int_equal(f->budget.leaked_bytes, leaked_bytes);
    assert_int_equal(f->budget.leaving_bytes, 0);
    assert_int_equal(f->budget.pinned_bytes + f->budget.pageable_bytes + f->budget.ring_bytes,
                     f->budget.reserved_bytes);
    assert_int_equal(f->budget.reserved_bytes + f->budget.file_bytes, leaked_bytes);
}

int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    DIR *directory;

    if (f->store)
        fixture_end(f, 0);
    usk_pool_free(f->pool);
    directory = opendir(f->directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char path[512];

        snprintf(path, sizeof(path), "%s/%s", f->directory, entry->d_name);
        unlink(path);
    }
    closedir(directory);
    rmdir(f->directory);
    for (unsigned int i = 0; i < 2; i++) {
        pthread_cond_destroy(&f->gates[i].changed);
        pthread_mutex_destroy(&f->gates[i].lock);
    }
    pthread_mutex_destroy(&f->recorder.lock);
    free(f);
    return 0;
}

void gate_submit(struct fixture *f, struct gate *gate)
{
    gate->job = (struct usk_job){ .run = gate_run };
    gate->is_entered = gate->is_open = false;
    usk_pool_submit(f->pool, &gate->job);
}

void gate_wait(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (!gate->is_entered)
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

void gate_open(struct fixture *f, struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->is_open = true;
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
    usk_pool_wait(f->pool, &gate->job);
}

void gate_close(struct fixture *f)
{
    gate_submit(f, &f->gates[0]);
    gate_wait(&f->gates[0]);
}

void fixture_settle(struct fixture *f)
{
    usk_store_wait(f->store);
}

/* A wait for all jobs, then one poll: a chain that hangs shows as PENDING and not as a test that does not
 * end. */
int arena_wait(struct fixture *f, struct usk_arena *arena, uint32_t index)
{
    int r = UNSTICK_PENDING;

    for (int i = 0; i < 3 && (r = usk_arena_poll(arena, index, &f->error)) == UNSTICK_PENDING; i++)
        fixture_settle(f);
    assert_true(usk_store_is_valid(f->store));
    return r;
}

int backing_wait(struct fixture *f, struct usk_backing *backing, uint32_t index)
{
    int r = UNSTICK_PENDING;

    for (int i = 0; i < 3 && (r = usk_backing_poll(backing, index, &f->error)) == UNSTICK_PENDING; i++)
        fixture_settle(f);
    assert_true(usk_store_is_valid(f->store));
    return r;
}

int ring_wait(struct fixture *f, void **ret_buffer)
{
    int r = UNSTICK_PENDING;

    for (int i = 0; i < 3 && (r = usk_ring_get(f->store, ret_buffer, &f->error)) == UNSTICK_PENDING; i++)
        fixture_settle(f);
    assert_true(usk_store_is_valid(f->store));
    return r;
}

uint8_t file_byte(unsigned int seed, uint64_t offset)
{
    return (uint8_t)((offset * 131 + (offset >> 8) * 7 + (offset >> 16) * 29 + seed * 17) | 1);
}

const char *file_make(struct fixture *f, const char *name, unsigned int seed, uint64_t bytes)
{
    static char paths[4][512];
    static unsigned int n;
    char *path = paths[n++ % 4];
    FILE *file;

    snprintf(path, sizeof(paths[0]), "%s/%s", f->directory, name);
    file = fopen(path, "w");
    assert_non_null(file);
    for (uint64_t i = 0; i < bytes; i++)
        putc_unlocked(file_byte(seed, i), file);
    assert_int_equal(fclose(file), 0);
    return path;
}
