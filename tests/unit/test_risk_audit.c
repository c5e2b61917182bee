/* risk_audit: predictions against a real code, choices and their sentences, the section's bytes */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/risk/risk_audit.h"
#include "lib/risk/risk_meter.h"
#include "tests/util/oracle.h"

enum { DIM = 64, DSUB = 2, N_SUBSPACES = DIM / DSUB };

/* a stream, and what a code of 16 words with the head's gain makes of it */
struct stream {
    size_t n;
    float *x, *d, *e;
};

static struct stream stream_new(size_t n)
{
    struct stream s = { n, calloc(n * DIM, sizeof(float)), calloc(n * DIM, sizeof(float)),
                        calloc(n * DIM, sizeof(float)) };

    assert_true(s.x && s.d && s.e);
    return s;
}

static void stream_drop(struct stream *s)
{
    free(s->x);
    free(s->d);
    free(s->e);
}

/* AR(1) of that correlation; variances of subspaces and within them differ; tokens of a
 * heavy-tailed scale where `bursty` */
static struct stream correlated(size_t n, double rho, bool bursty, uint64_t seed)
{
    struct risk_random g = { seed };
    double *w = oracle_normals(&g, n * DIM), a, b;
    struct stream s = stream_new(n);

    oracle_ar1(w, n, DIM, rho);
    for (size_t t = 0; t < n; t++) {
        risk_random_normals(&g, &a, &b);
        for (size_t i = 0; i < DIM; i++)
            s.x[t * DIM + i] = (float)(w[t * DIM + i] * (i % 2 ? .6 : 1) * exp(-.02 * (double)i) *
                                       (bursty ? exp(.6 * a) : 1));
    }
    free(w);
    return s;
}

static void code_token(const double *d, double *ret_q)
{
    double words[32], square = 0, gain;

    oracle_ring16(1, words);
    for (size_t i = 0; i < DIM; i++)
        square += d[i] * d[i] / DIM;
    gain = exp2(floor(8 * log2(sqrt(square) + 1e-9) + .5) / 8);
    for (size_t i = 0; i < DIM; i += 2) {
        /* a book for each subspace in effect: its words have the scale that the subspace has */
        double s = gain * exp(-.02 * (double)i) * 1.33, y[2] = { d[i] / s, d[i + 1] / s / .6 };
        int w = oracle_near(y, words);

        ret_q[i] = s * words[2 * w];
        ret_q[i + 1] = s * .6 * words[2 * w + 1];
    }
}

/* the closed loop with one a for all, a key each 32 tokens when a = 0 would never need one */
static void run_loop(struct stream *s, double a)
{
    double reference[DIM] = { 0 }, d[DIM], q[DIM];

    for (size_t t = 0; t < s->n; t++) {
        for (size_t i = 0; i < DIM; i++)
            d[i] = (double)s->x[t * DIM + i] - a * reference[i];
        code_token(d, q);
        for (size_t i = 0; i < DIM; i++) {
            reference[i] = a * reference[i] + q[i];
            s->d[t * DIM + i] = (float)d[i];
            s->e[t * DIM + i] = (float)(d[i] - q[i]);
        }
    }
}

static struct risk_audit_entry measure(const struct stream *s, uint32_t reference, double a,
                                       struct risk_audit_budget budget)
{
    float gain[N_SUBSPACES];
    struct risk_audit_input in = { .reference = reference,
                                   .head_dim = DIM,
                                   .dsub = DSUB,
                                   .n_words = 16,
                                   .n_tokens = s->n,
                                   .x = s->x,
                                   .d = s->d,
                                   .e = s->e,
                                   .loop_gain = reference ? gain : NULL };
    double *scratch = oracle_alloc(risk_audit_scratch(&in, &budget));
    struct risk_audit_entry entry;

    for (int m = 0; m < N_SUBSPACES; m++)
        gain[m] = (float)(a * a);
    if (!reference)
        in.d = NULL;
    risk_audit_measure(&in, &budget, scratch, &entry);
    free(scratch);
    return entry;
}

