#pragma once

/*
 * The kernels: everything hot that is not a GEMM
 *
 * Arrays are dim-major where nothing else is said: value of dimension i and token t at [i * 128 +
 * t]. Lanes are tokens, so a sum over dimensions runs in the same order for every lane width, and
 * the results are the same bits on every instruction set. Rows are token-major; there the lanes are
 * dimensions, and sums over them have an order of their own (KERN_SUMS). The C bodies (kern_body.h,
 * kern_rows.h) are the definition; nothing here may be contracted to an FMA.
 *
 * A signature is written once, by DECL_KERN_…(); prototypes, bodies and the table use it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KERN_TOKENS = 128, /* of a panel: the length of every token axis */
    KERN_LINE = 64,    /* bytes of a panel line: 128 nibbles */
    KERN_WORDS = 16,   /* codewords of a plane */
    KERN_Q_MAX = 8191, /* |q| of kern->quantize */
    KERN_SUMS = 16,    /* a sum over a row: 16 sums of every 16th number, then halves onto halves */
    KERN_MAX_DIM = 256,
    KERN_MAX_SUBSPACES = KERN_MAX_DIM / 2,
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
 * @ret_square: [128]: |y|^2, summed in the order of the coordinates
 * @ret_code: [128]: 161 + round(8 * log2(rms)) with the rms over d; 0 for (nearly) zero vectors,
 *            256 for what must escape: too large, or not finite
 */
#define DECL_KERN_GAINS(name) \
    void name(const float *y, size_t d, float *ret_square, int32_t *ret_code)

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

/* How keys are turned: what DECL_KERN_ROPE() takes; n_pairs = 0 for no turn. */
struct kern_turn {
    bool interleaved;
    size_t n_pairs;
    const float *cosine, *sine; /* [128][n_pairs] */
};

/**
 * DECL_KERN_TAKE() - what comes before encoding's GEMM, in one pass: load, turn, less mean
 * @rows, @stride, @n, @d: as in DECL_KERN_LOAD(); n at most 128
 * @turn:  the inverse turn
 * @mean:  [d]
 * @ret_x: [n][d], the bits of load, then rope, then add with sign -1
 */
#define DECL_KERN_TAKE(name) \
    void name(const void *rows, ptrdiff_t stride, size_t n, size_t d, \
              const struct kern_turn *turn, const float *mean, float *ret_x)

/**
 * DECL_KERN_GIVE() - what comes after decoding's GEMM, in one pass: turn, then store
 * @x:    [n][d], unchanged
 * @turn: its first row is for the first row of x
 */
#define DECL_KERN_GIVE(name) \
    void name(const float *x, size_t n, size_t d, const struct kern_turn *turn, void *ret_rows, \
              ptrdiff_t stride)

/** DECL_KERN_SQUARES() - squared lengths of rows: sum of (a - b)², or of a² without b, as KERN_SUMS
 * @a, @b: [n][d]; b may be NULL */
#define DECL_KERN_SQUARES(name) \
    void name(const float *a, const float *b, size_t n, size_t d, float *ret_sum)

/**
 * DECL_KERN_ADD_SQUARES() - the same of dim-major arrays, one dimension after the other
 * @a, @b:   [n][128]; b may be NULL
 * @ret_sum: [128]: what is there, plus (a[0] - b[0])², plus (a[1] - b[1])² …
 */
#define DECL_KERN_ADD_SQUARES(name) \
    void name(const float *a, const float *b, size_t n, float *ret_sum)

enum {
    KERN_GROUP = 32, /* tokens that a stream is metered by */
    KERN_LANES = 8,  /* their sums: eight, of every eighth token's, then halves onto halves */
    KERN_TOKEN_CODED = 0,
    KERN_TOKEN_SINK = 3,
};

/**
 * DECL_KERN_SUM_ENERGIES() - of a group's tokens but sinks
 * @x2:    [32], finite
 * @token: [32]
 * @cap:   more of a token does not count
 */
