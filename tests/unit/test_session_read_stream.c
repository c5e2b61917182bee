/* daemon/session_read_stream.c: a range in chunks, of one state */
#include "daemon/session_stream.h"
#include "tests/unit/session_fixture.h"

enum { CELL = 2 * N_HEADS * HEAD_DIM }; /* numbers of one token of one layer */

struct waiting_chunk {
    struct session_chunk chunk;
    bool done; /* atomic */
};

static void chunk_done(struct session_chunk *chunk)
{
    __atomic_store_n(&((struct waiting_chunk *)chunk)->done, true, __ATOMIC_RELEASE);
}

static bool next(struct session_read_stream *stream, struct session_chunk *ret_chunk)
{
    struct waiting_chunk w = { .chunk.done = chunk_done };

    if (session_read_next(stream, &w.chunk))
        return false;
    while (!__atomic_load_n(&w.done, __ATOMIC_ACQUIRE))
        usleep(50);
    *ret_chunk = w.chunk;
    return true;
}

/* into canonical rows that begin at the range's first token */
static void put(float *rows, uint64_t first, const struct session_chunk *chunk)
{
    const float *from = chunk->bytes;

    for (uint32_t layer = 0; layer < chunk->n_layers; layer++)
        for (uint32_t unit = 0; unit < 2 * N_HEADS; unit++)
            for (uint32_t t = 0; t < chunk->n_tokens; t++, from += HEAD_DIM)
                memcpy(rows + (chunk->first_token + t - first) * ROW_NUMBERS +
                           ((chunk->first_layer + layer) * 2 * N_HEADS + unit) * HEAD_DIM,
                       from, HEAD_DIM * sizeof(float));
}

static void read_stream(struct fixture *f, struct session_read_open op, float *rows,
                        uint32_t *ret_n_chunks)
{
    struct session_read_stream *stream;
    struct session_chunk chunk = { 0 };
    uint32_t n = 0;

    assert_int_equal(session_read_open(f->session, &op, &stream), 0);
    for (; next(stream, &chunk); n++) {
        assert_int_equal(chunk.error.code, SESSION_OK);
        assert_int_equal(chunk.n_bytes, 4 * CELL * chunk.n_layers * chunk.n_tokens);
        assert_true(!op.max_chunk_bytes || chunk.n_bytes <= op.max_chunk_bytes);
        put(rows, op.first_token, &chunk);
        free(chunk.bytes);
    }
    session_read_close(stream);
    *ret_n_chunks = n;
}

/* whatever the size of the chunks, the numbers are those of a read */
static void test_chunks(void **state)
{
    static const struct {
        uint64_t cells; /* of a chunk; 0: as many as there may be */
        uint32_t n_chunks;
    } CASES[] = {
        { 0, 4 },   /* 28 + 128 + 128 of tiles, 40 of the tail */
        { 256, 4 }, /* 128 tokens of both layers */
        { 255, 6 }, /* of one */
        { 100, 8 }, /* 28: 1; 100 and 28: 2 + 1 each; 40: 1 */
        { 1, 648 },
    };
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    float *want = malloc(324 * ROW_BYTES), *rows = malloc(324 * ROW_BYTES);

    append(f, id, 0, 424, false);
    assert_int_equal(read_run(f, id, 100, 324, want).error.code, SESSION_OK);
    for (size_t i = 0; i < ARRAY_SIZE(CASES); i++) {
        struct session_read_open op = { .sequence_id = id, .first_token = 100, .n_tokens = 324 };
        uint32_t n_chunks;

        op.max_chunk_bytes = CASES[i].cells * CELL * 4;
        memset(rows, 0xee, 324 * ROW_BYTES);
        read_stream(f, op, rows, &n_chunks);
        assert_memory_equal(rows, want, 324 * ROW_BYTES);
        assert_int_equal(n_chunks, CASES[i].n_chunks);
    }
    free(want);
    free(rows);
}

