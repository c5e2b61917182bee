#pragma once

/*
 * A temporal stream to fp16 rows; include immintrin.h before
 *
 * What kern_fp16_base.h looks up are rows of eight tokens, in registers. A token's is its own plus
 * leak times the row before, one operation for 32 coordinates; two such chains hide each other's
 * latency. The state is rounded to fp16 with each token: nothing but these rows follows from it.
 * What codes are made from is the state of decode_rows(), in fp32.
 *
 * With two planes, rows of the fine words alone are made first, and what is predicted is added.
 */

#include "lib/kern/kern_fp16_base.h"
#include "lib/kern/kern_fp16_fine.h"

struct half_recurrence {
    struct base_plane base;
    half leak[KERN_MAX_DIM] KERN_ALIGNED, state[KERN_MAX_DIM] KERN_ALIGNED;
    half fine[KERN_TOKENS * KERN_MAX_DIM + BLOCK_DIMS] KERN_ALIGNED; /* [128][d] */
};

/* Which of eight tokens are predicted. */
enum recur_kind { RECUR_SOME, RECUR_ALL_BUT_FIRST, RECUR_ALL };

/* The rows of eight tokens without what is predicted. */
KERN_INLINE void own_rows(const struct half_recurrence *r, const struct base_part *p,
                          enum recur_kind kind, size_t i, size_t n, __m512i ret_row[8])
{
    const struct pair_tables *intra = &r->base.tables[0], *delta = &r->base.tables[1];
    __m512i v[BLOCK_LOOK_UPS] = { 0 }, two[2];

    look_up_pairs(&r->base, p, kind == RECUR_ALL ? delta : intra, kind == RECUR_ALL ? NULL : delta,
                  i, n, v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        deal_two(v, k, two);
        ret_row[k] = two[0];
        ret_row[k + 4] = two[1];
    }
}

/* n pairs of coordinates, those of two whole blocks or of one, from i on. */
KERN_INLINE void advance_part(struct half_recurrence *r, const struct base_part *p,
                              enum recur_kind kind, bool fine, size_t i, size_t n)
{
    size_t n_blocks = n > BLOCK_PAIRS ? 2 : 1;
    ptrdiff_t stride = r->base.stride;
    char *to = r->base.rows + (ptrdiff_t)p->t * stride + 2 * i;
    const half *finer = r->fine + p->t * r->base.d + i;
    __m512h leak[2], state[2];
    __m512i row[2][8];

#pragma GCC unroll 2
    for (size_t k = 0; k < n_blocks; k++) {
        leak[k] = _mm512_load_ph(r->leak + i + k * BLOCK_DIMS);
        state[k] = _mm512_load_ph(r->state + i + k * BLOCK_DIMS);
        own_rows(r, p, kind, i + k * BLOCK_DIMS, n / n_blocks, row[k]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < 8; s++, to += stride, finer += r->base.d) {
        bool is_key = kind == RECUR_ALL_BUT_FIRST && !s;
        __mmask32 adds = kind == RECUR_SOME ? (__mmask32) - (p->tokens >> s & 1) : UINT32_MAX;

#pragma GCC unroll 2
        for (size_t k = 0; k < n_blocks; k++) {
            __m512h own = _mm512_castsi512_ph(row[k][s]), before = state[k], out;

            state[k] = is_key ? own : _mm512_mask3_fmadd_ph(before, leak[k], own, adds);
            out = state[k];
            if (fine)
                out = _mm512_mask3_fmadd_ph(before, leak[k],
                                            _mm512_loadu_ph(finer + k * BLOCK_DIMS), adds);
            put_halves(_mm512_castph_si512(out), to, k * BLOCK_DIMS, 2 * n, r->base.around);
        }
    }
#pragma GCC unroll 2
    for (size_t k = 0; k < n_blocks; k++)
        _mm512_store_ph(r->state + i + k * BLOCK_DIMS, state[k]);
}

/* Functions of their own: in one, the compiler hoists loads until registers spill. */
#define DEFINE_ADVANCE(name, kind, fine) \
    static __attribute__((noinline)) void name(struct half_recurrence *r, \
                                               const struct base_part *p, size_t i) \
    { \
        advance_part(r, p, kind, fine, i, 2 * BLOCK_PAIRS); \
    }

DEFINE_ADVANCE(advance_some, RECUR_SOME, false)
DEFINE_ADVANCE(advance_all_but_first, RECUR_ALL_BUT_FIRST, false)
DEFINE_ADVANCE(advance_all, RECUR_ALL, false)
DEFINE_ADVANCE(advance_fine, RECUR_SOME, true)

static void advance_end(struct half_recurrence *r, const struct base_part *p, bool fine, size_t i)
{
    for (; i < r->base.d; i += BLOCK_DIMS)
        if (r->base.d - i >= BLOCK_DIMS)
            advance_part(r, p, RECUR_SOME, fine, i, BLOCK_PAIRS);
        else
            advance_part(r, p, RECUR_SOME, fine, i, BLOCK_PAIRS / 2);
}

static void half_recurrence_set(struct half_recurrence *r, const struct kern_panel *p, char *rows,
                                ptrdiff_t stride, bool cold)
{
    float leak[KERN_MAX_DIM] KERN_ALIGNED = { 0 };

    base_plane_set(&r->base, p, rows, stride, cold);
    spread(p->leak, p->n_subspaces, p->dsub, leak);
    round_halves(leak, KERN_MAX_DIM, r->leak);
    memset(r->state, 0, sizeof(r->state));
}

static void decode_half_recurrence(const struct kern_panel *p, char *rows, ptrdiff_t stride,
                                   bool cold)
{
    struct half_recurrence r;

    half_recurrence_set(&r, p, rows, stride, cold);
    if (p->fine)
        two_planes(p, (char *)r.fine, (ptrdiff_t)(2 * r.base.d), false);
    for (size_t t = 0; t < KERN_TOKENS; t += 8) {
        struct base_part of = base_part(&r.base, t, &p->predicted);
        size_t i = 0;

        for (; i + 2 * BLOCK_DIMS <= r.base.d; i += 2 * BLOCK_DIMS)
            if (p->fine)
                advance_fine(&r, &of, i);
            else if (of.tokens == 0xff)
                advance_all(&r, &of, i);
            else if (of.tokens == 0xfe)
                advance_all_but_first(&r, &of, i);
            else
                advance_some(&r, &of, i);
        advance_end(&r, &of, p->fine, i);
    }
}
