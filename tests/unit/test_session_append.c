/* daemon/session_append.c and session_commit.c: rows in, tiles and a tail out */
#include <math.h>

#include "tests/unit/session_fixture.h"

static void test_splits(void **state)
{
    static const uint32_t SPLITS[] = { 1, 2, 5, 119, 1, 127, 1, 129, 255, 60 };
    struct fixture *f = *state;
    uint64_t whole = create(f, NULL, 0, 0), split = create(f, NULL, 0, 0);
    float *a = malloc(700 * ROW_BYTES), *b = malloc(700 * ROW_BYTES);
    struct session_append op;
    struct session_read r;
    uint32_t at = 0;

    op = append(f, whole, 0, 700, false);
    assert_int_equal(op.n_tile_tokens, 640);
    assert_int_equal(op.generation, 5);
    for (size_t i = 0; i < ARRAY_SIZE(SPLITS); i++) {
        op = append(f, split, at, SPLITS[i], false);
        at += SPLITS[i];
        assert_int_equal(op.n_tile_tokens, at / 128 * 128);
        assert_int_equal(op.generation, at / 128);
    }
    assert_int_equal(at, 700);
    assert_same_tiles(f, whole, split, 5);

    r = read_run(f, whole, 0, 700, a);
    assert_int_equal(r.error.code, SESSION_OK);
    assert_int_equal(r.n_coded_tokens, 640);
    assert_int_equal(r.generation, 5);
    r = read_run(f, split, 0, 700, b);
    assert_int_equal(r.error.code, SESSION_OK);
    assert_memory_equal(a, b, 700 * ROW_BYTES);
    assert_memory_equal(a + 640 * ROW_NUMBERS, f->input + 640 * ROW_NUMBERS, 60 * ROW_BYTES);
    /* a part of it gives the same numbers */
    r = read_run(f, split, 100, 560, b);
    assert_int_equal(r.n_coded_tokens, 540);
    assert_memory_equal(a + 100 * ROW_NUMBERS, b, 560 * ROW_BYTES);
    free(a);
    free(b);
}

/* decoded numbers resemble the input: relative error of the energy */
static void test_quality(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    float *rows = malloc(512 * ROW_BYTES);
    double error = 0, energy = 0;

    append(f, id, 0, 512, false);
    assert_int_equal(read_run(f, id, 0, 512, rows).error.code, SESSION_OK);
    for (size_t i = 0; i < 512 * ROW_NUMBERS; i++) {
        double d = (double)rows[i] - (double)f->input[i];

        error += d * d;
        energy += (double)f->input[i] * (double)f->input[i];
    }
    assert_true(error / energy < 0.1);
    free(rows);
}

static void test_repeated(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_append op;

    append(f, id, 0, 200, true);
    op = append_run(f, append_op(f, id, 100, 100, true));
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_total_tokens, 200);
    assert_int_equal(op.n_shared_tokens, 100);
    op = append_run(f, append_op(f, id, 100, 101, true)); /* partly new */
    assert_string_equal(op.error.reason, "FIRST_TOKEN");
    op = append_run(f, append_op(f, id, 100, 100, false)); /* nothing to compare */
    assert_string_equal(op.error.reason, "FIRST_TOKEN");
    op = append_op(f, id, 100, 100, true);
    op.token_ids = f->ids; /* others */
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_OUT_OF_RANGE);
    assert_int_equal(status_of(f).tokens_appended, 200);
}

static void test_append_errors(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct status before;
    struct session_append op;
    float *bad;

    append(f, id, 0, 100, false);
    before = status_of(f);

    bad = malloc(500 * ROW_BYTES);
    memcpy(bad, f->input, 500 * ROW_BYTES);
    bad[400 * ROW_NUMBERS + HEAD_DIM * (N_HEADS * 3 + 1) + 7] = NAN; /* layer 1, V, head 1 */
    bad[450 * ROW_NUMBERS] = INFINITY;
    op = append_op(f, id, 100, 500, false);
    op.from.inline_bytes = bad;
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_INVALID_ARGUMENT);
    assert_string_equal(op.error.reason, "NOT_FINITE");
    assert_int_equal(op.error.layer, 1);
    assert_int_equal(op.error.kind, DPQ_V);
    assert_int_equal(op.error.head, 1);
    assert_int_equal(op.error.token, 400);
    assert_non_null(strstr(op.error.message, "token 500 of the sequence"));
    free(bad);

    op = append_op(f, id, 100, 500, false);
    op.from.n_inline_bytes--;
    op = append_run(f, op);
    assert_string_equal(op.error.reason, "TENSOR");
    op = append_op(f, id, 100, 5, false);
    op.from.tensor.dtype = 3;
    assert_string_equal(append_run(f, op).error.reason, "TENSOR");
    op = append_op(f, id, 100, 5, false);
    op.from.tensor.dtype = DPQ_BF16;
    op = append_run(f, op);
    assert_string_equal(op.error.reason, "DTYPE");
    op = append_op(f, id, 100, 5, true);
    op.n_token_ids = 4;
    assert_string_equal(append_run(f, op).error.reason, "TOKEN_IDS");
    op = append_op(f, id, 99, 5, false);
    op = append_run(f, op);
    assert_string_equal(op.error.reason, "FIRST_TOKEN");
    assert_non_null(strstr(op.error.message, "100 tokens"));
    op = append_op(f, id, 100, 5, false);
    op.n_tokens = 0;
    assert_int_equal(append_run(f, op).error.code, SESSION_INVALID_ARGUMENT);
    op = append_op(f, id + 1, 100, 5, false);
    assert_string_equal(append_run(f, op).error.reason, "SEQUENCE");
    op = append_op(f, id, 100, 5, false);
    op.tenant = 1;
    assert_string_equal(append_run(f, op).error.reason, "SEQUENCE");
    op = append_op(f, id, 100, 5, false);
    op.from.client_id = 12345;
    assert_string_equal(append_run(f, op).error.reason, "CLIENT");

    struct status after = status_of(f);

    assert_same_status(&before, &after);
    append(f, id, 100, 50, false);
}

