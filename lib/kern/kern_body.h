#pragma once

/*
 * The kernels in C: their definition
 *
 * kern_c.c compiles these bodies for the portable table. kern_<isa>.c compiles them again with its
 * own flags, so that the compiler widens the lanes, and overrides by hand only what a compiler
 * can't do: table look-ups and half floats. One text, hence one result.
 */

#include <string.h>

#include "lib/base/half.h"
#include "lib/kern/kern.h"
#include "lib/kern/kern_rows.h"

static inline DECL_KERN_LOAD(load_f32)
{
    for (size_t t = 0; t < n; t++)
        memcpy(ret_x + t * d, (const char *)rows + (ptrdiff_t)t * stride, d * sizeof(float));
}

static inline DECL_KERN_LOAD(load_bf16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h;

            memcpy(&h, row + i * sizeof(h), sizeof(h));
            ret_x[t * d + i] = f32_from_bf16(h);
        }
    }
}

static inline DECL_KERN_STORE(store_f32)
{
    for (size_t t = 0; t < n; t++)
        memcpy((char *)ret_rows + (ptrdiff_t)t * stride, x + t * d, d * sizeof(float));
}

static inline DECL_KERN_STORE(store_bf16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i++) {
            uint16_t h = bf16_from_f32(x[t * d + i]);

            memcpy(row + i * sizeof(h), &h, sizeof(h));
        }
    }
}

static inline DECL_KERN_ROPE(rope_half)
{
    for (size_t t = 0; t < n; t++) {
        float *restrict a = x + t * d, *restrict b = a + n_pairs;
        const float *c = cosine + t * n_pairs, *s = sine + t * n_pairs;

        for (size_t i = 0; i < n_pairs; i++) {
            float u = a[i], v = b[i];

            a[i] = u * c[i] - v * s[i];
            b[i] = v * c[i] + u * s[i];
        }
    }
}

static inline DECL_KERN_ROPE(rope_interleaved)
{
    for (size_t t = 0; t < n; t++) {
        float *a = x + t * d;
        const float *c = cosine + t * n_pairs, *s = sine + t * n_pairs;

        for (size_t i = 0; i < n_pairs; i++) {
            float u = a[2 * i], v = a[2 * i + 1];

            a[2 * i] = u * c[i] - v * s[i];
            a[2 * i + 1] = v * c[i] + u * s[i];
        }
    }
}

static inline DECL_KERN_ADD(add)
{
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < d; i++)
            x[t * d + i] += sign * v[i];
}

KERN_INLINE void turn_row(float *x, size_t d, const struct kern_turn *turn, size_t t)
{
    const float *cosine = turn->cosine + t * turn->n_pairs, *sine = turn->sine + t * turn->n_pairs;

    if (turn->interleaved)
        rope_interleaved(x, 1, d, cosine, sine, turn->n_pairs);
    else
        rope_half(x, 1, d, cosine, sine, turn->n_pairs);
}

KERN_INLINE void take_by(kern_load_fn load, const void *rows, ptrdiff_t stride, size_t n, size_t d,
                         const struct kern_turn *turn, const float *mean, float *ret_x)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, false);
        load(row, 0, 1, d, ret_x + t * d);
        if (turn->n_pairs)
            turn_row(ret_x + t * d, d, turn, t);
        add(ret_x + t * d, 1, d, mean, -1);
    }
}

KERN_INLINE void give_by(kern_store_fn store, const float *x, size_t n, size_t d,
                         const struct kern_turn *turn, void *ret_rows, ptrdiff_t stride)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;
        float turned[KERN_MAX_DIM];

        kern_prefetch_rows(row, stride, t, n, d, true);
        if (!turn->n_pairs) {
            store(x + t * d, 1, d, row, 0);
            continue;
        }
        memcpy(turned, x + t * d, d * sizeof(float));
        turn_row(turned, d, turn, t);
        store(turned, 1, d, row, 0);
    }
}

