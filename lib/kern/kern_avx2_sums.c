/*
 * AVX2: what a group of tokens adds up to for the meter of its stream
 *
 * Lanes are those of the C definition, four in each register. A token that does not count adds 0,
 * and is multiplied by 1. Loops stay rolled: this runs once a stream and tile, between other
 * things, and fetching code that is unrolled costs more than it saves.
 */

#include <immintrin.h>
#include <string.h>

#include "lib/kern/kern.h"

/* All bits of the lanes whose token is of a kind. */
static inline __m256d lanes_of(const uint8_t *token, int kind)
{
    int32_t four;

    memcpy(&four, token, sizeof(four));
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four)),
                                                  _mm256_set1_epi64x(kind)));
}

static inline __m256d load_4(const float *x)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(x));
}

/* Of two sums at once. */
static inline __m128d halves(__m256d a_low, __m256d a_high, __m256d b_low, __m256d b_high)
{
    __m256d a = _mm256_add_pd(a_low, a_high), b = _mm256_add_pd(b_low, b_high);

    return _mm_hadd_pd(_mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1)),
                       _mm_add_pd(_mm256_castpd256_pd128(b), _mm256_extractf128_pd(b, 1)));
}

static inline double product(__m256d low, __m256d high)
{
    __m256d four = _mm256_mul_pd(low, high);
    __m128d two = _mm_mul_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));

    return _mm_cvtsd_f64(_mm_mul_sd(two, _mm_unpackhi_pd(two, two)));
}

static inline __m256d energies_4(const float *x2, const uint8_t *token, __m256d cap)
{
    return _mm256_andnot_pd(lanes_of(token, KERN_TOKEN_SINK), _mm256_min_pd(load_4(x2), cap));
}

static DECL_KERN_SUM_ENERGIES(sum_energies)
{
    __m256d low = _mm256_setzero_pd(), high = low, caps = _mm256_set1_pd(cap);

#pragma GCC unroll 1
    for (size_t t = 0; t < KERN_GROUP; t += KERN_LANES) {
        low = _mm256_add_pd(low, energies_4(x2 + t, token + t, caps));
        high = _mm256_add_pd(high, energies_4(x2 + t + 4, token + t + 4, caps));
    }
    return _mm_cvtsd_f64(halves(low, high, low, high));
}

struct levels {
    __m256d d2, e2, d2d2, e2d2, e2e2, first;
};

static inline void add_levels(const float *d2, const float *e2, const uint8_t *token, __m256d cap,
                              struct levels *l)
{
    __m256d is_coded = lanes_of(token, KERN_TOKEN_CODED);
    __m128 d_4 = _mm_loadu_ps(d2);
    __m256d d = _mm256_and_pd(_mm256_cvtps_pd(d_4), is_coded);
    __m256d e = _mm256_and_pd(_mm256_min_pd(load_4(e2), cap), is_coded);
    __m256d length = _mm256_cvtps_pd(_mm_sqrt_ps(d_4)); /* fp64 takes three times as long */

    l->d2 = _mm256_add_pd(l->d2, d);
    l->e2 = _mm256_add_pd(l->e2, e);
    l->d2d2 = _mm256_add_pd(l->d2d2, _mm256_mul_pd(d, d));
    l->e2d2 = _mm256_add_pd(l->e2d2, _mm256_mul_pd(e, d));
    l->e2e2 = _mm256_add_pd(l->e2e2, _mm256_mul_pd(e, e));
    l->first = _mm256_add_pd(l->first, _mm256_and_pd(length, is_coded));
}

static inline void sum_levels(const float *d2, const float *e2, const uint8_t *token, double cap,
                              struct kern_sums *ret)
{
    __m256d zero = _mm256_setzero_pd(), caps = _mm256_set1_pd(cap);
    struct levels low = { zero, zero, zero, zero, zero, zero }, high = low;

#pragma GCC unroll 1
    for (size_t t = 0; t < KERN_GROUP; t += KERN_LANES) {
        add_levels(d2 + t, e2 + t, token + t, caps, &low);
        add_levels(d2 + t + 4, e2 + t + 4, token + t + 4, caps, &high);
    }
    _mm_storeu_pd(&ret->d2, halves(low.d2, high.d2, low.e2, high.e2));
    _mm_storeu_pd(&ret->d2d2, halves(low.d2d2, high.d2d2, low.e2d2, high.e2d2));
    _mm_storeu_pd(&ret->e2e2, halves(low.e2e2, high.e2e2, low.first, high.first));
}

struct detectors {
    __m256d excess, payoff;
};

static inline void add_detectors(const float *e2, const uint8_t *token, __m256d per_tolerance,
                                 __m256d clip, __m256d stake, struct detectors *s)
{
    __m256d one = _mm256_set1_pd(1), is_coded = lanes_of(token, KERN_TOKEN_CODED);
    __m256d ratio = _mm256_mul_pd(load_4(e2), per_tolerance);
    __m256d twice = _mm256_min_pd(_mm256_add_pd(ratio, ratio), clip);
    __m256d won = _mm256_mul_pd(stake, _mm256_sub_pd(_mm256_min_pd(ratio, clip), one));
    __m256d excess = _mm256_and_pd(_mm256_sub_pd(twice, _mm256_set1_pd(2)), is_coded);

    s->excess = _mm256_add_pd(s->excess, excess);
    s->payoff = _mm256_mul_pd(s->payoff, _mm256_add_pd(one, _mm256_and_pd(won, is_coded)));
}

static inline void sum_detectors(const float *e2, const uint8_t *token,
                                 const struct kern_meter *meter, struct kern_sums *ret)
{
    __m256d per_tolerance = _mm256_set1_pd(meter->per_tolerance);
    __m256d clip = _mm256_set1_pd(meter->clip), stake = _mm256_set1_pd(meter->stake);
    struct detectors low = { _mm256_setzero_pd(), _mm256_set1_pd(1) }, high = low;

#pragma GCC unroll 1
    for (size_t t = 0; t < KERN_GROUP; t += KERN_LANES) {
        add_detectors(e2 + t, token + t, per_tolerance, clip, stake, &low);
        add_detectors(e2 + t + 4, token + t + 4, per_tolerance, clip, stake, &high);
    }
    ret->excess = _mm_cvtsd_f64(halves(low.excess, high.excess, low.excess, high.excess));
    ret->payoff = product(low.payoff, high.payoff);
}

static DECL_KERN_SUM_TOKENS(sum_tokens)
{
    sum_levels(d2, e2, token, meter->cap, ret_sums);
    sum_detectors(e2, token, meter, ret_sums);
}

void kern_init_avx2_sums(struct kern *k)
{
    k->sum_energies = sum_energies;
    k->sum_tokens = sum_tokens;
}
