/* SPDX-License-Identifier: Apache-2.0 */
/* The store as a whole: on the host device while each of its calls fails, while memory for its tables is
 * refused, and with accounts that are wrong. */
#include "store/store_fixture.h"

#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "device/fault/fault.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OWN_MALLOC 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define HAS_OWN_MALLOC 0
#endif
#endif
#if !defined(HAS_OWN_MALLOC) && defined(__GLIBC__)
#define HAS_OWN_MALLOC 1
#endif

#define OK(_call) assert_int_equal((_call), UNSTICK_OK)

static void test_wrong_accounts_show(void **state)
{
    struct fixture *f = *state;
    struct usk_store *store = f->store;
    void *buffer;

    OK(ring_wait(f, &buffer));
    assert_true(usk_store_is_valid(store));
    store->charged_bytes[USK_BUDGET_RING]++;
    assert_false(usk_store_is_valid(store));
    store->charged_bytes[USK_BUDGET_RING]--;
    f->budget.ring_bytes--;
    assert_false(usk_store_is_valid(store));
    f->budget.ring_bytes++;
    store->n_filling = 5;
    assert_false(usk_store_is_valid(store));
    store->n_filling = 0;
    f->budget.reserved_bytes += f->budget.limit_bytes;
    assert_false(usk_store_is_valid(store));
    f->budget.reserved_bytes -= f->budget.limit_bytes;
    assert_true(usk_store_is_valid(store));
    usk_ring_put(store, buffer);
}

/* An arena of three pieces, a buffer, and a backing of one file: each may or may not be had, all goes
 * back. */
static void everything_once(struct fixture *f, struct usk_store *store, const char *path)
{
    struct unstick_extent extent = { .bytes = 3 * GRANULE };
    struct unstick_layout layout = { &path, 1, &extent, 1, 3 * GRANULE };
    struct usk_backing *backing;
    struct usk_arena *arena;
    void *buffer;
    int r;

    f->store = store;
    OK(usk_arena_new(store, GRANULE, 3 * PIECE, UNSTICK_TIER_PINNED, &arena, &f->error));
    OK(usk_backing_new(store, &layout, GRANULE, &backing, &f->error));
    for (uint32_t i = 0; i < 12; i++)
        assert_true(usk_arena_get(arena, i, &f->error) >= 0);
    for (uint32_t i = 0; i < 12; i++) {
        r = arena_wait(f, arena, i);
        assert_true(r == UNSTICK_OK || r == UNSTICK_DRIVER);
        if (r == UNSTICK_OK)
            memset(usk_arena_data(arena, i), (int)i, GRANULE);
    }
    r = ring_wait(f, &buffer);
    assert_true(r == UNSTICK_OK || r == UNSTICK_DRIVER);
    if (r == UNSTICK_OK)
        usk_ring_put(store, buffer);
    assert_false(usk_backing_is_direct(backing));
    for (uint32_t i = 0; i < 12; i++)
        usk_arena_put(arena, i);
    usk_backing_free(backing);
    usk_arena_free(arena);
}

static void test_every_call_of_the_device_fails(void **state)
{
    struct fixture *f = *state;
    const char *path = file_make(f, "a", 0, 3 * GRANULE);
    struct usk_device *host, *dev;
    struct usk_store *own = f->store;
    uint64_t n_failed = 1;

    OK(usk_host_open(UINT64_C(1) << 20, -1, NULL, &host, &f->error));
    OK(usk_fault_open(host, &dev, &f->error));
    for (uint64_t n = 1; n_failed; n++) {
        for (int is_for_ever = 0; is_for_ever < 2; is_for_ever++) {
            struct usk_fault_script script = { .fail_at = n, .is_for_ever = is_for_ever };
            struct usk_store *store;

            usk_fault_set(dev, &script);
            OK(usk_store_new(dev, f->pool, &f->budget, GRANULE, &store, &f->error));
            store->piece_bytes = PIECE;
            everything_once(f, store, path);
            usk_store_free(store);
            n_failed = usk_fault_n_failed(dev);
            /* What could not be unregistered is all that is left. */
            assert_int_equal(f->budget.reserved_bytes, f->budget.leaked_bytes);
            assert_int_equal(f->budget.leaving_bytes + f->budget.file_bytes, 0);
            f->budget.reserved_bytes = f->budget.leaked_bytes = 0;
            f->budget.pinned_bytes = f->budget.ring_bytes = 0;
        }
    }
    f->store = own;
    usk_fault_set(dev, NULL);
    usk_device_close(dev);
}

#if HAS_OWN_MALLOC
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);

/* Counts down to the allocation of this thread that fails; 0: none does. */
static _Thread_local unsigned int malloc_fails_at;

static bool malloc_fails(void)
{
    return malloc_fails_at && !--malloc_fails_at;
}

void *malloc(size_t bytes)
{
    return malloc_fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    return malloc_fails() ? NULL : __libc_calloc(n, bytes);
}

static void test_no_memory_for_tables(void **state)
{
    struct fixture *f = *state;
    const char *paths[2] = { file_make(f, "a", 0, GRANULE), file_make(f, "b", 1, GRANULE) };
    struct unstick_extent extents[2] = { { 0, 0, 0, GRANULE }, { 1, 0, GRANULE, GRANULE } };
    struct unstick_layout layout = { paths, 2, extents, 2, 2 * GRANULE };
    struct usk_backing *backing;
    struct usk_arena *arena;
    struct usk_store *store;
    unsigned int n = 0;
    int r;

    malloc_fails_at = 1;
    assert_int_equal(usk_store_new(&f->recorder.dev, f->pool, &f->budget, GRANULE, &store, &f->error),
                     UNSTICK_OUT_OF_HOST_MEMORY);
    malloc_fails_at = 1;
    assert_int_equal(usk_arena_new(f->store, GRANULE, GRANULE, UNSTICK_TIER_PINNED, &arena, &f->error),
                     UNSTICK_OUT_OF_HOST_MEMORY);
    do {
        malloc_fails_at = ++n;
        r = usk_backing_new(f->store, &layout, GRANULE, &backing, &f->error);
        assert_true(r == UNSTICK_OK || r == UNSTICK_OUT_OF_HOST_MEMORY);
    } while (r < 0);
    malloc_fails_at = 0;
    /* The backing, its files, two paths, two tables of pieces, and four tables of its own. */
    assert_int_equal(n, 11);
    usk_backing_free(backing);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_wrong_accounts_show, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_every_call_of_the_device_fails, fixture_setup, fixture_teardown),
#if HAS_OWN_MALLOC
        cmocka_unit_test_setup_teardown(test_no_memory_for_tables, fixture_setup, fixture_teardown),
#endif
    };

    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
