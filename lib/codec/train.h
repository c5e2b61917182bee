#pragma once

/*
 * Calibration, inside: samples -> stages (one layer's K or V) -> streams -> a profile
 *
 *   train.c           the public functions; goes through the stages, writes the profile
 *   train_samples.c   holds what was added, in memory or in a file; which token is which row
 *   train_pool.c      threads that share out numbered tasks
 *   train_stage.c     one stage: gather, predict, choose, learn, reconstruct for the next
 *   train_predict.c   ridge regressions on what was reconstructed below
 *   train_choose.c    candidates for a stream's reference, measured cheaply; the choice
 *   train_stream.c    one stream: rotation, samples for its trees, leaks
 *   train_audit.c     what an audit is shown
 *   train_code.c      samples coded as the codec does it: errors, reconstructions
 *   train_loop.c      the codebook of a closed loop in time
 *   train_book.c      one subspace: k-means twice (parents, children), rounding to int8
 *   train_linear.c    square roots and eigenvectors
 *   train_rates.c     which streams keep the fine plane at which rate
 *   train_info.c      the JSON section
 *
 * Streams are learned in coding order, K before V, layer after layer: a depth predictor learns from
 * base reconstructions of the very vectors that a running codec will have (theory 3.2). All that is
 * learned depends on samples and options; not on threads, since every task writes what is its own.
 */

#include "lib/base/defs.h"
#include "lib/base/rng.h"
#include "lib/codec/encode_unit.h"

enum {
    TRAIN_MIN_TOKENS = 1024,
    TRAIN_MAX_TOKENS = 1 << 24,
    TRAIN_HOLD_OUT = 16, /* every 16th tile is not learned from, but judged with */
    TRAIN_ITERATIONS = 12,
    TRAIN_BOOK_ROWS = 16384, /* codebooks learn from so many rows at most */
    TRAIN_QUICK_ROWS = 1024, /* candidates for a reference, of their codebooks */
    TRAIN_MAX_THREADS = 64,
    TRAIN_FIXED_BYTES = 8 << 20, /* what depends on nothing: stacks, OpenBLAS */
    N_CANDIDATES = 5,
};

/* What a stream may be predicted from; the last is the textbook's delta, for comparison. */
enum candidate {
    CANDIDATE_NONE = REFERENCE_NONE,
    CANDIDATE_TEMPORAL = REFERENCE_TEMPORAL,
    CANDIDATE_DEPTH_HEAD = REFERENCE_DEPTH_HEAD,
    CANDIDATE_DEPTH = REFERENCE_DEPTH,
    CANDIDATE_PURE_DELTA,
};

struct train_chunk {
    uint8_t *rows;   /* [layer][token][kind][head][dim]; NULL when it is in the file */
    uint64_t offset; /* in the file */
    uint32_t dtype;
    uint32_t n_tokens;
    uint64_t first_position;
};

struct dpq_trainer {
    struct dpq_geometry geometry;
    struct dpq_train_options options;
    struct train_chunk *chunks;
    size_t n_chunks;
    uint64_t n_tokens;
    uint64_t n_bytes;                   /* of rows */
    float *metric;                      /* [n_streams][D][D]; NULL: identity */
    struct dpq_stream_options *streams; /* [n_streams], as given; NULL: of none */
    struct dpq_audit_hooks hooks;
};

/** dpq_trainer_memory_bytes() - what dpq_trainer_run() will allocate at most, nearly: by the tokens
 * added so far, and the width and the number of streams; samples in memory are not counted */
uint64_t dpq_trainer_memory_bytes(const struct dpq_trainer *trainer);

/* --- train_options.c ------------------------------------------------------------------------ */

/** train_check_options() - 0, or DPQ_E_INVALID */
int train_check_options(const struct dpq_train_options *options,
                        struct dpq_fault *fault) _must_check_;

/** train_stream_options() - of a stream: its own, or those of all; reference may be AUTO */
struct dpq_stream_options train_stream_options(const struct dpq_trainer *trainer, uint32_t index);

/** train_wants_depth() - may any stream be predicted from the layer below? */
bool train_wants_depth(const struct dpq_trainer *trainer);

/* --- train_pool.c --------------------------------------------------------------------------- */

struct train_pool;

/** train_task - task number `index` on thread `worker`; 0, an outcome or a fault that ends all */
typedef int (*train_task_fn)(void *user, uint32_t index, uint32_t worker);

