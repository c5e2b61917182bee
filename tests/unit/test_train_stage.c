/* train_stage: references in time and depth, the choice between them, metrics, rates, spilling */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/util/tile_fixture.h"

enum { LAYERS = 3, HEADS = 2, D = 32, N = 2560, STREAMS = LAYERS * 2 * HEADS };

static struct dpq_geometry geometry(void)
{
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);

    g.rope_pairing = DPQ_ROPE_NONE;
    g.rotary_dim = 0;
    memset(g.inv_freq, 0, sizeof(g.inv_freq));
    return g;
}

static struct dpq_train_options options(uint32_t reference)
{
    return (struct dpq_train_options){
        .model_name = "synthetic",
        .seed = 4,
        .max_bytes = 64 << 20,
        .n_threads = 2,
        .n_iterations = 6,
        .reference = reference,
    };
}

/* A source of rows: how much a vector follows the one before, and the layer below. */
struct source {
    double in_time, in_depth;
    float mix[STREAMS][D * D]; /* of what is below: one rotation a stream */
};

static struct source *source_new(double in_time, double in_depth)
{
    struct source *s = malloc(sizeof(*s));
    struct rng r = rng_seed(3);

    s->in_time = in_time;
    s->in_depth = in_depth;
    for (uint32_t i = 0; i < STREAMS; i++)
        toy_rotation(&r, D, s->mix[i]);
    return s;
}

/* Variances decay along coordinates; V follows K of its layer, K the V below. */
static float *make_rows(const struct source *s, uint32_t n, uint64_t seed)
{
    float *rows = malloc(sizeof(float) * n * STREAMS * D);
    struct rng r = rng_seed(seed);

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < STREAMS; i++) {
            float *x = rows + ((size_t)t * STREAMS + i) * D;
            const float *below = i < HEADS ? NULL : x - HEADS * D;
            double left = 1 - s->in_time * s->in_time - (below ? s->in_depth * s->in_depth : 0);

            for (uint32_t a = 0; a < D; a++) {
                double v = sqrt(left) * exp(-(double)a / 20) * toy_normal(&r);

                for (uint32_t b = 0; below && b < D; b++)
                    v += s->in_depth * (double)(s->mix[i][a * D + b] * below[b]);
                x[a] = (float)(v + (t ? s->in_time * (double)x[a - (ptrdiff_t)(STREAMS * D)] : 0));
            }
        }
    return rows;
}

static struct dpq_profile *train_with(const struct source *s, const struct dpq_train_options *o,
                                      const float *metric, const struct dpq_audit_hooks *hooks,
                                      uint8_t **ret_bytes, size_t *ret_n)
{
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, DPQ_F32, LAYERS);
    size_t row = dpq_row_bytes(&g, DPQ_F32);
    float *rows = make_rows(s, N, 9);
    struct dpq_trainer *t = NULL;
    struct dpq_profile *p = NULL;

    assert_int_equal(dpq_trainer_new(&g, o, &t, NULL), 0);
    for (uint32_t at = 0; at < N; at += 512)
        assert_int_equal(dpq_trainer_add(t, &tensor, (uint8_t *)rows + at * row, 512 * row,
                                         4096 + at, 512, NULL),
                         0);
    for (uint32_t i = 0; metric && i < STREAMS; i++)
        assert_int_equal(dpq_trainer_metric(t, i / (2 * HEADS), i / HEADS % 2, i % HEADS,
                                            metric + (size_t)i * D * D, NULL),
                         0);
    if (hooks)
        dpq_trainer_audit(t, hooks);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, ret_bytes, ret_n, NULL), 0);
    dpq_trainer_free(t);
    free(rows);
    assert_int_equal(dpq_profile_open(*ret_bytes, *ret_n, &p, NULL), 0);
    return p;
}

static struct dpq_profile *train(const struct source *s, const struct dpq_train_options *o,
                                 const float *metric, uint8_t **ret_bytes, size_t *ret_n)
{
    return train_with(s, o, metric, NULL, ret_bytes, ret_n);
}

/* Mean squared error of fresh rows, through encode and decode. */
static double fresh_error(const struct source *s, struct dpq_profile *p, uint32_t rate)
{
    struct toy toy = { .geometry = geometry(), .profile = p };
    double sum = 0;

    for (uint32_t k = 0; k < 2; k++) {
        float *rows = make_rows(s, T, 100 + k), *got;
        struct tile t = encode(&toy, rows, DPQ_F32, 128, rate, ~0u);

        got = decode(&toy, &t, ~0u);
        for (size_t i = 0; i < T * STREAMS * D; i++)
            sum += ((double)rows[i] - got[i]) * ((double)rows[i] - got[i]);
        tile_drop(&t);
        free(got);
        free(rows);
    }
    return sum / (2 * T * STREAMS * D);
}

