#pragma once

/*
 * The certificate: whether a closed loop forgets its errors, and how surely
 *
 * The loop codes d_t = u_t + A e_t-1 and is left with e_t, so only the error of the reference feeds
 * back, and the quantiser attenuates it (theory.md section 5):
 *
 *   γ   = E|e|² / E|d|²                            contraction, as a trace
 *   γ_L = λ_max(S_d^-1/2 S_e S_d^-1/2)             contraction of the worst direction
 *   κ   = γ |A|²,  κ_L = γ_L ρ(A)²                 loop gains: errors die out when κ < 1
 *   margin = -½ ln max(κ+, κ_L+)                   in nats a token: errors shrink by e^-margin
 *
 * A trace below 1 alone is no certificate: it is dominated by strong directions while a weak one
 * that the code misses may walk away. All of it is about the contraction persisting; unconditional
 * are only |e| <= |d| (0 among the words) and what the encoder enforces.
 *
 * Along the depth axis the loop index is the layer, and |A|² is the effective gain
 * ω = E|W e_R|² / E|e_R|² of the reference's errors e_R (Theorem 8).
 *
 * + means the upper confidence limit. Energies are of whole vectors, in the unit of the input
 * squared. Nothing allocates. Thread: any, for all functions.
 */

#include <stdbool.h>
#include <stdint.h>

#include "lib/risk/risk_matrix.h"

enum {
    RISK_CERTIFICATE_BLOCKS = 8,
    RISK_CERTIFICATE_MIN = 512, /* tokens: below, limits are too narrow for what they claim */
};

/* Student's t with 7 degrees of freedom, one-sided */
#define RISK_T7_95 1.894579
#define RISK_T7_99 2.997952

/* --- from samples ---------------------------------------------------------------------------- */

/* Second moments of one subspace, apart for eight stretches of the samples. */
struct risk_certificate_sums {
    uint32_t k;
    uint64_t n_block; /* samples in each of the blocks */
    uint64_t n;       /* samples so far; those beyond all blocks are not counted */
    double error[RISK_CERTIFICATE_BLOCKS][RISK_MAX_DIM * RISK_MAX_DIM];    /* sums of e eᵀ */
    double residual[RISK_CERTIFICATE_BLOCKS][RISK_MAX_DIM * RISK_MAX_DIM]; /* sums of d dᵀ */
    double innovation[RISK_CERTIFICATE_BLOCKS];                            /* sums of |u|² */
};

/**
 * risk_certificate_begin() - empty sums
 * @k:         dimensions, 1 … RISK_MAX_DIM
 * @n_samples: how many will be added; the remainder of a division by 8 is left out
 */
void risk_certificate_begin(struct risk_certificate_sums *sums, uint32_t k, uint64_t n_samples);

/**
 * risk_certificate_add() - one token, in token order
 * @e, @d: [k], error and closed-loop residual
 * @u2:    |x_t - A x_t-1|², the open-loop residual; 0 when the bound is not wanted
 */
void risk_certificate_add(struct risk_certificate_sums *sums, const double *e, const double *d,
                          double u2);

struct risk_certificate {
    uint64_t n;
    double error, residual, innovation; /* E|e|², E|d|², E|u|² */
    double gamma, gamma_plus;
    double gamma_l, gamma_l_plus;
    double kappa, kappa_plus;
    double kappa_l, kappa_l_plus;
    double r, r_plus; /* correlation of A e_t-1 and u_t; r+ = max(r, 0) + 2 standard errors */
    double bound;     /* on E|e|² by Theorem 1, with γ+ and r+; INFINITY when κ+ >= 1 */
    double margin;    /* > 0: certified, if n >= RISK_CERTIFICATE_MIN; INFINITY without a loop */
};

/**
 * risk_certificate_make() - the certificate of one subspace
 * @gain: |A|² >= 0: a² in time, ω in depth; 0 for no reference
 * @t:    RISK_T7_99, or RISK_T7_95
 *
 * Limits are of eight batch means: of the traces, and of the energies along the direction that
 * is worst over all samples (chosen to be worst, hence rather too large than too small).
 */
