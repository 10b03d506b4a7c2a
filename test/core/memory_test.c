/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Without host memory: every allocation of this thread fails once, each in its turn, on the way of two models through a
 * context, a device, a cache, its requests and leases, and of a region through its tasks. What fails says so, or does
 * without; nothing is left behind, which the address sanitizer watches; and the contents are right to the end. Then the
 * same with the calls of the system that take memory or descriptors. Linked with --wrap for all of them.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"

#define MODELS 2
#define MODEL_BYTES (5 * GRANULE - 700)

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *pointer, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *pointer, size_t bytes);
char *__wrap_strdup(const char *text);
void *__real_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_memfd_create(const char *name, unsigned int flags);
int __wrap_memfd_create(const char *name, unsigned int flags);
int __real_eventfd(unsigned int count, int flags);
int __wrap_eventfd(unsigned int count, int flags);
int __real_ftruncate64(int fd, off_t bytes);
int __wrap_ftruncate64(int fd, off_t bytes);
int __real_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes);
int __real_fstat64(int fd, struct stat *ret_stat);
int __wrap_fstat64(int fd, struct stat *ret_stat);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *userdata);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *userdata);

enum what { ALLOCATIONS, SYSTEM_CALLS };

static enum what what_fails;
static unsigned int n_until_failure; /* 0: none fails */
static pthread_t failing_thread;

static bool fails(enum what what)
{
    if (!pthread_equal(pthread_self(), failing_thread) || what != what_fails || !n_until_failure || --n_until_failure)
        return false;
    errno = ENOMEM;
    return true;
}

void *__wrap_malloc(size_t bytes)
{
    return fails(ALLOCATIONS) ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
    return fails(ALLOCATIONS) ? NULL : __real_calloc(n, bytes);
}

void *__wrap_realloc(void *pointer, size_t bytes)
{
    return fails(ALLOCATIONS) ? NULL : __real_realloc(pointer, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails(ALLOCATIONS) ? NULL : __real_strdup(text);
}

void *__wrap_mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return fails(SYSTEM_CALLS) ? MAP_FAILED : __real_mmap64(address, bytes, protection, flags, fd, offset);
}

int __wrap_memfd_create(const char *name, unsigned int flags)
{
    return fails(SYSTEM_CALLS) ? -1 : __real_memfd_create(name, flags);
}

int __wrap_eventfd(unsigned int count, int flags)
{
    return fails(SYSTEM_CALLS) ? -1 : __real_eventfd(count, flags);
}

int __wrap_ftruncate64(int fd, off_t bytes)
{
    return fails(SYSTEM_CALLS) ? -1 : __real_ftruncate64(fd, bytes);
}

int __wrap_fallocate64(int fd, int mode, off_t offset, off_t bytes)
{
    return fails(SYSTEM_CALLS) ? -1 : __real_fallocate64(fd, mode, offset, bytes);
}

int __wrap_fstat64(int fd, struct stat *ret_stat)
{
    return fails(SYSTEM_CALLS) ? -1 : __real_fstat64(fd, ret_stat);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *userdata)
{
    return fails(SYSTEM_CALLS) ? EAGAIN : __real_pthread_create(thread, attributes, run, userdata);
}

/* --- what runs --- */

struct run {
    struct unstick_context *ctx;
    struct unstick_device *dev;
    struct unstick_cache *cache;
    struct unstick_request *request;
    struct unstick_cache_lease *lease;
    struct unstick_region *region, *other;
    struct unstick_task *task, *source;
    struct unstick_lease *region_lease;
    struct fixture_file *files;
    struct unstick_error error;
};

typedef int (*run_step)(struct run *run);

static const char *const names[] = { "whole" };

static int run_open(struct run *run)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options), .n_threads = 1,
                                                       .host_bytes = UINT64_C(64) << 20 };
    struct unstick_device_options device_options = { .size = sizeof(device_options), .granule_bytes = GRANULE,
                                                     .limit_bytes = 8 * GRANULE };
    struct unstick_cache_options cache_options = { .size = sizeof(cache_options), .cannot = ~0u };
    int r = unstick_context_new(&context_options, &run->ctx, &run->error);

    if (r == UNSTICK_OK)
        r = unstick_device_open(run->ctx, "host:4MiB", &device_options, &run->dev, &run->error);
    if (r == UNSTICK_OK)
        r = unstick_cache_open(run->dev, &cache_options, &run->cache, &run->error);
    return r;
}

