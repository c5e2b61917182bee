#pragma once

/*
 * The base plane to fp16 rows; include immintrin.h before
 *
 * Words times their scale are prepared as halves: two coordinates of 16 words are one register, a
 * pair. VPERMI2D looks up in two pairs at once, the even dwords of its indices in the one and the
 * odd dwords in the other. That is the first of the four steps that transpose pairs of 8 tokens
 * into rows, and costs next to nothing: codes of eight blocks of tokens are dealt in one shuffle.
 * What is left for each 64 bytes are four shuffles, one of them the look-up.
 *
 * Rows are written one after the other: into L2, that is a seventh faster than column by column.
 */

#include "lib/kern/kern_fp16.h"

enum { BLOCK_DIMS = 32, BLOCK_PAIRS = BLOCK_DIMS / 2, BLOCK_LOOK_UPS = BLOCK_PAIRS / 2 };

/* Word w of a subspace, coordinates 2 k and 2 k + 1: dword w of its k-th pair. */
struct pair_tables {
    __m512i pair[KERN_MAX_DIM / 2];
};

/* Codes of 32 coordinates, for look-ups in pairs 2 k and 2 k + 1: [nibble][part][k]. Byte b of
 * dword l is of token 32 b + 16 nibble + 8 part + l / 2. */
struct block_codes {
    __m512i index[2][2][BLOCK_LOOK_UPS];
};

struct base_plane {
    struct pair_tables tables[2]; /* [1] is for predicted tokens */
    struct block_codes codes[KERN_MAX_DIM / BLOCK_DIMS];
    struct half_gains gains;
    char *rows;
    ptrdiff_t stride;
    size_t d;
    bool around;
};

static inline __m512i scaled_halves(const int8_t *words, half scale)
{
    return times(halves_of_words(words), _mm512_castph_si512(_mm512_set1_ph(scale)));
}

static void pairs_set(struct pair_tables *t, const struct kern_tree *tree, size_t n_subspaces,
                      size_t dsub)
{
    __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    half scale[KERN_MAX_SUBSPACES] KERN_ALIGNED;

    round_halves(tree->scale, n_subspaces, scale);
    for (size_t m = 0; m < n_subspaces; m++) {
        const int8_t *words = tree->base + m * KERN_WORDS * dsub;
        __m512i a = scaled_halves(words, scale[m]), b;

        if (dsub == 2) {
            t->pair[m] = a;
            continue;
        }
        b = scaled_halves(words + 32, scale[m]);
        t->pair[2 * m] = _mm512_permutex2var_epi32(a, even, b);
        t->pair[2 * m + 1] = _mm512_permutex2var_epi32(a, odd, b);
    }
}

/* For eight tokens, two dwords each: those of a in the even ones, those of b in the odd. */
static inline __m512i alternate(__m512i a, __m512i b, bool upper)
{
    __m512i lower_8 = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    __m512i upper_8 =
        _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);

    return _mm512_permutex2var_epi32(a, upper ? upper_8 : lower_8, b);
}

/* From the lines of n pairs. */
KERN_INLINE void codes_set(struct block_codes *c, const uint8_t *line, size_t dsub, size_t n)
{
    __m512i low = _mm512_set1_epi8(15), second = _mm512_set1_epi64(0x1010101000000000);
    size_t step = 4 * KERN_LINE / dsub; /* of two pairs: two lines, or one */

    for (size_t k = 0; k < n / 2; k++, line += step) {
        __m512i a = line_512(line), b = line_512(line + step - KERN_LINE);

#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            __m512i v = alternate(a, b, part), high = _mm512_srli_epi32(v, 4);

            /* (v & low) | second */
            c->index[0][part][k] = _mm512_ternarylogic_epi32(v, low, second, 0xea);
            c->index[1][part][k] = _mm512_ternarylogic_epi32(high, low, second, 0xea);
        }
    }
}

/* Eight tokens, from t on. */
struct base_part {
    size_t t;
    __m512i shift, gain;
    int tokens;          /* bit k: token k of them is predicted */
    __mmask16 predicted; /* by dword */
};

KERN_INLINE struct base_part base_part(const struct base_plane *b, size_t t,
                                       const struct kern_mask *predicted)
{
    __m512i twice = _mm512_load_si512(b->gains.twice + t / 16 * 16);
    int tokens = (int)(predicted->bits[t / 64] >> t % 64 & 0xff);
    __m512i bit = _mm512_setr_epi32(1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64, 128, 128);

    return (struct base_part){
        .t = t,
        .shift = _mm512_set1_epi32(8 * (int)(t / 32)),
        .gain = alternate(twice, twice, t / 8 % 2),
        .tokens = tokens,
        .predicted = _mm512_test_epi32_mask(_mm512_set1_epi32(tokens), bit),
    };
}

/* Coordinates i … i + 2 n - 1: n pairs, two a register and then four; by one tree, or predicted
 * tokens by another. */
