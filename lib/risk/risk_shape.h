#pragma once

/*
 * The shape of a law, and what it does to the error of a code
 *
 * Zador and Bucklew-Wise: a code of many words leaves an error proportional to |f|_α of the
 * source's density f, α = k / (k + 2). S(f) = |f|_α / |Σ|^(1/k) does not change under affine maps;
 * what is left after the covariance has been dealt with (risk_rwf.h) is η = S_d / S_x, of residual
 * d and vector x. theory.md section 6 has the sources and the limits: at few words (16 in 8
 * dimensions) shapes matter only half as much as S says.
 *
 *   risk_shape.c         closed forms, fits by the first-moment ratio
 *   risk_shape_knn.c     the estimate from distances to neighbours
 *   risk_shape_kmeans.c  the error of a small code, trained and tested
 *   risk_shape_tier.c    which of those to believe
 *
 * Samples are arrays of double, coordinate i of sample t at z[i * n + t]; dimensions are
 * 1 … RISK_MAX_DIM. Logarithms are natural. Nothing allocates. Thread: any, for all functions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/risk/risk_matrix.h"

enum {
    RISK_SHAPE_MIN_SAMPLES = 256, /* fewer say nothing */
    RISK_SHAPE_SEED = 77, /* of the synthetic sample, unless there is a reason for another */
};

enum risk_shape_outcome {
    RISK_SHAPE_E_FLAT = 1, /* a direction has (almost) no variance, or a value is not finite */
};

/* --- closed forms: ln S ---------------------------------------------------------------------- */

double risk_shape_ln_gamma(double x); /* ln Γ(x), x > 0; touches no global */

double risk_shape_gauss(uint32_t k);

/* Independent coordinates, density ~ exp(-|z/a|^b) of each; for several exponents, the mean of the
 * values for each. b > 0: 1 Laplace, 2 Gauss. */
double risk_shape_product(double b, uint32_t k);

/* Elliptical, density ~ exp(-(r/a)^p), p > 0: 2 is the Gaussian. */
double risk_shape_radial(double p, uint32_t k);

/* Elliptical Student t, nu > 2. */
double risk_shape_t(double nu, uint32_t k);

/* --- fits ------------------------------------------------------------------------------------ */

/* E r / sqrt(E r²) of the radial law, and E|z| / sqrt(E z²) of one coordinate: both increasing. */
double risk_shape_radial_ratio(double p, uint32_t k);
double risk_shape_axis_ratio(double b);

enum { RISK_SHAPE_TABLE_P = 600, RISK_SHAPE_TABLE_B = 400 };

/**
 * risk_shape_fit_p() - the exponent whose ratio this is
 * @ratio: E r / sqrt(E r²) of whitened samples: 0 … 1
 *
 * Linear in the ratio between 600 exponents, evenly spaced in ln p from .25 to 40.
 * Return: .25 … 40, an end for ratios beyond.
 */
double risk_shape_fit_p(double ratio, uint32_t k);

/** risk_shape_fit_b() - the same for one coordinate: 400 exponents from .3 to 12 */
double risk_shape_fit_b(double ratio);

/** risk_shape_at_edge() - whether a fitted p is an end of the table: the law is none of this family
 */
bool risk_shape_at_edge(double p);

/* --- samples --------------------------------------------------------------------------------- */

/**
 * risk_shape_covariance() - mean and covariance (divided by n)
 * @ret_mean: [k]; @ret_covariance: [k][k]
 */
void risk_shape_covariance(const double *z, size_t n, uint32_t k, double *ret_mean,
                           double *ret_covariance);

/**
 * risk_shape_whiten() - in place, to mean 0 and covariance 1, along the principal axes
 *
 * Return: 0; RISK_SHAPE_E_FLAT, then z is as it was.
 */
int risk_shape_whiten(double *z, size_t n, uint32_t k);

/* Doubles that the two functions below need as scratch. */
static inline size_t risk_shape_scratch(size_t n, uint32_t k)
{
    return n * (2 * (size_t)k + 3);
}

