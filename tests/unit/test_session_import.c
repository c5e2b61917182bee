/* daemon/session_import.c: another tenant's export, in any pieces, damaged, foreign, again */
#include "lib/base/crc32c.h"
#include "lib/base/half.h"
#include "tests/unit/export_fixture.h"

enum { OTHER = 1, N_TOKENS = 700 };

/* a file with one sequence of tenant 0's */
static struct bytes make_file(struct fixture *f, uint64_t *ret_id)
{
    struct bytes b = { 0 };
    uint64_t id = create(f, NULL, 0, 0);
    struct session_export_open op = { .sequence_id = id };

    append(f, id, 0, N_TOKENS, true);
    export_header(&b);
    export_run(f, op, &b);
    *ret_id = id;
    return b;
}

static struct session_read read_other(struct fixture *f, uint64_t id, float *rows)
{
    struct waiting_read w = { 0 };

    w.op.tenant = OTHER;
    w.op.sequence_id = id;
    w.op.n_tokens = N_TOKENS;
    w.op.to.tensor = fixture_rows(DPQ_F32);
    w.op.to.inline_bytes = rows;
    w.op.to.n_inline_bytes = (uint64_t)N_TOKENS * ROW_BYTES;
    read_start(f, &w);
    read_wait(&w);
    return w.op;
}

static uint64_t found_other(struct fixture *f)
{
    struct waiting_lookup w = { 0 };

    w.op.tenant = OTHER;
    w.op.prefix = fixture_prefix(f, f->ids, N_TOKENS);
    lookup_start(f, &w);
    lookup_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    return w.op.n_tokens;
}

static struct status status_other(struct fixture *f)
{
    struct status status;

    session_status(f->session, OTHER, &status);
    return status;
}

/* the sequence's record, then the rest from where the reply says; @good: where records are */
static struct session_import_data import_like(struct fixture *f, const struct bytes *b,
                                              const struct bytes *good, size_t step,
                                              uint64_t *ret_first)
{
    struct session_import *import = session_import_new(f->session, OTHER);
    size_t at = record_at(good, 1), n;
    struct session_import_data op;
    struct session_error error;

    assert_non_null(import);
    op = import_data(import, b->p, at);
    *ret_first = op.n_tokens;
    if (op.error.code == SESSION_OK) {
        at = record_at(good, 1 + op.n_tokens / DPQ_TILE_TOKENS);
        for (; at < b->n && op.error.code == SESSION_OK; at += n) {
            n = b->n - at < step ? b->n - at : step;
            op = import_data(import, b->p + at, n);
        }
    }
    if (op.error.code == SESSION_OK && session_import_end(import, &error))
        op.error = error;
    session_import_free(import);
    return op;
}

static struct session_import_data import_run(struct fixture *f, const struct bytes *b, size_t step,
                                             uint64_t *ret_first)
{
    return import_like(f, b, b, step, ret_first);
}

/* other keys, the same numbers; whatever the pieces */
static void test_round_trip(void **state)
{
    static const size_t STEPS[] = { 1 << 20, 1000, 77 };
    struct fixture *f = *state;
    float *want = malloc(N_TOKENS * ROW_BYTES), *got = malloc(N_TOKENS * ROW_BYTES);
    uint64_t id, first;
    struct bytes b = make_file(f, &id);

    assert_int_equal(read_run(f, id, 0, N_TOKENS, want).error.code, SESSION_OK);
    assert_int_equal(found_other(f), 0);
    for (size_t i = 0; i < ARRAY_SIZE(STEPS); i++) {
        struct waiting_release w = { .op = { .tenant = OTHER, .discard = DISCARD_TILES } };
        struct session_import_data op = import_run(f, &b, STEPS[i], &first);

        assert_int_equal(op.error.code, SESSION_OK);
        assert_int_equal(first, 0);
        assert_int_equal(op.n_tokens, N_TOKENS);
        assert_int_equal(op.n_shared_tokens, 0);
        assert_int_equal(found_other(f), N_TOKENS / 128 * 128);
        assert_int_equal(read_other(f, op.sequence_id, got).error.code, SESSION_OK);
        assert_memory_equal(want, got, N_TOKENS * ROW_BYTES);
        w.op.sequence_id = op.sequence_id;
        release_start(f, &w);
        release_wait(&w);
        assert_int_equal(found_other(f), 0);
        assert_int_equal(status_other(f).arena_used_bytes, 0);
        assert_int_equal(status_other(f).n_sequences, 0);
    }
    free(want);
    free(got);
    free(b.p);
}

