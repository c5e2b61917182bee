/* log: levels, one line an event, the journal's form */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/log.h"

static FILE *captured;
static int saved_stderr;

static void begin_capture(void)
{
    captured = tmpfile();
    assert_non_null(captured);
    saved_stderr = dup(STDERR_FILENO);
    assert_int_equal(dup2(fileno(captured), STDERR_FILENO), STDERR_FILENO);
}

static void end_capture(char *text, size_t size)
{
    size_t n;

    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    rewind(captured);
    n = fread(text, 1, size - 1, captured);
    text[n] = '\0';
    fclose(captured);
}

static void log_all(void)
{
    log_error("e");
    log_warning("w");
    log_info("i");
    log_debug("d");
}

static void test_levels(void **state)
{
    static const struct {
        const char *level, *absent, *present;
    } cases[] = {
        { "error", "warning: w", "error: e" }, { "warning", "info: i", "warning: w" },
        { "info", "debug: d", "info: i" },     { "debug", "no such line", "debug: d" },
        { "nonsense", "debug: d", "info: i" },
    };
    char text[512];

    (void)state;
    log_init("info");
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        begin_capture();
        log_set_level(cases[i].level);
        log_all();
        end_capture(text, sizeof text);
        assert_null(strstr(text, cases[i].absent));
        assert_non_null(strstr(text, cases[i].present));
    }
}

static void test_one_line(void **state)
{
    char text[4096], longer[3000];
    int year, millisecond;

    (void)state;
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    begin_capture();
    log_init("info");
    log_info("a\nb\r\tc %d \x1b[31m", 7);
    log_info("%s", longer);
    end_capture(text, sizeof text);
    assert_int_equal(sscanf(text, "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3dZ info: ", &year, &millisecond),
                     2);
    assert_non_null(strstr(text, "info: a?b??c 7 ?[31m\n"));
    assert_non_null(strstr(text, "xxx ...\n"));
    assert_int_equal(strchr(strchr(text, '\n') + 1, '\n') - text, strlen(text) - 1);
    assert_true(strlen(text) < 1200);
}

static void test_journal(void **state)
{
    char text[256], stream[64];
    struct stat st;

    (void)state;
    begin_capture();
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init("info");
    log_warning("w");
    setenv("JOURNAL_STREAM", "1:1", 1); /* somebody else's */
    log_init("info");
    log_warning("v");
    unsetenv("JOURNAL_STREAM");
    end_capture(text, sizeof text);
    assert_ptr_equal(strstr(text, "<4>w\n"), text);
    assert_non_null(strstr(text, "warning: v\n"));
}

static void test_fault(void **state)
{
    char text[512];

    (void)state;
    begin_capture();
    log_init("debug");
    log_fault(-12, 1, "f", "x.c", 3);
    end_capture(text, sizeof text);
    assert_non_null(strstr(text, "debug: fault 12 (Cannot allocate memory) in f() at x.c:3\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_one_line),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_fault),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