/* what is sealed, or given up, while it is read stays what it was */
static void test_one_state(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_read_open op = { .sequence_id = id, .n_tokens = 200 };
    struct session_read_stream *stream;
    struct session_chunk chunk = { 0 };
    float *want = malloc(200 * ROW_BYTES), *rows = malloc(200 * ROW_BYTES);

    append(f, id, 0, 200, false);
    assert_int_equal(read_run(f, id, 0, 200, want).error.code, SESSION_OK);
    op.max_chunk_bytes = 128 * CELL * 4;
    assert_int_equal(session_read_open(f->session, &op, &stream), 0);
    assert_int_equal(op.generation, 1);
    assert_true(next(stream, &chunk));
    assert_true(chunk.is_coded);
    put(rows, 0, &chunk);
    free(chunk.bytes);
    append(f, id, 200, 100, false);
    assert_int_equal(release_run(f, id, true).error.code, SESSION_OK);
    while (next(stream, &chunk)) {
        assert_int_equal(chunk.error.code, SESSION_OK);
        assert_int_equal(chunk.is_coded, chunk.first_token < 128);
        put(rows, 0, &chunk);
        free(chunk.bytes);
    }
    assert_memory_equal(rows, want, 200 * ROW_BYTES);
    session_read_close(stream);
    assert_int_equal(status_of(f).tail_bytes, 0);
    free(want);
    free(rows);
}

static void drop_fine(struct fixture *f, uint64_t sequence_id, size_t i)
{
    session_lock(f->session);
    assert_int_equal(
        tile_drop_fine(sequence_find(f->session, 0, sequence_id)->tiles[i], session_now_ns(), NULL),
        0);
    session_unlock(f->session);
}

/* chunks say of which tile the fine plane is gone; not that it was not wanted */
static void test_dropped(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);

    append(f, id, 0, 300, false);
    drop_fine(f, id, 1);
    for (int base_only = 0; base_only < 2; base_only++) {
        struct session_read_open op = { .sequence_id = id, .n_tokens = 300 };
        struct session_read_stream *stream;
        struct session_chunk chunk = { 0 };

        op.base_only = base_only;
        op.max_chunk_bytes = 128 * CELL * 4; /* one layer each */
        assert_int_equal(session_read_open(f->session, &op, &stream), 0);
        while (next(stream, &chunk)) {
            assert_int_equal(chunk.error.code, SESSION_OK);
            assert_int_equal(chunk.is_dropped, chunk.first_token == 128);
            free(chunk.bytes);
        }
        session_read_close(stream);
    }
}

static void assert_refused(struct fixture *f, struct session_read_open op, const char *reason)
{
    struct session_read_stream *stream = NULL;

    assert_int_equal(session_read_open(f->session, &op, &stream), 1);
    assert_string_equal(op.error.reason, reason);
    assert_null(stream);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_read_open op = { .sequence_id = id, .n_tokens = 200 };
    struct session_read_stream *stream;
    struct store_object base, fine;
    struct session_chunk chunk = { 0 };

    assert_refused(f, op, "TOKEN_RANGE");
    append(f, id, 0, 200, false);
    op.max_chunk_bytes = CELL * 4 - 1;
    assert_refused(f, op, "CHUNK_SIZE");
    op.max_chunk_bytes = SESSION_MAX_INLINE_BYTES + 1;
    assert_refused(f, op, "CHUNK_SIZE");
    op.max_chunk_bytes = 0;
    op.dtype = 3;
    assert_refused(f, op, "TENSOR");
    op.dtype = DPQ_F16;
    op.first_layer = 2;
    assert_refused(f, op, "LAYER_RANGE");
    op.first_layer = 0;
    op.tenant = 1;
    assert_refused(f, op, "SEQUENCE");
    op.tenant = 0;

    stored(f, id, 0, &base, &fine);
    ((uint8_t *)base.bytes)[base.n_bytes / 2] ^= 1; /* as a memory error would */
    assert_int_equal(session_read_open(f->session, &op, &stream), 0);
    assert_true(next(stream, &chunk));
    assert_int_equal(chunk.error.code, SESSION_DATA_LOSS);
    assert_null(chunk.bytes);
    session_read_close(stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_chunks),
        FIXTURE_TEST(test_one_state),
        FIXTURE_TEST(test_dropped),
        FIXTURE_TEST(test_refused),
    };

    return cmocka_run_group_tests_name("session_read_stream", tests, NULL, NULL);
}