static int run_drive(struct run *run)
{
    struct unstick_request_action action = { .size = sizeof(action) };
    struct unstick_request_report report = { .size = sizeof(report), .status = UNSTICK_UNSUPPORTED };
    struct unstick_request_result result = { .size = sizeof(result) };
    int r;

    while ((r = unstick_request_wait(run->request, &report, &action)) == UNSTICK_PENDING)
        continue;
    unstick_request_result(run->request, &result);
    if (r < 0)
        run->error = result.error;
    else
        run->lease = unstick_request_take_lease(run->request);
    run->request = unstick_request_free(run->request);
    return r;
}

static int run_use(struct run *run, size_t index, const char *fingerprint)
{
    static const char *const keys[MODELS] = { "a_none", "b_none" };
    const struct unstick_alternative smaller = { .quantization = UNSTICK_QUANTIZATION_4BIT, .required_bytes = 1 };
    struct unstick_cache_component layout = { .size = sizeof(layout), .name = names[0],
                                              .layout = &run->files[index].layout };
    struct unstick_cache_demand demand = { .size = sizeof(demand), .layouts = &layout, .n_layouts = 1,
                                           .components = names, .n_components = 1, .fingerprint = fingerprint,
                                           .alternatives = &smaller, .n_alternatives = 1 };
    int r = unstick_cache_request(run->cache, keys[index], &demand, &run->request, &run->error);

    if (r == UNSTICK_OK)
        r = run_drive(run);
    if (r == UNSTICK_OK)
        r = unstick_cache_lease_use_stream(run->lease, NULL, &run->error);
    if (r == UNSTICK_OK) {
        uint8_t bytes[64];

        r = unstick_region_read(unstick_cache_lease_region(run->lease, names[0]), GRANULE - 7, bytes, sizeof(bytes),
                                &run->error);
        if (r == UNSTICK_OK)
            assert_memory_equal(bytes, run->files[index].image + GRANULE - 7, sizeof(bytes));
    }
    if (r == UNSTICK_OK) {
        r = unstick_cache_lease_end(run->lease, &run->error);
        if (r == UNSTICK_OK)
            run->lease = NULL;
    }
    return r;
}

static int run_load(struct run *run)
{
    return run_use(run, 0, NULL);
}

static int run_switch(struct run *run)
{
    int r = run_use(run, 1, NULL);

    return r == UNSTICK_OK ? run_use(run, 0, NULL) : r;
}

static int run_change(struct run *run)
{
    return run_use(run, 0, "0123456789abcdef");
}

static int run_evict(struct run *run)
{
    int r = unstick_cache_evict(run->cache, "a_none", &run->request, &run->error);

    return r == UNSTICK_OK ? run_drive(run) : r;
}

static int run_manage(struct run *run)
{
    struct unstick_cache_component component = { .size = sizeof(component), .name = "more", .can_reload = true };
    int r = unstick_region_new(run->dev, "more", GRANULE, NULL, &run->region, &run->error);

    component.region = run->region;
    if (r == UNSTICK_OK)
        r = unstick_cache_add(run->cache, "a_none", &component, &run->error);
    run->region = unstick_region_unref(run->region);
    if (r == UNSTICK_OK)
        r = unstick_cache_remove(run->cache, "a_none", "more", &run->error);
    if (r == UNSTICK_OK)
        r = unstick_cache_drop(run->cache, "a_none", &run->error);
    if (r == UNSTICK_OK)
        r = unstick_cache_drop(run->cache, "b_none", &run->error);
    return r;
}

static int run_finish_task(struct run *run, int status)
{
    if (status == UNSTICK_OK)
        status = unstick_task_wait(run->task, &run->error);
    run->task = unstick_task_free(run->task);
    return status;
}

