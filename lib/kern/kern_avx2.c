/*
 * AVX2: the C bodies compiled anew with eight lanes, and by hand what needs look-ups
 *
 * A codeword's coordinate is one byte, a plane has 16 codewords: VPSHUFB looks one coordinate of 32
 * tokens up at once. Two coordinates side by side, widened to int16, are one operand of VPMADDWD,
 * which sums them into the int32 lane of a token.
 *
 * Widening puts a byte into the high half of its word, which multiplies it by 256; scores of
 * children are therefore 256 times those of the C body, and their low byte is free for the rank
 * that breaks ties. |256 c * (q - 8 c)| < 2^28.2 a coordinate: four of them fit an int32.
 *
 * Unpacking within 128-bit lanes shuffles 32 tokens into four registers of eight:
 *   0-3 16-19 | 4-7 20-23 | 8-11 24-27 | 12-15 28-31
 * and packing the four together again puts them in order.
 */

#include <immintrin.h>

#include "lib/kern/kern_body.h"

enum { STEP = 32 }; /* tokens a step */

static DECL_KERN_LOAD(load_f16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;
        size_t i = 0;

        for (; i + 8 <= d; i += 8)
            _mm256_storeu_ps(ret_x + t * d + i,
                             _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(row + i * 2))));
        for (; i < d; i++) {
            uint16_t h;

            memcpy(&h, row + i * sizeof(h), sizeof(h));
            ret_x[t * d + i] = f32_from_f16(h);
        }
    }
}

static DECL_KERN_STORE(store_f16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;
        size_t i = 0;

        for (; i + 8 <= d; i += 8)
            _mm_storeu_si128((__m128i *)(row + i * 2),
                             _mm256_cvtps_ph(_mm256_loadu_ps(x + t * d + i),
                                             _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        for (; i < d; i++) {
            uint16_t h = f16_from_f32(x[t * d + i]);

            memcpy(row + i * sizeof(h), &h, sizeof(h));
        }
    }
}

static inline __m256i load_256(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* Two rows of q as pairs of int16, tokens in the order of the top of this file. */
static inline void load_pairs(const int16_t *q, __m256i ret_pairs[4])
{
    const int16_t *q1 = q + KERN_TOKENS;
    __m256i a = load_256(q), b = load_256(q + 16), c = load_256(q1), d = load_256(q1 + 16);
    __m256i a_low = _mm256_permute2x128_si256(a, b, 0x20);
    __m256i a_high = _mm256_permute2x128_si256(a, b, 0x31);
    __m256i c_low = _mm256_permute2x128_si256(c, d, 0x20);
    __m256i c_high = _mm256_permute2x128_si256(c, d, 0x31);

    ret_pairs[0] = _mm256_unpacklo_epi16(a_low, c_low);
    ret_pairs[1] = _mm256_unpackhi_epi16(a_low, c_low);
    ret_pairs[2] = _mm256_unpacklo_epi16(a_high, c_high);
    ret_pairs[3] = _mm256_unpackhi_epi16(a_high, c_high);
}

/* The low nibble of each rank says 15 - word: back to words, in the order of tokens. */
static inline void store_codes(const __m256i best[4], uint8_t *ret_code)
{
    __m256i low = _mm256_set1_epi32(KERN_WORDS - 1), v[4];

    for (int k = 0; k < 4; k++)
        v[k] = _mm256_andnot_si256(best[k], low);
    _mm256_storeu_si256((__m256i *)ret_code, _mm256_packus_epi16(_mm256_packs_epi32(v[0], v[1]),
                                                                 _mm256_packs_epi32(v[2], v[3])));
}

/* Rank of a word without its product with q: 16 times -8|c|², and what breaks ties. words are 16
 * times themselves. */
static inline void set_ranks(const int16_t *words, size_t dsub, int32_t rank[KERN_WORDS])
{
    int32_t half_square[2 * KERN_WORDS]; /* 256 |c|² of each pair */

    for (size_t i = 0; i < KERN_WORDS * dsub; i += 16) {
        __m256i v = load_256(words + i);

        _mm256_storeu_si256((__m256i *)(half_square + i / 2), _mm256_madd_epi16(v, v));
    }
    for (int32_t w = 0; w < KERN_WORDS; w++) {
        int32_t square = dsub == 2 ? half_square[w] : half_square[2 * w] + half_square[2 * w + 1];

        rank[w] = KERN_WORDS - 1 - w - square / 2;
    }
}

/* Words as int16, times 16. */
static inline void widen_words(const int8_t *book, size_t dsub, int16_t *ret_words)
{
    for (size_t i = 0; i < KERN_WORDS * dsub; i += 16)
        _mm256_storeu_si256(
            (__m256i *)(ret_words + i),
            _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(book + i))),
                              4));
}

