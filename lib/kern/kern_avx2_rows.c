/*
 * AVX2, rows: look-ups, half floats, transpositions
 *
 * Byte p = 4 l + b of a line holds the codes of tokens 32 b + l and, in its high nibble, 32 b + 16
 * + l. VPSHUFB looks them up where they are; 16 coordinates of 32 such bytes are then transposed,
 * after which 16 coordinates of a token lie side by side and are stored to its row. Order costs
 * nothing: it is in the address.
 *
 * Of 256 words, those of each parent are looked up, and four bits of the parent choose between
 * them: 15 blends. Zen 3 takes longer for the gathers that this replaces.
 */

#include <immintrin.h>

#include "lib/kern/kern_leave.h"
#include "lib/kern/kern_tables.h"

enum { HALF_LINE = 32 };

static inline __m256i load_256(const void *p)
{
    return _mm256_loadu_si256(p);
}

static inline __m256i both_lanes(__m128i v)
{
    return _mm256_broadcastsi128_si256(v);
}

/* Coordinates of 16 words, one table of 16 bytes for each, in both lanes. */
KERN_INLINE void load_tables(const int8_t *book, size_t dsub, __m256i *ret_table)
{
    __m128i table[4];

    deal_words(book, dsub, table);
    for (size_t i = 0; i < dsub; i++)
        ret_table[i] = both_lanes(table[i]);
}

/* See the top: t is 32 b + 16 nibble + 8 half + 4 lane + l % 4, k is 4 (l % 4) + b */
static inline size_t slot_avx2(size_t t)
{
    return t / 8 % 2 * 64 + t / 16 % 2 * 32 + t % 4 * 8 + t / 32 * 2 + t / 4 % 2;
}

/* Coordinate i of byte p, v[i] byte p, to chunks. Dealing registers i and i + 8 alternately, four
 * times, transposes within lanes. */
KERN_INLINE void store_chunks(__m256i v[KERN_CHUNK], int half, int nibble, int8_t *ret_chunk)
{
    __m256i *to = (__m256i *)(ret_chunk + (64 * half + 32 * nibble) * KERN_CHUNK);
    __m256i dealt[KERN_CHUNK];

#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            dealt[2 * i] = _mm256_unpacklo_epi8(v[i], v[i + 8]);
            dealt[2 * i + 1] = _mm256_unpackhi_epi8(v[i], v[i + 8]);
        }
        memcpy(v, dealt, sizeof(dealt));
    }
#pragma GCC unroll 16
    for (int k = 0; k < KERN_CHUNK; k++)
        _mm256_storeu_si256(to + k, v[k]);
}

KERN_INLINE void words_16(const uint8_t *line, size_t n_subspaces, size_t dsub, const int8_t *book,
                          int8_t *ret_words)
{
    __m256i low = _mm256_set1_epi8(15);

    for (size_t first = 0; first < n_subspaces * dsub; first += KERN_CHUNK) {
        __m256i table[KERN_CHUNK], v[KERN_CHUNK];

        for (size_t i = 0; i < KERN_CHUNK; i += dsub, book += KERN_WORDS * dsub)
            load_tables(book, dsub, table + i);
        for (int half = 0; half < 2; half++)
            for (int nibble = 0; nibble < 2; nibble++) {
                for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
                    __m256i code = load_256(line + i / dsub * KERN_LINE + half * HALF_LINE);

                    code = nibble ? _mm256_srli_epi16(code, 4) : code;
                    code = _mm256_and_si256(code, low);
                    for (size_t k = 0; k < dsub; k++)
                        v[i + k] = _mm256_shuffle_epi8(table[i + k], code);
                }
                store_chunks(v, half, nibble, ret_words);
            }
        line += KERN_CHUNK / dsub * KERN_LINE;
        ret_words += CHUNK_BYTES;
    }
}

/* The children of 16 parents, 16 bytes for each coordinate: [parent][coordinate] */
struct child_tables {
    __m128i table[4 * KERN_WORDS] __attribute__((aligned(32)));
};

