/* session_trim: what stays is what it was; what follows is never taken for what was there before */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "lib/base/half.h"
#include "tests/unit/session_kept.h"

WAITING(trim);
WAITING(fork);

static struct session_trim trim_run(struct fixture *f, uint64_t id, uint64_t n_tokens)
{
    struct waiting_trim w = { .op = { .sequence_id = id, .n_tokens = n_tokens } };

    trim_start(f, &w);
    trim_wait(&w);
    return w.op;
}

static struct session_trim trim(struct fixture *f, uint64_t id, uint64_t n_tokens)
{
    struct session_trim op = trim_run(f, id, n_tokens);

    if (op.error.code)
        print_message("%s: %s\n", op.error.reason, op.error.message);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_total_tokens, n_tokens);
    return op;
}

static uint64_t fork_of(struct fixture *f, uint64_t id)
{
    struct waiting_fork w = { .op = { .sequence_id = id } };

    fork_start(f, &w);
    fork_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
    return w.op.fork_id;
}

/* rows of other tokens than those of that place: from at of the input on */
static void append_other(struct fixture *f, uint64_t id, uint32_t first, uint32_t n, uint32_t at)
{
    struct session_append op = append_op(f, id, first, n, false);

    op.from.inline_bytes = f->input + (size_t)at * ROW_NUMBERS;
    assert_int_equal(append_run(f, op).error.code, SESSION_OK);
}

/* Within the tail, and to a tile's end: keys go on as if the rest had never been. */
static void test_keyed(void **state)
{
    struct fixture *f = *state;
    static const uint32_t STEPS[] = { 290, 257, 256, 128 };
    uint64_t id = create(f, NULL, 0, 0), generation;
    struct session_trim op;
    float *rows;

    generation = append(f, id, 0, 300, true).generation;
    rows = read_all(f, id, 300);
    for (size_t i = 0; i < ARRAY_SIZE(STEPS); i++) {
        op = trim(f, id, STEPS[i]);
        assert_int_equal(op.n_tile_tokens, STEPS[i] / 128 * 128);
        assert_int_equal(op.n_lossy_tokens, 0);
        assert_int_equal(op.generation, ++generation);
        expect(f, id, STEPS[i], rows);
        restart(f);
        expect(f, id, STEPS[i], rows);
        assert_int_equal(lookup_run(f, f->ids, 300, id, false).n_tokens,
                         STEPS[i] > 256 ? STEPS[i] : 256); /* tiles that were there are cached */
        assert_int_equal(trim(f, id, STEPS[i]).generation, generation); /* nothing to do */
        append(f, id, STEPS[i], 300 - STEPS[i], true);
        expect(f, id, 300, rows);
        generation = trim(f, id, STEPS[i]).generation;
    }
    append(f, id, 128, 300, true);
    assert_int_equal(lookup_run(f, f->ids, 428, id, false).n_tokens, 428);
    assert_int_equal(lookup_run(f, f->ids, 428, 0, false).n_tokens, 384);
    assert_int_equal(status_of(f).n_tiles, 3);
    free(rows);
}

static struct dpq_tensor rows_16(uint32_t dtype)
{
    return fixture_rows(dtype);
}

static void read_16(struct fixture *f, uint64_t id, uint32_t n, uint32_t dtype, uint16_t *rows)
{
    struct waiting_read w = { .op = { .sequence_id = id, .n_tokens = n } };

    w.op.to.tensor = rows_16(dtype);
    w.op.to.inline_bytes = rows;
    w.op.to.n_inline_bytes = (uint64_t)n * ROW_NUMBERS * 2;
    read_start(f, &w);
    read_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_OK);
}

static void append_16(struct fixture *f, uint64_t id, uint32_t first, uint32_t n, uint16_t *numbers)
{
    struct session_append op = append_op(f, id, first, n, true);

    for (uint32_t i = 0; i < n * ROW_NUMBERS; i++)
        numbers[i] = f16_from_f32(f->input[(size_t)first * ROW_NUMBERS + i]);
    op.from.tensor = rows_16(DPQ_F16);
    op.from.inline_bytes = numbers;
    op.from.n_inline_bytes = (uint64_t)n * ROW_NUMBERS * 2;
    op = append_run(f, op);
    assert_int_equal(op.error.code, SESSION_OK);
}