int train_pool_new(uint32_t n_threads, struct train_pool **ret_pool) _must_check_;
struct train_pool *train_pool_free(struct train_pool *pool);
uint32_t train_pool_n_workers(const struct train_pool *pool);

/** train_pool_run() - all tasks; the caller is worker 0. Returns when all have ended. */
int train_pool_run(struct train_pool *pool, uint32_t n_tasks, train_task_fn task,
                   void *user) _must_check_;

/* --- train_samples.c ------------------------------------------------------------------------ */

/* Row r holds a token; rows are whole tiles, those that are learned from first. */
struct train_plan {
    const struct dpq_trainer *trainer;
    struct rope_table rope; /* of all tokens, in the order of addition */
    size_t n_tiles, n_learn_tiles;
    size_t n_learn, n_rows; /* rows, multiples of 128 */
    size_t n_valid[2];      /* rows that hold a token that is no sink: learned from, held out */
    uint8_t *valid;         /* [n_rows] */
};

int train_plan_init(struct train_plan *plan, const struct dpq_trainer *trainer) _must_check_;
void train_plan_deinit(struct train_plan *plan);

/**
 * train_gather() - one chunk's vectors of a stage, keys before RoPE, sinks as zeroes
 * @scratch: of the chunk's layer, train_chunk_bytes()
 * @block:   [128][head_dim]
 * @ret_x:   [n_kv_heads][n_rows][head_dim]
 */
int train_gather(const struct train_plan *plan, const struct kern *kern, size_t chunk,
                 uint32_t layer, uint32_t kind, void *scratch, float *block,
                 float *ret_x) _must_check_;

/** train_chunk_bytes() - of one layer of a chunk */
size_t train_chunk_bytes(const struct dpq_geometry *geometry, const struct train_chunk *chunk);

/** train_chunk_keep() - rows to their place: memory, or the file */
int train_chunk_keep(struct dpq_trainer *trainer, struct train_chunk *chunk,
                     const uint8_t *canonical_rows) _must_check_;

/* --- train_book.c --------------------------------------------------------------------------- */

/* The tree of one subspace in floats, and how many samples each word stands for. */
struct train_book {
    float base[16][4];     /* the first dsub of each are used */
    float fine[16][16][4]; /* whole codewords */
    uint32_t n_base[16];
    uint32_t n_fine[16][16];
    double base_error, fine_error; /* sum of squared distances of the samples learned from */
};

struct train_book_scratch {
    float *x;        /* [dsub][n]: the samples of a parent */
    float *distance; /* [n] */
    uint8_t *label;  /* [n]: parent */
    uint8_t *child;  /* [n]: child, in the parent's order */
};

int train_book_scratch_init(struct train_book_scratch *scratch, size_t n) _must_check_;
void train_book_scratch_deinit(struct train_book_scratch *scratch);

/**
 * train_book_learn() - parents by k-means, then each parent's children by k-means on its samples
 * @x: coordinate i of sample t at x[i * stride + t]; n of them, possibly none
 * @children: false: fine words are left zero
 */
void train_book_learn(const float *x, size_t stride, size_t n, uint32_t dsub, uint32_t n_iterations,
                      bool children, struct rng *rng, struct train_book_scratch *scratch,
                      struct train_book *ret_book);

/**
 * train_book_round() - to int8
 * @ret_base, @ret_fine: [16][dsub], [16][16][dsub]
 *
 * Takes the scale for which rounding (and clipping, of far words that few samples use) adds least
 * to the error, relative to what it is.
 * Return: the scale, > 0
 */
float train_book_round(const struct train_book *book, uint32_t dsub, int8_t *ret_base,
                       int8_t *ret_fine);

/* --- train_linear.c ------------------------------------------------------------------------- */

/**
 * train_eigen() - of a symmetric matrix
 * @a: column-major, the lower half of each column is given; becomes eigenvectors, one after another
 * @ret_values: [d], ascending
 */
int train_eigen(double *a, uint32_t d, double *ret_values) _must_check_;

/**
 * train_roots() - (M + lambda * mean diagonal * I), scaled to a mean diagonal of 1, to ±1/2
 * @metric: [d][d], symmetric; negative eigenvalues count as 0
 * @ret_importance: the mean diagonal of M
 * Return: 0; DPQ_E_INVALID when M is zero or not finite; -ENOMEM
 */