KERN_INLINE void child_tables_set(struct child_tables *c, const int8_t *children, size_t dsub)
{
    for (size_t p = 0; p < KERN_WORDS; p++) {
        const int8_t *words = children + p * KERN_WORDS * dsub;

        if (dsub == 2) {
            __m256i deal =
                both_lanes(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
            __m256i v = _mm256_shuffle_epi8(load_256(words), deal);

            _mm256_store_si256((__m256i *)&c->table[2 * p], _mm256_permute4x64_epi64(v, 0xd8));
        } else {
            __m256i table[4];

            load_tables(words, dsub, table);
            for (size_t k = 0; k < dsub; k++)
                c->table[dsub * p + k] = _mm256_castsi256_si128(table[k]);
        }
    }
}

/* The child's word of one parent. */
KERN_INLINE __m256i pick(const __m128i *table, __m256i child)
{
    return _mm256_shuffle_epi8(both_lanes(_mm_load_si128(table)), child);
}

/* Among those of four, of 16 parents; bit k of the parent is the sign of bit[k]. */
KERN_INLINE __m256i pick_4(const __m128i *table, size_t step, __m256i child, const __m256i bit[4])
{
    __m256i a = _mm256_blendv_epi8(pick(table, child), pick(table + step, child), bit[0]);
    __m256i b =
        _mm256_blendv_epi8(pick(table + 2 * step, child), pick(table + 3 * step, child), bit[0]);

    return _mm256_blendv_epi8(a, b, bit[1]);
}

KERN_INLINE __m256i pick_16(const __m128i *table, size_t step, __m256i child, const __m256i bit[4])
{
    __m256i a = pick_4(table, step, child, bit), b = pick_4(table + 4 * step, step, child, bit);
    __m256i c, e;

    a = _mm256_blendv_epi8(a, b, bit[2]);
    c = pick_4(table + 8 * step, step, child, bit);
    e = pick_4(table + 12 * step, step, child, bit);
    c = _mm256_blendv_epi8(c, e, bit[2]);
    return _mm256_blendv_epi8(a, c, bit[3]);
}

/* Coordinates i … i + dsub - 1 of a group, to ret[half][nibble] */
KERN_INLINE void words_of_children(const uint8_t *base, const uint8_t *fine, size_t dsub,
                                   const int8_t *children, size_t i, __m256i ret[2][2][KERN_CHUNK])
{
    __m256i low = _mm256_set1_epi8(15);
    struct child_tables tables;

    child_tables_set(&tables, children, dsub);
    for (int half = 0; half < 2; half++)
        for (int nibble = 0; nibble < 2; nibble++) {
            __m256i parent = load_256(base + half * HALF_LINE), bit[4];
            __m256i child = load_256(fine + half * HALF_LINE);

            if (nibble)
                child = _mm256_srli_epi16(child, 4);
            child = _mm256_and_si256(child, low);
            for (int k = 0; k < 4; k++) /* from bit k, or 4 + k, of the byte to its sign */
                bit[k] =
                    nibble ? _mm256_slli_epi16(parent, 3 - k) : _mm256_slli_epi16(parent, 7 - k);
            for (size_t k = 0; k < dsub; k++)
                ret[half][nibble][i + k] = pick_16(tables.table + k, dsub, child, bit);
        }
}

KERN_INLINE void words_256(const uint8_t *base, const uint8_t *fine, size_t n_subspaces,
                           size_t dsub, const int8_t *book, int8_t *ret_words)
{
    for (size_t first = 0; first < n_subspaces * dsub; first += KERN_CHUNK) {
        __m256i v[2][2][KERN_CHUNK];

        for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
            words_of_children(base, fine, dsub, book, i, v);
            base += KERN_LINE;
            fine += KERN_LINE;
            book += KERN_WORDS * KERN_WORDS * dsub;
        }
        for (int half = 0; half < 2; half++)
            for (int nibble = 0; nibble < 2; nibble++)
                store_chunks(v[half][nibble], half, nibble, ret_words);
        ret_words += CHUNK_BYTES;
    }
}

KERN_WORDS_BY_DSUB(words_avx2)

static inline __m256 scaled(const int8_t *words, const float *scale, __m256 gain)
{
    __m256i word = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)words));

    return _mm256_mul_ps(_mm256_cvtepi32_ps(word), _mm256_mul_ps(_mm256_loadu_ps(scale), gain));
}

static inline void scale_row(const int8_t *words, size_t d, const float *scale, float gain,
                             const float *from, float *ret)
{
    __m256 gains = _mm256_set1_ps(gain);

    for (size_t i = 0; i < d; i += KERN_CHUNK, words += CHUNK_BYTES)
        for (size_t k = 0; k < KERN_CHUNK; k += 8) {
            __m256 y = scaled(words + k, scale + i + k, gains);

            if (from)
                y = _mm256_add_ps(y, _mm256_loadu_ps(from + i + k));
            _mm256_storeu_ps(ret + i + k, y);
        }
}

static const struct kern_look_up LOOK_UP = { words_avx2, slot_avx2, scale_row };