/**
 * risk_shape_knn() - ln S by the distance to the third neighbour
 * @z:       whitened
 * @n:       at least 5
 * @scratch: risk_shape_scratch(n, k) doubles
 *
 * Leonenko-Pronzato-Savani (Ann. Stat. 36(5), 2008). Biased, -.05 to -.7 at n = 2000, more for
 * heavy tails: see risk_shape_estimate(). O(n²) at worst; O(n^1.5) in two dimensions.
 */
double risk_shape_knn(const double *z, size_t n, uint32_t k, double *scratch);

struct risk_shape {
    double p;      /* fitted exponent of the radial law */
    double knn;    /* ln S, as risk_shape_knn() has it */
    double radial; /* ln S of the fitted radial law */
    double
        product; /* ln S of the law fitted to each principal axis; void where axes are arbitrary */
    double corrected; /* knn, less its bias on a radial law of exponent p within [.5, 10] */
};

/**
 * risk_shape_fit() - p, radial and product only: O(n k)
 * @z: whitened
 */
void risk_shape_fit(const double *z, size_t n, uint32_t k, struct risk_shape *ret_shape);

/**
 * risk_shape_estimate() - all of struct risk_shape
 * @z:       whitened, n >= 5
 * @seed:    RISK_SHAPE_SEED
 * @scratch: risk_shape_scratch(n, k) doubles
 */
void risk_shape_estimate(const double *z, size_t n, uint32_t k, uint64_t seed, double *scratch,
                         struct risk_shape *ret_shape);

/* --- a small code ---------------------------------------------------------------------------- */

enum { RISK_SHAPE_MAX_WORDS = 256 };

/**
 * risk_shape_kmeans() - k-means++ start, then Lloyd's iterations; an empty cell keeps its word
 * @z:         n samples, n > 0; the code is trained on them
 * @n_words:   1 … RISK_SHAPE_MAX_WORDS
 * @distance:  scratch, [n]
 * @ret_words: [n_words][k]
 */
void risk_shape_kmeans(const double *z, size_t n, uint32_t k, uint32_t n_words, int n_iterations,
                       uint64_t seed, double *distance, double *ret_words);

/**
 * risk_shape_distances() - |z - nearest word|² of each sample; the lowest index on ties
 * @stride:       coordinate i of sample t is z[i * stride + t]
 * @ret_distance: [n]
 * @ret_label:    [n], may be NULL
 *
 * Return: their sum.
 */
double risk_shape_distances(const double *z, size_t stride, size_t n, uint32_t k,
                            const double *words, uint32_t n_words, double *ret_distance,
                            uint8_t *ret_label);

/* --- the decision ---------------------------------------------------------------------------- */

enum risk_shape_tier {
    RISK_SHAPE_UNKNOWN, /* fewer than 256 samples, or a direction without variance */
    RISK_SHAPE_KNN,     /* corrected kNN */
    RISK_SHAPE_PROXY,   /* fitted radial law: too few samples for kNN, or k > 8 */
    RISK_SHAPE_DIRECT,  /* small codes, trained and tested */
    RISK_N_SHAPE_TIERS,
};

struct risk_shape_verdict {
    enum risk_shape_tier tier;
    double ln_eta;   /* of d over x; 0 when unknown */
    double ln_ratio; /* predicted ln(error with the residual / error without); 0 when unknown */
    double u;        /* uncertainty of either, about two standard errors; INFINITY when unknown */
};

/* Doubles that risk_shape_compare() needs as scratch. */
static inline size_t risk_shape_compare_scratch(size_t n, uint32_t k)
{
    return n * k + risk_shape_scratch(n, k);
}

/**
 * risk_shape_compare() - how much smaller a code's error gets by coding d instead of x
 * @x, @d:    n samples each, sample t of both of the same token; only read
 * @n_words:  of the code, > 0; more than 64 are judged by 64 where a small code is trained
 * @scratch:  risk_shape_compare_scratch(n, k) doubles
 *
 * theory.md 6.4: corrected kNN with at least 1000 samples (2000 above k = 4), else the radial law;
 * a small code instead when that is too uncertain to decide, or the code has less than one bit a
 * number (n_words^(1/k) < 2). d must be the closed-loop residual.
 */
void risk_shape_compare(const double *x, const double *d, size_t n, uint32_t k, uint32_t n_words,
                        double *scratch, struct risk_shape_verdict *ret_verdict);