void risk_certificate_make(const struct risk_certificate_sums *sums, double gain, double t,
                           struct risk_certificate *ret_certificate);

/* --- single figures -------------------------------------------------------------------------- */

/**
 * risk_certificate_limit() - upper limit of a ratio of sums from eight batch means
 * @e2, @d2:   means, or sums, of the blocks
 * @ret_gamma: the ratio itself; may be NULL
 *
 * Coverage by simulation, theory.md 5.3: nominal .99 holds from n = 512 on; under volatility that
 * clusters it is .96 there.
 * Return: γ+; INFINITY when there is no d2.
 */
double risk_certificate_limit(const double e2[RISK_CERTIFICATE_BLOCKS],
                              const double d2[RISK_CERTIFICATE_BLOCKS], double t,
                              double *ret_gamma);

/**
 * risk_certificate_ewma_limit() - γ+ from running means
 * @error, @residual: running means of |e|² and |d|²
 * @square:           running mean of (|e|² - γ|d|²)²
 * @rate:             of the means, 0 … 1
 * @z:                normal quantile, such as 2.33
 */
double risk_certificate_ewma_limit(double error, double residual, double square, double rate,
                                   double z);

/**
 * risk_certificate_bound() - the largest stationary E|e|² (Theorem 1, tight form)
 * @gain:       |A|²
 * @innovation: E|u|²
 * @r:          1 assumes nothing about how A e_t-1 and u_t are correlated
 *
 * Return: INFINITY when gamma * gain >= 1.
 */
double risk_certificate_bound(double gamma, double gain, double innovation, double r);

/** risk_certificate_margin() - -½ ln max(kappa, kappa_l) */
double risk_certificate_margin(double kappa, double kappa_l);

/**
 * risk_certificate_interval() - the longest group that keeps E|e|² below a limit (Theorem 7)
 * @gain: |A|²
 *
 * From an exact key frame, any loop gain.
 * Return: tokens; INFINITY when the bound never reaches max_error.
 */
double risk_certificate_interval(double gamma, double gain, double innovation, double max_error);

/**
 * risk_certificate_flip_factor() - error energy that a wrong code adds, over one word's difference
 * @a: leak; @group: tokens from key to key, > 0
 *
 * The mean over the group of the sum of a^2j from the wrong code on (theory.md section 9).
 */
double risk_certificate_flip_factor(double a, uint32_t group);

/**
 * risk_certificate_chain() - Theorem 8: bound on E|e|² of one stage of the chain over layers
 * @innovation: E|u|²: what the same predictor would leave with exact references
 * @gain:       ω, or |W|²
 * @reference:  bound on E|e_R|² of all its references together
 *
 * Finite for any gain: the chain has an end. Layer by layer, from 0 upwards.
 */
double risk_certificate_chain(double gamma, double innovation, double gain, double reference);

/* --- at any time ----------------------------------------------------------------------------- */

/* A bet against "the contraction is g0 or worse"; no independence, no stationarity assumed. */
struct risk_bet {
    double ln_wealth;
    double mean, square; /* of the payoffs so far */
    uint64_t n;
    bool certified; /* for good: the wealth has reached 1 / delta once (Ville's inequality) */
};

void risk_bet_init(struct risk_bet *bet);

/**
 * risk_bet_step() - one token
 * @e2, @d2: |e|² <= |d|²; both 0 for a token with |d|² > radius2, which must be stored raw
 * @g0:      the claim is γ < g0; 0 < g0 < 1, the same for all steps
 * @radius2: bound on |d|²
 * @delta:   the chance of a false certificate, over all time; .01
 *
 * Return: bet->certified.
 */
bool risk_bet_step(struct risk_bet *bet, double e2, double d2, double g0, double radius2,
                   double delta);
