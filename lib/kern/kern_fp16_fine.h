#pragma once

/*
 * Two planes to fp16 rows; include immintrin.h before
 *
 * 256 words are too many for VPERMI2D: they are looked up as bytes, one coordinate at a time, and
 * transposed as bytes, half of what they become. VPERMB four times under masks takes half as long
 * as VPERMI2B twice. Sixteen coordinates come together, eight each from two places of the row, in
 * the even and the odd bytes: so VPMADDUBSW widens them where they are.
 *
 * Shuffles have one port of two. What can be done without (tables, widening) is.
 */

#include "lib/kern/kern_fp16.h"

enum { FINE_DIMS = 64, FINE_CHUNKS = FINE_DIMS / KERN_CHUNK, FINE_BOOK = KERN_WORDS * KERN_WORDS };

/* The lower bits of a, and the lower bits of b above them; the upper bits of both likewise. */
KERN_INLINE void deal_bits(__m512i *a, __m512i *b, int n)
{
    __m512i low = n == 8 ? _mm512_set1_epi16(0xff) : _mm512_set1_epi32(0xffff);
    __m512i up = n == 8 ? _mm512_slli_epi16(*b, 8) : _mm512_slli_epi32(*b, 16);
    __m512i down = n == 8 ? _mm512_srli_epi16(*a, 8) : _mm512_srli_epi32(*a, 16);
    __m512i lower = _mm512_ternarylogic_epi32(low, *a, up, 0xca); /* low ? a : up */

    *b = _mm512_ternarylogic_epi32(low, down, *b, 0xca);
    *a = lower;
}

/*
 * The words of one subspace by coordinate, [dsub][256], without a shuffle: those of 2 or 4 parents
 * that are 8 or 4 apart take turns. Word 16 parent + child of a coordinate is at the byte whose
 * number is these eight bits turned left by log2(dsub).
 */
KERN_INLINE void planes_set(const int8_t *book, size_t dsub, int8_t *ret_planes)
{
#pragma GCC unroll 4
    for (size_t q = 0; q < 4; q++, book += 64, ret_planes += 64) {
        __m512i v[4];

#pragma GCC unroll 4
        for (size_t k = 0; k < dsub; k++)
            v[k] = _mm512_loadu_si512(book + 256 * k);
        deal_bits(&v[0], &v[1], 8);
        if (dsub == 4) {
            deal_bits(&v[2], &v[3], 8);
            deal_bits(&v[0], &v[2], 16);
            deal_bits(&v[1], &v[3], 16);
        }
#pragma GCC unroll 4
        for (size_t k = 0; k < dsub; k++)
            _mm512_store_si512(ret_planes + k * FINE_BOOK, v[k]);
    }
}

/* Indices of 64 words in planes; the masks have their two upper bits. */
struct fine_index {
    __m512i low;
    __mmask64 odd, upper, last; /* quarters 1 and 3, 2 and 3, 3 */
};

KERN_INLINE struct fine_index fine_index(__m512i parent, __m512i child, int nibble, size_t dsub)
{
    __m512i low = _mm512_set1_epi8(15), v;
    struct fine_index x;

    if (nibble)
        child = _mm512_srli_epi16(child, 4);
    else
        parent = _mm512_slli_epi16(parent, 4);
    v = _mm512_ternarylogic_epi32(low, child, parent, 0xca);
    if (dsub == 2)
        v = _mm512_ternarylogic_epi32(_mm512_set1_epi8(1), _mm512_srli_epi16(v, 7),
                                      _mm512_slli_epi16(v, 1), 0xca);
    else
        v = _mm512_ternarylogic_epi32(_mm512_set1_epi8(3), _mm512_srli_epi16(v, 6),
                                      _mm512_slli_epi16(v, 2), 0xca);
    x.low = v;
    x.odd = _mm512_test_epi8_mask(v, _mm512_set1_epi8(0x40));
    x.upper = _mm512_movepi8_mask(v);
    x.last = _kand_mask64(x.odd, x.upper);
    return x;
}

KERN_INLINE __m512i pick_fine(const int8_t *plane, const struct fine_index *x)
{
    __m512i v = _mm512_permutexvar_epi8(x->low, _mm512_load_si512(plane));

    v = _mm512_mask_permutexvar_epi8(v, x->odd, x->low, _mm512_load_si512(plane + 64));
    v = _mm512_mask_permutexvar_epi8(v, x->upper, x->low, _mm512_load_si512(plane + 128));
    return _mm512_mask_permutexvar_epi8(v, x->last, x->low, _mm512_load_si512(plane + 192));
}