/* Enough tokens for samples that are not neighbours in time, which would look like a narrow law. */
enum { N = 6000 };

/* Gains foretold are gains measured, within .15 of |ln| (issue: risk) = .11 bits, also where scales
 * are heavy-tailed; the rule chooses what is best. */
static void test_predictions(void **state)
{
    static const struct {
        double rho, a;
        bool bursty;
        uint32_t chosen, reason;
    } WANT[] = {
        { .9, .9, false, RISK_REFERENCE_TEMPORAL, RISK_REASON_BEST },
        { .9, .9, true, RISK_REFERENCE_TEMPORAL, RISK_REASON_BEST },
        { .5, .5, false, RISK_REFERENCE_TEMPORAL, RISK_REASON_BEST },
        { 0, .2, true, RISK_REFERENCE_NONE, RISK_REASON_NO_GAIN },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(WANT); i++) {
        struct stream s = correlated(N, WANT[i].rho, WANT[i].bursty, 100 + i);
        struct risk_audit_row row = { 0 };
        const struct risk_audit_entry *e;

        run_loop(&s, 0);
        row.entry[RISK_REFERENCE_NONE] = measure(&s, RISK_REFERENCE_NONE, 0, RISK_AUDIT_BUDGET);
        run_loop(&s, WANT[i].a);
        row.entry[RISK_REFERENCE_TEMPORAL] =
            measure(&s, RISK_REFERENCE_TEMPORAL, WANT[i].a, RISK_AUDIT_BUDGET);
        run_loop(&s, 1);
        row.entry[RISK_REFERENCE_DELTA] = measure(&s, RISK_REFERENCE_DELTA, 1, RISK_AUDIT_BUDGET);
        risk_audit_choose(&row, ~(1u << RISK_REFERENCE_DELTA));
        assert_int_equal(row.reference, WANT[i].chosen);
        assert_int_equal(row.reason, WANT[i].reason);
        for (int j = RISK_REFERENCE_TEMPORAL; j < RISK_N_REFERENCES; j += 3) {
            e = &row.entry[j];
            assert_int_equal(e->flags,
                             RISK_AUDIT_PREDICTED | RISK_AUDIT_CERTIFIED | RISK_AUDIT_COMPARED);
            assert_true(fabs((double)(e->predicted_bits - e->measured_bits)) < .11);
            assert_true(fabs((double)e->ln_eta) <= (double)e->eta_u + .1);
            assert_int_equal(e->n_tokens, N);
            assert_true(e->margin > 0);
        }
        e = &row.entry[RISK_REFERENCE_NONE];
        assert_true(e->predicted_bits == 0 && e->measured_bits == 0 && isinf(e->margin));
        assert_true(e->residual_ratio == 1 && e->kappa_plus == 0 && e->eta_u == 0);
        if (WANT[i].rho <
            .5) { /* pure delta doubles the variance: it loses, and domination says so */
            e = &row.entry[RISK_REFERENCE_DELTA];
            assert_true(e->domination > 1.5 && e->measured_bits < -.3f);
        }
        stream_drop(&s);
    }
}

