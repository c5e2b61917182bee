#pragma once

/* Codewords dealt to tables for byte look-ups, in registers of 16 bytes: for all of x86. Include
 * immintrin.h before. */

#include "lib/kern/kern_rows.h"

static inline __m128i load_128(const int8_t *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

/* Of 16 words: coordinate i of word w at byte w of ret_table[i]. */
KERN_INLINE void deal_words(const int8_t *book, size_t dsub, __m128i *ret_table)
{
    if (dsub == 2) {
        __m128i deal = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        __m128i a = _mm_shuffle_epi8(load_128(book), deal);
        __m128i b = _mm_shuffle_epi8(load_128(book + 16), deal);

        ret_table[0] = _mm_unpacklo_epi64(a, b);
        ret_table[1] = _mm_unpackhi_epi64(a, b);
    } else {
        __m128i deal = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        __m128i a = _mm_shuffle_epi8(load_128(book), deal);
        __m128i b = _mm_shuffle_epi8(load_128(book + 16), deal);
        __m128i c = _mm_shuffle_epi8(load_128(book + 32), deal);
        __m128i d = _mm_shuffle_epi8(load_128(book + 48), deal);
        __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d);

        ret_table[0] = _mm_unpacklo_epi64(ab, cd);
        ret_table[1] = _mm_unpackhi_epi64(ab, cd);
        ab = _mm_unpackhi_epi32(a, b);
        cd = _mm_unpackhi_epi32(c, d);
        ret_table[2] = _mm_unpacklo_epi64(ab, cd);
        ret_table[3] = _mm_unpackhi_epi64(ab, cd);
    }
}
