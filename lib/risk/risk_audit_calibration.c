#include <math.h>

#include "lib/risk/risk_audit.h"
#include "lib/risk/risk_certificate.h"
#include "lib/risk/risk_meter.h"

static double tolerance(const struct risk_audit_row *row, uint32_t reference, double factor)
{
    const struct risk_audit_entry *none = &row->entry[RISK_REFERENCE_NONE];
    double error = (double)row->entry[reference].error_base;

    if (reference != RISK_REFERENCE_NONE && none->flags & RISK_AUDIT_CERTIFIED)
        return fmax(2 * error, fmin(factor * error, (double)none->error_base));
    return factor * error;
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
    }
    risk_drift_init(&c.drift, (double)e->moment_ratio, head_dim,
                    risk_shape_radial(1, head_dim) - risk_shape_radial(2, head_dim));
    *ret_calibration = c;
    return true;
}
