/* daemon/session_length.c: where a sequence ends, after what was asked for before */
#include "daemon/session_stream.h"
#include "tests/unit/session_fixture.h"

WAITING(length);

static struct session_length length_run(struct fixture *f, uint64_t sequence_id)
{
    struct waiting_length w = { .op.sequence_id = sequence_id };

    length_start(f, &w);
    length_wait(&w);
    return w.op;
}

static void test_length(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_length op = length_run(f, id);

    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_tokens, 0);
    append(f, id, 0, 300, false);
    op = length_run(f, id);
    assert_int_equal(op.n_tokens, 300);
    assert_int_equal(op.n_tile_tokens, 256);
    assert_int_equal(op.generation, 2);
    op = length_run(f, id + 1);
    assert_int_equal(op.error.code, SESSION_NOT_FOUND);
    assert_string_equal(op.error.reason, "SEQUENCE");
}

/* it waits its turn: appends that were begun before are counted, a release before is heard of */
static void test_turns(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 20; i++) {
        uint64_t id = create(f, NULL, 0, 0);
        struct waiting_append a[2] = { { .op = append_op(f, id, 0, 400, true) },
                                       { .op = append_op(f, id, 400, 500, true) } };
        struct waiting_length l = { .op.sequence_id = id }, late = l;
        struct waiting_release r = { .op = { .sequence_id = id, .discard = true } };

        append_start(f, &a[0]);
        append_start(f, &a[1]);
        length_start(f, &l);
        release_start(f, &r);
        length_start(f, &late);
        append_wait(&a[0]);
        append_wait(&a[1]);
        length_wait(&l);
        release_wait(&r);
        length_wait(&late);
        assert_int_equal(l.op.error.code, SESSION_OK);
        assert_int_equal(l.op.n_tokens, 900);
        assert_int_equal(late.op.error.code, SESSION_NOT_FOUND);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_length),
        FIXTURE_TEST(test_turns),
    };

    return cmocka_run_group_tests_name("session_length", tests, NULL, NULL);
}