#define DECL_KERN_SUM_ENERGIES(name) double name(const float *x2, const uint8_t *token, double cap)

/* What a group of a stream is metered by: lib/risk/risk_meter.h, struct risk_group. */
struct kern_meter {
    double cap;           /* of a token's |e|² */
    double per_tolerance; /* its ratio is |e|² times this */
    double clip;          /* of a ratio, and of twice a ratio */
    double stake;
};

struct kern_sums {
    double d2, e2, d2d2, e2d2, e2e2; /* e2 is capped */
    double first;                    /* of |d|, each an fp32 */
    double excess;                   /* of twice the ratio, less 2 */
    double payoff;                   /* product of 1 + stake * (ratio - 1) */
};

/**
 * DECL_KERN_SUM_TOKENS() - of the coded ones of a group
 * @d2, @e2: [32], finite
 * @token:   [32]
 */
#define DECL_KERN_SUM_TOKENS(name) \
    void name(const float *d2, const float *e2, const uint8_t *token, \
              const struct kern_meter *meter, struct kern_sums *ret_sums)

/* The codebooks of a stream. */
struct kern_tree {
    const float *scale; /* [n_subspaces] */
    const int8_t *base; /* [n_subspaces][16][dsub] */
    const int8_t *fine; /* [n_subspaces][16 parents][16][dsub] */
};

/* Which of two trees a token takes: bit t % 64 of word t / 64. */
struct kern_mask {
    uint64_t bits[KERN_TOKENS / 64];
};

static inline bool kern_mask_has(const struct kern_mask *m, size_t t)
{
    return m->bits[t / 64] >> t % 64 & 1;
}

/* A stream's panels, and what its codes mean. d = n_subspaces * dsub is a multiple of 16. */
struct kern_panel {
    const uint8_t *base, *fine; /* [n_subspaces][64]; fine may be NULL */
    size_t n_subspaces, dsub;   /* dsub is 2 or 4, d at most KERN_MAX_DIM */
    const float *gain;          /* [128] */
    struct kern_tree intra, delta;
    struct kern_mask predicted; /* these tokens take the delta tree, the others the intra tree */
    const float *leak;          /* [n_subspaces]: a temporal stream's, in units of 2^-15, less than
                                 * 1; NULL: no recurrence */
};

/**
 * DECL_KERN_DECODE_ROWS() - panels to fp32 rows, ready to be the left operand of a GEMM
 * @ret_base: [128][d], or NULL
 * @ret_fine: [128][d], what is delivered; NULL without a fine panel
 *
 * With w a codeword's coordinate, s its scale, and a its leak:
 *   base[t] = w_base * (s * gain[t]) + a * base[t - 1]
 *   fine[t] = w_fine * (s * gain[t]) + a * base[t - 1]
 * The second term only for predicted tokens of a panel with leak; before token 0 there is 0.
 */
#define DECL_KERN_DECODE_ROWS(name) \
    void name(const struct kern_panel *panel, float *ret_base, float *ret_fine)

/**
 * DECL_KERN_DECODE_HALF() - what DECODE_ROWS delivers, as fp16 rows
 * @rows: row t is at rows + t * stride bytes, any alignment
 * @cold: the destination is in no cache, nor soon wanted there: write around caches if aligned;
 * kern_fence() before other threads may read
 *
 * Final output, which no code depends on: an instruction set with fp16 arithmetic may round
 * factors, products and the sum. Without a recurrence that is within 2^-9 of the value, or 2^-21.
 * With one, the error of base[t], or of fine[t], is at most a times that of base[t - 1], plus 2^-8
 * of the greater of the two terms, or 2^-21.
 */
#define DECL_KERN_DECODE_HALF(name) \
    void name(const struct kern_panel *panel, void *ret_rows, ptrdiff_t stride, bool cold)

/* What other threads see next of this one, they see after the rows. Once for many panels: stores
 * around caches drain while the codes of the next panel are looked up. */
