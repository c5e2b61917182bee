#pragma once

/*
 * The inputs of the theory's oracles: the same numbers from the same seeds
 *
 * Matrices are [n][k] and filled in that order. An odd count of normals drops the last sine.
 * Memory is the caller's to free().
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/defs.h"
#include "lib/risk/risk_random.h"

static inline double *oracle_alloc(size_t n)
{
    double *x = calloc(n, sizeof(*x));

    if (!x)
        abort();
    return x;
}

static inline double *oracle_normals(struct risk_random *g, size_t n)
{
    double *x = oracle_alloc(n + 1);

    for (size_t i = 0; i < n; i += 2)
        risk_random_normals(g, &x[i], &x[i + 1]);
    return x;
}

static inline double oracle_laplace(struct risk_random *g)
{
    double u = risk_random_unit(g) - .5;

    return copysign(log(1 - 2 * fabs(u)), u);
}

/* x_0 = w_0, x_t = rho x_t-1 + sqrt(1 - rho²) w_t, in place; a row has `width` numbers */
static inline void oracle_ar1(double *w, size_t n, size_t width, double rho)
{
    for (size_t i = width; i < n * width; i++)
        w[i] = rho * w[i - width] + sqrt(1 - rho * rho) * w[i];
}

/* 16 words in two dimensions: 0, six on a circle, eight on another, 0 */
static inline void oracle_ring16(double scale, double ret_words[32])
{
    memset(ret_words, 0, 32 * sizeof(*ret_words));
    for (int i = 0; i < 14; i++) {
        double radius = i < 6 ? .95 : 1.9, angle = i < 6 ? i * M_PI / 3 : (i - 6) * M_PI / 4;

        ret_words[2 * i + 2] = scale * (radius * cos(angle));
        ret_words[2 * i + 3] = scale * (radius * sin(angle));
    }
}

/* the nearest of 16 words of two numbers: largest <x, c> - |c|²/2, the lowest on ties */
static inline int oracle_near(const double *x, const double words[32])
{
    double best = -INFINITY;
    int label = 0;

    for (int w = 0; w < 16; w++) {
        const double *c = words + 2 * w;
        double score = x[0] * c[0] + x[1] * c[1] - .5 * (c[0] * c[0] + c[1] * c[1]);

        if (score > best) {
            best = score;
            label = w;
        }
    }
    return label;
}

/* a closed loop over x[n][width], word by word of two numbers; token 0 is sent as it is */
struct oracle_loop {
    double *d, *e, *reference; /* [n][width] */
    int *code;                 /* [n][width / 2]; -1: none */
};

static inline struct oracle_loop oracle_dpcm(const double *x, size_t n, size_t width,
                                             const double words[32], double a)
{
    struct oracle_loop l = { oracle_alloc(n * width), oracle_alloc(n * width),
                             oracle_alloc(n * width), calloc(n * width, sizeof(int)) };

    if (!l.code)
        abort();
    memcpy(l.reference, x, width * sizeof(*x));
    for (size_t i = 0; i < width / 2; i++)
        l.code[i] = -1;
    for (size_t i = width; i < n * width; i += 2) {
        const double *before = l.reference + i - width;

        l.d[i] = x[i] - a * before[0];
        l.d[i + 1] = x[i + 1] - a * before[1];
        l.code[i / 2] = oracle_near(l.d + i, words);
        for (size_t j = i; j < i + 2; j++) {
            l.reference[j] = a * l.reference[j - width] + words[2 * l.code[i / 2] + (int)(j - i)];
            l.e[j] = x[j] - l.reference[j];
        }
    }
    return l;
}

static inline void oracle_loop_drop(struct oracle_loop *l)
{
    free(l->d);
    free(l->e);
    free(l->reference);
    free(l->code);
}

/* [n][k] -> coordinate i of sample t at [i * n + t] */
static inline double *oracle_transpose(const double *x, size_t n, size_t k)
{
    double *z = oracle_alloc(n * k);

    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < k; i++)
            z[i * n + t] = x[t * k + i];
    return z;
}

/* Whether x prints as the oracle printed `want`, in a unit of its last digit, and a half */
static inline int oracle_prints(double x, double want, double digit)
{
    return fabs(x - want) <= .51 * digit;
}
