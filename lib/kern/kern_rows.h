#pragma once

/*
 * The kernels that work on rows, in C: their definition
 *
 * A panel goes two ways round its slow part. Codes are looked up and turned to token-major order
 * while they are bytes (kern->words), a quarter of what they become; from there on the lanes are
 * the dimensions of one token, so that gains are one number a row and a recurrence in time runs
 * along memory. Only look-ups, half floats and the transpositions need hands: each instruction set
 * gives its own as arguments, and the rest is compiled anew.
 */

#include <string.h>

#include "lib/base/half.h"
#include "lib/kern/kern.h"

#define KERN_INLINE static inline __attribute__((always_inline))

/* A mean square of 2^e * (1 + m/2^23) has the code 4 e + 161 plus the number of the mantissas of
 * 2^(1/8), 2^(3/8), 2^(5/8), 2^(7/8) that m reaches. No logarithm, and the same on every machine.
 * 0 at least, 256 at most: a NaN's mantissa is not ours to choose.
 */
KERN_INLINE int32_t kern_gain_code(float mean_square)
{
    uint32_t bits = f32_bits(mean_square);
    int32_t m = (int32_t)(bits & 0x7fffff), e = (int32_t)(bits >> 23 & 255) - 127;
    int32_t code =
        4 * e + 161 + (m >= 0x0b95c3) + (m >= 0x25fed7) + (m >= 0x45672c) + (m >= 0x6ac0c8);

    code = code < 0 ? 0 : code;
    return code > 256 ? 256 : code;
}

/* At most four lines: a row of 128 halves. */
KERN_INLINE void kern_prefetch_row(const char *row, size_t d, bool for_writing)
{
    for (size_t i = 0; i < 2 * d && i < 256; i += 64)
        if (for_writing)
            __builtin_prefetch(row + i, 1);
        else
            __builtin_prefetch(row + i, 0);
}

KERN_INLINE float sum_halves(float sum[KERN_SUMS])
{
    for (size_t step = KERN_SUMS / 2; step; step /= 2)
        for (size_t k = 0; k < step; k++)
            sum[k] += sum[k + step];
    return sum[0];
}

KERN_INLINE float sum_squares(const float *restrict v, size_t d)
{
    float sum[KERN_SUMS] = { 0 };
    size_t i = 0;

    for (; i + KERN_SUMS <= d; i += KERN_SUMS)
        for (size_t k = 0; k < KERN_SUMS; k++)
            sum[k] += v[i + k] * v[i + k];
    for (size_t k = 0; i < d; i++, k++)
        sum[k] += v[i] * v[i];
    return sum_halves(sum);
}

static inline DECL_KERN_SQUARES(squares)
{
    for (size_t t = 0; t < n; t++) {
        float sum[KERN_SUMS] = { 0 };
        size_t i = 0;

        if (!b) {
            ret_sum[t] = sum_squares(a + t * d, d);
            continue;
        }
        for (; i + KERN_SUMS <= d; i += KERN_SUMS)
            for (size_t k = 0; k < KERN_SUMS; k++) {
                float v = a[t * d + i + k] - b[t * d + i + k];

                sum[k] += v * v;
            }
        for (size_t k = 0; i < d; i++, k++) {
            float v = a[t * d + i] - b[t * d + i];

            sum[k] += v * v;
        }
        ret_sum[t] = sum_halves(sum);
    }
}

/* The nibble of token t of a line. */
KERN_INLINE unsigned line_code(const uint8_t *line, size_t t)
{
    return line[4 * (t % 16) + t / 32] >> 4 * (t / 16 % 2) & 15u;
}

static inline DECL_KERN_WORDS(words)
{
    size_t d = n_subspaces * dsub, n_words = fine ? KERN_WORDS * KERN_WORDS : KERN_WORDS;

    for (size_t m = 0; m < n_subspaces; m++)
        for (size_t t = 0; t < KERN_TOKENS; t++) {
            size_t code = line_code(base + m * KERN_LINE, t);

            if (fine)
                code = code * KERN_WORDS + line_code(fine + m * KERN_LINE, t);
            memcpy(ret_words + t * d + m * dsub, book + (m * n_words + code) * dsub, dsub);
        }
}

/* One number for each subspace becomes one for each dimension. */
KERN_INLINE void spread(const float *v, size_t n_subspaces, size_t dsub, float *ret)
{
    for (size_t m = 0; m < n_subspaces; m++)
        for (size_t i = 0; i < dsub; i++)
            ret[m * dsub + i] = v[m];
}

KERN_INLINE bool mask_any(const struct kern_mask *m)
{
    return m->bits[0] | m->bits[1];
}

