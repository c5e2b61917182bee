#pragma once

/*
 * Look-ups of panels for 512-bit registers, and half floats of their words; include immintrin.h
 * before
 *
 * As kern_avx2_rows.c has it, but a line is one register, and VPERMI2B looks a byte up among 128:
 * two of them and the top bit of (parent, child) are a table of 256.
 */

#include "lib/kern/kern_loop.h"
#include "lib/kern/kern_tables.h"

static inline __m512i line_512(const uint8_t *line)
{
    return _mm512_loadu_si512(line);
}

/* Coordinates of 16 words, one table of 16 bytes for each, in all four lanes. */
KERN_INLINE void load_tables(const int8_t *book, size_t dsub, __m512i *ret_table)
{
    __m128i table[4];

    deal_words(book, dsub, table);
    for (size_t i = 0; i < dsub; i++)
        ret_table[i] = _mm512_broadcast_i32x4(table[i]);
}

/* Register k has the chunks of bytes k, 16 + k, 32 + k, 48 + k of a line: slots are
 * [nibble][k][lane]; t is 32 b + 16 nibble + 4 lane + l % 4, k is 4 (l % 4) + b. */
static inline size_t slot_512(size_t t)
{
    return t / 16 % 2 * 64 + t % 4 * 16 + t / 32 * 4 + t / 4 % 4;
}

/* Coordinate i of byte p, v[i] byte p, to chunks. */
KERN_INLINE void store_chunks(__m512i v[KERN_CHUNK], int nibble, int8_t *ret_chunk)
{
    int8_t *to = ret_chunk + 64 * nibble * KERN_CHUNK;
    __m512i dealt[KERN_CHUNK];

#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            dealt[2 * i] = _mm512_unpacklo_epi8(v[i], v[i + 8]);
            dealt[2 * i + 1] = _mm512_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, dealt, sizeof(dealt));
    }
#pragma GCC unroll 16
    for (int k = 0; k < KERN_CHUNK; k++)
        _mm512_storeu_si512(to + 64 * k, v[k]);
}

/* Of the bytes of a line, those whose token is in the mask, by nibble. */
KERN_INLINE void mask_bytes(const struct kern_mask *m, __mmask64 ret[2])
{
    for (int nibble = 0; nibble < 2; nibble++) {
        __m512i v = _mm512_setzero_si512();

        for (int b = 0; b < 4; b++) { /* tokens 32 b + 16 nibble + l: byte b of dword l */
            uint64_t bits = m->bits[b / 2] >> (32 * (b % 2) + 16 * nibble);

            v = _mm512_mask_or_epi32(v, (__mmask16)bits, v,
                                     _mm512_set1_epi32((int)(0xffu << 8 * b)));
        }
        ret[nibble] = _mm512_movepi8_mask(v);
    }
}

/* other: a second book for the bytes of two masks, or NULL. */
KERN_INLINE void words_16_of(const uint8_t *line, size_t n_subspaces, size_t dsub,
                             const int8_t *book, const int8_t *other, const __mmask64 others[2],
                             int8_t *ret_words)
{
    __m512i low = _mm512_set1_epi8(15);

    for (size_t first = 0; first < n_subspaces * dsub;
         first += KERN_CHUNK, line += KERN_CHUNK / dsub * KERN_LINE) {
        __m512i v[2][KERN_CHUNK];

#pragma GCC unroll 8
        for (size_t i = 0; i < KERN_CHUNK; i += dsub, book += KERN_WORDS * dsub) {
            __m512i code = line_512(line + i / dsub * KERN_LINE), table[4];
            __m512i a = _mm512_and_si512(code, low);
            __m512i b = _mm512_and_si512(_mm512_srli_epi16(code, 4), low);

            load_tables(book, dsub, table);
            for (size_t k = 0; k < dsub; k++) {
                v[0][i + k] = _mm512_shuffle_epi8(table[k], a);
                v[1][i + k] = _mm512_shuffle_epi8(table[k], b);
            }
            if (!other)
                continue;
            load_tables(other, dsub, table);
            for (size_t k = 0; k < dsub; k++) {
                v[0][i + k] = _mm512_mask_shuffle_epi8(v[0][i + k], others[0], table[k], a);
                v[1][i + k] = _mm512_mask_shuffle_epi8(v[1][i + k], others[1], table[k], b);
            }
            other += KERN_WORDS * dsub;
        }
        store_chunks(v[0], 0, ret_words);
        store_chunks(v[1], 1, ret_words);
        ret_words += CHUNK_BYTES;
    }
}

KERN_INLINE void words_16(const uint8_t *line, size_t n_subspaces, size_t dsub, const int8_t *book,
                          int8_t *ret_words)
{
    words_16_of(line, n_subspaces, dsub, book, NULL, NULL, ret_words);
}

/* 64 bytes of the plane of a coordinate: of words 64 j … 64 j + 63 of the book */
KERN_INLINE __m512i plane_part(const int8_t *book, size_t dsub, size_t coordinate, size_t j)
{
    __m512i every = _mm512_loadu_si512((const int8_t[64]){
        0,  2,  4,   6,   8,   10,  12,  14,  16,  18,  20,  22,  24,  26,  28,  30,
        32, 34, 36,  38,  40,  42,  44,  46,  48,  50,  52,  54,  56,  58,  60,  62,
        64, 66, 68,  70,  72,  74,  76,  78,  80,  82,  84,  86,  88,  90,  92,  94,
        96, 98, 100, 102, 104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126 });
    const int8_t *from = book + 64 * dsub * j;
    __m512i a, b;

    if (dsub == 2)
        return _mm512_permutex2var_epi8(_mm512_loadu_si512(from),
                                        _mm512_add_epi8(every, _mm512_set1_epi8((char)coordinate)),
                                        _mm512_loadu_si512(from + 64));
    every = _mm512_add_epi8(_mm512_add_epi8(every, every), _mm512_set1_epi8((char)coordinate));
    a = _mm512_permutex2var_epi8(_mm512_loadu_si512(from), every, _mm512_loadu_si512(from + 64));
    b = _mm512_permutex2var_epi8(_mm512_loadu_si512(from + 128), every,
                                 _mm512_loadu_si512(from + 192));
    return _mm512_inserti64x4(a, _mm512_castsi512_si256(b), 1);
}

