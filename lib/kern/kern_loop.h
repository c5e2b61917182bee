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
    const int8_t *words; /* [n_subspaces][16][dsub] */
    int16_t wide[KERN_WORDS][KERN_MAX_DIM] __attribute__((aligned(64))); /* 16 * word */
    int32_t rank[KERN_WORDS][KERN_MAX_SUBSPACES] __attribute__((aligned(64)));
    float scale[KERN_MAX_DIM], factor[KERN_MAX_DIM]; /* factor: 16 / scale */
};

struct loop_left {
    int16_t q[KERN_TOKENS][KERN_MAX_DIM] __attribute__((aligned(64)));
    uint8_t code[KERN_TOKENS][KERN_MAX_SUBSPACES] __attribute__((aligned(64)));
};

struct kern_loop_steps {
    /* nearest of 16 in each subspace, as DECL_KERN_SEARCH() */
    void (*search)(const struct loop_book *book, const int16_t *q, size_t n_subspaces, size_t dsub,
                   uint8_t *ret_code);
    /* ret_q [d][128] and ret_code [n_subspaces][128] */
    void (*leave)(const struct loop_left *left, size_t n_subspaces, size_t dsub, int16_t *ret_q,
                  uint8_t *ret_code);
};

KERN_INLINE void loop_book_set(struct loop_book *b, const struct kern_tree *tree,
                               size_t n_subspaces, size_t dsub)
{
    b->words = tree->base;
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
                             size_t dsub, uint8_t *ret_code)
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

KERN_INLINE void pick_words(const struct loop_book *book, const uint8_t *code, size_t n_subspaces,
                            size_t dsub, int8_t *ret_words)
{
    for (size_t m = 0; m < n_subspaces; m++)
        memcpy(ret_words + m * dsub, book->words + (m * KERN_WORDS + code[m]) * dsub, dsub);
}

KERN_INLINE void search_loop_by(struct kern_loop_steps steps, const struct kern_loop *l,
                                const float *y, int32_t *ret_gain, uint8_t *ret_code,
                                int16_t *ret_q, float *ret_base)
{
    size_t d = l->n_subspaces * l->dsub;
    float leak[KERN_MAX_DIM], residual[KERN_MAX_DIM], from[KERN_MAX_DIM];
    float zero[KERN_MAX_DIM] = { 0 };
    int8_t words[KERN_MAX_DIM];
    struct loop_book books[2];
    struct loop_left left;

    loop_book_set(&books[0], &l->intra, l->n_subspaces, l->dsub);
    if (mask_any(&l->predicted))
        loop_book_set(&books[1], &l->delta, l->n_subspaces, l->dsub);
    spread(l->leak, l->n_subspaces, l->dsub, leak);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int predicted = kern_mask_has(&l->predicted, t), code;
        const struct loop_book *book = &books[predicted];
        const float *r = y + t * d;

        if (predicted) {
            predict_row(leak, t ? ret_base + (t - 1) * d : zero, d, from);
            for (size_t i = 0; i < d; i++)
                residual[i] = r[i] - from[i];
            r = residual;
        }
        ret_gain[t] = kern_gain_code(sum_squares(r, d) / (float)d);
        code = ret_gain[t] < 256 ? ret_gain[t] : 0;
        quantize_row(r, d, l->inverse_gain[code], book->factor, left.q[t]);
        steps.search(book, left.q[t], l->n_subspaces, l->dsub, left.code[t]);
        pick_words(book, left.code[t], l->n_subspaces, l->dsub, words);
        scale_row(words, d, book->scale, l->gain[code], predicted ? from : NULL, ret_base + t * d);
    }
    steps.leave(&left, l->n_subspaces, l->dsub, ret_q, ret_code);
}
