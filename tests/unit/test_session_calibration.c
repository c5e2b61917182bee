/* daemon/session_calibration.c: from samples to an installed profile, in one go or in several */
#include <math.h>

#include "daemon/session_calibration.h"
#include "tests/unit/session_fixture.h"

#define SECOND_NS UINT64_C(1000000000)

enum { METRIC_BYTES = HEAD_DIM * HEAD_DIM * 4 };

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

static void wait_for(struct calibrated *c)
{
    while (!__atomic_load_n(&c->done, __ATOMIC_ACQUIRE))
        usleep(200);
}

static struct session_calibrate ask_for(uint64_t id)
{
    struct session_calibrate ask = { .calibration_id = id, .geometry = fixture_geometry() };

    snprintf(ask.options.model_name, sizeof(ask.options.model_name), "m");
    ask.options.seed = 3;
    ask.options.n_iterations = 2;
    ask.options.reference = DPQ_REFERENCE_NONE;
    return ask;
}

static struct session_samples samples_of(struct fixture *f, uint32_t first, uint32_t n_tokens)
{
    return (struct session_samples){
        .from = { .tensor = fixture_rows(DPQ_F32),
                  .inline_bytes = f->input + (size_t)first * ROW_NUMBERS,
                  .n_inline_bytes = (uint64_t)n_tokens * ROW_BYTES },
        .first_position = first,
        .n_tokens = n_tokens,
        .first_token = first,
    };
}

/* the reason of the refusal; "" when there is none */
static const char *begin(struct fixture *f, const struct session_calibrate *ask,
                         struct session_calibration **ret_calibration)
{
    static struct session_error error;

    return session_calibration_begin(f->session, ask, ret_calibration, &error) ? error.reason : "";
}

static const char *add(struct fixture *f, struct session_calibration *c, uint32_t first,
                       uint32_t n_tokens)
{
    static struct session_error error;
    const struct session_samples samples = samples_of(f, first, n_tokens);

    return session_calibration_add(c, &samples, &error) ? error.reason : "";
}

static struct session_calibration_info info_of(struct fixture *f, uint64_t id)
{
    struct session_calibration_info info = { 0 };
    struct session_error error;

    assert_int_equal(session_calibration_get(f->session, 0, id, &info, &error), 0);
    return info;
}

static void assert_unknown(struct fixture *f, uint32_t tenant, uint64_t id)
{
    struct session_calibration_info info;
    struct session_error error;

    assert_int_equal(session_calibration_get(f->session, tenant, id, &info, &error), 1);
    assert_string_equal(error.reason, "CALIBRATION");
}

static void calibrate(struct fixture *f, struct calibrated *c, uint32_t n_tokens, bool cancel)
{
    struct session_calibrate ask = ask_for(0);
    struct session_samples samples = samples_of(f, 0, n_tokens);
    struct session_error error;

    memset(c, 0, sizeof(*c));
    assert_string_equal(begin(f, &ask, &c->calibration), "");
    assert_int_equal(session_calibration_add(c->calibration, &samples, &error), 0);
    samples.from.n_inline_bytes--;
    assert_int_equal(session_calibration_add(c->calibration, &samples, &error), 1);
    assert_string_equal(error.reason, "TENSOR");
    if (cancel)
        session_calibration_cancel(c->calibration);
    session_calibration_run(c->calibration, calibrated, c);
    wait_for(c);
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
    session_profile_unref(f->session, &info);
    session_tick(f->session, 0);
    calibrate(f, &c, 100, false);
    assert_int_equal(c.result.error.code, SESSION_FAILED_PRECONDITION);
    assert_string_equal(c.result.error.reason, "TOO_FEW_TOKENS");
    calibrate(f, &c, N_INPUT, true);
    assert_int_equal(c.result.error.code, SESSION_CANCELLED);
    assert_int_equal(status_of(f).n_profiles, 2);
    while (f->session->calibrations)
        session_tick(f->session, 0);
    assert_int_equal(f->session->n_calibrations, 0);
}

/* --- what is refused ----------------------------------------------------------------------------
 */

static void test_limits(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c[MAX_CALIBRATIONS + 1];
    struct session_calibrate ask = ask_for(0);
    const char *reason = "";

    for (int i = 0; i < MAX_CALIBRATIONS; i++)
        assert_string_equal(begin(f, &ask, &c[i]), "");
    assert_string_equal(begin(f, &ask, &c[MAX_CALIBRATIONS]), "LIMIT");
    for (int i = 0; i < 20 && !*reason; i++)
        reason = add(f, c[0], 0, N_INPUT);
    assert_string_equal(reason, "CALIBRATION_BYTES");
    assert_string_equal(add(f, c[1], 0, 0), "LIMIT");
    for (int i = 0; i < MAX_CALIBRATIONS; i++)
        session_calibration_free(c[i]);
    assert_null(session_calibration_free(NULL));
    assert_null(f->session->calibrations);
}