/* Figures that can be worked out by hand. */
static void test_figures(void **state)
{
    struct stream s = correlated(800, .5, false, 7);
    struct risk_audit_entry e;
    double x2 = 0, e2 = 0, d2 = 0;

    (void)state;
    for (size_t i = 0; i < s.n * DIM; i++) {
        s.d[i] = s.x[i] * (i % DIM / 2 == 3 ? 1.2f : .5f);
        s.e[i] = s.d[i] * (i % DIM / 2 == 4 ? .9f : .25f);
        x2 += (double)s.x[i] * (double)s.x[i];
        d2 += (double)s.d[i] * (double)s.d[i];
        e2 += (double)s.e[i] * (double)s.e[i];
    }
    e = measure(&s, RISK_REFERENCE_TEMPORAL, .8, RISK_AUDIT_BUDGET);
    assert_true(fabs((double)e.residual_ratio / (d2 / x2) - 1) < 1e-6);
    assert_true(fabs((double)e.domination - 1.44) < 1e-5);
    assert_true(fabs((double)e.error_base / (e2 / (double)s.n / DIM) - 1) < 1e-6);
    assert_true(fabs((double)e.loop_gain - .64) < 1e-6);
    assert_true(fabs((double)e.kappa_l_plus - .81 * .64) < 1e-4);
    assert_true((double)e.kappa_plus > .64 * e2 / d2 && (double)e.kappa_plus < .7 * e2 / d2);
    assert_true(fabs((double)e.margin + .5 * log(.81 * .64)) < 1e-4);
    /* in depth the worst direction is told, but does not count */
    e = measure(&s, RISK_REFERENCE_DEPTH, .8, RISK_AUDIT_BUDGET);
    assert_true(fabs((double)e.kappa_l_plus - .81 * .64) < 1e-4);
    assert_true(fabs((double)e.margin + .5 * log((double)e.kappa_plus)) < 1e-6);
    assert_true(fabs((double)e.predicted_bits + .5 * log2(d2 / x2)) < .05);
    stream_drop(&s);
}

/* The monitor starts at the held-out figures, at μ = .5, and watches what its axis has. */
static void test_calibration(void **state)
{
    struct stream s = correlated(1200, .9, false, 11);
    struct risk_audit_row row = { 0 };
    struct risk_calibration c, untouched = { .error = 77 };
    double first = 0, d2 = 0;

    (void)state;
    run_loop(&s, 0);
    row.entry[RISK_REFERENCE_NONE] = measure(&s, RISK_REFERENCE_NONE, 0, RISK_AUDIT_BUDGET);
    run_loop(&s, .9);
    row.entry[RISK_REFERENCE_TEMPORAL] =
        measure(&s, RISK_REFERENCE_TEMPORAL, .9, RISK_AUDIT_BUDGET);
    row.entry[RISK_REFERENCE_DEPTH] = row.entry[RISK_REFERENCE_TEMPORAL];
    for (size_t t = 0; t < s.n; t++) {
        double square = 0;

        for (size_t i = 0; i < DIM; i++)
            square += (double)s.d[t * DIM + i] * (double)s.d[t * DIM + i];
        first += sqrt(square) / (double)s.n;
        d2 += square / (double)s.n;
    }
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_TEMPORAL, DIM, 2, &c));
    assert_true(fabs(c.residual / d2 - 1) < 1e-5 && !c.relative);
    assert_true(fabs(c.tolerance / c.error - 2) < 1e-6);
    assert_true(fabs(risk_detector_drift(&c.drift, first, d2)) < .01);
    assert_true(c.drift.low > 0 && c.drift.low < c.drift.at && c.drift.high > c.drift.at);
    assert_true(c.model > c.error && c.model < 5 * c.error && c.kappa_l > 0);
    /* a stream that varies by itself has room, up to what it would have without the reference */
    row.entry[1].error_high = 2 * row.entry[1].error_base;
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_TEMPORAL, DIM, 2, &c));
    assert_true(fabs(c.tolerance / c.error - 2 / .65) < 1e-5);
    row.entry[1].error_high = 1000;
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_TEMPORAL, DIM, 2, &c));
    assert_true(fabs(c.tolerance / DIM / (double)row.entry[0].error_base - 2) < 1e-5);
    row.entry[0].error_base = row.entry[0].error_high = .1f * row.entry[1].error_base;
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_TEMPORAL, DIM, 2, &c));
    assert_true(fabs(c.tolerance / c.error - 2) < 1e-5); /* but never less than its factor */
    row.entry[1].moment_low = .5f;
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_TEMPORAL, DIM, 2, &c));
    assert_true(fabs(risk_detector_drift(&c.drift, .5, 1) - 1 / 1.4) < 1e-5);
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_DEPTH, DIM, 2, &c));
    assert_true(isinf(c.model) && c.kappa_l == 0 && c.loop_gain > 0);
    assert_true(risk_audit_calibration(&row, RISK_REFERENCE_NONE, DIM, 3, &c));
    assert_true(isinf(c.model) && c.loop_gain == 0 && fabs(c.tolerance / c.error - 3) < 1e-6);
    assert_true(fabs(c.residual / c.energy - 1) < 1e-6);
    c = untouched;
    assert_false(risk_audit_calibration(&row, RISK_REFERENCE_DELTA, DIM, 2, &c));
    assert_memory_equal(&c, &untouched, sizeof(c));
    stream_drop(&s);
}

