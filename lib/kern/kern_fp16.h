#pragma once

/* What both planes of kern_fp16.c need; include immintrin.h before. */

#include "lib/kern/kern_recur512.h"

typedef _Float16 half;

/* Each twice: a dword is broadcast by its load, a word is not. */
struct half_gains {
    uint32_t twice[KERN_TOKENS] KERN_ALIGNED;
};

KERN_INLINE void half_gains_set(struct half_gains *g, const float *gain)
{
    for (size_t t = 0; t < KERN_TOKENS; t += 16) {
        __m512i v = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(
            _mm512_loadu_ps(gain + t), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));

        _mm512_store_si512(g->twice + t, _mm512_or_si512(v, _mm512_slli_epi32(v, 16)));
    }
}

static inline __m512i times(__m512i halves, __m512i by)
{
    return _mm512_castph_si512(_mm512_mul_ph(_mm512_castsi512_ph(halves), _mm512_castsi512_ph(by)));
}

/* Of a register, the lanes that n numbers take: all 16 of more. */
static inline __mmask16 lanes_of(size_t n)
{
    return n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff;
}

static inline void round_halves(const float *v, size_t n, half *ret)
{
    for (size_t m = 0; m < n; m += 16) {
        __mmask16 in = lanes_of(n - m);

        _mm256_mask_storeu_epi16(ret + m, in,
                                 _mm512_cvtps_ph(_mm512_maskz_loadu_ps(in, v + m),
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
}

/* 32 words as halves. */
static inline __m512i halves_of_words(const int8_t *words)
{
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)words));

    return _mm512_castph_si512(_mm512_cvtepi16_ph(w));
}

/* A panel's, when they are as cold as the rows: all at once, not chunk by chunk. */
static inline void prefetch_lines(const uint8_t *line, size_t n)
{
    for (size_t m = 0; m < n; m++)
        __builtin_prefetch(line + m * KERN_LINE);
}