#define KERN_TAKE_AND_GIVE(dtype) \
    static DECL_KERN_TAKE(take_##dtype) \
    { \
        take_by(load_##dtype, rows, stride, n, d, turn, mean, ret_x); \
    } \
    static DECL_KERN_GIVE(give_##dtype) \
    { \
        give_by(store_##dtype, x, n, d, turn, ret_rows, stride); \
    }

static inline DECL_KERN_GAINS(gains)
{
    float sum[KERN_TOKENS] = { 0 }, count = (float)d;

    for (size_t i = 0; i < d; i++)
        for (size_t t = 0; t < KERN_TOKENS; t++)
            sum[t] += y[i * KERN_TOKENS + t] * y[i * KERN_TOKENS + t];
    for (size_t t = 0; t < KERN_TOKENS; t++)
        ret_code[t] = kern_gain_code(sum[t] / count);
    memcpy(ret_square, sum, sizeof(sum));
}

static inline DECL_KERN_ADD_SQUARES(add_squares)
{
    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < KERN_TOKENS; t++) {
            float v = b ? a[i * KERN_TOKENS + t] - b[i * KERN_TOKENS + t] : a[i * KERN_TOKENS + t];

            ret_sum[t] += v * v;
        }
}

/* Adding 1.5 * 2^23 leaves the integer in the low bits of the sum, rounded to nearest even. Two
 * loops, because gcc widens each, but not one with both in it. */
static inline DECL_KERN_QUANTIZE(quantize)
{
    for (size_t i = 0; i < n; i++) {
        float v[KERN_TOKENS];

        for (size_t t = 0; t < KERN_TOKENS; t++) {
            float u = y[i * KERN_TOKENS + t] * inverse_gain[t] * factor;

            u = u > -KERN_Q_MAX ? u : -KERN_Q_MAX; /* NaN too */
            v[t] = u < KERN_Q_MAX ? u : KERN_Q_MAX;
        }
        for (size_t t = 0; t < KERN_TOKENS; t++)
            ret_q[i * KERN_TOKENS + t] =
                (int16_t)(int32_t)(f32_bits(v[t] + 0x1.8p23f) - 0x4b400000);
    }
}

/* Score and word in one integer: the lowest word wins a tie because 15 - w is the low nibble. */
static inline DECL_KERN_SEARCH(search)
{
    int32_t best[KERN_TOKENS], score[KERN_TOKENS];

    for (size_t t = 0; t < KERN_TOKENS; t++)
        best[t] = INT32_MIN;
    for (int32_t w = 0; w < KERN_WORDS; w++) {
        memset(score, 0, sizeof(score));
        for (size_t i = 0; i < dsub; i++) {
            int32_t c = book[(size_t)w * dsub + i];

            for (size_t t = 0; t < KERN_TOKENS; t++)
                score[t] += c * (q[i * KERN_TOKENS + t] - 8 * c);
        }
        for (size_t t = 0; t < KERN_TOKENS; t++) {
            int32_t rank = score[t] * KERN_WORDS + KERN_WORDS - 1 - w;

            best[t] = rank > best[t] ? rank : best[t];
        }
    }
    for (size_t t = 0; t < KERN_TOKENS; t++)
        ret_code[t] = (uint8_t)(KERN_WORDS - 1 - (best[t] & (KERN_WORDS - 1)));
}

static inline DECL_KERN_SEARCH_CHILD(search_child)
{
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        const int8_t *word = children + (size_t)parent[t] * KERN_WORDS * dsub;
        int32_t best = INT32_MIN;

        for (int32_t w = 0; w < KERN_WORDS; w++, word += dsub) {
            int32_t score = 0, rank;

            for (size_t i = 0; i < dsub; i++)
                score += word[i] * (q[i * KERN_TOKENS + t] - 8 * word[i]);
            rank = score * KERN_WORDS + KERN_WORDS - 1 - w;
            best = rank > best ? rank : best;
        }
        ret_code[t] = (uint8_t)(KERN_WORDS - 1 - (best & (KERN_WORDS - 1)));
    }
}

static inline DECL_KERN_PACK(pack)
{
    uint32_t line[KERN_LINE / 4] = { 0 };

    for (size_t j = 0; j < 8; j++)
        for (size_t l = 0; l < KERN_LINE / 4; l++)
            line[l] |= (uint32_t)code[16 * j + l] << 4 * j;
    memcpy(ret_line, line, KERN_LINE);
}

static inline DECL_KERN_UNPACK(unpack)
{
    uint32_t words[KERN_LINE / 4];

    memcpy(words, line, KERN_LINE);
    for (size_t j = 0; j < 8; j++)
        for (size_t l = 0; l < KERN_LINE / 4; l++)
            ret_code[16 * j + l] = (uint8_t)(words[l] >> 4 * j & 15);
}

static inline DECL_KERN_DECODE(decode)
{
    (void)n_words;
    for (size_t t = 0; t < KERN_TOKENS; t++) {
        const int8_t *word = book + code[t] * dsub;
        float factor = scale * gain[t];

        for (size_t i = 0; i < dsub; i++)
            ret_y[i * KERN_TOKENS + t] = (float)word[i] * factor;
    }
}
