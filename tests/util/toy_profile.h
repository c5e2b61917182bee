#pragma once

/* A profile for tests: random rotations, means and trees, written and opened like a real one. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/rng.h"
#include "lib/codec/profile.h"

struct toy {
    struct dpq_geometry geometry;
    uint32_t reference, dsub;
    bool mixed; /* stream i has reference i % 4, and dsub 2 or 4 in turn */
    uint64_t seed;
    float bound;         /* 0: none */
    uint32_t group_log2; /* 0: 5 */
    uint8_t *bytes;
    size_t n_bytes;
    struct dpq_profile *profile;
};

static inline double toy_normal(struct rng *r)
{
    double u = 1 - rng_unit(r), v = rng_unit(r);

    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static inline struct dpq_geometry toy_geometry(uint32_t n_layers, uint32_t n_kv_heads,
                                               uint32_t head_dim)
{
    struct dpq_geometry g = {
        .n_layers = n_layers,
        .n_kv_heads = n_kv_heads,
        .n_q_heads = n_kv_heads * 3,
        .head_dim = head_dim,
        .rope_pairing = DPQ_ROPE_HALF,
        .rotary_dim = head_dim,
        .attention_scaling = 1,
        .n_sink = 4,
    };

    for (uint32_t i = 0; i < head_dim / 2; i++)
        g.inv_freq[i] = (float)pow(1e4, -2.0 * i / head_dim);
    return g;
}

/* Rows of a random orthogonal matrix, by Gram-Schmidt. */
static inline void toy_rotation(struct rng *r, uint32_t d, float *ret_matrix)
{
    double *q = malloc(sizeof(double) * d * d);

    for (uint32_t i = 0; i < d; i++) {
        double norm = 0;

        for (uint32_t k = 0; k < d; k++)
            q[i * d + k] = toy_normal(r);
        for (uint32_t j = 0; j < i; j++) {
            double dot = 0;

            for (uint32_t k = 0; k < d; k++)
                dot += q[i * d + k] * q[j * d + k];
            for (uint32_t k = 0; k < d; k++)
                q[i * d + k] -= dot * q[j * d + k];
        }
        for (uint32_t k = 0; k < d; k++)
            norm += q[i * d + k] * q[i * d + k];
        for (uint32_t k = 0; k < d; k++)
            ret_matrix[i * d + k] = (float)(q[i * d + k] /= sqrt(norm));
    }
    free(q);
}

/* A tree: parents spread like a Gaussian, children around them. */
static inline struct profile_tree toy_tree(struct rng *r, uint32_t d, uint32_t dsub)
{
    uint32_t n = d / dsub;
    float *scale = malloc(n * sizeof(float));
    int8_t *base = malloc(n * 16 * dsub), *fine = malloc(n * 256 * dsub);

    for (uint32_t m = 0; m < n; m++) {
        scale[m] = (float)(0.02 + 0.01 * rng_unit(r));
        for (uint32_t w = 0; w < 16; w++)
            for (uint32_t i = 0; i < dsub; i++) {
                double x = fmax(-100, fmin(100, 45 * toy_normal(r)));

                base[(m * 16 + w) * dsub + i] = (int8_t)x;
                for (uint32_t c = 0; c < 16; c++)
                    fine[((m * 16 + w) * 16 + c) * dsub + i] =
                        (int8_t)fmax(-127, fmin(127, x + 14 * toy_normal(r)));
            }
    }
    return (struct profile_tree){ .scale = scale, .base = base, .fine = fine };
}

static inline void toy_stream(struct toy *toy, struct rng *r, uint32_t i, struct profile_stream *s)
{
    const struct dpq_geometry *g = &toy->geometry;
    uint32_t d = g->head_dim, layer = i / (2 * g->n_kv_heads), kind = i / g->n_kv_heads % 2;
    uint32_t reference = toy->mixed ? i % 4 : toy->reference;
    uint32_t dsub = toy->mixed ? 2 + i % 2 * 2 : toy->dsub;
    float *mean = malloc(d * sizeof(float)), *encode = malloc(sizeof(float) * d * d);
    float *decode = malloc(sizeof(float) * d * d);

    for (uint32_t k = 0; k < d; k++)
        mean[k] = (float)(0.2 * toy_normal(r));
    toy_rotation(r, d, encode);
    for (uint32_t k = 0; k < d; k++)
        for (uint32_t j = 0; j < d; j++)
            decode[j * d + k] = encode[k * d + j];
    *s = (struct profile_stream){
        .reference = reference,
        .dsub = dsub,
        .fine_rates = profile_default_fine(kind),
        .tolerance = { { 1, .25f }, { 1, .25f } },
        .importance = 1,
        .mean = mean,
        .encode = encode,
        .decode = decode,
        .tree[TREE_INTRA] = toy_tree(r, d, dsub),
    };
    if (reference >= REFERENCE_DEPTH_HEAD && !profile_n_inputs(g, reference, layer, kind))
        s->reference = REFERENCE_NONE;
    if (s->reference != REFERENCE_NONE)
        s->tree[TREE_DELTA] = toy_tree(r, d, dsub);
    if (s->reference == REFERENCE_TEMPORAL) {
        int16_t *leak = malloc(d / dsub * sizeof(int16_t));

        for (uint32_t m = 0; m < d / dsub; m++)
            leak[m] = (int16_t)(32767 * rng_unit(r));
        s->leak = leak;
    } else if (s->reference != REFERENCE_NONE) {
        uint32_t n = profile_n_inputs(g, s->reference, layer, kind);
        float *weight = malloc(sizeof(float) * d * n), *bias = malloc(d * sizeof(float));

        for (uint32_t k = 0; k < d * n; k++)
            weight[k] = (float)(0.5 / sqrt(n) * toy_normal(r));
        for (uint32_t k = 0; k < d; k++)
            bias[k] = (float)(0.1 * toy_normal(r));
        s->n_inputs = n;
        s->weight = weight;
        s->bias = bias;
    }
}

static inline void toy_free_stream(struct profile_stream *s)
{
    for (int t = 0; t < N_TREES; t++) {
        free((void *)s->tree[t].scale);
        free((void *)s->tree[t].base);
        free((void *)s->tree[t].fine);
    }
    free((void *)s->mean);
    free((void *)s->encode);
    free((void *)s->decode);
    free((void *)s->leak);
    free((void *)s->weight);
    free((void *)s->bias);
}

/* Fill bytes and profile from geometry, reference, dsub and seed. 0 on success. */
static inline int toy_make(struct toy *toy)
{
    uint32_t n = dpq_n_streams(&toy->geometry);
    struct profile_stream *streams = calloc(n, sizeof(*streams));
    struct rng r = rng_seed(toy->seed);
    struct profile_head head = {
        .name = "toy",
        .info_json = "{}",
        .bound = toy->bound,
        .group_log2 = toy->group_log2 ? toy->group_log2 : 5,
    };
    int e;

    for (uint32_t i = 0; i < n; i++)
        toy_stream(toy, &r, i, &streams[i]);
    e = profile_write(&toy->geometry, &head, streams, &toy->bytes, &toy->n_bytes);
    for (uint32_t i = 0; i < n; i++)
        toy_free_stream(&streams[i]);
    free(streams);
    return e ? e : dpq_profile_open(toy->bytes, toy->n_bytes, &toy->profile, NULL);
}

static inline void toy_drop(struct toy *toy)
{
    dpq_profile_free(toy->profile);
    free(toy->bytes);
}

/* A value in a dtype. */
static inline void toy_put(void *at, uint32_t dtype, float x)
{
    uint16_t h;

    if (dtype == DPQ_F32) {
        memcpy(at, &x, 4);
        return;
    }
    if (dtype == DPQ_BF16) {
        uint32_t u;

        memcpy(&u, &x, 4);
        h = (uint16_t)(u >> 16);
    } else {
        _Float16 f = (_Float16)x;

        memcpy(&h, &f, 2);
    }
    memcpy(at, &h, 2);
}

static inline float toy_get(const void *at, uint32_t dtype)
{
    uint32_t u = 0;
    uint16_t h;
    float x;

    if (dtype == DPQ_F32) {
        memcpy(&x, at, 4);
        return x;
    }
    memcpy(&h, at, 2);
    if (dtype == DPQ_F16) {
        _Float16 f;

        memcpy(&f, &h, 2);
        return (float)f;
    }
    u = (uint32_t)h << 16;
    memcpy(&x, &u, 4);
    return x;
}
