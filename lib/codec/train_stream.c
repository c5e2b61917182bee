/*
 * One stream: mean, rotation, gains, trees, and what the whole costs on tokens held out
 *
 * The rotation holds the eigenvectors of the covariance of directions, dealt to subspaces so that
 * the products of their variances are alike. Directions, for every vector is coded over its gain:
 * on a real model this leaves 5 % less divergence at 2 bits than the plain covariance. From then on
 * a vector is what the codec makes of it: y = E (x - mean) over its quantised gain, panels of 128
 * tokens, the codec's own kernels for gain and search.
 */

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/codec.h"
#include "lib/codec/train.h"

/* A vector that reaches this far is beyond the largest gain: the codec stores it raw, and whoever
 * learned from it would learn nothing else. */
#define TOO_LARGE 65536.f

/* LAPACK, as OpenBLAS exports it; the last two are the lengths of jobz and uplo. */
extern void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                    double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                    int *info, size_t, size_t);

int train_worker_init(struct train_worker *w, const struct train_plan *plan)
{
    size_t d = plan->trainer->geometry.head_dim, n = plan->n_rows;
    int r;

    *w = (struct train_worker){
        .plan = plan,
        .x = malloc(n * d * sizeof(float)),
        .y = malloc(n * d * sizeof(float)),
        .gain = malloc(n * sizeof(float)),
        .block = malloc(KERN_TOKENS * d * sizeof(float)),
        .rotated = malloc(KERN_TOKENS * d * sizeof(float)),
    };
    if (!w->x || !w->y || !w->gain || !w->block || !w->rotated)
        return error_origin(-ENOMEM);
    r = train_book_scratch_init(&w->book, n);
    return r ? error_fold(r) : 0;
}

void train_worker_deinit(struct train_worker *w)
{
    free(w->x);
    free(w->y);
    free(w->gain);
    free(w->block);
    free(w->rotated);
    train_book_scratch_deinit(&w->book);
    *w = (struct train_worker){ 0 };
}

static bool is_too_large(const float *x, size_t d)
{
    float widest = 0;

    for (size_t i = 0; i < d; i++)
        widest = fmaxf(widest, fabsf(x[i]));
    return widest > TOO_LARGE;
}

/* The mean of what is learned from; then all rows less the mean, and 0 for those that are too
 * large. */
static void centre(float *x, size_t n_learn, size_t n_rows, size_t d, float *ret_mean)
{
    double sum[DPQ_MAX_HEAD_DIM] = { 0 };
    size_t n = 0;

    for (size_t t = 0; t < n_learn; t++) {
        if (is_too_large(x + t * d, d))
            continue;
        for (size_t i = 0; i < d; i++)
            sum[i] += (double)x[t * d + i];
        n++;
    }
    for (size_t i = 0; i < d; i++)
        ret_mean[i] = n ? (float)(sum[i] / (double)n) : 0;
    for (size_t t = 0; t < n_rows; t++) {
        bool too_large = is_too_large(x + t * d, d);

        for (size_t i = 0; i < d; i++)
            x[t * d + i] = too_large ? 0 : x[t * d + i] - ret_mean[i];
    }
}

