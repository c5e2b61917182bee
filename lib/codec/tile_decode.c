/*
 * Decoding a tile, layer by layer
 *
 *   codes -> y (token-major, with the temporal recurrence) -> X = mean + prediction + F Y
 *         -> K rotated -> raw rows override -> converted to the destination
 *
 * Every prediction is made from the base plane's reconstruction, but in depth from that of both
 * planes if a stream is full; else the fine plane only refines what is delivered. Where a stream
 * needs both, base and fine are decoded side by side. All GEMMs have 128 rows whatever range is
 * asked for, so a token's numbers do not depend on the range.
 *
 * Only if a stream of the layers asked for (or of one below them) has a depth reference, the layers
 * below are decoded as well, and base reconstructions are kept: those of K and V of the layer below
 * and of K of this one.
 */

#include <string.h>

#include "lib/codec/fault.h"
#include "lib/codec/loop.h"

struct decoder {
    struct dpq_codec *codec;
    const struct dpq_profile *profile;
    const struct tile_view *view;
    const struct dpq_range *range;
    const struct dpq_tensor *tensor;
    void *memory;
    bool keeps_all; /* reconstructions are wanted by a depth reference */
};

/* One stream of the tile in work. */
struct unit {
    struct loop_unit loop;
    const uint8_t *base_panel, *fine_panel;
};

static void unit_set(struct unit *u, const struct decoder *d)
{
    const struct tile_view *v = d->view;
    uint32_t i = u->loop.index;
    const struct tile_stream *entry = &v->streams[i];
    const uint8_t *gains = v->base + v->header.gains_offset + (size_t)i * KERN_TOKENS;

    u->loop.stream = &d->profile->streams[i];
    u->loop.reference = entry->reference;
    u->base_panel = v->base + v->header.panels_offset + (size_t)entry->panel * KERN_LINE;
    u->fine_panel = v->fine_panel[i] ? v->fine + v->fine_panel[i] : NULL;
    for (uint32_t t = 0; t < KERN_TOKENS; t++) {
        u->loop.gain[t] = d->codec->gain[gains[t]];
        u->loop.frame[t] = v->kinds[i] ? v->base[v->kinds[i] + t / 4] >> 2 * (t % 4) & 3
                                       : loop_frame_by_rule(entry->reference, entry->group_log2, t);
        if (entry->reference == REFERENCE_NONE || (!t && entry->reference == REFERENCE_TEMPORAL))
            u->loop.frame[t] = FRAME_INTRA;
    }
    loop_count_predicted(&u->loop);
}

/* A raw row, whatever its type, to the destination. */
static void put_raw(const struct decoder *d, const struct loop_unit *u,
                    const struct tile_raw_view *raw, const uint8_t *row, uint32_t token)
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

static void override_raw(const struct decoder *d, const struct loop_unit *u)
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

static void decode_unit(const struct decoder *d, struct unit *u, bool delivered)
{
    struct dpq_codec *c = d->codec;
    bool full;

    unit_set(u, d);
    full = u->loop.stream->full && u->fine_panel;
    loop_decode_rows(c, &u->loop, u->base_panel, u->fine_panel, d->keeps_all && !full);
    if (u->loop.reference >= REFERENCE_DEPTH_HEAD)
        loop_predict_depth(c, &u->loop);
    if (d->keeps_all)
        loop_keep(c, &u->loop, full ? PLANE_FINE : PLANE_BASE);
    if (!delivered)
        return;
    if (!d->keeps_all || (u->fine_panel && !full))
        loop_reconstruct(c, &u->loop, u->fine_panel ? PLANE_FINE : PLANE_BASE);
    else
        loop_recall(c, &u->loop);
    loop_deliver(c, &u->loop, d->range->first_token, d->range->n_tokens,
                 u->loop.layer - d->range->first_layer, d->tensor, d->memory);
    override_raw(d, &u->loop);
}

static void decode_layer(const struct decoder *d, uint32_t layer)
{
    const struct dpq_geometry *g = &d->profile->geometry;
    struct unit u = { .loop.layer = layer };

    for (u.loop.kind = 0; u.loop.kind < 2; u.loop.kind++)
        for (u.loop.head = 0; u.loop.head < g->n_kv_heads; u.loop.head++) {
            u.loop.index = dpq_stream_index(g, layer, u.loop.kind, u.loop.head);
            decode_unit(d, &u, layer >= d->range->first_layer);
        }
}

static bool any_depth(const struct tile_view *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (v->streams[i].reference >= REFERENCE_DEPTH_HEAD)
            return true;
    return false;
}

/* Without the fine plane of a full stream, what was predicted from it is lost. */
static int check_full(const struct decoder *d, uint32_t n, struct dpq_fault *fault)
{
    for (uint32_t i = 0; i < n; i++)
        if (d->profile->streams[i].full && d->view->streams[i].bits & STREAM_HAS_FINE &&
            !d->view->fine_panel[i])
            return fault_set(fault, DPQ_E_INVALID,
                             "this profile predicts from both planes: a tile that was made with "
                             "its fine object is not to be read without");
    return 0;
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
    d.keeps_all = any_depth(d.view, end * 2 * g->n_kv_heads);
    r = d.keeps_all ? check_full(&d, end * 2 * g->n_kv_heads, ret_fault) : 0;
    if (r)
        return r;
    codec_rope(codec, d.view->header.first_position);
    for (uint32_t layer = d.keeps_all ? 0 : range->first_layer; layer < end; layer++)
        decode_layer(&d, layer);
    return 0;
}
