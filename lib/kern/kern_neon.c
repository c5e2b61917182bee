/*
 * NEON, which every aarch64 has: look-ups of panels, half floats
 *
 * A quarter of a line is a register. VTBL looks 16 words up in one, 256 in four times four; sixteen
 * coordinates are then transposed as bytes, as in kern_avx2_rows.c. The rest the compiler widens.
 */

#include <arm_neon.h>

#include "lib/kern/kern_body.h"

enum { QUARTERS = 4, QUARTER_LINE = KERN_LINE / QUARTERS };

static DECL_KERN_LOAD(load_f16)
{
    for (size_t t = 0; t < n; t++) {
        const char *row = (const char *)rows + (ptrdiff_t)t * stride;
        float *to = ret_x + t * d;
        size_t i = 0;

        for (; i + 4 <= d; i += 4) {
            uint8x8_t halves = vld1_u8((const uint8_t *)row + i * sizeof(uint16_t));

            vst1q_f32(to + i, vcvt_f32_f16(vreinterpret_f16_u8(halves)));
        }
        for (; i < d; i++) {
            uint16_t h;

            memcpy(&h, row + i * sizeof(h), sizeof(h));
            to[i] = f32_from_f16(h);
        }
    }
}

static inline void put_halves(float32x4_t y, void *to)
{
    vst1_u8(to, vreinterpret_u8_f16(vcvt_f16_f32(y)));
}

static DECL_KERN_STORE(store_f16)
{
    for (size_t t = 0; t < n; t++) {
        char *row = (char *)ret_rows + (ptrdiff_t)t * stride;
        const float *from = x + t * d;
        size_t i = 0;

        for (; i + 4 <= d; i += 4)
            put_halves(vld1q_f32(from + i), row + i * sizeof(uint16_t));
        for (; i < d; i++) {
            uint16_t h = f16_from_f32(from[i]);

            memcpy(row + i * sizeof(h), &h, sizeof(h));
        }
    }
}

KERN_TAKE_AND_GIVE(f16)

/* Byte p = 4 l + b of a line has tokens 32 b + l and, in its high nibble, 32 b + 16 + l; slots are
 * [p / 16][nibble][p % 16]. */
static inline size_t slot_neon(size_t t)
{
    return t % 16 / 4 * 32 + t / 16 % 2 * 16 + t % 4 * 4 + t / 32;
}

/* Coordinate i of byte p, v[i] byte p, to chunks. */
KERN_INLINE void store_chunks(int8x16_t v[KERN_CHUNK], size_t quarter, size_t nibble,
                              int8_t *ret_chunk)
{
    int8_t *to = ret_chunk + (2 * quarter + nibble) * KERN_CHUNK * KERN_CHUNK;
    int8x16_t dealt[KERN_CHUNK];

#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            dealt[2 * i] = vzip1q_s8(v[i], v[i + 8]);
            dealt[2 * i + 1] = vzip2q_s8(v[i], v[i + 8]);
        }
        memcpy(v, dealt, sizeof(dealt));
    }
#pragma GCC unroll 16
    for (size_t k = 0; k < KERN_CHUNK; k++)
        vst1q_s8(to + KERN_CHUNK * k, v[k]);
}

/* Of 16 words: a table for each coordinate. */
KERN_INLINE void load_tables(const int8_t *book, size_t dsub, int8x16_t *ret_table)
{
    if (dsub == 2) {
        int8x16x2_t v = vld2q_s8(book);

        memcpy(ret_table, v.val, sizeof(v));
    } else {
        int8x16x4_t v = vld4q_s8(book);

        memcpy(ret_table, v.val, sizeof(v));
    }
}

static inline uint8x16_t nibbles(const uint8_t *line, size_t quarter, size_t nibble)
{
    uint8x16_t code = vld1q_u8(line + QUARTER_LINE * quarter);

    return nibble ? vshrq_n_u8(code, 4) : vandq_u8(code, vdupq_n_u8(15));
}

KERN_INLINE void words_16(const uint8_t *line, size_t n_subspaces, size_t dsub, const int8_t *book,
                          int8_t *ret_words)
{
    for (size_t first = 0; first < n_subspaces * dsub; first += KERN_CHUNK) {
        int8x16_t table[KERN_CHUNK], v[KERN_CHUNK];

        for (size_t i = 0; i < KERN_CHUNK; i += dsub, book += KERN_WORDS * dsub)
            load_tables(book, dsub, table + i);
        for (size_t quarter = 0; quarter < QUARTERS; quarter++)
            for (size_t nibble = 0; nibble < 2; nibble++) {
                for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
                    uint8x16_t code = nibbles(line + i / dsub * KERN_LINE, quarter, nibble);

                    for (size_t k = i; k < i + dsub; k++)
                        v[k] = vqtbl1q_s8(table[k], code);
                }
                store_chunks(v, quarter, nibble, ret_words);
            }
        line += KERN_CHUNK / dsub * KERN_LINE;
        ret_words += CHUNK_BYTES;
    }
}

