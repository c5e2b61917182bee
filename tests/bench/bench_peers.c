/*
 * Our side of bench_peers.py, and the scalar formats q8_0 and q4_0 as yardsticks, for ctypes
 *
 * Ours: fp32 rows to packed panels with gains and back, by the kernels alone, without a rotation,
 * as product quantisers have none. The yardsticks are llama.cpp's formats (32 numbers and an fp16
 * scale), written for AVX2 here: q8_0 takes 8.5 bits a number, q4_0 4.5.
 */

#include <stdint.h>
#include <string.h>

#include "lib/base/half.h"
#include "lib/kern/kern.h"

enum { T = KERN_TOKENS, BLOCK = 32, Q8_BYTES = 34, Q4_BYTES = 18 };

#define VISIBLE __attribute__((visibility("default")))

/* One stream for all vectors: books [n_subspaces][16][2] and [n_subspaces][16][16][2]. */
struct peers_stream {
    uint32_t cpu; /* of enum kern_cpu */
    uint32_t d;
    const float *scale;
    const int8_t *base, *fine;
};

VISIBLE unsigned peers_cpu(void);
VISIBLE void peers_encode(const struct peers_stream *s, const float *x, size_t n, uint8_t *ret_gain,
                          uint8_t *ret_base, uint8_t *ret_fine);
VISIBLE void peers_decode_f32(const struct peers_stream *s, const uint8_t *gain,
                              const uint8_t *base, const uint8_t *fine, size_t n, float *ret_x);
VISIBLE void peers_decode_f16(const struct peers_stream *s, const uint8_t *gain,
                              const uint8_t *base, const uint8_t *fine, size_t n, uint16_t *ret_x);
VISIBLE void q8_encode(const float *x, size_t n, uint8_t *ret);
VISIBLE void q8_decode(const uint8_t *from, size_t n, uint16_t *ret_x);
VISIBLE void q4_encode(const float *x, size_t n, uint8_t *ret);
VISIBLE void q4_decode(const uint8_t *from, size_t n, uint16_t *ret_x);

unsigned peers_cpu(void)
{
    return kern_cpu_detect();
}

static void fill_gains(float gain[256], float inverse[256])
{
    gain[0] = inverse[0] = 0;
    for (int i = 1; i < 256; i++) {
        gain[i] = __builtin_exp2f((float)(i - 161) / 8);
        inverse[i] = 1 / gain[i];
    }
}

typedef float floats __attribute__((vector_size(32)));
typedef int32_t ints __attribute__((vector_size(32)));

#define MIX(a, b, ...) __builtin_shuffle(a, b, (ints){ __VA_ARGS__ })

