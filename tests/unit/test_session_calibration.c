/* daemon/session_calibration.c: from samples to an installed profile */
#include "tests/unit/session_fixture.h"

struct calibrated {
    struct session_calibration *calibration;
    struct session_calibrated result;
    bool done; /* atomic */
};

static void calibrated(void *user, const struct session_calibrated *result)
{
    struct calibrated *c = user;

    c->result = *result;
    session_calibration_free(c->calibration);
    __atomic_store_n(&c->done, true, __ATOMIC_RELEASE);
}

static void calibrate(struct fixture *f, struct calibrated *c, uint32_t n_tokens, bool cancel)
{
    struct dpq_geometry geometry = fixture_geometry();
    struct dpq_train_options options = { .model_name = "m", .seed = 3, .n_iterations = 2 };
    struct session_numbers from = { .tensor = fixture_rows(DPQ_F32), .inline_bytes = f->input };
    struct session_error error;

    memset(c, 0, sizeof(*c));
    assert_int_equal(session_calibration_begin(f->session, 0, &geometry, &options, "label",
                                               &c->calibration, &error),
                     0);
    from.n_inline_bytes = (uint64_t)n_tokens * ROW_BYTES;
    assert_int_equal(session_calibration_add(c->calibration, &from, 0, n_tokens, &error), 0);
    from.n_inline_bytes--;
    assert_int_equal(session_calibration_add(c->calibration, &from, 0, n_tokens, &error), 1);
    assert_string_equal(error.reason, "TENSOR");
    if (cancel)
        session_calibration_cancel(c->calibration);
    session_calibration_run(c->calibration, calibrated, c);
    while (!__atomic_load_n(&c->done, __ATOMIC_ACQUIRE))
        usleep(200);
}

static void test_calibration(void **state)
{
    struct fixture *f = *state;
    struct session_profile_info info;
    struct calibrated c;

    calibrate(f, &c, N_INPUT, false);
    assert_int_equal(c.result.error.code, SESSION_OK);
    assert_int_equal(c.result.n_tokens, N_INPUT);
    assert_non_null(c.result.info_json);
    assert_int_equal(session_profile(f->session, c.result.profile_id, &info), 0);
    session_tick(f->session, 0);
    calibrate(f, &c, 100, false);
    assert_int_equal(c.result.error.code, SESSION_FAILED_PRECONDITION);
    assert_string_equal(c.result.error.reason, "TOO_FEW_TOKENS");
    calibrate(f, &c, N_INPUT, true);
    assert_int_equal(c.result.error.code, SESSION_CANCELLED);
    assert_int_equal(status_of(f).n_profiles, 2);
}

static void test_calibration_limits(void **state)
{
    struct fixture *f = *state;
    struct dpq_geometry geometry = fixture_geometry();
    struct dpq_train_options options = { .model_name = "m" };
    struct session_numbers from = { .tensor = fixture_rows(DPQ_F32), .inline_bytes = f->input };
    struct session_calibration *c[MAX_CALIBRATIONS + 1];
    struct session_error error;
    int r = 0;

    geometry.n_kv_heads = 0;
    assert_int_equal(
        session_calibration_begin(f->session, 0, &geometry, &options, "", &c[0], &error), 1);
    assert_string_equal(error.reason, "GEOMETRY");
    geometry.n_kv_heads = N_HEADS;
    for (int i = 0; i < MAX_CALIBRATIONS; i++)
        assert_int_equal(
            session_calibration_begin(f->session, 0, &geometry, &options, "", &c[i], &error), 0);
    assert_int_equal(session_calibration_begin(f->session, 0, &geometry, &options, "",
                                               &c[MAX_CALIBRATIONS], &error),
                     1);
    assert_int_equal(error.code, SESSION_RESOURCE_EXHAUSTED);
    from.n_inline_bytes = (uint64_t)N_INPUT * ROW_BYTES;
    for (int i = 0; i < 20 && !r; i++)
        r = session_calibration_add(c[0], &from, 0, N_INPUT, &error);
    assert_string_equal(error.reason, "CALIBRATION_BYTES");
    for (int i = 0; i < MAX_CALIBRATIONS; i++)
        session_calibration_free(c[i]);
    assert_null(session_calibration_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_calibration),
        FIXTURE_TEST(test_calibration_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
