/* train: what calibration learns, how well, that it is repeatable, and what it refuses */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/util/toy_profile.h"

enum { LAYERS = 4, HEADS = 2, D = 32, CHUNK = 256 };

static struct dpq_geometry geometry(void)
{
    struct dpq_geometry g = toy_geometry(LAYERS, HEADS, D);

    g.attention_scaling = 1.25f;
    return g;
}

static struct dpq_train_options options(uint32_t n_threads)
{
    return (struct dpq_train_options){
        .model_name = "toy \"model\"",
        .seed = 11,
        .max_bytes = 64 << 20,
        .n_threads = n_threads,
        .reference = DPQ_REFERENCE_NONE,
    };
}

static struct dpq_tensor canonical(const struct dpq_geometry *g, uint32_t dtype)
{
    int64_t head = (int64_t)(g->head_dim * dpq_dtype_bytes(dtype));

    return (struct dpq_tensor){
        .dtype = dtype,
        .stride_head = head,
        .stride_kind = head * g->n_kv_heads,
        .stride_layer = head * g->n_kv_heads * 2,
        .stride_token = (int64_t)dpq_row_bytes(g, dtype),
    };
}

/* A correlated vector of a stream: fixed mixing of independent normals, decaying variances. */
struct source {
    float mix[LAYERS * 2 * HEADS][D * D];
    float mean[LAYERS * 2 * HEADS][D];
};

static struct source *source_new(void)
{
    struct source *s = malloc(sizeof(*s));
    struct rng r = rng_seed(5);

    for (uint32_t i = 0; i < LAYERS * 2 * HEADS; i++) {
        toy_rotation(&r, D, s->mix[i]);
        for (uint32_t a = 0; a < D; a++) {
            s->mean[i][a] = (float)toy_normal(&r);
            for (uint32_t b = 0; b < D; b++)
                s->mix[i][a * D + b] *= expf(-(float)b / 12);
        }
    }
    return s;
}

static void draw(const struct source *s, struct rng *r, uint32_t stream, float *x)
{
    float z[D];

    for (uint32_t b = 0; b < D; b++)
        z[b] = (float)toy_normal(r);
    for (uint32_t a = 0; a < D; a++) {
        x[a] = s->mean[stream][a];
        for (uint32_t b = 0; b < D; b++)
            x[a] += s->mix[stream][a * D + b] * z[b];
    }
}

/* Keys as an engine gives them: turned by their position. Written here a second time on purpose. */
static void turn(const struct dpq_geometry *g, float *x, uint64_t position)
{
    for (uint32_t i = 0; i < D / 2; i++) {
        double angle = (double)position * (double)g->inv_freq[i], a = x[i], b = x[i + D / 2];

        x[i] = (float)((double)g->attention_scaling * (a * cos(angle) - b * sin(angle)));
        x[i + D / 2] = (float)((double)g->attention_scaling * (b * cos(angle) + a * sin(angle)));
    }
}

/* Rows of n tokens from position on. The first of a sequence are outliers, as sinks are. */
static uint8_t *make_rows(const struct source *s, uint32_t dtype, uint64_t position, uint32_t n,
                          uint64_t seed)
{
    struct dpq_geometry g = geometry();
    size_t row = dpq_row_bytes(&g, dtype), element = dpq_dtype_bytes(dtype);
    uint8_t *rows = malloc(row * n);
    struct rng r = rng_seed(seed);

    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < dpq_n_streams(&g); i++) {
            float x[D];

            draw(s, &r, i, x);
            for (uint32_t a = 0; a < D && position + t < g.n_sink; a++)
                x[a] *= 300;
            if (i / HEADS % 2 == DPQ_K)
                turn(&g, x, position + t);
            for (uint32_t a = 0; a < D; a++)
                toy_put(rows + t * row + (i * D + a) * element, dtype, x[a]);
        }
    return rows;
}

static struct dpq_trainer *trainer(const struct dpq_train_options *o)
{
    struct dpq_geometry g = geometry();
    struct dpq_trainer *t = NULL;

    assert_int_equal(dpq_trainer_new(&g, o, &t, NULL), 0);
    return t;
}

