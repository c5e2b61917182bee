/*
 * One reference of one stream
 *
 * predicted   the base code's error with the residual over that without: η times the ratio of what
 *             water-filling leaves, summed over all subspaces. η is the mean over a few subspaces,
 *             of vectors over their rms, since the forward gain takes the scale out before the code
 *             sees them; the ratio of mean energies goes back in, so that the rule which estimate
 *             to use sees the true ratio.
 * certificate each subspace is a loop of its own, and the worst one counts for κ_L. For the trace
 *             κ the gain is what A does to the errors there are.
 */

#include <assert.h>
#include <math.h>
#include <string.h>

#include "lib/risk/risk_audit.h"
#include "lib/risk/risk_certificate.h"
#include "lib/risk/risk_rwf.h"

enum { B = RISK_CERTIFICATE_BLOCKS };

struct work {
    const struct risk_audit_input *in;
    const float *d; /* in->d, or in->x */
    uint32_t n_subspaces;
    size_t n_sample;           /* tokens that shapes are judged by */
    double *rms_x, *rms_d;     /* [n_tokens] */
    double *x, *dd;            /* [dsub][n_tokens]: one subspace */
    double *shape_x, *shape_d; /* [dsub][n_sample] */
    double *rest;
    double energy_x, energy_d; /* of all */
};

