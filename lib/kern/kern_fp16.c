/*
 * AVX-512 with fp16 arithmetic: panels to fp16 rows, 32 numbers an instruction
 *
 * Scale and gain are rounded to fp16, their products with the word once more each, and the state of
 * a recurrence with every token. That is what kern.h allows where no code depends on the result, as
 * long as scales and gains are of a size that fp16 has full precision for, and no state can leave
 * its range; others take the way in fp32.
 *
 * Words of a base plane are looked up as halves (kern_fp16_base.h). Those of two planes are too
 * many for that, and stay bytes until they are rows.
 */

#include <immintrin.h>

#include "lib/kern/kern_fp16_base.h"
#include "lib/kern/kern_fp16_fine.h"
#include "lib/kern/kern_fp16_recur.h"

/* Those of v, the first 16 of n or fewer, that are not within least and most. */
static inline __mmask16 beyond(const float *v, size_t n, float least, float most)
{
    __mmask16 in = lanes_of(n);
    __m512 x = _mm512_maskz_loadu_ps(in, v);

    return _mm512_mask_cmp_ps_mask(in, x, _mm512_set1_ps(least), _CMP_NGE_UQ) |
           _mm512_mask_cmp_ps_mask(in, x, _mm512_set1_ps(most), _CMP_NLE_UQ);
}

static bool fit_scales(const float *scale, size_t n, float most)
{
    __mmask16 bad = 0;

    for (size_t m = 0; m < n; m += 16)
        bad |= beyond(scale + m, n - m, 0x1p-10f, most);
    return !bad;
}

static bool fit_gains(const float *gain)
{
    __mmask16 bad = 0;

    for (size_t t = 0; t < KERN_TOKENS; t += 16)
        bad |= beyond(gain + t, 16, 0x1p-14f, 0x1p15f) &
               _mm512_cmp_ps_mask(_mm512_loadu_ps(gain + t), _mm512_setzero_ps(), _CMP_NEQ_UQ);
    return !bad;
}

/* Greatest of n numbers that are none of them negative, nor NaN. */
static float greatest(const float *v, size_t n)
{
    __m512 most = _mm512_setzero_ps();

    for (size_t i = 0; i < n; i += 16)
        most = _mm512_max_ps(most, _mm512_maskz_loadu_ps(lanes_of(n - i), v + i));
    return _mm512_reduce_max_ps(most);
}

/* The greatest scale that panels may have. In a recurrence |y| is at most that of one token's own
 * part, 128 s g, times 1 / (1 - a), or times 128; half of the range is left to roundings. */
static float most_scale(const struct kern_panel *p)
{
    float most = 0x1p3f, room, own;

    if (!p->leak)
        return most;
    room = 1 - greatest(p->leak, p->n_subspaces);
    own = 128 * greatest(p->gain, KERN_TOKENS);
    if (room < 0)
        return 0;
    room = 0x1p15f * (room > 0x1p-7f ? room : 0x1p-7f);
    return own * most > room ? room / own : most;
}

static bool fit(const struct kern_panel *p)
{
    size_t n_predicted = mask_count(&p->predicted);
    float most = most_scale(p);

    return fit_gains(p->gain) &&
           (n_predicted == KERN_TOKENS || fit_scales(p->intra.scale, p->n_subspaces, most)) &&
           (!n_predicted || fit_scales(p->delta.scale, p->n_subspaces, most));
}

static DECL_KERN_DECODE_HALF(decode_half_fp16)
{
    if (!fit(panel))
        decode_half_by_words(panel, ret_rows, stride, cold);
    else if (panel->leak)
        decode_half_recurrence(panel, ret_rows, stride, cold);
    else if (panel->fine)
        two_planes(panel, ret_rows, stride, cold);
    else
        base_plane(panel, ret_rows, stride, cold);
}

void kern_init_fp16(struct kern *k)
{
    k->decode_half = decode_half_fp16;
}