/* Sequences of 512 tokens, added in chunks of 256, the second of each further on. */
static void feed(struct dpq_trainer *t, const struct source *s, uint32_t dtype, uint32_t n_tokens)
{
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, dtype);

    for (uint32_t at = 0; at < n_tokens; at += CHUNK) {
        uint64_t position = at % 512 ? 100000 : 0;
        uint8_t *rows = make_rows(s, dtype, position, CHUNK, at + 1);

        assert_int_equal(dpq_trainer_add(t, &tensor, rows, CHUNK * dpq_row_bytes(&g, dtype),
                                         position, CHUNK, NULL),
                         0);
        free(rows);
    }
    assert_int_equal(dpq_trainer_tokens(t), n_tokens);
}

struct file {
    uint8_t *bytes;
    size_t n;
};

static struct file train(const struct source *s, const struct dpq_train_options *o, uint32_t dtype)
{
    struct dpq_trainer *t = trainer(o);
    struct file f;

    feed(t, s, dtype, 2048);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, &f.bytes, &f.n, NULL), 0);
    dpq_trainer_free(t);
    return f;
}

static void test_same_bytes_for_any_threads(void **state)
{
    struct dpq_train_options one = options(1), three = options(3), other = options(1);
    struct source *s = source_new();
    struct file a, b, c, d;

    (void)state;
    other.seed++;
    a = train(s, &one, DPQ_F16);
    b = train(s, &three, DPQ_F16);
    c = train(s, &one, DPQ_F16);
    d = train(s, &other, DPQ_F16);
    assert_int_equal(a.n, b.n);
    assert_int_equal(a.n, c.n);
    assert_memory_equal(a.bytes, b.bytes, a.n);
    assert_memory_equal(a.bytes, c.bytes, a.n);
    assert_true(a.n != d.n || memcmp(a.bytes, d.bytes, a.n));
    free(a.bytes);
    free(b.bytes);
    free(c.bytes);
    free(d.bytes);
    free(s);
}

/* Squared errors of fresh tokens with a profile's numbers, by the plainest of searches. */
static void measure(const struct profile_stream *p, const float *x, double *base, double *fine,
                    double *power)
{
    float y[D], square = 0, gain;

    for (uint32_t i = 0; i < D; i++) {
        y[i] = 0;
        for (uint32_t a = 0; a < D; a++)
            y[i] += p->encode[i * D + a] * (x[a] - p->mean[a]);
        square += y[i] * y[i];
    }
    gain = exp2f(roundf(4 * log2f(square / D)) / 8);
    for (uint32_t m = 0; m < D / 2; m++) {
        const struct profile_tree *tree = &p->tree[TREE_INTRA];
        double least[2] = { INFINITY, INFINITY };
        uint32_t parent = 0;

        for (uint32_t w = 0; w < 256 + 16; w++) {
            const int8_t *c = w < 16 ? tree->base + (m * 16 + w) * 2
                                     : tree->fine + (m * 256 + parent * 16 + w % 16) * 2;
            double u = (double)(y[2 * m] - gain * tree->scale[m] * c[0]);
            double v = (double)(y[2 * m + 1] - gain * tree->scale[m] * c[1]);

            if (w < 16 && u * u + v * v < least[0])
                parent = w;
            least[w >= 16] = fmin(least[w >= 16], u * u + v * v);
        }
        *base += least[0];
        *fine += least[1];
    }
    *power += (double)square;
}

/* Gaussian data of equal variances: 16 words a subspace leave .11 of it, the tree .0085 (theory).
 * Here the variances are unequal, and a good rotation leaves .042 and .0042. A wrong rotation, RoPE
 * or position, or sinks let in, cost much more than these bounds allow. */
static void test_error_on_fresh_tokens(void **state)
{
    struct dpq_train_options o = options(2);
    struct source *s = source_new();
    struct file f = train(s, &o, DPQ_F32);
    struct dpq_profile *p = NULL;
    struct rng r = rng_seed(99);

    (void)state;
    assert_int_equal(dpq_profile_open(f.bytes, f.n, &p, NULL), 0);
    for (uint32_t i = 0; i < p->n_streams; i++) {
        double base = 0, fine = 0, power = 0;
        float x[D];

        for (int t = 0; t < 500; t++) {
            draw(s, &r, i, x);
            measure(&p->streams[i], x, &base, &fine, &power);
        }
        if (base / power > .048 || fine / power > .0052)
            fail_msg("stream %u: base %.4f, fine %.5f", i, base / power, fine / power);
        assert_true(base / power > .035 && fine / power > .003);
        /* the tolerance was measured on other tokens, in the same units */
        assert_true(fabs((double)p->streams[i].tolerance[TREE_INTRA][PLANE_FINE] * 500 / fine - 1) <
                    .3);
    }
    dpq_profile_free(p);
    free(f.bytes);
    free(s);
}