/* it breaks off after each record: no sequence is left, and the tiles are found the next time */
static void test_goes_on(void **state)
{
    struct fixture *f = *state;
    uint64_t id, first;
    struct bytes b = make_file(f, &id);
    struct session_import_data op;

    for (size_t i = 1; i <= 5; i++) {
        struct bytes part = { b.p, record_at(&b, 1 + i) + 40 };

        op = import_run(f, &part, 1 << 20, &first);
        assert_string_equal(op.error.reason, "IMPORT_CUT");
        assert_int_equal(first, 128 * (i - 1));
        assert_int_equal(op.n_tokens, 128 * i);
        assert_int_equal(op.sequence_id, 0);
        assert_int_equal(found_other(f), 128 * i);
        assert_int_equal(status_other(f).n_sequences, 0);
    }
    op = import_run(f, &b, 1 << 20, &first);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(first, 640);
    assert_int_equal(op.n_shared_tokens, 640);
    assert_int_equal(status_other(f).n_tiles, 5);
    id = op.sequence_id;
    op = import_run(f, &b, 1 << 20,
                    &first); /* the same again is another sequence of the same tiles */
    assert_int_equal(op.error.code, SESSION_OK);
    assert_true(op.sequence_id != id);
    assert_int_equal(status_other(f).n_tiles, 5);
    free(b.p);
}

/* a bit flipped anywhere is noticed, and what is stored is what was good */
static void test_damage(void **state)
{
    struct fixture *f = *state;
    uint64_t id, first;
    struct bytes b = make_file(f, &id), bad = { malloc(b.n), b.n };
    float *want = malloc(N_TOKENS * ROW_BYTES), *got = malloc(N_TOKENS * ROW_BYTES);
    struct session_import_data op;

    for (size_t i = 0; i < 300; i++) {
        size_t at = i < 100 ? i : b.n / 200 * (i - 100) + i % 7;

        memcpy(bad.p, b.p, b.n);
        bad.p[at] ^= (uint8_t)(1 << i % 8);
        op = import_like(f, &bad, &b, 1 << 20, &first);
        if (at < record_at(&b, 1 + first / DPQ_TILE_TOKENS) && at >= record_at(&b, 1))
            continue; /* of a tile that is there already, and was not sent */
        if (op.error.code == SESSION_OK)
            fail_msg("byte %zu", at);
        assert_int_equal(op.error.code, SESSION_INVALID_ARGUMENT);
        assert_true(!strncmp(op.error.reason, "IMPORT_", 7));
        assert_int_equal(status_other(f).n_sequences, 0);
    }
    assert_int_equal(read_run(f, id, 0, N_TOKENS, want).error.code, SESSION_OK);
    op = import_run(f, &b, 1 << 20, &first);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(read_other(f, op.sequence_id, got).error.code, SESSION_OK);
    assert_memory_equal(want, got, N_TOKENS * ROW_BYTES);
    free(want);
    free(got);
    free(bad.p);
    free(b.p);
}

/* change a record's payload at an offset, and make its checksum right */
static void poke(struct bytes *b, size_t record, size_t offset, const void *bytes, size_t n)
{
    size_t at = record_at(b, record);
    uint64_t n_bytes;
    uint32_t crc;

    memcpy(&n_bytes, b->p + at + 8, sizeof(n_bytes));
    memcpy(b->p + at + 16 + offset, bytes, n);
    crc = crc32c(crc32c(0, &n_bytes, sizeof(n_bytes)), b->p + at + 16, n_bytes);
    memcpy(b->p + at + 4, &crc, sizeof(crc));
}

static void assert_refused(struct fixture *f, const struct bytes *good, size_t record,
                           size_t offset, uint64_t value, size_t n, const char *reason)
{
    struct bytes b = { malloc(good->n), good->n };
    struct session_import_data op;
    uint64_t first;

    memcpy(b.p, good->p, b.n);
    poke(&b, record, offset, &value, n);
    op = import_run(f, &b, 1 << 20, &first);
    assert_int_not_equal(op.error.code, SESSION_OK);
    if (strcmp(op.error.reason, reason))
        print_message("%s: %s\n", op.error.reason, op.error.message);
    assert_string_equal(op.error.reason, reason);
    assert_int_equal(op.sequence_id, 0);
    assert_int_equal(status_other(f).n_sequences, 0);
    free(b.p);
}

