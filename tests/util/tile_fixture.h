#pragma once

/* What the tests of tiles share. Include after cmocka.h. */

#include "tests/util/craft_tile.h"

enum { T = DPQ_TILE_TOKENS };

struct tile {
    uint8_t *base, *fine;
    size_t n_base, n_fine;
};

static inline void tile_drop(struct tile *t)
{
    free(t->base);
    free(t->fine);
}

static inline uint8_t *random_rows(const struct dpq_geometry *g, uint32_t dtype, uint64_t seed)
{
    size_t n = dpq_row_bytes(g, dtype) * T, e = dpq_dtype_bytes(dtype);
    uint8_t *rows = malloc(n);
    struct rng r = rng_seed(seed);

    for (size_t i = 0; i < n / e; i++)
        toy_put(rows + i * e, dtype, (float)toy_normal(&r));
    return rows;
}

static inline struct dpq_tensor canonical(const struct dpq_geometry *g, uint32_t dtype,
                                          uint32_t n_layers)
{
    int64_t head = (int64_t)(g->head_dim * dpq_dtype_bytes(dtype));

    return (struct dpq_tensor){
        .dtype = dtype,
        .stride_head = head,
        .stride_kind = head * g->n_kv_heads,
        .stride_layer = head * g->n_kv_heads * 2,
        .stride_token = head * g->n_kv_heads * 2 * n_layers,
    };
}

static inline struct tile encode(const struct toy *toy, const void *rows, uint32_t dtype,
                                 uint64_t index, uint32_t rate, uint32_t cpu)
{
    struct dpq_codec *c = NULL;
    struct tile t;

    assert_int_equal(dpq_codec_new(toy->profile, cpu, &c), 0);
    assert_int_equal(dpq_tile_encode(c, rows, dtype, 1000 + index, index, rate, &t.base, &t.n_base,
                                     &t.fine, &t.n_fine),
                     0);
    dpq_codec_free(c);
    return t;
}

static inline int decode_range(const struct toy *toy, const struct tile *t,
                               const struct dpq_range *range, uint32_t dtype, uint32_t cpu,
                               void *ret_rows)
{
    struct dpq_tensor tensor = canonical(&toy->geometry, dtype, range->n_layers);
    struct dpq_fault fault;
    struct dpq_codec *c = NULL;
    int r;

    assert_int_equal(dpq_codec_new(toy->profile, cpu, &c), 0);
    r = dpq_tile_decode(c, t->base, t->n_base, t->fine, t->n_fine, range, &tensor, ret_rows,
                        &fault);
    if (r)
        assert_true(strlen(fault.message) > 0);
    dpq_codec_free(c);
    return r;
}

static inline float *decode(const struct toy *toy, const struct tile *t, uint32_t cpu)
{
    struct dpq_range all = { 0, toy->geometry.n_layers, 0, T };
    float *rows = malloc(dpq_row_bytes(&toy->geometry, DPQ_F32) * T);

    assert_int_equal(decode_range(toy, t, &all, DPQ_F32, cpu, rows), 0);
    return rows;
}