KERN_INLINE bool mask_all(const struct kern_mask *m)
{
    return !~(m->bits[0] & m->bits[1]);
}

/* Words and scales of both trees, [1] for predicted tokens; what no token takes is not set. */
struct panel_words {
    float scale[2][KERN_MAX_DIM];
    int8_t base[2][KERN_TOKENS * KERN_MAX_DIM];
    int8_t fine[2][KERN_TOKENS * KERN_MAX_DIM];
};

KERN_INLINE void panel_words_set(struct panel_words *w, kern_words_fn look_up,
                                 const struct kern_panel *p, bool base_wanted)
{
    const struct kern_tree *trees[2] = { &p->intra, &p->delta };
    bool taken[2] = { !mask_all(&p->predicted), mask_any(&p->predicted) };

    for (int i = 0; i < 2; i++) {
        if (!taken[i])
            continue;
        spread(trees[i]->scale, p->n_subspaces, p->dsub, w->scale[i]);
        if (base_wanted)
            look_up(p->base, NULL, p->n_subspaces, p->dsub, trees[i]->base, w->base[i]);
        if (p->fine)
            look_up(p->base, p->fine, p->n_subspaces, p->dsub, trees[i]->fine, w->fine[i]);
    }
}

/* ret = words * (scale * gain), plus from if there is any */
KERN_INLINE void scale_row(const int8_t *restrict words, size_t d, const float *restrict scale,
                           float gain, const float *restrict from, float *restrict ret)
{
    if (from)
        for (size_t i = 0; i < d; i++)
            ret[i] = (float)words[i] * (scale[i] * gain) + from[i];
    else
        for (size_t i = 0; i < d; i++)
            ret[i] = (float)words[i] * (scale[i] * gain);
}

KERN_INLINE void predict_row(const float *restrict leak, const float *restrict state, size_t d,
                             float *restrict ret_from)
{
    for (size_t i = 0; i < d; i++)
        ret_from[i] = leak[i] * state[i];
}

KERN_INLINE void decode_rows_by(kern_words_fn look_up, const struct kern_panel *p, float *ret_base,
                                float *ret_fine)
{
    size_t d = p->n_subspaces * p->dsub;
    float leak[KERN_MAX_DIM], from[KERN_MAX_DIM], state[2][KERN_MAX_DIM] = { 0 };
    const float *before = state[1];
    struct panel_words w;

    panel_words_set(&w, look_up, p, ret_base || p->leak);
    if (p->leak)
        spread(p->leak, p->n_subspaces, p->dsub, leak);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int tree = kern_mask_has(&p->predicted, t);
        const float *add_to = p->leak && tree ? from : NULL, *scale = w.scale[tree];
        float *base = ret_base ? ret_base + t * d : state[t % 2];

        if (add_to)
            predict_row(leak, before, d, from);
        if (ret_base || p->leak)
            scale_row(w.base[tree] + t * d, d, scale, p->gain[t], add_to, base);
        if (p->fine && ret_fine)
            scale_row(w.fine[tree] + t * d, d, scale, p->gain[t], add_to, ret_fine + t * d);
        before = base;
    }
}

/* How an instruction set makes half floats: of words, as scale_row(), and of floats. */
struct kern_halves {
    void (*scale)(const int8_t *words, size_t d, const float *scale, float gain, const float *from,
                  void *ret_row, bool cold);
    void (*put)(const float *x, size_t d, void *ret_row, bool cold);
};

KERN_INLINE void decode_half_by(kern_words_fn look_up, struct kern_halves halves,
                                const struct kern_panel *p, void *ret_rows, ptrdiff_t stride,
                                bool cold)
{
    size_t d = p->n_subspaces * p->dsub;
    float leak[KERN_MAX_DIM], from[KERN_MAX_DIM], state[2][KERN_MAX_DIM] = { 0 };
    struct panel_words w;

    panel_words_set(&w, look_up, p, !p->fine || p->leak);
    if (p->leak)
        spread(p->leak, p->n_subspaces, p->dsub, leak);
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int tree = kern_mask_has(&p->predicted, t);
        const float *add_to = p->leak && tree ? from : NULL, *scale = w.scale[tree];
        const int8_t *words = (p->fine ? w.fine : w.base)[tree] + t * d;
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        if (add_to)
            predict_row(leak, state[(t + 1) % 2], d, from);
        if (p->leak)
            scale_row(w.base[tree] + t * d, d, scale, p->gain[t], add_to, state[t % 2]);
        if (p->leak && !p->fine)
            halves.put(state[t % 2], d, row, cold);
        else
            halves.scale(words, d, scale, p->gain[t], add_to, row, cold);
    }
}
