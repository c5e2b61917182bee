#pragma once

/*
 * Calibration, inside: samples -> one stream at a time -> codebooks
 *
 *   train.c          the public functions; deals the streams out to threads, writes the profile
 *   train_samples.c  holds what was added; hands out one stream's vectors, keys turned back
 *   train_stream.c   one stream: mean, rotation, gains, a tree for each subspace, held-out error
 *   train_book.c     one subspace: k-means twice (parents, children), rounding to int8
 *   train_info.c     the JSON section
 *
 * All that is learned about a stream depends on the samples, the options, and the stream's index;
 * not on threads, nor on the other streams.
 */

#include "lib/base/defs.h"
#include "lib/base/rng.h"
#include "lib/codec/profile.h"
#include "lib/codec/rope.h"
#include "lib/kern/kern.h"

enum {
    TRAIN_MIN_TOKENS = 1024,
    TRAIN_MAX_TOKENS = 1 << 24,
    TRAIN_HOLD_OUT = 16, /* every 16th token is not learned from, but judged with */
    TRAIN_ITERATIONS = 12,
    TRAIN_DSUB = 2,
    TRAIN_NO_ROW = -1,
};

struct train_chunk {
    uint8_t *rows; /* canonical, dpq_rows_gather() */
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
    uint64_t n_bytes; /* of rows */
};

/* --- train_samples.c ------------------------------------------------------------------------ */

/* What all streams share: which token is which row, and how its keys are turned back. */
struct train_plan {
    const struct dpq_trainer *trainer;
    struct kern kern;
    struct rope_table rope; /* of all tokens, in the order of addition */
    int32_t *row;           /* likewise; TRAIN_NO_ROW for sinks */
    size_t n_learn;         /* rows 0 … n_learn - 1 are learned from */
    size_t n_rows;          /* the rest is held out */
};

int train_plan_init(struct train_plan *plan, const struct dpq_trainer *trainer) _must_check_;
void train_plan_deinit(struct train_plan *plan);

/**
 * train_gather() - the vectors of one stream, keys before RoPE
 * @block: scratch, [128][head_dim]
 * @ret_x: [n_rows][head_dim]
 */
void train_gather(const struct train_plan *plan, uint32_t stream, float *block, float *ret_x);

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
    float *scores;   /* of a block */
};

int train_book_scratch_init(struct train_book_scratch *scratch, size_t n) _must_check_;
void train_book_scratch_deinit(struct train_book_scratch *scratch);

/**
 * train_book_learn() - parents by k-means, then each parent's children by k-means on its samples
 * @x: coordinate i of sample t at x[i * stride + t]; n of them, possibly none
 */
void train_book_learn(const float *x, size_t stride, size_t n, uint32_t dsub, uint32_t n_iterations,
                      struct rng *rng, struct train_book_scratch *scratch,
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

/* --- train_stream.c ------------------------------------------------------------------------- */

/* What is learned about a stream; the profile_stream's pointers go into memory. */
struct train_result {
    struct profile_stream stream;
    void *memory;
    double nmse_base, nmse_fine; /* held-out: mean |e|^2 over mean |x - mean|^2 */
};

/* A thread's memory. */
struct train_worker {
    const struct train_plan *plan;
    float *x;    /* [n_rows][head_dim] */
    float *y;    /* [head_dim][n_rows]: rotated, over the gain */
    float *gain; /* [n_rows]; 0: a vector that counts as zero */
    float *block, *rotated;
    struct train_book_scratch book;
};

int train_worker_init(struct train_worker *worker, const struct train_plan *plan) _must_check_;
void train_worker_deinit(struct train_worker *worker);

/** train_stream() - learn one stream; the caller frees ret_result->memory */
int train_stream(struct train_worker *worker, uint32_t index,
                 struct train_result *ret_result) _must_check_;

/**
 * train_deal() - which eigenvector goes where
 * @eigenvalues: ascending, as LAPACK gives them
 * @ret_order:   [d]: axis j of subspace m is eigenvector ret_order[m * dsub + j]
 *
 * The largest goes to the subspace whose log-variances have the smallest sum among those that have
 * room, and so on.
 */
void train_deal(const double *eigenvalues, uint32_t d, uint32_t dsub, uint32_t *ret_order);

/* --- train_info.c --------------------------------------------------------------------------- */

/** train_info() - the JSON section, malloc'ed; NULL without memory */
char *train_info(const struct train_plan *plan, const struct train_result *results);
