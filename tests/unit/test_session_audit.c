/* daemon/session_audit.c: what is measured while a profile is learned, and how it is told */
#include <math.h>

#include "daemon/session_calibration.h"
#include "tests/unit/session_fixture.h"
#include "tests/util/profile_file.h"

enum {
    NONE,
    TEMPORAL,
    DEPTH_HEAD,
    DEPTH,
    DELTA,
    N_VIEW = 1500,
    N_STREAMS = N_LAYERS * 2 * N_HEADS
};

struct views {
    float *x, *d, *e;
    float gain[HEAD_DIM / 2];
    struct rng rng;
};

static float normal(struct rng *rng)
{
    double sum = -6;

    for (int i = 0; i < 12; i++)
        sum += rng_unit(rng);
    return (float)sum;
}

static float *numbers(void)
{
    float *p = malloc((size_t)N_VIEW * HEAD_DIM * sizeof(*p));

    assert_non_null(p);
    return p;
}

/* tokens that follow each other with correlation rho in each coordinate, variance 1 */
static void make_stream(struct views *v, float rho)
{
    float fresh = sqrtf(1 - rho * rho);

    for (size_t i = 0; i < (size_t)N_VIEW * HEAD_DIM; i++) {
        float before = i < HEAD_DIM ? normal(&v->rng) : v->x[i - HEAD_DIM];

        v->x[i] = rho * before + fresh * normal(&v->rng);
    }
}

/* x - a · the token before, and the errors of a code that leaves a ninth of it */
static void predict(struct views *v, float a)
{
    double energy = 0;

    for (size_t i = 0; i < (size_t)N_VIEW * HEAD_DIM; i++) {
        v->d[i] = v->x[i] - (i < HEAD_DIM ? 0 : a * v->x[i - HEAD_DIM]);
        energy += (double)(v->d[i] * v->d[i]);
    }
    energy = sqrt(energy / N_VIEW / HEAD_DIM) / 3;
    for (size_t i = 0; i < (size_t)N_VIEW * HEAD_DIM; i++)
        v->e[i] = (float)energy * normal(&v->rng);
    for (size_t m = 0; m < ARRAY_SIZE(v->gain); m++)
        v->gain[m] = a * a;
}

static void show(const struct dpq_audit_hooks *hooks, struct views *v, uint32_t stream,
                 uint32_t candidate, float a)
{
    struct dpq_candidate_view view = { .layer = stream / (2 * N_HEADS),
                                       .kind = stream / N_HEADS % 2,
                                       .head = stream % N_HEADS,
                                       .candidate = candidate,
                                       .head_dim = HEAD_DIM,
                                       .dsub = 2,
                                       .n_tokens = N_VIEW,
                                       .x = v->x,
                                       .e = v->e };

    predict(v, a);
    if (candidate != NONE) {
        view.d = v->d;
        view.loop_gain = v->gain;
    }
    hooks->measure(hooks->user, &view);
}

/* The section for: stream 0, whose tokens follow each other; the others, whose don't. What is
 * chosen is the caller's. */
static void make_section(const struct dpq_choice *choices, bool is_limited, uint8_t **ret_bytes,
                         size_t *ret_n)
{
    struct dpq_geometry geometry = fixture_geometry();
    struct dpq_audit_hooks hooks;
    struct audit *audit;
    struct views v = { numbers(), numbers(), numbers(), { 0 }, rng_seed(8) };

    assert_int_equal(audit_new(&geometry, is_limited, &audit), 0);
    hooks = audit_hooks(audit);
    for (uint32_t i = 0; i < N_STREAMS; i++) {
        make_stream(&v, i ? 0 : .9f);
        show(&hooks, &v, i, DELTA, 1);
        show(&hooks, &v, i, TEMPORAL, i ? .02f : .9f);
        show(&hooks, &v, i, NONE, 0);
    }
    assert_int_equal(hooks.finish(hooks.user, choices, N_STREAMS, ret_bytes, ret_n), 0);
    audit_free(audit);
    free(v.x);
    free(v.d);
    free(v.e);
}

