/*
 * Jacobi: each rotation makes one pair of off-diagonal elements zero and takes its squares out of
 * the off-diagonal sum. For the sizes of subspaces that is as quick as anything, needs no memory
 * and finds small eigenvalues to full relative accuracy.
 */

#include "lib/risk/risk_matrix.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

enum { MAX_SWEEPS = 40 }; /* 6 to 8 are what it takes */

static void rotate(double *a, double *v, uint32_t k, uint32_t p, uint32_t q)
{
    double apq = a[p * k + q], theta, t, c, s;

    if (!(fabs(apq) > 0))
        return;
    theta = (a[q * k + q] - a[p * k + p]) / (2 * apq);
    t = copysign(1, theta) / (fabs(theta) + sqrt(theta * theta + 1));
    c = 1 / sqrt(t * t + 1);
    s = t * c;
    for (uint32_t i = 0; i < k; i++) {
        double ip = a[i * k + p], iq = a[i * k + q];

        a[i * k + p] = c * ip - s * iq;
        a[i * k + q] = s * ip + c * iq;
    }
    for (uint32_t i = 0; i < k; i++) {
        double pi = a[p * k + i], qi = a[q * k + i], vp = v[p * k + i], vq = v[q * k + i];

        a[p * k + i] = c * pi - s * qi;
        a[q * k + i] = s * pi + c * qi;
        v[p * k + i] = c * vp - s * vq;
        v[q * k + i] = s * vp + c * vq;
    }
    a[p * k + q] = a[q * k + p] = 0;
}

static double off_diagonal(const double *a, uint32_t k)
{
    double sum = 0;

    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < i; j++)
            sum += fabs(a[i * k + j]);
    return sum;
}

static void sort(double *values, double *vectors, uint32_t k)
{
    double row[RISK_MAX_DIM];

    for (uint32_t i = 1; i < k; i++) {
        for (uint32_t j = i; j && values[j] < values[j - 1]; j--) {
            double value = values[j];

            values[j] = values[j - 1];
            values[j - 1] = value;
            memcpy(row, vectors + j * k, k * sizeof(*row));
            memcpy(vectors + j * k, vectors + (j - 1) * k, k * sizeof(*row));
            memcpy(vectors + (j - 1) * k, row, k * sizeof(*row));
        }
    }
}

void risk_matrix_eigen(const double *a, uint32_t k, double *ret_values, double *ret_vectors)
{
    double m[RISK_MAX_DIM * RISK_MAX_DIM];

    assert(k && k <= RISK_MAX_DIM);
    memcpy(m, a, k * k * sizeof(*m));
    for (uint32_t i = 0; i < k * k; i++)
        ret_vectors[i] = i % (k + 1) == 0;
    for (int sweep = 0; sweep < MAX_SWEEPS && off_diagonal(m, k) > 0; sweep++)
        for (uint32_t p = 0; p < k; p++)
            for (uint32_t q = p + 1; q < k; q++)
                rotate(m, ret_vectors, k, p, q);
    for (uint32_t i = 0; i < k; i++)
        ret_values[i] = m[i * k + i];
    sort(ret_values, ret_vectors, k);
}

/* WᵀA W for the columns w_j = vectors[j] / sqrt(values[j]) */
static void transform(const double *a, const double *values, const double *vectors, uint32_t k,
                      double *ret)
{
    double aw[RISK_MAX_DIM * RISK_MAX_DIM];

    memset(aw, 0, sizeof(aw));
    for (uint32_t j = 0; j < k; j++)
        for (uint32_t i = 0; i < k; i++)
            for (uint32_t l = 0; l < k; l++)
                aw[j * k + i] += a[i * k + l] * vectors[j * k + l];
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t j = 0; j <= i; j++) {
            double sum = 0;

            for (uint32_t l = 0; l < k; l++)
                sum += vectors[i * k + l] * aw[j * k + l];
            ret[i * k + j] = ret[j * k + i] = sum / sqrt(values[i] * values[j]);
        }
    }
}

double risk_matrix_domination(const double *a, const double *b, uint32_t k, double *ret_direction)
{
    double values[RISK_MAX_DIM], vectors[RISK_MAX_DIM * RISK_MAX_DIM];
    double ratio[RISK_MAX_DIM * RISK_MAX_DIM];
    double top[RISK_MAX_DIM], axes[RISK_MAX_DIM * RISK_MAX_DIM];

    risk_matrix_eigen(b, k, values, vectors);
    if (!(values[k - 1] > 0)) {
        risk_matrix_eigen(a, k, top, axes);
        if (ret_direction)
            memcpy(ret_direction, axes + (k - 1) * k, k * sizeof(*axes));
        return top[k - 1] > 0 ? INFINITY : 0;
    }
    for (uint32_t i = 0; i < k; i++)
        values[i] = fmax(values[i], 1e-12 * values[k - 1]);
    transform(a, values, vectors, k, ratio);
    risk_matrix_eigen(ratio, k, top, axes);
    for (uint32_t i = 0; ret_direction && i < k; i++) {
        ret_direction[i] = 0;
        for (uint32_t j = 0; j < k; j++)
            ret_direction[i] += vectors[j * k + i] * axes[(k - 1) * k + j] / sqrt(values[j]);
    }
    return fmax(top[k - 1], 0);
}
