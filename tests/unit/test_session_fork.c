/* session_fork: two sequences that share what they have and know nothing of each other */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_keep.h"
#include "daemon/session_verbs.h"
#include "tests/unit/session_kept.h"

WAITING(fork);

static struct session_fork fork_run(struct fixture *f, uint32_t tenant, uint64_t id, uint64_t n)
{
    struct waiting_fork w = { .op = { .tenant = tenant, .sequence_id = id, .n_tokens = n } };

    fork_start(f, &w);
    fork_wait(&w);
    return w.op;
}

static struct session_fork fork_of(struct fixture *f, uint64_t id, uint64_t n)
{
    struct session_fork op = fork_run(f, 0, id, n);

    if (op.error.code)
        print_message("%s: %s\n", op.error.reason, op.error.message);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_true(op.fork_id && op.fork_id != id);
    return op;
}

/* With ids and without: tiles are there once, tails twice; both go on, and end in any order. */
static void fork_and_go_on(struct fixture *f, bool with_ids)
{
    uint64_t id = create(f, NULL, 0, 0), branch;
    struct session_fork op;
    struct status before;
    float *rows, *own;

    append(f, id, 0, 300, with_ids);
    rows = read_all(f, id, 300);
    before = status_of(f);
    op = fork_of(f, id, 0);
    branch = op.fork_id;
    assert_int_equal(op.n_total_tokens, 300);
    assert_int_equal(op.n_tile_tokens, 256);
    assert_int_equal(op.n_lossy_tokens, 0);
    assert_int_equal(op.generation, 2);
    assert_int_equal(status_of(f).n_tiles, before.n_tiles);
    assert_int_equal(status_of(f).tail_bytes, 2 * before.tail_bytes);
    restart(f);
    expect(f, branch, 300, rows);
    append(f, branch, 300, 200, with_ids);
    expect(f, id, 300, rows);
    own = read_all(f, branch, 500);
    assert_memory_equal(own, rows, 256 * ROW_BYTES);
    append(f, id, 300, 10, with_ids);
    restart(f);
    expect(f, branch, 500, own);
    release_run(f, id, true); /* the origin first */
    restart(f);
    expect(f, branch, 500, own);
    assert_int_equal(lookup_run(f, f->ids, 500, branch, false).n_tokens, with_ids ? 500 : 0);
    id = fork_of(f, branch, 0).fork_id; /* a fork of a fork, of an origin that is gone */
    release_run(f, branch, true);
    restart(f);
    expect(f, id, 500, own);
    release_run(f, id, true);
    assert_int_equal(status_of(f).n_tiles, 0);
    assert_int_equal(status_of(f).arena_used_bytes, 0);
    free(rows);
    free(own);
}

static void test_fork(void **state)
{
    fork_and_go_on(*state, true);
    fork_and_go_on(*state, false);
}

/* As many as asked for: within the tail, at a tile's end, through a tile. */
static void test_partial(void **state)
{
    struct fixture *f = *state;
    static const uint32_t N[] = { 299, 256, 200, 128, 1 };
    uint64_t id = create(f, NULL, 0, 0);
    float *rows;

    append(f, id, 0, 300, true);
    rows = read_all(f, id, 300);
    for (size_t i = 0; i < ARRAY_SIZE(N); i++) {
        struct session_fork op = fork_of(f, id, N[i]);

        assert_int_equal(op.n_total_tokens, N[i]);
        assert_int_equal(op.n_lossy_tokens, N[i] < 256 ? N[i] % 128 : 0);
        expect(f, op.fork_id, N[i], rows);
        restart(f);
        expect(f, op.fork_id, N[i], rows);
        append(f, op.fork_id, N[i], 100, true);
        expect(f, id, 300, rows);
        assert_int_equal(release_run(f, op.fork_id, false).error.code, SESSION_OK);
    }
    free(rows);
}

/* An empty one, and one that has only adopted: forks are kept, whoever goes. */
static void test_of_unused(void **state)
{
    struct fixture *f = *state;
    uint64_t writer = create(f, NULL, 0, 0), client = attach(f, 0, NULL), empty, adopted, forks[2];
    float *rows;

    append(f, writer, 0, 128, true);
    rows = read_all(f, writer, 128);
    empty = create(f, NULL, 0, client);
    adopted = create(f, f->ids, 128, client);
    forks[0] = fork_of(f, empty, 0).fork_id;
    forks[1] = fork_of(f, adopted, 0).fork_id;
    session_client_gone(f->session, client);
    assert_string_equal(read_run(f, adopted, 0, 0, NULL).error.reason, "SEQUENCE");
    restart(f);
    expect(f, forks[0], 0, NULL);
    expect(f, forks[1], 128, rows);
    append(f, forks[0], 0, 10, true);
    free(rows);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_fork op;

    append(f, id, 0, 200, true);
    op = fork_run(f, 0, id, 201);
    assert_int_equal(op.error.code, SESSION_OUT_OF_RANGE);
    assert_string_equal(op.error.reason, "TOKEN_RANGE");
    assert_int_equal(fork_run(f, 0, id + 1, 0).error.code, SESSION_NOT_FOUND);
    assert_int_equal(fork_run(f, 1, id, 0).error.code, SESSION_NOT_FOUND); /* another tenant's */
    assert_int_equal(status_of(f).n_sequences, 1);
}