static inline void kern_fence(void)
{
#ifdef __x86_64__
    __builtin_ia32_sfence();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The closed loop of a temporal stream. */
struct kern_loop {
    size_t n_subspaces, dsub;
    struct kern_tree intra, delta;    /* fine is not used */
    struct kern_mask may_predict;     /* the tokens that are no keys */
    bool strict;                      /* they are predicted whether or not it pays */
    const float *leak;                /* [n_subspaces] */
    const float *gain, *inverse_gain; /* [256] by gain code; 0 for code 0 */
};

/**
 * DECL_KERN_SEARCH_LOOP() - encode a panel whose tokens are predicted from those before
 * @y:             [128][d]
 * @ret_predicted: tokens that were predicted
 * @ret_gain:      [128], as of DECL_KERN_GAINS() for what is coded, but summed as KERN_SUMS; a
 * token with 256 (it escapes) goes on as if it had 0
 * @ret_code:      [n_subspaces][128]: parents
 * @ret_q:         [d][128]: what they were searched with; children are searched with it, too
 * @ret_base:      [128][d]: what DECODE_ROWS makes of the codes, bit for bit
 *
 * Token by token: difference r = y - a * base[t - 1]; predicted where that is allowed, and either
 * strict or |r|² <= |y|²; else r = y. Then the gain of r, q = quantize(r), the nearest parent,
 * base[t]. Every step as in the kernels of that name.
 */
#define DECL_KERN_SEARCH_LOOP(name) \
    void name(const struct kern_loop *loop, const float *y, struct kern_mask *ret_predicted, \
              int32_t *ret_gain, uint8_t *ret_code, int16_t *ret_q, float *ret_base)

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
typedef DECL_KERN_TAKE((*kern_take_fn));
typedef DECL_KERN_GIVE((*kern_give_fn));
typedef DECL_KERN_SQUARES((*kern_squares_fn));
typedef DECL_KERN_ADD_SQUARES((*kern_add_squares_fn));
typedef DECL_KERN_SUM_ENERGIES((*kern_sum_energies_fn));
typedef DECL_KERN_SUM_TOKENS((*kern_sum_tokens_fn));
typedef DECL_KERN_DECODE_ROWS((*kern_decode_rows_fn));
typedef DECL_KERN_DECODE_HALF((*kern_decode_half_fn));
typedef DECL_KERN_SEARCH_LOOP((*kern_search_loop_fn));

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
    kern_take_fn take[3]; /* by enum dpq_dtype */
    kern_give_fn give[3];
    kern_squares_fn squares;
    kern_add_squares_fn add_squares;
    kern_sum_energies_fn sum_energies;
    kern_sum_tokens_fn sum_tokens;
    kern_decode_rows_fn decode_rows;
    kern_decode_half_fn decode_half;
    kern_search_loop_fn search_loop;
};

enum kern_cpu {
    KERN_CPU_AVX2 = 1 << 0,   /* with FMA and F16C */
    KERN_CPU_AVX512 = 1 << 1, /* F, BW, DQ, VL */
    KERN_CPU_VNNI = 1 << 2,   /* VNNI and VBMI */
    KERN_CPU_FP16 = 1 << 3,
    KERN_CPU_NEON = 1 << 4, /* the only step of aarch64, and all of them have it */
};

/* What this CPU and its system can do, of enum kern_cpu. */
unsigned kern_cpu_detect(void);

/* Fill k for a CPU that has the flags in cpu, a subset of kern_cpu_detect(); 0 is portable C. The
 * flags are a staircase: one is used only if all those below it are set. */
void kern_init(struct kern *k, unsigned cpu);

/* One step of the staircase each: overrides what the steps below have set. */
void kern_init_c(struct kern *k);
void kern_init_avx2(struct kern *k);
void kern_init_avx2_rows(struct kern *k);
void kern_init_avx2_sums(struct kern *k);
void kern_init_avx512(struct kern *k);
void kern_init_avx512_sums(struct kern *k);
void kern_init_vnni(struct kern *k);
void kern_init_fp16(struct kern *k);
void kern_init_neon(struct kern *k);