/* a tail keeps one dtype, bit for bit; after its tile another may follow */
static void test_dtypes(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    uint16_t *rows = malloc(200 * ROW_BYTES / 2), *out = malloc(200 * ROW_BYTES / 2);
    struct session_append op = { .sequence_id = id, .n_tokens = 100 };
    struct waiting_read w = { 0 };

    for (size_t i = 0; i < 200 * ROW_NUMBERS; i++)
        rows[i] = (uint16_t)(0x3f80 + i % 64); /* bf16: 1 … */
    rows[99 * ROW_NUMBERS] = 0x7149;           /* 1e30 */
    op.from.tensor = fixture_rows(DPQ_BF16);
    op.from.inline_bytes = rows;
    op.from.n_inline_bytes = 200 * ROW_BYTES / 2;
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_OK);
    w.op.sequence_id = id;
    w.op.n_tokens = 100;
    w.op.to = op.from;
    w.op.to.inline_bytes = out;
    read_start(f, &w);
    read_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    assert_memory_equal(rows, out, 100 * ROW_BYTES / 2);
    op = append_run(f, append_op(f, id, 100, 28, false));
    assert_string_equal(op.error.reason, "DTYPE");
    assert_non_null(strstr(op.error.message, "bf16"));
    free(rows);
    free(out);

    id = create(f, NULL, 0, 0);
    append(f, id, 0, 128, false);
    op = append_op(f, id, 128, 3, false);
    op.from.tensor = fixture_rows(DPQ_F16);
    memset(op.from.inline_bytes, 0, 3 * ROW_BYTES);
    assert_int_equal(append_run(f, op).error.code, SESSION_OK);
}

static void test_arena_full(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[1000], n = 0;
    float *a = malloc(300 * ROW_BYTES), *b = malloc(300 * ROW_BYTES);
    struct status before, after;
    struct session_append op;

    for (;; n++) {
        assert_true(n < 1000);
        ids[n] = create(f, NULL, 0, 0);
        before = status_of(f);
        op = append_run(f, append_op(f, ids[n], 0, 300, false));
        if (op.error.code)
            break;
    }
    assert_true(n >= 2);
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_string_equal(op.error.reason, "ARENA_FULL");
    assert_true(op.error.retry_ms > 0);
    after = status_of(f);
    assert_same_status(&before, &after);
    assert_int_equal(read_run(f, ids[0], 0, 300, a).error.code, SESSION_OK);
    assert_true(release_run(f, ids[1], true).freed_bytes > 0);
    append(f, ids[n], 0, 300, false);
    assert_int_equal(read_run(f, ids[n], 0, 300, b).error.code, SESSION_OK);
    assert_memory_equal(a, b, 300 * ROW_BYTES);

    /* a full arena makes room by evicting what nobody holds */
    while (n-- > 2)
        release_run(f, ids[n], false);
    for (int i = 0; i < 20; i++) {
        uint64_t id = create(f, NULL, 0, 0);

        append(f, id, 0, 300, false);
        release_run(f, id, false);
    }
    free(a);
    free(b);
}

struct thread {
    pthread_t thread;
    struct fixture *f;
    uint64_t shared_id; /* a sequence that all of them read while one appends */
    uint32_t me;
};

/* two who append to one sequence: each position is taken by one, in order, and nothing is lost */
static void *race(void *argument)
{
    struct thread *t = argument;

    for (uint32_t at = 0; at < 600;) {
        struct session_append op = append_run(t->f, append_op(t->f, t->shared_id, at, 30, true));

        assert_true(op.error.code == SESSION_OK || !strcmp(op.error.reason, "FIRST_TOKEN"));
        if (op.error.code == SESSION_OK)
            at += 30; /* appended, or found there: the ids are the same */
    }
    return NULL;
}

static void test_race(void **state)
{
    struct fixture *f = *state;
    struct thread threads[2];
    uint64_t id = create(f, NULL, 0, 0), whole = create(f, NULL, 0, 0);
    float *a = malloc(600 * ROW_BYTES), *b = malloc(600 * ROW_BYTES);

    for (uint32_t i = 0; i < 2; i++) {
        threads[i] = (struct thread){ .f = f, .shared_id = id };
        assert_int_equal(pthread_create(&threads[i].thread, NULL, race, &threads[i]), 0);
    }
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(threads[i].thread, NULL);
    assert_int_equal(status_of(f).tokens_appended, 600);
    append(f, whole, 0, 600, false);
    assert_int_equal(read_run(f, id, 0, 600, a).error.code, SESSION_OK);
    assert_int_equal(read_run(f, whole, 0, 600, b).error.code, SESSION_OK);
    assert_memory_equal(a, b, 600 * ROW_BYTES);
    free(a);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_splits),        FIXTURE_TEST(test_quality), FIXTURE_TEST(test_repeated),
        FIXTURE_TEST(test_append_errors), FIXTURE_TEST(test_dtypes),  FIXTURE_TEST(test_arena_full),
        FIXTURE_TEST(test_race),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
