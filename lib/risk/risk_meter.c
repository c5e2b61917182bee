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

_Static_assert((int)RISK_TOKEN_CODED == KERN_TOKEN_CODED && (int)RISK_TOKEN_SINK == KERN_TOKEN_SINK,
               "kernels are given one as the other");

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
    static const char *const NAMES[RISK_N_CAUSES] = { "stability", "performance", "escape",
                                                      "detector",  "model",       "direction",
                                                      "cusum",     "drift",       "report" };

    return cause < RISK_N_CAUSES ? NAMES[cause] : "unknown";
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

static inline double greater(double a, double b)
{
    return a > b ? a : b;
}

static inline double lesser(double a, double b)
{
    return a < b ? a : b;
}

void risk_group_begin(const struct risk_meter *meter, struct risk_group *ret_group)
{
    *ret_group = (struct risk_group){ .energy_cap = RISK_CAP * meter->energy, .sums.payoff = 1 };
}

static bool are_all_coded(const uint8_t *token)
{
    uint64_t words[KERN_GROUP / 8];

    memcpy(words, token, sizeof(words));
    return !(words[0] | words[1] | words[2] | words[3]);
}

/* Of a kind below 4: eight bytes at a time, each counting for itself. */
static uint32_t count(const uint8_t *token, uint8_t kind)
{
    static const uint64_t ONES = 0x0101010101010101;
    uint64_t n = 0;

    for (int t = 0; t < KERN_GROUP; t += 8) {
        uint64_t differs;

        memcpy(&differs, token + t, sizeof(differs));
        differs ^= ONES * kind;
        n += ONES - ((differs | differs >> 1) & ONES);
    }
    return (uint32_t)(n * ONES >> 56);
}

void risk_group_energies(struct risk_group *g, const struct kern *kern, const float *x2,
                         const uint8_t *token)
{
    g->n = KERN_GROUP;
    if (!are_all_coded(token))
        g->n -= count(token, RISK_TOKEN_SINK);
    g->x2 = kern->sum_energies(x2, token, g->energy_cap);
}

void risk_group_tokens(struct risk_group *g, const struct kern *kern, const float *d2,
                       const float *e2, const uint8_t *token)
{
    struct kern_meter meter = {
        .cap = RISK_CAP * g->tolerance,
        .per_tolerance = g->per_tolerance,
        .clip = RISK_DETECTOR_CLIP,
        .stake = g->stake,
    };

    kern->sum_tokens(d2, e2, token, &meter, &g->sums);
    g->n_coded = KERN_GROUP;
    if (are_all_coded(token))
        return;
    g->n_coded = count(token, RISK_TOKEN_CODED);
    g->n_escaped = count(token, RISK_TOKEN_ESCAPED);
}

/* 1 - (1 - rate)^n, by multiplications: libm's ways to it are slower, and not the same on every
 * machine. A whole group's in a straight line, the others to the same bits. */
static double weight(double rate, uint32_t n)
{
    double power = 1 - rate, kept = 1;

    if (n == 1)
        return rate;
    if (n == KERN_GROUP) {
        for (uint32_t i = 1; i < KERN_GROUP; i *= 2)
            power *= power;
        return 1 - power;
    }
    for (; n; n /= 2) {
        if (n % 2)
            kept *= power;
        power *= power;
    }
    return 1 - kept;
}

/* @per_n: 1 / n */
static void step(double *mean, double weight, double sum, double per_n)
{
    *mean += weight * (sum * per_n - *mean);
}

double risk_meter_tolerance(struct risk_meter *meter, const struct risk_rules *rules,
                            const struct risk_calibration *calibration, struct risk_group *group)
{
    double scale = 1;

    if (group->n)
        step(&meter->energy, weight(rules->rate, group->n), group->x2, 1. / group->n);
    meter->energy = greater(meter->energy, FLOOR * calibration->energy);
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
    double w = weight(rules->rate, g->n_coded), per_n = 1. / g->n_coded, gamma, square;

    step(&m->residual, w, g->sums.d2, per_n);
    m->residual = greater(m->residual, FLOOR * c->residual);
    step(&m->error, w, g->sums.e2, per_n);
    step(&m->first, w, g->sums.first, per_n);
    step(&m->loop, w, g->loop, per_n);
    gamma = m->error / m->residual;
    square = g->sums.e2e2 - 2 * gamma * g->sums.e2d2 + gamma * gamma * g->sums.d2d2;
    step(&m->square, w, greater(square, 0), per_n);
    m->ln_m = risk_detector_step(m->ln_m, g->sums.payoff, rules->top);
    m->cusum = lesser(risk_detector_cusum(m->cusum, g->sums.excess), rules->cusum_max);
}

static double below_red(double component)
{
    return lesser(component, BELOW_RED);
}

static void measure(const struct risk_meter *m, const struct risk_rules *rules,
                    const struct risk_calibration *c, const struct risk_group *g, double gain,
                    double component[RISK_N_CAUSES])
{
    memset(component, 0, RISK_N_CAUSES * sizeof(*component));
    if (gain > 0)
        component[RISK_CAUSE_STABILITY] =
            risk_certificate_ewma_limit(m->error, m->residual, m->square, rules->rate, rules->z) *
            gain / rules->kappa_max;
    component[RISK_CAUSE_PERFORMANCE] = m->error * g->per_tolerance;
    if (m->escapes > 0)
        component[RISK_CAUSE_ESCAPE] = m->escapes / rules->escape_max;
    if (m->ln_m > 0)
        component[RISK_CAUSE_DETECTOR] = m->ln_m / rules->top;
    if (g->model < INFINITY)
        component[RISK_CAUSE_MODEL] = below_red(YELLOW * m->error / g->model);
    if (c->kappa_l > DIRECTION_MAX)
        component[RISK_CAUSE_DIRECTION] = c->kappa_l / DIRECTION_MAX;
    if (m->cusum > 0)
        component[RISK_CAUSE_CUSUM] = below_red(YELLOW * m->cusum / rules->cusum_max);
    component[RISK_CAUSE_DRIFT] =
        lesser(YELLOW * risk_detector_drift(&c->drift, m->first, m->residual), BELOW_HOLD);
    component[RISK_CAUSE_REPORT] = m->report;
}

void risk_meter_step(struct risk_meter *meter, const struct risk_rules *rules,
                     const struct risk_calibration *calibration, const struct risk_group *group,
                     double reference_error, struct risk_level *ret_level)
{
    double gain = calibration->loop_gain;

    if (group->n_coded)
        step_coded(meter, rules, calibration, group);
    if (group->n_escaped || (group->n && meter->escapes > 0))
        step(&meter->escapes, weight(rules->rate_escape, group->n), group->n_escaped,
             1. / group->n);
    if (group->n && meter->report > 0)
        meter->report *= 1 - weight(rules->rate, group->n);
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
