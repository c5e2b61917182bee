/* crc32c: known answers, the table against its definition, pieces against the whole */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/crc32c.h"
#include "lib/base/rng.h"

/* A bit at a time, polynomial 0x1edc6f41 reflected. */
static uint32_t definition(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    for (; n; p++, n--) {
        crc ^= *p;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void test_known_answers(void **state)
{
    uint8_t bytes[32];

    (void)state;
    assert_int_equal(crc32c(0, "", 0), 0);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(crc32c(0, bytes, 32), 0x62a8ab43);
}

/* Table k answers for byte 7 - k of eight: each of the 8 × 256 entries is used here. */
static void test_every_entry(void **state)
{
    (void)state;
    for (int at = 0; at < 8; at++)
        for (int value = 0; value < 256; value++) {
            uint8_t bytes[8] = { 0 };

            bytes[at] = (uint8_t)value;
            if (crc32c(0, bytes, 8) != definition(0, bytes, 8))
                fail_msg("byte %d of value %d", at, value);
        }
}

static void test_any_length_and_cut(void **state)
{
    struct rng r = rng_seed(1);
    uint8_t bytes[300];

    (void)state;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)rng_next(&r);
    for (size_t n = 0; n < sizeof(bytes); n++) {
        size_t cut = rng_below(&r, n + 1);
        uint32_t whole = crc32c(0, bytes, n);

        assert_int_equal(whole, definition(0, bytes, n));
        assert_int_equal(crc32c(crc32c(0, bytes, cut), bytes + cut, n - cut), whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_every_entry),
        cmocka_unit_test(test_any_length_and_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
