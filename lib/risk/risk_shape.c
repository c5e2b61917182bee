/*
 * Closed forms (theory.md 6.1) and fits
 *
 * Fits go by the ratio of the first moment to the second (Mallat), which heavy tails disturb far
 * less than kurtosis. The tables of exponents are not stored: their entries are evaluated while
 * bisecting, ten of them.
 */

#include "lib/risk/risk_shape.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* lgamma() writes the global signgam. */
double risk_shape_ln_gamma(double x)
{
    int sign;

    return lgamma_r(x, &sign);
}

double risk_shape_gauss(uint32_t k)
{
    double d = k;

    return log(2 * M_PI) + (d + 2) / 2 * log((d + 2) / d);
}

double risk_shape_product(double b, uint32_t k)
{
    double d = k;

    return 2 * log(2 / b) + 3 * risk_shape_ln_gamma(1 / b) - risk_shape_ln_gamma(3 / b) +
           (d + 2) / b * log((d + 2) / d);
}

double risk_shape_radial(double p, uint32_t k)
{
    double d = k;

    return 2 / d *
               (M_LN2 + d / 2 * log(M_PI) + risk_shape_ln_gamma(d / p) - log(p) -
                risk_shape_ln_gamma(d / 2)) +
           log(d) + risk_shape_ln_gamma(d / p) - risk_shape_ln_gamma((d + 2) / p) +
           (d + 2) / p * log((d + 2) / d);
}

double risk_shape_t(double nu, uint32_t k)
{
    double d = k, alpha = d / (d + 2), q = (nu + d) * alpha / 2;
    double ln_c =
        risk_shape_ln_gamma((nu + d) / 2) - risk_shape_ln_gamma(nu / 2) - d / 2 * log(nu * M_PI);

    return (alpha * ln_c + d / 2 * log(nu * M_PI) + risk_shape_ln_gamma(q - d / 2) -
            risk_shape_ln_gamma(q)) /
               alpha -
           log(nu / (nu - 2));
}

double risk_shape_radial_ratio(double p, uint32_t k)
{
    double d = k;

    return exp(risk_shape_ln_gamma((d + 1) / p) -
               .5 * (risk_shape_ln_gamma(d / p) + risk_shape_ln_gamma((d + 2) / p)));
}

double risk_shape_axis_ratio(double b)
{
    return exp(risk_shape_ln_gamma(2 / b) -
               .5 * (risk_shape_ln_gamma(1 / b) + risk_shape_ln_gamma(3 / b)));
}

/* Entry i of n exponents, evenly spaced in the logarithm. */
static double exponent(double first, double last, int i, int n)
{
    return exp(log(first) + (log(last) - log(first)) * i / (n - 1));
}

static double ratio_of(double b, uint32_t k)
{
    return k ? risk_shape_radial_ratio(b, k) : risk_shape_axis_ratio(b);
}

/* k = 0: one coordinate's law */
static double fit(double ratio, uint32_t k, double first, double last, int n)
{
    int low = 0, high = n - 1;
    double at_low = ratio_of(first, k), at_high = ratio_of(last, k), b_low, b_high;

    if (!(ratio > at_low))
        return first;
    if (ratio >= at_high)
        return last;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        double at = ratio_of(exponent(first, last, middle, n), k);

        if (at <= ratio) {
            low = middle;
            at_low = at;
        } else {
            high = middle;
            at_high = at;
        }
    }
    b_low = exponent(first, last, low, n);
    b_high = exponent(first, last, high, n);
    return b_low + (b_high - b_low) * (ratio - at_low) / (at_high - at_low);
}

double risk_shape_fit_p(double ratio, uint32_t k)
{
    return fit(ratio, k, .25, 40, RISK_SHAPE_TABLE_P);
}

double risk_shape_fit_b(double ratio)
{
    return fit(ratio, 0, .3, 12, RISK_SHAPE_TABLE_B);
}

bool risk_shape_at_edge(double p)
{
    return p <= .25 || p >= 40;
}

void risk_shape_covariance(const double *z, size_t n, uint32_t k, double *ret_mean,
                           double *ret_covariance)
{
    double over_n = n ? 1. / (double)n : 0;

    assert(k && k <= RISK_MAX_DIM);
    for (uint32_t i = 0; i < k; i++) {
        double sum = 0;

        for (size_t t = 0; t < n; t++)
            sum += z[i * n + t];
        ret_mean[i] = sum * over_n;
    }
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t j = 0; j <= i; j++) {
            double sum = 0;

            for (size_t t = 0; t < n; t++)
                sum += (z[i * n + t] - ret_mean[i]) * (z[j * n + t] - ret_mean[j]);
            ret_covariance[i * k + j] = ret_covariance[j * k + i] = sum * over_n;
        }
    }
}

int risk_shape_whiten(double *z, size_t n, uint32_t k)
{
    double mean[RISK_MAX_DIM], covariance[RISK_MAX_DIM * RISK_MAX_DIM], values[RISK_MAX_DIM];
    double vectors[RISK_MAX_DIM * RISK_MAX_DIM], row[RISK_MAX_DIM];

    risk_shape_covariance(z, n, k, mean, covariance);
    for (uint32_t i = 0; i < k; i++)
        if (!isfinite(covariance[i * k + i]))
            return RISK_SHAPE_E_FLAT;
    risk_matrix_eigen(covariance, k, values, vectors);
    if (!(values[0] > 1e-12 * values[k - 1]))
        return RISK_SHAPE_E_FLAT;
    for (uint32_t i = 0; i < k * k; i++)
        vectors[i] /= sqrt(values[i / k]);
    for (size_t t = 0; t < n; t++) {
        for (uint32_t i = 0; i < k; i++)
            row[i] = z[i * n + t] - mean[i];
        for (uint32_t i = 0; i < k; i++) {
            double sum = 0;

            for (uint32_t j = 0; j < k; j++)
                sum += vectors[i * k + j] * row[j];
            z[i * n + t] = sum;
        }
    }
    return 0;
}

void risk_shape_fit(const double *z, size_t n, uint32_t k, struct risk_shape *ret_shape)
{
    double first = 0, second = 0, product = 0;

    for (size_t t = 0; t < n; t++) {
        double r2 = 0;

        for (uint32_t i = 0; i < k; i++)
            r2 += z[i * n + t] * z[i * n + t];
        first += sqrt(r2);
        second += r2;
    }
    ret_shape->p = risk_shape_fit_p(first / sqrt(second * (double)n), k);
    ret_shape->radial = risk_shape_radial(ret_shape->p, k);
    for (uint32_t i = 0; i < k; i++) {
        double sum = 0;

        for (size_t t = 0; t < n; t++)
            sum += fabs(z[i * n + t]);
        product += risk_shape_product(risk_shape_fit_b(sum / (double)n), k);
    }
    ret_shape->product = product / k;
}