/* Through a tile: its head is what reads gave, in every dtype, and says that it is not raw. */
static void test_into_tile(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    uint16_t *before = malloc(2 * 300 * ROW_NUMBERS * 2), *after = malloc(300 * ROW_NUMBERS * 2);
    float *rows, *all;
    struct session_trim op;

    append(f, id, 0, 300, true);
    rows = read_all(f, id, 300);
    read_16(f, id, 200, DPQ_F16, before);
    read_16(f, id, 200, DPQ_BF16, before + 300 * ROW_NUMBERS);
    op = trim(f, id, 200);
    assert_int_equal(op.n_tile_tokens, 128);
    assert_int_equal(op.n_lossy_tokens, 72);
    assert_true(op.freed_bytes > 0);
    for (int i = 0; i < 2; i++) {
        expect(f, id, 200, rows);
        read_16(f, id, 200, DPQ_F16, after);
        assert_memory_equal(after, before, 200 * ROW_NUMBERS * 2);
        read_16(f, id, 200, DPQ_BF16, after);
        assert_memory_equal(after, before + 300 * ROW_NUMBERS, 200 * ROW_NUMBERS * 2);
        assert_int_equal(read_run(f, id, 120, 80, rows).n_coded_tokens, 80);
        free(rows);
        rows = read_all(f, id, 200);
        restart(f);
    }
    assert_int_equal(trim(f, id, 190).n_lossy_tokens, 62); /* and once more */
    /* rows of another dtype join it, bit for bit */
    append_16(f, id, 190, 20, before);
    assert_int_equal(read_run(f, id, 0, 0, NULL).error.code, SESSION_OK);
    read_16(f, id, 210, DPQ_F16, after);
    assert_memory_equal(after + 190 * ROW_NUMBERS, before, 20 * ROW_NUMBERS * 2);
    all = malloc(210 * ROW_BYTES);
    assert_int_equal(read_run(f, id, 0, 210, all).n_coded_tokens, 190);
    assert_memory_equal(all, rows, 190 * ROW_BYTES);
    restart(f);
    assert_int_equal(read_run(f, id, 185, 25, all).n_coded_tokens, 5);
    assert_int_equal(lookup_run(f, f->ids, 300, id, false).n_tokens, 256); /* the old tiles */
    /* the tile that it becomes is nobody else's, and the next tail is as usual */
    append_16(f, id, 210, 300, before);
    assert_int_equal(status_of(f).n_tiles, 2 + 2);
    read_16(f, id, 510, DPQ_F16, after = realloc(after, 510 * ROW_NUMBERS * 2));
    assert_memory_equal(after + 384 * ROW_NUMBERS, before + 174 * ROW_NUMBERS,
                        126 * ROW_NUMBERS * 2);
    assert_string_equal(append_run(f, append_op(f, id, 510, 1, true)).error.reason, "DTYPE");
    restart(f);
    read_16(f, id, 510, DPQ_F16, before = realloc(before, 510 * ROW_NUMBERS * 2));
    assert_memory_equal(after, before, 510 * ROW_NUMBERS * 2);
    assert_int_equal(lookup_run(f, f->ids, 510, 0, false).n_tokens, 256);
    release_run(f, id, true);
    assert_int_equal(status_of(f).n_tiles, 1); /* cut off, and cached: tokens 128 to 256 */
    free(before);
    free(after);
    free(rows);
    free(all);
}

/* Tiles without ids: new ones in an old one's place are others, even while the old one is there. */
static void test_private(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), branch, again;
    float *rows, *other;

    append(f, id, 0, 300, false);
    rows = read_all(f, id, 300);
    branch = fork_of(f, id);
    for (uint32_t i = 1; i <= 3; i++) {
        trim(f, id, 128);
        append_other(f, id, 128, 200, 300 * i);
        other = read_all(f, id, 328);
        assert_memory_equal(other, rows, 128 * ROW_BYTES);
        assert_memory_not_equal(other + 128 * ROW_NUMBERS, rows + 128 * ROW_NUMBERS,
                                128 * ROW_BYTES);
        restart(f);
        expect(f, id, 328, other);
        expect(f, branch, 300, rows);
        free(other);
        again = fork_of(f, id);
        restart(f);
        assert_int_equal(read_run(f, again, 328, 0, NULL).error.code, SESSION_OK);
        release_run(f, again, true);
    }
    assert_int_equal(status_of(f).n_tiles, 3);
    release_run(f, branch, true);
    assert_int_equal(status_of(f).n_tiles, 2);
    free(rows);
}

/* An empty sequence is one still, also for the next process and without its client. */
static void test_to_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t client = attach(f, 0, NULL), id = create(f, NULL, 0, client), adopted;
    float *rows;

    append(f, id, 0, 200, true);
    rows = read_all(f, id, 200);
    assert_int_equal(trim(f, id, 0).n_tile_tokens, 0);
    adopted = create(f, f->ids, 128, client);
    assert_int_equal(trim(f, adopted, 100).n_lossy_tokens, 100);
    session_client_gone(f->session, client);
    for (int i = 0; i < 2; i++) {
        expect(f, id, 0, NULL);
        expect(f, adopted, 100, rows);
        restart(f);
    }
    append(f, id, 0, 200, true);
    expect(f, id, 200, rows);
    assert_int_equal(status_of(f).n_tiles, 1);
    free(rows);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct waiting_trim w = { .op = { .tenant = 1, .sequence_id = id } };
    struct session_trim op;

    append(f, id, 0, 200, true);
    op = trim_run(f, id, 201);
    assert_int_equal(op.error.code, SESSION_OUT_OF_RANGE);
    assert_string_equal(op.error.reason, "TOKEN_RANGE");
    assert_string_equal(trim_run(f, id + 1, 0).error.reason, "SEQUENCE");
    trim_start(f, &w);
    trim_wait(&w);
    assert_int_equal(w.op.error.code, SESSION_NOT_FOUND);
    assert_int_equal(read_run(f, id, 200, 0, NULL).error.code, SESSION_OK);
}

