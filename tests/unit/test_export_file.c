/* export_file: what is written is read, piece by piece; what is damaged or out of order is named */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/export_sample.h"

static struct export_memory sample(void)
{
    struct export_memory m = { .n = 0 };

    assert_int_equal(export_sample(&m), 0);
    return m;
}

static void test_round_trip(void **state)
{
    static const enum export_kind KINDS[] = { EXPORT_PROFILE, EXPORT_SEQUENCE, EXPORT_TILE,
                                              EXPORT_TILE,    EXPORT_TAIL,     EXPORT_SEQUENCE,
                                              EXPORT_END };
    struct export_memory m = sample();
    struct export_record r[EXPORT_SAMPLE_RECORDS];
    struct export_reader reader;
    uint32_t token;

    (void)state;
    export_reader_init(&reader, m.bytes, m.n);
    for (size_t i = 0; i < EXPORT_SAMPLE_RECORDS; i++) {
        assert_int_equal(export_next(&reader, &r[i]), 0);
        assert_int_equal(r[i].kind, KINDS[i]);
    }
    assert_int_equal(reader.at, m.n);
    assert_int_equal(r[0].profile.n_bytes, 300);
    assert_int_equal(r[1].sequence.n_tokens, EXPORT_SAMPLE_TOKENS);
    assert_int_equal(r[1].sequence.position_base, 7);
    assert_int_equal(r[1].sequence.rate, 2);
    assert_int_equal(r[1].sequence.profile[31], 0xab);
    assert_memory_equal(r[1].sequence.adapter, "lora", 4);
    assert_memory_equal(r[1].sequence.salt, "s", 1);
    memcpy(&token, r[1].sequence.tokens + 4 * 260, 4);
    assert_int_equal(token, 1260);
    assert_int_equal(r[2].tile.n_base, 555);
    assert_int_equal(r[2].tile.n_fine, 333);
    assert_memory_equal(r[2].tile.fine, r[2].tile.base + 9, 333);
    assert_null(r[3].tile.fine);
    assert_int_equal(r[4].tail.n_bytes, 240);
    assert_int_equal(r[5].sequence.n_tokens, 0);
    assert_int_equal(r[6].n_records, 6);
    assert_int_equal(export_next(&reader, &r[0]), EXPORT_E_CORRUPT);
    assert_non_null(strstr(reader.reason, "after the end"));
}

/* Byte by byte, as over a network: each record is there as soon as its last byte is. */
static void test_as_it_comes(void **state)
{
    struct export_memory m = sample();
    struct export_reader reader;
    struct export_record record;
    size_t n_seen = 0;

    (void)state;
    export_reader_init(&reader, m.bytes, 0);
    for (size_t n = 0; n <= m.n; n++) {
        uint8_t *moved = malloc(n + 1);

        memcpy(moved, m.bytes, n);
        export_reader_extend(&reader, moved, n);
        if (!export_next(&reader, &record)) {
            n_seen++;
            assert_int_equal(reader.at, n);
        }
        free(moved);
    }
    assert_int_equal(n_seen, EXPORT_SAMPLE_RECORDS);
}

/* The outcome of reading all of it. */
static int read_all(const uint8_t *bytes, size_t n, const char **ret_reason)
{
    struct export_reader reader;
    struct export_record record = { 0 };
    int r = 0;

    export_reader_init(&reader, bytes, n);
    while (!r && record.kind != EXPORT_END)
        r = export_next(&reader, &record);
    *ret_reason = reader.reason ? reader.reason : "";
    return r;
}

