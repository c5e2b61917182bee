#pragma once

/*
 * What tests/kern uses of cmocka, for a machine that Debian has no cmocka for here: cases run one
 * after another and are reported as TAP; the first assertion that fails ends the program.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(fn) \
    { \
#fn, fn \
    }

static inline void cross_check(int holds, const char *what, const char *file, int line)
{
    if (holds)
        return;
    printf("not ok - %s:%d: %s\n", file, line, what);
    exit(1);
}

#define assert_true(c)     cross_check(!!(c), #c, __FILE__, __LINE__)
#define assert_non_null(p) cross_check((p) != NULL, #p, __FILE__, __LINE__)
#define assert_int_equal(a, b) \
    cross_check((intmax_t)(a) == (intmax_t)(b), #a " == " #b, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n) \
    cross_check(!memcmp(a, b, n), #a " and " #b, __FILE__, __LINE__)
#define print_message(...) printf("# " __VA_ARGS__)

static inline int cross_run(const struct CMUnitTest *tests, size_t n)
{
    printf("1..%zu\n", n);
    for (size_t i = 0; i < n; i++) {
        void *state = NULL;

        tests[i].run(&state);
        printf("ok %zu - %s\n", i + 1, tests[i].name);
        fflush(stdout);
    }
    return 0;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
    cross_run(tests, sizeof(tests) / sizeof((tests)[0]))
