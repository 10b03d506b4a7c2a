/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store_fixture.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/math.h"
#include "base/os.h"
#include "store/file.h"

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)
#define PENDING(_call) assert_int_equal((_call), UNSTICK_PENDING)
#define SMALL (UINT64_C(64) << 10) /* a granule for most tests; a piece is four */

static int setup(void **state)
{
    int r = fixture_setup(state);

    if (r == 0)
        ((struct fixture *)*state)->store->piece_bytes = 4 * SMALL;
    return r;
}

static int setup_one_thread(void **state)
{
    int r = fixture_setup_one_thread(state);

    if (r == 0)
        ((struct fixture *)*state)->store->piece_bytes = 4 * SMALL;
    return r;
}

static struct usk_backing *backing_make(struct fixture *f, const struct unstick_layout *layout)
{
    struct usk_backing *backing = NULL;
    int r = usk_backing_new(f->store, layout, SMALL, &backing, &f->error);

    if (r < 0)
        fail_msg("%s", f->error.text);
    return backing;
}

/* What the region should hold at an offset. Files are made with their index as the seed. */
static uint8_t layout_byte(const struct unstick_layout *layout, uint64_t offset)
{
    for (size_t i = 0; i < layout->n_extents; i++) {
        const struct unstick_extent *extent = &layout->extents[i];

        if (offset >= extent->region_offset && offset - extent->region_offset < extent->bytes)
            return file_byte(extent->file, extent->file_offset + offset - extent->region_offset);
    }
    return 0;
}

/* Reads every granule through runs (if is_direct) and through read(), and compares. */
static void backing_compare(struct fixture *f, struct usk_backing *backing, const struct unstick_layout *layout,
                            bool is_direct)
{
    uint8_t *expected = malloc(SMALL), *got = malloc(SMALL);

    for (uint32_t index = 0; index * SMALL < layout->bytes + SMALL; index++) {
        bool has_gaps = false;
        uint64_t end = 0;

        for (uint64_t i = 0; i < SMALL; i++) {
            expected[i] = layout_byte(layout, index * SMALL + i);
            has_gaps = has_gaps || !expected[i];
        }
        assert_int_equal(usk_backing_has_gaps(backing, index, SMALL), has_gaps);
        memset(got, 0xee, SMALL);
        OK(usk_backing_read(backing, index, got, SMALL, &f->error));
        assert_memory_equal(got, expected, SMALL);
        /* Less than a granule may be asked for. */
        memset(got, 0xee, SMALL);
        OK(usk_backing_read(backing, index, got, 1000, &f->error));
        assert_memory_equal(got, expected, 1000);
        assert_int_equal(got[1000], 0xee);

        if (is_direct) {
            const struct usk_run *runs;
            size_t n_runs;

            assert_true(usk_backing_get(backing, index, &f->error) >= 0);
            OK(backing_wait(f, backing, index));
            n_runs = usk_backing_runs(backing, index, &runs);
            memset(got, 0, SMALL);
            for (size_t i = 0; i < n_runs; i++) {
                assert_true(runs[i].bytes > 0 && runs[i].offset >= end && runs[i].offset + runs[i].bytes <= SMALL);
                assert_true(recorder_covers(&f->recorder, runs[i].host, runs[i].bytes));
                memcpy(got + runs[i].offset, runs[i].host, runs[i].bytes);
                end = runs[i].offset + runs[i].bytes;
            }
            assert_memory_equal(got, expected, SMALL);
            usk_backing_put(backing, index);
        }
    }
    free(expected);
    free(got);
}

/* Two files, gaps at the front, inside and at the end, extents across granules, pieces and both. */
struct layout_case {
    const char *paths[2];
    struct unstick_extent extents[6];
    struct unstick_layout layout;
};

