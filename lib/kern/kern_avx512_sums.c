/* AVX-512: what a group of tokens adds up to, with all lanes of the C definition in a register */

#include <immintrin.h>

#include "lib/kern/kern.h"

static inline __mmask8 coded_of(const uint8_t *token)
{
    return (__mmask8)_mm_testn_epi8_mask(_mm_loadu_si64(token), _mm_set1_epi8(-1));
}

static inline __m512d load_8(const float *x)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(x));
}

static inline __m128d quarter(__m512d lanes)
{
    __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(lanes), _mm512_extractf64x4_pd(lanes, 1));

    return _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
}

/* Of two sums at once. */
static inline __m128d halves(__m512d a, __m512d b)
{
    return _mm_hadd_pd(quarter(a), quarter(b));
}

static inline double product(__m512d lanes)
{
    __m256d four = _mm256_mul_pd(_mm512_castpd512_pd256(lanes), _mm512_extractf64x4_pd(lanes, 1));
    __m128d two = _mm_mul_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));

    return _mm_cvtsd_f64(_mm_mul_sd(two, _mm_unpackhi_pd(two, two)));
}

static DECL_KERN_SUM_ENERGIES(sum_energies)
{
    __m512d sum = _mm512_setzero_pd(), caps = _mm512_set1_pd(cap);

#pragma GCC unroll 1
    for (size_t t = 0; t < KERN_GROUP; t += KERN_LANES) {
        __mmask8 counts = (__mmask8)_mm_cmpneq_epi8_mask(_mm_loadu_si64(token + t),
                                                         _mm_set1_epi8(KERN_TOKEN_SINK));

        sum = _mm512_mask_add_pd(sum, counts, sum, _mm512_min_pd(load_8(x2 + t), caps));
    }
    return _mm_cvtsd_f64(halves(sum, sum));
}

static DECL_KERN_SUM_TOKENS(sum_tokens)
{
    __m512d zero = _mm512_setzero_pd(), one = _mm512_set1_pd(1), two = _mm512_set1_pd(2);
    __m512d cap = _mm512_set1_pd(meter->cap), clip = _mm512_set1_pd(meter->clip);
    __m512d per_tolerance = _mm512_set1_pd(meter->per_tolerance);
    __m512d stake = _mm512_set1_pd(meter->stake);
    __m512d d2s = zero, e2s = zero, d2d2 = zero, e2d2 = zero, e2e2 = zero, first = zero;
    __m512d excess = zero, payoff = one;

#pragma GCC unroll 1
    for (size_t t = 0; t < KERN_GROUP; t += KERN_LANES) {
        __mmask8 is_coded = coded_of(token + t);
        __m256 d_8 = _mm256_loadu_ps(d2 + t);
        __m512d d = _mm512_maskz_cvtps_pd(is_coded, d_8), e_8 = load_8(e2 + t);
        __m512d e = _mm512_maskz_min_pd(is_coded, e_8, cap);
        __m512d ratio = _mm512_mul_pd(e_8, per_tolerance);
        __m512d twice = _mm512_min_pd(_mm512_add_pd(ratio, ratio), clip);
        __m512d won = _mm512_mul_pd(stake, _mm512_sub_pd(_mm512_min_pd(ratio, clip), one));
        __m512d length = _mm512_maskz_cvtps_pd(is_coded, _mm256_sqrt_ps(d_8));

        d2s = _mm512_add_pd(d2s, d);
        e2s = _mm512_add_pd(e2s, e);
        d2d2 = _mm512_add_pd(d2d2, _mm512_mul_pd(d, d));
        e2d2 = _mm512_add_pd(e2d2, _mm512_mul_pd(e, d));
        e2e2 = _mm512_add_pd(e2e2, _mm512_mul_pd(e, e));
        first = _mm512_add_pd(first, length);
        excess = _mm512_mask_add_pd(excess, is_coded, excess, _mm512_sub_pd(twice, two));
        payoff = _mm512_mask_mul_pd(payoff, is_coded, payoff, _mm512_add_pd(one, won));
    }
    _mm_storeu_pd(&ret_sums->d2, halves(d2s, e2s));
    _mm_storeu_pd(&ret_sums->d2d2, halves(d2d2, e2d2));
    _mm_storeu_pd(&ret_sums->e2e2, halves(e2e2, first));
    ret_sums->excess = _mm_cvtsd_f64(halves(excess, excess));
    ret_sums->payoff = product(payoff);
}

void kern_init_avx512_sums(struct kern *k)
{
    k->sum_energies = sum_energies;
    k->sum_tokens = sum_tokens;
}
