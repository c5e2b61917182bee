/* session_release: Delete frees what nobody can look up, and leaves the rest to Lookup */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_keep.h"
#include "tests/unit/session_kept.h"

static struct session_release delete_run(struct fixture *f, uint32_t tenant, uint64_t id)
{
    struct waiting_release w = {
        .op = { .tenant = tenant, .sequence_id = id, .discard = DISCARD_PRIVATE_TILES }
    };

    release_start(f, &w);
    release_wait(&w);
    return w.op;
}

/* 128 tokens with ids, then some without: the second tile is private. */
static void test_delete(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), plain = create(f, NULL, 0, 0);
    struct session_release op;

    append(f, id, 0, 200, true);
    append(f, id, 200, 100, false);
    append(f, plain, 0, 256, false);
    assert_int_equal(status_of(f).n_tiles, 4);
    assert_int_equal(delete_run(f, 1, id).error.code, SESSION_NOT_FOUND); /* another tenant's */
    op = delete_run(f, 0, id);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_true(op.freed_bytes > 44 * ROW_BYTES);
    assert_int_equal(status_of(f).n_tiles, 3);
    assert_int_equal(status_of(f).tail_bytes, 0);
    assert_int_equal(lookup_run(f, f->ids, 300, 0, false).n_tokens, 128);
    assert_string_equal(delete_run(f, 0, id).error.reason, "SEQUENCE");
    assert_string_equal(read_run(f, id, 0, 1, NULL).error.reason, "SEQUENCE");
    assert_int_equal(delete_run(f, 0, plain).error.code, SESSION_OK);
    assert_int_equal(status_of(f).n_tiles, 1);
    restart(f);
    assert_int_equal(status_of(f).n_sequences, 0);
    assert_int_equal(status_of(f).n_tiles, 1);
}

/* A tile that two sequences share stays for the other. */
static void test_delete_of_shared(void **state)
{
    struct fixture *f = *state;
    uint64_t id = create(f, NULL, 0, 0), other;
    float *rows;

    append(f, id, 0, 256, true);
    rows = read_all(f, id, 256);
    other = create(f, f->ids, 256, 0);
    append(f, other, 256, 1, true);
    delete_run(f, 0, id);
    assert_int_equal(read_run(f, other, 0, 256, rows).error.code, SESSION_OK);
    assert_int_equal(status_of(f).n_tiles, 2);
    free(rows);
}

/* Who owns it, and who does not, may release it; the owner's end then finds nothing to do. */
static void test_release_by_owner(void **state)
{
    struct fixture *f = *state;
    uint64_t client = attach(f, 0, NULL), id = create(f, NULL, 0, client);

    append(f, id, 0, 10, true);
    assert_int_equal(delete_run(f, 0, id).error.code, SESSION_OK);
    session_client_gone(f->session, client);
    assert_int_equal(status_of(f).n_sequences, 0);
    assert_int_equal(status_of(f).arena_used_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_delete, kept_setup, kept_teardown),
        FIXTURE_TEST(test_delete_of_shared),
        FIXTURE_TEST(test_release_by_owner),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
