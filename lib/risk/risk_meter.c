/*
 * Running means and μ
 *
 * A mean steps by its rate a token; n tokens at once step it by 1 - (1 - rate)^n towards their
 * mean, which is the same when they are alike. R2 is that of (|e|² - γ|d|²)², γ being the one after
 * the step, hence the sums of products.
 */

#include "lib/risk/risk_meter.h"

#include <math.h>
#include <string.h>

#include "lib/risk/risk_certificate.h"

/* One token's energy counts as this times the mean at most. */
static const double CAP = 16;

/* A silent stream: means stay above this part of what calibration has, so that ratios exist. */
static const double FLOOR = 1e-9;

/* What only ever is Yellow stays below Red. */
static const double BELOW_RED = .99, YELLOW = .7;

/* What does not even hold a stream in Red: another law of residuals is no harm while errors are as
 * they should be. */
static const double BELOW_HOLD = .79;

/* D / X, and P over its limit, from which on a reference is no help */
static const double GAIN = .9, GAIN_RAW = 2;

/* κ_L+ that is not certified any more */
static const double DIRECTION_MAX = .98;

const char *risk_cause_name(uint32_t cause)
{
    static const char *const NAMES[] = {
        "stability", "performance", "escape", "detector", "model",
        "direction", "cusum",       "drift",  "report",   "floor"
    };

    return cause <= RISK_CAUSE_FLOOR ? NAMES[cause] : "unknown";
}

void risk_monitor_init(struct risk_monitor *monitor, const struct risk_calibration *calibration)
{
    double spread = .15 * calibration->residual;

    memset(monitor, 0, sizeof(*monitor));
    monitor->meter.residual = calibration->residual;
    monitor->meter.error = calibration->error;
    monitor->meter.energy = calibration->energy;
    monitor->meter.square = spread * spread;
    monitor->meter.first = calibration->drift.at * sqrt(calibration->residual);
    risk_zone_init(&monitor->zone);
}

void risk_group_begin(const struct risk_meter *meter, struct risk_group *ret_group)
{
    memset(ret_group, 0, sizeof(*ret_group));
    ret_group->energy_cap = CAP * meter->energy;
    ret_group->payoff = 1;
}

/* 1 - (1 - rate)^n */
static double weight(double rate, uint32_t n)
{
    return n == 1 ? rate : -expm1(n * log1p(-rate));
}

static void step(double *mean, double weight, double sum, uint32_t n)
{
    *mean += weight * (sum / n - *mean);
}

double risk_meter_tolerance(struct risk_meter *meter, const struct risk_rules *rules,
                            const struct risk_calibration *calibration, struct risk_group *group)
{
    double scale = 1;

    if (group->n)
        step(&meter->energy, weight(rules->rate, group->n), group->x2, group->n);
    meter->energy = fmax(meter->energy, FLOOR * calibration->energy);
    if (calibration->relative)
        scale = meter->energy / calibration->energy;
    group->tolerance = calibration->tolerance * scale;
    group->model = calibration->model * scale;
    group->per_tolerance = 1 / group->tolerance;
    group->stake = rules->stake;
    return group->tolerance;
}

static void step_coded(struct risk_meter *m, const struct risk_rules *rules,
                       const struct risk_calibration *c, const struct risk_group *g)
{
    double w = weight(rules->rate, g->n_coded), gamma, square;

    step(&m->residual, w, g->d2, g->n_coded);
    m->residual = fmax(m->residual, FLOOR * c->residual);
    step(&m->error, w, g->e2, g->n_coded);
    step(&m->first, w, g->first, g->n_coded);
    step(&m->loop, w, g->loop, g->n_coded);
    gamma = m->error / m->residual;
    square = g->e2e2 - 2 * gamma * g->e2d2 + gamma * gamma * g->d2d2;
    step(&m->square, w, fmax(square, 0), g->n_coded);
    m->ln_m = risk_detector_step(m->ln_m, g->payoff, rules->top);
    m->cusum = fmin(risk_detector_cusum(m->cusum, g->excess), rules->cusum_max);
}

static double below_red(double component)
{
    return fmin(component, BELOW_RED);
}

static void measure(const struct risk_meter *m, const struct risk_rules *rules,
                    const struct risk_calibration *c, const struct risk_group *g, double gain,
                    double component[RISK_N_CAUSES])
{
    double gamma =
        risk_certificate_ewma_limit(m->error, m->residual, m->square, rules->rate, rules->z);

    memset(component, 0, RISK_N_CAUSES * sizeof(*component));
    component[RISK_CAUSE_STABILITY] = gain > 0 ? gamma * gain / rules->kappa_max : 0;
    component[RISK_CAUSE_PERFORMANCE] = m->error / g->tolerance;
    component[RISK_CAUSE_ESCAPE] = m->escapes / rules->escape_max;
    component[RISK_CAUSE_DETECTOR] = m->ln_m / rules->top;
    component[RISK_CAUSE_MODEL] = below_red(YELLOW * m->error / g->model);
    if (c->kappa_l > DIRECTION_MAX)
        component[RISK_CAUSE_DIRECTION] = c->kappa_l / DIRECTION_MAX;
    component[RISK_CAUSE_CUSUM] = below_red(YELLOW * m->cusum / rules->cusum_max);
    component[RISK_CAUSE_DRIFT] =
        fmin(YELLOW * risk_detector_drift(&c->drift, m->first, m->residual), BELOW_HOLD);
    component[RISK_CAUSE_REPORT] = m->report;
}

void risk_meter_step(struct risk_meter *meter, const struct risk_rules *rules,
                     const struct risk_calibration *calibration, const struct risk_group *group,
                     double reference_error, struct risk_level *ret_level)
{
    double gain = calibration->loop_gain;

    if (group->n_coded)
        step_coded(meter, rules, calibration, group);
    if (group->n) {
        step(&meter->escapes, weight(rules->rate_escape, group->n), group->n_escaped, group->n);
        meter->report *= 1 - weight(rules->rate, group->n);
    }
    if (reference_error > 0)
        gain = meter->loop / reference_error;
    measure(meter, rules, calibration, group, gain, ret_level->component);
    ret_level->mu = ret_level->component[0];
    ret_level->cause = 0;
    for (uint32_t i = 1; i < RISK_N_CAUSES; i++) {
        if (ret_level->component[i] > ret_level->mu) {
            ret_level->mu = ret_level->component[i];
            ret_level->cause = i;
        }
    }
}

void risk_meter_report(struct risk_meter *meter, double ratio)
{
    meter->report += .5 * (ratio - meter->report);
}

bool risk_meter_gains(const struct risk_meter *meter, const struct risk_rules *rules)
{
    return meter->residual < GAIN * meter->energy && meter->escapes < GAIN_RAW * rules->escape_max;
}

bool risk_monitor_step(struct risk_monitor *monitor, const struct risk_rules *rules,
                       const struct risk_calibration *calibration, const struct risk_group *group,
                       double reference_error, struct risk_level *ret_level)
{
    bool has_changed;

    risk_meter_step(&monitor->meter, rules, calibration, group, reference_error, ret_level);
    if (!group->n)
        return false;
    has_changed = risk_zone_step(&monitor->zone, ret_level->mu, group->n);
    if (has_changed && monitor->zone.zone == RISK_RED)
        monitor->meter.ln_m = monitor->meter.cusum = 0;
    return has_changed;
}