static void layout_make(struct fixture *f, struct layout_case *c)
{
    *c = (struct layout_case){
        .paths = { file_make(f, "a", 0, 10 * SMALL + 77), file_make(f, "b", 1, 3 * SMALL) },
        .extents = {
            { .file = 0, .file_offset = 100, .region_offset = 512, .bytes = 1000 },
            { .file = 0, .file_offset = 1100, .region_offset = 2048, .bytes = 2 * SMALL },
            { .file = 1, .file_offset = 0, .region_offset = 3 * SMALL, .bytes = SMALL },
            { .file = 0, .file_offset = 3 * SMALL + 13, .region_offset = 4 * SMALL, .bytes = 3 * SMALL + 5 },
            { .file = 1, .file_offset = 2 * SMALL, .region_offset = 9 * SMALL + 512, .bytes = SMALL },
            { .file = 0, .file_offset = 10 * SMALL, .region_offset = 11 * SMALL, .bytes = 77 },
        },
        .layout = { .n_paths = 2, .n_extents = 6, .bytes = 12 * SMALL },
    };
    c->layout.paths = c->paths;
    c->layout.extents = c->extents;
}

static void test_contents(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    assert_true(usk_backing_is_direct(backing));
    backing_compare(f, backing, &c.layout, true);
    OK(usk_backing_check(backing, &f->error));
    assert_true(f->budget.file_bytes > 0);
    assert_int_equal(f->budget.file_bytes, recorder_pinned(&f->recorder));
    assert_int_equal(f->budget.reserved_bytes, 0);
    for (unsigned int i = 0; i < f->recorder.n_pins; i++)
        assert_int_equal(f->recorder.pins[i].flags, USK_REGISTER_READ_ONLY);
    usk_backing_free(backing);
    usk_backing_free(NULL);
}

static void test_contents_without_registration(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;

    f->recorder.dev.caps.can_register_file = false;
    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    assert_false(usk_backing_is_direct(backing));
    backing_compare(f, backing, &c.layout, false);
    assert_int_equal(usk_backing_get(backing, 0, &f->error), UNSTICK_UNSUPPORTED);
    OK(usk_backing_get(backing, 8, &f->error)); /* has no extents */
    usk_backing_put(backing, 8);
    usk_backing_free(backing);
}

/* The last granule of a region may be shorter than a granule, and longer than what is in the files of it. */
static void test_tail(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, 2 * SMALL);
    struct unstick_extent extent = { .bytes = SMALL + 4096 };
    struct unstick_layout layout = { &path, 1, &extent, 1, SMALL + 4096 };
    struct usk_backing *backing = backing_make(f, &layout);

    assert_false(usk_backing_has_gaps(backing, 0, SMALL));
    assert_false(usk_backing_has_gaps(backing, 1, 4096));
    assert_true(usk_backing_has_gaps(backing, 1, 8192));
    assert_true(usk_backing_has_gaps(backing, 1, SMALL));
    usk_backing_free(backing);
}

static void test_registers_what_is_needed(void **state)
{
    struct fixture *f = *state;
    uint64_t page_bytes = usk_os_page_bytes();
    const char *path = file_make(f, "a", 0, 32 * SMALL);
    /* Nothing of the piece at 8 is needed, little of the one at 12. */
    struct unstick_extent extents[] = {
        { .file_offset = 2 * SMALL + 100, .region_offset = 0, .bytes = 4 * SMALL },
        { .file_offset = 13 * SMALL + 5, .region_offset = 4 * SMALL, .bytes = 10 },
        { .file_offset = 16 * SMALL, .region_offset = 5 * SMALL, .bytes = 16 * SMALL },
    };
    struct unstick_layout layout = { &path, 1, extents, 3, 21 * SMALL };
    struct usk_backing *backing = backing_make(f, &layout);

    PENDING(usk_backing_get(backing, 0, &f->error));
    OK(backing_wait(f, backing, 0));
    fixture_settle(f);
    /* Its own piece, and the next three: 4, 12, 16. */
    assert_int_equal(f->recorder.n_registered, 4);
    assert_int_equal(f->budget.file_bytes, 8 * SMALL + 2 * page_bytes);
    usk_backing_put(backing, 0);

    /* They stay for the next time. */
    OK(usk_backing_get(backing, 0, &f->error));
    OK(usk_backing_get(backing, 5, &f->error));
    fixture_settle(f);
    assert_int_equal(f->recorder.n_registered, 7);
    usk_backing_put(backing, 0);

    /* What is held is not unpinned. */
    usk_backing_unpin(backing);
    fixture_settle(f);
    assert_int_equal(f->recorder.n_unregistered, 6);
    assert_int_equal(f->budget.file_bytes, 4 * SMALL);
    OK(usk_backing_poll(backing, 5, &f->error));
    PENDING(usk_backing_get(backing, 4, &f->error));
    OK(backing_wait(f, backing, 4));
    usk_backing_put(backing, 5);
    usk_backing_put(backing, 4);
    usk_backing_put(backing, 4);
    usk_backing_free(backing);
    fixture_settle(f);
    assert_int_equal(f->budget.file_bytes, 0);
}

