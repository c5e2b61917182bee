#pragma once

/* What the golden files' writer and reader share: two layers, one head, head_dim 32. */

#include "lib/deltapq.h"

enum {
    GOLDEN_STREAMS = 4,
    GOLDEN_DIM = 32,
    GOLDEN_NUMBERS = DPQ_TILE_TOKENS * GOLDEN_STREAMS * GOLDEN_DIM,
};

struct golden_sums {
    double sum, squares;
    double sample; /* one number, of a token of its own for each stream */
};

static inline int golden_decode(struct dpq_codec *codec, const void *base, size_t n_base,
                                const void *fine, size_t n_fine, float *ret_rows)
{
    struct dpq_range all = { 0, 2, 0, DPQ_TILE_TOKENS };
    struct dpq_tensor tensor = {
        .dtype = DPQ_F32,
        .stride_kind = GOLDEN_DIM * sizeof(float),
        .stride_layer = 2 * GOLDEN_DIM * sizeof(float),
        .stride_token = GOLDEN_STREAMS * GOLDEN_DIM * sizeof(float),
    };

    return dpq_tile_decode(codec, base, n_base, fine, n_fine, &all, &tensor, ret_rows, NULL);
}

static inline struct golden_sums golden_sum(const float *rows, uint32_t stream)
{
    struct golden_sums s = { 0 };

    for (uint32_t t = 0; t < DPQ_TILE_TOKENS; t++)
        for (uint32_t i = 0; i < GOLDEN_DIM; i++) {
            double x = rows[(t * GOLDEN_STREAMS + stream) * GOLDEN_DIM + i];

            s.sum += x;
            s.squares += x * x;
        }
    s.sample = rows[((40 + 11 * stream) * GOLDEN_STREAMS + stream) * GOLDEN_DIM + 7];
    return s;
}