void train_deal(const double *eigenvalues, uint32_t d, uint32_t dsub, uint32_t *ret_order)
{
    uint32_t n_subspaces = d / dsub, n_dealt[DPQ_MAX_HEAD_DIM / TRAIN_DSUB] = { 0 };
    double sum[DPQ_MAX_HEAD_DIM / TRAIN_DSUB] = { 0 };
    double least = eigenvalues[d - 1] > 0 ? eigenvalues[d - 1] * 1e-9 : 1;

    for (uint32_t i = d; i-- > 0;) {
        uint32_t best = n_subspaces;

        for (uint32_t m = 0; m < n_subspaces; m++)
            if (n_dealt[m] < dsub && (best == n_subspaces || sum[m] < sum[best]))
                best = m;
        sum[best] += log(fmax(eigenvalues[i], least));
        ret_order[best * dsub + n_dealt[best]++] = i;
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

/* a: symmetric, the lower half of each column is given. Becomes eigenvectors, a row each, the
 * eigenvalues ascending. */
static int eigen(double *a, uint32_t d, double *ret_values)
{
    int n = (int)d, n_work = 1 + 6 * n + 2 * n * n, n_iwork = 3 + 5 * n, info;
    double *work = malloc((size_t)n_work * sizeof(double));
    int *iwork = malloc((size_t)n_iwork * sizeof(int));

    if (work && iwork)
        dsyevd_("V", "L", &n, a, &n, ret_values, work, &n_work, iwork, &n_iwork, &info, 1, 1);
    else
        info = -ENOMEM;
    free(work);
    free(iwork);
    if (info < 0)
        return error_origin(-ENOMEM);
    return info ? error_origin(-EDOM) : 0; /* it does not converge: not seen with finite input */
}

static int rotation(const float *x, size_t n, uint32_t d, float *covariance, double *a,
                    float *ret_encode, float *ret_decode)
{
    double values[DPQ_MAX_HEAD_DIM] = { 0 };
    uint32_t order[DPQ_MAX_HEAD_DIM];
    int r;

    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)d, (int)n, 1.f / (float)n, x, (int)d, 0,
                covariance, (int)d);
    for (size_t i = 0; i < (size_t)d * d; i++)
        a[i] = (double)covariance[i]; /* the row-major upper half is the column-major lower */
    r = eigen(a, d, values);
    if (r)
        return error_fold(r);
    train_deal(values, d, TRAIN_DSUB, order);
    for (uint32_t j = 0; j < d; j++) {
        const double *v = a + (size_t)order[j] * d;
        double sign = sign_of(v, d);

        for (uint32_t i = 0; i < d; i++)
            ret_decode[i * d + j] = ret_encode[j * d + i] = (float)(sign * v[i]);
    }
    return 0;
}

/* Rows over their rms, zeros as they are. */
static void normalise(const float *x, size_t n, size_t d, float *ret_z)
{
    for (size_t t = 0; t < n; t++) {
        double square = 0;
        float factor;

        for (size_t i = 0; i < d; i++)
            square += (double)x[t * d + i] * (double)x[t * d + i];
        factor = square > 0 ? (float)(1 / sqrt(square / (double)d)) : 0;
        for (size_t i = 0; i < d; i++)
            ret_z[t * d + i] = x[t * d + i] * (isfinite(factor) ? factor : 0);
    }
}

static int learn_rotation(struct train_worker *w, float *ret_encode, float *ret_decode)
{
    uint32_t d = w->plan->trainer->geometry.head_dim;
    float *covariance = calloc((size_t)d * d, sizeof(float));
    double *a = malloc((size_t)d * d * sizeof(double));
    int r = -ENOMEM;

    normalise(w->x, w->plan->n_learn, d, w->y); /* y is not in use yet */
    if (covariance && a)
        r = rotation(w->y, w->plan->n_learn, d, covariance, a, ret_encode, ret_decode);
    free(covariance);
    free(a);
    return r ? error_fold(r) : 0;
}

/*
 * Rows from … to - 1 become columns of y, divided by their gain; returns the column after the last.
 * With drop_zeros, vectors with gain code 0 get no column: no codebook has to serve them.
 */