static void fill_choices(struct dpq_choice choices[N_STREAMS])
{
    for (uint32_t i = 0; i < N_STREAMS; i++)
        choices[i] = (struct dpq_choice){ .layer = i / (2 * N_HEADS),
                                          .kind = i / N_HEADS % 2,
                                          .head = i % N_HEADS,
                                          .candidate = i ? NONE : TEMPORAL,
                                          .error_base = .125,
                                          .error_fine = .0078125 };
}

/* the fixture's profile with an audit in it, installed */
static void install_with(struct fixture *f, const uint8_t *section, size_t n,
                         uint8_t ret_profile_id[32])
{
    const uint8_t *plain;
    size_t n_plain, at;
    struct profile_file_header header;
    struct session_error error;
    uint8_t *bytes;

    fixture_train(f, &plain, &n_plain);
    memcpy(&header, plain, sizeof(header));
    at = align_up(n_plain, PROFILE_ALIGN);
    bytes = calloc(1, at + n);
    assert_non_null(bytes);
    memcpy(bytes, plain, n_plain);
    memcpy(bytes + at, section, n);
    header.audit_offset = at;
    header.audit_bytes = n;
    header.n_bytes = at + n;
    memcpy(bytes, &header, sizeof(header));
    profile_seal(bytes, at + n);
    assert_int_equal(session_profile_install(f->session, bytes, at + n, ret_profile_id, &error), 0);
    free(bytes);
}

static struct session_audit audit_of(struct fixture *f, const uint8_t profile_id[32],
                                     uint32_t first_row, uint32_t max_rows)
{
    struct session_audit op = { .first_row = first_row, .max_rows = max_rows };

    memcpy(op.profile_id, profile_id, sizeof(op.profile_id));
    session_audit(f->session, &op);
    return op;
}

static struct session_audit audited(struct fixture *f, const struct dpq_choice *choices,
                                    bool is_limited)
{
    uint8_t *section, profile_id[32];
    size_t n;

    make_section(choices, is_limited, &section, &n);
    install_with(f, section, n, profile_id);
    free(section);
    return audit_of(f, profile_id, 0, 0);
}

static void test_rows(void **state)
{
    struct dpq_choice choices[N_STREAMS];
    const struct session_audit_candidate *c;
    struct session_audit op;

    fill_choices(choices);
    op = audited(*state, choices, false);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_rows, N_STREAMS);
    assert_string_equal(op.rows[0].reference, "temporal");
    assert_string_equal(op.rows[0].reason, "BEST");
    assert_non_null(strstr(op.rows[0].text, "temporal gains most: predicted 1."));
    c = &op.rows[0].candidates[TEMPORAL];
    assert_string_equal(c->reference, "temporal");
    assert_int_equal(c->n_tokens, N_VIEW);
    assert_true(c->is_predicted && c->is_looped && c->is_compared && c->has_fine);
    assert_true(c->is_certified);
    assert_float_equal(c->measured_bits, 1.2, .05); /* log4 of 1 / (1 - .9²) */
    assert_float_equal(c->predicted_bits, 1.2, .1);
    assert_float_equal(c->residual_ratio, .19, .02);
    assert_float_equal(c->loop_gain, .81, .02);
    assert_float_equal(c->error_base, .125, 1e-6); /* the final ones */
    assert_float_equal(c->error_fine, .0078125, 1e-6);
    assert_true(c->domination < 1);
    assert_int_equal(op.rows[0].candidates[DEPTH].n_tokens, 0);
    assert_int_equal(op.rows[5].layer, 1);
    assert_int_equal(op.rows[5].kind, 0);
    assert_int_equal(op.rows[5].head, 1);
    assert_string_equal(op.rows[5].reference, "none");
    assert_string_equal(op.rows[5].reason, "NO_GAIN");
    c = &op.rows[5].candidates[DELTA];
    assert_string_equal(c->reference, "temporal a=1");
    assert_float_equal(c->measured_bits, -.5, .05);
    assert_float_equal(c->domination, 2, .3);
    assert_float_equal(c->kappa_plus, .111, .01); /* the code's error over the residual */
    assert_float_equal(c->predicted_bits, -.5, .1);
    free(op.rows);
}