KERN_INLINE void look_up_pairs(const struct base_plane *b, const struct base_part *p,
                               const struct pair_tables *one, const struct pair_tables *another,
                               size_t i, size_t n, __m512i ret[BLOCK_LOOK_UPS])
{
    const __m512i *index = b->codes[i / BLOCK_DIMS].index[p->t / 16 % 2][p->t / 8 % 2];
    const __m512i *pair = one->pair + i / 2;

#pragma GCC unroll 8
    for (size_t k = 0; k < n / 2; k++) {
        __m512i at = _mm512_srlv_epi32(index[k], p->shift);
        __m512i v = _mm512_permutex2var_epi32(pair[2 * k], at, pair[2 * k + 1]);

        if (another)
            v = _mm512_mask_mov_epi32(v, p->predicted,
                                      _mm512_permutex2var_epi32(another->pair[i / 2 + 2 * k], at,
                                                                another->pair[i / 2 + 2 * k + 1]));
        ret[k] = times(v, p->gain);
    }
#pragma GCC unroll 4
    for (size_t k = 0; k < n / 2; k += 2) {
        __m512i a = _mm512_unpacklo_epi64(ret[k], ret[k + 1]);

        ret[k + 1] = _mm512_unpackhi_epi64(ret[k], ret[k + 1]);
        ret[k] = a;
    }
}

/* Lanes 0 and 2, or with odd lanes 1 and 3, of a and b in turn. */
static inline __m512i deal_lanes(__m512i a, __m512i b, bool odd)
{
    __m512i which = odd ? _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15)
                        : _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);

    return _mm512_permutex2var_epi64(a, which, b);
}

/* Of eight tokens, rows k and k + 4; k < 4. */
KERN_INLINE void deal_two(const __m512i v[BLOCK_LOOK_UPS], int k, __m512i ret_row[2])
{
    __m512i low = deal_lanes(v[k % 2], v[2 + k % 2], k / 2);
    __m512i high = deal_lanes(v[4 + k % 2], v[6 + k % 2], k / 2);

    ret_row[0] = _mm512_shuffle_i64x2(low, high, 0x44);
    ret_row[1] = _mm512_shuffle_i64x2(low, high, 0xee);
}

/* Coordinates i … i + 2 n - 1. Rows are stored as they come: held back, they cost a twentieth. */
KERN_INLINE void put_block(const struct base_plane *b, const struct base_part *p,
                           const struct pair_tables *one, const struct pair_tables *another,
                           size_t i, size_t n, bool around)
{
    char *to = b->rows + (ptrdiff_t)p->t * b->stride + 2 * i;
    __m512i v[BLOCK_LOOK_UPS] = { 0 }, row[2];

    look_up_pairs(b, p, one, another, i, n, v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++, to += b->stride) {
        deal_two(v, k, row);
        put_halves(row[0], to, 0, 2 * n, around);
        put_halves(row[1], to + 4 * b->stride, 0, 2 * n, around);
    }
}

KERN_INLINE void put_part(const struct base_plane *b, const struct base_part *p,
                          const struct pair_tables *one, const struct pair_tables *another,
                          bool around)
{
    size_t i = 0;

    for (; i + BLOCK_DIMS <= b->d; i += BLOCK_DIMS)
        put_block(b, p, one, another, i, BLOCK_PAIRS, around);
    if (i < b->d)
        put_block(b, p, one, another, i, BLOCK_PAIRS / 2, false);
}

static void base_plane_set(struct base_plane *b, const struct kern_panel *p, char *rows,
                           ptrdiff_t stride, bool cold)
{
    size_t n_predicted = mask_count(&p->predicted);

    b->rows = rows;
    b->stride = stride;
    b->d = p->n_subspaces * p->dsub;
    b->around = are_around(rows, stride, cold);
    if (cold)
        prefetch_lines(p->base, p->n_subspaces);
    half_gains_set(&b->gains, p->gain);
    if (n_predicted < KERN_TOKENS)
        pairs_set(&b->tables[0], &p->intra, p->n_subspaces, p->dsub);
    if (n_predicted)
        pairs_set(&b->tables[1], &p->delta, p->n_subspaces, p->dsub);
    for (size_t i = 0; i < b->d; i += BLOCK_DIMS)
        codes_set(&b->codes[i / BLOCK_DIMS], p->base + i / p->dsub * KERN_LINE, p->dsub,
                  b->d - i < BLOCK_DIMS ? BLOCK_PAIRS / 2 : BLOCK_PAIRS);
}

static void base_plane(const struct kern_panel *p, char *rows, ptrdiff_t stride, bool cold)
{
    struct base_plane b;

    base_plane_set(&b, p, rows, stride, cold);
    for (size_t t = 0; t < KERN_TOKENS; t += 8) {
        struct base_part of = base_part(&b, t, &p->predicted);

        if (of.tokens && of.tokens != 0xff)
            put_part(&b, &of, &b.tables[0], &b.tables[1], b.around);
        else if (b.around)
            put_part(&b, &of, &b.tables[of.tokens != 0], NULL, true);
        else
            put_part(&b, &of, &b.tables[of.tokens != 0], NULL, false);
    }
}