/* Running means see what the mean does not: a bad stretch of 64 tokens, or of 4 that are 16 apart.
 */
static void test_worst_stretch(void **state)
{
    struct stream s = stream_new(1600);
    struct risk_audit_input in = { .reference = 1,
                                   .head_dim = DIM,
                                   .dsub = 2,
                                   .n_words = 16,
                                   .n_tokens = 1600,
                                   .x = s.x,
                                   .d = s.d,
                                   .e = s.e };
    struct risk_audit_budget budget = { 0, 0 };
    double *scratch = oracle_alloc(risk_audit_scratch(&in, &budget));
    struct risk_audit_entry e;

    (void)state;
    for (size_t t = 0; t < s.n; t++)
        for (size_t i = 0; i < DIM; i++) {
            float v = i % 2 ? 1 : -1;

            s.x[t * DIM + i] = s.d[t * DIM + i] = v;
            s.e[t * DIM + i] = t >= 800 && t < 864 ? 3 : 1;
        }
    risk_audit_measure(&in, &budget, scratch, &e);
    assert_true(fabs((double)e.error_base - (1 + 8 * 64. / 1600)) < 1e-5);
    assert_true(fabs((double)e.error_high - (1 + 8 * (1 - exp(-1)))) < .1);
    assert_true(fabs((double)e.moment_low - 1) < 1e-6 && fabs((double)e.moment_high - 1) < 1e-6);
    for (size_t i = 804 * DIM; i < 864 * DIM; i++)
        s.e[i] = 1;
    for (size_t i = 0; i < 20 * DIM; i++)
        s.d[i] *= 10;
    in.stride = 16;
    risk_audit_measure(&in, &budget, scratch, &e);
    assert_true(fabs((double)e.error_high - (1 + 8 * (1 - exp(-1)))) < .1);
    assert_true(e.moment_low < .9f * e.moment_high && e.moment_low < e.moment_ratio);
    free(scratch);
    stream_drop(&s);
}

/* Of the same energy, but Laplacian: η = .24 in two dimensions, which costs .17 bits. */
static void test_shape_counts(void **state)
{
    struct stream s = correlated(1500, 0, false, 9);
    struct risk_random g = { 10 };
    struct risk_audit_entry e;

    (void)state;
    for (size_t i = 0; i < s.n * DIM; i++)
        s.d[i] = (float)(oracle_laplace(&g) * M_SQRT1_2 * (i % 2 ? .6 : 1) *
                         exp(-.02 * (double)(i % DIM)));
    e = measure(&s, RISK_REFERENCE_DEPTH, .1, (struct risk_audit_budget){ 4, 1000 });
    assert_true(fabs((double)e.ln_eta - .24) < .08);
    assert_true(fabs((double)e.predicted_bits + .17) < .08);
    stream_drop(&s);
}

