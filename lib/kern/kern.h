#pragma once

/*
 * The kernels: everything hot that is not a GEMM
 *
 * Arrays are dim-major where nothing else is said: value of dimension i and token t at [i * 128 +
 * t]. Lanes are tokens, so a sum over dimensions runs in the same order for every lane width, and
 * the results are the same bits on every instruction set. The C bodies (kern_body.h) are the
 * definition; nothing here may be contracted to an FMA.
 *
 * A signature is written once, by DECL_KERN_…(); prototypes, bodies and the table use it.
 */

#include <stddef.h>
#include <stdint.h>

enum {
    KERN_TOKENS = 128, /* of a panel: the length of every token axis */
    KERN_LINE = 64,    /* bytes of a panel line: 128 nibbles */
    KERN_WORDS = 16,   /* codewords of a plane */
    KERN_Q_MAX = 8191, /* |q| of kern->quantize */
};

/**
 * DECL_KERN_LOAD() - rows of one dtype to fp32, token-major
 * @rows:   first row; row t is at rows + t * stride bytes, any alignment
 * @d:      numbers in a row
 * @ret_x:  [n][d]
 */
#define DECL_KERN_LOAD(name) \
    void name(const void *rows, ptrdiff_t stride, size_t n, size_t d, float *ret_x)

/** DECL_KERN_STORE() - fp32 rows to a dtype, round to nearest even; the inverse of LOAD */
#define DECL_KERN_STORE(name) \
    void name(const float *x, size_t n, size_t d, void *ret_rows, ptrdiff_t stride)

/**
 * DECL_KERN_ROPE() - turn pairs of coordinates in place, token-major rows
 * @x:    [n][d]
 * @cosine, @sine: [n][n_pairs]; for the inverse: cosine, and sine negated, over the scaling squared
 * (a, b) becomes (a*cos - b*sin, b*cos + a*sin): pairs (i, i + n_pairs) for HALF, (2i, 2i + 1) for
 * INTERLEAVED.
 */
#define DECL_KERN_ROPE(name) \
    void name(float *x, size_t n, size_t d, const float *cosine, const float *sine, size_t n_pairs)

/** DECL_KERN_ADD() - x[t][i] += sign * v[i] for token-major rows; sign is +1 or -1 */
#define DECL_KERN_ADD(name) void name(float *x, size_t n, size_t d, const float *v, float sign)

/**
 * DECL_KERN_GAINS() - gain codes
 * @y: [d][128]
 * @ret_code: [128]: 161 + round(8 * log2(rms)) with the rms over d; 0 for (nearly) zero vectors,
 *            256 for what must escape: too large, or not finite
 */
#define DECL_KERN_GAINS(name) void name(const float *y, size_t d, int32_t *ret_code)

/**
 * DECL_KERN_QUANTIZE() - q = round((y * inverse_gain) * factor), to nearest even, within
 * ±KERN_Q_MAX
 * @y:            [n][128]
 * @inverse_gain: [128]
 * @factor:       16 / scale of the subspace
 * @ret_q:        [n][128]
 */
#define DECL_KERN_QUANTIZE(name) \
    void name(const float *y, size_t n, const float *inverse_gain, float factor, int16_t *ret_q)

/**
 * DECL_KERN_SEARCH() - nearest of 16 codewords: argmax of q·c - 8|c|², ties to the lowest index
 * @q:        [dsub][128]
 * @book:     [16][dsub]
 * @ret_code: [128], 0 … 15
 */
#define DECL_KERN_SEARCH(name) \
    void name(const int16_t *q, size_t dsub, const int8_t *book, uint8_t *ret_code)

/**
 * DECL_KERN_SEARCH_CHILD() - the same among the 16 children of each token's parent
 * @children: [16 parents][16][dsub]
 * @parent:   [128], 0 … 15
 * @ret_code: [128]: the child, 0 … 15
 */
#define DECL_KERN_SEARCH_CHILD(name) \
    void name(const int16_t *q, size_t dsub, const int8_t *children, const uint8_t *parent, \
              uint8_t *ret_code)

/** DECL_KERN_PACK() - nibble j of little-endian dword l of the line = code of token 16 j + l */
#define DECL_KERN_PACK(name)   void name(const uint8_t *code, uint8_t *ret_line)
#define DECL_KERN_UNPACK(name) void name(const uint8_t *line, uint8_t *ret_code)

/**
 * DECL_KERN_DECODE() - y = float(codeword) * (scale * gain)
 * @code:  [128], index of a codeword in book: a parent, or 16 * parent + child
 * @book:  [n_words][dsub]; n_words is 16 or 256
 * @gain:  [128]
 * @ret_y: [dsub][128]
 */
#define DECL_KERN_DECODE(name) \
    void name(const uint8_t *code, size_t dsub, const int8_t *book, size_t n_words, float scale, \
              const float *gain, float *ret_y)

typedef DECL_KERN_LOAD((*kern_load_fn));
typedef DECL_KERN_STORE((*kern_store_fn));
typedef DECL_KERN_ROPE((*kern_rope_fn));
typedef DECL_KERN_ADD((*kern_add_fn));
typedef DECL_KERN_GAINS((*kern_gains_fn));
typedef DECL_KERN_QUANTIZE((*kern_quantize_fn));
typedef DECL_KERN_SEARCH((*kern_search_fn));
typedef DECL_KERN_SEARCH_CHILD((*kern_search_child_fn));
typedef DECL_KERN_PACK((*kern_pack_fn));
typedef DECL_KERN_UNPACK((*kern_unpack_fn));
typedef DECL_KERN_DECODE((*kern_decode_fn));

/* The table lives in its codec: no global, and a test can make one for each instruction set. */
struct kern {
    kern_load_fn load[3]; /* by enum dpq_dtype */
    kern_store_fn store[3];
    kern_rope_fn rope[3]; /* by enum dpq_rope_pairing; [0] is NULL */
    kern_add_fn add;
    kern_gains_fn gains;
    kern_quantize_fn quantize;
    kern_search_fn search;
    kern_search_child_fn search_child;
    kern_pack_fn pack;
    kern_unpack_fn unpack;
    kern_decode_fn decode;
};

enum kern_cpu {
    KERN_CPU_AVX2 = 1 << 0, /* with FMA and F16C */
};

unsigned kern_cpu_detect(void);

/* Fill k for a CPU that has the flags in cpu, a subset of kern_cpu_detect(); 0 is portable C. */
void kern_init(struct kern *k, unsigned cpu);

/* One step of the staircase each: overrides what the steps below have set. */
void kern_init_c(struct kern *k);
void kern_init_avx2(struct kern *k);
