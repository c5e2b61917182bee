#pragma once

/*
 * The meters of one stream of one sequence, and the level μ that they add up to
 *
 * Each component is 1 at its own boundary; μ is the largest, and its name the cause
 * (theory.md 7.1):
 *
 *   stability    γ+ |A|² / κ_max                       the loop, from running means
 *   performance  E / D_tol                             the error itself
 *   escape       P / p_max                             too many raw tokens
 *   detector     ln M / ln(1/α)                        errors have grown, surely
 *   model        .7 E / V, below 1                     more than Theorem 1 allows
 *   direction    κ_L+ / .98 when above 1               offline: the worst direction
 *   cusum        .7 S / limit, below 1                 errors have grown, quickly said
 *   drift        .7 |Δ ln S| / limit, below .8         another law than at calibration
 *   report       a worker's output error / its limit   what the reader sees
 *
 * "Below 1": such a component can cause Yellow, not Red; "below .8": nor hold it. D_tol must be the
 * level of what Red falls back to, not a bound: else Red is entered for errors that it can't
 * better.
 *
 * A group is 1 to 128 tokens in a row, as sums. One token at a time is the reference
 * (policy.py); with more, means step at once, caps are those that the group began with, and the
 * detectors may be later by as many tokens. The same groups in the same order give the same bits.
 *
 *   risk_group_begin()      -> risk_group_energy() for each token, or risk_group_energies() of 32
 *   risk_meter_tolerance()  -> the encoder decides
 *                           -> risk_group_coded() or _escaped() for each, or risk_group_tokens()
 *   risk_monitor_step()     -> μ, cause, zone
 *
 * All state of a stream is struct risk_monitor. Thread: one at a time for each monitor.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/kern/kern.h"
#include "lib/risk/risk_detector.h"
#include "lib/risk/risk_zone.h"

enum risk_cause {
    RISK_CAUSE_STABILITY,
    RISK_CAUSE_PERFORMANCE,
    RISK_CAUSE_ESCAPE,
    RISK_CAUSE_DETECTOR,
    RISK_CAUSE_MODEL,
    RISK_CAUSE_DIRECTION,
    RISK_CAUSE_CUSUM,
    RISK_CAUSE_DRIFT,
    RISK_CAUSE_REPORT,
    RISK_N_CAUSES,
};

/** risk_cause_name() - "stability", …, "report" */
const char *risk_cause_name(uint32_t cause);

/* What is the same for all streams. Infinite limits turn a component off. */
struct risk_rules {
    double rate;        /* of the running means, per token */
    double rate_escape; /* of P */
    double stake;       /* of the e-detector */
    double top;         /* ln(1/α) of it */
    double z;           /* normal quantile of γ+ */
    double kappa_max;
    double escape_max; /* p_max */
    double cusum_max;  /* S that is Yellow */
};

/* theory.md 11 */
#define RISK_RULES \
    ((struct risk_rules){ .rate = 1. / 64, \
                          .rate_escape = 1. / 512, \
                          .stake = .5, \
                          .top = 9.210340371976184, \
                          .z = 2.33, \
                          .kappa_max = .7, \
                          .escape_max = .05, \
                          .cusum_max = 20 })

/* What calibration says of a stream. Energies are per token and of whole vectors. */
struct risk_calibration {
    double error, residual, energy; /* E|e|², E|d|², E|x|², held out; > 0 */
    double tolerance;               /* D_tol, > 0 */
    double model;                   /* V of Theorem 1 or 8; INFINITY: none */
    double loop_gain;               /* a² or ω; 0: no reference */
    double kappa_l;                 /* κ_L+ */
    struct risk_drift drift;        /* all 0: shapes are not watched */
    bool relative;                  /* D_tol and V grow with E|x|²; else they are absolute */
};

struct risk_meter {
    double residual, error, energy; /* running means D, E, X of |d|², |e|², |x|² */
    double square;                  /* R2, of (|e|² - γ|d|²)² */
    double first;                   /* of |d| */
    double escapes;                 /* P */
    double loop;                    /* in time of <A e_t-1, u_t>, in depth of |W e_R|² */
    double ln_m, cusum;             /* detectors */
    double report;                  /* a worker's, over its limit; fades like the means */
};

struct risk_monitor {
    struct risk_meter meter;
    struct risk_zone zone;
};

_Static_assert(sizeof(struct risk_monitor) <= 96, "issue 6.1: memory of each stream of a sequence");

/** risk_monitor_init() - as calibration has it, Green */
void risk_monitor_init(struct risk_monitor *monitor, const struct risk_calibration *calibration);

/* One token's energy counts as this times the mean at most, its error as this times D_tol. */
#define RISK_CAP 16.

/* --- a group --------------------------------------------------------------------------------- */

enum risk_token {
    RISK_TOKEN_CODED,
    RISK_TOKEN_KEY,     /* without a prediction, as the grid has it: only its energy counts */
    RISK_TOKEN_ESCAPED, /* stored raw for its error */
    RISK_TOKEN_SINK,    /* raw whatever it is: not looked at */
};

struct risk_group {
    uint32_t n, n_coded, n_escaped; /* tokens */
    double energy_cap;              /* of one token's |x|² */
    double tolerance, model, stake; /* of one token */
    double per_tolerance;           /* 1 / D_tol */
    double x2, loop;                /* sums */
    struct kern_sums sums;          /* one token's e2 is capped at 16 D_tol */
};

