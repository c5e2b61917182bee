/*
 * Which estimate to believe (theory.md 6.4)
 *
 *              n < 256, flat            -> unknown
 *   k <= 8 and n >= 1000 (2000: k > 4)  -> corrected kNN, u = .05, or .15 for tails it can't follow
 *              else                     -> radial law, u = what the product law says otherwise
 *   then       |ln ratio| < u, u > .15, n_words^(1/k) < 2
 *                                       -> small codes of both, trained and tested
 *
 * A small code is trained on the first two thirds and tested on the rest. Its u is two standard
 * errors of the logarithm of the ratio over the test samples, paired by token, and not below .05
 * for what depends on the start.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_rwf.h"
#include "lib/risk/risk_shape.h"

enum { KNN_MAX_DIM = 8, DIRECT_WORDS = 64, DIRECT_TRAIN = 2048, DIRECT_TEST = 1024 };
enum { DIRECT_ITERATIONS = 6, DIRECT_SEED = 1 };

static bool may_knn(size_t n, uint32_t k)
{
    return k <= KNN_MAX_DIM && n >= (k <= 4 ? 1000 : 2000);
}

static bool heavy(const struct risk_shape *s)
{
    return s->p < 1 || risk_shape_at_edge(s->p);
}

/* ln D_rwf of the samples at a code's rate */
static double ln_rwf(const double *z, size_t n, uint32_t k, uint32_t n_words)
{
    double mean[RISK_MAX_DIM], covariance[RISK_MAX_DIM * RISK_MAX_DIM], values[RISK_MAX_DIM];
    double vectors[RISK_MAX_DIM * RISK_MAX_DIM];

    risk_shape_covariance(z, n, k, mean, covariance);
    risk_matrix_eigen(covariance, k, values, vectors);
    return log(risk_rwf(values, k, log(n_words)));
}

/* the shape of one source, by kNN where that is possible */
static int judge(const double *z, size_t n, uint32_t k, double *scratch, struct risk_shape *ret)
{
    double *copy = scratch, *rest = scratch + n * k;
    int r;

    memcpy(copy, z, n * k * sizeof(*z));
    r = risk_shape_whiten(copy, n, k);
    if (r)
        return r;
    if (may_knn(n, k))
        risk_shape_estimate(copy, n, k, RISK_SHAPE_SEED, rest, ret);
    else
        risk_shape_fit(copy, n, k, ret);
    return 0;
}

/* the first n_train samples in the order of coordinates that k-means wants */
static const double *training(const double *z, size_t n, uint32_t k, size_t n_train, double *copy)
{
    for (uint32_t i = 0; i < k; i++)
        memcpy(copy + i * n_train, z + i * n, n_train * sizeof(*z));
    return copy;
}

/* errors of the test samples, in scratch */
static double test(const double *z, size_t n, uint32_t k, size_t n_train, size_t n_test,
                   uint32_t n_words, double *scratch, double *ret_error)
{
    double words[DIRECT_WORDS * RISK_MAX_DIM];
    const double *train = training(z, n, k, n_train, scratch);

    risk_shape_kmeans(train, n_train, k, n_words, DIRECT_ITERATIONS, DIRECT_SEED,
                      scratch + k * n_train, words);
    return risk_shape_distances(z + n_train, n, n_test, k, words, n_words, ret_error, NULL);
}

static void direct(const double *x, const double *d, size_t n, uint32_t k, uint32_t n_words,
                   double *scratch, struct risk_shape_verdict *v)
{
    size_t n_train = n * 2 / 3 < DIRECT_TRAIN ? n * 2 / 3 : DIRECT_TRAIN;
    size_t n_test = n - n_train < DIRECT_TEST ? n - n_train : DIRECT_TEST;
    double *e_x = scratch, *e_d = e_x + n_test, *rest = e_d + n_test;
    double of_x, of_d, z2 = 0;

    n_words = n_words < DIRECT_WORDS ? n_words : DIRECT_WORDS;
    of_x = test(x, n, k, n_train, n_test, n_words, rest, e_x);
    of_d = test(d, n, k, n_train, n_test, n_words, rest, e_d);
    if (!(of_x > 0) || !(of_d > 0))
        return;
    for (size_t t = 0; t < n_test; t++)
        z2 += (e_d[t] / of_d - e_x[t] / of_x) * (e_d[t] / of_d - e_x[t] / of_x);
    v->tier = RISK_SHAPE_DIRECT;
    v->ln_ratio = log(of_d / of_x);
    v->ln_eta = v->ln_ratio - ln_rwf(d, n, k, n_words) + ln_rwf(x, n, k, n_words);
    v->u = fmax(.05, 2 * sqrt(z2));
}

void risk_shape_compare(const double *x, const double *d, size_t n, uint32_t k, uint32_t n_words,
                        double *scratch, struct risk_shape_verdict *ret_verdict)
{
    struct risk_shape_verdict v = { .tier = RISK_SHAPE_UNKNOWN, .u = INFINITY };
    struct risk_shape of_x, of_d;

    assert(k && k <= RISK_MAX_DIM && n_words);
    *ret_verdict = v;
    if (n < RISK_SHAPE_MIN_SAMPLES || judge(x, n, k, scratch, &of_x) ||
        judge(d, n, k, scratch, &of_d))
        return;
    if (may_knn(n, k)) {
        v.tier = RISK_SHAPE_KNN;
        v.ln_eta = of_d.corrected - of_x.corrected;
        v.u = heavy(&of_x) || heavy(&of_d) ? .15 : .05;
    } else {
        v.tier = RISK_SHAPE_PROXY;
        v.ln_eta = of_d.radial - of_x.radial;
        v.u = fmax(.1, fmax(fabs(of_d.radial - of_d.product), fabs(of_x.radial - of_x.product)));
    }
    v.ln_ratio = v.ln_eta + ln_rwf(d, n, k, n_words) - ln_rwf(x, n, k, n_words);
    if (fabs(v.ln_ratio) < v.u || v.u > .15 || pow(n_words, 1. / k) < 2 - 1e-9)
        direct(x, d, n, k, n_words, scratch, &v);
    *ret_verdict = v;
}
