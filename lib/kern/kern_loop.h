#pragma once

/*
 * The closed loop of a temporal stream, in C: its definition
 *
 * Token t is predicted from the reconstruction of t - 1, so tokens are no lanes. Subspaces are: the
 * candidates are tried one after another, each in all subspaces at once, which takes as many
 * operations as with lanes of tokens. An instruction set gives the search of one token and the
 * transposition of what it leaves behind.
 */

#include "lib/kern/kern_rows.h"

/* A tree's parents by candidate, with what ranks them: see set_ranks() of kern_avx2.c. */
struct loop_book {
    int16_t wide[KERN_WORDS][KERN_MAX_DIM] KERN_ALIGNED; /* 16 * word */
    int32_t rank[KERN_WORDS][KERN_MAX_SUBSPACES] KERN_ALIGNED;
    float scale[KERN_MAX_DIM] KERN_ALIGNED;
    float factor[KERN_MAX_DIM] KERN_ALIGNED; /* 16 / scale */
};

struct loop_left {
    int16_t q[KERN_TOKENS][KERN_MAX_DIM] KERN_ALIGNED;
    uint8_t code[KERN_TOKENS][KERN_MAX_SUBSPACES] KERN_ALIGNED;
};

struct kern_loop_steps {
    /* nearest of 16 in each subspace, as DECL_KERN_SEARCH(); ret_wide: 16 * word, a row */
    void (*search)(const struct loop_book *book, const int16_t *q, size_t n_subspaces, size_t dsub,
                   uint8_t *ret_code, int16_t *ret_wide);
    /* ret_q [d][128] and ret_code [n_subspaces][128] */
    void (*leave)(const struct loop_left *left, size_t n_subspaces, size_t dsub, int16_t *ret_q,
                  uint8_t *ret_code);
};

KERN_INLINE void loop_book_set(struct loop_book *b, const struct kern_tree *tree,
                               size_t n_subspaces, size_t dsub)
{
    spread(tree->scale, n_subspaces, dsub, b->scale);
    for (size_t i = 0; i < n_subspaces * dsub; i++)
        b->factor[i] = 16 / b->scale[i];
    for (size_t m = 0; m < n_subspaces; m++)
        for (size_t w = 0; w < KERN_WORDS; w++) {
            const int8_t *word = tree->base + (m * KERN_WORDS + w) * dsub;
            int32_t square = 0;

            for (size_t i = 0; i < dsub; i++) {
                square += word[i] * word[i];
                b->wide[w][m * dsub + i] = (int16_t)(16 * word[i]);
            }
            b->rank[w][m] = (int32_t)(KERN_WORDS - 1 - w) - 128 * square;
        }
}

KERN_INLINE void loop_search(const struct loop_book *book, const int16_t *q, size_t n_subspaces,
                             size_t dsub, uint8_t *ret_code, int16_t *ret_wide)
{
    for (size_t m = 0; m < n_subspaces; m++) {
        int32_t best = INT32_MIN;

        for (size_t w = 0; w < KERN_WORDS; w++) {
            int32_t rank = book->rank[w][m];

            for (size_t i = m * dsub; i < (m + 1) * dsub; i++)
                rank += book->wide[w][i] * q[i];
            best = rank > best ? rank : best;
        }
        ret_code[m] = (uint8_t)(KERN_WORDS - 1 - (best & (KERN_WORDS - 1)));
        memcpy(ret_wide + m * dsub, book->wide[ret_code[m]] + m * dsub, dsub * sizeof(*ret_wide));
    }
}

KERN_INLINE void loop_leave(const struct loop_left *left, size_t n_subspaces, size_t dsub,
                            int16_t *ret_q, uint8_t *ret_code)
{
    for (size_t i = 0; i < n_subspaces * dsub; i++)
        for (size_t t = 0; t < KERN_TOKENS; t++)
            ret_q[i * KERN_TOKENS + t] = left->q[t][i];
    for (size_t m = 0; m < n_subspaces; m++)
        for (size_t t = 0; t < KERN_TOKENS; t++)
            ret_code[m * KERN_TOKENS + t] = left->code[t][m];
}