/* The rounding of the conversion is that of quantize(), and MAX takes its second operand for NaN.
 */
static inline __m256i quantized(const float *y, const float *inverse_gain, __m256 factor)
{
    __m256 u = _mm256_mul_ps(_mm256_loadu_ps(y), _mm256_loadu_ps(inverse_gain));

    u = _mm256_max_ps(_mm256_mul_ps(u, factor), _mm256_set1_ps(-KERN_Q_MAX));
    return _mm256_cvtps_epi32(_mm256_min_ps(u, _mm256_set1_ps(KERN_Q_MAX)));
}

static DECL_KERN_QUANTIZE(quantize_avx2)
{
    __m256 factors = _mm256_set1_ps(factor);

    for (size_t i = 0; i < n; i++)
        for (size_t t = 0; t < KERN_TOKENS; t += 16) {
            const float *from = y + i * KERN_TOKENS + t;
            __m256i q = _mm256_packs_epi32(quantized(from, inverse_gain + t, factors),
                                           quantized(from + 8, inverse_gain + t + 8, factors));

            _mm256_storeu_si256((__m256i *)(ret_q + i * KERN_TOKENS + t),
                                _mm256_permute4x64_epi64(q, 0xd8));
        }
}

static inline __m256i broadcast_pair(const int16_t *p)
{
    int32_t pair;

    memcpy(&pair, p, sizeof(pair));
    return _mm256_set1_epi32(pair);
}

static inline __attribute__((always_inline)) void search_n(const int16_t *q, size_t dsub,
                                                           const int8_t *book, uint8_t *ret_code)
{
    int16_t words[KERN_WORDS * 4];
    int32_t rank[KERN_WORDS];

    widen_words(book, dsub, words);
    set_ranks(words, dsub, rank);
    for (size_t t = 0; t < KERN_TOKENS; t += STEP) {
        __m256i pairs[2][4], best[4];

        for (size_t i = 0; i < dsub; i += 2)
            load_pairs(q + i * KERN_TOKENS + t, pairs[i / 2]);
        for (int k = 0; k < 4; k++)
            best[k] = _mm256_set1_epi32(INT32_MIN);
        for (size_t w = 0; w < KERN_WORDS; w++)
            for (int k = 0; k < 4; k++) {
                __m256i score = _mm256_set1_epi32(rank[w]);

                for (size_t i = 0; i < dsub; i += 2)
                    score = _mm256_add_epi32(
                        score,
                        _mm256_madd_epi16(pairs[i / 2][k], broadcast_pair(words + w * dsub + i)));
                best[k] = _mm256_max_epi32(best[k], score);
            }
        store_codes(best, ret_code + t);
    }
}

static DECL_KERN_SEARCH(search_avx2)
{
    if (dsub == 2)
        search_n(q, 2, book, ret_code);
    else if (dsub == 4)
        search_n(q, 4, book, ret_code);
    else
        search(q, dsub, book, ret_code);
}

/* 16 rows of 32 bytes, stride apart: column k to ret[k][0], column 16 + k to ret[k][1]. Dealing
 * rows i and i + 8 alternately, four times, transposes. */