static inline __m128i half_of(__m256 y)
{
    return _mm256_cvtps_ph(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

KERN_INLINE void put_halves(__m256 a, __m256 b, char *to, bool around)
{
    __m256i v = _mm256_set_m128i(half_of(b), half_of(a));

    if (around)
        _mm256_stream_si256((__m256i *)to, v);
    else
        _mm256_storeu_si256((__m256i *)to, v);
}

static inline bool is_around(const void *row, bool cold)
{
    return cold && (uintptr_t)row % sizeof(__m256i) == 0;
}

static inline void scale_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                                  const float *from, void *ret_row, bool cold)
{
    __m256 gains = _mm256_set1_ps(gain);
    bool around = is_around(ret_row, cold);

    for (size_t i = 0; i < d; i += KERN_CHUNK, words += CHUNK_BYTES) {
        __m256 a = scaled(words, scale + i, gains);
        __m256 b = scaled(words + 8, scale + i + 8, gains);

        if (from) {
            a = _mm256_add_ps(a, _mm256_loadu_ps(from + i));
            b = _mm256_add_ps(b, _mm256_loadu_ps(from + i + 8));
        }
        put_halves(a, b, (char *)ret_row + 2 * i, around);
    }
}

/* Scaled, plus leak times state, which is the next state. */
static inline __m256 advanced(const int8_t *words, const float *scale, __m256 gain,
                              const float *leak, float *state)
{
    __m256 y = _mm256_mul_ps(_mm256_loadu_ps(leak), _mm256_loadu_ps(state));

    y = _mm256_add_ps(scaled(words, scale, gain), y);
    _mm256_storeu_ps(state, y);
    return y;
}

static inline void advance_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                                    const float *leak, float *state, void *ret_row, bool cold)
{
    __m256 gains = _mm256_set1_ps(gain);
    bool around = is_around(ret_row, cold);

    for (size_t i = 0; i < d; i += KERN_CHUNK, words += CHUNK_BYTES)
        put_halves(advanced(words, scale + i, gains, leak + i, state + i),
                   advanced(words + 8, scale + i + 8, gains, leak + i + 8, state + i + 8),
                   (char *)ret_row + 2 * i, around);
}

static void search_avx2(const struct loop_book *book, const int16_t *q, size_t n_subspaces,
                        size_t dsub, uint8_t *ret_code, int16_t *ret_wide)
{
    if (dsub != 2) {
        loop_search(book, q, n_subspaces, dsub, ret_code, ret_wide);
        return;
    }
    for (size_t m = 0; m < n_subspaces; m += 8) {
        __m256i pairs = load_256(q + 2 * m), best = _mm256_set1_epi32(INT32_MIN);
        __m256i spread = _mm256_set1_epi32(0x0c080400), word = best;

#pragma GCC unroll 16
        for (size_t w = 0; w < KERN_WORDS; w++) {
            __m256i wide = load_256(book->wide[w] + 2 * m);
            __m256i rank =
                _mm256_add_epi32(_mm256_madd_epi16(pairs, wide), load_256(book->rank[w] + m));

            word = _mm256_blendv_epi8(word, wide, _mm256_cmpgt_epi32(rank, best));
            best = _mm256_max_epi32(best, rank);
        }
        _mm256_storeu_si256((__m256i *)(ret_wide + 2 * m), word);
        best = _mm256_andnot_si256(best, _mm256_set1_epi32(KERN_WORDS - 1));
        best = _mm256_shuffle_epi8(best, spread); /* four bytes of each lane */
        _mm_storel_epi64(
            (__m128i *)(ret_code + m),
            _mm_unpacklo_epi32(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1)));
    }
}

static DECL_KERN_DECODE_ROWS(decode_rows_avx2)
{
    decode_rows_by(LOOK_UP, panel, ret_base, ret_fine);
}

static DECL_KERN_DECODE_HALF(decode_half_avx2)
{
    decode_half_by(LOOK_UP, (struct kern_halves){ scale_half_row, advance_half_row }, panel,
                   ret_rows, stride, cold);
}

static DECL_KERN_SEARCH_LOOP(search_loop_avx2)
{
    const struct kern_loop_steps steps = { search_avx2, loop_leave_x86 };

    if (loop->dsub == 2)
        search_loop_by(steps, loop, 2, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
    else
        search_loop_by(steps, loop, 4, y, ret_predicted, ret_gain, ret_code, ret_q, ret_base);
}

void kern_init_avx2_rows(struct kern *k)
{
    k->squares = squares;
    k->decode_rows = decode_rows_avx2;
    k->decode_half = decode_half_avx2;
    k->search_loop = search_loop_avx2;
}
