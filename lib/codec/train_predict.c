/*
 * Predictors in depth: ridge regression with an intercept, on what was reconstructed (theory 3.2)
 *
 *   p = W refs + b,  minimising  sum |x - p|^2 + lambda |W|^2; b is not penalised: inputs are
 * centred
 *
 * lambda is a share of the mean square of an input, summed over the samples: 1e-3, and the square
 * of inputs / samples. On 32k tokens of a small model the latter is nothing; with more inputs than
 * samples it keeps a predictor from learning its samples by heart.
 *
 * The Gram matrix of a stage's references is shared by its heads and by both sorts of predictor:
 * depth-head solves a part of it. A K stage has the first two of three blocks of references, and
 * what it computed of them serves the V stage, which adds the third.
 */

#include <cblas.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

#define RIDGE 1e-3

extern void dpotrf_(const char *uplo, const int *n, double *a, const int *lda, int *info, size_t);
extern void dpotrs_(const char *uplo, const int *n, const int *n_rhs, const double *a,
                    const int *lda, double *b, const int *ldb, int *info, size_t);

/* Columns first … last - 1 of refs are a stage's references: K and V below, K of this layer. */
struct columns {
    size_t first, last;
};

static struct columns columns_of(const struct train_run *run, uint32_t layer, uint32_t kind)
{
    struct profile_below below = profile_below(layer, kind);

    return (struct columns){ below.first * run->width, below.end * run->width };
}

struct gram_job {
    struct train_run *run;
    struct columns all, fresh;
};

/* Columns of one head, against all columns up to them. */
static int gram_task(void *user, uint32_t index, uint32_t worker)
{
    const struct gram_job *job = user;
    struct train_run *run = job->run;
    size_t d = run->geometry->head_dim, ld = 3 * run->width, at = job->fresh.first + index * d;
    size_t first = job->all.first, n = at + d - first;
    float *part = malloc(n * d * sizeof(float));

    (void)worker;
    if (!part)
        return error_origin(-ENOMEM);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)d, (int)run->plan.n_learn, 1,
                run->refs + first, (int)ld, run->refs + at, (int)ld, 0, part, (int)d);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++)
            run->gram[(first + i) * ld + at + j] = run->gram[(at + j) * ld + first + i] =
                (double)part[i * d + j];
    for (size_t j = 0; j < d; j++) {
        double sum = 0;

        for (size_t t = 0; t < run->plan.n_learn; t++)
            sum += (double)run->refs[t * ld + at + j];
        run->column_mean[at + j] = sum / (double)run->plan.n_valid[0];
    }
    free(part);
    return 0;
}

int train_gram(struct train_run *run, uint32_t layer, uint32_t kind)
{
    struct columns all = columns_of(run, layer, kind);
    struct gram_job job = { run, all, all };
    int r;

    if (kind == DPQ_V) /* the rest is there since the layer's K */
        job.fresh.first = 2 * run->width;
    r = train_pool_run(run->pool,
                       (uint32_t)((job.fresh.last - job.fresh.first) / run->geometry->head_dim),
                       gram_task, &job);
    return r < 0 ? error_fold(r) : r;
}

/* Which columns of refs a predictor sees: input i is column column[i]. */
static size_t list_columns(const struct train_run *run, struct columns all, uint32_t reference,
                           uint32_t head, size_t *ret_column)
{
    size_t d = run->geometry->head_dim, n = 0;

    for (size_t c = all.first; c < all.last; c++)
        if (reference == REFERENCE_DEPTH || c % run->width / d == head)
            ret_column[n++] = c;
    return n;
}

/* The centred Gram matrix of n columns, with its ridge, factorised. */
static int factorise(const struct train_run *run, const size_t *column, size_t n, double *ret_a)
{
    double n_valid = (double)run->plan.n_valid[0], trace = 0, scarcity = (double)n / n_valid;
    size_t ld = 3 * run->width;
    int size = (int)n, info;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            ret_a[i * n + j] = run->gram[column[i] * ld + column[j]] -
                               n_valid * run->column_mean[column[i]] * run->column_mean[column[j]];
    for (size_t i = 0; i < n; i++)
        trace += ret_a[i * n + i];
    for (size_t i = 0; i < n; i++)
        ret_a[i * n + i] += (RIDGE + scarcity * scarcity) * trace / (double)n + 1e-30;
    dpotrf_("L", &size, ret_a, &size, &info, 1);
    return info ? error_origin(-EDOM) : 0; /* a ridge makes it definite, if samples are finite */
}

struct predict_job {
    struct train_run *run;
    uint32_t layer, kind;
    struct columns all;
    uint32_t reference;
    size_t *column; /* of depth: all */
    double *factor; /* likewise */
    struct train_predictor *predictors;
};

/* refs^T x of one head, centred: x has no mean, hence only refs need it taken off. */
static int right_side(const struct train_run *run, uint32_t head, const size_t *column, size_t n,
                      double *ret_b)
{
    size_t d = run->geometry->head_dim, ld = 3 * run->width, first = column[0];
    size_t span = column[n - 1] + 1 - first;
    const float *x = run->x + head * run->plan.n_rows * d;
    float *part = malloc(span * d * sizeof(float));

    if (!part)
        return error_origin(-ENOMEM);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)span, (int)d, (int)run->plan.n_learn,
                1, run->refs + first, (int)ld, x, (int)d, 0, part, (int)d);
    for (size_t j = 0; j < d; j++) {
        double sum = 0;

        for (size_t t = 0; t < run->plan.n_learn; t++)
            sum += (double)x[t * d + j];
        for (size_t i = 0; i < n; i++)
            ret_b[j * n + i] =
                (double)part[(column[i] - first) * d + j] - run->column_mean[column[i]] * sum;
    }
    free(part);
    return 0;
}