static double error_with(const struct source *s, struct dpq_train_options o, uint32_t rate)
{
    uint8_t *bytes;
    size_t n;
    struct dpq_profile *p = train(s, &o, NULL, &bytes, &n);
    double e = fresh_error(s, p, rate);

    dpq_profile_free(p);
    free(bytes);
    return e;
}

/* In depth: residual variance 1 - .95², plus what the reference's own error adds. */
static void test_depth_pays(void **state)
{
    struct source *s = source_new(0, .95);

    (void)state;
    for (uint32_t rate = 0; rate <= DPQ_RATE_COMPACT; rate += 2) {
        double none = error_with(s, options(DPQ_REFERENCE_NONE), rate);
        double head = error_with(s, options(DPQ_REFERENCE_DEPTH_HEAD), rate);
        double depth = error_with(s, options(DPQ_REFERENCE_DEPTH), rate);

        /* the sources mix nothing across heads, and one stage in six has nothing below */
        assert_true(head < .5 * none && depth < 1.1 * head);
        assert_true(head > .1 * none);
    }
    free(s);
}

/* In time: a leaky loop gains where the source is correlated; a = 1 loses where it is not. */
static void test_time_pays(void **state)
{
    struct source *slow = source_new(.95, 0), *white = source_new(.1, 0);
    struct dpq_train_options pure = options(DPQ_REFERENCE_TEMPORAL);
    double none, leaky;

    (void)state;
    pure.leak = 1;
    none = error_with(slow, options(DPQ_REFERENCE_NONE), DPQ_RATE_COMPACT);
    leaky = error_with(slow, options(DPQ_REFERENCE_TEMPORAL), DPQ_RATE_COMPACT);
    assert_true(leaky < .4 * none);
    none = error_with(white, options(DPQ_REFERENCE_NONE), DPQ_RATE_COMPACT);
    leaky = error_with(white, options(DPQ_REFERENCE_TEMPORAL), DPQ_RATE_COMPACT);
    assert_true(leaky < 1.05 * none);
    assert_true(error_with(white, pure, DPQ_RATE_COMPACT) > 1.1 * none);
    free(slow);
    free(white);
}

static uint32_t count(const struct dpq_profile *p, uint32_t reference)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->n_streams; i++)
        n += p->streams[i].reference == reference;
    return n;
}

static uint32_t chosen(double in_time, double in_depth, float max_mflop, uint32_t reference)
{
    struct source *s = source_new(in_time, in_depth);
    struct dpq_train_options o = options(DPQ_REFERENCE_AUTO);
    uint8_t *bytes;
    size_t n_bytes;
    struct dpq_profile *p;
    uint32_t n;

    o.max_decode_mflop = max_mflop;
    p = train(s, &o, NULL, &bytes, &n_bytes);
    n = count(p, reference);
    dpq_profile_free(p);
    free(bytes);
    free(s);
    return n;
}

/* What pays is chosen; K of layer 0 has nothing below; a limit rules predictors out. */
static void test_auto(void **state)
{
    (void)state;
    assert_int_equal(chosen(.05, 0, 0, REFERENCE_NONE), STREAMS);
    assert_int_equal(chosen(.95, 0, 0, REFERENCE_TEMPORAL), STREAMS);
    assert_int_equal(chosen(0, .95, 0, REFERENCE_DEPTH_HEAD), STREAMS - HEADS);
    assert_int_equal(chosen(0, .95, .01f, REFERENCE_NONE), STREAMS);
}

