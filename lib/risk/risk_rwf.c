/*
 * With the m largest variances above the water, its level is the geometric mean of those over
 * exp(2 · nats / m). The largest m for which the level is not above the smallest of them is the
 * answer. A variance of zero takes no rate and adds nothing.
 */

#include "lib/risk/risk_rwf.h"

#include <assert.h>
#include <math.h>

#include "lib/risk/risk_matrix.h"

/* descending, without zeros; returns how many there are */
static uint32_t sorted(const double *variances, uint32_t k, double *ret)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < k; i++) {
        uint32_t j = n;

        if (!(variances[i] > 0))
            continue;
        for (; j && ret[j - 1] < variances[i]; j--)
            ret[j] = ret[j - 1];
        ret[j] = variances[i];
        n++;
    }
    return n;
}

double risk_rwf(const double *variances, uint32_t k, double nats)
{
    double v[RISK_MAX_DIM], dry = 0, logs = 0;
    uint32_t n;

    assert(k && k <= RISK_MAX_DIM && nats >= 0);
    n = sorted(variances, k, v);
    for (uint32_t i = 0; i < n; i++)
        logs += log(v[i]);
    for (uint32_t m = n; m; m--) {
        double level = exp((logs - 2 * nats) / m);

        if (level <= v[m - 1] || m == 1)
            return m * level + dry;
        dry += v[m - 1];
        logs -= log(v[m - 1]);
    }
    return 0;
}
