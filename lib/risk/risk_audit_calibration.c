#include <math.h>

#include "lib/risk/risk_audit.h"
#include "lib/risk/risk_certificate.h"
#include "lib/risk/risk_meter.h"

/* The worst that held-out tokens had is just below Yellow. */
static const double WORST = .65;

/* What shapes did on held-out tokens, times this, is no drift. */
static const double DRIFT_MARGIN = 1.4;

static double own_tolerance(const struct risk_audit_entry *e, double factor)
{
    return fmax(factor * (double)e->error_base, (double)e->error_high / WORST);
}

static double tolerance(const struct risk_audit_row *row, uint32_t reference, double factor)
{
    const struct risk_audit_entry *e = &row->entry[reference], *none = &row->entry[0];
    double own = own_tolerance(e, factor);

    if (none->flags & RISK_AUDIT_CERTIFIED)
        own = fmin(own, own_tolerance(none, factor));
    return fmax(own, factor * (double)e->error_base);
}

static struct risk_drift drift(const struct risk_audit_entry *e, uint32_t head_dim)
{
    double at = (double)e->moment_ratio;
    struct risk_drift d;

    risk_drift_init(&d, at, head_dim,
                    risk_shape_radial(1, head_dim) - risk_shape_radial(2, head_dim));
    if (!(d.at > 0))
        return d;
    d.low = fmin(d.low, at - DRIFT_MARGIN * (at - (double)e->moment_low));
    d.high = fmax(d.high, at + DRIFT_MARGIN * ((double)e->moment_high - at));
    return d;
}

bool risk_audit_calibration(const struct risk_audit_row *row, uint32_t reference, uint32_t head_dim,
                            double factor, struct risk_calibration *ret_calibration)
{
    const struct risk_audit_entry *e = &row->entry[reference];
    bool is_temporal = reference == RISK_REFERENCE_TEMPORAL || reference == RISK_REFERENCE_DELTA;
    struct risk_calibration c = { .model = INFINITY, .loop_gain = (double)e->loop_gain };

    if (!(e->flags & RISK_AUDIT_CERTIFIED) || !(e->flags & RISK_AUDIT_PREDICTED) ||
        !(e->error_base > 0) || !(e->energy > 0) || !(e->residual_ratio > 0))
        return false;
    c.error = (double)e->error_base * head_dim;
    c.energy = (double)e->energy * head_dim;
    c.residual = c.energy * (double)e->residual_ratio;
    c.tolerance = tolerance(row, reference, factor) * head_dim;
    if (is_temporal) {
        c.kappa_l = (double)e->kappa_l_plus;
        c.model = risk_certificate_bound(c.error / c.residual, c.loop_gain,
                                         fmax(c.residual - c.loop_gain * c.error, 0), 1);
        c.model *= c.tolerance / (factor * c.error);
    }
    c.drift = drift(e, head_dim);
    *ret_calibration = c;
    return true;
}
