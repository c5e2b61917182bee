/*
 * AVX-512 with fp16 arithmetic: panels to fp16 rows, 32 numbers an instruction
 *
 * Scale and gain are rounded to fp16, their products with the word once more each. That is what
 * kern.h allows where nothing feeds on the result, as long as scales and gains are of a size that
 * fp16 has full precision for; others take the way in fp32, and so does a recurrence.
 *
 * Words of a base plane times their scale are prepared as halves: two coordinates of 16 words are
 * one register, which VPERMD looks up for 16 tokens, and sixteen such pairs are transposed into
 * rows. Words of two planes are too many for that, and stay bytes until they are rows.
 */

#include <immintrin.h>

#include "lib/kern/kern_words512.h"

typedef _Float16 half;

/* Those of v, the first 16 of n or fewer, that are not within least and most. */
static inline __mmask16 beyond(const float *v, size_t n, float least, float most)
{
    __mmask16 in = n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff;
    __m512 x = _mm512_maskz_loadu_ps(in, v);

    return _mm512_mask_cmp_ps_mask(in, x, _mm512_set1_ps(least), _CMP_NGE_UQ) |
           _mm512_mask_cmp_ps_mask(in, x, _mm512_set1_ps(most), _CMP_NLE_UQ);
}

static bool fit_scales(const float *scale, size_t n)
{
    __mmask16 bad = 0;

    for (size_t m = 0; m < n; m += 16)
        bad |= beyond(scale + m, n - m, 0x1p-10f, 0x1p3f);
    return !bad;
}

static bool fit_gains(const float *gain)
{
    __mmask16 bad = 0;

    for (size_t t = 0; t < KERN_TOKENS; t += 16)
        bad |= beyond(gain + t, 16, 0x1p-14f, 0x1p15f) &
               _mm512_cmp_ps_mask(_mm512_loadu_ps(gain + t), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return !bad;
}

static bool fit(const struct kern_panel *p)
{
    return !p->leak && fit_gains(p->gain) &&
           (mask_count(&p->predicted) == KERN_TOKENS ||
            fit_scales(p->intra.scale, p->n_subspaces)) &&
           (!mask_count(&p->predicted) || fit_scales(p->delta.scale, p->n_subspaces));
}

static void round_scales(const float *scale, size_t d, half *ret_scale)
{
    for (size_t i = 0; i < d; i++)
        ret_scale[i] = (half)scale[i];
}

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

static inline __m512h gain_of(const struct half_gains *g, size_t t)
{
    return _mm512_castsi512_ph(_mm512_set1_epi32((int)g->twice[t]));
}

/* --- two planes --- */

static void half_row(const int8_t *words, size_t d, const half *scale, __m512h gain, char *row,
                     bool around)
{

    for (size_t i = 0; i < d; i += 32, words += 2 * CHUNK_BYTES) {
        const int8_t *next = d - i < 32 ? words : words + CHUNK_BYTES; /* twice: not stored */
        __m512i word = _mm512_cvtepi8_epi16(_mm256_set_m128i(load_128(next), load_128(words)));
        __m512h y = _mm512_mul_ph(_mm512_cvtepi16_ph(word), _mm512_loadu_ph(scale + i));

        put_halves(_mm512_castph_si512(_mm512_mul_ph(y, gain)), row, i, d, around);
    }
}

static void two_planes(const struct kern_panel *panel, char *rows, ptrdiff_t stride, bool cold)
{
    size_t d = panel->n_subspaces * panel->dsub;
    half scale[2][KERN_MAX_DIM] KERN_ALIGNED = { { 0 } };
    struct half_gains gains;
    struct panel_words w;

    half_gains_set(&gains, panel->gain);
    panel_words_set(&w, LOOK_UP_512, panel, false);
    if (mask_count(&panel->predicted) < KERN_TOKENS)
        round_scales(w.scale[0], d, scale[0]);
    if (mask_count(&panel->predicted))
        round_scales(w.scale[1], d, scale[1]);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        char *row = rows + (ptrdiff_t)t * stride;

        half_row(w.fine + slot_512(t) * KERN_CHUNK, d, scale[kern_mask_has(&panel->predicted, t)],
                 gain_of(&gains, t), row, is_around(row, cold));
    }
}

/* --- base plane --- */

/* Word w of a subspace, coordinates 2 k and 2 k + 1: dword w of its k-th pair. */
struct pair_tables {
    __m512i pair[KERN_MAX_DIM / 2];
};

struct base_plane {
    const struct kern_panel *panel;
    struct pair_tables tables[2]; /* [1] is for predicted tokens, unless all are */
    struct half_gains gains;
    char *rows;
    ptrdiff_t stride;
    bool around;
};

/* Words 32 bytes at a time, times scale. */
static inline __m512i scaled_halves(const int8_t *words, __m512h scale)
{
    __m512i w = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)words));

    return _mm512_castph_si512(_mm512_mul_ph(_mm512_cvtepi16_ph(w), scale));
}

static void pairs_set(struct pair_tables *t, const struct kern_tree *tree, size_t n_subspaces,
                      size_t dsub)
{
    __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);

    for (size_t m = 0; m < n_subspaces; m++) {
        const int8_t *words = tree->base + m * KERN_WORDS * dsub;
        __m512h scale = _mm512_set1_ph((half)tree->scale[m]);
        __m512i first = scaled_halves(words, scale), second;

        if (dsub == 2) {
            t->pair[m] = first;
            continue;
        }
        second = scaled_halves(words + 32, scale);
        t->pair[2 * m] = _mm512_permutex2var_epi32(first, even, second);
        t->pair[2 * m + 1] = _mm512_permutex2var_epi32(first, odd, second);
    }
}

