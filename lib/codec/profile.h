#pragma once

/*
 * A profile in memory, as the codec uses it: pointers into the file's bytes (all little-endian,
 * 64-byte aligned sections, see lib/FORMAT.md), and how one is written.
 *
 * Streams are numbered (layer * 2 + kind) * n_kv_heads + head: dpq_stream_index().
 */

#include "lib/base/defs.h"
#include "lib/deltapq.h"

enum reference {
    REFERENCE_NONE = 0,
    REFERENCE_TEMPORAL =
        1, /* the base reconstruction of the token before, in rotated coordinates */
    REFERENCE_DEPTH_HEAD = 2, /* same token, base reconstructions below: same head only */
    REFERENCE_DEPTH = 3,      /* … all heads */
};

/* Two trees in the same rotation: intra and key frames use TREE_INTRA, predicted ones TREE_DELTA.
 */
enum tree_index {
    TREE_INTRA = 0,
    TREE_DELTA = 1,
    N_TREES = 2,
};

enum plane {
    PLANE_BASE = 0,
    PLANE_FINE = 1, /* base and fine together */
    N_PLANES = 2,
};

/* 16 parents a subspace, 16 children a parent. A codeword is scale[m] * the int8 value. */
struct profile_tree {
    const float *scale; /* [n_subspaces], > 0 */
    const int8_t *base; /* [n_subspaces][16][dsub] */
    const int8_t *fine; /* [n_subspaces][16][16][dsub]: whole codewords, not differences */
};

struct profile_stream {
    uint32_t reference;  /* enum reference */
    uint32_t dsub;       /* 2 or 4; n_subspaces = head_dim / dsub */
    uint32_t fine_rates; /* bit r: rate r keeps the fine plane; see profile_default_fine() */
    float tolerance[N_TREES][N_PLANES]; /* held-out mean of |e|^2 in coded coordinates (of y), for
                            tokens that use the tree, read with these planes; ≥ 0 */
    bool strict;       /* every token that can be predicted is, whether that pays or not */
    bool full;         /* what is predicted from it in depth sees both planes, where it has both */
    float importance;  /* what |e|^2 of this stream costs, against the others; > 0, 1 without an
                          output metric */
    const float *mean; /* [head_dim] */
    const float *encode; /* [head_dim][head_dim] row-major E: y = E (x - mean - prediction) */
    const float *decode; /* [head_dim][head_dim] row-major F: x = mean + prediction + F y; E^T when
                            E is orthogonal (then both point to stored matrices all the same) */
    bool is_orthogonal;  /* F is E^T, to the bit: set by dpq_profile_open() */
    struct profile_tree tree[N_TREES]; /* TREE_DELTA: NULL pointers with REFERENCE_NONE */
    const int16_t *leak; /* temporal: a_m in Q15, [n_subspaces], 0 … 32767; else NULL */
    const float *weight; /* depth: [head_dim][n_inputs] row-major W; else NULL */
    const float *bias;   /* depth: [head_dim]; else NULL */
    uint32_t n_inputs;   /* columns of weight: see profile_n_inputs() */
};

struct dpq_profile {
    struct dpq_geometry geometry;
    uint8_t digest[DPQ_DIGEST_BYTES];
    char name[128];
    const char *info;  /* NUL-terminated JSON, in the file */
    const void *audit; /* opaque here: lib/risk's section; NULL without one */
    size_t n_audit_bytes;
    float bound;         /* hard bound: no |e|^2 of y beyond bound * tolerance; 0: no bound */
    uint32_t group_log2; /* temporal: tokens from one key frame to the next, 3 … 7 */
    const void *bytes;
    size_t n_bytes;
    uint32_t n_streams;
    struct profile_stream *streams;
};

static inline uint32_t dpq_stream_index(const struct dpq_geometry *g, uint32_t layer, uint32_t kind,
                                        uint32_t head)
{
    return (layer * 2 + kind) * g->n_kv_heads + head;
}

static inline uint32_t dpq_n_streams(const struct dpq_geometry *g)
{
    return g->n_layers * 2 * g->n_kv_heads;
}

/* Vectors that a depth predictor sees: first … end - 1 of K, V of the layer below, K of its own. */
struct profile_below {
    uint32_t first, end; /* equal: none */
};

static inline struct profile_below profile_below(uint32_t layer, uint32_t kind)
{
    return (struct profile_below){ layer ? 0 : 2, kind == DPQ_V ? 3 : 2 };
}

/**
 * profile_n_inputs() - columns of a depth predictor: the vectors below, concatenated in this order
 *
 * K of layer l > 0 sees (K, V) of layer l-1; V of layer l > 0 sees (K, V) of layer l-1, then K of
 * layer l; V of layer 0 sees K of layer 0; K of layer 0 sees nothing (0: such a stream must have
 * REFERENCE_NONE). DEPTH_HEAD takes head_dim numbers of each, DEPTH n_kv_heads * head_dim (heads in
 * order). Keys before RoPE.
 */
uint32_t profile_n_inputs(const struct dpq_geometry *geometry, uint32_t reference, uint32_t layer,
                          uint32_t kind);

/** profile_default_fine() - fine_rates by kind: quality keeps all fine planes, balanced those of K
 */
uint32_t profile_default_fine(uint32_t kind);

/* What a file says beside geometry and streams. */
struct profile_head {
    const char *name, *info_json;
    const void *audit; /* may be NULL */
    size_t n_audit_bytes;
    float bound;
    uint32_t group_log2;
};

/**
 * profile_write() - lay a profile out as a file
 * @streams:   dpq_n_streams(geometry) of them
 * @ret_bytes: malloc'ed; dpq_profile_open() accepts it
 * Return: 0, -ENOMEM. The arguments are our own: wrong ones are asserted.
 */
int profile_write(const struct dpq_geometry *geometry, const struct profile_head *head,
                  const struct profile_stream *streams, uint8_t **ret_bytes,
                  size_t *ret_n_bytes) _must_check_;