/* Damage is named, and nothing has changed. */
static void test_damage(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct store_object base, fine;
    struct session_trim op;
    float *rows = malloc(72 * ROW_BYTES);

    append(f, id, 0, 200, true);
    stored(f, id, 0, &base, &fine);
    ((uint8_t *)(uintptr_t)base.bytes)[base.n_bytes / 2] ^= 1;
    op = trim_run(f, id, 100);
    assert_int_equal(op.error.code, SESSION_DATA_LOSS);
    assert_string_equal(op.error.reason, "CORRUPT");
    assert_int_equal(read_run(f, id, 128, 72, rows).error.code, SESSION_OK);
    free(rows);
}

/* Killed after each commit of a trim: the tail's, the record's. @n: what stays */
static void kill_steps(struct fixture *f, uint64_t id, uint32_t n, const float *rows)
{
    struct sequence *sequence = sequence_find(f->session, 0, id);
    uint32_t n_before = (uint32_t)sequence->n_tokens, n_rows = n % 128;
    struct record_tail mark = { sequence->tail_mark.version + 1, 0 };
    struct record_change change = { .has_ids = true,
                                    .first_token = n / 128 * 128,
                                    .has_tail = true,
                                    .tail = mark,
                                    .has_seal = true,
                                    .n_tiles = n / 128,
                                    .generation = 100 };
    struct tail_holder *tail = NULL;

    for (int step = 0; step < 2; step++) {
        sequence = sequence_find(f->session, 0, id);
        if (n_rows)
            assert_int_equal(tail_holder_new(sequence, &mark, n / 128 * 128, DPQ_F32,
                                             rows + (size_t)(n / 128 * 128) * ROW_NUMBERS, n_rows,
                                             0, &tail),
                             0);
        if (step)
            assert_int_equal(sequence_write(sequence, &change, 0), 0);
        restart(f);
        free(tail);
        tail = NULL;
        expect(f, id, step ? n : n_before, rows);
        assert_int_equal(status_of(f).tail_bytes, (step ? n_rows : n_before % 128) * ROW_BYTES);
    }
    assert_int_equal(sequence_find(f->session, 0, id)->generation, 100);
}

static void test_killed(void **state)
{
    struct fixture *f = *state;
    static const uint32_t STAY[] = { 290, 256, 200, 128, 0 };

    for (size_t i = 0; i < ARRAY_SIZE(STAY); i++) {
        uint64_t id = create(f, NULL, 0, 0);
        float *rows;

        append(f, id, 0, 300, true);
        rows = read_all(f, id, 300);
        kill_steps(f, id, STAY[i], rows);
        release_run(f, id, true);
        free(rows);
    }
}

/* An append that is killed before its record leaves a tile: not the next one's, with other rows. */
static void test_killed_append(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), clean = create(f, NULL, 0, 0);
    struct key_maker *maker = session_key_maker(f->session, -1);
    struct store_object base, fine;
    struct sequence *sequence;
    uint8_t key[KEY_BYTES];
    struct tile *tile;
    float *rows;

    append(f, id, 0, 100, false);
    append_other(f, clean, 0, 128, 500);
    rows = read_all(f, clean, 128);
    stored(f, clean, 0, &base, &fine);
    sequence = sequence_find(f->session, 0, id);
    assert_int_equal(key_private(maker, sequence->scope, sequence->private_id, 0, key), 0);

    struct store_put_args args = { .key = key,
                                   .parent = (const uint8_t[KEY_BYTES]){ 0 },
                                   .profile = f->profile_id,
                                   .base = base.bytes,
                                   .n_base = base.n_bytes,
                                   .fine = fine.bytes,
                                   .n_fine = fine.n_bytes };

    assert_int_equal(store_put(sequence->tenant->store, &args, 0, &tile), 0);
    restart(f);
    append(f, id, 100, 28, false);
    assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_OK);
    restart(f);
    expect(f, id, 128, rows);
    release_run(f, id, true);
    append(f, create(f, NULL, 0, 0), 0, 128, true); /* the same rows, under a key */
    id = create(f, f->ids, 128, 0);
    expect(f, id, 128, rows);
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_keyed, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_into_tile, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_private, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_to_nothing, kept_setup, kept_teardown),
        FIXTURE_TEST(test_refused),
        FIXTURE_TEST(test_damage),
        cmocka_unit_test_setup_teardown(test_killed, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_killed_append, kept_setup, kept_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
