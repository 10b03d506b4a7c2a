/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "monitor/monitor.h"

static char root[64];

static int entry_remove(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    (void)kind;
    (void)place;
    return remove(path);
}

static int setup(void **unused)
{
    (void)unused;
    snprintf(root, sizeof(root), "/tmp/unstick-system-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **unused)
{
    (void)unused;
    return nftw(root, entry_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* Writes a file below the root, with its folders. */
static void put(const char *path, const char *text)
{
    char full[256];
    FILE *file;

    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(full, 0700);
        *slash = '/';
    }
    file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void test_system(void **unused)
{
    struct usk_system system;

    (void)unused;
    put("/proc/sys/kernel/osrelease", "5.15.90.1-microsoft-standard-WSL2\n");
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    put("/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    put("/etc/os-release",
        "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\n");
    put("/.dockerenv", "");
    assert_int_equal(usk_system_read(root, &system, NULL), UNSTICK_OK);
    assert_string_equal(system.kernel, "5.15.90.1-microsoft-standard-WSL2");
    assert_string_equal(system.huge_pages, "never");
    assert_string_equal(system.os, "Debian GNU/Linux 12 (bookworm)");
    assert_true(system.is_wsl && system.has_cgroup_v2 && system.is_container);
    assert_true(system.n_cpus >= 1);
    assert_true(system.machine[0]);
}

/* Nothing there: nothing claimed. */
static void test_system_without_files(void **unused)
{
    struct usk_system system;

    (void)unused;
    assert_int_equal(usk_system_read(root, &system, NULL), UNSTICK_OK);
    assert_true(system.kernel[0]);
    assert_string_equal(system.os, "Linux");
    assert_string_equal(system.huge_pages, "");
    assert_false(system.is_wsl || system.has_cgroup_v2 || system.is_container);
}

static void test_system_odd_files(void **unused)
{
    struct usk_system system;

    (void)unused;
    put("/sys/kernel/mm/transparent_hugepage/enabled", "[always");
    put("/etc/os-release", "NAME=x\n");
    assert_int_equal(usk_system_read(root, &system, NULL), UNSTICK_OK);
    assert_string_equal(system.huge_pages, "");
    assert_string_equal(system.os, "Linux");
    put("/etc/os-release", "PRETTY_NAME=plain\nNAME=x\n");
    assert_int_equal(usk_system_read(root, &system, NULL), UNSTICK_OK);
    assert_string_equal(system.os, "plain");
}

static void test_running_system(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    size_t n;

    (void)unused;
    /* The real one: others are there (this test's parent), and this process is not in the list. */
    assert_int_equal(usk_system_holders("", holders, &n, NULL), UNSTICK_OK);
    assert_in_range(n, 1, USK_HOLDERS_MAX);
    for (size_t i = 0; i < n; i++) {
        assert_int_not_equal(holders[i].pid, getpid());
        assert_true(holders[i].bytes);
        assert_true(!i || holders[i].bytes <= holders[i - 1].bytes);
    }
}

static void put_process(int pid, const char *name, unsigned int pages)
{
    char path[64], text[64];

    snprintf(path, sizeof(path), "/proc/%d/statm", pid);
    snprintf(text, sizeof(text), "9999 %u 1 1 0 1 0\n", pages);
    put(path, text);
    if (!name)
        return;
    snprintf(path, sizeof(path), "/proc/%d/comm", pid);
    snprintf(text, sizeof(text), "%s\n", name);
    put(path, text);
}

static void test_holders(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    char text[200];
    size_t n;

    (void)unused;
    put_process(10, "small", 1);
    put_process(11, "la\x1brge", 1 << 20);
    put_process(12, NULL, 1 << 10);
    put_process(13, "kernel", 0);
    put_process(getpid(), "me", 1 << 21);
    put("/proc/14/statm", "gone");
    put("/proc/self/statm", "1 1");
    assert_int_equal(usk_system_holders(root, holders, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, 3);
    assert_int_equal(holders[0].pid, 11);
    assert_string_equal(holders[0].name, "la?rge");
    assert_true(holders[0].bytes == usk_os_page_bytes() << 20);
    assert_int_equal(holders[1].pid, 12);
    assert_string_equal(holders[1].name, "?");
    assert_int_equal(holders[2].pid, 10);

    holders[1].bytes = 0;
    holders[0].bytes = UINT64_C(3) << 30;
    assert_string_equal(usk_holders_format(text, sizeof(text), holders, n, 2),
                        "la?rge (pid 11) 3.0 GiB, ? (pid 12) an unknown amount and 1 more");
    assert_string_equal(usk_holders_format(text, sizeof(text), holders, 0, 2), "");
    /* What does not fit is cut, inside the buffer. */
    memset(text, 'x', sizeof(text));
    usk_holders_format(text, 20, holders, n, 3);
    assert_int_equal(strlen(text), 19);
    assert_int_equal(text[20], 'x');
}

/* With more processes than there is room for, the largest stay. */
static void test_many_holders(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    size_t n;

    (void)unused;
    for (int i = 0; i < USK_HOLDERS_MAX + 20; i++)
        put_process(1000000 + i, "p", (unsigned int)(i * 5 % (USK_HOLDERS_MAX + 20)) + 1);
    assert_int_equal(usk_system_holders(root, holders, &n, NULL), UNSTICK_OK);
    assert_int_equal(n, USK_HOLDERS_MAX);
    for (size_t i = 0; i < n; i++)
        assert_true(holders[i].bytes == (USK_HOLDERS_MAX + 20 - i) * usk_os_page_bytes());
}

static void test_no_proc(void **unused)
{
    struct usk_holder holders[USK_HOLDERS_MAX];
    struct unstick_error error;
    size_t n = 7;

    (void)unused;
    assert_int_equal(usk_system_holders(root, holders, &n, &error), UNSTICK_NOT_FOUND);
    assert_non_null(strstr(error.text, root));
    assert_int_equal(n, 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_system, setup, teardown),
        cmocka_unit_test_setup_teardown(test_system_without_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_system_odd_files, setup, teardown),
        cmocka_unit_test(test_running_system),
        cmocka_unit_test_setup_teardown(test_holders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_holders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_proc, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