static void test_summary(void **state)
{
    struct dpq_choice choices[N_STREAMS];
    struct session_audit op;

    fill_choices(choices);
    op = audited(*state, choices, false);
    assert_int_equal(op.summary.n_streams, N_STREAMS);
    assert_int_equal(op.summary.n_chosen[NONE], N_STREAMS - 1);
    assert_int_equal(op.summary.n_chosen[TEMPORAL], 1);
    assert_float_equal(op.summary.measured_bits, 1.2 / N_STREAMS, .01);
    assert_int_equal(op.summary.n_delta, N_STREAMS);
    assert_int_equal(op.summary.n_delta_loses, N_STREAMS - 1); /* stream 0 gains by a = 1, too */
    assert_int_equal(op.summary.n_delta_foretold, N_STREAMS - 1);
    assert_int_equal(op.summary.n_compared, 2 * N_STREAMS);
    assert_true(op.summary.prediction_error < .1);
    assert_non_null(strstr(op.summary.text, "none for 7, temporal for 1 of 8 streams"));
    assert_non_null(strstr(op.summary.text, "worse than none for 7 of 8 streams, foretold for 7"));
    free(op.rows);
}

/* The trainer has the last word; the reason says why it is not the audit's own. */
static void test_reasons(void **state)
{
    struct dpq_choice choices[N_STREAMS];
    struct session_audit op;

    fill_choices(choices);
    choices[0].candidate = NONE;
    choices[1].candidate = TEMPORAL;
    choices[1].forced = true;
    choices[2].candidate = TEMPORAL; /* for less than the audit asks for */
    op = audited(*state, choices, true);
    assert_string_equal(op.rows[0].reason, "COST");
    assert_string_equal(op.rows[1].reason, "FORCED");
    assert_string_equal(op.rows[1].reference, "temporal");
    assert_string_equal(op.rows[2].reason, "BEST");
    free(op.rows);
    op = audited(*state, choices, false);
    assert_string_equal(op.rows[0].reason, "NO_GAIN");
    free(op.rows);
}

static void test_some_rows(void **state)
{
    struct fixture *f = *state;
    struct dpq_choice choices[N_STREAMS];
    uint8_t *section, profile_id[32];
    struct session_audit op;
    size_t n;

    fill_choices(choices);
    make_section(choices, false, &section, &n);
    install_with(f, section, n, profile_id);
    op = audit_of(f, profile_id, 3, 2);
    assert_int_equal(op.n_rows, 2);
    assert_int_equal(op.rows[0].kind, 1);
    assert_int_equal(op.rows[0].head, 1);
    assert_int_equal(op.summary.n_streams, N_STREAMS);
    free(op.rows);
    op = audit_of(f, profile_id, N_STREAMS, 2);
    assert_int_equal(op.error.code, SESSION_OK);
    assert_int_equal(op.n_rows, 0);
    free(op.rows);
    op = audit_of(f, profile_id, N_STREAMS + 1, 2);
    assert_string_equal(op.error.reason, "ROW");
    section[8]++;
    install_with(f, section, n, profile_id);
    assert_string_equal(audit_of(f, profile_id, 0, 0).error.reason, "AUDIT_VERSION");
    section[8]--;
    install_with(f, section, n - 1, profile_id);
    assert_string_equal(audit_of(f, profile_id, 0, 0).error.reason, "AUDIT_CORRUPT");
    free(section);
}

static void test_no_audit(void **state)
{
    struct fixture *f = *state;
    uint8_t nobody[32] = { 0 };
    struct session_audit op = audit_of(f, f->profile_id, 0, 0);

    assert_int_equal(op.error.code, SESSION_NOT_FOUND);
    assert_string_equal(op.error.reason, "NO_AUDIT");
    op = audit_of(f, nobody, 0, 0);
    assert_string_equal(op.error.reason, "PROFILE");
    assert_null(audit_free(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(test_rows),      FIXTURE_TEST(test_summary),  FIXTURE_TEST(test_reasons),
        FIXTURE_TEST(test_some_rows), FIXTURE_TEST(test_no_audit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
