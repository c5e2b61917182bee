#pragma once

/*
 * The base plane to fp16 rows; include immintrin.h before
 *
 * Words times their scale are prepared as halves: two coordinates of 16 words are one register, a
 * pair. VPERMI2D looks up in two pairs at once, the even dwords of its indices in the one and the
 * odd dwords in the other. That is the first of the four steps that transpose pairs of 16 tokens
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
 * dword l is of block j = 2 b + nibble, and of token_of(j, part, l). */
struct block_codes {
    __m512i index[2][2][BLOCK_LOOK_UPS];
};

KERN_INLINE size_t token_of(size_t j, size_t part, size_t l)
{
    return 16 * j + 4 * (l / 4) + 2 * part + l % 4 / 2;
}

struct base_plane {
    struct pair_tables tables[2]; /* [1] is for predicted tokens, unless all are */
    struct block_codes codes[KERN_MAX_DIM / BLOCK_DIMS];
    struct half_gains gains;
    char *rows;
    ptrdiff_t stride;
    size_t d;
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

/* From the lines of n pairs. */
KERN_INLINE void codes_set(struct block_codes *c, const uint8_t *line, size_t dsub, size_t n)
{
    __m512i low = _mm512_set1_epi8(15), second = _mm512_set1_epi64(0x1010101000000000);

    size_t step = 4 * KERN_LINE / dsub; /* of two pairs: two lines, or one */

    for (size_t k = 0; k < n / 2; k++, line += step) {
        __m512i a = line_512(line), b = line_512(line + step - KERN_LINE);

#pragma GCC unroll 2
        for (int part = 0; part < 2; part++) {
            __m512i v = part ? _mm512_unpackhi_epi32(a, b) : _mm512_unpacklo_epi32(a, b);
            __m512i high = _mm512_srli_epi32(v, 4);

            /* (v & low) | second */
            c->index[0][part][k] = _mm512_ternarylogic_epi32(v, low, second, 0xea);
            c->index[1][part][k] = _mm512_ternarylogic_epi32(high, low, second, 0xea);
        }
    }
}

/* Eight of a block's tokens. */
struct base_part {
    size_t j, part;
    __m512i shift, gain;
    __mmask16 predicted; /* by dword */
};

KERN_INLINE struct base_part base_part(const struct base_plane *b, size_t j, size_t part,
                                       const struct kern_mask *predicted)
{
    __m512i twice = _mm512_load_si512(b->gains.twice + 16 * j);
    int tokens = (int)(predicted->bits[j / 4] >> j % 4 * 16 & 0xffff);
    __m512i bit = _mm512_setr_epi32(0x1, 0x1, 0x2, 0x2, 0x10, 0x10, 0x20, 0x20, 0x100, 0x100, 0x200,
                                    0x200, 0x1000, 0x1000, 0x2000, 0x2000);

    return (struct base_part){
        .j = j,
        .part = part,
        .shift = _mm512_set1_epi32(8 * (int)(j / 2)),
        .gain = part ? _mm512_shuffle_epi32(twice, 0xfa) : _mm512_shuffle_epi32(twice, 0x50),
        .predicted = _mm512_test_epi32_mask(_mm512_set1_epi32(tokens >> 2 * part), bit),
    };
}

/* Coordinates i … i + 2 n - 1 of tokens token_of(): n pairs, two a register and then four. */
KERN_INLINE void look_up_pairs(const struct base_plane *b, const struct base_part *p, bool mixed,
                               size_t i, size_t n, __m512i ret[BLOCK_LOOK_UPS])
{
    const __m512i *index = b->codes[i / BLOCK_DIMS].index[p->j % 2][p->part];
    const __m512i *intra = b->tables[0].pair + i / 2, *delta = b->tables[1].pair + i / 2;

#pragma GCC unroll 8
    for (size_t k = 0; k < n / 2; k++) {
        __m512i at = _mm512_srlv_epi32(index[k], p->shift);
        __m512i v = _mm512_permutex2var_epi32(intra[2 * k], at, intra[2 * k + 1]);

        if (mixed)
            v = _mm512_mask_mov_epi32(
                v, p->predicted, _mm512_permutex2var_epi32(delta[2 * k], at, delta[2 * k + 1]));
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

/* Four registers, each with eight coordinates of four tokens, to those tokens' rows. */
KERN_INLINE void put_four(__m512i v0, __m512i v1, __m512i v2, __m512i v3, char *row,
                          ptrdiff_t stride, bool around)
{
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++, row += 4 * stride) {
        __m512i a = deal_lanes(v0, v1, odd), b = deal_lanes(v2, v3, odd);

        put_halves(_mm512_shuffle_i64x2(a, b, 0x44), row, 0, BLOCK_DIMS, around);
        put_halves(_mm512_shuffle_i64x2(a, b, 0xee), row + 8 * stride, 0, BLOCK_DIMS, around);
    }
}

/* The same with half as many coordinates: a row's end. */
KERN_INLINE void put_two(__m512i v0, __m512i v1, char *row, ptrdiff_t stride)
{
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++, row += 4 * stride) {
        __m512i a = deal_lanes(v0, v1, odd);

        _mm256_storeu_si256((__m256i *)row, _mm512_castsi512_si256(a));
        _mm256_storeu_si256((__m256i *)(row + 8 * stride), _mm512_extracti64x4_epi64(a, 1));
    }
}

KERN_INLINE void put_part(const struct base_plane *b, const struct base_part *p, bool mixed,
                          bool around)
{
    char *row = b->rows + (ptrdiff_t)token_of(p->j, p->part, 0) * b->stride;
    ptrdiff_t stride = b->stride;
    size_t i = 0, d = b->d;
    __m512i v[BLOCK_LOOK_UPS];

    for (; i + BLOCK_DIMS <= d; i += BLOCK_DIMS) {
        look_up_pairs(b, p, mixed, i, BLOCK_PAIRS, v);
        put_four(v[0], v[2], v[4], v[6], row + 2 * i, stride, around);
        put_four(v[1], v[3], v[5], v[7], row + 2 * i + stride, stride, around);
    }
    if (i == d)
        return;
    look_up_pairs(b, p, mixed, i, BLOCK_PAIRS / 2, v);
    put_two(v[0], v[2], row + 2 * i, stride);
    put_two(v[1], v[3], row + 2 * i + stride, stride);
}

static void base_plane(const struct kern_panel *p, char *rows, ptrdiff_t stride, bool cold)
{
    size_t d = p->n_subspaces * p->dsub, n_predicted = mask_count(&p->predicted);
    bool around = is_around(rows, cold) && is_around(rows + stride, cold);
    struct base_plane b;

    b.rows = rows;
    b.stride = stride;
    b.d = d;
    if (cold)
        prefetch_lines(p->base, p->n_subspaces);
    half_gains_set(&b.gains, p->gain);
    if (n_predicted < KERN_TOKENS)
        pairs_set(&b.tables[0], &p->intra, p->n_subspaces, p->dsub);
    if (n_predicted)
        pairs_set(&b.tables[n_predicted < KERN_TOKENS], &p->delta, p->n_subspaces, p->dsub);
    for (size_t i = 0; i < d; i += BLOCK_DIMS)
        codes_set(&b.codes[i / BLOCK_DIMS], p->base + i / p->dsub * KERN_LINE, p->dsub,
                  d - i < BLOCK_DIMS ? BLOCK_PAIRS / 2 : BLOCK_PAIRS);
    for (size_t j = 0; j < KERN_TOKENS / 16; j++)
        for (size_t part = 0; part < 2; part++) {
            struct base_part of = base_part(&b, j, part, &p->predicted);

            if (n_predicted && n_predicted < KERN_TOKENS)
                put_part(&b, &of, true, around);
            else if (around)
                put_part(&b, &of, false, true);
            else
                put_part(&b, &of, false, false);
        }
}
