/*
 * Decoding a tile, layer by layer
 *
 *   codes -> y (dim-major, with the temporal recurrence) -> X = F Y + mean + prediction
 *         -> K rotated -> raw rows override -> converted to the destination
 *
 * Every prediction, in time or in depth, is made from the base plane's reconstruction; the fine
 * plane only refines what is delivered. Where a stream needs both, base and fine are decoded side
 * by side (decode_codes). All GEMMs have 128 columns whatever range is asked for, so a token's
 * numbers do not depend on the range.
 *
 * Only if a stream of the layers asked for (or of one below them) has a depth reference, the layers
 * below are decoded as well, and base reconstructions are kept: those of K and V of the layer below
 * and of K of this one.
 */

#include <cblas.h>
#include <string.h>

#include "lib/codec/codec.h"
#include "lib/codec/fault.h"
#include "lib/codec/tile_file.h"

struct decoder {
    struct dpq_codec *codec;
    const struct dpq_profile *profile;
    const struct tile_view *view;
    const struct dpq_range *range;
    const struct dpq_tensor *tensor;
    void *memory;
    bool keeps_base; /* base reconstructions are wanted by a depth reference */
};

/* One stream of the tile in work. */
struct unit {
    uint32_t layer, kind, head, index;
    const struct profile_stream *stream;
    const struct tile_stream *entry;
    const uint8_t *base_panel, *fine_panel;
    float gain[KERN_TOKENS];
    uint8_t frame[KERN_TOKENS]; /* enum frame_kind */
    bool any_predicted;
};

static bool predicted(const struct unit *u, uint32_t t)
{
    return u->frame[t] == FRAME_PREDICTED || u->frame[t] == FRAME_ESCAPE;
}

static uint8_t frame_by_rule(const struct tile_stream *entry, uint32_t t)
{
    if (entry->reference != REFERENCE_TEMPORAL)
        return FRAME_PREDICTED;
    return t % (1u << entry->group_log2) ? FRAME_PREDICTED : FRAME_KEY;
}

static void unit_set(struct unit *u, const struct decoder *d)
{
    const struct tile_view *v = d->view;
    const uint8_t *gains = v->base + v->header.gains_offset + (size_t)u->index * KERN_TOKENS;

    u->stream = &d->profile->streams[u->index];
    u->entry = &v->streams[u->index];
    u->base_panel = v->base + v->header.panels_offset + (size_t)u->entry->panel * KERN_LINE;
    u->fine_panel = v->fine_panel[u->index] ? v->fine + v->fine_panel[u->index] : NULL;
    u->any_predicted = false;
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        u->gain[t] = d->codec->gain[gains[t]];
        u->frame[t] = v->kinds[u->index] ? v->base[v->kinds[u->index] + t / 4] >> 2 * (t % 4) & 3
                                         : frame_by_rule(u->entry, t);
        if (u->entry->reference == REFERENCE_NONE ||
            (!t && u->entry->reference == REFERENCE_TEMPORAL))
            u->frame[t] = FRAME_INTRA;
        u->any_predicted |= predicted(u, t);
    }
}

/* Codewords of one subspace and plane; tokens that are predicted take the delta tree's. */
static void decode_plane(const struct dpq_codec *c, const struct unit *u, uint32_t m,
                         const uint8_t *code, size_t n_words, float *y)
{
    uint32_t dsub = u->stream->dsub;
    const struct profile_tree *trees = u->stream->tree;
    size_t at = (size_t)m * n_words * dsub;
    float other[4 * KERN_TOKENS];

#define BOOK(tree) (n_words == KERN_WORDS ? (tree).base : (tree).fine)
    c->kern.decode(code, dsub, BOOK(trees[TREE_INTRA]) + at, n_words, trees[TREE_INTRA].scale[m],
                   u->gain, y);
    if (!u->any_predicted)
        return;
    c->kern.decode(code, dsub, BOOK(trees[TREE_DELTA]) + at, n_words, trees[TREE_DELTA].scale[m],
                   u->gain, other);
#undef BOOK
    for (uint32_t i = 0; i < dsub; i++)
        for (uint32_t t = 0; t < KERN_TOKENS; t++)
            if (predicted(u, t))
                y[i * KERN_TOKENS + t] = other[i * KERN_TOKENS + t];
}

/* The recurrence of one subspace: base feeds base, and base feeds what is delivered. */
static void add_temporal(const struct unit *u, uint32_t m, float *base, float *fine)
{
    float a = (float)u->stream->leak[m] * 0x1p-15f;

    for (uint32_t i = 0; i < u->stream->dsub; i++)
        for (uint32_t t = 1; t < KERN_TOKENS; t++) {
            size_t at = (size_t)i * KERN_TOKENS + t;
            float from = a * base[at - 1];

            if (!predicted(u, t))
                continue;
            base[at] += from;
            if (fine)
                fine[at] += from;
        }
}

