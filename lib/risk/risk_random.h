#pragma once

/*
 * Random numbers of which every estimate is a fixed function: splitmix64, Box-Muller,
 * Marsaglia-Tsang
 *
 * The corrected kNN estimate subtracts the bias that the plain one has on a synthetic sample. With
 * this generator that sample, hence the estimate, is the same on every machine (to the last digits
 * of libm). Not for secrets.
 */

#include <math.h>
#include <stdint.h>

struct risk_random {
    uint64_t s; /* the seed, at first */
};

static inline uint64_t risk_random_next(struct risk_random *r)
{
    uint64_t z = (r->s += 0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* uniform in [0, 1) */
static inline double risk_random_unit(struct risk_random *r)
{
    return (double)(risk_random_next(r) >> 11) * 0x1p-53;
}

/* two independent N(0, 1) */
static inline void risk_random_normals(struct risk_random *r, double *ret_a, double *ret_b)
{
    double radius = sqrt(-2 * log(1 - risk_random_unit(r)));
    double angle = 2 * M_PI * risk_random_unit(r);

    *ret_a = radius * cos(angle);
    *ret_b = radius * sin(angle);
}

/* Gamma(shape, 1) for shape >= 1; each try takes a pair of normals, of which one is used. */
static inline double risk_random_gamma_above_1(struct risk_random *r, double shape)
{
    double d = shape - 1. / 3, c = 1 / sqrt(9 * d);

    for (;;) {
        double x, unused, u, v;

        risk_random_normals(r, &x, &unused);
        u = risk_random_unit(r);
        v = (1 + c * x) * (1 + c * x) * (1 + c * x);
        if (v > 0 && log(1 - u) < .5 * x * x + d - d * v + d * log(v))
            return d * v;
    }
}

/* Gamma(shape, 1), shape > 0 */
static inline double risk_random_gamma(struct risk_random *r, double shape)
{
    double g;

    if (shape >= 1)
        return risk_random_gamma_above_1(r, shape);
    g = risk_random_gamma_above_1(r, shape + 1);
    return g * pow(risk_random_unit(r), 1 / shape);
}