static void test_bad_options(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c;
    struct session_calibrate ask = ask_for(0);

    ask.geometry.n_kv_heads = 0;
    assert_string_equal(begin(f, &ask, &c), "GEOMETRY");
    ask = ask_for(0);
    ask.options.n_iterations = 101;
    assert_string_equal(begin(f, &ask, &c), "OPTIONS");
    ask = ask_for(0);
    ask.options.dsub[0] = 3;
    assert_string_equal(begin(f, &ask, &c), "OPTIONS");
    ask = ask_for(0);
    ask.options.leak = NAN;
    assert_string_equal(begin(f, &ask, &c), "OPTIONS");
    assert_int_equal(f->session->n_calibrations, 0);
}

static void test_bad_metric(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c;
    struct session_calibrate ask = ask_for(0);
    struct session_error error;
    float *metric = calloc(1, METRIC_BYTES);

    assert_non_null(metric);
    for (int i = 0; i < HEAD_DIM; i++)
        metric[i * (HEAD_DIM + 1)] = 1;
    assert_string_equal(begin(f, &ask, &c), "");
    assert_int_equal(session_calibration_metric(c, 1, DPQ_V, 1, metric, METRIC_BYTES, &error), 0);
    assert_int_equal(session_calibration_metric(c, 0, 0, 0, metric, METRIC_BYTES - 4, &error), 1);
    assert_string_equal(error.reason, "METRIC");
    assert_int_equal(session_calibration_metric(c, 0, 2, 0, metric, METRIC_BYTES, &error), 1);
    assert_string_equal(error.reason, "METRIC");
    metric[3] = NAN;
    assert_int_equal(session_calibration_metric(c, 0, 0, 1, metric, METRIC_BYTES, &error), 1);
    assert_string_equal(error.reason, "METRIC");
    assert_int_equal(error.head, 1);
    session_calibration_free(c);
    f->config.calibration_max_bytes = 4 * N_HEADS * METRIC_BYTES - 1;
    assert_string_equal(begin(f, &ask, &c), "");
    metric[3] = 0;
    assert_int_equal(session_calibration_metric(c, 0, 0, 0, metric, METRIC_BYTES, &error), 1);
    assert_string_equal(error.reason, "CALIBRATION_BYTES");
    session_calibration_free(c);
    free(metric);
}

static void test_bad_stream(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c;
    struct session_calibrate ask = ask_for(0);
    struct dpq_stream_options own = { .reference = DPQ_REFERENCE_DEPTH, .dsub = 4, .planes = 2 };
    struct session_error error;

    assert_string_equal(begin(f, &ask, &c), "");
    assert_int_equal(session_calibration_stream(c, 1, DPQ_K, 0, &own, &error), 0);
    assert_int_equal(session_calibration_stream(c, 0, DPQ_V, 1, &own, &error), 0);
    assert_int_equal(session_calibration_stream(c, 0, DPQ_K, 0, &own, &error), 1); /* below? */
    assert_string_equal(error.reason, "STREAM");
    assert_int_equal(session_calibration_stream(c, 0, 2, 0, &own, &error), 1);
    assert_string_equal(error.reason, "STREAM");
    own.planes = 3;
    assert_int_equal(session_calibration_stream(c, 1, DPQ_K, 0, &own, &error), 1);
    own = (struct dpq_stream_options){ .dsub = 3 };
    assert_int_equal(session_calibration_stream(c, 1, DPQ_K, 0, &own, &error), 1);
    own = (struct dpq_stream_options){ .reference = 5 };
    assert_int_equal(session_calibration_stream(c, 1, DPQ_K, 0, &own, &error), 1);
    assert_string_equal(error.reason, "STREAM");
    session_calibration_free(c);
}

/* a file in the state directory that has no name */
static void test_samples_are_in_a_file(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c;
    struct session_calibrate ask = ask_for(0);

    assert_string_equal(begin(f, &ask, &c), "");
    assert_string_equal(add(f, c, 0, N_INPUT), "");
    assert_int_equal(lseek(c->spill_fd, 0, SEEK_END), (int64_t)N_INPUT * ROW_BYTES);
    session_calibration_free(c);
}

/* --- with an id ---------------------------------------------------------------------------------
 */

/* the same samples in one go: the profile that a resumed calibration must give, too */
static void reference_profile(struct fixture *f, uint8_t ret_profile_id[32])
{
    struct calibrated c;

    calibrate(f, &c, N_INPUT, false);
    assert_int_equal(c.result.error.code, SESSION_OK);
    memcpy(ret_profile_id, c.result.profile_id, 32);
}