/* Asked again with its number: the same fork, also after a restart; a number that is free again is
 * a fork of its own, which no tile of the one before is taken for. */
static void test_by_key(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), other = create(f, NULL, 0, 0);
    struct waiting_fork w = { .op = { .sequence_id = id, .fork_key = 7 } };
    struct session_append op;
    float *rows, *old;
    uint64_t fork_id;

    append(f, id, 0, 100, false);
    append(f, other, 0, 100, false);
    for (int i = 0; i < 4; i++) {
        fork_start(f, &w);
        fork_wait(&w);
        assert_int_equal(w.op.error.code, SESSION_OK);
        assert_int_equal(w.op.n_total_tokens, i < 2 ? 100 : 130);
        if (i)
            assert_int_equal(w.op.fork_id, fork_id);
        fork_id = w.op.fork_id;
        assert_int_equal(status_of(f).n_sequences, 3);
        if (i == 1)
            append(f, fork_id, 100, 30, false);
        restart(f);
    }
    w.op.sequence_id = other; /* of another sequence: another one */
    fork_start(f, &w);
    fork_wait(&w);
    assert_int_not_equal(w.op.fork_id, fork_id);
    old = read_all(f, fork_id, 130);
    release_run(f, fork_id, false); /* its tile stays, cached */
    w.op.sequence_id = id;
    fork_start(f, &w);
    fork_wait(&w);
    assert_int_equal(w.op.fork_id, fork_id);
    assert_int_equal(w.op.n_total_tokens, 100);
    op = append_op(f, fork_id, 100, 30, false);
    op.from.inline_bytes = f->input + 900 * ROW_NUMBERS;
    assert_int_equal(append_run(f, op).error.code, SESSION_OK);
    rows = read_all(f, fork_id, 130);
    assert_memory_not_equal(rows, old, 128 * ROW_BYTES);
    restart(f);
    expect(f, fork_id, 130, rows);
    free(rows);
    free(old);
}

/* No room for a tail: nothing is left of the attempt. */
static void test_full(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), forks[200];
    struct session_fork op = { 0 };
    struct status before = { 0 };
    size_t n = 0;

    append(f, id, 0, 200, true);
    while (op.error.code == SESSION_OK && n < ARRAY_SIZE(forks)) {
        before = status_of(f);
        op = fork_run(f, 0, id, 0);
        forks[n] = op.fork_id;
        n += op.error.code == SESSION_OK;
    }
    assert_int_equal(op.error.code, SESSION_RESOURCE_EXHAUSTED);
    assert_string_equal(op.error.reason, "ARENA_FULL");
    assert_true(op.error.retry_ms > 0);
    assert_int_equal(status_of(f).n_sequences, before.n_sequences);
    assert_int_equal(status_of(f).tail_bytes, before.tail_bytes);
    while (n)
        release_run(f, forks[--n], true);
    release_run(f, id, true);
    assert_int_equal(status_of(f).arena_used_bytes, 0);
}

/* Killed before the record: a tail that nobody goes on with is freed. */
static void test_killed(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    const struct record_tail mark = { 0, 0 };
    struct sequence *sequence, unborn;
    struct tail_holder *tail;
    struct status before;

    append(f, id, 0, 200, true);
    restart(f);
    before = status_of(f);
    sequence = sequence_find(f->session, 0, id);
    unborn = *sequence;
    unborn.entry.id = id + 1;
    assert_int_equal(tail_holder_new(&unborn, &mark, 128, DPQ_F32, f->input, 72, 0, &tail), 0);
    restart(f);
    assert_int_equal(status_of(f).tail_bytes, before.tail_bytes);
    assert_int_equal(status_of(f).arena_used_bytes, before.arena_used_bytes);
    assert_int_equal(status_of(f).n_sequences, 1);
    free(tail);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fork, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_partial, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_of_unused, kept_setup, kept_teardown),
        cmocka_unit_test_setup_teardown(test_by_key, kept_setup, kept_teardown),
        FIXTURE_TEST(test_refused),
        FIXTURE_TEST(test_full),
        cmocka_unit_test_setup_teardown(test_killed, kept_setup, kept_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
