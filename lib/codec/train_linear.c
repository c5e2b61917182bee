/* Square roots, eigenvectors, and how these are dealt to subspaces: LAPACK, in double precision. */

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "lib/base/error.h"
#include "lib/codec/train.h"

/* LAPACK, as OpenBLAS exports it; the last two are the lengths of jobz and uplo. */
extern void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                    double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                    int *info, size_t, size_t);

int train_eigen(double *a, uint32_t d, double *ret_values)
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

/* V diag(f) V^T, rows of V are eigenvectors */
static void compose(const double *vectors, const double *factor, uint32_t d, float *ret_matrix)
{
    for (uint32_t i = 0; i < d; i++)
        for (uint32_t j = 0; j < d; j++) {
            double sum = 0;

            for (uint32_t k = 0; k < d; k++)
                sum += factor[k] * vectors[(size_t)k * d + i] * vectors[(size_t)k * d + j];
            ret_matrix[(size_t)i * d + j] = (float)sum;
        }
}

int train_roots(const float *metric, uint32_t d, double lambda, float *ret_root, float *ret_inverse,
                double *ret_importance)
{
    double values[DPQ_MAX_HEAD_DIM], factor[DPQ_MAX_HEAD_DIM], mean = 0;
    double *a;
    int r;

    for (uint32_t i = 0; i < d; i++)
        mean += (double)metric[(size_t)i * d + i] / d;
    if (!(mean > 0) || !isfinite(mean))
        return DPQ_E_INVALID;
    a = malloc((size_t)d * d * sizeof(*a));
    if (!a)
        return error_origin(-ENOMEM);
    for (uint32_t i = 0; i < d; i++)
        for (uint32_t j = 0; j < d; j++)
            a[(size_t)i * d + j] =
                ((double)metric[(size_t)i * d + j] + (double)metric[(size_t)j * d + i]) / 2 / mean +
                (i == j ? lambda : 0);
    r = train_eigen(a, d, values);
    if (!r) {
        for (uint32_t k = 0; k < d; k++)
            factor[k] = sqrt(fmax(values[k], lambda) / (1 + lambda));
        compose(a, factor, d, ret_root);
        for (uint32_t k = 0; k < d; k++)
            factor[k] = 1 / factor[k];
        compose(a, factor, d, ret_inverse);
        *ret_importance = mean;
    }
    free(a);
    return r ? error_fold(r) : 0;
}

void train_deal(const double *eigenvalues, uint32_t d, uint32_t dsub, uint32_t *ret_order)
{
    uint32_t n_subspaces = d / dsub, n_dealt[DPQ_MAX_HEAD_DIM / 2] = { 0 };
    double sum[DPQ_MAX_HEAD_DIM / 2] = { 0 };
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