/* As quantize() of kern_body.h, along a row. */
KERN_INLINE void quantize_row(const float *restrict r, size_t d, float inverse,
                              const float *restrict factor, int16_t *restrict ret_q)
{
    float v[KERN_MAX_DIM];

    for (size_t i = 0; i < d; i++) {
        float u = r[i] * inverse * factor[i];

        u = u > -KERN_Q_MAX ? u : -KERN_Q_MAX; /* NaN too */
        v[i] = u < KERN_Q_MAX ? u : KERN_Q_MAX;
    }
    for (size_t i = 0; i < d; i++)
        ret_q[i] = (int16_t)(int32_t)(f32_bits(v[i] + 0x1.8p23f) - 0x4b400000);
}

KERN_INLINE void scale_wide_row(const int16_t *restrict wide, size_t d, const float *restrict scale,
                                float gain, const float *restrict from, float *restrict ret)
{
    for (size_t i = 0; i < d; i++)
        ret[i] = (float)(wide[i] >> 4) * (scale[i] * gain);
    if (from)
        for (size_t i = 0; i < d; i++)
            ret[i] += from[i];
}

/* y less what is predicted, to ret_residual; false if y itself is to be coded. ret_square: of what
 * is coded */
KERN_INLINE bool pays(const struct kern_loop *l, const float *y, const float *from, size_t d,
                      float *ret_residual, float *ret_square)
{
    float own = sum_squares(y, d);

    for (size_t i = 0; i < d; i++)
        ret_residual[i] = y[i] - from[i];
    *ret_square = sum_squares(ret_residual, d);
    if (l->strict || *ret_square <= own)
        return true;
    *ret_square = own;
    return false;
}

/* dsub is l->dsub, for the compiler to know. */
KERN_INLINE void search_loop_by(struct kern_loop_steps steps, const struct kern_loop *l,
                                size_t dsub, const float *y, struct kern_mask *ret_predicted,
                                int32_t *ret_gain, uint8_t *ret_code, int16_t *ret_q,
                                float *ret_base)
{
    size_t d = l->n_subspaces * dsub;
    float leak[KERN_MAX_DIM] KERN_ALIGNED, residual[KERN_MAX_DIM] KERN_ALIGNED;
    float from[KERN_MAX_DIM] KERN_ALIGNED, zero[KERN_MAX_DIM] = { 0 };
    int16_t wide[KERN_MAX_DIM] KERN_ALIGNED;
    struct kern_mask mask = { { 0 } };
    struct loop_book books[2];
    struct loop_left left;

    loop_book_set(&books[0], &l->intra, l->n_subspaces, dsub);
    if (mask_count(&l->may_predict))
        loop_book_set(&books[1], &l->delta, l->n_subspaces, dsub);
    spread(l->leak, l->n_subspaces, dsub, leak);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        bool predicted = kern_mask_has(&l->may_predict, t);
        const float *r = y + t * d;
        float square;
        int code;

        if (predicted) {
            predict_row(leak, t ? ret_base + (t - 1) * d : zero, d, from);
            predicted = pays(l, r, from, d, residual, &square);
        } else {
            square = sum_squares(r, d);
        }
        r = predicted ? residual : r;
        mask.bits[t / 64] |= (uint64_t)predicted << t % 64;
        ret_gain[t] = kern_gain_code(square / (float)d);
        code = ret_gain[t] < 256 ? ret_gain[t] : 0;
        quantize_row(r, d, l->inverse_gain[code], books[predicted].factor, left.q[t]);
        steps.search(&books[predicted], left.q[t], l->n_subspaces, dsub, left.code[t], wide);
        scale_wide_row(wide, d, books[predicted].scale, l->gain[code], predicted ? from : NULL,
                       ret_base + t * d);
    }
    steps.leave(&left, l->n_subspaces, dsub, ret_q, ret_code);
    *ret_predicted = mask;
}
