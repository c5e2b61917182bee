#include "lib/risk/risk_subspace.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

void risk_subspace_init(struct risk_subspace *subspaces, uint32_t n_subspaces, const float *error,
                        const float *residual)
{
    for (uint32_t m = 0; m < n_subspaces; m++)
        subspaces[m] = (struct risk_subspace){ error[m], residual[m] };
}

void risk_subspace_step(struct risk_subspace *subspaces, uint32_t n_subspaces, double rate,
                        uint32_t n_tokens, const float *e2, const float *d2)
{
    float weight = (float)-expm1(n_tokens * log1p(-rate));
    float share = n_tokens ? weight / (float)n_tokens : 0;

    for (uint32_t m = 0; m < n_subspaces; m++) {
        subspaces[m].error += share * e2[m] - weight * subspaces[m].error;
        subspaces[m].residual += share * d2[m] - weight * subspaces[m].residual;
    }
}

uint32_t risk_subspace_worst(const struct risk_subspace *subspaces, uint32_t n_subspaces,
                             const float *error, double *ret_ratio)
{
    double most = -1;
    uint32_t worst = 0;

    assert(n_subspaces);
    for (uint32_t m = 0; m < n_subspaces; m++) {
        double ratio = (double)subspaces[m].error / (double)error[m];

        if (ratio > most) {
            most = ratio;
            worst = m;
        }
    }
    if (ret_ratio)
        *ret_ratio = most;
    return worst;
}
