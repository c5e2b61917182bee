/* AVX-512 with VNNI and VBMI: dot products in one instruction, and tables of 256 bytes. */

#include <immintrin.h>

#include "lib/kern/kern_leave.h"
#include "lib/kern/kern_recur512.h"
#include "lib/kern/kern_search512.h"

static void loop_search_512(const struct loop_book *book, const int16_t *q, size_t n_subspaces,
                            size_t dsub, uint8_t *ret_code, int16_t *ret_wide)
{
    if (dsub != 2) {
        loop_search(book, q, n_subspaces, dsub, ret_code, ret_wide);
        return;
    }
    for (size_t m = 0; m < n_subspaces; m += 16) {
        __mmask16 in = n_subspaces - m < 16 ? 0xff : 0xffff; /* a multiple of 8 */
        __m512i pairs = load_512(q + 2 * m), best = _mm512_set1_epi32(INT32_MIN), word = best;

#pragma GCC unroll 16
        for (size_t w = 0; w < KERN_WORDS; w++) {
            __m512i wide = load_512(book->wide[w] + 2 * m);
            __m512i rank = dot_add(load_512(book->rank[w] + m), pairs, wide);

            word = _mm512_mask_mov_epi32(word, _mm512_cmpgt_epi32_mask(rank, best), wide);
            best = _mm512_max_epi32(best, rank);
        }
        best = _mm512_andnot_si512(best, _mm512_set1_epi32(KERN_WORDS - 1));
        _mm512_mask_cvtepi32_storeu_epi8(ret_code + m, in, best);
        _mm512_mask_storeu_epi32(ret_wide + 2 * m, in, word);
    }
}

/* Codes of 64 tokens, one a byte: coordinate of their words. */
KERN_INLINE void decode_64(__m512i word, const float *factor, float *ret_y)
{
    __m128i part[4] = { _mm512_castsi512_si128(word), _mm512_extracti32x4_epi32(word, 1),
                        _mm512_extracti32x4_epi32(word, 2), _mm512_extracti32x4_epi32(word, 3) };

#pragma GCC unroll 4
    for (size_t k = 0; k < 4; k++) {
        __m512 y = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(part[k]));

        _mm512_storeu_ps(ret_y + 16 * k, _mm512_mul_ps(y, _mm512_loadu_ps(factor + 16 * k)));
    }
}

KERN_INLINE void decode_n(const uint8_t *code, size_t dsub, const int8_t *book, size_t n_words,
                          float scale, const float *gain, float *ret_y)
{
    float factor[KERN_TOKENS] KERN_ALIGNED;
    __m512i table[4], index[2] = { line_512(code), line_512(code + 64) };

    for (size_t t = 0; t < KERN_TOKENS; t += 16)
        _mm512_store_ps(factor + t,
                        _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(gain + t)));
    if (n_words == KERN_WORDS)
        load_tables(book, dsub, table);
    for (size_t i = 0; i < dsub; i++) {
        __m512i plane[4];

        for (size_t j = 0; j < 4 && n_words > KERN_WORDS; j++)
            plane[j] = plane_part(book, dsub, i, j);
        for (size_t k = 0; k < 2; k++)
            decode_64(n_words == KERN_WORDS ? _mm512_shuffle_epi8(table[i], index[k])
                                            : pick_256(plane, index[k]),
                      factor + 64 * k, ret_y + i * KERN_TOKENS + 64 * k);
    }
}

static DECL_KERN_DECODE(decode_512)
{
    if (dsub == 2 && n_words == KERN_WORDS)
        decode_n(code, 2, book, KERN_WORDS, scale, gain, ret_y);
    else if (dsub == 4 && n_words == KERN_WORDS)
        decode_n(code, 4, book, KERN_WORDS, scale, gain, ret_y);
    else if (dsub == 2 && n_words == KERN_WORDS * KERN_WORDS)
        decode_n(code, 2, book, KERN_WORDS * KERN_WORDS, scale, gain, ret_y);
    else if (dsub == 4 && n_words == KERN_WORDS * KERN_WORDS)
        decode_n(code, 4, book, KERN_WORDS * KERN_WORDS, scale, gain, ret_y);
    else
        decode(code, dsub, book, n_words, scale, gain, ret_y);
}

static DECL_KERN_DECODE_ROWS(decode_rows_512)
{
    decode_rows_by(LOOK_UP_512, panel, ret_base, ret_fine);
}

static DECL_KERN_SEARCH_LOOP(search_loop_512)
{
    const struct kern_loop_steps steps = { loop_search_512, loop_leave_x86 };

    if (loop->dsub == 2)
        search_loop_by(steps, loop, 2, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
    else
        search_loop_by(steps, loop, 4, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
}

void kern_init_vnni(struct kern *k)
{
    k->quantize = quantize_512;
    k->search = search_512;
    k->search_child = search_child_512;
    k->decode = decode_512;
    k->decode_rows = decode_rows_512;
    k->decode_half = decode_half_by_words;
    k->search_loop = search_loop_512;
}