/* A metric moves the error to where it costs nothing, and says what streams cost. */
static void test_metric(void **state)
{
    struct source *s = source_new(0, 0);
    struct dpq_train_options o = options(DPQ_REFERENCE_NONE);
    float *metric = calloc(STREAMS, sizeof(float) * D * D);
    struct dpq_profile *with, *without;
    uint8_t *a, *b;
    size_t n_a, n_b;
    double e[2][2] = { { 0 } };

    (void)state;
    for (uint32_t i = 0; i < STREAMS; i++)
        for (uint32_t k = 0; k < D; k++)
            metric[((size_t)i * D + k) * D + k] = (k % 2 ? 8.f : .05f) * (i < 4 ? 1 : 16);
    with = train(s, &o, metric, &a, &n_a);
    without = train(s, &o, NULL, &b, &n_b);
    for (int k = 0; k < 2; k++) {
        struct toy toy = { .geometry = geometry(), .profile = k ? with : without };
        float *rows = make_rows(s, T, 55), *got;
        struct tile t = encode(&toy, rows, DPQ_F32, 128, DPQ_RATE_COMPACT, ~0u);

        got = decode(&toy, &t, ~0u);
        for (size_t i = 0; i < T * STREAMS * D; i++)
            e[k][i % 2] += ((double)rows[i] - got[i]) * ((double)rows[i] - got[i]);
        tile_drop(&t);
        free(got);
        free(rows);
    }
    assert_true(e[1][1] < .8 * e[0][1]);
    assert_true(e[1][0] > e[0][0]);
    assert_true(fabsf(with->streams[7].importance / with->streams[0].importance - 16) < .1f);
    dpq_profile_free(with);
    dpq_profile_free(without);
    free(a);
    free(b);
    free(metric);
    free(s);
}

/* Bits go to the streams where they buy most, up to the mean that was asked for. */
static void test_balanced_bits(void **state)
{
    struct source *s = source_new(0, 0);
    struct dpq_train_options o = options(DPQ_REFERENCE_NONE);
    float *metric = calloc(STREAMS, sizeof(float) * D * D);
    struct dpq_profile *p;
    uint8_t *bytes;
    size_t n;

    (void)state;
    for (uint32_t i = 0; i < STREAMS; i++)
        for (uint32_t k = 0; k < D; k++)
            metric[((size_t)i * D + k) * D + k] = i % 3 ? 1 : 50;
    o.balanced_bits = 2.7f; /* a third of the streams, and not one more */
    p = train(s, &o, metric, &bytes, &n);
    for (uint32_t i = 0; i < STREAMS; i++) {
        assert_int_equal(p->streams[i].fine_rates >> DPQ_RATE_BALANCED & 1, i % 3 == 0);
        assert_int_equal(p->streams[i].fine_rates >> DPQ_RATE_QUALITY & 1, 1);
        assert_int_equal(p->streams[i].fine_rates >> DPQ_RATE_COMPACT & 1, 0);
    }
    dpq_profile_free(p);
    free(bytes);
    free(metric);
    free(s);
}

/* A stream's own reference, width and planes come before those of all; bits that others can not
 * have any more are counted. */
static void test_stream_options(void **state)
{
    struct source *s = source_new(.3, .8);
    struct dpq_train_options o = options(DPQ_REFERENCE_NONE);
    struct dpq_stream_options own = { .reference = DPQ_REFERENCE_DEPTH, .dsub = 4, .planes = 2 };
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, DPQ_F32, LAYERS);
    float *rows = make_rows(s, N, 9);
    struct dpq_trainer *t = NULL;
    struct dpq_profile *p = NULL;
    uint32_t chosen = dpq_stream_index(&g, 1, DPQ_V, 1), bare = dpq_stream_index(&g, 0, DPQ_V, 0);
    uint8_t *bytes;
    size_t n;

    (void)state;
    assert_int_equal(dpq_trainer_new(&g, &o, &t, NULL), 0);
    assert_int_equal(dpq_trainer_stream(t, 0, DPQ_K, 0, &own, NULL), DPQ_E_INVALID);
    assert_int_equal(dpq_trainer_stream(t, LAYERS, DPQ_K, 0, &own, NULL), DPQ_E_INVALID);
    assert_int_equal(dpq_trainer_stream(t, 1, DPQ_V, 1, &own, NULL), 0);
    own = (struct dpq_stream_options){ .reference = DPQ_REFERENCE_AUTO, .planes = 1 };
    assert_int_equal(dpq_trainer_stream(t, 0, DPQ_V, 0, &own, NULL), 0);
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, N * dpq_row_bytes(&g, DPQ_F32), 0, N, NULL),
                     0);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, &bytes, &n, NULL), 0);
    assert_int_equal(dpq_profile_open(bytes, n, &p, NULL), 0);
    for (uint32_t i = 0; i < STREAMS; i++) {
        assert_int_equal(p->streams[i].reference, i == chosen ? REFERENCE_DEPTH : REFERENCE_NONE);
        assert_int_equal(p->streams[i].dsub, i == chosen ? 4 : 2);
        assert_int_equal(p->streams[i].fine_rates, i == chosen ? 7
                                                   : i == bare
                                                       ? 0
                                                       : profile_default_fine(i / HEADS % 2));
    }
    assert_true(fresh_error(s, p, DPQ_RATE_QUALITY) < fresh_error(s, p, DPQ_RATE_COMPACT));
    assert_non_null(strstr(dpq_profile_info(p), "\"own\":[[0,1,0,0,0,1],[1,1,1,4,4,2]]"));
    dpq_profile_free(p);
    dpq_trainer_free(t);
    free(bytes);
    free(rows);
    free(s);
}