static void test_every_flip_is_seen(void **state)
{
    struct export_memory m = sample();
    const char *reason;

    (void)state;
    for (size_t i = 0; i < m.n * 8; i++) {
        m.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_not_equal(read_all(m.bytes, m.n, &reason), 0);
        m.bytes[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_int_equal(read_all(m.bytes, m.n, &reason), 0);
}

/* A stream, of which nothing is kept: a tile is left out, and lengths are known beforehand. */
static void test_parts(void **state)
{
    struct export_memory m = sample();
    uint8_t *part = malloc(m.n);
    struct export_reader reader;
    struct export_record record;
    enum export_kind kind;
    uint64_t n_bytes;

    (void)state;
    export_reader_init(&reader, part, 0);
    for (size_t i = 0; i < EXPORT_SAMPLE_RECORDS - 1; i++) { /* the end counts all of them */
        size_t begin = i ? export_record_at(m.bytes, i) : 0, at = begin ? begin : 16;
        size_t n = export_record_at(m.bytes, i + 1) - begin;

        if (i == 2) {
            export_reader_skip(&reader, 128);
            continue;
        }
        memcpy(part, m.bytes + begin, n);
        export_reader_extend(&reader, part, 8);
        assert_int_equal(export_next(&reader, &record), EXPORT_E_CUT);
        assert_int_equal(export_record_bytes(&reader, &kind, &n_bytes), EXPORT_E_CUT);
        export_reader_extend(&reader, part, at - begin + 16);
        assert_int_equal(export_next(&reader, &record), EXPORT_E_CUT);
        assert_int_equal(export_record_bytes(&reader, &kind, &n_bytes), 0);
        assert_memory_equal(&n_bytes, m.bytes + at + 8, 8);
        export_reader_extend(&reader, part, n);
        assert_int_equal(export_next(&reader, &record), 0);
        assert_int_equal(record.kind, kind);
        assert_int_equal(reader.at, n);
        assert_int_equal(export_reader_drop(&reader), n);
        assert_int_equal(reader.n_bytes, 0);
    }
    free(part);
}

/* A checksum that is known is written as it was computed. */
static void test_known_sum(void **state)
{
    struct export_memory a = { .n = 0 }, b = { .n = 0 };
    struct export_record record = { .kind = EXPORT_PROFILE, .profile = { (uint8_t *)"abc", 3 } };
    struct export_writer w;

    (void)state;
    assert_int_equal(export_begin(&w, export_to_memory, &a), 0);
    assert_int_equal(export_put(&w, &record), 0);
    w.user = &b;
    w.has_crc32c = true;
    record.profile.bytes = (uint8_t *)"xyz";
    assert_int_equal(export_put(&w, &record), 0);
    assert_memory_equal(a.bytes + 16, b.bytes, 16);
}

/* Records with right checksums that lie all the same. */
static const struct lie {
    size_t record, at; /* from the payload's beginning */
    uint32_t value;
    const char *reason;
} LIES[] = {
    { 1, 32, 3, "dtype" },                          /* dtype */
    { 1, 48, 1 << 27, "lengths are out of range" }, /* n_tokens */
    { 1, 48, EXPORT_SAMPLE_TOKENS + 1, "add up" },  /* n_tokens */
    { 1, 56, 4097, "out of range" },                /* n_adapter */
    { 2, 0, 128, "tile is not where" },             /* first_index */
    { 2, 8, 0, "add up" },                          /* n_base */
    { 2, 16, 0xfffffff0, "add up" },                /* n_fine */
    { 3, 0, 0, "tile is not where" },               /* first_index */
    { 4, 0, 128, "tail is not where" },             /* first_index */
    { 4, 8, 4, "tail is not where" },               /* n_tokens */
    { 4, 12, 1, "whole rows" },                     /* reserved */
    { 5, 48, 1, "add up" },                         /* n_tokens */
    { 6, 0, 5, "records are missing" },             /* n_records */
};

static void test_each_lie_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(LIES); i++) {
        struct export_memory m = sample();
        size_t at = export_record_at(m.bytes, LIES[i].record);
        const char *reason;

        memcpy(m.bytes + at + 16 + LIES[i].at, &LIES[i].value, 4);
        export_seal(m.bytes, m.n, at);
        assert_int_equal(read_all(m.bytes, m.n, &reason), EXPORT_E_CORRUPT);
        if (!strstr(reason, LIES[i].reason))
            fail_msg("lie %zu: %s", i, reason);
    }
}

/* Kinds in an order that makes no sense: every record as every other kind. */
static void test_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < EXPORT_SAMPLE_RECORDS; i++)
        for (uint32_t kind = 0; kind < 7; kind++) {
            struct export_memory m = sample();
            size_t at = export_record_at(m.bytes, i);
            const char *reason;
            uint32_t own;

            memcpy(&own, m.bytes + at, 4);
            memcpy(m.bytes + at, &kind, 4);
            if (own != kind)
                assert_int_not_equal(read_all(m.bytes, m.n, &reason), 0);
        }
}

static void test_version_and_length(void **state)
{
    struct export_memory m = sample();
    const char *reason;
    uint64_t huge = EXPORT_MAX_RECORD + 1;

    (void)state;
    m.bytes[8] = 2;
    assert_int_equal(read_all(m.bytes, m.n, &reason), EXPORT_E_VERSION);
    m.bytes[8] = 1;
    memcpy(m.bytes + 16 + 8, &huge, sizeof(huge));
    assert_int_equal(read_all(m.bytes, m.n, &reason), EXPORT_E_CORRUPT);
    assert_non_null(strstr(reason, "longer than any"));
    m.bytes[0] = 'd';
    assert_int_equal(read_all(m.bytes, m.n, &reason), EXPORT_E_CORRUPT);
    assert_non_null(strstr(reason, "magic"));
}

/* A full disk at any byte is a fault, not a file. */
static void test_full_disk(void **state)
{
    struct export_memory whole = sample();

    (void)state;
    for (size_t room = 1; room < whole.n; room += 3) {
        struct export_memory m = { .room = room };

        assert_int_equal(export_sample(&m), -28);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_as_it_comes),
        cmocka_unit_test(test_every_flip_is_seen),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_known_sum),
        cmocka_unit_test(test_each_lie_is_named),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_version_and_length),
        cmocka_unit_test(test_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