static void test_two_backings_of_one_file(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, 8 * SMALL);
    struct unstick_extent first = { .bytes = 5 * SMALL }, second = { .file_offset = 3 * SMALL, .bytes = 5 * SMALL };
    struct unstick_layout a = { &path, 1, &first, 1, 5 * SMALL }, b = { &path, 1, &second, 1, 5 * SMALL };
    struct usk_backing *one = backing_make(f, &a), *two = backing_make(f, &b);

    backing_compare(f, one, &a, true);
    backing_compare(f, two, &b, true);
    usk_backing_free(one);
    backing_compare(f, two, &b, true);
    usk_backing_free(two);
}

static void test_layouts_that_lie(void **state)
{
    struct fixture *f = *state;
    const char *paths[2] = { file_make(f, "a", 0, 2 * SMALL), NULL };
    struct usk_backing *backing;
    const struct {
        struct unstick_extent extents[2];
        size_t n_extents;
        uint64_t bytes;
        int status;
    } cases[] = {
        { { { 0, 0, 0, SMALL } }, 1, 0, UNSTICK_INVALID_ARGUMENT }, /* no region */
        { { { 0, 0, 0, 0 } }, 1, SMALL, UNSTICK_INVALID_ARGUMENT }, /* empty */
        { { { 1, 0, 0, 1 } }, 1, SMALL, UNSTICK_INVALID_ARGUMENT }, /* no such file */
        { { { 0, 0, 0, 100 }, { 0, 100, 99, 10 } }, 2, SMALL, UNSTICK_INVALID_ARGUMENT }, /* overlap */
        { { { 0, 0, 200, 100 }, { 0, 100, 0, 10 } }, 2, SMALL, UNSTICK_INVALID_ARGUMENT }, /* order */
        { { { 0, 0, 1, SMALL } }, 1, SMALL, UNSTICK_INVALID_ARGUMENT }, /* beyond bytes */
        { { { 0, 0, UINT64_MAX, 2 } }, 1, UINT64_MAX, UNSTICK_INVALID_ARGUMENT }, /* wraps */
        { { { 0, UINT64_MAX, 0, 2 } }, 1, SMALL, UNSTICK_INVALID_ARGUMENT }, /* wraps */
        { { { 0, SMALL + 1, 0, SMALL } }, 1, SMALL, UNSTICK_BAD_FORMAT }, /* beyond file */
        { { { 0, 0, UINT64_C(1) << 60, 1 } }, 1, UINT64_C(1) << 61, UNSTICK_INVALID_ARGUMENT }, /* too many */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct unstick_layout layout = { paths, 1, cases[i].extents, cases[i].n_extents, cases[i].bytes };

        f->error.text[0] = '\0';
        assert_int_equal(usk_backing_new(f->store, &layout, SMALL, &backing, &f->error), cases[i].status);
        assert_int_equal(f->error.status, cases[i].status);
        assert_true(f->error.text[0]);
        if (cases[i].status == UNSTICK_BAD_FORMAT)
            assert_non_null(strstr(f->error.text, paths[0]));
    }
    {
        struct unstick_layout layout = { paths, 1, cases[0].extents, 1, SMALL };

        assert_int_equal(usk_backing_new(f->store, &layout, 0, &backing, &f->error), UNSTICK_INVALID_ARGUMENT);
    }
}