/* 8 rows of 8 to columns: within lanes by ones, by twos, then across. */
static inline void turn_8(floats v[8])
{
    floats a[8], b[8];

    for (int i = 0; i < 8; i += 2) {
        a[i] = MIX(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        a[i + 1] = MIX(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            b[i + 2 * k] = MIX(a[i + k], a[i + k + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            b[i + 2 * k + 1] = MIX(a[i + k], a[i + k + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int k = 0; k < 4; k++) {
        v[k] = MIX(b[k], b[k + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        v[k + 4] = MIX(b[k], b[k + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* 128 rows to dim-major. In the codec, BLAS delivers it so. */
static void turn(const float *x, size_t d, float *restrict ret_y)
{
    for (size_t t = 0; t < T; t += 8)
        for (size_t i = 0; i < d; i += 8) {
            floats v[8];

            for (size_t u = 0; u < 8; u++)
                memcpy(&v[u], x + (t + u) * d + i, sizeof(v[u]));
            turn_8(v);
            for (size_t k = 0; k < 8; k++)
                memcpy(ret_y + (i + k) * T + t, &v[k], sizeof(v[k]));
        }
}

static void encode_panel(const struct peers_stream *s, const struct kern *k, const float *y,
                         const float inverse_of[256], uint8_t *ret_gain, uint8_t *ret_base,
                         uint8_t *ret_fine)
{
    int32_t gain[T];
    float inverse[T], square[T];
    int16_t q[2 * T];
    uint8_t parent[T], child[T];

    k->gains(y, s->d, square, gain);
    for (size_t t = 0; t < T; t++) {
        ret_gain[t] = gain[t] < 256 ? (uint8_t)gain[t] : 0;
        inverse[t] = inverse_of[ret_gain[t]];
    }
    for (size_t m = 0; m < s->d / 2; m++) {
        k->quantize(y + 2 * m * T, 2, inverse, 16 / s->scale[m], q);
        k->search(q, 2, s->base + m * 32, parent);
        k->pack(parent, ret_base + m * KERN_LINE);
        if (!ret_fine)
            continue;
        k->search_child(q, 2, s->fine + m * 512, parent, child);
        k->pack(child, ret_fine + m * KERN_LINE);
    }
}

void peers_encode(const struct peers_stream *s, const float *x, size_t n, uint8_t *ret_gain,
                  uint8_t *ret_base, uint8_t *ret_fine)
{
    float y[KERN_MAX_DIM * T] __attribute__((aligned(64))), gain[256], inverse[256];
    struct kern k;

    kern_init(&k, s->cpu);
    fill_gains(gain, inverse);
    for (size_t t = 0; t < n; t += T) {
        size_t panel = t / T * (s->d / 2) * KERN_LINE;

        turn(x + t * s->d, s->d, y);
        encode_panel(s, &k, y, inverse, ret_gain + t, ret_base + panel,
                     ret_fine ? ret_fine + panel : NULL);
    }
}

static struct kern_panel panel_of(const struct peers_stream *s, const uint8_t *base,
                                  const uint8_t *fine, size_t t, const float *gain)
{
    size_t panel = t / T * (s->d / 2) * KERN_LINE;

    return (struct kern_panel){
        .base = base + panel,
        .fine = fine ? fine + panel : NULL,
        .n_subspaces = s->d / 2,
        .dsub = 2,
        .gain = gain,
        .intra = { s->scale, s->base, s->fine },
    };
}

/* To one of the two. */
static void decode(const struct peers_stream *s, const uint8_t *gain, const uint8_t *base,
                   const uint8_t *fine, size_t n, float *ret_f32, uint16_t *ret_f16)
{
    float gain_of[256], inverse[256], gains[T];
    struct kern k;

    kern_init(&k, s->cpu);
    fill_gains(gain_of, inverse);
    for (size_t t = 0; t < n; t += T) {
        struct kern_panel p = panel_of(s, base, fine, t, gains);
        float *x = ret_f32 ? ret_f32 + t * s->d : NULL;

        for (size_t i = 0; i < T; i++)
            gains[i] = gain_of[gain[t + i]];
        if (ret_f16)
            k.decode_half(&p, ret_f16 + t * s->d, (ptrdiff_t)(2 * s->d), true);
        else
            k.decode_rows(&p, fine ? NULL : x, fine ? x : NULL);
    }
    kern_fence();
}

void peers_decode_f32(const struct peers_stream *s, const uint8_t *gain, const uint8_t *base,
                      const uint8_t *fine, size_t n, float *ret_x)
{
    decode(s, gain, base, fine, n, ret_x, NULL);
}

void peers_decode_f16(const struct peers_stream *s, const uint8_t *gain, const uint8_t *base,
                      const uint8_t *fine, size_t n, uint16_t *ret_x)
{
    decode(s, gain, base, fine, n, NULL, ret_x);
}

/* --- yardsticks: AVX2 by gcc's names, since intrinsics have one door, lib/kern --- */

typedef float few_floats __attribute__((vector_size(16)));
typedef short halves __attribute__((vector_size(16)));
typedef short shorts __attribute__((vector_size(32)));
typedef char bytes __attribute__((vector_size(16)));
typedef char many_bytes __attribute__((vector_size(32)));

static inline floats load_floats(const float *x)
{
    floats v;

    memcpy(&v, x, sizeof(v));
    return v;
}

/* Eight halves of the lower or upper eight bytes times scale. */
static inline void put_halves(bytes b, int upper, float scale, uint16_t *to)
{
    bytes eight = upper ? __builtin_shuffle(b, (bytes){ 8, 9, 10, 11, 12, 13, 14, 15 }) : b;
    floats y = __builtin_ia32_cvtdq2ps256(__builtin_ia32_pmovsxbd256(eight)) * scale;
    halves h = __builtin_ia32_vcvtps2ph256(y, 0);

    memcpy(to, &h, sizeof(h));
}

static inline float max_of(floats v)
{
    float most = 0;

    for (int k = 0; k < 4; k++)
        v[k] = v[k] > v[k + 4] ? v[k] : v[k + 4];
    for (int k = 0; k < 4; k++)
        most = v[k] > most ? v[k] : most;
    return most;
}

/* The largest magnitude of a block. */
static inline float widest(const float *x)
{
    floats most = { 0 };

    for (size_t k = 0; k < BLOCK; k += 8) {
        ints bits = (ints)load_floats(x + k) & 0x7fffffff;

        most = __builtin_ia32_maxps256(most, (floats)bits);
    }
    return max_of(most);
}

/* The number of the largest magnitude. */
static inline float extreme(const float *x)
{
    floats most = { 0 }, least = { 0 };
    float up, down;

    for (size_t k = 0; k < BLOCK; k += 8) {
        most = __builtin_ia32_maxps256(most, load_floats(x + k));
        least = __builtin_ia32_maxps256(least, -load_floats(x + k));
    }
    up = max_of(most);
    down = max_of(least);
    return up > down ? up : -down;
}

static inline ints rounded(const float *x, float inverse)
{
    return __builtin_ia32_cvtps2dq256(load_floats(x) * inverse);
}

static inline void put_scale(float scale, uint8_t *to)
{
    halves h = __builtin_ia32_vcvtps2ph((few_floats){ scale }, 0);

    memcpy(to, &h, sizeof(uint16_t));
}

static inline float get_scale(const uint8_t *from)
{
    halves h = { 0 };

    memcpy(&h, from, sizeof(uint16_t));
    return __builtin_ia32_vcvtph2ps(h)[0];
}

/* A block as 32 bytes, in order. */
static inline many_bytes bytes_of(const float *x, float inverse)
{
    shorts a = __builtin_ia32_packssdw256(rounded(x, inverse), rounded(x + 8, inverse));
    shorts b = __builtin_ia32_packssdw256(rounded(x + 16, inverse), rounded(x + 24, inverse));
    ints v = (ints)__builtin_ia32_packsswb256(a, b);

    return (many_bytes)__builtin_shuffle(v, (ints){ 0, 4, 1, 5, 2, 6, 3, 7 });
}

void q8_encode(const float *x, size_t n, uint8_t *ret)
{
    for (size_t i = 0; i < n; i += BLOCK, ret += Q8_BYTES) {
        float scale = widest(x + i) / 127;
        many_bytes b = bytes_of(x + i, scale > 0 ? 1 / scale : 0);

        put_scale(scale, ret);
        memcpy(ret + 2, &b, sizeof(b));
    }
}

void q8_decode(const uint8_t *from, size_t n, uint16_t *ret_x)
{
    for (size_t i = 0; i < n; i += BLOCK, from += Q8_BYTES) {
        float scale = get_scale(from);
        bytes b;

        for (size_t k = 0; k < BLOCK; k += 16) {
            memcpy(&b, from + 2 + k, sizeof(b));
            put_halves(b, 0, scale, ret_x + i + k);
            put_halves(b, 1, scale, ret_x + i + k + 8);
        }
    }
}

/* Numbers j and 16 + j of a block share a byte: low and high nibble, each plus 8. The extreme
 * becomes -8, so the scale has its sign, and 8 becomes 7. */
void q4_encode(const float *x, size_t n, uint8_t *ret)
{
    for (size_t i = 0; i < n; i += BLOCK, ret += Q4_BYTES) {
        float scale = extreme(x + i) / -8;
        many_bytes v = bytes_of(x + i, scale ? 1 / scale : 0) + 8;
        bytes half[2], b;

        v += (many_bytes)(v > 15);
        memcpy(half, &v, sizeof(v));
        b = half[0] | half[1] << 4;
        put_scale(scale, ret);
        memcpy(ret + 2, &b, sizeof(b));
    }
}

void q4_decode(const uint8_t *from, size_t n, uint16_t *ret_x)
{
    for (size_t i = 0; i < n; i += BLOCK, from += Q4_BYTES) {
        float scale = get_scale(from);
        bytes b, low, high;

        memcpy(&b, from + 2, sizeof(b));
        low = (b & 15) - 8;
        high = (b >> 4 & 15) - 8;
        put_halves(low, 0, scale, ret_x + i);
        put_halves(low, 1, scale, ret_x + i + 8);
        put_halves(high, 0, scale, ret_x + i + 16);
        put_halves(high, 1, scale, ret_x + i + 24);
    }
}