int train_roots(const float *metric, uint32_t d, double lambda, float *ret_root, float *ret_inverse,
                double *ret_importance) _must_check_;

/**
 * train_deal() - which eigenvector goes where
 * @eigenvalues: ascending, as LAPACK gives them
 * @ret_order:   [d]: axis j of subspace m is eigenvector ret_order[m * dsub + j]
 *
 * The largest goes to the subspace whose log-variances have the smallest sum among those that have
 * room, and so on (theory 2.2, R4).
 */
void train_deal(const double *eigenvalues, uint32_t d, uint32_t dsub, uint32_t *ret_order);

/* --- train_stage.c -------------------------------------------------------------------------- */

/* What one candidate for a stream's reference came to, on held-out tokens. */
struct train_measure {
    bool measured;
    double error; /* mean |e|^2 of y, base plane */
};

/* What is learned about a stream; the profile_stream's pointers go into memory of its own. */
struct train_result {
    struct profile_stream stream;
    void *memory;                /* of stream */
    double power;                /* held-out: mean |y|^2 of x less its mean */
    double mean_error[N_PLANES]; /* held-out: mean |e|^2 of y, whatever the tree */
    struct train_measure measure[N_CANDIDATES];
    enum candidate choice;
};

/* A thread's memory. */
struct train_worker {
    struct dpq_codec *codec; /* of a profile without streams: kernels, gains and scratch */
    struct train_book_scratch book;
    void *slab; /* of the largest chunk */
};

/* A predictor in depth, of one head. */
struct train_predictor {
    uint32_t n_inputs; /* 0: none */
    float *weight;     /* [head_dim][n_inputs] */
    float *bias;       /* [head_dim] */
};

/* What all stages share. */
struct train_run {
    struct train_plan plan;
    const struct dpq_geometry *geometry;
    const struct dpq_train_options *options;
    struct train_pool *pool;
    struct train_worker *workers;
    struct dpq_profile stub; /* what workers' codecs are of */
    size_t width;            /* n_kv_heads * head_dim */
    float *x;                /* [head][n_rows][head_dim]: the stage's vectors, less their mean */
    float *p[2];             /* likewise: predictions by depth-head, by depth */
    float *refs;             /* [n_rows][3 * width]: K, V below, K of this layer, reconstructed */
    float *values;           /* [n_rows][width]: V of this layer */
    float *ref_errors;       /* [held-out rows][3 * width]: x less refs; NULL without an audit */
    float *value_errors;     /* [held-out rows][width]: likewise of V of this layer */
    double *gram;            /* [3 width][3 width], of refs, the rows learned from */
    double *column_mean;     /* [3 width] */
    struct train_result *results; /* [n_streams] */
    dpq_progress_fn progress;
    void *user;
};

/** train_stage() - learn the streams of one layer and kind, in coding order */
int train_stage(struct train_run *run, uint32_t layer, uint32_t kind) _must_check_;

/* --- train_predict.c ------------------------------------------------------------------------ */

/** train_gram() - of the stage's references; what was known of a K stage is kept for its V */
int train_gram(struct train_run *run, uint32_t layer, uint32_t kind) _must_check_;

/**
 * train_predict() - ridge regression of a stage's vectors on its references, and p of all rows
 * @reference:     REFERENCE_DEPTH_HEAD or REFERENCE_DEPTH
 * @ret_predictor: [n_kv_heads]
 */
int train_predict(struct train_run *run, uint32_t layer, uint32_t kind, uint32_t reference,
                  struct train_predictor *ret_predictor) _must_check_;
void train_predictor_free(struct train_predictor *predictor);

/**
 * train_apply() - add W refs of one head, for n_rows rows
 * @refs: as of struct train_run, or other numbers laid out like them
 * @to:   [n_rows][head_dim]
 */
void train_apply(const struct train_run *run, uint32_t layer, uint32_t kind, uint32_t head,
                 uint32_t reference, const struct train_predictor *predictor, const float *refs,
                 size_t n_rows, float *to);

/* --- train_stream.c ------------------------------------------------------------------------- */

/* One stream in work. */
struct train_stream {
    struct train_run *run;
    uint32_t layer, kind, head, index;
    uint32_t reference, dsub;
    bool pure;     /* temporal: a = 1 */
    size_t n_rows; /* rows to learn codebooks from: every so many-th tile of those that are */
    float *x, *p;  /* [n_rows of the plan][head_dim]; p: NULL unless predicted in depth */
    struct profile_stream stream; /* pointers into the result's memory, written while learning */
    float *samples[N_TREES];      /* [head_dim][n_rows] over their gains */
    size_t n_samples[N_TREES];
};