static void test_what_the_profile_says(void **state)
{
    struct dpq_train_options o = options(2);
    struct dpq_geometry g = geometry();
    struct source *s = source_new();
    struct file f = train(s, &o, DPQ_BF16);
    struct dpq_profile *p = NULL;

    (void)state;
    assert_int_equal(dpq_profile_open(f.bytes, f.n, &p, NULL), 0);
    assert_string_equal(dpq_profile_name(p), o.model_name);
    assert_memory_equal(dpq_profile_geometry(p), &g, sizeof(g));
    assert_non_null(strstr(dpq_profile_info(p), "\"model\":\"toy \\\"model\\\"\""));
    assert_non_null(strstr(dpq_profile_info(p), "\"seed\":11,"));
    /* 4 sequences of 4 sinks each; of 16 tiles the last is held out */
    assert_non_null(strstr(dpq_profile_info(p), "\"tokens\":2048,\"tokens_learned\":1904,"
                                                "\"tokens_held_out\":128"));
    assert_non_null(strstr(dpq_profile_info(p), "\"references\":{\"none\":16,"));
    for (uint32_t i = 0; i < p->n_streams; i++) {
        const struct profile_stream *q = &p->streams[i];

        assert_int_equal(q->reference, REFERENCE_NONE);
        assert_int_equal(q->dsub, 2);
        for (uint32_t a = 0; a < D; a++) {
            assert_true(fabsf(q->mean[a] - s->mean[i][a]) < .2f);
            for (uint32_t b = 0; b < D; b++) {
                double dot = 0;

                for (uint32_t k = 0; k < D; k++)
                    dot += (double)q->encode[a * D + k] * (double)q->encode[b * D + k];
                assert_true(fabs(dot - (a == b)) < 1e-5);
            }
        }
    }
    dpq_profile_free(p);
    free(f.bytes);
    free(s);
}

/* Constant streams, and finite values beyond any gain, still make a profile that can be opened. */
static void test_strange_samples(void **state)
{
    struct dpq_train_options o = options(2);
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, DPQ_F32);
    size_t row = dpq_row_bytes(&g, DPQ_F32);
    struct dpq_trainer *t = trainer(&o);
    float *rows = calloc(1024, row);
    struct dpq_profile *p = NULL;
    struct file f;

    (void)state;
    for (size_t i = 0; i < 1024 * row / 4; i += D) {
        rows[i] = i / D % 3 ? 1 : 3e38f;
        rows[i + 1] = i / (row / 4) % 2 ? -3e38f : 1e-40f;
    }
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, 1024 * row, 1ull << 40, 1024, NULL), 0);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, &f.bytes, &f.n, NULL), 0);
    assert_int_equal(dpq_profile_open(f.bytes, f.n, &p, NULL), 0);
    dpq_profile_free(p);
    dpq_trainer_free(t);
    free(f.bytes);
    free(rows);
}

static void test_refused_samples(void **state)
{
    struct dpq_train_options o = options(1);
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, DPQ_F16);
    size_t row = dpq_row_bytes(&g, DPQ_F16);
    struct source *s = source_new();
    uint8_t *rows = make_rows(s, DPQ_F16, 0, CHUNK, 1);
    struct dpq_trainer *t;
    struct dpq_fault fault;
    uint16_t inf = 0x7c00;

    (void)state;
    o.max_bytes = CHUNK * row + 1;
    t = trainer(&o);
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, CHUNK * row - 1, 0, CHUNK, &fault),
                     DPQ_E_INVALID);
    memcpy(rows + 7 * row + dpq_stream_index(&g, 2, DPQ_V, 1) * D * 2 + 10, &inf, 2);
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, CHUNK * row, 0, CHUNK, &fault),
                     DPQ_E_NOT_FINITE);
    assert_int_equal(fault.layer, 2);
    assert_int_equal(fault.kind, DPQ_V);
    assert_int_equal(fault.head, 1);
    assert_int_equal(fault.token, 7);
    assert_int_equal(dpq_trainer_tokens(t), 0);
    memset(rows + 7 * row, 0, row);
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, CHUNK * row, 0, CHUNK, &fault), 0);
    assert_int_equal(dpq_trainer_add(t, &tensor, rows, row, 0, 1, &fault), DPQ_E_OUT_OF_SPACE);
    assert_non_null(strstr(fault.message, "1 of"));
    assert_int_equal(dpq_trainer_tokens(t), CHUNK);
    dpq_trainer_free(t);
    free(rows);
    free(s);
}

