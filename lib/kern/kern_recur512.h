#pragma once

/*
 * A temporal stream's panels to fp16 rows, for 512-bit registers; include immintrin.h before
 *
 * The state of 64 coordinates stays in registers from token to token: by way of memory, one token
 * took as long as a store and the load of it. Key tokens are no branch: the sum is masked, and
 * their words are looked up with the others'. The operations on a number and their order are those
 * of kern.h.
 */

#include "lib/kern/kern_words512.h"

struct recurrence {
    const struct panel_words *words;
    const float *leak; /* [d] */
    const float *gain;
    struct kern_mask predicted;
    char *rows;
    ptrdiff_t stride;
    bool around;
};

/* n registers of sixteen coordinates from first on; the state stays in them. */
KERN_INLINE void recur(const struct recurrence *r, bool fine, size_t first, size_t n)
{
    const int8_t *words = r->words->base + first / KERN_CHUNK * CHUNK_BYTES;
    ptrdiff_t to_fine = r->words->fine - r->words->base;
    char *row = r->rows + 2 * first;
    __m512 state[4], leak[4];

#pragma GCC unroll 4
    for (size_t k = 0; k < n; k++) {
        leak[k] = _mm512_loadu_ps(r->leak + first + k * KERN_CHUNK);
        state[k] = _mm512_setzero_ps();
    }
    for (size_t t = 0; t < KERN_TOKENS; t++, row += r->stride) {
        int tree = kern_mask_has(&r->predicted, t);
        __mmask16 adds = (__mmask16)-tree;
        const int8_t *at = words + slot_512(t) * KERN_CHUNK;
        const float *scale = r->words->scale[tree] + first;
        __m512 gain = _mm512_set1_ps(r->gain[t]), y[4];

#pragma GCC unroll 4
        for (size_t k = 0; k < n; k++) {
            __m512 factor = _mm512_mul_ps(_mm512_loadu_ps(scale + k * KERN_CHUNK), gain);
            __m512 from = _mm512_mul_ps(leak[k], state[k]);
            __m512 base = _mm512_mul_ps(floats_of(at + k * CHUNK_BYTES), factor);

            state[k] = y[k] = _mm512_mask_add_ps(base, adds, base, from);
            if (!fine)
                continue;
            y[k] = _mm512_mul_ps(floats_of(at + to_fine + k * CHUNK_BYTES), factor);
            y[k] = _mm512_mask_add_ps(y[k], adds, y[k], from);
        }
#pragma GCC unroll 2
        for (size_t k = 0; k < n; k += 2)
            put_as_halves(y[k], y[n > 1 ? k + 1 : k], row, k * KERN_CHUNK, n * KERN_CHUNK,
                          r->around);
    }
}

/* As panel_words_set(), but the base plane's words of both trees at once. */
static inline void recurrence_words_set(struct panel_words *w, const struct kern_panel *p)
{
    size_t n_predicted = mask_count(&p->predicted);
    const struct kern_tree *intra = n_predicted < KERN_TOKENS ? &p->intra : &p->delta;
    const struct kern_tree *delta = n_predicted ? &p->delta : &p->intra;
    __mmask64 predicted[2];

    mask_bytes(&p->predicted, predicted);
    spread(intra->scale, p->n_subspaces, p->dsub, w->scale[0]);
    spread(delta->scale, p->n_subspaces, p->dsub, w->scale[1]);
    if (p->dsub == 2)
        words_16_of(p->base, p->n_subspaces, 2, intra->base, delta->base, predicted, w->base);
    else
        words_16_of(p->base, p->n_subspaces, 4, intra->base, delta->base, predicted, w->base);
    if (p->fine)
        look_up_panel(LOOK_UP_512, p, true, w->fine);
}

static inline void decode_recurrence(const struct kern_panel *p, void *ret_rows, ptrdiff_t stride,
                                     bool cold)
{
    size_t d = p->n_subspaces * p->dsub, i = 0;
    float leak[KERN_MAX_DIM] KERN_ALIGNED;
    struct panel_words words;
    struct recurrence r = {
        .words = &words,
        .leak = leak,
        .gain = p->gain,
        .predicted = p->predicted,
        .rows = ret_rows,
        .stride = stride,
        .around = are_around(ret_rows, stride, cold),
    };

    recurrence_words_set(&words, p);
    spread(p->leak, p->n_subspaces, p->dsub, leak);
    for (; i + 64 <= d; i += 64)
        if (p->fine)
            recur(&r, true, i, 4);
        else
            recur(&r, false, i, 4);
    for (; i < d; i += KERN_CHUNK)
        recur(&r, p->fine, i, 1);
}

/* What DECL_KERN_DECODE_HALF() defines, to the bit. */
static inline DECL_KERN_DECODE_HALF(decode_half_by_words)
{
    const struct kern_halves halves = { scale_half_row, NULL }; /* what advances is above */

    if (panel->leak)
        decode_recurrence(panel, ret_rows, stride, cold);
    else
        decode_half_by(LOOK_UP_512, halves, panel, ret_rows, stride, cold);
}