/* What is predicted from both planes comes nearer. */
static void test_full_references(void **state)
{
    struct source *s = source_new(0, .95);
    struct dpq_train_options o = options(DPQ_REFERENCE_DEPTH);
    struct dpq_profile *base, *full;
    uint8_t *a, *b;
    size_t n_a, n_b;

    (void)state;
    base = train(s, &o, NULL, &a, &n_a);
    o.full_references = true;
    full = train(s, &o, NULL, &b, &n_b);
    assert_true(full->streams[0].full && !base->streams[0].full);
    assert_true(fresh_error(s, full, DPQ_RATE_QUALITY) <
                .95 * fresh_error(s, base, DPQ_RATE_QUALITY));
    dpq_profile_free(base);
    dpq_profile_free(full);
    free(a);
    free(b);
    free(s);
}

/* Samples in a file give the same profile as samples in memory. */
static void test_spilled_samples(void **state)
{
    struct source *s = source_new(.3, .8);
    struct dpq_train_options o = options(DPQ_REFERENCE_AUTO);
    FILE *file = tmpfile();
    uint8_t *a, *b;
    size_t n_a, n_b;

    (void)state;
    dpq_profile_free(train(s, &o, NULL, &a, &n_a));
    o.spill_fd = fileno(file);
    o.n_threads = 3;
    dpq_profile_free(train(s, &o, NULL, &b, &n_b));
    assert_int_equal(n_a, n_b);
    assert_memory_equal(a, b, n_a);
    fseek(file, 0, SEEK_END);
    assert_int_equal(ftell(file), (long)sizeof(float) * N * STREAMS * D);
    fclose(file);
    free(a);
    free(b);
    free(s);
}

/* Tolerances are what fresh tokens meet, and the bound catches few of them. */
static void test_tolerances(void **state)
{
    struct source *s = source_new(0, .9);
    struct dpq_train_options o = options(DPQ_REFERENCE_DEPTH);
    uint8_t *bytes;
    size_t n;
    struct dpq_profile *p = train(s, &o, NULL, &bytes, &n);
    double base = fresh_error(s, p, DPQ_RATE_COMPACT), fine = fresh_error(s, p, DPQ_RATE_QUALITY);
    double want[2] = { 0 };

    (void)state;
    for (uint32_t i = 0; i < STREAMS; i++)
        for (int plane = 0; plane < 2; plane++)
            want[plane] += (double)p->streams[i]
                               .tolerance[p->streams[i].reference ? TREE_DELTA : TREE_INTRA][plane];
    assert_true(fabs(base / (want[0] / (STREAMS * D)) - 1) < .15);
    assert_true(fabs(fine / (want[1] / (STREAMS * D)) - 1) < .2);
    assert_true(p->bound == 8);
    dpq_profile_free(p);
    free(bytes);
    free(s);
}

/* What the hooks were told. */
struct seen {
    uint32_t n_views, n_choices;
    double omega, residual[5], power[5]; /* of V of layer 1 */
};

static void see(void *user, const struct dpq_candidate_view *v)
{
    struct seen *s = user;
    double d = 0, x = 0, e = 0;

    __atomic_add_fetch(&s->n_views, 1, __ATOMIC_RELAXED);
    assert_int_equal(v->head_dim, D);
    assert_int_equal(v->n_tokens, T); /* one tile of twenty */
    assert_true(v->candidate ? v->loop_gain != NULL : v->loop_gain == NULL);
    for (size_t i = 0; i < v->n_tokens * D; i++) {
        d += (double)v->d[i] * v->d[i];
        x += (double)v->x[i] * v->x[i];
        e += (double)v->e[i] * v->e[i];
    }
    assert_true(e > 0 && e < .5 * d);
    if (v->layer != 1 || v->kind != DPQ_V || v->head)
        return;
    s->residual[v->candidate] = d;
    s->power[v->candidate] = x;
    if (v->candidate == 2)
        s->omega = (double)v->loop_gain[0];
}