static void set_predictor(const struct train_run *run, const size_t *column, size_t n,
                          const double *solution, struct train_predictor *p)
{
    p->n_inputs = (uint32_t)n;
    for (size_t j = 0; j < run->geometry->head_dim; j++) {
        double bias = 0;

        for (size_t i = 0; i < n; i++) {
            p->weight[j * n + i] = (float)solution[j * n + i];
            bias -= solution[j * n + i] * run->column_mean[column[i]];
        }
        p->bias[j] = (float)bias;
    }
}

void train_apply(const struct train_run *run, uint32_t layer, uint32_t kind, uint32_t head,
                 uint32_t reference, const struct train_predictor *p, const float *refs,
                 size_t n_rows, float *to)
{
    struct columns all = columns_of(run, layer, kind);
    size_t d = run->geometry->head_dim, ld = 3 * run->width, at = 0;
    size_t step = reference == REFERENCE_DEPTH ? all.last - all.first : run->width;
    size_t n = reference == REFERENCE_DEPTH ? step : d;
    size_t skip = reference == REFERENCE_DEPTH ? 0 : head * d;

    for (size_t c = all.first; c < all.last; c += step, at += n)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n_rows, (int)d, (int)n, 1,
                    refs + c + skip, (int)ld, p->weight + at, (int)p->n_inputs, 1, to, (int)d);
}

/* p of all rows: as loop_predict_depth() has it, but for the order of its sums */
static void predict_rows(const struct predict_job *job, uint32_t head)
{
    const struct train_run *run = job->run;
    const struct train_predictor *p = &job->predictors[head];
    size_t d = run->geometry->head_dim, n_rows = run->plan.n_rows;
    float *to = run->p[job->reference - REFERENCE_DEPTH_HEAD] + head * n_rows * d;

    for (size_t t = 0; t < n_rows; t++)
        memcpy(to + t * d, p->bias, d * sizeof(float));
    train_apply(run, job->layer, job->kind, head, job->reference, p, run->refs, n_rows, to);
}

static int solve(const struct predict_job *job, uint32_t head, size_t *column, double *factor,
                 double *b)
{
    struct train_run *run = job->run;
    struct train_predictor *p = &job->predictors[head];
    size_t n = list_columns(run, job->all, job->reference, head, column);
    int size = (int)n, n_rhs = (int)run->geometry->head_dim, info, r = 0;

    if (!job->factor)
        r = factorise(run, column, n, factor);
    r = r ? r : right_side(run, head, column, n, b);
    if (r)
        return error_fold(r);
    dpotrs_("L", &size, &n_rhs, job->factor ? job->factor : factor, &size, b, &size, &info, 1);
    set_predictor(run, column, n, b, p);
    predict_rows(job, head);
    return 0;
}

static int predict_task(void *user, uint32_t head, uint32_t worker)
{
    const struct predict_job *job = user;
    size_t d = job->run->geometry->head_dim, n = job->all.last - job->all.first;
    struct train_predictor *p = &job->predictors[head];
    size_t *column = malloc(n * sizeof(*column));
    double *b = malloc(n * d * sizeof(double)), *factor = NULL;
    int r;

    (void)worker;
    if (job->reference == REFERENCE_DEPTH_HEAD)
        n = n / job->run->width * d;
    if (!job->factor)
        factor = malloc(n * n * sizeof(double));
    p->weight = malloc(n * d * sizeof(float));
    p->bias = malloc(d * sizeof(float));
    if (!column || !b || (!job->factor && !factor) || !p->weight || !p->bias)
        r = error_origin(-ENOMEM);
    else
        r = solve(job, head, column, factor, b);
    free(column);
    free(factor);
    free(b);
    return r;
}

int train_predict(struct train_run *run, uint32_t layer, uint32_t kind, uint32_t reference,
                  struct train_predictor *ret_predictor)
{
    struct predict_job job = {
        .run = run,
        .layer = layer,
        .kind = kind,
        .all = columns_of(run, layer, kind),
        .reference = reference,
        .predictors = ret_predictor,
    };
    size_t n = job.all.last - job.all.first;
    int r = 0;

    if (reference == REFERENCE_DEPTH) {
        job.column = malloc(n * sizeof(*job.column));
        job.factor = malloc(n * n * sizeof(*job.factor));
        if (!job.column || !job.factor)
            r = error_origin(-ENOMEM);
        else
            r = factorise(run, job.column, list_columns(run, job.all, reference, 0, job.column),
                          job.factor);
    }
    r = r ? r : train_pool_run(run->pool, run->geometry->n_kv_heads, predict_task, &job);
    free(job.column);
    free(job.factor);
    return r < 0 ? error_fold(r) : r;
}

void train_predictor_free(struct train_predictor *p)
{
    free(p->weight);
    free(p->bias);
    *p = (struct train_predictor){ 0 };
}