static inline void transpose_16(const int8_t *rows, size_t stride, int8_t ret[16][2][16])
{
    __m256i a[16], b[16];

    for (size_t i = 0; i < 16; i++)
        a[i] = load_256(rows + i * stride);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 8; i++) {
            b[2 * i] = _mm256_unpacklo_epi8(a[i], a[i + 8]);
            b[2 * i + 1] = _mm256_unpackhi_epi8(a[i], a[i + 8]);
        }
        memcpy(a, b, sizeof(a));
    }
    for (int i = 0; i < 16; i++)
        _mm256_storeu_si256((__m256i *)ret[i], a[i]);
}

/* One coordinate of 32 tokens: table[index]. */
static inline __m256i look_up(const int8_t table[16], __m256i index)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)),
                               index);
}

/* Two coordinates of 32 tokens as pairs of int16, each times 256. */
static inline void widen_pairs(__m256i first, __m256i second, __m256i ret_pairs[4])
{
    __m256i zero = _mm256_setzero_si256();
    __m256i low = _mm256_unpacklo_epi8(first, second), high = _mm256_unpackhi_epi8(first, second);

    ret_pairs[0] = _mm256_unpacklo_epi8(zero, low);
    ret_pairs[1] = _mm256_unpackhi_epi8(zero, low);
    ret_pairs[2] = _mm256_unpacklo_epi8(zero, high);
    ret_pairs[3] = _mm256_unpackhi_epi8(zero, high);
}

/* c · (q - 8 c), times 256 */
static inline __m256i score_256(__m256i q, __m256i word)
{
    return _mm256_madd_epi16(word, _mm256_sub_epi16(q, _mm256_srai_epi16(word, 5)));
}

static inline __attribute__((always_inline)) void search_child_n(const int16_t *q, size_t dsub,
                                                                 const int8_t *children,
                                                                 const uint8_t *parent,
                                                                 uint8_t *ret_code)
{
    int8_t column[2][16][2][16]; /* of byte 32 h + 16 l + k of every parent: [h][k][l] */

    for (size_t h = 0; h < dsub / 2; h++)
        transpose_16(children + 32 * h, KERN_WORDS * dsub, column[h]);
    for (size_t t = 0; t < KERN_TOKENS; t += STEP) {
        __m256i index = load_256(parent + t), pairs[2][4], best[4];

        for (size_t i = 0; i < dsub; i += 2)
            load_pairs(q + i * KERN_TOKENS + t, pairs[i / 2]);
        for (int k = 0; k < 4; k++)
            best[k] = _mm256_set1_epi32(INT32_MIN);
        for (size_t w = 0; w < KERN_WORDS; w++) {
            __m256i score[4], words[4];

            for (int k = 0; k < 4; k++)
                score[k] = _mm256_set1_epi32((int32_t)(KERN_WORDS - 1 - w));
            for (size_t i = 0; i < dsub; i += 2) {
                size_t at = w * dsub + i;

                widen_pairs(look_up(column[at / 32][at % 16][at / 16 % 2], index),
                            look_up(column[at / 32][at % 16 + 1][at / 16 % 2], index), words);
                for (int k = 0; k < 4; k++)
                    score[k] = _mm256_add_epi32(score[k], score_256(pairs[i / 2][k], words[k]));
            }
            for (int k = 0; k < 4; k++)
                best[k] = _mm256_max_epi32(best[k], score[k]);
        }
        store_codes(best, ret_code + t);
    }
}

static DECL_KERN_SEARCH_CHILD(search_child_avx2)
{
    if (dsub == 2)
        search_child_n(q, 2, children, parent, ret_code);
    else if (dsub == 4)
        search_child_n(q, 4, children, parent, ret_code);
    else
        search_child(q, dsub, children, parent, ret_code);
}

