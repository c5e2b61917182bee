/* daemon/session_read.c: ranges, layouts, damage */
#include "tests/unit/session_fixture.h"

/* some layers, another layout, another dtype, through staging */
static void test_staging_layout(void **state)
{
    struct fixture *f = *state;
    uint8_t *staging;
    uint64_t client_id = attach(f, STAGING_BYTES, &staging), id = create(f, NULL, 0, client_id);
    struct session_append op = append_op(f, id, 0, 200, false);
    float *rows = malloc(200 * ROW_BYTES);
    struct waiting_read w = { 0 };

    /* in: tokens backwards */
    for (size_t t = 0; t < 200; t++)
        memcpy(staging + (199 - t) * ROW_BYTES, f->input + t * ROW_NUMBERS, ROW_BYTES);
    op.from.client_id = client_id;
    op.from.tensor.offset = 199 * ROW_BYTES;
    op.from.tensor.stride_token = -ROW_BYTES;
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(read_run(f, id, 0, 200, rows).error.code, SESSION_OK);
    assert_memory_equal(rows + 128 * ROW_NUMBERS, f->input + 128 * ROW_NUMBERS, 72 * ROW_BYTES);

    /* out: layer 1 of tokens 100 … 200 as [kind][head][token][dim] from byte 64 on */
    memset(staging, 0xee, STAGING_BYTES);
    w.op.sequence_id = id;
    w.op.first_token = 100;
    w.op.n_tokens = 100;
    w.op.first_layer = 1;
    w.op.to.client_id = client_id;
    w.op.to.tensor = (struct dpq_tensor){ .dtype = DPQ_F32,
                                          .offset = 64,
                                          .stride_kind = N_HEADS * 100 * HEAD_DIM * 4,
                                          .stride_head = 100 * HEAD_DIM * 4,
                                          .stride_token = HEAD_DIM * 4 };
    read_start(f, &w);
    read_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    assert_int_equal(w.op.n_coded_tokens, 28);
    for (size_t kind = 0; kind < 2; kind++)
        for (size_t head = 0; head < N_HEADS; head++)
            for (size_t t = 0; t < 100; t++)
                assert_memory_equal(
                    staging + 64 + ((kind * N_HEADS + head) * 100 + t) * HEAD_DIM * 4,
                    rows + (100 + t) * ROW_NUMBERS + ((2 + kind) * N_HEADS + head) * HEAD_DIM,
                    HEAD_DIM * 4);
    assert_int_equal(staging[63], 0xee);
    assert_int_equal(staging[64 + 2 * N_HEADS * 100 * HEAD_DIM * 4], 0xee);
    dpq_unmap(staging, STAGING_BYTES);
    free(rows);
}

static void test_read_size(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), n_bytes;
    struct session_read op = { .sequence_id = id, .n_tokens = 100 };

    append(f, id, 0, 1100, false);
    op.to.tensor = fixture_rows(DPQ_F16);
    op.to.tensor.offset = 10;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 0);
    assert_int_equal(n_bytes, 10 + 100 * ROW_BYTES / 2);
    op.n_layers = 1;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 0);
    assert_int_equal(n_bytes, 10 + 99 * ROW_BYTES / 2 + ROW_BYTES / 4);
    op.n_layers = 3;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 1);
    assert_string_equal(op.error.reason, "LAYER_RANGE");
    op.n_layers = 0;
    op.n_tokens = 1100;
    op.to.tensor.stride_token = 1024;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 1);
    assert_string_equal(op.error.reason, "TENSOR");
    op.to.tensor.stride_token = -1024;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 1);
    op.to.tensor.stride_token = INT64_MAX;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 1);
    op.first_token = UINT64_MAX;
    assert_int_equal(session_read_size(f->session, &op, &n_bytes), 1);
    assert_string_equal(op.error.reason, "TOKEN_RANGE");
}

static void test_read_errors(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    float *rows = malloc(300 * ROW_BYTES);
    struct session_read op;
    struct store_object base, fine;

    append(f, id, 0, 96, false);
    op = read_run(f, id, 100, 128, rows);
    assert_int_equal(op.error.code, SESSION_OUT_OF_RANGE);
    assert_string_equal(op.error.reason, "TOKEN_RANGE");
    assert_string_equal(op.error.message,
                        "token range 100..228 is past the end: the sequence has 96 tokens");
    assert_int_equal(read_run(f, id, UINT64_MAX, 2, rows).error.code, SESSION_OUT_OF_RANGE);
    assert_int_equal(read_run(f, id, 96, 0, rows).error.code, SESSION_OK);
    assert_string_equal(read_run(f, id + 1, 0, 1, rows).error.reason, "SEQUENCE");

    append(f, id, 96, 200, false);
    stored(f, id, 1, &base, &fine);
    ((uint8_t *)base.bytes)[base.n_bytes / 2] ^= 1; /* as a memory error would */
    op = read_run(f, id, 0, 296, rows);
    assert_int_equal(op.error.code, SESSION_DATA_LOSS);
    assert_non_null(strstr(op.error.message, "128..256"));
    assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_OK);
    assert_int_equal(read_run(f, id, 256, 40, rows).error.code, SESSION_OK);
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_staging_layout),
        FIXTURE_TEST(test_read_size),
        FIXTURE_TEST(test_read_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