/* 16 registers of 16 dwords: within lanes first, then the lanes. */
KERN_INLINE void turn_dwords(__m512i v[16])
{
    __m512i a[16];

#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
        a[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        a[8 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        a[12 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0x88);
        v[4 + i] = _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0x88);
        v[8 + i] = _mm512_shuffle_i32x4(a[i], a[8 + i], 0xdd);
        v[12 + i] = _mm512_shuffle_i32x4(a[4 + i], a[12 + i], 0xdd);
    }
}

/* Pairs i / 2 … of tokens 16 j … 16 j + 15, one pair a register; VPERMD takes the low four bits of
 * each dword. */
KERN_INLINE void look_up_pairs(const struct base_plane *b, size_t dsub, __mmask16 predicted,
                               size_t j, size_t i, size_t n, __m512i ret_pair[16])
{
    const __m512i *intra = b->tables[0].pair + i / 2, *delta = b->tables[1].pair + i / 2;
    const uint8_t *line = b->panel->base + i / dsub * KERN_LINE;
    __m512i shift = _mm512_set1_epi32(4 * (int)j);

#pragma GCC unroll 16
    for (size_t k = 0; k < n; k++)
        ret_pair[k] = _mm512_permutexvar_epi32(
            _mm512_srlv_epi32(line_512(line + k / (dsub / 2) * KERN_LINE), shift), intra[k]);
    if (!predicted)
        return;
#pragma GCC unroll 16
    for (size_t k = 0; k < n; k++)
        ret_pair[k] = _mm512_mask_permutexvar_epi32(
            ret_pair[k], predicted,
            _mm512_srlv_epi32(line_512(line + k / (dsub / 2) * KERN_LINE), shift), delta[k]);
}

/* Coordinates i … i + 2 n - 1 of these tokens, to their rows; n is 16, or 8 at a row's end. */
KERN_INLINE void base_block(const struct base_plane *b, size_t dsub, __mmask16 predicted, size_t j,
                            size_t i, size_t n)
{
    const uint32_t *gain = b->gains.twice + 16 * j;
    char *row = b->rows + (ptrdiff_t)(16 * j) * b->stride;
    __m512i v[16] = { 0 };

    look_up_pairs(b, dsub, predicted, j, i, n, v);
    turn_dwords(v);
#pragma GCC unroll 16
    for (size_t k = 0; k < 16; k++)
        v[k] = _mm512_castph_si512(_mm512_mul_ph(
            _mm512_castsi512_ph(v[k]), _mm512_castsi512_ph(_mm512_set1_epi32((int)gain[k]))));
    if (b->around)
#pragma GCC unroll 16
        for (size_t k = 0; k < 16; k++, row += b->stride)
            put_halves(v[k], row, i, i + 2 * n, true);
    else
#pragma GCC unroll 16
        for (size_t k = 0; k < 16; k++, row += b->stride)
            put_halves(v[k], row, i, i + 2 * n, false);
}

/* Functions of their own: else the compiler keeps sixteen pointers, in memory. */
static __attribute__((noinline)) void block_2(const struct base_plane *b, __mmask16 predicted,
                                              size_t j, size_t i)
{
    base_block(b, 2, predicted, j, i, 16);
}

static __attribute__((noinline)) void block_4(const struct base_plane *b, __mmask16 predicted,
                                              size_t j, size_t i)
{
    base_block(b, 4, predicted, j, i, 16);
}

static __attribute__((noinline)) void last_block(const struct base_plane *b, __mmask16 predicted,
                                                 size_t j, size_t i)
{
    if (b->panel->dsub == 2)
        base_block(b, 2, predicted, j, i, 8);
    else
        base_block(b, 4, predicted, j, i, 8);
}

static void base_plane(const struct kern_panel *p, char *rows, ptrdiff_t stride, bool cold)
{
    size_t d = p->n_subspaces * p->dsub, n_predicted = mask_count(&p->predicted);
    struct base_plane b;

    b.panel = p;
    b.rows = rows;
    b.stride = stride;
    b.around = is_around(rows, cold) && is_around(rows + stride, cold);
    half_gains_set(&b.gains, p->gain);
    if (n_predicted < KERN_TOKENS)
        pairs_set(&b.tables[0], &p->intra, p->n_subspaces, p->dsub);
    if (n_predicted)
        pairs_set(&b.tables[n_predicted < KERN_TOKENS], &p->delta, p->n_subspaces, p->dsub);
    for (size_t j = 0; j < KERN_TOKENS / 16; j++) {
        __mmask16 some = (__mmask16)(p->predicted.bits[j / 4] >> j % 4 * 16);

        some = n_predicted < KERN_TOKENS ? some : 0;
        for (size_t i = 0; i + 32 <= d; i += 32)
            (p->dsub == 2 ? block_2 : block_4)(&b, some, j, i);
        if (d % 32)
            last_block(&b, some, j, d - 16);
    }
}

static DECL_KERN_DECODE_HALF(decode_half_fp16)
{
    if (!fit(panel))
        decode_half_by(LOOK_UP_512, (struct kern_halves){ scale_half_row, advance_half_row }, panel,
                       ret_rows, stride, cold);
    else if (panel->fine)
        two_planes(panel, ret_rows, stride, cold);
    else
        base_plane(panel, ret_rows, stride, cold);
    if (cold)
        _mm_sfence();
}

void kern_init_fp16(struct kern *k)
{
    k->decode_half = decode_half_fp16;
}