static DECL_KERN_PACK(pack_avx2)
{
    __m128i v[4], a, b, c, d;

    for (int k = 0; k < 4; k++) {
        __m128i low = _mm_loadu_si128((const __m128i *)(code + 32 * k));
        __m128i high = _mm_loadu_si128((const __m128i *)(code + 32 * k + 16));

        v[k] = _mm_or_si128(low, _mm_slli_epi16(high, 4)); /* codes are below 16 */
    }
    a = _mm_unpacklo_epi8(v[0], v[1]);
    b = _mm_unpackhi_epi8(v[0], v[1]);
    c = _mm_unpacklo_epi8(v[2], v[3]);
    d = _mm_unpackhi_epi8(v[2], v[3]);
    _mm_storeu_si128((__m128i *)ret_line, _mm_unpacklo_epi16(a, c));
    _mm_storeu_si128((__m128i *)(ret_line + 16), _mm_unpackhi_epi16(a, c));
    _mm_storeu_si128((__m128i *)(ret_line + 32), _mm_unpacklo_epi16(b, d));
    _mm_storeu_si128((__m128i *)(ret_line + 48), _mm_unpackhi_epi16(b, d));
}

static DECL_KERN_UNPACK(unpack_avx2)
{
    __m128i spread = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m128i low = _mm_set1_epi8(15), v[4], a, b, c, d, byte[4];

    for (int k = 0; k < 4; k++) /* byte k of four dwords becomes dword k */
        v[k] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(line + 16 * k)), spread);
    a = _mm_unpacklo_epi32(v[0], v[1]);
    b = _mm_unpacklo_epi32(v[2], v[3]);
    c = _mm_unpackhi_epi32(v[0], v[1]);
    d = _mm_unpackhi_epi32(v[2], v[3]);
    byte[0] = _mm_unpacklo_epi64(a, b);
    byte[1] = _mm_unpackhi_epi64(a, b);
    byte[2] = _mm_unpacklo_epi64(c, d);
    byte[3] = _mm_unpackhi_epi64(c, d);
    for (int k = 0; k < 4; k++) {
        __m128i *to = (__m128i *)(ret_code + 32 * k);

        _mm_storeu_si128(to, _mm_and_si128(byte[k], low));
        _mm_storeu_si128(to + 1, _mm_and_si128(_mm_srli_epi16(byte[k], 4), low));
    }
}

/* y of eight tokens from eight int32 */
static inline void store_y(__m256i word, __m256 factor, float *ret_y)
{
    _mm256_storeu_ps(ret_y, _mm256_mul_ps(_mm256_cvtepi32_ps(word), factor));
}

static inline void decode_16(const uint8_t *code, size_t dsub, const int8_t *book, float scale,
                             const float *gain, float *ret_y)
{
    int8_t table[4][16];

    for (size_t i = 0; i < dsub; i++)
        for (size_t w = 0; w < KERN_WORDS; w++)
            table[i][w] = book[w * dsub + i];
    for (size_t t = 0; t < KERN_TOKENS; t += STEP) {
        __m256i index = load_256(code + t);
        int8_t words[4][STEP];

        for (size_t i = 0; i < dsub; i++)
            _mm256_storeu_si256((__m256i *)words[i], look_up(table[i], index));
        for (size_t l = 0; l < STEP; l += 8) {
            __m256 factor = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(gain + t + l));

            for (size_t i = 0; i < dsub; i++)
                store_y(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(words[i] + l))),
                        factor, ret_y + i * KERN_TOKENS + t + l);
        }
    }
}

/* A word of two int16 is gathered as a dword. */
static void decode_256(const uint8_t *code, const int8_t *book, float scale, const float *gain,
                       float *ret_y)
{
    int32_t table[KERN_WORDS * KERN_WORDS] __attribute__((aligned(32)));

    for (int w = 0; w < KERN_WORDS * KERN_WORDS; w += 8)
        _mm256_store_si256((__m256i *)(table + w),
                           _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(book + 2 * w))));
    for (size_t t = 0; t < KERN_TOKENS; t += 8) {
        __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(code + t)));
        __m256i word = _mm256_i32gather_epi32(table, index, 4);
        __m256 factor = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_loadu_ps(gain + t));

        store_y(_mm256_srai_epi32(_mm256_slli_epi32(word, 16), 16), factor, ret_y + t);
        store_y(_mm256_srai_epi32(word, 16), factor, ret_y + KERN_TOKENS + t);
    }
}

