/* text: growth and escaping */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "daemon/text.h"

static void assert_text(struct text *text, const char *expected)
{
    assert_false(text->failed);
    assert_int_equal(text->n, strlen(expected));
    assert_memory_equal(text->bytes, expected, text->n);
    text_deinit(text);
}

static void test_growth(void **state)
{
    struct text text = TEXT_NULL;
    char big[10001];

    (void)state;
    memset(big, 'y', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    for (int i = 0; i < 30000; i++)
        text_printf(&text, "%d,", i % 10);
    text_printf(&text, "%s", big);
    text_add(&text, big, 0);
    assert_false(text.failed);
    assert_int_equal(text.n, 70000);
    for (size_t i = 0; i < 60000; i++)
        assert_int_equal(text.bytes[i], i % 2 ? ',' : '0' + (int)(i / 2 % 10));
    assert_int_equal(text.bytes[69999], 'y');
    text_deinit(&text);
    assert_null(text.bytes);
    text_deinit(&text);
}

static void test_json(void **state)
{
    static const struct {
        const char *string, *expected;
    } cases[] = {
        { "", "\"\"" },
        { "a b/c", "\"a b/c\"" },
        { "q\" b\\ n\n t\t \x01 \x7f", "\"q\\\" b\\\\ n\\u000a t\\u0009 \\u0001 \\u007f\"" },
        { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"" },
        { "\xc3", "\"\\ufffd\"" },            /* cut off */
        { "\xe2\x82", "\"\\ufffd\\ufffd\"" }, /* cut off */
        { "\xc0\xaf", "\"\\ufffd\\ufffd\"" }, /* overlong */
        { "\xe0\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\"" },
        { "\xf0\x80\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"" },
        { "\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"" }, /* a surrogate */
        { "\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"" },
        { "\xffz", "\"\\ufffdz\"" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct text text = TEXT_NULL;

        text_json_string(&text, cases[i].string);
        assert_text(&text, cases[i].expected);
    }
}

static void test_label(void **state)
{
    struct text text = TEXT_NULL;

    (void)state;
    text_label(&text, "a\"b\\c\nd\t");
    assert_text(&text, "\"a\\\"b\\\\c\\nd\t\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_growth),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_label),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
