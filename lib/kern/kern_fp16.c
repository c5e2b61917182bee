/*
 * AVX-512 with fp16 arithmetic: panels to fp16 rows, 32 numbers an instruction
 *
 * Scale and gain are rounded to fp16, their products with the word once more each. That is what
 * kern.h allows where nothing feeds on the result, as long as scales are of a size that fp16 has
 * full precision for; others take the way in fp32, and so does a recurrence.
 */

#include <immintrin.h>

#include "lib/kern/kern_words512.h"

typedef _Float16 half;

static bool fit(const float *scale, size_t n)
{
    bool all = true;

    for (size_t m = 0; m < n; m++)
        all &= scale[m] >= 0x1p-10f && scale[m] <= 0x1p3f;
    return all;
}

static void round_scales(const float *scale, size_t d, half *ret_scale)
{
    for (size_t i = 0; i < d; i++)
        ret_scale[i] = (half)scale[i];
}

static void half_row(const int8_t *words, size_t d, const half *scale, float gain, char *row,
                     bool around)
{
    __m512h gains = _mm512_set1_ph((half)gain);

    for (size_t i = 0; i < d; i += 32, words += 2 * CHUNK_BYTES) {
        const int8_t *next = d - i < 32 ? words : words + CHUNK_BYTES; /* twice: not stored */
        __m512i word = _mm512_cvtepi8_epi16(_mm256_set_m128i(load_128(next), load_128(words)));
        __m512h y = _mm512_mul_ph(_mm512_cvtepi16_ph(word), _mm512_loadu_ph(scale + i));

        put_halves(_mm512_castph_si512(_mm512_mul_ph(y, gains)), row, i, d, around);
    }
}

static DECL_KERN_DECODE_HALF(decode_half_fp16)
{
    size_t d = panel->n_subspaces * panel->dsub;
    half scale[2][KERN_MAX_DIM] KERN_ALIGNED = { { 0 } };
    struct panel_words w;

    if (panel->leak || !fit(panel->intra.scale, panel->n_subspaces) ||
        (mask_count(&panel->predicted) && !fit(panel->delta.scale, panel->n_subspaces))) {
        decode_half_by(LOOK_UP_512, (struct kern_halves){ scale_half_row, advance_half_row }, panel,
                       ret_rows, stride, cold);
    } else {
        panel_words_set(&w, LOOK_UP_512, panel, !panel->fine);
        if (mask_count(&panel->predicted) < KERN_TOKENS)
            round_scales(w.scale[0], d, scale[0]);
        if (mask_count(&panel->predicted))
            round_scales(w.scale[1], d, scale[1]);
        for (size_t t = 0; t < KERN_TOKENS; t++) {
            char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

            half_row((panel->fine ? w.fine : w.base) + slot_512(t) * KERN_CHUNK, d,
                     scale[kern_mask_has(&panel->predicted, t)], panel->gain[t], row,
                     is_around(row, cold));
        }
    }
    if (cold)
        _mm_sfence();
}

void kern_init_fp16(struct kern *k)
{
    k->decode_half = decode_half_fp16;
}
