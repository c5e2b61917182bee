#pragma once

/*
 * The kernels that work on rows, in C: their definition
 *
 * A panel's codes are looked up and transposed while they are bytes, a quarter of what they become;
 * from there on the lanes are the dimensions of one token, so that gains are one number a row and a
 * recurrence in time runs along memory. In between, words lie in chunks of 16 dimensions, which is
 * what transposing sixteen registers of bytes gives: [d / 16][slot of a token][16]. An instruction
 * set has the slots in the order that suits its registers.
 *
 * Only look-ups, half floats and transpositions need hands: each instruction set gives its own as
 * arguments, and the rest is compiled anew.
 */

#include <string.h>

#include "lib/base/half.h"
#include "lib/kern/kern.h"

#define KERN_INLINE static inline __attribute__((always_inline))

/* Of a cache line: registers of 64 bytes that straddle two lines cost twice. */
#define KERN_ALIGNED __attribute__((aligned(KERN_LINE)))

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

enum { KERN_AHEAD = 8 };

/* Row t + KERN_AHEAD of those that are taken or given, and of the head that follows in memory row
 * t: it is next, and rows of engines are so far apart that only this head's are near. At most four
 * lines each: 128 halves. */
KERN_INLINE void kern_prefetch_rows(const char *row, ptrdiff_t stride, size_t t, size_t n, size_t d,
                                    bool for_writing)
{
    const char *ahead = t + KERN_AHEAD < n ? row + KERN_AHEAD * stride : row;

    for (size_t i = 0; i < 2 * d && i < 256; i += KERN_LINE)
        if (for_writing) {
            __builtin_prefetch(ahead + i, 1);
            __builtin_prefetch(row + 2 * d + i, 1, 2);
        } else {
            __builtin_prefetch(ahead + i, 0);
            __builtin_prefetch(row + 2 * d + i, 0, 2);
        }
}

/* The upper half onto the lower, until one is left. */
KERN_INLINE float sum_halves(float s[KERN_SUMS])
{
    for (size_t k = 0; k < KERN_SUMS / 2; k++)
        s[k] += s[k + KERN_SUMS / 2];
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
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

enum { KERN_CHUNK = 16, CHUNK_BYTES = KERN_CHUNK * KERN_TOKENS };

/* How an instruction set looks codes up. */
struct kern_look_up {
    /* book: [n_subspaces][16 or, with a fine panel, 256][dsub] */
    void (*words)(const uint8_t *base, const uint8_t *fine, size_t n_subspaces, size_t dsub,
                  const int8_t *book, int8_t *ret_words);
    size_t (*slot)(size_t t);
    /* ret = words * (scale * gain), plus from if there is any; words: a token's, in chunks */
    void (*scale)(const int8_t *words, size_t d, const float *scale, float gain, const float *from,
                  float *ret);
};

/* kern_look_up.words() by the words_16() and words_256() of an instruction set, for each dsub */
#define KERN_WORDS_BY_DSUB(name) \
    static void name(const uint8_t *base, const uint8_t *fine, size_t n_subspaces, size_t dsub, \
                     const int8_t *book, int8_t *ret_words) \
    { \
        if (dsub == 2 && fine) \
            words_256(base, fine, n_subspaces, 2, book, ret_words); \
        else if (dsub == 2) \
            words_16(base, n_subspaces, 2, book, ret_words); \
        else if (fine) \
            words_256(base, fine, n_subspaces, 4, book, ret_words); \
        else \
            words_16(base, n_subspaces, 4, book, ret_words); \
    }

KERN_INLINE void spread_by(const float *restrict v, size_t n_subspaces, size_t dsub,
                           float *restrict ret)
{
    for (size_t m = 0; m < n_subspaces; m++)
        for (size_t i = 0; i < dsub; i++)
            ret[m * dsub + i] = v[m];
}

/* One number for each subspace becomes one for each dimension; dsub is 2 or 4. */
KERN_INLINE void spread(const float *v, size_t n_subspaces, size_t dsub, float *ret)
{
    if (dsub == 2)
        spread_by(v, n_subspaces, 2, ret);
    else
        spread_by(v, n_subspaces, 4, ret);
}

KERN_INLINE size_t mask_count(const struct kern_mask *m)
{
    return (size_t)__builtin_popcountll(m->bits[0]) + (size_t)__builtin_popcountll(m->bits[1]);
}

/* One token's words, one by one; ret_words is its place in the first chunk. */
KERN_INLINE void look_up_token(const uint8_t *base, const uint8_t *fine, size_t n_subspaces,
                               size_t dsub, const int8_t *book, size_t t, int8_t *ret_words)
{
    size_t n_words = fine ? KERN_WORDS * KERN_WORDS : KERN_WORDS;

    for (size_t m = 0; m < n_subspaces; m++) {
        size_t code = line_code(base + m * KERN_LINE, t), i = m * dsub;

        if (fine)
            code = code * KERN_WORDS + line_code(fine + m * KERN_LINE, t);
        memcpy(ret_words + i / KERN_CHUNK * CHUNK_BYTES + i % KERN_CHUNK,
               book + (m * n_words + code) * dsub, dsub);
    }
}

/* A panel's scales and words, each token's by its tree: those of the tree that most tokens take are
 * looked up together, the others one by one. */
struct panel_words {
    float scale[2][KERN_MAX_DIM] KERN_ALIGNED; /* [1] is the delta tree's */
    int8_t base[KERN_TOKENS * KERN_MAX_DIM] KERN_ALIGNED;
    int8_t fine[KERN_TOKENS * KERN_MAX_DIM] KERN_ALIGNED;
};

KERN_INLINE void look_up_panel(struct kern_look_up look_up, const struct kern_panel *p, bool fine,
                               int8_t *ret_words)
{
    const struct kern_tree *trees[2] = { &p->intra, &p->delta };
    size_t n_predicted = mask_count(&p->predicted);
    int most = n_predicted > KERN_TOKENS / 2, least = !most;
    const uint8_t *fine_panel = fine ? p->fine : NULL;
    const int8_t *book = fine ? trees[least]->fine : trees[least]->base;

    look_up.words(p->base, fine_panel, p->n_subspaces, p->dsub,
                  fine ? trees[most]->fine : trees[most]->base, ret_words);
    if (!n_predicted || n_predicted == KERN_TOKENS)
        return;
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int8_t *to = ret_words + look_up.slot(t) * KERN_CHUNK;

        if (kern_mask_has(&p->predicted, t) == most)
            continue;
        if (p->dsub == 2)
            look_up_token(p->base, fine_panel, p->n_subspaces, 2, book, t, to);
        else
            look_up_token(p->base, fine_panel, p->n_subspaces, 4, book, t, to);
    }
}