static void test_files_that_are_not_there(void **state)
{
    struct fixture *f = *state;
    char directory[100];
    const char *paths[2] = { "/nowhere/model.safetensors", directory };
    struct unstick_extent extent = { .bytes = 10 };
    struct unstick_layout layout = { paths, 1, &extent, 1, SMALL };
    struct usk_backing *backing;

    assert_int_equal(usk_backing_new(f->store, &layout, SMALL, &backing, &f->error), UNSTICK_NOT_FOUND);
    assert_non_null(strstr(f->error.text, paths[0]));

    /* A folder opens and even has a size. */
    snprintf(directory, sizeof(directory), "%s", f->directory);
    layout.n_paths = 2;
    extent.file = 1;
    if (usk_backing_new(f->store, &layout, SMALL, &backing, &f->error) == UNSTICK_OK) {
        char buffer[16];

        assert_false(usk_backing_is_direct(backing));
        assert_int_equal(usk_backing_read(backing, 0, buffer, sizeof(buffer), &f->error), UNSTICK_IO);
        assert_non_null(strstr(f->error.text, directory));
        usk_backing_free(backing);
    }
}

static void test_no_extents_is_all_zero(void **state)
{
    struct fixture *f = *state;
    struct unstick_layout layout = { .bytes = 2 * SMALL };
    struct usk_backing *backing = backing_make(f, &layout);

    backing_compare(f, backing, &layout, true);
    OK(usk_backing_poll(backing, 0, &f->error));
    OK(usk_backing_check(backing, &f->error));
    usk_backing_unpin(backing);
    usk_backing_free(backing);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    PENDING(usk_backing_get(backing, 0, &f->error));
    OK(backing_wait(f, backing, 0));
    fixture_settle(f);
    usk_backing_unpin(backing);
    fixture_settle(f);
    /* Granule 0 is held and keeps what it has; what is new is refused. */
    f->recorder.register_fails_at = 1;
    PENDING(usk_backing_get(backing, 3, &f->error));
    assert_int_equal(backing_wait(f, backing, 3), UNSTICK_UNSUPPORTED);
    assert_non_null(strstr(f->error.text, c.paths[1]));
    assert_false(usk_backing_is_direct(backing));
    assert_int_equal(f->recorder.n_lines, 1);
    usk_backing_put(backing, 3);
    OK(usk_backing_poll(backing, 0, &f->error));
    assert_int_equal(usk_backing_get(backing, 3, &f->error), UNSTICK_UNSUPPORTED);
    /* Of a granule in two pieces the first one may be there; no hold is left on it. */
    assert_int_equal(usk_backing_get(backing, 4, &f->error), UNSTICK_UNSUPPORTED);
    usk_backing_put(backing, 0);
    usk_backing_unpin(backing);
    fixture_settle(f);
    assert_int_equal(f->budget.file_bytes, 0);
    f->recorder.register_fails_at = 0;
    assert_int_equal(usk_backing_get(backing, 0, &f->error), UNSTICK_UNSUPPORTED);
    backing_compare(f, backing, &c.layout, false);
    usk_backing_free(backing);
}