/* Bits 0 … 6 of an index choose among 128 bytes, the sign between two such tables. */
KERN_INLINE __m512i pick_256(const __m512i plane[4], __m512i index)
{
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index),
                                  _mm512_permutex2var_epi8(plane[0], index, plane[1]),
                                  _mm512_permutex2var_epi8(plane[2], index, plane[3]));
}

KERN_INLINE void words_256(const uint8_t *base, const uint8_t *fine, size_t n_subspaces,
                           size_t dsub, const int8_t *book, int8_t *ret_words)
{
    __m512i low = _mm512_set1_epi8(15);

    for (size_t first = 0; first < n_subspaces * dsub; first += KERN_CHUNK) {
        __m512i v[2][KERN_CHUNK];

#pragma GCC unroll 8
        for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
            __m512i parent = line_512(base), child = line_512(fine);
            __m512i a = _mm512_or_si512(_mm512_slli_epi16(_mm512_and_si512(parent, low), 4),
                                        _mm512_and_si512(child, low));
            __m512i b = _mm512_or_si512(_mm512_andnot_si512(low, parent),
                                        _mm512_and_si512(_mm512_srli_epi16(child, 4), low));

            for (size_t k = 0; k < dsub; k++) {
                __m512i plane[4];

                for (size_t j = 0; j < 4; j++)
                    plane[j] = plane_part(book, dsub, k, j);
                v[0][i + k] = pick_256(plane, a);
                v[1][i + k] = pick_256(plane, b);
            }
            base += KERN_LINE;
            fine += KERN_LINE;
            book += KERN_WORDS * KERN_WORDS * dsub;
        }
        store_chunks(v[0], 0, ret_words);
        store_chunks(v[1], 1, ret_words);
        ret_words += CHUNK_BYTES;
    }
}

KERN_WORDS_BY_DSUB(words_512)

static inline __m512 floats_of(const int8_t *words)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(words)));
}

static inline __m512 scaled(const int8_t *words, const float *scale, __m512 gain, const float *from)
{
    __m512 y = _mm512_mul_ps(floats_of(words), _mm512_mul_ps(_mm512_loadu_ps(scale), gain));

    return from ? _mm512_add_ps(y, _mm512_loadu_ps(from)) : y;
}

static inline void scale_row(const int8_t *words, size_t d, const float *scale, float gain,
                             const float *from, float *ret)
{
    __m512 gains = _mm512_set1_ps(gain);

    for (size_t i = 0; i < d; i += KERN_CHUNK, words += CHUNK_BYTES)
        _mm512_storeu_ps(ret + i, scaled(words, scale + i, gains, from ? from + i : NULL));
}

static const struct kern_look_up LOOK_UP_512 = { words_512, slot_512, scale_row };

/* To halves i … i + 31 of a row, of which there are d - i left: 16 at least. */
KERN_INLINE void put_halves(__m512i v, char *row, size_t i, size_t d, bool around)
{
    if (d - i < 32)
        _mm256_storeu_si256((__m256i *)(row + 2 * i), _mm512_castsi512_si256(v));
    else if (around)
        _mm512_stream_si512((__m512i *)(row + 2 * i), v);
    else
        _mm512_storeu_si512(row + 2 * i, v);
}

static inline __m256i half_of(__m512 y)
{
    return _mm512_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline void store_half_of(char *to, __m512 y)
{
    _mm256_mask_storeu_epi16(to, 0xffff, half_of(y));
}

/* Two registers of halves. Conversion stores by itself, without a shuffle; around caches a line
 * must be whole. */
KERN_INLINE void put_as_halves(__m512 a, __m512 b, char *row, size_t i, size_t d, bool around)
{
    if (around && d - i >= 32) {
        put_halves(_mm512_inserti64x4(_mm512_castsi256_si512(half_of(a)), half_of(b), 1), row, i, d,
                   true);
        return;
    }
    store_half_of(row + 2 * i, a);
    if (d - i >= 32)
        store_half_of(row + 2 * i + 32, b);
}

static inline bool is_around(const void *row, bool cold)
{
    return cold && (uintptr_t)row % sizeof(__m512i) == 0;
}

/* All rows from the first on. */
static inline bool are_around(const char *rows, ptrdiff_t stride, bool cold)
{
    return is_around(rows, cold) && is_around(rows + stride, cold);
}

static inline void scale_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                                  const float *from, void *ret_row, bool cold)
{
    __m512 gains = _mm512_set1_ps(gain);
    bool around = is_around(ret_row, cold);

    for (size_t i = 0; i < d; i += 32, words += 2 * CHUNK_BYTES) {
        size_t j = d - i < 32 ? i : i + KERN_CHUNK; /* what is twice is not stored */
        const int8_t *next = d - i < 32 ? words : words + CHUNK_BYTES;
        __m512 a = scaled(words, scale + i, gains, from ? from + i : NULL);
        __m512 b = scaled(next, scale + j, gains, from ? from + j : NULL);

        put_as_halves(a, b, ret_row, i, d, around);
    }
}
