/*
 * One stream: rotation, leaks, and the samples of its trees
 *
 * The rotation holds the eigenvectors of the covariance of directions, dealt to subspaces so that
 * the products of their variances are alike. Directions, for every vector is coded over its gain:
 * on a real model this leaves 5 % less divergence at 2 bits than the plain covariance. With an
 * output metric M the codec works on M^(1/2) x: encode = R^T M^(1/2), decode = M^(-1/2) R.
 * From then on a vector is what the codec makes of it: y over its quantised gain.
 */

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/profile_file.h"
#include "lib/codec/train.h"

#define MAX_LEAK .98 /* theory 3.1: too much leak costs less than none */

/* Room for all that a stream's pointers point to; 64-bit things first. */
static int make_room(struct train_stream *s, const struct train_predictor *predictor,
                     struct train_result *result)
{
    struct profile_sizes n =
        profile_sizes(s->run->geometry->head_dim, s->dsub, predictor ? predictor->n_inputs : 0);
    size_t tree = n.scale + n.base + n.fine;
    uint8_t *at =
        calloc(1, n.vector + 2 * n.matrix + N_TREES * tree + n.leak + n.weight + n.vector);

    if (!at)
        return error_origin(-ENOMEM);
    result->memory = at;
#define PLACE(field, n_bytes) ((field) = (void *)at, at += (n_bytes))
    PLACE(s->stream.mean, n.vector);
    PLACE(s->stream.encode, n.matrix);
    PLACE(s->stream.decode, n.matrix);
    for (int t = 0; t < N_TREES; t++)
        PLACE(s->stream.tree[t].scale, n.scale);
    if (predictor) {
        s->stream.n_inputs = predictor->n_inputs;
        PLACE(s->stream.weight, n.weight);
        PLACE(s->stream.bias, n.vector);
        memcpy((void *)s->stream.weight, predictor->weight, n.weight);
        memcpy((void *)s->stream.bias, predictor->bias, n.vector);
    }
    if (s->reference == REFERENCE_TEMPORAL)
        PLACE(s->stream.leak, n.leak);
    for (int t = 0; t < N_TREES; t++) {
        PLACE(s->stream.tree[t].base, n.base);
        PLACE(s->stream.tree[t].fine, n.fine);
    }
#undef PLACE
    return 0;
}

size_t train_row_tile(const struct train_stream *s, size_t i)
{
    return i * s->run->plan.n_learn_tiles / (s->n_rows / KERN_TOKENS);
}

int train_stream_init(struct train_stream *s, struct train_run *run, uint32_t layer, uint32_t kind,
                      uint32_t head, uint32_t reference, size_t n_rows,
                      const struct train_predictor *predictor, struct train_result *result)
{
    const struct dpq_geometry *g = run->geometry;
    size_t d = g->head_dim, at = head * run->plan.n_rows * d;

    *s = (struct train_stream){
        .run = run,
        .layer = layer,
        .kind = kind,
        .head = head,
        .index = dpq_stream_index(g, layer, kind, head),
        .reference = reference,
        .n_rows = n_rows < run->plan.n_learn ? n_rows : run->plan.n_learn,
        .x = run->x + at,
    };
    s->dsub = train_stream_options(run->plan.trainer, s->index).dsub;
    if (reference >= REFERENCE_DEPTH_HEAD)
        s->p = run->p[reference - REFERENCE_DEPTH_HEAD] + at;
    s->stream.reference = reference;
    s->stream.dsub = s->dsub;
    s->stream.importance = 1;
    s->stream.full = run->options->full_references;
    s->stream.strict = reference == REFERENCE_TEMPORAL && run->options->leak > 0;
    for (int t = 0; t < N_TREES; t++)
        s->samples[t] = malloc(s->n_rows * d * sizeof(float));
    if (!s->samples[0] || !s->samples[1] ||
        make_room(s, reference >= REFERENCE_DEPTH_HEAD ? predictor : NULL, result)) {
        train_stream_deinit(s);
        return error_origin(-ENOMEM);
    }
    return 0;
}

void train_stream_deinit(struct train_stream *s)
{
    for (int t = 0; t < N_TREES; t++) {
        free(s->samples[t]);
        s->samples[t] = NULL;
    }
}

/* One tile's vectors as they will be coded, open loop in time: [128][head_dim] */
static void residual_rows(const struct train_stream *s, size_t tile, float a, float *ret_d)
{
    size_t d = s->run->geometry->head_dim, at = tile * KERN_TOKENS * d;

    for (size_t i = 0; i < KERN_TOKENS * d; i++) {
        ret_d[i] = s->x[at + i];
        if (s->p)
            ret_d[i] -= s->p[at + i];
        if (a != 0 && i >= d)
            ret_d[i] -= a * s->x[at + i - d];
    }
    for (size_t t = 0; t < KERN_TOKENS; t++) /* p of a sink is nobody's business */
        if (!s->run->plan.valid[tile * KERN_TOKENS + t])
            memset(ret_d + t * d, 0, d * sizeof(float));
}

