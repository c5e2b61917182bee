/* session_profile_remove: not while anything needs it; then it is gone, here and on the disk */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "daemon/session_keep.h"
#include "tests/unit/session_kept.h"

/* NULL: removed; else the reason */
static const char *remove_by(struct fixture *f, uint32_t tenant, struct session_error *ret_error)
{
    if (!session_profile_remove(f->session, tenant, f->profile_id, ret_error))
        return NULL;
    return ret_error->reason;
}

static void expect_in_use(struct fixture *f, const char *by)
{
    struct session_error error;

    assert_string_equal(remove_by(f, 0, &error), "IN_USE");
    assert_int_equal(error.code, SESSION_FAILED_PRECONDITION);
    if (!strstr(error.message, by))
        print_message("%s\n", error.message);
    assert_non_null(strstr(error.message, by));
}

static void install(struct fixture *f)
{
    struct session_error error;
    const uint8_t *bytes;
    size_t n_bytes;
    uint8_t id[32];

    fixture_train(f, &bytes, &n_bytes);
    assert_int_equal(session_profile_install(f->session, bytes, n_bytes, id, &error), 0);
}

static void test_remove(void **state)
{
    struct fixture *f = *state;
    struct waiting_create w = { .op.prefix = fixture_prefix(f, NULL, 0) };
    uint64_t id = create(f, NULL, 0, 0);
    struct session_profile_info info;
    struct session_error error;
    float *rows;

    append(f, id, 0, 200, true);
    rows = read_all(f, id, 200); /* workers have codecs of it */
    expect_in_use(f, " 1 sequences, 2 stored tiles and tails and 0 calibrations of yours");
    assert_string_equal(remove_by(f, 1, &error), "IN_USE"); /* another tenant hears no numbers */
    assert_non_null(strstr(error.message, " 0 sequences, 0 stored"));
    assert_non_null(strstr(error.message, "by others"));
    restart(f);
    expect_in_use(f, " 1 sequences, 2 stored");
    release_run(f, id, false);
    expect_in_use(f, " 0 sequences, 1 stored"); /* cached */
    restart(f);
    expect_in_use(f, " 0 sequences, 1 stored");
    id = create(f, f->ids, 128, 0);
    release_run(f, id, true);
    assert_int_equal(session_profile(f->session, f->profile_id, &info), 0);
    expect_in_use(f, "by others"); /* somebody looks at it */
    session_profile_unref(f->session, &info);
    assert_null(remove_by(f, 0, &error));
    assert_string_equal(remove_by(f, 0, &error), "PROFILE");
    assert_int_equal(session_profile(f->session, f->profile_id, &info), 1);
    create_start(f, &w);
    create_wait(&w);
    assert_string_equal(w.op.error.reason, "PROFILE");
    restart(f);
    assert_int_equal(session_profile_list(f->session, NULL, 0), 0);
    install(f); /* and there it is again */
    restart(f);
    id = create(f, NULL, 0, 0);
    append(f, id, 0, 200, true);
    expect(f, id, 200, rows);
    free(rows);
}

/* What is being learned from is needed; a request that is refused keeps nothing. */
static void test_refinement(void **state)
{
    struct fixture *f = *state;
    struct session_refine op = { .sample_rate = 1, .budget_tokens = 2048 };
    struct session_error error;

    f->config.tenants[0].refine = true;
    memcpy(op.profile_id, f->profile_id, 32);
    session_refine(f->session, &op);
    assert_int_equal(op.error.code, SESSION_OK);
    expect_in_use(f, " 0 sequences, 0 stored tiles and tails and 1 calibrations of yours");
    op.budget_tokens = 1;
    session_refine(f->session, &op); /* refused: it keeps nothing */
    assert_string_equal(op.error.reason, "BUDGET");
    expect_in_use(f, " 1 calibrations of yours");
    fixture_close(f);
    fixture_open(f); /* refinements end with the daemon */
    assert_null(remove_by(f, 0, &error));
}

/* While others are removed and installed, the rest is served. */
static void test_again_and_again(void **state)
{
    struct fixture *f = *state;
    struct session_error error;
    float *rows = malloc(128 * ROW_BYTES);

    for (int i = 0; i < 20; i++) {
        uint64_t id = create(f, NULL, 0, 0);

        append(f, id, 0, 128, true);
        assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_OK);
        assert_int_equal(read_run(f, id, 0, 128, rows).error.code, SESSION_OK);
        release_run(f, id, true);
        assert_null(remove_by(f, 0, &error));
        install(f);
    }
    free(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_remove, kept_setup, kept_teardown),
        FIXTURE_TEST(test_refinement),
        FIXTURE_TEST(test_again_and_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