static int run_tasks(struct run *run)
{
    struct unstick_task_options pageable = { .size = sizeof(pageable), .tier = UNSTICK_TIER_PAGEABLE };
    struct unstick_task_options hand_over = { .size = sizeof(hand_over), .flags = UNSTICK_TASK_HAND_OVER };
    struct unstick_task_options after = { .size = sizeof(after), .sources = &run->source, .n_sources = 1 };
    int r = unstick_region_new(run->dev, "r", MODEL_BYTES, NULL, &run->region, &run->error);

    if (r == UNSTICK_OK)
        r = unstick_region_new(run->dev, "s", MODEL_BYTES, NULL, &run->other, &run->error);
    if (r == UNSTICK_OK)
        r = run_finish_task(run, unstick_region_load(run->region, &run->files[1].layout, &pageable, &run->task,
                                                     &run->error));
    if (r == UNSTICK_OK)
        r = unstick_region_write(run->region, 5, run->files[1].image + 5, 100, &run->error);
    if (r == UNSTICK_OK)
        r = unstick_lease_begin(run->region, 0, &run->region_lease, &run->error);
    if (r == UNSTICK_OK)
        r = unstick_lease_use_stream(run->region_lease, NULL, &run->error);
    if (r == UNSTICK_OK) {
        r = unstick_lease_end(run->region_lease, &run->error);
        if (r == UNSTICK_OK)
            run->region_lease = NULL;
    }
    if (r == UNSTICK_OK)
        r = unstick_region_evict(run->region, &hand_over, &run->source, &run->error);
    if (r == UNSTICK_OK)
        r = run_finish_task(run, unstick_region_restore(run->other, &after, &run->task, &run->error));
    if (r == UNSTICK_OK)
        r = unstick_task_wait(run->source, &run->error);
    if (r == UNSTICK_OK)
        r = run_finish_task(run, unstick_region_release(run->other, NULL, &run->task, &run->error));
    if (r == UNSTICK_OK)
        r = run_finish_task(run, unstick_region_restore(run->region, NULL, &run->task, &run->error));
    return r;
}

static const run_step steps[] = { run_open, run_load, run_switch, run_change, run_evict, run_manage, run_tasks };

static void run_close(struct run *run)
{
    if (run->region && !run->task && !run->source && !run->region_lease) {
        struct unstick_region_info info = fixture_info(run->region);

        if (info.state == UNSTICK_REGION_RESIDENT || info.state == UNSTICK_REGION_EVICTED)
            fixture_assert_contents(run->region, run->files[1].image, MODEL_BYTES);
    }
    unstick_request_free(run->request);
    assert_int_equal(unstick_cache_lease_end(run->lease, NULL), UNSTICK_OK);
    assert_int_equal(unstick_lease_end(run->region_lease, NULL), UNSTICK_OK);
    unstick_task_free(run->task);
    unstick_task_free(run->source);
    if (run->dev)
        assert_true(usk_device_is_valid(run->dev));
    if (run->cache)
        assert_int_equal(unstick_cache_close(run->cache, NULL), UNSTICK_OK);
    unstick_region_unref(run->region);
    unstick_region_unref(run->other);
    unstick_context_free(run->ctx);
}

/* What may become of a run whose n-th call failed; what the system refuses has a name of its own. */
static bool run_may_end_with(enum what what, int status)
{
    return status == UNSTICK_OUT_OF_HOST_MEMORY || (what == SYSTEM_CALLS && status < 0 &&
                                                    status != UNSTICK_INVALID_ARGUMENT && status != UNSTICK_MISMATCH);
}

static void check_failures(enum what what, unsigned int least)
{
    struct fixture fixture;
    struct fixture_file files[MODELS];
    unsigned int n = 0, n_refused = 0;
    bool is_over = false;

    what_fails = what;
    fixture_open(&fixture, NULL);
    for (size_t i = 0; i < MODELS; i++)
        fixture_file_open(&fixture, &files[i], MODEL_BYTES, i + 1);
    failing_thread = pthread_self();
    while (!is_over) {
        struct run run = { .files = files };
        int r = UNSTICK_OK;

        n_until_failure = ++n;
        for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]) && r == UNSTICK_OK; i++)
            r = steps[i](&run);
        is_over = n_until_failure;
        n_until_failure = 0;
        if (r < 0) {
            if (!run_may_end_with(what, r))
                fail_msg("call %u: %s: %s", n, unstick_status_name(r), run.error.text);
            assert_true(run.error.text[0]);
            n_refused++;
        }
        assert_true(r == UNSTICK_OK || !is_over);
        run_close(&run);
    }
    print_message("%u calls, %u refusals\n", n - 1, n_refused);
    assert_true(n_refused > least);
    for (size_t i = 0; i < MODELS; i++)
        fixture_file_close(&files[i]);
    fixture_close(&fixture);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    check_failures(ALLOCATIONS, 100);
}

static void test_every_system_call_may_fail(void **state)
{
    (void)state;
    check_failures(SYSTEM_CALLS, 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_every_system_call_may_fail),
    };

    if (!fixture_init())
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
