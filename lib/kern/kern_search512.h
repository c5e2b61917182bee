#pragma once

/*
 * The searches for 512-bit registers, with VNNI where the including file is built for it; include
 * immintrin.h before
 *
 * Two coordinates side by side are the operand of one dot product. Unpacking two rows of q within
 * 128-bit lanes gives tokens 0-3, 8-11, … and 4-7, 12-15, …; packing puts them in order again.
 */

#include "lib/kern/kern_body.h"

static inline __m512i load_512(const void *p)
{
    return _mm512_loadu_si512(p);
}

static inline __m512i dot_add(__m512i sum, __m512i a, __m512i b)
{
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

/* 32 tokens of two rows of q */
static inline void load_pairs(const int16_t *q, __m512i ret_pairs[2])
{
    __m512i a = load_512(q), b = load_512(q + KERN_TOKENS);

    ret_pairs[0] = _mm512_unpacklo_epi16(a, b);
    ret_pairs[1] = _mm512_unpackhi_epi16(a, b);
}

/* The low nibbles. */
static inline void store_codes(__m512i low_tokens, __m512i high_tokens, uint8_t *ret_code)
{
    __m512i low = _mm512_set1_epi32(KERN_WORDS - 1);
    __m512i v =
        _mm512_packs_epi32(_mm512_and_si512(low_tokens, low), _mm512_and_si512(high_tokens, low));

    _mm256_storeu_si256((__m256i *)ret_code, _mm512_cvtepi16_epi8(v));
}

/* Words times 16 in pairs, and what ranks them beside their product with q: 15 - w - 128 |c|² */
static inline void set_ranks(const int8_t *book, size_t dsub, int32_t *ret_pair, int32_t *ret_rank)
{
    __m512i tie = _mm512_sub_epi32(
        _mm512_set1_epi32(KERN_WORDS - 1),
        load_512((const int32_t[16]){ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }));
    int32_t square[2 * KERN_WORDS];

    for (size_t i = 0; i < dsub / 2; i++) {
        __m512i words =
            _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(book + 2 * KERN_WORDS * i)));

        _mm512_storeu_si512(ret_pair + KERN_WORDS * i, _mm512_slli_epi16(words, 4));
        _mm512_storeu_si512(square + KERN_WORDS * i, _mm512_madd_epi16(words, words));
    }
    if (dsub == 4)
        for (size_t w = 0; w < KERN_WORDS; w++)
            square[w] = square[2 * w] + square[2 * w + 1];
    _mm512_storeu_si512(ret_rank, _mm512_sub_epi32(tie, _mm512_slli_epi32(load_512(square), 7)));
}

/* The rounding of the conversion is that of quantize(), and MAX takes its second operand for NaN.
 */
static DECL_KERN_QUANTIZE(quantize_512)
{
    __m512 least = _mm512_set1_ps(-KERN_Q_MAX), most = _mm512_set1_ps(KERN_Q_MAX);
    __m512 factors = _mm512_set1_ps(factor);

    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < KERN_TOKENS; t += 16) {
            __m512 u = _mm512_mul_ps(_mm512_loadu_ps(y + i * KERN_TOKENS + t),
                                     _mm512_loadu_ps(inverse_gain + t));

            u = _mm512_max_ps(_mm512_mul_ps(u, factors), least);
            u = _mm512_min_ps(u, most);
            _mm256_storeu_si256((__m256i *)(ret_q + i * KERN_TOKENS + t),
                                _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(u)));
        }
}

KERN_INLINE void search_n(const int16_t *q, size_t dsub, const int8_t *book, uint8_t *ret_code)
{
    int32_t pair[2 * KERN_WORDS], rank[KERN_WORDS];

    set_ranks(book, dsub, pair, rank);
    for (size_t t = 0; t < KERN_TOKENS; t += 64) {
        __m512i pairs[2][4], best[4];

        for (size_t i = 0; i < dsub; i += 2) {
            load_pairs(q + i * KERN_TOKENS + t, pairs[i / 2]);
            load_pairs(q + i * KERN_TOKENS + t + 32, pairs[i / 2] + 2);
        }
        for (int k = 0; k < 4; k++)
            best[k] = _mm512_set1_epi32(INT32_MIN);
#pragma GCC unroll 4
        for (size_t w = 0; w < KERN_WORDS; w++)
            for (int k = 0; k < 4; k++) {
                __m512i score = _mm512_set1_epi32(rank[w]);

                for (size_t i = 0; i < dsub; i += 2)
                    score = dot_add(score, pairs[i / 2][k],
                                    _mm512_set1_epi32(pair[(w * dsub + i) / 2]));
                best[k] = _mm512_max_epi32(best[k], score);
            }
        for (int k = 0; k < 4; k++) /* 15 - word */
            best[k] = _mm512_xor_si512(best[k], _mm512_set1_epi32(KERN_WORDS - 1));
        store_codes(best[0], best[1], ret_code + t);
        store_codes(best[2], best[3], ret_code + t + 32);
    }
}