static int conclude(void *user, const struct dpq_choice *choices, uint32_t n, uint8_t **ret_bytes,
                    size_t *ret_n_bytes)
{
    struct seen *s = user;

    s->n_choices = n;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(choices[i].candidate, i < HEADS ? 0 : 2);
        assert_false(choices[i].forced);
        assert_true(choices[i].error_fine > 0 && choices[i].error_fine < choices[i].error_base);
    }
    *ret_bytes = malloc(3);
    memcpy(*ret_bytes, "abc", 3);
    *ret_n_bytes = 3;
    return 0;
}

/* The audit sees every candidate in closed loop. V of layer 1 follows K of its layer by .9: that
 * error comes back by .81. Of the three references it is one seventh (K of layer 0 has no reference
 * and five times the error of the others), so omega is about .12. */
static void test_audit_hooks(void **state)
{
    struct source *s = source_new(0, .9);
    struct dpq_train_options o = options(DPQ_REFERENCE_AUTO);
    struct seen seen = { 0 };
    struct dpq_audit_hooks hooks = { &seen, see, conclude };
    uint8_t *bytes;
    struct dpq_profile *p;
    size_t n, n_audit;

    (void)state;
    p = train_with(s, &o, NULL, &hooks, &bytes, &n);
    assert_int_equal(seen.n_views, STREAMS * 5 - HEADS * 2);
    assert_int_equal(seen.n_choices, STREAMS);
    assert_memory_equal(dpq_profile_audit(p, &n_audit), "abc", 3);
    assert_int_equal(n_audit, 3);
    assert_true(fabs(seen.residual[0] / seen.power[0] - 1) < 1e-3);
    assert_true(seen.residual[2] < .4 * seen.power[2]);
    assert_true(seen.residual[4] > 1.5 * seen.power[4]);
    if (seen.omega < .08 || seen.omega > .25)
        fail_msg("omega %g", seen.omega);
    dpq_profile_free(p);
    free(bytes);
    free(s);
}

static void test_refused(void **state)
{
    struct dpq_geometry g = geometry();
    struct dpq_train_options o;
    struct dpq_trainer *t = NULL;
    struct dpq_fault fault;
    float metric[D * D] = { 0 };

    (void)state;
#define REFUSED(word, assignment) \
    do { \
        o = options(0); \
        assignment; \
        assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), DPQ_E_INVALID); \
        assert_non_null(strstr(fault.message, word)); \
    } while (0)
    REFUSED("reference", o.reference = 5);
    REFUSED("dsub", o.dsub[1] = 3);
    REFUSED("group_tokens", o.group_tokens = 24);
    REFUSED("leak", o.leak = 1.5f);
    REFUSED("metric_lambda", o.metric_lambda = INFINITY);
    REFUSED("balanced_bits", o.balanced_bits = 5);
    REFUSED("bound", o.bound = .5f);
    REFUSED("max_decode_mflop", o.max_decode_mflop = -1);
#undef REFUSED
    o = options(0);
    assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), 0);
    assert_int_equal(dpq_trainer_metric(t, LAYERS, 0, 0, metric, &fault), DPQ_E_INVALID);
    metric[5] = NAN;
    assert_int_equal(dpq_trainer_metric(t, 1, 1, 1, metric, &fault), DPQ_E_NOT_FINITE);
    assert_int_equal(fault.layer, 1);
    dpq_trainer_free(t);
}

/* Under the thread sanitizer a training takes a quarter of a minute: only those that say something
 * about threads, then. */
#ifdef __SANITIZE_THREAD__
enum { FIRST = 6 };
#else
enum { FIRST = 0 };
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_depth_pays),
        cmocka_unit_test(test_time_pays),
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_metric),
        cmocka_unit_test(test_balanced_bits),
        cmocka_unit_test(test_stream_options),
        cmocka_unit_test(test_full_references),
        cmocka_unit_test(test_tolerances),
        cmocka_unit_test(test_spilled_samples),
        cmocka_unit_test(test_audit_hooks),
        cmocka_unit_test(test_refused),
    };

    return _cmocka_run_group_tests("tests", tests + FIRST, ARRAY_SIZE(tests) - FIRST, NULL, NULL);
}