/* right sums over wrong things */
static void test_lies(void **state)
{
    enum { TILE = 24 }; /* where a tile's base begins */
    struct fixture *f = *state;
    uint64_t id;
    struct bytes b = make_file(f, &id);
    uint64_t huge = UINT64_C(1) << 31, old, first;
    struct session_import_data op;
    uint32_t raw_offset;

    /* a tile of gigabytes is not waited for */
    memcpy(&old, b.p + record_at(&b, 1) + 8, sizeof(old));
    memcpy(b.p + record_at(&b, 1) + 8, &huge, sizeof(huge));
    op = import_run(f, &b, 100, &first);
    memcpy(b.p + record_at(&b, 1) + 8, &old, sizeof(old));
    assert_string_equal(op.error.reason, "IMPORT_CORRUPT");
    assert_non_null(strstr(op.error.message, "2147483648"));

    assert_refused(f, &b, 0, 0, 1, 1, "PROFILE");
    assert_refused(f, &b, 0, 36, 3, 4, "IMPORT_CORRUPT"); /* rate */
    assert_refused(f, &b, 0, 36, 1, 4, "IMPORT_TILE");    /* not the tiles' */
    assert_refused(f, &b, 0, 40, UINT64_MAX, 8, "POSITION");
    assert_refused(f, &b, 0, 40, 1, 8, "IMPORT_TILE"); /* they are of position 0 */
    assert_refused(f, &b, 0, 48, 0, 8, "IMPORT_CORRUPT");
    assert_refused(f, &b, 1, TILE, 0, 4, "IMPORT_TILE");            /* magic */
    assert_refused(f, &b, 1, TILE + 4, 2, 2, "IMPORT_TILE");        /* version */
    assert_refused(f, &b, 1, TILE + 8, 1, 1, "IMPORT_TILE");        /* profile */
    assert_refused(f, &b, 1, TILE + 68, 1 << 30, 4, "IMPORT_TILE"); /* directory_offset */
    memcpy(&raw_offset, b.p + record_at(&b, 1) + 16 + TILE + 100, sizeof(raw_offset));
    assert_refused(f, &b, 1, TILE + raw_offset + 24, 0x7f800000, 4, "NOT_FINITE");
    /* from here on there are tiles, which are not asked for again */
    assert_refused(f, &b, 2, TILE + 48, 0, 8, "IMPORT_TILE"); /* first_index */
    assert_refused(f, &b, 0, 32, 1, 4, "IMPORT_CORRUPT"); /* dtype: the tail's rows are longer */
    assert_refused(f, &b, 6, 16 + 40, 0x7fc00000, 4, "NOT_FINITE");

    free(b.p);
}

/* Up to so many that share nothing. Return: how many went in before one was refused, or all */
static uint64_t import_many(struct fixture *f, uint32_t n_max, struct session_import_data *ret_op)
{
    uint64_t id, first, n = 0;
    struct bytes b = make_file(f, &id);

    ret_op->error.code = SESSION_OK;
    while (n < n_max && ret_op->error.code == SESSION_OK) {
        uint32_t token = 7 + (uint32_t)n;

        poke(&b, 0, 64, &token, sizeof(token)); /* another first token id */
        *ret_op = import_run(f, &b, 1 << 20, &first);
        n += ret_op->error.code == SESSION_OK;
    }
    free(b.p);
    return n;
}

/* An arena that is full says so: what was imported a moment ago is not cold. */
static void test_no_room(void **state)
{
    struct fixture *f = *state;
    struct session_import_data op;
    uint64_t n = import_many(f, 10000, &op);

    assert_true(n > 5);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_string_equal(op.error.reason, "ARENA_FULL");
    assert_true(op.error.retry_ms > 0);
    assert_int_equal(status_other(f).n_sequences, n);
    assert_int_equal(status_other(f).tokens_evicted, 0);
}

/* What is cold gives way to what comes, as it does to an append. */
static void test_makes_room(void **state)
{
    struct fixture *f = *state;
    float *got = malloc(N_TOKENS * ROW_BYTES);
    struct session_import_data op;

    f->config.cold_seconds = 0;
    session_reload(f->session, &f->config);
    assert_int_equal(import_many(f, 100, &op), 100);
    assert_int_equal(op.n_tokens, N_TOKENS);
    assert_int_equal(read_other(f, op.sequence_id, got).error.code, SESSION_OK);
    assert_true(status_other(f).fine_dropped > 0);
    assert_true(status_other(f).tokens_evicted > 0);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_round_trip), FIXTURE_TEST(test_goes_on), FIXTURE_TEST(test_damage),
        FIXTURE_TEST(test_lies),       FIXTURE_TEST(test_no_room), FIXTURE_TEST(test_makes_room),
    };

    return cmocka_run_group_tests_name("session_import", tests, NULL, NULL);
}