/* Fewer tokens than blocks, nothing but zeros, no budget, errors of both planes. */
static void test_ends(void **state)
{
    struct stream s = stream_new(1200);
    struct risk_audit_entry e, again;
    struct risk_audit_input in = { .head_dim = DIM, .dsub = 4, .n_words = 16, .n_tokens = 1200 };
    struct risk_audit_budget budget = { 1, 1200 };
    double *scratch;

    (void)state;
    e = measure(&s, RISK_REFERENCE_TEMPORAL, 1, RISK_AUDIT_BUDGET);
    assert_true(e.predicted_bits == 0 && e.residual_ratio == 1 && e.error_base == 0);
    assert_int_equal(e.tier, RISK_SHAPE_UNKNOWN);
    assert_false(risk_audit_is_certified(&e));
    s.n = 7;
    e = measure(&s, RISK_REFERENCE_TEMPORAL, 1, RISK_AUDIT_BUDGET);
    assert_int_equal(e.flags, 0);
    stream_drop(&s);
    s = correlated(1200, .5, false, 8);
    run_loop(&s, .5);
    e = measure(&s, RISK_REFERENCE_TEMPORAL, .5, (struct risk_audit_budget){ 0, 1000 });
    assert_true(e.ln_eta == 0 && isinf(e.eta_u) && e.predicted_bits > .1f);
    in.x = s.x;
    in.d = s.d;
    in.e_fine = s.e;
    in.reference = RISK_REFERENCE_DEPTH;
    scratch = oracle_alloc(risk_audit_scratch(&in, &budget));
    risk_audit_measure(&in, &budget, scratch, &e);
    memset(scratch, 0xff, risk_audit_scratch(&in, &budget) * sizeof(*scratch));
    risk_audit_measure(&in, &budget, scratch, &again);
    assert_memory_equal(&e, &again, sizeof(e));
    assert_int_equal(e.flags, RISK_AUDIT_PREDICTED | RISK_AUDIT_FINE);
    assert_true(e.error_fine > 0 && e.error_base == 0);
    free(scratch);
    stream_drop(&s);
}

static struct risk_audit_entry entry(double predicted, double error, double margin)
{
    return (struct risk_audit_entry){ .flags = RISK_AUDIT_PREDICTED | RISK_AUDIT_CERTIFIED,
                                      .tier = RISK_SHAPE_KNN,
                                      .n_tokens = 1000,
                                      .residual_ratio = .25f,
                                      .domination = .75f,
                                      .predicted_bits = (float)predicted,
                                      .eta_u = .05f,
                                      .margin = (float)margin,
                                      .error_base = (float)error };
}

static void test_choices(void **state)
{
    enum { ALL = (1 << RISK_REFERENCE_DELTA) - 1, CHEAP = 3 };
    static const struct {
        double error[RISK_N_REFERENCES], margin[RISK_N_REFERENCES]; /* error 0: not measured */
        uint32_t allowed, chosen, reason;
    } WANT[] = {
        { { 1, .9, .5, .25, .1 }, { 9, 1, 1, 1, 1 }, ALL, RISK_REFERENCE_DEPTH, RISK_REASON_BEST },
        { { 1, .9, .5, .25, .1 }, { 9, 1, 1, 1, 1 }, ~0u, RISK_REFERENCE_DELTA, RISK_REASON_BEST },
        { { 1, .8, .5, .25 }, { 9, 1, 1, 1 }, CHEAP, RISK_REFERENCE_TEMPORAL, RISK_REASON_COST },
        { { 1, .95, .5, .25 }, { 9, 1, 1, 1 }, CHEAP, RISK_REFERENCE_NONE, RISK_REASON_COST },
        { { 1, .8, .5, .25 }, { 9, 1, 1, .01 }, ALL, RISK_REFERENCE_DEPTH_HEAD, RISK_REASON_BEST },
        { { 1, .8, 0, .25 }, { 9, -1, 0, 0 }, ALL, RISK_REFERENCE_NONE, RISK_REASON_UNSTABLE },
        { { 1, 1.2, .95, .91 }, { 9, 1, 1, 1 }, ALL, RISK_REFERENCE_NONE, RISK_REASON_NO_GAIN },
        { { 1 }, { 9 }, ALL, RISK_REFERENCE_NONE, RISK_REASON_UNKNOWN },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(WANT); i++) {
        struct risk_audit_row row = { 0 };

        for (int j = 0; j < RISK_N_REFERENCES; j++)
            if (WANT[i].error[j] > 0)
                row.entry[j] = entry(.01, WANT[i].error[j], WANT[i].margin[j]);
        risk_audit_choose(&row, WANT[i].allowed);
        assert_int_equal(row.reference, WANT[i].chosen);
        assert_int_equal(row.reason, WANT[i].reason);
    }
}

