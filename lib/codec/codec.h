#pragma once

/* A codec: a profile, the kernels chosen for it, and scratch memory for one thread. */

#include "lib/base/defs.h"
#include "lib/codec/profile.h"
#include "lib/codec/rope.h"
#include "lib/kern/kern.h"

enum {
    GAIN_CODES = 256,
    GAIN_ONE =
        161, /* code of gain 1: gain = 2^((code - GAIN_ONE) / 8), code 0 is the zero vector */
};

struct tile_view;

struct dpq_codec {
    const struct dpq_profile *profile;
    struct kern kern;
    struct rope_table rope; /* of 128 tokens from rope_position on */
    uint64_t rope_position; /* UINT64_MAX: nothing yet */
    float gain[GAIN_CODES];
    float inverse_gain[GAIN_CODES]; /* 0 for code 0 */
    float *x;                       /* [128][head_dim] token-major */
    float *y;                       /* [head_dim][128] dim-major */
    float *y_base;                  /* the same: what the encoder's base plane makes of y */
    float *y_fine;                  /* the same of its two planes */
    float *rows[N_PLANES];          /* [128][head_dim]: what the decoder makes of the codes */
    float *p;                       /* [128][head_dim]: a depth prediction */
    int16_t *q;                     /* [head_dim][128] */
    float *below; /* depth: base reconstructions [4][128][n_kv_heads * head_dim], K and V of a layer
                     and of the one below it, by turns (loop.c); NULL without depth */
    struct tile_view *view;
};

/** codec_rope() - make the table for a tile that starts at first_position */
void codec_rope(struct dpq_codec *codec, uint64_t first_position);

/** rows_finite() - is none of n numbers of dtype, at any alignment, a NaN or Inf? */
bool rows_finite(const void *bytes, size_t n, uint32_t dtype);

/** rows_put() - one head vector of dtype to element (layer, kind, head, token) of tensor */
void rows_put(const struct dpq_geometry *geometry, const void *vector, uint32_t dtype,
              const struct dpq_tensor *tensor, void *memory, uint32_t layer, uint32_t kind,
              uint32_t head, uint32_t token);