static void test_driver_fails(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    f->recorder.register_fails_at = 1;
    f->recorder.register_status = UNSTICK_DRIVER;
    PENDING(usk_backing_get(backing, 0, &f->error));
    assert_int_equal(backing_wait(f, backing, 0), UNSTICK_DRIVER);
    assert_int_equal(usk_backing_poll(backing, 0, NULL), UNSTICK_DRIVER);
    fixture_settle(f);
    assert_true(usk_backing_is_direct(backing));
    f->recorder.register_fails_at = 0;
    PENDING(usk_backing_get(backing, 0, &f->error));
    OK(backing_wait(f, backing, 0));
    usk_backing_put(backing, 0);
    usk_backing_put(backing, 0);
    /* A guess that failed does not stay in the way. */
    PENDING(usk_backing_get(backing, 3, &f->error));
    OK(backing_wait(f, backing, 3));
    usk_backing_put(backing, 3);
    usk_backing_free(backing);
}

static void file_touch(const char *path)
{
    struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void test_file_changed(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    file_touch(c.paths[1]);
    assert_int_equal(usk_backing_check(backing, &f->error), UNSTICK_BACKUP_CHANGED);
    assert_non_null(strstr(f->error.text, c.paths[1]));
    /* The other file is as it was. */
    PENDING(usk_backing_get(backing, 0, &f->error));
    OK(backing_wait(f, backing, 0));
    usk_backing_put(backing, 0);
    fixture_settle(f);
    /* The guess ahead of granule 0 found out; the next get asks again. */
    PENDING(usk_backing_get(backing, 3, &f->error));
    assert_int_equal(backing_wait(f, backing, 3), UNSTICK_BACKUP_CHANGED);
    usk_backing_put(backing, 3);
    usk_backing_free(backing);
}

static void test_file_truncated(void **state)
{
    struct fixture *f = *state;
    uint8_t *buffer = malloc(SMALL);
    struct usk_backing *backing;
    struct layout_case c;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    assert_int_equal(truncate(c.paths[1], SMALL / 2), 0);
    assert_int_equal(usk_backing_check(backing, &f->error), UNSTICK_BACKUP_CHANGED);
    assert_int_equal(usk_backing_read(backing, 3, buffer, SMALL, &f->error), UNSTICK_BACKUP_CHANGED);
    assert_non_null(strstr(f->error.text, c.paths[1]));
    PENDING(usk_backing_get(backing, 3, &f->error));
    assert_int_equal(backing_wait(f, backing, 3), UNSTICK_BACKUP_CHANGED);
    usk_backing_put(backing, 3);
    usk_backing_free(backing);
    free(buffer);
}

/* Truncated after the check and before the pages were brought in. */
static void test_file_truncated_behind_our_back(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, 4 * SMALL);
    struct unstick_extent extent = { .bytes = 4 * SMALL };
    struct unstick_layout layout = { &path, 1, &extent, 1, 4 * SMALL };
    struct usk_backing *backing = backing_make(f, &layout);
    struct usk_pin_file *file = &((struct usk_pin_file_set *)backing)->files[0];
    uint8_t byte;

    /* What was noted is made to fit the truncated file, so that the check passes. */
    assert_int_equal(truncate(path, SMALL), 0);
    OK(usk_os_file_id(file->fd, &file->id, &f->error));
    PENDING(usk_backing_get(backing, 0, &f->error));
    assert_int_equal(backing_wait(f, backing, 0), UNSTICK_IO);
    assert_non_null(strstr(f->error.text, path));
    usk_backing_put(backing, 0);
    assert_int_equal(usk_backing_read(backing, 1, &byte, 1, &f->error), UNSTICK_BAD_FORMAT);
    usk_backing_free(backing);
}

/* A new file of that name is another file; ours is still there. */
static void test_file_replaced(void **state)
{
    struct fixture *f = *state;
    struct usk_backing *backing;
    struct layout_case c;
    const char *other;

    layout_make(f, &c);
    backing = backing_make(f, &c.layout);
    other = file_make(f, "other", 9, 100);
    assert_int_equal(rename(other, c.paths[0]), 0);
    assert_int_equal(unlink(c.paths[1]), 0);
    OK(usk_backing_check(backing, &f->error));
    backing_compare(f, backing, &c.layout, true);
    usk_backing_free(backing);
}