/* One leak for all: <x_t, x_(t-1)> over <x, x>, for the rotation only. */
static float common_leak(const struct train_stream *s)
{
    size_t d = s->run->geometry->head_dim;
    double cross = 0, own = 1e-30;

    if (s->reference != REFERENCE_TEMPORAL)
        return 0;
    for (size_t i = 0; i < s->n_rows / KERN_TOKENS; i++) {
        const float *x = s->x + train_row_tile(s, i) * KERN_TOKENS * d;

        for (size_t k = d; k < KERN_TOKENS * d; k++) {
            cross += (double)x[k] * (double)x[k - d];
            own += (double)x[k - d] * (double)x[k - d];
        }
    }
    return s->pure ? 1 : (float)fmin(fmax(cross / own, 0), MAX_LEAK);
}

/* Rows over their rms, zeros as they are. */
static void normalise(float *x, size_t n, size_t d)
{
    for (size_t t = 0; t < n; t++) {
        double square = 0;
        float factor;

        for (size_t i = 0; i < d; i++)
            square += (double)x[t * d + i] * (double)x[t * d + i];
        factor = square > 0 ? (float)(1 / sqrt(square / (double)d)) : 0;
        for (size_t i = 0; i < d; i++)
            x[t * d + i] *= isfinite(factor) ? factor : 0;
    }
}

/* Second moments of the directions of M^(1/2) times what will be coded. */
static void directions(const struct train_stream *s, struct train_worker *w, const float *root,
                       float *ret_covariance)
{
    int d = (int)s->run->geometry->head_dim;
    float a = common_leak(s), scale = 1.f / (float)s->n_rows;

    memset(ret_covariance, 0, (size_t)d * (size_t)d * sizeof(float));
    for (size_t i = 0; i < s->n_rows / KERN_TOKENS; i++) {
        float *z = w->codec->x;

        residual_rows(s, train_row_tile(s, i), a, z);
        if (root) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, KERN_TOKENS, d, d, 1, z, d, root,
                        d, 0, w->codec->y, d);
            z = w->codec->y;
        }
        normalise(z, KERN_TOKENS, (size_t)d);
        cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, d, KERN_TOKENS, scale, z, d, 1,
                    ret_covariance, d);
    }
}

/* Eigenvectors are given up to their sign: the largest coordinate shall be positive. */
static double sign_of(const double *v, uint32_t d)
{
    uint32_t at = 0;

    for (uint32_t i = 1; i < d; i++)
        if (fabs(v[i]) > fabs(v[at]))
            at = i;
    return v[at] < 0 ? -1 : 1;
}

/* encode = R^T root, decode = inverse R; without a metric the roots are the identity */
static void set_rotation(struct train_stream *s, const double *vectors, const uint32_t *order,
                         const float *root, const float *inverse)
{
    uint32_t d = s->run->geometry->head_dim;
    float *encode = (float *)s->stream.encode, *decode = (float *)s->stream.decode;

    for (uint32_t j = 0; j < d; j++) {
        const double *v = vectors + (size_t)order[j] * d;
        double sign = sign_of(v, d);

        for (uint32_t i = 0; i < d; i++) {
            double to = sign * v[i], from = to;

            if (root) {
                to = from = 0;
                for (uint32_t k = 0; k < d; k++) {
                    to += sign * v[k] * (double)root[(size_t)k * d + i];
                    from += sign * v[k] * (double)inverse[(size_t)i * d + k];
                }
            }
            encode[(size_t)j * d + i] = (float)to;
            decode[(size_t)i * d + j] = (float)from;
        }
    }
}

/* a_m = min(<y_t, y_(t-1)> / <y, y>, .98) of a subspace (theory 3.1), Q15 */
static void set_leaks(struct train_stream *s, struct train_worker *w)
{
    size_t d = s->run->geometry->head_dim;
    double cross[DPQ_MAX_HEAD_DIM] = { 0 }, own[DPQ_MAX_HEAD_DIM] = { 0 };
    int16_t *leak = (int16_t *)s->stream.leak;
    float fixed = s->pure ? 1 : s->run->options->leak;

    for (size_t i = 0; i < s->n_rows / KERN_TOKENS; i++) {
        const float *y = w->codec->y;

        residual_rows(s, train_row_tile(s, i), 0, w->codec->x);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, KERN_TOKENS, (int)d, 1,
                    s->stream.encode, (int)d, w->codec->x, (int)d, 0, w->codec->y, KERN_TOKENS);
        for (size_t k = 0; k < d; k++)
            for (size_t t = 1; t < KERN_TOKENS; t++) {
                double before = (double)y[k * KERN_TOKENS + t - 1];

                cross[k] += before * (double)y[k * KERN_TOKENS + t];
                own[k] += before * before;
            }
    }
    for (size_t m = 0; m < d / s->dsub; m++) {
        double up = 0, down = 1e-30, a;

        for (size_t k = m * s->dsub; k < (m + 1) * s->dsub; k++) {
            up += cross[k];
            down += own[k];
        }
        a = fixed > 0 ? (double)fixed : fmin(fmax(up / down, 0), MAX_LEAK);
        leak[m] = (int16_t)fmin(rint(a * 32768), INT16_MAX);
    }
}

