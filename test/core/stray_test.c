/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels of somebody else that use a region while it is evicted. On a GPU only: what the driver and the chip do there
 * is the question, and the tests of the core ask the rest on a host device. Skipped (77) without one.
 */
#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#define BYTES (4 * GRANULE)
#define WORD UINT64_C(8)

/* Thread i of the grid moves word i. */
static const char copy_ptx[] =
    ".version 6.0\n.target sm_60\n.address_size 64\n"
    ".visible .entry copy(.param .u64 p_to, .param .u64 p_from)\n{\n"
    ".reg .b32 %index, %block, %threads, %thread;\n.reg .b64 %to, %from, %at, %word;\n"
    "ld.param.u64 %to, [p_to];\nld.param.u64 %from, [p_from];\n"
    "mov.u32 %thread, %tid.x;\nmov.u32 %block, %ctaid.x;\nmov.u32 %threads, %ntid.x;\n"
    "mad.lo.u32 %index, %block, %threads, %thread;\nmul.wide.u32 %at, %index, 8;\n"
    "add.u64 %to, %to, %at;\nadd.u64 %from, %from, %at;\n"
    "ld.global.u64 %word, [%from];\nst.global.u64 [%to], %word;\nret;\n}\n";

static const char *stray_gpu; /* NULL: none */

struct stray {
    struct fixture fixture;
    struct kernel kernel;
    struct unstick_region *region, *other; /* evicted; resident, for the kernel's own data */
    uint8_t *image;
};

static int stray_setup(void **ret_state)
{
    struct stray *stray = calloc(1, sizeof(*stray));
    struct unstick_error error = { 0 };

    fixture_open(&stray->fixture, NULL);
    if (kernel_open(&stray->kernel, stray_gpu, copy_ptx, "copy", &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
    assert_int_equal(unstick_region_new(stray->fixture.dev, "model", BYTES, NULL, &stray->region, &error), UNSTICK_OK);
    assert_int_equal(unstick_region_new(stray->fixture.dev, "other", BYTES, NULL, &stray->other, &error), UNSTICK_OK);
    assert_int_equal(fixture_run(stray->region, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_run(stray->other, unstick_region_restore, NULL, NULL), UNSTICK_OK);
    stray->image = malloc(BYTES);
    fixture_fill(stray->image, BYTES, 7);
    assert_int_equal(unstick_region_write(stray->region, 0, stray->image, BYTES, &error), UNSTICK_OK);
    assert_int_equal(fixture_run(stray->region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    *ret_state = stray;
    return 0;
}

static int stray_teardown(void **state)
{
    struct stray *stray = *state;

    kernel_close(&stray->kernel);
    unstick_region_unref(stray->region);
    unstick_region_unref(stray->other);
    fixture_close(&stray->fixture);
    free(stray->image);
    free(stray);
    return 0;
}

static void stray_copy(struct stray *stray, uint64_t to, uint64_t from)
{
    void *parameters[] = { &to, &from };
    struct unstick_error error = { 0 };

    if (kernel_launch(&stray->kernel, (unsigned int)(BYTES / WORD / 256), 256, 0, parameters, &error) != UNSTICK_OK ||
        kernel_wait(&stray->kernel, &error) != UNSTICK_OK)
        fail_msg("%s", error.text);
}

static void test_a_stray_read_gives_ff_and_the_context_lives(void **state)
{
    struct stray *stray = *state;
    uint8_t *seen = malloc(BYTES);
    struct unstick_task_result result = { .size = sizeof(result) };

    stray_copy(stray, fixture_info(stray->other).address, fixture_info(stray->region).address);
    assert_int_equal(unstick_region_read(stray->other, 0, seen, BYTES, NULL), UNSTICK_OK);
    for (uint64_t i = 0; i < BYTES; i++) {
        if (seen[i] != 0xff)
            fail_msg("byte %llu is %#x", (unsigned long long)i, seen[i]);
    }
    assert_int_equal(fixture_run(stray->region, unstick_region_restore, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.stray_writes, 0);
    fixture_assert_contents(stray->region, stray->image, BYTES);
    free(seen);
}

static void test_a_stray_write_is_reported_and_changes_nothing(void **state)
{
    struct stray *stray = *state;
    struct unstick_task_result result = { .size = sizeof(result) };

    stray_copy(stray, fixture_info(stray->region).address, fixture_info(stray->other).address);
    assert_int_equal(fixture_run(stray->region, unstick_region_restore, NULL, &result), UNSTICK_OK);
    assert_true(result.stray_writes > 0);
    fixture_assert_contents(stray->region, stray->image, BYTES);

    /* The sentinel is whole again. */
    assert_int_equal(fixture_run(stray->region, unstick_region_evict, NULL, NULL), UNSTICK_OK);
    assert_int_equal(fixture_peek(&stray->fixture, fixture_info(stray->region).address), 0xff);
    assert_int_equal(fixture_run(stray->region, unstick_region_restore, NULL, &result), UNSTICK_OK);
    assert_int_equal(result.stray_writes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_stray_read_gives_ff_and_the_context_lives, stray_setup, stray_teardown),
        cmocka_unit_test_setup_teardown(test_a_stray_write_is_reported_and_changes_nothing, stray_setup,
                                        stray_teardown),
    };
    const char *spec = getenv("UNSTICK_TEST_DEVICE");

    if (!spec || strncmp(spec, "cuda:", 5) != 0 || !fixture_init())
        return 77;
    stray_gpu = spec + 5;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
