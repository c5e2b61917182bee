/*
 * kNN: how far it is to the third neighbour says how dense the law is there
 *
 * Samples are sorted by their first coordinate. From each, blocks of samples to both sides are
 * looked at until that coordinate alone is farther away than the third neighbour found so far: the
 * same neighbours as by looking at all, for a fraction of the work when k is small (in two
 * dimensions about an eighth at n = 1000). A block is one vectorised loop.
 *
 * The correction: the same estimate of a synthetic sample of the fitted radial law, whose ln S is
 * known. Its bias is much the same, as it comes from tails and from n. The exponent is clamped, not
 * the correction dropped: at the ends of the table the bias is largest.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_random.h"
#include "lib/risk/risk_shape.h"

enum { NEIGHBOUR = 3, BLOCK = 32 };

struct key {
    double at;
    size_t index;
};

_Static_assert(sizeof(struct key) == 2 * sizeof(double), "risk_shape_scratch() counts on it");

static bool before(struct key a, struct key b)
{
    return a.at < b.at || (a.at == b.at && a.index < b.index);
}

static void sift(struct key *heap, size_t i, size_t n)
{
    struct key moving = heap[i];

    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && before(heap[child], heap[child + 1]);
        if (!before(moving, heap[child]))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* heapsort: qsort() may allocate */
static void sort(struct key *keys, size_t n)
{
    for (size_t i = n / 2; i--;)
        sift(keys, i, n);
    for (size_t i = n; i-- > 1;) {
        struct key last = keys[i];

        keys[i] = keys[0];
        keys[0] = last;
        sift(keys, 0, i);
    }
}

static void insert(double best[NEIGHBOUR], double d2)
{
    if (d2 < best[1]) {
        best[2] = best[1];
        best[1] = d2 < best[0] ? best[0] : d2;
        best[0] = d2 < best[0] ? d2 : best[0];
    } else if (d2 < best[2]) {
        best[2] = d2;
    }
}

/* samples from … from + count - 1 against sample i */
static void look(const double *z, size_t n, uint32_t k, size_t i, size_t from, size_t count,
                 double best[NEIGHBOUR])
{
    double d2[BLOCK] = { 0 };

    for (uint32_t c = 0; c < k; c++)
        for (size_t j = 0; j < count; j++)
            d2[j] += (z[c * n + from + j] - z[c * n + i]) * (z[c * n + from + j] - z[c * n + i]);
    for (size_t j = 0; j < count; j++)
        insert(best, d2[j]);
}

/* the same for a whole block, most of which hold nothing new */
static void look_block(const double *z, size_t n, uint32_t k, size_t i, size_t from,
                       double best[NEIGHBOUR])
{
    double d2[BLOCK] = { 0 };
    int nearer = 0;

    for (uint32_t c = 0; c < k; c++) {
        const double *row = z + c * n + from;
        double at = z[c * n + i];

        for (size_t j = 0; j < BLOCK; j++)
            d2[j] += (row[j] - at) * (row[j] - at);
    }
    for (size_t j = 0; j < BLOCK; j++)
        nearer |= d2[j] < best[2];
    for (size_t j = 0; nearer && j < BLOCK; j++)
        insert(best, d2[j]);
}

static double third(const double *z, size_t n, uint32_t k, size_t i)
{
    double best[NEIGHBOUR] = { INFINITY, INFINITY, INFINITY };
    size_t left = i, right = i + 1; /* looked at: left … right - 1 */
    bool more = true;

    while (more) {
        more = false;
        if (right < n && (z[right] - z[i]) * (z[right] - z[i]) < best[2]) {
            size_t count = n - right < BLOCK ? n - right : BLOCK;

            if (count == BLOCK)
                look_block(z, n, k, i, right, best);
            else
                look(z, n, k, i, right, count, best);
            right += count;
            more = true;
        }
        if (left && (z[left - 1] - z[i]) * (z[left - 1] - z[i]) < best[2]) {
            size_t count = left < BLOCK ? left : BLOCK;

            left -= count;
            if (count == BLOCK)
                look_block(z, n, k, i, left, best);
            else
                look(z, n, k, i, left, count, best);
            more = true;
        }
    }
    return best[2];
}

/* ln of the mean of exp(v) */
static double ln_mean_exp(const double *v, size_t n)
{
    double most = v[0], sum = 0;

    for (size_t i = 1; i < n; i++)
        most = fmax(most, v[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp(v[i] - most);
    return most + log(sum / (double)n);
}

double risk_shape_knn(const double *z, size_t n, uint32_t k, double *scratch)
{
    struct key *keys = (struct key *)scratch;
    double *sorted = scratch + 2 * n, *v = sorted + k * n, d = k, alpha = d / (d + 2), ln_ball;

    assert(n > NEIGHBOUR + 1 && k && k <= RISK_MAX_DIM);
    for (size_t t = 0; t < n; t++)
        keys[t] = (struct key){ z[t], t };
    sort(keys, n);
    for (uint32_t c = 0; c < k; c++)
        for (size_t t = 0; t < n; t++)
            sorted[c * n + t] = z[c * n + keys[t].index];
    ln_ball = log((double)n - 1) + d / 2 * log(M_PI) - risk_shape_ln_gamma(d / 2 + 1);
    for (size_t t = 0; t < n; t++)
        v[t] = (1 - alpha) * (ln_ball + d / 2 * log(fmax(third(sorted, n, k, t), 1e-24)));
    return (ln_mean_exp(v, n) + risk_shape_ln_gamma(NEIGHBOUR) -
            risk_shape_ln_gamma(NEIGHBOUR + 1 - alpha)) /
           alpha;
}

/* n vectors of the radial law: directions first, then lengths; the order is part of the estimate.
 */
static void radial_sample(double p, size_t n, uint32_t k, uint64_t seed, double *ret_z)
{
    struct risk_random random = { seed };
    double spare = 0;

    for (size_t i = 0; i < n * k; i++) {
        double normal = spare;

        if (i % 2 == 0)
            risk_random_normals(&random, &normal, &spare);
        ret_z[i % k * n + i / k] = normal;
    }
    for (size_t t = 0; t < n; t++) {
        double r2 = 0, length = pow(risk_random_gamma(&random, k / p), 1 / p);

        for (uint32_t c = 0; c < k; c++)
            r2 += ret_z[c * n + t] * ret_z[c * n + t];
        for (uint32_t c = 0; c < k; c++)
            ret_z[c * n + t] *= length / sqrt(r2);
    }
}

void risk_shape_estimate(const double *z, size_t n, uint32_t k, uint64_t seed, double *scratch,
                         struct risk_shape *ret_shape)
{
    double *synthetic = scratch + n * (k + 3), q;
    int r;

    risk_shape_fit(z, n, k, ret_shape);
    ret_shape->knn = risk_shape_knn(z, n, k, scratch);
    q = fmin(fmax(ret_shape->p, .5), 10);
    radial_sample(q, n, k, seed, synthetic);
    r = risk_shape_whiten(synthetic, n, k);
    assert(!r); /* n > k samples of a law with a density */
    ret_shape->corrected =
        ret_shape->knn - risk_shape_knn(synthetic, n, k, scratch) + risk_shape_radial(q, k);
}