/* Lane k of v[i] becomes lane i of v[k]. */
KERN_INLINE void turn_lanes(__m512i v[4])
{
    __m512i a = _mm512_shuffle_i32x4(v[0], v[1], 0x44), b = _mm512_shuffle_i32x4(v[2], v[3], 0x44);
    __m512i c = _mm512_shuffle_i32x4(v[0], v[1], 0xee), d = _mm512_shuffle_i32x4(v[2], v[3], 0xee);

    v[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    v[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    v[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    v[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
}

struct fine_plane {
    const struct kern_panel *panel;
    struct kern_tree tree;
    half scale[KERN_MAX_DIM] KERN_ALIGNED;
    half gain[KERN_TOKENS] KERN_ALIGNED;
    int8_t words[FINE_DIMS * KERN_TOKENS] KERN_ALIGNED; /* in chunks, by slot_512() */
    char *rows;
    ptrdiff_t stride;
};

/* Coordinates even … even + 7 and odd … odd + 7 of all tokens, in turn. */
KERN_INLINE void fine_chunk(const struct kern_panel *p, const int8_t *fine, size_t dsub,
                            size_t even, size_t odd, int8_t *ret_words)
{
    int8_t planes[KERN_CHUNK * FINE_BOOK] KERN_ALIGNED;

#pragma GCC unroll 8
    for (size_t i = 0; i < KERN_CHUNK; i += dsub)
        planes_set(fine + (i < 8 ? even + i : odd + i - 8) * FINE_BOOK, dsub,
                   planes + i * FINE_BOOK);
#pragma GCC unroll 2
    for (int nibble = 0; nibble < 2; nibble++) {
        __m512i v[KERN_CHUNK];

#pragma GCC unroll 8
        for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
            size_t line = (i < 8 ? even + i : odd + i - 8) / dsub * KERN_LINE;
            struct fine_index x =
                fine_index(line_512(p->base + line), line_512(p->fine + line), nibble, dsub);

#pragma GCC unroll 4
            for (size_t k = i; k < i + dsub; k++)
                v[k < 8 ? 2 * k : 2 * (k - 8) + 1] = pick_fine(planes + k * FINE_BOOK, &x);
        }
        store_chunks(v, nibble, ret_words);
    }
}

/* Functions of their own, for each length of a word. */
static __attribute__((noinline)) void fine_chunk_2(const struct kern_panel *p, const int8_t *fine,
                                                   size_t even, size_t odd, int8_t *ret_words)
{
    fine_chunk(p, fine, 2, even, odd, ret_words);
}

static __attribute__((noinline)) void fine_chunk_4(const struct kern_panel *p, const int8_t *fine,
                                                   size_t even, size_t odd, int8_t *ret_words)
{
    fine_chunk(p, fine, 4, even, odd, ret_words);
}

/* n coordinates from first on, 64 or those that are left. */
static void look_up_fine(struct fine_plane *f, size_t first, size_t n)
{
    size_t step = n == FINE_DIMS ? 8 : KERN_CHUNK, apart = n == FINE_DIMS ? FINE_DIMS / 2 : 8;

    for (size_t c = 0; c < n / KERN_CHUNK; c++, first += step)
        (f->panel->dsub == 2 ? fine_chunk_2 : fine_chunk_4)(
            f->panel, f->tree.fine, first, first + apart, f->words + CHUNK_BYTES * c);
}

/* The even bytes, or the odd, as halves. */
static inline __m512i widened(__m512i words, bool odd)
{
    __m512i which = _mm512_set1_epi16(odd ? 0x100 : 1);

    return _mm512_castph_si512(_mm512_cvtepi16_ph(_mm512_maddubs_epi16(which, words)));
}

static inline __m512i gain_of(const struct fine_plane *f, size_t t)
{
    return _mm512_castph_si512(_mm512_set1_ph(f->gain[t]));
}

/* 64 coordinates of all tokens. A slot and lane have token 32 b + 16 nibble + 4 lane + l, in the
 * order of [nibble][l][b][lane]. */
KERN_INLINE void fine_rows(const struct fine_plane *f, size_t first, bool around)
{
    __m512i lower = _mm512_load_si512(f->scale + first);
    __m512i upper = _mm512_load_si512(f->scale + first + 32);
    ptrdiff_t stride = f->stride;

    for (size_t slot = 0; slot < KERN_TOKENS; slot += 4) {
        size_t t = slot / 4 % 4 * 32 + slot / 64 * 16 + slot / 16 % 4;
        char *row = f->rows + 2 * first + (ptrdiff_t)t * stride;
        __m512i words[FINE_CHUNKS];

#pragma GCC unroll 4
        for (size_t c = 0; c < FINE_CHUNKS; c++)
            words[c] = _mm512_load_si512(f->words + c * CHUNK_BYTES + slot * KERN_CHUNK);
        turn_lanes(words);
#pragma GCC unroll 4
        for (size_t lane = 0; lane < 4; lane++, row += 4 * stride) {
            __m512i gain = gain_of(f, t + 4 * lane);
            __m512i a = times(widened(words[lane], false), lower);
            __m512i b = times(widened(words[lane], true), upper);

            put_halves(times(a, gain), row, 0, FINE_DIMS, around);
            put_halves(times(b, gain), row, 32, FINE_DIMS, around);
        }
    }
}

/* A row's end, n coordinates less than 64: chunk by chunk. */
static void last_fine_rows(const struct fine_plane *f, size_t first, size_t n)
{
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        char *row = f->rows + 2 * first + (ptrdiff_t)t * f->stride;
        const int8_t *words = f->words + slot_512(t) * KERN_CHUNK;

        for (size_t i = 0; i < n; i += KERN_CHUNK, words += CHUNK_BYTES) {
            __m512i both = _mm512_castsi128_si512(load_128(words)), v = widened(both, true);

            v = _mm512_inserti32x4(widened(both, false), _mm512_castsi512_si128(v), 1);
            v = times(v, _mm512_loadu_si512(f->scale + first + i));
            put_halves(times(v, gain_of(f, t)), row, i, i + KERN_CHUNK, false);
        }
    }
}

static void fine_tree_set(struct fine_plane *f, const struct kern_tree *tree)
{
    float scale[KERN_MAX_DIM] KERN_ALIGNED;

    f->tree = *tree;
    spread(tree->scale, f->panel->n_subspaces, f->panel->dsub, scale);
    round_halves(scale, f->panel->n_subspaces * f->panel->dsub, f->scale);
}

KERN_INLINE void row_words(const struct kern_panel *p, const int8_t *fine, size_t dsub, size_t t,
                           int8_t *ret_words)
{
    const uint8_t *parent = p->base, *child = p->fine;

    for (size_t m = 0; m < p->n_subspaces; m++, fine += FINE_BOOK * dsub) {
        size_t code = line_code(parent, t) * KERN_WORDS + line_code(child, t);

        memcpy(ret_words + m * dsub, fine + code * dsub, dsub);
        parent += KERN_LINE;
        child += KERN_LINE;
    }
}

/* The tokens that take f's tree where most take the other: one by one. */
static void fine_rows_alone(const struct fine_plane *f, bool predicted)
{
    const struct kern_panel *p = f->panel;
    size_t d = p->n_subspaces * p->dsub;
    int8_t words[KERN_MAX_DIM] = { 0 };

    for (size_t t = 0; t < KERN_TOKENS; t++) {
        char *row = f->rows + (ptrdiff_t)t * f->stride;

        if (kern_mask_has(&p->predicted, t) != predicted)
            continue;
        if (p->dsub == 2)
            row_words(p, f->tree.fine, 2, t, words);
        else
            row_words(p, f->tree.fine, 4, t, words);
        for (size_t i = 0; i < d; i += 32) {
            __m512i v = times(halves_of_words(words + i), _mm512_load_si512(f->scale + i));

            put_halves(times(v, gain_of(f, t)), row, i, d, false);
        }
    }
}

static void two_planes(const struct kern_panel *p, char *rows, ptrdiff_t stride, bool cold)
{
    size_t d = p->n_subspaces * p->dsub, n_predicted = mask_count(&p->predicted);
    bool around = are_around(rows, stride, cold);
    bool most = n_predicted > KERN_TOKENS / 2;
    struct fine_plane f;

    f.panel = p;
    f.rows = rows;
    f.stride = stride;
    if (cold) {
        prefetch_lines(p->base, p->n_subspaces);
        prefetch_lines(p->fine, p->n_subspaces);
    }
    round_halves(p->gain, KERN_TOKENS, f.gain);
    fine_tree_set(&f, most ? &p->delta : &p->intra);
    for (size_t i = 0; i < d; i += FINE_DIMS) {
        size_t n = d - i < FINE_DIMS ? d - i : FINE_DIMS;

        look_up_fine(&f, i, n);
        if (n < FINE_DIMS)
            last_fine_rows(&f, i, n);
        else if (around)
            fine_rows(&f, i, true);
        else
            fine_rows(&f, i, false);
    }
    if (!n_predicted || n_predicted == KERN_TOKENS)
        return;
    fine_tree_set(&f, most ? &p->intra : &p->delta);
    fine_rows_alone(&f, !most);
}
