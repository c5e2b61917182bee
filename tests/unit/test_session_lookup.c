/* daemon/session_lookup.c: prefixes that are stored */
#include "tests/unit/session_fixture.h"

static void test_sharing(void **state)
{
    struct fixture *f = *state;
    uint64_t first = create(f, f->ids, 300, 0), second, third;
    struct status status;
    struct session_append op;
    struct waiting_create w = { 0 };

    op = append(f, first, 0, 300, true);
    assert_int_equal(op.n_shared_tokens, 0);
    second = create(f, NULL, 0, 0); /* knows its ids only when it appends */
    op = append(f, second, 0, 50, true);
    assert_int_equal(op.n_shared_tokens, 0);
    op = append(f, second, 50, 250, true);
    assert_int_equal(op.n_shared_tokens, 256);
    status = status_of(f);
    assert_int_equal(status.n_tiles, 2);
    assert_int_equal(status.tokens_shared, 256);

    w.op.prefix = fixture_prefix(f, f->ids, 300); /* adopts at once */
    create_start(f, &w);
    create_wait(&w);
    third = w.op.sequence_id;
    assert_int_equal(w.op.n_tokens, 256);
    append(f, third, 256, 100, true);
    append(f, third, 356, 28, false); /* from here on nobody can look it up */
    op = append(f, third, 384, 256, true);
    assert_int_equal(op.n_shared_tokens, 0);
    assert_int_equal(status_of(f).n_tiles, 5);
    op = append_run(f, append_op(f, third, 384, 256, true)); /* hence not known as a repetition */
    assert_string_equal(op.error.reason, "FIRST_TOKEN");
    assert_int_equal(lookup_run(f, f->ids, 640, third, false).n_tokens, 256);

    /* another salt is another prefix; another tenant does not even know the sequence */
    strcpy(w.op.prefix.salt, "x");
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.n_tokens, 0);
    w.op.prefix.salt[0] = '\0';
    w.op.tenant = 1;
    create_start(f, &w);
    create_wait(&w);
    assert_int_equal(w.op.n_tokens, 0);

    /* the tiles of a released sequence stay findable, unless somebody says discard */
    release_run(f, first, false);
    release_run(f, second, false);
    assert_int_equal(lookup_run(f, f->ids, 300, 0, false).n_tokens, 256);
    release_run(f, third, true);
    assert_int_equal(lookup_run(f, f->ids, 300, 0, false).n_tokens, 0);
    assert_int_equal(status_of(f).n_tiles, 0);
}

static void test_lookup(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    struct session_lookup op;
    uint32_t other[300];

    append(f, id, 0, 300, true);
    op = lookup_run(f, f->ids, 290, id, true);
    assert_int_equal(op.n_tokens, 290);
    assert_int_equal(op.n_tile_tokens, 256);
    assert_int_equal(op.n_pairs, 2);
    assert_int_equal(op.lease_ms, 10000);
    assert_true(op.pairs[0].fine.slot != UINT64_MAX);
    assert_true(op.tail.slot != UINT64_MAX);
    free(op.pairs);
    op = lookup_run(f, f->ids, 1000, id, false);
    assert_int_equal(op.n_tokens, 300);
    assert_null(op.pairs);
    assert_true(op.tail.slot == UINT64_MAX);
    assert_int_equal(lookup_run(f, f->ids, 300, 0, false).n_tokens, 256);
    assert_int_equal(lookup_run(f, f->ids, 127, 0, false).n_tokens, 0);
    memcpy(other, f->ids, sizeof(other));
    other[256]++;
    assert_int_equal(lookup_run(f, other, 300, id, false).n_tokens, 256);
    other[5]++;
    assert_int_equal(lookup_run(f, other, 300, id, false).n_tokens, 0);
    assert_string_equal(lookup_run(f, f->ids, 300, 99, true).error.reason, "SEQUENCE");
    assert_true(status_of(f).lookup_tokens_hit > 0);
}

/* more ids than are hashed inline: the answer comes from a worker */
static void test_long_lookup(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0);
    uint32_t *ids = calloc(100000, sizeof(*ids));

    append(f, id, 0, 256, true);
    memcpy(ids, f->ids, sizeof(f->ids));
    assert_int_equal(lookup_run(f, ids, 100000, 0, false).n_tokens, 256);
    id = create(f, ids, 100000, 0);
    assert_string_equal(append_run(f, append_op(f, id, 0, 1, false)).error.reason, "FIRST_TOKEN");
    append(f, id, 256, 10, true);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_sharing),
        FIXTURE_TEST(test_lookup),
        FIXTURE_TEST(test_long_lookup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
