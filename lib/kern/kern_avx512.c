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
        .take = { take_f32, take_f16, take_bf16 },
        .give = { give_f32, give_f16, give_bf16 },
        .squares = squares,
        .decode_rows = below.decode_rows,
        .decode_half = below.decode_half,
        .search_loop = below.search_loop,
    };
}