static size_t project(struct train_worker *w, const float *encode, size_t from, size_t to,
                      bool drop_zeros, size_t column)
{
    size_t d = w->plan->trainer->geometry.head_dim, stride = w->plan->n_rows;
    int32_t code[KERN_TOKENS];

    for (size_t t = from; t < to; t += KERN_TOKENS) {
        size_t n = to - t < KERN_TOKENS ? to - t : KERN_TOKENS;

        memset(w->block, 0, KERN_TOKENS * d * sizeof(float));
        memcpy(w->block, w->x + t * d, n * d * sizeof(float));
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, KERN_TOKENS, (int)d, 1, encode,
                    (int)d, w->block, (int)d, 0, w->rotated, KERN_TOKENS);
        w->plan->kern.gains(w->rotated, d, code);
        for (size_t k = 0; k < n; k++) {
            int32_t c = code[k] < GAIN_CODES ? code[k] : GAIN_CODES - 1;
            float gain = c > 0 ? exp2f((float)(c - GAIN_ONE) / 8) : 0;

            if (drop_zeros && c <= 0)
                continue;
            for (size_t i = 0; i < d; i++)
                w->y[i * stride + column] = c > 0 ? w->rotated[i * KERN_TOKENS + k] / gain : 0;
            w->gain[column++] = gain;
        }
    }
    return column;
}

/* Squared errors of one subspace, 128 held-out tokens, by the codec's own search. */
static void judge_block(const struct kern *k, const float *y, uint32_t dsub, float scale,
                        const int8_t *base, const int8_t *fine, float *base_error,
                        float *fine_error)
{
    uint8_t parent[KERN_TOKENS], child[KERN_TOKENS];
    float ones[KERN_TOKENS];
    int16_t q[4 * KERN_TOKENS];

    for (size_t t = 0; t < KERN_TOKENS; t++)
        ones[t] = 1;
    k->quantize(y, dsub, ones, 16 / scale, q);
    k->search(q, dsub, base, parent);
    k->search_child(q, dsub, fine, parent, child);
    for (size_t t = 0; t < KERN_TOKENS; t++)
        for (uint32_t i = 0; i < dsub; i++) {
            size_t word = (size_t)parent[t] * KERN_WORDS + (size_t)child[t];
            float value = y[i * KERN_TOKENS + t];
            float u = value - scale * base[(size_t)parent[t] * dsub + i];
            float v = value - scale * fine[word * dsub + i];

            base_error[t] += u * u;
            fine_error[t] += v * v;
        }
}

/* Mean |e|^2 of the held-out tokens, in input units, for both rates; and their mean |x - mean|^2 */
static void judge(struct train_worker *w, const struct profile_stream *s, size_t n_held,
                  double *ret_base, double *ret_fine, double *ret_power)
{
    size_t d = w->plan->trainer->geometry.head_dim, stride = w->plan->n_rows;
    const struct profile_tree *tree = &s->tree[TREE_INTRA];
    double base = 0, fine = 0, power = 0;

    for (size_t t = 0; t < n_held; t += KERN_TOKENS) {
        size_t n = n_held - t < KERN_TOKENS ? n_held - t : KERN_TOKENS;
        float base_error[KERN_TOKENS] = { 0 }, fine_error[KERN_TOKENS] = { 0 };

        memset(w->block, 0, KERN_TOKENS * d * sizeof(float));
        for (size_t i = 0; i < d; i++)
            memcpy(w->block + i * KERN_TOKENS, w->y + i * stride + t, n * sizeof(float));
        for (size_t i = 0; i < d; i += s->dsub)
            judge_block(&w->plan->kern, w->block + i * KERN_TOKENS, s->dsub,
                        tree->scale[i / s->dsub], tree->base + i * KERN_WORDS,
                        tree->fine + i * KERN_WORDS * KERN_WORDS, base_error, fine_error);
        for (size_t k = 0; k < n; k++) {
            double square = (double)w->gain[t + k] * (double)w->gain[t + k];

            base += square * (double)base_error[k];
            fine += square * (double)fine_error[k];
        }
    }
    for (size_t i = 0; i < n_held * d; i++) {
        double x = (double)w->x[w->plan->n_learn * d + i];

        power += x * x;
    }
    *ret_base = base / (double)n_held;
    *ret_fine = fine / (double)n_held;
    *ret_power = power / (double)n_held;
}