/* y of the base plane to codec->y, what is delivered to codec->y_fine if there is a fine plane */
static void decode_codes(const struct decoder *d, const struct unit *u)
{
    struct dpq_codec *c = d->codec;
    uint32_t dsub = u->stream->dsub, n_subspaces = d->profile->geometry.head_dim / dsub;
    bool base_wanted = !u->fine_panel || d->keeps_base || u->entry->reference == REFERENCE_TEMPORAL;

    for (uint32_t m = 0; m < n_subspaces; m++) {
        size_t at = (size_t)m * dsub * KERN_TOKENS;
        uint8_t parent[KERN_TOKENS], child[KERN_TOKENS];

        c->kern.unpack(u->base_panel + (size_t)m * KERN_LINE, parent);
        if (base_wanted)
            decode_plane(c, u, m, parent, KERN_WORDS, c->y + at);
        if (u->fine_panel) {
            c->kern.unpack(u->fine_panel + (size_t)m * KERN_LINE, child);
            for (uint32_t t = 0; t < KERN_TOKENS; t++)
                child[t] = (uint8_t)(child[t] | parent[t] << 4);
            decode_plane(c, u, m, child, KERN_WORDS * KERN_WORDS, c->y_fine + at);
        }
        if (u->entry->reference == REFERENCE_TEMPORAL)
            add_temporal(u, m, c->y + at, u->fine_panel ? c->y_fine + at : NULL);
    }
}

static float *below(const struct decoder *d, uint32_t which)
{
    const struct dpq_geometry *g = &d->profile->geometry;

    return d->codec->below + (size_t)which * KERN_TOKENS * g->n_kv_heads * g->head_dim;
}

/* p = bias + W * references, for all tokens; which references exist: see profile_n_inputs() */
static void predict_depth(const struct decoder *d, const struct unit *u)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    const struct profile_stream *s = u->stream;
    bool all_heads = s->reference == REFERENCE_DEPTH;
    int width = (int)(g->n_kv_heads * g->head_dim), n = (int)g->head_dim;
    int n_columns = all_heads ? width : n;
    uint32_t first = u->layer ? 0 : 2, last = u->kind == DPQ_V ? 3 : 2;
    const float *w = s->weight;

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        memcpy(d->codec->p + (size_t)t * g->head_dim, s->bias, g->head_dim * sizeof(float));
    for (uint32_t which = first; which < last; which++, w += n_columns)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, KERN_TOKENS, n, n_columns, 1,
                    below(d, which) + (all_heads ? 0 : u->head * g->head_dim), width, w,
                    (int)s->n_inputs, 1, d->codec->p, n);
}

/* codec->x = mean (+ prediction) + F y, token-major */
static void reconstruct(const struct decoder *d, const struct unit *u, const float *y)
{
    struct dpq_codec *c = d->codec;
    uint32_t dim = d->profile->geometry.head_dim;
    int n = (int)dim;

    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        float *x = c->x + (size_t)t * dim;

        memcpy(x, u->stream->mean, dim * sizeof(float));
        if (u->entry->reference >= REFERENCE_DEPTH_HEAD && predicted(u, t))
            c->kern.add(x, 1, dim, c->p + (size_t)t * dim, 1);
    }
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasTrans, KERN_TOKENS, n, n, 1, y, KERN_TOKENS,
                u->stream->decode, n, 1, c->x, n);
}

/* Base reconstructions of this layer; they become those of the layer below when it is done. */
static void keep_base(const struct decoder *d, const struct unit *u)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    float *to = u->kind == DPQ_K ? below(d, 2) : d->codec->next_values;

    for (uint32_t t = 0; t < KERN_TOKENS; t++)
        memcpy(to + (size_t)t * g->n_kv_heads * g->head_dim + u->head * g->head_dim,
               d->codec->x + (size_t)t * g->head_dim, g->head_dim * sizeof(float));
}

/* A raw row, whatever its type, to the destination. */
static void put_raw(const struct decoder *d, const struct unit *u, const struct tile_raw_view *raw,
                    const uint8_t *row, uint32_t token)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    float values[DPQ_MAX_HEAD_DIM], scale;
    const void *vector = row;
    uint32_t dtype = raw->type == RAW_F16 ? DPQ_F16 : d->view->header.dtype;

    if (raw->type == RAW_INT8) {
        memcpy(&scale, row, sizeof(scale));
        for (uint32_t i = 0; i < g->head_dim; i++)
            values[i] = scale * (float)(int8_t)row[sizeof(scale) + i];
        vector = values;
        dtype = DPQ_F32;
    }
    rows_put(g, vector, dtype, d->tensor, d->memory, u->layer - d->range->first_layer, u->kind,
             u->head, token - d->range->first_token);
}