/* A margin from few tokens is none; a prediction alone is not certified. */
static void test_certified(void **state)
{
    struct risk_audit_entry e = entry(1, .25, 1);

    (void)state;
    assert_true(risk_audit_is_certified(&e));
    e.n_tokens = 511;
    assert_false(risk_audit_is_certified(&e));
    e.n_tokens = 512;
    e.flags = RISK_AUDIT_PREDICTED;
    assert_false(risk_audit_is_certified(&e));
    assert_true(risk_audit_bits(&e) == 1);
    e.flags = RISK_AUDIT_COMPARED | RISK_AUDIT_PREDICTED;
    e.measured_bits = .5f;
    assert_true(risk_audit_bits(&e) == .5);
    e.flags = 0;
    assert_true(risk_audit_bits(&e) == 0);
}

static void test_sentences(void **state)
{
    struct risk_audit_row row = { .layer = 3, .kind = 1 };
    char text[RISK_AUDIT_TEXT_BYTES];

    (void)state;
    risk_audit_choose(&row, ~0u);
    risk_audit_reason_text(&row, text);
    assert_string_equal(text, "none for want of measurements");
    row.entry[RISK_REFERENCE_NONE] = entry(0, 1, 1);
    row.entry[RISK_REFERENCE_DEPTH] = entry(1.1, .25, .6);
    row.entry[RISK_REFERENCE_DELTA] = entry(-.35, 1.5157166, .2);
    row.entry[RISK_REFERENCE_DELTA].domination = 1.83f;
    row.entry[RISK_REFERENCE_TEMPORAL] = entry(.1, .9, -.005);
    risk_audit_choose(&row, (1 << RISK_REFERENCE_DELTA) - 1);
    risk_audit_reason_text(&row, text);
    assert_string_equal(
        text,
        "depth gains most: predicted 1.10 bits (± 0.04), measured 1.00, loop gain 0.30; none would "
        "cost 1.00 bits more; temporal would cost 0.92 bits more, not certified (loop gain 1.01); "
        "temporal a=1 would lose 0.30 bits against none, domination fails (1.83)");
    risk_audit_choose(&row, 1);
    risk_audit_reason_text(&row, text);
    assert_string_equal(
        text,
        "none as a better one was not allowed; temporal would save 0.08 bits more, not "
        "certified (loop gain 1.01); depth would save 1.00 bits more; temporal a=1 would lose "
        "0.30 bits against none, domination fails (1.83)");
    row.reference = RISK_REFERENCE_TEMPORAL;
    row.reason = RISK_REASON_FORCED;
    risk_audit_reason_text(&row, text);
    assert_memory_equal(text, "temporal as told: predicted", 27);
}

/* The longest that there can be still fits, or is cut off with its NUL. */
static void test_long_sentence(void **state)
{
    struct risk_audit_row row = { .reason = RISK_REASON_UNSTABLE };
    char text[RISK_AUDIT_TEXT_BYTES];

    (void)state;
    for (int i = 0; i < RISK_N_REFERENCES; i++) {
        row.entry[i] = entry(-1e38, 1, -40);
        row.entry[i].domination = 3e38f;
    }
    memset(text, 'x', sizeof(text));
    risk_audit_reason_text(&row, text);
    assert_non_null(memchr(text, 0, sizeof(text)));
    row.reference = row.reason = 255;
    risk_audit_reason_text(&row, text);
    assert_non_null(memchr(text, 0, sizeof(text)));
}

