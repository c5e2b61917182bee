/* daemon/session_refine.c: a profile from what is appended */
#include <math.h>

#include "daemon/session_calibration.h"
#include "tests/unit/session_fixture.h"

#define DAY_NS UINT64_C(86400000000000)

static struct session_refine refine(struct fixture *f, double rate, uint64_t budget_tokens)
{
    struct session_refine op = { .sample_rate = rate, .budget_tokens = budget_tokens };

    memcpy(op.profile_id, f->profile_id, sizeof(op.profile_id));
    session_refine(f->session, &op);
    return op;
}

static struct session_calibration_info info_of(struct fixture *f, uint64_t id)
{
    struct session_calibration_info info = { 0 };
    struct session_error error;

    assert_int_equal(session_calibration_get(f->session, 0, id, &info, &error), 0);
    return info;
}

static struct session_calibration_info ended(struct fixture *f, uint64_t id)
{
    struct session_calibration_info info;

    while ((info = info_of(f, id)).state <= SESSION_CALIBRATION_TRAINING)
        usleep(200);
    return info;
}

/* n tokens of input from a fresh sequence, whose ids begin with first_id */
static uint64_t append_new(struct fixture *f, uint32_t first_id, uint32_t n)
{
    uint64_t id = create(f, NULL, 0, 0);

    for (uint32_t i = 0; i < N_INPUT; i++)
        f->ids[i] = first_id + i;
    append(f, id, 0, n, true);
    return id;
}

static int setup_on(void **state)
{
    struct fixture *f;

    if (fixture_setup(state))
        return -1;
    f = *state;
    f->config.tenants[0].refine = true;
    return 0;
}

#define REFINE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_on, fixture_teardown)

static void test_off_by_default(void **state)
{
    struct fixture *f = *state;

    assert_string_equal(refine(f, 1, 4096).error.reason, "REFINE_OFF");
    append_new(f, 1, 256);
    assert_null(f->session->calibrations);
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct session_refine op = { .sample_rate = 1, .budget_tokens = 4096 };

    session_refine(f->session, &op);
    assert_string_equal(op.error.reason, "PROFILE");
    assert_string_equal(refine(f, 0, 4096).error.reason, "RATE");
    assert_string_equal(refine(f, 1.01, 4096).error.reason, "RATE");
    assert_string_equal(refine(f, NAN, 4096).error.reason, "RATE");
    assert_string_equal(refine(f, 1, 2047).error.reason, "BUDGET");
    assert_string_equal(refine(f, 1, (8 << 20) / ROW_BYTES + 1).error.reason, "BUDGET");
    assert_int_equal(refine(f, 1, 4096).error.code, SESSION_OK);
    assert_string_equal(refine(f, 1, 4096).error.reason, "LIMIT");
}

static void test_a_new_profile(void **state)
{
    struct fixture *f = *state;
    struct session_refine op = refine(f, 1, 2048);
    struct session_calibration_info info;
    struct session_profile_info profile;
    uint64_t old;
    float *before, *after;

    assert_int_equal(op.error.code, SESSION_OK);
    old = append_new(f, 1000, 1024);
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 1024);
    assert_int_equal(info_of(f, op.calibration_id).wanted_tokens, 2048);
    assert_int_equal(info_of(f, op.calibration_id).state, SESSION_CALIBRATION_COLLECTING);
    before = malloc((size_t)1024 * ROW_BYTES);
    after = malloc((size_t)1024 * ROW_BYTES);
    assert_true(before && after);
    read_run(f, old, 0, 1024, before);
    append_new(f, 1000, 1024); /* stored already: not encoded, not learned from */
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 1024);
    append_new(f, 5000, 1100);
    info = ended(f, op.calibration_id);
    assert_int_equal(info.state, SESSION_CALIBRATION_DONE);
    assert_int_equal(info.result.n_tokens, 2048);
    assert_memory_not_equal(info.result.profile_id, f->profile_id, 32);
    assert_int_equal(session_profile(f->session, info.result.profile_id, &profile), 0);
    assert_string_equal(profile.model_name, "test");
    session_profile_unref(f->session, &profile);
    assert_int_equal(f->session->n_refining, 0);
    read_run(f, old, 0, 1024, after); /* it keeps its profile */
    assert_memory_equal(before, after, (size_t)1024 * ROW_BYTES);
    append_new(f, 9000, 1024); /* no more are taken */
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 2048);
    op = refine(f, 1, 2048); /* of the old profile, again: not of sequences with the new one */
    memcpy(f->profile_id, info.result.profile_id, sizeof(f->profile_id));
    append_new(f, 20000, 1024);
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 0);
    free(before);
    free(after);
}

/* A share of the tiles; which ones, their keys say. */
static void test_sampled(void **state)
{
    struct fixture *f = *state;
    struct session_refine op = refine(f, .5, 8064);
    uint64_t n[2];

    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < 5; i++)
            release_run(f, append_new(f, 10000 * (i + 1), 1024), /* discard= */ true);
        n[round] = info_of(f, op.calibration_id).n_tokens - (round ? n[0] : 0);
    }
    assert_in_range(n[0], 8 * 128, 32 * 128); /* of 40 tiles: 20 ± 4 standard deviations */
    assert_int_equal(n[1], n[0]);
}

static void test_a_day_later(void **state)
{
    struct fixture *f = *state;
    struct session_refine op = refine(f, 1, 4096);

    append_new(f, 1, 256);
    session_tick(f->session, session_now_ns() + DAY_NS - 1000000000);
    assert_int_equal(info_of(f, op.calibration_id).state, SESSION_CALIBRATION_COLLECTING);
    session_tick(f->session, session_now_ns() + DAY_NS);
    assert_string_equal(ended(f, op.calibration_id).result.error.reason, "TOO_FEW_TOKENS");
    assert_int_equal(refine(f, 1, 4096).error.code, SESSION_OK); /* the next one */
}

static void test_not_for_others(void **state)
{
    struct fixture *f = *state;
    struct session_refine op;
    struct waiting_create w = { .op = { .tenant = 1 } };
    struct session_append rows;

    op = refine(f, 1, 4096);
    w.op.prefix = fixture_prefix(f, NULL, 0);
    create_start(f, &w);
    create_wait(&w);
    rows = append_op(f, w.op.sequence_id, 0, 256, false);
    rows.tenant = 1;
    rows = append_run(f, rows);
    assert_int_equal(rows.error.code, SESSION_OK);
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 0);
    w = (struct waiting_create){ 0 };
    w.op.prefix = fixture_prefix(f, NULL, 0);
    w.op.prefix.position_base = 64;
    create_start(f, &w);
    create_wait(&w);
    append_run(f, append_op(f, w.op.sequence_id, 0, 256, false));
    assert_int_equal(info_of(f, op.calibration_id).n_tokens, 128); /* not the one with sinks */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_off_by_default), REFINE_TEST(test_refused),
        REFINE_TEST(test_a_new_profile),   REFINE_TEST(test_sampled),
        REFINE_TEST(test_a_day_later),     REFINE_TEST(test_not_for_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
