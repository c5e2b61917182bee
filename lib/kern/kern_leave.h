#pragma once

/* What search_loop leaves behind, transposed by registers of 16 bytes: for all of x86. Include
 * immintrin.h before. Dealing the registers' first and second half alternately transposes. */

#include "lib/kern/kern_loop.h"

/* 8 tokens of 8 numbers of 16 bits */
static inline void turn_8(const int16_t *q, size_t stride, int16_t *ret_q)
{
    __m128i v[8], dealt[8];

    for (size_t t = 0; t < 8; t++)
        v[t] = _mm_loadu_si128((const __m128i *)(q + t * stride));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            dealt[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
            dealt[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
        }
        memcpy(v, dealt, sizeof(dealt));
    }
    for (size_t i = 0; i < 8; i++)
        _mm_storeu_si128((__m128i *)(ret_q + i * KERN_TOKENS), v[i]);
}

/* 16 tokens of n <= 16 bytes */
static inline void turn_16(const uint8_t *code, size_t stride, size_t n, uint8_t *ret_code)
{
    __m128i v[16], dealt[16];

    for (size_t t = 0; t < 16; t++)
        v[t] = _mm_loadu_si128((const __m128i *)(code + t * stride));
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 8; i++) {
            dealt[2 * i] = _mm_unpacklo_epi8(v[i], v[i + 8]);
            dealt[2 * i + 1] = _mm_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, dealt, sizeof(dealt));
    }
    for (size_t m = 0; m < n; m++)
        _mm_storeu_si128((__m128i *)(ret_code + m * KERN_TOKENS), v[m]);
}

static inline void loop_leave_x86(const struct loop_left *left, size_t n_subspaces, size_t dsub,
                                  int16_t *ret_q, uint8_t *ret_code)
{
    for (size_t i = 0; i < n_subspaces * dsub; i += 8)
        for (size_t t = 0; t < KERN_TOKENS; t += 8)
            turn_8(left->q[t] + i, KERN_MAX_DIM, ret_q + i * KERN_TOKENS + t);
    for (size_t m = 0; m < n_subspaces; m += 16)
        for (size_t t = 0; t < KERN_TOKENS; t += 16)
            turn_16(left->code[t] + m, KERN_MAX_SUBSPACES,
                    n_subspaces - m < 16 ? n_subspaces - m : 16, ret_code + m * KERN_TOKENS + t);
}