/* --- bytes ---------------------------------------------------------------------------------- */

enum { ROWS = 3 };

static void make_rows(struct risk_audit_row rows[ROWS])
{
    memset(rows, 0, ROWS * sizeof(*rows));
    for (uint16_t i = 0; i < ROWS; i++) {
        rows[i].layer = i / 2;
        rows[i].kind = i % 2;
        rows[i].head = 5;
        rows[i].entry[0] = entry(0, 1, INFINITY);
        rows[i].entry[3] = entry(1.5, .125, -.25);
        risk_audit_choose(&rows[i], ~0u);
    }
}

static uint8_t *written(const struct risk_audit_row *rows, size_t n, size_t *ret_n)
{
    uint8_t *bytes = malloc(risk_audit_bytes(n));

    assert_non_null(bytes);
    risk_audit_write(rows, n, bytes);
    *ret_n = risk_audit_bytes(n);
    return bytes;
}

static void test_round_trip(void **state)
{
    struct risk_audit_row rows[ROWS], got[ROWS];
    size_t n_bytes, n_rows = 77;
    uint8_t *bytes;

    (void)state;
    make_rows(rows);
    bytes = written(rows, ROWS, &n_bytes);
    memset(got, 0, sizeof(got));
    assert_int_equal(risk_audit_parse(bytes, n_bytes, 2, got, &n_rows), RISK_AUDIT_E_SPACE);
    assert_true(n_rows == 77 && !got[1].head);
    assert_int_equal(risk_audit_parse(bytes, n_bytes, ROWS, got, &n_rows), 0);
    assert_int_equal(n_rows, ROWS);
    assert_memory_equal(got, rows, sizeof(rows));
    free(bytes);
    bytes = written(NULL, 0, &n_bytes);
    assert_int_equal(risk_audit_parse(bytes, n_bytes, 0, NULL, &n_rows), 0);
    assert_int_equal(n_rows, 0);
    free(bytes);
}

/* FORMAT, byte by byte. */
static void test_layout(void **state)
{
    static const uint8_t HEAD[] = { 'D',
                                    'P',
                                    'Q',
                                    'A',
                                    'U',
                                    'D',
                                    'I',
                                    'T',
                                    1,
                                    0,
                                    0,
                                    0,
                                    132,
                                    1,
                                    0,
                                    0,
                                    1,
                                    0,
                                    0,
                                    0,
                                    0,
                                    0,
                                    0,
                                    0,
                                    /* row */ 2,
                                    1,
                                    1,
                                    0,
                                    4,
                                    0,
                                    3,
                                    2,
                                    /* entry 0 */ 15,
                                    1,
                                    0,
                                    0,
                                    0,
                                    2,
                                    1,
                                    0 };
    static const float FLOATS[] = {
        .5f, 2, -3, -4, 5, 6, 7, 8, -9, 10, 11, -12, 13, 14, 15, 16, 17
    };
    struct risk_audit_row row = {
        .layer = 0x102, .kind = 1, .head = 4, .reference = 3, .reason = RISK_REASON_BEST
    };
    uint8_t *bytes;
    size_t n;

    (void)state;
    row.entry[0] = (struct risk_audit_entry){ .flags = 15,
                                              .tier = 1,
                                              .n_tokens = 0x10200,
                                              .residual_ratio = .5f,
                                              .domination = 2,
                                              .predicted_bits = -3,
                                              .ln_eta = -4,
                                              .eta_u = 5,
                                              .loop_gain = 6,
                                              .kappa_plus = 7,
                                              .kappa_l_plus = 8,
                                              .margin = -9,
                                              .error_base = 10,
                                              .error_fine = 11,
                                              .measured_bits = -12,
                                              .energy = 13,
                                              .moment_ratio = 14,
                                              .moment_low = 15,
                                              .moment_high = 16,
                                              .error_high = 17 };
    bytes = written(&row, 1, &n);
    assert_int_equal(n, 24 + 388);
    assert_memory_equal(bytes, HEAD, sizeof(HEAD));
    assert_memory_equal(bytes + sizeof(HEAD), FLOATS, sizeof(FLOATS));
    free(bytes);
}