static DECL_KERN_DECODE(decode_avx2)
{
    if (dsub == 2 && n_words == KERN_WORDS)
        decode_16(code, 2, book, scale, gain, ret_y);
    else if (dsub == 4 && n_words == KERN_WORDS)
        decode_16(code, 4, book, scale, gain, ret_y);
    else if (dsub == 2 && n_words == KERN_WORDS * KERN_WORDS)
        decode_256(code, book, scale, gain, ret_y);
    else
        decode(code, dsub, book, n_words, scale, gain, ret_y);
}

KERN_TAKE_AND_GIVE(f32)
KERN_TAKE_AND_GIVE(f16)
KERN_TAKE_AND_GIVE(bf16)

/* The usual case stays in registers: every coordinate turns, with the one half a row further on. */
static inline bool turns_by_halves(const struct kern_turn *turn, size_t d)
{
    return turn->n_pairs && !turn->interleaved && 2 * turn->n_pairs == d && d % 16 == 0;
}

static inline __m256 load_halves(const char *from)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static DECL_KERN_TAKE(take_f16_avx2)
{
    size_t n_pairs = turn->n_pairs;

    if (!turns_by_halves(turn, d)) {
        take_f16(rows, stride, n, d, turn, mean, ret_x);
        return;
    }
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, false);
        for (size_t i = 0; i < n_pairs; i += 8) {
            __m256 u = load_halves(row + 2 * i), v = load_halves(row + 2 * (n_pairs + i));
            __m256 c = _mm256_loadu_ps(turn->cosine + t * n_pairs + i);
            __m256 s = _mm256_loadu_ps(turn->sine + t * n_pairs + i);
            __m256 a = _mm256_sub_ps(_mm256_mul_ps(u, c), _mm256_mul_ps(v, s));
            __m256 b = _mm256_add_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(u, s));

            _mm256_storeu_ps(ret_x + t * d + i, _mm256_sub_ps(a, _mm256_loadu_ps(mean + i)));
            _mm256_storeu_ps(ret_x + t * d + n_pairs + i,
                             _mm256_sub_ps(b, _mm256_loadu_ps(mean + n_pairs + i)));
        }
    }
}

static inline void put_halves(__m256 y, char *to)
{
    _mm_storeu_si128((__m128i *)to,
                     _mm256_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static DECL_KERN_GIVE(give_f16_avx2)
{
    size_t n_pairs = turn->n_pairs;

    if (!turns_by_halves(turn, d)) {
        give_f16(x, n, d, turn, ret_rows, stride);
        return;
    }
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;

        kern_prefetch_rows(row, stride, t, n, d, true);
        for (size_t i = 0; i < n_pairs; i += 8) {
            __m256 u = _mm256_loadu_ps(x + t * d + i);
            __m256 v = _mm256_loadu_ps(x + t * d + n_pairs + i);
            __m256 c = _mm256_loadu_ps(turn->cosine + t * n_pairs + i);
            __m256 s = _mm256_loadu_ps(turn->sine + t * n_pairs + i);

            put_halves(_mm256_sub_ps(_mm256_mul_ps(u, c), _mm256_mul_ps(v, s)), row + 2 * i);
            put_halves(_mm256_add_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(u, s)),
                       row + 2 * (n_pairs + i));
        }
    }
}

void kern_init_avx2(struct kern *k)
{
    *k = (struct kern){
        .load = { load_f32, load_f16, load_bf16 },
        .store = { store_f32, store_f16, store_bf16 },
        .rope = { NULL, rope_half, rope_interleaved },
        .add = add,
        .gains = gains,
        .quantize = quantize_avx2,
        .search = search_avx2,
        .search_child = search_child_avx2,
        .pack = pack_avx2,
        .unpack = unpack_avx2,
        .decode = decode_avx2,
        .add_squares = add_squares,
        .take = { take_f32, take_f16_avx2, take_bf16 },
        .give = { give_f32, give_f16_avx2, give_bf16 },
    };
}