int train_rotation(struct train_stream *s, struct train_worker *w)
{
    uint32_t d = s->run->geometry->head_dim, order[DPQ_MAX_HEAD_DIM];
    const float *metric = s->run->plan.trainer->metric;
    double values[DPQ_MAX_HEAD_DIM] = { 0 }, importance = 1;
    size_t n = (size_t)d * d;
    float *room = malloc(3 * n * sizeof(float)), *root = NULL, *inverse = NULL;
    double *a = malloc(n * sizeof(double));
    int r = room && a ? 0 : error_origin(-ENOMEM);

    if (!r && metric && s->run->options->metric_lambda >= 0) {
        double lambda = s->run->options->metric_lambda > 0 ? s->run->options->metric_lambda : .1;

        root = room + n;
        inverse = root + n;
        r = train_roots(metric + s->index * n, d, lambda, root, inverse, &importance);
        if (r == DPQ_E_INVALID) { /* a stream that nothing depends on */
            root = inverse = NULL;
            importance = 1e-12;
            r = 0;
        }
    }
    if (!r) {
        directions(s, w, root, room);
        for (size_t i = 0; i < n; i++)
            a[i] = (double)room[i]; /* the row-major upper half is the column-major lower */
        r = train_eigen(a, d, values);
    }
    if (!r) {
        train_deal(values, d, s->dsub, order);
        set_rotation(s, a, order, root, inverse);
        s->stream.importance = (float)fmax(importance, 1e-30);
        if (s->reference == REFERENCE_TEMPORAL)
            set_leaks(s, w);
    }
    free(room);
    free(a);
    return r ? error_fold(r) : 0;
}

/* y less a_m y of the token before, but for the first of a tile */
static void subtract_leaked(const struct train_stream *s, float *y)
{
    size_t d = s->run->geometry->head_dim;

    for (size_t k = 0; k < d; k++) {
        float a = (float)s->stream.leak[k / s->dsub] * LOOP_LEAK_UNIT;

        for (size_t t = KERN_TOKENS; --t > 0;)
            y[k * KERN_TOKENS + t] -= a * y[k * KERN_TOKENS + t - 1];
    }
}

void train_project(struct train_stream *s, struct train_worker *w, enum tree_index tree)
{
    size_t d = s->run->geometry->head_dim, column = 0;
    struct train_stream plain = *s;
    float square[KERN_TOKENS];
    int32_t code[KERN_TOKENS];
    /* few tokens of a predicted stream will take the intra tree */
    size_t step = tree == TREE_INTRA && s->reference != REFERENCE_NONE ? 4 : 1;

    if (tree == TREE_INTRA)
        plain.p = NULL;
    for (size_t i = 0; i < s->n_rows / KERN_TOKENS; i += step) {
        float *y = w->codec->y;

        residual_rows(&plain, train_row_tile(s, i), 0, w->codec->x);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, KERN_TOKENS, (int)d, 1,
                    s->stream.encode, (int)d, w->codec->x, (int)d, 0, y, KERN_TOKENS);
        if (tree == TREE_DELTA && s->reference == REFERENCE_TEMPORAL)
            subtract_leaked(s, y);
        w->codec->kern.gains(y, d, square, code);
        for (size_t t = 0; t < KERN_TOKENS; t++) {
            if (code[t] <= 0 || code[t] >= GAIN_CODES)
                continue; /* no codebook has to serve it */
            for (size_t k = 0; k < d; k++)
                s->samples[tree][k * s->n_rows + column] =
                    y[k * KERN_TOKENS + t] * w->codec->inverse_gain[code[t]];
            column++;
        }
    }
    s->n_samples[tree] = column;
}

static struct rng tree_rng(const struct train_stream *s, enum tree_index tree, uint32_t subspace)
{
    struct rng rng = rng_seed(s->run->options->seed);
    uint64_t first = rng_next(&rng);

    return rng_seed(first + ((uint64_t)s->index * N_TREES + tree) * DPQ_MAX_HEAD_DIM + subspace);
}

void train_tree(struct train_stream *s, struct train_worker *w, enum tree_index tree,
                uint32_t subspace, bool children)
{
    const struct dpq_train_options *options = s->run->options;
    uint32_t n_iterations = options->n_iterations ? options->n_iterations : TRAIN_ITERATIONS;
    struct profile_tree *to = &s->stream.tree[tree];
    struct rng rng = tree_rng(s, tree, subspace);
    size_t words = (size_t)subspace * KERN_WORDS * s->dsub;
    struct train_book book;

    train_book_learn(s->samples[tree] + (size_t)subspace * s->dsub * s->n_rows, s->n_rows,
                     s->n_samples[tree], s->dsub, children ? n_iterations : n_iterations / 4 + 1,
                     children, &rng, &w->book, &book);
    ((float *)to->scale)[subspace] = train_book_round(&book, s->dsub, (int8_t *)to->base + words,
                                                      (int8_t *)to->fine + words * KERN_WORDS);
}
