/*
 * Where a shape has moved too far: exponents by bisection, since ln S of the radial law falls with
 * its exponent, and the ratio rises with it.
 */

#include "lib/risk/risk_detector.h"

#include "lib/risk/risk_shape.h"

static const double P_MIN = .25, P_MAX = 40;

/* the exponent at which ln S is @ln_s; an end where it is beyond */
static double exponent_of(double ln_s, uint32_t k)
{
    double low = log(P_MIN), high = log(P_MAX);

    for (int i = 0; i < 40; i++) {
        double middle = (low + high) / 2;

        if (risk_shape_radial(exp(middle), k) > ln_s)
            low = middle;
        else
            high = middle;
    }
    return exp((low + high) / 2);
}

void risk_drift_init(struct risk_drift *drift, double ratio, uint32_t k, double limit)
{
    double p = risk_shape_fit_p(ratio, k), ln_s = risk_shape_radial(p, k);

    *drift = (struct risk_drift){ 0 };
    if (risk_shape_at_edge(p))
        return;
    *drift = (struct risk_drift){ .at = ratio, .low = 0, .high = INFINITY };
    if (ln_s + limit < risk_shape_radial(P_MIN, k))
        drift->low = fmin(risk_shape_radial_ratio(exponent_of(ln_s + limit, k), k), ratio);
    if (ln_s - limit > risk_shape_radial(P_MAX, k))
        drift->high = fmax(risk_shape_radial_ratio(exponent_of(ln_s - limit, k), k), ratio);
}