/** risk_group_begin() - empty */
void risk_group_begin(const struct risk_meter *meter, struct risk_group *ret_group);

/** risk_group_energy() - |x|² of a token of the group */
static inline void risk_group_energy(struct risk_group *group, double x2)
{
    group->n++;
    group->x2 += x2 < group->energy_cap ? x2 : group->energy_cap;
}

/**
 * risk_group_energies() - of KERN_GROUP tokens, for all but sinks, instead of one by one
 * @x2:    finite
 * @token: enum risk_token
 *
 * Sums are the same but for the order of additions: kern.h has it.
 */
void risk_group_energies(struct risk_group *group, const struct kern *kern, const float *x2,
                         const uint8_t *token);

/**
 * risk_meter_tolerance() - the group's energy is complete: D_tol for its tokens
 *
 * Steps the running mean of |x|², which is the only thing that keys and escapes have part in.
 */
double risk_meter_tolerance(struct risk_meter *meter, const struct risk_rules *rules,
                            const struct risk_calibration *calibration, struct risk_group *group);

/**
 * risk_group_coded() - a token that went through the loop
 * @d2, @e2: |d|² of the residual, and |e|² that its code leaves; the loop's own even where intra
 *           was better and is what was stored, so that the zone can tell when it is well again
 * @loop:    <A e_t-1, u_t> in time, |W e_R|² in depth; 0 when not known
 */
static inline void risk_group_coded(struct risk_group *g, double d2, double e2, double loop)
{
    double cap = RISK_CAP * g->tolerance, capped = e2 < cap ? e2 : cap;

    g->n_coded++;
    g->sums.d2 += d2;
    g->sums.e2 += capped;
    g->sums.d2d2 += d2 * d2;
    g->sums.e2d2 += capped * d2;
    g->sums.e2e2 += capped * capped;
    g->sums.first += sqrt(d2);
    g->loop += loop;
    g->sums.payoff *= risk_detector_payoff(e2 * g->per_tolerance, g->stake);
    g->sums.excess += risk_detector_excess(2 * e2 * g->per_tolerance);
}

/* A token stored raw for its error. Keys are neither coded nor escaped. */
static inline void risk_group_escaped(struct risk_group *group)
{
    group->n_escaped++;
}

/** risk_group_tokens() - all that is coded or escaped of KERN_GROUP tokens, likewise; loop is 0
 * @d2, @e2: finite */
void risk_group_tokens(struct risk_group *group, const struct kern *kern, const float *d2,
                       const float *e2, const uint8_t *token);

/* --- the level ------------------------------------------------------------------------------- */

struct risk_level {
    double mu;
    uint32_t cause; /* enum risk_cause */
    double component[RISK_N_CAUSES];
};

/**
 * risk_meter_step() - running means and detectors to after the group
 * @reference_error: in depth the running mean of |e_R|² of the references, making ω the measured
 *                   one; 0: the calibration's loop gain
 */
void risk_meter_step(struct risk_meter *meter, const struct risk_rules *rules,
                     const struct risk_calibration *calibration, const struct risk_group *group,
                     double reference_error, struct risk_level *ret_level);

/**
 * risk_meter_report() - an output error measured by a worker, over its limit; >= 0
 *
 * The mean moves half the way, and fades with the tokens that follow. So one report of twice its
 * limit is Red at once; several just at the limit are Yellow.
 */
void risk_meter_report(struct risk_meter *meter, double ratio);

/**
 * risk_meter_gains() - do predictions leave clearly less than the vectors have, of late?
 *
 * D below .9 X, and P below twice its limit. The tenth pays for the frame kinds that a tile stores
 * where some tokens are intra. Raw tokens are not in D; a tenth of them costs what predictions gain
 * that leave a third. False without a reference.
 */
bool risk_meter_gains(const struct risk_meter *meter, const struct risk_rules *rules);

/**
 * risk_monitor_step() - risk_meter_step(), then the zone; entering Red clears the detectors
 *
 * Return: whether the zone has changed.
 */
bool risk_monitor_step(struct risk_monitor *monitor, const struct risk_rules *rules,
                       const struct risk_calibration *calibration, const struct risk_group *group,
                       double reference_error, struct risk_level *ret_level);

/* --- at rest --------------------------------------------------------------------------------- */

enum { RISK_MONITOR_BYTES = 24 };

enum risk_monitor_outcome {
    RISK_MONITOR_E_CORRUPT = 1, /* begin anew with risk_monitor_init() */
};

/**
 * risk_monitor_pack() - for the header of a sequence's last tile; layout: risk_meter_pack.c
 *
 * Rounds the monitor to what the bytes say. So the verdicts of a sequence that goes on from its
 * tile are those of one that never stopped, if each tile is packed.
 */
void risk_monitor_pack(struct risk_monitor *monitor, uint8_t ret_bytes[RISK_MONITOR_BYTES]);

/** risk_monitor_unpack() - 0; RISK_MONITOR_E_CORRUPT, then the monitor is as it was */
int risk_monitor_unpack(const uint8_t bytes[RISK_MONITOR_BYTES], struct risk_monitor *ret_monitor);