static void put_float(uint8_t *at, float v)
{
    memcpy(at, &v, sizeof(v));
}

static void test_refused(void **state)
{
    struct risk_audit_row rows[ROWS], got[ROWS], untouched;
    size_t n_bytes, n_rows = 0;
    uint8_t *good, *bytes;

    (void)state;
    make_rows(rows);
    memset(got, 0x5a, sizeof(got));
    untouched = got[0];
    good = written(rows, ROWS, &n_bytes);
    bytes = malloc(n_bytes + 1);
    assert_non_null(bytes);
#define REFUSED(outcome, change) \
    do { \
        memcpy(bytes, good, n_bytes); \
        change; \
        assert_int_equal(risk_audit_parse(bytes, n_bytes, ROWS, got, &n_rows), outcome); \
        assert_memory_equal(&got[0], &untouched, sizeof(untouched)); \
    } while (0)
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[7] = 'X');
    REFUSED(RISK_AUDIT_E_VERSION, bytes[8] = 2);
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[12]++);                    /* another size of row */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[16]--);                    /* bytes after the last row */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[19] = 0xff);               /* more rows than can be */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[20] = 1);                  /* reserved */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[24 + 2] = 2);              /* kind */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[24 + 6] = 5);              /* reference */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[24 + 7] = RISK_N_REASONS); /* reason */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[32] |= 16);                /* flags */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[33] = RISK_N_SHAPE_TIERS); /* tier */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[34] = 1);                  /* reserved */
    REFUSED(RISK_AUDIT_E_CORRUPT, put_float(bytes + 40, NAN));     /* not a number */
    REFUSED(RISK_AUDIT_E_CORRUPT, put_float(bytes + 40, -1));      /* a negative energy */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[32 + 76 + 9] = 1);         /* of what was not measured */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[24 + 388 + 2] = 0);        /* the same stream twice */
    REFUSED(RISK_AUDIT_E_CORRUPT, bytes[24] = 3);                  /* out of order */
#undef REFUSED
    for (size_t n = 0; n < n_bytes; n++)
        assert_int_equal(risk_audit_parse(good, n, ROWS, got, &n_rows), RISK_AUDIT_E_CORRUPT);
    memcpy(bytes, good, n_bytes);
    assert_int_equal(risk_audit_parse(bytes, n_bytes + 1, ROWS, got, &n_rows),
                     RISK_AUDIT_E_CORRUPT);
    free(bytes);
    free(good);
}

/* Whatever bit is wrong: refused, or what is read back is what the bytes say. */
static void test_flipped_bits(void **state)
{
    struct risk_audit_row rows[ROWS], got[ROWS];
    size_t n_bytes, n_rows;
    uint8_t *bytes, *again;

    (void)state;
    make_rows(rows);
    bytes = written(rows, ROWS, &n_bytes);
    again = malloc(n_bytes);
    assert_non_null(again);
    for (size_t bit = 0; bit < 8 * n_bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!risk_audit_parse(bytes, n_bytes, ROWS, got, &n_rows)) {
            risk_audit_write(got, n_rows, again);
            assert_memory_equal(again, bytes, n_bytes);
        }
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(again);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_predictions),  cmocka_unit_test(test_figures),
        cmocka_unit_test(test_shape_counts), cmocka_unit_test(test_worst_stretch),
        cmocka_unit_test(test_calibration),  cmocka_unit_test(test_ends),
        cmocka_unit_test(test_choices),      cmocka_unit_test(test_certified),
        cmocka_unit_test(test_sentences),    cmocka_unit_test(test_long_sentence),
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_layout),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_flipped_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