static void test_too_few_tokens(void **state)
{
    struct dpq_train_options o = options(1);
    struct source *s = source_new();
    struct dpq_trainer *t = trainer(&o);
    uint8_t *bytes = NULL;
    struct dpq_fault fault;
    size_t n = 0;

    (void)state;
    feed(t, s, DPQ_F16, 768);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, &bytes, &n, &fault), DPQ_E_INVALID);
    assert_non_null(strstr(fault.message, "768 tokens"));
    assert_null(bytes);
    dpq_trainer_free(t);
    free(s);
}

/* 1,024 tokens, each the first of a sequence: all are sinks. */
static void test_nothing_but_sinks(void **state)
{
    struct dpq_train_options o = options(1);
    struct dpq_geometry g = geometry();
    struct dpq_tensor tensor = canonical(&g, DPQ_F16);
    size_t row = dpq_row_bytes(&g, DPQ_F16), n = 0;
    struct dpq_trainer *t = trainer(&o);
    uint8_t *rows = calloc(1, row), *bytes = NULL;
    struct dpq_fault fault;

    (void)state;
    for (int i = 0; i < 1024; i++)
        assert_int_equal(dpq_trainer_add(t, &tensor, rows, row, 0, 1, NULL), 0);
    assert_int_equal(dpq_trainer_run(t, NULL, NULL, &bytes, &n, &fault), DPQ_E_INVALID);
    assert_non_null(strstr(fault.message, "sinks"));
    dpq_trainer_free(t);
    free(rows);
}

static void test_refused_options(void **state)
{
    struct dpq_geometry g = geometry(), bad = geometry();
    struct dpq_train_options o = options(1);
    struct dpq_trainer *t = NULL;
    struct dpq_fault fault;

    (void)state;
    bad.head_dim = 33;
    assert_int_equal(dpq_trainer_new(&bad, &o, &t, &fault), DPQ_E_INVALID);
    o.n_threads = 0;
    assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), DPQ_E_INVALID);
    assert_non_null(strstr(fault.message, "n_threads"));
    o = options(65);
    assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), DPQ_E_INVALID);
    o = options(1);
    o.n_iterations = 101;
    assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), DPQ_E_INVALID);
    o = options(1);
    memset(o.model_name, 'x', sizeof(o.model_name));
    assert_int_equal(dpq_trainer_new(&g, &o, &t, &fault), DPQ_E_INVALID);
    assert_non_null(strstr(fault.message, "name"));
    assert_null(t);
    assert_null(dpq_trainer_free(NULL));
}

struct watch {
    uint64_t n_calls, stop_at, total;
};

static bool watch(void *user, uint64_t done, uint64_t total)
{
    struct watch *w = user;

    assert_int_equal(done, ++w->n_calls);
    w->total = total;
    return done == w->stop_at;
}

static void test_progress_and_cancel(void **state)
{
    struct dpq_train_options o = options(2);
    struct source *s = source_new();
    struct dpq_trainer *t = trainer(&o);
    struct watch all = { 0 }, some = { .stop_at = 3 };
    uint8_t *bytes = NULL;
    size_t n = 0;

    (void)state;
    feed(t, s, DPQ_F16, 1024);
    assert_int_equal(dpq_trainer_run(t, watch, &some, &bytes, &n, NULL), DPQ_E_CANCELLED);
    assert_null(bytes);
    assert_int_equal(some.n_calls, 3);
    assert_int_equal(dpq_trainer_run(t, watch, &all, &bytes, &n, NULL), 0);
    assert_int_equal(all.n_calls, LAYERS * 2 * HEADS);
    assert_int_equal(all.total, LAYERS * 2 * HEADS);
    dpq_trainer_free(t);
    free(bytes);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes_for_any_threads),
        cmocka_unit_test(test_error_on_fresh_tokens),
        cmocka_unit_test(test_what_the_profile_says),
        cmocka_unit_test(test_strange_samples),
        cmocka_unit_test(test_refused_samples),
        cmocka_unit_test(test_too_few_tokens),
        cmocka_unit_test(test_nothing_but_sinks),
        cmocka_unit_test(test_refused_options),
        cmocka_unit_test(test_progress_and_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