static void test_resumed(void **state)
{
    struct fixture *f = *state;
    struct session_calibrate ask = ask_for(77), other = ask_for(77);
    struct calibrated c = { 0 };
    uint8_t expected[32];
    struct session_calibration *again;

    reference_profile(f, expected);
    assert_string_equal(begin(f, &ask, &c.calibration), "");
    assert_string_equal(add(f, c.calibration, 0, 500), "");
    assert_string_equal(begin(f, &ask, &again), "CALIBRATION_BUSY");
    session_calibration_cancel(c.calibration);
    session_calibration_free(c.calibration);
    assert_int_equal(info_of(f, 77).n_tokens, 500);
    assert_int_equal(info_of(f, 77).state, SESSION_CALIBRATION_COLLECTING);
    assert_unknown(f, 1, 77);
    other.options.seed++;
    assert_string_equal(begin(f, &other, &again), "CALIBRATION_ID");
    snprintf(ask.options.model_name, sizeof(ask.options.model_name), "x");
    snprintf(ask.options.model_name, sizeof(ask.options.model_name), "m"); /* garbage behind */
    assert_string_equal(begin(f, &ask, &c.calibration), "");
    assert_string_equal(add(f, c.calibration, 501, 10), "FIRST_TOKEN");
    assert_string_equal(add(f, c.calibration, 400, 100), ""); /* taken before */
    assert_string_equal(add(f, c.calibration, 400, N_INPUT - 400), "");
    assert_int_equal(info_of(f, 77).n_tokens, N_INPUT);
    session_calibration_run(c.calibration, calibrated, &c);
    wait_for(&c);
    assert_int_equal(c.result.error.code, SESSION_OK);
    assert_memory_equal(c.result.profile_id, expected, 32);
}

static void test_its_client_is_gone(void **state)
{
    struct fixture *f = *state;
    struct session_calibrate ask = ask_for(78);
    struct calibrated c = { 0 }, again = { 0 };
    struct session_calibration_info info;
    struct session_error error;

    assert_string_equal(begin(f, &ask, &c.calibration), "");
    assert_string_equal(add(f, c.calibration, 0, N_INPUT), "");
    session_calibration_run(c.calibration, calibrated, &c);
    session_calibration_cancel(c.calibration); /* done is called, unless it was */
    wait_for(&c);
    while ((info = info_of(f, 78)).state == SESSION_CALIBRATION_TRAINING)
        usleep(200);
    assert_int_equal(info.state, SESSION_CALIBRATION_DONE);
    assert_int_equal(info.progress, 1);
    assert_string_equal(begin(f, &ask, &again.calibration), "");
    assert_string_equal(add(f, again.calibration, 100, 200), "");
    assert_string_equal(add(f, again.calibration, 100, N_INPUT), "CALIBRATION_STATE");
    assert_int_equal(
        session_calibration_metric(again.calibration, 0, 0, 0, f->input, METRIC_BYTES, &error), 1);
    assert_string_equal(error.reason, "CALIBRATION_STATE");
    session_calibration_run(again.calibration, calibrated, &again);
    assert_true(again.done); /* at once */
    assert_memory_equal(again.result.profile_id, info.result.profile_id, 32);
    session_tick(f->session, session_now_ns() + 599 * SECOND_NS);
    info_of(f, 78);
    session_tick(f->session, session_now_ns() + 601 * SECOND_NS);
    assert_unknown(f, 0, 78);
}

static void test_failed(void **state)
{
    struct fixture *f = *state;
    struct session_calibrate ask = ask_for(79);
    struct calibrated c = { 0 };

    assert_string_equal(begin(f, &ask, &c.calibration), "");
    assert_string_equal(add(f, c.calibration, 0, 100), "");
    session_calibration_run(c.calibration, calibrated, &c);
    wait_for(&c);
    assert_int_equal(info_of(f, 79).state, SESSION_CALIBRATION_FAILED);
    assert_string_equal(info_of(f, 79).result.error.reason, "TOO_FEW_TOKENS");
    assert_string_equal(begin(f, &ask, &c.calibration), "TOO_FEW_TOKENS");
    assert_unknown(f, 0, 79);
    assert_string_equal(begin(f, &ask, &c.calibration), "");
    assert_int_equal(info_of(f, 79).n_tokens, 0);
    session_calibration_free(c.calibration);
}

static void test_parked_ones_give_way(void **state)
{
    struct fixture *f = *state;
    struct session_calibration *c;
    struct session_calibrate ask;

    for (uint64_t id = 1; id <= MAX_CALIBRATIONS + 1; id++) {
        ask = ask_for(id);
        assert_string_equal(begin(f, &ask, &c), "");
        session_calibration_free(c);
    }
    assert_unknown(f, 0, 1); /* the longest parked */
    info_of(f, 2);
    ask.tenant = 1;
    assert_string_equal(begin(f, &ask, &c), "LIMIT"); /* not for another tenant */
    session_tick(f->session, session_now_ns() + 601 * SECOND_NS);
    assert_unknown(f, 0, 2);
    assert_int_equal(f->session->n_calibrations, 0);
    assert_string_equal(begin(f, &ask, &c), "");
    session_calibration_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_calibration), FIXTURE_TEST(test_limits),
        FIXTURE_TEST(test_bad_options), FIXTURE_TEST(test_bad_metric),
        FIXTURE_TEST(test_bad_stream),  FIXTURE_TEST(test_samples_are_in_a_file),
        FIXTURE_TEST(test_resumed),     FIXTURE_TEST(test_its_client_is_gone),
        FIXTURE_TEST(test_failed),      FIXTURE_TEST(test_parked_ones_give_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
