/* daemon/session_export.c: a sequence as records, in pieces, from where somebody has it */
#include "tests/unit/export_fixture.h"

static struct session_export_open open_op(uint64_t id)
{
    return (struct session_export_open){ .sequence_id = id };
}

static void test_records(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct bytes b = { 0 };
    struct export_reader reader;
    struct export_record record;
    struct store_object base, fine;

    append(f, id, 0, 1100, true);
    export_header(&b);
    export_run(f, open_op(id), &b);
    export_reader_init(&reader, b.p, b.n);
    assert_int_equal(export_next(&reader, &record), 0);
    assert_int_equal(record.kind, EXPORT_SEQUENCE);
    assert_int_equal(record.sequence.n_tokens, 1100);
    assert_int_equal(record.sequence.dtype, DPQ_F32);
    assert_memory_equal(record.sequence.tokens, f->ids, 4 * 1100);
    assert_memory_equal(record.sequence.profile, f->profile_id, 32);
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(export_next(&reader, &record), 0);
        stored(f, id, i, &base, &fine);
        assert_int_equal(record.tile.first_index, 128 * i);
        assert_int_equal(record.tile.n_base, base.n_bytes);
        assert_memory_equal(record.tile.base, base.bytes, base.n_bytes);
        assert_int_equal(record.tile.n_fine, fine.n_bytes);
        assert_memory_equal(record.tile.fine, fine.bytes, fine.n_bytes);
    }
    assert_int_equal(export_next(&reader, &record), 0);
    assert_int_equal(record.kind, EXPORT_TAIL);
    assert_int_equal(record.tail.n_tokens, 76);
    assert_memory_equal(record.tail.rows, f->input + 1024 * ROW_NUMBERS, 76 * ROW_BYTES);
    assert_int_equal(reader.at, b.n);
    assert_int_equal(reader.n_left, 0);
    free(b.p);
}

/* wherever it broke off, what is asked for is what is missing, whatever was appended meanwhile */
static void test_the_rest(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct bytes whole = { 0 }, part = { 0 };
    struct session_export_open op = open_op(id);
    struct session_export *export;
    uint32_t crc32c;

    append(f, id, 0, 600, true);
    export_header(&whole);
    export_run(f, op, &whole);
    append(f, id, 600, 20, true);
    op.n_tokens = 600;
    op.is_rest = true;
    memcpy(&crc32c, whole.p + 16 + 4, sizeof(crc32c));
    op.sequence_crc32c = crc32c;
    for (uint64_t i = 0; i <= 5; i++) {
        size_t at = i < 5 ? record_at(&whole, 1 + i) : whole.n;

        op.first_index = i < 5 ? 128 * i : 600;
        part.n = 0;
        bytes_put(&part, whole.p, at);
        if (i < 5) {
            export_run(f, op, &part);
        } else {
            struct session_piece piece;

            assert_int_equal(session_export_open(f->session, &op, &export), 0);
            assert_false(piece_next(export, &piece));
            session_export_close(export);
        }
        assert_int_equal(part.n, whole.n);
        assert_memory_equal(part.p, whole.p, whole.n);
    }

    op.first_index = 100;
    assert_int_equal(session_export_open(f->session, &op, &export), 1);
    assert_string_equal(op.error.reason, "TOKEN_RANGE");
    op.first_index = 128;
    op.sequence_crc32c = crc32c + 1;
    assert_int_equal(session_export_open(f->session, &op, &export), 1);
    assert_string_equal(op.error.reason, "EXPORT_CHANGED");
    op.sequence_crc32c = crc32c;
    append(f, id, 620, 30, true); /* the tail becomes a tile */
    assert_int_equal(session_export_open(f->session, &op, &export), 1);
    assert_string_equal(op.error.reason, "EXPORT_CHANGED");
    assert_non_null(strstr(op.error.message, "512 … 600"));
    free(whole.p);
    free(part.p);
}

/* what happens to the sequence while it is exported does not show */
static void test_one_state(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_export_open op = open_op(id);
    struct bytes before = { 0 }, after = { 0 };
    struct session_export *export;
    struct session_piece piece;

    append(f, id, 0, 200, true);
    export_run(f, op, &before);
    assert_int_equal(session_export_open(f->session, &op, &export), 0);
    assert_int_equal(op.ret_n_tokens, 200);
    append(f, id, 200, 100, true);
    release_run(f, id, true);
    while (piece_next(export, &piece)) {
        bytes_put(&after, piece.bytes, piece.n_bytes);
        free(piece.bytes);
    }
    session_export_close(export);
    assert_int_equal(before.n, after.n);
    assert_memory_equal(before.p, after.p, before.n);
    assert_int_equal(status_of(f).tail_bytes, 0);
    free(before.p);
    free(after.p);
}

static void assert_refused(struct fixture *f, struct session_export_open op, const char *reason)
{
    struct session_export *export;

    assert_int_equal(session_export_open(f->session, &op, &export), 1);
    assert_string_equal(op.error.reason, reason);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), unnamed = create(f, NULL, 0, 0);
    struct session_export_open op = open_op(id);
    struct session_export *export;
    struct store_object base, fine;
    struct session_piece piece;

    assert_refused(f, op, "EXPORT_EMPTY");
    append(f, id, 0, 300, true);
    op.n_tokens = 301;
    assert_refused(f, op, "TOKEN_RANGE");
    op.n_tokens = 200;
    assert_refused(f, op, "TOKEN_RANGE");
    op.n_tokens = 0;
    op.tenant = 1;
    assert_refused(f, op, "SEQUENCE");
    op.tenant = 0;
    snprintf(op.salt, sizeof(op.salt), "x");
    assert_refused(f, op, "ADAPTER_SALT");

    append(f, unnamed, 0, 128, true);
    append(f, unnamed, 128, 10, false);
    op = open_op(unnamed);
    assert_refused(f, op, "EXPORT_IDS");
    op.n_tokens = 128;
    assert_int_equal(session_export_open(f->session, &op, &export), 0);
    session_export_close(export);

    stored(f, id, 1, &base, &fine);
    ((uint8_t *)base.bytes)[base.n_bytes / 2] ^= 1; /* as a memory error would */
    op = open_op(id);
    assert_int_equal(session_export_open(f->session, &op, &export), 0);
    assert_true(piece_next(export, &piece));
    assert_int_equal(piece.error.code, SESSION_DATA_LOSS);
    assert_int_equal(piece.error.token, 128);
    session_export_close(export);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_records),
        FIXTURE_TEST(test_the_rest),
        FIXTURE_TEST(test_one_state),
        FIXTURE_TEST(test_refused),
    };

    return cmocka_run_group_tests_name("session_export", tests, NULL, NULL);
}
