/* SPDX-License-Identifier: Apache-2.0 */
/* Who passes the gate, who waits, and who is called. It is the process's, so each case leaves it open. */
#include "device/cuda/gate.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/os.h"

/* Longer than the gate is kept for who was told to come again; and than anybody takes to get on. */
#define KEPT_US 5000
#define PATIENCE_MS 10000

struct passer {
    pthread_t thread;
    void (*begin)(void);
    void (*end)(void);
    atomic_bool has_begun;
};

static int event_fd;

static void *passer_run(void *userdata)
{
    struct passer *passer = userdata;

    passer->begin();
    atomic_store(&passer->has_begun, true);
    passer->end();
    return NULL;
}

static void passer_start(struct passer *passer, void (*begin)(void), void (*end)(void))
{
    *passer = (struct passer){ .begin = begin, .end = end };
    assert_int_equal(pthread_create(&passer->thread, NULL, passer_run, passer), 0);
}

static int setup(void **state)
{
    (void)state;
    return usk_os_event_new(&event_fd, NULL);
}

static int teardown(void **state)
{
    (void)state;
    usk_os_close(event_fd);
    return 0;
}

static void test_burst_keeps_others_out(void **state)
{
    struct passer pager, registrar;

    (void)state;
    assert_true(usk_cuda_gate_begin_burst(event_fd));
    passer_start(&pager, usk_cuda_gate_begin_paging, usk_cuda_gate_end_paging);
    passer_start(&registrar, usk_cuda_gate_enter, usk_cuda_gate_leave);
    usk_os_pause_us(KEPT_US);
    assert_false(atomic_load(&pager.has_begun));
    assert_false(atomic_load(&registrar.has_begun));
    usk_cuda_gate_end_burst();
    pthread_join(pager.thread, NULL);
    pthread_join(registrar.thread, NULL);
}

static void test_burst_waits_for_paging(void **state)
{
    struct passer late;

    (void)state;
    usk_cuda_gate_begin_paging();
    usk_cuda_gate_begin_paging();
    assert_false(usk_cuda_gate_begin_burst(event_fd));

    /* Who comes now lets the burst go first. */
    passer_start(&late, usk_cuda_gate_begin_paging, usk_cuda_gate_end_paging);
    usk_cuda_gate_end_paging();
    assert_false(usk_os_event_wait(event_fd, 0));
    usk_os_pause_us(KEPT_US);
    assert_false(atomic_load(&late.has_begun));

    usk_cuda_gate_end_paging();
    assert_true(usk_os_event_wait(event_fd, PATIENCE_MS));
    usk_os_event_drain(event_fd);
    pthread_join(late.thread, NULL); /* the burst does not come, and the gate is kept for a moment only */
    assert_true(usk_cuda_gate_begin_burst(event_fd));
    usk_cuda_gate_end_burst();
}

static void test_burst_waits_for_registration(void **state)
{
    (void)state;
    usk_cuda_gate_enter();
    usk_cuda_gate_begin_paging(); /* not kept out by a registration */
    assert_false(usk_cuda_gate_begin_burst(event_fd));
    usk_cuda_gate_leave();
    assert_false(usk_os_event_wait(event_fd, 0));
    usk_cuda_gate_end_paging();
    assert_true(usk_os_event_wait(event_fd, PATIENCE_MS));
    usk_os_event_drain(event_fd);
    assert_true(usk_cuda_gate_begin_burst(event_fd));
    usk_cuda_gate_end_burst();
}

/* One that was called and did not come is not called, nor waited for, again. */
static void test_burst_is_called_once(void **state)
{
    (void)state;
    usk_cuda_gate_begin_paging();
    assert_false(usk_cuda_gate_begin_burst(event_fd));
    usk_cuda_gate_end_paging();
    assert_true(usk_os_event_wait(event_fd, 0));
    usk_os_event_drain(event_fd);
    usk_cuda_gate_begin_paging();
    usk_cuda_gate_end_paging();
    assert_false(usk_os_event_wait(event_fd, 0));
}

/* One that is closed meanwhile is not signalled: its number may be somebody else's by then. */
static void test_burst_is_forgotten(void **state)
{
    int gone_fd, other_fd;

    (void)state;
    assert_int_equal(usk_os_event_new(&gone_fd, NULL), 0);
    usk_cuda_gate_begin_paging();
    assert_false(usk_cuda_gate_begin_burst(gone_fd));
    usk_cuda_gate_forget(gone_fd);
    usk_os_close(gone_fd);
    assert_int_equal(usk_os_event_new(&other_fd, NULL), 0);
    assert_int_equal(other_fd, gone_fd);
    usk_cuda_gate_end_paging();
    assert_false(usk_os_event_wait(other_fd, 0));
    usk_os_close(other_fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_burst_keeps_others_out),
        cmocka_unit_test(test_burst_waits_for_paging),
        cmocka_unit_test(test_burst_waits_for_registration),
        cmocka_unit_test(test_burst_is_called_once),
        cmocka_unit_test(test_burst_is_forgotten),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
