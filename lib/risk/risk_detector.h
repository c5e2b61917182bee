#pragma once

/*
 * Noticing that errors have grown: one that never cries wolf, one that is quick, one for shapes
 *
 * All keep one number. Ratios are |e|² over what it is compared with, one token at a time; steps of
 * a group may be taken at once, which only makes them slower. Thread: any.
 */

#include <math.h>
#include <stdint.h>

/* A ratio counts as 8 at most: one outlier is not a change. */
#define RISK_DETECTOR_CLIP 8.

/**
 * risk_detector_payoff() - what a bet of @stake pays on one token: 1 - stake … 4.5
 * @ratio: |e|² / D_tol
 * @stake: 0 … 1; .5
 *
 * Under H0, E[|e|² | past] <= D_tol, the payoff has no mean above 1.
 */
static inline double risk_detector_payoff(double ratio, double stake)
{
    return 1 + stake * ((ratio < RISK_DETECTOR_CLIP ? ratio : RISK_DETECTOR_CLIP) - 1);
}

/**
 * risk_detector_step() - the e-detector's ln M
 * @ln_m:   before, 0 at first
 * @payoff: product of at most 128 tokens' payoffs
 * @top:    ln(1 / α); M stays there, so that recovery takes a bounded time
 *
 * ln M = top is the alarm: at most one in 1 / α tokens on average under H0 (Shin, Ramdas and
 * Rinaldo). Median delay with stake .5, α = 1e-4: 27 tokens at twice D_tol, 12 at four times.
 */
static inline double risk_detector_step(double ln_m, double payoff, double top)
{
    double next;

    if (!(ln_m > 0) && payoff <= 1) /* as on most days: staying at 0 takes no logarithm */
        return 0;
    next = ln_m + log(payoff);
    next = next > 0 ? next : 0;
    return next < top ? next : top;
}

/* What a token adds to the CUSUM; @ratio: |e|² over half D_tol, which calibration's mean is at
 * most. */
static inline double risk_detector_excess(double ratio)
{
    return (ratio < RISK_DETECTOR_CLIP ? ratio : RISK_DETECTOR_CLIP) - 2;
}

/* A sum of 20 is the alarm: 3 tokens after a jump, no bound on false ones. */
static inline double risk_detector_cusum(double sum, double excess)
{
    return sum + excess > 0 ? sum + excess : 0;
}

/* What the ratio E|d| / sqrt(E|d|²) was at calibration, and where ln S of the radial law with that
 * ratio has moved by a limit. All 0: not known. */
struct risk_drift {
    double at, low, high; /* low 0, high INFINITY: never */
};

/**
 * risk_drift_init() - bounds of the ratio
 * @ratio: at calibration, of the same running means, 0 … 1
 * @k:     dimensions of d, > 0
 * @limit: of |Δ ln S|, > 0
 *
 * All 0 for a ratio that no radial law of the table has. Solves for exponents: tens of
 * microseconds.
 */
void risk_drift_init(struct risk_drift *drift, double ratio, uint32_t k, double limit);

/**
 * risk_detector_drift() - how far the shape of residuals has moved: 1 at the limit
 * @first, @second: running means of |d| and |d|²
 *
 * Linear in the ratio between calibration and the limit.
 */
static inline double risk_detector_drift(const struct risk_drift *drift, double first,
                                         double second)
{
    double ratio = first / sqrt(second);

    if (!(drift->at > 0) || !(second > 0))
        return 0;
    return ratio < drift->at ? (drift->at - ratio) / (drift->at - drift->low)
                             : (ratio - drift->at) / (drift->high - drift->at);
}
