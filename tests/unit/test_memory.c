/* memory: limits of control groups, from files that say so */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/store/memory.h"

struct fixture {
    char dir[64], proc[96], cgroup[96];
    struct memory_paths paths;
};

static void write_file(const struct fixture *f, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", f->dir, name);
    for (char *slash = strchr(path + strlen(f->dir) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    strcpy(f->dir, "/tmp/test-memory-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    snprintf(f->proc, sizeof(f->proc), "%s/proc", f->dir);
    snprintf(f->cgroup, sizeof(f->cgroup), "%s/cgroup", f->dir);
    f->paths = (struct memory_paths){ f->proc, f->cgroup };
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", f->dir);
    if (system(command))
        return -1;
    free(f);
    return 0;
}

/* Without any of these files the machine's memory is what there is. */
static void test_nothing(void **state)
{
    struct fixture *f = *state;

    assert_true(memory_limit_bytes(&f->paths) == UINT64_MAX);
    assert_true(memory_available_bytes(&f->paths) > 1 << 20);
    write_file(f, "proc/meminfo", "MemTotal: 2000 kB\nMemAvailable:    1000 kB\n");
    assert_int_equal(memory_available_bytes(&f->paths), 1000 << 10);
}

/* The least of all groups counts, and in each what it has already, but for what can be given up. */
static void test_groups(void **state)
{
    struct fixture *f = *state;

    write_file(f, "proc/meminfo", "MemAvailable: 1000000 kB\n");
    write_file(f, "proc/self/cgroup", "0::/a.slice/b.service\n");
    write_file(f, "cgroup/a.slice/memory.max", "500000\n");
    write_file(f, "cgroup/a.slice/memory.current", "450000\n");
    write_file(f, "cgroup/a.slice/b.service/memory.max", "max\n");
    write_file(f, "cgroup/a.slice/b.service/memory.current", "400000\n");
    assert_int_equal(memory_limit_bytes(&f->paths), 500000);
    assert_int_equal(memory_available_bytes(&f->paths), 50000);
    write_file(f, "cgroup/a.slice/memory.stat", "anon 7\ninactive_file 20000\n");
    assert_int_equal(memory_available_bytes(&f->paths), 70000);
    write_file(f, "cgroup/a.slice/b.service/memory.max", "410000\n");
    assert_int_equal(memory_limit_bytes(&f->paths), 410000);
    assert_int_equal(memory_available_bytes(&f->paths), 10000);
    write_file(f, "cgroup/a.slice/b.service/memory.current", "410001\n");
    assert_int_equal(memory_available_bytes(&f->paths), 0);
    write_file(f, "cgroup/memory.max", "300000\n"); /* the root of a container */
    assert_int_equal(memory_limit_bytes(&f->paths), 300000);
}

/* Version 1, beside a version 2 that counts no memory: the lesser counts. */
static void test_version_1(void **state)
{
    struct fixture *f = *state;

    write_file(f, "proc/meminfo", "MemAvailable: 1000000 kB\n");
    write_file(f, "proc/self/cgroup",
               "9:name=systemd:/x\n8:memory_not:/c\n4:cpu,memory:/a/b\n0::/\n");
    write_file(f, "cgroup/memory/c/memory.limit_in_bytes", "1\n");
    write_file(f, "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(memory_limit_bytes(&f->paths) == UINT64_MAX);
    write_file(f, "cgroup/memory/a/memory.limit_in_bytes", "500000\n");
    write_file(f, "cgroup/memory/a/memory.usage_in_bytes", "450000\n");
    write_file(f, "cgroup/memory/a/memory.stat",
               "inactive_file 40000\ntotal_inactive_file 20000\n");
    assert_int_equal(memory_limit_bytes(&f->paths), 500000);
    assert_int_equal(memory_available_bytes(&f->paths), 70000);
    write_file(f, "cgroup/memory/a/b/memory.limit_in_bytes", "60000\n");
    assert_int_equal(memory_limit_bytes(&f->paths), 60000);
    assert_int_equal(memory_available_bytes(&f->paths), 60000);
    write_file(f, "cgroup/memory.max", "50000\n");
    assert_int_equal(memory_limit_bytes(&f->paths), 50000);
}

/* What can't be read sets no limit. */
static void test_odd(void **state)
{
    struct fixture *f = *state;

    write_file(f, "proc/meminfo", "MemAvailable: 1000 kB\n");
    write_file(f, "proc/self/cgroup", "5:memory:/a/../b\n4:memory\n0::/../../etc\n");
    write_file(f, "cgroup/memory/b/memory.limit_in_bytes", "88888");
    write_file(f, "cgroup/memory.max", "12 monkeys\n");
    assert_true(memory_limit_bytes(&f->paths) == UINT64_MAX);
    write_file(f, "proc/self/cgroup", "");
    write_file(f, "cgroup/memory.max", "77777");
    assert_int_equal(memory_limit_bytes(&f->paths), 77777);
    assert_int_equal(memory_available_bytes(&f->paths), 77777);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_groups, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_version_1, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_odd, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