static void override_raw(const struct decoder *d, const struct unit *u)
{
    const struct tile_view *v = d->view;

    for (uint32_t i = v->first_raw[u->index]; i < v->first_raw[u->index + 1]; i++) {
        const struct tile_raw_view *raw = &v->raw[i];
        const uint8_t *row = v->base + raw->rows;

        for (uint32_t t = 0; t < KERN_TOKENS; t++) {
            if (!(raw->tokens[t / 64] >> t % 64 & 1))
                continue;
            if (t >= d->range->first_token && t - d->range->first_token < d->range->n_tokens)
                put_raw(d, u, raw, row, t);
            row += raw_row_bytes(raw->type, v->header.head_dim, v->header.dtype);
        }
    }
}

static void deliver(const struct decoder *d, const struct unit *u)
{
    struct dpq_codec *c = d->codec;
    const struct dpq_geometry *g = &d->profile->geometry;
    const struct dpq_tensor *t = d->tensor;
    int64_t to = (int64_t)t->offset + (u->layer - d->range->first_layer) * t->stride_layer +
                 u->kind * t->stride_kind + u->head * t->stride_head;

    if (u->kind == DPQ_K)
        rope_apply(&c->kern, g, &c->rope, c->x, KERN_TOKENS);
    c->kern.store[t->dtype](c->x + (size_t)d->range->first_token * g->head_dim, d->range->n_tokens,
                            g->head_dim, (char *)d->memory + to, t->stride_token);
    override_raw(d, u);
}

static void decode_unit(const struct decoder *d, struct unit *u, bool delivered)
{
    unit_set(u, d);
    decode_codes(d, u);
    if (u->entry->reference >= REFERENCE_DEPTH_HEAD)
        predict_depth(d, u);
    if (d->keeps_base) {
        reconstruct(d, u, d->codec->y);
        keep_base(d, u);
    }
    if (!delivered)
        return;
    if (!d->keeps_base || u->fine_panel)
        reconstruct(d, u, u->fine_panel ? d->codec->y_fine : d->codec->y);
    deliver(d, u);
}

static void decode_layer(const struct decoder *d, uint32_t layer)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    size_t n = (size_t)KERN_TOKENS * g->n_kv_heads * g->head_dim;
    struct unit u = { .layer = layer };

    for (u.kind = 0; u.kind < 2; u.kind++)
        for (u.head = 0; u.head < g->n_kv_heads; u.head++) {
            u.index = dpq_stream_index(g, layer, u.kind, u.head);
            decode_unit(d, &u, layer >= d->range->first_layer);
        }
    if (d->keeps_base) {
        memcpy(below(d, 0), below(d, 2), n * sizeof(float));
        memcpy(below(d, 1), d->codec->next_values, n * sizeof(float));
    }
}

static bool any_depth(const struct tile_view *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (v->streams[i].reference >= REFERENCE_DEPTH_HEAD)
            return true;
    return false;
}

static int check_range(const struct dpq_geometry *g, const struct dpq_range *r,
                       const struct dpq_tensor *t, struct dpq_fault *fault)
{
    if (r->first_layer > g->n_layers || r->n_layers > g->n_layers - r->first_layer)
        return fault_set(fault, DPQ_E_INVALID, "layers %u to %u: there are %u", r->first_layer,
                         r->first_layer + r->n_layers, g->n_layers);
    if (r->first_token > KERN_TOKENS || r->n_tokens > KERN_TOKENS - r->first_token)
        return fault_set(fault, DPQ_E_INVALID, "tokens %u to %u: a tile has %d", r->first_token,
                         r->first_token + r->n_tokens, KERN_TOKENS);
    if (!dpq_dtype_bytes(t->dtype))
        return fault_set(fault, DPQ_E_INVALID, "dtype %u is not 0, 1 or 2", t->dtype);
    return 0;
}

int dpq_tile_decode(struct dpq_codec *codec, const void *base, size_t n_base, const void *fine,
                    size_t n_fine, const struct dpq_range *range, const struct dpq_tensor *tensor,
                    void *memory, struct dpq_fault *ret_fault)
{
    const struct dpq_geometry *g = &codec->profile->geometry;
    struct decoder d = {
        .codec = codec,
        .profile = codec->profile,
        .view = codec->view,
        .range = range,
        .tensor = tensor,
        .memory = memory,
    };
    uint32_t end = range->first_layer + range->n_layers;
    int r;

    r = check_range(g, range, tensor, ret_fault);
    if (r)
        return r;
    r = tile_view_set(codec->view, codec->profile, base, n_base, fine, n_fine, ret_fault);
    if (r)
        return r;
    d.keeps_base = any_depth(d.view, end * 2 * g->n_kv_heads);
    codec_rope(codec, d.view->header.first_position);
    for (uint32_t layer = d.keeps_base ? 0 : range->first_layer; layer < end; layer++)
        decode_layer(&d, layer);
    return 0;
}
