/*
 * From second moments to the certificate
 *
 * Eight blocks of samples keep their sums apart, so that each ratio has a standard error that knows
 * of correlation shorter than a block. For γ_L the worst direction v is found once, over all
 * samples; the energies along v in each block are vᵀ S v.
 */

#include "lib/risk/risk_certificate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { B = RISK_CERTIFICATE_BLOCKS };

void risk_certificate_begin(struct risk_certificate_sums *sums, uint32_t k, uint64_t n_samples)
{
    assert(k && k <= RISK_MAX_DIM);
    memset(sums, 0, sizeof(*sums));
    sums->k = k;
    sums->n_block = n_samples / B;
}

void risk_certificate_add(struct risk_certificate_sums *sums, const double *e, const double *d,
                          double u2)
{
    uint64_t b = sums->n_block ? sums->n / sums->n_block : B;
    uint32_t k = sums->k;

    if (b >= B)
        return;
    for (uint32_t i = 0; i < k; i++) {
        for (uint32_t j = 0; j < k; j++) {
            sums->error[b][i * k + j] += e[i] * e[j];
            sums->residual[b][i * k + j] += d[i] * d[j];
        }
    }
    sums->innovation[b] += u2;
    sums->n++;
}

static double trace(const double *a, uint32_t k)
{
    double sum = 0;

    for (uint32_t i = 0; i < k; i++)
        sum += a[i * k + i];
    return sum;
}

static double along(const double *a, const double *v, uint32_t k)
{
    double sum = 0;

    for (uint32_t i = 0; i < k; i++)
        for (uint32_t j = 0; j < k; j++)
            sum += v[i] * v[j] * a[i * k + j];
    return sum;
}

double risk_certificate_limit(const double e2[B], const double d2[B], double t, double *ret_gamma)
{
    double e = 0, d = 0, z2 = 0, gamma;

    for (int b = 0; b < B; b++) {
        e += e2[b];
        d += d2[b];
    }
    gamma = d > 0 ? e / d : INFINITY;
    if (ret_gamma)
        *ret_gamma = gamma;
    if (!(d > 0))
        return INFINITY;
    for (int b = 0; b < B; b++)
        z2 += (e2[b] - gamma * d2[b]) * (e2[b] - gamma * d2[b]);
    return gamma + t * sqrt(z2 / (B - 1) / B) / (d / B);
}

double risk_certificate_ewma_limit(double error, double residual, double square, double rate,
                                   double z)
{
    return (error + z * sqrt(square * rate / (2 - rate))) / residual;
}

double risk_certificate_bound(double gamma, double gain, double innovation, double r)
{
    double kappa = gamma * gain, z;

    if (!(kappa < 1))
        return INFINITY;
    z = gamma * sqrt(gain) * r * sqrt(innovation);
    z = (z + sqrt(z * z + (1 - kappa) * gamma * innovation)) / (1 - kappa);
    return z * z;
}

double risk_certificate_margin(double kappa, double kappa_l)
{
    return -.5 * log(fmax(kappa, kappa_l));
}

double risk_certificate_interval(double gamma, double gain, double innovation, double max_error)
{
    double q = sqrt(gamma * gain), s = sqrt(gamma * innovation), z;

    if (fabs(q - 1) < 1e-12)
        return sqrt(max_error) / s;
    z = 1 + (q - 1) * sqrt(max_error) / s;
    return z > 0 ? log(z) / log(q) : INFINITY;
}

double risk_certificate_flip_factor(double a, uint32_t group)
{
    double sum = 0, power = 1, inner = 0;

    assert(group);
    for (uint32_t j = 0; j < group; j++) {
        sum += inner;
        inner += power;
        power *= a * a;
    }
    return sum / group;
}

double risk_certificate_chain(double gamma, double innovation, double gain, double reference)
{
    double root = sqrt(gamma) * (sqrt(innovation) + sqrt(gain * reference));

    return root * root;
}

/* traces of all blocks, each sample's mean; and the sums of covariances over all blocks */
static void totals(const struct risk_certificate_sums *s, double e2[B], double d2[B], double *all_e,
                   double *all_d)
{
    uint32_t k = s->k;

    memset(all_e, 0, k * k * sizeof(*all_e));
    memset(all_d, 0, k * k * sizeof(*all_d));
    for (int b = 0; b < B; b++) {
        e2[b] = trace(s->error[b], k) / (double)s->n_block;
        d2[b] = trace(s->residual[b], k) / (double)s->n_block;
        for (uint32_t i = 0; i < k * k; i++) {
            all_e[i] += s->error[b][i];
            all_d[i] += s->residual[b][i];
        }
    }
}

/* c = E<A e_t-1, u_t> follows from the energies, in each block */
static void correlate(const struct risk_certificate_sums *s, const double e2[B], const double d2[B],
                      double gain, struct risk_certificate *c)
{
    double scale = sqrt(gain * c->error * c->innovation), sum = 0, square = 0;

    if (!(scale > 0))
        return;
    for (int b = 0; b < B; b++) {
        double r = (d2[b] - gain * e2[b] - s->innovation[b] / (double)s->n_block) / 2 / scale;

        sum += r;
        square += r * r;
    }
    c->r = sum / B;
    c->r_plus = fmax(c->r, 0) + 2 * sqrt(fmax(square - sum * sum / B, 0) / (B - 1) / B);
}

void risk_certificate_make(const struct risk_certificate_sums *sums, double gain, double t,
                           struct risk_certificate *ret_certificate)
{
    double all_e[RISK_MAX_DIM * RISK_MAX_DIM], all_d[RISK_MAX_DIM * RISK_MAX_DIM];
    double worst[RISK_MAX_DIM], e2[B], d2[B], ev[B], dv[B];
    struct risk_certificate c = { .n = sums->n };

    assert(sums->n_block && sums->n == sums->n_block * B);
    totals(sums, e2, d2, all_e, all_d);
    for (int b = 0; b < B; b++) {
        c.error += e2[b] / B;
        c.residual += d2[b] / B;
        c.innovation += sums->innovation[b] / (double)sums->n;
    }
    c.gamma_plus = risk_certificate_limit(e2, d2, t, &c.gamma);
    c.gamma_l = risk_matrix_domination(all_e, all_d, sums->k, worst);
    for (int b = 0; b < B; b++) {
        ev[b] = along(sums->error[b], worst, sums->k);
        dv[b] = along(sums->residual[b], worst, sums->k);
    }
    c.gamma_l_plus = fmax(risk_certificate_limit(ev, dv, t, NULL), c.gamma_l);
    correlate(sums, e2, d2, gain, &c);
    if (gain > 0) { /* not 0 times an infinite contraction */
        c.kappa = c.gamma * gain;
        c.kappa_plus = c.gamma_plus * gain;
        c.kappa_l = c.gamma_l * gain;
        c.kappa_l_plus = c.gamma_l_plus * gain;
    }
    c.bound = risk_certificate_bound(c.gamma_plus, gain, c.innovation, c.r_plus);
    c.margin = risk_certificate_margin(c.kappa_plus, c.kappa_l_plus);
    *ret_certificate = c;
}