/* Room for all that a stream's pointers point to. */
struct room {
    float *mean, *encode, *decode, *scale;
    int8_t *base, *fine;
};

static void *make_room(uint32_t d, struct room *ret_room)
{
    size_t n_floats = d + 2 * (size_t)d * d + d / TRAIN_DSUB;
    float *f = malloc(n_floats * sizeof(float) + (size_t)d * (KERN_WORDS + 1) * KERN_WORDS);

    if (f) {
        ret_room->mean = f;
        ret_room->encode = f + d;
        ret_room->decode = ret_room->encode + (size_t)d * d;
        ret_room->scale = ret_room->decode + (size_t)d * d;
        ret_room->base = (int8_t *)(f + n_floats);
        ret_room->fine = ret_room->base + (size_t)d * KERN_WORDS;
    }
    return f;
}

static struct rng stream_rng(uint64_t seed, uint32_t index)
{
    struct rng rng = rng_seed(seed);

    return rng_seed(rng_next(&rng) + index);
}

static void learn_trees(struct train_worker *w, uint32_t index, size_t n, struct room *room)
{
    const struct dpq_train_options *options = &w->plan->trainer->options;
    uint32_t n_iterations = options->n_iterations ? options->n_iterations : TRAIN_ITERATIONS;
    size_t d = w->plan->trainer->geometry.head_dim, stride = w->plan->n_rows;
    struct rng rng = stream_rng(options->seed, index);

    for (size_t i = 0; i < d; i += TRAIN_DSUB) {
        struct train_book book;

        train_book_learn(w->y + i * stride, stride, n, TRAIN_DSUB, n_iterations, &rng, &w->book,
                         &book);
        room->scale[i / TRAIN_DSUB] =
            train_book_round(&book, TRAIN_DSUB, room->base + i * KERN_WORDS,
                             room->fine + i * KERN_WORDS * KERN_WORDS);
    }
}

static int learn(struct train_worker *w, uint32_t index, struct room *room,
                 struct train_result *result)
{
    const struct train_plan *plan = w->plan;
    size_t d = plan->trainer->geometry.head_dim, n;
    double base, fine, power;
    int r;

    train_gather(plan, index, w->block, w->x);
    centre(w->x, plan->n_learn, plan->n_rows, d, room->mean);
    r = learn_rotation(w, room->encode, room->decode);
    if (r)
        return error_fold(r);
    n = project(w, room->encode, 0, plan->n_learn, true, 0);
    learn_trees(w, index, n, room);
    project(w, room->encode, plan->n_learn, plan->n_rows, false, 0);
    result->stream = (struct profile_stream){
        .reference = REFERENCE_NONE,
        .dsub = TRAIN_DSUB,
        .fine_rates = profile_default_fine(index / plan->trainer->geometry.n_kv_heads % 2),
        .importance = 1,
        .mean = room->mean,
        .encode = room->encode,
        .decode = room->decode,
        .tree[TREE_INTRA] = { room->scale, room->base, room->fine },
    };
    judge(w, &result->stream, plan->n_rows - plan->n_learn, &base, &fine, &power);
    result->stream.tolerance[TREE_INTRA][PLANE_BASE] = (float)base;
    result->stream.tolerance[TREE_INTRA][PLANE_FINE] = (float)fine;
    result->nmse_base = power > 0 ? base / power : 0;
    result->nmse_fine = power > 0 ? fine / power : 0;
    return 0;
}

int train_stream(struct train_worker *w, uint32_t index, struct train_result *ret_result)
{
    struct train_result result = { 0 };
    struct room room;
    int r;

    result.memory = make_room(w->plan->trainer->geometry.head_dim, &room);
    if (!result.memory)
        return error_origin(-ENOMEM);
    r = learn(w, index, &room, &result);
    if (r) {
        free(result.memory);
        return error_fold(r);
    }
    *ret_result = result;
    return 0;
}