static double square_of(const float *v, uint32_t n)
{
    double sum = 0;

    for (uint32_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    return sum;
}

/* mean square of all numbers */
static double mean_square(const float *v, const struct risk_audit_input *in)
{
    double sum = 0;

    for (size_t t = 0; t < in->n_tokens; t++)
        sum += square_of(v + t * in->head_dim, in->head_dim);
    return sum / (double)in->n_tokens / in->head_dim;
}

static void set_up(struct work *w, const struct risk_audit_input *in,
                   const struct risk_audit_budget *budget, double *scratch)
{
    size_t n = in->n_tokens;

    *w = (struct work){ .in = in, .d = in->d ? in->d : in->x };
    w->n_subspaces = in->head_dim / in->dsub;
    w->n_sample = budget->max_tokens < n ? budget->max_tokens : n;
    w->rms_x = scratch;
    w->rms_d = w->rms_x + n;
    w->x = w->rms_d + n;
    w->dd = w->x + n * in->dsub;
    w->shape_x = w->dd + n * in->dsub;
    w->shape_d = w->shape_x + w->n_sample * in->dsub;
    w->rest = w->shape_d + w->n_sample * in->dsub;
    for (size_t t = 0; t < n; t++) {
        double x2 = square_of(in->x + t * in->head_dim, in->head_dim);
        double d2 = square_of(w->d + t * in->head_dim, in->head_dim);

        w->energy_x += x2;
        w->energy_d += d2;
        w->rms_x[t] = sqrt(x2 / in->head_dim);
        w->rms_d[t] = sqrt(d2 / in->head_dim);
    }
}

static void gather(const struct work *w, uint32_t m)
{
    uint32_t k = w->in->dsub;
    size_t n = w->in->n_tokens;

    for (size_t t = 0; t < n; t++) {
        size_t at = t * w->in->head_dim + (size_t)m * k;

        for (uint32_t i = 0; i < k; i++) {
            w->x[i * n + t] = (double)w->in->x[at + i];
            w->dd[i * n + t] = (double)w->d[at + i];
        }
    }
}

/* distortion of this subspace, with and without the reference; and its domination */
static void energies(const struct work *w, double *rwf_x, double *rwf_d, double *domination)
{
    double mean[RISK_MAX_DIM], values[RISK_MAX_DIM], vectors[RISK_MAX_DIM * RISK_MAX_DIM];
    double of_x[RISK_MAX_DIM * RISK_MAX_DIM], of_d[RISK_MAX_DIM * RISK_MAX_DIM];
    uint32_t k = w->in->dsub;
    double nats = log(w->in->n_words);

    risk_shape_covariance(w->x, w->in->n_tokens, k, mean, of_x);
    risk_shape_covariance(w->dd, w->in->n_tokens, k, mean, of_d);
    *domination = fmax(*domination, risk_matrix_domination(of_d, of_x, k, NULL));
    risk_matrix_eigen(of_x, k, values, vectors);
    *rwf_x += risk_rwf(values, k, nats);
    risk_matrix_eigen(of_d, k, values, vectors);
    *rwf_d += risk_rwf(values, k, nats);
}

static double over(double value, double rms)
{
    return rms > 0 ? value / rms : 0;
}

static void judge_shape(const struct work *w, struct risk_shape_verdict *ret)
{
    size_t n = w->in->n_tokens, n_sample = w->n_sample;
    double scale = w->energy_x > 0 ? sqrt(w->energy_d / w->energy_x) : 1;

    for (uint32_t i = 0; i < w->in->dsub; i++) {
        for (size_t s = 0; s < n_sample; s++) {
            size_t t = s * n / n_sample;

            w->shape_x[i * n_sample + s] = over(w->x[i * n + t], w->rms_x[t]);
            w->shape_d[i * n_sample + s] = scale * over(w->dd[i * n + t], w->rms_d[t]);
        }
    }
    risk_shape_compare(w->shape_x, w->shape_d, n_sample, w->in->dsub, w->in->n_words, w->rest, ret);
}

/* Whether subspace m is one of the n_looked that are spread evenly over all. */
static bool is_looked_at(uint32_t m, uint32_t n_subspaces, uint32_t n_looked)
{
    uint64_t at = (uint64_t)m * n_looked;

    return at / n_subspaces != (at + n_looked) / n_subspaces;
}

/* of the monitor's running means, which are of 64 tokens, for tokens that are apart */
static double rate(const struct risk_audit_input *in)
{
    return 1 - pow(1 - 1. / 64, in->stride ? in->stride : 1);
}

static void moments(const struct work *w, struct risk_audit_entry *entry)
{
    size_t n = w->in->n_tokens;
    double first = 0, second = 0, low = INFINITY, high = 0, step = rate(w->in);

    if (!(w->energy_d > 0))
        return;
    for (size_t t = 0; t < n; t++) {
        first += w->rms_d[t] / (double)n;
        second += w->rms_d[t] * w->rms_d[t] / (double)n;
    }
    entry->moment_ratio = (float)(first / sqrt(second));
    for (size_t t = 0; t < n; t++) {
        first += step * (w->rms_d[t] - first);
        second += step * (w->rms_d[t] * w->rms_d[t] - second);
        if (!(second > 0))
            continue;
        low = fmin(low, first / sqrt(second));
        high = fmax(high, first / sqrt(second));
    }
    entry->moment_low = (float)low;
    entry->moment_high = (float)high;
}

static double highest_error(const struct risk_audit_input *in)
{
    double running = mean_square(in->e, in), high = running, step = rate(in);

    for (size_t t = 0; t < in->n_tokens; t++) {
        double e2 = square_of(in->e + t * in->head_dim, in->head_dim) / in->head_dim;

        running += step * (e2 - running);
        high = fmax(high, running);
    }
    return high;
}

static void predict(const struct work *w, uint32_t max_subspaces, struct risk_audit_entry *entry)
{
    double rwf_x = 0, rwf_d = 0, domination = 0, ln_eta = 0, u = 0;
    uint32_t tier = RISK_SHAPE_UNKNOWN, n_judged = 0;
    uint32_t n_looked = max_subspaces < w->n_subspaces ? max_subspaces : w->n_subspaces;

    if (w->d == w->in->x)
        n_looked = 0; /* η is 1 */
    for (uint32_t m = 0; m < w->n_subspaces; m++) {
        struct risk_shape_verdict v;

        gather(w, m);
        energies(w, &rwf_x, &rwf_d, &domination);
        if (!is_looked_at(m, w->n_subspaces, n_looked))
            continue;
        judge_shape(w, &v);
        if (v.tier == RISK_SHAPE_UNKNOWN)
            continue;
        ln_eta += v.ln_eta;
        u = fmax(u, v.u);
        tier = v.tier > tier ? v.tier : tier;
        n_judged++;
    }
    entry->flags |= RISK_AUDIT_PREDICTED;
    entry->tier = (uint8_t)tier;
    entry->residual_ratio = w->energy_x > 0 ? (float)(w->energy_d / w->energy_x) : 1;
    entry->domination = (float)domination;
    entry->energy = (float)(w->energy_x / (double)w->in->n_tokens / w->in->head_dim);
    moments(w, entry);
    entry->ln_eta = n_judged ? (float)(ln_eta / n_judged) : 0;
    entry->eta_u = n_judged ? (float)u : w->d == w->in->x ? 0 : INFINITY;
    if (rwf_x > 0)
        entry->predicted_bits =
            (float)(-.5 * M_LOG2E * (log(rwf_d / rwf_x) + (double)entry->ln_eta));
}

/* κ_L+: the worst subspace */
static double worst_direction(const struct work *w, struct risk_certificate_sums *sums)
{
    uint32_t k = w->in->dsub, dim = w->in->head_dim;
    double worst = 0;

    for (uint32_t m = 0; w->in->loop_gain && m < w->n_subspaces; m++) {
        struct risk_certificate c;

        risk_certificate_begin(sums, k, w->in->n_tokens);
        for (size_t t = 0; t < w->in->n_tokens; t++) {
            double e[RISK_MAX_DIM], d[RISK_MAX_DIM];

            for (uint32_t i = 0; i < k; i++) {
                e[i] = (double)w->in->e[t * dim + m * k + i];
                d[i] = (double)w->d[t * dim + m * k + i];
            }
            risk_certificate_add(sums, e, d, 0);
        }
        risk_certificate_make(sums, (double)w->in->loop_gain[m], RISK_T7_99, &c);
        worst = fmax(worst, c.kappa_l_plus);
    }
    return worst;
}

/* E|A e|² over E|e|² */
static double effective_gain(const struct work *w)
{
    double plain = 0, fed_back = 0;
    uint32_t k = w->in->dsub;

    for (size_t t = 0; t < w->in->n_tokens; t++) {
        for (uint32_t m = 0; m < w->n_subspaces; m++) {
            double e2 = square_of(w->in->e + t * w->in->head_dim + (size_t)m * k, k);

            plain += e2;
            fed_back += w->in->loop_gain ? e2 * (double)w->in->loop_gain[m] : 0;
        }
    }
    return plain > 0 ? fed_back / plain : 0;
}

static void certify(const struct work *w, struct risk_audit_entry *entry)
{
    struct risk_certificate_sums sums;
    double e2[B] = { 0 }, d2[B] = { 0 }, gain = effective_gain(w), kappa = 0, kappa_l;
    size_t n_block = w->in->n_tokens / B;

    for (size_t t = 0; t < n_block * B; t++) {
        e2[t / n_block] += square_of(w->in->e + t * w->in->head_dim, w->in->head_dim);
        d2[t / n_block] += w->rms_d[t] * w->rms_d[t] * w->in->head_dim;
    }
    if (gain > 0)
        kappa = risk_certificate_limit(e2, d2, RISK_T7_99, NULL) * gain;
    kappa_l = worst_direction(w, &sums);
    entry->flags |= RISK_AUDIT_CERTIFIED;
    entry->loop_gain = (float)gain;
    entry->kappa_plus = (float)kappa;
    entry->kappa_l_plus = (float)kappa_l;
    entry->margin =
        (float)risk_certificate_margin(kappa, w->in->reference == RISK_REFERENCE_TEMPORAL ||
                                                      w->in->reference == RISK_REFERENCE_DELTA
                                                  ? kappa_l
                                                  : 0);
    entry->error_base = (float)mean_square(w->in->e, w->in);
    entry->error_high = (float)highest_error(w->in);
}

void risk_audit_measure(const struct risk_audit_input *input,
                        const struct risk_audit_budget *budget, double *scratch,
                        struct risk_audit_entry *ret_entry)
{
    struct risk_audit_entry entry = { 0 };
    struct work w;

    assert(input->dsub && input->dsub <= RISK_MAX_DIM && input->n_words &&
           input->head_dim % input->dsub == 0 && input->reference < RISK_N_REFERENCES);
    *ret_entry = entry;
    if (input->n_tokens < B || input->n_tokens > UINT32_MAX)
        return;
    set_up(&w, input, budget, scratch);
    entry.n_tokens = (uint32_t)input->n_tokens;
    predict(&w, budget->max_tokens ? budget->max_subspaces : 0, &entry);
    if (input->e)
        certify(&w, &entry);
    if (input->e_fine) {
        entry.flags |= RISK_AUDIT_FINE;
        entry.error_fine = (float)mean_square(input->e_fine, input);
    }
    *ret_entry = entry;
}
