/* AVX-512 without VNNI: the C bodies with sixteen lanes, half floats, and the searches. */

#include <immintrin.h>

#include "lib/kern/kern_search512.h"

static DECL_KERN_LOAD(load_f16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i += 16) {
            __mmask16 in = d - i < 16 ? (__mmask16)((1u << (d - i)) - 1) : 0xffff;

            _mm512_mask_storeu_ps(ret_x + t * d + i, in,
                                  _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(in, row + i * 2)));
        }
    }
}

static DECL_KERN_STORE(store_f16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        for (size_t i = 0; i < d; i += 16) {
            __mmask16 in = d - i < 16 ? (__mmask16)((1u << (d - i)) - 1) : 0xffff;

            _mm256_mask_storeu_epi16(
                row + i * 2, in,
                _mm512_cvtps_ph(_mm512_maskz_loadu_ps(in, x + t * d + i),
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        }
    }
}

KERN_TAKE_AND_GIVE(f32)
KERN_TAKE_AND_GIVE(f16)
KERN_TAKE_AND_GIVE(bf16)

/* The usual case stays in registers, as under AVX2: every coordinate turns, with the one half a row
 * further on. */
static inline bool turns_by_halves(const struct kern_turn *turn, size_t d)
{
    return turn->n_pairs && !turn->interleaved && 2 * turn->n_pairs == d && d % 32 == 0;
}

static inline __m512 load_halves(const char *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

/* What does not turn. */
static void take_values(const void *rows, ptrdiff_t stride, size_t n, size_t d, const float *mean,
                        float *ret_x)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, false);
        for (size_t i = 0; i < d; i += 16)
            _mm512_storeu_ps(ret_x + t * d + i,
                             _mm512_sub_ps(load_halves(row + 2 * i), _mm512_loadu_ps(mean + i)));
    }
}

static DECL_KERN_TAKE(take_f16_512)
{
    size_t n_pairs = turn->n_pairs;

    if (!n_pairs && d % 16 == 0) {
        take_values(rows, stride, n, d, mean, ret_x);
        return;
    }
    if (!turns_by_halves(turn, d)) {
        take_f16(rows, stride, n, d, turn, mean, ret_x);
        return;
    }
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, false);
        for (size_t i = 0; i < n_pairs; i += 16) {
            __m512 u = load_halves(row + 2 * i), v = load_halves(row + 2 * (n_pairs + i));
            __m512 c = _mm512_loadu_ps(turn->cosine + t * n_pairs + i);
            __m512 s = _mm512_loadu_ps(turn->sine + t * n_pairs + i);
            __m512 a = _mm512_sub_ps(_mm512_mul_ps(u, c), _mm512_mul_ps(v, s));
            __m512 b = _mm512_add_ps(_mm512_mul_ps(v, c), _mm512_mul_ps(u, s));

            _mm512_storeu_ps(ret_x + t * d + i, _mm512_sub_ps(a, _mm512_loadu_ps(mean + i)));
            _mm512_storeu_ps(ret_x + t * d + n_pairs + i,
                             _mm512_sub_ps(b, _mm512_loadu_ps(mean + n_pairs + i)));
        }
    }
}

static inline void put_halves(__m512 y, char *to)
{
    _mm256_storeu_si256((__m256i *)to,
                        _mm512_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static DECL_KERN_GIVE(give_f16_512)
{
    size_t n_pairs = turn->n_pairs;

    if (!turns_by_halves(turn, d)) {
        give_f16(x, n, d, turn, ret_rows, stride);
        return;
    }
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, true);
        for (size_t i = 0; i < n_pairs; i += 16) {
            __m512 u = _mm512_loadu_ps(x + t * d + i);
            __m512 v = _mm512_loadu_ps(x + t * d + n_pairs + i);
            __m512 c = _mm512_loadu_ps(turn->cosine + t * n_pairs + i);
            __m512 s = _mm512_loadu_ps(turn->sine + t * n_pairs + i);

            put_halves(_mm512_sub_ps(_mm512_mul_ps(u, c), _mm512_mul_ps(v, s)), row + 2 * i);
            put_halves(_mm512_add_ps(_mm512_mul_ps(v, c), _mm512_mul_ps(u, s)),
                       row + 2 * (n_pairs + i));
        }
    }
}

void kern_init_avx512(struct kern *k)
{
    struct kern below = *k;

    *k = (struct kern){
        .load = { load_f32, load_f16, load_bf16 },
        .store = { store_f32, store_f16, store_bf16 },
        .rope = { NULL, rope_half, rope_interleaved },
        .add = add,
        .gains = gains,
        .quantize = quantize_512,
        .search = search_512,
        .search_child = search_child_512,
        .pack = below.pack,
        .unpack = below.unpack,
        .decode = below.decode,
        .take = { take_f32, take_f16_512, take_bf16 },
        .give = { give_f32, give_f16_512, give_bf16 },
        .squares = squares,
        .add_squares = add_squares,
        .decode_rows = below.decode_rows,
        .decode_half = below.decode_half,
        .search_loop = below.search_loop,
    };
}
