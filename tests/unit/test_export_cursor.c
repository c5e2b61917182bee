/* export_cursor: what programs outside see of an export file */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/deltapq.h"
#include "tests/util/export_sample.h"

static void test_records(void **state)
{
    struct export_memory m = { .n = 0 };
    struct dpq_export_record r;
    struct dpq_export *e;
    struct dpq_fault fault;
    uint64_t at = EXPORT_HEADER_BYTES;

    (void)state;
    assert_int_equal(export_sample(&m), 0);
    assert_int_equal(dpq_export_new(m.bytes, m.n, &e), 0);
    for (size_t i = 0; i < EXPORT_SAMPLE_RECORDS; i++) {
        assert_int_equal(dpq_export_next(e, &r, &fault), 0);
        assert_int_equal(r.offset, export_record_at(m.bytes, i));
        assert_int_equal(r.offset, at);
        assert_memory_equal(&r.kind, m.bytes + at, 4);
        assert_memory_equal(&r.crc32c, m.bytes + at + 4, 4);
        at += r.n_bytes;
        if (i == 0)
            assert_int_equal(r.n_payload, 300);
        if (i == 1) {
            assert_int_equal(r.n_tokens, EXPORT_SAMPLE_TOKENS);
            assert_memory_equal(r.payload, m.bytes + r.offset + 16, r.n_payload);
        }
        if (i == 3)
            assert_int_equal(r.first_index, 128);
        if (i == 4)
            assert_int_equal(r.n_tokens, 5);
    }
    assert_int_equal(at, m.n);
    assert_int_equal(r.kind, EXPORT_END);
    assert_int_equal(dpq_export_next(e, &r, NULL), DPQ_E_CORRUPT);
    assert_null(dpq_export_free(e));
    assert_null(dpq_export_free(NULL));
}

static void test_outcomes(void **state)
{
    struct export_memory m = { .n = 0 };
    struct dpq_export_record r;
    struct dpq_export *e;
    struct dpq_fault fault;

    (void)state;
    assert_int_equal(export_sample(&m), 0);
    assert_int_equal(dpq_export_new(m.bytes, 100, &e), 0);
    assert_int_equal(dpq_export_next(e, &r, &fault), DPQ_E_CUT);
    assert_non_null(strstr(fault.message, "not complete"));
    dpq_export_free(e);
    m.bytes[40] ^= 1;
    assert_int_equal(dpq_export_new(m.bytes, m.n, &e), 0);
    assert_int_equal(dpq_export_next(e, &r, &fault), DPQ_E_CORRUPT);
    assert_non_null(strstr(fault.message, "checksum"));
    dpq_export_free(e);
    m.bytes[8] = 9;
    assert_int_equal(dpq_export_new(m.bytes, m.n, &e), 0);
    assert_int_equal(dpq_export_next(e, &r, &fault), DPQ_E_VERSION);
    dpq_export_free(e);
    assert_int_equal(dpq_crc32c(dpq_crc32c(0, "1234", 4), "56789", 5), 0xe3069283);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),
        cmocka_unit_test(test_outcomes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