static void test_unregister_fails(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, SMALL);
    struct unstick_extent extent = { .bytes = SMALL };
    struct unstick_layout layout = { &path, 1, &extent, 1, SMALL };
    struct usk_backing *backing = backing_make(f, &layout);
    const struct usk_run *runs;
    const uint8_t *host;

    PENDING(usk_backing_get(backing, 0, &f->error));
    OK(backing_wait(f, backing, 0));
    usk_backing_put(backing, 0);
    f->recorder.unregister_fails_at = 1;
    usk_backing_unpin(backing);
    fixture_settle(f);
    /* Still registered, still usable. */
    assert_int_equal(f->budget.file_bytes, SMALL);
    OK(usk_backing_get(backing, 0, &f->error));
    assert_int_equal(usk_backing_runs(backing, 0, &runs), 1);
    host = runs[0].host;
    usk_backing_put(backing, 0);
    usk_backing_free(backing);
    fixture_settle(f);
    assert_true(usk_store_is_valid(f->store));
    assert_int_equal(f->recorder.n_lines, 1);
    fixture_end(f, SMALL);
    assert_int_equal(host[SMALL - 1], file_byte(0, SMALL - 1));
    usk_os_unmap((void *)(uintptr_t)host, SMALL, NULL);
}

static void test_unpin_while_it_is_registered(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, 8 * SMALL);
    struct unstick_extent extent = { .bytes = 8 * SMALL };
    struct unstick_layout layout = { &path, 1, &extent, 1, 8 * SMALL };
    struct usk_backing *backing = backing_make(f, &layout);

    /* Before the job runs. */
    gate_close(f);
    PENDING(usk_backing_get(backing, 0, &f->error));
    usk_backing_put(backing, 0);
    usk_backing_unpin(backing);
    gate_open(f, &f->gates[0]);
    fixture_settle(f);
    assert_int_equal(f->recorder.n_registered, 0);
    /* While the device is at it. */
    f->recorder.register_gate = &f->gates[1];
    PENDING(usk_backing_get(backing, 0, &f->error));
    gate_wait(&f->gates[1]);
    usk_backing_put(backing, 0);
    usk_backing_unpin(backing);
    gate_open(f, &f->gates[1]);
    fixture_settle(f);
    assert_int_equal(f->recorder.n_registered, 1);
    assert_int_equal(f->recorder.n_unregistered, 1);
    /* Wanted again while it leaves. */
    PENDING(usk_backing_get(backing, 4, &f->error));
    OK(backing_wait(f, backing, 4));
    usk_backing_put(backing, 4);
    gate_close(f);
    usk_backing_unpin(backing);
    PENDING(usk_backing_get(backing, 4, &f->error));
    gate_open(f, &f->gates[0]);
    OK(backing_wait(f, backing, 4));
    usk_backing_put(backing, 4);
    usk_backing_free(backing);
}

static void test_free_while_jobs_run(void **state)
{
    struct fixture *f = *state;
    struct layout_case c;

    layout_make(f, &c);
    for (unsigned int i = 0; i < 20; i++) {
        struct usk_backing *backing = backing_make(f, &c.layout);

        assert_true(usk_backing_get(backing, i % 8, &f->error) >= 0);
        if (i % 3 == 0)
            fixture_settle(f);
        usk_backing_put(backing, i % 8);
        if (i % 2)
            usk_backing_unpin(backing);
        usk_backing_free(backing);
        assert_true(usk_store_is_valid(f->store));
    }
    fixture_end(f, 0);
}

static void *pool_end(void *userdata)
{
    usk_pool_free(userdata);
    return NULL;
}

static void probe_run(struct usk_job *job)
{
    (void)job;
}