static DECL_KERN_SEARCH(search_512)
{
    if (dsub == 2)
        search_n(q, 2, book, ret_code);
    else if (dsub == 4)
        search_n(q, 4, book, ret_code);
    else
        search(q, dsub, book, ret_code);
}

/* 16 rows, stride bytes apart, of 16 pairs of bytes: pair w of all rows to ret_column[w]. Four
 * rounds of dealing leave column c of a lane in registers 2 c and 2 c + 1. */
static inline void turn_pairs(const int8_t *rows, size_t stride, __m256i ret_column[16])
{
    __m256i v[16], dealt[16];

    for (size_t i = 0; i < 16; i++)
        v[i] = _mm256_loadu_si256((const __m256i *)(rows + i * stride));
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            dealt[2 * i] = _mm256_unpacklo_epi16(v[i], v[i + 8]);
            dealt[2 * i + 1] = _mm256_unpackhi_epi16(v[i], v[i + 8]);
        }
        memcpy(v, dealt, sizeof(v));
    }
    for (int c = 0; c < 8; c++) {
        ret_column[c] = _mm256_permute2x128_si256(v[2 * c], v[2 * c + 1], 0x20);
        ret_column[8 + c] = _mm256_permute2x128_si256(v[2 * c], v[2 * c + 1], 0x31);
    }
}

/* For one child number, the words of the children of 16 parents are one register, which VPERMD
 * deals to the tokens. |q - 16 c|^2 is |q|^2 less 32 times what the definition has the most of: the
 * least of it is wanted, no two differ by less than 32 unless they are equal, and its low five bits
 * are those of |q|^2. So the child's number, added, breaks ties and is found there again. */
KERN_INLINE void search_child_n(const int16_t *q, size_t dsub, const int8_t *children,
                                const uint8_t *parent, size_t n_tokens, uint8_t *ret_code)
{
    enum { MOST = KERN_TOKENS / 16 };
    __m256i column[2][16];
    __m512i index[MOST], pairs[2][MOST], best[MOST], zero = _mm512_setzero_si512();
    size_t n = n_tokens / 16; /* registers of tokens: as many as fit beside the words */

    for (size_t i = 0; i < dsub; i += 2) /* of 16 words of two pairs: eight to a column */
        turn_pairs(children + 16 * i, KERN_WORDS * dsub, column[i / 2]);
    for (size_t t = 0; t < KERN_TOKENS; t += n_tokens) {
        for (size_t k = 0; k < n; k += 2) {
            __m512i p =
                _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(parent + t + 16 * k)));

            index[k] = _mm512_unpacklo_epi16(p, zero);
            index[k + 1] = _mm512_unpackhi_epi16(p, zero);
            for (size_t i = 0; i < dsub; i += 2)
                load_pairs(q + i * KERN_TOKENS + t + 16 * k, pairs[i / 2] + k);
            best[k] = best[k + 1] = _mm512_set1_epi32(INT32_MAX);
        }
        for (size_t w = 0; w < KERN_WORDS; w++) {
            __m512i number = _mm512_set1_epi32((int32_t)w), word[2];

            for (size_t i = 0; i < dsub; i += 2) {
                size_t at = w * dsub / 2 + i / 2;

                word[i / 2] = _mm512_slli_epi16(_mm512_cvtepi8_epi16(column[at / 16][at % 16]), 4);
            }
#pragma GCC unroll 8
            for (size_t k = 0; k < n; k++) {
                __m512i score = number;

                for (size_t i = 0; i < dsub; i += 2) {
                    __m512i from = _mm512_sub_epi16(
                        pairs[i / 2][k], _mm512_permutexvar_epi32(index[k], word[i / 2]));

                    score = dot_add(score, from, from);
                }
                best[k] = _mm512_min_epi32(best[k], score);
            }
        }
        for (size_t k = 0; k < n; k += 2) {
            for (size_t half = k; half < k + 2; half++)
                for (size_t i = 0; i < dsub; i += 2)
                    best[half] = _mm512_sub_epi32(
                        best[half], _mm512_madd_epi16(pairs[i / 2][half], pairs[i / 2][half]));
            store_codes(best[k], best[k + 1], ret_code + t + 16 * k);
        }
    }
}

static DECL_KERN_SEARCH_CHILD(search_child_512)
{
    if (dsub == 2)
        search_child_n(q, 2, children, parent, KERN_TOKENS, ret_code);
    else if (dsub == 4)
        search_child_n(q, 4, children, parent, KERN_TOKENS / 2, ret_code);
    else
        search_child(q, dsub, children, parent, ret_code);
}