/** train_stream_init() - memory for result and samples */
int train_stream_init(struct train_stream *s, struct train_run *run, uint32_t layer, uint32_t kind,
                      uint32_t head, uint32_t reference, size_t n_rows,
                      const struct train_predictor *predictor,
                      struct train_result *result) _must_check_;
void train_stream_deinit(struct train_stream *s);

/** train_rotation() - encode and decode from what will be coded; then leaks, if temporal */
int train_rotation(struct train_stream *s, struct train_worker *worker) _must_check_;

/** train_project() - the samples of a tree; TREE_DELTA of a temporal stream in open loop */
void train_project(struct train_stream *s, struct train_worker *worker, enum tree_index tree);

/** train_tree() - the codebook of one subspace, into the stream */
void train_tree(struct train_stream *s, struct train_worker *worker, enum tree_index tree,
                uint32_t subspace, bool children);

/** train_retrain() - TREE_DELTA of a temporal stream, from its running loop (train_loop.c) */
int train_retrain(struct train_stream *s, struct train_worker *worker) _must_check_;

/** train_row_tile() - the i-th tile that codebooks learn from; i < n_rows / 128 */
size_t train_row_tile(const struct train_stream *s, size_t i);

/* --- train_code.c --------------------------------------------------------------------------- */

/* Sums over tokens that were coded. */
struct train_sums {
    double error[N_TREES][N_PLANES];
    uint64_t n[N_TREES];
};

/**
 * train_code_tile() - code one tile of a stream as the codec does
 * @fine:    with the fine plane
 * @sums:    added to; may be NULL
 * @to:      where the base reconstruction of row 0 of the tile goes, row by row at stride floats;
 *           may be NULL
 * Leaves codec's y, y_base, and the unit's frames and gains.
 */
void train_code_tile(const struct train_stream *s, struct train_worker *worker, size_t tile,
                     bool fine, struct train_sums *sums, float *to, size_t stride,
                     struct encode_unit *ret_unit);

/** typedef train_visit_fn - a tile has just been coded; codec and unit are as train_code_tile()
 * says */
typedef void (*train_visit_fn)(void *user, size_t tile, const struct encode_unit *unit);

/**
 * train_held_out() - code all tiles that were not learned from, and add up
 * @visit: may be NULL
 */
void train_held_out(const struct train_stream *s, struct train_worker *worker, bool fine,
                    train_visit_fn visit, void *user, struct train_sums *ret_sums);

/** train_power() - held out: sum of |y|^2 of the vectors themselves */
double train_power(const struct train_stream *s, struct train_worker *worker);

/** train_close_loop() - samples of TREE_DELTA as a temporal stream's running codec meets them */
void train_close_loop(struct train_stream *s, struct train_worker *worker);

/* --- train_choose.c ------------------------------------------------------------------------- */

/**
 * train_measure_candidate() - a stream's base error with one reference, from few rows and parents
 * @predictor: of depth candidates; else NULL
 */
int train_measure_candidate(struct train_run *run, struct train_worker *worker, uint32_t layer,
                            uint32_t kind, uint32_t head, enum candidate candidate,
                            const struct train_predictor *predictor,
                            struct train_measure *ret_measure) _must_check_;

/** train_choose() - the reference, from measurements and options */
enum candidate train_choose(const struct train_run *run, const struct train_result *result);

/* --- train_audit.c -------------------------------------------------------------------------- */

/** train_show() - train_held_out(), of which the audit's hook is shown the tokens */
int train_show(const struct train_stream *s, struct train_worker *worker, enum candidate candidate,
               struct train_sums *ret_sums) _must_check_;

/** train_finish_audit() - the audit's section; nothing is set without hooks */
int train_finish_audit(const struct train_run *run, uint8_t **ret_bytes,
                       size_t *ret_n_bytes) _must_check_;

/* --- train_rates.c -------------------------------------------------------------------------- */

/** train_rates() - fine_rates of all streams: as wanted, by kind, or by what a bit buys */
void train_rates(const struct dpq_trainer *trainer, struct train_result *results);

/* --- train_info.c --------------------------------------------------------------------------- */

/** train_info() - the JSON section, malloc'ed; NULL without memory */
char *train_info(const struct train_run *run);