KERN_INLINE void panel_words_set(struct panel_words *w, struct kern_look_up look_up,
                                 const struct kern_panel *p, bool base_wanted)
{
    size_t n_predicted = mask_count(&p->predicted);

    if (n_predicted < KERN_TOKENS)
        spread(p->intra.scale, p->n_subspaces, p->dsub, w->scale[0]);
    if (n_predicted)
        spread(p->delta.scale, p->n_subspaces, p->dsub, w->scale[1]);
    if (base_wanted)
        look_up_panel(look_up, p, false, w->base);
    if (p->fine)
        look_up_panel(look_up, p, true, w->fine);
}

KERN_INLINE void predict_row(const float *restrict leak, const float *restrict state, size_t d,
                             float *restrict ret_from)
{
    for (size_t i = 0; i < d; i++)
        ret_from[i] = leak[i] * state[i];
}

KERN_INLINE void decode_rows_by(struct kern_look_up look_up, const struct kern_panel *p,
                                float *ret_base, float *ret_fine)
{
    size_t d = p->n_subspaces * p->dsub;
    float leak[KERN_MAX_DIM] KERN_ALIGNED, from[KERN_MAX_DIM] KERN_ALIGNED;
    float state[2][KERN_MAX_DIM] KERN_ALIGNED;
    const float *before = state[1];
    struct panel_words w;

    panel_words_set(&w, look_up, p, ret_base || p->leak);
    if (p->leak) {
        spread(p->leak, p->n_subspaces, p->dsub, leak);
        memset(state[1], 0, d * sizeof(state[1][0]));
    }
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int tree = kern_mask_has(&p->predicted, t);
        size_t at = look_up.slot(t) * KERN_CHUNK;
        const float *add_to = p->leak && tree ? from : NULL, *scale = w.scale[tree];
        float *base = ret_base ? ret_base + t * d : state[t % 2];

        if (add_to)
            predict_row(leak, before, d, from);
        if (ret_base || p->leak)
            look_up.scale(w.base + at, d, scale, p->gain[t], add_to, base);
        if (p->fine && ret_fine)
            look_up.scale(w.fine + at, d, scale, p->gain[t], add_to, ret_fine + t * d);
        before = base;
    }
}

/* How an instruction set makes rows of half floats. */
struct kern_halves {
    /* of what kern_look_up.scale() gives */
    void (*scale)(const int8_t *words, size_t d, const float *scale, float gain, const float *from,
                  void *ret_row, bool cold);
    /* likewise, where from is leak * state, and the sum is the next state */
    void (*advance)(const int8_t *words, size_t d, const float *scale, float gain,
                    const float *leak, float *state, void *ret_row, bool cold);
};

KERN_INLINE void decode_half_by(struct kern_look_up look_up, struct kern_halves halves,
                                const struct kern_panel *p, void *ret_rows, ptrdiff_t stride,
                                bool cold)
{
    size_t d = p->n_subspaces * p->dsub;
    float leak[KERN_MAX_DIM] KERN_ALIGNED, from[KERN_MAX_DIM] KERN_ALIGNED;
    float state[KERN_MAX_DIM] KERN_ALIGNED;
    struct panel_words w;

    panel_words_set(&w, look_up, p, !p->fine || p->leak);
    if (p->leak) {
        spread(p->leak, p->n_subspaces, p->dsub, leak);
        memset(state, 0, d * sizeof(state[0]));
    }
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        int tree = kern_mask_has(&p->predicted, t);
        size_t at = look_up.slot(t) * KERN_CHUNK;
        const int8_t *base = w.base + at, *words = p->fine ? w.fine + at : base;
        const float *add_to = p->leak && tree ? from : NULL, *scale = w.scale[tree];
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        if (add_to && !p->fine) {
            halves.advance(base, d, scale, p->gain[t], leak, state, row, cold);
            continue;
        }
        if (add_to)
            predict_row(leak, state, d, from);
        if (p->leak)
            look_up.scale(base, d, scale, p->gain[t], add_to, state);
        halves.scale(words, d, scale, p->gain[t], add_to, row, cold);
    }
}