static void test_jobs_are_dropped(void **state)
{
    struct fixture *f = *state;
    struct usk_job probe = { .run = probe_run };
    struct usk_backing *a, *b, *d;
    struct layout_case c;
    pthread_t thread;

    layout_make(f, &c);
    a = backing_make(f, &c.layout);
    b = backing_make(f, &c.layout);
    d = backing_make(f, &c.layout);
    PENDING(usk_backing_get(a, 0, &f->error));
    OK(backing_wait(f, a, 0));
    PENDING(usk_backing_get(d, 0, &f->error));
    fixture_settle(f);
    gate_close(f);
    /* One wants to leave, one to enter, one to unpin. */
    usk_backing_put(a, 0);
    usk_backing_free(a);
    PENDING(usk_backing_get(b, 0, &f->error));
    usk_backing_put(b, 0);
    usk_backing_free(b);
    usk_backing_put(d, 0);
    usk_backing_unpin(d);
    usk_backing_free(d);
    usk_pool_submit(f->pool, &probe);
    assert_int_equal(pthread_create(&thread, NULL, pool_end, f->pool), 0);
    while (atomic_load(&probe.state) != USK_JOB_DROPPED)
        sched_yield();
    pthread_mutex_lock(&f->gates[0].lock);
    f->gates[0].is_open = true;
    pthread_cond_broadcast(&f->gates[0].changed);
    pthread_mutex_unlock(&f->gates[0].lock);
    pthread_join(thread, NULL);
    f->pool = NULL;
    fixture_end(f, 0);
}

/* What is done per granule does not look at the rest of the model. */
static void test_many_extents_are_quick(void **state)
{
    struct fixture *f = *state;
    const size_t n = 100000;
    struct unstick_extent *extents = calloc(n, sizeof(*extents));
    const char *path = file_make(f, "a", 0, 64 * SMALL);
    struct unstick_layout layout = { &path, 1, extents, n, n * 512 };
    uint64_t started_ns = usk_clock_now_ns();
    struct usk_backing *backing;
    size_t n_runs = 0;

    for (size_t i = 0; i < n; i++)
        extents[i] = (struct unstick_extent){
            .file_offset = i * 7919 % (64 * SMALL - 16), .region_offset = i * 512, .bytes = 16 };
    backing = backing_make(f, &layout);
    for (unsigned int turn = 0; turn < 20; turn++) {
        for (uint32_t i = 0; i * SMALL < layout.bytes; i++) {
            const struct usk_run *runs;

            n_runs += usk_backing_runs(backing, i, &runs);
            assert_true(usk_backing_has_gaps(backing, i, SMALL));
        }
    }
    assert_true(n_runs >= 20 * n);
    /* Once over all extents per granule would be 3 * 10^9 steps. */
    assert_true(usk_clock_now_ns() - started_ns < 2 * USK_NS_PER_S);
    assert_true(usk_backing_get(backing, 5, &f->error) >= 0);
    OK(backing_wait(f, backing, 5));
    usk_backing_put(backing, 5);
    usk_backing_free(backing);
    free(extents);
}

#define TEST(_name) cmocka_unit_test_setup_teardown(test_##_name, setup, fixture_teardown)
#define TEST_ONE_THREAD(_name) \
    cmocka_unit_test_setup_teardown(test_##_name, setup_one_thread, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(contents),
        TEST(contents_without_registration),
        TEST(tail),
        TEST_ONE_THREAD(registers_what_is_needed),
        TEST(two_backings_of_one_file),
        TEST(layouts_that_lie),
        TEST(files_that_are_not_there),
        TEST(no_extents_is_all_zero),
        TEST_ONE_THREAD(refused),
        TEST_ONE_THREAD(driver_fails),
        TEST(file_changed),
        TEST(file_truncated),
        TEST(file_truncated_behind_our_back),
        TEST(file_replaced),
        TEST(unregister_fails),
        TEST_ONE_THREAD(unpin_while_it_is_registered),
        TEST(free_while_jobs_run),
        TEST_ONE_THREAD(jobs_are_dropped),
        TEST(many_extents_are_quick),
    };

    return cmocka_run_group_tests_name("backing", tests, NULL, NULL);
}