/* 256 words of one coordinate, by parent, and how far apart they are. */
KERN_INLINE int8x16_t pick_256(const int8x16_t *table, size_t step, uint8x16_t index)
{
    int8x16_t v = vdupq_n_s8(0);

#pragma GCC unroll 4
    for (size_t k = 0; k < KERN_WORDS; k += 4) {
        int8x16x4_t four = { { table[k * step], table[(k + 1) * step], table[(k + 2) * step],
                               table[(k + 3) * step] } };

        v = vqtbx4q_s8(v, four, vsubq_u8(index, vdupq_n_u8((uint8_t)(KERN_WORDS * k))));
    }
    return v;
}

/* Coordinates i … i + dsub - 1 of a chunk. */
KERN_INLINE void words_of_children(const uint8_t *base, const uint8_t *fine, size_t dsub,
                                   const int8_t *children, size_t i,
                                   int8x16_t ret[QUARTERS][2][KERN_CHUNK])
{
    int8x16_t table[4 * KERN_WORDS];

    for (size_t p = 0; p < KERN_WORDS; p++)
        load_tables(children + p * KERN_WORDS * dsub, dsub, table + p * dsub);
    for (size_t quarter = 0; quarter < QUARTERS; quarter++)
        for (size_t nibble = 0; nibble < 2; nibble++) {
            uint8x16_t parent = nibbles(base, quarter, nibble);
            uint8x16_t index = vsliq_n_u8(nibbles(fine, quarter, nibble), parent, 4);

            for (size_t k = 0; k < dsub; k++)
                ret[quarter][nibble][i + k] = pick_256(table + k, dsub, index);
        }
}

KERN_INLINE void words_256(const uint8_t *base, const uint8_t *fine, size_t n_subspaces,
                           size_t dsub, const int8_t *book, int8_t *ret_words)
{
    for (size_t first = 0; first < n_subspaces * dsub; first += KERN_CHUNK) {
        int8x16_t v[QUARTERS][2][KERN_CHUNK];

        for (size_t i = 0; i < KERN_CHUNK; i += dsub) {
            words_of_children(base, fine, dsub, book, i, v);
            base += KERN_LINE;
            fine += KERN_LINE;
            book += KERN_WORDS * KERN_WORDS * dsub;
        }
        for (size_t quarter = 0; quarter < QUARTERS; quarter++)
            for (size_t nibble = 0; nibble < 2; nibble++)
                store_chunks(v[quarter][nibble], quarter, nibble, ret_words);
        ret_words += CHUNK_BYTES;
    }
}

KERN_WORDS_BY_DSUB(words_neon)

/* Four words times their scales and a gain. */
static inline float32x4_t scaled(const int8_t *words, const float *scale, float gain)
{
    int32_t four;
    int16x4_t wide;

    memcpy(&four, words, sizeof(four));
    wide = vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))));
    return vmulq_f32(vcvtq_f32_s32(vmovl_s16(wide)), vmulq_n_f32(vld1q_f32(scale), gain));
}

static inline const int8_t *words_at(const int8_t *words, size_t i)
{
    return words + i / KERN_CHUNK * CHUNK_BYTES + i % KERN_CHUNK;
}

static void scale_row(const int8_t *words, size_t d, const float *scale, float gain,
                      const float *from, float *ret)
{
    for (size_t i = 0; i < d; i += 4) {
        float32x4_t y = scaled(words_at(words, i), scale + i, gain);

        vst1q_f32(ret + i, from ? vaddq_f32(y, vld1q_f32(from + i)) : y);
    }
}

static const struct kern_look_up LOOK_UP = { words_neon, slot_neon, scale_row };

static void scale_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                           const float *from, void *ret_row, bool cold)
{
    (void)cold;
    for (size_t i = 0; i < d; i += 4) {
        float32x4_t y = scaled(words_at(words, i), scale + i, gain);

        put_halves(from ? vaddq_f32(y, vld1q_f32(from + i)) : y,
                   (char *)ret_row + i * sizeof(uint16_t));
    }
}

static void advance_half_row(const int8_t *words, size_t d, const float *scale, float gain,
                             const float *leak, float *state, void *ret_row, bool cold)
{
    (void)cold;
    for (size_t i = 0; i < d; i += 4) {
        float32x4_t from = vmulq_f32(vld1q_f32(leak + i), vld1q_f32(state + i));
        float32x4_t y = vaddq_f32(scaled(words_at(words, i), scale + i, gain), from);

        vst1q_f32(state + i, y);
        put_halves(y, (char *)ret_row + i * sizeof(uint16_t));
    }
}

static DECL_KERN_DECODE_ROWS(decode_rows_neon)
{
    decode_rows_by(LOOK_UP, panel, ret_base, ret_fine);
}

static DECL_KERN_DECODE_HALF(decode_half_neon)
{
    decode_half_by(LOOK_UP, (struct kern_halves){ scale_half_row, advance_half_row }, panel,
                   ret_rows, stride, cold);
}

void kern_init_neon(struct kern *k)
{
    k->load[1] = load_f16;
    k->store[1] = store_f16;
    k->take[1] = take_f16;
    k->give[1] = give_f16;
    k->decode_rows = decode_rows_neon;
    k->decode_half = decode_half_neon;
}
